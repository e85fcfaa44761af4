package stream

import (
	"errors"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk/block"
)

const (
	// maxBacklog is how many bytes of headers may wait for a peer that does not read before
	// nothing of it is read any more either. A peer that keeps to the bounds of its protocol
	// never gets there.
	maxBacklog = 256 << 10
	// lingerTimeout is how long a connection that we ended waits for the peer to see why.
	lingerTimeout = time.Second
)

// Handler is a protocol's part of one connection. Its methods are called on the connection's
// thread, and none after Ended. They may call any method of the Conn.
type Handler interface {
	// Receive takes bytes that came, in order, and returns how many it has taken. The others
	// are shown again, with more behind them; there may be as many as Config.Piece says. b is
	// valid until Receive returns, but for what Conn.Keep keeps. b may be empty after Placed.
	Receive(b []byte) int
	// Direct returns where the bytes belong that come next, if they need not be shown to
	// Receive. It is asked only when Receive has taken all that came. soon says that payload
	// is expected that Direct will have a place for, so that little is read ahead of it.
	Direct() (to []byte, soon bool)
	// Placed says that n more bytes have come and are where Direct said.
	Placed(n int)
	// Ended says that nothing is received or sent any more. What is still held must be
	// released as it comes back.
	Ended(reason error)
}

// connState is where a connection is in its life.
type connState uint8

const (
	stateOpen      connState = iota
	stateLingering           // ended; what the peer still sends is thrown away
	stateClosed              // the socket is gone; what is held may still come back
)

// Conn is one connection. Owned by its I/O thread, on which all its methods are called.
type Conn struct {
	worker   *worker
	listener *listener
	handler  Handler
	fd       int
	peer     string
	local    string // URL
	state    connState
	timer    *block.Timer // until it has greeted, then of lingering

	// Receiving.
	read  int              // in the window, while we own it
	stash []byte           // what was not taken, while another connection has the window
	small [smallStash]byte // backs a short stash

	// Sending.
	send    sender
	dirty   bool // listed in worker.dirty
	blocked bool // the socket is full
	paused  bool // nothing is read until the backlog is gone
	events  uint32
	stall   *block.Timer // runs, once it was needed, while watched
	watched bool         // that the peer takes something while the socket is full
	taken   uint64       // bytes that it had taken when stall was set; see peerTook

	established              bool
	pendingPrev, pendingNext *Conn // in worker.pending until established
}

// Errors with which connections end from our side.
var (
	errGreetingTimeout = errors.New("the peer took too long to begin")
	errStalled         = errors.New("the peer reads nothing of what is sent to it")
	errEvicted         = errors.New("too many connections wait to be established; this was the oldest")
	errStopped         = errors.New("the plugin stops")
	errListenerClosed  = errors.New("the listener was closed")
	errTooLong         = errors.New("the peer sent a message that is longer than any may be")
)

// ErrClosedByPeer is the reason of an end that the peer wanted.
var ErrClosedByPeer = errors.New("the peer closed the connection")

// Thread is the I/O thread that the connection belongs to.
func (c *Conn) Thread() *block.Thread { return c.worker.thread }

// AccessPoint is that of the listener by which the connection came in.
func (c *Conn) AccessPoint() string { return c.listener.accessPoint }

// Peer is the peer's address and port.
func (c *Conn) Peer() string { return c.peer }

// LocalURL is scheme://address:port that the peer connected to.
func (c *Conn) LocalURL() string { return c.local }

// Open says that the connection has not ended.
func (c *Conn) Open() bool { return c.state == stateOpen }

// Greeted says that the peer has begun in time. See Limits.
func (c *Conn) Greeted() {
	if c.state == stateOpen {
		c.timer.Stop()
	}
}

// Established says that the peer is one whom we serve: its connection does not make room for new
// ones any more. Idempotent.
func (c *Conn) Established() { c.worker.establish(c) }

// Hold says that something of the connection is under way that may outlive it: Server.Stop waits
// for as many calls of Unhold.
func (c *Conn) Hold() { c.worker.held++ }

// Unhold ends a Hold.
func (c *Conn) Unhold() {
	c.worker.held--
	c.worker.checkIdle()
}

// ready is called with the events of the socket.
func (c *Conn) ready(events uint32) {
	if events&unix.EPOLLOUT != 0 {
		c.flush()
	}
	in := events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) != 0
	switch c.state {
	case stateOpen:
		if in && !c.paused {
			c.receive()
		} else if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			c.lost(io.ErrUnexpectedEOF)
		}
	case stateLingering:
		if in {
			c.discard()
		}
	case stateClosed:
	}
}

// Space returns the memory that the next header is appended to; pass what comes of it to Put.
func (c *Conn) Space() []byte { return c.send.arena }

