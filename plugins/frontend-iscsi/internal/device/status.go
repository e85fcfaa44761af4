package device

import (
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/scsi"
)

// blockSenses says with which sense data a command ends whose request ended like this: one column
// for requests that read the medium, one for those that change it. The others have a status of
// their own.
var blockSenses = map[block.Status]struct{ read, write scsi.ASCKey }{
	block.StatusMediaError:    {scsi.ASCKey{Key: scsi.MediumError, ASC: scsi.ASCUnrecoveredRead}, scsi.ASCKey{Key: scsi.MediumError, ASC: scsi.ASCWriteError}},
	block.StatusCompareFailed: {scsi.ASCKey{Key: scsi.Miscompare, ASC: scsi.ASCMiscompare}, scsi.ASCKey{Key: scsi.Miscompare, ASC: scsi.ASCMiscompare}},
	block.StatusOutOfRange:    {scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCLBAOutOfRange}, scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCLBAOutOfRange}},
	block.StatusNoSpace:       {scsi.ASCKey{Key: scsi.HardwareError, ASC: scsi.ASCInternalTargetFailure}, scsi.ASCKey{Key: scsi.DataProtect, ASC: scsi.ASCSpaceAllocationFailed}},
	block.StatusAborted:       {scsi.ASCKey{Key: scsi.AbortedCommand}, scsi.ASCKey{Key: scsi.AbortedCommand}},
	block.StatusInternal:      {scsi.ASCKey{Key: scsi.HardwareError, ASC: scsi.ASCInternalTargetFailure}, scsi.ASCKey{Key: scsi.HardwareError, ASC: scsi.ASCInternalTargetFailure}},
	block.StatusInvalidField:  {scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCInvalidFieldInCDB}, scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCInvalidFieldInCDB}},
	block.StatusWriteLost:     {scsi.ASCKey{Key: scsi.MediumError, ASC: scsi.ASCWriteError}, scsi.ASCKey{Key: scsi.MediumError, ASC: scsi.ASCWriteError}},
}

// requestFailed ends a task whose request ended with another status than OK. What is the node's own
// trouble is answered so that initiators try again, here or elsewhere.
func (t *Task) requestFailed() {
	r := &t.req
	switch r.Status {
	case block.StatusReservationConflict:
		t.failStatus(scsi.StatusReservationConflict)
		return
	case block.StatusPathLost, block.StatusRetry:
		if t.unit.alua {
			t.fail(scsi.ASCKey{Key: scsi.NotReady, ASC: scsi.ASCAsymmetricTransition})
		} else {
			t.failStatus(scsi.StatusBusy)
		}
		return
	case block.StatusOK, block.StatusMediaError, block.StatusCompareFailed, block.StatusOutOfRange, block.StatusNoSpace,
		block.StatusAborted, block.StatusInternal, block.StatusInvalidField, block.StatusWriteLost:
	}
	keys, ok := blockSenses[r.Status]
	if !ok {
		keys = blockSenses[block.StatusInternal]
	}
	s := scsi.Sense{Key: keys.write}
	switch r.Op {
	case block.OpRead, block.OpCompare, block.OpVerify:
		s.Key = keys.read
	case block.OpWrite, block.OpFlush, block.OpWriteZeroes, block.OpDiscard, block.OpCompareAndWrite:
	}
	switch r.Status {
	case block.StatusMediaError:
		s.HasInfo, s.Info = true, r.Info>>t.unit.shift
	case block.StatusCompareFailed:
		s.HasInfo, s.Info = true, r.Info-t.offset() // within what the initiator sent. SBC-3 5.2
	case block.StatusOK, block.StatusReservationConflict, block.StatusOutOfRange, block.StatusNoSpace, block.StatusPathLost,
		block.StatusRetry, block.StatusAborted, block.StatusInternal, block.StatusInvalidField, block.StatusWriteLost:
	}
	t.failSense(&s)
}
