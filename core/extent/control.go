package extent

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/vfs"
)

// controlOp is a create, seal or delete under way; there is at most one per extent, and requests that meet one wait for its end.
type controlOp struct {
	done    func(error)
	waiting []func() // requests to start again
	buf     []byte
}

// begin registers an operation on id, or has again run when the present one has ended and returns nil.
func (s *Store) begin(id ID, done func(error), again func()) *controlOp {
	present := s.control[id]
	switch {
	case s.failure != nil:
		done(s.failure)
		return nil
	case present != nil:
		present.waiting = append(present.waiting, again)
		return nil
	case s.closing:
		done(ErrClosed)
		return nil
	}
	c := &controlOp{done: done}
	s.control[id] = c
	return c
}

// end finishes c and starts what waited for it.
func (s *Store) end(id ID, c *controlOp, err error) {
	if s.control[id] != c {
		return // the store failed and said so
	}
	delete(s.control, id)
	if c.buf != nil {
		_ = vfs.FreeBuffer(c.buf)
	}
	c.finish(s, err)
}

func (c *controlOp) finish(s *Store, err error) {
	if done := c.done; done != nil {
		c.done = nil
		done(err)
	}
	waiting := c.waiting
	c.waiting = nil
	for _, again := range waiting {
		again()
	}
}

// indexed updates the index and runs then, or refused when the index has no room; any other error of the index ends the store, since
// what it holds is unknown then.
func (s *Store) indexed(u indexUpdate, then func(), refused func(error)) {
	s.out++
	u.done = func(err error) {
		s.out--
		switch {
		case s.failure != nil:
		case errors.Is(err, ErrNoSpace):
			refused(err)
		case err != nil:
			s.fail(fmt.Errorf("index: %w", err))
		default:
			then()
		}
	}
	s.index.update(u)
}

func (e *Extent) record(gen Generation, state State) Record {
	return Record{ID: e.id, Ref: e.ref, Area: e.area, Gen: gen, State: state}
}

func wrap(what string, id ID, err error) error {
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	return nil
}

// Create makes an empty extent, sealed as w says. It is idempotent for the same generation; for another it ends with ErrFenced. Queue's
// goroutine only, like done, which may run before Create returns.
func (s *Store) Create(id ID, w Seal, done func(error)) {
	s.create(id, w, func(err error) { done(wrap("create extent", id, err)) })
}

func (s *Store) create(id ID, w Seal, done func(error)) {
	if err := w.check(s.geo); err != nil {
		done(err)
		return
	}
	c := s.begin(id, done, func() { s.create(id, w, done) })
	if c == nil {
		return
	}
	if e := s.extents[id]; e != nil {
		if e.gen == w.Gen {
			s.end(id, c, nil)
		} else {
			s.end(id, c, fmt.Errorf("generation %d is sealed, not %d: %w", e.gen, w.Gen, ErrFenced))
		}
		return
	}
	s.createIn(c, id, w)
}

