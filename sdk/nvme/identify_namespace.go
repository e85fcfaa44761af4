package nvme

// Bits of IdentifyNamespace.Features (NSFEAT).
const (
	NamespaceThin            uint8 = 1 << 0 // NCAP may be less than NSZE
	NamespaceAtomics         uint8 = 1 << 1 // NSABP: NAWUN, NAWUPF and NACWU are defined
	NamespaceUnwrittenErrors uint8 = 1 << 2 // DAE: deallocated blocks can be reported as errors
	NamespaceStableIDs       uint8 = 1 << 3 // UIDREUSE: NGUID and EUI64 are never reused
	NamespacePreferred       uint8 = 1 << 4 // OPTPERF: NPWG, NPWA, NPDG, NPDA and NOWS are defined
)

// NamespaceShared is the bit of IdentifyNamespace.MultiPath (NMIC).
const NamespaceShared uint8 = 1 << 0

// Bits of IdentifyNamespace.Reservations (RESCAP).
const (
	ReservePersistThroughPowerLoss uint8 = 1 << 0
	ReserveWriteExclusive          uint8 = 1 << 1
	ReserveExclusiveAccess         uint8 = 1 << 2
	ReserveWriteExclusiveReg       uint8 = 1 << 3
	ReserveExclusiveAccessReg      uint8 = 1 << 4
	ReserveWriteExclusiveAll       uint8 = 1 << 5
	ReserveExclusiveAccessAll      uint8 = 1 << 6
	ReserveIgnoreKey13             uint8 = 1 << 7 // Ignore Existing Key as of edition 1.3
)

// Values and bits of IdentifyNamespace.Deallocate (DLFEAT).
const (
	DeallocateReadsUnknown uint8 = 0
	DeallocateReadsZeroes  uint8 = 1
	DeallocateReadsOnes    uint8 = 2
	DeallocateReadMask     uint8 = 7
	DeallocateWriteZeroes  uint8 = 1 << 3 // DEAC of Write Zeroes is supported
)

// NamespaceWriteProtected is the bit of IdentifyNamespace.Attributes (NSATTR).
const NamespaceWriteProtected uint8 = 1 << 0

// MaxLBAFormats is how many LBA formats there is room for. NVM 4.1.5.1
const MaxLBAFormats = 64

// LBAFormat is an LBA format. NVM 4.1.5.1
type LBAFormat struct {
	MetadataSize uint16 // MS, bytes
	DataShift    uint8  // LBADS: blocks of 2^n bytes; 0 for a format not available
	Performance  uint8  // RP: 0 best to 3 degraded
}

// IdentifyNamespace is the Identify Namespace data structure of the NVM command set. An
// all-zero wire form stands for an inactive NSID. NVM 4.1.5.1
type IdentifyNamespace struct {
	Size         BlockCount  // NSZE
	Capacity     BlockCount  // NCAP
	Used         BlockCount  // NUSE
	Features     uint8       // NSFEAT
	Formats      []LBAFormat // NLBAF as a count, 1 to 64
	FormatIndex  uint8       // FLBAS bits 6:5 and 3:0
	MetadataEnd  bool        // FLBAS bit 4: metadata at the end of the data
	Metadata     uint8       // MC
	ProtectCaps  uint8       // DPC
	Protect      uint8       // DPS
	MultiPath    uint8       // NMIC
	Reservations uint8       // RESCAP
	Progress     uint8       // FPI: bit 7 supported, bits 6:0 percent of a format that remain
	Deallocate   uint8       // DLFEAT

	AtomicWriteNormal  uint32 // NAWUN as a count of blocks, 1 to 65,536
	AtomicWritePower   uint32 // NAWUPF as a count of blocks, 1 to 65,536
	AtomicCompareWrite uint32 // NACWU as a count of blocks, 1 to 65,536
	AtomicBoundary     uint16 // NABSN: wire value; 0 for no boundary
	AtomicBoundaryOff  uint16 // NABO, blocks
	AtomicBoundaryPwr  uint16 // NABSPF: wire value; 0 for no boundary
	OptimalBoundary    uint16 // NOIOB, blocks; 0 for none
	Bytes              Uint128

	PreferredWrite        uint32 // NPWG as a count of blocks
	PreferredWriteAlign   uint32 // NPWA as a count of blocks
	PreferredDiscard      uint32 // NPDG as a count of blocks
	PreferredDiscardAlign uint32 // NPDA as a count of blocks
	OptimalWrite          uint32 // NOWS as a count of blocks

	CopyRangeLength uint16 // MSSRL, blocks
	CopyLength      uint32 // MCL, blocks
	CopyRanges      uint16 // MSRC as a count, 1 to 256
	UniqueFormats   uint8  // NULBAF

	ANAGroup       ANAGroupID
	Attributes     uint8 // NSATTR
	NVMSet         NVMSetID
	EnduranceGroup EnduranceGroupID
	NGUID          [16]byte // zero for none
	EUI64          [8]byte  // zero for none
}

