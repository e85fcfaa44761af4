package meta_test

import (
	"errors"
	"fmt"
	"math/rand"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/meta/store"
	"github.com/mooring-io/mooring/core/meta/store/storetest"
)

func (w *world) acquire(s *meta.Session, a meta.Acquire) []meta.Lease {
	w.Helper()
	out, err := w.AcquireExtents(w.ctx, s, a)
	w.must(err)
	return out
}

func TestSessionDeadline(t *testing.T) {
	w := newWorld(t)
	s := w.node("a")
	// time before the keep-alive was sent + TTL - margin
	if want := int64(1*time.Second + ttl - time.Second); s.Deadline() != want {
		t.Fatalf("deadline %d, want %d", s.Deadline(), want)
	}
	w.clock.Advance(time.Second)
	w.must(s.KeepAlive(w.ctx))
	if want := int64(2*time.Second + ttl - time.Second); s.Deadline() != want {
		t.Fatalf("deadline %d after a keep-alive, want %d", s.Deadline(), want)
	}
	// A machine that slept past the TTL: nothing is served, although no timer fired.
	w.clock.Suspend(2 * ttl)
	if w.clock.Boot() < s.Deadline() {
		t.Fatal("the deadline is still ahead")
	}
	w.is(s.KeepAlive(w.ctx), meta.ErrSessionExpired)
	<-s.Lost()
	if s.Deadline() != 0 {
		t.Fatalf("an expired session may be used until %d", s.Deadline())
	}
	_, err := w.AcquireExtents(w.ctx, s, meta.Acquire{Volume: w.volume("v", gib).ID, Count: 1})
	w.is(err, meta.ErrSessionExpired)
}

// The session keeps itself alive, without being called.
func TestSessionKeepsItself(t *testing.T) {
	w := newWorld(t)
	s := w.node("a")
	first := s.Deadline()
	for w.clock.Timers() < 2 { // the store's, and that of the session's goroutine
		runtime.Gosched()
	}
	w.clock.Advance(ttl / 2)
	for s.Deadline() == first {
		runtime.Gosched()
	}
	select {
	case <-s.Lost():
		t.Fatal("the session was lost")
	default:
	}
}

func TestFormerSessionOfNodeEnds(t *testing.T) {
	w := newWorld(t)
	v := w.volume("v", gib)
	old := w.node("a")
	before := w.acquire(old, meta.Acquire{Volume: v.ID, Count: 4})
	next := w.session(old.Node())
	after := w.acquire(next, meta.Acquire{Volume: v.ID, Count: 4})
	for i := range after {
		if after[i].Generation != before[i].Generation+1 {
			t.Fatalf("extent %d: %+v after %+v", i, after[i], before[i])
		}
	}
	_, err := w.AcquireExtents(w.ctx, old, meta.Acquire{Volume: v.ID, Count: 1})
	w.is(err, meta.ErrSessionExpired)
}

func TestLeases(t *testing.T) { checkLeases(t, newWorld(t)) }

func checkLeases(t *testing.T, w *world) {
	a, b := w.node("a"), w.node("b")
	sa := w.store(a, "main")
	v := w.volume("v", 100*gib) // 400 extents: two keys
	all := meta.Acquire{Volume: v.ID, Count: 400}
	got := w.acquire(a, all)
	if len(got) != 400 || got[399].Index != 399 || got[0].Generation != 1 || got[0].Set != nil {
		t.Fatalf("first leases: %+v … %+v", got[0], got[399])
	}
	if again := w.acquire(a, all); !slices.EqualFunc(again, got, func(x, y meta.Lease) bool { return x.Generation == y.Generation }) {
		t.Fatal("confirming leases changed generations")
	}
	one := w.acquire(a, meta.Acquire{Volume: v.ID, From: 300, Count: 1, Allocate: true})[0]
	if one.Generation != 2 || !slices.Equal(one.Set, []meta.Member{{Store: sa.ID, Incarnation: 1}}) {
		t.Fatalf("allocated: %+v", one)
	}
	_, err := w.AcquireExtents(w.ctx, b, meta.Acquire{Volume: v.ID, From: 300, Count: 1})
	var held *meta.HeldError
	if !errors.As(err, &held) || held.Owner.Node != a.Node() || held.Index != 300 || !errors.Is(err, meta.ErrConflict) {
		t.Fatalf("got %v, want the owner named", err)
	}
	w.must(w.ReleaseExtents(w.ctx, a, v.ID, 300, 1))
	w.must(w.ReleaseExtents(w.ctx, a, v.ID, 300, 1))
	taken := w.acquire(b, meta.Acquire{Volume: v.ID, From: 300, Count: 1})[0]
	if taken.Generation <= one.Generation || !slices.Equal(taken.Set, one.Set) {
		t.Fatalf("taken over: %+v after %+v", taken, one)
	}
	_, err = w.AcquireExtents(w.ctx, b, meta.Acquire{Volume: uuid.New(), Count: 1})
	w.is(err, meta.ErrNotFound)
	_, err = w.AcquireExtents(w.ctx, b, meta.Acquire{Volume: v.ID, From: 1<<32 - 1, Count: 2})
	w.is(err, meta.ErrInvalid)
}

