package scsi

// LUN is a logical unit number of a device with one level. SAM-5 4.7
type LUN uint16

// MaxLUN is the highest that fits the flat space addressing method. SAM-5 4.7.6.3
const MaxLUN LUN = 1<<14 - 1

// ParseLUN decodes an 8-byte field. ok is false for addressing methods and levels that name no
// unit of a device with one level.
func ParseLUN(b [8]byte) (l LUN, ok bool) {
	for _, c := range b[2:] {
		if c != 0 {
			return 0, false
		}
	}
	switch b[0] >> 6 {
	case 0: // peripheral device addressing, bus 0
		return LUN(b[1]), b[0] == 0
	case 1:
		return LUN(be.Uint16(b[:])) & MaxLUN, true
	}
	return 0, false
}

// Field encodes l: by peripheral device addressing where it fits.
func (l LUN) Field() (b [8]byte) {
	if l > 255 {
		b[0] = 0x40 | byte(l>>8)
	}
	b[1] = byte(l)
	return b
}

// AppendLUNs appends the parameter data of REPORT LUNS. SPC-4 6.33
func AppendLUNs(b []byte, luns []LUN) []byte {
	b = be.AppendUint32(b, uint32(len(luns)*8))
	b = append(b, 0, 0, 0, 0)
	for _, l := range luns {
		f := l.Field()
		b = append(b, f[:]...)
	}
	return b
}

// ParseLUNs decodes the parameter data of REPORT LUNS; fields that ParseLUN does not know are left
// out.
func ParseLUNs(b []byte) ([]LUN, error) {
	if err := need("list of LUNs", b, 8); err != nil {
		return nil, err
	}
	var out []LUN
	for d := b[8:min(uint64(len(b)), 8+uint64(be.Uint32(b)))]; len(d) >= 8; d = d[8:] {
		if l, ok := ParseLUN([8]byte(d)); ok {
			out = append(out, l)
		}
	}
	return out, nil
}
