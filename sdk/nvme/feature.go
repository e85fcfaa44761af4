package nvme

import "fmt"

// FeatureID says which feature a Get or Set Features is about (FID). Base 5.27.1
type FeatureID uint8

// Features.
const (
	FeatureArbitration         FeatureID = 0x01
	FeaturePower               FeatureID = 0x02
	FeatureLBARange            FeatureID = 0x03
	FeatureTemperature         FeatureID = 0x04
	FeatureErrorRecovery       FeatureID = 0x05
	FeatureWriteCache          FeatureID = 0x06
	FeatureQueues              FeatureID = 0x07
	FeatureInterruptCoalescing FeatureID = 0x08
	FeatureInterruptVector     FeatureID = 0x09
	FeatureWriteAtomicity      FeatureID = 0x0a
	FeatureAsyncEvents         FeatureID = 0x0b
	FeatureTimestamp           FeatureID = 0x0e
	FeatureKeepAlive           FeatureID = 0x0f
	FeatureHostBehavior        FeatureID = 0x16
	FeatureCommandSetProfile   FeatureID = 0x19
	FeatureHostID              FeatureID = 0x81
	FeatureReservationMask     FeatureID = 0x82
	FeatureReservationPersist  FeatureID = 0x83
	FeatureWriteProtection     FeatureID = 0x84
)

// String names the feature.
func (f FeatureID) String() string {
	if s, ok := featureNames[f]; ok {
		return s
	}
	return fmt.Sprintf("feature %02xh", uint8(f))
}

var featureNames = map[FeatureID]string{
	FeatureArbitration: "arbitration", FeaturePower: "power management", FeatureLBARange: "LBA range type",
	FeatureTemperature: "temperature threshold", FeatureErrorRecovery: "error recovery",
	FeatureWriteCache: "volatile write cache", FeatureQueues: "number of queues",
	FeatureInterruptCoalescing: "interrupt coalescing", FeatureInterruptVector: "interrupt vector configuration",
	FeatureWriteAtomicity: "write atomicity normal", FeatureAsyncEvents: "asynchronous event configuration",
	FeatureTimestamp: "timestamp", FeatureKeepAlive: "keep alive timer", FeatureHostBehavior: "host behavior support",
	FeatureCommandSetProfile: "I/O command set profile", FeatureHostID: "host identifier",
	FeatureReservationMask:    "reservation notification mask",
	FeatureReservationPersist: "reservation persistence",
	FeatureWriteProtection:    "namespace write protection",
}

// FeatureSelect says which value a Get Features returns (SEL). Base 5.15
type FeatureSelect uint8

// Selections.
const (
	FeatureCurrent   FeatureSelect = 0
	FeatureDefault   FeatureSelect = 1
	FeatureSaved     FeatureSelect = 2
	FeatureSupported FeatureSelect = 3 // FeatureCapabilities
)

// Bits of DW0 of a Get Features with FeatureSupported. Base 5.15.1
const (
	FeatureSaveable          uint32 = 1 << 0
	FeatureNamespaceSpecific uint32 = 1 << 1
	FeatureChangeable        uint32 = 1 << 2
)

// Features is a Get Features or Set Features command. Base 5.15 and 5.27
type Features struct {
	Opcode    Opcode // AdminGetFeatures or AdminSetFeatures
	NSID      NSID
	ID        FeatureID
	Select    FeatureSelect // Get only
	Save      bool          // SV, Set only
	Value     uint32        // CDW11
	Value12   uint32        // CDW12
	UUIDIndex uint8         // 7 bits
}

// ParseFeatures unpacks a Get or Set Features; the caller has looked at the opcode.
func ParseFeatures(c *Command) Features {
	f := Features{
		Opcode: c.Opcode(), NSID: c.NSID(), ID: FeatureID(c.CDW10()),
		Value: c.CDW11(), Value12: c.CDW12(), UUIDIndex: uint8(c.CDW14() & 0x7f),
	}
	if f.Opcode == AdminGetFeatures {
		f.Select = FeatureSelect(c.CDW10()>>8) & 7
	} else {
		f.Save = bit(c.CDW10(), 1<<31)
	}
	return f
}

// Command packs it, without CID and data pointer.
func (f Features) Command() Command {
	c := command(f.Opcode, f.NSID)
	d10 := uint32(f.ID)
	if f.Opcode == AdminGetFeatures {
		d10 |= uint32(f.Select&7) << 8
	} else if f.Save {
		d10 |= 1 << 31
	}
	c.SetCDW10(d10)
	c.SetCDW11(f.Value)
	c.SetCDW12(f.Value12)
	c.SetCDW14(uint32(f.UUIDIndex & 0x7f))
	return c
}

