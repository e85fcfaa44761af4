package access

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/extent"

	"github.com/mooring-io/mooring/core/vfs"
	"github.com/mooring-io/mooring/sdk/block"
)

// pair is a volume with two replicas, on nodes 0 and 1, driven by node 0; its first extent has eight blocks of ones.
type pair struct {
	*cluster
	a, b *node
	id   uuid.UUID
	v    *Volume
	h    block.Handle
}

const pairBytes = 1 << 20

func newPair(t *testing.T, volatile bool) *pair {
	c := newCluster(t, 1, 2, 2)
	p := &pair{cluster: c, a: c.nodes[0], b: c.nodes[1], id: uuid.New()}
	p.v, p.h = p.a.volume(p.id, pairBytes, volatile)
	p.write(p.a, p.h, 0, fill(1, 8))
	p.wantSet(0, 1)
	return p
}

func (c *cluster) write(n *node, h block.Handle, at int, data []byte) {
	c.t.Helper()
	if s := n.host.write(h, uint64(at*blockBytes), data); s != block.StatusOK {
		c.t.Fatalf("write: %v", s)
	}
}

func (c *cluster) read(n *node, h block.Handle, at int, want []byte) {
	c.t.Helper()
	got, s := n.host.read(h, uint64(at*blockBytes), uint64(len(want)))
	if s != block.StatusOK || !bytes.Equal(got, want) {
		c.t.Fatalf("read: %v, %d…, want %d…", s, got[0], want[0])
	}
}

func (p *pair) wantSet(nodes ...int) {
	p.t.Helper()
	if got := p.set(p.id, 0); !slices.Equal(got, nodes) {
		p.t.Fatalf("the extent is on nodes %v, want %v", got, nodes)
	}
}

func (p *pair) first() extent.ID { return extent.ID{Volume: p.id} }

// held is a write under way whose copy for node 1 is kept by the network.
func (p *pair) held(at int, data []byte) *flight {
	p.t.Helper()
	k := p.a.cables[1]
	k.Hold()
	f := p.a.host.start(block.OpWrite, p.h, uint64(at*blockBytes), uint64(len(data)), data)
	p.a.until("it is on its way", func() bool { return k.Held(false) > len(data) })
	return f
}

func (f *flight) pending() bool {
	select {
	case <-f.done:
		return false
	default:
		return true
	}
}

// TestWritesAreEverywhere (rule 5): a write is acknowledged when every member has it.
func TestWritesAreEverywhere(t *testing.T) {
	t.Parallel()
	for _, volatile := range []bool{false, true} {
		p := newPair(t, volatile)
		p.same(p.id)
		f := p.held(2, fill(2, 2))
		p.a.until("this node has it", func() bool { return p.a.queue.Engine() != "" && p.v.inflight == 1 })
		if got := p.a.blocks(p.first()); got[2*blockBytes] != 2 && !f.pending() {
			t.Error("acknowledged, and not even here")
		}
		if !f.pending() {
			t.Fatal("acknowledged before the other member has it")
		}
		p.a.cables[1].Release()
		p.a.host.want("write", f, block.StatusOK)
		if got := p.b.blocks(p.first()); got[2*blockBytes] != 2 {
			t.Error("acknowledged, and not on the other member")
		}
		p.same(p.id)
		// What is not aligned, what clears, and what is compared first, too.
		p.a.host.want("zero", p.a.host.start(block.OpWriteZeroes, p.h, 3*blockBytes, 2*blockBytes, nil), block.StatusOK)
		p.a.host.want("discard", p.a.host.start(block.OpDiscard, p.h, 6*blockBytes, blockBytes, nil), block.StatusOK)
		p.a.host.want("compare", p.a.host.start(block.OpCompareAndWrite, p.h, 0, blockBytes, append(fill(1, 1), fill(5, 1)...)), block.StatusOK)
		p.same(p.id)
		p.read(p.a, p.h, 0, slices.Concat(fill(5, 1), fill(1, 1), fill(2, 1), fill(0, 2), fill(1, 1), fill(0, 1), fill(1, 1)))
		p.a.host.want("flush", p.a.host.start(block.OpFlush, p.h, 0, 0, nil), block.StatusOK)
	}
}

