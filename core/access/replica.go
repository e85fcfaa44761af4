package access

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/sdk/ring"
)

// Store is where replicas lie: a disk of this node, or one of another node at the end of a
// link. It does requests in the order in which they are submitted, and ends them on
// the reactor, which alone uses it.
type Store interface {
	Identity() (store uuid.UUID, incarnation uint64)
	Submit(io *extent.IO)
	Create(id extent.ID, w extent.Seal, done func(error))
	Seal(id extent.ID, w extent.Seal, done func(extent.Sealed, error))
	Mapped(id extent.ID, done func(extent.Regions, error))
	Delete(id extent.ID, upTo extent.Generation, done func(error))
	DeleteFrom(volume uuid.UUID, from uint32, done func(error))
}

// replica is a member of an extent's set.
type replica struct {
	member extent.Member
	store  Store          // nil: out of reach
	handle *extent.Extent // on a store of this node
	// suspect: it may lack acknowledged data.
	suspect bool
}

// extentSlot is one extent's place in a volume.
type extentSlot struct {
	state      extentState
	generation extent.Generation
	set        []replica
	absent     []uuid.UUID    // stores that left the set and may come back
	differs    extent.Regions // where members may differ, and are made equal before anything is read; nil: nowhere
	levels     map[uint32]*leveling
	marks      *marks      // nil: nothing is known, and it is not cleaned
	gone       []uuid.UUID // members that failed a write: to be taken out of the set before anything goes on
	sealed     bool        // it is known that all members are sealed at generation
	unsure     bool        // Meta may know the set better than this says
	resolving  *resolving  // not nil: a control goroutine is at it
	disowned   bool        // Meta is behind what a store has of it
	short      bool        // it counts as missing in the volume
	joiner     *joiner     // not nil: another store gets every write, too
}

type extentState uint8

const (
	extentAbsent   extentState = iota // never written: reads as zeros
	extentUnsealed                    // exists; it has to be sealed, or its set to be changed, before it is used
	extentReady
)

// has says whether a store is a member.
func (e *extentSlot) has(id uuid.UUID) bool {
	return slices.ContainsFunc(e.set, func(r replica) bool { return r.member.Store == id })
}

func (e *extentSlot) members() []extent.Member {
	out := make([]extent.Member, len(e.set))
	for i := range e.set {
		out[i] = e.set[i].member
	}
	return out
}

// nearest is the place in the set of the member to read from: one of this node if there is one; -1: none is in
// reach. but is a bit for each that is not wanted.
func (e *extentSlot) nearest(but uint8) int {
	best := -1
	for i := range e.set {
		switch r := &e.set[i]; {
		case r.store == nil || but>>i&1 != 0:
		case r.handle != nil:
			return i
		case best < 0:
			best = i
		}
	}
	return best
}

// serves says whether the members that kind needs are in reach: all, or one to read from.
func (e *extentSlot) serves(kind extent.Op) bool {
	for i := range e.set {
		if in := e.set[i].store != nil; in == (kind == extent.OpRead) {
			return in
		}
	}
	return kind != extent.OpRead
}

// handleOf is the extent on a store, if that is this node's.
func handleOf(s Store, id extent.ID) *extent.Extent {
	if l, ok := s.(*extent.Store); ok {
		return l.Extent(id)
	}
	return nil
}

// attach fills in where members are. Reactor.
func (a *Access) attach(id extent.ID, set []replica) {
	for i := range set {
		if r := &set[i]; r.store == nil {
			r.store = a.store(r.member.Store)
		}
		if r := &set[i]; r.store != nil {
			r.handle = handleOf(r.store, id)
		}
	}
}

// fansOut says whether what is written to r goes to several stores.
func (v *Volume) fansOut(r span) bool {
	size := v.access.extentBytes
	for i := r.from / size; i*size < r.to; i++ {
		if e := &v.extents[i]; len(e.set) > 1 || e.joiner != nil {
			return true
		}
	}
	return false
}

// ready says whether extent i can be used for kind now; if not, o is parked until it
// can or cannot for good.
func (v *Volume) ready(o *op, i int64, kind extent.Op) bool {
	e := &v.extents[i]
	if e.resolving == nil {
		switch {
		case e.state == extentReady && e.serves(kind), e.state == extentAbsent && kind != extent.OpWrite:
			return true
		case e.state == extentReady:
			e.unseal()
		}
	}
	v.resolve(uint32(i)).ops.push(o)
	return false
}

