// Package etcd is the Meta store engine on etcd, for clusters of nodes.
//
// It owns the keys under one prefix of an etcd cluster, the one watch that feeds all
// hints, and the judging of sessions: a session is a record that its holder renews
// and every store with a view of it times by its own clock (docs/adr/0006). It does not
// own the etcd cluster, nor the client, which stay the caller's.
package etcd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/mooring-io/mooring/core/meta/store"
	"github.com/mooring-io/mooring/core/meta/store/internal/engine"
)

// What is under the store's prefix.
const (
	keyPart     = "k/" // + key
	sessionPart = "s/" // + session: a session that lives; see session.go
	boundPart   = "b/" // + session + "/" + key: the key may be bound to the session
	restoreKey  = "r"  // a restore has begun and not ended
)

// Bounds of what is asked of etcd.
const (
	pageKeys = 256 // of a Range, at a time
	// patience bounds a call whose context has no earlier end.
	patience = 10 * time.Second
	// attempt bounds one request, after which another member of etcd is asked.
	attempt = 2 * time.Second
	// impatience bounds the question whether etcd answers at all.
	impatience = time.Second
	// Between attempts.
	firstPause, lastPause = 20 * time.Millisecond, 500 * time.Millisecond
)

// Options configure a store.
type Options struct {
	Client *clientv3.Client // stays the caller's, and open until the store is closed
	// Prefix begins all keys of the store; another store has another one, and none
	// begins another's.
	Prefix string
	Clock  store.Clock // nil: the machine's
	Logger hclog.Logger
}

// Store is a store.Store on etcd.
type Store struct {
	c       *clientv3.Client
	prefix  string
	clock   store.Clock
	log     hclog.Logger
	hub     *engine.Hub
	judge   *judge
	contact contact
	life    context.Context
	end     context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex
	closed bool
	broken error // half of a restore
}

var _ store.Store = (*Store)(nil)

// Open returns the store under a prefix, which may be empty. It fails if etcd cannot
// be reached before ctx ends.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Clock == nil {
		o.Clock = store.SystemClock()
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	s := &Store{c: o.Client, prefix: o.Prefix, clock: o.Clock, log: o.Logger.Named("etcd"), hub: engine.NewHub()}
	s.life, s.end = context.WithCancel(context.Background())
	s.contact.clock = o.Clock
	s.judge = newJudge(s)
	r, err := read(ctx, s, func(ctx context.Context) (*clientv3.GetResponse, error) { return s.c.Get(ctx, s.prefix+restoreKey) })
	if err != nil {
		s.end()
		return nil, fmt.Errorf("open the Meta store in etcd: %w", err)
	}
	if r.Count > 0 {
		s.end()
		return nil, fmt.Errorf("a restore into the Meta store in etcd was cut short; delete what is under %q and restore again", s.prefix)
	}
	s.running.Go(s.watch)
	return s, nil
}

// begin admits a call: ctx then also ends with the store. done must be called.
func (s *Store) begin(ctx context.Context) (inner context.Context, done func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, store.ErrClosed
	}
	if s.broken != nil {
		return nil, nil, s.broken
	}
	s.running.Add(1)
	inner, cancel := context.WithTimeout(ctx, patience)
	stop := context.AfterFunc(s.life, cancel)
	return inner, func() { stop(); cancel(); s.running.Done() }, nil
}

// explain turns an error of etcd's client into one of the contract. ctx is the
// caller's own.
func (s *Store) explain(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case s.life.Err() != nil:
		return store.ErrClosed
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("%w: etcd has reached its quota (NOSPACE)", store.ErrFull)
	case errors.Is(err, rpctypes.ErrTooManyOps), errors.Is(err, rpctypes.ErrRequestTooLarge):
		return fmt.Errorf("%w: %w", store.ErrInvalid, err)
	case transient(err):
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return err
}

// read asks until it is answered, or ctx, patience or the store ends.
func read[T any](ctx context.Context, s *Store, fn func(context.Context) (T, error)) (T, error) {
	inner, done, err := s.begin(ctx)
	if err != nil {
		var none T
		return none, err
	}
	defer done()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		one, cancel := context.WithTimeout(inner, attempt)
		v, err := contacted(&s.contact, func() (T, error) { return fn(one) })
		cancel()
		if err == nil || inner.Err() != nil || !transient(err) || !s.pause(inner, pause) {
			return v, s.explain(ctx, err)
		}
	}
}

// pause waits, and says whether to go on.
func (s *Store) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// commit sends one transaction, once: whether a failed one was carried out is unknown.
func (s *Store) commit(ctx context.Context, build func(clientv3.Txn) clientv3.Txn) (*clientv3.TxnResponse, error) {
	inner, done, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	r, err := contacted(&s.contact, func() (*clientv3.TxnResponse, error) { return build(s.c.Txn(inner)).Commit() })
	return r, s.explain(ctx, err)
}

