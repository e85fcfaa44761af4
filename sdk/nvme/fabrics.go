package nvme

import (
	"fmt"
	"strings"
)

// FabricsType is byte 4 of a Fabrics command (FCTYPE). Base 6
type FabricsType uint8

// Fabrics commands. Property Set, Property Get, Connect, authentication and Disconnect.
const (
	FabricsPropertySet FabricsType = 0x00
	FabricsConnect     FabricsType = 0x01
	FabricsPropertyGet FabricsType = 0x04
	FabricsAuthSend    FabricsType = 0x05
	FabricsAuthReceive FabricsType = 0x06
	FabricsDisconnect  FabricsType = 0x08
)

// Direction returns the data transfer direction that the type encodes.
func (t FabricsType) Direction() Direction { return Direction(t & 3) }

// String names the command.
func (t FabricsType) String() string {
	switch t {
	case FabricsPropertySet:
		return "property-set"
	case FabricsConnect:
		return "connect"
	case FabricsPropertyGet:
		return "property-get"
	case FabricsAuthSend:
		return "authentication-send"
	case FabricsAuthReceive:
		return "authentication-receive"
	case FabricsDisconnect:
		return "disconnect"
	}
	return fmt.Sprintf("fabrics command %02xh", uint8(t))
}

// MinQueueEntries is the smallest queue that Connect may ask for. Base 3.3.1
const MinQueueEntries = 2

// Bits of Connect.Attributes (CATTR). Base 6.3
const (
	ConnectPriorityMask     uint8 = 3 << 0 // queue priority class
	ConnectDisableSQFlow    uint8 = 1 << 2 // host asks to disable submission queue flow control
	ConnectIndividualDelete uint8 = 1 << 3 // host will delete I/O queues one by one, by Disconnect

	offConnectRECFMT = 40
	offConnectQID    = 42
	offConnectSQSIZE = 44
	offConnectCATTR  = 46
	offConnectKATO   = 48
	offDataHostID    = 0
	offDataCNTLID    = 16
	offDataSUBNQN    = 256
	offDataHOSTNQN   = 512
)

// Connect is the Fabrics command that creates a queue pair and, on the Admin queue, an
// association. Base 6.3
type Connect struct {
	CID          CommandID
	SGL          SGL
	RecordFormat uint16 // RECFMT; 0 is the only one defined
	Queue        QueueID
	Entries      uint32 // submission queue size in entries, 1 to 65,536; less than 2 is invalid
	Attributes   uint8  // CATTR
	KeepAlive    uint32 // KATO in milliseconds, 0 for none; Admin queue only
}

// ParseConnect unpacks a Connect; the caller has looked at opcode and type.
func ParseConnect(c *Command) Connect {
	return Connect{
		CID: c.CID(), SGL: c.SGL1(),
		RecordFormat: le.Uint16(c[offConnectRECFMT:]),
		Queue:        QueueID(le.Uint16(c[offConnectQID:])),
		Entries:      uint32(le.Uint16(c[offConnectSQSIZE:])) + 1,
		Attributes:   c[offConnectCATTR],
		KeepAlive:    le.Uint32(c[offConnectKATO:]),
	}
}

// Command packs a Connect.
func (n Connect) Command() Command {
	c := fabrics(FabricsConnect, n.CID)
	c.SetSGL1(n.SGL)
	le.PutUint16(c[offConnectRECFMT:], n.RecordFormat)
	le.PutUint16(c[offConnectQID:], uint16(n.Queue))
	le.PutUint16(c[offConnectSQSIZE:], toZeroBased[uint16](n.Entries))
	c[offConnectCATTR] = n.Attributes
	le.PutUint32(c[offConnectKATO:], n.KeepAlive)
	return c
}

// InvalidParameter is where a Connect is wrong: the offset of the field, within the command or
// within its data. It is the result of a Connect that fails with StatusConnectInvalidParameters.
// Base 6.3
type InvalidParameter struct {
	Offset uint16 // IPO, bytes from the start of the command or of the data
	InData bool   // IATTR bit 0
}

