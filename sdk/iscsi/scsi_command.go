package iscsi

// CDBSize is how many bytes of a CDB a header holds; shorter ones are padded. 11.3.5
const CDBSize = 16

// TaskAttribute says how a task is ordered among others. 11.3.1
type TaskAttribute uint8

// The task attributes.
const (
	TaskUntagged    TaskAttribute = 0
	TaskSimple      TaskAttribute = 1
	TaskOrdered     TaskAttribute = 2
	TaskHeadOfQueue TaskAttribute = 3
	TaskACA         TaskAttribute = 4
)

// SCSICommand is a SCSI Command PDU. 11.3
type SCSICommand struct {
	Order
	Final          bool // no unsolicited Data-Out follows
	Read, Write    bool
	Attribute      TaskAttribute
	LUN            LUN
	ITT            TaskTag
	ExpectedLength uint32 // bytes of data that the initiator expects to move
	CDB            [CDBSize]byte
	DataBytes      int // of immediate data
}

// ParseSCSICommand decodes the first HeaderSize bytes of b.
func ParseSCSICommand(b []byte) (SCSICommand, int, error) {
	if len(b) < HeaderSize {
		return SCSICommand{}, 0, short(OpSCSICommand, b)
	}
	return SCSICommand{
		Order: parseOrder(b), Final: b[1]&finalBit != 0, Read: b[1]&0x40 != 0, Write: b[1]&0x20 != 0,
		Attribute: TaskAttribute(b[1] & 7), LUN: LUN(b[8:16]), ITT: TaskTag(be.Uint32(b[16:])),
		ExpectedLength: be.Uint32(b[20:]), CDB: [CDBSize]byte(b[32:]), DataBytes: int(b[5])<<16 | int(b[6])<<8 | int(b[7]),
	}, HeaderSize, nil
}

// Append appends the header.
func (c *SCSICommand) Append(b []byte) []byte {
	b, p := begin(b, OpSCSICommand, flag(c.Final, finalBit)|flag(c.Read, 0x40)|flag(c.Write, 0x20)|byte(c.Attribute&7), c.DataBytes)
	c.put(p)
	copy(p[8:], c.LUN[:])
	be.PutUint32(p[16:], uint32(c.ITT))
	be.PutUint32(p[20:], c.ExpectedLength)
	copy(p[32:], c.CDB[:])
	return b
}

// Len is HeaderSize.
func (c *SCSICommand) Len() int { return HeaderSize }

// AHSType is the type of an additional header segment. 11.2.2.1
type AHSType uint8

// The types of additional header segments.
const (
	AHSExtendedCDB   AHSType = 1
	AHSBidirectional AHSType = 2
)

// AHS is one additional header segment. 11.2.2
type AHS struct {
	Type AHSType
	Data []byte // with the byte that is specific to the type in front; of the buffer it was parsed from
}

// ParseAHS decodes the segment at the beginning of b, and says how long it is with its padding.
func ParseAHS(b []byte) (AHS, int, error) {
	if len(b) < 4 {
		return AHS{}, 0, &ShortError{"additional header segment", len(b), 4}
	}
	n := int(be.Uint16(b)) // what follows the type
	whole := 3 + n
	whole += Padding(whole)
	if n < 1 || len(b) < whole {
		return AHS{}, 0, &ShortError{"additional header segment", len(b), max(whole, 4)}
	}
	return AHS{AHSType(b[2] & 0x3f), b[3 : 3+n : 3+n]}, whole, nil
}

// Append appends the segment with its padding. Data has 1 to 65535 bytes.
func (a AHS) Append(b []byte) []byte {
	b = be.AppendUint16(b, uint16(len(a.Data)))
	b = append(b, byte(a.Type&0x3f))
	b = append(b, a.Data...)
	return append(b, zeros[:Padding(3+len(a.Data))]...)
}

// Len is the length with padding.
func (a AHS) Len() int { n := 3 + len(a.Data); return n + Padding(n) }
