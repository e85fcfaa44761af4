package ring

import (
	"errors"
	"fmt"
	"math"
	"unsafe"
)

// Op says what a submission entry asks for.
type Op uint8

// Operations. The comment names what the pool range holds; it is empty if nothing
// is said.
const (
	OpRead            Op = 1 // room for Length bytes, filled by the core
	OpWrite           Op = 2 // Length bytes of data
	OpFlush           Op = 3 // Offset and Length are 0: the whole volume
	OpWriteZeroes     Op = 4
	OpDiscard         Op = 5
	OpCompare         Op = 6 // Length bytes to compare with
	OpCompareAndWrite Op = 7 // Length bytes to compare with, then Length bytes of data
	OpVerify          Op = 8
	OpAbort           Op = 9 // Target is the tag to abort; no volume, no range
)

var opNames = [...]string{
	OpRead: "read", OpWrite: "write", OpFlush: "flush", OpWriteZeroes: "write-zeroes", OpDiscard: "discard",
	OpCompare: "compare", OpCompareAndWrite: "compare-and-write", OpVerify: "verify", OpAbort: "abort",
}

func (o Op) String() string {
	if int(o) < len(opNames) && opNames[o] != "" {
		return opNames[o]
	}
	return fmt.Sprintf("op %d", uint8(o))
}

// Flags modify an operation.
type Flags uint8

const (
	FlagFUA        Flags = 1 // complete when durable; not for Flush and Abort
	FlagDeallocate Flags = 2 // WriteZeroes may free the blocks
)

// Status is the outcome of a command.
type Status uint16

const (
	StatusOK                  Status = 0
	StatusMediaError          Status = 1  // Info: first bad byte of the volume
	StatusCompareFailed       Status = 2  // Info: first block that differs, in bytes
	StatusReservationConflict Status = 3  // the host holds no sufficient registration
	StatusOutOfRange          Status = 4  // beyond the end of the volume
	StatusNoSpace             Status = 5  // a new block could not be allocated
	StatusPathLost            Status = 6  // not served here any more: retry elsewhere
	StatusRetry               Status = 7  // the path is changing: retry here soon
	StatusAborted             Status = 8  // by Abort, or by a reservation's preempt-and-abort
	StatusInternal            Status = 9  // the core's own fault
	StatusInvalidField        Status = 10 // not possible on this volume, e.g. misaligned
	StatusWriteLost           Status = 11 // Flush: unflushed writes may be lost
)

var statusNames = [...]string{
	"ok", "media error", "compare failed", "reservation conflict", "out of range", "no space",
	"path lost", "retry", "aborted", "internal error", "invalid field", "write lost",
}

func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("status %d", uint16(s))
}

// Entry is one submission, laid out as in memory: 64 bytes, little endian. All
// offsets and lengths are in bytes.
type Entry struct {
	Op               Op
	Flags            Flags
	reserved1        uint16 // zero
	Tag              uint32 // names the command until its completion is taken; below the ring's entries
	Handle           uint32 // volume handle as granted by the core
	HandleGeneration uint32
	Offset           uint64 // in the volume
	Length           uint64 // of the range in the volume
	PoolOffset       uint64
	PoolLength       uint32
	Target           uint32 // Abort: the tag to abort
	Submitted        uint64 // CLOCK_MONOTONIC ns; filled in by Publish
	reserved2        uint64 // zero
}

// Completion is one completion, laid out as in memory: 64 bytes, little endian.
type Completion struct {
	Tag    uint32
	Status Status
	_      uint16
	Info   uint64 // see Status; else 0
	Taken  uint64 // CLOCK_MONOTONIC ns when the core took the entry
	Done   uint64 // CLOCK_MONOTONIC ns when the core completed it
	Disk   uint64 // ns spent at disks
	_      [3]uint64
}

// entryBytes is the size of a slot of either ring.
const entryBytes = 64

var (
	_ [entryBytes]byte = [unsafe.Sizeof(Entry{})]byte{}
	_ [entryBytes]byte = [unsafe.Sizeof(Completion{})]byte{}
)

// Check says what in e breaks the ABI, given a ring pair's size, in entries and
// bytes. Volumes, handles and tags in flight are not its matter.
func (e *Entry) Check(entries int, poolBytes int64) error {
	if e.Op < OpRead || e.Op > OpAbort {
		return fmt.Errorf("operation %d is unknown", e.Op)
	}
	if uint64(e.Tag) >= uint64(entries) {
		return fmt.Errorf("tag %d is out of range, the ring has %d entries", e.Tag, entries)
	}
	if bad := e.Flags &^ allowedFlags[e.Op]; bad != 0 {
		return fmt.Errorf("%v does not know flags %#x", e.Op, uint8(bad))
	}
	if e.reserved1 != 0 || e.reserved2 != 0 {
		return errors.New("a reserved field is not zero")
	}
	if e.Op == OpAbort {
		return e.checkAbort(entries)
	}
	return e.checkRange(poolBytes)
}

var allowedFlags = [...]Flags{
	OpRead: FlagFUA, OpWrite: FlagFUA, OpWriteZeroes: FlagFUA | FlagDeallocate, OpDiscard: FlagFUA,
	OpCompare: FlagFUA, OpCompareAndWrite: FlagFUA, OpVerify: FlagFUA, OpAbort: 0,
}

func (e *Entry) checkAbort(entries int) error {
	if uint64(e.Target) >= uint64(entries) {
		return fmt.Errorf("abort names tag %d, the ring has %d entries", e.Target, entries)
	}
	if e.Offset|e.Length|e.PoolOffset|uint64(e.PoolLength)|uint64(e.Handle)|uint64(e.HandleGeneration) != 0 {
		return errors.New("abort names a volume, a range or a buffer")
	}
	return nil
}

func (e *Entry) checkRange(poolBytes int64) error {
	var want uint64 // pool bytes
	switch e.Op {
	case OpRead, OpWrite, OpCompare:
		want = e.Length
	case OpCompareAndWrite:
		want = 2 * min(e.Length, math.MaxInt64)
	case OpFlush, OpWriteZeroes, OpDiscard, OpVerify:
	}
	switch {
	case e.Target != 0:
		return fmt.Errorf("%v names a tag to abort", e.Op)
	case e.Op == OpFlush && e.Offset|e.Length != 0:
		return errors.New("flush names a range")
	case e.Op != OpFlush && e.Length == 0:
		return fmt.Errorf("%v of no bytes", e.Op)
	case e.Length > math.MaxInt64 || e.Offset > math.MaxInt64-e.Length:
		return fmt.Errorf("%v of %d bytes at %d wraps around", e.Op, e.Length, e.Offset)
	case want != uint64(e.PoolLength):
		return fmt.Errorf("%v of %d bytes names a buffer of %d", e.Op, e.Length, e.PoolLength)
	case want == 0 && e.PoolOffset != 0:
		return fmt.Errorf("%v names a buffer", e.Op)
	case want > uint64(poolBytes) || e.PoolOffset > uint64(poolBytes)-want:
		return fmt.Errorf("buffer %d+%d is outside the pool of %d bytes", e.PoolOffset, want, poolBytes)
	}
	return nil
}
