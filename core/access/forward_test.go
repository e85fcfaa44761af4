package access

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/peer/peertest"
	"github.com/mooring-io/mooring/core/vfs"
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/ring"
)

// use has a node use a volume for a host, whoever drives it.
func (n *node) use(id uuid.UUID, size int64, host string, epoch uint64) (*Volume, block.Handle) {
	n.c.t.Helper()
	g := Geometry{ID: id, Name: "v", Size: size, BlockSize: 4096, Replicas: n.c.meta.replicas}
	n.c.meta.describe(g)
	v, err := n.access.Use(n.c.ctx, g)
	n.c.must(err)
	return v, n.host.grant(v, host, epoch)
}

func (m *clusterMeta) describe(g Geometry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.about[g.ID] = g
}

// setEpoch is what moves a host's path, in Meta.
func (m *clusterMeta) setEpoch(host string, epoch uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epochs[Host{Protocol: meta.NVMe, Name: host}] = epoch
}

func filled(b byte, blocks int) []byte { return bytes.Repeat([]byte{b}, blocks*blockBytes) }

func TestForward(t *testing.T) {
	c := newCluster(t, 1, 3, 2)
	id, size := uuid.New(), int64(1<<20)
	owner, other := c.nodes[0], c.nodes[1]
	_, here := owner.use(id, size, "a", 1)
	v, there := other.use(id, size, "b", 1)
	driven, by, err := v.Driven(c.ctx)
	if c.must(err); driven || by != owner.id {
		t.Fatalf("driven here: %v, by %v", driven, by)
	}
	h := other.host
	h.want("write", h.start(block.OpWrite, there, 8192, 8192, filled(1, 2)), block.StatusOK)
	if got, s := owner.host.read(here, 8192, 8192); s != block.StatusOK || !bytes.Equal(got, filled(1, 2)) {
		t.Errorf("the owner reads %v %d…", s, got[0])
	}
	owner.host.want("write at the owner", owner.host.start(block.OpWrite, here, 4096, 4096, filled(2, 1)), block.StatusOK)
	if got, s := h.read(there, 0, 16384); s != block.StatusOK || !bytes.Equal(got, slicesOf(filled(0, 1), filled(2, 1), filled(1, 2))) {
		t.Errorf("the other node reads %v %d…", s, got[0])
	}
	h.want("flush", h.start(block.OpFlush, there, 0, 0, nil), block.StatusOK)
	h.want("compare", h.start(block.OpCompare, there, 4096, 4096, filled(2, 1)), block.StatusOK)
	f := h.start(block.OpCompare, there, 0, 8192, filled(0, 2))
	if h.want("compare of something else", f, block.StatusCompareFailed); f.Info != 4096 {
		t.Errorf("it differs at %d", f.Info)
	}
	h.want("compare and write", h.start(block.OpCompareAndWrite, there, 4096, 4096, slicesOf(filled(2, 1), filled(3, 1))), block.StatusOK)
	h.want("compare and write again", h.start(block.OpCompareAndWrite, there, 4096, 4096, slicesOf(filled(2, 1), filled(4, 1))), block.StatusCompareFailed)
	h.want("write zeroes", h.start(block.OpWriteZeroes, there, 8192, 4096, nil), block.StatusOK)
	h.want("discard", h.start(block.OpDiscard, there, 65536, 65536, nil), block.StatusOK)
	h.want("verify", h.start(block.OpVerify, there, 0, uint64(size), nil), block.StatusOK)
	h.want("beyond the end", h.start(block.OpRead, there, uint64(size), 4096, make([]byte, 4096)), block.StatusOutOfRange)
	if got, s := owner.host.read(here, 0, 16384); s != block.StatusOK || !bytes.Equal(got, slicesOf(filled(0, 1), filled(3, 1), filled(0, 1), filled(1, 1))) {
		t.Errorf("the owner reads %v %d…", s, got[4096])
	}
	large := filled(7, 128)
	h.want("large write", h.start(block.OpWrite, there, 524288, uint64(len(large)), large), block.StatusOK)
	if got, s := h.read(there, 524288, uint64(len(large))); s != block.StatusOK || !bytes.Equal(got, large) {
		t.Errorf("a large read: %v", s)
	}
	c.same(id)
}

