package scsi

// Service actions of RECEIVE COPY RESULTS. SPC-4 6.17 to 6.23
const (
	CopyStatusLID1          uint8 = 0
	CopyOperatingParameters uint8 = 3
	CopyFailedSegment       uint8 = 4
)

// Codes of descriptors of EXTENDED COPY (LID1). SPC-4 6.4.5 and 6.4.6
const (
	CSCDIdentification uint8 = 0xe4
	SegmentBlocks      uint8 = 0x02 // block device to block device
)

// CopyHeader begins the parameter list of EXTENDED COPY (LID1). SPC-4 6.4.3
type CopyHeader struct {
	ListID       uint8
	Usage        uint8 // LIST ID USAGE
	CSCDBytes    int
	SegmentBytes int
	InlineBytes  int
}

// Sizes of the parts of the list in bytes.
const (
	CopyHeaderSize = 16
	CSCDSize       = 32
	SegmentSize    = 28 // of SegmentBlocks
)

// ParseCopyHeader decodes the header.
func ParseCopyHeader(b []byte) (CopyHeader, error) {
	if err := need("EXTENDED COPY parameter list", b, CopyHeaderSize); err != nil {
		return CopyHeader{}, err
	}
	return CopyHeader{
		ListID: b[0], Usage: b[1] >> 3 & 3, CSCDBytes: int(be.Uint16(b[2:])), SegmentBytes: int(be.Uint32(b[8:])), InlineBytes: int(be.Uint32(b[12:])),
	}, nil
}

// Append appends the header.
func (h CopyHeader) Append(b []byte) []byte {
	b, p := grow(b, CopyHeaderSize)
	p[0], p[1] = h.ListID, h.Usage&3<<3
	be.PutUint16(p[2:], uint16(h.CSCDBytes))
	be.PutUint32(p[8:], uint32(h.SegmentBytes))
	be.PutUint32(p[12:], uint32(h.InlineBytes))
	return b
}

// CSCD is an identification descriptor: who takes part in a copy. SPC-4 6.4.5.2
type CSCD struct {
	Code       uint8 // CSCDIdentification, or what is not known; then nothing else counts
	Designator Designator
	BlockBytes uint32
}

// ParseCSCD decodes the descriptor in the first CSCDSize bytes of b.
func ParseCSCD(b []byte) (CSCD, error) {
	if err := need("CSCD descriptor", b, CSCDSize); err != nil {
		return CSCD{}, err
	}
	c := CSCD{Code: b[0]}
	if c.Code != CSCDIdentification {
		return c, nil
	}
	n := min(int(b[7]), 20)
	c.Designator = Designator{Association: Association(b[5] & 0x30), Type: DesignatorType(b[5] & 0xf), ID: b[8 : 8+n : 8+n]}
	c.BlockBytes = uint32(b[29])<<16 | uint32(b[30])<<8 | uint32(b[31])
	return c, nil
}

// Append appends the descriptor. The designator's ID has at most 20 bytes.
func (c CSCD) Append(b []byte) []byte {
	b, p := grow(b, CSCDSize)
	p[0] = c.Code
	d := c.Designator.Append(nil)
	copy(p[4:28], d)
	p[29], p[30], p[31] = byte(c.BlockBytes>>16), byte(c.BlockBytes>>8), byte(c.BlockBytes)
	return b
}

// Segment is a segment descriptor that copies blocks. SPC-4 6.4.6.5
type Segment struct {
	Code        uint8 // SegmentBlocks, or what is not known; then nothing else counts
	Source      uint16
	Destination uint16
	Blocks      uint32 // of the source, or with ByDestination of the destination
	FromLBA     uint64
	ToLBA       uint64
	// ByDestination is the DC bit.
	ByDestination bool
}

