package block

import "github.com/mooring-io/mooring/sdk/ring"

// Op, Flags and Status are those of the ring.
type (
	Op     = ring.Op
	Flags  = ring.Flags
	Status = ring.Status
)

// What a Request may ask for; package ring documents each.
const (
	OpRead            = ring.OpRead
	OpWrite           = ring.OpWrite
	OpFlush           = ring.OpFlush
	OpWriteZeroes     = ring.OpWriteZeroes
	OpDiscard         = ring.OpDiscard
	OpCompare         = ring.OpCompare
	OpCompareAndWrite = ring.OpCompareAndWrite
	OpVerify          = ring.OpVerify

	FUA        = ring.FlagFUA
	Deallocate = ring.FlagDeallocate
)

// What a Request may end with; package ring documents each.
const (
	StatusOK                  = ring.StatusOK
	StatusMediaError          = ring.StatusMediaError
	StatusCompareFailed       = ring.StatusCompareFailed
	StatusReservationConflict = ring.StatusReservationConflict
	StatusOutOfRange          = ring.StatusOutOfRange
	StatusNoSpace             = ring.StatusNoSpace
	StatusPathLost            = ring.StatusPathLost
	StatusRetry               = ring.StatusRetry
	StatusAborted             = ring.StatusAborted
	StatusInternal            = ring.StatusInternal
	StatusInvalidField        = ring.StatusInvalidField
	StatusWriteLost           = ring.StatusWriteLost
)

// Handle names a volume that the core granted. A stale one is answered with
// StatusPathLost; one that was never granted ends the plugin's rings.
type Handle struct{ Index, Generation uint32 }

// Request is one command on a volume. The caller fills in the upper part and owns
// the Request before Submit and from Done on; reusing one costs no allocation. Buf
// belongs to the core meanwhile: a write's data must not change, a read's is not
// there yet.
type Request struct {
	Op     Op
	Flags  Flags
	Volume Handle
	Offset uint64 // bytes in the volume
	Length uint64 // bytes of the range; 0 for a flush
	Buf    Buffer // Length bytes for read, write and compare, twice that for compare-and-write; else empty

	// Done is called exactly once per Submit, on the thread and never from within
	// Submit. It may submit again, this request included.
	Done func(*Request)
	User any // the caller's; not touched
	// Arrived is when the command came in that this request is for, on Thread.Now's
	// clock, for the latency of the plugin's own stage; 0: do not count.
	Arrived uint64

	// Set before Done.
	Status Status
	Info   uint64 // byte of the volume, see Status; else 0
	Times  Times

	state  state
	tag    uint32
	serial uint64 // tells two flights of one Request apart
	next   *Request

	// Of an abort, which is a Request of the thread's own.
	target       *Request
	targetSerial uint64
}

// Times tell where a request spent its time. All are 0 if it never reached the core.
type Times struct {
	Taken uint64 // ring.Now clock: the core took it from the ring
	Done  uint64 // ring.Now clock: the core completed it
	Disk  uint64 // ns spent at disks
}

type state uint8

const (
	idle     state = iota // the caller's
	waiting               // for a free tag
	inFlight              // at the core
	ended                 // has its status, Done is due
)

// fifo is a queue of requests, linked through them. A request is in one at most.
type fifo struct{ head, tail *Request }

func (f *fifo) empty() bool { return f.head == nil }

func (f *fifo) push(r *Request) {
	if f.head == nil {
		f.head = r
	} else {
		f.tail.next = r
	}
	f.tail = r
}

func (f *fifo) pushFront(r *Request) {
	if f.head == nil {
		f.tail = r
	}
	r.next, f.head = f.head, r
}

func (f *fifo) pop() *Request {
	r := f.head
	f.head, r.next = r.next, nil
	return r
}

// remove takes r out, which must be in f. It walks: only aborts need it.
func (f *fifo) remove(r *Request) {
	var before *Request
	for x := f.head; x != r; x = x.next {
		before = x
	}
	if before == nil {
		f.pop()
		return
	}
	before.next, r.next = r.next, nil
	if f.tail == r {
		f.tail = before
	}
}