func slicesOf(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// couple is an owner and a node that forwards to it, with a host at each.
type couple struct {
	*cluster
	id           uuid.UUID
	owner, other *node
	mine         *Volume // at the owner
	vol          *Volume // at the other node
	here, there  block.Handle
}

func newCouple(t *testing.T, seed uint64) *couple {
	c := newCluster(t, seed, 3, 2)
	p := &couple{cluster: c, id: uuid.New(), owner: c.nodes[0], other: c.nodes[1]}
	p.mine, p.here = p.owner.use(p.id, 1<<20, "a", 1)
	p.vol, p.there = p.other.use(p.id, 1<<20, "b", 1)
	p.owner.host.want("first write", p.owner.host.start(block.OpWrite, p.here, 0, 4096, filled(1, 1)), block.StatusOK)
	p.other.host.want("first forwarded write", p.write(1), block.StatusOK)
	return p
}

// write begins a forwarded write of the second block.
func (p *couple) write(b byte) *flight {
	return p.other.host.start(block.OpWrite, p.there, 4096, 4096, filled(b, 1))
}

// holds checks what a host reads there.
func (p *couple) holds(what string, n *node, h block.Handle, b byte) {
	p.t.Helper()
	if got, s := n.host.read(h, 4096, 4096); s != block.StatusOK || !bytes.Equal(got, filled(b, 1)) {
		p.t.Errorf("%s: read %v, %d…, want %d", what, s, got[0], b)
	}
}

// parked has the owner's lease look expired, so that a forwarded write waits there, and returns that write.
func (p *couple) parked(b byte) *flight {
	p.t.Helper()
	p.owner.session.deadline.Store(0)
	f := p.write(b)
	p.owner.until("the write is parked at the owner", func() bool { return p.owner.access.held.n > 0 })
	return f
}

// A command that is parked at the owner is refused when its host's path has moved, wherever it moved to, and is not applied later.
func TestForwardedEpoch(t *testing.T) {
	for name, move := range map[string]func(p *couple) (*node, block.Handle){
		"to another node": func(p *couple) (*node, block.Handle) {
			_, h := p.nodes[2].use(p.id, 1<<20, "b", 2)
			return p.nodes[2], h
		},
		"to the owner": func(p *couple) (*node, block.Handle) {
			_, h := p.owner.use(p.id, 1<<20, "b", 2)
			return p.owner, h
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newCouple(t, 2)
			old := p.parked(2)
			p.meta.setEpoch("b", 2)
			n, h := move(p)
			again := n.host.start(block.OpWrite, h, 4096, 4096, filled(3, 1))
			p.other.host.want("the parked write", old, block.StatusPathLost)
			p.owner.session.deadline.Store(math.MaxInt64)
			n.host.want("the write on the new path", again, block.StatusOK)
			p.other.host.want("a write on the old path", p.write(4), block.StatusPathLost)
			p.holds("after all", p.owner, p.here, 3)
		})
	}
}

// A new owner has seen no epoch: it asks Meta before it lets in what comes from a node that did not hear of the move.
func TestForwardedEpochAtNewOwner(t *testing.T) {
	p := newCouple(t, 3)
	last := p.nodes[2]
	p.meta.setEpoch("b", 2)
	_, moved := p.owner.use(p.id, 1<<20, "b", 2)
	p.owner.host.want("a write on the new path", p.owner.host.start(block.OpWrite, moved, 4096, 4096, filled(3, 1)), block.StatusOK)
	p.owner.crash(vfs.ProcessDeath)
	_, hers := last.use(p.id, 1<<20, "c", 1) // a host that has nothing to do with it has the last node take the volume
	p.holds("at the new owner", last, hers, 3)
	// It waits for the driver, and is let in or refused by the new one, to which the path of its host is new.
	p.other.host.want("the write on the old path", p.write(2), block.StatusPathLost)
	p.holds("after all", last, hers, 3)
}

