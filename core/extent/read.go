package extent

import (
	"errors"

	"github.com/mooring-io/mooring/core/vfs"
)

// bounceBlocks bounds one disk request of a read whose memory is not aligned.
const bounceBlocks = 32

// readOp is one disk request of a read: adjacent slots of adjacent blocks.
type readOp struct {
	vfs.Op
	s      *Store
	io     *IO
	block  uint32 // first block in the extent
	slot   uint32
	n      uint32
	crcs   []uint32 // expected; the map may change before the data is here
	bounce []byte   // private aligned memory, kept once made
	again  uint32   // 1 + the block, relative to the first, that is being read again; 0 = first reading
	next   *readOp
}

func (s *Store) takeReadOp() *readOp {
	r := s.readOps
	if r == nil {
		r = &readOp{s: s}
		r.User, r.Done = r, readEnded
		return r
	}
	s.readOps = r.next
	return r
}

func (s *Store) freeReadOps() error {
	var errs []error
	for r := s.readOps; r != nil; r = r.next {
		if r.bounce != nil {
			errs = append(errs, vfs.FreeBuffer(r.bounce))
		}
	}
	s.readOps = nil
	return errors.Join(errs...)
}

// read sends one disk request per run of slots and clears what is not mapped.
func (s *Store) read(io *IO) {
	e := io.Extent
	limit := io.Blocks
	bounce := s.raw && !vfs.Aligned(io.Buf)
	if bounce {
		limit = bounceBlocks
	}
	io.epoch, io.pending = s.epoch, 1
	for i := uint32(0); i < io.Blocks; {
		first := e.entries[io.Block+i].slot
		switch first {
		case slotZero:
			clear(io.Buf[i*BlockSize:][:BlockSize])
			i++
			continue
		case slotLost:
			s.corrupt(io, io.Block+i)
			i++
			continue
		}
		n := uint32(1)
		for i+n < io.Blocks && n < limit && e.entries[io.Block+i+n].slot == first+n {
			n++
		}
		s.readRun(io, io.Block+i, first, n, bounce)
		i += n
	}
	if io.pending--; io.pending == 0 {
		s.finish(io, s.failure) // which may have come with the last of its requests
		return
	}
	s.readers[io.epoch&1]++
	io.started = s.clock()
}

func (s *Store) readRun(io *IO, block, slot, n uint32, bounce bool) {
	r := s.takeReadOp()
	r.io, r.block, r.slot, r.n, r.again, r.crcs = io, block, slot, n, 0, r.crcs[:0]
	for _, m := range io.Extent.entries[block : block+n] {
		r.crcs = append(r.crcs, m.crc)
	}
	to := r.target()
	if bounce {
		if to = s.bounceFor(r, n); to == nil {
			return
		}
	}
	io.pending++
	s.sendRead(r, slot, to)
}

func (s *Store) sendRead(r *readOp, slot uint32, to []byte) {
	r.Kind, r.File, r.Off, r.Buf = vfs.OpRead, s.file, int64(slot)*BlockSize, to
	s.st.DiskReads++
	s.submit(&r.Op)
}

// target is where the data of r belongs.
func (r *readOp) target() []byte {
	return r.io.Buf[(r.block-r.io.Block)*BlockSize:][:r.n*BlockSize]
}

// bounceFor returns n blocks of r's private memory; without memory the store fails and nil is returned.
func (s *Store) bounceFor(r *readOp, n uint32) []byte {
	if r.bounce == nil {
		m, err := vfs.AlignedBuffer(bounceBlocks * BlockSize)
		if err != nil {
			s.fail(err)
			return nil
		}
		r.bounce = m
	}
	return r.bounce[:n*BlockSize]
}

func readEnded(op *vfs.Op) {
	r := op.User.(*readOp)
	s := r.s
	s.out--
	if r.again > 0 {
		s.reread(r, r.again-1, op.Err)
		return
	}
	bad := uint32(0)
	if op.Err == nil {
		for bad < r.n && blockCRC(r.io.Extent.seed, r.block+bad, op.Buf[bad*BlockSize:][:BlockSize]) == r.crcs[bad] {
			bad++
		}
		if bad == r.n {
			if !r.inPlace() {
				copy(r.target(), op.Buf)
			}
			s.readDone(r)
			return
		}
	}
	// Something is wrong: every block is read again by itself, into memory that nobody else can write.
	s.readAgain(r, 0)
}

// inPlace tells whether the last request went straight to where the data belongs.
func (r *readOp) inPlace() bool { return &r.Buf[0] == &r.target()[0] }

func (s *Store) readAgain(r *readOp, i uint32) {
	if i == r.n {
		s.readDone(r)
		return
	}
	to := s.bounceFor(r, 1)
	if to == nil {
		r.io.Err = s.failure
		s.readDone(r)
		return
	}
	s.st.Rereads++
	r.again = i + 1
	s.sendRead(r, r.slot+i, to)
}

// reread judges the second reading of block i of r.
func (s *Store) reread(r *readOp, i uint32, err error) {
	if err != nil || blockCRC(r.io.Extent.seed, r.block+i, r.Buf) != r.crcs[i] {
		s.log.Error("block is corrupt", "store", s.id, "extent", r.io.Extent.id, "block", r.block+i, "slot", r.slot+i, "error", err)
		s.corrupt(r.io, r.block+i)
	} else {
		copy(r.target()[i*BlockSize:], r.Buf)
	}
	s.readAgain(r, i+1)
}

// corrupt makes io end with ErrCorrupt for block, unless a lower one is bad, too.
func (s *Store) corrupt(io *IO, block uint32) {
	s.st.CorruptBlocks++
	if io.Err == nil || block < io.BadBlock {
		io.Err, io.BadBlock = ErrCorrupt, block
	}
}

func (s *Store) readDone(r *readOp) {
	io := r.io
	r.io, r.next = nil, s.readOps
	s.readOps = r
	if io.pending--; io.pending > 0 {
		return
	}
	s.readers[io.epoch&1]--
	if s.failure != nil {
		io.Err = s.failure
	}
	s.complete(io)
}
