package access

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/vfs"
	"github.com/mooring-io/mooring/sdk/block"
)

// told collects what a healer says.
type told struct {
	mu  sync.Mutex
	all []Healing
}

func (t *told) hear(h Healing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h.Took = 0
	t.all = append(t.all, h)
}

// healingPair is a pair whose nodes make replicas that are missing.
func healingPair(t *testing.T, nodes int, heal Heal) *pair {
	c := newHealingCluster(t, 3, nodes, 2, &heal)
	p := &pair{cluster: c, a: c.nodes[0], b: c.nodes[1], id: uuid.New()}
	p.v, p.h = p.a.volume(p.id, pairBytes, false)
	p.write(p.a, p.h, 0, fill(1, 8))
	p.wantSet(0, 1)
	return p
}

// becomes waits until the extents of the volume are on these nodes, as the owner sees it, and until it is well.
func (p *pair) becomes(owner *node, v *Volume, nodes ...int) {
	p.t.Helper()
	owner.until("the volume is whole", func() bool {
		for i := range v.extents {
			e := &v.extents[i]
			if e.state == extentAbsent {
				continue
			}
			if e.state != extentReady || e.resolving != nil || e.joiner != nil || len(e.set) != len(nodes) {
				return false
			}
			for _, n := range nodes {
				if !e.has(p.nodes[n].storeID) {
					return false
				}
			}
		}
		return v.health.Health == Health{} && v.health.began == 0
	})
	p.wantSet(nodes...)
}

// TestReturnedMemberIsTakenBack (rule 8): nobody has to ask for it, and only what it missed is copied.
func TestReturnedMemberIsTakenBack(t *testing.T) {
	t.Parallel()
	var news told
	p := healingPair(t, 2, Heal{Told: news.hear})
	size := int(p.v.regionBytes() / blockBytes)
	for r := range 4 {
		p.write(p.a, p.h, r*size, fill(byte(2+r), 1))
	}
	p.must(p.a.access.Clean(p.ctx, p.v, 0))
	p.b.crash(vfs.ProcessDeath)
	p.write(p.a, p.h, 3*size, fill(9, 1))
	p.wantSet(0)
	p.a.until("it is known to be reduced", func() bool { return p.v.health.Reduced == 1 })
	p.b.start()
	p.reconnect(0)
	p.becomes(p.a, p.v, 0, 1)
	p.same(p.id)
	p.on(func() {
		if p.v.stats.Copied != uint64(p.v.regionBytes()) || p.v.stats.Joined != 1 {
			t.Errorf("%d bytes were copied for %d extents, want one region of one", p.v.stats.Copied, p.v.stats.Joined)
		}
	})
	p.a.until("the end is told", func() bool {
		news.mu.Lock()
		defer news.mu.Unlock()
		return len(news.all) == 2
	})
	region := uint64(p.v.regionBytes())
	if want := []Healing{{Volume: p.id, Name: "v", Extents: 1, Bytes: region}, {Volume: p.id, Name: "v", Ended: true, Extents: 1, Bytes: region}}; !slices.Equal(news.all, want) {
		t.Errorf("it told %+v, want %+v", news.all, want)
	}
}

// stuck is a heal that stops after the first region of an extent.
var stuck = Heal{Rate: 1}

// halfway returns a pair whose second member was away, is back, and has one of four regions.
func halfway(t *testing.T) *pair {
	p := healingPair(t, 2, stuck)
	p.b.crash(vfs.ProcessDeath)
	size := int(p.v.regionBytes() / blockBytes)
	for r := range 4 {
		p.write(p.a, p.h, r*size, fill(byte(2+r), 1))
	}
	p.b.start()
	p.reconnect(0)
	p.a.until("one region is copied", func() bool { return p.v.stats.Copied == uint64(p.v.regionBytes()) })
	p.write(p.a, p.h, 1, fill(7, 1))        // in a region that is copied
	p.write(p.a, p.h, 2*size+1, fill(8, 1)) // and in one that is not
	p.wantSet(0)
	p.heal = &Heal{}
	return p
}

func (p *pair) half() []byte {
	size := int(p.v.regionBytes() / blockBytes)
	return slices.Concat(fill(2, 1), fill(7, 1), fill(1, 6), fill(0, size-8), fill(3, 1), fill(0, size-1), fill(4, 1), fill(8, 1), fill(0, size-2), fill(5, 1))
}

