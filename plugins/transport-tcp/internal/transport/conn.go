package transport

import (
	"errors"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/nvmetcp"
)

const (
	// maxH2CData is the MAXH2CDATA that we offer in bytes.
	maxH2CData = 256 << 10
	// maxBacklog is how many bytes of headers and responses may wait for a host that does not
	// read before its commands are not read any more either. A host that keeps to its queue's
	// size never gets there.
	maxBacklog = 256 << 10
	// lingerTimeout is how long a connection that we ended waits for the host to see why.
	lingerTimeout = time.Second
)

// connState is where a connection is in its life.
type connState uint8

const (
	stateInitializing connState = iota // waits for ICReq
	stateReady                         // capsules and data flow
	stateLingering                     // ended; what the host still sends is thrown away
	stateClosed                        // the socket is gone; commands may still come back
)

// conn is one connection, and with that one queue pair. Owned by its worker's I/O thread. It
// implements nvmf.Conn.
type conn struct {
	worker   *worker
	listener *listener
	fd       int
	peer     string
	local    string // URL
	state    connState
	timer    *block.Timer // of the handshake, then of lingering

	queue       frontEnd // nil before ICReq
	established bool     // a Connect succeeded

	link     nvmetcp.Link // what the host sends
	out      nvmetcp.Link // what we send
	r2tLimit int          // R2Ts that may be outstanding per command

	// Receiving.
	ic    [nvmetcp.ICSize]byte // ICReq as far as it came
	icLen int
	read  int              // in the window, while we own it
	stash []byte           // unfinished PDU while another connection has the window
	small [smallStash]byte // backs a short stash
	in    inbound

	// Sending.
	send    sender
	dirty   bool // listed in worker.dirty
	blocked bool // the socket is full
	paused  bool // commands are not read until the backlog is gone
	events  uint32

	r2ts     []r2t // by TTAG
	freeR2T  []nvmetcp.TransferTag
	awaiting *exchange // list of those between Begin and Execute

	pendingPrev, pendingNext *conn // in worker.pending until established
}

// errors that end a connection from our side.
var (
	errHandshakeTimeout = errors.New("the host sent no ICReq in time")
	errEvicted          = errors.New("too many connections wait for their Connect; this was the oldest")
	errStopped          = errors.New("the transport stops")
	errListenerClosed   = errors.New("the listener was closed")
)

// ready is called with the events of the socket.
func (c *conn) ready(events uint32) {
	if events&unix.EPOLLOUT != 0 {
		c.flush()
	}
	in := events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) != 0
	switch c.state {
	case stateInitializing:
		if in {
			c.initialize()
		}
	case stateReady:
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

// initialize reads the ICReq and not a byte more, and answers it.
func (c *conn) initialize() {
	n, err := unix.Read(c.fd, c.ic[c.icLen:])
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return
	case err != nil:
		c.lost(err)
		return
	case n == 0:
		c.lost(io.EOF)
		return
	}
	c.icLen += n
	c.serveICReq()
}

// serveICReq judges what is there of the ICReq as early as possible.
func (c *conn) serveICReq() {
	b := c.ic[:c.icLen]
	if len(b) < nvmetcp.HeaderSize {
		return
	}
	h, _, _ := nvmetcp.ParseHeader(b)
	if terr := c.link.Check(h); terr != nil {
		c.refuse(terr, b)
		return
	}
	switch h.Type {
	case nvmetcp.TypeICReq:
	case nvmetcp.TypeH2CTermReq:
		c.lost(errors.New("the host ended the connection before it began"))
		return
	default:
		c.refuse(nvmetcp.ErrSequence, b)
		return
	}
	if len(b) < nvmetcp.ICSize {
		return
	}
	req, _, _ := nvmetcp.ParseICReq(b)
	if terr := req.Check(); terr != nil {
		c.refuse(terr, b)
		return
	}
	c.begun(req)
}

