package nvmetcp

import "github.com/mooring-io/mooring/sdk/nvme"

// Data is the header of an H2CData or C2HData. TCP 3.6.2.8 and 3.6.2.9
type Data struct {
	Header
	CCCID  nvme.CommandID // the command whose data this is
	TTAG   TransferTag    // the R2T that asked for it; H2CData only
	Offset uint32         // DATAO: bytes from the start of the command's data
	Length uint32         // DATAL: bytes in this PDU
}

// ParseData decodes the header in the first 24 bytes of b. TTAG is 0 unless Type is TypeH2CData.
func ParseData(b []byte) (Data, int, error) {
	if len(b) < DataSize {
		return Data{}, 0, truncated("data PDU", b, DataSize)
	}
	d := Data{
		Header: parseHeader(b), CCCID: nvme.CommandID(le.Uint16(b[offCCCID:])),
		Offset: le.Uint32(b[offDATAO:]), Length: le.Uint32(b[offDATAL:]),
	}
	if d.Type == TypeH2CData {
		d.TTAG = TransferTag(le.Uint16(b[offTTAG:]))
	}
	return d, DataSize, nil
}

// Append appends the header as it stands; Link.AppendData computes it.
func (d Data) Append(b []byte) []byte {
	var p [DataSize - HeaderSize]byte
	le.PutUint16(p[offCCCID-HeaderSize:], uint16(d.CCCID))
	if d.Type == TypeH2CData {
		le.PutUint16(p[offTTAG-HeaderSize:], uint16(d.TTAG))
	}
	le.PutUint32(p[offDATAO-HeaderSize:], d.Offset)
	le.PutUint32(p[offDATAL-HeaderSize:], d.Length)
	return append(d.Header.Append(b), p[:]...)
}

// Len is DataSize.
func (d Data) Len() int { return DataSize }

// Expect is the data that may come next: the rest of an R2T, or of a command at the host.
type Expect struct {
	Next uint64 // offset of the next byte
	End  uint64 // offset after the last byte
	Max  uint32 // most bytes in one PDU: MAXH2CDATA; 0 for no limit (C2HData)
}

// CheckData judges a data PDU that passed Check against what may come next. The caller has
// found the command and the R2T (ErrCCCID, ErrTTAG). A C2HData with LAST_PDU may end early: a
// command need not fill the host's buffer. TCP 3.3.2.1 and 3.3.2.2
func (l *Link) CheckData(d Data, e Expect) *TermError {
	switch end := uint64(d.Offset) + uint64(d.Length); {
	case d.Offset%4 != 0:
		return ErrOffset
	case d.Length == 0 || d.Length%4 != 0 || d.Length != l.DataLen(d.Header):
		return ErrLength
	case end > e.End:
		return ErrOutOfRange
	case uint64(d.Offset) != e.Next:
		return ErrOutOfOrder
	case e.Max != 0 && d.Length > e.Max:
		return ErrDataLimit
	case d.Type == TypeH2CData && (end == e.End) != d.Has(FlagLast):
		return ErrLastFlag
	}
	return nil
}

// R2T asks the host for data. TCP 3.6.2.10
type R2T struct {
	Header
	CCCID  nvme.CommandID
	TTAG   TransferTag
	Offset uint32 // R2TO: bytes from the start of the command's data
	Length uint32 // R2TL: bytes asked for
}

// ParseR2T decodes the header in the first 24 bytes of b.
func ParseR2T(b []byte) (R2T, int, error) {
	if len(b) < R2TSize {
		return R2T{}, 0, truncated("R2T", b, R2TSize)
	}
	return R2T{
		Header: parseHeader(b), CCCID: nvme.CommandID(le.Uint16(b[offCCCID:])),
		TTAG:   TransferTag(le.Uint16(b[offTTAG:])),
		Offset: le.Uint32(b[offDATAO:]), Length: le.Uint32(b[offDATAL:]),
	}, R2TSize, nil
}

// Append appends the header as it stands; Link.AppendR2T computes it.
func (r R2T) Append(b []byte) []byte {
	var p [R2TSize - HeaderSize]byte
	le.PutUint16(p[offCCCID-HeaderSize:], uint16(r.CCCID))
	le.PutUint16(p[offTTAG-HeaderSize:], uint16(r.TTAG))
	le.PutUint32(p[offDATAO-HeaderSize:], r.Offset)
	le.PutUint32(p[offDATAL-HeaderSize:], r.Length)
	return append(r.Header.Append(b), p[:]...)
}

// Len is R2TSize.
func (r R2T) Len() int { return R2TSize }

// Check judges an R2T against the bytes [e.Next, e.End) of the command that no R2T has asked
// for yet. TCP 3.3.2.2
func (r R2T) Check(e Expect) *TermError {
	switch end := uint64(r.Offset) + uint64(r.Length); {
	case r.Offset%4 != 0:
		return ErrOffset
	case r.Length == 0 || r.Length%4 != 0:
		return ErrLength
	case end > e.End:
		return ErrOutOfRange
	case uint64(r.Offset) != e.Next:
		return ErrOutOfOrder
	}
	return nil
}
