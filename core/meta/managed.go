package meta

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// Desired is what a configuration file sets. Every object has its Managed place.
type Desired struct {
	Tenants    []Tenant
	Hosts      []Host
	Volumes    []DesiredVolume
	Subsystems []DesiredSubsystem
}

// DesiredVolume is a volume block.
type DesiredVolume struct {
	Name       string
	Tenant     string // "" is the default one
	Bytes      int64
	BlockBytes int
	Durability Durability
	Group      string
	Replicas   int // 0: the default for a new one, else as it is
	Media      string
	Managed    Managed
}

// DesiredSubsystem is a subsystem block with its namespace blocks; or a target block with its lun blocks.
type DesiredSubsystem struct {
	NQN          string
	Tenant       string // "" is the default one
	Serial       string // "" derives one from the NQN
	Model        string // "" is ours
	AllowAnyHost bool
	AllowedHosts []string // NQNs, or IQNs
	Namespaces   []DesiredNamespace
	Managed      Managed
	// Target makes it a target block, with the IQN as NQN and each LUN as the NSID that LUN.NSID says.
	Target  *TargetOptions
	Secrets CHAPSecrets // that go with Target.CHAP
}

// DesiredNamespace is a namespace block; its volume is of the subsystem's tenant.
type DesiredNamespace struct {
	NSID      NSID
	Volume    string
	VisibleTo []string // NQNs
	Managed   Managed
}

// Report is what ApplyManaged did.
type Report struct {
	Created   []string
	Updated   []string
	Unmanaged []string // still there, but no longer set by the file
	Refused   []Refusal
	Unchanged int
}

// Refusal is a block that could not be applied; the object stays as it is.
type Refusal struct {
	What string
	Managed
	Err error
}

func (r Refusal) String() string { return fmt.Sprintf("%s: %s: %v", r.Managed, r.What, r.Err) }

// Err joins the refusals, or is nil.
func (r Report) Err() error {
	var all []error
	for _, f := range r.Refused {
		all = append(all, fmt.Errorf("%s: %s: %w", f.Managed, f.What, f.Err))
	}
	return errors.Join(all...)
}

// ApplyManaged makes the objects of a configuration file so, adopting those that
// exist. It never deletes, shrinks or moves data: an object whose block is gone
// stays and is marked unmanaged, and what a live object cannot become is refused in
// the report while the rest goes on. It is idempotent and may be cut anywhere. The
// error is about the store, not about blocks.
func (m *Meta) ApplyManaged(ctx context.Context, d Desired) (Report, error) {
	a := &applier{m: m, ctx: ctx, keep: map[string]bool{}}
	for _, t := range d.Tenants {
		a.tenant(t)
	}
	for _, h := range d.Hosts {
		a.host(h)
	}
	for _, v := range d.Volumes {
		a.volume(v)
	}
	for _, s := range d.Subsystems {
		a.subsystem(s)
	}
	if a.err == nil {
		a.err = a.release()
	}
	return a.report, a.err
}

type applier struct {
	m      *Meta
	ctx    context.Context
	keep   map[string]bool // what the file names
	report Report
	err    error // of the store: everything after it is skipped
}

// outcome books what became of one block.
func (a *applier) outcome(what string, at Managed, created, changed bool, err error) {
	var inv *InvalidError
	switch {
	case err == nil && created:
		a.report.Created = append(a.report.Created, what)
	case err == nil && changed:
		a.report.Updated = append(a.report.Updated, what)
	case err == nil:
		a.report.Unchanged++
	case errors.As(err, &inv), errors.Is(err, ErrNotFound), errors.Is(err, ErrExists), errors.Is(err, ErrInUse), errors.Is(err, ErrConflict):
		a.report.Refused = append(a.report.Refused, Refusal{What: what, Managed: at, Err: err})
	default:
		a.err = fmt.Errorf("apply %s (%s): %w", what, at, err)
	}
}

// place is where an object's block stands, for comparison and for messages.
func place(m *Managed) Managed {
	if m == nil {
		return Managed{}
	}
	return *m
}

func (a *applier) tenant(t Tenant) {
	what := "tenant " + t.Name
	if a.err != nil {
		return
	}
	a.keep[what] = true
	old, err := a.m.Tenant(a.ctx, t.Name)
	created := isNotFound(err)
	if created {
		_, err = a.m.CreateTenant(a.ctx, t)
	} else if err == nil {
		err = a.m.setTenant(a.ctx, t)
	}
	_ = t.check()
	a.outcome(what, place(t.Managed), created, !old.sameAs(t) || old.Managed == nil, err)
}

