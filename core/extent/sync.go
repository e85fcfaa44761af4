package extent

import (
	"fmt"

	"github.com/mooring-io/mooring/core/vfs"
)

// syncer makes batches durable, many with one fdatasync. Queue's goroutine only.
type syncer struct {
	op      vfs.Op
	syncing bool
	want    uint64 // a batch that someone waits for; a sync is due while it is above synced
	mark    uint64 // what the sync under way covers
	markPrf uint64 // what it will prove
	synced  uint64 // every batch up to this one is on the medium
	proven  uint64 // every batch up to this one would be accepted after a crash without a look at its data
	flushes ioList
	current []func(error) // wait for the sync under way
	next    []func(error) // wait for one that begins later
}

// afterSync runs fn after a sync that begins from now on, or with an error when the store fails.
func (s *Store) afterSync(fn func(error)) {
	if s.failure != nil {
		fn(s.failure)
		return
	}
	s.next = append(s.next, fn)
}

// flush completes io when everything that completed before is on the medium.
func (s *Store) flush(io *IO) {
	io.seq, io.sync = s.written, true
	if io.seq <= s.synced {
		s.finish(io, nil)
		return
	}
	io.started = s.clock()
	s.want = max(s.want, io.seq)
	s.flushes.push(io)
}

// startSync starts a sync if one is due and none is under way.
func (s *Store) startSync() {
	if s.written-s.synced > maxUnsynced {
		s.want = max(s.want, s.written)
	}
	if s.syncing || s.failure != nil || len(s.next) == 0 && (s.want <= s.synced || s.written <= s.synced) {
		return
	}
	s.syncing, s.mark, s.markPrf = true, s.written, s.proves
	s.current, s.next = s.next, s.current[:0]
	s.op.Kind, s.op.File = vfs.OpSync, s.file
	s.st.Syncs++
	s.submit(&s.op)
}

func (s *Store) syncEnded(op *vfs.Op) {
	s.out--
	s.syncing = false
	if op.Err != nil {
		s.fail(fmt.Errorf("sync: %w", op.Err))
	}
	if s.failure != nil {
		return
	}
	if s.mark > s.synced { // else batches that synced themselves overtook it
		s.synced, s.proven = s.mark, s.markPrf
	}
	s.applySynced()
	if s.failure != nil {
		return
	}
	waiting := s.current
	for i, fn := range waiting {
		waiting[i] = nil
		fn(nil)
	}
	s.startSync()
}

// applySynced applies and completes what waited for the batches that are durable now.
func (s *Store) applySynced() {
	for io := s.unapplied.head; io != nil && io.seq <= s.synced; io = s.unapplied.head {
		s.unapplied.pop()
		s.apply(io)
		if s.failure != nil {
			return
		}
	}
	for io := s.flushes.head; io != nil && io.seq <= s.synced; io = s.flushes.head {
		s.complete(s.flushes.pop())
	}
}

func (s *Store) failSyncs() {
	for io := s.flushes.pop(); io != nil; io = s.flushes.pop() {
		s.finish(io, s.failure)
	}
	waiting := append(append([]func(error){}, s.current...), s.next...)
	s.current, s.next = nil, nil
	for _, fn := range waiting {
		if fn != nil {
			fn(s.failure)
		}
	}
}
