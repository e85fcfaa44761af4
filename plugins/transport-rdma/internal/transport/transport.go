package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/plugins/transport-rdma/internal/cm"
	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmf"
)

// Scheme is the URL scheme of listeners.
const Scheme = "nvme-rdma"

// Transport serves NVMe/RDMA on a set of I/O threads. Its methods may be called by any goroutine,
// but SetListeners and Stop not at the same time.
type Transport struct {
	target  *nvmf.Target
	log     hclog.Logger
	workers []*worker
	fixed   Config // what cannot change while it runs
	limits  cm.Limits
	next    int // worker of the next connection; owned by the first thread

	maxConnections atomic.Int64
	connections    atomic.Int64
	counters       counters

	mu        sync.Mutex
	listeners map[string]*listener // by access point; guarded by mu
}

// counters may be read by any goroutine.
type counters struct {
	accepted, refused, ended, protocolErrors atomic.Uint64
	wakes                                    atomic.Uint64 // the completion channel was ready
	completions                              atomic.Uint64
	posts                                    atomic.Uint64 // calls that posted sends or receives
	copied                                   atomic.Uint64 // bytes of payload that the processor copied
}

// New returns a transport without listeners whose queue pairs belong to target.
func New(target *nvmf.Target, threads []*block.Thread, cfg Config, logger hclog.Logger) (*Transport, error) {
	t := &Transport{
		target: target, log: logger.Named("nvmerdma"), fixed: cfg,
		limits:    cm.Limits{Queues: cfg.MaxIOQueues, Entries: cfg.QueueDepth},
		listeners: map[string]*listener{},
	}
	t.maxConnections.Store(int64(cfg.MaxConnections))
	for _, th := range threads {
		w, err := newWorker(t, th)
		if err != nil {
			for _, w := range t.workers {
				w.channel.Close()
			}
			return nil, err
		}
		t.workers = append(t.workers, w)
	}
	for _, w := range t.workers {
		w.thread.Post(w.start)
	}
	return t, nil
}

func (t *Transport) makeQueue(c *conn) *nvmf.Queue {
	return t.target.NewQueue(c, nvmf.ConnInfo{
		Thread: c.worker.thread, AccessPointID: c.listener.accessPoint, TransportType: nvme.TransportRDMA,
		LocalURL: c.local, Peer: c.peer, InCapsuleData: t.fixed.InCapsuleBytes,
	})
}

// Configure applies what can be applied to a running transport: the number of connections. The
// other attributes need sdk.ErrRestartRequired.
func (t *Transport) Configure(cfg Config) error {
	t.maxConnections.Store(int64(cfg.MaxConnections))
	old := t.fixed
	old.MaxConnections = cfg.MaxConnections
	if old != cfg {
		return sdk.ErrRestartRequired
	}
	return nil
}

// Health reports gauges and counters.
func (t *Transport) Health() sdk.Health {
	count := func(name string, v *atomic.Uint64) sdk.Metric {
		return sdk.Metric{Name: name, Value: float64(v.Load()), Counter: true}
	}
	c := &t.counters
	var pool int64
	for _, w := range t.workers {
		pool += w.pool.Load()
	}
	return sdk.Health{Metrics: []sdk.Metric{
		{Name: "pool_used_bytes", Value: float64(pool)},
		{Name: "connections", Value: float64(t.connections.Load())},
		count("connections_accepted_total", &c.accepted),
		count("connections_refused_total", &c.refused),
		count("connections_ended_total", &c.ended),
		count("protocol_errors_total", &c.protocolErrors),
		count("completion_wakes_total", &c.wakes),
		count("completions_total", &c.completions),
		count("posts_total", &c.posts),
		count("copied_bytes_total", &c.copied),
	}}
}

// SetListeners opens and closes listeners until those that are there are the ones named, as
// sdk.DataPlugin wants it.
func (t *Transport) SetListeners(_ context.Context, want []sdk.Listener) []sdk.ListenerState {
	t.mu.Lock()
	defer t.mu.Unlock()
	keep := map[string]bool{}
	for _, l := range want {
		if have := t.listeners[l.AccessPointID]; have != nil && have.asked == l.URL {
			keep[l.AccessPointID] = true
		}
	}
	for id, l := range t.listeners {
		if !keep[id] {
			delete(t.listeners, id)
			l.close()
		}
	}
	states := make([]sdk.ListenerState, 0, len(want))
	for _, l := range want {
		st := sdk.ListenerState{AccessPointID: l.AccessPointID, URL: l.URL}
		have := t.listeners[l.AccessPointID]
		if have == nil {
			have, st.Err = t.open(l)
		}
		if st.Err == nil {
			t.listeners[l.AccessPointID] = have
			st.URL = have.url
		}
		states = append(states, st)
	}
	return states
}

// Stop closes listeners and connections and returns when no command is under way any more.
func (t *Transport) Stop(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, l := range t.listeners {
		delete(t.listeners, id)
		l.close()
	}
	var errs []error
	for i, w := range t.workers {
		done := make(chan struct{})
		w.thread.Post(func() { w.stop(done) })
		select {
		case <-done:
		case <-w.thread.Done():
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("stop connections of I/O thread %d: %w", i, ctx.Err()))
		}
	}
	return errors.Join(errs...)
}

// onThread runs fn on a worker's thread and waits for it.
func onThread[T any](th *block.Thread, fn func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	res := make(chan result, 1)
	th.Post(func() {
		v, err := fn()
		res <- result{v, err}
	})
	select {
	case r := <-res:
		return r.v, r.err
	case <-th.Done():
		var none T
		return none, errors.New("I/O thread has ended")
	}
}
