package extent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/core/vfs"
)

// checkBlocks is how many blocks Check reads at a time.
const checkBlocks = 64

// Check verifies the checksum of every mapped block while the store serves, and reports each problem. The queue's goroutine must go
// on with Turn and Kick meanwhile; report runs on the caller's.
func (s *Store) Check(ctx context.Context, report func(Problem)) error {
	var extents []*Extent
	err := s.call(ctx, func(done func(error)) {
		for _, e := range s.extents {
			extents = append(extents, e)
		}
		done(s.failure)
	})
	if err != nil {
		return fmt.Errorf("check extent store %s: %w", s.o.Dir, err)
	}
	buf, err := vfs.AlignedBuffer(checkBlocks * BlockSize)
	if err != nil {
		return err
	}
	for _, e := range extents {
		for block := uint32(0); block < s.geo.blocks; {
			var n uint32
			n, err = s.checkSome(ctx, e, block, buf, report)
			if err != nil {
				// buf stays: the store may still read into it.
				return fmt.Errorf("check extent %s: %w", e.id, err)
			}
			block += n
		}
	}
	return vfs.FreeBuffer(buf)
}

// checkSome reads the next mapped blocks of e from block on and returns how many blocks it has dealt with.
func (s *Store) checkSome(ctx context.Context, e *Extent, block uint32, buf []byte, report func(Problem)) (uint32, error) {
	io := &IO{Op: OpRead, Extent: e, Block: block}
	skipped := uint32(0)
	err := s.call(ctx, func(done func(error)) {
		if e.gone {
			skipped = s.geo.blocks - block
			done(nil)
			return
		}
		for io.Block < s.geo.blocks && e.entries[io.Block].slot == slotZero {
			io.Block++
		}
		skipped = io.Block - block
		for io.Block+io.Blocks < s.geo.blocks && io.Blocks < checkBlocks && e.entries[io.Block+io.Blocks].slot != slotZero {
			io.Blocks++
		}
		if io.Blocks == 0 {
			done(nil)
			return
		}
		io.Gen, io.Buf = e.gen, buf[:io.Blocks*BlockSize]
		io.Done = func(io *IO) { done(io.Err) }
		s.Submit(io)
	})
	switch {
	case errors.Is(err, ErrCorrupt):
		report(Problem{Extent: e.id, Block: io.BadBlock, What: "checksum mismatch or medium error"})
		return io.BadBlock - block + 1, nil
	case errors.Is(err, ErrMissing):
		return s.geo.blocks - block, nil
	case errors.Is(err, ErrFenced): // a seal is under way: try again
		return skipped, nil
	case err != nil:
		return 0, err
	}
	return skipped + io.Blocks, nil
}

// audit verifies the accounting of slots. Queue's goroutine only, with no write under way.
func (s *Store) audit(report func(Problem)) {
	seen := make(map[uint32]ID)
	mapped := uint32(0)
	for _, e := range s.extents {
		for block, m := range e.entries {
			if m.slot == slotZero || m.slot == slotLost {
				continue
			}
			mapped++
			other, twice := seen[m.slot]
			seen[m.slot] = e.id
			switch {
			case !s.slots.contains(m.slot) || s.slots.isFree(m.slot):
				report(Problem{Extent: e.id, Block: uint32(block), What: fmt.Sprintf("slot %d is mapped but free", m.slot)})
			case twice:
				report(Problem{Extent: e.id, Block: uint32(block), What: fmt.Sprintf("slot %d is also mapped by extent %s", m.slot, other)})
			}
		}
	}
	if mapped != s.mapped {
		report(Problem{What: fmt.Sprintf("%d blocks are mapped, counted were %d", mapped, s.mapped)})
	}
	if sum := s.slots.free + s.freed.slots + s.mapped + s.areaSum; sum != s.slots.total() {
		report(Problem{What: fmt.Sprintf("%d free, %d freed, %d mapped, %d for maps: not the %d there are",
			s.slots.free, s.freed.slots, s.mapped, s.areaSum, s.slots.total())})
	}
}

