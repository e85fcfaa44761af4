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

// Subsystem is an NVMe subsystem.
type Subsystem struct {
	NQN          string    `json:"nqn"`
	Tenant       string    `json:"tenant"`
	Serial       string    `json:"serial"` // 1 to 20 ASCII characters
	Model        string    `json:"model"`  // 1 to 40 ASCII characters
	AllowAnyHost bool      `json:"allow_any_host"`
	AllowedHosts []string  `json:"allowed_hosts,omitempty"` // NQNs, sorted
	Namespaces   uint32    `json:"max_namespaces"`          // NN, fixed
	NextNSID     NSID      `json:"next_nsid"`               // where the search for a free one begins
	Generation   uint64    `json:"generation"`              // grows with every change of it or its namespaces
	Created      time.Time `json:"created"`
	Managed      *Managed  `json:"managed,omitempty"`
}

// Allows says whether a host may connect.
func (s Subsystem) Allows(hostNQN string) bool {
	return s.AllowAnyHost || slices.Contains(s.AllowedHosts, hostNQN)
}

// Namespace is a volume attached to a subsystem.
type Namespace struct {
	Subsystem string    `json:"subsystem"` // NQN
	NSID      NSID      `json:"nsid"`
	Volume    uuid.UUID `json:"volume"`
	// ANAGroup is the namespace's own group, fixed for its life. Base 8.1.2
	ANAGroup  uint32   `json:"ana_group"`
	VisibleTo []string `json:"visible_to,omitempty"` // host NQNs, sorted; empty: every allowed host
	Managed   *Managed `json:"managed,omitempty"`
}

// VisibleHost says whether a host that may connect sees the namespace.
func (n Namespace) VisibleHost(hostNQN string) bool {
	return len(n.VisibleTo) == 0 || slices.Contains(n.VisibleTo, hostNQN)
}

// Attachment is where a volume is attached.
type Attachment struct {
	Subsystem string `json:"subsystem"`
	NSID      NSID   `json:"nsid"`
}

