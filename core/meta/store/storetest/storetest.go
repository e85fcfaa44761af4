// Package storetest is the contract of store.Store as a test suite. Every engine
// runs it; what it does not ask for, Meta does not rely on.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mooring-io/mooring/core/meta/store"
)

// Engine is what a test of an engine supplies.
type Engine struct {
	// Open returns an empty store; the suite closes it.
	Open func(t *testing.T) store.Store
	// Advance lets time pass for sessions: by hand where the clock is injected, by
	// waiting where it is not.
	Advance func(d time.Duration)
	TTL     time.Duration // of the sessions that the suite makes
}

// Run runs the suite; open makes one Engine for each test.
func Run(t *testing.T, open func(t *testing.T) Engine) {
	for _, c := range []struct {
		name string
		fn   func(t *testing.T, f *fixture)
	}{
		{"get of an absent key", testAbsent},
		{"put, get and delete", testPutGetDelete},
		{"revisions grow", testRevisions},
		{"conditions are all or nothing", testConditions},
		{"malformed transactions are refused", testMalformed},
		{"range is ordered and bounded by its prefix", testRange},
		{"range ends with the error of its function", testRangeError},
		{"values belong to the caller", testAliasing},
		{"watch hints at every change", testWatch},
		{"watch ends", testWatchEnds},
		{"session keys vanish with it", testSession},
		{"a key changes hands between sessions", testSessionHandover},
		{"an expired session is over for good", testSessionExpired},
		{"increments by many writers are not lost", testContention},
		{"backup and restore", testBackup},
		{"a damaged backup is refused", testBackupDamage},
		{"random history agrees with a model", testModel},
		{"a closed store says so", testClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := open(t)
			f := &fixture{T: t, Engine: e, open: open, ctx: t.Context(), s: e.Open(t)}
			t.Cleanup(func() { f.must(f.s.Close()) })
			c.fn(t, f)
		})
	}
}

type fixture struct {
	*testing.T
	Engine
	open func(t *testing.T) Engine
	ctx  context.Context
	s    store.Store
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) is(err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Fatalf("got error %v, want %v", err, want)
	}
}

func (f *fixture) put(key, value string) store.Revision {
	f.Helper()
	rev, err := f.s.Commit(f.ctx, store.Txn{Put: []store.Put{{Key: key, Value: []byte(value)}}})
	f.must(err)
	return rev
}

func (f *fixture) get(key string) store.KV {
	f.Helper()
	kv, err := f.s.Get(f.ctx, key)
	f.must(err)
	return kv
}

func (f *fixture) absent(key string) {
	f.Helper()
	_, err := f.s.Get(f.ctx, key)
	f.is(err, store.ErrNotFound)
}

func (f *fixture) all(s store.Store, prefix string) map[string]string {
	f.Helper()
	out := map[string]string{}
	f.must(s.Range(f.ctx, prefix, func(kv store.KV) error { out[kv.Key] = string(kv.Value); return nil }))
	return out
}

func testAbsent(_ *testing.T, f *fixture) {
	f.absent("a")
	_, err := f.s.Commit(f.ctx, store.Txn{Delete: []string{"a"}})
	f.must(err)
}

func testPutGetDelete(t *testing.T, f *fixture) {
	rev := f.put("a", "1")
	if kv := f.get("a"); kv.Key != "a" || string(kv.Value) != "1" || kv.Revision != rev || kv.Session != 0 {
		t.Fatalf("got %+v, want value 1 at revision %d", kv, rev)
	}
	f.put("a", "") // an empty value is a value
	if kv := f.get("a"); len(kv.Value) != 0 {
		t.Fatalf("got %q, want an empty value", kv.Value)
	}
	_, err := f.s.Commit(f.ctx, store.Txn{Delete: []string{"a"}})
	f.must(err)
	f.absent("a")
}