// CheckDir checks a store that no process has open, data checksums included. It writes nothing to the data file.
func CheckDir(ctx context.Context, fsys vfs.FS, dir string, index IndexOpener, report func(Problem)) (err error) {
	return offline(fsys, dir, index, func(d *disk, sb superblock, x Index) error {
		if owner, err := x.Owner(); err != nil || owner != sb.store {
			return errors.Join(err, fmt.Errorf("the index does not belong to this store; rebuild it: %w", ErrCorrupt))
		}
		m, err := d.load(sb, x, report)
		if err != nil {
			return err
		}
		defer m.free()
		for _, e := range m.extents {
			for block, n := range e.entries {
				if err := ctx.Err(); err != nil {
					return err
				}
				switch {
				case n.slot == slotZero:
				case n.slot == slotLost:
					report(Problem{Extent: e.id, Block: uint32(block), What: "lost with its map page"})
				default:
					p := d.buf[:BlockSize]
					if err := d.read(n.slot, p); err != nil || blockCRC(e.seed, uint32(block), p) != n.crc {
						report(Problem{Extent: e.id, Block: uint32(block), What: "checksum mismatch or medium error"})
					}
				}
			}
		}
		return nil
	})
}

// offline opens the files of a store that no process serves and runs fn.
func offline(fsys vfs.FS, dir string, index IndexOpener, fn func(*disk, superblock, Index) error) (err error) {
	log := hclog.NewNullLogger()
	if index == nil {
		index = func(dir string, log hclog.Logger) (Index, error) {
			return OpenBadgerIndex(filepath.Join(dir, indexName), log)
		}
	}
	d, err := openDisk(fsys, dir, false, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.free(), d.file.Close()) }()
	sb, ok, err := d.superblock()
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%s holds no extent store: %w", dir, ErrInvalid)
	}
	x, err := index(dir, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.Close()) }()
	return fn(d, sb, x)
}

// RebuildIndex replaces the index of a store that no process has open by what the identities on its disk say. An index that cannot even
// be opened has to be moved away first.
func RebuildIndex(ctx context.Context, fsys vfs.FS, dir string, index IndexOpener) error {
	return offline(fsys, dir, index, func(d *disk, sb superblock, x Index) error {
		found, err := d.scan(ctx, &sb)
		if err != nil {
			return err
		}
		if err := x.Bind(uuid.Nil); err != nil {
			return err
		}
		var stale []ID
		if err := x.Load(func(r Record) error {
			if _, ok := found[r.ID]; !ok {
				stale = append(stale, r.ID)
			}
			return nil
		}); err != nil {
			return fmt.Errorf("move the folder %s away and try again: %w", indexName, err)
		}
		for len(stale) > 0 {
			n := min(len(stale), 1000)
			if err := x.Update(nil, stale[:n], false); err != nil {
				return err
			}
			stale = stale[n:]
		}
		var put []Record
		for _, r := range found {
			if put = append(put, r); len(put) == 1000 {
				if err := x.Update(put, nil, false); err != nil {
					return err
				}
				put = nil
			}
		}
		if err := x.Update(put, nil, false); err != nil {
			return err
		}
		return errors.Join(x.Bind(sb.store), fsys.SyncDir(dir)) // last: an index half rebuilt is not accepted
	})
}

// scan finds the header pages on the disk. Of several for one extent the latest made counts; of its two copies, the higher generation.
func (d *disk) scan(ctx context.Context, sb *superblock) (map[ID]Record, error) {
	geo := sb.geometry()
	size, err := d.file.Size()
	if err != nil {
		return nil, err
	}
	found := map[ID]Record{}
	total, step := uint32(size/BlockSize), uint32(len(d.buf)/BlockSize)
	for slot := geo.first; slot < total; slot += step {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n := min(step, total-slot)
		if err := d.read(slot, d.buf[:n*BlockSize]); err != nil {
			return nil, fmt.Errorf("read slot %d: %w: %w", slot, ErrCorrupt, err)
		}
		for i := range n {
			h, ok := parseMapPage(d.buf[i*BlockSize:][:BlockSize], sb.salt)
			if !ok || h.number != headerPage || slot+i != geo.pageSlot(h.area, 0, -1) && slot+i != geo.pageSlot(h.area, 1, -1) {
				continue
			}
			r, known := found[h.id]
			if !known || h.ref > r.Ref || h.ref == r.Ref && h.gen > r.Gen {
				found[h.id] = Record{ID: h.id, Ref: h.ref, Area: h.area, Gen: h.gen, State: StateLive}
			}
		}
	}
	return found, nil
}