// Put queues for sending what was appended to Space. It leaves with everything else of this turn.
func (c *Conn) Put(b []byte) {
	if c.state != stateOpen {
		return
	}
	start := len(c.send.arena)
	c.send.arena = b
	c.send.appended(start)
	c.wantFlush()
}

// PutPayload queues bytes by reference; they must not change until sent, if not nil, was told so.
func (c *Conn) PutPayload(b []byte, sent Releaser) {
	if c.state != stateOpen {
		if sent != nil {
			sent.Release()
		}
		return
	}
	c.send.payload(b, sent)
	c.wantFlush()
}

// wantFlush has the output sent at the end of the turn, or when the socket has room again.
func (c *Conn) wantFlush() {
	if c.blocked && !c.paused && c.send.backlog() > maxBacklog {
		c.paused = true
		c.interest(unix.EPOLLOUT)
	}
	if !c.dirty && !c.blocked {
		c.dirty = true
		c.worker.dirty = append(c.worker.dirty, c)
	}
}

// flush sends what there is.
func (c *Conn) flush() {
	if c.state != stateOpen {
		return
	}
	again, err := c.send.flush(c.fd, &c.worker.iov)
	if err != nil {
		c.lost(err)
		return
	}
	c.blocked = again
	c.paused = again && c.send.backlog() > maxBacklog
	events := uint32(unix.EPOLLIN)
	if c.paused {
		events = 0
	}
	if again {
		events |= unix.EPOLLOUT
		c.watchStall()
	}
	c.interest(events)
}

// watchStall ends the connection if the socket stays full and the peer takes nothing: it would keep
// memory of the pool from everybody else.
func (c *Conn) watchStall() {
	if c.watched {
		return
	}
	c.watched, c.taken = true, c.peerTook()
	if d := c.worker.server.limits.Load().stall(); c.stall == nil {
		c.stall = c.worker.thread.After(d, c.stallTick)
	} else {
		c.stall.Reset(d)
	}
}

func (c *Conn) stallTick() {
	c.watched = false
	switch {
	case !c.blocked:
	case c.peerTook() == c.taken:
		c.End(errStalled, false)
	default:
		c.watchStall()
	}
}

// peerTook is how many bytes the peer has acknowledged. The socket asks for more only when much of what it
// holds has gone, and we may be late in hearing that: neither is the fault of a peer that reads slowly.
func (c *Conn) peerTook() uint64 {
	waiting, err := unix.IoctlGetInt(c.fd, unix.SIOCOUTQ)
	if err != nil {
		return c.send.taken
	}
	return c.send.taken - uint64(waiting)
}

// interest changes the events that are waited for.
func (c *Conn) interest(events uint32) {
	if events == c.events {
		return
	}
	c.events = events
	if err := c.worker.thread.Modify(c.fd, events); err != nil {
		c.lost(err)
	}
}

// lost ends a connection that the peer ended or the network broke.
func (c *Conn) lost(err error) {
	if errors.Is(err, io.EOF) {
		err = ErrClosedByPeer
	}
	c.end(err, false, false)
}

// End ends the connection. With inform, what is to be sent is sent as far as the socket takes it,
// and the peer gets time to read it. Handler.Ended is called before End returns. Idempotent.
func (c *Conn) End(reason error, inform bool) { c.end(reason, inform, false) }

// Fault is End for what the peer did wrong.
func (c *Conn) Fault(reason error, inform bool) { c.end(reason, inform, true) }

func (c *Conn) end(reason error, inform, fault bool) {
	if c.state != stateOpen {
		return
	}
	c.worker.log(c, reason, fault)
	c.state = stateLingering
	c.timer.Stop()
	if c.stall != nil {
		c.stall.Stop()
	}
	c.worker.establish(c)
	c.worker.window.forget(c)
	if inform {
		again, err := c.send.flush(c.fd, &c.worker.iov)
		inform = !again && err == nil
	}
	c.send.abandon()
	c.handler.Ended(reason)
	if !inform || unix.Shutdown(c.fd, unix.SHUT_WR) != nil {
		c.close()
		return
	}
	c.interest(unix.EPOLLIN)
	c.timer = c.worker.thread.After(lingerTimeout, c.close)
}

// discard reads and forgets what a peer still sends to a connection that has ended.
func (c *Conn) discard() {
	n, err := unix.Read(c.fd, c.worker.rubbish[:])
	if n == 0 || err != nil && err != unix.EAGAIN && err != unix.EINTR {
		c.close()
	}
}

// close gives up the socket.
func (c *Conn) close() {
	if c.state == stateClosed {
		return
	}
	c.state = stateClosed
	c.timer.Stop()
	c.worker.thread.Unwatch(c.fd)
	_ = unix.Close(c.fd)
	c.worker.closed(c)
}