// unseal has an extent's set be looked at before it is used again: members out of reach have to go, if others remain.
func (e *extentSlot) unseal() {
	e.state = extentUnsealed
	for i := range e.set {
		if id := e.set[i].member.Store; e.set[i].store == nil && !slices.Contains(e.gone, id) {
			e.gone = append(e.gone, id)
		}
	}
}

// prepared says whether what o reads may be read now. If not, o is parked: until its extents are sealed, and members that may
// differ there are equal. It is asked before o takes its place in the order, so that nothing that makes them equal waits for it.
func (v *Volume) prepared(o *op) bool {
	if !v.replicated || !o.reads() || o.kind == opLevel || o.kind == opClean {
		return true
	}
	r, size := o.range_.blocks(), v.access.extentBytes
	several := false
	for i := r.from / size; i*size < r.to; i++ {
		if !v.ready(o, i, extent.OpRead) {
			return false
		}
		e := &v.extents[i]
		several = several || len(e.set) > 1
		if e.differs == nil {
			continue
		}
		grain := v.regionBytes()
		from := max(r.from-i*size, 0) / grain
		to := (min(r.to-i*size, size) + grain - 1) / grain
		if region, ok := e.differs.Next(uint32(from)); ok && int64(region) < to {
			v.level(uint32(i), region).push(o)
			return false
		}
	}
	if several && !o.changes() {
		o.shared, o.hold = true, r
	}
	return true
}

func (v *Volume) regionBytes() int64 { return int64(v.regionBlocks) * blockBytes }

// inner is what a command of our own is about. Plugins have no such operations.
type inner struct {
	joiner *joiner // opCopy: what is read goes to this store; opLevel: nil, it goes to all members
	marks  *marks  // opClean
	scrub  *scrubbing
	done   func(ring.Status)
}

// opCopy and opLevel read a range and write it where it is to be, and hold its blocks from the one to the other. opZero
// clears a range.
const (
	opCopy  ring.Op = 0xff
	opLevel ring.Op = 0xfe
	opZero  ring.Op = 0xfd
)

// run starts a command of our own on r, which lies in one extent.
func (v *Volume) run(kind ring.Op, r span, in inner) {
	now := v.access.reactor.now()
	o := &op{vol: v, kind: kind, range_: r, hold: r, holds: true, begun: true, seq: v.seq, taken: now, submitted: now, fua: kind == opZero, inner: &in}
	v.seq++
	v.inflight++
	o.resume()
}

// leveling is who waits for a region to be made equal on all members.
type leveling struct {
	opList
	then []func(ring.Status)
}

// level makes a region of extent i equal on all members, and returns who waits for it.
func (v *Volume) level(i, region uint32) *leveling {
	e := &v.extents[i]
	if l := e.levels[region]; l != nil {
		return l
	}
	if e.levels == nil {
		e.levels = map[uint32]*leveling{}
	}
	l := &leveling{}
	e.levels[region] = l
	at := int64(i)*v.access.extentBytes + int64(region)*v.regionBytes()
	generation := e.generation
	v.access.reactor.Post(func() { // not in the middle of whatever needs it
		v.run(opLevel, span{at, at + v.regionBytes()}, inner{done: func(s ring.Status) {
			if int(i) >= len(v.extents) {
				s = ring.StatusOutOfRange
			} else {
				e := &v.extents[i]
				delete(e.levels, region)
				if s == ring.StatusOK && e.differs != nil && e.generation >= generation {
					e.differs.Remove(region, region+1)
					v.stats.Leveled++
				}
			}
			for o := l.head; o != nil; o = l.head {
				o.fail(s, 0)
				v.access.wake(o)
			}
			for _, then := range l.then {
				then(s)
			}
		}})
	})
	return l
}

// repair makes one block of extent i, which is damaged on a member, equal on all.
func (v *Volume) repair(i, block uint32) {
	at := int64(i)*v.access.extentBytes + int64(block)*blockBytes
	v.access.reactor.Post(func() {
		v.run(opLevel, span{at, at + blockBytes}, inner{done: func(s ring.Status) {
			if s == ring.StatusOK {
				v.stats.Repaired++
			}
		}})
	})
}

