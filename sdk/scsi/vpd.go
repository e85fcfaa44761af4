package scsi

import "slices"

// VPDPage is the code of a page of vital product data. SPC-4 7.8
type VPDPage uint8

// The pages.
const (
	VPDSupportedPages  VPDPage = 0x00
	VPDSerialNumber    VPDPage = 0x80
	VPDDeviceID        VPDPage = 0x83
	VPDExtendedInquiry VPDPage = 0x86
	VPDThirdPartyCopy  VPDPage = 0x8f
	VPDBlockLimits     VPDPage = 0xb0
	VPDCharacteristics VPDPage = 0xb1
	VPDProvisioning    VPDPage = 0xb2
	vpdHeaderSize              = 4
)

// AppendVPD appends a page with this content for a disk.
func AppendVPD(b []byte, q PeripheralQualifier, page VPDPage, content []byte) []byte {
	b = append(b, byte(q)|TypeDisk, byte(page))
	b = be.AppendUint16(b, uint16(len(content)))
	return append(b, content...)
}

// ParseVPD takes a page's header off.
func ParseVPD(b []byte) (page VPDPage, content []byte, err error) {
	if err := need("VPD page", b, vpdHeaderSize); err != nil {
		return 0, nil, err
	}
	n := vpdHeaderSize + int(be.Uint16(b[2:]))
	if err := need("VPD page", b, n); err != nil {
		return 0, nil, err
	}
	return VPDPage(b[1]), b[vpdHeaderSize:n:n], nil
}

// SupportedPages is the content of VPDSupportedPages: ascending. SPC-4 7.8.14
func SupportedPages(pages ...VPDPage) []byte {
	var b []byte
	for _, p := range slices.Sorted(slices.Values(pages)) {
		b = append(b, byte(p))
	}
	return b
}

// Association says what a designator names. SPC-4 7.8.6.1
type Association uint8

// The associations.
const (
	OfUnit   Association = 0 << 4
	OfPort   Association = 1 << 4
	OfDevice Association = 2 << 4
)

// DesignatorType says what a designator is. SPC-4 7.8.6.1
type DesignatorType uint8

// The types of designators.
const (
	DesignatorVendor     DesignatorType = 0x1
	DesignatorEUI64      DesignatorType = 0x2
	DesignatorNAA        DesignatorType = 0x3
	DesignatorPort       DesignatorType = 0x4 // relative target port
	DesignatorPortGroup  DesignatorType = 0x5
	DesignatorSCSIName   DesignatorType = 0x8
	DesignatorUUID       DesignatorType = 0xa
	designatorHeaderSize                = 4
)

// Designator names a logical unit, a target port or a target device. SPC-4 7.8.6.1
type Designator struct {
	Association Association
	Type        DesignatorType
	ISCSI       bool // the protocol identifier of iSCSI goes with it
	ID          []byte
}

// Append appends the designator.
func (d Designator) Append(b []byte) []byte {
	code := byte(1) // binary
	switch d.Type {
	case DesignatorVendor:
		code = 2 // ASCII
	case DesignatorSCSIName:
		code = 3 // UTF-8
	case DesignatorEUI64, DesignatorNAA, DesignatorPort, DesignatorPortGroup, DesignatorUUID:
	}
	if d.ISCSI {
		code |= 5 << 4
	}
	b = append(b, code, flag(d.ISCSI, 0x80)|byte(d.Association)|byte(d.Type), 0, byte(len(d.ID)))
	return append(b, d.ID...)
}

// ParseDesignator decodes the designator at the beginning of b, and says how long it is.
func ParseDesignator(b []byte) (Designator, int, error) {
	if err := need("designator", b, designatorHeaderSize); err != nil {
		return Designator{}, 0, err
	}
	n := designatorHeaderSize + int(b[3])
	if err := need("designator", b, n); err != nil {
		return Designator{}, 0, err
	}
	return Designator{
		Association: Association(b[1] & 0x30), Type: DesignatorType(b[1] & 0xf), ISCSI: b[1]&0x80 != 0 && b[0]>>4 == 5,
		ID: b[designatorHeaderSize:n:n],
	}, n, nil
}

// SCSIName is the identifier of a SCSI name string: terminated, padded to 4 bytes. SPC-4 7.8.6.11
func SCSIName(s string) []byte {
	b := append([]byte(s), 0)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// ExtendedInquiry is the content of VPDExtendedInquiry. SPC-4 7.8.8
func ExtendedInquiry() []byte {
	b := make([]byte, 60)
	b[1] = 0x07 // HEADSUP, ORDSUP, SIMPSUP
	b[2] = 0x01 // V_SUP: the cache is volatile, if there is one
	b[3] = 0x01 // LUICLR: I_T nexus losses clear unit attentions
	return b
}

// BlockLimits is the content of VPDBlockLimits, in blocks unless it is said. SBC-3 6.6.3
type BlockLimits struct {
	MaxCompareAndWrite  uint8
	OptimalGranularity  uint16
	MaxTransfer         uint32
	OptimalTransfer     uint32
	MaxPrefetch         uint32
	MaxUnmap            uint32
	MaxUnmapDescriptors uint32
	UnmapGranularity    uint32
	MaxWriteSame        uint64
}

// blockLimitsSize is that of SBC-3.
const blockLimitsSize = 0x3c

// Append appends the content.
func (l *BlockLimits) Append(b []byte) []byte {
	b, p := grow(b, blockLimitsSize)
	p[0] = 0x01 // WSNZ: WRITE SAME of 0 blocks is refused
	p[1] = l.MaxCompareAndWrite
	be.PutUint16(p[2:], l.OptimalGranularity)
	be.PutUint32(p[4:], l.MaxTransfer)
	be.PutUint32(p[8:], l.OptimalTransfer)
	be.PutUint32(p[12:], l.MaxPrefetch)
	be.PutUint32(p[16:], l.MaxUnmap)
	be.PutUint32(p[20:], l.MaxUnmapDescriptors)
	be.PutUint32(p[24:], l.UnmapGranularity)
	be.PutUint32(p[28:], 0x8000_0000) // UGAVALID, alignment 0
	be.PutUint64(p[32:], l.MaxWriteSame)
	return b
}

// ParseBlockLimits decodes the content.
func ParseBlockLimits(p []byte) (BlockLimits, error) {
	if err := need("block limits", p, 40); err != nil {
		return BlockLimits{}, err
	}
	return BlockLimits{
		MaxCompareAndWrite: p[1], OptimalGranularity: be.Uint16(p[2:]), MaxTransfer: be.Uint32(p[4:]), OptimalTransfer: be.Uint32(p[8:]),
		MaxPrefetch: be.Uint32(p[12:]), MaxUnmap: be.Uint32(p[16:]), MaxUnmapDescriptors: be.Uint32(p[20:]),
		UnmapGranularity: be.Uint32(p[24:]), MaxWriteSame: be.Uint64(p[32:]),
	}, nil
}

// Characteristics is the content of VPDCharacteristics of a medium that does not rotate. SBC-3 6.6.2
func Characteristics() []byte {
	b := make([]byte, 0x3c)
	be.PutUint16(b, 1)
	return b
}

// Provisioning is the content of VPDProvisioning of a thin unit whose unmapped blocks read as zeros.
// SBC-3 6.6.4
func Provisioning() []byte {
	// LBPU, LBPWS, LBPWS10, LBPRZ; thin provisioned
	return []byte{0, 0x80 | 0x40 | 0x20 | 0x04, 0x02, 0}
}
