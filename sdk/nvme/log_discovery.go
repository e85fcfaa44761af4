package nvme

import "fmt"

// TransportType is TRTYPE. Base 5.16.1.23
type TransportType uint8

// Transports.
const (
	TransportRDMA TransportType = 1
	TransportFC   TransportType = 2
	TransportTCP  TransportType = 3
	TransportLoop TransportType = 254
)

// String names the transport as nvme-cli does.
func (t TransportType) String() string {
	switch t {
	case TransportRDMA:
		return "rdma"
	case TransportFC:
		return "fc"
	case TransportTCP:
		return "tcp"
	case TransportLoop:
		return "loop"
	}
	return fmt.Sprintf("transport type %d", uint8(t))
}

// AddressFamily is ADRFAM. Base 5.16.1.23
type AddressFamily uint8

// Address families.
const (
	AddressIPv4       AddressFamily = 1
	AddressIPv6       AddressFamily = 2
	AddressInfiniBand AddressFamily = 3
	AddressFC         AddressFamily = 4
	AddressIntraHost  AddressFamily = 254
)

// SubsystemType is SUBTYPE. Base 5.16.1.23
type SubsystemType uint8

// Subsystem types.
const (
	SubsystemReferral  SubsystemType = 1 // another discovery service
	SubsystemNVM       SubsystemType = 2
	SubsystemDiscovery SubsystemType = 3 // this discovery service
)

// Bits of DiscoveryEntry.Requirements (TREQ).
const (
	SecureChannelUnspecified uint8 = 0
	SecureChannelRequired    uint8 = 1
	SecureChannelNotRequired uint8 = 2
	SecureChannelMask        uint8 = 3
	SQFlowControlOptional    uint8 = 1 << 2 // the controller can disable SQ flow control
)

// Bits of DiscoveryEntry.Flags (EFLAGS).
const (
	EntryDuplicate            uint16 = 1 << 0 // DUPRETINFO
	EntryPersistentConnection uint16 = 1 << 1 // EPCSD
	EntryNoCDC                uint16 = 1 << 2 // NCC
)

// Values of DiscoveryEntry.Security for TCP (SECTYPE). NVMe/TCP 3.6.1.1
const (
	SecurityNone  uint8 = 0
	SecurityTLS12 uint8 = 1
	SecurityTLS13 uint8 = 2
)

// Lengths of the parts of the discovery page in bytes.
const (
	DiscoveryHeaderSize = 1024
	DiscoveryEntrySize  = 1024
)

// DiscoveryHeader is the head of the Discovery page. Base 5.16.1.23
type DiscoveryHeader struct {
	Generation uint64 // GENCTR: grows with every change of the page
	Records    uint64 // NUMREC: how many entries follow
	Format     uint16 // RECFMT; 0 is the only one defined
}

// ParseDiscoveryHeader decodes the first 1,024 bytes of b.
func ParseDiscoveryHeader(b []byte) (DiscoveryHeader, int, error) {
	var d DiscoveryHeader
	n, err := parseFixed("discovery log", &d, b, DiscoveryHeaderSize)
	return d, n, err
}

// Append appends the wire form.
func (d DiscoveryHeader) Append(b []byte) []byte { return appendFixed(b, &d, DiscoveryHeaderSize) }

// Len is DiscoveryHeaderSize.
func (d DiscoveryHeader) Len() int { return DiscoveryHeaderSize }

func (d *DiscoveryHeader) fields(l layout) {
	num(l, 0, &d.Generation)
	num(l, 8, &d.Records)
	num(l, 16, &d.Format)
}

// DiscoveryEntry tells of one way to reach a subsystem. Base 5.16.1.23
type DiscoveryEntry struct {
	Transport    TransportType
	Family       AddressFamily
	Subsystem    SubsystemType
	Requirements uint8        // TREQ
	Port         uint16       // PORTID
	Controller   ControllerID // DynamicControllerID, StaticControllerID or the one controller
	AdminEntries uint16       // ASQSZ: most entries of an Admin submission queue, at least 32; a count
	Flags        uint16       // EFLAGS
	Service      string       // TRSVCID, 32 bytes of ASCII: the TCP port in decimal
	NQN          string       // SUBNQN
	Address      string       // TRADDR, 256 bytes of ASCII
	Security     uint8        // TSAS byte 0: SECTYPE of TCP, RDMA_QPTYPE of RDMA
	RDMAProvider uint8        // TSAS byte 1: RDMA_PRTYPE
	RDMAConnect  uint8        // TSAS byte 2: RDMA_CMS
	RDMAPKey     uint16       // TSAS bytes 9:8
}

// ParseDiscoveryEntry decodes the first 1,024 bytes of b. Nothing in the result aliases b.
func ParseDiscoveryEntry(b []byte) (DiscoveryEntry, int, error) {
	var d DiscoveryEntry
	n, err := parseFixed("discovery entry", &d, b, DiscoveryEntrySize)
	return d, n, err
}

// Append appends the wire form; a string longer than its field is cut.
func (d DiscoveryEntry) Append(b []byte) []byte { return appendFixed(b, &d, DiscoveryEntrySize) }

// Len is DiscoveryEntrySize.
func (d DiscoveryEntry) Len() int { return DiscoveryEntrySize }

func (d *DiscoveryEntry) fields(l layout) {
	num(l, 0, &d.Transport)
	num(l, 1, &d.Family)
	num(l, 2, &d.Subsystem)
	num(l, 3, &d.Requirements)
	num(l, 4, &d.Port)
	num(l, 6, &d.Controller)
	num(l, 8, &d.AdminEntries)
	num(l, 10, &d.Flags)
	l.ascii(32, 32, &d.Service)
	l.utf8(256, NQNFieldSize, &d.NQN)
	l.ascii(512, 256, &d.Address)
	num(l, 768, &d.Security)
	num(l, 769, &d.RDMAProvider)
	num(l, 770, &d.RDMAConnect)
	num(l, 776, &d.RDMAPKey)
}
