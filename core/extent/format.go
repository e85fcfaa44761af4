package extent

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/google/uuid"
)

// The layout of the data file; docs/format/extent-store.md draws it. A slot is 4 KiB, numbered from the start of the file.
const (
	formatVersion = 2 // 1 had neither set nor regions in header pages, and no clean records

	superblockSlots = 2 // the two copies of the superblock
	logStart        = 16
	pageHeaderSize  = 64
	pageEntries     = (BlockSize - pageHeaderSize) / 8
	headerPage      = 0xffff // the page number of an extent's header page

	batchHeaderSize  = 64
	recordHeaderSize = 16
	recordWrite      = 1
	recordZero       = 2
	recordClean      = 3

	slotZero = 0          // reads as zeros
	slotLost = ^uint32(0) // was mapped, but the map page that said where is unreadable
	maxSlots = slotLost - 1

	refHeadroom = 1 << 16 // extents that may be created between two checkpoints
)

var (
	superblockMagic = [8]byte{'M', 'O', 'O', 'R', 'S', 'T', 'O', 'R'}
	pageMagic       = uint32(0x3147504d) // "MPG1"
	batchMagic      = uint32(0x3147424c) // "LBG1"

	zeroSum    = make([]byte, 4)
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	le         = binary.LittleEndian
)

// superblock is the root of a store.
type superblock struct {
	sequence     uint64
	cluster      uuid.UUID
	store        uuid.UUID
	salt         uint64 // in every page and batch; no host ever sees it, so user data cannot pose as either
	incarnation  uint64
	extentSize   uint64 // bytes
	capacity     uint64 // bytes
	segmentSlots uint32
	firstSlot    uint32 // of the first segment
	logSlots     uint32 // of each half
	replayHalf   uint32 // where the replay begins
	replaySeq    uint64 // the batch it begins with; every earlier one is in the map pages
	refLimit     uint32 // no extent ref at or above this was ever used
}

const (
	superblockCRC = 12
	pageCRC       = 4
)

// checksum is the CRC32C of p with the 4 bytes at off taken as zero.
func checksum(p []byte, off int) uint32 {
	c := crc32.Update(0, castagnoli, p[:off])
	c = crc32.Update(c, castagnoli, zeroSum)
	return crc32.Update(c, castagnoli, p[off+4:])
}

func (s *superblock) encode(p []byte) {
	clear(p)
	copy(p, superblockMagic[:])
	le.PutUint32(p[8:], formatVersion)
	le.PutUint64(p[16:], s.sequence)
	copy(p[24:], s.cluster[:])
	copy(p[40:], s.store[:])
	le.PutUint64(p[56:], s.salt)
	le.PutUint64(p[64:], s.incarnation)
	le.PutUint64(p[72:], s.extentSize)
	le.PutUint64(p[80:], s.capacity)
	le.PutUint32(p[88:], s.segmentSlots)
	le.PutUint32(p[92:], s.firstSlot)
	le.PutUint32(p[96:], s.logSlots)
	le.PutUint32(p[100:], s.replayHalf)
	le.PutUint64(p[104:], s.replaySeq)
	le.PutUint32(p[112:], s.refLimit)
	le.PutUint32(p[superblockCRC:], checksum(p, superblockCRC))
}

func decodeSuperblock(p []byte) (s superblock, err error) {
	if [8]byte(p) != superblockMagic || le.Uint32(p[superblockCRC:]) != checksum(p, superblockCRC) {
		return s, fmt.Errorf("superblock: %w", ErrCorrupt)
	}
	if v := le.Uint32(p[8:]); v == 0 || v > formatVersion {
		return s, fmt.Errorf("store has format version %d, this program knows %d: %w", v, formatVersion, ErrInvalid)
	}
	s = superblock{
		sequence: le.Uint64(p[16:]), cluster: uuid.UUID(p[24:40]), store: uuid.UUID(p[40:56]), salt: le.Uint64(p[56:]),
		incarnation: le.Uint64(p[64:]), extentSize: le.Uint64(p[72:]), capacity: le.Uint64(p[80:]),
		segmentSlots: le.Uint32(p[88:]), firstSlot: le.Uint32(p[92:]), logSlots: le.Uint32(p[96:]),
		replayHalf: le.Uint32(p[100:]), replaySeq: le.Uint64(p[104:]), refLimit: le.Uint32(p[112:]),
	}
	if s.replayHalf > 1 {
		return s, fmt.Errorf("superblock: half %d of the log: %w", s.replayHalf, ErrCorrupt)
	}
	return s, s.geometry().validate()
}

