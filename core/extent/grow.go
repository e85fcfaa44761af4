package extent

import (
	"fmt"

	"github.com/mooring-io/mooring/core/vfs"
)

// growState is where the growth of the data file stands.
type growState uint8

const (
	growIdle growState = iota
	growAllocate
	growZero // writes zeros: a block that was written once syncs far faster than one that was only allocated
)

const (
	zeroBytes  = 1 << 20
	zeroFlying = 2 // requests at the disk

	leaveFree = 64 << 20 // bytes of the file system that the data file leaves, for the index among others; less on small ones
)

// growth adds segments to the data file ahead of need. Queue's goroutine only.
type growth struct {
	state   growState
	wanted  bool  // a write or an extent waits for it
	failed  int64 // Clock when the file system had no space; 0 = it has
	off     int64 // bytes: where zeroing goes on
	end     int64
	flying  int
	waiting []func() // creates that wait for a segment
	zeros   []byte
	ops     [zeroFlying]*vfs.Op
}

func (g *growth) free() error {
	if g.zeros == nil {
		return nil
	}
	b := g.zeros
	g.zeros = nil
	return vfs.FreeBuffer(b)
}

// canGrow tells whether the data file may still grow.
func (s *Store) canGrow() bool {
	if uint64(s.slots.total())+uint64(s.geo.segment) > uint64(s.limit) {
		return false
	}
	if f := s.grow.failed; f != 0 && s.clock()-f < int64(growRetryNanos) {
		return false
	}
	return true
}

// stepGrowth begins to add a segment when one is wanted or the free slots run low.
func (s *Store) stepGrowth() {
	g := &s.grow
	ahead := s.slots.free < s.keep+s.geo.segment/2 && !s.closing
	if g.state != growIdle || !g.wanted && !ahead || !s.canGrow() {
		return
	}
	g.wanted = false
	off := (int64(s.geo.first) + int64(s.slots.total())) * BlockSize
	g.off, g.end = off, off+int64(s.geo.segment)*BlockSize
	// A file system that is full says so when it has given away all that it had.
	leave := min(leaveFree, int64(s.limit)*BlockSize/8)
	if free, err := s.o.FS.Free(s.o.Dir); err == nil && free < g.end-off+leave {
		s.cannotGrow(fmt.Errorf("%d MiB are free, and %d are left to others", free>>20, leave>>20))
		return
	}
	g.state, g.failed = growAllocate, 0
	s.submit(&vfs.Op{Kind: vfs.OpAllocate, File: s.file, Off: off, Len: g.end - off, Done: s.segmentAllocated})
}

func (s *Store) segmentAllocated(op *vfs.Op) {
	g := &s.grow
	s.out--
	if op.Err != nil {
		s.cannotGrow(op.Err)
		return
	}
	g.state = growZero
	if !s.raw {
		g.off = g.end // a page cache or memory gains nothing
	} else if g.zeros == nil {
		if g.zeros = s.mustBuffer(zeroBytes); g.zeros == nil {
			return
		}
	}
	for i := range g.ops {
		if g.ops[i] == nil {
			g.ops[i] = &vfs.Op{Kind: vfs.OpWrite, File: s.file, Done: s.zeroWritten}
		}
		s.zeroNext(g.ops[i])
	}
	s.segmentReady()
}

// cannotGrow lets the store go on with what it has, and try again later.
func (s *Store) cannotGrow(err error) {
	if s.grow.failed == 0 {
		s.log.Warn("data file cannot grow; it is tried again", "store", s.id, "bytes", s.grow.end, "error", err)
	}
	s.grow.state, s.grow.failed = growIdle, max(1, s.clock())
	s.growthEnded()
}

func (s *Store) zeroNext(op *vfs.Op) {
	g := &s.grow
	if g.off == g.end || s.failure != nil {
		return
	}
	op.Off, op.Buf = g.off, g.zeros[:min(zeroBytes, g.end-g.off)]
	g.off += int64(len(op.Buf))
	g.flying++
	s.st.DiskWrites++
	s.submit(op)
}

func (s *Store) zeroWritten(op *vfs.Op) {
	s.out--
	s.grow.flying--
	if op.Err != nil {
		s.fail(op.Err)
	}
	s.zeroNext(op)
	s.segmentReady()
}

// segmentReady makes the segment's slots free once nothing is being written there.
func (s *Store) segmentReady() {
	g := &s.grow
	if g.flying > 0 || g.off < g.end || s.failure != nil {
		return
	}
	g.state = growIdle
	s.slots.grow()
	s.growthEnded()
}

// growthEnded has everyone try again who waited for space.
func (s *Store) growthEnded() {
	waiting := s.grow.waiting
	s.grow.waiting = nil
	for _, fn := range waiting {
		fn()
	}
	s.pump()
}

// takeArea takes a map area, if need be from a whole new segment; false means that none is there now.
func (s *Store) takeArea() (area uint32, ok bool) {
	if len(s.areas) == 0 {
		// A segment for maps must leave the overwrites their reserve.
		if uint64(s.slots.total()) < uint64(s.mapped)+uint64(s.newBlks)+uint64(s.areaSum)+uint64(s.geo.segment)+uint64(s.keep) {
			return 0, false
		}
		slot, ok := s.slots.takeSegment()
		if !ok {
			return 0, false
		}
		s.addAreas(slot, func(uint32) bool { return false })
	}
	last := len(s.areas) - 1
	area = s.areas[last]
	s.areas = s.areas[:last]
	return area, true
}

// addAreas makes the segment at slot one of map areas; those that used names are in use.
func (s *Store) addAreas(slot uint32, used func(area uint32) bool) {
	s.areaSum += s.geo.segment
	for i := s.geo.segment / s.geo.area; i > 0; i-- {
		if area := slot + (i-1)*s.geo.area; !used(area) {
			s.areas = append(s.areas, area)
		}
	}
}
