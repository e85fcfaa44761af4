package nvme

// SGLSize is the length of an SGL descriptor in bytes. Base 4.1.2
const SGLSize = 16

// SGLType is the kind of an SGL descriptor. Base 4.1.2
type SGLType uint8

// Kinds of SGL descriptors.
const (
	SGLDataBlock      SGLType = 0x0
	SGLBitBucket      SGLType = 0x1
	SGLSegment        SGLType = 0x2
	SGLLastSegment    SGLType = 0x3
	SGLKeyedDataBlock SGLType = 0x4
	SGLTransportData  SGLType = 0x5
	SGLVendor         SGLType = 0xf
)

// SGLSubtype qualifies an SGLType. Base 4.1.2
type SGLSubtype uint8

// Subtypes. SGLTransport (Ah to Fh are transport specific) with SGLTransportData is how a
// host asks NVMe/TCP to move data by R2T or C2HData; SGLInvalidateKey with SGLKeyedDataBlock
// asks an RDMA controller to invalidate the key when it completes the command.
const (
	SGLAddress       SGLSubtype = 0x0
	SGLOffset        SGLSubtype = 0x1
	SGLTransport     SGLSubtype = 0xa
	SGLInvalidateKey SGLSubtype = 0xf
)

// SGL is an SGL descriptor. Base 4.1.2
type SGL struct {
	Type    SGLType
	Subtype SGLSubtype
	Address uint64 // host memory address, or for SGLOffset an offset within the capsule, in bytes
	Length  uint32 // bytes; 24 bits wide when the descriptor is keyed
	Key     uint32 // keyed descriptors only
}

// MaxKeyedLength is the most bytes that a keyed data block can name. Base 4.1.2.4
const MaxKeyedLength = 1<<24 - 1

// InCapsule returns the descriptor of n bytes at offset off of the capsule's data. Base 4.1.2.2
func InCapsule(off uint64, n uint32) SGL {
	return SGL{Type: SGLDataBlock, Subtype: SGLOffset, Address: off, Length: n}
}

// TransportSGL returns the descriptor of n bytes that the transport moves. Base 4.1.2.5
func TransportSGL(n uint32) SGL {
	return SGL{Type: SGLTransportData, Subtype: SGLTransport, Length: n}
}

// ParseSGL decodes the descriptor in the first 16 bytes of b.
func ParseSGL(b []byte) (SGL, int, error) {
	if len(b) < SGLSize {
		return SGL{}, 0, need("SGL descriptor", b, SGLSize)
	}
	return parseSGL(b), SGLSize, nil
}

// Is reports whether the descriptor has this type and subtype.
func (s SGL) Is(t SGLType, st SGLSubtype) bool { return s.Type == t && s.Subtype == st }

// Append appends the wire form. A keyed length above MaxKeyedLength loses its high bits.
func (s SGL) Append(b []byte) []byte {
	b, d := grow(b, SGLSize)
	s.put(d)
	return b
}

// Len is SGLSize.
func (s SGL) Len() int { return SGLSize }

func parseSGL(b []byte) SGL {
	_ = b[SGLSize-1]
	s := SGL{
		Type: SGLType(b[15] >> 4), Subtype: SGLSubtype(b[15] & 0xf),
		Address: le.Uint64(b), Length: le.Uint32(b[8:]),
	}
	if s.Type == SGLKeyedDataBlock {
		s.Length &= MaxKeyedLength
		s.Key = le.Uint32(b[11:])
	}
	return s
}

func (s SGL) put(b []byte) {
	_ = b[SGLSize-1]
	le.PutUint64(b, s.Address)
	le.PutUint32(b[8:], s.Length)
	le.PutUint32(b[12:], 0)
	if s.Type == SGLKeyedDataBlock {
		le.PutUint32(b[11:], s.Key)
	}
	b[15] = byte(s.Type)<<4 | byte(s.Subtype)&0xf
}
