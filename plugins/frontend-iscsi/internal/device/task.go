package device

import (
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/scsi"
)

// Task is a command from Nexus.Get to Release. It is used on the nexus's I/O thread only.
type Task struct {
	// Set by the transport before Begin.
	LUN      [8]byte
	CDB      [16]byte
	LongCDB  bool         // there is more of the CDB than that
	Reads    bool         // the initiator expects data
	Writes   bool         // the initiator has data
	Expected uint32       // bytes of data that the initiator expects to move
	Data     block.Buffer // see below
	User     any          // the transport's own; kept through Release

	// Set by Begin.
	//
	// Data is where the initiator's bytes from Base to Out are to be put. Begin takes it from the
	// pool and Release returns it there. If all that the initiator sends lies in the pool already,
	// the transport sets Data to it before Begin: then nothing is copied, and the memory stays the
	// transport's, to be freed after Release. A task that takes more than a buffer comes back by
	// Port.Ready, with another Base and Out, when it has used what was there.
	Base    int
	Out     int
	Refused bool // no data is wanted, what comes is to be thrown away
	Parked  bool // no buffer yet: do nothing before Port.Ready

	// Set when Port.Complete is called.
	Aborted bool // nothing is to be sent
	More    bool // Answer is not all: when it was sent, Nexus.Continue is called instead of Release
	Status  scsi.Status
	Sense   []byte // valid until Release
	Answer  []byte // data for the initiator, valid until Release
	// Total is how many bytes the command would have moved if the initiator had expected as many:
	// what is above Expected is the overflow, what is below the underflow.
	Total uint64

	nexus     *Nexus
	state     taskState
	run       func(*Task)
	gated     func(*Task) // what runs if reservations let it
	unit      *unit
	access    scsi.Access
	buf       block.Buffer // taken from the pool
	req       block.Request
	submitted bool // req is with the core
	dropped   bool // somebody asked for an early end
	waiters   []func()
	param     []byte      // parameter data, kept for reuse
	senseMem  [32]byte    // backs Sense
	then      func(*Task) // what goes on when req has ended well; nil: the task is done
	retry     func(*Task) // what goes on when a compare-and-write has found other data; nil: the task fails
	size      uint64      // bytes that the command moves, if it does
	at        uint64      // of a command in several steps: how far it is
	borrowed  block.Buffer

	prev, next *Task // in nexus.begun, or next alone in nexus.spare
}

type taskState uint8

const (
	taskFree     taskState = iota // in nexus.spare
	taskHeld                      // with the transport, before Begin
	taskBegun                     // with the transport, its data moves or it is parked
	taskRunning                   // with the device server, from Execute to Complete
	taskSending                   // with the transport, which sends a part of the answer
	taskFinished                  // with the transport, until Release
)

func (s taskState) String() string {
	return [...]string{"free", "held", "begun", "running", "sending", "finished"}[s]
}

// Begin takes a task that has just arrived, in the order of arrival. It decides what data is wanted.
func (n *Nexus) Begin(t *Task) {
	if t.state != taskHeld {
		panic("device: Begin of a task that is " + t.state.String())
	}
	t.state = taskBegun
	t.req.Arrived = n.thread.Now()
	n.link(t)
	n.dispatch(t)
}

// Execute carries out a task whose data, if it wants any, is in t.Data.
func (n *Nexus) Execute(t *Task) {
	if t.state != taskBegun || t.Parked {
		panic("device: Execute of a task that is " + t.state.String())
	}
	t.state = taskRunning
	if t.dropped {
		n.abandoned(t)
		return
	}
	t.run(t)
}

// Fail ends a task between Begin and Execute, instead of Execute: its data did not come as it
// should.
func (n *Nexus) Fail(t *Task, k scsi.ASCKey) {
	t.state = taskRunning
	if t.dropped {
		n.abandoned(t)
		return
	}
	t.fail(k)
}

// Release ends the task's life for the transport; its buffer returns to the pool.
func (t *Task) Release() {
	n := t.nexus
	switch t.state {
	case taskHeld:
	case taskBegun:
		n.unlink(t)
		if t.Parked {
			n.unpark(t)
		}
		t.wakeWaiters()
	case taskFinished:
	case taskFree, taskRunning, taskSending:
		panic("device: task released that is " + t.state.String())
	}
	t.giveBack()
	n.freeBuffer(t)
	n.recycle(t)
}

// giveBack returns memory that was taken for a while.
func (t *Task) giveBack() {
	if t.borrowed.Len() > 0 {
		t.nexus.pool.Free(t.borrowed)
		t.borrowed = block.Buffer{}
	}
}

// reset makes t fit for another life. What the transport owns stays.
func (t *Task) reset() {
	t.LongCDB, t.Reads, t.Writes, t.Expected, t.Data, t.buf = false, false, false, 0, block.Buffer{}, block.Buffer{}
	t.Base, t.More = 0, false
	t.Out, t.Refused, t.Parked, t.Aborted, t.Status, t.Sense, t.Answer, t.Total = 0, false, false, false, 0, nil, nil, 0
	t.run, t.gated, t.unit, t.submitted, t.dropped, t.waiters = nil, nil, nil, false, false, nil
	t.then, t.retry, t.size, t.at = nil, nil, 0, 0
	t.prev, t.next = nil, nil
}

