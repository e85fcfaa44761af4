package iscsi

// TextRequest is a Text Request PDU; its data segment is key=value pairs. 11.10
type TextRequest struct {
	Order
	Final     bool
	Continue  bool // the text goes on in the next request
	LUN       LUN
	ITT       TaskTag
	TTT       TaskTag
	DataBytes int
}

// ParseTextRequest decodes the first HeaderSize bytes of b.
func ParseTextRequest(b []byte) (TextRequest, int, error) {
	if len(b) < HeaderSize {
		return TextRequest{}, 0, short(OpTextRequest, b)
	}
	return TextRequest{
		Order: parseOrder(b), Final: b[1]&finalBit != 0, Continue: b[1]&0x40 != 0, LUN: LUN(b[8:16]),
		ITT: TaskTag(be.Uint32(b[16:])), TTT: TaskTag(be.Uint32(b[20:])), DataBytes: int(b[5])<<16 | int(b[6])<<8 | int(b[7]),
	}, HeaderSize, nil
}

// Append appends the header.
func (t *TextRequest) Append(b []byte) []byte {
	b, p := begin(b, OpTextRequest, flag(t.Final, finalBit)|flag(t.Continue, 0x40), t.DataBytes)
	t.put(p)
	copy(p[8:], t.LUN[:])
	be.PutUint32(p[16:], uint32(t.ITT))
	be.PutUint32(p[20:], uint32(t.TTT))
	return b
}

// Len is HeaderSize.
func (t *TextRequest) Len() int { return HeaderSize }

// TextResponse is a Text Response PDU. 11.11
type TextResponse struct {
	Window
	Final     bool
	Continue  bool
	LUN       LUN
	ITT       TaskTag
	TTT       TaskTag // NoTag if Final
	DataBytes int
}

// ParseTextResponse decodes the first HeaderSize bytes of b.
func ParseTextResponse(b []byte) (TextResponse, int, error) {
	if len(b) < HeaderSize {
		return TextResponse{}, 0, short(OpTextResponse, b)
	}
	return TextResponse{
		Window: parseWindow(b), Final: b[1]&finalBit != 0, Continue: b[1]&0x40 != 0, LUN: LUN(b[8:16]),
		ITT: TaskTag(be.Uint32(b[16:])), TTT: TaskTag(be.Uint32(b[20:])), DataBytes: int(b[5])<<16 | int(b[6])<<8 | int(b[7]),
	}, HeaderSize, nil
}

// Append appends the header.
func (t *TextResponse) Append(b []byte) []byte {
	b, p := begin(b, OpTextResponse, flag(t.Final, finalBit)|flag(t.Continue, 0x40), t.DataBytes)
	t.put(p)
	copy(p[8:], t.LUN[:])
	be.PutUint32(p[16:], uint32(t.ITT))
	be.PutUint32(p[20:], uint32(t.TTT))
	return b
}

// Len is HeaderSize.
func (t *TextResponse) Len() int { return HeaderSize }