func (s *superblock) geometry() geometry {
	g := geometry{
		blocks: uint32(s.extentSize / BlockSize), segment: s.segmentSlots, first: s.firstSlot, logSlots: s.logSlots,
	}
	g.pages = (g.blocks + pageEntries - 1) / pageEntries
	g.area = 2 * (1 + g.pages)
	return g
}

// geometry is what never changes in a store. Everything counts slots or blocks.
type geometry struct {
	blocks   uint32 // per extent
	pages    uint32 // map pages per extent
	area     uint32 // slots of a map area: header and pages, twice
	segment  uint32
	first    uint32 // first slot of the first segment
	logSlots uint32 // per half
}

func (g geometry) validate() error {
	if g.blocks < 16 || g.blocks&(g.blocks-1) != 0 || g.blocks > headerPage*pageEntries {
		return fmt.Errorf("extent size of %d blocks: %w", g.blocks, ErrInvalid)
	}
	if g.segment < g.area || g.logSlots < 2*maxBatchPages || g.first < logStart+2*g.logSlots {
		return fmt.Errorf("segment of %d slots, log of %d: %w", g.segment, g.logSlots, ErrInvalid)
	}
	return nil
}

// logOffset is the byte offset of page pos of half.
func (g geometry) logOffset(half, pos uint32) int64 {
	return (int64(logStart) + int64(half)*int64(g.logSlots) + int64(pos)) * BlockSize
}

// pageSlot is the slot of copy 0 or 1 of a map page in an area; page -1 is the header page.
func (g geometry) pageSlot(area uint32, half uint32, page int) uint32 {
	return area + half*(1+g.pages) + uint32(page+1)
}

// entry maps one block. The checksum is seeded with the block's identity.
type entry struct{ slot, crc uint32 }

// mapPage is the header of a map page or header page.
type mapPage struct {
	salt   uint64
	id     ID
	ref    uint32
	gen    Generation
	lsn    uint64 // every record of the extent in batches up to this one is in the page
	number uint16
	area   uint32
}

// seal writes the header of page p, whose body is in place, and its checksum.
func (h *mapPage) seal(p []byte) {
	clear(p[:pageHeaderSize])
	le.PutUint32(p, pageMagic)
	le.PutUint64(p[8:], h.salt)
	copy(p[16:], h.id.Volume[:])
	le.PutUint32(p[32:], h.id.Index)
	le.PutUint32(p[36:], h.ref)
	le.PutUint64(p[40:], uint64(h.gen))
	le.PutUint64(p[48:], h.lsn)
	le.PutUint16(p[56:], h.number)
	le.PutUint16(p[58:], formatVersion)
	le.PutUint32(p[60:], h.area)
	le.PutUint32(p[pageCRC:], checksum(p, pageCRC))
}

// parseMapPage returns the header of p, or false when p is not an intact page of this store.
func parseMapPage(p []byte, salt uint64) (h mapPage, ok bool) {
	if le.Uint32(p) != pageMagic || le.Uint64(p[8:]) != salt || le.Uint32(p[pageCRC:]) != checksum(p, pageCRC) {
		return h, false
	}
	return mapPage{
		salt: salt, id: ID{Volume: uuid.UUID(p[16:32]), Index: le.Uint32(p[32:])}, ref: le.Uint32(p[36:]),
		gen: Generation(le.Uint64(p[40:])), lsn: le.Uint64(p[48:]), number: le.Uint16(p[56:]), area: le.Uint32(p[60:]),
	}, le.Uint16(p[58:]) >= 1 && le.Uint16(p[58:]) <= formatVersion
}

