package access

import (
	"context"
	"fmt"
	"time"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/sdk/ring"
)

// quietFor is how long nothing must have been written to a region before its members are told that it is the same on all.
const quietFor = 5 * time.Second

// cleanRun is how many regions are cleaned by one command, which holds them.
const cleanRun = 64

// opClean has members forget that a range was written, after all of them have made it durable.
const opClean ring.Op = 0xfc

// marks are what an extent's owner knows of what its members have noted as dirty. A region that is not in dirty is so on none.
type marks struct {
	dirty  extent.Regions // written, and not said to be clean
	recent extent.Regions // of those, written since upkeep began last
	quiet  extent.Regions // to be cleaned, unless they are written
}

func newMarks(n int) *marks {
	return &marks{dirty: extent.NewRegions(n), recent: extent.NewRegions(n), quiet: extent.NewRegions(n)}
}

// allDirty is what is known of an extent that got a new member.
func allDirty(n int) *marks {
	m := newMarks(n)
	m.dirty.Add(0, uint32(n))
	return m
}

// wrote notes a write of n blocks from block on.
func (m *marks) wrote(size, block, n uint32) {
	from, to := block/size, (block+n+size-1)/size
	m.dirty.Add(from, to)
	m.recent.Add(from, to)
}

// begin makes quiet what nothing was written to since it was called last.
func (m *marks) begin() {
	for i, w := range m.dirty {
		m.quiet[i] = w &^ m.recent[i]
	}
	m.recent.Clear()
}

// next is a run of regions to clean, from region from on, and nothing of what differs.
func (m *marks) next(from uint32, differs extent.Regions) (first, end uint32, ok bool) {
	usable := func(r uint32) bool {
		return !m.recent.Has(r, r+1) && (differs == nil || !differs.Has(r, r+1))
	}
	for {
		r, ok := m.quiet.Next(from)
		if !ok {
			return 0, 0, false
		}
		if from = r + 1; !usable(r) {
			continue
		}
		for end = r + 1; end-r < cleanRun && int(end) < 64*len(m.quiet) && m.quiet.Has(end, end+1) && usable(end); end++ {
		}
		return r, end, true
	}
}

// upkeep looks after volumes in the background: what members may differ in is made equal, and what is quiet is cleaned; a volume
// that is used from another node follows.
func (a *Access) upkeep() {
	tick := time.NewTicker(quietFor)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-a.ctx.Done():
			return
		}
		if a.reactor.Do(a.ctx, func() {
			for _, v := range a.volumes {
				if v.replicated && !v.tending && !v.closed {
					v.beginUpkeep()
				}
			}
			a.follow()
		}) != nil {
			return
		}
	}
}

func (v *Volume) beginUpkeep() {
	for i := range v.extents {
		if m := v.extents[i].marks; m != nil {
			m.begin()
		}
	}
	v.tending, v.tendAt, v.tendRegion = true, 0, 0
	v.tend()
}

// tendScan is how many extents are looked at in one turn.
const tendScan = 1024

// tend does one thing, and goes on when that is done.
func (v *Volume) tend() {
	again := func(ring.Status) { v.access.reactor.Post(v.tend) }
	for n := 0; v.tendAt < len(v.extents) && !v.closed && !v.leaving; v.tendAt, v.tendRegion = v.tendAt+1, 0 {
		e := &v.extents[v.tendAt]
		if n++; n > tendScan {
			again(ring.StatusOK)
			return
		}
		if e.resolving != nil || e.state != extentReady || len(e.set) < 2 || e.joiner != nil || !e.serves(extent.OpWrite) {
			continue
		}
		if region, ok := e.differs.Next(v.tendRegion); ok {
			v.tendRegion = region + 1
			l := v.level(uint32(v.tendAt), region)
			l.then = append(l.then, again)
			return
		}
		if e.marks == nil {
			continue
		}
		if first, end, ok := e.marks.next(0, e.differs); ok {
			v.clean(uint32(v.tendAt), first, end, again)
			return
		}
	}
	v.tending = false
}

// clean has regions of extent i cleaned on all members.
func (v *Volume) clean(i, first, end uint32, then func(ring.Status)) {
	m := v.extents[i].marks
	m.quiet.Remove(first, end)
	at := int64(i) * v.access.extentBytes
	v.run(opClean, span{at + int64(first)*v.regionBytes(), at + int64(end)*v.regionBytes()}, inner{marks: m, done: func(s ring.Status) {
		if s == ring.StatusOK && int(i) < len(v.extents) && v.extents[i].marks == m {
			m.dirty.Remove(first, end)
		}
		then(s)
	}})
}

// startClean sends what a command that cleans has to send: first the flush that makes everything in its range durable, where that
// is not so by itself, and then the word. Nothing in its range is under way meanwhile.
func (o *op) startClean() {
	v := o.vol
	i := o.range_.from / v.access.extentBytes
	e := &v.extents[i]
	if e.state != extentReady || e.resolving != nil || e.marks != o.inner.marks || e.joiner != nil || !e.serves(extent.OpWrite) {
		o.fail(ring.StatusAborted, 0) // another time
		o.finish()
		return
	}
	if (!v.durable || v.hardening) && !o.writing {
		o.writing = true
		o.toAll(e, &extent.IO{Op: extent.OpFlush, ID: extent.ID{Volume: v.id, Index: uint32(i)}, Gen: e.generation, Durable: true})
		return
	}
	o.pos = o.range_.to // done with this
	o.toAll(e, &extent.IO{
		Op: extent.OpClean, ID: extent.ID{Volume: v.id, Index: uint32(i)}, Gen: e.generation,
		Block: uint32(o.range_.from % v.access.extentBytes / blockBytes), Blocks: uint32((o.range_.to - o.range_.from) / blockBytes),
	})
}

// toAll sends a request to all members.
func (o *op) toAll(e *extentSlot, io *extent.IO) {
	o.pending++
	o.sent = 0
	for m := range e.set {
		o.ask(e, m, io)
	}
	if o.pending--; o.pending == 0 {
		o.step()
	}
}

// Clean has the members of an extent told that everything written to it is on all of them, now. It is for who is about to take a
// member out of service.
func (a *Access) Clean(ctx context.Context, v *Volume, index uint32) error {
	for from := uint32(0); ; {
		done, idle := make(chan ring.Status, 1), false
		if err := a.reactor.Do(ctx, func() {
			idle = true
			if int(index) >= len(v.extents) || v.extents[index].marks == nil || len(v.extents[index].set) < 2 {
				return
			}
			m := v.extents[index].marks
			copy(m.quiet, m.dirty)
			m.recent.Clear()
			if first, end, ok := m.next(from, v.extents[index].differs); ok {
				idle, from = false, end
				v.clean(index, first, end, func(s ring.Status) { done <- s })
			}
		}); err != nil || idle {
			return err
		}
		select {
		case s := <-done:
			if s != ring.StatusOK {
				return fmt.Errorf("clean extent %d of volume %s: %v", index, v.name, s)
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-a.reactor.done:
			return ErrStopped
		}
	}
}
