package nvmf

import "github.com/mooring-io/mooring/sdk/nvme"

// Fail ends a command with st instead of Execute: the transport could not move its data, for
// instance because a data digest was wrong. c is begun and not Parked.
func (q *Queue) Fail(c *Command, st nvme.Status) {
	q.drop(c, st)
	q.Execute(c)
}

// drop makes a begun or fused command end with st, and the other half of its fused pair with it.
func (q *Queue) drop(c *Command, st nvme.Status) {
	if q.fused == c {
		q.fused, q.fusedFailed = nil, true
	}
	if m := c.mate; m != nil {
		m.fail(nvme.StatusAbortFailedFused)
	}
	c.fail(st)
}
