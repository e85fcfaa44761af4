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

func (w *world) take(s *meta.Session, v meta.Volume) meta.Ownership {
	w.Helper()
	o, err := w.TakeVolume(w.ctx, s, v.ID)
	w.must(err)
	return o
}

// leases are those of the first n extents.
func (w *world) leases(o meta.Ownership, n int) []meta.Lease {
	w.Helper()
	out := make([]meta.Lease, n)
	for i := range out {
		out[i] = meta.Lease{Index: uint32(i), Generation: o.Term}
	}
	w.must(w.Leases(w.ctx, o, func(l meta.Lease) error {
		if int(l.Index) < n {
			out[l.Index] = l
		}
		return nil
	}))
	return out
}

// allocate places and confirms an extent.
func (w *world) allocate(s *meta.Session, v meta.Volume, index uint32, avoid ...uuid.UUID) meta.Lease {
	w.Helper()
	l, err := w.PlaceExtent(w.ctx, s, v.ID, index, avoid)
	w.must(err)
	if l.Tentative {
		l, err = w.ConfirmExtent(w.ctx, s, v.ID, index, l.Generation, nil)
		w.must(err)
	}
	return l
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
	_, err := w.TakeVolume(w.ctx, s, w.volume("v", gib).ID)
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
	before := w.take(old, v)
	next := w.session(old.Node())
	if after := w.take(next, v); after.Term != before.Term+1 {
		t.Fatalf("%+v after %+v", after, before)
	}
	_, err := w.TakeVolume(w.ctx, old, v.ID)
	w.is(err, meta.ErrSessionExpired)
}

func TestOwners(t *testing.T) { checkOwners(t, newWorld(t)) }

func checkOwners(t *testing.T, w *world) {
	a, b := w.node("a"), w.node("b")
	v := w.volume("v", gib)
	first := w.take(a, v)
	if first.Term != 1 || first.Session != a.ID() {
		t.Fatalf("taken: %+v", first)
	}
	if again := w.take(a, v); again.Term != 1 {
		t.Fatalf("taken again: %+v", again)
	}
	_, err := w.TakeVolume(w.ctx, b, v.ID)
	var held *meta.HeldError
	if !errors.As(err, &held) || held.Owner.Node != a.Node() || !errors.Is(err, meta.ErrConflict) {
		t.Fatalf("got %v, want the owner named", err)
	}
	w.must(w.YieldVolume(w.ctx, b, v.ID, 0)) // not its to give
	if _, owner, err := w.VolumeOwner(w.ctx, v.ID); err != nil || owner == nil || owner.ID != a.ID() {
		t.Fatalf("owned by %+v, %v", owner, err)
	}
	w.is(w.YieldVolume(w.ctx, a, v.ID, 12345), store.ErrNotFound)
	for range 2 {
		w.must(w.YieldVolume(w.ctx, a, v.ID, b.ID()))
	}
	if got := w.take(b, v); got.Term != 2 {
		t.Fatalf("handed over: %+v", got)
	}
	for range 2 {
		w.must(w.YieldVolume(w.ctx, b, v.ID, 0))
	}
	if got := w.take(a, v); got.Term != 3 {
		t.Fatalf("taken after it was given up: %+v", got)
	}
	// A node that is gone loses its volumes by its session's end alone.
	w.must(a.Close(w.ctx))
	if o, owner, err := w.VolumeOwner(w.ctx, v.ID); err != nil || owner != nil || o.Session != a.ID() {
		t.Fatalf("%+v is owned by %+v, %v", o, owner, err)
	}
	if got := w.take(b, v); got.Term != 4 {
		t.Fatalf("taken over: %+v", got)
	}
	_, err = w.TakeVolume(w.ctx, b, uuid.New())
	w.is(err, meta.ErrNotFound)
	w.must(w.DeleteVolume(w.ctx, v.ID))
	_, err = w.TakeVolume(w.ctx, b, v.ID)
	w.is(err, meta.ErrNotFound)
}

