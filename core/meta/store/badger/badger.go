// Package badger is the Meta store engine embedded in a lone node.
//
// It owns a Badger database with synchronous writes, the goroutine that commits to
// it and the one that collects its value log. The file lock is Badger's own: one
// process at a time. Sessions live in this process alone, so opening the store
// ends every session of the process before.
package badger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/hashicorp/go-hclog"

	durable "github.com/mooring-io/mooring/core/badgerdb"
	"github.com/mooring-io/mooring/core/meta/store"
	"github.com/mooring-io/mooring/core/meta/store/internal/engine"
)

// Keys inside the database: "k" + key holds revision, session and value (all
// little-endian); "b" + session + key marks a key of a session; "r" holds the last
// revision.
const (
	keyPrefix   = 'k'
	boundPrefix = 'b'
	headBytes   = 16
)

var revKey = []byte{'r'}

// maxBatch is how many waiting transactions share one write to disk.
const maxBatch = 64

// valueThreshold, in bytes, is above store.MaxBytes: no value goes to the value log.
const valueThreshold = 1 << 20

const gcInterval = 10 * time.Minute

// Options configure a store.
type Options struct {
	Dir    string      // created if need be
	Clock  store.Clock // nil: the machine's
	Logger hclog.Logger
}

// Store is a store.Store on Badger.
type Store struct {
	db       *durable.DB
	log      hclog.Logger
	hub      *engine.Hub
	sessions *engine.Sessions
	reqs     chan *request
	done     chan struct{} // closed by Close
	running  sync.WaitGroup

	mu     sync.Mutex
	nextID store.SessionID
	failed error
	closed bool

	rev store.Revision // owned by the commit goroutine
}

var _ store.Store = (*Store)(nil)

// request is one transaction on its way to the commit goroutine.
type request struct {
	txn     store.Txn
	expire  bool // remove what expired sessions left instead
	restore io.Reader
	rev     store.Revision
	err     error
	changed []string
	done    chan struct{}
}