func (a Attachment) String() string {
	return fmt.Sprintf("subsystem %s namespace %d", a.Subsystem, a.NSID)
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
	if err := CheckNQN("nqn", s.NQN); err != nil {
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
	s.AllowedHosts, err = checkHosts("hosts", s.AllowedHosts)
	return err
}

// checkHosts sorts a list of NQNs and drops repeats.
func checkHosts(field string, nqns []string) ([]string, error) {
	if len(nqns) > maxHosts {
		return nil, invalid(field, "at most %d; there are %d", maxHosts, len(nqns))
	}
	for _, h := range nqns {
		if err := CheckNQN(field, h); err != nil {
			return nil, err
		}
	}
	out := slices.Clone(nqns)
	slices.Sort(out)
	out = slices.Compact(out)
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

// CreateSubsystem makes a subsystem. If an equal one exists, it is returned.
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
			if old.Tenant != s.Tenant || old.Serial != s.Serial || old.Model != s.Model || old.Namespaces != s.Namespaces ||
				old.AllowAnyHost != s.AllowAnyHost || !slices.Equal(old.AllowedHosts, s.AllowedHosts) {
				return fmt.Errorf("subsystem %s: %w", s.NQN, ErrExists)
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

// Subsystem returns one subsystem.
func (m *Meta) Subsystem(ctx context.Context, nqn string) (Subsystem, error) {
	s, _, err := load[Subsystem](ctx, m, keySubsystem(nqn))
	if err != nil {
		return s, fmt.Errorf("subsystem %s: %w", nqn, err)
	}
	return s, nil
}

// Subsystems returns all subsystems by NQN.
func (m *Meta) Subsystems(ctx context.Context) ([]Subsystem, error) {
	return list[Subsystem](ctx, m, "subsystem/")
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
		if err := refuseManaged("subsystem "+nqn, s.Managed); err != nil {
			return err
		}
		spaces, err := m.Namespaces(ctx, nqn)
		if err != nil {
			return err
		}
		if len(spaces) > 0 {
			var users []string
			for _, n := range spaces[:min(len(spaces), maxUsers)] {
				users = append(users, fmt.Sprintf("namespace %d", n.NSID))
			}
			return &InUseError{What: "subsystem " + nqn, Users: users}
		}
		// Attaching writes the subsystem's record, so none can slip in.
		x.remove(keySubsystem(nqn), rev)
		x.Delete = append(x.Delete, keyTenantSub(s.Tenant, nqn))
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
			return fmt.Errorf("subsystem %s: %w", nqn, err)
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

// AllowHost lets a host connect to a subsystem.
func (m *Meta) AllowHost(ctx context.Context, nqn, hostNQN string) error {
	return m.changeHosts(ctx, nqn, func(s *Subsystem) error {
		hosts, err := checkHosts("host", append(s.AllowedHosts, hostNQN))
		s.AllowedHosts = hosts
		return err
	})
}

// DenyHost takes a host off a subsystem's allow list.
func (m *Meta) DenyHost(ctx context.Context, nqn, hostNQN string) error {
	return m.changeHosts(ctx, nqn, func(s *Subsystem) error {
		s.AllowedHosts = slices.DeleteFunc(s.AllowedHosts, func(h string) bool { return h == hostNQN })
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
			return refuseManaged("subsystem "+nqn, s.Managed)
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
		return n, fmt.Errorf("subsystem %s namespace %d: %w", nqn, id, err)
	}
	return n, nil
}

// Namespaces returns the namespaces of a subsystem by NSID.
func (m *Meta) Namespaces(ctx context.Context, nqn string) ([]Namespace, error) {
	return list[Namespace](ctx, m, keyNamespaces(nqn))
}

// AllNamespaces returns the namespaces of every subsystem.
func (m *Meta) AllNamespaces(ctx context.Context) ([]Namespace, error) {
	return list[Namespace](ctx, m, "namespace/")
}

// AttachNamespace attaches a volume. n.NSID 0 chooses one that was not used for as
// long as possible. A volume has one attachment at a time; attaching it again where
// it is returns what is there.
func (m *Meta) AttachNamespace(ctx context.Context, n Namespace) (Namespace, error) {
	hosts, err := checkHosts("visible to", n.VisibleTo)
	if err != nil {
		return n, err
	}
	n.VisibleTo = hosts
	out := n
	_, err = m.changeSubsystem(ctx, n.Subsystem, func(x *txn, s *Subsystem) error {
		at, _, err := load[Attachment](ctx, m, keyAttached(n.Volume))
		if err == nil {
			if at.Subsystem != n.Subsystem || (n.NSID != 0 && at.NSID != n.NSID) {
				v, err := m.Volume(ctx, n.Volume)
				if err != nil {
					return err
				}
				return &InUseError{What: "volume " + v.String(), Users: []string{at.String()}}
			}
			out, err = m.Namespace(ctx, at.Subsystem, at.NSID)
			return err
		}
		if !isNotFound(err) {
			return err
		}
		v, vrev, err := load[Volume](ctx, m, keyVolume(n.Volume))
		if err == nil && v.State != VolumeActive {
			err = fmt.Errorf("it is being deleted: %w", ErrNotFound)
		}
		if err != nil {
			return fmt.Errorf("volume %s: %w", n.Volume, err)
		}
		if v.Tenant != s.Tenant {
			return invalid("volume", "one of tenant %s, which the subsystem belongs to; %s belongs to %s", s.Tenant, v.Name, v.Tenant)
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
		x.create(keyAttached(n.Volume), Attachment{Subsystem: n.Subsystem, NSID: out.NSID})
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
	return fmt.Errorf("subsystem %s namespace %d (volume %s): %w", s.NQN, n.NSID, old.Volume, ErrExists)
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
	return 0, &InUseError{What: "every NSID of subsystem " + s.NQN, Users: []string{fmt.Sprintf("its %d namespaces", s.Namespaces)}}
}

// DetachNamespace takes a namespace away from its hosts; the volume stays. Its
// reservation goes with it. Detaching a missing one is no error.
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
			if err := refuseManaged(fmt.Sprintf("subsystem %s namespace %d", nqn, id), n.Managed); err != nil {
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
				x.Delete = append(x.Delete, keyAttached(n.Volume), keyReservation(n.Volume))
			}
			return nil
		})
		if err != nil || !more {
			return err
		}
	}
}

// maxPathsPerTxn leaves room in a transaction for what goes with the paths.
const maxPathsPerTxn = 50

// SetVisibility says which hosts see a namespace; none: every allowed host.
func (m *Meta) SetVisibility(ctx context.Context, nqn string, id NSID, hostNQNs []string) error {
	return m.setNamespace(ctx, nqn, id, func(n *Namespace) error {
		hosts, err := checkHosts("visible to", hostNQNs)
		if err == nil && !slices.Equal(hosts, n.VisibleTo) {
			err = refuseManaged(fmt.Sprintf("subsystem %s namespace %d", nqn, id), n.Managed)
		}
		n.VisibleTo = hosts
		return err
	})
}

func (m *Meta) setNamespace(ctx context.Context, nqn string, id NSID, fn func(*Namespace) error) error {
	_, err := m.changeSubsystem(ctx, nqn, func(x *txn, s *Subsystem) error {
		old, rev, err := load[Namespace](ctx, m, keyNamespace(nqn, id))
		if err != nil {
			return fmt.Errorf("subsystem %s namespace %d: %w", nqn, id, err)
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
