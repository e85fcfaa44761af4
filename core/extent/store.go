// Package extent is the extent store: one disk's worth of extents, kept copy-on-write in 4 KiB slots with a log of what changed.
// It owns the data file's layout, checksums, durability, recovery and the generation fence at the replica. It does not own which
// node has which extent, replication, or the order of commands above one store.
//
// A write goes to free slots and, at the same time, as a record to the log; the map of its extent changes when both are written and,
// for durable writes, synced. So a read never returns what a crash could take back, and a cut-off write leaves the old block.
// docs/format/extent-store.md has the bytes.
package extent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/core/vfs"
)

// Bounds of what is under way in one store.
const (
	maxBatchPages   = 4               // log pages of one batch
	maxBatchBlocks  = MaxWriteBlocks  // data blocks of one batch
	maxDurableRuns  = 2               // runs of a batch that syncs itself
	maxFlying       = 2               // batches at the disk: more would make each smaller
	maxBatches      = 64              // batches whose changes wait, for a sync or for their turn
	maxUnsynced     = 1024            // batches written since the last sync before one is made unasked; bounds what recovery verifies
	maxRoundPages   = 512             // map pages of one round of a checkpoint
	maxCheckpointIO = 8               // requests of a checkpoint at the disk
	growRetryNanos  = 5 * time.Second // before a full file system is asked for space again
)

// Store is an open extent store. Its data plane belongs to the goroutine of its queue; fields without a note are that goroutine's.
type Store struct {
	o     Options      // immutable
	log   hclog.Logger // immutable
	file  vfs.File     // immutable
	queue vfs.Queue    // immutable
	clock func() int64 // immutable
	geo   geometry     // immutable
	id    uuid.UUID    // immutable
	life  uint64       // the incarnation; immutable
	index *indexer     // immutable
	limit uint32       // slots that the data file may have; immutable
	keep  uint32       // slots that only overwrites may use; immutable
	raw   bool         // the data file is direct: memory must be aligned; immutable

	sb       superblock
	extents  map[ID]*Extent
	refs     map[uint32]*Extent
	control  map[ID]*controlOp // create, seal or delete under way
	nextRef  uint32
	areas    []uint32 // free map areas
	slots    slots
	freed    freedQueue
	mapped   uint32 // blocks that have a slot
	newBlks  uint32 // blocks of staged writes that had none
	areaSum  uint32 // slots taken from segments for map areas
	epoch    uint64 // of reads: what is freed in epoch e is out of every read's sight when e+2 is reached
	readers  [2]int // reads under way, by the parity of their epoch
	out      int    // requests at the queue
	inflight int    // IOs admitted and not completed
	failure  error
	closing  bool

	logWriter
	syncer
	ckpt  checkpoint
	grow  growth
	ready ioList // complete, Done not called yet

	readOps *readOp // free list
	closer  func()  // looks whether Close can end
	st      Stats

	mu      sync.Mutex
	pubSt   Stats                 // guarded by mu
	pubUse  Usage                 // guarded by mu
	volumes map[uuid.UUID]*volume // guarded by mu for other goroutines; the queue's goroutine alone changes it
	pubErr  error                 // guarded by mu
}

// volume counts what one volume uses here.
type volume struct {
	extents int          // queue's goroutine
	blocks  atomic.Int64 // mapped
}

// Extent is a handle to an open extent. It stays valid, and refuses IO with ErrMissing, after the extent was deleted.
type Extent struct {
	id   ID     // immutable
	ref  uint32 // immutable
	area uint32 // immutable
	seed uint32 // immutable
	vol  *volume

	gen       Generation
	replica   replica
	sealing   bool // the header page is being written by a seal
	headDirty bool // the header page is in the list of the next checkpoint
	fenced    bool // a seal is under way: every generation is refused
	gone      bool // deleted, or about to be: no IO is admitted
	deleted   bool // the index has it as such: its pages are not kept up any more
	inflight  int  // IOs admitted and not completed, pages in a checkpoint's round
	unsynced  int  // of them, those that wait for a sync
	drained   func()

	mem     []byte  // of entries, outside the Go heap
	entries []entry // one per block
	pages   []pageState
}

