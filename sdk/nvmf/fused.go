package nvmf

import (
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/nvme"
)

// fusedBytes is the most that a fused Compare and Write can cover: what the core writes
// atomically, see AtomicCompareWrite in identify.go.
const fusedBytes = 4096

// fuse pairs the halves of a fused operation, which must arrive one directly after the other:
// a Compare, then a Write of the same range. Base 3.4.2, NVM 2.1.4
func (q *Queue) fuse(c *Command) {
	first, failed := q.fused, q.fusedFailed
	q.fused, q.fusedFailed = nil, false
	second := c.SQE.Fuse() == nvme.FuseSecond
	if second {
		q.pair(first, failed, c)
		return
	}
	if first != nil {
		first.fail(nvme.StatusAbortMissingFused)
	}
	switch c.SQE.Fuse() {
	case nvme.FuseFirst:
		if !c.Refused && c.SQE.Opcode() != nvme.IOCompare {
			c.refuseBegun(nvme.StatusInvalidField.WithDNR())
		}
		if c.Refused {
			q.fusedFailed = true
		} else {
			q.fused = c
		}
	case nvme.FuseReserved:
		c.refuseBegun(nvme.StatusInvalidField.WithDNR())
	case nvme.FuseNone, nvme.FuseSecond:
	}
}

// pair joins the second half with the first, or ends both.
func (q *Queue) pair(first *Command, failed bool, c *Command) {
	switch {
	case first == nil && failed:
		c.refuseBegun(nvme.StatusAbortFailedFused)
	case first == nil:
		c.refuseBegun(nvme.StatusAbortMissingFused)
	case c.Refused:
		first.fail(nvme.StatusAbortFailedFused)
	case c.SQE.Opcode() != nvme.IOWrite || c.ns.id != first.ns.id ||
		c.SQE.StartLBA() != first.SQE.StartLBA() || c.SQE.Blocks() != first.SQE.Blocks():
		c.refuseBegun(nvme.StatusInvalidField.WithDNR())
		first.fail(nvme.StatusInvalidField.WithDNR())
	default:
		first.mate, c.mate = c, first
	}
}

// refuseBegun refuses a command whose transfer is planned already, unless it is refused for
// another reason.
func (c *Command) refuseBegun(st nvme.Status) {
	if c.Refused {
		return
	}
	if c.Parked {
		c.q.unpark(c)
	}
	c.refuse(st)
}

// executeFused runs the pair once both halves have their data.
func executeFused(c *Command) {
	c.state = commandFused
	m := c.mate
	if m == nil || m.state != commandFused {
		return
	}
	first, second := c, m
	if c.SQE.Fuse() == nvme.FuseSecond {
		first, second = m, c
	}
	first.state, second.state = commandRunning, commandRunning
	n := first.Length
	joint := first.buf.Slice(0, 2*n)
	if first.Data.Offset() != joint.Offset() {
		copy(joint.Bytes()[:n], first.Data.Bytes())
	}
	copy(joint.Bytes()[n:], second.Data.Bytes())
	first.req.Buf = joint
	flags := first.durable()
	if second.SQE.FUA() {
		flags |= block.FUA
	}
	first.submit(block.OpCompareAndWrite, flags)
}