func (a *applier) host(h Host) {
	what := "host " + h.Name
	if a.err != nil {
		return
	}
	a.keep[what] = true
	old, err := a.m.Host(a.ctx, h.Name)
	created := isNotFound(err)
	if err == nil || created {
		err = a.m.applyHost(a.ctx, h)
	}
	a.outcome(what, place(h.Managed), created, old.NQN != h.NQN || old.IQN != h.IQN || old.Managed == nil, err)
}

func (a *applier) volume(d DesiredVolume) {
	if a.err != nil {
		return
	}
	want := Volume{Name: d.Name, Tenant: d.Tenant, Bytes: d.Bytes, BlockBytes: d.BlockBytes, Durability: d.Durability, Group: d.Group, Replicas: d.Replicas, Media: d.Media, Managed: &d.Managed}
	err := want.check()
	what := "volume " + want.String()
	a.keep[what] = true
	if err != nil {
		a.outcome(what, d.Managed, false, false, err)
		return
	}
	old, err := a.m.FindVolume(a.ctx, want.Tenant, want.Name)
	if isNotFound(err) {
		_, err = a.m.CreateVolume(a.ctx, want)
		a.outcome(what, d.Managed, true, false, err)
		return
	}
	if err != nil {
		a.outcome(what, d.Managed, false, false, err)
		return
	}
	var refused error
	next, err := a.m.changeVolume(a.ctx, old.ID, false, func(x *txn, v *Volume) error {
		v.Managed, v.Group, v.Media = want.Managed, want.Group, want.Media
		v.setDurability(want.Durability)
		if want.Replicas != 0 {
			v.Replicas = want.Replicas
		}
		refused = nil
		switch {
		case v.BlockBytes != want.BlockBytes:
			refused = invalid("block_size", "%d, which is fixed when the volume is made; it is %d", v.BlockBytes, want.BlockBytes)
		case want.Bytes < v.Bytes:
			refused = invalid("size", "at least the present %d bytes: a file never destroys data (\"mooring volume resize -force\" does); it is %d", v.Bytes, want.Bytes)
		case want.Bytes > v.Bytes:
			refused = a.m.resize(a.ctx, x, v, Resize{Bytes: want.Bytes})
		}
		return nil
	})
	if err == nil {
		err = refused
	}
	changed := next.Bytes != old.Bytes || next.Durability != old.Durability || next.Group != old.Group || next.Replicas != old.Replicas || next.Media != old.Media || old.Managed == nil
	a.outcome(what, d.Managed, false, changed, err)
}

func (a *applier) subsystem(d DesiredSubsystem) {
	if a.err != nil {
		return
	}
	what := exportTitle(d.NQN)
	a.keep[what] = true
	want := Subsystem{
		NQN: d.NQN, Tenant: d.Tenant, Serial: d.Serial, Model: d.Model, AllowAnyHost: d.AllowAnyHost,
		AllowedHosts: slices.Clone(d.AllowedHosts), Managed: &d.Managed,
	}
	var chap *CHAP
	if d.Target != nil {
		want.Target = &TargetOptions{Mode: d.Target.Mode}
		chap = d.Target.CHAP
	}
	err := want.check()
	if err == nil && chap != nil {
		err = CheckCHAP(*chap, d.Secrets)
	}
	var old Subsystem
	created := false
	if err == nil {
		old, err = a.m.Subsystem(a.ctx, d.NQN)
		if created = isNotFound(err); created {
			_, err = a.m.CreateSubsystem(a.ctx, want)
		} else if err == nil {
			_, err = a.m.changeSubsystem(a.ctx, d.NQN, func(_ *txn, s *Subsystem) error {
				switch {
				case s.Tenant != want.Tenant:
					return invalid("tenant", "%s, which is fixed when the subsystem is made; it is %s", s.Tenant, want.Tenant)
				case d.Serial != "" && s.Serial != d.Serial:
					return invalid("serial", "%s, which is fixed when the subsystem is made; it is %s", s.Serial, d.Serial)
				case d.Model != "" && s.Model != d.Model:
					return invalid("model", "%s, which is fixed when the subsystem is made; it is %s", s.Model, d.Model)
				}
				s.AllowAnyHost, s.AllowedHosts, s.Managed = want.AllowAnyHost, want.AllowedHosts, want.Managed
				if want.Target != nil {
					s.Target = &TargetOptions{Mode: want.Target.Mode, CHAP: s.Target.CHAP}
				}
				return nil
			})
		}
	}
	changed := old.AllowAnyHost != want.AllowAnyHost || !slices.Equal(old.AllowedHosts, want.AllowedHosts) || old.Managed == nil
	if err == nil && want.Target != nil {
		err = a.m.setCHAP(a.ctx, d.NQN, chap, d.Secrets, &d.Managed)
		changed = changed || !created && (old.Target.Mode != want.Target.Mode || !same(old.Target.CHAP, chap))
	}
	a.outcome(what, d.Managed, created, changed, err)
	for _, n := range d.Namespaces {
		a.namespace(want, n, err)
	}
}