// A node that is gone loses its leases by its session's end alone.
func TestLeasesPassOnWhenSessionExpires(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a"), w.node("b")
	v := w.volume("v", gib)
	w.acquire(a, meta.Acquire{Volume: v.ID, Count: 4})
	w.must(a.Close(w.ctx))
	if got := w.acquire(b, meta.Acquire{Volume: v.ID, Count: 4}); got[0].Generation != 2 {
		t.Fatalf("taken over: %+v", got[0])
	}
}

func TestStoreRestart(t *testing.T) {
	w := newWorld(t)
	a := w.node("a")
	st := w.store(a, "main")
	v := w.volume("v", gib)
	one := w.acquire(a, meta.Acquire{Volume: v.ID, Count: 1, Allocate: true})[0]
	next := w.session(a.Node())
	again, lost, err := w.StartStore(w.ctx, next, meta.StoreStart{ID: st.ID, Name: "main", BootID: "boot-1"})
	w.must(err)
	if again.Incarnation != st.Incarnation+1 || len(lost) != 0 {
		t.Fatalf("restarted: %+v, lost %v", again, lost)
	}
	got := w.acquire(next, meta.Acquire{Volume: v.ID, Count: 1})[0]
	if got.Generation != one.Generation+1 || got.Set[0].Incarnation != again.Incarnation {
		t.Fatalf("after the restart: %+v, before %+v", got, one)
	}
}

// A store counts its own lives; an older copy of its disk is refused.
func TestStoreCountsItsLives(t *testing.T) {
	w := newWorld(t)
	s := w.node("a")
	o := meta.StoreStart{ID: uuid.New(), Incarnation: 5, Name: "main", BootID: "one"}
	for range 2 { // the same request, repeated
		st, _, err := w.StartStore(w.ctx, s, o)
		w.must(err)
		if st.Incarnation != 5 {
			t.Fatalf("%+v", st)
		}
	}
	o.BootID = "two"
	_, _, err := w.StartStore(w.ctx, s, o)
	w.is(err, meta.ErrConflict)
	o.Incarnation = 4
	_, _, err = w.StartStore(w.ctx, s, o)
	w.is(err, meta.ErrConflict)
	o.Incarnation = 9
	_, _, err = w.StartStore(w.ctx, s, o)
	w.must(err)
}

