package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmf"
)

// Scheme is the URL scheme of listeners.
const Scheme = "nvme-tcp"

// errNotRunning is why nothing can be asked of a thread.
var errNotRunning = errors.New("I/O thread has ended")

// Transport serves NVMe/TCP on a set of I/O threads. Its methods may be called by any goroutine,
// but SetListeners and Stop not at the same time.
type Transport struct {
	logger    hclog.Logger
	makeQueue func(*conn) frontEnd
	inCapsule int // bytes; fixed at New
	workers   []*worker
	cfg       atomic.Pointer[Config]
	next      int // worker of the next connection; owned by thread 0

	connections atomic.Int32 // from accept to close
	counters    counters

	mu        sync.Mutex
	listeners map[string]*listener // by access point; guarded by mu
}

type counters struct {
	accepted       atomic.Uint64
	refused        atomic.Uint64 // above max_connections
	ended          atomic.Uint64
	protocolErrors atomic.Uint64
}

// New returns a transport without listeners whose queue pairs belong to target.
func New(target *nvmf.Target, threads []*block.Thread, cfg Config, logger hclog.Logger) *Transport {
	return newTransport(threads, cfg, logger, func(c *conn) frontEnd {
		return target.NewQueue(c, nvmf.ConnInfo{
			Thread: c.worker.thread, AccessPointID: c.listener.accessPoint, TransportType: nvme.TransportTCP,
			LocalURL: c.local, Peer: c.peer, InCapsuleData: c.worker.transport.inCapsule,
		})
	})
}

func newTransport(threads []*block.Thread, cfg Config, logger hclog.Logger, makeQueue func(*conn) frontEnd) *Transport {
	t := &Transport{
		logger: logger.Named("nvmetcp"), makeQueue: makeQueue, inCapsule: cfg.InCapsuleBytes,
		listeners: map[string]*listener{},
	}
	t.cfg.Store(&cfg)
	for _, th := range threads {
		w := newWorker(t, th)
		t.workers = append(t.workers, w)
		th.Post(w.start)
	}
	return t
}

// Configure applies what can be applied to a running transport: connections to come have the
// new digests, limits and timeout. The other attributes need sdk.ErrRestartRequired.
func (t *Transport) Configure(cfg Config) error {
	old := t.config()
	restart := cfg.InCapsuleBytes != old.InCapsuleBytes || cfg.MaxIOQueues != old.MaxIOQueues || cfg.QueueDepth != old.QueueDepth
	t.cfg.Store(&cfg)
	if restart {
		return sdk.ErrRestartRequired
	}
	return nil
}

func (t *Transport) config() *Config { return t.cfg.Load() }

// maxPending is how many connections of one thread may wait for their Connect: half of all that
// there may be, so that a flood of them leaves room for the others.
func (t *Transport) maxPending() int {
	return max(1, t.config().MaxConnections/2/len(t.workers))
}

// Health reports gauges and counters.
func (t *Transport) Health() sdk.Health {
	return sdk.Health{Metrics: []sdk.Metric{
		{Name: "connections", Value: float64(t.connections.Load())},
		{Name: "connections_accepted_total", Value: float64(t.counters.accepted.Load()), Counter: true},
		{Name: "connections_refused_total", Value: float64(t.counters.refused.Load()), Counter: true},
		{Name: "connections_ended_total", Value: float64(t.counters.ended.Load()), Counter: true},
		{Name: "protocol_errors_total", Value: float64(t.counters.protocolErrors.Load()), Counter: true},
	}}
}

// SetListeners opens and closes listeners until those that are there are the ones named.
func (t *Transport) SetListeners(ctx context.Context, want []sdk.Listener) []sdk.ListenerState {
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
			t.closeListener(l)
		}
	}
	states := make([]sdk.ListenerState, 0, len(want))
	for _, l := range want {
		st := sdk.ListenerState{AccessPointID: l.AccessPointID, URL: l.URL}
		have := t.listeners[l.AccessPointID]
		if have == nil {
			have, st.Err = t.open(ctx, l)
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
		t.closeListener(l)
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
func onThread[T any](th *block.Thread, fn func() T) (T, error) {
	res := make(chan T, 1)
	th.Post(func() { res <- fn() })
	select {
	case v := <-res:
		return v, nil
	case <-th.Done():
		var none T
		return none, errNotRunning
	}
}