func encodeEntries(p []byte, entries []entry) {
	body := p[pageHeaderSize:]
	for i, e := range entries {
		le.PutUint32(body[8*i:], e.slot)
		le.PutUint32(body[8*i+4:], e.crc)
	}
	clear(body[8*len(entries):])
}

func decodeEntries(p []byte, entries []entry) {
	body := p[pageHeaderSize:]
	for i := range entries {
		entries[i] = entry{slot: le.Uint32(body[8*i:]), crc: le.Uint32(body[8*i+4:])}
	}
}

// batchHeader begins a batch in the log.
type batchHeader struct {
	salt        uint64
	incarnation uint64
	seq         uint64
	durable     uint64 // every batch up to this one was on the medium when this one was formed
	bytes       uint32 // header and records
}

func (h *batchHeader) pages() uint32 { return (h.bytes + BlockSize - 1) / BlockSize }

// seal writes the header into p, which holds the records and is a whole number of pages, and its checksum.
func (h *batchHeader) seal(p []byte) {
	clear(p[:batchHeaderSize])
	clear(p[h.bytes:])
	le.PutUint32(p, batchMagic)
	le.PutUint64(p[8:], h.salt)
	le.PutUint64(p[16:], h.incarnation)
	le.PutUint64(p[24:], h.seq)
	le.PutUint64(p[32:], h.durable)
	le.PutUint32(p[40:], h.bytes)
	le.PutUint32(p[pageCRC:], checksum(p, pageCRC))
}

// parseBatch returns the header of the batch at the start of p and its records, or false when there is no intact one.
func parseBatch(p []byte, salt uint64) (h batchHeader, records []byte, ok bool) {
	if len(p) < BlockSize || le.Uint32(p) != batchMagic || le.Uint64(p[8:]) != salt {
		return h, nil, false
	}
	h = batchHeader{
		salt: salt, incarnation: le.Uint64(p[16:]), seq: le.Uint64(p[24:]), durable: le.Uint64(p[32:]), bytes: le.Uint32(p[40:]),
	}
	if h.bytes < batchHeaderSize || h.bytes > maxBatchPages*BlockSize || int(h.pages())*BlockSize > len(p) {
		return h, nil, false
	}
	p = p[:h.pages()*BlockSize]
	return h, p[batchHeaderSize:h.bytes], le.Uint32(p[pageCRC:]) == checksum(p, pageCRC)
}

// logRecord is one change of one extent's map.
type logRecord struct {
	kind  uint8
	ref   uint32
	block uint32
	count uint32 // blocks
	slot  uint32 // recordWrite: of the first block; the others follow it
	crcs  []byte // recordWrite: 4 bytes per block
}

func putRecord(p []byte, kind uint8, ref, block, count, slot uint32) {
	le.PutUint32(p, uint32(kind)<<24|count)
	le.PutUint32(p[4:], ref)
	le.PutUint32(p[8:], block)
	le.PutUint32(p[12:], slot)
}

// nextRecord cuts the first record off p; false means that p is malformed.
func nextRecord(p []byte) (r logRecord, rest []byte, ok bool) {
	if len(p) < recordHeaderSize {
		return r, nil, false
	}
	w := le.Uint32(p)
	r = logRecord{kind: uint8(w >> 24), count: w & (1<<24 - 1), ref: le.Uint32(p[4:]), block: le.Uint32(p[8:]), slot: le.Uint32(p[12:])}
	p = p[recordHeaderSize:]
	switch r.kind {
	case recordZero, recordClean:
		return r, p, true
	case recordWrite:
		if uint64(len(p)) < 4*uint64(r.count) {
			return r, nil, false
		}
		r.crcs = p[:4*r.count]
		return r, p[4*r.count:], true
	default:
		return r, nil, false
	}
}

// identitySeed is the part of a block checksum's seed that names the extent.
func identitySeed(id ID) uint32 {
	var b [20]byte
	copy(b[:], id.Volume[:])
	le.PutUint32(b[16:], id.Index)
	return crc32.Checksum(b[:], castagnoli)
}

// blockCRC is the checksum of one block's data. For given data, different blocks of an extent always have different ones.
func blockCRC(seed, block uint32, data []byte) uint32 {
	return crc32.Update(seed^block*0x9e3779b1, castagnoli, data)
}
