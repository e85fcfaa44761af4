package access

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/sdk/block"
)

// atDoor waits until n commands wait at a handle's door.
func (r *rig) atDoor(h Handle, c *Client, n int) {
	r.t.Helper()
	r.until(fmt.Sprintf("%d commands wait at the door", n), func() bool { g := c.find(h); return g != nil && g.door.n == n })
}

// way is one access point of a host: a plugin of its own and a handle.
type way struct {
	*plugin
	h      block.Handle
	wanted atomic.Int64 // how often the path was wanted here
}

func (r *rig) way(v *Volume, name string, p Path) *way {
	r.t.Helper()
	w := &way{plugin: r.plugin(name)}
	h, err := w.client.Grant(r.ctx, v, Host{Protocol: meta.NVMe, Name: "host"}, p, func() { w.wanted.Add(1) })
	if err != nil {
		r.t.Fatal(err)
	}
	w.h = block.Handle(h)
	return w
}

func (w *way) set(p Path) { w.r.t.Helper(); w.r.must(w.client.SetPath(w.r.ctx, Handle(w.h), p)) }

func (w *way) atDoor(n int) { w.r.t.Helper(); w.r.atDoor(Handle(w.h), w.client, n) }

// twoWays is a volume with data, whose host has an optimized access point a and a standby b.
func twoWays(t *testing.T, o rigOptions) (r *rig, v *Volume, a, b *way) {
	r = newRig(t, o)
	v = r.volume(4*testExtent, 512, false)
	a, b = r.way(v, "a", Path{Epoch: 1}), r.way(v, "b", Path{Epoch: 1, State: PathStandby})
	if s := a.write(a.h, 0, pattern(4*testExtent, 9)); s != block.StatusOK {
		t.Fatal(s)
	}
	return r, v, a, b
}

// What changes data at a standby waits until the path is there, and begins only when
// nothing of the former way is at a disk any more. What reads does not wait, and moves
// nothing.
func TestStandbyWaits(t *testing.T) {
	r, v, a, b := twoWays(t, rigOptions{seed: 21})
	first := pattern(4*testExtent, 9)[:512]
	b.want("read", b.start(block.OpRead, b.h, 0, 512, make([]byte, 512)), block.StatusOK)
	b.want("compare", b.start(block.OpCompare, b.h, 0, 512, first), block.StatusOK)
	b.want("verify", b.start(block.OpVerify, b.h, 0, 4096, nil), block.StatusOK)
	b.want("flush", b.start(block.OpFlush, b.h, 0, 0, nil), block.StatusOK)
	b.want("write beyond the end", b.start(block.OpWriteZeroes, b.h, 4*testExtent, 512, nil), block.StatusOutOfRange)
	b.want("write of no length", b.start(block.OpWriteZeroes, b.h, 0, 0, nil), block.StatusInvalidField)
	if n := b.wanted.Load(); n != 0 {
		t.Fatalf("commands that change nothing wanted the path %d times", n)
	}

	r.hold()
	atDisk := a.start(block.OpWrite, a.h, 0, 512, pattern(512, 1))
	r.atDisk(1)
	behind := a.start(block.OpWrite, a.h, 512, 512, pattern(512, 2))
	r.parkedBehind(v, 1)
	var waiting []*flight
	for i, op := range []block.Op{block.OpWrite, block.OpWriteZeroes, block.OpDiscard, block.OpCompareAndWrite} {
		data := [][]byte{pattern(512, 3), nil, nil, append(pattern(4*testExtent, 9)[3*4096:][:512], pattern(512, 5)...)}[i]
		waiting = append(waiting, b.start(op, b.h, uint64(i)*4096, []uint64{512, 512, 4096, 512}[i], data))
	}
	b.atDoor(4)
	if n := b.wanted.Load(); n != 1 {
		t.Fatalf("the path was wanted %d times", n)
	}
	if w, err := b.client.Wanted(r.ctx, Handle(b.h)); err != nil || !w {
		t.Fatalf("wanted: %v, %v", w, err)
	}
	if w, _ := a.client.Wanted(r.ctx, Handle(a.h)); w {
		t.Error("the path is wanted where it is")
	}
	if s := v.inflightOf(r); s != 2 {
		t.Errorf("%d commands have begun, want 2", s)
	}

	moved := make(chan struct{})
	go func() { b.set(Path{Epoch: 2}); close(moved) }()
	a.want("parked command of the former way", behind, block.StatusPathLost)
	late := a.start(block.OpWrite, a.h, 1024, 512, pattern(512, 6))
	a.atDoor(1)
	b.atDoor(4)
	r.release()
	<-moved
	a.want("command at the disk", atDisk, block.StatusOK)
	for _, f := range waiting {
		b.want("command that waited", f, block.StatusOK)
	}
	if got, _ := a.read(a.h, 0, 512); !bytes.Equal(got, pattern(512, 3)) {
		t.Error("the later way's write was overwritten")
	}
	if n := a.wanted.Load(); n != 0 {
		t.Errorf("the path was wanted %d times where it was, before that was told", n)
	}
	a.set(Path{Epoch: 2, State: PathStandby})
	r.until("the former way is told, and wants the path back", func() bool { return a.wanted.Load() == 1 })
	b.set(Path{Epoch: 1}) // old news
	b.set(Path{Epoch: 3, State: PathStandby})
	a.set(Path{Epoch: 3})
	a.want("command that came to the former way", late, block.StatusOK)
	if a.wanted.Load() != 1 || b.wanted.Load() != 1 {
		t.Errorf("the path was wanted %d and %d times", a.wanted.Load(), b.wanted.Load())
	}
	r.settled(v)
}