// Nor does a forwarder that becomes the owner let in what waited at itself since before the path left it.
func TestForwardedEpochAtSelf(t *testing.T) {
	p := newCouple(t, 12)
	last := p.nodes[2]
	p.other.cables[0].Cut()
	p.other.until("the link is gone", func() bool { return p.vol.away.to == nil })
	old := p.write(2)
	p.other.until("the write waits", func() bool { return p.vol.away.waiting.n > 0 })
	p.meta.setEpoch("b", 2)
	_, moved := last.use(p.id, 1<<20, "b", 2)
	last.host.want("a write on the new path", last.host.start(block.OpWrite, moved, 4096, 4096, filled(3, 1)), block.StatusOK)
	p.owner.crash(vfs.ProcessDeath)
	p.other.host.want("the write that waited", old, block.StatusPathLost)
	p.other.until("the volume is taken", func() bool { return p.vol.away == nil })
	_, hers := p.other.use(p.id, 1<<20, "c", 1)
	p.holds("after all", p.other, hers, 3)
}

// The owner dies with commands in flight: they are answered "retry", and the next ones go to whoever takes the volume, here the forwarder itself.
func TestForwardOwnerDies(t *testing.T) {
	p := newCouple(t, 4)
	f := p.parked(2)
	p.owner.crash(vfs.ProcessDeath)
	p.other.host.want("the write in flight", f, block.StatusRetry)
	var enforced atomic.Bool // the next write waits meanwhile, and must not be waited for
	p.other.on(func() {
		p.other.access.enforce = func(ctx context.Context, v *Volume) error {
			enforced.Store(true)
			return v.SetGuard(ctx, nil)
		}
	})
	p.other.host.want("the next write", p.write(3), block.StatusOK)
	if !enforced.Load() {
		t.Error("the reservation was not put in force")
	}
	if here, _, err := p.vol.Driven(p.ctx); err != nil || !here {
		t.Errorf("the volume was not taken: %v", err)
	}
	p.holds("at the new owner", p.other, p.there, 3)
	// The third node finds the new owner.
	_, third := p.nodes[2].use(p.id, 1<<20, "c", 1)
	p.holds("at the third node", p.nodes[2], third, 3)
}

// The owner stands still: when another node took the volume, what is under way is not waited for any more, and nothing of it is applied later.
func TestForwardOwnerStandsStill(t *testing.T) {
	p := newCouple(t, 5)
	f := p.parked(2)
	p.meta.end(p.owner.session)
	_, third := p.nodes[2].use(p.id, 1<<20, "b", 2)
	p.nodes[2].host.want("a write at the new owner", p.nodes[2].host.start(block.OpWrite, third, 4096, 4096, filled(3, 1)), block.StatusOK)
	p.must(p.other.access.Relieved(p.ctx))
	p.other.host.want("the write in flight", f, block.StatusRetry)
	p.owner.session.deadline.Store(math.MaxInt64) // it believes that it still drives the volume
	p.owner.until("the former owner has dropped it", func() bool { return p.owner.access.held.n == 0 })
	p.holds("after all", p.nodes[2], third, 3)
}

// The link breaks with a command in flight: the host is told to try again, and its next command is served when the first has ended.
func TestForwardLinkBreaks(t *testing.T) {
	p := newCouple(t, 6)
	p.owner.on(func() { p.owner.queue.shut = true })
	f := p.write(2)
	p.owner.until("the write is at the disk", func() bool { return len(p.owner.queue.kept) > 0 })
	p.other.cables[0].Cut()
	p.other.host.want("the write in flight", f, block.StatusRetry)
	again := p.write(3)
	k, x, y := peertest.Connect(7, p.other.reactor.Post, p.owner.reactor.Post)
	p.other.cables[0] = k
	p.owner.on(func() { p.owner.links.Serve(p.other.id, y) })
	p.other.on(func() { p.other.links.Connect(p.owner.id, x, nil) })
	p.owner.on(func() {
		for c := range p.owner.access.clients {
			if c.name == "node "+p.other.id.String() && !c.closing {
				t.Error("the new link is served before the old one has ended")
			}
		}
	})
	if !again.pending() {
		t.Error("the second write did not wait")
	}
	p.owner.on(p.owner.queue.open)
	p.other.host.want("the second write", again, block.StatusOK)
	p.holds("after all", p.owner, p.here, 3)
}

