package stream

import (
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk/block"
)

// worker is the server on one I/O thread, which owns all of it but load.
type worker struct {
	server  *Server
	thread  *block.Thread
	window  window
	conns   map[*Conn]struct{}
	held    int     // by Conn.Hold
	dirty   []*Conn // have something to send
	iov     [maxVectors]unix.Iovec
	rubbish [16 << 10]byte

	// Connections that are not established, the oldest first.
	pendingHead, pendingTail *Conn
	pending                  int

	stopped chan struct{} // closed once the worker was told to stop and is empty; nil before
	load    atomic.Int32  // connections given to this worker; for the accepting thread
}

func newWorker(s *Server, th *block.Thread, piece int) *worker {
	w := &worker{server: s, thread: th, conns: map[*Conn]struct{}{}}
	w.window = window{pool: th.Pool(), need: piece, room: max(32<<10, piece)}
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
	c := &Conn{worker: w, listener: l, fd: fd, peer: peer, local: local}
	c.timer = w.thread.After(w.server.limits.Load().Greeting, func() { c.End(errGreetingTimeout, false) })
	c.events = unix.EPOLLIN
	if err := w.thread.Watch(fd, c.events, c.ready); err != nil {
		w.server.logger.Warn("connection cannot be watched", "peer", peer, "error", err)
		c.timer.Stop()
		_ = unix.Close(fd)
		w.left()
		return
	}
	w.conns[c] = struct{}{}
	w.enlist(c)
	c.handler = w.server.new(c)
	if w.pending > w.server.maxPending() {
		w.pendingHead.End(errEvicted, false)
	}
}

func (w *worker) enlist(c *Conn) {
	w.pending++
	c.pendingPrev = w.pendingTail
	if w.pendingTail != nil {
		w.pendingTail.pendingNext = c
	} else {
		w.pendingHead = c
	}
	w.pendingTail = c
}

// establish takes c out of the connections that wait for that.
func (w *worker) establish(c *Conn) {
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
func (w *worker) closed(c *Conn) {
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
	w.server.connections.Add(-1)
}

// endListener ends the connections that came in by l.
func (w *worker) endListener(l *listener) {
	for c := range w.conns {
		if c.listener == l {
			c.End(errListenerClosed, true)
		}
	}
}

// stop ends every connection; done is closed when nothing is held any more.
func (w *worker) stop(done chan struct{}) {
	w.stopped = done
	for c := range w.conns {
		c.End(errStopped, true)
	}
	w.checkIdle()
}

func (w *worker) checkIdle() {
	if w.stopped != nil && len(w.conns) == 0 && w.held == 0 {
		select {
		case <-w.stopped:
		default:
			close(w.stopped)
		}
	}
}

// log says why a connection ends. What any host can cause at will is not logged loudly.
func (w *worker) log(c *Conn, reason error, fault bool) {
	w.server.counters.ended.Add(1)
	level := hclog.Debug
	if fault {
		w.server.counters.protocolErrors.Add(1)
		level = hclog.Info
	}
	w.server.logger.Log(level, "connection ends", "peer", c.peer, "url", c.local, "reason", reason)
}
