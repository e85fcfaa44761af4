package vfs

import (
	"bytes"
	"slices"
)

// content is the bytes of a simulated file. It is sparse, and copies share what neither has written since: files of a simulation are
// mostly zeros, and a crash test copies them a thousand times.
type content struct {
	size   int64
	chunks [][]byte // of contentChunk bytes; nil: zeros
	own    []bool   // the chunk is nobody else's
}

const contentChunk = 32 << 10 // bytes

var zeros [contentChunk]byte

// grow makes the file at least size bytes long.
func (c *content) grow(size int64) {
	if size <= c.size {
		return
	}
	c.size = size
	if more := int((size+contentChunk-1)/contentChunk) - len(c.chunks); more > 0 {
		c.chunks = append(c.chunks, make([][]byte, more)...)
		c.own = append(c.own, make([]bool, more)...)
	}
}

// read copies what lies at off into b and returns how much that is.
func (c *content) read(b []byte, off int64) int {
	b = b[:max(0, min(int64(len(b)), c.size-off))]
	for done := 0; done < len(b); {
		at := off + int64(done)
		part := b[done:min(len(b), done+int(contentChunk-at%contentChunk))]
		if chunk := c.chunks[at/contentChunk]; chunk != nil {
			copy(part, chunk[at%contentChunk:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	return len(b)
}

// write puts b at off, where the file grows if need be.
func (c *content) write(b []byte, off int64) {
	c.grow(off + int64(len(b)))
	for done := 0; done < len(b); {
		at := off + int64(done)
		part := b[done:min(len(b), done+int(contentChunk-at%contentChunk))]
		if c.chunks[at/contentChunk] != nil || !bytes.Equal(part, zeros[:len(part)]) {
			copy(c.chunk(at / contentChunk)[at%contentChunk:], part)
		}
		done += len(part)
	}
}

// chunk returns the i-th chunk to be written to.
func (c *content) chunk(i int64) []byte {
	if !c.own[i] {
		was := c.chunks[i]
		c.chunks[i], c.own[i] = make([]byte, contentChunk), true
		copy(c.chunks[i], was)
	}
	return c.chunks[i]
}

// invert inverts n bytes at off, as far as the file reaches.
func (c *content) invert(off int64, n int) {
	for i := off; i < min(off+int64(n), c.size); i++ {
		c.chunk(i / contentChunk)[i%contentChunk] ^= 0xff
	}
}

// clone returns a copy.
func (c *content) clone() content {
	clear(c.own)
	return content{size: c.size, chunks: slices.Clone(c.chunks), own: make([]bool, len(c.own))}
}