// The forwarder dies: what it had parked at the owner is dropped, and the others go on.
func TestForwarderDies(t *testing.T) {
	p := newCouple(t, 8)
	p.parked(2)
	p.other.crash(vfs.ProcessDeath)
	p.owner.until("the owner has dropped it", func() bool { return p.owner.access.held.n == 0 && len(p.owner.access.clients) == 1 })
	p.owner.session.deadline.Store(math.MaxInt64)
	p.holds("after all", p.owner, p.here, 1)
	p.owner.host.want("a write", p.owner.host.start(block.OpWrite, p.here, 4096, 4096, filled(5, 1)), block.StatusOK)
	p.holds("in the end", p.owner, p.here, 5)
}

// What there are no credits for waits at the forwarder, and all of it is served.
func TestForwardCredits(t *testing.T) {
	p := newCouple(t, 9)
	p.owner.session.deadline.Store(0)
	type sent struct {
		*plugin
		*flight
	}
	var all []sent
	for range 3 {
		h := p.other.newHost()
		t.Cleanup(func() { h.stop(); p.must(h.client.Close(context.Background())) })
		there := h.grant(p.vol, "b", 1)
		for range 15 {
			all = append(all, sent{h, h.start(block.OpRead, there, 0, 1<<20, make([]byte, 1<<20))})
		}
	}
	p.other.until("some wait for credits", func() bool { return p.vol.away.to.crowd.n == 45-32 })
	p.owner.until("the others are at the owner", func() bool { return p.owner.access.held.n == 32 })
	p.owner.session.deadline.Store(math.MaxInt64)
	for _, f := range all {
		f.want("read", f.flight, block.StatusOK)
	}
}

// As many commands go on as there are credits for.
func TestForwardCrowd(t *testing.T) {
	p := newCouple(t, 13)
	p.other.on(func() { p.other.access.credits = 16 << 10 })
	p.owner.on(func() { p.owner.queue.shut = true })
	all := []*flight{p.other.host.start(block.OpRead, p.there, 0, 16<<10, make([]byte, 16<<10))}
	p.owner.until("the large one is at the disk", func() bool { return len(p.owner.queue.kept) > 0 })
	for range 5 {
		all = append(all, p.other.host.start(block.OpRead, p.there, 0, 4096, make([]byte, 4096)))
	}
	p.other.until("the small ones wait", func() bool { return p.vol.away.to.crowd.n == 5 })
	p.other.on(func() {
		p.other.access.credits = 32 << 10
		if p.other.access.admit(); p.other.access.runq.n != 4 || p.vol.away.to.crowd.n != 1 {
			t.Errorf("%d go on, %d wait", p.other.access.runq.n, p.vol.away.to.crowd.n)
		}
	})
	p.other.until("they are under way", func() bool { return p.vol.away.flying == 5 })
	p.owner.on(p.owner.queue.open)
	for _, f := range all {
		p.other.host.want("read", f, block.StatusOK)
	}
}

// One that was to go on and does not holds up none behind it.
func TestForwardCrowdGoesOn(t *testing.T) {
	p := newCouple(t, 14)
	p.other.on(func() { p.other.access.credits = blockBytes })
	p.owner.session.deadline.Store(0)
	read := func() *flight { return p.other.host.start(block.OpRead, p.there, 0, 4096, make([]byte, 4096)) }
	all := []*flight{read(), read(), read()}
	p.other.until("two wait", func() bool { return p.vol.away.to.crowd.n == 2 })
	p.other.on(func() { p.vol.away.to.crowd.head.fail(ring.StatusAborted, 0) })
	p.owner.session.deadline.Store(math.MaxInt64)
	aborted := 0
	for _, f := range all {
		if p.other.host.wait(f); f.Status == block.StatusAborted {
			aborted++
		} else if f.Status != block.StatusOK {
			t.Errorf("read: %v", f.Status)
		}
	}
	if aborted != 1 {
		t.Errorf("%d were aborted", aborted)
	}
}

// noWrites lets nobody change anything.
type noWrites struct{}

func (noWrites) AllowsRead(Host) bool  { return true }
func (noWrites) AllowsWrite(Host) bool { return false }

// A reservation that another node changed is in force at the owner when that node's SetGuard has returned.
func TestForwardedReservation(t *testing.T) {
	p := newCouple(t, 10)
	p.owner.access.enforce = func(ctx context.Context, v *Volume) error { return v.SetGuard(ctx, noWrites{}) }
	p.must(p.vol.SetGuard(p.ctx, nil))
	p.other.host.want("a write against it", p.write(2), block.StatusReservationConflict)
	p.holds("reads", p.other, p.there, 1)
}

