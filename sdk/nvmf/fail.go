package nvmf

import "github.com/mooring-io/mooring/sdk/nvme"

// Fail ends a command with st instead of Execute: the transport could not move its data, for
// instance because a data digest was wrong. c is begun and not Parked.
func (q *Queue) Fail(c *Command, st nvme.Status) {
	if q.fused == c {
		q.fused, q.fusedFailed = nil, true
	}
	c.unpairFailed()
	c.fail(st)
	q.Execute(c)
}
