package nvmetcp

import "fmt"

// FES is the fatal error status of a TermReq. TCP 3.6.2.4 and 3.6.2.5
type FES uint16

// Fatal error statuses.
const (
	FESInvalidHeader        FES = 0x01 // FEI is the offset of the field in the header
	FESSequence             FES = 0x02
	FESHeaderDigest         FES = 0x03 // FEI is the HDGST as received
	FESOutOfRange           FES = 0x04
	FESLimitExceeded        FES = 0x05 // R2Ts above MAXR2T, or data above MAXH2CDATA
	FESUnsupportedParameter FES = 0x06 // FEI is the offset of the field in the header
)

// String names the status.
func (f FES) String() string {
	switch f {
	case FESInvalidHeader:
		return "invalid PDU header field"
	case FESSequence:
		return "PDU sequence error"
	case FESHeaderDigest:
		return "header digest error"
	case FESOutOfRange:
		return "data transfer out of range"
	case FESLimitExceeded:
		return "data transfer limit or R2T limit exceeded"
	case FESUnsupportedParameter:
		return "unsupported parameter"
	}
	return fmt.Sprintf("fatal error status %02xh", uint16(f))
}

// TermError is the peer's fault that ends a connection, with what the TermReq says about it.
// The values below are shared: compare them by identity, never change them.
type TermError struct {
	FES FES // 0: close the connection without a TermReq
	FEI uint32
	Why string // the rule that was broken
}

// Error says what the peer did wrong.
func (e *TermError) Error() string {
	if e.FES == 0 {
		return "peer sent a bad PDU: " + e.Why
	}
	return fmt.Sprintf("peer sent a bad PDU: %s (%s, information %#x)", e.Why, e.FES, e.FEI)
}

// Silent reports that no TermReq may answer the error.
func (e *TermError) Silent() bool { return e.FES == 0 }

// Offsets of the fields that errors name.
const (
	offType  = 0
	offFlags = 1
	offHLEN  = 2
	offPDO   = 3
	offPLEN  = 4
	offPFV   = 8
	offPDA   = 10
	offDGST  = 11
	offMAX   = 12 // MAXR2T or MAXH2CDATA
	offFES   = 8
	offFEI   = 10
	offCCCID = 8
	offTTAG  = 10
	offDATAO = 12 // or R2TO
	offDATAL = 16 // or R2TL
)

// The table of fatal errors: each rule of the standard, its status, and the field it names.
// Where several fields are wrong the lowest offset is reported, as the standard asks. TCP 3.1,
// 3.3, 3.5 and 3.6.2
var (
	ErrType        = &TermError{FESInvalidHeader, offType, "PDU type is unknown or goes the other way"}
	ErrDigestFlags = &TermError{FESInvalidHeader, offFlags, "digest flags are not what was negotiated"}
	ErrSuccessFlag = &TermError{FESInvalidHeader, offFlags, "SUCCESS without LAST_PDU"}
	ErrHLEN        = &TermError{FESInvalidHeader, offHLEN, "HLEN is not that of the PDU type"}
	ErrPDO         = &TermError{FESInvalidHeader, offPDO, "PDO lies within the header, past the end, or is not aligned"}
	ErrPLEN        = &TermError{FESInvalidHeader, offPLEN, "PLEN does not fit the PDU type"}
	ErrTermReqSize = &TermError{0, 0, "TermReq of invalid length"}

	ErrPFV        = &TermError{FESUnsupportedParameter, offPFV, "PDU format version is not 0"}
	ErrPDA        = &TermError{FESInvalidHeader, offPDA, "data alignment is above 128 bytes"}
	ErrMaxH2CData = &TermError{FESInvalidHeader, offMAX, "MAXH2CDATA is 0 or not a multiple of 4"}
	// ErrDigestNotAsked: an ICResp enables a digest that the ICReq did not ask for. TCP 3.3.1.1
	ErrDigestNotAsked = &TermError{FESInvalidHeader, offDGST, "digest enabled that the host did not ask for"}

	ErrCCCID       = &TermError{FESInvalidHeader, offCCCID, "CCCID names no command that is transferring data"}
	ErrTTAG        = &TermError{FESInvalidHeader, offTTAG, "TTAG names no outstanding R2T of the command"}
	ErrOffset      = &TermError{FESInvalidHeader, offDATAO, "data offset is not a multiple of 4"}
	ErrLength      = &TermError{FESInvalidHeader, offDATAL, "data length is 0, not a multiple of 4, or not the PDU's"}
	ErrLastFlag    = &TermError{FESInvalidHeader, offFlags, "LAST_PDU set too early, or missing on the last one"}
	ErrOutOfOrder  = &TermError{FESSequence, 0, "data PDU does not continue where the previous one ended"}
	ErrOutOfRange  = &TermError{FESOutOfRange, 0, "data lies outside what was asked for"}
	ErrDataLimit   = &TermError{FESLimitExceeded, 0, "H2CData longer than MAXH2CDATA"}
	ErrR2TLimit    = &TermError{FESLimitExceeded, 0, "more R2Ts outstanding than MAXR2T"}
	ErrSequence    = &TermError{FESSequence, 0, "PDU is not expected in this state"}
	ErrInCapsule   = &TermError{FESInvalidHeader, offPLEN, "in-capsule data is not what the command describes"}
	ErrCapsuleSize = &TermError{FESLimitExceeded, 0, "in-capsule data longer than the controller accepts"}
)
