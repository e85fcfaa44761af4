package nvme

// layout walks the fields of a structure over its wire form, either way: each structure lists
// its offsets once, in a method that both Parse and Append run. It is for structures off the
// hot path. The bytes must be as long as the structure.
type layout struct {
	b     []byte
	write bool
}

type unsigned interface {
	~uint8 | ~uint16 | ~uint32 | ~uint64
}

// num is a little-endian number of T's width.
func num[T unsigned](l layout, off int, v *T) {
	p := l.b[off:]
	switch uint64(^T(0)) {
	case 0xff:
		if l.write {
			p[0] = byte(*v)
		} else {
			*v = T(p[0])
		}
	case 0xffff:
		if l.write {
			le.PutUint16(p, uint16(*v))
		} else {
			*v = T(le.Uint16(p))
		}
	case 0xffff_ffff:
		if l.write {
			le.PutUint32(p, uint32(*v))
		} else {
			*v = T(le.Uint32(p))
		}
	default:
		if l.write {
			le.PutUint64(p, uint64(*v))
		} else {
			*v = T(le.Uint64(p))
		}
	}
}

// count8 is a zero-based byte as a count of 1 to 256.
func (l layout) count8(off int, v *uint16) {
	if l.write {
		l.b[off] = toZeroBased[uint8](*v)
	} else {
		*v = uint16(l.b[off]) + 1
	}
}

// count16 is a zero-based 16-bit field as a count of 1 to 65,536.
func (l layout) count16(off int, v *uint32) {
	if l.write {
		le.PutUint16(l.b[off:], toZeroBased[uint16](*v))
	} else {
		*v = uint32(le.Uint16(l.b[off:])) + 1
	}
}

func (l layout) u128(off int, v *Uint128) {
	if l.write {
		v.put(l.b[off:])
	} else {
		*v = parse128(l.b[off:])
	}
}

func (l layout) bytes(off int, v []byte) {
	if l.write {
		copy(l.b[off:], v)
	} else {
		copy(v, l.b[off:])
	}
}

// ascii is a string padded with spaces.
func (l layout) ascii(off, n int, v *string) {
	if l.write {
		putASCII(l.b[off:off+n], *v)
	} else {
		*v = parseASCII(l.b[off : off+n])
	}
}

// utf8 is a string padded with NULs.
func (l layout) utf8(off, n int, v *string) {
	if l.write {
		putUTF8(l.b[off:off+n], *v)
	} else {
		*v = parseUTF8(l.b[off : off+n])
	}
}

// flag is one bit of a byte.
func (l layout) flag(off int, mask byte, v *bool) {
	switch {
	case !l.write:
		*v = l.b[off]&mask != 0
	case *v:
		l.b[off] |= mask
	}
}

// laidOut is a structure of a fixed size whose fields a layout walks.
type laidOut interface{ fields(l layout) }

// parseFixed fills v from the first size bytes of b.
func parseFixed(what string, v laidOut, b []byte, size int) (int, error) {
	if err := need(what, b, size); err != nil {
		return 0, err
	}
	v.fields(layout{b: b[:size:size]})
	return size, nil
}

// appendFixed appends v in size bytes.
func appendFixed(b []byte, v laidOut, size int) []byte {
	b, p := grow(b, size)
	v.fields(layout{b: p, write: true})
	return b
}
