package stream

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
	// smallStash is how many untaken bytes a connection keeps without a buffer.
	smallStash = 128
	// spareStashes is how many buffers for untaken bytes a thread keeps for reuse.
	spareStashes = 32
)

// Chunk is memory of the pool that received bytes lie in. It is freed when the window has moved
// on and nobody keeps anything in it. Owned by the I/O thread.
type Chunk struct {
	window *window
	buf    block.Buffer
	refs   int
}

// Release ends what Conn.Keep began.
func (k *Chunk) Release() { k.window.unref(k) }

// window is where a thread's connections receive, in turn. Bytes mem[:fill] were received. If
// owner is not nil, mem[owner.read:fill] is what it has not taken. Owned by the I/O thread.
type window struct {
	pool     *block.Pool
	need     int // bytes that a handler may leave untaken
	room     int // free bytes that a read wants
	mem      []byte
	fill     int
	chunk    *Chunk // nil: mem is the fallback, in which nothing can be kept
	owner    *Conn
	fallback []byte
	chunks   int // in existence
	spare    []*Chunk
	stashes  [][]byte
}

// prepare makes room for a read of c behind what c has not taken, which moves to
// mem[c.read:fill], and returns that room, capped to readBytes.
func (w *window) prepare(c *Conn) []byte {
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

// settle ends the turn of c with the window, which may keep the untaken rest.
func (w *window) settle(c *Conn) {
	if w.owner != c || c.read < w.fill {
		return
	}
	w.owner = nil
	if w.chunk == nil || w.chunk.refs == 1 {
		w.fill = 0 // nothing refers to it: stay where the cache is warm
	}
}

// evict makes the owner keep its untaken bytes itself.
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

func (w *window) unstash(c *Conn) {
	if cap(c.stash) > smallStash && len(w.stashes) < spareStashes {
		w.stashes = append(w.stashes, c.stash)
	}
	c.stash = nil
}

// forget drops what c has not taken.
func (w *window) forget(c *Conn) {
	if w.owner == c {
		w.owner = nil
	}
	w.unstash(c)
}

// renew begins a new window, and moves the untaken bytes of c there.
func (w *window) renew(c *Conn) {
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
			w.chunk = &Chunk{window: w}
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
func (w *window) unref(k *Chunk) {
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
