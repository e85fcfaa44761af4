package nvmf

import (
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/nvme"
)

// blockStatuses says with which NVMe status a command ends whose block request ended like this:
// one column for commands that read the medium, one for those that change it.
//
// A path status must keep Do Not Retry clear, or hosts fail the I/O instead of trying another
// path. WriteLost must set it: a Flush that is retried would succeed, though data is lost.
var blockStatuses = [...]struct{ read, write nvme.Status }{
	block.StatusOK:                  {nvme.StatusSuccess, nvme.StatusSuccess},
	block.StatusMediaError:          {nvme.StatusUnrecoveredReadError, nvme.StatusWriteFault},
	block.StatusCompareFailed:       {nvme.StatusCompareFailure.WithDNR(), nvme.StatusCompareFailure.WithDNR()},
	block.StatusReservationConflict: {nvme.StatusReservationConflict.WithDNR(), nvme.StatusReservationConflict.WithDNR()},
	block.StatusOutOfRange:          {nvme.StatusLBAOutOfRange.WithDNR(), nvme.StatusLBAOutOfRange.WithDNR()},
	block.StatusNoSpace:             {nvme.StatusInternalError, nvme.StatusCapacityExceeded},
	block.StatusPathLost:            {nvme.StatusANATransition, nvme.StatusANATransition}, // or what the ANA state says
	block.StatusRetry:               {nvme.StatusANATransition, nvme.StatusANATransition},
	block.StatusAborted:             {nvme.StatusAbortPreempt, nvme.StatusAbortPreempt}, // or AbortRequested, if we asked
	block.StatusInternal:            {nvme.StatusInternalError, nvme.StatusInternalError},
	block.StatusInvalidField:        {nvme.StatusInvalidField.WithDNR(), nvme.StatusInvalidField.WithDNR()},
	block.StatusWriteLost:           {nvme.StatusWriteFault.WithDNR(), nvme.StatusWriteFault.WithDNR()},
}

// blockStatus is the status of a command whose request has ended.
func (c *Command) blockStatus() nvme.Status {
	r := &c.req
	if int(r.Status) >= len(blockStatuses) {
		return nvme.StatusInternalError
	}
	if r.Status == block.StatusAborted && c.asked {
		return nvme.StatusAbortRequested
	}
	if r.Status == block.StatusPathLost {
		if ns, _ := c.q.view.find(c.ns.id); ns != nil && !ns.refusal.OK() {
			return ns.refusal
		}
	}
	switch r.Op {
	case block.OpRead, block.OpCompare, block.OpVerify:
		return blockStatuses[r.Status].read
	case block.OpWrite, block.OpFlush, block.OpWriteZeroes, block.OpDiscard, block.OpCompareAndWrite:
	}
	return blockStatuses[r.Status].write
}