// TestPluginCannotMakeReplicasDiffer: the payload is copied once, before it goes to two stores.
func TestPluginCannotMakeReplicasDiffer(t *testing.T) {
	t.Parallel()
	p := newPair(t, false)
	p.on(func() { p.a.queue.shut = true })
	f := &flight{}
	f.Op, f.Volume, f.Length = block.OpWrite, p.h, 4*blockBytes
	changed := make(chan struct{})
	p.a.host.send(f, fill(3, 4))
	p.a.until("it has come", func() bool { return p.v.inflight == 1 })
	p.a.host.thread.Post(func() {
		b := f.Buf.Bytes()
		for i := range b {
			b[i] = 9
		}
		close(changed)
	})
	<-changed
	p.on(p.a.queue.open)
	p.a.host.want("write", f, block.StatusOK)
	p.same(p.id)
	p.read(p.a, p.h, 0, fill(3, 4))
}

func (p *pair) on(fn func()) { p.a.on(fn) }

// TestLostMember (rule 5): a member that fails is taken out of the set by Meta before the write that it failed is acknowledged, and
// when it is back it gets what it missed and is a member again.
func TestLostMember(t *testing.T) {
	t.Parallel()
	for _, volatile := range []bool{false, true} {
		p := newPair(t, volatile)
		p.write(p.a, p.h, 40, fill(4, 1)) // another region
		asked, goOn := make(chan struct{}, 1), make(chan struct{})
		p.meta.onCall(func(what string) error {
			if what == "change" {
				select {
				case asked <- struct{}{}:
				default:
				}
				<-goOn
			}
			return nil
		})
		f := p.held(0, fill(2, 3))
		p.a.cables[1].Cut()
		<-asked
		if !f.pending() {
			t.Fatal("acknowledged while Meta names a member that does not have it")
		}
		r := p.a.host.start(block.OpRead, p.h, 0, blockBytes, make([]byte, blockBytes))
		p.a.until("the read waits", func() bool { return p.v.inflight == 2 })
		close(goOn)
		p.a.host.want("write", f, block.StatusOK)
		if p.a.host.want("read", r, block.StatusOK); r.data[0] != 2 {
			t.Errorf("read %d", r.data[0])
		}
		p.wantSet(0)
		p.write(p.a, p.h, 4, fill(6, 1))
		p.a.host.want("flush", p.a.host.start(block.OpFlush, p.h, 0, 0, nil), block.StatusOK)
		if got := p.b.blocks(p.first()); got[0] != 1 {
			t.Fatalf("the member that was cut off has %d", got[0])
		}
		p.reconnect(0)
		var last Moved
		p.must(p.a.access.Join(p.ctx, p.v, 0, p.b.storeID, uuid.Nil, func(m Moved) { last = m }))
		p.wantSet(0, 1)
		if want := int64(2 * p.a.access.extentBytes / int64(p.a.access.regions())); last.Copied != want || last.Total != want {
			t.Errorf("%+v was copied, want %d: what was dirty when it left, and what was written since", last, want)
		}
		p.same(p.id)
		p.write(p.a, p.h, 1, fill(7, 1))
		p.same(p.id)
		p.on(func() {
			if e := &p.v.extents[0]; len(e.absent) != 0 || e.joiner != nil {
				t.Errorf("absent %v, joiner %v", e.absent, e.joiner)
			}
		})
	}
}

// TestReturnerIsCopiedOnlyWhatItMisses (rule 8): regions that are clean when a member leaves, and not written since, are not copied.
func TestReturnerIsCopiedOnlyWhatItMisses(t *testing.T) {
	t.Parallel()
	p := newPair(t, false)
	size := int(p.v.regionBytes() / blockBytes)
	for r := 1; r < 4; r++ {
		p.write(p.a, p.h, r*size, fill(byte(r), 1))
	}
	p.must(p.a.access.Clean(p.ctx, p.v, 0))
	p.write(p.a, p.h, size, fill(8, 1))
	p.b.crash(vfs.ProcessDeath)
	p.write(p.a, p.h, 3*size, fill(9, 1))
	p.b.start()
	p.reconnect(0)
	var last Moved
	p.must(p.a.access.Join(p.ctx, p.v, 0, p.b.storeID, uuid.Nil, func(m Moved) { last = m }))
	if last.Copied != 2*p.v.regionBytes() {
		t.Errorf("%d bytes were copied, want two regions", last.Copied)
	}
	p.same(p.id)
	p.wantSet(0, 1)
}

