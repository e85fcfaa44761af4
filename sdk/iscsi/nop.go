package iscsi

// NopOut is a NOP-Out PDU: a ping, with data that comes back, or the answer to one. 11.18
type NopOut struct {
	Order
	LUN       LUN
	ITT       TaskTag // NoTag: no answer is wanted
	TTT       TaskTag // of the NOP-In that it answers, or NoTag
	DataBytes int
}

// ParseNopOut decodes the first HeaderSize bytes of b.
func ParseNopOut(b []byte) (NopOut, int, error) {
	if len(b) < HeaderSize {
		return NopOut{}, 0, short(OpNopOut, b)
	}
	return NopOut{
		Order: parseOrder(b), LUN: LUN(b[8:16]), ITT: TaskTag(be.Uint32(b[16:])), TTT: TaskTag(be.Uint32(b[20:])),
		DataBytes: int(b[5])<<16 | int(b[6])<<8 | int(b[7]),
	}, HeaderSize, nil
}

// Append appends the header.
func (n *NopOut) Append(b []byte) []byte {
	b, p := begin(b, OpNopOut, finalBit, n.DataBytes)
	n.put(p)
	copy(p[8:], n.LUN[:])
	be.PutUint32(p[16:], uint32(n.ITT))
	be.PutUint32(p[20:], uint32(n.TTT))
	return b
}

// Len is HeaderSize.
func (n *NopOut) Len() int { return HeaderSize }

// NopIn is a NOP-In PDU. 11.19
type NopIn struct {
	Window
	LUN       LUN
	ITT       TaskTag // of the NOP-Out that it answers, or NoTag
	TTT       TaskTag // NoTag: no answer is wanted
	DataBytes int
}

// ParseNopIn decodes the first HeaderSize bytes of b.
func ParseNopIn(b []byte) (NopIn, int, error) {
	if len(b) < HeaderSize {
		return NopIn{}, 0, short(OpNopIn, b)
	}
	return NopIn{
		Window: parseWindow(b), LUN: LUN(b[8:16]), ITT: TaskTag(be.Uint32(b[16:])), TTT: TaskTag(be.Uint32(b[20:])),
		DataBytes: int(b[5])<<16 | int(b[6])<<8 | int(b[7]),
	}, HeaderSize, nil
}

// Append appends the header.
func (n *NopIn) Append(b []byte) []byte {
	b, p := begin(b, OpNopIn, finalBit, n.DataBytes)
	copy(p[8:], n.LUN[:])
	be.PutUint32(p[16:], uint32(n.ITT))
	be.PutUint32(p[20:], uint32(n.TTT))
	n.put(p)
	return b
}

// Len is HeaderSize.
func (n *NopIn) Len() int { return HeaderSize }
