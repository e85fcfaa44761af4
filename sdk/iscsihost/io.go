package iscsihost

import (
	"errors"
	"fmt"
	"time"

	"github.com/mooring-io/mooring/sdk/iscsi"
	"github.com/mooring-io/mooring/sdk/scsi"
)

var (
	// ErrClosed is the error of IOs on a session that the caller closed.
	ErrClosed = errors.New("the session is closed")
	// ErrDataDigest is the error of an IO whose data came with a wrong digest; the data is not to be used.
	ErrDataDigest = errors.New("the data digest of a Data-In does not match")
	// ErrTimeout is the error of an IO that took longer than Options.Timeout and was aborted. Whether
	// it was carried out is not known.
	ErrTimeout = errors.New("not answered in time; the task was aborted")
	// ErrTargetFailure is the error of an IO that the target could not deliver to its unit. 11.4.3
	ErrTargetFailure = errors.New("target failure")
)

// StatusError is a command that ended with another status than GOOD.
type StatusError struct {
	Status scsi.Status
	Sense  scsi.Sense // with CHECK CONDITION
}

func (e *StatusError) Error() string {
	if e.Status == scsi.StatusCheckCondition {
		return e.Sense.Key.String()
	}
	return e.Status.String()
}

// IO is one command and its result. The caller fills the first group, submits, and must leave the
// IO and Data alone until Done is called; then both may be used again.
type IO struct {
	LUN scsi.LUN
	CDB [iscsi.CDBSize]byte
	// Data is what the initiator sends (Write) or where what it gets goes; nil for no data.
	Data []byte
	// Write says that Data goes to the target.
	Write bool
	// Discard says that the data received is checked and thrown away; Expect, in bytes, stands for
	// len(Data), which must be 0.
	Discard bool
	Expect  int
	// Done is called on the loop's goroutine once the IO is over. It may submit again.
	Done func(*IO)

	// Status and Sense are the target's answer, valid if Err is nil.
	Status scsi.Status
	Sense  scsi.Sense
	// Residual is by how much fewer bytes were moved than the CDB and Data allow for; negative if the
	// command had more. 11.4.5
	Residual int64
	// Err is why there is no status.
	Err error

	session  *Session
	next     *IO // in the session's list of waiting IOs
	itt      iscsi.TaskTag
	cmdSN    iscsi.SN
	started  time.Duration
	aborted  time.Duration // when an abort was sent; 0: none
	got      uint32        // bytes received so far, all in order
	dataSN   iscsi.SN      // of the next Data-In or R2T: they count together. 11.7.5
	asked    uint32        // bytes that were sent unasked or that R2Ts asked for
	r2ts     uint32        // R2Ts whose data is not sent yet
	sending  int           // runs of Data that are not sent yet
	answered bool
}

// Result is Err, or the status as an error, or nil.
func (io *IO) Result() error {
	switch {
	case io.Err != nil:
		return io.Err
	case io.Status != scsi.StatusGood:
		return &StatusError{io.Status, io.Sense}
	}
	return nil
}

func (io *IO) size() uint32 {
	if io.Discard {
		return uint32(io.Expect)
	}
	return uint32(len(io.Data))
}

// Sent is for the session's sender: a run of Data was sent, or never will be.
func (io *IO) Sent(endsR2T bool) {
	if endsR2T {
		io.r2ts--
	}
	io.sending--
	if io.sending == 0 && io.answered {
		io.finish()
	}
}

// answer ends the IO as soon as nothing refers to Data any more.
func (io *IO) answer() {
	io.answered = true
	if io.sending == 0 {
		io.finish()
	}
}

// finish gives the IO back. Its tag is free before Done runs.
func (io *IO) finish() {
	s := io.session
	s.release(io)
	if io.Done != nil {
		io.Done(io)
	}
	s.next()
}

// residual is a Residual Count as a number. 11.4.5
func residual(over, under bool, n uint32) int64 {
	switch {
	case over:
		return -int64(n)
	case under:
		return int64(n)
	}
	return 0
}

// takeSense decodes the data segment of a SCSI Response. 11.4.7.2
func (io *IO) takeSense(data []byte) error {
	io.Sense = scsi.Sense{}
	if len(data) < 2 {
		return nil
	}
	n := int(data[0])<<8 | int(data[1])
	if n > len(data)-2 {
		return fmt.Errorf("sense data of %d bytes, there are %d", n, len(data)-2)
	}
	if n == 0 {
		return nil
	}
	var err error
	io.Sense, err = scsi.ParseSense(data[2 : 2+n])
	return err
}