// A volume that only other nodes' hosts use can be closed: they ask for it again.
func TestForwardedClose(t *testing.T) {
	p := newCouple(t, 11)
	if err := p.owner.access.CloseVolume(p.ctx, p.id); err == nil {
		t.Error("it was closed with a host of its own")
	}
	p.must(p.owner.host.client.Revoke(p.ctx, Handle(p.here)))
	p.must(p.owner.access.CloseVolume(p.ctx, p.id))
	p.other.host.want("a write after it", p.write(2), block.StatusOK)
	p.holds("after all", p.other, p.there, 2)
}

// TestForwardedHistory: hosts at three nodes use one volume, which one of them drives, while links break and come back, nodes die and
// return, and sessions end. Whatever happens, a read at any node returns what a linear history of the block allows.
func TestForwardedHistory(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			h := &everywhere{history: newHistory(t, 20+seed), handles: make([]block.Handle, 3)}
			for i := range h.nodes {
				h.join(i)
			}
			for range 12 {
				h.round()
			}
			for i := range h.nodes {
				h.owner, h.handle = h.nodes[i], h.handles[i]
				h.touch()
			}
			h.did["unknown"] = h.unknown
			t.Log(h.did)
		})
	}
}

// everywhere is a history of which every node has a part.
type everywhere struct {
	*history
	handles []block.Handle // by node
	lives   uint64
}

// join gives the host of a node the volume, in a new association.
func (h *everywhere) join(i int) {
	h.lives++
	host := fmt.Sprint("host ", i)
	h.meta.setEpoch(host, h.lives)
	_, h.handles[i] = h.nodes[i].use(h.id, int64(h.size*blockBytes), host, h.lives)
}

// yield has whoever drives the volume give it up for a node, which may be the same.
func (h *everywhere) yield(to *node) error {
	for _, n := range h.nodes {
		v, err := n.access.Lookup(h.ctx, h.id)
		if err != nil || v == nil {
			continue // it is dead
		}
		if here, _, err := v.Driven(h.ctx); err != nil || !here {
			continue
		}
		if err := n.access.Yield(h.ctx, v, to.id); err != nil {
			return err
		}
	}
	return nil
}

func (h *everywhere) round() {
	at := map[*step]*node{}
	for range 4 + h.rng.IntN(16) {
		i := h.rng.IntN(3)
		h.owner, h.handle = h.nodes[i], h.handles[i]
		h.begin()
		at[h.flying[len(h.flying)-1]] = h.owner
	}
	n := h.nodes[h.rng.IntN(3)]
	over, stuck := false, false
	switch h.rng.IntN(7) {
	case 5:
		h.must(h.yield(h.nodes[h.rng.IntN(3)]))
		h.did["yielded"]++
	case 6:
		to, ended := h.nodes[h.rng.IntN(3)], make(chan error)
		go func() { ended <- h.yield(to) }()
		h.kill(n)
		if err := <-ended; err != nil {
			h.did["yielded in vain"]++
		}
	case 0:
		h.kill(n)
	case 1:
		n.cables[h.nodes[(n.number+1+h.rng.IntN(2))%3].number].Cut()
		stuck = true // what waits for that link waits until it is given up
		h.did["cut"]++
	case 2:
		h.meta.end(n.session)
		over, stuck = true, true
		h.did["expired"]++
	}
	for s, m := range at {
		for s.pending() && !m.dead {
			if stuck {
				n.clock.ahead.Add(int64(testTimeout))
				m.clock.ahead.Add(int64(testTimeout))
				h.must(m.access.Relieved(h.ctx))
			}
			time.Sleep(pause)
			if h.ctx.Err() != nil {
				h.t.Fatalf("%v at node %d does not end", s.Op, m.number)
			}
		}
	}
	h.collect(true)
	if over {
		h.kill(n)
	}
	if n.dead {
		n.start()
		h.reconnect(n.number)
		h.join(n.number)
	}
	for i := range h.nodes {
		for j := range h.nodes {
			if i != j {
				missing := false
				h.nodes[i].on(func() { missing = h.nodes[i].access.store(h.nodes[j].storeID) == nil })
				if missing {
					h.connect(i, j)
				}
			}
		}
	}
}
