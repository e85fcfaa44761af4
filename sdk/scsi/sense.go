package scsi

import "fmt"

// SenseKey is the general nature of sense data. SPC-4 4.5.6
type SenseKey uint8

// The sense keys.
const (
	NoSense        SenseKey = 0x0
	RecoveredError SenseKey = 0x1
	NotReady       SenseKey = 0x2
	MediumError    SenseKey = 0x3
	HardwareError  SenseKey = 0x4
	IllegalRequest SenseKey = 0x5
	UnitAttention  SenseKey = 0x6
	DataProtect    SenseKey = 0x7
	CopyAborted    SenseKey = 0xa
	AbortedCommand SenseKey = 0xb
	Miscompare     SenseKey = 0xe
)

var senseKeyNames = map[SenseKey]string{
	NoSense: "no sense", RecoveredError: "recovered error", NotReady: "not ready", MediumError: "medium error",
	HardwareError: "hardware error", IllegalRequest: "illegal request", UnitAttention: "unit attention",
	DataProtect: "data protect", CopyAborted: "copy aborted", AbortedCommand: "aborted command", Miscompare: "miscompare",
}

// String names the key.
func (k SenseKey) String() string {
	if s, ok := senseKeyNames[k]; ok {
		return s
	}
	return fmt.Sprintf("sense key %xh", uint8(k))
}

// ASC is an additional sense code and its qualifier, as code<<8 | qualifier. SPC-4 annex F
type ASC uint16

// Additional sense codes.
const (
	ASCNone                   ASC = 0x0000
	ASCAsymmetricTransition   ASC = 0x040a
	ASCStandby                ASC = 0x040b
	ASCUnavailable            ASC = 0x040c
	ASCUnreachableTarget      ASC = 0x0804
	ASCWriteError             ASC = 0x0c00
	ASCThirdPartyFailed       ASC = 0x0d01
	ASCCopyTargetUnreachable  ASC = 0x0d02
	ASCUnrecoveredRead        ASC = 0x1100
	ASCParameterListLength    ASC = 0x1a00
	ASCMiscompare             ASC = 0x1d00
	ASCInvalidOpcode          ASC = 0x2000
	ASCLBAOutOfRange          ASC = 0x2100
	ASCInvalidFieldInCDB      ASC = 0x2400
	ASCNoSuchUnit             ASC = 0x2500
	ASCInvalidFieldInList     ASC = 0x2600
	ASCInvalidRelease         ASC = 0x2604
	ASCTooManyTargets         ASC = 0x2606
	ASCUnsupportedTarget      ASC = 0x2607
	ASCTooManySegments        ASC = 0x2608
	ASCUnsupportedSegment     ASC = 0x2609
	ASCInlineDataExceeded     ASC = 0x260b
	ASCWriteProtected         ASC = 0x2700
	ASCSpaceAllocationFailed  ASC = 0x2707
	ASCReset                  ASC = 0x2900 // of whatever kind
	ASCPowerOn                ASC = 0x2901
	ASCBusReset               ASC = 0x2902
	ASCUnitReset              ASC = 0x2903
	ASCNexusLoss              ASC = 0x2907
	ASCModeParametersChanged  ASC = 0x2a01
	ASCReservationsPreempted  ASC = 0x2a03
	ASCReservationsReleased   ASC = 0x2a04
	ASCRegistrationsPreempted ASC = 0x2a05
	ASCAsymmetricStateChanged ASC = 0x2a06
	ASCCapacityChanged        ASC = 0x2a09
	ASCCommandSequence        ASC = 0x2c00
	ASCCommandsCleared        ASC = 0x2f00
	ASCSavingNotSupported     ASC = 0x3900
	ASCInquiryDataChanged     ASC = 0x3f03
	ASCReportedLUNsChanged    ASC = 0x3f0e
	ASCInternalTargetFailure  ASC = 0x4400
	ASCInsufficientResources  ASC = 0x5503
	ASCRegistrationResources  ASC = 0x5504
	ASCUnexpectedData         ASC = 0x0c0c // unexpected unsolicited data
	ASCNotEnoughData          ASC = 0x0c0d // not enough unsolicited data
	ASCInvalidFieldInUnit     ASC = 0x0e03 // in command information unit
	ASCDigestError            ASC = 0x4705 // protocol service CRC error
	ASCDataPhase              ASC = 0x4b00
)