type pageState struct {
	dirty bool // in the list of the next checkpoint
	used  uint16
}

// ID returns the extent's name. Any goroutine may call it.
func (e *Extent) ID() ID { return e.id }

// Generation returns the sealed generation. Queue's goroutine only.
func (e *Extent) Generation() Generation { return e.gen }

// newExtent makes the in-memory part of an extent with an empty map.
func newExtent(geo geometry, r Record) (*Extent, error) {
	mem, err := vfs.AlignedBuffer(int(geo.blocks) * 8)
	if err != nil {
		return nil, err
	}
	return &Extent{
		id: r.ID, ref: r.Ref, area: r.Area, gen: r.Gen, seed: identitySeed(r.ID), mem: mem,
		entries: unsafe.Slice((*entry)(unsafe.Pointer(&mem[0])), geo.blocks), pages: make([]pageState, geo.pages), replica: newReplica(geo),
	}, nil
}

func (e *Extent) free() {
	if e.mem != nil {
		_ = vfs.FreeBuffer(e.mem)
		e.mem, e.entries = nil, nil
	}
}

// set maps block to what n says and returns the slot it had.
func (e *Extent) set(block uint32, n entry) (old uint32) {
	p := &e.pages[block/pageEntries]
	old = e.entries[block].slot
	e.entries[block] = n
	if old != slotZero {
		p.used--
	}
	if n.slot != slotZero {
		p.used++
	}
	return old
}

// addExtent makes e visible.
func (s *Store) addExtent(e *Extent) {
	s.mu.Lock()
	v := s.volumes[e.id.Volume]
	if v == nil {
		v = &volume{}
		s.volumes[e.id.Volume] = v
	}
	s.mu.Unlock()
	v.extents++
	e.vol = v
	s.extents[e.id], s.refs[e.ref] = e, e
}

func (s *Store) dropExtent(e *Extent) {
	delete(s.extents, e.id)
	delete(s.refs, e.ref)
	if e.vol.extents--; e.vol.extents == 0 {
		s.mu.Lock()
		delete(s.volumes, e.id.Volume)
		s.mu.Unlock()
	}
}

// Extent returns the handle of id, or nil when the store does not have it. Queue's goroutine only.
func (s *Store) Extent(id ID) *Extent {
	if e := s.extents[id]; e != nil && !e.gone {
		return e
	}
	return nil
}

// IDs returns the names of all extents that the store has. Queue's goroutine only.
func (s *Store) IDs() []ID {
	ids := make([]ID, 0, len(s.extents))
	for id := range s.extents {
		ids = append(ids, id)
	}
	return ids
}

// Submit starts io. It never blocks and never runs Done. Queue's goroutine only.
func (s *Store) Submit(io *IO) {
	io.Err, io.BadBlock, io.DiskNanos, io.started, io.next = nil, 0, 0, 0, nil
	io.admitted, io.sync = false, false
	if err := s.admit(io); err != nil {
		s.finish(io, err)
		return
	}
	switch io.Op {
	case OpRead:
		s.st.Reads++
		s.st.ReadBytes += uint64(io.Blocks) * BlockSize
		s.read(io)
	case OpFlush:
		s.st.Flushes++
		s.flush(io)
	case OpWrite, OpZero, OpClean:
		if io.Op == OpWrite {
			s.st.Writes++
			s.st.WriteBytes += uint64(io.Blocks) * BlockSize
		} else if io.Op == OpZero {
			s.st.Zeros++
		}
		if s.stalled.head != nil || !s.stage(io) {
			s.st.Stalls++
			s.stalled.push(io)
		}
	}
}