// Unflushed writes can be lost when the machine loses power, and only then.
func TestLosses(t *testing.T) {
	w := newWorld(t)
	s := w.node("a")
	id := uuid.New()
	vol := func(name string, d meta.Durability) meta.Volume {
		v, err := w.CreateVolume(w.ctx, meta.Volume{Name: name, Bytes: gib, Durability: d})
		w.must(err)
		return v
	}
	start := func(boot string) []meta.Volume {
		t.Helper()
		_, lost, err := w.StartStore(w.ctx, s, meta.StoreStart{ID: id, Name: "main", BootID: boot})
		w.must(err)
		return lost
	}
	start("one")
	sync, volatile := vol("sync", meta.Sync), vol("volatile", meta.Volatile)
	vol("empty", meta.Volatile)
	for _, v := range []meta.Volume{sync, volatile} {
		w.acquire(s, meta.Acquire{Volume: v.ID, Count: 1, Allocate: true})
	}
	if lost := start("one"); len(lost) != 0 {
		t.Fatalf("a process died: %v", lost)
	}
	if lost := start("two"); len(lost) != 1 || lost[0].ID != volatile.ID {
		t.Fatalf("power was lost: %v", lost)
	}
	if v, err := w.Volume(w.ctx, volatile.ID); err != nil || v.Losses != 1 {
		t.Fatalf("%+v, %v", v, err)
	}
	st, err := w.ExtentStore(w.ctx, id)
	w.must(err)
	w.must(w.StopStore(w.ctx, id, st.Incarnation))
	if lost := start("three"); len(lost) != 0 {
		t.Fatalf("an orderly shutdown: %v", lost)
	}
}

func TestFreeExtents(t *testing.T) { checkFreeExtents(t, newWorld(t)) }

func checkFreeExtents(t *testing.T, w *world) {
	s := w.node("a")
	st := w.store(s, "main")
	v := w.volume("v", 100*gib)
	before := w.acquire(s, meta.Acquire{Volume: v.ID, Count: 400, Allocate: true})
	w.is(w.RemoveStore(w.ctx, st.ID), meta.ErrConflict)
	w.must(w.SetStoreState(w.ctx, st.ID, meta.StoreDraining, "asked for"))
	w.is(w.RemoveStore(w.ctx, st.ID), meta.ErrInUse)
	_, err := w.AcquireExtents(w.ctx, s, meta.Acquire{Volume: w.volume("w", gib).ID, Count: 1, Allocate: true})
	w.is(err, meta.ErrNoStore)
	for range 2 {
		w.must(w.FreeExtents(w.ctx, s, v.ID, 10))
	}
	use, err := w.StoreUse(w.ctx)
	w.must(err)
	if use[st.ID] != 10 {
		t.Fatalf("%d extents are left", use[st.ID])
	}
	after := w.acquire(s, meta.Acquire{Volume: v.ID, Count: 400})
	for i, l := range after {
		if want := before[i].Generation + meta.Generation(min(i/10, 1)); l.Generation != want || (l.Set == nil) != (i >= 10) {
			t.Fatalf("extent %d: %+v, want generation %d", i, l, want)
		}
	}
	w.must(w.FreeExtents(w.ctx, s, v.ID, 0))
	w.must(w.RemoveStore(w.ctx, st.ID))
	w.must(w.RemoveStore(w.ctx, st.ID))
}

func TestChangeSet(t *testing.T) { checkChangeSet(t, newWorld(t)) }

