package scsi

// ModePage is the code of a mode page. SPC-4 7.5.1
type ModePage uint8

// The pages of a disk.
const (
	ModeRecovery      ModePage = 0x01 // read-write error recovery. SBC-3 6.5.7
	ModeDisconnect    ModePage = 0x02 // SPC-4 7.5.7
	ModeCaching       ModePage = 0x08 // SBC-3 6.5.5
	ModeControl       ModePage = 0x0a // SPC-4 7.5.8
	ModeExceptions    ModePage = 0x1c // informational exceptions control. SBC-3 6.5.6
	ModeAllPages      ModePage = 0x3f
	ModeAllSubpages   uint8    = 0xff
	modePageHeader             = 2
	ModeBlockBytes             = 8 // of a short block descriptor
	ModeLongBlockSize          = 16
)

// PageControl says which values MODE SENSE is to return. SPC-4 6.14.1
type PageControl uint8

// The values.
const (
	CurrentValues    PageControl = 0
	ChangeableValues PageControl = 1
	DefaultValues    PageControl = 2
	SavedValues      PageControl = 3
)

// ModeSense is a MODE SENSE command of either length. SPC-4 6.13 and 6.14
type ModeSense struct {
	Page       ModePage
	Subpage    uint8
	Control    PageControl
	NoBlocks   bool // DBD
	LongBlocks bool // LLBAA, of MODE SENSE (10)
}

// ParseModeSense decodes the CDB.
func ParseModeSense(cdb *[16]byte) ModeSense {
	return ModeSense{
		Page: ModePage(cdb[2] & 0x3f), Control: PageControl(cdb[2] >> 6), Subpage: cdb[3], NoBlocks: cdb[1]&0x08 != 0,
		LongBlocks: Opcode(cdb[0]) == ModeSense10 && cdb[1]&0x10 != 0,
	}
}

// ModeHeader is what stands before mode pages. SPC-4 7.5.4
type ModeHeader struct {
	WriteProtected bool
	DPOFUA         bool
	// Block descriptor, if Blocks: the number of blocks and their length in bytes. SBC-3 6.5.2
	HasBlock   bool
	Long       bool
	Blocks     uint64
	BlockBytes uint32
}

// Append appends header, block descriptor and pages, which is the data of MODE SENSE (6) or (10).
func (h *ModeHeader) Append(b []byte, ten bool, pages []byte) []byte {
	var block []byte
	if h.HasBlock && h.Long {
		block = be.AppendUint64(nil, h.Blocks)
		block = append(block, 0, 0, 0, 0)
		block = be.AppendUint32(block, h.BlockBytes)
	} else if h.HasBlock {
		block = be.AppendUint32(nil, uint32(min(h.Blocks, 0xffff_ffff)))
		block = be.AppendUint32(block, h.BlockBytes&0xff_ffff)
	}
	n := len(block) + len(pages)
	special := flag(h.WriteProtected, 0x80) | flag(h.DPOFUA, 0x10)
	if ten {
		b = be.AppendUint16(b, uint16(n+6))
		b = append(b, 0, special, flag(h.HasBlock && h.Long, 1), 0)
		b = be.AppendUint16(b, uint16(len(block)))
	} else {
		b = append(b, byte(n+3), 0, special, byte(len(block)))
	}
	return append(append(b, block...), pages...)
}

// ParseModeHeader decodes header and block descriptor of a parameter list of MODE SELECT or of the
// data of MODE SENSE, and says where the pages begin.
func ParseModeHeader(b []byte, ten bool) (h ModeHeader, n int, err error) {
	size, blocks := 4, 0
	if ten {
		size = 8
	}
	if err := need("mode parameter header", b, size); err != nil {
		return h, 0, err
	}
	special := b[2]
	if ten {
		special, h.Long, blocks = b[3], b[4]&1 != 0, int(be.Uint16(b[6:]))
	} else {
		blocks = int(b[3])
	}
	h.WriteProtected, h.DPOFUA = special&0x80 != 0, special&0x10 != 0
	n = size + blocks
	if err := need("block descriptors", b, n); err != nil {
		return h, 0, err
	}
	switch d := b[size:n]; {
	case h.Long && blocks >= ModeLongBlockSize:
		h.HasBlock, h.Blocks, h.BlockBytes = true, be.Uint64(d), be.Uint32(d[12:])
	case !h.Long && blocks >= ModeBlockBytes:
		h.HasBlock, h.Blocks, h.BlockBytes = true, uint64(be.Uint32(d)), be.Uint32(d[4:])&0xff_ffff
	}
	return h, n, nil
}

// Mode is the mode page at the beginning of a list.
type Mode struct {
	Page    ModePage
	Subpage uint8
	Content []byte // behind the page's header
}

// Append appends the page. Only pages without subpages are known.
func (m Mode) Append(b []byte) []byte {
	b = append(b, byte(m.Page), byte(len(m.Content)))
	return append(b, m.Content...)
}

// ParseMode decodes the page at the beginning of b, and says how long it is.
func ParseMode(b []byte) (Mode, int, error) {
	if err := need("mode page", b, modePageHeader); err != nil {
		return Mode{}, 0, err
	}
	m := Mode{Page: ModePage(b[0] & 0x3f)}
	start, n := modePageHeader, int(b[1])
	if b[0]&0x40 != 0 { // the format with subpages
		if err := need("mode page", b, 4); err != nil {
			return Mode{}, 0, err
		}
		m.Subpage, start, n = b[1], 4, int(be.Uint16(b[2:]))
	}
	if err := need("mode page", b, start+n); err != nil {
		return Mode{}, 0, err
	}
	m.Content = b[start : start+n : start+n]
	return m, start + n, nil
}
