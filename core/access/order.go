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
//
// Where there are several replicas, a command that only reads takes part, too: it shares its blocks
// with others that read, and waits for those that change them. What it returns is then on
// every member, and a member that takes over later cannot bring back what was before.
type order struct {
	head, tail *op // active commands, oldest first
	holds      int // of those, how many hold their blocks
	shares     int // and how many share them
	parked     opList
}

// conflicts says whether a and b must not be under way together.
func conflicts(a, b *op) bool {
	return (a.holds || b.holds || a.shared != b.shared) && a.hold.overlaps(b.hold)
}

// mayStart says whether o can start now, given what is active and what was parked
// before it: the list of parked commands up to o itself, or all of them.
func (q *order) mayStart(o *op) bool {
	if q.holds > 0 || o.holds || q.shares > 0 || o.shared {
		for a := q.head; a != nil; a = a.next {
			if conflicts(a, o) {
				return false
			}
		}
	}
	for p := q.parked.head; p != nil && p != o; p = p.after {
		if conflicts(p, o) {
			return false
		}
	}
	return true
}

// enter makes o active, or parks it and says false.
func (q *order) enter(o *op) bool {
	if (q.holds > 0 || o.holds || q.shares > 0 || o.shared || q.parked.n > 0) && !q.mayStart(o) {
		q.parked.push(o)
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
	if o.shared {
		q.shares++
	}
}

// leave ends o, active or parked, and hands what nothing holds back any more to wake;
// those are active then.
func (q *order) leave(o *op, wake func(*op)) {
	if o.active {
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
		if o.shared {
			q.shares--
		}
	}
	for p := q.parked.head; p != nil; {
		next := p.after
		// What o did not hold back is held back by the others still.
		if p.hold.overlaps(o.hold) && q.mayStart(p) {
			q.activate(p)
			wake(p)
		}
		p = next
	}
}
