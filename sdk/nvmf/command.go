package nvmf

import (
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/nvme"
)

// Command is a command from Queue.Get to Release. It is used on the queue's I/O thread only.
type Command struct {
	// Set by the transport before Begin.
	SQE       nvme.Command
	InCapsule int          // bytes of data that came, or come, in the command capsule; 0 for none
	Segment   []byte       // instead: what came with a command whose SGL1 is a segment in the capsule; looked at by Begin alone
	Data      block.Buffer // see below
	User      any          // the transport's own; kept through Release

	// Set by Begin.
	//
	// Data is the buffer of Length bytes to be filled or sent. Begin takes it from the pool and
	// Release returns it there. If the payload of the host lies in the pool already, the
	// transport sets Data to it before Begin: then nothing is copied, and the memory stays the
	// transport's, to be freed after Release.
	Transfer Transfer
	Length   int  // bytes; 0 if Transfer is TransferNone
	Refused  bool // nothing moves, data in the capsule is to be thrown away
	Parked   bool // no buffer yet: do nothing before Conn.Ready
	// Descriptors name the host's memory on a fabric with keyed descriptors: up to MaxDescriptors, which
	// are Length bytes long or more, in the order of the data. Empty where nothing moves, or the data came in the capsule.
	Descriptors []nvme.SGL

	// CQE is the completion, set when Conn.Complete is called.
	CQE nvme.Completion

	q         *Queue
	state     commandState
	tick      uint32 // q.tick at Begin
	run       func(*Command)
	status    nvme.Status  // of a refused command
	dw0       uint32       // command specific result
	dw1       uint32       // upper half of a Property Get
	buf       block.Buffer // taken from the pool
	req       block.Request
	ns        *namespace        // of an I/O command
	mate      *Command          // the other half of a fused pair
	ranges    int               // of a Dataset Management: ranges still to do
	waiter    func(nvme.Status) // told when the command completes; for Abort
	asked     bool              // an Abort asked for it
	submitted bool              // req is with the core
	ownCID    bool              // its bit in q.cids is set for it

	prev, next *Command // in q.begun, or next alone in q.spare
}

type commandState uint8

const (
	commandFree     commandState = iota // in q.spare
	commandHeld                         // with the transport, before Begin
	commandBegun                        // with the transport, its data moves or it is parked
	commandRunning                      // with the front end, from Execute to Complete
	commandFused                        // executed, but its other half is not yet
	commandFinished                     // with the transport, until Release
)

// Status is the status of a completed command.
func (c *Command) Status() nvme.Status { return c.CQE.Status() }

// SendsData reports whether a completed command has data for the host.
func (c *Command) SendsData() bool {
	return c.Transfer == TransferToHost && c.Length > 0 && c.CQE.Status().OK()
}

// Release ends the command's life for the transport; its buffer returns to the pool.
func (c *Command) Release() {
	q := c.q
	switch c.state {
	case commandHeld:
		q.outstanding--
	case commandBegun:
		q.withdraw(c)
	case commandFinished:
	case commandFree, commandRunning, commandFused:
		panic("nvmf: command released that is " + c.state.String())
	}
	q.freeBuffer(c)
	q.recycle(c)
}

// String names the state.
func (s commandState) String() string {
	return [...]string{"free", "held", "begun", "running", "waiting for its fused half", "finished"}[s]
}

// reset makes c fit for another life. What the transport owns stays.
func (c *Command) reset() {
	c.InCapsule, c.Segment, c.Data, c.buf = 0, nil, block.Buffer{}, block.Buffer{}
	c.Descriptors = c.Descriptors[:0]
	c.Transfer, c.Length, c.Refused, c.Parked = TransferNone, 0, false, false
	c.run, c.status, c.dw0, c.dw1 = nil, 0, 0, 0
	c.ns, c.mate, c.ranges, c.waiter, c.asked = nil, nil, 0, nil, false
	c.ownCID, c.submitted = false, false
	c.prev, c.next = nil, nil
}

// refuse makes the command complete with st as soon as it is executed.
func (c *Command) refuse(st nvme.Status) {
	c.Refused, c.status, c.run = true, st, completeRefused
	c.Transfer, c.Length = TransferNone, 0
}

// fail makes a command that has begun end with st: now if it waits for its fused half, else as
// soon as its data is there and it is executed.
func (c *Command) fail(st nvme.Status) {
	c.unpair()
	if c.state == commandBegun {
		if !c.Refused {
			c.status, c.run = st, completeRefused
		}
		return
	}
	if c.state == commandFused {
		c.state = commandRunning
		c.q.complete(c, st)
	}
}

func (c *Command) unpair() {
	if m := c.mate; m != nil {
		c.mate, m.mate = nil, nil
	}
}

func completeRefused(c *Command) { c.q.complete(c, c.status) }

func completeOK(c *Command) { c.q.complete(c, nvme.StatusSuccess) }
