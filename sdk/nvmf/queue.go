package nvmf

import (
	"errors"
	"math/bits"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/nvme"
)

// Reasons for which the front end closes a connection.
var (
	ErrQueueOverrun   = errors.New("the host has more commands outstanding than its queue has entries")
	ErrConnectTimeout = errors.New("the host sent no valid Connect in time")
	ErrDataTimeout    = errors.New("the host did not send the data of a command in time")
	ErrDisconnected   = errors.New("the host disconnected the queue")
	ErrReset          = errors.New("the host reset or shut down the controller")
	ErrKeepAlive      = errors.New("the keep alive timer expired")
	ErrIdle           = errors.New("the controller was idle or disabled for too long")
	ErrQueueLost      = errors.New("an I/O queue was lost with commands under way")
	ErrAdminLost      = errors.New("the Admin queue is gone")
	ErrEnded          = errors.New("the core ended the association")
	ErrTargetClosed   = errors.New("the target stops")
)

// Queue is one queue pair, owned by its I/O thread.
type Queue struct {
	target *Target
	conn   Conn
	info   ConnInfo
	thread *block.Thread
	log    hclog.Logger
	done   func(*block.Request) // of every request; one for all, so that none is made per command

	state   queueState
	id      nvme.QueueID
	entries int
	ctrl    *Controller // nil before Connect
	view    *view       // of an I/O queue
	noFlow  bool        // SQ flow control is disabled
	head    int         // SQHD
	err     error       // why the queue is closing

	spare       *Command // free list
	held        int      // from Get to Release
	outstanding int      // from Get to Complete
	begun       *Command // list of commands from Begin to Complete
	cids        [1 << 16 / 64]uint64
	fused       *Command // first half of a fused pair that waits for the next command
	fusedFailed bool     // the last command was a first half that failed
	stats       queueStats
	errorsAway  int      // error log entries on their way to the controller
	leaving     *Command // Disconnect that waits for the others

	share       *block.Share[*Command] // of the pool
	maxTransfer int                    // bytes of one command's data

	timer   *block.Timer // connect timeout, then data timeout
	ticking bool         // timer runs
	tick    uint32       // counts half data timeouts
	active  atomic.Bool  // a command came since the controller last looked
}

type queueState uint8

const (
	queueNew        queueState = iota // waits for Connect
	queueConnecting                   // Connect is under way
	queueLive
	queueLeaving // Disconnect came
	queueGone    // Gone was called
	queueDrained // gone, and every command was released
)

// NewQueue makes the queue pair of a new connection. It is called on info.Thread, and so is
// everything else of the queue. The caller owes it one Gone.
func (t *Target) NewQueue(conn Conn, info ConnInfo) *Queue {
	q := &Queue{
		target: t, conn: conn, info: info, thread: info.Thread, entries: 1,
		log: t.log.With("peer", info.Peer, "access_point", info.AccessPointID),
	}
	q.done = func(r *block.Request) { r.User.(*Command).requestDone() }
	pool := q.thread.Pool()
	q.share = block.NewShare(pool, q.memoryReady)
	q.maxTransfer = min(t.limits.MaxTransfer, pool.MaxTransfer(), 1<<(bits.Len(uint(pool.Size()))-1))
	q.timer = q.thread.After(t.limits.ConnectTimeout, q.onTimer)
	q.ticking = true
	t.queues.Add(1)
	return q
}

// ID is the queue identifier; valid once Connected.
func (q *Queue) ID() nvme.QueueID { return q.id }

// Connected reports whether a Connect has succeeded and the queue is not gone.
func (q *Queue) Connected() bool { return q.state == queueLive || q.state == queueLeaving }

// FlowControlDisabled reports that SQ flow control is off, so that a transport may leave out
// SQHD: a success may then be signalled with the last data. Base 6.3
func (q *Queue) FlowControlDisabled() bool { return q.noFlow }

// Get returns a command to be filled with what the host sent. It returns nil when the host has
// overrun its queue, which is being closed then.
func (q *Queue) Get() *Command {
	if q.outstanding >= q.entries || q.held >= 2*q.entries {
		q.close(ErrQueueOverrun)
		return nil
	}
	c := q.spare
	if c == nil {
		c = &Command{q: q}
		c.req.User, c.req.Done = c, q.done
	} else {
		q.spare, c.next = c.next, nil
	}
	c.state = commandHeld
	q.held++
	q.outstanding++
	return c
}

// recycle takes c back from the transport.
func (q *Queue) recycle(c *Command) {
	c.reset()
	c.state = commandFree
	c.next, q.spare = q.spare, c
	q.held--
	if q.held == 0 && q.state == queueGone {
		q.drained()
	}
}

// Begin takes a command that has just arrived, in the order of arrival. It decides what data
// moves; see Command.
func (q *Queue) Begin(c *Command) {
	if c.state != commandHeld {
		panic("nvmf: Begin of a command that is " + c.state.String())
	}
	c.state = commandBegun
	c.tick = q.tick
	c.req.Arrived = c.q.thread.Now()
	q.link(c)
	if !q.active.Load() {
		q.active.Store(true)
	}
	cid := c.SQE.CID()
	if q.cids[cid/64]&(1<<(cid%64)) != 0 {
		// The bit belongs to the other command.
		c.refuse(nvme.StatusCommandIDConflict.WithDNR())
		return
	}
	q.cids[cid/64] |= 1 << (cid % 64)
	c.ownCID = true
	q.dispatch(c)
	c.Segment = nil
}

// Execute carries out a command whose data, if it has any from the host, is in c.Data.
func (q *Queue) Execute(c *Command) {
	if c.state != commandBegun || c.Parked {
		panic("nvmf: Execute of a command that is " + c.state.String())
	}
	c.state = commandRunning
	c.run(c)
}

