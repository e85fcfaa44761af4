package nvme

import "fmt"

// ReservationType is RTYPE. Base 7.2
type ReservationType uint8

// Reservation types.
const (
	ReservationNone               ReservationType = 0
	ReservationWriteExclusive     ReservationType = 1
	ReservationExclusiveAccess    ReservationType = 2
	ReservationWriteExclusiveReg  ReservationType = 3 // registrants only
	ReservationExclusiveAccessReg ReservationType = 4 // registrants only
	ReservationWriteExclusiveAll  ReservationType = 5 // all registrants hold it
	ReservationExclusiveAccessAll ReservationType = 6 // all registrants hold it
)

// Valid reports a defined type other than ReservationNone.
func (t ReservationType) Valid() bool {
	return t >= ReservationWriteExclusive && t <= ReservationExclusiveAccessAll
}

// RegistrantsOnly reports the types under which every registrant may write.
func (t ReservationType) RegistrantsOnly() bool {
	return t == ReservationWriteExclusiveReg || t == ReservationExclusiveAccessReg
}

// AllRegistrants reports the types that every registrant holds.
func (t ReservationType) AllRegistrants() bool {
	return t == ReservationWriteExclusiveAll || t == ReservationExclusiveAccessAll
}

// ExclusiveAccess reports the types that refuse reads too.
func (t ReservationType) ExclusiveAccess() bool {
	return t == ReservationExclusiveAccess || t == ReservationExclusiveAccessReg || t == ReservationExclusiveAccessAll
}

// String names the type.
func (t ReservationType) String() string {
	switch t {
	case ReservationNone:
		return "none"
	case ReservationWriteExclusive:
		return "write-exclusive"
	case ReservationExclusiveAccess:
		return "exclusive-access"
	case ReservationWriteExclusiveReg:
		return "write-exclusive-registrants-only"
	case ReservationExclusiveAccessReg:
		return "exclusive-access-registrants-only"
	case ReservationWriteExclusiveAll:
		return "write-exclusive-all-registrants"
	case ReservationExclusiveAccessAll:
		return "exclusive-access-all-registrants"
	}
	return fmt.Sprintf("reservation type %d", uint8(t))
}

// ReservationKey is a registration key; 0 is none.
type ReservationKey uint64

// Actions of Reservation Register (RREGA), Acquire (RACQA) and Release (RRELA). Base 7.3, 7.2, 7.4
const (
	RegisterKey     uint8 = 0
	UnregisterKey   uint8 = 1
	ReplaceKey      uint8 = 2
	Acquire         uint8 = 0
	Preempt         uint8 = 1
	PreemptAndAbort uint8 = 2
	Release         uint8 = 0
	ClearAll        uint8 = 1
)

// PersistChange is CPTPL of Reservation Register. Base 7.3
type PersistChange uint8

// Changes of persistence through power loss.
const (
	PersistKeep     PersistChange = 0
	PersistReserved PersistChange = 1
	PersistClear    PersistChange = 2 // reservations are released and registrants cleared on power on
	PersistSet      PersistChange = 3
)

// ReservationCommand is a Reservation Register, Acquire or Release. Base 7.2 to 7.4
type ReservationCommand struct {
	Opcode         Opcode // IOReservationRegister, IOReservationAcquire or IOReservationRelease
	NSID           NSID
	Action         uint8           // 3 bits
	IgnoreExisting bool            // IEKEY
	Type           ReservationType // Acquire and Release
	Persist        PersistChange   // Register
}

// ParseReservationCommand unpacks the command; the caller has looked at the opcode.
func ParseReservationCommand(c *Command) ReservationCommand {
	d := c.CDW10()
	r := ReservationCommand{Opcode: c.Opcode(), NSID: c.NSID(), Action: uint8(d & 7), IgnoreExisting: bit(d, 1<<3)}
	if r.Opcode == IOReservationRegister {
		r.Persist = PersistChange(d >> 30)
	} else {
		r.Type = ReservationType(d >> 8)
	}
	return r
}

// Command packs it, without CID and data pointer.
func (r ReservationCommand) Command() Command {
	c := command(r.Opcode, r.NSID)
	d := uint32(r.Action & 7)
	if r.IgnoreExisting {
		d |= 1 << 3
	}
	if r.Opcode == IOReservationRegister {
		d |= uint32(r.Persist&3) << 30
	} else {
		d |= uint32(r.Type) << 8
	}
	c.SetCDW10(d)
	return c
}

// Lengths of reservation data in bytes.
const (
	ReservationKeysSize    = 16 // Register and Acquire
	ReservationReleaseSize = 8  // Release: the current key alone
)

// ReservationKeys is the data of a Register (current and new key) or an Acquire (current key and
// key to preempt). Base 7.2 and 7.3
type ReservationKeys struct {
	Current ReservationKey // CRKEY
	Other   ReservationKey // NRKEY or PRKEY
}

// ParseReservationKeys decodes the first 16 bytes of b.
func ParseReservationKeys(b []byte) (ReservationKeys, int, error) {
	if err := need("reservation keys", b, ReservationKeysSize); err != nil {
		return ReservationKeys{}, 0, err
	}
	return ReservationKeys{ReservationKey(le.Uint64(b)), ReservationKey(le.Uint64(b[8:]))}, ReservationKeysSize, nil
}

