package nvmetcp

import (
	"fmt"

	"github.com/mooring-io/mooring/sdk/nvme"
)

// TermReq is an H2CTermReq or C2HTermReq: it ends the connection. TCP 3.6.2.4 and 3.6.2.5
type TermReq struct {
	Header
	FES       FES
	FEI       uint32
	Offending []byte // header of the PDU in error, at most 128 bytes; aliases the parsed buffer
}

// NewTermReq returns what from sends about e, with as much of the offending header as fits.
// It keeps offending, and must not be called when e is Silent.
func NewTermReq(from Peer, e *TermError, offending []byte) TermReq {
	offending = offending[:min(len(offending), MaxTermReqSize-TermReqSize)]
	t := TypeH2CTermReq
	if from == Controller {
		t = TypeC2HTermReq
	}
	return TermReq{
		Header: Header{Type: t, HLEN: TermReqSize, PLEN: TermReqSize + uint32(len(offending))},
		FES:    e.FES, FEI: e.FEI, Offending: offending,
	}
}

// ParseTermReq decodes the PDU of PLEN bytes, 24 to 152, at the start of b. Offending aliases b.
func ParseTermReq(b []byte) (TermReq, int, error) {
	if len(b) < TermReqSize {
		return TermReq{}, 0, truncated("TermReq", b, TermReqSize)
	}
	h := parseHeader(b)
	if h.PLEN < TermReqSize || h.PLEN > MaxTermReqSize {
		return TermReq{}, 0, fmt.Errorf("TermReq: %w: PLEN %d", nvme.ErrMalformed, h.PLEN)
	}
	n := int(h.PLEN)
	if len(b) < n {
		return TermReq{}, 0, truncated("TermReq", b, n)
	}
	return TermReq{
		Header: h, FES: FES(le.Uint16(b[offFES:])), FEI: le.Uint32(b[offFEI:]),
		Offending: b[TermReqSize:n:n],
	}, n, nil
}

// Append appends the whole PDU; PLEN must be that of the offending header.
func (p TermReq) Append(b []byte) []byte {
	var s [TermReqSize - HeaderSize]byte
	le.PutUint16(s[offFES-HeaderSize:], uint16(p.FES))
	le.PutUint32(s[offFEI-HeaderSize:], p.FEI)
	return append(append(p.Header.Append(b), s[:]...), p.Offending...)
}

// Len returns the length of the PDU in bytes.
func (p TermReq) Len() int { return TermReqSize + len(p.Offending) }
