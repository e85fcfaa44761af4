package meta

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// ReservationType has the numbers of NVMe. Base 2.0, 7.2, Reservation Acquire, RTYPE
type ReservationType uint8

// The types of a reservation.
const (
	NoReservation ReservationType = iota
	WriteExclusive
	ExclusiveAccess
	WriteExclusiveRegistrants
	ExclusiveAccessRegistrants
	WriteExclusiveAll
	ExclusiveAccessAll
)

func (t ReservationType) valid() bool { return t >= WriteExclusive && t <= ExclusiveAccessAll }

// all says that every registrant is a holder.
func (t ReservationType) all() bool { return t == WriteExclusiveAll || t == ExclusiveAccessAll }

// shared says that registrants have the holder's access, and must be told when it ends.
func (t ReservationType) shared() bool { return t >= WriteExclusiveRegistrants }

// writeOnly says that reads are open to everybody.
func (t ReservationType) writeOnly() bool {
	return t == WriteExclusive || t == WriteExclusiveRegistrants || t == WriteExclusiveAll
}

// Registrant is a host with a key.
type Registrant struct {
	Host   HostID `json:"host"`
	Key    uint64 `json:"key"`
	Holder bool   `json:"holder,omitempty"`
}

// Reservation is the reservation state of one namespace's volume. It is a value:
// Apply returns a new one and leaves the old as it was.
type Reservation struct {
	Generation  uint32          `json:"generation"` // wraps
	Type        ReservationType `json:"type"`
	Persist     bool            `json:"persist"` // through power loss (PTPL)
	Registrants []Registrant    `json:"registrants,omitempty"`
	// Unit is the iSCSI initiator port that has the volume by RESERVE (6), without any
	// registration; nil: none. It does not outlive the session.
	Unit *HostID `json:"unit,omitempty"`
	// Recent are the last requests carried out, so that a repeated one is not done twice.
	Recent []uuid.UUID `json:"recent,omitempty"`
}

// maxRegistrants is how many hosts can register with one namespace.
const maxRegistrants = 1024

// maxRecent is how many requests a reservation remembers.
const maxRecent = 16

// ReserveAction is what a host asks for.
type ReserveAction uint8

// The actions. Base 7.3 to 7.5
const (
	ReserveReport ReserveAction = iota
	ReserveRegister
	ReserveUnregister
	ReserveReplace
	ReserveAcquire
	ReservePreempt
	ReservePreemptAbort
	ReserveRelease
	ReserveClear
	ReserveSetPersistence // Set Features, Reservation Persistence
	ReserveUnit           // RESERVE (6) of SCSI, and so are those below
	ReserveReleaseUnit    // RELEASE (6)
	ReserveResetUnit      // a reset of the logical unit
)

// PersistenceChange is the CPTPL field of a registration. Base 7.3
type PersistenceChange uint8

// The values of CPTPL; 1 is reserved.
const (
	PersistenceKeep  PersistenceChange = 0
	PersistenceClear PersistenceChange = 2
	PersistenceSet   PersistenceChange = 3
)

// ReserveRequest is one reservation command.
type ReserveRequest struct {
	// ID makes the request safe to repeat when its answer was lost; zero: none.
	ID          uuid.UUID
	Host        HostID
	Action      ReserveAction
	Key         uint64 // CRKEY
	NewKey      uint64 // NRKEY, or PRKEY for a preempt
	IgnoreKey   bool   // IEKEY
	Type        ReservationType
	Persistence PersistenceChange
}

// ReserveResult is how a reservation command ends.
type ReserveResult uint8

// The results.
const (
	ReserveOK       ReserveResult = iota
	ReserveConflict               // status Reservation Conflict
	ReserveInvalid                // status Invalid Field in Command
)

// NotificationType has the numbers of the Reservation Notification log page. Base 5.16.1.24
type NotificationType uint8

// The notifications.
const (
	RegistrationPreempted NotificationType = 1
	ReservationReleased   NotificationType = 2
	ReservationPreempted  NotificationType = 3
)

// Notification is to be told to every controller of a host that sees the namespace.
type Notification struct {
	Host HostID
	Type NotificationType
}

// OpClass is what a command does, as far as reservations care. Base 8.19, figure
// on command behaviour in the presence of a reservation
type OpClass uint8