// TestOwnStoreLost: the volume goes on at the other node's replica when this node's store has failed.
func TestOwnStoreLost(t *testing.T) {
	t.Parallel()
	p := newPair(t, false)
	p.a.sim.SetFaults(vfs.SimFaults{FailWrites: 1})
	p.write(p.a, p.h, 2, fill(2, 1))
	p.wantSet(1)
	p.read(p.a, p.h, 0, slices.Concat(fill(1, 2), fill(2, 1), fill(1, 5)))
	if got := p.b.blocks(p.first()); got[2*blockBytes] != 2 {
		t.Error("it is not on the other member")
	}
	p.a.sim.SetFaults(vfs.SimFaults{})
}

// TestNobodyLeft: without any member a command fails as what another path may serve; when one is back, all goes on.
func TestNobodyLeft(t *testing.T) {
	t.Parallel()
	p := newPair(t, false)
	p.a.sim.SetFaults(vfs.SimFaults{FailWrites: 1})
	p.write(p.a, p.h, 2, fill(2, 1))
	p.b.cut()
	p.a.until("it is out of reach", func() bool { return p.a.access.store(p.b.storeID) == nil })
	if s := p.a.host.write(p.h, 0, fill(3, 1)); s != block.StatusPathLost {
		t.Fatalf("write: %v", s)
	}
	if _, s := p.a.host.read(p.h, 0, blockBytes); s != block.StatusPathLost {
		t.Fatalf("read: %v", s)
	}
	p.connect(0, 1)
	p.read(p.a, p.h, 2, fill(2, 1))
	p.a.sim.SetFaults(vfs.SimFaults{})
}

// TestFormerOwnerIsFenced (rules 1, 2, 4): once another node has taken a volume over, nothing that its former owner sends is done, nothing
// that it had sent is acknowledged, and it reads nothing.
func TestFormerOwnerIsFenced(t *testing.T) {
	t.Parallel()
	p := newPair(t, false)
	f := p.held(0, fill(2, 1))
	p.meta.end(p.a.session)                  // it was cut off from Meta for too long; its clock says so as well
	p.a.on(func() { p.a.access.mayServe() }) // it looks at its clock
	_, h := p.b.volume(p.id, pairBytes, false)
	p.read(p.b, h, 1, fill(1, 1))
	p.write(p.b, h, 0, fill(3, 1))
	p.a.cables[1].Release()
	if p.a.outlast(f); f.Status == block.StatusOK {
		t.Error("a write of the former owner was acknowledged")
	}
	p.read(p.b, h, 0, fill(3, 1))
	r := p.a.host.start(block.OpRead, p.h, 0, blockBytes, make([]byte, blockBytes))
	if p.a.outlast(r); r.Status == block.StatusOK {
		t.Error("the former owner reads on")
	}
	// Even if its clock were wrong, the replicas refuse it.
	p.a.session.deadline.Store(1 << 62)
	if s := p.a.host.write(p.h, 0, fill(4, 1)); s == block.StatusOK {
		t.Error("the former owner writes on")
	}
	if _, s := p.a.host.read(p.h, 0, blockBytes); s == block.StatusOK {
		t.Error("the former owner reads on")
	}
	p.read(p.b, h, 0, fill(3, 1))
	p.same(p.id)
}

