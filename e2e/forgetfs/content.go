package forgetfs

import "bytes"

const (
	pageSize   = 4096 // bytes; the unit in which a file's memory is held
	sectorSize = 512  // bytes; the unit that a power cut keeps or drops
)

var zeroPage [pageSize]byte

// content is what a file holds. Absent pages are zeros.
type content struct {
	size  int64 // bytes
	pages map[int64][]byte
}

func newContent() content { return content{pages: map[int64][]byte{}} }

func (c *content) clone() content {
	out := content{size: c.size, pages: make(map[int64][]byte, len(c.pages))}
	for i, p := range c.pages {
		out.pages[i] = bytes.Clone(p)
	}
	return out
}

// spans calls fn for each part of [off, off+n) within one page.
func spans(off, n int64, fn func(page, in, part int64)) {
	for n > 0 {
		in := off % pageSize
		part := min(pageSize-in, n)
		fn(off/pageSize, in, part)
		off, n = off+part, n-part
	}
}

// readAt fills b up to the end of the file and returns how much that is.
func (c *content) readAt(b []byte, off int64) int {
	if off >= c.size {
		return 0
	}
	b = b[:min(int64(len(b)), c.size-off)]
	n := len(b)
	spans(off, int64(n), func(page, in, part int64) {
		if p := c.pages[page]; p != nil {
			copy(b[:part], p[in:])
		} else {
			clear(b[:part])
		}
		b = b[part:]
	})
	return n
}

func (c *content) writeAt(b []byte, off int64) {
	if len(b) == 0 {
		return
	}
	c.size = max(c.size, off+int64(len(b)))
	spans(off, int64(len(b)), func(page, in, part int64) {
		p := c.pages[page]
		switch {
		case part == pageSize && bytes.Equal(b[:part], zeroPage[:]):
			delete(c.pages, page)
		case p == nil:
			p = make([]byte, pageSize)
			c.pages[page] = p
			fallthrough
		default:
			copy(p[in:], b[:part])
		}
		b = b[part:]
	})
}

// zero makes [off, off+n) read as zeros without changing the size.
func (c *content) zero(off, n int64) {
	spans(off, n, func(page, in, part int64) {
		switch p := c.pages[page]; {
		case p == nil:
		case part == pageSize:
			delete(c.pages, page)
		default:
			clear(p[in : in+part])
		}
	})
}

func (c *content) truncate(size int64) {
	if size < c.size {
		c.zero(size, (pageSize-size%pageSize)%pageSize)
		for i := range c.pages {
			if i*pageSize >= size {
				delete(c.pages, i)
			}
		}
	}
	c.size = size
}