// ParseIdentifyNamespace decodes the first 4,096 bytes of b. Nothing in the result aliases b.
func ParseIdentifyNamespace(b []byte) (IdentifyNamespace, int, error) {
	var id IdentifyNamespace
	n, err := parseFixed("identify namespace", &id, b, IdentifySize)
	if err != nil {
		return IdentifyNamespace{}, 0, err
	}
	formats := int(b[25]) + 1
	if formats > MaxLBAFormats {
		return IdentifyNamespace{}, 0, malformed("identify namespace", "more than 64 LBA formats")
	}
	id.Formats = make([]LBAFormat, formats)
	for i := range id.Formats {
		f := b[128+4*i:]
		id.Formats[i] = LBAFormat{MetadataSize: le.Uint16(f), DataShift: f[2], Performance: f[3] & 3}
	}
	return id, n, nil
}

// Append appends the wire form; formats above MaxLBAFormats are cut.
func (id IdentifyNamespace) Append(b []byte) []byte {
	start := len(b)
	b = appendFixed(b, &id, IdentifySize)
	p := b[start:]
	formats := id.Formats[:min(len(id.Formats), MaxLBAFormats)]
	p[25] = toZeroBased[uint8](uint8(len(formats)))
	for i, f := range formats {
		le.PutUint16(p[128+4*i:], f.MetadataSize)
		p[130+4*i], p[131+4*i] = f.DataShift, f.Performance&3
	}
	return b
}

// Len is IdentifySize.
func (id IdentifyNamespace) Len() int { return IdentifySize }

// Format returns the LBA format in use, or the zero format if FormatIndex names none.
func (id *IdentifyNamespace) Format() LBAFormat {
	if int(id.FormatIndex) >= len(id.Formats) {
		return LBAFormat{}
	}
	return id.Formats[id.FormatIndex]
}

func (id *IdentifyNamespace) fields(l layout) {
	num(l, 0, &id.Size)
	num(l, 8, &id.Capacity)
	num(l, 16, &id.Used)
	num(l, 24, &id.Features)
	if l.write {
		l.b[26] = id.FormatIndex&0xf | id.FormatIndex>>4&3<<5
	} else {
		id.FormatIndex = l.b[26]&0xf | l.b[26]>>5&3<<4
	}
	l.flag(26, 1<<4, &id.MetadataEnd)
	num(l, 27, &id.Metadata)
	num(l, 28, &id.ProtectCaps)
	num(l, 29, &id.Protect)
	num(l, 30, &id.MultiPath)
	num(l, 31, &id.Reservations)
	num(l, 32, &id.Progress)
	num(l, 33, &id.Deallocate)
	l.count16(34, &id.AtomicWriteNormal)
	l.count16(36, &id.AtomicWritePower)
	l.count16(38, &id.AtomicCompareWrite)
	num(l, 40, &id.AtomicBoundary)
	num(l, 42, &id.AtomicBoundaryOff)
	num(l, 44, &id.AtomicBoundaryPwr)
	num(l, 46, &id.OptimalBoundary)
	l.u128(48, &id.Bytes)
	l.count16(64, &id.PreferredWrite)
	l.count16(66, &id.PreferredWriteAlign)
	l.count16(68, &id.PreferredDiscard)
	l.count16(70, &id.PreferredDiscardAlign)
	l.count16(72, &id.OptimalWrite)
	num(l, 74, &id.CopyRangeLength)
	num(l, 76, &id.CopyLength)
	l.count8(80, &id.CopyRanges)
	num(l, 82, &id.UniqueFormats)
	num(l, 92, &id.ANAGroup)
	num(l, 99, &id.Attributes)
	num(l, 100, &id.NVMSet)
	num(l, 102, &id.EnduranceGroup)
	l.bytes(104, id.NGUID[:])
	l.bytes(120, id.EUI64[:])
}

