package iscsi

// SCSIResponse is a SCSI Response PDU. Sense data, if there is any, is its data segment: a length of
// two bytes, then the sense data. 11.4
type SCSIResponse struct {
	Window
	Overflow, Underflow bool // of Residual
	Response            SCSIResponseCode
	Status              uint8 // SCSI status, valid if Response is ResponseCompleted
	ITT                 TaskTag
	ExpDataSN           SN // number of Data-In and R2T PDUs that were sent
	Residual            uint32
	DataBytes           int
}

// SCSIResponseCode says whether the target carried the command out. 11.4.3
type SCSIResponseCode uint8

// The responses.
const (
	ResponseCompleted     SCSIResponseCode = 0
	ResponseTargetFailure SCSIResponseCode = 1
)

// ParseSCSIResponse decodes the first HeaderSize bytes of b.
func ParseSCSIResponse(b []byte) (SCSIResponse, int, error) {
	if len(b) < HeaderSize {
		return SCSIResponse{}, 0, short(OpSCSIResponse, b)
	}
	return SCSIResponse{
		Window: parseWindow(b), Overflow: b[1]&4 != 0, Underflow: b[1]&2 != 0, Response: SCSIResponseCode(b[2]), Status: b[3],
		ITT: TaskTag(be.Uint32(b[16:])), ExpDataSN: SN(be.Uint32(b[36:])), Residual: be.Uint32(b[44:]),
		DataBytes: int(b[5])<<16 | int(b[6])<<8 | int(b[7]),
	}, HeaderSize, nil
}

// Append appends the header.
func (r *SCSIResponse) Append(b []byte) []byte {
	b, p := begin(b, OpSCSIResponse, finalBit|flag(r.Overflow, 4)|flag(r.Underflow, 2), r.DataBytes)
	p[2], p[3] = byte(r.Response), r.Status
	r.put(p)
	be.PutUint32(p[16:], uint32(r.ITT))
	be.PutUint32(p[36:], uint32(r.ExpDataSN))
	be.PutUint32(p[44:], r.Residual)
	return b
}

// Len is HeaderSize.
func (r *SCSIResponse) Len() int { return HeaderSize }
