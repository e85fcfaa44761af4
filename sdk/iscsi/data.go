package iscsi

// DataOut is a SCSI Data-Out PDU: data for the target. 11.7
type DataOut struct {
	Final     bool // last of its sequence
	LUN       LUN
	ITT       TaskTag
	TTT       TaskTag // of the R2T that it answers; NoTag for unsolicited data
	ExpStatSN SN
	DataSN    SN // 0 for the first of a sequence
	Offset    uint32
	DataBytes int
}

// ParseDataOut decodes the first HeaderSize bytes of b.
func ParseDataOut(b []byte) (DataOut, int, error) {
	if len(b) < HeaderSize {
		return DataOut{}, 0, short(OpDataOut, b)
	}
	return DataOut{
		Final: b[1]&finalBit != 0, LUN: LUN(b[8:16]), ITT: TaskTag(be.Uint32(b[16:])), TTT: TaskTag(be.Uint32(b[20:])),
		ExpStatSN: SN(be.Uint32(b[28:])), DataSN: SN(be.Uint32(b[36:])), Offset: be.Uint32(b[40:]),
		DataBytes: int(b[5])<<16 | int(b[6])<<8 | int(b[7]),
	}, HeaderSize, nil
}

// Append appends the header.
func (d *DataOut) Append(b []byte) []byte {
	b, p := begin(b, OpDataOut, flag(d.Final, finalBit), d.DataBytes)
	copy(p[8:], d.LUN[:])
	be.PutUint32(p[16:], uint32(d.ITT))
	be.PutUint32(p[20:], uint32(d.TTT))
	be.PutUint32(p[28:], uint32(d.ExpStatSN))
	be.PutUint32(p[36:], uint32(d.DataSN))
	be.PutUint32(p[40:], d.Offset)
	return b
}

// Len is HeaderSize.
func (d *DataOut) Len() int { return HeaderSize }

// DataIn is a SCSI Data-In PDU: data for the initiator. With HasStatus it is the command's response
// too, and StatSN, Status and Residual count. 11.7
type DataIn struct {
	Window
	Final               bool // last of its sequence
	Overflow, Underflow bool
	HasStatus           bool
	Status              uint8
	ITT                 TaskTag
	DataSN              SN
	Offset              uint32
	Residual            uint32
	DataBytes           int
}

// ParseDataIn decodes the first HeaderSize bytes of b.
func ParseDataIn(b []byte) (DataIn, int, error) {
	if len(b) < HeaderSize {
		return DataIn{}, 0, short(OpDataIn, b)
	}
	return DataIn{
		Window: parseWindow(b), Final: b[1]&finalBit != 0, Overflow: b[1]&4 != 0, Underflow: b[1]&2 != 0, HasStatus: b[1]&1 != 0,
		Status: b[3], ITT: TaskTag(be.Uint32(b[16:])), DataSN: SN(be.Uint32(b[36:])), Offset: be.Uint32(b[40:]),
		Residual: be.Uint32(b[44:]), DataBytes: int(b[5])<<16 | int(b[6])<<8 | int(b[7]),
	}, HeaderSize, nil
}

// Append appends the header.
func (d *DataIn) Append(b []byte) []byte {
	b, p := begin(b, OpDataIn, flag(d.Final, finalBit)|flag(d.Overflow, 4)|flag(d.Underflow, 2)|flag(d.HasStatus, 1), d.DataBytes)
	p[3] = d.Status
	be.PutUint32(p[16:], uint32(d.ITT))
	be.PutUint32(p[20:], uint32(NoTag))
	d.put(p)
	be.PutUint32(p[36:], uint32(d.DataSN))
	be.PutUint32(p[40:], d.Offset)
	be.PutUint32(p[44:], d.Residual)
	return b
}

// Len is HeaderSize.
func (d *DataIn) Len() int { return HeaderSize }

// R2T asks an initiator for data. 11.8
type R2T struct {
	Window // StatSN is the next one to come
	LUN    LUN
	ITT    TaskTag
	TTT    TaskTag
	R2TSN  SN
	Offset uint32
	Length uint32 // bytes
}

// ParseR2T decodes the first HeaderSize bytes of b.
func ParseR2T(b []byte) (R2T, int, error) {
	if len(b) < HeaderSize {
		return R2T{}, 0, short(OpR2T, b)
	}
	return R2T{
		Window: parseWindow(b), LUN: LUN(b[8:16]), ITT: TaskTag(be.Uint32(b[16:])), TTT: TaskTag(be.Uint32(b[20:])),
		R2TSN: SN(be.Uint32(b[36:])), Offset: be.Uint32(b[40:]), Length: be.Uint32(b[44:]),
	}, HeaderSize, nil
}

// Append appends the header.
func (r *R2T) Append(b []byte) []byte {
	b, p := begin(b, OpR2T, finalBit, 0)
	copy(p[8:], r.LUN[:])
	be.PutUint32(p[16:], uint32(r.ITT))
	be.PutUint32(p[20:], uint32(r.TTT))
	r.put(p)
	be.PutUint32(p[36:], uint32(r.R2TSN))
	be.PutUint32(p[40:], r.Offset)
	be.PutUint32(p[44:], r.Length)
	return b
}

// Len is HeaderSize.
func (r *R2T) Len() int { return HeaderSize }