// inflightOf is how many commands have begun.
func (v *Volume) inflightOf(r *rig) (n int) {
	r.on(func() { n = v.inflight })
	return n
}

// What waits at a door can be ended in every way, and keeps nobody waiting.
func TestDoorEnds(t *testing.T) {
	clock := &fakeClock{}
	clock.ns.Store(1)
	r, v, a, b := twoWays(t, rigOptions{seed: 22, clock: clock, holdFor: time.Minute})
	write := func() *flight { return b.start(block.OpWrite, b.h, 3*testExtent, 512, pattern(512, 1)) }

	f := write()
	b.atDoor(1)
	b.thread.Post(func() { b.thread.Abort(&f.Request) })
	b.want("aborted", f, block.StatusAborted)
	if w, err := b.client.Wanted(r.ctx, Handle(b.h)); err != nil || w {
		t.Errorf("still wanted: %v, %v", w, err)
	}

	f = write()
	b.atDoor(1)
	if n := b.wanted.Load(); n != 2 {
		t.Errorf("the path was wanted %d times", n)
	}
	clock.ns.Add(int64(2 * time.Minute))
	b.want("waited for too long", f, block.StatusRetry)

	// No reservation and no shrink waits for what has not begun, and both count for it.
	f = write()
	b.atDoor(1)
	r.must(v.SetGuard(r.ctx, readers{"host": true}))
	r.must(v.SetGuard(r.ctx, nil))
	r.must(r.access.Shrink(r.ctx, v, 2*testExtent))
	b.set(Path{Epoch: 2})
	b.want("beyond the end since it waits", f, block.StatusOutOfRange)
	r.must(v.SetGuard(r.ctx, readers{"other": true}))
	asked := a.wanted.Load()
	a.set(Path{Epoch: 2, State: PathStandby})
	a.want("write against a reservation", a.start(block.OpWriteZeroes, a.h, 0, 4096, nil), block.StatusReservationConflict)
	if a.wanted.Load() != asked {
		t.Error("a write that a reservation forbids wanted the path")
	}
	r.must(v.SetGuard(r.ctx, nil))

	f = a.start(block.OpWriteZeroes, a.h, 0, 4096, nil)
	a.atDoor(1)
	a.set(Path{Epoch: 2, State: PathInaccessible})
	a.want("write at a door that is closed for good", f, block.StatusPathLost)
	a.want("read where the volume is inaccessible", a.start(block.OpRead, a.h, 0, 512, make([]byte, 512)), block.StatusPathLost)

	a.set(Path{Epoch: 2, State: PathStandby})
	f = a.start(block.OpWriteZeroes, a.h, 0, 4096, nil)
	a.atDoor(1)
	r.must(a.client.Revoke(r.ctx, Handle(a.h)))
	a.want("write at a revoked handle's door", f, block.StatusPathLost)
	a.set(Path{Epoch: 3})

	b.set(Path{Epoch: 3, State: PathStandby})
	b.start(block.OpWriteZeroes, b.h, 0, 4096, nil)
	b.atDoor(1)
	r.must(b.client.Close(r.ctx))
	r.until("no door is looked after", func() bool { return len(r.access.doors) == 0 })
	r.settled(v)
}

