package block

import (
	"fmt"
	"math/bits"
)

// PageBytes is the grain of the pool.
const PageBytes = 4096

// DefaultMaxTransfer is the largest single allocation unless configured, in bytes.
const DefaultMaxTransfer = 1 << 20

// Buffer is a range of the pool. The zero value is empty.
type Buffer struct {
	mem    []byte
	offset uint64
}

// Bytes is the memory itself; the core sees every change to it.
func (b Buffer) Bytes() []byte { return b.mem }

// Len is the size in bytes.
func (b Buffer) Len() int { return len(b.mem) }

// Offset is the position in the pool in bytes.
func (b Buffer) Offset() uint64 { return b.offset }

// Slice is the part of b from off, n bytes long. It shares b's life.
func (b Buffer) Slice(off, n int) Buffer {
	return Buffer{mem: b.mem[off : off+n : off+n], offset: b.offset + uint64(off)}
}

// Pool hands out the shared memory of one Thread, which owns it. It is a buddy
// allocator: blocks are powers of two of pages, aligned to their size; a block's
// buddy is the other half of the block that it came from.
type Pool struct {
	mem      []byte
	maxOrder int
	pages    []page
	free     []int32 // by order: first free block, or none
	inUse    int     // pages
	waiters  []waiter
	freed    bool               // since waiters were last served
	holders  map[string]*holder // by name; see Share
	pressed  []*holder          // have parked commands
}

// page describes the block that begins at a page. Other pages' entries are stale.
type page struct {
	prev, next int32 // of a free block: its neighbours in the list
	order      int8
	state      pageState
}

type pageState uint8

const (
	inside pageState = iota // of a block
	freeBlock
	usedBlock
)

const none = -1

type waiter struct {
	n  int
	fn func(Buffer)
}

// newPool divides mem, whose length is a multiple of PageBytes.
func newPool(mem []byte, maxTransfer int) *Pool {
	n := len(mem) / PageBytes
	p := &Pool{mem: mem, maxOrder: order(maxTransfer), pages: make([]page, n)}
	for range p.maxOrder + 1 {
		p.free = append(p.free, none)
	}
	// The rest that is smaller than a largest block becomes smaller blocks; highest
	// first, so that the lists begin with the lowest.
	for end := n; end > 0; {
		o := min(bits.TrailingZeros(uint(end)), p.maxOrder)
		end -= 1 << o
		p.link(end, o)
	}
	return p
}

// order is the order of the smallest block that holds n bytes, n > 0.
func order(n int) int { return bits.Len(uint((n - 1) / PageBytes)) }

// MaxTransfer is the largest n that Alloc can satisfy, in bytes.
func (p *Pool) MaxTransfer() int { return PageBytes << p.maxOrder }

// Size is the size of the whole pool in bytes.
func (p *Pool) Size() int { return len(p.mem) }

// Memory is all of it, for a transport that registers it with a device: a Buffer lies Offset bytes
// from its start. What is not allocated is nobody's to touch.
func (p *Pool) Memory() []byte { return p.mem }

// InUse is the memory that is allocated, in bytes, with what rounding up costs.
func (p *Pool) InUse() int { return p.inUse * PageBytes }

// Alloc returns n contiguous bytes that begin on a page, 0 < n <= MaxTransfer. The
// contents are whatever was there. It fails when no block is free, or when others
// wait for one: they come first.
func (p *Pool) Alloc(n int) (Buffer, bool) {
	if len(p.waiters) > 0 {
		return Buffer{}, false
	}
	return p.alloc(n)
}

// Wait calls fn with n bytes, on the thread, when they are free and all who waited
// before are served; at the end of this turn at the earliest. Who has no use for
// the buffer any more frees it.
func (p *Pool) Wait(n int, fn func(Buffer)) {
	p.mustFit(n)
	p.waiters = append(p.waiters, waiter{n, fn})
	p.freed = true
}

// Free gives a buffer back; any Slice that begins where the allocation began will
// do. The core must be done with it.
func (p *Pool) Free(b Buffer) {
	i := int(b.offset / PageBytes)
	if b.offset%PageBytes != 0 || i >= len(p.pages) || p.pages[i].state != usedBlock {
		panic(fmt.Sprintf("block: buffer at %d is not allocated", b.offset))
	}
	o := int(p.pages[i].order)
	p.inUse -= 1 << o
	p.freed = true
	for ; o < p.maxOrder; o++ {
		buddy := i ^ 1<<o
		if buddy >= len(p.pages) || p.pages[buddy].state != freeBlock || int(p.pages[buddy].order) != o {
			break
		}
		p.unlink(buddy)
		p.pages[max(i, buddy)].state = inside
		i = min(i, buddy)
	}
	p.link(i, o)
}

func (p *Pool) mustFit(n int) {
	if n <= 0 || n > p.MaxTransfer() || order(n) > bits.Len(uint(len(p.pages)))-1 {
		panic(fmt.Sprintf("block: allocation of %d bytes, 1 to %d are possible", n, min(p.MaxTransfer(), len(p.mem))))
	}
}

func (p *Pool) alloc(n int) (Buffer, bool) {
	p.mustFit(n)
	want := order(n)
	o := want
	for o <= p.maxOrder && p.free[o] == none {
		o++
	}
	if o > p.maxOrder {
		return Buffer{}, false
	}
	i := int(p.free[o])
	p.unlink(i)
	for o > want { // keep the lower half, free the upper one
		o--
		p.link(i+1<<o, o)
	}
	p.pages[i] = page{order: int8(want), state: usedBlock}
	p.inUse += 1 << want
	off := i * PageBytes
	return Buffer{mem: p.mem[off : off+n : off+n], offset: uint64(off)}, true
}

// servable says whether serve has something to try.
func (p *Pool) servable() bool { return p.freed && len(p.waiters) > 0 }

// serve calls waiters as far as the memory goes.
func (p *Pool) serve() {
	if !p.freed {
		return
	}
	p.freed = false
	for len(p.waiters) > 0 {
		w := p.waiters[0]
		b, ok := p.alloc(w.n)
		if !ok {
			return
		}
		p.waiters[0] = waiter{}
		p.waiters = p.waiters[1:]
		w.fn(b)
	}
	p.waiters = nil
}

// link puts the block at page i into the list of free ones of its order.
func (p *Pool) link(i, o int) {
	first := p.free[o]
	p.pages[i] = page{prev: none, next: first, order: int8(o), state: freeBlock}
	if first != none {
		p.pages[first].prev = int32(i)
	}
	p.free[o] = int32(i)
}

func (p *Pool) unlink(i int) {
	b := p.pages[i]
	if b.prev == none {
		p.free[b.order] = b.next
	} else {
		p.pages[b.prev].next = b.next
	}
	if b.next != none {
		p.pages[b.next].prev = b.prev
	}
}