func testRevisions(t *testing.T, f *fixture) {
	var last store.Revision
	for i := range 10 {
		rev := f.put(fmt.Sprintf("k%d", i%3), "v")
		if rev <= last {
			t.Fatalf("revision %d came after %d", rev, last)
		}
		last = rev
	}
	_, err := f.s.Commit(f.ctx, store.Txn{Delete: []string{"k0"}})
	f.must(err)
	if rev := f.put("k0", "again"); rev <= last { // deleted and made again is not the same key
		t.Fatalf("revision %d came after %d", rev, last)
	}
	rev, err := f.s.Commit(f.ctx, store.Txn{Put: []store.Put{{Key: "x"}, {Key: "y"}}})
	f.must(err)
	if f.get("x").Revision != rev || f.get("y").Revision != rev {
		t.Fatal("keys of one transaction have different revisions")
	}
}

func testConditions(t *testing.T, f *fixture) {
	a := f.put("a", "1")
	try := func(want error, conds ...store.Cond) {
		t.Helper()
		_, err := f.s.Commit(f.ctx, store.Txn{If: conds, Put: []store.Put{{Key: "b", Value: []byte("1")}}, Delete: []string{"c"}})
		f.is(err, want)
	}
	f.put("c", "1")
	try(store.ErrConflict, store.Cond{Key: "a"})
	try(store.ErrConflict, store.Cond{Key: "a", Revision: a + 1000})
	try(store.ErrConflict, store.Cond{Key: "a", Revision: a}, store.Cond{Key: "z", Revision: 1})
	f.absent("b")
	f.get("c")
	try(nil, store.Cond{Key: "a", Revision: a}, store.Cond{Key: "z"})
	f.get("b")
	f.absent("c")
	if _, err := f.s.Commit(f.ctx, store.Txn{If: []store.Cond{{Key: "a", Revision: a}}}); err != nil {
		t.Fatalf("a transaction of conditions alone: %v", err)
	}
}

func testMalformed(_ *testing.T, f *fixture) {
	many := func(n int) (t store.Txn) {
		for i := range n {
			t.Put = append(t.Put, store.Put{Key: fmt.Sprintf("m%03d", i)})
		}
		return t
	}
	commit := func(t store.Txn) error { _, err := f.s.Commit(f.ctx, t); return err }
	f.must(commit(many(store.MaxOps)))
	f.is(commit(many(store.MaxOps+1)), store.ErrInvalid)
	f.is(commit(store.Txn{Put: []store.Put{{Key: "a"}, {Key: "a"}}}), store.ErrInvalid)
	f.is(commit(store.Txn{Put: []store.Put{{Key: "a"}}, Delete: []string{"a"}}), store.ErrInvalid)
	f.is(commit(store.Txn{Put: []store.Put{{Key: ""}}}), store.ErrInvalid)
	f.is(commit(store.Txn{Put: []store.Put{{Key: strings.Repeat("k", store.MaxKey+1)}}}), store.ErrInvalid)
	f.is(commit(store.Txn{Put: []store.Put{{Key: "a", Value: make([]byte, store.MaxBytes)}}}), store.ErrInvalid)
	f.must(commit(store.Txn{Put: []store.Put{{Key: "big", Value: make([]byte, store.MaxBytes-3)}}}))
	if n := len(f.get("big").Value); n != store.MaxBytes-3 {
		f.Fatalf("the biggest value came back with %d bytes", n)
	}
	f.absent("a")
}

func testRange(t *testing.T, f *fixture) {
	for _, k := range []string{"a/2", "a/1", "a/10", "a", "b/1", "a0", "a/\xff"} {
		f.put(k, k)
	}
	var keys []string
	f.must(f.s.Range(f.ctx, "a/", func(kv store.KV) error { keys = append(keys, kv.Key); return nil }))
	if want := []string{"a/1", "a/10", "a/2", "a/\xff"}; !slices.Equal(keys, want) {
		t.Fatalf("got %q, want %q", keys, want)
	}
	if n := len(f.all(f.s, "")); n != 7 {
		t.Fatalf("an empty prefix gave %d keys, want all 7", n)
	}
	// One revision: what is written meanwhile is not seen.
	f.must(f.s.Range(f.ctx, "a/", func(kv store.KV) error {
		if kv.Key == "a/3" {
			t.Error("range saw a key that was written after it began")
		}
		f.put("a/3", "late")
		return nil
	}))
}

