package agent

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/redirector"
	"github.com/mooring-io/mooring/core/supervisor"
)

// redirectors are this node's parts in having the redirectors of its plugins.
type redirectors struct {
	a *agent

	mu     sync.Mutex
	held   map[string]*redirecting // by plugin; guarded by mu
	closed bool                    // guarded by mu
}

// redirecting is one that runs until end is called.
type redirecting struct {
	config.Redirector
	holder *redirector.Holder
	end    func() // waits until the address is gone
}

func newRedirectors(a *agent) *redirectors {
	return &redirectors{a: a, held: map[string]*redirecting{}}
}

// set takes part in having the redirectors of these plugins, and no others any more.
func (r *redirectors) set(plugins []config.Plugin) {
	r.mu.Lock()
	defer r.mu.Unlock()
	want := map[string]config.Redirector{}
	for _, p := range plugins {
		if p.Redirector != nil && !r.closed {
			want[p.Name] = *p.Redirector
		}
	}
	for plugin, h := range r.held {
		if want[plugin] != h.Redirector {
			h.end()
			delete(r.held, plugin)
		}
	}
	for plugin, w := range want {
		if r.held[plugin] == nil {
			r.held[plugin] = r.begin(plugin, w)
		}
	}
}

// close ends them all, for good.
func (r *redirectors) close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.set(nil)
	return nil
}

func (r *redirectors) begin(plugin string, c config.Redirector) *redirecting {
	h := redirector.New(redirector.Options{
		Address: c.Address, Interface: c.Interface, Lease: &redirectorLease{a: r.a, address: c.Address},
		Ready:   func() bool { return r.a.listensFor(plugin, r.a.accessPoint(c.URL)) },
		Changed: r.a.listenersChanged,
		Logger:  r.a.log.Named("redirector"),
	})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); h.Run(ctx) }()
	return &redirecting{Redirector: c, holder: h, end: func() { stop(); <-done }}
}

// state is where a plugin's redirector is, for Listeners: "up" is here.
func (r *redirectors) state(plugin string) (state, other string) {
	r.mu.Lock()
	h := r.held[plugin]
	r.mu.Unlock()
	if h == nil {
		return "no node is known to have the address", ""
	}
	switch s := h.holder.State(); {
	case s.Here:
		return "up", ""
	case s.Other != "":
		return "node " + s.Other + " has the address", s.Other
	case s.Err != nil:
		return s.Err.Error(), ""
	}
	return "no node is known to have the address", ""
}

// removeRedirectors removes addresses that a former life of this node left on its interfaces: they are
// for others to have as soon as its Meta session is over, which is when the next one begins.
func (a *agent) removeRedirectors(context.Context, *stack) error {
	for _, p := range a.cfg.Plugins {
		if p.Redirector == nil {
			continue
		}
		if err := redirector.Remove(p.Redirector.Address); err != nil {
			a.log.Warn("the redirector's address may be at two nodes until its lifetime is over", "error", err)
		}
	}
	return nil
}

// listensFor says whether a running plugin listens for an access point.
func (a *agent) listensFor(plugin, accessPoint string) bool {
	st, err := a.plugins.Status(plugin)
	if err != nil || st.State != supervisor.StateRunning {
		return false
	}
	for _, s := range st.Listeners {
		if s.AccessPointId == accessPoint {
			return s.Error == ""
		}
	}
	return false
}

// redirectorLease is Meta as package redirector asks it. Of the Holder's goroutine.
type redirectorLease struct {
	a       *agent
	address netip.Addr

	node uuid.UUID // who had it last
	name string    // of node
}

func (l *redirectorLease) Take(ctx context.Context) (other string, err error) {
	node, err := l.a.meta.TakeRedirector(ctx, l.a.session, l.address)
	if err != nil {
		return "", fmt.Errorf("ask Meta who has the redirector's address: %w", err)
	}
	if node == l.a.node.ID {
		return "", nil
	}
	if node != l.node {
		n, err := l.a.meta.Node(ctx, node)
		if err != nil {
			return "", err
		}
		l.node, l.name = node, n.Name
	}
	return l.name, nil
}

func (l *redirectorLease) Yield(ctx context.Context) error {
	return l.a.meta.YieldRedirector(ctx, l.a.session, l.address)
}

func (l *redirectorLease) Left() time.Duration { return l.a.session.Left() }
