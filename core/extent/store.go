// Package extent is the extent store: one disk's worth of extents, kept copy-on-write in 4 KiB slots with a log of what changed.
// It owns the data file's layout, checksums, durability, recovery and the generation fence at the replica. It does not own which
// node has which extent, replication, or the order of commands above one store.
package extent

import (
	"context"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/vfs"
)

// Store is an open extent store. Its data plane belongs to the goroutine of its queue.
type Store struct{}

// Extent is a handle to an open extent. It stays valid, and refuses IO with ErrMissing, after the extent was deleted.
type Extent struct{}

// ID returns the extent's name. Any goroutine may call it.
func (e *Extent) ID() ID { return ID{} }

// Generation returns the sealed generation. Queue's goroutine only.
func (e *Extent) Generation() Generation { return 0 }

// Open opens the store in o.Dir, creating it when the folder has none. It recovers, checkpoints under a new incarnation and only
// then returns. It blocks and does not need the queue to be turned.
func Open(ctx context.Context, o Options) (*Store, error) { panic("TODO") }

// Close waits for what is in flight, checkpoints and releases the lock. The queue must be turned meanwhile; it is not closed.
func (s *Store) Close(ctx context.Context) error { panic("TODO") }

// Create makes an empty extent sealed at generation g. It is idempotent for the same generation; for another it returns ErrFenced.
func (s *Store) Create(ctx context.Context, id ID, g Generation) error { panic("TODO") }

// Seal raises the extent's generation to g: every admitted IO has finished and g is durable when it returns nil. A g below
// the sealed one gets ErrFenced.
func (s *Store) Seal(ctx context.Context, id ID, g Generation) error { panic("TODO") }

// Delete removes the extent for good. Deleting what is missing is no error.
func (s *Store) Delete(ctx context.Context, id ID) error { panic("TODO") }

// DeleteVolume removes every extent of the volume.
func (s *Store) DeleteVolume(ctx context.Context, vol uuid.UUID) error { panic("TODO") }

// Check verifies every mapped block and the accounting of slots while the store serves, and reports each problem.
func (s *Store) Check(ctx context.Context, report func(Problem)) error { panic("TODO") }

// Identity returns the store's ID and the incarnation of this opening. Any goroutine.
func (s *Store) Identity() (store uuid.UUID, incarnation uint64) { panic("TODO") }

// Usage returns how space is used. Any goroutine.
func (s *Store) Usage() Usage { panic("TODO") }

// Stats returns the counters. Any goroutine.
func (s *Store) Stats() Stats { panic("TODO") }

// Err returns why the store failed, or nil. Any goroutine.
func (s *Store) Err() error { panic("TODO") }

// Extent returns the handle of id, or nil when the store does not have it. Queue's goroutine only.
func (s *Store) Extent(id ID) *Extent { panic("TODO") }

// Submit starts io. It never blocks and never runs Done. Queue's goroutine only.
func (s *Store) Submit(io *IO) { panic("TODO") }

// Kick ends a turn of the reactor: it forms the batch and hands it to the queue, and completes what needs no disk. The reactor
// calls it after every Turn and before it waits.
func (s *Store) Kick() { panic("TODO") }

// CheckDir checks a store that no process has open, data checksums included.
func CheckDir(ctx context.Context, fs vfs.FS, dir string, index IndexOpener, report func(Problem)) error {
	panic("TODO")
}

// RebuildIndex replaces the index of a store that no process has open by what the identities on its disk say.
func RebuildIndex(ctx context.Context, fs vfs.FS, dir string, index IndexOpener) error { panic("TODO") }
