package nvmetcp

// MinMaxH2CData is the least MAXH2CDATA that a controller should offer in bytes; Linux hosts
// refuse less. TCP 3.6.2.3
const MinMaxH2CData = 4096

// maxAlign is the largest HPDA or CPDA in bytes. TCP 3.3
const maxAlign = 128

// ICReq opens a connection. TCP 3.6.2.2
type ICReq struct {
	Header
	Version      uint16 // PFV; 0 is the only one defined
	Align        int    // HPDA: alignment of data sent to the host, in bytes, 4 to 128
	HeaderDigest bool   // host asks for header digests
	DataDigest   bool   // host asks for data digests
	MaxR2T       uint64 // R2Ts that may be outstanding per command, at least 1
}

// NewICReq returns an ICReq with its header; fields of the header are fixed.
func NewICReq() ICReq {
	return ICReq{Header: Header{Type: TypeICReq, HLEN: ICSize, PLEN: ICSize}, Align: 4, MaxR2T: 1}
}

// ParseICReq decodes the PDU in the first 128 bytes of b.
func ParseICReq(b []byte) (ICReq, int, error) {
	if len(b) < ICSize {
		return ICReq{}, 0, truncated("ICReq", b, ICSize)
	}
	return ICReq{
		Header: parseHeader(b), Version: le.Uint16(b[offPFV:]), Align: alignOf(b[offPDA]),
		HeaderDigest: b[offDGST]&1 != 0, DataDigest: b[offDGST]&2 != 0,
		MaxR2T: uint64(le.Uint32(b[offMAX:])) + 1,
	}, ICSize, nil
}

// Append appends the wire form.
func (p ICReq) Append(b []byte) []byte {
	return appendIC(b, p.Header, p.Version, p.Align, p.HeaderDigest, p.DataDigest, uint32(max(p.MaxR2T, 1)-1))
}

// Len is ICSize.
func (p ICReq) Len() int { return ICSize }

// Check judges the fields; Link.Check has judged the header.
func (p ICReq) Check() *TermError {
	switch {
	case p.Version != 0:
		return ErrPFV
	case p.Align > maxAlign:
		return ErrPDA
	}
	return nil
}

// ICResp answers an ICReq. TCP 3.6.2.3
type ICResp struct {
	Header
	Version      uint16 // PFV; 0 is the only one defined
	Align        int    // CPDA: alignment of data sent to the controller, in bytes, 4 to 128
	HeaderDigest bool   // header digests are on, both ways
	DataDigest   bool   // data digests are on, both ways
	MaxH2CData   uint32 // most bytes of data in one H2CData, a multiple of 4
}

// NewICResp returns an ICResp with its header; fields of the header are fixed.
func NewICResp() ICResp {
	return ICResp{Header: Header{Type: TypeICResp, HLEN: ICSize, PLEN: ICSize}, Align: 4, MaxH2CData: MinMaxH2CData}
}

// ParseICResp decodes the PDU in the first 128 bytes of b.
func ParseICResp(b []byte) (ICResp, int, error) {
	if len(b) < ICSize {
		return ICResp{}, 0, truncated("ICResp", b, ICSize)
	}
	return ICResp{
		Header: parseHeader(b), Version: le.Uint16(b[offPFV:]), Align: alignOf(b[offPDA]),
		HeaderDigest: b[offDGST]&1 != 0, DataDigest: b[offDGST]&2 != 0,
		MaxH2CData: le.Uint32(b[offMAX:]),
	}, ICSize, nil
}

// Append appends the wire form.
func (p ICResp) Append(b []byte) []byte {
	return appendIC(b, p.Header, p.Version, p.Align, p.HeaderDigest, p.DataDigest, p.MaxH2CData)
}

// Len is ICSize.
func (p ICResp) Len() int { return ICSize }

// Check judges the fields against the ICReq; Link.Check has judged the header.
func (p ICResp) Check(req ICReq) *TermError {
	switch {
	case p.Version != 0:
		return ErrPFV
	case p.Align > maxAlign:
		return ErrPDA
	case p.HeaderDigest && !req.HeaderDigest || p.DataDigest && !req.DataDigest:
		return ErrDigestNotAsked
	case p.MaxH2CData == 0 || p.MaxH2CData%4 != 0:
		return ErrMaxH2CData
	}
	return nil
}

// Links returns both directions of a connection whose ICReq and ICResp these were.
// maxInCapsule is the most bytes of in-capsule data that the controller accepts.
func Links(req ICReq, resp ICResp, maxInCapsule uint32) (fromHost, fromController Link) {
	l := Link{HeaderDigest: resp.HeaderDigest, DataDigest: resp.DataDigest}
	fromHost, fromController = l, l
	fromHost.Align, fromHost.MaxInCapsule = resp.Align, maxInCapsule
	fromController.From, fromController.Align = Controller, req.Align
	return fromHost, fromController
}

func alignOf(pda byte) int { return (int(pda) + 1) * 4 }

func appendIC(b []byte, h Header, pfv uint16, align int, hdgst, ddgst bool, last uint32) []byte {
	var p [ICSize - HeaderSize]byte
	le.PutUint16(p[offPFV-HeaderSize:], pfv)
	p[offPDA-HeaderSize] = byte(max(align, 4)/4 - 1)
	if hdgst {
		p[offDGST-HeaderSize] |= 1
	}
	if ddgst {
		p[offDGST-HeaderSize] |= 2
	}
	le.PutUint32(p[offMAX-HeaderSize:], last)
	return append(h.Append(b), p[:]...)
}
