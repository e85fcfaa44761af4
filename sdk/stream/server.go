package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/block"
)

// errNotRunning is why nothing can be asked of a thread.
var errNotRunning = errors.New("I/O thread has ended")

// Config is what a Server is made of.
type Config struct {
	Scheme  string // of the listeners' URLs
	Port    int    // where a URL names none
	Threads []*block.Thread
	// New makes the handler of a new connection, on the connection's thread.
	New func(*Conn) Handler
	// Piece is how many bytes a handler may leave untaken: those of the longest message that
	// it wants to see in one piece.
	Piece  int
	Limits Limits
	Logger hclog.Logger
}

// Limits bound what strangers can take.
type Limits struct {
	// Connections is how many there may be at a time. Half of them may be waiting to be
	// established; the oldest of those makes room for a new one.
	Connections int
	// Greeting is how long a new connection may take until Conn.Greeted.
	Greeting time.Duration
	// Stall is how long a peer may take nothing of what is sent to it while the socket is full;
	// 0: 30 s.
	Stall time.Duration
}

func (l *Limits) stall() time.Duration {
	if l.Stall == 0 {
		return defaultStall
	}
	return l.Stall
}

const defaultStall = 30 * time.Second

// Server serves one protocol on a set of I/O threads. Its methods may be called by any goroutine,
// but SetListeners and Stop not at the same time.
type Server struct {
	scheme  string
	port    int
	logger  hclog.Logger
	new     func(*Conn) Handler
	workers []*worker
	limits  atomic.Pointer[Limits]
	next    int // worker of the next connection; owned by the first thread

	connections atomic.Int32 // from accept to close
	counters    counters

	mu        sync.Mutex
	listeners map[string]*listener // by access point; guarded by mu
}

type counters struct {
	accepted       atomic.Uint64
	refused        atomic.Uint64 // above Limits.Connections
	ended          atomic.Uint64
	protocolErrors atomic.Uint64
}

// NewServer returns a server without listeners. The threads run, and outlive Stop.
func NewServer(c Config) *Server {
	s := &Server{scheme: c.Scheme, port: c.Port, logger: c.Logger, new: c.New, listeners: map[string]*listener{}}
	s.limits.Store(&c.Limits)
	for _, th := range c.Threads {
		w := newWorker(s, th, c.Piece)
		s.workers = append(s.workers, w)
		th.Post(w.start)
	}
	return s
}

// SetLimits is for connections to come.
func (s *Server) SetLimits(l Limits) { s.limits.Store(&l) }

// maxPending is how many connections of one thread may wait to be established: half of all that
// there may be, so that a flood of them leaves room for the others.
func (s *Server) maxPending() int {
	return max(1, s.limits.Load().Connections/2/len(s.workers))
}

// Metrics are gauges and counters of the connections.
func (s *Server) Metrics() []sdk.Metric {
	return []sdk.Metric{
		{Name: "connections", Value: float64(s.connections.Load())},
		{Name: "connections_accepted_total", Value: float64(s.counters.accepted.Load()), Counter: true},
		{Name: "connections_refused_total", Value: float64(s.counters.refused.Load()), Counter: true},
		{Name: "connections_ended_total", Value: float64(s.counters.ended.Load()), Counter: true},
		{Name: "protocol_errors_total", Value: float64(s.counters.protocolErrors.Load()), Counter: true},
	}
}

// SetListeners opens and closes listeners until those that are there are the ones named, as
// sdk.DataPlugin wants it.
func (s *Server) SetListeners(ctx context.Context, want []sdk.Listener) []sdk.ListenerState {
	s.mu.Lock()
	defer s.mu.Unlock()
	keep := map[string]bool{}
	for _, l := range want {
		if have := s.listeners[l.AccessPointID]; have != nil && have.asked == l.URL {
			keep[l.AccessPointID] = true
		}
	}
	for id, l := range s.listeners {
		if !keep[id] {
			delete(s.listeners, id)
			s.closeListener(l)
		}
	}
	states := make([]sdk.ListenerState, 0, len(want))
	for _, l := range want {
		st := sdk.ListenerState{AccessPointID: l.AccessPointID, URL: l.URL}
		have := s.listeners[l.AccessPointID]
		if have == nil {
			have, st.Err = s.open(ctx, l)
		}
		if st.Err == nil {
			s.listeners[l.AccessPointID] = have
			st.URL = have.url
		}
		states = append(states, st)
	}
	return states
}

// Adopt serves a connected stream socket that somebody else accepted, as if it had come in by the
// listener of that access point. The server owns fd from here on; it must not block.
func (s *Server) Adopt(fd int, accessPoint, peer string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.listeners[accessPoint]
	if l == nil {
		return fmt.Errorf("there is no listener of access point %q", accessPoint)
	}
	_, err := onThread(s.workers[0].thread, func() struct{} {
		l.assign(fd, peer, l.url)
		return struct{}{}
	})
	return err
}

// Stop closes listeners and connections and returns when nothing is held any more.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, l := range s.listeners {
		delete(s.listeners, id)
		s.closeListener(l)
	}
	var errs []error
	for i, w := range s.workers {
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

// Usage is what connections hold.
type Usage struct {
	Connections int // from accept to close
	Pending     int // of them, not established
	Held        int // by Conn.Hold
	PoolBytes   int // taken from the pools, by anybody
	HeaderBytes int // memory for headers that wait to be sent
}

// Usage asks every thread, and waits for their answers.
func (s *Server) Usage() (Usage, error) {
	u := Usage{Connections: int(s.connections.Load())}
	for _, w := range s.workers {
		one, err := onThread(w.thread, func() Usage {
			u := Usage{Pending: w.pending, Held: w.held, PoolBytes: w.thread.Pool().InUse()}
			for c := range w.conns {
				u.HeaderBytes += cap(c.send.arena)
			}
			return u
		})
		if err != nil {
			return u, err
		}
		u.Pending += one.Pending
		u.Held += one.Held
		u.PoolBytes += one.PoolBytes
		u.HeaderBytes += one.HeaderBytes
	}
	return u, nil
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
