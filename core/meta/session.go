package meta

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta/store"
)

// SessionID numbers Meta sessions; it is never used twice in a cluster's life. 0 is none.
type SessionID uint64

// SessionInfo is what others see of a Meta session.
type SessionInfo struct {
	ID      SessionID `json:"id"`
	Node    uuid.UUID `json:"node"`
	Started time.Time `json:"started"`
}

// SessionOptions configure a Meta session.
type SessionOptions struct {
	Node uuid.UUID // must have joined
	TTL  time.Duration
	// Margin is how long before its expiry the session is not used any more: more
	// than the clocks of two machines drift in a TTL. 0: a tenth of TTL
	Margin time.Duration
}

// Session is an Access's time-bounded registration with Meta; all its leases live
// and die with it. It keeps itself alive until Close.
type Session struct {
	id     SessionID
	node   uuid.UUID
	meta   *Meta
	inner  store.Session
	margin time.Duration
	rev    store.Revision // of its record

	deadline atomic.Int64
	cancel   context.CancelFunc
	running  sync.WaitGroup
	lost     chan struct{} // closed once the session is known to be over
	once     sync.Once
}

// StartSession begins a session for a node. The caller must be the only process of
// that node (it holds the node's data directory): a former session of the node is
// ended. If no other node is alive this is the cluster's power-on: reservations
// that do not persist through power loss are dropped.
func (m *Meta) StartSession(ctx context.Context, o SessionOptions) (*Session, error) {
	if _, err := m.Node(ctx, o.Node); err != nil {
		return nil, err
	}
	if o.Margin == 0 {
		o.Margin = o.TTL / 10
	}
	if o.TTL < 100*time.Millisecond || o.Margin < 0 || o.Margin >= o.TTL/2 {
		return nil, invalid("session TTL", "at least 100ms with a margin below half of it; it is %v with %v", o.TTL, o.Margin)
	}
	sent := m.clock.Boot()
	inner, err := m.st.NewSession(ctx, o.TTL)
	if err != nil {
		return nil, fmt.Errorf("begin a Meta session: %w", err)
	}
	s := &Session{node: o.Node, meta: m, inner: inner, margin: o.Margin, lost: make(chan struct{})}
	s.deadline.Store(sent + int64(inner.TTL()-o.Margin))
	alone, err := s.register(ctx)
	if err != nil {
		return nil, errors.Join(err, inner.End(ctx))
	}
	if alone {
		if err := m.PowerLoss(ctx); err != nil {
			return nil, errors.Join(err, inner.End(ctx))
		}
	}
	life, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.running.Go(func() { s.keep(life) })
	return s, nil
}

// register writes the session's record and says whether no other node is alive.
func (s *Session) register(ctx context.Context) (alone bool, err error) {
	m := s.meta
	err = m.retry(ctx, func(x *txn) error {
		n, rev, err := load[SessionID](ctx, m, keyCounter("session"))
		if err != nil && !isNotFound(err) {
			return err
		}
		// The clock keeps a store that was restored from a backup from giving out again
		// the numbers of sessions that it forgot, and that may still own extents.
		s.id, alone = max(n+1, SessionID(m.now().UnixMilli())), true
		x.update(keyCounter("session"), rev, s.id)
		others, err := m.Sessions(ctx)
		if err != nil {
			return err
		}
		for _, o := range others {
			if o.Node == s.node {
				x.Delete = append(x.Delete, keySession(o.ID))
			} else {
				alone = false
			}
		}
		x.create(keySession(s.id), SessionInfo{ID: s.id, Node: s.node, Started: m.now().UTC()})
		x.Put[len(x.Put)-1].Session = s.inner.ID()
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("register the Meta session: %w", err)
	}
	_, s.rev, err = load[SessionInfo](ctx, m, keySession(s.id))
	return alone, err
}

// keep keeps the session alive.
func (s *Session) keep(ctx context.Context) {
	clock := s.meta.clock
	ttl := s.inner.TTL()
	wait := ttl / 3
	for {
		tick := make(chan struct{})
		stop := clock.AfterFunc(wait, func() { close(tick) })
		select {
		case <-ctx.Done():
			stop()
			return
		case <-tick:
		}
		switch err := s.KeepAlive(ctx); {
		case err == nil:
			wait = ttl / 3
		case errors.Is(err, ErrSessionExpired):
			return
		case ctx.Err() != nil:
			return
		default:
			s.meta.log.Warn("Meta session could not be kept alive; trying again", "session", s.id, "error", err)
			wait = ttl / 10
		}
	}
}

// KeepAlive prolongs the session now; it does so by itself, too. A store that does not
// answer within a third of the TTL is not waited for.
func (s *Session) KeepAlive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.inner.TTL()/3)
	defer cancel()
	sent := s.meta.clock.Boot()
	err := s.inner.KeepAlive(ctx)
	if errors.Is(err, store.ErrSessionExpired) {
		s.expire()
		return ErrSessionExpired
	}
	if err != nil {
		return err
	}
	next := sent + int64(s.inner.TTL()-s.margin)
	for {
		old := s.deadline.Load()
		if old == 0 {
			return ErrSessionExpired
		}
		if next <= old || s.deadline.CompareAndSwap(old, next) {
			return nil
		}
	}
}

func (s *Session) expire() {
	s.deadline.Store(0)
	s.once.Do(func() {
		s.meta.log.Error("Meta session is over; its leases are void", "session", s.id)
		close(s.lost)
	})
}

// ID is the session's number.
func (s *Session) ID() SessionID { return s.id }

// Node is the node that the session speaks for.
func (s *Session) Node() uuid.UUID { return s.node }

// Deadline is until when what the session holds may be used, on CLOCK_BOOTTIME in
// nanoseconds: (time before the last keep-alive was sent) + TTL - margin. It is 0
// once the session is over. It does not block.
func (s *Session) Deadline() int64 { return s.deadline.Load() }

// Left is how long what the session holds may be used from now on, if it is not kept alive; 0 or less
// once it must not be used any more. It does not block.
func (s *Session) Left() time.Duration { return time.Duration(s.deadline.Load() - s.meta.clock.Boot()) }

// Lost is closed when the session is known to be over without Close. Whoever
// serves by its leases has stopped at Deadline already.
func (s *Session) Lost() <-chan struct{} { return s.lost }

// Close ends the session and gives up all that it holds; nothing may be served by
// it any more. Idempotent.
func (s *Session) Close(ctx context.Context) error {
	s.deadline.Store(0)
	s.cancel()
	s.running.Wait()
	if err := s.inner.End(ctx); err != nil && !errors.Is(err, store.ErrSessionExpired) {
		return fmt.Errorf("end Meta session %d: %w", s.id, err)
	}
	return nil
}

// require makes the session's life a condition of x.
func (s *Session) require(x *txn) { x.at(keySession(s.id), s.rev) }

// check says whether the session still has its record.
func (s *Session) check(ctx context.Context) error {
	kv, err := s.meta.st.Get(ctx, keySession(s.id))
	if errors.Is(err, store.ErrNotFound) || (err == nil && kv.Revision != s.rev) {
		s.expire()
		return ErrSessionExpired
	}
	return err
}

// Sessions returns the live sessions.
func (m *Meta) Sessions(ctx context.Context) ([]SessionInfo, error) {
	return list[SessionInfo](ctx, m, "session/")
}
