package etcd

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/mooring-io/mooring/core/meta/store"
)

// maxBound is how many keys a session may have: they vanish with it in one transaction.
const maxBound = 48

// record is the value of a session's key. Its holder writes it anew at every
// keep-alive; it is the revision that counts.
type record struct {
	TTL time.Duration `json:"ttl"` // ns
}

func (s *Store) sessionKey(id store.SessionID) string {
	return fmt.Sprintf("%s%s%016x", s.prefix, sessionPart, uint64(id))
}

func (s *Store) boundKeys(id store.SessionID) string {
	return fmt.Sprintf("%s%s%016x/", s.prefix, boundPart, uint64(id))
}

func (s *Store) boundKey(id store.SessionID, key string) string { return s.boundKeys(id) + key }

// NewSession is store.Store.NewSession.
func (s *Store) NewSession(ctx context.Context, ttl time.Duration) (store.Session, error) {
	if ttl <= 0 {
		return nil, fmt.Errorf("%w: a session of %v", store.ErrInvalid, ttl)
	}
	value, err := json.Marshal(record{TTL: ttl})
	if err != nil {
		panic(err) // plain fields
	}
	var b [8]byte
	rand.Read(b[:])
	id := store.SessionID(max(binary.LittleEndian.Uint64(b[:]), 1))
	r, err := s.commit(ctx, func(x clientv3.Txn) clientv3.Txn {
		return x.If(at(s.sessionKey(id), 0)).Then(clientv3.OpPut(s.sessionKey(id), string(value)))
	})
	if err != nil {
		return nil, err
	}
	if !r.Succeeded {
		return nil, errors.New("two sessions drew the same number")
	}
	s.judge.see(id, r.Header.Revision, ttl)
	return &session{store: s, id: id, ttl: ttl}, nil
}

// mayBind says whether n more keys can be bound to a session.
func (s *Store) mayBind(ctx context.Context, id store.SessionID, n int) error {
	r, err := read(ctx, s, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return s.c.Get(ctx, s.boundKeys(id), clientv3.WithPrefix(), clientv3.WithCountOnly())
	})
	if err == nil && int(r.Count)+n > maxBound {
		err = fmt.Errorf("%w: %d keys of one session, at most %d are possible", store.ErrInvalid, int(r.Count)+n, maxBound)
	}
	return err
}

type session struct {
	store *Store
	id    store.SessionID
	ttl   time.Duration
}

func (n *session) ID() store.SessionID { return n.id }
func (n *session) TTL() time.Duration  { return n.ttl }

// KeepAlive writes the record anew if it is still there: whoever judges the session
// sees another revision, and one who was about to end it fails.
func (n *session) KeepAlive(ctx context.Context) error {
	key := n.store.sessionKey(n.id)
	r, err := n.store.commit(ctx, func(x clientv3.Txn) clientv3.Txn {
		return x.If(clientv3.Compare(clientv3.CreateRevision(key), ">", 0)).
			Then(clientv3.OpPut(key, "", clientv3.WithIgnoreValue()))
	})
	if err == nil && !r.Succeeded {
		err = store.ErrSessionExpired
	}
	if err == nil {
		n.store.judge.see(n.id, r.Header.Revision, n.ttl)
	}
	return err
}

func (n *session) End(ctx context.Context) error {
	for {
		gone, err := n.store.remove(ctx, n.id, 0)
		if gone || err != nil {
			return err
		}
	}
}

// remove ends a session, if its record is at revision rev (0: at any), and lets the
// keys that are bound to it vanish in the same transaction. gone says that the
// session is over, by this or before.
func (s *Store) remove(ctx context.Context, id store.SessionID, rev int64) (gone bool, err error) {
	key := s.sessionKey(id)
	r, err := read(ctx, s, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return s.c.Txn(ctx).Then(clientv3.OpGet(key), clientv3.OpGet(s.boundKeys(id), clientv3.WithPrefix(), clientv3.WithKeysOnly())).Commit()
	})
	if err != nil {
		return false, err
	}
	own := r.Responses[0].GetResponseRange().Kvs
	if len(own) == 0 {
		return true, nil
	}
	if rev != 0 && own[0].ModRevision != rev {
		return false, nil
	}
	ifs := []clientv3.Cmp{at(key, store.Revision(own[0].ModRevision))}
	then := []clientv3.Op{clientv3.OpDelete(key), clientv3.OpDelete(s.boundKeys(id), clientv3.WithPrefix())}
	for _, m := range r.Responses[1].GetResponseRange().Kvs {
		k := strings.TrimPrefix(string(m.Key), s.boundKeys(id))
		kv, err := s.Get(ctx, k)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return false, err
		}
		if kv.Session == id { // else it was written anew without the session
			ifs = append(ifs, at(s.inner(k), kv.Revision))
			then = append(then, clientv3.OpDelete(s.inner(k)))
		}
	}
	x, err := s.commit(ctx, func(x clientv3.Txn) clientv3.Txn { return x.If(ifs...).Then(then...) })
	return err == nil && x.Succeeded, err
}

