package nvme

// Sizes of log pages in bytes.
const (
	SupportedLogsSize           = 1024
	ErrorEntrySize              = 64
	SMARTLogSize                = 512
	FirmwareSlotLogSize         = 512
	CommandEffectsLogSize       = 4096
	FeatureEffectsLogSize       = 1024
	ReservationNotificationSize = 64
)

// LogSupport says how a log page is supported. Base 5.16.1.1
type LogSupport uint32

// Bits of LogSupport. Bits 31:16 are specific to the page.
const (
	LogSupported   LogSupport = 1 << 0 // LSUPP
	LogIndexOffset LogSupport = 1 << 1 // IOS: Get Log Page may count entries
)

// SupportedLogs is the Supported Log Pages page, by LogID. Base 5.16.1.1
type SupportedLogs [256]LogSupport

// ParseSupportedLogs decodes the first 1,024 bytes of b.
func ParseSupportedLogs(b []byte) (SupportedLogs, int, error) {
	var s SupportedLogs
	n, err := parseFixed("supported log pages", &s, b, SupportedLogsSize)
	return s, n, err
}

// Append appends the wire form.
func (s *SupportedLogs) Append(b []byte) []byte { return appendFixed(b, s, SupportedLogsSize) }

// Len is SupportedLogsSize.
func (s *SupportedLogs) Len() int { return SupportedLogsSize }

func (s *SupportedLogs) fields(l layout) {
	for i := range s {
		num(l, 4*i, &s[i])
	}
}

// ErrorEntry is an entry of the Error Information page, newest first. Base 5.16.1.2
type ErrorEntry struct {
	Count         uint64 // unique and growing over the controller's life; 0 for an unused entry
	Queue         QueueID
	CID           CommandID
	Status        Status // with flags; the phase tag is dropped
	ParameterByte uint8  // offset of the byte in error within the command; see SetNoParameter
	ParameterBit  uint8  // bit within that byte, 0 to 7
	LBA           LBA
	NSID          NSID
	Vendor        uint8
	Transport     TransportType
	Specific      uint64 // command specific information
	TransportInfo uint16
}

// ParseErrorEntry decodes the first 64 bytes of b.
func ParseErrorEntry(b []byte) (ErrorEntry, int, error) {
	var e ErrorEntry
	n, err := parseFixed("error log entry", &e, b, ErrorEntrySize)
	return e, n, err
}

// Append appends the wire form.
func (e ErrorEntry) Append(b []byte) []byte { return appendFixed(b, &e, ErrorEntrySize) }

// Len is ErrorEntrySize.
func (e ErrorEntry) Len() int { return ErrorEntrySize }

// SetNoParameter says that the error belongs to no parameter.
func (e *ErrorEntry) SetNoParameter() { e.ParameterByte, e.ParameterBit = 0xff, 0xff }

func (e *ErrorEntry) fields(l layout) {
	num(l, 0, &e.Count)
	num(l, 8, &e.Queue)
	num(l, 10, &e.CID)
	if l.write {
		le.PutUint16(l.b[12:], uint16(e.Status)<<1)
	} else {
		e.Status = Status(le.Uint16(l.b[12:]) >> 1)
	}
	num(l, 14, &e.ParameterByte)
	num(l, 15, &e.ParameterBit)
	num(l, 16, &e.LBA)
	num(l, 24, &e.NSID)
	num(l, 28, &e.Vendor)
	num(l, 29, &e.Transport)
	num(l, 32, &e.Specific)
	num(l, 40, &e.TransportInfo)
}

// Bits of SMARTLog.CriticalWarning.
const (
	WarnSpare        uint8 = 1 << 0
	WarnTemperature  uint8 = 1 << 1
	WarnReliability  uint8 = 1 << 2
	WarnReadOnly     uint8 = 1 << 3
	WarnVolatileFail uint8 = 1 << 4
	WarnPMRReadOnly  uint8 = 1 << 5
)

// SMARTDataUnit is what the data counters of SMARTLog count: 1,000 units of 512 bytes.
const SMARTDataUnit = 512 * 1000

