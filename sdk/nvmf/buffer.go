package nvmf

import "github.com/mooring-io/mooring/sdk/block"

// takeBuffer gives c n bytes of the pool, now or later. A queue whose commands hold its share
// of the pool waits for itself, so that hosts cannot take all of it.
func (q *Queue) takeBuffer(c *Command, n int) {
	c.need = n
	if q.parked == nil && q.pool.Fair(q.poolBytes, n) {
		if b, ok := q.pool.Alloc(n); ok {
			q.give(c, b)
			return
		}
	}
	c.Parked = true
	// A parked command is in two lists; the one of the begun commands uses prev and next.
	if q.parked == nil {
		q.parked = c
	} else {
		q.lastParked.nextParked = c
	}
	q.lastParked = c
	q.awaitPool()
}

func (q *Queue) give(c *Command, b block.Buffer) {
	c.buf = b
	q.poolBytes += b.Len()
	if c.Data.Len() == 0 {
		c.Data = b.Slice(0, c.Length)
	}
}

// awaitPool waits for memory for the first parked command.
func (q *Queue) awaitPool() {
	if q.poolWaits || q.parked == nil || !q.pool.Fair(q.poolBytes, q.parked.need) {
		return
	}
	q.poolWaits = true
	q.pool.Wait(q.parked.need, q.poolReady)
}

func (q *Queue) poolReady(b block.Buffer) {
	q.poolWaits = false
	c := q.parked
	if c == nil || c.need != b.Len() {
		q.pool.Free(b) // who waited is gone
		q.awaitPool()
		return
	}
	q.unpark(c)
	q.give(c, b)
	q.awaitPool()
	q.conn.Ready(c)
}

// unpark takes c out of the list of those that wait for memory.
func (q *Queue) unpark(c *Command) {
	var before *Command
	for x := q.parked; x != c; x = x.nextParked {
		before = x
	}
	if before == nil {
		q.parked = c.nextParked
	} else {
		before.nextParked = c.nextParked
	}
	if q.lastParked == c {
		q.lastParked = before
	}
	c.nextParked, c.Parked = nil, false
}

func (q *Queue) freeBuffer(c *Command) {
	if c.buf.Len() == 0 {
		return
	}
	q.poolBytes -= c.buf.Len()
	q.pool.Free(c.buf)
	c.buf = block.Buffer{}
	q.awaitPool()
}
