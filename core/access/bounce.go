package access

import (
	"math/bits"

	"github.com/mooring-io/mooring/core/vfs"
)

// bounces is core memory for commands that cannot work in the plugin's pool:
// sub-block writes, compares, verifies. Its size is bounded; who finds none waits.
type bounces struct {
	limit, used int64
	classes     [24][][]byte // free buffers of 4 KiB << class
	waiting     opList
}

func bounceClass(n int) int { return bits.Len(uint((n+blockBytes-1)/blockBytes - 1)) }

// take returns n bytes, page aligned, with any content; false means that none are free
// and that some are in use.
func (b *bounces) take(n int) ([]byte, bool) {
	c := bounceClass(n)
	if k := len(b.classes[c]); k > 0 {
		buf := b.classes[c][k-1]
		b.classes[c] = b.classes[c][:k-1]
		return buf[:n], true
	}
	size := blockBytes << c
	if b.used > 0 && b.used+int64(size) > b.limit && !b.trim(int64(size)) {
		return nil, false
	}
	buf, err := vfs.AlignedBuffer(size)
	if err != nil {
		if b.used == 0 {
			panic("access: " + err.Error()) // as the Go heap does when the machine has no memory
		}
		return nil, false
	}
	b.used += int64(size)
	return buf[:n], true
}

// trim frees buffers of other classes until size more fits.
func (b *bounces) trim(size int64) bool {
	for c := range b.classes {
		for len(b.classes[c]) > 0 && b.used+size > b.limit {
			k := len(b.classes[c])
			_ = vfs.FreeBuffer(b.classes[c][k-1]) // fails for a buffer that is none only
			b.classes[c] = b.classes[c][:k-1]
			b.used -= int64(blockBytes << c)
		}
	}
	return b.used == 0 || b.used+size <= b.limit
}

// give returns a buffer and hands memory to those who wait, in the order in which
// they came: a large command is not starved by small ones.
func (b *bounces) give(a *Access, buf []byte) {
	c := bounceClass(len(buf))
	b.classes[c] = append(b.classes[c], buf[:blockBytes<<c])
	for o := b.waiting.head; o != nil; o = b.waiting.head {
		got, ok := b.take(o.want)
		if !ok {
			return
		}
		o.bounce = got
		a.wake(o)
	}
}
