package peer

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/sdk/ring"
)

// version is of the protocol; an end that hears another one ends the connection.
const version = 2

// A frame is a header and a payload. Integers are little-endian.
//
//	0   type     1
//	1   flags    1
//	2   status   2  of a reply
//	4   length   4  of the payload
//	8   tag      4  of a request; the reply has the same
//	12  store    4  its number on this connection
//	16  volume  16
//	32  index    4  of the extent in the volume
//	36  block    4  first one; in a reply the bad one
//	40  blocks   4
//	44  zero     4
//	48  generation 8
//	56  zero     8
//
// A command has its handle's index and generation in store and index, the range in bytes in volume, the operation in block; an
// answer has the status and info (in generation) of a ring's completion.
const headerBytes = 64

// Bounds of what a frame may ask for.
const (
	maxReadBlocks = 1024             // 4 MiB
	maxControl    = 16 << 10         // payload of a frame without data
	maxRegions    = 4096             // of one extent
	maxStores     = 1024             // that a node serves at a time
	storeEntry    = 16 + 8 + 4 + 4   // of a stores frame: identity, incarnation, number, zero
	memberEntry   = 16 + 8           // of a seal: store and incarnation
	dataBytes     = extent.BlockSize // the grain of data
)

// kind is the type of a frame.
type kind uint8

// The types.
const (
	kindHello  kind = 1 + iota // first of each end: block is the version
	kindStores                 // the server's: all stores that it serves from now on
	kindReply
	kindRead
	kindWrite
	kindZero
	kindClean
	kindFlush
	kindCreate
	kindSeal
	kindDelete
	kindMapped     // which regions have data
	kindDeleteFrom // some of the extents of a volume from index on; block of the reply: 1 if there are more
	kindGrant      // a handle for a host's commands for a volume
	kindRevoke     // it is not used any more; no reply
	kindCommand    // of a host
	kindAnswer     // to a command
	kindRefresh    // of what Meta says of a volume's reservation
	kindEnd
)

const (
	flagDurable = 1
	flagTold    = 1 << 7 // of a command; beside a ring's flags
	ringFlags   = uint8(ring.FlagFUA | ring.FlagDeallocate)
)

// header is the fixed part of a frame.
type header struct {
	kind   kind
	flags  uint8
	status status
	length uint32
	tag    uint32
	store  uint32
	id     extent.ID
	block  uint32
	blocks uint32
	gen    extent.Generation
}

var (
	le       = binary.LittleEndian
	errFrame = errors.New("the frame is malformed")
)

func malformed(format string, a ...any) error {
	return fmt.Errorf("%w: %s", errFrame, fmt.Sprintf(format, a...))
}

func (h *header) append(b []byte) []byte {
	b = append(b, byte(h.kind), h.flags)
	b = le.AppendUint16(b, uint16(h.status))
	b = le.AppendUint32(b, h.length)
	b = le.AppendUint32(b, h.tag)
	b = le.AppendUint32(b, h.store)
	b = append(b, h.id.Volume[:]...)
	b = le.AppendUint32(b, h.id.Index)
	b = le.AppendUint32(b, h.block)
	b = le.AppendUint32(b, h.blocks)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint64(b, uint64(h.gen))
	return le.AppendUint64(b, 0)
}

// parse reads a header of headerBytes and checks everything in it that needs no table.
func (h *header) parse(b []byte) error {
	*h = header{
		kind: kind(b[0]), flags: b[1], status: status(le.Uint16(b[2:])), length: le.Uint32(b[4:]), tag: le.Uint32(b[8:]), store: le.Uint32(b[12:]),
		id: extent.ID{Volume: uuid.UUID(b[16:32]), Index: le.Uint32(b[32:])}, block: le.Uint32(b[36:]), blocks: le.Uint32(b[40:]), gen: extent.Generation(le.Uint64(b[48:])),
	}
	if le.Uint32(b[44:]) != 0 || le.Uint64(b[56:]) != 0 {
		return malformed("reserved bytes are not zero")
	}
	allowed, statuses := uint8(flagDurable), status(1)
	switch h.kind {
	case kindCommand:
		allowed = ringFlags | flagTold
	case kindReply:
		statuses = statusEnd
	case kindAnswer:
		if statuses = status(ring.StatusWriteLost) + 1; h.status == status(StatusNotDriven) {
			statuses = h.status + 1
		}
	default:
	}
	if h.flags&^allowed != 0 {
		return malformed("flags %#x", h.flags)
	}
	if h.status >= statuses {
		return malformed("status %d in a frame of type %d", h.status, h.kind)
	}
	longest := uint32(0)
	switch h.kind {
	case kindHello, kindFlush, kindZero, kindClean, kindDelete, kindMapped, kindDeleteFrom, kindRevoke, kindRefresh:
	case kindGrant:
		longest = wishBytes + maxHostName
	case kindCommand:
		longest = maxCommand
	case kindAnswer:
		longest = maxCommand
	case kindRead:
		if h.blocks == 0 || h.blocks > maxReadBlocks {
			return malformed("a read of %d blocks", h.blocks)
		}
	case kindWrite:
		if h.blocks == 0 || h.blocks > extent.MaxWriteBlocks || h.length != h.blocks*dataBytes {
			return malformed("a write of %d blocks with %d bytes", h.blocks, h.length)
		}
		return nil
	case kindStores, kindCreate, kindSeal:
		longest = max(maxControl, maxStores*storeEntry)
	case kindReply:
		longest = maxReadBlocks * dataBytes
	default:
		return malformed("type %d", h.kind)
	}
	if h.length > longest {
		return malformed("%d bytes in a frame of type %d", h.length, h.kind)
	}
	return nil
}

// announced is a store that a node serves.
type announced struct {
	id     uuid.UUID
	life   uint64
	number uint32
}

