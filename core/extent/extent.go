package extent

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/core/vfs"
)

// BlockSize is the unit of mapping, checksum and atomicity, in bytes.
const BlockSize = 4096

// DefaultExtentSize is the size of an extent in bytes unless the cluster chose another.
const DefaultExtentSize = 256 << 20

// MaxWriteBlocks is the largest write that one IO may carry; a larger one ends with ErrInvalid.
const MaxWriteBlocks = 512

var (
	// ErrMissing says that the store does not have the extent. It is never answered with zeros.
	ErrMissing = errors.New("extent is not on this store")
	// ErrFenced says that the generation is not the one sealed here.
	ErrFenced = errors.New("generation is fenced")
	// ErrCorrupt says that a block's checksum does not match or that the medium cannot read it.
	ErrCorrupt = errors.New("data is corrupt")
	// ErrNoSpace says that a block never written before, or a change of the index, found no room. Overwrites do not get it.
	ErrNoSpace = errors.New("extent store is full")
	// ErrStoreFailed says that a write or sync of this store failed earlier; only a new Open can serve again.
	ErrStoreFailed = errors.New("extent store has failed")
	// ErrLocked says that another process has the store open.
	ErrLocked = errors.New("extent store is in use by another process")
	// ErrInvalid says that the request itself is wrong: range, length or store format.
	ErrInvalid = errors.New("invalid request")
	// ErrClosed says that the store is closed or closing.
	ErrClosed = errors.New("extent store is closed")
)

// ID names an extent: the n-th fixed-size range of a volume.
type ID struct {
	Volume uuid.UUID
	Index  uint32
}

func (id ID) String() string { return fmt.Sprintf("%s/%d", id.Volume, id.Index) }

// Generation grows with every change of an extent's owner or replica set.
type Generation uint64

// Op is what an IO does.
type Op uint8

// The operations of an IO.
const (
	OpRead  Op = iota // fills Buf; blocks never written read as zeros
	OpWrite           // writes Buf
	OpZero            // makes the blocks read as zeros and frees their space (discard, write zeroes); Buf is unused
	OpClean           // whole regions are durable and the same on all members: not dirty any more; Buf is unused
	OpFlush           // makes every IO of the store that completed before it durable; Block, Blocks and Buf are unused
)

// An IO is one request to an extent. The caller owns and reuses it; between Submit and Done it belongs to the store.
type IO struct {
	Op     Op
	Extent *Extent    // from Store.Extent; may be nil for OpFlush only
	ID     ID         // names the extent where the store is another node's; not looked at here
	Gen    Generation // must be the one sealed on the extent
	Block  uint32     // first block, in BlockSize units from the start of the extent
	Blocks uint32
	// Buf has Blocks*BlockSize bytes. The store copies what it writes once and checks that copy, so another process may be able to
	// change it meanwhile. Reads go straight into it when it is aligned to BlockSize.
	Buf     []byte
	Durable bool // OpWrite, OpZero, OpClean: complete only when on the medium; otherwise when it survives the death of the process

	Done func(*IO) // runs on the queue's goroutine inside Kick or Turn, never inside Submit
	User any       // the caller's own

	Err       error  // result, one of this package's sentinels under errors.Is
	BadBlock  uint32 // with ErrCorrupt: the first block in the extent that is bad
	DiskNanos int64  // nanoseconds between handing the request to the disk and its completion

	next     *IO
	started  int64  // Clock at hand-over to the disk
	admitted bool   // counted as in flight
	sync     bool   // its change waits for a sync
	seq      uint64 // OpWrite, OpZero, OpClean: of its batch; OpFlush: the batch that must be durable
	batch    *batch
	records  [2]uint32 // OpWrite, OpZero, OpClean: where its records are in the batch
	newBlks  uint32    // OpWrite: blocks that had no slot when it was staged
	pending  int       // OpRead: disk requests under way
	epoch    uint64    // OpRead
}

