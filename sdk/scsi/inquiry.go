package scsi

import "strings"

// PeripheralQualifier says whether a logical unit is there. SPC-4 6.6.2
type PeripheralQualifier uint8

// The qualifiers.
const (
	UnitConnected    PeripheralQualifier = 0 << 5
	UnitNotConnected PeripheralQualifier = 1 << 5
	UnitImpossible   PeripheralQualifier = 3 << 5
)

// Peripheral device types.
const (
	TypeDisk    uint8 = 0x00
	TypeUnknown uint8 = 0x1f
)

// TPGS says how asymmetric access states are changed. SPC-4 6.6.2
type TPGS uint8

// Kinds of asymmetric access.
const (
	TPGSNone     TPGS = 0
	TPGSImplicit TPGS = 1 << 4
	TPGSExplicit TPGS = 2 << 4
)

// InquiryData is standard INQUIRY data. SPC-4 6.6.2
type InquiryData struct {
	Qualifier      PeripheralQualifier
	Type           uint8
	TPGS           TPGS
	ThirdPartyCopy bool
	Vendor         string // at most 8 characters of ASCII
	Product        string // at most 16
	Revision       string // at most 4
	Versions       []uint16
}

// Version descriptors. SPC-4 table 151
const (
	VersionSAM5  uint16 = 0x00a0
	VersionSPC4  uint16 = 0x0460
	VersionSBC3  uint16 = 0x04c0
	VersionISCSI uint16 = 0x0960
)

// inquirySize is the length with all version descriptors.
const inquirySize = 74

// Append appends the data.
func (q *InquiryData) Append(b []byte) []byte {
	b, p := grow(b, inquirySize)
	p[0] = byte(q.Qualifier) | q.Type&0x1f
	p[2] = 0x06 // SPC-4
	p[3] = 0x12 // HISUP, response data format 2
	p[4] = inquirySize - 5
	p[5] = byte(q.TPGS) | flag(q.ThirdPartyCopy, 0x08)
	p[7] = 0x02 // CMDQUE
	putASCII(p[8:16], q.Vendor)
	putASCII(p[16:32], q.Product)
	putASCII(p[32:36], q.Revision)
	for i, v := range q.Versions[:min(len(q.Versions), 8)] {
		be.PutUint16(p[58+2*i:], v)
	}
	return b
}

// ParseInquiry decodes the first 36 bytes, which every device has, and the version descriptors, if
// they are there.
func ParseInquiry(b []byte) (InquiryData, error) {
	var q InquiryData
	if err := need("INQUIRY data", b, 36); err != nil {
		return q, err
	}
	q = InquiryData{
		Qualifier: PeripheralQualifier(b[0] & 0xe0), Type: b[0] & 0x1f, TPGS: TPGS(b[5] & 0x30), ThirdPartyCopy: b[5]&0x08 != 0,
		Vendor: strings.TrimRight(string(b[8:16]), " "), Product: strings.TrimRight(string(b[16:32]), " "),
		Revision: strings.TrimRight(string(b[32:36]), " "),
	}
	for i := 58; i+1 < min(len(b), inquirySize); i += 2 {
		if v := be.Uint16(b[i:]); v != 0 {
			q.Versions = append(q.Versions, v)
		}
	}
	return q, nil
}