// ParseSegment decodes the descriptor at the beginning of b, and says how long it is.
func ParseSegment(b []byte) (Segment, int, error) {
	if err := need("segment descriptor", b, 4); err != nil {
		return Segment{}, 0, err
	}
	s := Segment{Code: b[0]}
	n := 4 + int(be.Uint16(b[2:]))
	if s.Code != SegmentBlocks {
		return s, n, nil
	}
	if err := need("segment descriptor", b, SegmentSize); err != nil {
		return Segment{}, 0, err
	}
	s.ByDestination = b[1]&0x02 != 0
	s.Source, s.Destination = be.Uint16(b[4:]), be.Uint16(b[6:])
	s.Blocks = uint32(be.Uint16(b[10:]))
	s.FromLBA, s.ToLBA = be.Uint64(b[12:]), be.Uint64(b[20:])
	return s, n, nil
}

// Append appends the descriptor.
func (s Segment) Append(b []byte) []byte {
	b, p := grow(b, SegmentSize)
	p[0], p[1] = s.Code, flag(s.ByDestination, 0x02)
	be.PutUint16(p[2:], SegmentSize-4)
	be.PutUint16(p[4:], s.Source)
	be.PutUint16(p[6:], s.Destination)
	be.PutUint16(p[10:], uint16(s.Blocks))
	be.PutUint64(p[12:], s.FromLBA)
	be.PutUint64(p[20:], s.ToLBA)
	return b
}

// CopyLimits is what a copy manager takes. SPC-4 6.18
type CopyLimits struct {
	MaxCSCDs       uint16
	MaxSegments    uint16
	MaxListBytes   uint32 // of all descriptors together
	MaxSegment     uint32 // bytes that one segment copies
	MaxConcurrent  uint8
	GranularityLog uint8 // of data segments, as a power of two of bytes
}

// AppendOperatingParameters appends the data of RECEIVE COPY RESULTS, OPERATING PARAMETERS.
func (l CopyLimits) AppendOperatingParameters(b []byte) []byte {
	codes := []byte{SegmentBlocks, CSCDIdentification}
	b, p := grow(b, 44)
	be.PutUint32(p, uint32(40+len(codes)))
	p[4] = 0x01 // SNLID: a list identifier is not needed
	be.PutUint16(p[8:], l.MaxCSCDs)
	be.PutUint16(p[10:], l.MaxSegments)
	be.PutUint32(p[12:], l.MaxListBytes)
	be.PutUint32(p[16:], l.MaxSegment)
	be.PutUint16(p[34:], uint16(l.MaxConcurrent))
	p[36] = l.MaxConcurrent
	p[37] = l.GranularityLog
	p[43] = byte(len(codes))
	return append(b, codes...)
}

// CopyResult is how far a copy is. SPC-4 6.19
type CopyResult struct {
	State    uint8 // 0 in progress, 1 done, 2 done with errors
	Segments uint16
	KiB      uint32 // transferred
}

// Append appends the data of RECEIVE COPY RESULTS, COPY STATUS.
func (r CopyResult) Append(b []byte) []byte {
	b = be.AppendUint32(b, 8)
	b = append(b, r.State&0x7f)
	b = be.AppendUint16(b, r.Segments)
	b = append(b, 1) // KiB
	return be.AppendUint32(b, r.KiB)
}

// AppendThirdPartyCopy appends the content of VPDThirdPartyCopy. SPC-4 7.8.17
func (l CopyLimits) AppendThirdPartyCopy(b []byte) []byte {
	descriptor := func(kind uint16, content ...byte) {
		for len(content)%4 != 0 {
			content = append(content, 0)
		}
		b = be.AppendUint16(b, kind)
		b = be.AppendUint16(b, uint16(len(content)))
		b = append(b, content...)
	}
	commands := []byte{
		byte(ExtendedCopy), 1, 0,
		byte(ReceiveCopyResults), 2, CopyStatusLID1, CopyOperatingParameters,
	}
	descriptor(0x0001, append([]byte{byte(len(commands))}, commands...)...)
	p := make([]byte, 28)
	be.PutUint16(p[4:], l.MaxCSCDs)
	be.PutUint16(p[6:], l.MaxSegments)
	be.PutUint32(p[8:], l.MaxListBytes)
	descriptor(0x0004, p...)
	descriptor(0x0008, 2, SegmentBlocks, CSCDIdentification)
	return b
}
