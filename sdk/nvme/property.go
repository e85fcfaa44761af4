package nvme

import "fmt"

// Property is the offset of a controller property. Base 3.1.3
type Property uint32

// Properties of a controller over fabrics, and their sizes in Size.
const (
	PropertyCAP  Property = 0x00 // Controller Capabilities, 8 bytes
	PropertyVS   Property = 0x08 // Version
	PropertyCC   Property = 0x14 // Controller Configuration
	PropertyCSTS Property = 0x1c // Controller Status
	PropertyNSSR Property = 0x20 // NVM Subsystem Reset
	PropertyCRTO Property = 0x68 // Controller Ready Timeouts
)

// Size returns the length of the property in bytes, or 0 if the offset names none that exists
// over fabrics.
func (p Property) Size() int {
	switch p {
	case PropertyCAP:
		return 8
	case PropertyVS, PropertyCC, PropertyCSTS, PropertyNSSR, PropertyCRTO:
		return 4
	}
	return 0
}

// String names the property.
func (p Property) String() string {
	switch p {
	case PropertyCAP:
		return "CAP"
	case PropertyVS:
		return "VS"
	case PropertyCC:
		return "CC"
	case PropertyCSTS:
		return "CSTS"
	case PropertyNSSR:
		return "NSSR"
	case PropertyCRTO:
		return "CRTO"
	}
	return fmt.Sprintf("property %02xh", uint32(p))
}

// Version is the content of VS: major in bits 31:16, minor in 15:8, tertiary in 7:0. Base 3.1.3.2
type Version uint32

// Version20 is edition 2.0.
const Version20 Version = 0x0002_0000

// MakeVersion returns a version.
func MakeVersion(major uint16, minor, tertiary uint8) Version {
	return Version(major)<<16 | Version(minor)<<8 | Version(tertiary)
}

// String formats the version as 2.0 or 1.2.1.
func (v Version) String() string {
	s := fmt.Sprintf("%d.%d", uint32(v)>>16, uint8(v>>8))
	if uint8(v) != 0 {
		s += fmt.Sprintf(".%d", uint8(v))
	}
	return s
}

// Capabilities is the content of CAP, unpacked. Base 3.1.3.1
type Capabilities struct {
	MaxQueueEntries      uint32 // 2 to 65,536; MQES
	ContiguousQueues     bool   // CQR; always set over fabrics
	Arbitration          uint8  // AMS, 2 bits
	ReadyTimeout         uint8  // TO, in 500 ms units
	DoorbellStride       uint8  // DSTRD, 4 bits; 0 over fabrics
	SubsystemReset       bool   // NSSRS
	CommandSets          uint8  // CSS: CommandSetNVM and its like
	BootPartitions       bool   // BPS
	PowerScope           uint8  // CPS, 2 bits
	MinPageShift         uint8  // MPSMIN: pages of 2^(12+n) bytes, 4 bits
	MaxPageShift         uint8  // MPSMAX
	PersistentMemory     bool   // PMRS
	ControllerMemory     bool   // CMBS
	SubsystemShutdown    bool   // NSSS
	ReadyWithMedia       bool   // CRMS bit 0, CRWMS
	ReadyIndependentMode bool   // CRMS bit 1, CRIMS
}

// Bits of Capabilities.CommandSets.
const (
	CommandSetNVM       uint8 = 1 << 0 // NVM command set
	CommandSetIO        uint8 = 1 << 6 // one or more I/O command sets, by Identify CNS 1Ch
	CommandSetAdminOnly uint8 = 1 << 7 // no I/O command set
)

// ParseCapabilities unpacks CAP.
func ParseCapabilities(v uint64) Capabilities {
	return Capabilities{
		MaxQueueEntries:      uint32(v&0xffff) + 1,
		ContiguousQueues:     bit(v, 1<<16),
		Arbitration:          uint8(v>>17) & 3,
		ReadyTimeout:         uint8(v >> 24),
		DoorbellStride:       uint8(v>>32) & 0xf,
		SubsystemReset:       bit(v, 1<<36),
		CommandSets:          uint8(v >> 37),
		BootPartitions:       bit(v, 1<<45),
		PowerScope:           uint8(v>>46) & 3,
		MinPageShift:         uint8(v>>48) & 0xf,
		MaxPageShift:         uint8(v>>52) & 0xf,
		PersistentMemory:     bit(v, 1<<56),
		ControllerMemory:     bit(v, 1<<57),
		SubsystemShutdown:    bit(v, 1<<58),
		ReadyWithMedia:       bit(v, 1<<59),
		ReadyIndependentMode: bit(v, 1<<60),
	}
}

// Uint64 packs CAP.
func (c Capabilities) Uint64() uint64 {
	v := uint64(toZeroBased[uint16](c.MaxQueueEntries)) |
		uint64(c.Arbitration&3)<<17 | uint64(c.ReadyTimeout)<<24 |
		uint64(c.DoorbellStride&0xf)<<32 | uint64(c.CommandSets)<<37 |
		uint64(c.PowerScope&3)<<46 | uint64(c.MinPageShift&0xf)<<48 | uint64(c.MaxPageShift&0xf)<<52
	for _, b := range [...]struct {
		on    bool
		shift uint
	}{
		{c.ContiguousQueues, 16},
		{c.SubsystemReset, 36},
		{c.BootPartitions, 45},
		{c.PersistentMemory, 56},
		{c.ControllerMemory, 57},
		{c.SubsystemShutdown, 58},
		{c.ReadyWithMedia, 59},
		{c.ReadyIndependentMode, 60},
	} {
		if b.on {
			v |= 1 << b.shift
		}
	}
	return v
}

