package ring

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// ABIVersion is the version of the memory layout and of the message that passes
// the descriptors. It is independent of the control protocol's.
const ABIVersion = 1

// Limits of a ring pair. The pool is a whole number of pages of PageBytes.
const (
	MinEntries   = 2
	MaxEntries   = 1 << 16
	PageBytes    = 4096
	MaxPoolBytes = 1 << 40
)

// knownFeatures are the feature bits that this version understands: none yet.
const knownFeatures = 0

// Layout of the header page that precedes the entries of both rings. Words with
// different writers or rhythms keep 128 bytes apart: two cache lines, since
// processors fetch them in pairs.
const (
	headerBytes = PageBytes

	// Completion ring: identity, written by the core before the plugin sees it.
	offMagic       = 0
	offVersion     = 8
	offHeaderBytes = 12
	offEntryBytes  = 16
	offEntries     = 20
	offFeatures    = 24
	offIncarnation = 32
	offPoolBytes   = 40
	offThread      = 48
	identityBytes  = 56

	// Both rings: the words of the side that writes this memory.
	offTail     = 128 // cursor after the last entry that it published
	offHead     = 256 // cursor after the last entry that it took from the other ring
	offSleep    = 384 // odd: it sleeps or is about to; counts up
	offCounters = 512 // see counterWords
)

// magic spells MOORRING in memory.
const magic = 0x474e4952524f4f4d

// identity is the constant part of the completion ring's header.
type identity struct {
	entries     uint32
	poolBytes   uint64
	incarnation uint64
	thread      uint32
}

func (id identity) put(b []byte) {
	le := binary.LittleEndian
	le.PutUint64(b[offMagic:], magic)
	le.PutUint32(b[offVersion:], ABIVersion)
	le.PutUint32(b[offHeaderBytes:], headerBytes)
	le.PutUint32(b[offEntryBytes:], entryBytes)
	le.PutUint32(b[offEntries:], id.entries)
	le.PutUint64(b[offFeatures:], knownFeatures)
	le.PutUint64(b[offIncarnation:], id.incarnation)
	le.PutUint64(b[offPoolBytes:], id.poolBytes)
	le.PutUint32(b[offThread:], id.thread)
}

// parseIdentity reads the header of a completion ring and refuses what this
// version does not understand in full.
func parseIdentity(b []byte) (identity, error) {
	if len(b) < identityBytes {
		return identity{}, fmt.Errorf("header has %d bytes, need %d", len(b), identityBytes)
	}
	le := binary.LittleEndian
	if m := le.Uint64(b[offMagic:]); m != magic {
		return identity{}, fmt.Errorf("magic is %#x, want %#x: not a ring", m, uint64(magic))
	}
	if v := le.Uint32(b[offVersion:]); v != ABIVersion {
		return identity{}, fmt.Errorf("core speaks ring ABI %d, this plugin %d: rebuild one of them", v, ABIVersion)
	}
	if f := le.Uint64(b[offFeatures:]); f&^knownFeatures != 0 {
		return identity{}, fmt.Errorf("core uses features %#x of the ring that this plugin does not know", f&^knownFeatures)
	}
	if h, e := le.Uint32(b[offHeaderBytes:]), le.Uint32(b[offEntryBytes:]); h != headerBytes || e != entryBytes {
		return identity{}, fmt.Errorf("header of %d bytes and entries of %d, want %d and %d", h, e, headerBytes, entryBytes)
	}
	id := identity{
		entries: le.Uint32(b[offEntries:]), poolBytes: le.Uint64(b[offPoolBytes:]),
		incarnation: le.Uint64(b[offIncarnation:]), thread: le.Uint32(b[offThread:]),
	}
	return id, id.check()
}

func (id identity) check() error {
	if id.entries < MinEntries || id.entries > MaxEntries || id.entries&(id.entries-1) != 0 {
		return fmt.Errorf("ring of %d entries, want a power of two from %d to %d", id.entries, MinEntries, MaxEntries)
	}
	if id.poolBytes < PageBytes || id.poolBytes > MaxPoolBytes || id.poolBytes%PageBytes != 0 {
		return fmt.Errorf("pool of %d bytes, want a multiple of %d up to %d", id.poolBytes, PageBytes, int64(MaxPoolBytes))
	}
	return nil
}

func (id identity) ringBytes() int64 { return headerBytes + int64(id.entries)*entryBytes }

// Counters are what one side counted since the rings were made. The core's are in
// memory that the plugin cannot write; the plugin's are hearsay.
type Counters struct {
	Entries    uint64 // core: commands taken; plugin: commands submitted
	Doorbells  uint64 // rung for the other side
	Full       uint64 // core: found the ring full; plugin: a submission found no free tag
	Sleeps     uint64 // times the side announced sleep
	ReadBytes  uint64 // pool bytes named for the core to fill
	WriteBytes uint64 // pool bytes named for the core to read
}

const counterWords = 6

// count adds what e moves.
func (c *Counters) count(e *Entry) {
	c.Entries++
	if e.Op == OpRead {
		c.ReadBytes += uint64(e.PoolLength)
	} else {
		c.WriteBytes += uint64(e.PoolLength)
	}
}

func (c *Counters) words() *[counterWords]uint64 {
	return (*[counterWords]uint64)(unsafe.Pointer(c))
}

// ring is one mapped ring: header and slots.
type ring struct {
	mem  []byte
	mask uint64 // entries - 1
}

// word is the shared 64-bit word at off of the header.
func (r ring) word(off int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&r.mem[off]))
}

// show stores a word that the other side must see before anything is loaded after
// it: a tail before the other's announcement of sleep, an announcement before the
// other's tail. Store promises that too, but under the race detector it is a plain
// release store for memory that is not Go's, and a wake could be lost; an exchange is a full
// fence in both, at the same price.
func (r ring) show(off int, v uint64) { r.word(off).Swap(v) }

// slot is the memory of the entry at cursor.
func (r ring) slot(cursor uint64) unsafe.Pointer {
	return unsafe.Pointer(&r.mem[headerBytes+(cursor&r.mask)*entryBytes])
}

func (r ring) storeCounters(c *Counters) {
	for i, v := range c.words() {
		r.word(offCounters + 8*i).Store(v)
	}
}

func (r ring) loadCounters() (c Counters) {
	for i := range c.words() {
		c.words()[i] = r.word(offCounters + 8*i).Load()
	}
	return c
}

// littleEndian says whether this machine can map the entries as they are.
func littleEndian() bool { return binary.NativeEndian.Uint16([]byte{1, 0}) == 1 }