func testRangeError(_ *testing.T, f *fixture) {
	f.put("a", "1")
	f.put("b", "1")
	stop := errors.New("stop")
	n := 0
	f.is(f.s.Range(f.ctx, "", func(store.KV) error { n++; return stop }), stop)
	if n != 1 {
		f.Fatalf("called %d times after an error", n)
	}
}

func testAliasing(t *testing.T, f *fixture) {
	v := []byte("one")
	_, err := f.s.Commit(f.ctx, store.Txn{Put: []store.Put{{Key: "a", Value: v}}})
	f.must(err)
	v[0] = 'X'
	got := f.get("a")
	got.Value[1] = 'X'
	f.must(f.s.Range(f.ctx, "a", func(kv store.KV) error { kv.Value[2] = 'X'; return nil }))
	if s := string(f.get("a").Value); s != "one" {
		t.Fatalf("the store's value changed to %q", s)
	}
}

// await returns when the watch has hinted at key.
func (f *fixture) await(w <-chan store.Hint, key string) {
	f.Helper()
	late := time.NewTimer(20 * time.Second)
	defer late.Stop()
	for {
		select {
		case h, ok := <-w:
			if !ok {
				f.Fatal("the watch ended")
			}
			if len(h.Keys) == 0 || slices.Contains(h.Keys, key) {
				return
			}
		case <-late.C:
			f.Fatalf("no hint at %q", key)
		}
	}
}

func testWatch(t *testing.T, f *fixture) {
	f.put("w/0", "before")
	w := f.s.Watch(f.ctx, "w/")
	if h := <-w; len(h.Keys) != 0 {
		t.Fatalf("the first hint is %q, want one without keys", h.Keys)
	}
	f.put("x/1", "elsewhere")
	f.put("w/1", "1")
	f.await(w, "w/1")
	_, err := f.s.Commit(f.ctx, store.Txn{Delete: []string{"w/1"}})
	f.must(err)
	f.await(w, "w/1")
	// Far more than a watch remembers, while nobody listens.
	for i := range 3 * store.MaxOps {
		f.put(fmt.Sprintf("w/many%d", i), "1")
	}
	f.await(w, fmt.Sprintf("w/many%d", 3*store.MaxOps-1))
	s, err := f.s.NewSession(f.ctx, f.TTL)
	f.must(err)
	_, err = f.s.Commit(f.ctx, store.Txn{Put: []store.Put{{Key: "w/bound", Session: s.ID()}}})
	f.must(err)
	f.await(w, "w/bound")
	f.must(s.End(f.ctx))
	f.await(w, "w/bound")
}

func testWatchEnds(_ *testing.T, f *fixture) {
	ctx, cancel := context.WithCancel(f.ctx)
	w := f.s.Watch(ctx, "")
	cancel()
	for range w { //nolint:revive // until it is closed
	}
	open := f.s.Watch(f.ctx, "") // nobody receives: Close must not wait for it
	f.must(f.s.Close())
	for range open { //nolint:revive // until it is closed
	}
}

func testSession(t *testing.T, f *fixture) {
	s, err := f.s.NewSession(f.ctx, f.TTL)
	f.must(err)
	if s.ID() == 0 || s.TTL() < f.TTL {
		t.Fatalf("session %d with a TTL of %v, asked for %v", s.ID(), s.TTL(), f.TTL)
	}
	_, err = f.s.Commit(f.ctx, store.Txn{Put: []store.Put{{Key: "s/1", Session: s.ID()}, {Key: "s/2", Session: s.ID()}, {Key: "s/free"}}})
	f.must(err)
	if kv := f.get("s/1"); kv.Session != s.ID() {
		t.Fatalf("the key is bound to session %d, want %d", kv.Session, s.ID())
	}
	// Kept alive, it outlives its TTL.
	for range 4 {
		f.Advance(s.TTL() / 2)
		f.must(s.KeepAlive(f.ctx))
	}
	f.get("s/1")
	// A key written again without a session stays.
	f.put("s/2", "mine now")
	f.Advance(2 * s.TTL())
	f.eventuallyAbsent("s/1")
	f.get("s/2")
	f.get("s/free")
	// The condition sees it gone, too.
	_, err = f.s.Commit(f.ctx, store.Txn{If: []store.Cond{{Key: "s/1"}}})
	f.must(err)
}

