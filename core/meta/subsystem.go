package meta

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta/store"
)

// NSID identifies a namespace within its subsystem, from 1. Base 3.2.1.2
type NSID uint32

// MaxNamespaces is the highest number of namespaces of a subsystem (NN).
const MaxNamespaces = 1024

// maxHosts bounds an allow list and a visibility list.
const maxHosts = 1024

// Subsystem is an NVMe subsystem; or an iSCSI target, which package meta shows as a Target: a name
// under which hosts of one protocol find volumes.
type Subsystem struct {
	NQN          string    `json:"nqn"` // or the target's IQN
	Tenant       string    `json:"tenant"`
	Serial       string    `json:"serial"` // 1 to 20 ASCII characters
	Model        string    `json:"model"`  // 1 to 40 ASCII characters
	AllowAnyHost bool      `json:"allow_any_host"`
	AllowedHosts []string  `json:"allowed_hosts,omitempty"` // NQNs, or IQNs, sorted
	Namespaces   uint32    `json:"max_namespaces"`          // NN, fixed
	NextNSID     NSID      `json:"next_nsid"`               // where the search for a free one begins
	Generation   uint64    `json:"generation"`              // grows with every change of it or its namespaces
	Created      time.Time `json:"created"`
	Managed      *Managed  `json:"managed,omitempty"`
	// Target is what only an iSCSI target has; nil for an NVMe subsystem.
	Target *TargetOptions `json:"target,omitempty"`
}

// Allows says whether a host may connect.
func (s Subsystem) Allows(host string) bool {
	return s.AllowAnyHost || slices.Contains(s.AllowedHosts, host)
}

// Protocol is the one that hosts speak.
func (s Subsystem) Protocol() Protocol { return ProtocolOf(s.NQN) }

// title is how messages call it.
func (s Subsystem) title() string { return exportTitle(s.NQN) }

func exportTitle(name string) string {
	if ProtocolOf(name) == ISCSI {
		return "target " + name
	}
	return "subsystem " + name
}

func unitTitle(name string, id NSID) string {
	if id == WholeTarget {
		return exportTitle(name)
	}
	if ProtocolOf(name) == ISCSI {
		return fmt.Sprintf("target %s LUN %d", name, LUNOf(id))
	}
	return fmt.Sprintf("subsystem %s namespace %d", name, id)
}

// Namespace is a volume attached to a subsystem; or a logical unit of a target, whose NSID is its LUN
// and one.
type Namespace struct {
	Subsystem string    `json:"subsystem"` // NQN, or the target's IQN
	NSID      NSID      `json:"nsid"`
	Volume    uuid.UUID `json:"volume"`
	// ANAGroup is the namespace's own group, fixed for its life. Base 8.1.2
	ANAGroup  uint32   `json:"ana_group"`
	VisibleTo []string `json:"visible_to,omitempty"` // NQNs or IQNs of hosts, sorted; empty: every allowed host
	Managed   *Managed `json:"managed,omitempty"`
}

// VisibleHost says whether a host that may connect sees the namespace.
func (n Namespace) VisibleHost(host string) bool {
	return len(n.VisibleTo) == 0 || slices.Contains(n.VisibleTo, host)
}

// Attachments is where a volume is attached: once for each protocol at most.
type Attachments struct {
	Subsystem string `json:"subsystem,omitempty"` // NQN; "": none
	NSID      NSID   `json:"nsid,omitempty"`
	Target    string `json:"target,omitempty"` // IQN; "": none
	Unit      NSID   `json:"unit,omitempty"`
}

// at returns where the volume is attached for a protocol.
func (a *Attachments) at(p Protocol) (name *string, id *NSID) {
	if p == ISCSI {
		return &a.Target, &a.Unit
	}
	return &a.Subsystem, &a.NSID
}

// users names each.
func (a *Attachments) users() []string {
	var out []string
	for _, p := range []Protocol{NVMe, ISCSI} {
		if name, id := a.at(p); *name != "" {
			out = append(out, unitTitle(*name, *id))
		}
	}
	return out
}