// A host writes by three ways at once while the path goes where it is wanted. At no moment
// is more than one way's write under way, all of them end well, and what is read by
// whichever way is what was acknowledged last.
func TestOneWayAtATime(t *testing.T) {
	for seed := range uint64(4) {
		r := newRig(t, rigOptions{seed: 30 + seed})
		v := r.volume(4*testExtent, 512, false)
		var ways []*way
		wanted := make(chan int, 64)
		for i := range 3 {
			w := &way{plugin: r.plugin(fmt.Sprint("w", i))}
			p := Path{Epoch: 1, State: PathStandby}
			if i == 0 {
				p.State = PathOptimized
			}
			h, err := w.client.Grant(r.ctx, v, Host{Protocol: meta.NVMe, Name: "host"}, p, func() { wanted <- i })
			r.must(err)
			w.h = block.Handle(h)
			ways = append(ways, w)
		}
		mixed := 0
		r.on(func() { r.reactor.kicks = append(r.reactor.kicks, func() { mixed += r.writersBeyondOne() }) })

		moves := 0
		mover, stop := sync.WaitGroup{}, make(chan struct{})
		mover.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 1))
			for epoch := uint64(2); ; epoch++ {
				var to int
				select {
				case to = <-wanted:
				case <-stop:
					return
				}
				for _, i := range rnd.Perm(len(ways)) { // in whatever order they are told
					p := Path{Epoch: epoch, State: PathStandby}
					if i == to {
						p.State = PathOptimized
					}
					ways[i].set(p)
				}
				if _, err := ways[to].client.Wanted(r.ctx, Handle(ways[to].h)); err != nil {
					t.Error(err)
				}
				moves++
			}
		})

		var writers sync.WaitGroup
		for slot := range 6 {
			writers.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, uint64(slot)))
				off := uint64(slot) * 1536 // blocks of 4096 bytes are shared by neighbours
				for n := range 60 {
					w := ways[rnd.IntN(len(ways))]
					data := pattern(512, byte(n))
					s := w.write(w.h, off, data)
					for ; s == block.StatusPathLost; s = w.write(w.h, off, data) { // as a host does
					}
					if s != block.StatusOK {
						t.Errorf("write: %v", s)
						return
					}
					w = ways[rnd.IntN(len(ways))]
					if got, s := w.read(w.h, off, 512); s != block.StatusOK || !bytes.Equal(got, data) {
						t.Errorf("slot %d, write %d: %v, or stale data", slot, n, s)
						return
					}
				}
			})
		}
		writers.Wait()
		close(stop)
		mover.Wait()
		r.on(func() {
			if mixed > 0 {
				t.Errorf("seed %d: writes of several ways were under way together, %d times", seed, mixed)
			}
		})
		if moves < 10 {
			t.Errorf("seed %d: the path moved %d times only", seed, moves)
		}
		r.settled(v)
	}
}

// writersBeyondOne is how many grants too many have changes of data under way.
func (r *rig) writersBeyondOne() int {
	grants := map[*grant]bool{}
	for c := range r.access.clients {
		for _, p := range c.ports {
			for _, o := range p.inflight {
				if o != nil && o.begun && o.changes() && o.parked == nil {
					grants[o.grant] = true
				}
			}
		}
	}
	return max(0, len(grants)-1)
}
