package transport

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/plugins/transport-rdma/internal/verbs"
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmf"
)

const (
	minSends     = 32 // work requests of a queue pair
	maxSends     = 256
	maxReadDepth = 128

	// stallTimeout is how long a host may keep what is posted from completing: it would keep
	// memory of the pool from everybody else.
	stallTimeout = 30 * time.Second
	// lingerTimeout is how long a connection that we ended may take to send what it has to.
	lingerTimeout = time.Second
	// lastReceiveTimeout is how long a device may take to say that no capsule comes any more;
	// some never say it.
	lastReceiveTimeout = 100 * time.Millisecond
	// flushTimeout is how long a queue pair may take to flush before it is destroyed as it is.
	flushTimeout = 5 * time.Second
)

// Reasons for which connections end.
var (
	errListenerClosed = errors.New("the listener was closed")
	errStopped        = errors.New("the plugin stops")
	errStalled        = errors.New("the host lets nothing complete of what is sent to it")
	errShortCapsule   = errors.New("the host sent a capsule that is too short for a command")
	errTooManyHeld    = errors.New("the host sent more commands than its queue has entries")
	errDeviceRemoved  = errors.New("the RDMA device was removed")
	errClosedByHost   = errors.New("the host closed the connection")
)

// connState is where a connection is in its life.
type connState uint8

const (
	stateOpen      connState = iota
	stateLingering           // ended; what is to be sent is still sent
	stateFlushing            // disconnected; what is posted comes back
	stateClosed              // the queue pair is gone; what is held may still come back
)

// conn is one connection, and with that one queue pair. Owned by its I/O thread. It implements
// nvmf.Conn.
type conn struct {
	worker      *worker
	domain      *domain
	listener    *listener
	id          *verbs.ID
	qp          uint32 // number
	queue       *nvmf.Queue
	local, peer string
	entries     int // HSQSIZE
	state       connState

	exchanges []*exchange  // by index
	awaiting  *exchange    // list of those that are parked
	slots     int          // of the shared receive queue that its commands hold
	responses block.Buffer // a completion of each exchange
	inline    bool         // responses are taken when posted

	out       []verbs.WR // to be posted, in order
	sends     int        // work requests that the queue pair has room for
	room      int        // of them, free
	posted    int        // sends and RDMA READs that have not completed
	readLimit int        // RDMA READs that may be under way
	reads     int        // that are
	waitRead  []*exchange
	dirty     bool // in domain.dirty

	timer     *block.Timer // stall while open, else of the state
	ticking   bool
	completed uint64 // work requests; for the stall timer
	seen      uint64 // of them when the timer was set
	last      bool   // no capsule comes any more
}

// event is one of the connection manager.
func (c *conn) event(e verbs.Event) {
	switch e.Kind {
	case verbs.Disconnected:
		c.end(errClosedByHost, false)
	case verbs.DeviceRemoval:
		c.domain.failed(errDeviceRemoved)
	case verbs.ConnectError, verbs.Unreachable, verbs.Rejected:
		c.end(fmt.Errorf("connection was not established: %s, status %d", e.Kind, e.Status), false)
	default: // Established, which a capsule may overtake; what is no concern of ours
	}
}

// want has the output posted at the end of the turn.
func (c *conn) want() {
	if !c.dirty {
		c.dirty = true
		c.domain.dirty = append(c.domain.dirty, c)
	}
}

// flush posts as much as there is room for.
func (c *conn) flush() {
	n := min(len(c.out), c.room)
	if n == 0 || c.state > stateLingering {
		return
	}
	c.worker.transport.counters.posts.Add(1)
	done, err := c.id.Post(c.out[:n])
	for _, wr := range c.out[:done] {
		if wr.Flags&verbs.Signaled != 0 {
			c.posted++
		}
	}
	c.room -= done
	c.out = c.out[:copy(c.out, c.out[done:])]
	if err != nil {
		c.end(err, false)
		return
	}
	c.watchStall()
}

func (c *conn) watchStall() {
	if c.ticking || c.state != stateOpen {
		return
	}
	c.ticking, c.seen = true, c.completed
	if c.timer == nil {
		c.timer = c.worker.thread.After(stallTimeout, c.tick)
	} else {
		c.timer.Reset(stallTimeout)
	}
}

// tick is the timer of the connection's state.
func (c *conn) tick() {
	c.ticking = false
	switch c.state {
	case stateOpen:
		switch {
		case c.posted == 0:
		case c.seen == c.completed:
			c.end(errStalled, false)
		default:
			c.watchStall()
		}
	case stateLingering:
		c.disconnect()
	case stateFlushing:
		if !c.last {
			c.last = true
			c.timer.Reset(flushTimeout)
			c.checkFlushed()
			return
		}
		c.worker.transport.log.Warn("queue pair was not flushed", "peer", c.peer, "work_requests", c.posted)
		c.destroy()
	case stateClosed:
	}
}

