package scsi

// PersistentType is the type of a persistent reservation. SPC-4 6.15.3.4
type PersistentType uint8

// The types.
const (
	PersistentNone                PersistentType = 0
	WriteExclusive                PersistentType = 1
	ExclusiveAccess               PersistentType = 3
	WriteExclusiveRegistrants     PersistentType = 5
	ExclusiveAccessRegistrants    PersistentType = 6
	WriteExclusiveAllRegistrants  PersistentType = 7
	ExclusiveAccessAllRegistrants PersistentType = 8
)

// Valid says whether t is one of the types.
func (t PersistentType) Valid() bool {
	switch t {
	case WriteExclusive, ExclusiveAccess, WriteExclusiveRegistrants, ExclusiveAccessRegistrants,
		WriteExclusiveAllRegistrants, ExclusiveAccessAllRegistrants:
		return true
	case PersistentNone:
	}
	return false
}

// Service actions of PERSISTENT RESERVE IN. SPC-4 6.15
const (
	PersistentReadKeys       uint8 = 0
	PersistentReadHolder     uint8 = 1
	PersistentCapabilities   uint8 = 2
	PersistentReadFullStatus uint8 = 3
)

// Service actions of PERSISTENT RESERVE OUT. SPC-4 6.16
const (
	PersistentRegister        uint8 = 0
	PersistentReserve         uint8 = 1
	PersistentRelease         uint8 = 2
	PersistentClear           uint8 = 3
	PersistentPreempt         uint8 = 4
	PersistentPreemptAbort    uint8 = 5
	PersistentRegisterIgnore  uint8 = 6
	PersistentRegisterAndMove uint8 = 7
)

// PersistentParameters is the parameter list of PERSISTENT RESERVE OUT. SPC-4 6.16.3
type PersistentParameters struct {
	Key       uint64 // RESERVATION KEY
	ActionKey uint64 // SERVICE ACTION RESERVATION KEY
	SpecPorts bool   // SPEC_I_PT
	AllPorts  bool   // ALL_TG_PT
	PowerLoss bool   // APTPL
}

// PersistentListSize is the length of the list in bytes, but for REGISTER AND MOVE.
const PersistentListSize = 24

// ParsePersistent decodes the list.
func ParsePersistent(b []byte) (PersistentParameters, error) {
	if err := need("PERSISTENT RESERVE OUT parameter list", b, PersistentListSize); err != nil {
		return PersistentParameters{}, err
	}
	return PersistentParameters{
		Key: be.Uint64(b), ActionKey: be.Uint64(b[8:]), SpecPorts: b[20]&0x08 != 0, AllPorts: b[20]&0x04 != 0, PowerLoss: b[20]&0x01 != 0,
	}, nil
}

// Append appends the list.
func (p PersistentParameters) Append(b []byte) []byte {
	b = be.AppendUint64(b, p.Key)
	b = be.AppendUint64(b, p.ActionKey)
	return append(b, 0, 0, 0, 0, flag(p.SpecPorts, 0x08)|flag(p.AllPorts, 0x04)|flag(p.PowerLoss, 0x01), 0, 0, 0)
}

// PersistentRegistrant is one registration of a Status.
type PersistentRegistrant struct {
	Key    uint64
	Holder bool
	// TransportID names the initiator port; see AppendTransportID.
	TransportID []byte
	Port        uint16 // relative target port
}

// PersistentStatus is what PERSISTENT RESERVE IN reads. SPC-4 6.15
type PersistentStatus struct {
	Generation  uint32
	Type        PersistentType // PersistentNone: nobody holds it
	Registrants []PersistentRegistrant
}

// AppendKeys appends the data of READ KEYS.
func (s *PersistentStatus) AppendKeys(b []byte) []byte {
	b = be.AppendUint32(b, s.Generation)
	b = be.AppendUint32(b, uint32(8*len(s.Registrants)))
	for _, r := range s.Registrants {
		b = be.AppendUint64(b, r.Key)
	}
	return b
}

// AppendHolder appends the data of READ RESERVATION. One that all registrants hold has key 0.
func (s *PersistentStatus) AppendHolder(b []byte) []byte {
	b = be.AppendUint32(b, s.Generation)
	if s.Type == PersistentNone {
		return be.AppendUint32(b, 0)
	}
	b = be.AppendUint32(b, 16)
	var key uint64
	for _, r := range s.Registrants {
		if r.Holder && s.Type != WriteExclusiveAllRegistrants && s.Type != ExclusiveAccessAllRegistrants {
			key = r.Key
		}
	}
	b = be.AppendUint64(b, key)
	return append(b, 0, 0, 0, 0, 0, byte(s.Type), 0, 0)
}

// AppendFull appends the data of READ FULL STATUS. SPC-4 6.15.5
func (s *PersistentStatus) AppendFull(b []byte) []byte {
	b = be.AppendUint32(b, s.Generation)
	start := len(b)
	b = be.AppendUint32(b, 0)
	for _, r := range s.Registrants {
		b = be.AppendUint64(b, r.Key)
		t := byte(0)
		if r.Holder {
			t = byte(s.Type)
		}
		b = append(b, 0, 0, 0, 0, flag(r.Holder, 1), t, 0, 0, 0, 0)
		b = be.AppendUint16(b, r.Port)
		b = be.AppendUint32(b, uint32(len(r.TransportID)))
		b = append(b, r.TransportID...)
	}
	be.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

// AppendPersistentCapabilities appends the data of REPORT CAPABILITIES: registrations survive power
// loss where APTPL says so, every type is there, and what a reservation lets through is that of
// allow commands 001b. SPC-4 6.15.4
func AppendPersistentCapabilities(b []byte, powerLoss bool) []byte {
	b = be.AppendUint16(b, 8)
	b = append(b, 0x10|0x01, 0x80|0x10|flag(powerLoss, 0x01)) // CRH, PTPL_C; TMV, allow commands, PTPL_A
	return append(b, 0x80|0x40|0x20|0x08|0x02, 0x01, 0, 0)
}

// AppendTransportID appends the name of an iSCSI initiator port: its name, and its ISID if it is not
// zero. SPC-4 7.6.4.6
func AppendTransportID(b []byte, name, isid string) []byte {
	format := byte(0)
	if isid != "" {
		format, name = 0x40, name+",i,0x"+isid
	}
	id := SCSIName(name)
	for len(id) < 20 {
		id = append(id, 0, 0, 0, 0)
	}
	b = append(b, format|5, 0)
	b = be.AppendUint16(b, uint16(len(id)))
	return append(b, id...)
}