// Silent is for how long etcd has not answered, 0: it does. Where that is not known for certain it is asked,
// which takes a second at most.
func (s *Store) Silent(ctx context.Context) time.Duration {
	if ns := s.contact.silent(); ns > 0 {
		return time.Duration(ns)
	}
	inner, done, err := s.begin(ctx)
	if err != nil {
		return 0
	}
	defer done()
	one, cancel := context.WithTimeout(inner, impatience)
	defer cancel()
	_, _ = contacted(&s.contact, func() (*clientv3.GetResponse, error) {
		return s.c.Get(one, s.prefix+restoreKey, clientv3.WithCountOnly())
	})
	return time.Duration(s.contact.silent())
}

// Get is store.Store.Get.
func (s *Store) Get(ctx context.Context, key string) (store.KV, error) {
	r, err := read(ctx, s, func(ctx context.Context) (*clientv3.GetResponse, error) { return s.c.Get(ctx, s.inner(key)) })
	if err != nil {
		return store.KV{}, err
	}
	if len(r.Kvs) == 0 {
		return store.KV{}, store.ErrNotFound
	}
	return s.decode(r.Kvs[0])
}

// Range is store.Store.Range.
func (s *Store) Range(ctx context.Context, prefix string, fn func(store.KV) error) error {
	from, end := s.inner(prefix), clientv3.GetPrefixRangeEnd(s.inner(prefix))
	for rev := int64(0); ; {
		r, err := read(ctx, s, func(ctx context.Context) (*clientv3.GetResponse, error) {
			return s.c.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageKeys), clientv3.WithRev(rev))
		})
		if err != nil {
			return err
		}
		rev = r.Header.Revision
		for _, raw := range r.Kvs {
			kv, err := s.decode(raw)
			if err == nil {
				err = fn(kv)
			}
			if err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		if !r.More {
			return nil
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

func (s *Store) inner(key string) string { return s.prefix + keyPart + key }

// A value begins with 0, or with 1 and the session that it is bound to.
func encode(session store.SessionID, v []byte) string {
	if session == 0 {
		return "\x00" + string(v)
	}
	b := binary.LittleEndian.AppendUint64([]byte{1}, uint64(session))
	return string(append(b, v...))
}

func (s *Store) decode(raw *mvccpb.KeyValue) (store.KV, error) {
	kv := store.KV{Key: strings.TrimPrefix(string(raw.Key), s.prefix+keyPart), Revision: store.Revision(raw.ModRevision)}
	switch v := raw.Value; {
	case len(v) >= 1 && v[0] == 0:
		kv.Value = v[1:]
	case len(v) >= 9 && v[0] == 1:
		kv.Session, kv.Value = store.SessionID(binary.LittleEndian.Uint64(v[1:])), v[9:]
	default:
		return kv, fmt.Errorf("key %q of the Meta store in etcd is damaged or was written by a newer version", kv.Key)
	}
	return kv, nil
}

// at is the condition that a key is at a revision, 0: that it does not exist.
func at(key string, rev store.Revision) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(key), "=", int64(rev))
}

// Commit is store.Store.Commit.
func (s *Store) Commit(ctx context.Context, t store.Txn) (store.Revision, error) {
	if err := engine.Check(t); err != nil {
		return 0, err
	}
	var ifs []clientv3.Cmp
	var then, otherwise []clientv3.Op
	for _, c := range t.If {
		ifs = append(ifs, at(s.inner(c.Key), c.Revision))
	}
	binds := map[store.SessionID]int{}
	for _, p := range t.Put {
		then = append(then, clientv3.OpPut(s.inner(p.Key), encode(p.Session, p.Value)))
		if p.Session != 0 {
			binds[p.Session]++
			then = append(then, clientv3.OpPut(s.boundKey(p.Session, p.Key), ""))
		}
	}
	for _, k := range t.Delete {
		then = append(then, clientv3.OpDelete(s.inner(k)))
	}
	for id, n := range binds {
		if err := s.mayBind(ctx, id, n); err != nil {
			return 0, err
		}
		// It lives, and whoever is about to end it reads again what is bound to it.
		ifs = append(ifs, clientv3.Compare(clientv3.CreateRevision(s.sessionKey(id)), ">", 0))
		then = append(then, clientv3.OpPut(s.sessionKey(id), "", clientv3.WithIgnoreValue()))
		otherwise = append(otherwise, clientv3.OpGet(s.sessionKey(id), clientv3.WithCountOnly()))
	}
	r, err := s.commit(ctx, func(x clientv3.Txn) clientv3.Txn { return x.If(ifs...).Then(then...).Else(otherwise...) })
	if err != nil {
		return 0, err
	}
	if !r.Succeeded {
		for _, a := range r.Responses {
			if a.GetResponseRange().Count == 0 {
				return 0, store.ErrSessionExpired
			}
		}
		return 0, store.ErrConflict
	}
	return store.Revision(r.Header.Revision), nil
}

