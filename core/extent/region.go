package extent

import "math/bits"

// A region is what replicas are compared by: a run of blocks for which a replica keeps one mark. The marks of an extent fit its
// header page. See docs/adr/0005-replication.md for the size.
const (
	maxRegions      = 4096
	minRegionBlocks = 16
)

// RegionBlocks is how many blocks a region of an extent of that many blocks has, a power of two.
func RegionBlocks(extentBlocks uint32) uint32 {
	return min(max(extentBlocks/maxRegions, minRegionBlocks), extentBlocks)
}

// Regions is a set of the regions of an extent, a bit for each. The zero value is an empty set that takes none.
type Regions []uint64

// NewRegions returns an empty set of n regions.
func NewRegions(n int) Regions { return make(Regions, (n+63)/64) }

// Add puts the regions from to to-1 into the set and tells whether any was missing.
func (r Regions) Add(from, to uint32) (changed bool) {
	for ; from < to; from++ {
		w, bit := &r[from/64], uint64(1)<<(from%64)
		changed = changed || *w&bit == 0
		*w |= bit
	}
	return changed
}

// Remove takes the regions from to to-1 out and tells whether any was there.
func (r Regions) Remove(from, to uint32) (changed bool) {
	for ; from < to; from++ {
		w, bit := &r[from/64], uint64(1)<<(from%64)
		changed = changed || *w&bit != 0
		*w &^= bit
	}
	return changed
}

// Has tells whether any of the regions from to to-1 is in the set.
func (r Regions) Has(from, to uint32) bool {
	for ; from < to; from++ {
		if r[from/64]>>(from%64)&1 != 0 {
			return true
		}
	}
	return false
}

// Or adds all of o, which may be shorter.
func (r Regions) Or(o Regions) {
	for i, w := range o {
		r[i] |= w
	}
}

// Clear empties the set.
func (r Regions) Clear() { clear(r) }

// Clone returns a copy.
func (r Regions) Clone() Regions { return append(Regions(nil), r...) }

// Count is the number of regions in the set.
func (r Regions) Count() int {
	n := 0
	for _, w := range r {
		n += bits.OnesCount64(w)
	}
	return n
}

// Next returns the first region in the set from region from on.
func (r Regions) Next(from uint32) (region uint32, ok bool) {
	for i := from / 64; i < uint32(len(r)); i++ {
		w := r[i]
		if i == from/64 {
			w &= ^uint64(0) << (from % 64)
		}
		if w != 0 {
			return i*64 + uint32(bits.TrailingZeros64(w)), true
		}
	}
	return 0, false
}

// Run returns the first run of regions in the set from region from on: [first, end).
func (r Regions) Run(from uint32) (first, end uint32, ok bool) {
	if first, ok = r.Next(from); !ok {
		return 0, 0, false
	}
	for end = first + 1; end < uint32(len(r))*64 && r[end/64]>>(end%64)&1 != 0; end++ {
	}
	return first, end, true
}

// regions is how many regions an extent has.
func (g geometry) regions() uint32 { return g.blocks / RegionBlocks(g.blocks) }

// regionsOf is the range of regions that touch n blocks from block on.
func (g geometry) regionsOf(block, n uint32) (from, to uint32) {
	size := RegionBlocks(g.blocks)
	return block / size, (block + n + size - 1) / size
}