// writeInner writes what was read to where it is to be: the blocks that are all zeros as such, so that they take no
// space there either.
func (o *op) writeInner() {
	v := o.vol
	size := v.access.extentBytes
	i := o.range_.from / size
	e := &v.extents[i]
	j := o.inner.joiner
	if j != nil && e.joiner != j {
		o.fail(ring.StatusAborted, 0)
		o.finish()
		return
	}
	if j == nil && !v.ready(o, i, extent.OpWrite) {
		return
	}
	first := uint32(o.range_.from % size / blockBytes)
	n := uint32(len(o.bounce) / blockBytes)
	o.pending++ // kept until all are submitted
	o.sent = 0
	for at := uint32(0); at < n; {
		zero := allZero(o.bounce[at*blockBytes:][:blockBytes])
		end := at + 1
		for end < n && end-at < extent.MaxWriteBlocks && allZero(o.bounce[end*blockBytes:][:blockBytes]) == zero {
			end++
		}
		io := extent.IO{
			Op: extent.OpWrite, ID: extent.ID{Volume: v.id, Index: uint32(i)}, Gen: e.generation,
			Block: first + at, Blocks: end - at, Buf: o.bounce[at*blockBytes : end*blockBytes], Durable: j == nil && v.durable,
		}
		if zero {
			io.Op, io.Buf = extent.OpZero, nil
		}
		if j == nil {
			if e.marks != nil {
				e.marks.wrote(v.regionBlocks, io.Block, io.Blocks)
			}
			for m := range e.set {
				o.ask(e, m, &io)
			}
		}
		o.alsoTo(e, &io)
		at = end
	}
	if o.pending--; o.pending == 0 {
		o.step()
	}
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// maxTries is how often a command is begun anew because of members that fail.
const maxTries = 16

// settle decides what follows from the requests of the present step that have failed; false means that o waits. A read
// goes to another member. A member that failed a write that others have done is taken out of the set, by Meta, before the
// command goes on; see design section 5, rule 5.
func (o *op) settle() bool {
	o.failed = false
	o.pending++ // kept until all are looked at
	for i := range o.sent {
		r := o.nth(i)
		switch {
		case r.Err == nil || r.joiner != nil: // a joiner that missed a write fails by itself
		case o.kind == opClean:
			o.fail(ring.StatusPathLost, 0)
		case r.Op == extent.OpFlush:
			o.flushFailed(r)
		case r.Op == extent.OpRead:
			o.readFailed(r)
		default:
			o.writeFailed(r)
		}
	}
	o.pending--
	return o.pending == 0
}

// readFailed goes on at another member.
func (o *op) readFailed(r *request) {
	v := o.vol
	e := &v.extents[r.index]
	if r.of <= 1 && len(e.set) <= 1 {
		o.fail(v.access.statusOf(o, r))
		return
	}
	if !errors.Is(r.Err, extent.ErrCorrupt) {
		o.startAnew()
		if e.state == extentReady && e.resolving == nil && e.generation == r.Gen {
			v.lose(r.index, r.store, nil)
		}
		return
	}
	if o.kind != opLevel {
		v.stats.Corrupt++
	}
	if o.kind != opLevel || o.range_.to-o.range_.from > blockBytes {
		v.repair(r.index, r.BadBlock)
	}
	if e.state != extentReady || e.generation != r.Gen {
		o.startAnew()
		return
	}
	if next := e.nearest(r.asked); next >= 0 {
		io := r.IO
		r.asked |= 1 << next
		r.store = e.set[next].member.Store
		r.Err = nil
		o.send(&e.set[next], r, &io)
		return
	}
	// No member has all blocks whole. If each misses another one, they repair each other meanwhile.
	o.fail(v.access.statusOf(o, r))
	if o.kind != opLevel && o.tries == 0 {
		o.status, o.info = ring.StatusOK, 0
		o.startAnew()
	}
}

func (o *op) startAnew() {
	if o.tries++; o.tries > maxTries {
		o.fail(ring.StatusPathLost, 0)
		return
	}
	o.again = true
}

// writeFailed: r failed, and others of the same piece have ended, too.
func (o *op) writeFailed(r *request) {
	v := o.vol
	if r.of <= 1 && !v.extents[r.index].has(r.store) {
		o.fail(ring.StatusPathLost, 0)
		return
	}
	done := false
	for i := range o.sent {
		if s := o.nth(i); s.index == r.index && s.Block == r.Block && s.joiner == nil && s.Err == nil {
			done = true
		}
	}
	switch {
	case errors.Is(r.Err, extent.ErrFenced): // another owner has sealed it
		o.fail(v.access.statusOf(o, r))
		if e := &v.extents[r.index]; e.generation == r.Gen {
			e.state, e.sealed = extentUnsealed, false
		}
	case !done: // none has it: it has failed as on a single store; what some may have done of it is levelled if they are sealed anew
		o.fail(v.access.statusOf(o, r))
		if e := &v.extents[r.index]; len(e.set) > 1 && !errors.Is(r.Err, extent.ErrNoSpace) && e.generation == r.Gen {
			e.state, e.sealed = extentUnsealed, false
		}
	default:
		o.pending++
		v.lose(r.index, r.store, func(s ring.Status) {
			o.fail(s, 0)
			if o.pending--; o.pending == 0 {
				o.step()
			}
		})
	}
}

// lose takes a store out of the set of extent i. then hears when it is out.
func (v *Volume) lose(i uint32, id uuid.UUID, then func(ring.Status)) {
	if int(i) >= len(v.extents) { // cut off by a shrink
		if then != nil {
			then(ring.StatusOutOfRange)
		}
		return
	}
	e := &v.extents[i]
	if e.resolving == nil && !e.has(id) {
		if then != nil {
			then(ring.StatusOK)
		}
		return
	}
	if !slices.Contains(e.gone, id) {
		e.gone = append(e.gone, id)
	}
	if r := e.resolving; r != nil { // perhaps of something else: look again when it has ended
		r.then = append(r.then, func(s ring.Status) {
			switch {
			case s != ring.StatusOK && then != nil:
				then(s)
			case s == ring.StatusOK:
				v.lose(i, id, then)
			}
		})
		return
	}
	e.state = extentUnsealed
	r := v.resolve(i)
	if then != nil {
		r.then = append(r.then, then)
	}
}

// reachable says whether every extent of v can be flushed. If not, members out of reach are taken out of their sets first, and o
// waits for that, or fails.
func (v *Volume) reachable(o *op) bool {
	first, begun := -1, 0
	for i := range v.extents {
		e := &v.extents[i]
		if e.state == extentAbsent || e.resolving == nil && e.state == extentReady && e.serves(extent.OpFlush) {
			continue
		}
		if e.resolving == nil && e.state == extentUnsealed && !e.disowned && e.serves(extent.OpFlush) && len(e.gone) == 0 {
			continue // nobody of this node has written there
		}
		if first < 0 {
			first = i
		} else if e.resolving == nil && begun < flushAhead { // together with the first
			if begun++; e.state == extentReady {
				e.unseal()
			}
			v.resolve(uint32(i))
		}
	}
	return first < 0 || v.ready(o, int64(first), extent.OpFlush)
}

// flushAhead is how many sets a flush has changed at once.
const flushAhead = 256

// flushFailed: a store did not flush. Where it is one of several members it has to go; then the flush is begun anew.
func (o *op) flushFailed(r *request) {
	v := o.vol
	for i := range v.extents {
		e := &v.extents[i]
		if !e.has(r.store) {
			continue
		}
		if len(e.set) == 1 {
			o.fail(v.access.statusOf(o, r))
			return
		}
		if o.again = true; e.resolving == nil {
			v.lose(uint32(i), r.store, nil)
		}
	}
	if o.again {
		o.startAnew()
	}
}

// errOffline says that no member that has all acknowledged data is in reach.
var errOffline = errors.New("no replica that has all acknowledged data is in reach")

func offline(why map[uuid.UUID]error) error {
	err := errOffline
	for id, e := range why {
		err = fmt.Errorf("%w; store %s: %w", err, id, e)
	}
	return err
}