// TestSealWaitsForWrites (rule 2): a new owner does not begin before what its predecessor has at the replicas has ended.
func TestSealWaitsForWrites(t *testing.T) {
	t.Parallel()
	p := newPair(t, false)
	p.b.on(func() { p.b.queue.shut = true })
	f := p.a.host.start(block.OpWrite, p.h, 0, blockBytes, fill(2, 1))
	p.b.until("it is at the replica", func() bool { return len(p.b.queue.kept) > 0 })
	p.meta.end(p.a.session)
	v, err := p.b.access.Open(p.ctx, Geometry{ID: p.id, Name: "v", Size: pairBytes, BlockSize: 4096})
	p.must(err)
	h := p.b.host.grant(v, "host", 1)
	r := p.b.host.start(block.OpRead, h, 0, blockBytes, make([]byte, blockBytes))
	p.b.until("it is being sealed", func() bool { return v.extents[0].resolving != nil })
	if !r.pending() {
		t.Fatal("served while a write of the former owner is at the replica")
	}
	p.b.on(p.b.queue.open)
	p.b.host.want("read", r, block.StatusOK)
	p.a.outlast(f)
	again := r.data[0]
	p.read(p.b, h, 0, fill(again, 1))
	p.same(p.id)
}

// TestTakeoverMakesMembersEqual (rule 3): what its former owner wrote to one member only is the same on all before it is read.
func TestTakeoverMakesMembersEqual(t *testing.T) {
	t.Parallel()
	p := newPair(t, false)
	f := p.held(0, fill(2, 1)) // on node 0 only
	p.a.until("it is on this node's replica", func() bool { return p.a.store.Stats().Writes > 1 })
	p.a.has(p.first(), 2)
	p.meta.end(p.a.session)
	p.a.cables[1].Cut()
	v, h := p.b.volume(p.id, pairBytes, false)
	got, s := p.b.host.read(h, 0, blockBytes)
	if s != block.StatusOK {
		t.Fatal(s)
	}
	p.same(p.id) // whichever it is
	p.a.outlast(f)
	p.read(p.b, h, 0, got)
	p.b.on(func() {
		if v.stats.Leveled != 1 || v.extents[0].differs.Has(0, 1) {
			t.Errorf("%d regions were made equal", v.stats.Leveled)
		}
	})
	// A command that reads before it writes waits as well.
	p.meta.end(p.b.session)
}

// TestTakeoverWithoutTheOwner: a new owner goes on without the dead one's replica; when that is back, what it had alone is overwritten.
func TestTakeoverWithoutTheOwner(t *testing.T) {
	t.Parallel()
	p := newPair(t, false)
	f := p.held(0, fill(2, 1))
	p.a.has(p.first(), 2)
	if !f.pending() {
		t.Fatal("acknowledged by one member")
	}
	p.a.crash(vfs.PowerLoss)
	v, h := p.b.volume(p.id, pairBytes, false)
	p.read(p.b, h, 0, fill(1, 8))
	p.wantSet(1)
	p.write(p.b, h, 4, fill(5, 1))
	p.a.start()
	p.reconnect(1)
	if got := p.a.blocks(p.first()); got[0] != 2 {
		t.Fatal("the scenario lost its point: the dead owner's own write is gone")
	}
	p.must(p.b.access.Join(p.ctx, v, 0, p.a.storeID, uuid.Nil, ignore))
	p.wantSet(0, 1)
	p.same(p.id)
	p.read(p.b, h, 0, slices.Concat(fill(1, 4), fill(5, 1), fill(1, 3)))
}

// TestReadsWaitForWrites: what a read returns is on every member, so that no takeover can take it back.
func TestReadsWaitForWrites(t *testing.T) {
	t.Parallel()
	p := newPair(t, false)
	f := p.held(0, fill(2, 1))
	p.a.has(p.first(), 2)
	r := p.a.host.start(block.OpRead, p.h, 0, blockBytes, make([]byte, blockBytes))
	other := p.a.host.start(block.OpRead, p.h, 4*blockBytes, blockBytes, make([]byte, blockBytes))
	p.a.host.want("read of another block", other, block.StatusOK)
	if !r.pending() {
		t.Fatalf("a read returned %d, which is on one member only", r.data[0])
	}
	w := p.a.host.start(block.OpWrite, p.h, 0, blockBytes, fill(3, 1))
	p.a.until("both wait", func() bool { return p.v.order.parked.n == 2 })
	p.a.cables[1].Release()
	p.a.host.want("write", f, block.StatusOK)
	if p.a.host.want("read", r, block.StatusOK); r.data[0] != 2 {
		t.Errorf("it read %d", r.data[0])
	}
	p.a.host.want("the write behind it", w, block.StatusOK)
	p.read(p.a, p.h, 0, fill(3, 1))
	p.same(p.id)
}

