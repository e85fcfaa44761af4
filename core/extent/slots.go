package extent

import "math/bits"

// slots is the set of free slots of the segments that the data file has. Segments are numbered from 0 at geometry.first.
type slots struct {
	first   uint32
	segment uint32 // slots per segment
	words   []uint64
	segFree []uint32 // free slots per segment
	free    uint32
	cursor  uint32 // where the next search begins, counted from first
}

func newSlots(g geometry) *slots { return &slots{first: g.first, segment: g.segment} }

// total is the number of slots in all segments.
func (a *slots) total() uint32 { return uint32(len(a.segFree)) * a.segment }

// grow adds one segment, all free.
func (a *slots) grow() {
	from := a.total()
	a.segFree = append(a.segFree, 0)
	for uint64(len(a.words))*64 < uint64(a.total()) {
		a.words = append(a.words, 0)
	}
	a.release(a.first+from, a.segment)
}

// drop takes the last segment away if all of it is free, and tells whether it did.
func (a *slots) drop() bool {
	last := len(a.segFree) - 1
	if last < 0 || a.segFree[last] != a.segment {
		return false
	}
	a.take(a.first+uint32(last)*a.segment, a.segment)
	a.segFree = a.segFree[:last]
	return true
}

func (a *slots) contains(slot uint32) bool { return slot >= a.first && slot-a.first < a.total() }

func (a *slots) isFree(slot uint32) bool {
	i := slot - a.first
	return a.words[i/64]>>(i%64)&1 == 1
}

func (a *slots) take(slot, n uint32) {
	for i := slot - a.first; i < slot-a.first+n; i++ {
		a.words[i/64] &^= 1 << (i % 64)
		a.segFree[i/a.segment]--
	}
	a.free -= n
}

// release makes n slots free. Freeing a free slot is our own bug and would let two blocks share it.
func (a *slots) release(slot, n uint32) {
	for i := slot - a.first; i < slot-a.first+n; i++ {
		if a.words[i/64]>>(i%64)&1 == 1 {
			panic("extent: slot freed twice")
		}
		a.words[i/64] |= 1 << (i % 64)
		a.segFree[i/a.segment]++
	}
	a.free += n
}

// alloc takes up to n adjacent slots, the next free ones after those taken last. The caller knows that one is free.
func (a *slots) alloc(n uint32) (slot, got uint32) {
	i := a.nextFree()
	start, end := i, a.total()
	for i < end && i-start < n && a.words[i/64]>>(i%64)&1 == 1 {
		i++
	}
	a.cursor = i
	a.take(a.first+start, i-start)
	return a.first + start, i - start
}

func (a *slots) nextFree() uint32 {
	i, total := a.cursor, a.total()
	for range 2*uint64(total)/64 + 4 {
		if i >= total {
			i = 0
		}
		if a.segFree[i/a.segment] == 0 {
			i = (i/a.segment + 1) * a.segment
			continue
		}
		if w := a.words[i/64] >> (i % 64); w != 0 {
			if i += uint32(bits.TrailingZeros64(w)); i < total {
				return i
			}
			i = 0
			continue
		}
		i = (i/64 + 1) * 64
	}
	panic("extent: no free slot where the count says there is one")
}

// takeSegment takes a segment that is wholly free, the last one, and tells whether there was one.
func (a *slots) takeSegment() (slot uint32, ok bool) {
	for i := len(a.segFree) - 1; i >= 0; i-- {
		if a.segFree[i] == a.segment {
			slot = a.first + uint32(i)*a.segment
			a.take(slot, a.segment)
			return slot, true
		}
	}
	return 0, false
}

// freed is a run of slots that nothing maps any more.
type freed struct {
	seq   uint64 // the batch that superseded them
	epoch uint64 // the read epoch at that time
	slot  uint32
	n     uint32
}

// freedQueue is a first-in first-out queue that does not allocate once it has grown.
type freedQueue struct {
	ring  []freed
	head  int
	count int
	slots uint32 // in all runs
}

func (q *freedQueue) push(f freed) {
	q.slots += f.n
	if q.count > 0 {
		last := &q.ring[(q.head+q.count-1)%len(q.ring)]
		if last.seq == f.seq && last.epoch == f.epoch && last.slot+last.n == f.slot {
			last.n += f.n
			return
		}
	}
	if q.count == len(q.ring) {
		ring := make([]freed, max(64, 2*len(q.ring)))
		for i := range q.count {
			ring[i] = q.ring[(q.head+i)%len(q.ring)]
		}
		q.ring, q.head = ring, 0
	}
	q.ring[(q.head+q.count)%len(q.ring)] = f
	q.count++
}

func (q *freedQueue) front() *freed {
	if q.count == 0 {
		return nil
	}
	return &q.ring[q.head]
}

func (q *freedQueue) pop() freed {
	f := q.ring[q.head]
	q.head = (q.head + 1) % len(q.ring)
	q.count--
	q.slots -= f.n
	return f
}
