package extent

import (
	"context"
	"errors"
	"fmt"

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

// indexed updates the index and runs then; an error of the index ends the store, since what it holds is unknown then.
func (s *Store) indexed(u indexUpdate, then func()) {
	s.out++
	u.done = func(err error) {
		s.out--
		if err != nil {
			s.fail(fmt.Errorf("index: %w", err))
		}
		if s.failure == nil {
			then()
		}
	}
	s.index.update(u)
}

func (e *Extent) record(gen Generation, state State) Record {
	return Record{ID: e.id, Ref: e.ref, Area: e.area, Gen: gen, State: state}
}

// Create makes an empty extent sealed at generation g. It is idempotent for the same generation; for another it returns ErrFenced.
func (s *Store) Create(ctx context.Context, id ID, g Generation) error {
	err := s.call(ctx, func(done func(error)) { s.create(id, g, done) })
	return wrap("create extent", id, err)
}

func wrap(what string, id ID, err error) error {
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	return nil
}

func (s *Store) create(id ID, g Generation, done func(error)) {
	c := s.begin(id, done, func() { s.create(id, g, done) })
	if c == nil {
		return
	}
	if e := s.extents[id]; e != nil {
		if e.gen == g {
			s.end(id, c, nil)
		} else {
			s.end(id, c, fmt.Errorf("generation %d is sealed, not %d: %w", e.gen, g, ErrFenced))
		}
		return
	}
	s.createIn(c, id, g)
}

// createIn takes a map area, writes an empty map to both copies and enters the extent in the index. Only then does it exist.
func (s *Store) createIn(c *controlOp, id ID, g Generation) {
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
		s.grow.waiting = append(s.grow.waiting, func() { s.createIn(c, id, g) })
		return
	}
	e, err := newExtent(s.geo, Record{ID: id, Ref: s.nextRef, Area: area, Gen: g})
	if err == nil {
		c.buf, err = vfs.AlignedBuffer(int(s.geo.area) / 2 * BlockSize)
	}
	if err != nil {
		s.areas = append(s.areas, area)
		s.end(id, c, err)
		return
	}
	s.nextRef++
	s.encodeHeader(c.buf, e, g)
	for page := range s.geo.pages {
		s.encodePage(c.buf[(page+1)*BlockSize:][:BlockSize], e, page)
	}
	s.writeSlot(s.geo.pageSlot(area, 0, -1), c.buf, func() {
		s.writeSync(s.geo.pageSlot(area, 1, -1), c.buf, func() {
			s.indexed(indexUpdate{put: []Record{e.record(g, StateLive)}}, func() {
				s.addExtent(e)
				s.end(id, c, nil)
			})
		})
	})
}

// encodeHeader writes the image of e's header page into p.
func (s *Store) encodeHeader(p []byte, e *Extent, g Generation) {
	p = p[:BlockSize]
	clear(p)
	copy(p[pageHeaderSize:], s.sb.cluster[:])
	copy(p[pageHeaderSize+16:], s.sb.store[:])
	h := mapPage{salt: s.sb.salt, id: e.id, ref: e.ref, gen: g, number: headerPage, area: e.area}
	h.seal(p)
}

// Seal raises the extent's generation to g: every admitted IO has finished and g is durable when it returns nil. A g below
// the sealed one gets ErrFenced.
func (s *Store) Seal(ctx context.Context, id ID, g Generation) error {
	err := s.call(ctx, func(done func(error)) { s.seal(id, g, done) })
	return wrap("seal extent", id, err)
}

func (s *Store) seal(id ID, g Generation, done func(error)) {
	c := s.begin(id, done, func() { s.seal(id, g, done) })
	if c == nil {
		return
	}
	e := s.extents[id]
	switch {
	case e == nil:
		s.end(id, c, ErrMissing)
		return
	case g < e.gen:
		s.end(id, c, fmt.Errorf("generation %d is sealed already: %w", e.gen, ErrFenced))
		return
	case g == e.gen:
		s.end(id, c, nil)
		return
	}
	if c.buf = s.mustBuffer(BlockSize); c.buf == nil {
		return
	}
	e.fenced = true
	s.drain(e, func() {
		s.encodeHeader(c.buf, e, g)
		s.writeSync(s.geo.pageSlot(e.area, 0, -1), c.buf, func() {
			s.writeSlot(s.geo.pageSlot(e.area, 1, -1), c.buf, func() {
				s.indexed(indexUpdate{put: []Record{e.record(g, StateLive)}}, func() {
					e.gen, e.fenced = g, false
					s.end(id, c, nil)
				})
			})
		})
	})
}

// Delete removes the extent for good, after the IO admitted to it. Deleting what is missing is no error.
func (s *Store) Delete(ctx context.Context, id ID) error {
	err := s.call(ctx, func(done func(error)) { s.delete(id, done) })
	return wrap("delete extent", id, err)
}

// delete wipes the identity on disk between two updates of the index, so that neither a restart nor a rebuilt index brings it back.
func (s *Store) delete(id ID, done func(error)) {
	c := s.begin(id, done, func() { s.delete(id, done) })
	if c == nil {
		return
	}
	e := s.extents[id]
	if e == nil {
		s.end(id, c, nil)
		return
	}
	if c.buf = s.mustBuffer(BlockSize); c.buf == nil {
		return
	}
	e.gone = true
	s.drain(e, func() {
		s.indexed(indexUpdate{put: []Record{e.record(e.gen, StateDeleting)}}, func() {
			s.writeSlot(s.geo.pageSlot(e.area, 1, -1), c.buf, func() {
				s.writeSync(s.geo.pageSlot(e.area, 0, -1), c.buf, func() {
					s.indexed(indexUpdate{remove: []ID{id}}, func() {
						s.forget(e)
						s.end(id, c, nil)
					})
				})
			})
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

// DeleteVolume removes every extent of the volume.
func (s *Store) DeleteVolume(ctx context.Context, vol uuid.UUID) error {
	return s.DeleteFrom(ctx, vol, 0)
}

// DeleteFrom removes the extents of the volume from index on.
func (s *Store) DeleteFrom(ctx context.Context, vol uuid.UUID, from uint32) error {
	var ids []ID
	err := s.call(ctx, func(done func(error)) {
		for id := range s.extents {
			if id.Volume == vol && id.Index >= from {
				ids = append(ids, id)
			}
		}
		done(nil)
	})
	for len(ids) > 0 && err == nil {
		n := min(len(ids), deleteWindow)
		err = s.call(ctx, func(done func(error)) {
			left, errs := n, []error(nil)
			for _, id := range ids[:n] {
				s.delete(id, func(err error) {
					errs = append(errs, err)
					if left--; left == 0 {
						done(errors.Join(errs...))
					}
				})
			}
		})
		ids = ids[n:]
	}
	if err != nil {
		return fmt.Errorf("delete extents of volume %s: %w", vol, err)
	}
	return nil
}
