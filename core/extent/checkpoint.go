package extent

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/mooring-io/mooring/core/vfs"
)

// ckptState is where a checkpoint stands. Each round goes through all but the first two and the last.
type ckptState uint8

const (
	ckptIdle    ckptState = iota
	ckptSettle            // waits until every batch of the old half is applied
	ckptTake              // copies the next round of pages out of the maps
	ckptSync              // waits for a sync: what the pages refer to is on the medium before them
	ckptWrite             // writes one copy of the pages
	ckptPublish           // all pages are on the medium twice; the superblock says where replay begins
)

// checkpoint writes the changed map pages so that one half of the log can be used again. Both copies of a page are written, one after the
// other, so that at rest a page survives the loss of either. Queue's goroutine only.
type checkpoint struct {
	state ckptState
	upto  uint64    // the last batch of the half that becomes free
	dirty []pageRef // changed since the last checkpoint began
	todo  []pageRef // of this one, not yet taken

	round  []pageRef // being written, in the order of their slots
	buf    []byte    // their images
	copies uint32    // 0 or 1: which is being written
	at     int       // pages of the round handed to the disk
	flying int       // requests at the disk
	ops    []*vfs.Op // free
	super  []byte
}

// pageRef is a map page, or, as page headerRef, the header page of an extent.
type pageRef struct {
	ext  *Extent
	page uint32
}

const headerRef = ^uint32(0)

// refSlot is where a copy of the page is.
func (g geometry) refSlot(r pageRef, copies uint32) uint32 {
	return g.pageSlot(r.ext.area, copies, int(int32(r.page)))
}

func (c *checkpoint) free() error {
	var errs []error
	for _, b := range [][]byte{c.buf, c.super} {
		if b != nil {
			errs = append(errs, vfs.FreeBuffer(b))
		}
	}
	c.buf, c.super = nil, nil
	return errors.Join(errs...)
}

func (s *Store) markDirty(e *Extent, page uint32) {
	if p := &e.pages[page]; !p.dirty {
		p.dirty = true
		s.ckpt.dirty = append(s.ckpt.dirty, pageRef{e, page})
	}
}

func (s *Store) markHeader(e *Extent) {
	if !e.headDirty {
		e.headDirty = true
		s.ckpt.dirty = append(s.ckpt.dirty, pageRef{e, headerRef})
	}
}

// rotate lets the log go on in its other half, which is free, and begins the checkpoint that will free this one.
func (s *Store) rotate() {
	s.half, s.pos = 1-s.half, 0
	s.ckpt.state, s.ckpt.upto = ckptSettle, s.seq
	s.st.Checkpoints++
}

// stepCheckpoint moves the checkpoint on as far as it goes without waiting.
func (s *Store) stepCheckpoint() {
	c := &s.ckpt
	switch c.state {
	case ckptSettle:
		if s.written < c.upto || s.unapplied.head != nil && s.unapplied.head.seq <= c.upto {
			return
		}
		c.todo, c.dirty = c.dirty, c.todo[:0]
		c.state = ckptTake
		fallthrough
	case ckptTake:
		if s.takeRound() {
			c.state, c.copies = ckptSync, 0
			s.afterSync(s.writeRound)
		} else if len(c.todo) > 0 {
			return
		} else {
			c.state = ckptPublish
			s.afterSync(s.publishCheckpoint)
		}
		s.startSync()
	case ckptWrite:
		s.writePages()
	case ckptIdle, ckptSync, ckptPublish: // nothing to do, or a sync goes on with it
	}
}

// takeRound copies up to maxRoundPages changed pages; false means that there is none to take. What is left then are header pages that a
// seal is writing.
func (s *Store) takeRound() bool {
	c := &s.ckpt
	c.round = c.round[:0]
	rest := len(c.todo)
	for at := len(c.todo) - 1; at >= 0 && len(c.round) < maxRoundPages; at-- {
		ref := c.todo[at]
		if ref.page == headerRef && ref.ext.sealing {
			continue
		}
		if !ref.ext.deleted {
			c.round = append(c.round, ref)
		}
		rest--
		c.todo[at] = c.todo[rest]
		c.todo[rest] = pageRef{}
	}
	c.todo = c.todo[:rest]
	if len(c.round) == 0 {
		return false
	}
	slices.SortFunc(c.round, func(a, b pageRef) int {
		return cmp.Or(cmp.Compare(a.ext.area, b.ext.area), cmp.Compare(int32(a.page), int32(b.page)))
	})
	if c.buf == nil {
		if c.buf = s.mustBuffer(maxRoundPages * BlockSize); c.buf == nil {
			return true
		}
	}
	for i, ref := range c.round {
		ref.ext.inflight++
		p := c.buf[i*BlockSize:][:BlockSize]
		if ref.page == headerRef {
			ref.ext.headDirty = false
			s.encodeHeader(p, ref.ext, ref.ext.gen)
			continue
		}
		ref.ext.pages[ref.page].dirty = false
		s.encodePage(p, ref.ext, ref.page)
	}
	s.st.CheckpointPages += uint64(len(c.round))
	return true
}