// TestOwnerDiesInMidResync: the next owner begins with what both have noted, and the joiner was no member meanwhile.
func TestOwnerDiesInMidResync(t *testing.T) {
	t.Parallel()
	for _, kind := range []vfs.Crash{vfs.ProcessDeath, vfs.PowerLoss} {
		p := halfway(t)
		p.a.crash(kind)
		if _, err := p.b.access.Open(p.ctx, Geometry{ID: p.id, Name: "v", Size: pairBytes, BlockSize: 4096, Replicas: 2}); err != nil {
			t.Fatal(err)
		}
		h := p.b.host.grant(p.b.access.volumes[p.id], "host", 1)
		if _, s := p.b.host.read(h, 0, blockBytes); s == block.StatusOK {
			t.Fatal("a store that is no member is read")
		}
		p.meta.end(p.b.session)
		p.b.crash(vfs.ProcessDeath)
		p.b.start()
		p.a.start()
		p.reconnect(0)
		v, h := p.a.volume(p.id, pairBytes, false)
		p.becomes(p.a, v, 0, 1)
		p.same(p.id)
		p.read(p.a, h, 0, p.half())
	}
}

// TestJoinerDiesInMidResync: it begins anew when it is back.
func TestJoinerDiesInMidResync(t *testing.T) {
	t.Parallel()
	for _, kind := range []vfs.Crash{vfs.ProcessDeath, vfs.PowerLoss} {
		p := halfway(t)
		p.a.access.SetResyncRate(DefaultResyncRate)
		p.b.crash(kind)
		p.write(p.a, p.h, 2, fill(1, 1))
		p.wantSet(0)
		p.b.start()
		p.reconnect(0)
		p.becomes(p.a, p.v, 0, 1)
		p.same(p.id)
		p.read(p.a, p.h, 0, p.half())
	}
}

// TestLostMemberIsReplaced: what it had is made elsewhere, written since or not; when it is back after all, what it still has is removed.
func TestLostMemberIsReplaced(t *testing.T) {
	t.Parallel()
	p := healingPair(t, 3, Heal{LostAfter: 1})
	p.write(p.a, p.h, int(p.extent/blockBytes), fill(4, 3))
	p.b.crash(vfs.ProcessDeath)
	p.write(p.a, p.h, 3, fill(2, 1))
	p.becomes(p.a, p.v, 0, 2)
	for i, e := range p.meta.extents(p.id) {
		if len(e.set) != 2 {
			t.Errorf("extent %d: %v", i, e.set)
		}
	}
	p.same(p.id)
	p.b.start()
	p.reconnect(0)
	p.b.until("nothing is left there", func() bool { return len(p.b.store.IDs()) == 0 })
	p.a.until("nobody waits for it", func() bool { return len(p.v.extents[0].absent) == 0 && len(p.v.extents[1].absent) == 0 })
	p.becomes(p.a, p.v, 0, 2)
	p.read(p.a, p.h, 0, slices.Concat(fill(1, 3), fill(2, 1), fill(1, 4)))
}

// TestAwaitedMemberIsNotReplaced: for a while.
func TestAwaitedMemberIsNotReplaced(t *testing.T) {
	t.Parallel()
	p := healingPair(t, 3, Heal{LostAfter: time.Hour})
	p.b.crash(vfs.ProcessDeath)
	p.write(p.a, p.h, 3, fill(2, 1))
	p.a.until("it is known to be reduced", func() bool { return p.v.health.Reduced == 1 })
	if len(p.a.access.heal.round(p.ctx, nil)) > 0 {
		t.Error("something was done")
	}
	p.wantSet(0)
	// A third replica is not kept back by that.
	p.must(p.v.SetReplicas(p.ctx, 3))
	p.b.start()
	p.reconnect(0)
	p.becomes(p.a, p.v, 0, 1, 2)
	p.same(p.id)
}

// TestFewerReplicas: what is too much goes, while hosts write, and nothing of it is left; a member that is out of reach goes first.
func TestFewerReplicas(t *testing.T) {
	t.Parallel()
	p := healingPair(t, 3, Heal{LostAfter: time.Hour})
	p.must(p.v.SetReplicas(p.ctx, 3))
	p.becomes(p.a, p.v, 0, 1, 2)
	p.write(p.a, p.h, 3, fill(2, 1))
	p.must(p.v.SetReplicas(p.ctx, 2))
	p.write(p.a, p.h, 4, fill(3, 1))
	p.becomes(p.a, p.v, 0, 1)
	p.nodes[2].until("nothing is left there", func() bool { return len(p.nodes[2].store.IDs()) == 0 })
	p.a.until("its members have forgotten it", func() bool { e := &p.v.extents[0]; return len(e.absent) == 0 && e.resolving == nil })
	p.same(p.id)
	p.must(p.v.SetReplicas(p.ctx, 3))
	p.becomes(p.a, p.v, 0, 1, 2)
	p.b.crash(vfs.ProcessDeath)
	p.a.until("it is known to be away", func() bool {
		set := p.v.extents[0].set
		i := slices.IndexFunc(set, func(r replica) bool { return r.member.Store == p.b.storeID })
		return i < 0 || set[i].store == nil
	})
	p.must(p.v.SetReplicas(p.ctx, 2))
	p.becomes(p.a, p.v, 0, 2)
	p.b.start()
	p.reconnect(0)
	p.b.until("nothing is left there", func() bool { return len(p.b.store.IDs()) == 0 })
	p.must(p.v.SetReplicas(p.ctx, 1))
	p.becomes(p.a, p.v, 0)
	p.read(p.a, p.h, 0, slices.Concat(fill(1, 3), fill(2, 1), fill(3, 1), fill(1, 3)))
}