func (a *applier) namespace(s Subsystem, d DesiredNamespace, parent error) {
	if a.err != nil {
		return
	}
	what := unitTitle(s.NQN, d.NSID)
	a.keep[what] = true
	if parent != nil {
		return // said already
	}
	v, err := a.m.FindVolume(a.ctx, s.Tenant, d.Volume)
	if err == nil && d.NSID == 0 {
		err = invalid("nsid", "from 1 to %d; it is 0", MaxNamespaces)
	}
	if err != nil {
		a.outcome(what, d.Managed, false, false, err)
		return
	}
	old, err := a.m.Namespace(a.ctx, s.NQN, d.NSID)
	switch {
	case isNotFound(err):
		_, err = a.m.AttachNamespace(a.ctx, Namespace{Subsystem: s.NQN, NSID: d.NSID, Volume: v.ID, VisibleTo: d.VisibleTo, Managed: &d.Managed})
		a.outcome(what, d.Managed, true, false, err)
		return
	case err != nil:
	case old.Volume != v.ID:
		a.keep[what] = false // so that the CLI can detach it
		err = invalid("volume", "the one that is attached there (%s), or detach it first; it is %s", a.volumeName(old.Volume), d.Volume)
	default:
		var hosts []string
		hosts, err = checkHosts(s.Protocol(), "visible to", d.VisibleTo)
		if err == nil {
			err = a.m.setNamespace(a.ctx, s.NQN, d.NSID, func(n *Namespace) error {
				n.VisibleTo, n.Managed = hosts, &d.Managed
				return nil
			})
		}
		a.outcome(what, d.Managed, false, !slices.Equal(old.VisibleTo, hosts) || old.Managed == nil, err)
		return
	}
	a.outcome(what, d.Managed, false, false, err)
}

func (a *applier) volumeName(id uuid.UUID) string {
	v, err := a.m.Volume(a.ctx, id)
	if err != nil {
		return id.String()
	}
	return v.Name
}

// release marks what the file named before and does not name now as unmanaged.
func (a *applier) release() error {
	done := func(what string, err error) error {
		if err == nil {
			a.report.Unmanaged = append(a.report.Unmanaged, what)
		}
		if isNotFound(err) { // deleted meanwhile
			return nil
		}
		return err
	}
	gone := func(what string, m *Managed) bool { return m != nil && !a.keep[what] }

	tenants, err := a.m.Tenants(a.ctx)
	if err != nil {
		return err
	}
	for _, t := range tenants {
		if what := "tenant " + t.Name; gone(what, t.Managed) {
			t.Managed = nil
			if err := done(what, a.m.setTenant(a.ctx, t)); err != nil {
				return err
			}
		}
	}
	hosts, err := a.m.Hosts(a.ctx)
	if err != nil {
		return err
	}
	for _, h := range hosts {
		if what := "host " + h.Name; gone(what, h.Managed) {
			h.Managed = nil
			if err := done(what, a.m.applyHost(a.ctx, h)); err != nil {
				return err
			}
		}
	}
	volumes, err := a.m.Volumes(a.ctx)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if what := "volume " + v.String(); gone(what, v.Managed) && v.State == VolumeActive {
			_, err := a.m.changeVolume(a.ctx, v.ID, false, func(_ *txn, v *Volume) error { v.Managed = nil; return nil })
			if err := done(what, err); err != nil {
				return err
			}
		}
	}
	subsystems, err := a.m.Exports(a.ctx)
	if err != nil {
		return err
	}
	for _, s := range subsystems {
		if what := s.title(); gone(what, s.Managed) {
			_, err := a.m.changeSubsystem(a.ctx, s.NQN, func(_ *txn, s *Subsystem) error { s.Managed = nil; return nil })
			if err := done(what, err); err != nil {
				return err
			}
		}
	}
	namespaces, err := a.m.AllNamespaces(a.ctx)
	if err != nil {
		return err
	}
	for _, n := range namespaces {
		if what := unitTitle(n.Subsystem, n.NSID); gone(what, n.Managed) {
			err := a.m.setNamespace(a.ctx, n.Subsystem, n.NSID, func(n *Namespace) error { n.Managed = nil; return nil })
			if err := done(what, err); err != nil {
				return err
			}
		}
	}
	return nil
}