// dispatch decides what a command is and whether it may be executed.
func (q *Queue) dispatch(c *Command) {
	switch {
	case c.SQE.PSDT() != nvme.PSDTSGL && c.SQE.PSDT() != nvme.PSDTSGLSegment:
		c.refuse(nvme.StatusInvalidField.WithDNR()) // no PRPs over fabrics, Base 4.1
	case c.SQE.Opcode() == nvme.OpcodeFabrics:
		q.beginFabrics(c)
	case q.state != queueLive:
		c.refuse(nvme.StatusSequenceError.WithDNR())
	case q.id == nvme.AdminQueue:
		q.ctrl.beginAdmin(c)
	default:
		q.beginIO(c)
	}
}

// complete ends a command. c is the transport's from here on.
func (q *Queue) complete(c *Command, st nvme.Status) {
	q.unlink(c)
	c.CQE = nvme.MakeCompletion(c.SQE.CID(), q.advanceHead(c), st)
	c.CQE.SetResult64(uint64(c.dw0) | uint64(c.dw1)<<32)
	c.state = commandFinished
	waiter := c.waiter
	q.conn.Complete(c)
	if waiter != nil {
		waiter(st)
	}
	q.checkLeaving()
}

// checkLeaving answers a Disconnect that only waited for the other commands.
func (q *Queue) checkLeaving() {
	if q.leaving != nil && q.outstanding == 1 && q.state == queueLeaving {
		q.leave()
	}
}

// withdraw takes back a command that the transport gave up before Execute.
func (q *Queue) withdraw(c *Command) {
	q.unlink(c)
	if c.Parked {
		q.unpark(c)
	}
	if q.fused == c {
		q.fused = nil
	}
	if m := c.mate; m != nil {
		m.fail(nvme.StatusAbortFailedFused)
	}
	if c.waiter != nil {
		c.waiter(nvme.StatusAbortSQDeletion)
	}
	q.checkLeaving()
}

// advanceHead returns SQHD for the completion of c. The head moves when a command completes, so
// that the slots of the submission queue bound what is outstanding. Base 3.3.1.2.1
func (q *Queue) advanceHead(c *Command) uint16 {
	if !q.noFlow {
		q.head = (q.head + 1) % q.entries
		return uint16(q.head)
	}
	if c.SQE.Opcode() == nvme.OpcodeFabrics && c.SQE.FabricsType() == nvme.FabricsConnect {
		return 0xffff // flow control is disabled, as the host asked. Base 6.3
	}
	return 0 // reserved
}

// drained is called when the queue is gone and its last command was released.
func (q *Queue) drained() {
	if q.state != queueGone {
		return
	}
	q.state = queueDrained
	q.share.Leave()
	q.target.queues.Add(-1)
	if ct := q.ctrl; ct != nil {
		stats := q.stats
		ct.thread.Post(func() { ct.detach(q, stats) })
	}
}

// link counts c among the commands under way, unlink no more.
func (q *Queue) link(c *Command) {
	c.prev, c.next = nil, q.begun
	if q.begun != nil {
		q.begun.prev = c
	}
	q.begun = c
	if !q.ticking {
		q.ticking = true
		q.timer.Reset(q.target.limits.DataTimeout / 2)
	}
}

func (q *Queue) unlink(c *Command) {
	if c.prev == nil {
		q.begun = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	c.prev, c.next = nil, nil
	q.outstanding--
	if cid := c.SQE.CID(); c.ownCID {
		q.cids[cid/64] &^= 1 << (cid % 64)
		c.ownCID = false
	}
}

// onTimer closes a queue that waits for its host for too long.
func (q *Queue) onTimer() {
	q.ticking = false
	switch q.state {
	case queueNew:
		q.close(ErrConnectTimeout)
		return
	case queueConnecting, queueLive, queueLeaving:
	case queueGone, queueDrained:
		return
	}
	q.tick++
	for c := q.begun; c != nil; c = c.next {
		if c.state == commandBegun && !c.Parked && q.tick-c.tick > 2 {
			q.close(ErrDataTimeout)
			return
		}
	}
	if q.begun != nil {
		q.ticking = true
		q.timer.Reset(q.target.limits.DataTimeout / 2)
	}
}

// close asks the transport to end the connection. Gone follows.
func (q *Queue) close(reason error) {
	if q.state == queueGone || q.state == queueDrained {
		return
	}
	if q.err == nil {
		q.err = reason
	}
	q.conn.Close(reason)
}

// Gone says that the connection is lost or closed: no command arrives any more and no
// completion leaves. What is under way comes back by Conn.Complete, to be released; when all is
// released, the association may end. Idempotent.
func (q *Queue) Gone(reason error) {
	if q.state == queueGone || q.state == queueDrained {
		return
	}
	if q.err == nil {
		q.err = reason
	}
	q.log.Debug("queue is gone", "queue", q.id, "error", q.err, "commands", q.held)
	left := q.state == queueLeaving && q.leaving == nil // Disconnect was answered
	q.state = queueGone
	q.timer.Stop()
	q.ticking = false
	if q.ctrl != nil {
		q.ctrl.queueGone(q, left)
	}
	q.abandon()
	if q.held == 0 {
		q.drained()
	}
}

// abandon hastens the end of the commands under way.
func (q *Queue) abandon() {
	for {
		c := q.begun
		for c != nil && c.state != commandFused {
			if c.state == commandRunning {
				q.hasten(c)
			}
			c = c.next
		}
		if c == nil {
			break
		}
		c.state = commandRunning
		q.complete(c, nvme.StatusAbortSQDeletion) // changes the list: begin again
	}
	if c := q.leaving; c != nil {
		q.leaving = nil
		q.complete(c, nvme.StatusAbortSQDeletion)
	}
}
