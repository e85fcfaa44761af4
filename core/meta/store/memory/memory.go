// Package memory is the Meta store engine for deterministic simulation.
//
// It owns nothing durable: what it holds dies with the process. Its behaviour
// depends on its calls and its clock alone.
package memory

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mooring-io/mooring/core/meta/store"
	"github.com/mooring-io/mooring/core/meta/store/internal/engine"
)

// Options configure a store.
type Options struct {
	Clock store.Clock // nil: the machine's
	// Fault, if not nil, is asked for each Commit: an error makes the call fail with
	// it, after the transaction was applied if applied is true.
	Fault func(store.Txn) (applied bool, err error)
}

// Store is an in-memory store.Store.
type Store struct {
	fault    func(store.Txn) (bool, error)
	hub      *engine.Hub
	sessions *engine.Sessions

	mu     sync.Mutex
	keys   map[string]store.KV
	rev    store.Revision
	nextID store.SessionID
	closed bool
}

var _ store.Store = (*Store)(nil)

// New returns an empty store.
func New(o Options) *Store {
	if o.Clock == nil {
		o.Clock = store.SystemClock()
	}
	s := &Store{fault: o.Fault, hub: engine.NewHub(), keys: map[string]store.KV{}}
	s.sessions = engine.NewSessions(o.Clock, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.expire()
	})
	return s
}

// begin takes the lock and lets what is expired vanish.
func (s *Store) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return store.ErrClosed
	}
	s.expire()
	return nil
}

func (s *Store) expire() {
	if s.closed {
		return
	}
	for _, id := range s.sessions.Expired() {
		var gone []string
		for k, kv := range s.keys {
			if kv.Session == id {
				gone = append(gone, k)
			}
		}
		slices.Sort(gone)
		if len(gone) > 0 {
			s.apply(store.Txn{Delete: gone})
		}
		s.sessions.Remove(id)
	}
}

// Get is store.Store.Get.
func (s *Store) Get(ctx context.Context, key string) (store.KV, error) {
	if err := s.begin(ctx); err != nil {
		return store.KV{}, err
	}
	defer s.mu.Unlock()
	kv, ok := s.keys[key]
	if !ok {
		return store.KV{}, store.ErrNotFound
	}
	kv.Value = slices.Clone(kv.Value)
	return kv, nil
}

// Range is store.Store.Range.
func (s *Store) Range(ctx context.Context, prefix string, fn func(store.KV) error) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	var all []store.KV
	for k, kv := range s.keys {
		if strings.HasPrefix(k, prefix) {
			kv.Value = slices.Clone(kv.Value)
			all = append(all, kv)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b store.KV) int { return strings.Compare(a.Key, b.Key) })
	for _, kv := range all {
		if err := fn(kv); err != nil {
			return err
		}
	}
	return nil
}

// Commit is store.Store.Commit.
func (s *Store) Commit(ctx context.Context, t store.Txn) (store.Revision, error) {
	if err := engine.Check(t); err != nil {
		return 0, err
	}
	if err := s.begin(ctx); err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	for _, c := range t.If {
		if s.keys[c.Key].Revision != c.Revision {
			return 0, store.ErrConflict
		}
	}
	for _, p := range t.Put {
		if p.Session != 0 && !s.sessions.Live(p.Session) {
			return 0, store.ErrSessionExpired
		}
	}
	if s.fault != nil {
		if applied, err := s.fault(t); err != nil {
			if applied {
				s.apply(t)
			}
			return 0, err
		}
	}
	s.apply(t)
	return s.rev, nil
}

func (s *Store) apply(t store.Txn) {
	s.rev++
	changed := make([]string, 0, len(t.Put)+len(t.Delete))
	for _, p := range t.Put {
		s.keys[p.Key] = store.KV{Key: p.Key, Value: slices.Clone(p.Value), Revision: s.rev, Session: p.Session}
		changed = append(changed, p.Key)
	}
	for _, k := range t.Delete {
		if _, ok := s.keys[k]; ok {
			delete(s.keys, k)
			changed = append(changed, k)
		}
	}
	s.hub.Notify(changed)
}

// Watch is store.Store.Watch.
func (s *Store) Watch(ctx context.Context, prefix string) <-chan store.Hint {
	return s.hub.Watch(ctx, prefix)
}

// NewSession is store.Store.NewSession.
func (s *Store) NewSession(ctx context.Context, ttl time.Duration) (store.Session, error) {
	if ttl <= 0 {
		return nil, fmt.Errorf("%w: a session of %v", store.ErrInvalid, ttl)
	}
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	s.nextID++
	s.sessions.Add(s.nextID, ttl)
	return &session{store: s, id: s.nextID, ttl: ttl}, nil
}

// Backup is store.Store.Backup.
func (s *Store) Backup(ctx context.Context, w io.Writer) error {
	return store.WriteBackup(w, func(fn func(store.KV) error) error { return s.Range(ctx, "", fn) })
}

// Restore is store.Store.Restore.
func (s *Store) Restore(ctx context.Context, r io.Reader) error {
	all := map[string]store.KV{}
	if err := store.ReadBackup(r, func(kv store.KV) error { all[kv.Key] = kv; return nil }); err != nil {
		return err
	}
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if len(s.keys) > 0 {
		return store.ErrNotEmpty
	}
	s.rev++
	for k, kv := range all {
		kv.Revision = s.rev
		s.keys[k] = kv
		s.hub.Notify([]string{k})
	}
	return nil
}

// Close is store.Store.Close.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.sessions.Close()
	s.hub.Close()
	return nil
}

type session struct {
	store *Store
	id    store.SessionID
	ttl   time.Duration
}

func (n *session) ID() store.SessionID { return n.id }
func (n *session) TTL() time.Duration  { return n.ttl }

func (n *session) KeepAlive(ctx context.Context) error {
	if err := n.store.begin(ctx); err != nil {
		return err
	}
	defer n.store.mu.Unlock()
	return n.store.sessions.KeepAlive(n.id)
}

func (n *session) End(ctx context.Context) error {
	if err := n.store.begin(ctx); err != nil {
		return err
	}
	defer n.store.mu.Unlock()
	n.store.sessions.Kill(n.id)
	n.store.expire()
	return nil
}