func appendStores(b []byte, all []announced) []byte {
	for _, s := range all {
		b = append(b, s.id[:]...)
		b = le.AppendUint64(b, s.life)
		b = le.AppendUint32(b, s.number)
		b = le.AppendUint32(b, 0)
	}
	return b
}

func parseStores(b []byte) ([]announced, error) {
	if len(b)%storeEntry != 0 || len(b) > maxStores*storeEntry {
		return nil, malformed("%d bytes of stores", len(b))
	}
	var out []announced
	for ; len(b) > 0; b = b[storeEntry:] {
		if le.Uint32(b[28:]) != 0 {
			return nil, malformed("reserved bytes are not zero")
		}
		out = append(out, announced{id: uuid.UUID(b[:16]), life: le.Uint64(b[16:]), number: le.Uint32(b[24:])})
	}
	return out, nil
}

// A seal is: generation (in the header), members (count 4, entries), whether the absent are
// named (4), and if so their count (4), identities, and what they miss.
func appendSeal(b []byte, w *extent.Seal) []byte {
	b = appendMembers(b, w.Set)
	if w.Absence == nil {
		return le.AppendUint32(b, 0)
	}
	b = le.AppendUint32(b, 1)
	b = appendIDs(b, w.Absence.Stores)
	return appendRegions(b, w.Absence.Behind)
}

func parseSeal(b []byte, g extent.Generation) (extent.Seal, error) {
	r := reader{b: b}
	w := extent.Seal{Gen: g, Set: r.members()}
	switch r.uint32() {
	case 0:
	case 1:
		w.Absence = &extent.Absence{Stores: r.ids(), Behind: r.regions()}
	default:
		r.bad = true
	}
	return w, r.end("seal")
}

func appendSealed(b []byte, s *extent.Sealed) []byte {
	b = le.AppendUint64(b, uint64(s.Gen))
	b = appendMembers(b, s.Set)
	b = appendIDs(b, s.Absent)
	b = appendRegions(b, s.Dirty)
	return appendRegions(b, s.Behind)
}

func parseSealed(b []byte) (extent.Sealed, error) {
	r := reader{b: b}
	s := extent.Sealed{Gen: extent.Generation(r.uint64()), Set: r.members(), Absent: r.ids(), Dirty: r.regions(), Behind: r.regions()}
	return s, r.end("sealed state")
}

func parseMapped(b []byte) (extent.Regions, error) {
	r := reader{b: b}
	out := r.regions()
	return out, r.end("map")
}

func appendMembers(b []byte, all []extent.Member) []byte {
	b = le.AppendUint32(b, uint32(len(all)))
	for _, m := range all {
		b = append(b, m.Store[:]...)
		b = le.AppendUint64(b, m.Incarnation)
	}
	return b
}

func appendIDs(b []byte, all []uuid.UUID) []byte {
	b = le.AppendUint32(b, uint32(len(all)))
	for _, id := range all {
		b = append(b, id[:]...)
	}
	return b
}

func appendRegions(b []byte, all extent.Regions) []byte {
	b = le.AppendUint32(b, uint32(len(all)))
	for _, w := range all {
		b = le.AppendUint64(b, w)
	}
	return b
}

// reader reads a payload and remembers if it was too short, or a count too high.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad = true
		return make([]byte, n)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) uint32() uint32 { return le.Uint32(r.take(4)) }
func (r *reader) uint64() uint64 { return le.Uint64(r.take(8)) }

// count reads how many entries of size bytes follow.
func (r *reader) count(limit, size int) int {
	n := int(r.uint32())
	if n > limit || n*size > len(r.b) {
		r.bad = true
		return 0
	}
	return n
}

func (r *reader) members() (out []extent.Member) {
	for range r.count(extent.MaxMembers, memberEntry) {
		b := r.take(memberEntry)
		out = append(out, extent.Member{Store: uuid.UUID(b[:16]), Incarnation: le.Uint64(b[16:])})
	}
	return out
}

func (r *reader) ids() (out []uuid.UUID) {
	for range r.count(extent.MaxMembers, 16) {
		out = append(out, uuid.UUID(r.take(16)))
	}
	return out
}

func (r *reader) regions() (out extent.Regions) {
	for range r.count(maxRegions/64, 8) {
		out = append(out, r.uint64())
	}
	return out
}

func (r *reader) end(what string) error {
	if r.bad || len(r.b) > 0 {
		return malformed("a %s of the wrong length", what)
	}
	return nil
}

// status is how a request ended.
type status uint16

// The statuses. An unknown store is one that the server does not serve any more.
const (
	statusOK status = iota
	statusMissing
	statusFenced
	statusCorrupt
	statusNoSpace
	statusFailed
	statusInvalid
	statusClosed
	statusNoStore
	statusNotDriven
	statusNotNow // it may be possible later
	statusEnd
)

var statusErrors = [statusEnd]error{
	statusMissing: extent.ErrMissing, statusFenced: extent.ErrFenced, statusCorrupt: extent.ErrCorrupt, statusNoSpace: extent.ErrNoSpace,
	statusFailed: extent.ErrStoreFailed, statusInvalid: extent.ErrInvalid, statusClosed: extent.ErrClosed, statusNoStore: ErrLost,
	statusNotDriven: ErrNotDriven, statusNotNow: errNotNow,
}

var errNotNow = errors.New("the other node cannot do it now")

func generationOf(info uint64) extent.Generation { return extent.Generation(info) }

// statusOf says on the wire what a store said.
func statusOf(err error) status {
	if err == nil {
		return statusOK
	}
	for s, e := range statusErrors {
		if e != nil && errors.Is(err, e) {
			return status(s)
		}
	}
	return statusFailed
}
