package access

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/sdk/block"
)

// driver is the node that drives the couple's volume, by the forwarder.
func (p *couple) driver() uuid.UUID {
	p.t.Helper()
	here, by, err := p.vol.Driven(p.ctx)
	p.must(err)
	if here {
		return p.other.id
	}
	return by
}

// look has the owner look where commands came from since it last did.
func (p *couple) look(n *node) {
	p.t.Helper()
	n.clock.ahead.Add(int64(followFor))
	n.on(n.access.follow)
}

func (p *couple) settled(n *node, v *Volume) {
	p.t.Helper()
	n.until("nothing is given up", func() bool { return !v.leaving })
}

// When one other node sends nearly all commands, it comes to drive the volume, and the hosts notice nothing.
func TestVolumeFollows(t *testing.T) {
	p := newCouple(t, 31)
	p.look(p.owner)
	send := func(n int) {
		for i := range n {
			p.other.host.want("a forwarded write", p.write(byte(i)), block.StatusOK)
		}
	}
	for _, few := range []struct {
		what         string
		theirs, ours int
	}{{"too few commands", followMin - 1, 0}, {"too many from here", followMin, followMin / 8}} {
		send(few.theirs)
		for range few.ours {
			p.holds(few.what, p.owner, p.here, byte(few.theirs-1))
		}
		p.look(p.owner)
		if p.settled(p.owner, p.mine); p.driver() != p.owner.id {
			t.Fatalf("it follows after %s", few.what)
		}
	}
	send(followMin)
	p.holds("one read at the owner", p.owner, p.here, followMin-1)
	p.look(p.owner)
	p.other.host.want("the next write", p.write(200), block.StatusOK)
	p.owner.until("the owner does not drive it", func() bool { return p.mine.away != nil })
	p.holds("at the former owner", p.owner, p.here, 200)
	if p.driver() != p.other.id {
		t.Error("the forwarder does not drive it")
	}
	p.owner.host.want("a write at the former owner", p.owner.host.start(block.OpWrite, p.here, 4096, 4096, filled(201, 1)), block.StatusOK)
	p.holds("after all", p.other, p.there, 201)
	p.look(p.other)
	if p.settled(p.other, p.vol); p.driver() != p.other.id {
		t.Error("it went back")
	}
	p.same(p.id)
}

// Commands that come while a volume is given up wait for those that are under way, and none is lost or done twice.
func TestYieldWaits(t *testing.T) {
	p := newCouple(t, 32)
	p.owner.on(func() { p.owner.queue.shut = true })
	first := p.write(2)
	p.owner.until("the write is at the disk", func() bool { return len(p.owner.queue.kept) > 0 })
	yielded := make(chan error, 1)
	go func() { yielded <- p.owner.access.Yield(p.ctx, p.mine, p.other.id) }()
	p.owner.until("it is being given up", func() bool { return p.mine.leaving })
	second := p.owner.host.start(block.OpWrite, p.here, 4096, 4096, filled(3, 1))
	p.owner.until("the second write waits", func() bool { return p.mine.parting.n == 1 })
	third := p.owner.host.start(block.OpRead, p.here, 4096, 4096, make([]byte, 4096))
	p.owner.until("a read, too", func() bool { return p.mine.parting.n == 2 })
	p.must(p.owner.host.client.SetPath(p.ctx, Handle(p.here), Path{Epoch: 1, State: PathOptimized})) // waits for nothing that waits
	p.owner.on(p.owner.queue.open)
	p.must(<-yielded)
	p.other.host.want("the first write", first, block.StatusOK)
	p.owner.host.want("the second write", second, block.StatusOK)
	p.owner.host.want("the read", third, block.StatusOK)
	p.holds("after all", p.other, p.there, 3)
	if p.driver() != p.other.id {
		t.Error("the other node does not drive it")
	}
}

// A volume that cannot be given up is driven on: what is under way does not end, or Meta says no.
func TestYieldInVain(t *testing.T) {
	p := newCouple(t, 33)
	p.owner.session.deadline.Store(0) // a write waits for the lease, for longer than hosts would
	f := p.write(2)
	p.owner.until("the write is parked", func() bool { return p.owner.access.held.n > 0 })
	ctx, stop := context.WithTimeout(p.ctx, 50*time.Millisecond)
	defer stop()
	if err := p.owner.access.Yield(ctx, p.mine, p.other.id); err == nil {
		t.Error("it was given up with a command under way")
	}
	p.owner.session.deadline.Store(math.MaxInt64)
	p.other.host.want("the parked write", f, block.StatusOK)
	p.holds("at the owner", p.owner, p.here, 2)

	for what, to := range map[string]uuid.UUID{"Meta refuses": p.other.id, "a node without a session": uuid.New()} {
		refused := errors.New("not now")
		if what == "Meta refuses" {
			p.meta.onCall(func(what string) error {
				if what == "yield" {
					return refused
				}
				return nil
			})
		}
		if err := p.owner.access.Yield(p.ctx, p.mine, to); err == nil {
			t.Errorf("%s: no error", what)
		}
		p.meta.onCall(nil)
		p.other.host.want("a write after it", p.write(3), block.StatusOK)
		p.holds(what, p.owner, p.here, 3)
	}
}

// Given up for nobody, a volume is taken by the next node that needs it.
func TestYieldToNobody(t *testing.T) {
	p := newCouple(t, 34)
	p.must(p.owner.access.Yield(p.ctx, p.mine, uuid.Nil))
	p.must(p.owner.access.Yield(p.ctx, p.mine, uuid.Nil)) // it is not ours any more
	p.other.host.want("a write", p.write(4), block.StatusOK)
	if p.driver() != p.other.id {
		t.Error("it was not taken")
	}
	p.holds("at the former owner", p.owner, p.here, 4)
}

// A volume that nobody uses is driven by nobody, once it is whole.
func TestIdleVolumeIsGivenUp(t *testing.T) {
	p := newCouple(t, 35)
	owned := func() bool {
		p.meta.mu.Lock()
		defer p.meta.mu.Unlock()
		return p.meta.owners[p.id] != nil
	}
	idle := func() {
		p.owner.on(func() { p.mine.stirred = false }) // the healer has looked
		p.look(p.owner)
		p.settled(p.owner, p.mine)
	}
	p.other.host.want("a forwarded write", p.write(2), block.StatusOK)
	idle()
	idle()
	if !owned() {
		t.Fatal("it was given up under a host of the owner's")
	}
	p.must(p.owner.host.client.Revoke(p.ctx, Handle(p.here)))
	idle()
	idle()
	if !owned() {
		t.Fatal("it was given up under a host of the other node's")
	}
	p.must(p.other.host.client.Revoke(p.ctx, Handle(p.there)))
	p.owner.until("the other node has given its handle back", func() bool { return p.mine.users == 0 })
	p.owner.on(func() { p.mine.health.Reduced = 1 })
	idle()
	idle()
	if !owned() {
		t.Fatal("it was given up while it lacks a replica")
	}
	p.owner.on(func() { p.mine.health.Reduced = 0 })
	idle()
	p.owner.until("nobody drives it", func() bool { return p.mine.away != nil && !p.mine.leaving })
	if owned() {
		t.Error("Meta was not told")
	}
	_, again := p.other.use(p.id, 1<<20, "d", 1)
	p.holds("for the next host", p.other, again, 2)
	if !owned() {
		t.Error("nobody drives it under a host")
	}
}
