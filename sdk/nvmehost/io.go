package nvmehost

import (
	"github.com/mooring-io/mooring/sdk/nvme"
)

// IO is one command and its result. The caller fills the first group, submits, and must leave the
// IO and Data alone until Done is called; then both may be used again.
type IO struct {
	// Cmd is the command; the queue sets its identifier and, unless KeepSGL, its data pointer.
	Cmd nvme.Command
	// Data is what the host sends (Write) or where what it gets goes; nil for no data.
	Data []byte
	// Write says that Data goes to the controller.
	Write bool
	// Discard says that the data received is checked and thrown away; Expect, in bytes, stands for
	// len(Data), which must be 0.
	Discard bool
	Expect  int
	// NoInCapsule makes the queue wait for an R2T even if Data would fit into the capsule.
	NoInCapsule bool
	// KeepSGL leaves the data pointer of Cmd as the caller set it.
	KeepSGL bool
	// Done is called on the loop's goroutine once the IO is over. It may submit again.
	Done func(*IO)

	// CQE is the completion, valid if Err is nil.
	CQE nvme.Completion
	// Err is what the transport had to say: the connection was lost, or ErrDataDigest.
	Err error

	q        *Queue
	next     *IO // in the queue's list of waiting IOs
	cid      nvme.CommandID
	got      uint32 // bytes received so far, all in order
	r2tNext  uint32 // offset that the next R2T must ask for
	r2ts     int    // R2Ts whose data is not sent yet
	sending  int    // segments of Data that are not sent yet
	answered bool
}

// Status returns Err, or the completion's status as an error, or nil.
func (io *IO) Status() error {
	if io.Err != nil {
		return io.Err
	}
	return io.CQE.Status().Err()
}

func (io *IO) size() uint32 {
	if io.Discard {
		return uint32(io.Expect)
	}
	return uint32(len(io.Data))
}

// answer takes the completion; the IO is over when nothing refers to Data any more.
func (io *IO) answer(cqe *nvme.Completion) {
	io.CQE = *cqe
	io.answered = true
	if io.sending == 0 {
		io.finish()
	}
}

// Sent is for the queue's sender: a run of Data was sent, or never will be.
func (io *IO) Sent(endsR2T bool) {
	if endsR2T {
		io.r2ts--
	}
	io.sending--
	if io.sending == 0 && io.answered {
		io.finish()
	}
}

// finish gives the IO back. The queue's slot is free before Done runs.
func (io *IO) finish() {
	q := io.q
	q.release(io)
	if io.Done != nil {
		io.Done(io)
	}
	q.submitWaiting()
}

func successOf(io *IO) nvme.Completion { return nvme.MakeCompletion(io.cid, 0, nvme.StatusSuccess) }