func TestExtents(t *testing.T) { checkExtents(t, newWorld(t)) }

func checkExtents(t *testing.T, w *world) {
	a, b := w.node("a"), w.node("b")
	sa := w.store(a, "main")
	v := w.volume("v", 100*gib) // 400 extents: two keys
	_, err := w.PlaceExtent(w.ctx, a, v.ID, 300, nil)
	w.is(err, meta.ErrConflict) // nobody's
	o := w.take(a, v)
	one := w.allocate(a, v, 300)
	if one.Generation != 3 || !slices.Equal(one.Set, []meta.Member{{Store: sa.ID, Incarnation: 1}}) {
		t.Fatalf("allocated: %+v", one)
	}
	if again := w.allocate(a, v, 300); again.Generation != one.Generation {
		t.Fatalf("allocated again: %+v", again)
	}
	got := w.leases(o, 400)
	if got[300].Generation != one.Generation || got[299].Set != nil || got[399].Generation != 1 {
		t.Fatalf("leases: %+v, %+v, %+v", got[299], got[300], got[399])
	}
	_, err = w.PlaceExtent(w.ctx, b, v.ID, 301, nil)
	w.is(err, meta.ErrConflict)
	w.must(w.YieldVolume(w.ctx, a, v.ID, 0))
	taken := w.leases(w.take(b, v), 400)[300]
	if taken.Generation != one.Generation+1 || !slices.Equal(taken.Set, one.Set) {
		t.Fatalf("taken over: %+v after %+v", taken, one)
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
	w.must(s.Close(w.ctx))
	s = w.node("a")
	_, _, err := w.StartStore(w.ctx, s, o) // a copy made before the last start
	w.is(err, meta.ErrConflict)
	o.BootID = "two"
	_, _, err = w.StartStore(w.ctx, s, o)
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
		w.take(s, v)
		w.allocate(s, v, 0)
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
	v, other := w.volume("v", 100*gib), w.volume("w", gib)
	o := w.take(s, v)
	for i := range uint32(400) {
		w.allocate(s, v, i)
	}
	before := w.leases(o, 400)
	w.is(w.RemoveStore(w.ctx, st.ID), meta.ErrConflict)
	w.must(w.SetStoreState(w.ctx, st.ID, meta.StoreDraining, "asked for"))
	w.is(w.RemoveStore(w.ctx, st.ID), meta.ErrInUse)
	w.take(s, other)
	_, err := w.PlaceExtent(w.ctx, s, other.ID, 0, nil)
	w.is(err, meta.ErrNoStore)
	for range 2 {
		w.must(w.FreeExtents(w.ctx, s, v.ID, 10))
	}
	use, err := w.StoreUse(w.ctx)
	w.must(err)
	if use[st.ID] != 10 {
		t.Fatalf("%d extents are left", use[st.ID])
	}
	for i, l := range w.leases(o, 400) {
		if want := before[i].Generation + meta.Generation(min(i/10, 1)); l.Generation != want || (l.Set == nil) != (i >= 10) {
			t.Fatalf("extent %d: %+v, want generation %d", i, l, want)
		}
	}
	w.must(w.FreeExtents(w.ctx, s, v.ID, 0))
	w.must(w.RemoveStore(w.ctx, st.ID))
	w.must(w.RemoveStore(w.ctx, st.ID))
}

func TestChangeSets(t *testing.T) { checkChangeSets(t, newWorld(t)) }

func checkChangeSets(t *testing.T, w *world) {
	a, b := w.node("a"), w.node("b")
	sa, sb := w.store(a, "main"), w.store(b, "main")
	other := w.store(a, "other")
	v, err := w.CreateVolume(w.ctx, meta.Volume{Name: "v", Bytes: 100 * gib, Replicas: 1})
	w.must(err)
	w.take(a, v)
	l := w.allocate(a, v, 0, other.ID)
	member := func(s meta.Store) meta.Member { return meta.Member{Store: s.ID, Incarnation: s.Incarnation} }
	ma, mb, mo := member(sa), member(sb), member(other)
	change := func(s *meta.Session, c meta.SetChange) (meta.Generation, error) {
		got, err := w.ChangeSets(w.ctx, s, v.ID, []meta.SetChange{c})
		if err != nil {
			return 0, err
		}
		return got[0], nil
	}
	grow := meta.SetChange{Generation: l.Generation, Set: []meta.Member{ma}, Next: []meta.Member{ma, mb}}
	_, err = change(b, grow)
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
	// Many at once, over several keys, in order.
	var many []meta.SetChange
	for _, i := range []uint32{1, 2, 255, 256, 399} {
		l := w.allocate(a, v, i, other.ID)
		many = append(many, meta.SetChange{Index: i, Generation: l.Generation, Set: l.Set, Next: append(slices.Clone(l.Set), mb)})
	}
	for range 2 {
		got, err := w.ChangeSets(w.ctx, a, v.ID, many)
		w.must(err)
		for i := range many {
			if got[i] != many[i].Generation+1 {
				t.Fatalf("extent %d is at generation %d", many[i].Index, got[i])
			}
		}
	}
	many[0], many[1] = many[1], many[0]
	_, err = w.ChangeSets(w.ctx, a, v.ID, many)
	w.is(err, meta.ErrInvalid)
}

// Any history of sessions that come, go, take, hand over, give up, allocate, change and
// free, with answers of the store lost on the way, keeps these: the generation of an
// extent grows with every change of its owner or set and never otherwise, and no two
// live sessions own a volume.
func TestLeaseProperties(t *testing.T) {
	w := newWorld(t)
	rnd := rand.New(rand.NewSource(storetest.Seed(t)))
	v := w.volume("v", 150*gib) // 600 extents, 3 keys
	const extents = 600
	sessions := make([]*meta.Session, 3)
	stores := make([]meta.Store, 3)
	for i := range sessions {
		sessions[i] = w.node(fmt.Sprintf("n%d", i))
		stores[i] = w.store(sessions[i], "main")
	}
	lost := errors.New("answer lost")
	var owner *meta.Session // who was told that it owns, and has not given up since
	type state struct {
		meta.Lease
		owner meta.SessionID
	}
	last := map[uint32]state{}
	check := func() {
		t.Helper()
		o, _, err := w.VolumeOwner(w.ctx, v.ID)
		w.must(err)
		if owner != nil && o.Session != owner.ID() {
			t.Fatalf("session %d owns the volume, but %d was told that it does", o.Session, owner.ID())
		}
		for _, l := range w.leases(o, extents) {
			was := last[l.Index]
			changed := was.owner != o.Session && o.Session != 0 || !slices.Equal(l.Set, was.Set)
			if l.Generation < was.Generation || changed && l.Generation == was.Generation {
				t.Fatalf("extent %d went from %+v to %+v", l.Index, was, l)
			}
			last[l.Index] = state{l, o.Session}
		}
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
		index := uint32(rnd.Intn(extents))
		var err error
		switch rnd.Intn(12) {
		case 0: // the node dies and comes back
			fault := w.fault
			w.fault = nil
			sessions[n] = w.session(s.Node())
			stores[n] = w.store(sessions[n], "main")
			w.fault = fault
			if owner == s {
				owner = nil
			}
		case 1:
			err = retry(func() error { return w.YieldVolume(w.ctx, s, v.ID, 0) })
			if owner == s {
				owner = nil
			}
		case 2:
			to := sessions[rnd.Intn(len(sessions))]
			err = retry(func() error { return w.YieldVolume(w.ctx, s, v.ID, to.ID()) })
			if err == nil && owner == s {
				owner = to
			}
		case 3:
			err = retry(func() error { return w.FreeExtents(w.ctx, s, v.ID, extents-uint32(rnd.Intn(50))) })
		case 4, 5:
			err = retry(func() error {
				o, err := w.TakeVolume(w.ctx, s, v.ID)
				if err == nil && owner != nil && owner != s {
					t.Fatalf("session %d owns the volume (%+v) that is session %d's", s.ID(), o, owner.ID())
				}
				if err == nil {
					owner = s
				}
				return err
			})
		case 6, 7:
			was := last[index]
			if len(was.Set) == 0 || was.Tentative {
				continue
			}
			next := []meta.Member{was.Set[0]}
			if st := stores[rnd.Intn(3)]; st.ID != next[0].Store {
				next = append(next, meta.Member{Store: st.ID, Incarnation: st.Incarnation})
			}
			err = retry(func() error {
				_, err := w.ChangeSets(w.ctx, s, v.ID, []meta.SetChange{{Index: index, Generation: was.Generation, Set: was.Set, Next: next}})
				return err
			})
		default:
			err = retry(func() error {
				l, err := w.PlaceExtent(w.ctx, s, v.ID, index, nil)
				if err == nil && l.Tentative && rnd.Intn(4) > 0 {
					_, err = w.ConfirmExtent(w.ctx, s, v.ID, index, l.Generation, nil)
				}
				return err
			})
		}
		if !errors.Is(err, meta.ErrConflict) {
			w.must(err)
		}
		check()
	}
	w.fault = nil
}

// A tentative placement is nobody's before it is confirmed.
func TestTentativeExtents(t *testing.T) { checkTentativeExtents(t, newWorld(t)) }

func checkTentativeExtents(t *testing.T, w *world) {
	a, b := w.node("a"), w.node("b")
	sa, sb := w.store(a, "main"), w.store(b, "main")
	v, err := w.CreateVolume(w.ctx, meta.Volume{Name: "v", Bytes: gib, Replicas: 2})
	w.must(err)
	o := w.take(a, v)
	got, err := w.PlaceExtent(w.ctx, a, v.ID, 0, nil)
	w.must(err)
	if !slices.Equal(got.Set, []meta.Member{{Store: sa.ID}, {Store: sb.ID}}) || !got.Tentative || !w.leases(o, 1)[0].Tentative {
		t.Fatalf("placed %+v", got)
	}
	again, err := w.PlaceExtent(w.ctx, a, v.ID, 0, nil)
	w.must(err)
	if again.Generation != got.Generation+1 {
		t.Fatalf("placed %+v, then %+v: what was made of the first is not told from the second", got, again)
	}
	_, err = w.ConfirmExtent(w.ctx, a, v.ID, 0, got.Generation, nil)
	w.is(err, meta.ErrConflict)
	_, err = w.ConfirmExtent(w.ctx, a, v.ID, 0, again.Generation, []uuid.UUID{uuid.New()})
	w.is(err, meta.ErrInvalid)
	for range 2 { // the second time its answer was lost
		l, err := w.ConfirmExtent(w.ctx, a, v.ID, 0, again.Generation, []uuid.UUID{sb.ID})
		w.must(err)
		if l.Generation != again.Generation+1 || !slices.Equal(l.Set, []meta.Member{{Store: sb.ID, Incarnation: 1}}) {
			t.Fatalf("confirmed as %+v", l)
		}
	}
	// Where too few nodes are alive there are fewer replicas, and on a dead one none.
	w.must(b.Close(w.ctx))
	if got, err = w.PlaceExtent(w.ctx, a, v.ID, 1, nil); err != nil || !slices.Equal(got.Set, []meta.Member{{Store: sa.ID}}) {
		t.Fatalf("placed %+v, %v", got, err)
	}
	_, err = w.PlaceExtent(w.ctx, a, v.ID, 1, []uuid.UUID{sa.ID})
	w.is(err, meta.ErrNoStore)
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
