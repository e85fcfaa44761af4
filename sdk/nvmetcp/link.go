package nvmetcp

import "github.com/mooring-io/mooring/sdk/nvme"

// Link is one direction of a connection: who sends, and what ICReq and ICResp settled for what
// is sent. It checks headers that came and lays out PDUs that go. A Link is a plain value,
// immutable once negotiation is over. The zero Link is a host's before negotiation.
type Link struct {
	From         Peer
	HeaderDigest bool
	DataDigest   bool
	// Align is what the offset of data within a PDU is a multiple of, in bytes: 4 to 128 in steps
	// of 4; CPDA for what the host sends, HPDA for what the controller sends. Below 4 means 4.
	Align int
	// MaxInCapsule is the most bytes of data in a CapsuleCmd.
	MaxInCapsule uint32
}

type dataRule uint8

const (
	noData   dataRule = iota
	mayData           // CapsuleCmd
	mustData          // H2CData, C2HData
	termData          // TermReq: the offending header, without PDO
)

// shapes is what the standard fixes for each PDU type. TCP 3.6.2.2 to 3.6.2.10
var shapes = [...]struct {
	hlen    uint8
	data    dataRule
	digests Flags // those that apply when negotiated
}{
	TypeICReq:       {hlen: ICSize},
	TypeICResp:      {hlen: ICSize},
	TypeH2CTermReq:  {hlen: TermReqSize, data: termData},
	TypeC2HTermReq:  {hlen: TermReqSize, data: termData},
	TypeCapsuleCmd:  {hlen: CapsuleCmdSize, data: mayData, digests: FlagHeaderDigest | FlagDataDigest},
	TypeCapsuleResp: {hlen: CapsuleRespSize, digests: FlagHeaderDigest},
	TypeH2CData:     {hlen: DataSize, data: mustData, digests: FlagHeaderDigest | FlagDataDigest},
	TypeC2HData:     {hlen: DataSize, data: mustData, digests: FlagHeaderDigest | FlagDataDigest},
	TypeR2T:         {hlen: R2TSize, digests: FlagHeaderDigest},
}

// Check judges the common header of a PDU that arrived over the link and returns the error that
// names the lowest wrong field, or nil. After nil, HLEN bytes of header, HeaderLen bytes with
// digest, and DataLen bytes of data may be relied on; DataLen is bounded for a CapsuleCmd only.
// Reserved flags and a PDO without data are ignored. Whether the PDU may come now is not asked.
func (l *Link) Check(h Header) *TermError {
	// Bit 0 of the type is the direction, 8 is not assigned. TCP 3.3, Figure 10
	if h.Type > TypeR2T || h.Type == 8 || Peer(h.Type&1) != l.From {
		return ErrType
	}
	s := &shapes[h.Type]
	if s.data == termData {
		return checkTermReq(h)
	}
	want := l.digests(s.digests)
	if (h.Flags^want)&s.digests&FlagHeaderDigest != 0 {
		return ErrDigestFlags
	}
	full := uint32(s.hlen)
	if want&FlagHeaderDigest != 0 {
		full += DigestSize
	}
	hasData := s.data == mustData || s.data == mayData && h.PLEN != full
	// Without data there is no DDGST, whatever the flag says.
	if hasData && (h.Flags^want)&FlagDataDigest != 0 {
		return ErrDigestFlags
	}
	if h.Type == TypeC2HData && h.Flags&(FlagSuccess|FlagLast) == FlagSuccess {
		return ErrSuccessFlag
	}
	if h.HLEN != s.hlen {
		return ErrHLEN
	}
	if !hasData {
		if h.PLEN != full {
			return ErrPLEN
		}
		return nil
	}
	return l.checkData(h, full, want)
}

// checkData judges PDO and PLEN of a PDU that has data after full bytes of header and digest.
func (l *Link) checkData(h Header, full uint32, want Flags) *TermError {
	if h.PLEN < full {
		return ErrPLEN
	}
	pdo := uint32(h.PDO)
	if pdo < full || pdo > h.PLEN || pdo%l.align() != 0 {
		return ErrPDO
	}
	n := h.PLEN - pdo
	if want&FlagDataDigest != 0 {
		if n <= DigestSize {
			return ErrPLEN
		}
		n -= DigestSize
	}
	if n == 0 {
		return ErrPLEN
	}
	if h.Type == TypeCapsuleCmd && n > l.MaxInCapsule {
		return ErrCapsuleSize
	}
	return nil
}