func checkChangeSet(t *testing.T, w *world) {
	a, b := w.node("a"), w.node("b")
	sa, sb := w.store(a, "main"), w.store(b, "main")
	other := w.store(a, "other")
	v := w.volume("v", gib)
	l := w.acquire(a, meta.Acquire{Volume: v.ID, Count: 1, Allocate: true, Avoid: []uuid.UUID{other.ID}})[0]
	ma, mb, mo := meta.Member{Store: sa.ID, Incarnation: 1}, meta.Member{Store: sb.ID, Incarnation: 1}, meta.Member{Store: other.ID, Incarnation: 1}
	change := func(s *meta.Session, c meta.SetChange) (meta.Generation, error) {
		c.Volume = v.ID
		return w.ChangeSet(w.ctx, s, c)
	}
	grow := meta.SetChange{Generation: l.Generation, Set: []meta.Member{ma}, Next: []meta.Member{ma, mb}}
	_, err := change(b, grow)
	w.is(err, meta.ErrConflict) // not the owner
	for range 2 {               // the same request, repeated
		g, err := change(a, grow)
		w.must(err)
		if g != l.Generation+1 {
			t.Fatalf("generation %d after %d", g, l.Generation)
		}
	}
	g := l.Generation + 1
	for _, c := range []struct {
		want error
		meta.SetChange
	}{
		{meta.ErrConflict, meta.SetChange{Generation: g - 1, Set: []meta.Member{ma, mb}, Next: []meta.Member{ma}}},
		{meta.ErrConflict, meta.SetChange{Generation: g, Set: []meta.Member{ma}, Next: []meta.Member{ma}}},
		{meta.ErrInvalid, meta.SetChange{Generation: g, Set: []meta.Member{ma, mb}}},
		{meta.ErrInvalid, meta.SetChange{Generation: g, Set: []meta.Member{ma, mb}, Next: []meta.Member{mo}}},
		{meta.ErrInvalid, meta.SetChange{Generation: g, Set: []meta.Member{ma, mb}, Next: []meta.Member{{Store: sa.ID, Incarnation: 2}}}},
		{meta.ErrInvalid, meta.SetChange{Generation: g, Set: []meta.Member{ma, mb}, Next: []meta.Member{ma, ma}}},
		{meta.ErrInvalid, meta.SetChange{Generation: g, Set: []meta.Member{ma, mb}, Next: []meta.Member{ma, mo}}}, // one node
		{meta.ErrNotFound, meta.SetChange{Generation: g, Set: []meta.Member{ma, mb}, Next: []meta.Member{ma, {Store: uuid.New()}}}},
		{nil, meta.SetChange{Generation: g, Set: []meta.Member{ma, mb}, Next: []meta.Member{mb}}},
		{nil, meta.SetChange{Generation: g + 1, Set: []meta.Member{mb}, Next: []meta.Member{mo}, Force: true}},
		{meta.ErrInvalid, meta.SetChange{Generation: g + 2, Set: []meta.Member{mo}, Next: []meta.Member{ma}, Joined: []meta.Member{mb}}},
		{nil, meta.SetChange{Generation: g + 2, Set: []meta.Member{mo}, Next: []meta.Member{ma}, Joined: []meta.Member{ma}}},
	} {
		_, err := change(a, c.SetChange)
		w.is(err, c.want)
	}
}

// Any history of sessions that come, go, take, give up, allocate and free, with
// answers of the store lost on the way, keeps these: the generation of an extent
// grows with every change of its owner or set and never otherwise, and no two live
// sessions own it.
func TestLeaseProperties(t *testing.T) {
	w := newWorld(t)
	rnd := rand.New(rand.NewSource(storetest.Seed(t)))
	v := w.volume("v", 150*gib) // 600 extents, 3 keys
	const extents = 600
	sessions := make([]*meta.Session, 3)
	for i := range sessions {
		sessions[i] = w.node(fmt.Sprintf("n%d", i))
		w.store(sessions[i], "main")
	}
	lost := errors.New("answer lost")
	owners := map[uint32]*meta.Session{} // who was told that it owns, and has not given up since
	last := map[uint32]meta.Extent{}
	check := func() {
		t.Helper()
		w.must(w.Extents(w.ctx, v.ID, func(i uint32, e meta.Extent) error {
			old := last[i]
			changed := e.Owner != old.Owner || !slices.Equal(e.Set, old.Set)
			if e.Generation < old.Generation || changed != (e.Generation > old.Generation) {
				t.Fatalf("extent %d went from %+v to %+v", i, old, e)
			}
			if s := owners[i]; s != nil && e.Owner != s.ID() {
				t.Fatalf("extent %d is owned by session %d, but %d was told that it owns it", i, e.Owner, s.ID())
			}
			last[i] = e
			return nil
		}))
	}
	retry := func(fn func() error) error {
		for {
			if err := fn(); !errors.Is(err, lost) {
				return err
			}
		}
	}
	w.fault = func(store.Txn) (bool, error) {
		if rnd.Intn(10) == 0 {
			return rnd.Intn(2) == 0, lost
		}
		return false, nil
	}
	for range 400 {
		n := rnd.Intn(len(sessions))
		s := sessions[n]
		from := uint32(rnd.Intn(extents))
		count := uint32(1 + rnd.Intn(min(40, extents-int(from))))
		if rnd.Intn(8) == 0 {
			count = extents - from
		}
		switch rnd.Intn(12) {
		case 0: // the node dies and comes back
			fault := w.fault
			w.fault = nil
			sessions[n] = w.session(s.Node())
			w.store(sessions[n], "main")
			w.fault = fault
			for i, o := range owners {
				if o == s {
					delete(owners, i)
				}
			}
		case 1, 2, 3:
			for i := from; i < from+count; i++ {
				if owners[i] == s {
					delete(owners, i)
				}
			}
			w.must(retry(func() error { return w.ReleaseExtents(w.ctx, s, v.ID, from, count) }))
		case 4:
			err := retry(func() error { return w.FreeExtents(w.ctx, s, v.ID, from) })
			if !errors.Is(err, meta.ErrConflict) {
				w.must(err)
			}
		default:
			a := meta.Acquire{Volume: v.ID, From: from, Count: count, Allocate: rnd.Intn(3) == 0}
			err := retry(func() error {
				got, err := w.AcquireExtents(w.ctx, s, a)
				for _, l := range got {
					if o := owners[l.Index]; o != nil && o != s {
						t.Fatalf("extent %d is owned by session %d and now by %d", l.Index, o.ID(), s.ID())
					}
					owners[l.Index] = s
				}
				return err
			})
			if !errors.Is(err, meta.ErrConflict) {
				w.must(err)
			}
		}
		check()
	}
	w.fault = nil
}

