package extent

import (
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// Member names a replica of an extent: a store in one of its lives.
type Member struct {
	Store       uuid.UUID
	Incarnation uint64
}

// MaxMembers bounds a replica set, and likewise the stores that are absent from one.
const MaxMembers = 8

// Seal is what a replica is told with a new generation, and keeps.
type Seal struct {
	Gen Generation
	Set []Member // at this generation
	// Absence is who left the set and may come back; nil leaves it as the replica knows it.
	Absence *Absence
}

// Absence is what a replica keeps for stores that left the set and may come back: the regions that they miss. A store that leaves
// misses what is dirty then, or has there what others do not. While there is such a store, the replica adds what is
// written; without one it forgets them.
type Absence struct {
	Stores []uuid.UUID
	Behind Regions // at least these; may be nil
}

// Sealed is what a replica knew when a seal reached it. The regions are the receiver's.
type Sealed struct {
	Gen    Generation
	Set    []Member
	Absent []uuid.UUID
	Dirty  Regions // written since the owner last said that all members have the same there
	Behind Regions // what the absent stores miss
}

func (s *Seal) check(g geometry) error {
	switch {
	case len(s.Set) > MaxMembers:
		return fmt.Errorf("%d members, at most %d are possible: %w", len(s.Set), MaxMembers, ErrInvalid)
	case s.Absence == nil:
	case len(s.Absence.Stores) > MaxMembers:
		return fmt.Errorf("%d absent stores, at most %d are possible: %w", len(s.Absence.Stores), MaxMembers, ErrInvalid)
	case len(s.Absence.Behind) > len(NewRegions(int(g.regions()))):
		return fmt.Errorf("marks for %d regions of %d: %w", 64*len(s.Absence.Behind), g.regions(), ErrInvalid)
	}
	return nil
}

// replica is what a replica keeps in its header page beside the generation. Queue's goroutine only.
type replica struct {
	set    []Member
	absent []uuid.UUID
	dirty  Regions
	behind Regions
}

func newReplica(g geometry) replica {
	n := int(g.regions())
	return replica{dirty: NewRegions(n), behind: NewRegions(n)}
}

// take enters what a seal says.
func (r *replica) take(s *Seal) {
	r.set = append(r.set[:0], s.Set...)
	a := s.Absence
	if a == nil {
		return
	}
	if len(r.absent) == 0 || len(a.Stores) == 0 {
		r.behind.Clear()
	}
	if len(a.Stores) > 0 {
		r.behind.Or(a.Behind)
	}
	for _, id := range a.Stores {
		if !slices.Contains(r.absent, id) {
			r.behind.Or(r.dirty)
		}
	}
	r.absent = append(r.absent[:0], a.Stores...)
}

// knows tells whether taking s would change nothing.
func (r *replica) knows(s *Seal) bool {
	return slices.Equal(r.set, s.Set) && (s.Absence == nil || slices.Equal(r.absent, s.Absence.Stores))
}

// wrote marks the regions from to to-1 and tells whether that is news.
func (r *replica) wrote(from, to uint32) bool {
	changed := r.dirty.Add(from, to)
	if len(r.absent) > 0 && r.behind.Add(from, to) {
		changed = true
	}
	return changed
}

// The body of a header page behind the identities of cluster and store.
const (
	headerSet    = pageHeaderSize + 32
	headerAbsent = headerSet + 4 + MaxMembers*24
	headerDirty  = 512
	headerBehind = headerDirty + maxRegions/8
)

func (r *replica) encode(p []byte) {
	p[headerSet] = byte(len(r.set))
	for i, m := range r.set {
		b := p[headerSet+4+24*i:]
		copy(b, m.Store[:])
		le.PutUint64(b[16:], m.Incarnation)
	}
	p[headerAbsent] = byte(len(r.absent))
	for i, id := range r.absent {
		copy(p[headerAbsent+4+16*i:], id[:])
	}
	for i := range r.dirty {
		le.PutUint64(p[headerDirty+8*i:], r.dirty[i])
		le.PutUint64(p[headerBehind+8*i:], r.behind[i])
	}
}

// decode reads what encode wrote; in a page of version 1 it finds zeros, which mean nothing.
func (r *replica) decode(p []byte) {
	n, absent := min(int(p[headerSet]), MaxMembers), min(int(p[headerAbsent]), MaxMembers)
	r.set, r.absent = nil, nil
	for i := range n {
		b := p[headerSet+4+24*i:]
		r.set = append(r.set, Member{Store: uuid.UUID(b[:16]), Incarnation: le.Uint64(b[16:])})
	}
	for i := range absent {
		r.absent = append(r.absent, uuid.UUID(p[headerAbsent+4+16*i:][:16]))
	}
	for i := range r.dirty {
		r.dirty[i] = le.Uint64(p[headerDirty+8*i:])
		r.behind[i] = le.Uint64(p[headerBehind+8*i:])
	}
}

// Mapped tells in which regions an extent has data. Queue's goroutine only, like done, which runs before Mapped returns.
func (s *Store) Mapped(id ID, done func(Regions, error)) {
	e := s.Extent(id)
	if e == nil {
		done(nil, wrap("look at extent", id, ErrMissing))
		return
	}
	_, _, mapped := s.Marks(e)
	done(mapped, nil)
}

// Marks returns what the replica has noted, and in which regions it has data. Queue's goroutine only.
func (s *Store) Marks(e *Extent) (dirty, behind, mapped Regions) {
	mapped = NewRegions(int(s.geo.regions()))
	for b := uint32(0); b < s.geo.blocks; {
		if page := b / pageEntries; e.pages[page].used == 0 {
			b = (page + 1) * pageEntries
			continue
		}
		if e.entries[b].slot != slotZero {
			mapped.Add(s.geo.regionsOf(b, 1))
		}
		b++
	}
	return e.replica.dirty.Clone(), e.replica.behind.Clone(), mapped
}

// Amounts tells how many bytes absent stores miss of an extent, in whole regions, and how many of it have data. Queue's goroutine only.
func (e *Extent) Amounts() (behind, data int64) {
	blocks := uint32(len(e.entries))
	for i := range e.pages {
		data += int64(e.pages[i].used) * BlockSize
	}
	return int64(e.replica.behind.Count()) * int64(RegionBlocks(blocks)) * BlockSize, data
}