// eventuallyAbsent waits for an engine whose expiry is not exact.
func (f *fixture) eventuallyAbsent(key string) {
	f.Helper()
	for range 100 {
		if _, err := f.s.Get(f.ctx, key); errors.Is(err, store.ErrNotFound) {
			return
		}
		f.Advance(f.TTL / 2)
	}
	f.Fatalf("key %q of an expired session is still there", key)
}

func testSessionHandover(_ *testing.T, f *fixture) {
	a, err := f.s.NewSession(f.ctx, f.TTL)
	f.must(err)
	b, err := f.s.NewSession(f.ctx, f.TTL)
	f.must(err)
	put := func(s store.Session) {
		f.Helper()
		_, err := f.s.Commit(f.ctx, store.Txn{Put: []store.Put{{Key: "k", Session: s.ID()}}})
		f.must(err)
	}
	put(a)
	put(b)
	f.must(a.End(f.ctx))
	f.must(a.End(f.ctx))
	f.get("k")
	f.must(b.End(f.ctx))
	f.absent("k")
}

func testSessionExpired(_ *testing.T, f *fixture) {
	s, err := f.s.NewSession(f.ctx, f.TTL)
	f.must(err)
	f.must(s.End(f.ctx))
	f.is(s.KeepAlive(f.ctx), store.ErrSessionExpired)
	_, err = f.s.Commit(f.ctx, store.Txn{Put: []store.Put{{Key: "k", Session: s.ID()}, {Key: "free"}}})
	f.is(err, store.ErrSessionExpired)
	f.absent("free")
}