// Open opens or makes the store in o.Dir.
func Open(o Options) (*Store, error) {
	if o.Clock == nil {
		o.Clock = store.SystemClock()
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	log := o.Logger.Named("badger")
	db, err := durable.Open(badgerdb.DefaultOptions(o.Dir).
		WithSyncWrites(true).
		WithLogger(logger{log}).
		WithValueThreshold(valueThreshold).
		WithMemTableSize(16 << 20).WithNumMemtables(2).
		WithValueLogFileSize(16 << 20).
		WithBlockCacheSize(16 << 20).WithIndexCacheSize(8 << 20).
		WithCompression(options.Snappy).
		WithNumVersionsToKeep(1).
		WithDetectConflicts(false). // one goroutine writes
		WithMetricsEnabled(false))
	if err != nil {
		if strings.Contains(err.Error(), "Cannot acquire directory lock") {
			return nil, fmt.Errorf("%w: %s", store.ErrLocked, o.Dir)
		}
		return nil, fmt.Errorf("open the Meta store in %s: %w", o.Dir, err)
	}
	s := &Store{
		db: db, log: log, hub: engine.NewHub(), reqs: make(chan *request, maxBatch), done: make(chan struct{}),
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s.sessions = engine.NewSessions(o.Clock, s.expireSoon)
	s.running.Go(s.commits)
	s.running.Go(s.collect)
	return s, nil
}

// load reads the last revision and removes the keys of the last process's sessions.
func (s *Store) load() error {
	err := s.db.View(func(t *badgerdb.Txn) error {
		item, err := t.Get(revKey)
		if errors.Is(err, badgerdb.ErrKeyNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return item.Value(func(v []byte) error {
			if len(v) != 8 {
				return fmt.Errorf("the revision has %d bytes", len(v))
			}
			s.rev = store.Revision(binary.LittleEndian.Uint64(v))
			return nil
		})
	})
	if err == nil && s.rev == 0 {
		err = s.db.View(func(t *badgerdb.Txn) error {
			return scan(context.Background(), t, "", func(store.KV) error {
				return errors.New("a restore into it was cut short; remove the folder and restore again")
			})
		})
	}
	if err == nil {
		_, err = s.dropBound(nil)
	}
	if err != nil {
		return fmt.Errorf("load the Meta store: %w", err)
	}
	return nil
}

// dropBound deletes the keys of a session, or of every session if prefix is nil,
// and returns them. It runs on the commit goroutine or before it starts.
func (s *Store) dropBound(session []byte) ([]string, error) {
	prefix := append([]byte{boundPrefix}, session...)
	var marks [][]byte
	err := s.db.View(func(t *badgerdb.Txn) error {
		it := t.NewIterator(badgerdb.IteratorOptions{Prefix: prefix})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			marks = append(marks, it.Item().KeyCopy(nil))
		}
		return nil
	})
	if err != nil || len(marks) == 0 {
		return nil, err
	}
	var gone []string
	err = s.db.Update(durable.Demand{}, func(t *durable.Txn) error {
		for _, m := range marks {
			gone = append(gone, string(m[9:]))
			if err := t.Delete(m); err != nil {
				return err
			}
			if err := t.Delete(append([]byte{keyPrefix}, m[9:]...)); err != nil {
				return err
			}
		}
		s.rev++
		return t.Set(revKey, binary.LittleEndian.AppendUint64(nil, uint64(s.rev)))
	})
	return gone, err
}

// usable says why the store cannot be used, if so, after what is expired vanished.
func (s *Store) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	closed, failed := s.closed, s.failed
	s.mu.Unlock()
	if closed {
		return store.ErrClosed
	}
	if failed != nil {
		return failed
	}
	if len(s.sessions.Expired()) > 0 {
		return s.send(ctx, &request{expire: true})
	}
	return nil
}

// Get is store.Store.Get.
func (s *Store) Get(ctx context.Context, key string) (store.KV, error) {
	if err := s.usable(ctx); err != nil {
		return store.KV{}, err
	}
	var kv store.KV
	err := s.view(func(t *badgerdb.Txn) error {
		item, err := t.Get(inner(key))
		if errors.Is(err, badgerdb.ErrKeyNotFound) {
			return store.ErrNotFound
		}
		if err == nil {
			kv, err = decode(item)
		}
		return err
	})
	return kv, err
}

// view runs fn in a read transaction; the store cannot close meanwhile.
func (s *Store) view(fn func(*badgerdb.Txn) error) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return store.ErrClosed
	}
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()
	return s.db.View(fn)
}

// Range is store.Store.Range.
func (s *Store) Range(ctx context.Context, prefix string, fn func(store.KV) error) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	return s.view(func(t *badgerdb.Txn) error { return scan(ctx, t, prefix, fn) })
}

func scan(ctx context.Context, t *badgerdb.Txn, prefix string, fn func(store.KV) error) error {
	o := badgerdb.DefaultIteratorOptions
	o.Prefix = inner(prefix)
	it := t.NewIterator(o)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		kv, err := decode(it.Item())
		if err != nil {
			return err
		}
		if err := fn(kv); err != nil {
			return err
		}
	}
	return nil
}

func inner(key string) []byte {
	return append(append(make([]byte, 0, len(key)+1), keyPrefix), key...)
}

func boundMark(id store.SessionID, key string) []byte {
	b := append(make([]byte, 0, len(key)+9), boundPrefix)
	return append(binary.LittleEndian.AppendUint64(b, uint64(id)), key...)
}

