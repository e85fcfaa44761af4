package meta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// Generation grows with every change of an extent's owner or replica set.
type Generation uint64

// Member is a replica's place: a store in one of its lives.
type Member struct {
	Store uuid.UUID
	// Incarnation is of a life of the store since which it lost nothing that it
	// acknowledged. 0: the replica is still to be made; see PlaceExtent.
	Incarnation uint64
}

// tentative says that the extent was placed and never confirmed: nothing can have
// been written to it.
func (e Extent) tentative() bool {
	return slices.ContainsFunc(e.Set, func(m Member) bool { return m.Incarnation == 0 })
}

// Extent is what Meta knows of one extent.
type Extent struct {
	// Changes counts those of its set; with the Term of its volume's owner it makes the
	// generation. 0: never allocated.
	Changes Generation
	Set     []Member // nil: not allocated
}

func (e Extent) equal(o Extent) bool { return e.Changes == o.Changes && slices.Equal(e.Set, o.Set) }

// ChunkExtents is how many extents share a key.
const ChunkExtents = 256

// MaxReplicas is how many replicas an extent has at most.
const MaxReplicas = 8

// chunkVersion begins every packed record of extents. Version 1 had owners of single
// extents, whose changes the generation counted as well.
const chunkVersion = 2

// chunk is a packed record: the extents of one key. See docs/format/meta-store.md.
type chunk [ChunkExtents]Extent

// append writes the chunk: a table of sets, and runs of equal extents.
func (c *chunk) append(b []byte) []byte {
	var sets [][]Member
	set := func(s []Member) uint64 {
		if len(s) == 0 {
			return 0
		}
		i := slices.IndexFunc(sets, func(o []Member) bool { return slices.Equal(o, s) })
		if i < 0 {
			i = len(sets)
			sets = append(sets, s)
		}
		return uint64(i + 1)
	}
	var runs []byte
	for i := 0; i < len(c); {
		n := 1
		for i+n < len(c) && c[i].equal(c[i+n]) {
			n++
		}
		runs = binary.AppendUvarint(runs, uint64(n))
		runs = binary.AppendUvarint(runs, set(c[i].Set))
		runs = binary.AppendUvarint(runs, uint64(c[i].Changes))
		i += n
	}
	b = append(b, chunkVersion)
	b = binary.AppendUvarint(b, uint64(len(sets)))
	for _, s := range sets {
		b = binary.AppendUvarint(b, uint64(len(s)))
		for _, m := range s {
			b = append(b, m.Store[:]...)
			b = binary.AppendUvarint(b, m.Incarnation)
		}
	}
	return append(b, runs...)
}

var errChunk = errors.New("packed extents are malformed")

// parseChunk reads what append wrote. Equal sets share memory; they are not to be
// changed in place.
func parseChunk(b []byte) (*chunk, error) {
	if len(b) == 0 {
		return nil, errChunk
	}
	version := b[0]
	if version == 0 || version > chunkVersion {
		return nil, fmt.Errorf("packed extents of version %d: %w", version, ErrNewer)
	}
	r := reader{b: b[1:]}
	if version == 1 {
		for range r.count(ChunkExtents) {
			r.uvarint() // an owner
		}
	}
	sets := make([][]Member, r.count(ChunkExtents))
	for i := range sets {
		sets[i] = make([]Member, r.count(MaxReplicas))
		for j := range sets[i] {
			copy(sets[i][j].Store[:], r.bytes(16))
			sets[i][j].Incarnation = r.uvarint()
		}
	}
	c := new(chunk)
	for i := 0; i < len(c) && !r.bad; {
		n := r.uvarint()
		if version == 1 {
			r.uvarint() // the owner
		}
		s, changes := r.uvarint(), r.uvarint()
		if n == 0 || n > uint64(len(c)-i) || s > uint64(len(sets)) {
			return nil, errChunk
		}
		e := Extent{Changes: Generation(changes)}
		if s > 0 {
			e.Set = sets[s-1]
		}
		for range n {
			c[i] = e
			i++
		}
	}
	if r.bad || len(r.b) > 0 {
		return nil, errChunk
	}
	return c, nil
}

// reader reads a record and remembers if it was too short.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count reads a number of elements, each at least one byte, up to limit.
func (r *reader) count(limit int) int {
	n := r.uvarint()
	if n > uint64(limit) || n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return 0
	}
	return int(n)
}

func (r *reader) bytes(n int) []byte {
	if len(r.b) < n {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}