// judge times the sessions of all stores under the prefix by this machine's clock. It
// ends one whose record did not change for its TTL since this store saw it: whoever
// holds it counted the TTL from before he wrote the record, and has stopped.
type judge struct {
	s *Store

	mu      sync.Mutex
	seen    map[store.SessionID]*sighting
	closed  bool
	running sync.WaitGroup
}

// sighting is a record as it was seen last.
type sighting struct {
	rev  int64
	ttl  int64 // ns
	at   int64 // Boot time, not before rev was committed
	stop func() bool
}

func newJudge(s *Store) *judge { return &judge{s: s, seen: map[store.SessionID]*sighting{}} }

// all takes in every session that there is.
func (j *judge) all(kvs []*mvccpb.KeyValue) {
	there := map[store.SessionID]bool{}
	for _, kv := range kvs {
		there[j.read(kv)] = true
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for id := range j.seen {
		if !there[id] {
			j.forget(id)
		}
	}
}

// read takes in one session's key as of now, and returns whose it is.
func (j *judge) read(kv *mvccpb.KeyValue) store.SessionID {
	id, err := j.s.parseSession(kv)
	if err != nil {
		return 0
	}
	var r record
	if err := json.Unmarshal(kv.Value, &r); err != nil || r.TTL <= 0 {
		j.s.log.Warn("a session's record is not understood; nobody ends it", "key", string(kv.Key))
		return id
	}
	j.see(id, kv.ModRevision, r.TTL)
	return id
}

// gone takes in the end of a session.
func (j *judge) gone(kv *mvccpb.KeyValue) {
	id, err := j.s.parseSession(kv)
	j.mu.Lock()
	defer j.mu.Unlock()
	if err == nil && j.seen[id] != nil && j.seen[id].rev < kv.ModRevision {
		j.forget(id)
	}
}

func (s *Store) parseSession(kv *mvccpb.KeyValue) (store.SessionID, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(string(kv.Key), s.prefix+sessionPart), 16, 64)
	return store.SessionID(n), err
}

// see takes in that a session's record is at a revision now. What it knows already,
// or better, changes nothing.
func (j *judge) see(id store.SessionID, rev int64, ttl time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if old := j.seen[id]; j.closed || (old != nil && rev <= old.rev) {
		return
	}
	j.forget(id)
	g := &sighting{rev: rev, ttl: int64(ttl), at: j.s.clock.Boot()}
	j.seen[id] = g
	j.arm(id, g, ttl)
}

// forget drops a sighting; mu is held.
func (j *judge) forget(id store.SessionID) {
	if g := j.seen[id]; g != nil {
		g.stop()
		delete(j.seen, id)
	}
}

// arm looks at a sighting again after d; mu is held.
func (j *judge) arm(id store.SessionID, g *sighting, d time.Duration) {
	d = max(d, time.Millisecond)
	began := time.Now() // whatever clock the store goes by: it is this process that may stand still
	g.stop = j.s.clock.AfterFunc(d, func() {
		// Who stood still saw nothing meanwhile, and perhaps etcd stood still with him.
		if late := int64(time.Since(began) - d); late > slow {
			j.s.contact.stoodStill(late)
		}
		j.mu.Lock()
		if j.closed || j.seen[id] != g {
			j.mu.Unlock()
			return
		}
		j.running.Add(1)
		j.mu.Unlock()
		defer j.running.Done()
		again := j.try(id, g)
		j.mu.Lock()
		defer j.mu.Unlock()
		if again > 0 && !j.closed && j.seen[id] == g {
			j.arm(id, g, again)
		}
	})
}

// try ends a session if it is time, and says when to look again; 0: never.
func (j *judge) try(id store.SessionID, g *sighting) time.Duration {
	ctx, cancel := context.WithTimeout(j.s.life, max(time.Duration(g.ttl), attempt))
	defer cancel()
	key := j.s.sessionKey(id)
	// What this store saw may be old news.
	r, err := read(ctx, j.s, func(ctx context.Context) (*clientv3.GetResponse, error) { return j.s.c.Get(ctx, key) })
	retry := time.Duration(g.ttl / 8)
	if err != nil {
		return retry
	}
	if len(r.Kvs) == 0 {
		j.drop(id, g)
		return 0
	}
	if r.Kvs[0].ModRevision != g.rev {
		j.read(r.Kvs[0])
		return 0
	}
	if until := max(g.at+g.ttl, j.s.contact.grace(g.ttl)) - j.s.clock.Boot(); until > 0 {
		return time.Duration(until)
	}
	gone, err := j.s.remove(ctx, id, g.rev)
	switch {
	case err != nil:
		return retry
	case gone:
		j.s.log.Debug("ended a session that was silent", "session", fmt.Sprintf("%016x", uint64(id)), "ttl", time.Duration(g.ttl))
		j.drop(id, g)
		return 0
	}
	return time.Millisecond // it changed at the last moment
}

// drop forgets a sighting of a session that is over.
func (j *judge) drop(id store.SessionID, g *sighting) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.seen[id] == g {
		delete(j.seen, id)
	}
}

// close stops judging.
func (j *judge) close() {
	j.mu.Lock()
	j.closed = true
	for id := range j.seen {
		j.forget(id)
	}
	j.mu.Unlock()
	j.running.Wait()
}
