package extent

import (
	"errors"
	"fmt"

	"github.com/mooring-io/mooring/core/vfs"
)

// batch is what one turn of the reactor wrote: data in a few runs of slots, and their records in the log. Its life:
// open (being filled) -> flying (at the disk) -> written -> applied, IO by IO -> free.
type batch struct {
	s       *Store
	seq     uint64
	proves  uint64 // the durable batch that its header names
	data    []byte // staging memory, from the pool while open and flying; nil when it carries no data
	blocks  uint32 // staged in data
	log     []byte // maxBatchPages
	logLen  uint32
	ios     ioList
	waiting int  // IOs not applied
	durable bool // its requests end only on the medium
	synced  bool // some IO waits for the medium
	runs    []run
	ops     []*writeOp
	flying  int // requests at the disk
	sent    int64
	next    *batch
}

// run is a range of adjacent slots and of staging memory.
type run struct{ slot, n, at uint32 }

type writeOp struct {
	vfs.Op
	batch *batch
}

// logWriter is the part of the store that forms batches and applies them in order. Queue's goroutine only.
type logWriter struct {
	open    *batch // being filled; nil = none
	stalled ioList // writes that wait for slots, log, memory or growth, in order; nothing is staged past them
	starved bool   // the first of them waits for slots

	flying  []*batch // in order
	spare   *batch   // free list
	made    int
	staging [][]byte // free

	half, pos uint32 // where the log goes on
	seq       uint64 // of the batch formed last
	written   uint64 // every batch up to this one is written
	plain     uint64 // the last batch whose requests do not sync themselves
	proves    uint64 // what the header of batch written names as durable
	unapplied ioList // written, sync pending; in order
}

// take returns an empty batch or nil when all are in use.
func (s *Store) takeBatch() *batch {
	b := s.spare
	switch {
	case b != nil:
		s.spare = b.next
	case s.made == maxBatches:
		return nil
	default:
		mem, err := vfs.AlignedBuffer(maxBatchPages * BlockSize)
		if err != nil {
			s.fail(err)
			return nil
		}
		s.made++
		b = &batch{s: s, log: mem}
	}
	b.next, b.blocks, b.logLen, b.waiting, b.runs, b.synced = nil, 0, batchHeaderSize, 0, b.runs[:0], false
	return b
}

func (s *Store) takeStaging() []byte {
	if n := len(s.staging); n > 0 {
		m := s.staging[n-1]
		s.staging = s.staging[:n-1]
		return m
	}
	m, err := vfs.AlignedBuffer(maxBatchBlocks * BlockSize)
	if err != nil {
		s.fail(err)
		return nil
	}
	return m
}

func (s *Store) recycle(b *batch) {
	b.next, s.spare = s.spare, b
}

func (s *Store) freeBatches() error {
	var errs []error
	for b := s.spare; b != nil; b = b.next {
		errs = append(errs, vfs.FreeBuffer(b.log))
	}
	for _, m := range s.staging {
		errs = append(errs, vfs.FreeBuffer(m))
	}
	s.spare, s.staging = nil, nil
	return errors.Join(errs...)
}