func checkTermReq(h Header) *TermError {
	// An invalid TermReq is never answered by another. TCP 3.5
	if h.HLEN != TermReqSize || h.PLEN < TermReqSize || h.PLEN > MaxTermReqSize {
		return ErrTermReqSize
	}
	return nil
}

// HeaderLen returns the bytes of header and header digest of a PDU that Check accepted.
func (l *Link) HeaderLen(h Header) int {
	if l.HeaderDigest && shapes[h.Type].digests != 0 {
		return int(h.HLEN) + DigestSize
	}
	return int(h.HLEN)
}

// DataLen returns the bytes of data of a PDU that Check accepted, digest not counted. The data
// begins at PDO, or at HLEN for a TermReq.
func (l *Link) DataLen(h Header) uint32 {
	switch s := shapes[h.Type]; s.data {
	case termData:
		return h.PLEN - TermReqSize
	case noData:
		return 0
	case mayData, mustData:
	}
	if h.PLEN == uint32(l.HeaderLen(h)) {
		return 0
	}
	n := h.PLEN - uint32(h.PDO)
	if l.DataDigest {
		n -= DigestSize
	}
	return n
}

// Header returns the common header of a PDU with n bytes of data, flags f besides the digest
// flags. n must leave PLEN within 32 bits.
func (l *Link) Header(t Type, f Flags, n uint32) Header {
	s := &shapes[t]
	h := Header{Type: t, Flags: f, HLEN: s.hlen}
	full := uint32(s.hlen)
	if l.HeaderDigest && s.digests&FlagHeaderDigest != 0 {
		h.Flags |= FlagHeaderDigest
		full += DigestSize
	}
	h.PLEN = full
	if n == 0 {
		return h
	}
	if s.data == termData {
		h.PLEN += n
		return h
	}
	a := l.align()
	pdo := (full + a - 1) / a * a
	h.PDO = uint8(pdo)
	h.PLEN = pdo + n
	if l.DataDigest {
		h.Flags |= FlagDataDigest
		h.PLEN += DigestSize
	}
	return h
}

// AppendCapsuleCmd appends the header of a CapsuleCmd with n bytes of in-capsule data, its digest
// and padding; the caller goes on with the data and, if DataDigest, with AppendDigest.
func (l *Link) AppendCapsuleCmd(b []byte, c *nvme.Command, n uint32) []byte {
	h := l.Header(TypeCapsuleCmd, 0, n)
	return seal(CapsuleCmd{h, c}.Append(b), len(b), h)
}

// AppendCapsuleResp appends a whole CapsuleResp.
func (l *Link) AppendCapsuleResp(b []byte, c *nvme.Completion) []byte {
	h := l.Header(TypeCapsuleResp, 0, 0)
	return seal(CapsuleResp{h, c}.Append(b), len(b), h)
}

// AppendData appends the header of d, whose Type must be TypeH2CData or TypeC2HData and whose
// Flags may have FlagLast and FlagSuccess, with digest and padding; the rest of the common header
// is computed. The caller goes on with d.Length bytes of data and, if DataDigest, AppendDigest.
func (l *Link) AppendData(b []byte, d Data) []byte {
	d.Header = l.Header(d.Type, d.Flags, d.Length)
	return seal(d.Append(b), len(b), d.Header)
}

// AppendR2T appends a whole R2T; the common header of r is computed.
func (l *Link) AppendR2T(b []byte, r R2T) []byte {
	r.Header = l.Header(TypeR2T, 0, 0)
	return seal(r.Append(b), len(b), r.Header)
}

var padding [MaxDataOffset]byte

// seal appends HDGST and padding to the header that begins at b[start].
func seal(b []byte, start int, h Header) []byte {
	if h.Flags&FlagHeaderDigest != 0 {
		b = AppendDigest(b, Digest(b[start:]))
	}
	if n := start + int(h.PDO) - len(b); n > 0 {
		b = append(b, padding[:n]...)
	}
	return b
}

func (l *Link) digests(apply Flags) Flags {
	var f Flags
	if l.HeaderDigest {
		f |= FlagHeaderDigest
	}
	if l.DataDigest {
		f |= FlagDataDigest
	}
	return f & apply
}

func (l *Link) align() uint32 { return uint32(max(l.Align, 4)) }