// The classes.
const (
	OpRead  OpClass = iota // Read, Compare, Verify
	OpWrite                // Write, Write Zeroes, Dataset Management, Flush
)

func (r *Reservation) find(h HostID) int {
	return slices.IndexFunc(r.Registrants, func(g Registrant) bool { return g.Host.Same(h) })
}

// Holds says whether the host holds the reservation.
func (r *Reservation) Holds(h HostID) bool {
	i := r.find(h)
	return i >= 0 && r.Registrants[i].Holder
}

// Guards says whether there is anything that Allows could refuse.
func (r *Reservation) Guards() bool { return r.Type != NoReservation || r.Unit != nil }

// Allows says whether a command of the host gets through. It is to be asked where
// commands are ordered. A nil reservation allows all.
func (r *Reservation) Allows(h HostID, c OpClass) bool {
	if r != nil && r.Unit != nil {
		return r.Unit.Same(h)
	}
	if r == nil || r.Type == NoReservation || (c == OpRead && r.Type.writeOnly()) {
		return true
	}
	i := r.find(h)
	return i >= 0 && (r.Type.shared() || r.Registrants[i].Holder)
}

// Apply carries out one command and returns the new state, the result, and who is
// to be told what. With any other result than ReserveOK the state is unchanged.
func (r Reservation) Apply(q ReserveRequest) (Reservation, ReserveResult, []Notification) {
	n := r
	n.Registrants = slices.Clone(r.Registrants)
	var told []Notification
	result := n.apply(q, &told)
	if result != ReserveOK {
		return r, result, nil
	}
	slices.SortStableFunc(told, func(a, b Notification) int { return int(a.Type) - int(b.Type) })
	return n, result, told
}

func (r *Reservation) apply(q ReserveRequest, told *[]Notification) ReserveResult {
	switch {
	case q.Action == ReserveReport:
		return ReserveOK
	case r.Unit != nil && q.Action < ReserveUnit:
		return ReserveConflict // SPC-2 5.5.1, whoever asks
	case q.Host.Protocol == ISCSI:
		return r.applySCSI(q, told)
	}
	switch q.Action {
	case ReserveRegister, ReserveUnregister, ReserveReplace:
		return r.register(q, told)
	case ReserveAcquire, ReservePreempt, ReservePreemptAbort:
		return r.acquire(q, told)
	case ReserveRelease, ReserveClear:
		return r.release(q, told)
	case ReserveSetPersistence:
		return r.persist(q.Persistence)
	case ReserveReport, ReserveUnit, ReserveReleaseUnit, ReserveResetUnit:
	}
	return ReserveInvalid
}

func (r *Reservation) persist(c PersistenceChange) ReserveResult {
	switch c {
	case PersistenceKeep:
	case PersistenceClear:
		r.Persist = false
	case PersistenceSet:
		r.Persist = true
	default:
		return ReserveInvalid
	}
	return ReserveOK
}

// register is the Reservation Register command. Base 7.3, 8.19.2 to 8.19.4
func (r *Reservation) register(q ReserveRequest, told *[]Notification) ReserveResult {
	if result := r.persist(q.Persistence); result != ReserveOK {
		return result
	}
	i := r.find(q.Host)
	switch q.Action {
	case ReserveRegister:
		switch {
		case q.NewKey == 0:
			return ReserveInvalid
		case i >= 0 && r.Registrants[i].Key != q.NewKey:
			return ReserveConflict
		case i < 0 && len(r.Registrants) >= maxRegistrants:
			return ReserveConflict
		case i < 0:
			r.Registrants = append(r.Registrants, Registrant{Host: q.Host, Key: q.NewKey, Holder: r.Type.all()})
		}
	case ReserveReplace:
		switch {
		case q.NewKey == 0:
			return ReserveInvalid
		case i >= 0 && (q.IgnoreKey || r.Registrants[i].Key == q.Key):
			r.Registrants[i].Key = q.NewKey
		case i < 0 && q.IgnoreKey: // with IEKEY a host that is none becomes a registrant
			if len(r.Registrants) >= maxRegistrants {
				return ReserveConflict
			}
			r.Registrants = append(r.Registrants, Registrant{Host: q.Host, Key: q.NewKey, Holder: r.Type.all()})
		default:
			return ReserveConflict
		}
	case ReserveUnregister:
		if i < 0 || (!q.IgnoreKey && r.Registrants[i].Key != q.Key) {
			return ReserveConflict
		}
		r.remove(i, told)
	default:
		return ReserveInvalid
	}
	r.Generation++
	return ReserveOK
}