func testContention(t *testing.T, f *fixture) {
	const writers, each = 8, 15
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for n := 0; n < each; {
				kv, err := f.s.Get(f.ctx, "n")
				if err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Error(err)
					return
				}
				v, _ := strconv.Atoi(string(kv.Value))
				_, err = f.s.Commit(f.ctx, store.Txn{
					If:  []store.Cond{{Key: "n", Revision: kv.Revision}},
					Put: []store.Put{{Key: "n", Value: []byte(strconv.Itoa(v + 1))}},
				})
				switch {
				case err == nil:
					n++
				case !errors.Is(err, store.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got := string(f.get("n").Value); got != strconv.Itoa(writers*each) {
		t.Fatalf("counted %s, want %d", got, writers*each)
	}
}

func (f *fixture) backup() []byte {
	f.Helper()
	var b bytes.Buffer
	f.must(f.s.Backup(f.ctx, &b))
	return b.Bytes()
}

// second opens another, empty store.
func (f *fixture) second() store.Store {
	f.Helper()
	s := f.open(f.T).Open(f.T)
	f.Cleanup(func() { f.must(s.Close()) })
	return s
}

func testBackup(t *testing.T, f *fixture) {
	for i := range 300 {
		f.put(fmt.Sprintf("k/%d", i), strings.Repeat("v", i))
	}
	want := f.all(f.s, "")
	s, err := f.s.NewSession(f.ctx, f.TTL)
	f.must(err)
	_, err = f.s.Commit(f.ctx, store.Txn{Put: []store.Put{{Key: "bound", Session: s.ID()}}})
	f.must(err)
	b := f.backup()
	n, err := store.VerifyBackup(f.ctx, bytes.NewReader(b))
	f.must(err)
	if n != len(want) {
		t.Fatalf("the backup has %d keys, want %d", n, len(want))
	}
	o := f.second()
	f.must(o.Restore(f.ctx, bytes.NewReader(b)))
	if got := f.all(o, ""); !maps.Equal(got, want) {
		t.Fatalf("restored %d keys that differ from the %d backed up", len(got), len(want))
	}
	f.is(o.Restore(f.ctx, bytes.NewReader(b)), store.ErrNotEmpty)
	// It can be written on as usual.
	kv, err := o.Get(f.ctx, "k/7")
	f.must(err)
	rev, err := o.Commit(f.ctx, store.Txn{If: []store.Cond{{Key: "k/7", Revision: kv.Revision}}, Put: []store.Put{{Key: "k/7"}}})
	f.must(err)
	if rev <= kv.Revision {
		t.Fatalf("revision %d came after %d", rev, kv.Revision)
	}
}

func testBackupDamage(t *testing.T, f *fixture) {
	f.put("a", "one")
	f.put("b", "two")
	b := f.backup()
	for i := range b {
		if _, err := store.VerifyBackup(f.ctx, bytes.NewReader(b[:i])); !errors.Is(err, store.ErrBadBackup) {
			t.Fatalf("cut to %d bytes: got %v, want ErrBadBackup", i, err)
		}
		c := slices.Clone(b)
		c[i] ^= 0x10
		if _, err := store.VerifyBackup(f.ctx, bytes.NewReader(c)); !errors.Is(err, store.ErrBadBackup) {
			t.Fatalf("byte %d changed: got %v, want ErrBadBackup", i, err)
		}
	}
	f.is(f.second().Restore(f.ctx, bytes.NewReader(b[:len(b)-1])), store.ErrBadBackup)
}

// Seed returns SEED from the environment or a fresh one, and logs it.
func Seed(t testing.TB) int64 {
	seed := time.Now().UnixNano()
	if v := os.Getenv("SEED"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			t.Fatalf("SEED=%s: %v", v, err)
		}
		seed = n
	}
	t.Logf("SEED=%d", seed)
	return seed
}

// testModel compares a random history with a map.
func testModel(t *testing.T, f *fixture) {
	rnd := rand.New(rand.NewSource(Seed(t)))
	model := map[string]store.KV{}
	key := func() string { return fmt.Sprintf("%c/%d", 'a'+rnd.Intn(3), rnd.Intn(6)) }
	for range 300 {
		var x store.Txn
		used := map[string]bool{}
		holds := true
		for range rnd.Intn(3) {
			k := key()
			c := store.Cond{Key: k, Revision: model[k].Revision}
			if rnd.Intn(6) == 0 {
				c.Revision++
				holds = false
			}
			x.If = append(x.If, c)
		}
		for range rnd.Intn(4) {
			k := key()
			if used[k] {
				continue
			}
			used[k] = true
			if rnd.Intn(3) == 0 {
				x.Delete = append(x.Delete, k)
			} else {
				x.Put = append(x.Put, store.Put{Key: k, Value: fmt.Appendf(nil, "%d", rnd.Int63())})
			}
		}
		rev, err := f.s.Commit(f.ctx, x)
		if !holds {
			f.is(err, store.ErrConflict)
			continue
		}
		f.must(err)
		for _, p := range x.Put {
			model[p.Key] = store.KV{Key: p.Key, Value: p.Value, Revision: rev}
		}
		for _, k := range x.Delete {
			delete(model, k)
		}
	}
	n := 0
	f.must(f.s.Range(f.ctx, "", func(kv store.KV) error {
		n++
		if m := model[kv.Key]; string(m.Value) != string(kv.Value) || m.Revision != kv.Revision {
			t.Errorf("key %q: got %q at %d, want %q at %d", kv.Key, kv.Value, kv.Revision, m.Value, m.Revision)
		}
		return nil
	}))
	if n != len(model) {
		t.Fatalf("got %d keys, want %d", n, len(model))
	}
}

func testClosed(_ *testing.T, f *fixture) {
	f.must(f.s.Close())
	_, err := f.s.Get(f.ctx, "a")
	f.is(err, store.ErrClosed)
	_, err = f.s.Commit(f.ctx, store.Txn{Put: []store.Put{{Key: "a"}}})
	f.is(err, store.ErrClosed)
	if _, ok := <-f.s.Watch(f.ctx, ""); ok {
		f.Fatal("a watch of a closed store hinted")
	}
}