func decode(item *badgerdb.Item) (store.KV, error) {
	kv := store.KV{Key: string(item.Key()[1:])}
	return kv, item.Value(func(v []byte) error {
		if len(v) < headBytes {
			return fmt.Errorf("key %q of the Meta store has %d bytes", kv.Key, len(v))
		}
		kv.Revision = store.Revision(binary.LittleEndian.Uint64(v))
		kv.Session = store.SessionID(binary.LittleEndian.Uint64(v[8:]))
		kv.Value = append([]byte{}, v[headBytes:]...)
		return nil
	})
}

// Commit is store.Store.Commit.
func (s *Store) Commit(ctx context.Context, t store.Txn) (store.Revision, error) {
	if err := engine.Check(t); err != nil {
		return 0, err
	}
	if err := s.usable(ctx); err != nil {
		return 0, err
	}
	r := &request{txn: t}
	err := s.send(ctx, r)
	return r.rev, err
}

// send hands a request to the commit goroutine and waits for its outcome. Once
// handed over it is not cancelled: its outcome is known soon.
func (s *Store) send(ctx context.Context, r *request) error {
	r.done = make(chan struct{})
	select {
	case s.reqs <- r:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.done:
		return store.ErrClosed
	}
	select {
	case <-r.done:
		return r.err
	case <-s.done:
	}
	// The commit goroutine serves what it took before it ends.
	s.running.Wait()
	select {
	case <-r.done:
		return r.err
	default:
		return store.ErrClosed
	}
}

// commits is the only goroutine that writes. It gathers what is waiting into one
// write to disk.
func (s *Store) commits() {
	for {
		var batch []*request
		select {
		case <-s.done:
			return
		case r := <-s.reqs:
			batch = append(batch, r)
		}
		for more := true; more && len(batch) < maxBatch; {
			select {
			case r := <-s.reqs:
				batch = append(batch, r)
			default:
				more = false
			}
		}
		s.serve(batch)
	}
}

// serve carries out requests in order, as few writes as possible.
func (s *Store) serve(batch []*request) {
	var t *durable.Txn
	var open []*request // applied to t, not committed
	flush := func() {
		if t == nil {
			return
		}
		s.finish(t, open)
		t, open = nil, nil
	}
	for _, r := range batch {
		if r.expire || r.restore != nil {
			flush()
			s.special(r)
			continue
		}
		if len(open) > 0 && open[0].txn.Optional != r.txn.Optional {
			flush()
		}
		for {
			if t == nil {
				t = s.db.Begin()
			}
			before := s.rev
			err := s.apply(t, r)
			if err == nil {
				open = append(open, r)
				break
			}
			s.rev = before
			if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrSessionExpired) {
				r.finish(err) // nothing was written to t
				break
			}
			// t is full or broken: what it held of r goes with it.
			t.Discard()
			t = nil
			if errors.Is(err, badgerdb.ErrTxnTooBig) && len(open) > 0 {
				again := open
				open = nil
				s.rev -= store.Revision(len(again))
				s.replay(again)
				continue
			}
			r.finish(fmt.Errorf("write to the Meta store: %w", err))
			s.failAll(open, err)
			open = nil
			break
		}
	}
	flush()
}

// replay commits requests that fitted into one transaction before.
func (s *Store) replay(open []*request) {
	t := s.db.Begin()
	for _, r := range open {
		if err := s.apply(t, r); err != nil {
			t.Discard()
			s.failAll(open, err)
			return
		}
	}
	s.finish(t, open)
}

