package access

// span is a half-open range of bytes of a volume.
type span struct{ from, to int64 }

func (a span) overlaps(b span) bool { return a.from < b.to && b.from < a.to }

// blocks widens s to whole 4 KiB blocks, the grain of the extent store.
func (s span) blocks() span {
	return span{s.from &^ (blockBytes - 1), (s.to + blockBytes - 1) &^ (blockBytes - 1)}
}

// order gives overlapping commands of one volume one order.
//
// The extent store applies writes in the order in which it gets them, each block
// whole, so plain writes need no help. A command that reads before it writes
// (a sub-block write, compare-and-write) must hold its blocks in between: nothing
// that changes them may be under way when it begins, and nothing may begin before
// it ends. Commands that must wait are parked and started in the order in which
// they came.
type order struct {
	head, tail *op // active commands that change data, oldest first
	holds      int // of those, how many hold their blocks
	parked     []*op
}

// mayStart says whether o can start now, given what is active and what was parked
// before it (the first n parked commands).
func (q *order) mayStart(o *op, n int) bool {
	if q.holds > 0 || o.holds {
		for a := q.head; a != nil; a = a.next {
			if (a.holds || o.holds) && a.hold.overlaps(o.hold) {
				return false
			}
		}
	}
	for _, p := range q.parked[:n] {
		if !p.dead && (p.holds || o.holds) && p.hold.overlaps(o.hold) {
			return false
		}
	}
	return true
}

// enter makes o active, or parks it and says false.
func (q *order) enter(o *op) bool {
	if (q.holds > 0 || o.holds || len(q.parked) > 0) && !q.mayStart(o, len(q.parked)) {
		o.park = parkedOrder
		q.parked = append(q.parked, o)
		return false
	}
	q.activate(o)
	return true
}

func (q *order) activate(o *op) {
	o.active = true
	o.prev, o.next = q.tail, nil
	if q.tail != nil {
		q.tail.next = o
	} else {
		q.head = o
	}
	q.tail = o
	if o.holds {
		q.holds++
	}
}

// leave ends o and starts, by way of start, what was parked behind it.
func (q *order) leave(o *op, start func(*op)) {
	if !o.active {
		return
	}
	o.active = false
	if o.prev != nil {
		o.prev.next = o.next
	} else {
		q.head = o.next
	}
	if o.next != nil {
		o.next.prev = o.prev
	} else {
		q.tail = o.prev
	}
	o.prev, o.next = nil, nil
	if o.holds {
		q.holds--
	}
	if len(q.parked) > 0 {
		q.release(start)
	}
}

// release starts every parked command that nothing holds back any more.
func (q *order) release(start func(*op)) {
	var ready []*op
	for i := 0; i < len(q.parked); {
		p := q.parked[i]
		if !p.dead && !q.mayStart(p, i) {
			i++
			continue
		}
		q.parked = append(q.parked[:i], q.parked[i+1:]...)
		if p.dead {
			p.recycle()
			continue
		}
		p.park = notParked
		q.activate(p)
		ready = append(ready, p)
	}
	for _, p := range ready {
		start(p)
	}
}