// Arbitration is the value of FeatureArbitration. Base 5.27.1.1
type Arbitration struct {
	Burst  uint8  // AB: log2 of commands, 7 for no limit
	Low    uint16 // LPW as a count, 1 to 256
	Medium uint16 // MPW as a count, 1 to 256
	High   uint16 // HPW as a count, 1 to 256
}

// ParseArbitration unpacks the value.
func ParseArbitration(v uint32) Arbitration {
	return Arbitration{uint8(v & 7), uint16(uint8(v>>8)) + 1, uint16(uint8(v>>16)) + 1, uint16(v>>24) + 1}
}

// Value packs it.
func (a Arbitration) Value() uint32 {
	return uint32(a.Burst&7) | uint32(toZeroBased[uint8](a.Low))<<8 |
		uint32(toZeroBased[uint8](a.Medium))<<16 | uint32(toZeroBased[uint8](a.High))<<24
}

// Power is the value of FeaturePower. Base 5.27.1.2
type Power struct {
	State    uint8 // PS, 0 to 31
	Workload uint8 // WH, 3 bits
}

// ParsePower unpacks the value.
func ParsePower(v uint32) Power { return Power{uint8(v & 0x1f), uint8(v >> 5 & 7)} }

// Value packs it.
func (p Power) Value() uint32 { return uint32(p.State&0x1f) | uint32(p.Workload&7)<<5 }

// Temperature is the value of FeatureTemperature. Base 5.27.1.3
type Temperature struct {
	Threshold uint16 // TMPTH, kelvin
	Sensor    uint8  // TMPSEL: 0 composite, 1 to 8 a sensor, 15 all
	Under     bool   // THSEL 01b: under-temperature threshold
}

// ParseTemperature unpacks the value; reserved encodings of THSEL read as over-temperature.
func ParseTemperature(v uint32) Temperature {
	return Temperature{uint16(v), uint8(v >> 16 & 0xf), v>>20&3 == 1}
}

// Value packs it.
func (t Temperature) Value() uint32 {
	v := uint32(t.Threshold) | uint32(t.Sensor&0xf)<<16
	if t.Under {
		v |= 1 << 20
	}
	return v
}

// ErrorRecovery is the value of FeatureErrorRecovery. NVM 4.1.3
type ErrorRecovery struct {
	TimeLimited     uint16 // TLER, in 100 ms; 0 for no limit
	UnwrittenErrors bool   // DULBE: reading deallocated blocks fails
}

// ParseErrorRecovery unpacks the value.
func ParseErrorRecovery(v uint32) ErrorRecovery { return ErrorRecovery{uint16(v), bit(v, 1<<16)} }

// Value packs it.
func (e ErrorRecovery) Value() uint32 {
	v := uint32(e.TimeLimited)
	if e.UnwrittenErrors {
		v |= 1 << 16
	}
	return v
}

// QueueCounts is the value of FeatureQueues: asked for in Set Features, allocated in DW0.
// I/O queues only. Base 5.27.1.5
type QueueCounts struct {
	Submission uint32 // NSQR or NSQA as a count, 1 to 65,536; 65,536 is invalid to ask for
	Completion uint32 // NCQR or NCQA as a count
}

// ParseQueueCounts unpacks the value.
func ParseQueueCounts(v uint32) QueueCounts {
	return QueueCounts{uint32(uint16(v)) + 1, v>>16 + 1}
}

// Value packs it.
func (q QueueCounts) Value() uint32 {
	return uint32(toZeroBased[uint16](q.Submission)) | uint32(toZeroBased[uint16](q.Completion))<<16
}

// InterruptCoalescing is the value of FeatureInterruptCoalescing; nothing over fabrics.
// Base 5.27.1.6
type InterruptCoalescing struct {
	Threshold uint16 // THR as a count of entries, 1 to 256
	Time      uint8  // TIME, in 100 microseconds
}

// ParseInterruptCoalescing unpacks the value.
func ParseInterruptCoalescing(v uint32) InterruptCoalescing {
	return InterruptCoalescing{uint16(uint8(v)) + 1, uint8(v >> 8)}
}

// Value packs it.
func (i InterruptCoalescing) Value() uint32 {
	return uint32(toZeroBased[uint8](i.Threshold)) | uint32(i.Time)<<8
}