// SMARTLog is the SMART / Health Information page. Base 5.16.1.3
type SMARTLog struct {
	CriticalWarning   uint8
	Temperature       uint16 // kelvin
	AvailableSpare    uint8  // percent
	SpareThreshold    uint8  // percent
	PercentUsed       uint8
	EnduranceWarnings uint8
	DataRead          Uint128 // SMARTDataUnit, rounded up
	DataWritten       Uint128 // SMARTDataUnit, rounded up
	ReadCommands      Uint128
	WriteCommands     Uint128
	BusyMinutes       Uint128
	PowerCycles       Uint128
	PowerOnHours      Uint128
	UnsafeShutdowns   Uint128
	MediaErrors       Uint128
	ErrorEntries      Uint128
	WarningMinutes    uint32    // above the warning temperature
	CriticalMinutes   uint32    // above the critical temperature
	Sensors           [8]uint16 // kelvin; 0 for none
	ThermalChanges    [2]uint32
	ThermalSeconds    [2]uint32
}

// ParseSMARTLog decodes the first 512 bytes of b.
func ParseSMARTLog(b []byte) (SMARTLog, int, error) {
	var s SMARTLog
	n, err := parseFixed("SMART log", &s, b, SMARTLogSize)
	return s, n, err
}

// Append appends the wire form.
func (s SMARTLog) Append(b []byte) []byte { return appendFixed(b, &s, SMARTLogSize) }

// Len is SMARTLogSize.
func (s SMARTLog) Len() int { return SMARTLogSize }

func (s *SMARTLog) fields(l layout) {
	num(l, 0, &s.CriticalWarning)
	num(l, 1, &s.Temperature)
	num(l, 3, &s.AvailableSpare)
	num(l, 4, &s.SpareThreshold)
	num(l, 5, &s.PercentUsed)
	num(l, 6, &s.EnduranceWarnings)
	for i, v := range [...]*Uint128{
		&s.DataRead, &s.DataWritten, &s.ReadCommands, &s.WriteCommands, &s.BusyMinutes,
		&s.PowerCycles, &s.PowerOnHours, &s.UnsafeShutdowns, &s.MediaErrors, &s.ErrorEntries,
	} {
		l.u128(32+16*i, v)
	}
	num(l, 192, &s.WarningMinutes)
	num(l, 196, &s.CriticalMinutes)
	for i := range s.Sensors {
		num(l, 200+2*i, &s.Sensors[i])
	}
	for i := range 2 {
		num(l, 216+4*i, &s.ThermalChanges[i])
		num(l, 224+4*i, &s.ThermalSeconds[i])
	}
}

// FirmwareSlotLog is the Firmware Slot Information page. Base 5.16.1.4
type FirmwareSlotLog struct {
	Active    uint8     // AFI bits 2:0: slot of the running firmware, 1 to 7
	Next      uint8     // AFI bits 6:4: slot at the next reset, 0 for no change
	Revisions [7]string // of slots 1 to 7, 8 bytes of ASCII; empty for an empty slot
}

// ParseFirmwareSlotLog decodes the first 512 bytes of b.
func ParseFirmwareSlotLog(b []byte) (FirmwareSlotLog, int, error) {
	var f FirmwareSlotLog
	n, err := parseFixed("firmware slot log", &f, b, FirmwareSlotLogSize)
	return f, n, err
}

// Append appends the wire form; a revision longer than its field is cut.
func (f FirmwareSlotLog) Append(b []byte) []byte { return appendFixed(b, &f, FirmwareSlotLogSize) }

// Len is FirmwareSlotLogSize.
func (f FirmwareSlotLog) Len() int { return FirmwareSlotLogSize }

func (f *FirmwareSlotLog) fields(l layout) {
	if l.write {
		l.b[0] = f.Active&7 | f.Next&7<<4
	} else {
		f.Active, f.Next = l.b[0]&7, l.b[0]>>4&7
	}
	for i := range f.Revisions {
		if l.write && f.Revisions[i] == "" {
			continue // an empty slot is NULs
		}
		l.ascii(8+8*i, 8, &f.Revisions[i])
	}
}

// Effects says what a command or a feature does. Base 5.16.1.6 and 5.16.1.18
type Effects uint32

