package iscsi

// LogoutReason says what is to be closed. 11.14.1
type LogoutReason uint8

// The reasons.
const (
	LogoutSession    LogoutReason = 0
	LogoutConnection LogoutReason = 1
	LogoutRecovery   LogoutReason = 2
)

// LogoutRequest is a Logout Request PDU. 11.14
type LogoutRequest struct {
	Order
	Reason LogoutReason
	ITT    TaskTag
	CID    uint16 // of the connection to close; not for LogoutSession
}

// ParseLogoutRequest decodes the first HeaderSize bytes of b.
func ParseLogoutRequest(b []byte) (LogoutRequest, int, error) {
	if len(b) < HeaderSize {
		return LogoutRequest{}, 0, short(OpLogoutRequest, b)
	}
	return LogoutRequest{
		Order: parseOrder(b), Reason: LogoutReason(b[1] & 0x7f), ITT: TaskTag(be.Uint32(b[16:])), CID: be.Uint16(b[20:]),
	}, HeaderSize, nil
}

// Append appends the header.
func (l *LogoutRequest) Append(b []byte) []byte {
	b, p := begin(b, OpLogoutRequest, finalBit|byte(l.Reason&0x7f), 0)
	l.put(p)
	be.PutUint32(p[16:], uint32(l.ITT))
	be.PutUint16(p[20:], l.CID)
	return b
}

// Len is HeaderSize.
func (l *LogoutRequest) Len() int { return HeaderSize }

// LogoutResult is how a logout ended. 11.15.1
type LogoutResult uint8

// The results.
const (
	LogoutClosed      LogoutResult = 0
	LogoutNoCID       LogoutResult = 1
	LogoutNoRecovery  LogoutResult = 2
	LogoutCleanupFail LogoutResult = 3
)

// LogoutResponse is a Logout Response PDU. 11.15
type LogoutResponse struct {
	Window
	Result      LogoutResult
	ITT         TaskTag
	Time2Wait   uint16 // seconds before the initiator may log in again
	Time2Retain uint16 // seconds after that for which tasks are kept
}

// ParseLogoutResponse decodes the first HeaderSize bytes of b.
func ParseLogoutResponse(b []byte) (LogoutResponse, int, error) {
	if len(b) < HeaderSize {
		return LogoutResponse{}, 0, short(OpLogoutResponse, b)
	}
	return LogoutResponse{
		Window: parseWindow(b), Result: LogoutResult(b[2]), ITT: TaskTag(be.Uint32(b[16:])),
		Time2Wait: be.Uint16(b[40:]), Time2Retain: be.Uint16(b[42:]),
	}, HeaderSize, nil
}

// Append appends the header.
func (l *LogoutResponse) Append(b []byte) []byte {
	b, p := begin(b, OpLogoutResponse, finalBit, 0)
	p[2] = byte(l.Result)
	be.PutUint32(p[16:], uint32(l.ITT))
	l.put(p)
	be.PutUint16(p[40:], l.Time2Wait)
	be.PutUint16(p[42:], l.Time2Retain)
	return b
}

// Len is HeaderSize.
func (l *LogoutResponse) Len() int { return HeaderSize }
