package meta

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/sdk/iscsi"
)

// TargetMode says how initiators find their way to a target's access points.
type TargetMode string

// The modes.
const (
	// Redirect sends every session to the one access point that is bound to the initiator.
	Redirect TargetMode = "redirect"
	// ALUA lets initiators log in at several access points, and tells them the states.
	ALUA TargetMode = "alua"
)

// TargetOptions is what a target has and a subsystem has not.
type TargetOptions struct {
	Mode TargetMode `json:"mode"`
	CHAP *CHAP      `json:"chap,omitempty"` // nil: initiators are who they say
}

// LUN is a logical unit number of a target, from 0.
type LUN uint16

// LUNOf is the LUN of a namespace of a target.
func LUNOf(id NSID) LUN { return LUN(id - 1) }

// NSID is what the unit is called where namespaces and units are one.
func (l LUN) NSID() NSID { return NSID(l) + 1 }

// Target is an iSCSI target. It is kept as a Subsystem: what holds for hosts, visibility, paths,
// associations and deletion of one holds for the other, and is done by the same functions with the
// IQN as name and LUN.NSID as number.
type Target struct {
	IQN          string
	Tenant       string
	Mode         TargetMode
	CHAP         *CHAP // set by SetTargetCHAP; nil: initiators are who they say
	AllowAnyHost bool
	AllowedHosts []string // IQNs, sorted
	Created      time.Time
	Managed      *Managed
}

func targetOf(s Subsystem) Target {
	t := Target{IQN: s.NQN, Tenant: s.Tenant, AllowAnyHost: s.AllowAnyHost, AllowedHosts: s.AllowedHosts, Created: s.Created, Managed: s.Managed}
	if s.Target != nil {
		t.Mode, t.CHAP = s.Target.Mode, s.Target.CHAP
	}
	return t
}

// subsystem is the record of a target.
func (t Target) subsystem() Subsystem {
	return Subsystem{
		NQN: t.IQN, Tenant: t.Tenant, AllowAnyHost: t.AllowAnyHost, AllowedHosts: t.AllowedHosts, Managed: t.Managed,
		Target: &TargetOptions{Mode: t.Mode},
	}
}

// ProtocolOf is the protocol of which something with this name is: an IQN is of iSCSI.
func ProtocolOf(name string) Protocol {
	for _, p := range []string{"iqn.", "eui.", "naa."} {
		if strings.HasPrefix(name, p) {
			return ISCSI
		}
	}
	return NVMe
}

// CheckIQN says what is wrong with an iSCSI name. RFC 7143 4.2.7
func CheckIQN(field, s string) error {
	if err := iscsi.CheckName(s); err != nil {
		return invalid(field, "an iSCSI name: %v", err)
	}
	return nil
}

func checkHostName(p Protocol, field, s string) error {
	if p == ISCSI {
		return CheckIQN(field, s)
	}
	return CheckNQN(field, s)
}

// checkTarget checks name and options of a target, or the name of a subsystem.
func (s *Subsystem) checkTarget() error {
	if s.Target == nil {
		return CheckNQN("nqn", s.NQN)
	}
	if s.Target.Mode == "" {
		s.Target.Mode = Redirect
	}
	if s.Target.Mode != Redirect && s.Target.Mode != ALUA {
		return invalid("mode", "%q or %q; it is %q", Redirect, ALUA, s.Target.Mode)
	}
	return CheckIQN("iqn", s.NQN)
}

// sameTarget says whether two targets are equal but for what is set later.
func sameTarget(a, b *TargetOptions) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Mode == b.Mode
}

// CreateTarget makes a target. If an equal one exists, it is returned.
func (m *Meta) CreateTarget(ctx context.Context, t Target) (Target, error) {
	s, err := m.CreateSubsystem(ctx, t.subsystem())
	return targetOf(s), err
}

// Target returns one target.
func (m *Meta) Target(ctx context.Context, iqn string) (Target, error) {
	s, err := m.Subsystem(ctx, iqn)
	if err == nil && s.Target == nil {
		err = fmt.Errorf("target %s: %w", iqn, ErrNotFound)
	}
	return targetOf(s), err
}

// Targets returns all targets by IQN.
func (m *Meta) Targets(ctx context.Context) ([]Target, error) {
	all, err := m.Exports(ctx)
	var out []Target
	for _, s := range all {
		if s.Protocol() == ISCSI {
			out = append(out, targetOf(s))
		}
	}
	return out, err
}

// DeleteTarget removes a target without logical units. Deleting a missing one is no error.
func (m *Meta) DeleteTarget(ctx context.Context, iqn string) error {
	return m.DeleteSubsystem(ctx, iqn)
}

// Unit is a volume attached to a target.
type Unit struct {
	Target    string // IQN
	LUN       LUN
	Volume    uuid.UUID
	VisibleTo []string // IQNs; empty: every allowed initiator
	Managed   *Managed
}

func unitOf(n Namespace) Unit {
	return Unit{n.Subsystem, LUNOf(n.NSID), n.Volume, n.VisibleTo, n.Managed}
}

// AttachUnit attaches a volume as a logical unit; the lowest free LUN if lun is negative.
func (m *Meta) AttachUnit(ctx context.Context, iqn string, lun int, volume uuid.UUID, visibleTo []string, by *Managed) (Unit, error) {
	n := Namespace{Subsystem: iqn, Volume: volume, VisibleTo: visibleTo, Managed: by}
	if lun >= 0 {
		n.NSID = LUN(lun).NSID()
	}
	n, err := m.AttachNamespace(ctx, n)
	return unitOf(n), err
}

// Units returns the logical units of a target by LUN.
func (m *Meta) Units(ctx context.Context, iqn string) ([]Unit, error) {
	all, err := m.Namespaces(ctx, iqn)
	var out []Unit
	for _, n := range all {
		out = append(out, unitOf(n))
	}
	return out, err
}
