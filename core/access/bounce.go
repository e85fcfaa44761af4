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
	waiting     []*op
}

func bounceClass(n int) int { return bits.Len(uint((n+blockBytes-1)/blockBytes - 1)) }

// take returns n bytes, page aligned, with any content.
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
	if err != nil { // the machine has no memory: wait for some of ours
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

func (b *bounces) wait(o *op) { b.waiting = append(b.waiting, o) }

// give returns a buffer and lets who waits try again.
func (b *bounces) give(buf []byte) {
	c := bounceClass(len(buf))
	b.classes[c] = append(b.classes[c], buf[:blockBytes<<c])
	if len(b.waiting) == 0 {
		return
	}
	waiting := b.waiting
	b.waiting = nil
	for _, o := range waiting {
		if o.dead {
			o.recycle()
			continue
		}
		o.park = notParked
		o.resume()
	}
}