// Fields that a Connect can be refused for.
var (
	InvalidConnectRecordFormat = InvalidParameter{Offset: offConnectRECFMT}
	InvalidConnectQueue        = InvalidParameter{Offset: offConnectQID}
	InvalidConnectEntries      = InvalidParameter{Offset: offConnectSQSIZE}
	InvalidConnectAttributes   = InvalidParameter{Offset: offConnectCATTR}
	InvalidConnectKeepAlive    = InvalidParameter{Offset: offConnectKATO}
	InvalidConnectHostID       = InvalidParameter{Offset: offDataHostID, InData: true}
	InvalidConnectController   = InvalidParameter{Offset: offDataCNTLID, InData: true}
	InvalidConnectSubsystem    = InvalidParameter{Offset: offDataSUBNQN, InData: true}
	InvalidConnectHost         = InvalidParameter{Offset: offDataHOSTNQN, InData: true}
)

// ParseInvalidParameter unpacks DW0 of a failed Connect.
func ParseInvalidParameter(dw0 uint32) InvalidParameter {
	return InvalidParameter{Offset: uint16(dw0), InData: bit(dw0, 1<<16)}
}

// DW0 packs it for a completion.
func (p InvalidParameter) DW0() uint32 {
	v := uint32(p.Offset)
	if p.InData {
		v |= 1 << 16
	}
	return v
}

// ConnectResult is DW0 of a successful Connect. Base 6.3
type ConnectResult struct {
	Controller ControllerID
	AuthTLS    bool // AUTHREQ.ASCR: the host must authenticate and make a secure channel
	Auth       bool // AUTHREQ.ATR: the host must authenticate
}

// ParseConnectResult unpacks DW0 of a successful Connect.
func ParseConnectResult(dw0 uint32) ConnectResult {
	return ConnectResult{Controller: ControllerID(dw0), Auth: bit(dw0, 1<<17), AuthTLS: bit(dw0, 1<<18)}
}

// DW0 packs it for a completion.
func (r ConnectResult) DW0() uint32 {
	v := uint32(r.Controller)
	if r.Auth {
		v |= 1 << 17
	}
	if r.AuthTLS {
		v |= 1 << 18
	}
	return v
}

// ConnectDataSize is the length of the data of a Connect in bytes. Base 6.3
const ConnectDataSize = 1024

// NQNFieldSize is the length of an NQN field in bytes; MaxNQN the longest NQN in it. Base 4.5
const (
	NQNFieldSize = 256
	MaxNQN       = 223
)

// DiscoveryNQN is the well-known name of the discovery service. Base 4.5
const DiscoveryNQN = "nqn.2014-08.org.nvmexpress.discovery"

// ConnectData is the data of a Connect. Base 6.3
type ConnectData struct {
	HostID       HostID
	Controller   ControllerID // DynamicControllerID, StaticControllerID, or on an I/O queue the one to join
	SubsystemNQN string
	HostNQN      string
}

// ParseConnectData decodes the first 1,024 bytes of b. An NQN ends at its first NUL; whether it
// is a valid name is ValidNQN's business. Nothing in the result aliases b.
func ParseConnectData(b []byte) (ConnectData, int, error) {
	if err := need("connect data", b, ConnectDataSize); err != nil {
		return ConnectData{}, 0, err
	}
	return ConnectData{
		HostID:       HostID(b[offDataHostID:]),
		Controller:   ControllerID(le.Uint16(b[offDataCNTLID:])),
		SubsystemNQN: parseUTF8(b[offDataSUBNQN : offDataSUBNQN+NQNFieldSize]),
		HostNQN:      parseUTF8(b[offDataHOSTNQN : offDataHOSTNQN+NQNFieldSize]),
	}, ConnectDataSize, nil
}

// Append appends the wire form; a name longer than its field is cut.
func (d ConnectData) Append(b []byte) []byte {
	b, p := grow(b, ConnectDataSize)
	copy(p[offDataHostID:], d.HostID[:])
	le.PutUint16(p[offDataCNTLID:], uint16(d.Controller))
	putUTF8(p[offDataSUBNQN:offDataSUBNQN+NQNFieldSize], d.SubsystemNQN)
	putUTF8(p[offDataHOSTNQN:offDataHOSTNQN+NQNFieldSize], d.HostNQN)
	return b
}

// Len is ConnectDataSize.
func (d ConnectData) Len() int { return ConnectDataSize }