// refuse makes the task end with a check condition as soon as it is executed.
func (t *Task) refuse(k scsi.ASCKey) {
	s := scsi.Sense{Key: k}
	t.refuseSense(&s)
}

func (t *Task) refuseSense(s *scsi.Sense) {
	t.refuseStatus(scsi.StatusCheckCondition)
	t.setSense(s)
}

func (t *Task) refuseStatus(s scsi.Status) {
	t.Refused, t.Out = true, 0
	t.Status, t.Sense = s, nil
	t.run = completeRefused
}

func completeRefused(t *Task) { t.nexus.complete(t) }

// invalidCDB refuses a task because of a field of its CDB: the byte, and the most significant bit
// of it. SPC-4 4.5.2.4.2
func (t *Task) invalidCDB(at int, bit int8) {
	t.refuseSense(&scsi.Sense{
		Key:   scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCInvalidFieldInCDB},
		Field: scsi.Field{Valid: true, Byte: uint16(at), Bit: bit},
	})
}

// invalidList ends a running task because of a field of its parameter list.
func (t *Task) invalidList(at int, bit int8) {
	t.failSense(&scsi.Sense{
		Key:   scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCInvalidFieldInList},
		Field: scsi.Field{Valid: true, List: true, Byte: uint16(at), Bit: bit},
	})
}

func (t *Task) setSense(s *scsi.Sense) {
	descriptors := t.unit != nil && t.unit.descriptors
	t.Sense = s.Append(t.senseMem[:0], descriptors)
}

// fail ends a running task with a check condition.
func (t *Task) fail(k scsi.ASCKey) { t.failSense(&scsi.Sense{Key: k}) }

func (t *Task) failSense(s *scsi.Sense) {
	t.Status, t.Answer = scsi.StatusCheckCondition, nil
	t.setSense(s)
	t.nexus.complete(t)
}

// failStatus ends a running task with another status than good or check condition.
func (t *Task) failStatus(s scsi.Status) {
	t.Status, t.Answer, t.Sense = s, nil, nil
	t.nexus.complete(t)
}

// answer ends a running task with parameter data, cut to the allocation length.
func (t *Task) answer(data []byte) {
	t.param = data[:0]
	if limit := int64(scsi.AllocationLength(&t.CDB)); int64(len(data)) > limit {
		data = data[:limit]
	}
	t.Total = uint64(len(data))
	if t.Reads {
		t.Answer = data[:min(len(data), int(t.Expected))]
	}
	t.nexus.complete(t)
}

// scratch is memory to append parameter data to, for answer.
func (t *Task) scratch() []byte { return t.param[:0] }

func completeGood(t *Task) { t.nexus.complete(t) }

// complete ends a task. t is the transport's from here on.
func (n *Nexus) complete(t *Task) {
	n.unlink(t)
	t.state = taskFinished
	if t.dropped {
		t.Aborted = true
	}
	t.wakeWaiters()
	n.port.Complete(t)
}

// abandoned ends a task that was aborted before it began to run.
func (n *Nexus) abandoned(t *Task) {
	t.Aborted, t.Answer, t.Sense = true, nil, nil
	n.complete(t)
}

func (t *Task) wakeWaiters() {
	for _, fn := range t.waiters {
		fn()
	}
	t.waiters = nil
}

// hasten asks for an early end of a task; it ends aborted, whatever becomes of it.
func (t *Task) hasten() {
	t.dropped = true
	if t.submitted {
		t.nexus.thread.Abort(&t.req)
	}
}

// submit sends a request of the task's to the core; then runs when it has ended well.
func (t *Task) submit(op block.Op, flags block.Flags, buf block.Buffer, offset, length uint64, then func(*Task)) {
	t.submitTo(t.unit, op, flags, buf, offset, length, then)
}

// submitTo is submit to another unit of the nexus.
func (t *Task) submitTo(u *unit, op block.Op, flags block.Flags, buf block.Buffer, offset, length uint64, then func(*Task)) {
	r := &t.req
	r.Op, r.Flags, r.Volume, r.Buf, r.Offset, r.Length = op, flags, u.handle, buf, offset, length
	t.then, t.retry, t.submitted = then, nil, true
	t.nexus.thread.Submit(r)
}

// requestDone is called when a request of the task's has ended.
func (t *Task) requestDone() {
	t.submitted = false
	t.req.Buf = block.Buffer{}
	if t.dropped {
		t.nexus.abandoned(t)
		return
	}
	if t.req.Status == block.StatusCompareFailed && t.retry != nil {
		t.retry(t)
		return
	}
	if t.req.Status != block.StatusOK {
		t.requestFailed()
		return
	}
	if then := t.then; then != nil {
		then(t)
		return
	}
	t.nexus.complete(t)
}