// stage puts io into the open batch: slots are allocated, the data copied and its checksums recorded. False means that io
// has to wait.
func (s *Store) stage(io *IO) bool {
	e := io.Extent
	if e.gone {
		s.finish(io, ErrMissing)
		return true
	}
	fresh := uint32(0)
	if io.Op == OpWrite {
		for _, m := range e.entries[io.Block : io.Block+io.Blocks] {
			if m.slot == slotZero || m.slot == slotLost {
				fresh++
			}
		}
		switch ok, err := s.haveRoom(fresh, io.Blocks); {
		case err != nil:
			s.st.NoSpace++
			s.finish(io, err)
			return true
		case !ok:
			return false
		}
	}
	b := s.room(io)
	if b == nil {
		return false
	}
	io.batch, io.records[0] = b, b.logLen
	switch io.Op {
	case OpWrite:
		s.newBlks += fresh
		s.stageData(b, io)
	case OpZero:
		putRecord(b.log[b.logLen:], recordZero, e.ref, io.Block, io.Blocks, 0)
		b.logLen += recordHeaderSize
	case OpClean:
		putRecord(b.log[b.logLen:], recordClean, e.ref, io.Block, io.Blocks, 0)
		b.logLen += recordHeaderSize
	case OpRead, OpFlush: // never staged
	}
	io.newBlks, io.records[1] = fresh, b.logLen
	if io.sync = io.Durable || e.unsynced > 0; io.sync {
		b.synced = true
		e.unsynced++ // keeps later writes of this extent behind this one
	}
	b.waiting++
	b.ios.push(io)
	return true
}

// haveRoom tells whether a write of n blocks, of which fresh had no slot, can be given slots now; ErrNoSpace when it never can.
func (s *Store) haveRoom(fresh, n uint32) (bool, error) {
	if fresh > 0 {
		need := uint64(s.mapped) + uint64(s.newBlks) + uint64(s.areaSum) + uint64(fresh) + uint64(s.keep)
		if need > uint64(s.slots.total()) {
			if !s.canGrow() {
				return false, ErrNoSpace
			}
			s.grow.wanted = true
			return false, nil
		}
	}
	if s.slots.free < n {
		s.starved = true
		s.grow.wanted = s.grow.wanted || s.canGrow()
		return false, nil
	}
	return true, nil
}

// room returns the open batch if io fits into it.
func (s *Store) room(io *IO) *batch {
	need, blocks := uint32(recordHeaderSize), uint32(0)
	if io.Op == OpWrite {
		need, blocks = (recordHeaderSize+4)*io.Blocks, io.Blocks // every block in a run of its own
	}
	if s.open == nil {
		if s.open = s.takeBatch(); s.open == nil {
			return nil
		}
	}
	b := s.open
	if b.logLen+need > uint32(len(b.log)) || b.blocks+blocks > maxBatchBlocks {
		return nil
	}
	if blocks > 0 && b.data == nil {
		if b.data = s.takeStaging(); b.data == nil {
			return nil
		}
	}
	return b
}

// stageData copies io.Buf once, block by block, and computes the checksum of the copy: the original may change meanwhile.
func (s *Store) stageData(b *batch, io *IO) {
	e := io.Extent
	for done := uint32(0); done < io.Blocks; {
		slot, n := s.slots.alloc(io.Blocks - done)
		if k := len(b.runs); k > 0 && b.runs[k-1].slot+b.runs[k-1].n == slot {
			b.runs[k-1].n += n
		} else {
			b.runs = append(b.runs, run{slot: slot, n: n, at: b.blocks})
		}
		putRecord(b.log[b.logLen:], recordWrite, e.ref, io.Block+done, n, slot)
		b.logLen += recordHeaderSize
		for range n {
			to := b.data[b.blocks*BlockSize:][:BlockSize]
			copy(to, io.Buf[done*BlockSize:])
			le.PutUint32(b.log[b.logLen:], blockCRC(e.seed, io.Block+done, to))
			b.logLen += 4
			b.blocks++
			done++
		}
	}
}

// pump sends the open batch and stages what waits, as far as both go.
func (s *Store) pump() {
	for {
		s.starved = false
		for io := s.stalled.head; io != nil && s.failure == nil; io = s.stalled.head {
			// stage links io elsewhere, so it leaves the list first and returns to its head if it still has to wait.
			s.stalled.pop()
			if !s.stage(io) {
				if io.next = s.stalled.head; io.next == nil {
					s.stalled.tail = io
				}
				s.stalled.head = io
				break
			}
		}
		if s.open == nil || s.open.waiting == 0 || !s.send() {
			return
		}
	}
}