func (s *Subsystem) check() error {
	if s.Tenant == "" {
		s.Tenant = DefaultTenant
	}
	if s.Serial == "" {
		sum := sha256.Sum256([]byte(s.NQN))
		s.Serial = "MR" + strings.ToUpper(hex.EncodeToString(sum[:8]))
	}
	if s.Model == "" {
		s.Model = "Mooring"
	}
	if s.Namespaces == 0 {
		s.Namespaces = MaxNamespaces
	}
	if err := s.checkTarget(); err != nil {
		return err
	}
	if s.NQN == DiscoveryNQN {
		return invalid("nqn", "any but the discovery service's own")
	}
	if err := checkName("tenant", s.Tenant); err != nil {
		return err
	}
	if err := checkASCII("serial", s.Serial, 20); err != nil {
		return err
	}
	if err := checkASCII("model", s.Model, 40); err != nil {
		return err
	}
	if s.Namespaces > MaxNamespaces {
		return invalid("max namespaces", "1 to %d; it is %d", MaxNamespaces, s.Namespaces)
	}
	var err error
	s.AllowedHosts, err = checkHosts(s.Protocol(), "hosts", s.AllowedHosts)
	return err
}

// checkHosts sorts a list of hosts' names and drops repeats.
func checkHosts(p Protocol, field string, names []string) ([]string, error) {
	if len(names) > maxHosts {
		return nil, invalid(field, "at most %d; there are %d", maxHosts, len(names))
	}
	for _, h := range names {
		if err := checkHostName(p, field, h); err != nil {
			return nil, err
		}
	}
	out := slices.Clone(names)
	slices.Sort(out)
	out = slices.Compact(out)
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

// CreateSubsystem makes a subsystem. If an equal one exists, it is returned, also if hosts were
// allowed since.
func (m *Meta) CreateSubsystem(ctx context.Context, s Subsystem) (Subsystem, error) {
	if err := s.check(); err != nil {
		return s, err
	}
	s.NextNSID, s.Generation, s.Created = 1, 1, m.now().UTC()
	out := s
	err := m.retry(ctx, func(x *txn) error {
		old, _, err := load[Subsystem](ctx, m, keySubsystem(s.NQN))
		if err == nil {
			out = old
			if other := old.differs(s); other != "" {
				return fmt.Errorf("%s with another %s: %w", s.title(), other, ErrExists)
			}
			return nil
		}
		if !isNotFound(err) {
			return err
		}
		if err := m.openTenant(ctx, x, s.Tenant); err != nil {
			return err
		}
		x.Optional = true
		x.create(keyTenantSub(s.Tenant, s.NQN), true)
		x.create(keySubsystem(s.NQN), s)
		return nil
	})
	return out, err
}

// differs says in what a subsystem is not the one that is asked for, if it is not.
func (s Subsystem) differs(asked Subsystem) string {
	switch {
	case asked.Tenant != s.Tenant:
		return "tenant"
	case asked.Serial != s.Serial:
		return "serial"
	case asked.Model != s.Model:
		return "model"
	case asked.Namespaces != s.Namespaces:
		return "limit of namespaces"
	case asked.AllowAnyHost != s.AllowAnyHost:
		return "answer to whether any host may connect"
	case asked.AllowedHosts != nil && !slices.Equal(asked.AllowedHosts, s.AllowedHosts):
		return "list of hosts"
	case !sameTarget(asked.Target, s.Target):
		return "mode"
	}
	return ""
}

// Subsystem returns one subsystem.
func (m *Meta) Subsystem(ctx context.Context, nqn string) (Subsystem, error) {
	s, _, err := load[Subsystem](ctx, m, keySubsystem(nqn))
	if err != nil {
		return s, fmt.Errorf("%s: %w", exportTitle(nqn), err)
	}
	return s, nil
}

// Exports returns all NVMe subsystems and iSCSI targets by name.
func (m *Meta) Exports(ctx context.Context) ([]Subsystem, error) {
	return list[Subsystem](ctx, m, "subsystem/")
}

// Subsystems returns all NVMe subsystems by NQN.
func (m *Meta) Subsystems(ctx context.Context) ([]Subsystem, error) {
	all, err := m.Exports(ctx)
	return slices.DeleteFunc(all, func(s Subsystem) bool { return s.Protocol() != NVMe }), err
}

// DeleteSubsystem removes a subsystem without namespaces. Deleting a missing one is no error.
func (m *Meta) DeleteSubsystem(ctx context.Context, nqn string) error {
	return m.retry(ctx, func(x *txn) error {
		s, rev, err := load[Subsystem](ctx, m, keySubsystem(nqn))
		if isNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := refuseManaged(s.title(), s.Managed); err != nil {
			return err
		}
		spaces, err := m.Namespaces(ctx, nqn)
		if err != nil {
			return err
		}
		if len(spaces) > 0 {
			var users []string
			for _, n := range spaces[:min(len(spaces), maxUsers)] {
				users = append(users, strings.TrimPrefix(unitTitle(nqn, n.NSID), s.title()+" "))
			}
			return &InUseError{What: s.title(), Users: users}
		}
		// Attaching writes the subsystem's record, so none can slip in.
		x.remove(keySubsystem(nqn), rev)
		x.Delete = append(x.Delete, keyTenantSub(s.Tenant, nqn), keyCHAP(nqn))
		associations, err := m.Associations(ctx, nqn)
		if err != nil {
			return err
		}
		for _, a := range associations {
			if len(x.Delete) < maxPathsPerTxn { // what is left over does no harm
				x.Delete = append(x.Delete, keyAssociation(nqn, a.Host))
			}
		}
		return nil
	})
}

// changeSubsystem updates one subsystem and its generation, if fn changed it or
// added to x.
func (m *Meta) changeSubsystem(ctx context.Context, nqn string, fn func(x *txn, s *Subsystem) error) (Subsystem, error) {
	var out Subsystem
	err := m.retry(ctx, func(x *txn) error {
		old, rev, err := load[Subsystem](ctx, m, keySubsystem(nqn))
		if err != nil {
			return fmt.Errorf("%s: %w", exportTitle(nqn), err)
		}
		next := old
		next.AllowedHosts = slices.Clone(old.AllowedHosts)
		if err := fn(x, &next); err != nil {
			return err
		}
		if out = next; same(next, old) && len(x.Put)+len(x.Delete) == 0 {
			return nil
		}
		quiet := next
		quiet.Managed = old.Managed
		if !same(quiet, old) || len(x.Put)+len(x.Delete) > 0 {
			next.Generation++ // hosts can tell the difference
		}
		out = next
		x.update(keySubsystem(nqn), rev, next)
		return nil
	})
	return out, err
}

// AllowHost lets a host connect to a subsystem or target.
func (m *Meta) AllowHost(ctx context.Context, nqn, host string) error {
	return m.changeHosts(ctx, nqn, func(s *Subsystem) error {
		hosts, err := checkHosts(s.Protocol(), "host", append(s.AllowedHosts, host))
		s.AllowedHosts = hosts
		return err
	})
}

// DenyHost takes a host off the allow list.
func (m *Meta) DenyHost(ctx context.Context, nqn, host string) error {
	return m.changeHosts(ctx, nqn, func(s *Subsystem) error {
		s.AllowedHosts = slices.DeleteFunc(s.AllowedHosts, func(h string) bool { return h == host })
		if len(s.AllowedHosts) == 0 {
			s.AllowedHosts = nil
		}
		return nil
	})
}

// SetAllowAnyHost lets every host connect, or only those on the list.
func (m *Meta) SetAllowAnyHost(ctx context.Context, nqn string, on bool) error {
	return m.changeHosts(ctx, nqn, func(s *Subsystem) error { s.AllowAnyHost = on; return nil })
}

func (m *Meta) changeHosts(ctx context.Context, nqn string, fn func(*Subsystem) error) error {
	_, err := m.changeSubsystem(ctx, nqn, func(_ *txn, s *Subsystem) error {
		old := *s
		if err := fn(s); err != nil {
			return err
		}
		if old.AllowAnyHost != s.AllowAnyHost || !slices.Equal(old.AllowedHosts, s.AllowedHosts) {
			return refuseManaged(s.title(), s.Managed)
		}
		return nil
	})
	return err
}

// ---------------------------------------------------------------- namespaces

// Namespace returns one namespace.
func (m *Meta) Namespace(ctx context.Context, nqn string, id NSID) (Namespace, error) {
	n, _, err := load[Namespace](ctx, m, keyNamespace(nqn, id))
	if err != nil {
		return n, fmt.Errorf("%s: %w", unitTitle(nqn, id), err)
	}
	return n, nil
}

// Namespaces returns the namespaces of a subsystem by NSID.
func (m *Meta) Namespaces(ctx context.Context, nqn string) ([]Namespace, error) {
	return list[Namespace](ctx, m, keyNamespaces(nqn))
}

// AllNamespaces returns the namespaces of every subsystem and the logical units of every target.
func (m *Meta) AllNamespaces(ctx context.Context) ([]Namespace, error) {
	return list[Namespace](ctx, m, "namespace/")
}

// AttachNamespace attaches a volume. n.NSID 0 chooses one that was not used for as
// long as possible. A volume has one attachment at a time for each protocol; attaching it
// again where it is, for all or for the same hosts, returns what is there.
func (m *Meta) AttachNamespace(ctx context.Context, n Namespace) (Namespace, error) {
	protocol := ProtocolOf(n.Subsystem)
	hosts, err := checkHosts(protocol, "visible to", n.VisibleTo)
	if err != nil {
		return n, err
	}
	n.VisibleTo = hosts
	out := n
	_, err = m.changeSubsystem(ctx, n.Subsystem, func(x *txn, s *Subsystem) error {
		at, arev, err := load[Attachments](ctx, m, keyAttached(n.Volume))
		if err != nil && !isNotFound(err) {
			return err
		}
		name, id := at.at(protocol)
		if *name != "" {
			if *name != n.Subsystem || (n.NSID != 0 && *id != n.NSID) {
				v, err := m.Volume(ctx, n.Volume)
				if err != nil {
					return err
				}
				return &InUseError{What: "volume " + v.String(), Users: []string{unitTitle(*name, *id)}}
			}
			if out, err = m.Namespace(ctx, *name, *id); err != nil {
				return err
			}
			if n.VisibleTo != nil && !slices.Equal(n.VisibleTo, out.VisibleTo) {
				return fmt.Errorf("%s, seen by other hosts: %w", unitTitle(*name, *id), ErrExists)
			}
			return nil
		}
		v, vrev, err := load[Volume](ctx, m, keyVolume(n.Volume))
		if err == nil && v.State != VolumeActive {
			err = fmt.Errorf("it is being deleted: %w", ErrNotFound)
		}
		if err != nil {
			return fmt.Errorf("volume %s: %w", n.Volume, err)
		}
		if v.Tenant != s.Tenant {
			return invalid("volume", "one of tenant %s, which %s belongs to; %s belongs to %s", s.Tenant, s.title(), v.Name, v.Tenant)
		}
		out = n
		if out.NSID == 0 {
			if out.NSID, err = m.freeNSID(ctx, s); err != nil {
				return err
			}
		}
		if err := m.checkFreeNSID(ctx, s, out); err != nil {
			return err
		}
		out.ANAGroup = uint32(out.NSID)
		s.NextNSID = out.NSID%NSID(s.Namespaces) + 1
		x.at(keyVolume(n.Volume), vrev)
		x.Optional = true
		*name, *id = n.Subsystem, out.NSID
		x.update(keyAttached(n.Volume), arev, at)
		x.create(keyNamespace(n.Subsystem, out.NSID), out)
		return nil
	})
	return out, err
}

func (m *Meta) checkFreeNSID(ctx context.Context, s *Subsystem, n Namespace) error {
	if n.NSID == 0 {
		return nil
	}
	if n.NSID > NSID(s.Namespaces) {
		return invalid("nsid", "1 to %d; it is %d", s.Namespaces, n.NSID)
	}
	old, _, err := load[Namespace](ctx, m, keyNamespace(s.NQN, n.NSID))
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	v, err := m.Volume(ctx, old.Volume)
	if err != nil {
		return err
	}
	return fmt.Errorf("%s (volume %s): %w", unitTitle(s.NQN, n.NSID), v, ErrExists)
}

// freeNSID returns the first free NSID from the one after the last used.
func (m *Meta) freeNSID(ctx context.Context, s *Subsystem) (NSID, error) {
	for i := range s.Namespaces {
		id := (s.NextNSID-1+NSID(i))%NSID(s.Namespaces) + 1
		_, err := m.st.Get(ctx, keyNamespace(s.NQN, id))
		if errors.Is(err, store.ErrNotFound) {
			return id, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, &InUseError{What: "every number of " + s.title(), Users: []string{fmt.Sprintf("its %d volumes", s.Namespaces)}}
}

// DetachNamespace takes a namespace away from its hosts; the volume stays. The last
// attachment takes the reservation with it, a former one the registrations of its
// protocol. Detaching a missing one is no error.
func (m *Meta) DetachNamespace(ctx context.Context, nqn string, id NSID) error {
	for {
		more := false
		_, err := m.changeSubsystem(ctx, nqn, func(x *txn, _ *Subsystem) error {
			n, rev, err := load[Namespace](ctx, m, keyNamespace(nqn, id))
			if isNotFound(err) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := refuseManaged(unitTitle(nqn, id), n.Managed); err != nil {
				return err
			}
			v, vrev, err := load[Volume](ctx, m, keyVolume(n.Volume))
			if err != nil {
				return err
			}
			// The volume's next attachment begins above every epoch of this one. Paths
			// that do not fit are removed first, a bounded number at a time.
			more = false
			all, err := m.Associations(ctx, nqn)
			if err != nil {
				return err
			}
			removed := 0
			for _, a := range all {
				key := NewPathKey(a.Host, nqn, id)
				p, prev, err := load[Path](ctx, m, keyPath(key))
				if isNotFound(err) {
					continue
				}
				if err != nil {
					return err
				}
				if removed++; removed > maxPathsPerTxn {
					more = true
					break
				}
				v.EpochBase = max(v.EpochBase, p.Moves+a.Raises)
				x.at(keyAssociation(nqn, a.Host), a.revision)
				x.remove(keyPath(key), prev)
			}
			x.update(keyVolume(n.Volume), vrev, v)
			if !more {
				x.remove(keyNamespace(nqn, id), rev)
				return m.detach(ctx, x, n)
			}
			return nil
		})
		if err != nil || !more {
			return err
		}
	}
}

// detach adds to x that a volume is not attached as n any more.
func (m *Meta) detach(ctx context.Context, x *txn, n Namespace) error {
	at, rev, err := load[Attachments](ctx, m, keyAttached(n.Volume))
	if err != nil {
		return err
	}
	protocol := ProtocolOf(n.Subsystem)
	name, id := at.at(protocol)
	*name, *id = "", 0
	if len(at.users()) == 0 {
		x.remove(keyAttached(n.Volume), rev)
		x.Delete = append(x.Delete, keyReservation(n.Volume))
		return nil
	}
	x.update(keyAttached(n.Volume), rev, at)
	r, rrev, err := load[Reservation](ctx, m, keyReservation(n.Volume))
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if next := r.Without(protocol); !same(next, r) {
		x.update(keyReservation(n.Volume), rrev, next)
	}
	return nil
}

// maxPathsPerTxn leaves room in a transaction for what goes with the paths.
const maxPathsPerTxn = 50

// SetVisibility says which hosts see a namespace; none: every allowed host.
func (m *Meta) SetVisibility(ctx context.Context, nqn string, id NSID, hostNames []string) error {
	return m.setNamespace(ctx, nqn, id, func(n *Namespace) error {
		hosts, err := checkHosts(ProtocolOf(nqn), "visible to", hostNames)
		if err == nil && !slices.Equal(hosts, n.VisibleTo) {
			err = refuseManaged(unitTitle(nqn, id), n.Managed)
		}
		n.VisibleTo = hosts
		return err
	})
}

func (m *Meta) setNamespace(ctx context.Context, nqn string, id NSID, fn func(*Namespace) error) error {
	_, err := m.changeSubsystem(ctx, nqn, func(x *txn, s *Subsystem) error {
		old, rev, err := load[Namespace](ctx, m, keyNamespace(nqn, id))
		if err != nil {
			return fmt.Errorf("%s: %w", unitTitle(nqn, id), err)
		}
		next := old
		if err := fn(&next); err != nil {
			return err
		}
		if same(next, old) {
			return nil
		}
		x.update(keyNamespace(nqn, id), rev, next)
		if slices.Equal(next.VisibleTo, old.VisibleTo) {
			s.Generation-- // hosts see no difference
		}
		return nil
	})
	return err
}