// Close ends the connection at the wish of the front end. Part of nvmf.Conn.
func (c *conn) Close(reason error) { c.end(reason, true) }

// fault is end for what the host did wrong.
func (c *conn) fault(reason error) {
	if c.state == stateOpen {
		c.worker.transport.counters.protocolErrors.Add(1)
		c.worker.transport.log.Info("connection ends", "peer", c.peer, "url", c.local, "reason", reason)
	}
	c.end(reason, false)
}

// end ends the connection. With inform, what is to be sent is sent first. Idempotent.
func (c *conn) end(reason error, inform bool) {
	if c.state != stateOpen {
		if !inform && c.state == stateLingering {
			c.disconnect()
		}
		return
	}
	c.worker.transport.counters.ended.Add(1)
	c.worker.transport.log.Log(hclog.Debug, "connection ends", "peer", c.peer, "url", c.local, "reason", reason)
	if inform {
		c.flush()
	}
	if c.state != stateOpen {
		return // flush found out that there is nobody to inform
	}
	c.state = stateLingering
	c.queue.Gone(reason)
	for c.awaiting != nil {
		ex := c.awaiting
		c.unawait(ex)
		ex.Release()
	}
	for _, ex := range c.waitRead {
		if ex.posted == 0 { // else it is when the last of its RDMA READs has come back
			ex.Release()
		}
	}
	c.waitRead = nil
	if !inform || len(c.out) == 0 && c.posted == 0 {
		c.disconnect()
		return
	}
	c.setTimer(lingerTimeout)
}

func (c *conn) setTimer(d time.Duration) {
	if c.timer == nil {
		c.timer = c.worker.thread.After(d, c.tick)
		return
	}
	c.timer.Reset(d)
}

// disconnect has everything that is posted come back.
func (c *conn) disconnect() {
	c.state = stateFlushing
	c.out = nil           // never will be; released with the queue pair, since the first half of a pair may be posted
	_ = c.id.Disconnect() // if the host was not quicker
	c.setTimer(lastReceiveTimeout)
	c.checkFlushed()
}

// lastReceive is told when the device has no more capsules of this queue pair.
func (c *conn) lastReceive() {
	c.last = true
	if c.state == stateFlushing {
		c.setTimer(flushTimeout)
	}
	c.checkFlushed()
}

func (c *conn) checkFlushed() {
	switch {
	case c.posted > 0:
	case c.state == stateLingering && len(c.out) == 0:
		c.disconnect()
	case c.state == stateFlushing && c.last:
		c.destroy()
	}
}

// destroy gives up the queue pair, and with that whatever is still posted.
func (c *conn) destroy() {
	if c.state == stateClosed {
		return
	}
	c.state = stateClosed
	c.timer.Stop()
	d := c.domain
	c.id.Close()
	delete(d.conns, c.qp)
	delete(c.worker.conns, c)
	d.sendRoom += c.sends
	for _, ex := range c.exchanges {
		if ex.posted > 0 {
			ex.Release()
		}
	}
	c.worker.thread.Pool().Free(c.responses)
	c.worker.left()
	d.checkBroken()
	c.worker.checkIdle()
}

// Complete sends the result of a command. Part of nvmf.Conn.
func (c *conn) Complete(cmd *nvmf.Command) {
	ex := cmd.User.(*exchange)
	if c.state != stateOpen {
		ex.Release()
		return
	}
	if cmd.SendsData() {
		ex.postWrites()
	}
	at := ex.index * nvme.CompletionSize
	copy(c.responses.Bytes()[at:], cmd.CQE.Append(c.worker.cqe[:0]))
	wr := verbs.WR{
		ID: workID(workSend, ex.index), Op: verbs.Send, Flags: verbs.Signaled,
		Offset: c.responses.Offset() + uint64(at), Length: nvme.CompletionSize,
	}
	if c.inline {
		wr.Flags |= verbs.Inline
	}
	if key, ok := ex.invalidates(); ok {
		wr.Op, wr.Key = verbs.SendInvalidate, key
	}
	c.out = append(c.out, wr)
	ex.posted++
	c.want()
}

// Ready is called when a parked command may go on. Part of nvmf.Conn.
func (c *conn) Ready(cmd *nvmf.Command) {
	ex := cmd.User.(*exchange)
	if c.state != stateOpen {
		return // it is released, or will be by end
	}
	c.unawait(ex)
	ex.proceed()
}