// send hands the open batch to the disk unless enough are there already or the log has no room.
func (s *Store) send() bool {
	b := s.open
	if b == nil || len(s.flying) >= maxFlying {
		return false
	}
	h := batchHeader{salt: s.sb.salt, incarnation: s.life, seq: s.seq + 1, durable: s.synced, bytes: b.logLen}
	pages := h.pages()
	if s.pos+pages > s.geo.logSlots {
		if s.ckpt.state != ckptIdle {
			return false // the other half is not free yet
		}
		s.rotate()
	}
	log := b.log[:pages*BlockSize]
	h.seal(log)
	s.open, s.seq = nil, h.seq
	b.seq, b.proves, b.sent, b.flying = h.seq, h.durable, s.clock(), len(b.runs)+1
	// Few requests that sync themselves are faster than a sync after them; they say nothing about volatile batches before them.
	b.durable = b.synced && len(b.runs) <= maxDurableRuns && s.plain <= s.synced
	if !b.durable {
		s.plain = b.seq
	}
	s.flying = append(s.flying, b)
	for i, r := range b.runs {
		s.write(b, i+1, int64(r.slot)*BlockSize, b.data[r.at*BlockSize:(r.at+r.n)*BlockSize])
	}
	s.write(b, 0, s.geo.logOffset(s.half, s.pos), log)
	s.pos += pages
	s.st.Batches++
	s.st.LogBytes += uint64(len(log))
	return true
}

// write sends the i-th request of b.
func (s *Store) write(b *batch, i int, off int64, buf []byte) {
	for len(b.ops) <= i {
		op := &writeOp{batch: b}
		op.User, op.Done = op, batchWritten
		b.ops = append(b.ops, op)
	}
	op := &b.ops[i].Op
	op.Kind, op.File, op.Off, op.Buf, op.Durable = vfs.OpWrite, s.file, off, buf, b.durable
	s.st.DiskWrites++
	s.submit(op)
}

func batchWritten(op *vfs.Op) {
	b := op.User.(*writeOp).batch
	s := b.s
	s.out--
	b.flying--
	if op.Err != nil {
		s.fail(fmt.Errorf("write %d bytes at %d: %w", len(op.Buf), op.Off, op.Err))
	}
	if b.flying > 0 {
		return
	}
	if b.data != nil {
		s.staging = append(s.staging, b.data)
		b.data = nil
	}
	if s.failure != nil {
		s.recycle(b)
		return
	}
	s.applyWritten()
}

// applyWritten takes the batches that are written, and whose forerunners are, off the list: it applies their volatile IOs and has
// the others wait for a sync.
func (s *Store) applyWritten() {
	for len(s.flying) > 0 && s.flying[0].flying == 0 {
		b := s.flying[0]
		s.flying = append(s.flying[:0], s.flying[1:]...)
		s.written, s.proves = b.seq, b.proves
		if b.durable && s.synced == b.seq-1 {
			s.synced, s.proven = b.seq, b.proves
		}
		if b.waiting == 0 {
			s.recycle(b)
			continue
		}
		b.waiting++ // holds b while its list is walked
		for io := b.ios.pop(); io != nil; io = b.ios.pop() {
			io.seq, io.started = b.seq, b.sent
			if io.sync && b.seq > s.synced {
				s.want = max(s.want, b.seq)
				s.unapplied.push(io)
			} else {
				s.apply(io)
			}
			if s.failure != nil {
				return
			}
		}
		if b.waiting--; b.waiting == 0 {
			s.recycle(b)
		}
	}
	s.applySynced()
	s.startSync()
}

// apply changes the map as io's records say and completes io.
func (s *Store) apply(io *IO) {
	e, b := io.Extent, io.batch
	for p := b.log[io.records[0]:io.records[1]]; len(p) > 0; {
		r, rest, ok := nextRecord(p)
		if !ok {
			panic("extent: malformed record in our own batch")
		}
		p = rest
		s.applyRecord(e, r, b.seq)
	}
	s.newBlks -= io.newBlks
	if io.sync {
		e.unsynced--
	}
	io.batch = nil
	if b.waiting--; b.waiting == 0 {
		s.recycle(b)
	}
	s.complete(io)
}