// Config is the content of CC. Base 3.1.3.5
type Config uint32

// Shutdown is the SHN field of CC. Base 3.1.3.5
type Shutdown uint8

// Shutdown notifications.
const (
	ShutdownNone   Shutdown = 0
	ShutdownNormal Shutdown = 1
	ShutdownAbrupt Shutdown = 2
)

// Values of Config.CommandSet (CC.CSS).
const (
	SelectNVM       uint8 = 0 // NVM command set
	SelectAll       uint8 = 6 // all supported I/O command sets
	SelectAdminOnly uint8 = 7 // Admin command set only
)

// MakeConfig returns the CC with which a host enables a controller: 64-byte submission and
// 16-byte completion entries, 4 KiB pages. Base 3.5.1
func MakeConfig(commandSet uint8) Config {
	return Config(1) | Config(commandSet&7)<<4 | 6<<16 | 4<<20
}

// Enable reports EN.
func (c Config) Enable() bool { return bit(c, 1) }

// CommandSet returns CSS, one of the Select constants.
func (c Config) CommandSet() uint8 { return uint8(c>>4) & 7 }

// PageShift returns MPS: pages of 2^(12+n) bytes.
func (c Config) PageShift() uint8 { return uint8(c>>7) & 0xf }

// Arbitration returns AMS.
func (c Config) Arbitration() uint8 { return uint8(c>>11) & 7 }

// Shutdown returns SHN.
func (c Config) Shutdown() Shutdown { return Shutdown(c>>14) & 3 }

// SQEntryShift returns IOSQES, log2 of the submission entry size; 6 for NVM.
func (c Config) SQEntryShift() uint8 { return uint8(c>>16) & 0xf }

// CQEntryShift returns IOCQES, log2 of the completion entry size; 4 for NVM.
func (c Config) CQEntryShift() uint8 { return uint8(c>>20) & 0xf }

// ReadyIndependent reports CRIME.
func (c Config) ReadyIndependent() bool { return bit(c, 1<<24) }

// WithEnable returns the configuration with EN set or cleared.
func (c Config) WithEnable(on bool) Config {
	if on {
		return c | 1
	}
	return c &^ 1
}

// WithShutdown returns the configuration with this shutdown notification.
func (c Config) WithShutdown(s Shutdown) Config { return c&^(3<<14) | Config(s&3)<<14 }

// ControllerStatus is the content of CSTS. Base 3.1.3.6
type ControllerStatus uint32

// Bits of ControllerStatus.
const (
	CSTSReady             ControllerStatus = 1 << 0 // RDY
	CSTSFatal             ControllerStatus = 1 << 1 // CFS
	CSTSShutdownOccurring ControllerStatus = 1 << 2 // SHST 01b
	CSTSShutdownComplete  ControllerStatus = 2 << 2 // SHST 10b
	CSTSShutdownMask      ControllerStatus = 3 << 2
	CSTSSubsystemReset    ControllerStatus = 1 << 4 // NSSRO
	CSTSProcessingPaused  ControllerStatus = 1 << 5 // PP
	CSTSSubsystemShutdown ControllerStatus = 1 << 6 // ST
)

// Ready reports RDY.
func (s ControllerStatus) Ready() bool { return bit(s, CSTSReady) }

// Fatal reports CFS.
func (s ControllerStatus) Fatal() bool { return bit(s, CSTSFatal) }

// ShutdownComplete reports SHST = 10b.
func (s ControllerStatus) ShutdownComplete() bool {
	return s&CSTSShutdownMask == CSTSShutdownComplete
}

// WithShutdown returns the status with SHST replaced: 0, CSTSShutdownOccurring or
// CSTSShutdownComplete.
func (s ControllerStatus) WithShutdown(v ControllerStatus) ControllerStatus {
	return s&^CSTSShutdownMask | v&CSTSShutdownMask
}

// SubsystemResetMagic written to NSSR resets the subsystem ("NVMe"). Base 3.1.3.7
const SubsystemResetMagic uint32 = 0x4e564d65

// ReadyTimeouts is the content of CRTO, both halves in 500 ms units. Base 3.1.3
type ReadyTimeouts struct {
	WithMedia   uint16 // CRWMT
	Independent uint16 // CRIMT
}

// ParseReadyTimeouts unpacks CRTO.
func ParseReadyTimeouts(v uint32) ReadyTimeouts {
	return ReadyTimeouts{WithMedia: uint16(v), Independent: uint16(v >> 16)}
}

// Uint32 packs CRTO.
func (t ReadyTimeouts) Uint32() uint32 { return uint32(t.WithMedia) | uint32(t.Independent)<<16 }
