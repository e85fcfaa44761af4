package nvmf

import "github.com/mooring-io/mooring/sdk/block"

// takeBuffer gives c n bytes of the pool, now or later: then it is Parked.
func (q *Queue) takeBuffer(c *Command, n int) {
	b, ok := q.share.Take(c, n)
	if !ok {
		c.Parked = true
		return
	}
	c.give(b)
}

func (c *Command) give(b block.Buffer) {
	c.buf = b
	if c.Data.Len() == 0 {
		c.Data = b.Slice(0, c.Length)
	}
}

// memoryReady is told by the share of the buffer that c was parked for.
func (q *Queue) memoryReady(c *Command, b block.Buffer) {
	c.Parked = false
	c.give(b)
	q.conn.Ready(c)
}

// unpark has c wait for memory no more.
func (q *Queue) unpark(c *Command) {
	q.share.Drop(c)
	c.Parked = false
}

func (q *Queue) freeBuffer(c *Command) {
	if c.buf.Len() == 0 {
		return
	}
	q.share.Free(c.buf)
	c.buf = block.Buffer{}
}