// remove unregisters the i-th registrant at its own wish. A reservation ends with
// its holder, one that all hold with the last of them.
func (r *Reservation) remove(i int, told *[]Notification) {
	was := r.Registrants[i]
	r.Registrants = slices.Delete(r.Registrants, i, i+1)
	if was.Holder && (!r.Type.all() || len(r.Registrants) == 0) {
		r.end(was.Host, told)
	}
}

// end releases the reservation and tells registrants other than by, if they had a
// part in it.
func (r *Reservation) end(by HostID, told *[]Notification) {
	if r.Type.shared() {
		r.tell(by, ReservationReleased, told)
	}
	r.Type = NoReservation
	for i := range r.Registrants {
		r.Registrants[i].Holder = false
	}
}

// tell notifies every registrant but one.
func (r *Reservation) tell(but HostID, t NotificationType, told *[]Notification) {
	for _, g := range r.Registrants {
		if !g.Host.Same(but) {
			*told = append(*told, Notification{Host: g.Host, Type: t})
		}
	}
}

// begin makes a reservation held by the host.
func (r *Reservation) begin(h HostID, t ReservationType) {
	r.Type = t
	for i, g := range r.Registrants {
		r.Registrants[i].Holder = t.all() || g.Host.Same(h)
	}
}

// acquire is the Reservation Acquire command. Base 7.2, 8.19.5, 8.19.7
func (r *Reservation) acquire(q ReserveRequest, told *[]Notification) ReserveResult {
	i := r.find(q.Host)
	switch {
	case q.IgnoreKey || !q.Type.valid():
		return ReserveInvalid
	case i < 0 || r.Registrants[i].Key != q.Key:
		return ReserveConflict
	case q.Action != ReserveAcquire:
		return r.preempt(q, told)
	case r.Type == NoReservation:
		r.begin(q.Host, q.Type)
	case !r.Registrants[i].Holder || r.Type != q.Type:
		return ReserveConflict
	}
	return ReserveOK
}

func (r *Reservation) preempt(q ReserveRequest, told *[]Notification) ReserveResult {
	holds := func(g Registrant) bool { return g.Holder && g.Key == q.NewKey }
	before := r.Type
	switch {
	case r.Type.all() && q.NewKey == 0:
		// All others lose their registration, and the reservation is made anew.
		r.drop(q.Host, told, func(g Registrant) bool { return !g.Host.Same(q.Host) })
		r.begin(q.Host, q.Type)
	case q.NewKey == 0:
		return ReserveInvalid
	case r.Type != NoReservation && !r.Type.all() && slices.ContainsFunc(r.Registrants, holds):
		// The holder is preempted. A host that preempts itself stays registered.
		r.drop(q.Host, told, func(g Registrant) bool { return g.Key == q.NewKey && !g.Host.Same(q.Host) })
		r.begin(q.Host, q.Type)
	default:
		// Registrations alone.
		if !slices.ContainsFunc(r.Registrants, func(g Registrant) bool { return g.Key == q.NewKey }) {
			return ReserveConflict
		}
		r.drop(q.Host, told, func(g Registrant) bool { return g.Key == q.NewKey })
		if r.Type.all() && len(r.Registrants) == 0 {
			r.end(q.Host, told)
		}
	}
	if before.shared() && r.Type != before && r.Type != NoReservation {
		r.tell(q.Host, ReservationReleased, told)
	}
	r.Generation++
	return ReserveOK
}

// drop takes registrations away by another host's command.
func (r *Reservation) drop(by HostID, told *[]Notification, which func(Registrant) bool) {
	r.Registrants = slices.DeleteFunc(r.Registrants, func(g Registrant) bool {
		if !which(g) {
			return false
		}
		if !g.Host.Same(by) {
			*told = append(*told, Notification{Host: g.Host, Type: RegistrationPreempted})
		}
		return true
	})
}