// admit checks io against everything but space.
func (s *Store) admit(io *IO) error {
	e := io.Extent
	switch {
	case s.failure != nil:
		return ErrStoreFailed
	case s.closing:
		return ErrClosed
	case e == nil && io.Op == OpFlush:
	case e == nil || e.gone:
		return ErrMissing
	case io.Gen != e.gen || e.fenced:
		s.st.Fenced++
		return ErrFenced
	case io.Op == OpFlush:
	case io.Op > OpFlush || io.Blocks == 0 || uint64(io.Block)+uint64(io.Blocks) > uint64(s.geo.blocks):
		return fmt.Errorf("operation %d on blocks %d+%d: %w", io.Op, io.Block, io.Blocks, ErrInvalid)
	case io.Op == OpClean && (io.Block|io.Blocks)%RegionBlocks(s.geo.blocks) != 0:
		return fmt.Errorf("parts of regions are not cleaned: %w", ErrInvalid)
	case (io.Op == OpRead || io.Op == OpWrite) && uint64(len(io.Buf)) != uint64(io.Blocks)*BlockSize:
		return fmt.Errorf("%d bytes for %d blocks: %w", len(io.Buf), io.Blocks, ErrInvalid)
	case io.Op == OpWrite && io.Blocks > MaxWriteBlocks:
		return fmt.Errorf("write of %d blocks: %w", io.Blocks, ErrInvalid)
	}
	io.admitted = true
	s.inflight++
	if e != nil {
		e.inflight++
	}
	return nil
}

// finish queues io for Kick with its result.
func (s *Store) finish(io *IO, err error) {
	if err != nil {
		io.Err = err
	}
	s.ready.push(io)
}

// complete ends io at once. It runs inside Turn or Kick only.
func (s *Store) complete(io *IO) {
	if io.started != 0 {
		io.DiskNanos = s.clock() - io.started
	}
	if io.admitted {
		io.admitted = false
		s.inflight--
		if io.Extent != nil {
			s.leave(io.Extent)
		}
	}
	io.Done(io)
}

// leave ends one use of e.
func (s *Store) leave(e *Extent) {
	if e.inflight--; e.inflight == 0 && e.drained != nil && s.failure == nil {
		fn := e.drained
		e.drained = nil
		fn()
	}
}

// drain runs fn when nothing that was admitted to e is under way any more.
func (s *Store) drain(e *Extent, fn func()) {
	if e.inflight == 0 {
		fn()
		return
	}
	e.drained = fn
}

// Kick ends a turn of the reactor: it forms the batch and hands it to the queue, and completes what needs no disk. The reactor
// calls it after every Turn and before it waits; Done must not call it.
func (s *Store) Kick() {
	for {
		s.advanceWork()
		io := s.ready.pop()
		if io == nil {
			break
		}
		for ; io != nil; io = s.ready.pop() {
			s.complete(io)
		}
	}
	if s.closer != nil {
		s.closer()
	}
	s.publish()
}

// advanceWork moves everything on that can move.
func (s *Store) advanceWork() {
	if s.failure != nil {
		return
	}
	s.releaseFreed()
	s.stepGrowth()
	s.pump()
	s.stepCheckpoint()
	s.pushProof()
	s.startSync()
}

// submit hands op to the queue; ended must be called first thing in its Done.
func (s *Store) submit(op *vfs.Op) {
	s.out++
	s.queue.Submit(op)
}

// fail ends the store for good: nothing is written any more and every IO gets ErrStoreFailed.
func (s *Store) fail(err error) {
	if s.failure != nil {
		return
	}
	s.failure = fmt.Errorf("%w: %w", ErrStoreFailed, err)
	s.log.Error("extent store failed; it serves nothing until it is opened again", "store", s.id, "error", err)
	s.st.Failed = true
	s.mu.Lock()
	s.pubErr = s.failure
	s.mu.Unlock()
	s.failWrites()
	s.failSyncs()
	for _, c := range s.control {
		c.finish(s, s.failure)
	}
}