// apply checks a request against t and writes it there. ErrConflict and
// ErrSessionExpired leave t as it was.
func (s *Store) apply(t *durable.Txn, r *request) error {
	for _, c := range r.txn.If {
		rev, _, err := current(t, c.Key)
		if err != nil {
			return err
		}
		if rev != c.Revision {
			return store.ErrConflict
		}
	}
	for _, p := range r.txn.Put {
		if p.Session != 0 && !s.sessions.Live(p.Session) {
			return store.ErrSessionExpired
		}
	}
	s.rev++
	r.rev = s.rev
	r.changed = r.changed[:0]
	for _, p := range r.txn.Put {
		if err := s.put(t, p); err != nil {
			return err
		}
		r.changed = append(r.changed, p.Key)
	}
	for _, k := range r.txn.Delete {
		rev, session, err := current(t, k)
		if err != nil {
			return err
		}
		if rev == 0 {
			continue
		}
		if err := t.Delete(inner(k)); err != nil {
			return err
		}
		if session != 0 {
			if err := t.Delete(boundMark(session, k)); err != nil {
				return err
			}
		}
		r.changed = append(r.changed, k)
	}
	return t.Set(revKey, binary.LittleEndian.AppendUint64(nil, uint64(s.rev)))
}

func (s *Store) put(t *durable.Txn, p store.Put) error {
	_, old, err := current(t, p.Key)
	if err != nil {
		return err
	}
	if old != 0 && old != p.Session {
		if err := t.Delete(boundMark(old, p.Key)); err != nil {
			return err
		}
	}
	if p.Session != 0 && old != p.Session {
		if err := t.Set(boundMark(p.Session, p.Key), nil); err != nil {
			return err
		}
	}
	v := binary.LittleEndian.AppendUint64(make([]byte, 0, headBytes+len(p.Value)), uint64(s.rev))
	v = binary.LittleEndian.AppendUint64(v, uint64(p.Session))
	return t.Set(inner(p.Key), append(v, p.Value...))
}

// current returns the revision and session of a key, 0 if it does not exist.
func current(t *durable.Txn, key string) (store.Revision, store.SessionID, error) {
	item, err := t.Get(inner(key))
	if errors.Is(err, badgerdb.ErrKeyNotFound) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	kv, err := decode(item)
	return kv.Revision, kv.Session, err
}

// finish commits t and tells everybody.
func (s *Store) finish(t *durable.Txn, open []*request) {
	if len(open) == 0 {
		t.Discard()
		return
	}
	switch err := s.db.Commit(t, demand(open[0])); {
	case errors.Is(err, durable.ErrNoSpace):
		s.rev -= store.Revision(len(open))
		for _, r := range open {
			r.finish(full(err))
		}
		return
	case err != nil:
		s.failAll(open, err)
		return
	}
	for _, r := range open {
		r.finish(nil)
		s.hub.Notify(r.changed)
	}
}

// freeForNew is how many bytes the file system must have free for something new.
const freeForNew = 8 << 20

func demand(r *request) durable.Demand {
	if r.txn.Optional {
		return durable.Demand{Log: durable.Reserve, Free: freeForNew}
	}
	return durable.Demand{}
}

func full(err error) error { return fmt.Errorf("%w: %w", store.ErrFull, err) }

// failAll ends the store: after a failed write nobody knows what the medium holds.
func (s *Store) failAll(open []*request, err error) {
	err = s.fail(err)
	for _, r := range open {
		r.finish(err)
	}
}

func (s *Store) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = fmt.Errorf("%w: %w", store.ErrFailed, err)
		s.log.Error("the Meta store failed and takes no more writes", "error", err)
	}
	return s.failed
}

func (r *request) finish(err error) {
	if err != nil {
		r.rev = 0
	}
	r.err = err
	close(r.done)
}

// special serves the requests that are no plain transaction.
func (s *Store) special(r *request) {
	if r.restore != nil {
		r.finish(s.fill(r))
		s.hub.Notify(r.changed)
		return
	}
	for _, id := range s.sessions.Expired() {
		gone, err := s.dropBound(binary.LittleEndian.AppendUint64(nil, uint64(id)))
		if errors.Is(err, durable.ErrNoSpace) {
			r.finish(full(err))
			return
		}
		if err != nil {
			r.finish(s.fail(err))
			return
		}
		s.sessions.Remove(id)
		s.hub.Notify(gone)
	}
	r.finish(nil)
}