// ValidNQN reports whether s is a well-formed NVMe Qualified Name: "nqn." and a year and month,
// a dot, a reverse domain name of at least one character, at most 223 bytes of printable UTF-8.
// Base 4.5
func ValidNQN(s string) bool {
	const date = "nqn.yyyy-mm."
	if len(s) <= len(date) || len(s) > MaxNQN || !strings.HasPrefix(s, "nqn.") {
		return false
	}
	for i := 4; i < len(date); i++ {
		switch c := s[i]; {
		case i == 8 && c == '-', i == 11 && c == '.':
		case i != 8 && i != 11 && '0' <= c && c <= '9':
		default:
			return false
		}
	}
	for _, r := range s {
		if r < 0x20 || r == 0x7f || r == '\ufffd' {
			return false
		}
	}
	return true
}

// PropertyGet reads a controller property. Base 6.5
type PropertyGet struct {
	CID    CommandID
	Size   int // bytes: 4 or 8, or 0 for a reserved encoding
	Offset Property
}

// ParsePropertyGet unpacks a Property Get.
func ParsePropertyGet(c *Command) PropertyGet {
	return PropertyGet{CID: c.CID(), Size: propertySize(c[40]), Offset: Property(le.Uint32(c[44:]))}
}

// Command packs a Property Get.
func (g PropertyGet) Command() Command {
	c := fabrics(FabricsPropertyGet, g.CID)
	c[40] = propertyAttribute(g.Size)
	le.PutUint32(c[44:], uint32(g.Offset))
	return c
}

// PropertySet writes a controller property. Base 6.6
type PropertySet struct {
	CID    CommandID
	Size   int // bytes: 4 or 8, or 0 for a reserved encoding
	Offset Property
	Value  uint64
}

// ParsePropertySet unpacks a Property Set. A 4-byte value has its upper half cleared.
func ParsePropertySet(c *Command) PropertySet {
	s := PropertySet{
		CID: c.CID(), Size: propertySize(c[40]),
		Offset: Property(le.Uint32(c[44:])), Value: le.Uint64(c[48:]),
	}
	if s.Size == 4 {
		s.Value &= 0xffff_ffff
	}
	return s
}

// Command packs a Property Set.
func (s PropertySet) Command() Command {
	c := fabrics(FabricsPropertySet, s.CID)
	c[40] = propertyAttribute(s.Size)
	le.PutUint32(c[44:], uint32(s.Offset))
	le.PutUint64(c[48:], s.Value)
	return c
}

func propertySize(attrib byte) int {
	switch attrib & 7 {
	case 0:
		return 4
	case 1:
		return 8
	}
	return 0
}

func propertyAttribute(size int) byte {
	switch size {
	case 4:
		return 0
	case 8:
		return 1
	}
	return 7
}

// Disconnect deletes the I/O queue pair that it arrives on. Base 6.4
type Disconnect struct {
	CID          CommandID
	RecordFormat uint16 // 0 is the only one defined
}

// ParseDisconnect unpacks a Disconnect.
func ParseDisconnect(c *Command) Disconnect {
	return Disconnect{CID: c.CID(), RecordFormat: le.Uint16(c[40:])}
}

// Command packs a Disconnect.
func (d Disconnect) Command() Command {
	c := fabrics(FabricsDisconnect, d.CID)
	le.PutUint16(c[40:], d.RecordFormat)
	return c
}

// Auth is an Authentication Send or Receive. Base 6.1 and 6.2
type Auth struct {
	Type              FabricsType // FabricsAuthSend or FabricsAuthReceive
	CID               CommandID
	SGL               SGL
	ProtocolSpecific0 uint8  // SPSP0
	ProtocolSpecific1 uint8  // SPSP1
	Protocol          uint8  // SECP; E9h for NVMe in-band authentication
	Length            uint32 // transfer or allocation length in bytes
}

// ParseAuth unpacks an Authentication Send or Receive.
func ParseAuth(c *Command) Auth {
	return Auth{
		Type: c.FabricsType(), CID: c.CID(), SGL: c.SGL1(),
		ProtocolSpecific0: c[41], ProtocolSpecific1: c[42], Protocol: c[43],
		Length: le.Uint32(c[44:]),
	}
}

// Command packs an Authentication Send or Receive.
func (a Auth) Command() Command {
	c := fabrics(a.Type, a.CID)
	c.SetSGL1(a.SGL)
	c[41], c[42], c[43] = a.ProtocolSpecific0, a.ProtocolSpecific1, a.Protocol
	le.PutUint32(c[44:], a.Length)
	return c
}

func fabrics(t FabricsType, cid CommandID) Command {
	var c Command
	c.SetOpcode(OpcodeFabrics)
	c.SetPSDT(PSDTSGL)
	c.SetFabricsType(t)
	c.SetCID(cid)
	return c
}