func (s *Store) applyRecord(e *Extent, r logRecord, seq uint64) {
	if e.mark(s.geo, r) {
		s.markHeader(e)
	}
	if r.kind == recordClean {
		return
	}
	before := s.mapped
	for i := uint32(0); i < r.count; {
		block := r.block + i
		page := block / pageEntries
		if r.kind == recordZero && e.pages[page].used == 0 {
			i += (page+1)*pageEntries - block // nothing is mapped up to the next page
			continue
		}
		n := entry{}
		if r.kind == recordWrite {
			n = entry{slot: r.slot + i, crc: le.Uint32(r.crcs[4*i:])}
		}
		s.replace(e, block, n, seq)
		i++
	}
	e.vol.blocks.Add(int64(s.mapped) - int64(before))
}

// mark enters in the replica's regions what a record says, and tells whether it changed them.
func (e *Extent) mark(g geometry, r logRecord) bool {
	from, to := g.regionsOf(r.block, r.count)
	if r.kind == recordClean {
		return e.replica.dirty.Remove(from, to)
	}
	return e.replica.wrote(from, to)
}

// replace maps block anew and queues the slot it had.
func (s *Store) replace(e *Extent, block uint32, n entry, seq uint64) {
	old := e.set(block, n)
	if old != slotZero && old != slotLost {
		s.mapped--
		s.freed.push(freed{seq: seq, epoch: s.epoch, slot: old, n: 1})
	}
	if n.slot != slotZero {
		s.mapped++
	}
	s.markDirty(e, block/pageEntries)
}

// writerIdle tells whether no batch is on its way.
func (s *Store) writerIdle() bool {
	return len(s.flying) == 0 && s.stalled.head == nil && s.unapplied.head == nil && (s.open == nil || s.open.waiting == 0)
}

// failWrites completes every write that the failure caught.
func (s *Store) failWrites() {
	abandon := func(l *ioList) {
		for io := l.pop(); io != nil; io = l.pop() {
			s.finish(io, s.failure)
		}
	}
	if s.open != nil {
		abandon(&s.open.ios)
	}
	for _, b := range s.flying {
		abandon(&b.ios)
	}
	s.flying = nil
	abandon(&s.unapplied)
	abandon(&s.stalled)
}

// releaseFreed makes freed slots allocatable: those whose superseding record would surely be found after a crash, with the proof of it in a
// later record, and that no read can still be looking at.
func (s *Store) releaseFreed() {
	for f := s.freed.front(); f != nil; f = s.freed.front() {
		if f.seq > s.proven {
			return
		}
		for s.epoch < f.epoch+2 && s.readers[(s.epoch+1)&1] == 0 {
			s.epoch++
		}
		if s.epoch < f.epoch+2 {
			return
		}
		s.freed.pop()
		s.slots.release(f.slot, f.n)
	}
}

// pushProof takes the next step towards proving that freed slots may be reused, when many wait or a write needs one: a sync that
// covers the superseding batch, a batch whose header says so, and a sync that covers that.
func (s *Store) pushProof() {
	f := s.freed.front()
	if f == nil || f.seq <= s.proven || !s.starved && s.freed.slots < max(1024, s.slots.total()/16) {
		return
	}
	switch {
	case s.synced < f.seq:
		s.want = max(s.want, f.seq)
	case s.proves >= f.seq:
		s.want = max(s.want, s.written)
	case len(s.flying) > 0:
		// One of them, or the next, carries the proof.
	default:
		if s.open == nil {
			s.open = s.takeBatch()
		}
		if s.open != nil {
			s.send()
		}
	}
}