// expireSoon is called by the clock.
func (s *Store) expireSoon() {
	select {
	case s.reqs <- &request{expire: true, done: make(chan struct{})}:
	case <-s.done:
	}
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
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.nextID++
	id := s.nextID
	s.mu.Unlock()
	s.sessions.Add(id, ttl)
	return &session{store: s, id: id, ttl: ttl}, nil
}

// Backup is store.Store.Backup.
func (s *Store) Backup(ctx context.Context, w io.Writer) error {
	return store.WriteBackup(w, func(fn func(store.KV) error) error { return s.Range(ctx, "", fn) })
}

// Restore is store.Store.Restore.
func (s *Store) Restore(ctx context.Context, r io.Reader) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	return s.send(ctx, &request{restore: r})
}

var errFound = errors.New("found")

// fill fills the empty store from a backup; it runs on the commit goroutine, so that nothing
// else is written meanwhile. The last revision is written last: a store that lacks
// it but has keys was not restored whole.
func (s *Store) fill(r *request) error {
	err := s.db.View(func(t *badgerdb.Txn) error {
		return scan(context.Background(), t, "", func(store.KV) error { return errFound })
	})
	if errors.Is(err, errFound) {
		return store.ErrNotEmpty
	}
	if err != nil {
		return s.fail(err)
	}
	t := s.db.Begin()
	defer func() { t.Discard() }()
	n := 0
	s.rev++
	err = store.ReadBackup(r.restore, func(kv store.KV) error {
		v := binary.LittleEndian.AppendUint64(make([]byte, 0, headBytes+len(kv.Value)), uint64(s.rev))
		v = append(binary.LittleEndian.AppendUint64(v, 0), kv.Value...)
		r.changed = append(r.changed, kv.Key)
		if n += len(kv.Key) + len(v); n > store.MaxBytes {
			if err := s.db.Commit(t, durable.Demand{Free: freeForNew}); err != nil {
				return err
			}
			t, n = s.db.Begin(), 0
		}
		return t.Set(inner(kv.Key), v)
	})
	if err == nil {
		err = t.Set(revKey, binary.LittleEndian.AppendUint64(nil, uint64(s.rev)))
	}
	if err == nil {
		err = s.db.Commit(t, durable.Demand{Free: freeForNew})
	}
	if err != nil {
		_ = s.fail(err) // half of it may be there: this store is not to be used
	}
	return err
}

// collect runs Badger's value log collection. Values stay below the threshold, so
// that there is little to do.
func (s *Store) collect() {
	tick := time.NewTicker(gcInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-tick.C:
		}
		if err := s.db.RunValueLogGC(0.5); err != nil && !errors.Is(err, badgerdb.ErrNoRewrite) && !errors.Is(err, badgerdb.ErrRejected) {
			s.log.Warn("collection of the value log failed", "error", err)
		}
	}
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
	s.sessions.Close()
	close(s.done)
	s.running.Wait()
	s.hub.Close()
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close the Meta store: %w", err)
	}
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
	if err := n.store.usable(ctx); err != nil {
		return err
	}
	return n.store.sessions.KeepAlive(n.id)
}

func (n *session) End(ctx context.Context) error {
	n.store.sessions.Kill(n.id)
	return n.store.usable(ctx)
}

// logger carries Badger's lines into ours, one level down: what it calls info is
// of no interest to an operator.
type logger struct{ log hclog.Logger }

func (l logger) Errorf(f string, v ...any)   { l.log.Error("badger", "line", line(f, v)) }
func (l logger) Warningf(f string, v ...any) { l.log.Warn("badger", "line", line(f, v)) }
func (l logger) Infof(f string, v ...any)    { l.log.Debug("badger", "line", line(f, v)) }
func (l logger) Debugf(f string, v ...any)   { l.log.Trace("badger", "line", line(f, v)) }

func line(f string, v []any) string { return strings.TrimSpace(fmt.Sprintf(f, v...)) }
