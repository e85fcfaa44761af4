package iscsi

import "fmt"

// RejectReason says why a PDU was not taken. 11.17.1
type RejectReason uint8

// The reasons.
const (
	RejectDataDigest       RejectReason = 0x02
	RejectSNACK            RejectReason = 0x03
	RejectProtocolError    RejectReason = 0x04
	RejectNotSupported     RejectReason = 0x05
	RejectTooManyImmediate RejectReason = 0x06
	RejectTaskInProgress   RejectReason = 0x07
	RejectInvalidDataACK   RejectReason = 0x08
	RejectInvalidPDUField  RejectReason = 0x09
	RejectOutOfResources   RejectReason = 0x0a
	RejectNegotiationReset RejectReason = 0x0b
	RejectWaitingForLogout RejectReason = 0x0c
)

// String names the reason.
func (r RejectReason) String() string {
	names := [...]string{
		RejectDataDigest: "data digest error", RejectSNACK: "SNACK reject", RejectProtocolError: "protocol error",
		RejectNotSupported: "command not supported", RejectTooManyImmediate: "too many immediate commands",
		RejectTaskInProgress: "task in progress", RejectInvalidDataACK: "invalid data ACK", RejectInvalidPDUField: "invalid PDU field",
		RejectOutOfResources: "out of resources", RejectNegotiationReset: "negotiation reset", RejectWaitingForLogout: "waiting for logout",
	}
	if int(r) < len(names) && names[r] != "" {
		return names[r]
	}
	return fmt.Sprintf("reject reason %#02x", uint8(r))
}

// Reject is a Reject PDU; its data segment is the header of the PDU that was rejected. 11.17
type Reject struct {
	Window
	Reason    RejectReason
	DataSN    SN
	DataBytes int
}

// ParseReject decodes the first HeaderSize bytes of b.
func ParseReject(b []byte) (Reject, int, error) {
	if len(b) < HeaderSize {
		return Reject{}, 0, short(OpReject, b)
	}
	return Reject{
		Window: parseWindow(b), Reason: RejectReason(b[2]), DataSN: SN(be.Uint32(b[36:])), DataBytes: int(b[5])<<16 | int(b[6])<<8 | int(b[7]),
	}, HeaderSize, nil
}

// Append appends the header.
func (r *Reject) Append(b []byte) []byte {
	b, p := begin(b, OpReject, finalBit, r.DataBytes)
	p[2] = byte(r.Reason)
	be.PutUint32(p[16:], uint32(NoTag))
	r.put(p)
	be.PutUint32(p[36:], uint32(r.DataSN))
	return b
}

// Len is HeaderSize.
func (r *Reject) Len() int { return HeaderSize }
