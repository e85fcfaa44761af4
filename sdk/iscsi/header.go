package iscsi

const (
	immediateBit = 0x40
	opcodeMask   = 0x3f
	finalBit     = 0x80
)

// Header is what all basic header segments have in common. 11.2.1
type Header struct {
	Opcode    Opcode
	Immediate bool
	Final     bool // F, or T of a login
	AHSBytes  int  // of all additional header segments
	DataBytes int  // of the data segment, without padding
	ITT       TaskTag
}

// ParseHeader decodes the first HeaderSize bytes of b.
func ParseHeader(b []byte) (Header, int, error) {
	if len(b) < HeaderSize {
		return Header{}, 0, &ShortError{"PDU header", len(b), HeaderSize}
	}
	return Header{
		Opcode: Opcode(b[0] & opcodeMask), Immediate: b[0]&immediateBit != 0, Final: b[1]&finalBit != 0,
		AHSBytes: int(b[4]) * 4, DataBytes: int(b[5])<<16 | int(b[6])<<8 | int(b[7]), ITT: TaskTag(be.Uint32(b[16:])),
	}, HeaderSize, nil
}

// Link is how PDUs stand on the wire in the full feature phase, in both directions.
type Link struct {
	HeaderDigest bool
	DataDigest   bool
}

// HeaderLen is the length of a PDU up to its data: header segments and header digest.
func (l Link) HeaderLen(h Header) int {
	n := HeaderSize + h.AHSBytes
	if l.HeaderDigest {
		n += DigestSize
	}
	return n
}

// TailLen is the length of what follows n bytes of data: padding and data digest.
func (l Link) TailLen(n int) int {
	if n == 0 {
		return 0
	}
	pad := Padding(n)
	if l.DataDigest {
		pad += DigestSize
	}
	return pad
}

// Padding is how many bytes follow n bytes to make a multiple of 4. 11.2.3
func Padding(n int) int { return -n & 3 }

// SealHeader appends the header digest of the PDU whose header segments begin at b[start], if the
// link has one.
func (l Link) SealHeader(b []byte, start int) []byte {
	if l.HeaderDigest {
		b = AppendDigest(b, Digest(b[start:]))
	}
	return b
}

// AppendTail appends what follows data: padding and the data digest.
func (l Link) AppendTail(b, data []byte) []byte {
	if len(data) == 0 {
		return b
	}
	pad := zeros[:Padding(len(data))]
	b = append(b, pad...)
	if l.DataDigest {
		b = AppendDigest(b, UpdateDigest(Digest(data), pad))
	}
	return b
}