// Watch is store.Store.Watch.
func (s *Store) Watch(ctx context.Context, prefix string) <-chan store.Hint {
	return s.hub.Watch(ctx, prefix)
}

// watch feeds the hub and the judge from one watch of everything, from reading on as
// often as it breaks.
func (s *Store) watch() {
	for pause := firstPause; s.life.Err() == nil; pause = min(2*pause, lastPause) {
		began := time.Now()
		if err := s.follow(); err != nil && s.life.Err() == nil {
			s.log.Debug("watch of etcd begins again", "error", err)
		}
		if time.Since(began) > 10*lastPause {
			pause = firstPause
		}
		s.pause(s.life, pause)
	}
}

// follow reads the sessions as they are and follows everything from there on. What
// changed before is hinted at as "anything".
func (s *Store) follow() error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(s.life))
	defer cancel()
	r, err := read(ctx, s, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return s.c.Get(ctx, s.prefix+sessionPart, clientv3.WithPrefix())
	})
	if err != nil {
		return err
	}
	s.judge.all(r.Kvs)
	events := s.c.Watch(ctx, s.prefix, clientv3.WithPrefix(), clientv3.WithRev(r.Header.Revision+1))
	s.hub.NotifyAll()
	for e := range events {
		if err := e.Err(); err != nil {
			return err
		}
		var keys []string
		for _, ev := range e.Events {
			k := strings.TrimPrefix(string(ev.Kv.Key), s.prefix)
			switch key, ok := strings.CutPrefix(k, keyPart); {
			case ok:
				keys = append(keys, key)
			case strings.HasPrefix(k, sessionPart) && ev.Type == clientv3.EventTypeDelete:
				s.judge.gone(ev.Kv)
			case strings.HasPrefix(k, sessionPart):
				s.judge.read(ev.Kv)
			}
		}
		if len(keys) > 0 {
			s.hub.Notify(keys)
		}
	}
	return s.life.Err()
}

// Backup is store.Store.Backup.
func (s *Store) Backup(ctx context.Context, w io.Writer) error {
	return store.WriteBackup(w, func(fn func(store.KV) error) error { return s.Range(ctx, "", fn) })
}

// Bounds of one transaction of a restore.
const (
	restoreOps   = 100
	restoreBytes = store.MaxBytes
)

// Restore is store.Store.Restore. A key of etcd says that it has begun; it goes away
// when all is there.
func (s *Store) Restore(ctx context.Context, r io.Reader) error {
	mark := s.prefix + restoreKey
	first, err := s.commit(ctx, func(x clientv3.Txn) clientv3.Txn {
		return x.If(at(mark, 0), clientv3.Compare(clientv3.CreateRevision(s.inner("")), "=", 0).WithPrefix()).
			Then(clientv3.OpPut(mark, ""))
	})
	if err != nil {
		return err
	}
	if !first.Succeeded {
		return store.ErrNotEmpty
	}
	begun := at(mark, store.Revision(first.Header.Revision))
	var ops []clientv3.Op
	bytes := 0
	flush := func(more ...clientv3.Op) error {
		x, err := s.commit(ctx, func(x clientv3.Txn) clientv3.Txn { return x.If(begun).Then(append(ops, more...)...) })
		if err == nil && !x.Succeeded {
			err = errors.New("somebody else restores into the Meta store")
		}
		ops, bytes = ops[:0], 0
		return err
	}
	err = store.ReadBackup(r, func(kv store.KV) error {
		if len(ops) == restoreOps || bytes+len(kv.Key)+len(kv.Value) > restoreBytes {
			if err := flush(); err != nil {
				return err
			}
		}
		ops = append(ops, clientv3.OpPut(s.inner(kv.Key), encode(0, kv.Value)))
		bytes += len(kv.Key) + len(kv.Value)
		return nil
	})
	if err == nil {
		err = flush(clientv3.OpDelete(mark))
	}
	if err != nil {
		s.mu.Lock()
		s.broken = fmt.Errorf("%w: a restore into it was cut short", store.ErrFailed)
		s.mu.Unlock()
	}
	return err
}

// Wipe removes everything under a prefix; nobody may have a store open there.
func Wipe(ctx context.Context, c *clientv3.Client, prefix string) error {
	if _, err := c.Delete(ctx, prefix, clientv3.WithPrefix()); err != nil {
		return fmt.Errorf("empty the Meta store in etcd: %w", err)
	}
	return nil
}

// Begun says whether a restore into the store under a prefix was cut short, so that
// what is there must be wiped before the store can be used.
func Begun(ctx context.Context, c *clientv3.Client, prefix string) (bool, error) {
	r, err := c.Get(ctx, prefix+restoreKey, clientv3.WithCountOnly())
	if err != nil {
		return false, fmt.Errorf("look into etcd: %w", err)
	}
	return r.Count > 0, nil
}

// Close is store.Store.Close.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.end()
	s.judge.close()
	s.running.Wait()
	s.hub.Close()
	return nil
}