// Append appends the wire form.
func (k ReservationKeys) Append(b []byte) []byte {
	return le.AppendUint64(le.AppendUint64(b, uint64(k.Current)), uint64(k.Other))
}

// Len is ReservationKeysSize.
func (k ReservationKeys) Len() int { return ReservationKeysSize }

// ParseReservationRelease decodes the data of a Release, the first 8 bytes of b. Base 7.4
func ParseReservationRelease(b []byte) (ReservationKey, int, error) {
	if err := need("reservation release", b, ReservationReleaseSize); err != nil {
		return 0, 0, err
	}
	return ReservationKey(le.Uint64(b)), ReservationReleaseSize, nil
}

// Append appends the key as the data of a Release.
func (k ReservationKey) Append(b []byte) []byte { return le.AppendUint64(b, uint64(k)) }

// Len is ReservationReleaseSize.
func (k ReservationKey) Len() int { return ReservationReleaseSize }

// ReservationReport is the Reservation Report command. Base 7.5
type ReservationReport struct {
	NSID     NSID
	Length   uint64 // bytes: 4 times the dword count
	Extended bool   // EDS: ReservationStatus with 128-bit host identifiers
}

// ParseReservationReport unpacks the command; the caller has looked at the opcode.
func ParseReservationReport(c *Command) ReservationReport {
	return ReservationReport{NSID: c.NSID(), Length: (uint64(c.CDW10()) + 1) * 4, Extended: bit(c.CDW11(), 1)}
}

// Command packs it, without CID and data pointer. Length must be a multiple of 4.
func (r ReservationReport) Command() Command {
	c := command(IOReservationReport, r.NSID)
	c.SetCDW10(uint32(max(r.Length/4, 1) - 1))
	if r.Extended {
		c.SetCDW11(1)
	}
	return c
}

// Lengths of the parts of a reservation status in bytes.
const (
	reservationStatusSize         = 24
	registrantSize                = 24
	extendedReservationStatusSize = 64
	extendedRegistrantSize        = 64
	// MaxRegistrants is the most registrants that a reservation status can hold.
	MaxRegistrants = 0xffff
)

// Registrant is a controller whose host is registered. Base 7.5
type Registrant struct {
	Controller ControllerID // DynamicControllerID if the host has none at present
	Holder     bool         // RCSTS bit 0
	Host       HostID       // the first 8 bytes alone unless Extended
	Key        ReservationKey
}

// ReservationStatus is the data of a Reservation Report. Base 7.5
type ReservationStatus struct {
	Extended    bool   // 128-bit host identifiers; not on the wire, both sides know it
	Generation  uint32 // GEN: counts registrations, preemptions and clears; wraps
	Type        ReservationType
	Persistent  bool // PTPLS
	Registrants []Registrant
}

// ParseReservationStatus decodes the data at the start of b and returns its length.
func ParseReservationStatus(b []byte, extended bool) (ReservationStatus, int, error) {
	head, each := reservationSizes(extended)
	if err := need("reservation status", b, head); err != nil {
		return ReservationStatus{}, 0, err
	}
	s := ReservationStatus{
		Extended: extended, Generation: le.Uint32(b), Type: ReservationType(b[4]), Persistent: b[9] == 1,
	}
	n := int(le.Uint16(b[5:]))
	total := head + n*each
	if err := need("reservation status", b, total); err != nil {
		return ReservationStatus{}, 0, err
	}
	if n > 0 {
		s.Registrants = make([]Registrant, n)
	}
	for i := range s.Registrants {
		s.Registrants[i].parse(b[head+i*each:], extended)
	}
	return s, total, nil
}

func (r *Registrant) parse(b []byte, extended bool) {
	r.Controller, r.Holder = ControllerID(le.Uint16(b)), b[2]&1 != 0
	if extended {
		r.Key = ReservationKey(le.Uint64(b[8:]))
		copy(r.Host[:], b[16:32])
		return
	}
	copy(r.Host[:8], b[8:16])
	r.Key = ReservationKey(le.Uint64(b[16:]))
}

// Append appends the wire form; registrants above MaxRegistrants are cut.
func (s ReservationStatus) Append(b []byte) []byte {
	head, each := reservationSizes(s.Extended)
	b, p := grow(b, s.Len())
	le.PutUint32(p, s.Generation)
	p[4] = byte(s.Type)
	regs := s.registrants()
	le.PutUint16(p[5:], uint16(len(regs)))
	if s.Persistent {
		p[9] = 1
	}
	for i := range regs {
		regs[i].put(p[head+i*each:], s.Extended)
	}
	return b
}

func (r *Registrant) put(b []byte, extended bool) {
	le.PutUint16(b, uint16(r.Controller))
	if r.Holder {
		b[2] = 1
	}
	if extended {
		le.PutUint64(b[8:], uint64(r.Key))
		copy(b[16:32], r.Host[:])
		return
	}
	copy(b[8:16], r.Host[:8])
	le.PutUint64(b[16:], uint64(r.Key))
}

// Len returns the length in bytes.
func (s ReservationStatus) Len() int {
	head, each := reservationSizes(s.Extended)
	return head + each*len(s.registrants())
}

func (s ReservationStatus) registrants() []Registrant {
	return s.Registrants[:min(len(s.Registrants), MaxRegistrants)]
}

func reservationSizes(extended bool) (head, each int) {
	if extended {
		return extendedReservationStatusSize, extendedRegistrantSize
	}
	return reservationStatusSize, registrantSize
}
