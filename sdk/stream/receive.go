package stream

import (
	"io"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk/block"
)

const (
	// receiveBudget is how many bytes one connection may receive in one turn, so that others get
	// theirs.
	receiveBudget = 512 << 10
	// aheadBytes is how much is read besides payload that goes straight to its place, or while
	// such payload is expected: what is read into the window must be copied.
	aheadBytes = 16 << 10
	// directBytes is the least payload that is worth a vector of its own.
	directBytes = 4 << 10
)

// receive reads what the socket has, within the budget, and has it served.
func (c *Conn) receive() {
	w := &c.worker.window
	for budget := receiveBudget; budget > 0 && c.state == stateOpen && !c.paused; {
		room := w.prepare(c)
		var direct []byte
		if c.read == w.fill {
			var soon bool
			if direct, soon = c.handler.Direct(); len(direct) < directBytes {
				direct = nil
			}
			if soon || direct != nil {
				room = room[:min(len(room), aheadBytes)]
			}
		}
		n, err := c.readv(direct, room)
		if err != nil {
			w.settle(c)
			if err != unix.EAGAIN {
				c.lost(err)
			}
			return
		}
		c.arrived(n, len(direct))
		if n < len(direct)+len(room) {
			return
		}
		budget -= n
	}
}

// readv fills direct, then room.
func (c *Conn) readv(direct, room []byte) (int, error) {
	iov := &c.worker.iov
	first := 1
	if len(direct) > 0 {
		first = 0
		iov[0] = unix.Iovec{Base: &direct[0], Len: uint64(len(direct))}
	}
	iov[1] = unix.Iovec{Base: &room[0], Len: uint64(len(room))}
	n, _, errno := unix.RawSyscall(unix.SYS_READV, uintptr(c.fd), uintptr(unsafe.Pointer(&iov[first])), uintptr(2-first))
	switch {
	case errno == unix.EINTR:
		return 0, unix.EAGAIN // the socket is still readable: the next turn tries again
	case errno != 0:
		return 0, errno
	case n == 0:
		return 0, io.EOF
	}
	return int(n), nil
}

// arrived has n bytes served, of which the first went to where direct was.
func (c *Conn) arrived(n, direct int) {
	if d := min(n, direct); d > 0 {
		c.handler.Placed(d)
		n -= d
	}
	w := &c.worker.window
	w.fill += n
	if c.state == stateOpen {
		c.read += c.handler.Receive(w.mem[c.read:w.fill])
	}
	if c.state == stateOpen && w.fill-c.read > w.need {
		c.Fault(errTooLong, false)
	}
	if c.state == stateOpen {
		w.settle(c)
	} else {
		w.forget(c)
		w.settleNone()
	}
}

// Keep keeps n bytes, from b[at] on, of what Receive was called with, when they lie in the pool;
// false if they do not, and must be copied. The memory is valid until the Chunk is released.
func (c *Conn) Keep(at, n int) (block.Buffer, *Chunk, bool) {
	k := c.worker.window.chunk
	if k == nil {
		return block.Buffer{}, nil, false
	}
	k.refs++
	return k.buf.Slice(c.read+at, n), k, true
}
