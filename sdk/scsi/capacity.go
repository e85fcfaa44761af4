package scsi

// Capacity is how large a disk is. SBC-3 5.15 and 5.16
type Capacity struct {
	LastLBA       uint64
	BlockBytes    uint32
	PhysicalShift uint8 // logical blocks per physical block, as a power of two
	Thin          bool  // LBPME
	ReadsZeros    bool  // LBPRZ
}

// Append10 appends the data of READ CAPACITY (10).
func (c Capacity) Append10(b []byte) []byte {
	b = be.AppendUint32(b, uint32(min(c.LastLBA, 0xffff_ffff)))
	return be.AppendUint32(b, c.BlockBytes)
}

// Append16 appends the data of READ CAPACITY (16).
func (c Capacity) Append16(b []byte) []byte {
	b = be.AppendUint64(b, c.LastLBA)
	b = be.AppendUint32(b, c.BlockBytes)
	b = append(b, 0, c.PhysicalShift&0xf, flag(c.Thin, 0x80)|flag(c.ReadsZeros, 0x40), 0)
	return append(b, make([]byte, 16)...)
}

// ParseCapacity16 decodes the data of READ CAPACITY (16).
func ParseCapacity16(b []byte) (Capacity, error) {
	if err := need("capacity", b, 16); err != nil {
		return Capacity{}, err
	}
	return Capacity{
		LastLBA: be.Uint64(b), BlockBytes: be.Uint32(b[8:]), PhysicalShift: b[13] & 0xf, Thin: b[14]&0x80 != 0, ReadsZeros: b[14]&0x40 != 0,
	}, nil
}

// ParseCapacity10 decodes the data of READ CAPACITY (10). A last LBA of all ones means that READ
// CAPACITY (16) must be asked.
func ParseCapacity10(b []byte) (Capacity, error) {
	if err := need("capacity", b, 8); err != nil {
		return Capacity{}, err
	}
	return Capacity{LastLBA: uint64(be.Uint32(b)), BlockBytes: be.Uint32(b[4:])}, nil
}

// Provision says what is known of a block. SBC-3 5.4.2
type Provision uint8

// The states of blocks.
const (
	Mapped      Provision = 0
	Deallocated Provision = 1
)

// LBAStatus is a run of blocks in the same state. SBC-3 5.4.2.2
type LBAStatus struct {
	LBA    uint64
	Blocks uint32
	State  Provision
}

// AppendLBAStatus appends the data of GET LBA STATUS. SBC-3 5.4.2
func AppendLBAStatus(b []byte, runs []LBAStatus) []byte {
	b = be.AppendUint32(b, uint32(4+16*len(runs)))
	b = append(b, 0, 0, 0, 0)
	for _, r := range runs {
		b = be.AppendUint64(b, r.LBA)
		b = be.AppendUint32(b, r.Blocks)
		b = append(b, byte(r.State&0xf), 0, 0, 0)
	}
	return b
}

// UnmapRange is one range of an UNMAP. SBC-3 5.28.2
type UnmapRange struct {
	LBA    uint64
	Blocks uint32
}

const (
	unmapHeaderSize = 8
	unmapRangeSize  = 16
)

// ParseUnmap decodes the parameter list of UNMAP: it returns the descriptors, to be read with
// UnmapRangeAt. A list without descriptors is none. SBC-3 5.28.2
func ParseUnmap(b []byte) (descriptors []byte, err error) {
	if err := need("UNMAP parameter list", b, unmapHeaderSize); err != nil {
		return nil, err
	}
	// The lengths count what is there, not what should be: a truncated list is no error.
	n := min(int(be.Uint16(b[2:])), len(b)-unmapHeaderSize)
	return b[unmapHeaderSize : unmapHeaderSize+n/unmapRangeSize*unmapRangeSize], nil
}

// UnmapRanges is how many descriptors there are.
func UnmapRanges(descriptors []byte) int { return len(descriptors) / unmapRangeSize }

// UnmapRangeAt is the i-th of them.
func UnmapRangeAt(descriptors []byte, i int) UnmapRange {
	d := descriptors[i*unmapRangeSize:]
	return UnmapRange{be.Uint64(d), be.Uint32(d[8:])}
}

// AppendUnmap appends a parameter list of UNMAP.
func AppendUnmap(b []byte, ranges []UnmapRange) []byte {
	n := unmapRangeSize * len(ranges)
	b = be.AppendUint16(b, uint16(n+6))
	b = be.AppendUint16(b, uint16(n))
	b = append(b, 0, 0, 0, 0)
	for _, r := range ranges {
		b = be.AppendUint64(b, r.LBA)
		b = be.AppendUint32(b, r.Blocks)
		b = append(b, 0, 0, 0, 0)
	}
	return b
}
