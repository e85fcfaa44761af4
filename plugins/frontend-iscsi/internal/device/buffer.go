package device

import "github.com/mooring-io/mooring/sdk/block"

// takeBuffer gives t size bytes of the pool as its Data, now or later, whatever the transport had there. A nexus whose tasks hold its share of the
// pool waits for itself, so that initiators cannot take all of it.
func (n *Nexus) takeBuffer(t *Task, size int) {
	t.need, t.Data = size, block.Buffer{}
	if n.parkedFirst == nil && n.pool.Fair(n.poolBytes, size) {
		if b, ok := n.pool.Alloc(size); ok {
			n.give(t, b)
			return
		}
	}
	t.Parked = true
	if n.parkedFirst == nil {
		n.parkedFirst = t
	} else {
		n.parkedLast.nextParked = t
	}
	n.parkedLast = t
	n.awaitPool()
}

func (n *Nexus) give(t *Task, b block.Buffer) {
	t.buf, t.Data = b, b
	n.poolBytes += b.Len()
}

// awaitPool waits for memory for the first parked task.
func (n *Nexus) awaitPool() {
	if n.poolWaits || n.parkedFirst == nil || !n.pool.Fair(n.poolBytes, n.parkedFirst.need) {
		return
	}
	n.poolWaits = true
	n.pool.Wait(n.parkedFirst.need, n.poolReady)
}

func (n *Nexus) poolReady(b block.Buffer) {
	n.poolWaits = false
	t := n.parkedFirst
	if t == nil || t.need != b.Len() {
		n.pool.Free(b) // who waited is gone
		n.awaitPool()
		return
	}
	n.unpark(t)
	n.give(t, b)
	n.awaitPool()
	n.port.Ready(t)
}

// unpark takes t out of the list of those that wait for memory.
func (n *Nexus) unpark(t *Task) {
	var before *Task
	for x := n.parkedFirst; x != t; x = x.nextParked {
		before = x
	}
	if before == nil {
		n.parkedFirst = t.nextParked
	} else {
		before.nextParked = t.nextParked
	}
	if n.parkedLast == t {
		n.parkedLast = before
	}
	t.nextParked, t.Parked = nil, false
}

func (n *Nexus) freeBuffer(t *Task) {
	if t.buf.Len() == 0 {
		return
	}
	n.poolBytes -= t.buf.Len()
	n.pool.Free(t.buf)
	t.buf = block.Buffer{}
	n.awaitPool()
}