// TestDamagedBlockIsRepaired: a checksum that does not match is answered from another member, and the block is written anew.
func TestDamagedBlockIsRepaired(t *testing.T) {
	t.Parallel()
	p := newPair(t, false)
	damage(t, p.a.sim, fill(1, 1))
	p.read(p.a, p.h, 0, fill(1, 8))
	p.a.until("it is repaired", func() bool { return p.v.stats.Repaired == 1 && p.v.inflight == 0 })
	bad := p.a.store.Stats().CorruptBlocks
	p.same(p.id)
	if got := p.a.store.Stats().CorruptBlocks; got != bad {
		t.Error("it is damaged still")
	}
	p.on(func() {
		if p.v.stats.Corrupt != 1 {
			t.Errorf("%d were counted", p.v.stats.Corrupt)
		}
	})
	// On all members: that is a media error, of that block.
	damage(t, p.a.sim, fill(1, 1))
	damage(t, p.b.sim, fill(1, 1))
	failed := 0
	for i := range 8 {
		if _, s := p.a.host.read(p.h, uint64(i*blockBytes), blockBytes); s == block.StatusMediaError {
			failed++
		} else if s != block.StatusOK {
			t.Error(s)
		}
	}
	if failed > 1 {
		t.Errorf("%d blocks fail", failed)
	}
}

