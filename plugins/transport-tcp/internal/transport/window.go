package transport

import (
	"github.com/mooring-io/mooring/sdk/block"
)

const (
	// chunkBytes is the size of a receive window in the pool.
	chunkBytes = 256 << 10
	// readBytes is the most that one read takes into the window.
	readBytes = 128 << 10
	// fallbackBytes is the size of the window outside of the pool.
	fallbackBytes = 96 << 10
	// maxPinned is the part of the pool that chunks may hold: one in this many bytes.
	maxPinned = 4
	// smallStash is how many bytes of an unfinished PDU a connection keeps without a buffer.
	smallStash = 128
	// spareStashes is how many buffers for unfinished PDUs a thread keeps for reuse.
	spareStashes = 32
)

// chunk is memory of the pool that received data lies in. It is freed when the window has moved
// on and no command refers to it.
type chunk struct {
	buf  block.Buffer
	refs int
}

// window is where a thread's connections receive, in turn. Bytes mem[:fill] were received. If
// owner is not nil, mem[owner.read:fill] is its unfinished PDU. Owned by the I/O thread.
type window struct {
	pool     *block.Pool
	need     int // bytes of the longest PDU that must lie in one piece: a capsule
	room     int // free bytes that a read wants
	mem      []byte
	fill     int
	chunk    *chunk // nil: mem is the fallback, to which no command may refer
	owner    *conn
	fallback []byte
	chunks   int // in existence
	spare    []*chunk
	stashes  [][]byte
}

// prepare makes room for a read of c behind what c has not finished, which moves to
// mem[c.read:fill], and returns that room, capped to readBytes.
func (w *window) prepare(c *conn) []byte {
	if w.owner != c {
		w.evict()
		if len(w.mem)-w.fill < w.room+len(c.stash) {
			w.renew(nil)
		}
		c.read = w.fill
		w.fill += copy(w.mem[w.fill:], c.stash)
		w.unstash(c)
		w.owner = c
	} else if len(w.mem)-w.fill < w.room {
		w.renew(c)
	}
	return w.mem[w.fill:min(len(w.mem), w.fill+readBytes)]
}

// settle ends the turn of c with the window, which may keep the unfinished rest.
func (w *window) settle(c *conn) {
	if w.owner != c || c.read < w.fill {
		return
	}
	w.owner = nil
	if w.chunk == nil || w.chunk.refs == 1 {
		w.fill = 0 // nothing refers to it: stay where the cache is warm
	}
}

// evict makes the owner keep its unfinished PDU itself.
func (w *window) evict() {
	c := w.owner
	if c == nil {
		return
	}
	w.owner = nil
	rest := w.mem[c.read:w.fill]
	if len(rest) <= smallStash {
		c.stash = append(c.small[:0], rest...)
		return
	}
	if n := len(w.stashes); n > 0 {
		c.stash = w.stashes[n-1][:0]
		w.stashes = w.stashes[:n-1]
	} else {
		c.stash = make([]byte, 0, w.need)
	}
	c.stash = append(c.stash, rest...)
}

func (w *window) unstash(c *conn) {
	if cap(c.stash) > smallStash && len(w.stashes) < spareStashes {
		w.stashes = append(w.stashes, c.stash)
	}
	c.stash = nil
}

// forget drops what c has not finished.
func (w *window) forget(c *conn) {
	if w.owner == c {
		w.owner = nil
	}
	w.unstash(c)
}

// renew begins a new window, and moves the unfinished PDU of c there.
func (w *window) renew(c *conn) {
	var rest []byte
	if c != nil {
		rest = w.mem[c.read:w.fill]
		c.read = 0
	}
	old := w.chunk
	if old != nil && old.refs == 1 {
		w.fill = copy(w.mem, rest)
		return
	}
	w.chunk = nil
	w.mem = w.take()
	w.fill = copy(w.mem, rest)
	if old != nil {
		w.unref(old)
	}
}

// take returns a new chunk's memory, or the fallback.
func (w *window) take() []byte {
	if (w.chunks+1)*chunkBytes <= w.pool.Size()/maxPinned && chunkBytes <= w.pool.MaxTransfer() {
		if b, ok := w.pool.Alloc(chunkBytes); ok {
			w.chunks++
			w.chunk = &chunk{}
			if n := len(w.spare); n > 0 {
				w.chunk, w.spare = w.spare[n-1], w.spare[:n-1]
			}
			w.chunk.buf, w.chunk.refs = b, 1
			return b.Bytes()
		}
	}
	if w.fallback == nil {
		w.fallback = make([]byte, fallbackBytes+w.room)
	}
	return w.fallback
}

// unref ends a reference to a chunk.
func (w *window) unref(k *chunk) {
	if k.refs--; k.refs > 0 {
		return
	}
	w.pool.Free(k.buf)
	k.buf = block.Buffer{}
	w.chunks--
	if len(w.spare) < spareStashes {
		w.spare = append(w.spare, k)
	}
}

// release gives the memory back when the thread has no connection any more.
func (w *window) release() {
	w.owner, w.mem, w.fill, w.fallback, w.stashes = nil, nil, 0, nil, nil
	if k := w.chunk; k != nil {
		w.chunk = nil
		w.unref(k)
	}
}

// settleNone is settle after the owner was forgotten.
func (w *window) settleNone() {
	if w.owner == nil && (w.chunk == nil || w.chunk.refs == 1) {
		w.fill = 0
	}
}