// createIn takes a map area, writes an empty map to both copies and enters the extent in the index. Only then does it exist.
func (s *Store) createIn(c *controlOp, id ID, w Seal) {
	if s.failure != nil {
		return
	}
	if s.sb.refLimit-s.nextRef < refHeadroom/2 && s.ckpt.state == ckptIdle {
		s.rotate() // its checkpoint raises the limit
	}
	if s.nextRef >= s.sb.refLimit {
		s.end(id, c, fmt.Errorf("too many extents made since the last checkpoint: %w", ErrNoSpace))
		return
	}
	area, ok := s.takeArea()
	if !ok {
		if s.grow.state == growIdle && !s.canGrow() {
			s.end(id, c, ErrNoSpace)
			return
		}
		s.grow.wanted = true
		s.grow.waiting = append(s.grow.waiting, func() { s.createIn(c, id, w) })
		return
	}
	e, err := newExtent(s.geo, Record{ID: id, Ref: s.nextRef, Area: area, Gen: w.Gen})
	if err == nil {
		c.buf, err = vfs.AlignedBuffer(int(s.geo.area) / 2 * BlockSize)
	}
	if err != nil {
		s.areas = append(s.areas, area)
		s.end(id, c, err)
		return
	}
	s.nextRef++
	e.replica.take(&w)
	s.encodeHeader(c.buf, e, w.Gen)
	for page := range s.geo.pages {
		s.encodePage(c.buf[(page+1)*BlockSize:][:BlockSize], e, page)
	}
	s.writeSlot(s.geo.pageSlot(area, 0, -1), c.buf, func() {
		s.writeSync(s.geo.pageSlot(area, 1, -1), c.buf, func() {
			s.indexed(indexUpdate{put: []Record{e.record(w.Gen, StateLive)}, fresh: true}, func() {
				s.addExtent(e)
				s.end(id, c, nil)
			}, func(err error) {
				s.abandon(c, e, err)
			})
		})
	})
}

// abandon ends the making of an extent that the index has no room for. Its identity is wiped like a deleted one's, so that a rebuilt index
// does not find it.
func (s *Store) abandon(c *controlOp, e *Extent, err error) {
	clear(c.buf[:BlockSize])
	page := c.buf[:BlockSize]
	s.writeSlot(s.geo.pageSlot(e.area, 1, -1), page, func() {
		s.writeSync(s.geo.pageSlot(e.area, 0, -1), page, func() {
			s.areas = append(s.areas, e.area)
			e.free()
			s.end(e.id, c, err)
		})
	})
}

// encodeHeader writes the image of e's header page into p.
func (s *Store) encodeHeader(p []byte, e *Extent, g Generation) {
	p = p[:BlockSize]
	clear(p)
	copy(p[pageHeaderSize:], s.sb.cluster[:])
	copy(p[pageHeaderSize+16:], s.sb.store[:])
	e.replica.encode(p)
	h := mapPage{salt: s.sb.salt, id: e.id, ref: e.ref, gen: g, number: headerPage, area: e.area}
	h.seal(p)
}

// Seal raises the extent's generation: every admitted IO has finished, and what w says is durable, when done gets no error. A
// generation below the sealed one gets ErrFenced. Queue's goroutine only, like done, which may run before Seal returns.
func (s *Store) Seal(id ID, w Seal, done func(Sealed, error)) {
	var was Sealed
	s.seal(id, w, &was, func(err error) { done(was, wrap("seal extent", id, err)) })
}

func (s *Store) seal(id ID, w Seal, was *Sealed, done func(error)) {
	if err := w.check(s.geo); err != nil {
		done(err)
		return
	}
	c := s.begin(id, done, func() { s.seal(id, w, was, done) })
	if c == nil {
		return
	}
	e := s.extents[id]
	switch {
	case e == nil:
		s.end(id, c, ErrMissing)
		return
	case w.Gen < e.gen:
		s.end(id, c, fmt.Errorf("generation %d is sealed already: %w", e.gen, ErrFenced))
		return
	case w.Gen == e.gen && e.replica.knows(&w):
		*was = e.sealed()
		s.end(id, c, nil)
		return
	}
	if c.buf = s.mustBuffer(BlockSize); c.buf == nil {
		return
	}
	e.fenced = true
	s.drain(e, func() {
		*was = e.sealed()
		e.sealing = true
		e.replica.take(&w)
		s.encodeHeader(c.buf, e, w.Gen)
		s.writeSync(s.geo.pageSlot(e.area, 0, -1), c.buf, func() {
			s.writeSlot(s.geo.pageSlot(e.area, 1, -1), c.buf, func() {
				s.indexed(indexUpdate{put: []Record{e.record(w.Gen, StateLive)}}, func() {
					e.gen, e.fenced, e.sealing = w.Gen, false, false
					s.end(id, c, nil)
				}, func(err error) { // as a crash would leave it: fenced until a seal succeeds
					e.sealing = false
					s.end(id, c, err)
				})
			})
		})
	})
}