// release is the Reservation Release command. Base 7.5, 8.19.6, 8.19.8
func (r *Reservation) release(q ReserveRequest, told *[]Notification) ReserveResult {
	i := r.find(q.Host)
	switch {
	case q.IgnoreKey:
		return ReserveInvalid
	case i < 0 || r.Registrants[i].Key != q.Key:
		return ReserveConflict
	case q.Action == ReserveClear:
		r.tell(q.Host, ReservationPreempted, told)
		r.Registrants, r.Type = nil, NoReservation
		r.Generation++
	case r.Type == NoReservation:
	case !r.Registrants[i].Holder:
		return ReserveConflict
	case r.Type != q.Type:
		return ReserveInvalid
	default:
		r.end(q.Host, told)
	}
	return ReserveOK
}

// Without is the state after all hosts of a protocol were unregistered, because the volume is not
// theirs any more.
func (r Reservation) Without(p Protocol) Reservation {
	n := r
	n.Registrants = slices.Clone(r.Registrants)
	if n.Unit != nil && n.Unit.Protocol == p {
		n.Unit = nil
	}
	var told []Notification
	for i := len(n.Registrants) - 1; i >= 0; i-- {
		if n.Registrants[i].Host.Protocol == p {
			n.remove(i, &told)
			n.Generation++
		}
	}
	return n
}

// PowerLoss is the state after the power of the whole subsystem was lost.
func (r Reservation) PowerLoss() Reservation {
	if r.Persist {
		r.Unit = nil
		return r
	}
	return Reservation{}
}

// ---------------------------------------------------------------- persistence

// ReserveOutcome is what a reservation command did.
type ReserveOutcome struct {
	Result ReserveResult
	State  Reservation // after it
	// Tell is empty when a repeated request was recognised.
	Tell []Notification
	// Changed says that whoever orders commands of the volume must have the new state,
	// and have drained what it admitted under the old one, before the host is answered.
	Changed bool
}

// Reserve carries out a reservation command on a volume, durably.
func (m *Meta) Reserve(ctx context.Context, volume uuid.UUID, q ReserveRequest) (ReserveOutcome, error) {
	var out ReserveOutcome
	err := m.retry(ctx, func(x *txn) error {
		_, arev, err := load[Attachments](ctx, m, keyAttached(volume))
		if err != nil {
			return fmt.Errorf("volume %s is not attached: %w", volume, err)
		}
		r, rev, err := load[Reservation](ctx, m, keyReservation(volume))
		if err != nil && !isNotFound(err) {
			return fmt.Errorf("reservation of volume %s: %w", volume, err)
		}
		if q.ID != uuid.Nil && slices.Contains(r.Recent, q.ID) {
			out = ReserveOutcome{State: r, Changed: true}
			return nil
		}
		next, result, tell := r.Apply(q)
		out = ReserveOutcome{Result: result, State: next, Tell: tell, Changed: !same(r, next)}
		if !out.Changed {
			return nil
		}
		if q.ID != uuid.Nil {
			next.Recent = append(slices.Clone(next.Recent), q.ID)
			if over := len(next.Recent) - maxRecent; over > 0 {
				next.Recent = next.Recent[over:]
			}
			out.State = next
		}
		x.at(keyAttached(volume), arev)
		x.update(keyReservation(volume), rev, next)
		return nil
	})
	return out, err
}

// Reservation returns the state of a volume; that of one never reserved is empty.
func (m *Meta) Reservation(ctx context.Context, volume uuid.UUID) (Reservation, error) {
	r, _, err := load[Reservation](ctx, m, keyReservation(volume))
	if isNotFound(err) {
		err = nil
	}
	return r, err
}

// PowerLoss drops every reservation that does not persist through power loss.
func (m *Meta) PowerLoss(ctx context.Context) error {
	volumes, err := m.Volumes(ctx)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		err := m.retry(ctx, func(x *txn) error {
			r, rev, err := load[Reservation](ctx, m, keyReservation(v.ID))
			if isNotFound(err) {
				return nil
			}
			if err != nil {
				return err
			}
			switch next := r.PowerLoss(); {
			case same(next, Reservation{}):
				x.remove(keyReservation(v.ID), rev)
			case !same(next, r):
				x.update(keyReservation(v.ID), rev, next)
			}
			return nil
		})
		if err != nil {
			return errors.Join(fmt.Errorf("drop the reservation of volume %s", v), err)
		}
	}
	return nil
}