// NamespaceReady is the bit of IndependentNamespace.Status (NSTAT).
const NamespaceReady uint8 = 1 << 0

// IndependentNamespace is the I/O Command Set Independent Identify Namespace data structure,
// CNS 08h. Base 5.17.2.8
type IndependentNamespace struct {
	Features       uint8 // NSFEAT; only NamespaceStableIDs is defined here
	MultiPath      uint8 // NMIC
	Reservations   uint8 // RESCAP
	Progress       uint8 // FPI
	ANAGroup       ANAGroupID
	Attributes     uint8 // NSATTR
	NVMSet         NVMSetID
	EnduranceGroup EnduranceGroupID
	Status         uint8 // NSTAT
}

// ParseIndependentNamespace decodes the first 4,096 bytes of b.
func ParseIndependentNamespace(b []byte) (IndependentNamespace, int, error) {
	var id IndependentNamespace
	n, err := parseFixed("independent identify namespace", &id, b, IdentifySize)
	return id, n, err
}

// Append appends the wire form.
func (id IndependentNamespace) Append(b []byte) []byte { return appendFixed(b, &id, IdentifySize) }

// Len is IdentifySize.
func (id IndependentNamespace) Len() int { return IdentifySize }

func (id *IndependentNamespace) fields(l layout) {
	num(l, 0, &id.Features)
	num(l, 1, &id.MultiPath)
	num(l, 2, &id.Reservations)
	num(l, 3, &id.Progress)
	num(l, 4, &id.ANAGroup)
	num(l, 8, &id.Attributes)
	num(l, 10, &id.NVMSet)
	num(l, 12, &id.EnduranceGroup)
	num(l, 14, &id.Status)
}

// NVMNamespace is the NVM Command Set Identify Namespace data structure, CNS 05h with CSI 00h.
// NVM 4.1.5.3
type NVMNamespace struct {
	StorageTagMask uint64                // LBSTM
	ProtectCaps    uint8                 // PIC
	Formats        [MaxLBAFormats]uint32 // ELBAF: storage tag size in bits 6:0, PI format in 8:7
}

// ParseNVMNamespace decodes the first 4,096 bytes of b.
func ParseNVMNamespace(b []byte) (NVMNamespace, int, error) {
	var id NVMNamespace
	n, err := parseFixed("NVM identify namespace", &id, b, IdentifySize)
	return id, n, err
}

// Append appends the wire form.
func (id NVMNamespace) Append(b []byte) []byte { return appendFixed(b, &id, IdentifySize) }

// Len is IdentifySize.
func (id NVMNamespace) Len() int { return IdentifySize }

func (id *NVMNamespace) fields(l layout) {
	num(l, 0, &id.StorageTagMask)
	num(l, 8, &id.ProtectCaps)
	for i := range id.Formats {
		num(l, 12+4*i, &id.Formats[i])
	}
}

// NVMController is the NVM Command Set Identify Controller data structure, CNS 06h with CSI 00h.
// Sizes are powers of two in minimum pages (CAP.MPSMIN), 0 for no limit. NVM 4.1.5.4
type NVMController struct {
	VerifyShift         uint8  // VSL
	WriteZeroesShift    uint8  // WZSL
	WriteUncorrectShift uint8  // WUSL
	DatasetRanges       uint8  // DMRL: most ranges of a Dataset Management, 0 for no limit
	DatasetRangeBlocks  uint32 // DMRSL: most blocks of one range, 0 for no limit
	DatasetBlocks       uint64 // DMSL: most blocks of all ranges, 0 for no limit
}

// ParseNVMController decodes the first 4,096 bytes of b.
func ParseNVMController(b []byte) (NVMController, int, error) {
	var id NVMController
	n, err := parseFixed("NVM identify controller", &id, b, IdentifySize)
	return id, n, err
}

// Append appends the wire form.
func (id NVMController) Append(b []byte) []byte { return appendFixed(b, &id, IdentifySize) }

// Len is IdentifySize.
func (id NVMController) Len() int { return IdentifySize }

func (id *NVMController) fields(l layout) {
	num(l, 0, &id.VerifyShift)
	num(l, 1, &id.WriteZeroesShift)
	num(l, 2, &id.WriteUncorrectShift)
	num(l, 3, &id.DatasetRanges)
	num(l, 4, &id.DatasetRangeBlocks)
	num(l, 8, &id.DatasetBlocks)
}