// A tentative placement is nobody's before it is confirmed: a new owner takes the
// extent for not allocated, a confirmed one it takes over.
func TestTentativeExtents(t *testing.T) { checkTentativeExtents(t, newWorld(t)) }

func checkTentativeExtents(t *testing.T, w *world) {
	s, v := w.node("a"), w.volume("v", 1<<30)
	w.store(s, "main")
	want := meta.Acquire{Volume: v.ID, Count: 2, Allocate: true, Tentative: true}
	got, err := w.AcquireExtents(w.ctx, s, want)
	w.must(err)
	again, err := w.AcquireExtents(w.ctx, s, want)
	w.must(err)
	if len(got) != 2 || got[0].Set[0].Incarnation != 0 || again[0].Generation != got[0].Generation {
		t.Fatalf("placed %+v, then %+v", got, again)
	}
	for range 2 { // the second time its answer was lost
		l, err := w.ConfirmExtent(w.ctx, s, v.ID, 0, got[0].Generation)
		w.must(err)
		if l.Generation != got[0].Generation+1 || l.Set[0].Incarnation == 0 {
			t.Fatalf("confirmed as %+v", l)
		}
	}
	if _, err := w.ConfirmExtent(w.ctx, s, v.ID, 1, got[1].Generation+1); !errors.Is(err, meta.ErrConflict) {
		t.Fatalf("confirming another generation: %v", err)
	}
	w.must(s.Close(w.ctx))
	next := w.session(s.Node())
	got, err = w.AcquireExtents(w.ctx, next, meta.Acquire{Volume: v.ID, Count: 2})
	w.must(err)
	if len(got[0].Set) != 1 || got[1].Set != nil {
		t.Fatalf("a new owner finds %+v", got)
	}
}

// A host is told of each loss once, over all lives of the core; one that comes after
// a loss has lost nothing by it.
func TestLossTold(t *testing.T) {
	w := newWorld(t)
	w.node("a")
	v := w.volume("v", 1<<30)
	old, late := meta.HostID{Protocol: meta.NVMe, Name: "old"}, meta.HostID{Protocol: meta.NVMe, Name: "late"}
	told := func(h meta.HostID, want uint64) {
		t.Helper()
		if got, err := w.LossTold(w.ctx, v.ID, h); err != nil || got != want {
			t.Errorf("%s was told of %d losses, %v; want %d", h.Name, got, err, want)
		}
	}
	told(old, 0)
	w.must(w.RecordLoss(w.ctx, v.ID))
	told(old, 0)
	told(late, 1)
	w.must(w.SetLossTold(w.ctx, v.ID, old, 1))
	told(old, 1)
	w.must(w.SetLossTold(w.ctx, v.ID, old, 0)) // an answer that comes late
	told(old, 1)
}