// publish copies the counters for other goroutines, unless one of them is just reading.
func (s *Store) publish() {
	if !s.mu.TryLock() {
		return
	}
	s.publishLocked()
	s.mu.Unlock()
}

func (s *Store) publishLocked() {
	s.st.WaitingSlots = uint64(s.freed.slots)
	s.pubSt = s.st
	room := int64(s.limit) - int64(s.keep) - int64(s.mapped) - int64(s.newBlks) - int64(s.areaSum)
	s.pubUse = Usage{
		Capacity:  int64(s.limit) * BlockSize,
		Allocated: (int64(s.geo.first) + int64(s.slots.total())) * BlockSize,
		Used:      (int64(s.mapped) + int64(s.areaSum)) * BlockSize,
		Reserved:  int64(s.keep) * BlockSize,
		Free:      max(0, room) * BlockSize,
		Extents:   len(s.extents),
	}
}

// Identity returns the store's ID and the incarnation of this opening. Any goroutine.
func (s *Store) Identity() (store uuid.UUID, incarnation uint64) { return s.id, s.life }

// Usage returns how space is used, as of the last Kick. Any goroutine.
func (s *Store) Usage() Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.pubUse
	u.Volumes = make(map[uuid.UUID]int64, len(s.volumes))
	for id, v := range s.volumes {
		u.Volumes[id] = v.blocks.Load() * BlockSize
	}
	return u
}

// Stats returns the counters, as of the last Kick. Any goroutine.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pubSt
}

// Err returns why the store failed, or nil. Any goroutine.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pubErr
}

// call runs start on the queue's goroutine and waits for the result that it hands to its argument.
func (s *Store) call(ctx context.Context, start func(done func(error))) error {
	result := make(chan error, 1)
	s.queue.Post(func() {
		start(func(err error) { result <- err })
		s.Kick()
	})
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close waits for what is in flight, checkpoints and releases the lock. The queue's goroutine must go on with Turn and Kick meanwhile.
// After an error of ctx the store still holds its files.
func (s *Store) Close(ctx context.Context) error {
	failure := s.call(ctx, s.shutdown)
	if failure != nil && !errors.Is(failure, ErrStoreFailed) {
		return fmt.Errorf("close extent store %s: %w", s.o.Dir, failure)
	}
	return errors.Join(failure, s.index.close(), s.file.Close(), s.freeMemory())
}

// shutdown runs done when nothing is under way and, unless the store failed, everything is in the map pages.
func (s *Store) shutdown(done func(error)) {
	if s.closing {
		done(ErrClosed)
		return
	}
	s.closing = true
	rotated := false
	s.closer = func() {
		idle := s.failure == nil && s.inflight == 0 && len(s.control) == 0 && s.grow.state == growIdle &&
			s.ckpt.state == ckptIdle && s.writerIdle()
		switch {
		case s.failure != nil && s.out == 0:
			s.closer = nil
			done(s.failure)
		case idle && !rotated:
			rotated = true
			s.rotate()
			s.advanceWork()
		case idle && s.out == 0:
			s.closer = nil
			done(nil)
		}
	}
}

func (s *Store) freeMemory() error {
	for _, e := range s.extents {
		e.free()
	}
	return errors.Join(s.freeBatches(), s.freeReadOps(), s.ckpt.free(), s.grow.free())
}

// ioList is a first-in first-out list of IOs linked through IO.next.
type ioList struct{ head, tail *IO }

func (l *ioList) push(io *IO) {
	io.next = nil
	if l.tail == nil {
		l.head = io
	} else {
		l.tail.next = io
	}
	l.tail = io
}

func (l *ioList) pop() *IO {
	io := l.head
	if io == nil {
		return nil
	}
	if l.head = io.next; l.head == nil {
		l.tail = nil
	}
	io.next = nil
	return io
}