// begun answers an ICReq and makes the queue pair.
func (c *conn) begun(req nvmetcp.ICReq) {
	t := c.worker.transport
	cfg := t.config()
	resp := nvmetcp.NewICResp()
	resp.HeaderDigest = req.HeaderDigest && cfg.HeaderDigest
	resp.DataDigest = req.DataDigest && cfg.DataDigest
	resp.MaxH2CData = maxH2CData
	c.link, c.out = nvmetcp.Links(req, resp, uint32(t.inCapsule))
	c.r2tLimit = int(min(req.MaxR2T, r2tsPerCommand))
	c.timer.Stop()
	c.state = stateReady
	start := len(c.send.arena)
	c.send.arena = resp.Append(c.send.arena)
	c.send.appended(start)
	c.wantFlush()
	c.queue = t.makeQueue(c)
}

// wantFlush has the output sent at the end of the turn, or when the socket has room again.
func (c *conn) wantFlush() {
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
func (c *conn) flush() {
	if c.state != stateReady {
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
	}
	c.interest(events)
}

// interest changes the events that are waited for.
func (c *conn) interest(events uint32) {
	if events == c.events {
		return
	}
	c.events = events
	if err := c.worker.thread.Modify(c.fd, events); err != nil {
		c.lost(err)
	}
}

// refuse ends the connection for what the host sent, with a C2HTermReq where one is due.
// offending is as much of the PDU's header as there is.
func (c *conn) refuse(terr *nvmetcp.TermError, offending []byte) {
	if !terr.Silent() {
		t := nvmetcp.NewTermReq(nvmetcp.Controller, terr, headerOf(offending))
		start := len(c.send.arena)
		c.send.arena = t.Append(c.send.arena)
		c.send.appended(start)
	}
	c.end(terr, !terr.Silent())
}

// headerOf cuts what follows the header, as far as the PDU itself says how long it is.
func headerOf(b []byte) []byte {
	if len(b) > 2 && int(b[2]) >= nvmetcp.HeaderSize {
		b = b[:min(len(b), int(b[2]))]
	}
	return b[:min(len(b), nvmetcp.MaxHeaderSize)]
}

// lost ends a connection that the host ended or the network broke.
func (c *conn) lost(err error) {
	if errors.Is(err, io.EOF) {
		err = errClosedByHost
	}
	c.end(err, false)
}

// Close ends the connection at the wish of the front end. Part of nvmf.Conn.
func (c *conn) Close(reason error) { c.end(reason, true) }

// end is the one way out of stateInitializing and stateReady. With inform, what is to be sent is
// sent as far as the socket takes it, and the host gets time to read it.
func (c *conn) end(reason error, inform bool) {
	if c.state >= stateLingering {
		return
	}
	c.worker.log(c, reason)
	c.state = stateLingering
	c.timer.Stop()
	c.worker.establish(c)
	c.worker.window.forget(c)
	c.in = inbound{}
	if inform {
		again, err := c.send.flush(c.fd, &c.worker.iov)
		inform = !again && err == nil
	}
	c.send.abandon()
	if c.queue != nil {
		c.queue.Gone(reason)
	}
	for c.awaiting != nil {
		ex := c.awaiting
		c.unawait(ex)
		ex.release()
	}
	c.r2ts, c.freeR2T = nil, nil
	if !inform || unix.Shutdown(c.fd, unix.SHUT_WR) != nil {
		c.close()
		return
	}
	c.interest(unix.EPOLLIN)
	c.timer = c.worker.thread.After(lingerTimeout, c.close)
}

// discard reads and forgets what a host still sends to a connection that has ended.
func (c *conn) discard() {
	n, err := unix.Read(c.fd, c.worker.rubbish[:])
	if n == 0 || err != nil && err != unix.EAGAIN && err != unix.EINTR {
		c.close()
	}
}

// close gives up the socket.
func (c *conn) close() {
	if c.state == stateClosed {
		return
	}
	c.state = stateClosed
	c.timer.Stop()
	c.worker.thread.Unwatch(c.fd)
	_ = unix.Close(c.fd)
	c.worker.closed(c)
}
