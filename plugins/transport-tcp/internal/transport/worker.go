package transport

import (
	"errors"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/nvmetcp"
)

// worker is the transport on one I/O thread, which owns all of it but load.
type worker struct {
	transport *Transport
	thread    *block.Thread
	window    window
	conns     map[*conn]struct{}
	commands  int     // exchanges between Get and Release
	dirty     []*conn // have something to send
	iov       [maxVectors]unix.Iovec
	rubbish   [16 << 10]byte

	// Connections before their Connect, the oldest first.
	pendingHead, pendingTail *conn
	pending                  int

	stopped chan struct{} // closed once the worker was told to stop and is empty; nil before
	load    atomic.Int32  // connections given to this worker; for the accepting thread
}

func newWorker(t *Transport, th *block.Thread) *worker {
	w := &worker{transport: t, thread: th, conns: map[*conn]struct{}{}}
	w.window = window{pool: th.Pool(), need: t.inCapsule + 2*256}
	w.window.room = max(32<<10, w.window.need)
	return w
}

// start is called on the thread.
func (w *worker) start() { w.thread.OnTurn(w.flush) }

// flush sends what the turn gave rise to.
func (w *worker) flush() {
	for i := 0; i < len(w.dirty); i++ { // flush may add to it
		c := w.dirty[i]
		w.dirty[i] = nil
		c.dirty = false
		c.flush()
	}
	w.dirty = w.dirty[:0]
}

// adopt makes a connection of an accepted socket.
func (w *worker) adopt(fd int, l *listener, peer, local string) {
	if w.stopped != nil || l.closed.Load() {
		_ = unix.Close(fd)
		w.left()
		return
	}
	c := &conn{worker: w, listener: l, fd: fd, peer: peer, local: local, link: nvmetcp.Link{}}
	c.timer = w.thread.After(w.transport.config().HandshakeTimeout, func() { c.end(errHandshakeTimeout, false) })
	c.events = unix.EPOLLIN
	if err := w.thread.Watch(fd, c.events, c.ready); err != nil {
		w.transport.logger.Warn("connection cannot be watched", "peer", peer, "error", err)
		c.timer.Stop()
		_ = unix.Close(fd)
		w.left()
		return
	}
	w.conns[c] = struct{}{}
	w.enlist(c)
	if w.pending > w.transport.maxPending() {
		w.pendingHead.end(errEvicted, false)
	}
}

func (w *worker) enlist(c *conn) {
	w.pending++
	c.pendingPrev = w.pendingTail
	if w.pendingTail != nil {
		w.pendingTail.pendingNext = c
	} else {
		w.pendingHead = c
	}
	w.pendingTail = c
}

// establish takes c out of the connections that wait for their Connect.
func (w *worker) establish(c *conn) {
	if c.established {
		return
	}
	c.established = true
	w.pending--
	if c.pendingPrev != nil {
		c.pendingPrev.pendingNext = c.pendingNext
	} else {
		w.pendingHead = c.pendingNext
	}
	if c.pendingNext != nil {
		c.pendingNext.pendingPrev = c.pendingPrev
	} else {
		w.pendingTail = c.pendingPrev
	}
	c.pendingPrev, c.pendingNext = nil, nil
}

// closed takes note of a connection whose socket is closed.
func (w *worker) closed(c *conn) {
	delete(w.conns, c)
	w.left()
	if len(w.conns) == 0 {
		w.window.release()
	}
	w.checkIdle()
}

// left takes a connection off the counts.
func (w *worker) left() {
	w.load.Add(-1)
	w.transport.connections.Add(-1)
}

// endListener ends the connections that came in by l.
func (w *worker) endListener(l *listener) {
	for c := range w.conns {
		if c.listener == l {
			c.end(errListenerClosed, true)
		}
	}
}

// stop ends every connection; done is closed when no command is under way any more.
func (w *worker) stop(done chan struct{}) {
	w.stopped = done
	for c := range w.conns {
		c.end(errStopped, true)
	}
	w.checkIdle()
}

func (w *worker) checkIdle() {
	if w.stopped != nil && len(w.conns) == 0 && w.commands == 0 {
		select {
		case <-w.stopped:
		default:
			close(w.stopped)
		}
	}
}

// log says why a connection ends. What any host can cause at will is not logged loudly.
func (w *worker) log(c *conn, reason error) {
	w.transport.counters.ended.Add(1)
	var terr *nvmetcp.TermError
	level := hclog.Debug
	if errors.As(reason, &terr) {
		w.transport.counters.protocolErrors.Add(1)
		level = hclog.Info
	}
	w.transport.logger.Log(level, "connection ends", "peer", c.peer, "url", c.local, "reason", reason)
}
