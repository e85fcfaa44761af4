package etcd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/mooring-io/mooring/core/meta/store"
	"github.com/mooring-io/mooring/core/meta/store/etcd"
	"github.com/mooring-io/mooring/core/meta/store/storetest"
	"github.com/mooring-io/mooring/core/quorum/quorumtest"
)

func TestMain(m *testing.M) { quorumtest.VerifyTestMain(m) }

var prefixes atomic.Int64

// prefix is one that no other store of this process has.
func prefix() string { return fmt.Sprintf("test/%d/", prefixes.Add(1)) }

func open(t *testing.T, c *clientv3.Client, prefix string, clock store.Clock) *etcd.Store {
	t.Helper()
	s, err := etcd.Open(t.Context(), etcd.Options{Client: c, Prefix: prefix, Clock: clock, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestContract(t *testing.T) {
	client := quorumtest.Start(t, 1).Client()
	storetest.Run(t, func(*testing.T) storetest.Engine {
		clock := storetest.NewClock()
		return storetest.Engine{
			Open:    func(t *testing.T) store.Store { return open(t, client, prefix(), clock) },
			Advance: clock.Advance,
			TTL:     3 * time.Second,
		}
	})
}

// node is one node's view of a store that several share, with its own clock.
type node struct {
	*etcd.Store
	clock *storetest.Clock
}

func nodes(t *testing.T, c *clientv3.Client, n int) []node {
	p := prefix()
	out := make([]node, n)
	for i := range out {
		out[i].clock = storetest.NewClock()
		out[i].Store = open(t, c, p, out[i].clock)
	}
	return out
}

// bind begins a session with one key.
func (n node) bind(t *testing.T, key string, ttl time.Duration) store.Session {
	t.Helper()
	s, err := n.NewSession(t.Context(), ttl)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Commit(t.Context(), store.Txn{Put: []store.Put{{Key: key, Session: s.ID()}}}); err != nil {
		t.Fatal(err)
	}
	return s
}

// catchUp returns when n has heard of everything that o wrote before: hints come in
// the order of what they hint at.
func (n node) catchUp(t *testing.T, o node) {
	t.Helper()
	hints := n.Watch(t.Context(), "mark")
	<-hints                          // "anything"
	for try := 0; try < 100; try++ { // etcd takes a moment to begin a watch
		if _, err := o.Commit(t.Context(), store.Txn{Put: []store.Put{{Key: "mark"}}}); err != nil {
			t.Fatal(err)
		}
		again := time.After(200 * time.Millisecond)
		for waiting := true; waiting; {
			select {
			case h := <-hints:
				if slices.Contains(h.Keys, "mark") {
					return
				}
			case <-again:
				waiting = false
			}
		}
	}
	t.Fatal("no hint comes")
}

func (n node) has(t *testing.T, key string) bool {
	t.Helper()
	_, err := n.Get(t.Context(), key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

// TestSilentSessionIsEndedByAnother: a holder that says nothing for a TTL by the clock
// of another node is ended there, with its keys, and learns it.
func TestSilentSessionIsEndedByAnother(t *testing.T) {
	n := nodes(t, quorumtest.Start(t, 1).Client(), 2)
	const ttl = 3 * time.Second
	s := n[0].bind(t, "k", ttl)
	n[1].catchUp(t, n[0])
	n[1].clock.Advance(ttl / 2)
	if err := s.KeepAlive(t.Context()); err != nil {
		t.Fatal(err)
	}
	n[1].clock.Advance(ttl / 2) // a TTL since it was first seen, less since it was renewed
	if !n[1].has(t, "k") {
		t.Fatal("a session was ended before its time")
	}
	for left := 20; n[0].has(t, "k"); left-- {
		if left == 0 {
			t.Fatal("a silent session was not ended")
		}
		n[1].clock.Advance(ttl)
	}
	if err := s.KeepAlive(t.Context()); !errors.Is(err, store.ErrSessionExpired) {
		t.Fatalf("its holder hears %v", err)
	}
}

// TestKeepAliveAndEndExcludeEachOther races them: never do both succeed.
func TestKeepAliveAndEndExcludeEachOther(t *testing.T) {
	n := nodes(t, quorumtest.Start(t, 1).Client(), 2)
	ended, kept := 0, 0
	for i := 0; i < 40 || ((ended == 0 || kept == 0) && i < 400); i++ {
		key := fmt.Sprintf("k%d", i)
		s := n[0].bind(t, key, time.Second)
		n[1].catchUp(t, n[0])
		alive := make(chan error)
		go func() {
			for range i % 20 { // now earlier, now later
				_, _ = n[0].Get(t.Context(), key)
			}
			alive <- s.KeepAlive(t.Context())
		}()
		n[1].clock.Advance(time.Second) // judges in here
		err := <-alive
		switch there := n[1].has(t, key); {
		case err == nil && !there:
			t.Fatal("a session that was kept alive is over")
		case err == nil:
			kept++
		case errors.Is(err, store.ErrSessionExpired) && !there:
			ended++
		default:
			t.Fatalf("key there: %v, keep-alive: %v", there, err)
		}
	}
	t.Logf("%d sessions were ended, %d kept", ended, kept)
	if ended == 0 || kept == 0 {
		t.Fatal("this was no race")
	}
}

// TestOutage: while etcd is away, calls wait or say so; when it is back, sessions that
// could not be renewed meanwhile are not ended, whatever the clocks say.
func TestOutage(t *testing.T) {
	c := quorumtest.Start(t, 1)
	n := nodes(t, c.Client(), 2)
	const ttl = 3 * time.Second
	s := n[0].bind(t, "k", ttl)
	n[1].catchUp(t, n[0])
	c.Stop(0)
	briefly := func(fn func(context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := fn(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("without etcd: %v", err)
		}
	}
	briefly(s.KeepAlive)
	briefly(func(ctx context.Context) error { _, err := n[1].Get(ctx, "k"); return err })
	read := make(chan error)
	go func() { _, err := n[1].Get(t.Context(), "k"); read <- err }()
	n[1].clock.Suspend(20 * ttl)
	judged := make(chan struct{})
	go func() { defer close(judged); n[1].clock.Advance(0) }() // waits for etcd
	c.Restart(0)
	<-judged
	if err := <-read; err != nil {
		t.Fatalf("a read that waited for etcd: %v", err)
	}
	n[1].clock.Advance(ttl / 3)
	if err := s.KeepAlive(t.Context()); err != nil {
		t.Fatalf("after an outage a session was ended before its holder could renew it: %v", err)
	}
	if !n[1].has(t, "k") {
		t.Fatal("its key is gone")
	}
	// A request that the clock was moved under looks slow, and earns the session more time.
	for left := 20; n[1].has(t, "k"); left-- {
		if left == 0 {
			t.Fatal("a session that stayed silent after the outage was not ended")
		}
		n[1].clock.Advance(ttl)
	}
}

// TestLeaderChange: the death of etcd's leader costs no session and no write.
func TestLeaderChange(t *testing.T) {
	c := quorumtest.Start(t, 3)
	n := nodes(t, c.Client(), 1)[0]
	s := n.bind(t, "k", 3*time.Second)
	c.Stop(c.Leader())
	for try := 0; ; try++ {
		err := s.KeepAlive(t.Context())
		if err == nil {
			break
		}
		if try == 100 || errors.Is(err, store.ErrSessionExpired) {
			t.Fatal(err)
		}
	}
	if !n.has(t, "k") {
		t.Fatal("its key is gone")
	}
}

// TestRestoreCutShort: half a restore is never taken for a store.
func TestRestoreCutShort(t *testing.T) {
	c := quorumtest.Start(t, 1).Client()
	n := nodes(t, c, 1)[0]
	for i := range 300 {
		if _, err := n.Commit(t.Context(), store.Txn{Put: []store.Put{{Key: fmt.Sprintf("k%d", i)}}}); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := n.Backup(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	p := prefix()
	s := open(t, c, p, nil)
	ctx, cancel := context.WithCancel(t.Context())
	half := io.MultiReader(bytes.NewReader(b.Bytes()[:b.Len()-100]), readerFunc(func([]byte) (int, error) { cancel(); return 0, io.ErrUnexpectedEOF }))
	if err := s.Restore(ctx, half); err == nil {
		t.Fatal("half a backup was restored")
	}
	if _, err := s.Get(t.Context(), "k1"); !errors.Is(err, store.ErrFailed) {
		t.Fatalf("half a store is read: %v", err)
	}
	if _, err := etcd.Open(t.Context(), etcd.Options{Client: c, Prefix: p}); err == nil || !strings.Contains(err.Error(), "cut short") {
		t.Fatalf("half a store is opened: %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// TestFull: without space etcd's refusal has a name.
func TestFull(t *testing.T) {
	c := quorumtest.Start(t, 1).Client()
	n := nodes(t, c, 1)[0]
	_, err := pb.NewMaintenanceClient(c.ActiveConnection()).Alarm(t.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Commit(t.Context(), store.Txn{Put: []store.Put{{Key: "k"}}}); !errors.Is(err, store.ErrFull) {
		t.Fatalf("got %v, want ErrFull", err)
	}
}

// TestManyBoundKeys: a session cannot have more keys than vanish with it at once.
func TestManyBoundKeys(t *testing.T) {
	n := nodes(t, quorumtest.Start(t, 1).Client(), 1)[0]
	s, err := n.NewSession(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for ; ; i++ {
		_, err := n.Commit(t.Context(), store.Txn{Put: []store.Put{{Key: fmt.Sprintf("b%d", i), Session: s.ID()}}})
		if errors.Is(err, store.ErrInvalid) {
			break
		}
		if err != nil || i > 1000 {
			t.Fatal(i, err)
		}
	}
	if err := s.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.Range(t.Context(), "", func(kv store.KV) error { return fmt.Errorf("key %s is left of %d", kv.Key, i) }); err != nil {
		t.Fatal(err)
	}
}