// damage inverts a byte of one block that holds want, on the medium.
func damage(t *testing.T, sim *vfs.Sim, want []byte) {
	t.Helper()
	size, err := sim.Size("/store/data")
	if err != nil {
		t.Fatal(err)
	}
	f, err := sim.OpenFile("/store/data", vfs.OpenOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	for at := int64(0); at < size; at += blockBytes {
		b := make([]byte, blockBytes)
		if _, err := f.ReadAt(b, at); err == nil && bytes.Equal(b, want) {
			sim.Corrupt("/store/data", at+100, 1)
			return
		}
	}
	t.Fatal("no such block")
}

// TestJoinerThatMissesAWrite (rule 8): the attempt is over, the set stays, and the next one succeeds.
func TestJoinerThatMissesAWrite(t *testing.T) {
	t.Parallel()
	p := newPair(t, false)
	p.b.cut()
	p.write(p.a, p.h, 0, fill(2, 1))
	p.wantSet(0)
	p.reconnect(0)
	first := true
	err := p.a.access.Join(p.ctx, p.v, 0, p.b.storeID, uuid.Nil, func(Moved) {
		if first {
			first = false
			f := p.held(3, fill(3, 1))
			p.a.cables[1].Cut()
			p.a.host.want("write", f, block.StatusOK)
		}
	})
	if err == nil {
		t.Fatal("it became a member")
	}
	p.wantSet(0)
	p.reconnect(0)
	p.must(p.a.access.Join(p.ctx, p.v, 0, p.b.storeID, uuid.Nil, ignore))
	p.wantSet(0, 1)
	p.same(p.id)
	p.read(p.a, p.h, 0, slices.Concat(fill(2, 1), fill(1, 2), fill(3, 1), fill(1, 4)))
}

// TestLostAnswerOfMeta: a set that was changed though nobody heard of it is found so.
func TestLostAnswerOfMeta(t *testing.T) {
	t.Parallel()
	p := newPair(t, false)
	boom := errors.New("no answer")
	p.meta.onCall(func(what string) error {
		if what == "change" {
			// It is carried out all the same.
			p.meta.onCall(nil)
			e := p.meta.extents(p.id)[0]
			m := &nodeMeta{clusterMeta: p.meta, session: p.a.session}
			if _, err := m.ChangeSet(p.ctx, p.id, SetChange{Generation: p.meta.terms[p.id] + e.changes, Set: e.set, Next: []extent.Member{p.meta.stores[0]}}); err != nil {
				t.Error(err)
			}
			return boom
		}
		return nil
	})
	p.b.cut()
	f := p.a.host.start(block.OpWrite, p.h, 0, blockBytes, fill(2, 1))
	if p.a.host.wait(f); f.Status != block.StatusPathLost {
		t.Fatalf("write: %v", f.Status)
	}
	p.write(p.a, p.h, 0, fill(3, 1))
	p.read(p.a, p.h, 0, slices.Concat(fill(3, 1), fill(1, 7)))
	if n := len(p.set(p.id, 0)); n != 1 {
		t.Errorf("%d members", n)
	}
}

// TestSuspectMember: a member that may have lost acknowledged writes is not taken for one that has them, and goes on as one that returns;
// alone it does not serve.
func TestSuspectMember(t *testing.T) {
	t.Parallel()
	p := newPair(t, true)
	p.a.crash(vfs.PowerLoss)
	p.a.start()
	p.meta.mu.Lock()
	p.meta.suspect[p.a.storeID] = 2
	p.meta.mu.Unlock()
	v, h := p.a.volume(p.id, pairBytes, true)
	if s := p.a.host.write(h, 0, fill(2, 1)); s != block.StatusPathLost {
		t.Fatalf("it serves alone, though it may have lost writes: %v", s)
	}
	p.reconnect(0)
	p.read(p.a, h, 0, fill(1, 8))
	p.wantSet(1)
	p.must(p.a.access.Join(p.ctx, v, 0, p.a.storeID, uuid.Nil, ignore))
	p.wantSet(0, 1)
	p.same(p.id)
}

// TestNewReplica: a third store is given all data, and relieves another.
func TestNewReplica(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, 3, 2)
	a := c.nodes[0]
	id := uuid.New()
	v, h := a.volume(id, pairBytes, false)
	c.write(a, h, 0, fill(1, 40))
	a.host.want("discard", a.host.start(block.OpDiscard, h, 4*blockBytes, 8*blockBytes, nil), block.StatusOK)
	c.must(a.access.Join(c.ctx, v, 0, c.nodes[2].storeID, uuid.Nil, ignore))
	if got := c.set(id, 0); !slices.Equal(got, []int{0, 1, 2}) {
		t.Fatalf("on %v", got)
	}
	c.write(a, h, 5, fill(2, 1))
	c.same(id)
	if used := c.nodes[2].store.Usage().Volumes[id]; used != 33*blockBytes {
		t.Errorf("the new replica takes %d bytes: zeros take none", used)
	}
	// One of three fails: two go on, and what is under way there is not disturbed.
	c.nodes[1].crash(vfs.PowerLoss)
	c.write(a, h, 6, fill(3, 1))
	c.same(id)
	if got := c.set(id, 0); !slices.Equal(got, []int{0, 2}) {
		t.Fatalf("on %v", got)
	}
	c.nodes[1].start()
	c.reconnect(0)
	c.must(a.access.Join(c.ctx, v, 0, c.nodes[1].storeID, c.nodes[2].storeID, ignore))
	if got := c.set(id, 0); !slices.Equal(got, []int{0, 1}) {
		t.Fatalf("on %v", got)
	}
	if c.nodes[2].store.Usage().Extents != 0 {
		t.Error("the one that was relieved has it still")
	}
	c.same(id)
}

// TestReplicasOnlyElsewhere: the owner need not have a replica.
func TestShrinkAndDeleteEverywhere(t *testing.T) {
	t.Parallel()
	p := newPair(t, false)
	ext := int(p.extent / blockBytes)
	p.write(p.a, p.h, ext-2, fill(4, 4))
	p.must(p.a.access.Shrink(p.ctx, p.v, p.extent-blockBytes))
	p.same(p.id)
	for _, n := range p.nodes {
		if got := n.blocks(p.first()); got[len(got)-1] != 0 || got[len(got)-2*blockBytes] != 4 {
			t.Errorf("node %d: the tail is %d", n.number, got[len(got)-1])
		}
		if n.store.Usage().Extents != 1 {
			t.Errorf("node %d has %d extents", n.number, n.store.Usage().Extents)
		}
	}
	p.must(p.a.host.client.Revoke(p.ctx, Handle(p.h)))
	p.must(p.a.access.CloseVolume(p.ctx, p.id))
	p.must(p.a.access.Delete(p.ctx, p.id))
	for _, n := range p.nodes {
		n.until("nothing is left", func() bool { return len(n.store.IDs()) == 0 })
	}
}