// Usage says how a store's space is used, in bytes.
type Usage struct {
	Capacity  int64 // what the store may grow to
	Allocated int64 // what the data file holds now
	Used      int64 // blocks mapped and maps of extents
	Reserved  int64 // kept for overwrites
	Free      int64 // what new blocks may still use
	Extents   int
	// Volumes maps a volume to the bytes of its mapped blocks.
	Volumes map[uuid.UUID]int64
}

// Stats are counters since Open, but for those that say "now".
type Stats struct {
	Reads, Writes, Zeros, Flushes uint64
	ReadBytes, WriteBytes         uint64
	Fenced                        uint64 // refused for their generation
	CorruptBlocks                 uint64 // blocks whose checksum did not match twice
	Rereads                       uint64 // blocks read again after a mismatch
	DiskReads, DiskWrites         uint64 // requests to the data file
	LogBytes                      uint64
	Batches, Syncs, Checkpoints   uint64
	CheckpointPages               uint64
	NoSpace                       uint64 // writes refused with ErrNoSpace
	Stalls                        uint64 // writes that had to wait for slots, log or staging memory
	WaitingSlots                  uint64 // now: freed blocks that are not durable yet
	DataFileDirect                bool   // the data file bypasses the page cache
	Failed                        bool   // the store has failed
}

// Options configure a store.
type Options struct {
	FS        vfs.FS
	Queue     vfs.Queue // the reactor's; the caller turns it
	Dir       string
	ClusterID uuid.UUID
	// ExtentSize in bytes, a power of two of at least 16 blocks; 0 means DefaultExtentSize. Must match an existing store.
	ExtentSize int64
	Capacity   int64 // bytes the data file may grow to; 0 means what the file system has free at creation
	// LogSize is the size in bytes of each half of the log, used at creation; 0 means 32 MiB.
	LogSize int64
	// SegmentSize is the number of bytes by which the data file grows, used at creation; 0 means 64 MiB or less on small stores.
	SegmentSize int64
	Index       IndexOpener // nil means Badger in Dir/index
	Logger      hclog.Logger
	Clock       func() int64 // monotonic nanoseconds; nil means the system's

	reserve int64 // slots for overwrites; tests make it small and keep their writes below it
}

// IndexOpener opens the index that belongs to the store in dir.
type IndexOpener func(dir string, log hclog.Logger) (Index, error)

// State is the life stage of an extent in the Index.
type State uint8

// The states of an extent record.
const (
	StateLive     State = 1
	StateDeleting State = 2 // its identity on disk may be wiped already; Open finishes the deletion
)

// Record is what the Index keeps of one extent.
type Record struct {
	ID    ID
	Ref   uint32 // names the extent in the log and in map pages; never used twice in a store
	Area  uint32 // first slot of its map area
	Gen   Generation
	State State
}

// Index keeps the extents of a store. Calls come from one goroutine at a time and may block.
type Index interface {
	// Load calls fn with every record.
	Load(fn func(Record) error) error
	// Update puts and removes records in one transaction; it is durable when it returns. ErrNoSpace says that nothing was changed and that
	// it may be tried again; it comes sooner when fresh says that the records are those of new extents.
	Update(put []Record, remove []ID, fresh bool) error
	// Owner returns the store that the index was bound to, or uuid.Nil for a new index.
	Owner() (uuid.UUID, error)
	// Bind makes the index belong to a store; it is durable when it returns.
	Bind(store uuid.UUID) error
	Close() error
}

// Problem is one inconsistency that Check found.
type Problem struct {
	Extent ID     // zero when it is not about one extent
	Block  uint32 // first block concerned
	What   string // a sentence for the operator
}

func (p Problem) String() string {
	if p.Extent == (ID{}) {
		return p.What
	}
	return fmt.Sprintf("extent %s block %d: %s", p.Extent, p.Block, p.What)
}

var processStart = time.Now()

func systemClock() int64 { return int64(time.Since(processStart)) }