// Sense is sense data of a current error. SPC-4 4.5
type Sense struct {
	Key ASCKey
	// HasInfo says that Info counts: the first LBA in error, or what else the command says.
	HasInfo bool
	Info    uint64
	// Field points to what was wrong with an IllegalRequest.
	Field Field
}

// ASCKey is a sense key with an additional sense code.
type ASCKey struct {
	Key SenseKey
	ASC ASC
}

// String names both.
func (k ASCKey) String() string {
	return fmt.Sprintf("%s, additional sense code %02x/%02x", k.Key, uint16(k.ASC)>>8, uint8(k.ASC))
}

// Field is a field in error. The zero value is none. SPC-4 4.5.2.4.2
type Field struct {
	Valid bool
	List  bool // in the parameter list, else in the CDB
	Byte  uint16
	Bit   int8 // of the field's most significant bit; negative: not told
}

// FixedSenseSize and DescriptorSenseSize are the most that Append appends in bytes.
const (
	FixedSenseSize      = 18
	DescriptorSenseSize = 8 + 12 + 8
)

// Append appends the sense data, in the descriptor or the fixed format. SPC-4 4.5.2 and 4.5.3
func (s *Sense) Append(b []byte, descriptors bool) []byte {
	if descriptors {
		return s.appendDescriptors(b)
	}
	b, p := grow(b, FixedSenseSize)
	p[0] = 0x70
	if s.HasInfo && s.Info <= 0xffff_ffff { // else it cannot be told
		p[0] |= 0x80
		be.PutUint32(p[3:], uint32(s.Info))
	}
	p[2] = byte(s.Key.Key)
	p[7] = FixedSenseSize - 8
	be.PutUint16(p[12:], uint16(s.Key.ASC))
	s.Field.put(p[15:])
	return b
}

func (s *Sense) appendDescriptors(b []byte) []byte {
	start := len(b)
	b = append(b, 0x72, byte(s.Key.Key), byte(s.Key.ASC>>8), byte(s.Key.ASC), 0, 0, 0, 0)
	if s.HasInfo {
		b = append(b, 0x00, 0x0a, 0x80, 0)
		b = be.AppendUint64(b, s.Info)
	}
	if s.Field.Valid {
		var p []byte
		b, p = grow(b, 8)
		p[0], p[1] = 0x02, 0x06
		s.Field.put(p[4:])
	}
	b[start+7] = byte(len(b) - start - 8)
	return b
}

func (f Field) put(p []byte) {
	if !f.Valid {
		return
	}
	p[0] = 0x80 | flag(!f.List, 0x40)
	if f.Bit >= 0 {
		p[0] |= 0x08 | byte(f.Bit&7)
	}
	be.PutUint16(p[1:], f.Byte)
}

// ParseSense decodes sense data of either format. Descriptors that are not known are passed over.
func ParseSense(b []byte) (Sense, error) {
	var s Sense
	if err := need("sense data", b, 8); err != nil {
		return s, err
	}
	switch b[0] & 0x7f {
	case 0x70, 0x71:
		s.Key.Key = SenseKey(b[2] & 0xf)
		if b[0]&0x80 != 0 {
			s.HasInfo, s.Info = true, uint64(be.Uint32(b[3:]))
		}
		if n := min(len(b), 8+int(b[7])); n >= 14 {
			s.Key.ASC = ASC(be.Uint16(b[12:]))
			if n >= 18 {
				s.Field = parseField(b[15:])
			}
		}
		return s, nil
	case 0x72, 0x73:
		s.Key = ASCKey{SenseKey(b[1] & 0xf), ASC(be.Uint16(b[2:]))}
		for d := b[8:min(len(b), 8+int(b[7]))]; len(d) >= 2 && len(d) >= 2+int(d[1]); d = d[2+int(d[1]):] {
			switch {
			case d[0] == 0 && d[1] >= 10 && d[2]&0x80 != 0:
				s.HasInfo, s.Info = true, be.Uint64(d[4:])
			case d[0] == 2 && d[1] >= 6:
				s.Field = parseField(d[4:])
			}
		}
		return s, nil
	}
	return s, fmt.Errorf("sense data of response code %02xh", b[0]&0x7f)
}

func parseField(p []byte) Field {
	if p[0]&0x80 == 0 {
		return Field{}
	}
	f := Field{Valid: true, List: p[0]&0x40 == 0, Byte: be.Uint16(p[1:]), Bit: -1}
	if p[0]&0x08 != 0 {
		f.Bit = int8(p[0] & 7)
	}
	return f
}