// InterruptVector is the value of FeatureInterruptVector; nothing over fabrics. Base 5.27.1.7
type InterruptVector struct {
	Vector            uint16
	CoalescingDisable bool
}

// ParseInterruptVector unpacks the value.
func ParseInterruptVector(v uint32) InterruptVector { return InterruptVector{uint16(v), bit(v, 1<<16)} }

// Value packs it.
func (i InterruptVector) Value() uint32 {
	v := uint32(i.Vector)
	if i.CoalescingDisable {
		v |= 1 << 16
	}
	return v
}

// Values of features that are one bit.
const (
	WriteCacheEnabled       uint32 = 1 << 0 // FeatureWriteCache, WCE. Base 5.27.1.4
	WriteAtomicityDisabled  uint32 = 1 << 0 // FeatureWriteAtomicity, DN. NVM 4.1.3
	HostIDExtended          uint32 = 1 << 0 // FeatureHostID, EXHID: 16 bytes instead of 8. Base 5.27.1.25
	ReservationPersistPower uint32 = 1 << 0 // FeatureReservationPersist, PTPL. Base 5.27.1.27
)

// Bits of FeatureReservationMask: a set bit silences the notification. Base 5.27.1.26
const (
	MaskRegistrationPreempted uint32 = 1 << 1 // REGPRE
	MaskReservationReleased   uint32 = 1 << 2 // RESREL
	MaskReservationPreempted  uint32 = 1 << 3 // RESPRE
)

// FeatureKeepAlive has the timeout in milliseconds (0 for none) as its value, Base 5.27.1.12;
// FeatureAsyncEvents has AsyncEvents, Base 5.27.1.8.

// HostBehaviorSize is the length of the data of FeatureHostBehavior in bytes.
const HostBehaviorSize = 512

// HostBehavior is the data of FeatureHostBehavior. Base 5.27.1.18
type HostBehavior struct {
	AdvancedRetry bool // ACRE: the host honours Status.CRD and Command Interrupted
	ExtendedLBA   bool // LBAFEE: the host knows extended LBA formats
	Telemetry     bool // ETDAS
}

// ParseHostBehavior decodes the first 512 bytes of b. Values above 1 are reserved: the caller
// who wants to refuse them looks at bytes 0 to 2.
func ParseHostBehavior(b []byte) (HostBehavior, int, error) {
	if err := need("host behavior", b, HostBehaviorSize); err != nil {
		return HostBehavior{}, 0, err
	}
	return HostBehavior{AdvancedRetry: b[0] == 1, Telemetry: b[1] == 1, ExtendedLBA: b[2] == 1}, HostBehaviorSize, nil
}

// Append appends the wire form.
func (h HostBehavior) Append(b []byte) []byte {
	b, p := grow(b, HostBehaviorSize)
	for i, on := range [...]bool{h.AdvancedRetry, h.Telemetry, h.ExtendedLBA} {
		if on {
			p[i] = 1
		}
	}
	return b
}

// Len is HostBehaviorSize.
func (h HostBehavior) Len() int { return HostBehaviorSize }

// TimestampSize is the length of the data of FeatureTimestamp in bytes.
const TimestampSize = 8

// Timestamp is the data of FeatureTimestamp. Base 5.27.1.11
type Timestamp struct {
	Milliseconds uint64 // 48 bits, since 1970 UTC if Origin is TimestampSet, else since reset
	Stopped      bool   // SYNCH: the clock may have stopped for a while
	Origin       uint8  // 3 bits
}

// Values of Timestamp.Origin.
const (
	TimestampReset uint8 = 0 // zero at the last controller level reset
	TimestampSet   uint8 = 1 // by Set Features
)

// ParseTimestamp decodes the first 8 bytes of b.
func ParseTimestamp(b []byte) (Timestamp, int, error) {
	if err := need("timestamp", b, TimestampSize); err != nil {
		return Timestamp{}, 0, err
	}
	return Timestamp{le.Uint64(b) & (1<<48 - 1), b[6]&1 != 0, b[6] >> 1 & 7}, TimestampSize, nil
}

// Append appends the wire form.
func (t Timestamp) Append(b []byte) []byte {
	v := t.Milliseconds&(1<<48-1) | uint64(t.Origin&7)<<49
	if t.Stopped {
		v |= 1 << 48
	}
	return le.AppendUint64(b, v)
}

// Len is TimestampSize.
func (t Timestamp) Len() int { return TimestampSize }