// encodePage writes the image of a map page as it is now.
func (s *Store) encodePage(p []byte, e *Extent, page uint32) {
	encodeEntries(p, e.entries[page*pageEntries:min((page+1)*pageEntries, s.geo.blocks)])
	h := mapPage{salt: s.sb.salt, id: e.id, ref: e.ref, gen: e.gen, lsn: s.written, number: uint16(page), area: e.area}
	if e.unsynced > 0 {
		// Some of this extent's records up to batch written may not be applied yet; all up to batch synced are. What is applied
		// beyond that is applied once more by a replay, with the same outcome.
		h.lsn = s.synced
	}
	h.seal(p)
}

func (s *Store) mustBuffer(n int) []byte {
	b, err := vfs.AlignedBuffer(n)
	if err != nil {
		s.fail(err)
		return nil
	}
	return b
}

// writeRound begins to write the next copy of the round's pages, or ends the round.
func (s *Store) writeRound(err error) {
	c := &s.ckpt
	if err != nil {
		return
	}
	if c.copies == 2 {
		for _, ref := range c.round {
			s.leave(ref.ext)
		}
		c.state = ckptTake
		s.stepCheckpoint()
		return
	}
	c.state, c.at = ckptWrite, 0
	s.writePages()
}

// writePages keeps up to maxCheckpointIO requests at the disk, each for pages whose slots are adjacent.
func (s *Store) writePages() {
	c := &s.ckpt
	for c.flying < maxCheckpointIO && c.at < len(c.round) {
		from := c.at
		slot := s.geo.refSlot(c.round[from], c.copies)
		for c.at++; c.at < len(c.round); c.at++ {
			if s.geo.refSlot(c.round[c.at], c.copies) != slot+uint32(c.at-from) {
				break
			}
		}
		var op *vfs.Op
		if n := len(c.ops); n > 0 {
			op, c.ops = c.ops[n-1], c.ops[:n-1]
		} else {
			op = &vfs.Op{Kind: vfs.OpWrite, File: s.file, Done: s.pagesWritten}
		}
		op.Off, op.Buf = int64(slot)*BlockSize, c.buf[from*BlockSize:c.at*BlockSize]
		c.flying++
		s.st.DiskWrites++
		s.submit(op)
	}
}

func (s *Store) pagesWritten(op *vfs.Op) {
	c := &s.ckpt
	s.out--
	c.flying--
	c.ops = append(c.ops, op)
	if op.Err != nil {
		s.fail(fmt.Errorf("write map pages at %d: %w", op.Off, op.Err))
	}
	if s.failure != nil {
		return
	}
	s.writePages()
	if c.flying > 0 {
		return
	}
	c.state = ckptSync
	// The second copy waits until the first is on the medium: one of them is whole at any time. The sync after it is
	// at the same time the one that the next round needs.
	c.copies++
	s.afterSync(s.writeRound)
	s.startSync()
}

// publishCheckpoint lets replay begin with the other half of the log, in both superblocks.
func (s *Store) publishCheckpoint(err error) {
	if err != nil {
		return
	}
	c := &s.ckpt
	s.sb.replayHalf, s.sb.replaySeq = s.half, c.upto+1
	s.sb.refLimit = s.nextRef + refHeadroom
	if s.closing {
		s.sb.refLimit = s.nextRef
	}
	s.sb.sequence++
	if c.super == nil {
		if c.super = s.mustBuffer(BlockSize); c.super == nil {
			return
		}
	}
	s.sb.encode(c.super)
	s.writeSync(0, c.super, func() {
		s.writeSync(1, c.super, func() {
			c.state = ckptIdle
			s.pump()
		})
	})
}

// writeSync writes buf to slot, syncs, and runs then unless the store failed.
func (s *Store) writeSync(slot uint32, buf []byte, then func()) {
	s.writeSlot(slot, buf, func() {
		s.afterSync(func(err error) {
			if err == nil {
				then()
			}
		})
		s.startSync()
	})
}

// writeSlot writes buf to slot and runs then unless the store failed. For the cold path: it allocates.
func (s *Store) writeSlot(slot uint32, buf []byte, then func()) {
	s.st.DiskWrites++
	s.submit(&vfs.Op{Kind: vfs.OpWrite, File: s.file, Off: int64(slot) * BlockSize, Buf: buf, Done: func(op *vfs.Op) {
		s.out--
		if op.Err != nil {
			s.fail(fmt.Errorf("write slot %d: %w", slot, op.Err))
		}
		if s.failure == nil {
			then()
		}
	}})
}
