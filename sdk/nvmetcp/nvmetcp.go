// Package nvmetcp is the codec of the NVMe/TCP transport: it owns the byte layout of the nine
// PDUs, their digests and alignment, and the rules by which a header is malformed together with
// the fatal error that answers it. It does not own connections, sequence or transfers: which PDU
// may come when, and what an R2T is outstanding for, is the state machine's business; this
// package has the errors for it.
//
// Edition cited: NVM Express TCP Transport Specification 1.0 ("TCP"). A PDU is
//
//	common header (8) | PDU-specific header (to HLEN) | HDGST (4) | pad (to PDO) | data | DDGST (4)
//
// where everything after HLEN is optional. The type of each PDU has the header only: Parse
// functions need HLEN bytes and leave digests, padding and data to the caller, who streams them.
// A Link knows what both sides negotiated; it checks headers and lays out PDUs to be sent.
package nvmetcp

import (
	"encoding/binary"
	"fmt"

	"github.com/mooring-io/mooring/sdk/nvme"
)

// Ports on which NVMe/TCP is usually found. TCP 3.1.2
const (
	Port          = 4420
	DiscoveryPort = 8009
)

// Type is the PDU type. TCP 3.3, Figure 10
type Type uint8

// PDU types. Even types come from the host, odd ones from the controller.
const (
	TypeICReq       Type = 0x00
	TypeICResp      Type = 0x01
	TypeH2CTermReq  Type = 0x02
	TypeC2HTermReq  Type = 0x03
	TypeCapsuleCmd  Type = 0x04
	TypeCapsuleResp Type = 0x05
	TypeH2CData     Type = 0x06
	TypeC2HData     Type = 0x07
	TypeR2T         Type = 0x09
)

var typeNames = [...]string{
	TypeICReq: "ICReq", TypeICResp: "ICResp", TypeH2CTermReq: "H2CTermReq", TypeC2HTermReq: "C2HTermReq",
	TypeCapsuleCmd: "CapsuleCmd", TypeCapsuleResp: "CapsuleResp", TypeH2CData: "H2CData",
	TypeC2HData: "C2HData", TypeR2T: "R2T",
}

// String names the type.
func (t Type) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	return fmt.Sprintf("PDU type %02xh", uint8(t))
}

// Flags is byte 1 of a PDU. Which bits mean something depends on the type; the others are
// reserved and ignored.
type Flags uint8

// Flags. TCP 3.6.2.6 to 3.6.2.10
const (
	FlagHeaderDigest Flags = 1 << 0 // HDGSTF: HDGST follows the header
	FlagDataDigest   Flags = 1 << 1 // DDGSTF: DDGST follows the data
	FlagLast         Flags = 1 << 2 // LAST_PDU: last H2CData of its R2T, or C2HData of its command
	FlagSuccess      Flags = 1 << 3 // SUCCESS: C2HData that stands for a successful CapsuleResp too
)

// Peer is one end of a connection.
type Peer uint8

// Ends of a connection.
const (
	Host Peer = iota
	Controller
)

// TransferTag identifies an R2T within a connection (TTAG). The controller chooses it.
type TransferTag uint16

// Sizes in bytes.
const (
	HeaderSize      = 8   // common header
	ICSize          = 128 // ICReq and ICResp, whole
	CapsuleCmdSize  = 72  // header
	CapsuleRespSize = 24  // header, which is all there is
	DataSize        = 24  // header of H2CData and C2HData
	R2TSize         = 24  // header, which is all there is
	TermReqSize     = 24  // header
	MaxTermReqSize  = 152 // header and the offending header
	DigestSize      = 4
	// MaxHeaderSize is the longest header (ICReq); a buffer of this plus DigestSize holds any.
	MaxHeaderSize = ICSize
	// MaxDataOffset is the largest PDO that alignment can call for: a CapsuleCmd with header
	// digest, aligned to 72 bytes.
	MaxDataOffset = 144
)

var le = binary.LittleEndian

// Header is the common header of every PDU. TCP 3.6.2.1
type Header struct {
	Type  Type
	Flags Flags
	HLEN  uint8  // bytes of header, digest not counted
	PDO   uint8  // offset of the data from the start of the PDU; 0 without data
	PLEN  uint32 // bytes of the whole PDU
}

// ParseHeader decodes the common header in the first 8 bytes of b.
func ParseHeader(b []byte) (Header, int, error) {
	if len(b) < HeaderSize {
		return Header{}, 0, truncated("PDU header", b, HeaderSize)
	}
	return parseHeader(b), HeaderSize, nil
}

func parseHeader(b []byte) Header {
	_ = b[HeaderSize-1]
	return Header{Type: Type(b[0]), Flags: Flags(b[1]), HLEN: b[2], PDO: b[3], PLEN: le.Uint32(b[4:])}
}

// Append appends the wire form.
func (h Header) Append(b []byte) []byte {
	return append(b, byte(h.Type), byte(h.Flags), h.HLEN, h.PDO,
		byte(h.PLEN), byte(h.PLEN>>8), byte(h.PLEN>>16), byte(h.PLEN>>24))
}

// Len is HeaderSize.
func (h Header) Len() int { return HeaderSize }

// Has reports whether all these flags are set.
func (h Header) Has(f Flags) bool { return h.Flags&f == f }

func truncated(what string, b []byte, n int) error {
	return fmt.Errorf("%s: %w: %d of %d bytes", what, nvme.ErrTruncated, len(b), n)
}