// Bits of Effects. Command and feature effects differ from bit 16 on.
const (
	EffectSupported      Effects = 1 << 0  // CSUPP, FSUPP
	EffectContent        Effects = 1 << 1  // LBCC, UDCC: user data changes
	EffectNamespaceCaps  Effects = 1 << 2  // NCC
	EffectInventory      Effects = 1 << 3  // NIC: namespaces come and go
	EffectControllerCaps Effects = 1 << 4  // CCC
	EffectAloneNamespace Effects = 1 << 16 // CSE 001b: no other command to the namespace
	EffectAlone          Effects = 2 << 16 // CSE 010b: no other command to any namespace
	EffectUUIDSelect     Effects = 1 << 19
	EffectOnNamespace    Effects = 1 << 20 // scope: CSP, FSP
	EffectOnController   Effects = 1 << 21
	EffectOnNVMSet       Effects = 1 << 22
	EffectOnEndurance    Effects = 1 << 23
	EffectOnDomain       Effects = 1 << 24
	EffectOnSubsystem    Effects = 1 << 25
)

// CommandEffectsLog is the Commands Supported and Effects page, by Opcode. Base 5.16.1.6
type CommandEffectsLog struct {
	Admin [256]Effects
	IO    [256]Effects
}

// ParseCommandEffectsLog decodes the first 4,096 bytes of b.
func ParseCommandEffectsLog(b []byte) (CommandEffectsLog, int, error) {
	var c CommandEffectsLog
	n, err := parseFixed("command effects log", &c, b, CommandEffectsLogSize)
	return c, n, err
}

// Append appends the wire form.
func (c *CommandEffectsLog) Append(b []byte) []byte { return appendFixed(b, c, CommandEffectsLogSize) }

// Len is CommandEffectsLogSize.
func (c *CommandEffectsLog) Len() int { return CommandEffectsLogSize }

func (c *CommandEffectsLog) fields(l layout) {
	for i := range c.Admin {
		num(l, 4*i, &c.Admin[i])
		num(l, 1024+4*i, &c.IO[i])
	}
}

// FeatureEffectsLog is the Feature Identifiers Supported and Effects page, by FeatureID.
// Base 5.16.1.18
type FeatureEffectsLog [256]Effects

// ParseFeatureEffectsLog decodes the first 1,024 bytes of b.
func ParseFeatureEffectsLog(b []byte) (FeatureEffectsLog, int, error) {
	var f FeatureEffectsLog
	n, err := parseFixed("feature effects log", &f, b, FeatureEffectsLogSize)
	return f, n, err
}

// Append appends the wire form.
func (f *FeatureEffectsLog) Append(b []byte) []byte { return appendFixed(b, f, FeatureEffectsLogSize) }

// Len is FeatureEffectsLogSize.
func (f *FeatureEffectsLog) Len() int { return FeatureEffectsLogSize }

func (f *FeatureEffectsLog) fields(l layout) {
	for i := range f {
		num(l, 4*i, &f[i])
	}
}

// ReservationEvent is the type of a ReservationNotification. Base 5.16.1.24
type ReservationEvent uint8

// Reservation events.
const (
	ReservationLogEmpty      ReservationEvent = 0
	ReservationUnregistered  ReservationEvent = 1 // registration preempted
	ReservationReleased      ReservationEvent = 2
	ReservationPreemptedAway ReservationEvent = 3 // reservation preempted
)

// ReservationNotification is the Reservation Notification page: the oldest event not yet read.
// Base 5.16.1.24
type ReservationNotification struct {
	Count     uint64 // grows with each event and wraps past 0; 0 for none
	Type      ReservationEvent
	Available uint8 // further pages waiting, 255 for that many or more
	NSID      NSID
}

// ParseReservationNotification decodes the first 64 bytes of b.
func ParseReservationNotification(b []byte) (ReservationNotification, int, error) {
	var r ReservationNotification
	n, err := parseFixed("reservation notification", &r, b, ReservationNotificationSize)
	return r, n, err
}

// Append appends the wire form.
func (r ReservationNotification) Append(b []byte) []byte {
	return appendFixed(b, &r, ReservationNotificationSize)
}

// Len is ReservationNotificationSize.
func (r ReservationNotification) Len() int { return ReservationNotificationSize }

func (r *ReservationNotification) fields(l layout) {
	num(l, 0, &r.Count)
	num(l, 8, &r.Type)
	num(l, 9, &r.Available)
	num(l, 12, &r.NSID)
}