// sealed is what e knows now.
func (e *Extent) sealed() Sealed {
	return Sealed{
		Gen: e.gen, Set: slices.Clone(e.replica.set), Absent: slices.Clone(e.replica.absent), Dirty: e.replica.dirty.Clone(), Behind: e.replica.behind.Clone(),
	}
}

// AnyGeneration is above all.
const AnyGeneration = ^Generation(0)

// Delete removes the extent for good, after the IO admitted to it, unless a higher generation than upTo is sealed, which gets
// ErrFenced: somebody else knows better. Deleting what is missing is no error. Queue's goroutine only, like done, which may run
// before Delete returns.
func (s *Store) Delete(id ID, upTo Generation, done func(error)) {
	s.delete(id, upTo, func(err error) { done(wrap("delete extent", id, err)) })
}

// delete wipes the identity on disk between two updates of the index, so that neither a restart nor a rebuilt index brings it back.
func (s *Store) delete(id ID, upTo Generation, done func(error)) {
	c := s.begin(id, done, func() { s.delete(id, upTo, done) })
	if c == nil {
		return
	}
	e := s.extents[id]
	switch {
	case e == nil:
		s.end(id, c, nil)
		return
	case e.gen > upTo:
		s.end(id, c, fmt.Errorf("generation %d is sealed: %w", e.gen, ErrFenced))
		return
	}
	if c.buf = s.mustBuffer(BlockSize); c.buf == nil {
		return
	}
	e.gone = true
	s.drain(e, func() {
		s.indexed(indexUpdate{put: []Record{e.record(e.gen, StateDeleting)}}, func() {
			e.deleted = true
			s.drain(e, func() { // of a checkpoint's round
				s.writeSlot(s.geo.pageSlot(e.area, 1, -1), c.buf, func() {
					s.writeSync(s.geo.pageSlot(e.area, 0, -1), c.buf, func() {
						s.indexed(indexUpdate{remove: []ID{id}}, func() {
							s.forget(e)
							s.end(id, c, nil)
						}, func(err error) { // gone for everybody but the index: the next attempt, or the next opening, ends it
							s.end(id, c, err)
						})
					})
				})
			})
		}, func(err error) {
			e.gone = false
			s.end(id, c, err)
		})
	})
}

// forget frees what a deleted extent had. Its records in the log name a ref that nobody has any more: a replay passes over them.
func (s *Store) forget(e *Extent) {
	before := s.mapped
	for _, m := range e.entries {
		if m.slot != slotZero && m.slot != slotLost {
			s.freed.push(freed{epoch: s.epoch, slot: m.slot, n: 1})
			s.mapped--
		}
	}
	e.vol.blocks.Add(int64(s.mapped) - int64(before))
	s.areas = append(s.areas, e.area)
	s.dropExtent(e)
	e.free()
}

// deleteWindow is how many extents of a volume are deleted at a time.
const deleteWindow = 16

// DeleteFrom removes the extents of the volume from index on, like Delete.
func (s *Store) DeleteFrom(vol uuid.UUID, from uint32, done func(error)) {
	var ids []ID
	for id := range s.extents {
		if id.Volume == vol && id.Index >= from {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b ID) int { return cmp.Compare(a.Index, b.Index) })
	var failed error
	var next func()
	next = func() {
		if len(ids) == 0 || failed != nil {
			done(failed)
			return
		}
		some := ids[:min(len(ids), deleteWindow)]
		ids = ids[len(some):]
		left := len(some)
		for _, id := range some {
			s.Delete(id, AnyGeneration, func(err error) {
				if failed == nil {
					failed = err
				}
				if left--; left == 0 {
					next()
				}
			})
		}
	}
	next()
}