// TestNoStoreForAReplica: it is said why, and tried again.
func TestNoStoreForAReplica(t *testing.T) {
	t.Parallel()
	p := healingPair(t, 2, Heal{LostAfter: 1})
	p.b.crash(vfs.ProcessDeath)
	p.meta.mu.Lock()
	delete(p.meta.stores, 1)
	p.meta.mu.Unlock()
	p.write(p.a, p.h, 3, fill(2, 1))
	p.a.until("it is said", func() bool { return p.v.health.Reason != "" })
	p.b.start()
	p.reconnect(0)
	p.becomes(p.a, p.v, 0, 1)
	p.same(p.id)
}

// TestScrub (rule 7): every member is read, what is damaged or differs is found and made equal, and a write meanwhile is no difference.
func TestScrub(t *testing.T) {
	t.Parallel()
	p := newPair(t, false)
	size := int(p.v.regionBytes() / blockBytes)
	p.write(p.a, p.h, 2*size, fill(3, 2))
	scrub := func() Scrubbed {
		t.Helper()
		s, err := p.a.access.Scrub(p.ctx, p.v, 0, func(Scrubbed) {})
		p.must(err)
		return s
	}
	whole := Scrubbed{Bytes: 2 * p.v.regionBytes(), Total: 2 * p.v.regionBytes()}
	if got := scrub(); got != whole {
		t.Errorf("of two regions that are well: %+v", got)
	}
	damage(t, p.b.sim, fill(1, 1)) // hosts read the other one
	want := whole
	want.Corrupt, want.Repaired = 1, 1
	if got := scrub(); got != want {
		t.Errorf("one block is damaged: %+v", got)
	}
	p.same(p.id)
	damage(t, p.a.sim, fill(3, 1))
	if got := scrub(); got != want {
		t.Errorf("one block is damaged on the own store: %+v", got)
	}
	p.same(p.id)
	// A store that lost a write that it had acknowledged.
	done := make(chan error, 1)
	p.b.on(func() {
		e := p.b.store.Extent(p.first())
		p.b.access.submit(Store(p.b.store), &extent.IO{Op: extent.OpWrite, Extent: e, Gen: e.Generation(), Blocks: 1, Buf: fill(7, 1), Durable: true, Done: func(io *extent.IO) { done <- io.Err }})
	})
	p.must(<-done)
	want.Corrupt, want.Different = 0, 1
	if got := scrub(); got != want {
		t.Errorf("one member differs: %+v", got)
	}
	p.same(p.id)
	p.read(p.a, p.h, 0, fill(1, 8))
	// What is on its way to one member when the scrub comes is waited for.
	f := p.held(0, fill(9, 1))
	found := make(chan Scrubbed, 1)
	go func() {
		s, err := p.a.access.Scrub(p.ctx, p.v, 0, func(Scrubbed) {})
		if err != nil {
			t.Error(err)
		}
		found <- s
	}()
	p.a.cables[1].Release()
	p.a.host.want("write", f, block.StatusOK)
	if got := <-found; got != whole {
		t.Errorf("during a write: %+v", got)
	}
	// Damaged everywhere: it is said, and stays.
	p.write(p.a, p.h, 2*size+5, fill(11, 1))
	damage(t, p.a.sim, fill(11, 1))
	damage(t, p.b.sim, fill(11, 1))
	if got := scrub(); got.Corrupt != 1 || got.Repaired != 0 {
		t.Errorf("damaged on both: %+v", got)
	}
}

// TestDeposedOwnerDeletesNothing (rule 2): what a later owner has sealed is not removed by one that goes on in the belief that it is nobody's.
func TestDeposedOwnerDeletesNothing(t *testing.T) {
	t.Parallel()
	p := newPair(t, false)
	err := p.a.access.ask(p.ctx, func(done func(error)) {
		p.a.access.store(p.b.storeID).Delete(p.first(), p.v.extents[0].generation-1, done)
	})
	if err == nil || len(p.b.store.IDs()) != 1 {
		t.Errorf("removed: %v", err)
	}
}
