package iscsi

import "fmt"

// Stage is a stage of the login phase. 11.12.3
type Stage uint8

// The stages.
const (
	StageSecurity    Stage = 0
	StageOperational Stage = 1
	StageFullFeature Stage = 3
)

// LoginRequest is a Login Request PDU; its data segment is key=value pairs. 11.12
type LoginRequest struct {
	Transit    bool // wants to go from Current to Next
	Continue   bool // the text goes on in the next request
	Current    Stage
	Next       Stage // meaningful with Transit
	VersionMax uint8
	VersionMin uint8
	ISID       ISID
	TSIH       uint16 // 0: a new session
	ITT        TaskTag
	CID        uint16
	CmdSN      SN
	ExpStatSN  SN
	AHSBytes   int
	DataBytes  int
}

// ParseLoginRequest decodes the first HeaderSize bytes of b.
func ParseLoginRequest(b []byte) (LoginRequest, int, error) {
	if len(b) < HeaderSize {
		return LoginRequest{}, 0, short(OpLoginRequest, b)
	}
	return LoginRequest{
		Transit: b[1]&finalBit != 0, Continue: b[1]&0x40 != 0, Current: Stage(b[1] >> 2 & 3), Next: Stage(b[1] & 3),
		VersionMax: b[2], VersionMin: b[3], ISID: ISID(b[8:14]), TSIH: be.Uint16(b[14:]), ITT: TaskTag(be.Uint32(b[16:])),
		CID: be.Uint16(b[20:]), CmdSN: SN(be.Uint32(b[24:])), ExpStatSN: SN(be.Uint32(b[28:])),
		AHSBytes: int(b[4]) * 4, DataBytes: int(b[5])<<16 | int(b[6])<<8 | int(b[7]),
	}, HeaderSize, nil
}

// Append appends the header. Login requests are immediate. 11.12
func (l *LoginRequest) Append(b []byte) []byte {
	b, p := begin(b, OpLoginRequest, flag(l.Transit, finalBit)|flag(l.Continue, 0x40)|byte(l.Current&3)<<2|byte(l.Next&3), l.DataBytes)
	p[0] |= immediateBit
	p[2], p[3], p[4] = l.VersionMax, l.VersionMin, byte(l.AHSBytes/4)
	copy(p[8:], l.ISID[:])
	be.PutUint16(p[14:], l.TSIH)
	be.PutUint32(p[16:], uint32(l.ITT))
	be.PutUint16(p[20:], l.CID)
	be.PutUint32(p[24:], uint32(l.CmdSN))
	be.PutUint32(p[28:], uint32(l.ExpStatSN))
	return b
}

// Len is HeaderSize.
func (l *LoginRequest) Len() int { return HeaderSize }

// LoginStatus is the class and detail of a Login Response, as class<<8 | detail. 11.13.5
type LoginStatus uint16

// The statuses.
const (
	LoginSuccess             LoginStatus = 0x0000
	LoginMovedTemporarily    LoginStatus = 0x0101
	LoginMovedPermanently    LoginStatus = 0x0102
	LoginInitiatorError      LoginStatus = 0x0200
	LoginAuthenticationError LoginStatus = 0x0201
	LoginAuthorizationError  LoginStatus = 0x0202
	LoginNotFound            LoginStatus = 0x0203
	LoginTargetRemoved       LoginStatus = 0x0204
	LoginUnsupportedVersion  LoginStatus = 0x0205
	LoginTooManyConnections  LoginStatus = 0x0206
	LoginMissingParameter    LoginStatus = 0x0207
	LoginCannotInclude       LoginStatus = 0x0208
	LoginSessionType         LoginStatus = 0x0209
	LoginNoSession           LoginStatus = 0x020a
	LoginInvalidRequest      LoginStatus = 0x020b
	LoginTargetError         LoginStatus = 0x0300
	LoginServiceUnavailable  LoginStatus = 0x0301
	LoginOutOfResources      LoginStatus = 0x0302
)

var loginStatusNames = map[LoginStatus]string{
	LoginSuccess: "success", LoginMovedTemporarily: "target moved temporarily", LoginMovedPermanently: "target moved permanently",
	LoginInitiatorError: "initiator error", LoginAuthenticationError: "authentication failure",
	LoginAuthorizationError: "authorization failure", LoginNotFound: "not found", LoginTargetRemoved: "target removed",
	LoginUnsupportedVersion: "unsupported version", LoginTooManyConnections: "too many connections",
	LoginMissingParameter: "missing parameter", LoginCannotInclude: "cannot include in session",
	LoginSessionType: "session type not supported", LoginNoSession: "session does not exist",
	LoginInvalidRequest: "invalid during login", LoginTargetError: "target error",
	LoginServiceUnavailable: "service unavailable", LoginOutOfResources: "out of resources",
}

// String names the status.
func (s LoginStatus) String() string {
	if n, ok := loginStatusNames[s]; ok {
		return n
	}
	return fmt.Sprintf("login status %04x", uint16(s))
}

// LoginResponse is a Login Response PDU; its data segment is key=value pairs. 11.13
type LoginResponse struct {
	Window        // StatSN counts only with status 0
	Transit       bool
	Continue      bool
	Current       Stage
	Next          Stage
	VersionMax    uint8
	VersionActive uint8
	ISID          ISID
	TSIH          uint16
	ITT           TaskTag
	Status        LoginStatus
	DataBytes     int
}

// ParseLoginResponse decodes the first HeaderSize bytes of b.
func ParseLoginResponse(b []byte) (LoginResponse, int, error) {
	if len(b) < HeaderSize {
		return LoginResponse{}, 0, short(OpLoginResponse, b)
	}
	return LoginResponse{
		Window: parseWindow(b), Transit: b[1]&finalBit != 0, Continue: b[1]&0x40 != 0, Current: Stage(b[1] >> 2 & 3), Next: Stage(b[1] & 3),
		VersionMax: b[2], VersionActive: b[3], ISID: ISID(b[8:14]), TSIH: be.Uint16(b[14:]), ITT: TaskTag(be.Uint32(b[16:])),
		Status: LoginStatus(be.Uint16(b[36:])), DataBytes: int(b[5])<<16 | int(b[6])<<8 | int(b[7]),
	}, HeaderSize, nil
}

// Append appends the header.
func (l *LoginResponse) Append(b []byte) []byte {
	b, p := begin(b, OpLoginResponse, flag(l.Transit, finalBit)|flag(l.Continue, 0x40)|byte(l.Current&3)<<2|byte(l.Next&3), l.DataBytes)
	p[2], p[3] = l.VersionMax, l.VersionActive
	copy(p[8:], l.ISID[:])
	be.PutUint16(p[14:], l.TSIH)
	be.PutUint32(p[16:], uint32(l.ITT))
	l.put(p)
	be.PutUint16(p[36:], uint16(l.Status))
	return b
}

// Len is HeaderSize.
func (l *LoginResponse) Len() int { return HeaderSize }
