package meta

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta/store"
)

// PathEpoch fences what a host sent on a former path or association of a
// namespace: whoever drives its extents refuses commands of a lower one.
type PathEpoch uint64

// PathKey is a host, by protocol and name alone, and a namespace.
type PathKey struct {
	Host      HostID `json:"host"`
	Subsystem string `json:"subsystem"`
	NSID      NSID   `json:"nsid"`
}

// NewPathKey returns the key of a host's namespace.
func NewPathKey(h HostID, nqn string, id NSID) PathKey {
	return PathKey{Host: HostID{Protocol: h.Protocol, Name: h.Name}, Subsystem: nqn, NSID: id}
}

func (k PathKey) String() string {
	return fmt.Sprintf("host %s, %s", k.Host.Name, unitTitle(k.Subsystem, k.NSID))
}

// Path is the placement of one host's namespace: at most one optimized access point
// and two non-optimized ones; all others are inaccessible.
type Path struct {
	Key          PathKey   `json:"key"`
	Optimized    string    `json:"optimized"` // access point ID; "" while there is none
	NonOptimized []string  `json:"non_optimized,omitempty"`
	Policy       string    `json:"policy"` // who decided
	Reason       string    `json:"reason"` // why
	Since        time.Time `json:"since"`
	// Moves is this path's share in its epoch: it grows when Optimized changes.
	Moves PathEpoch `json:"moves"`
	// Asked is when a host without a session was last sent there; of links alone.
	Asked time.Time `json:"asked,omitzero"`
	// Epoch is the path epoch: Moves and the host's raises together. Not stored.
	Epoch PathEpoch `json:"-"`
}

// OpenAssociation is one living association of a host with a subsystem.
type OpenAssociation struct {
	Session     SessionID `json:"session"` // of the node it is with
	ID          uint64    `json:"id"`      // unique in the session
	AccessPoint string    `json:"access_point"`
	Controller  uint16    `json:"controller"`
	Peer        string    `json:"peer"`
	Since       time.Time `json:"since"`
}

// Associations is what one host has with one subsystem.
type Associations struct {
	Host      HostID            `json:"host"`
	Subsystem string            `json:"subsystem"`
	Open      []OpenAssociation `json:"open,omitempty"`
	// Raises is the share in the epochs of all the host's paths to the subsystem.
	Raises PathEpoch `json:"raises"`
	// Unclean says that an association ended without all its commands finished, and
	// that the next one must raise the epochs.
	Unclean bool `json:"unclean,omitempty"`

	revision store.Revision
}

// maxOpenAssociations bounds what one host has with one subsystem.
const maxOpenAssociations = 128

// associations reads a host's record, which may not exist.
func (m *Meta) associations(ctx context.Context, nqn string, h HostID) (Associations, error) {
	a, rev, err := load[Associations](ctx, m, keyAssociation(nqn, h))
	if isNotFound(err) {
		return Associations{Host: h, Subsystem: nqn}, nil
	}
	a.revision = rev
	return a, err
}

// HostAssociations returns what a host has with a subsystem; it may be nothing.
func (m *Meta) HostAssociations(ctx context.Context, nqn string, h HostID) (Associations, error) {
	return m.associations(ctx, nqn, h)
}

// Associations returns what every host has with a subsystem.
func (m *Meta) Associations(ctx context.Context, nqn string) ([]Associations, error) {
	var out []Associations
	err := m.st.Range(ctx, keyAssociations(nqn), func(kv store.KV) error {
		a := Associations{revision: kv.Revision}
		if err := decode(kv.Key, kv.Value, &a); err != nil {
			return err
		}
		out = append(out, a)
		return nil
	})
	return out, err
}

// BeginAssociation records a host's new association at an access point. If a former
// one of the host with the subsystem did not end clean, or its node is gone, it
// raises the epochs of all the host's paths to the subsystem in the same
// transaction and says so: what other associations of the host hold is too low
// then. o.Session and o.Since are set by the call.
func (m *Meta) BeginAssociation(ctx context.Context, s *Session, nqn string, h HostID, o OpenAssociation) (raised bool, err error) {
	o.Session, o.Since = s.id, m.now().UTC()
	err = m.retry(ctx, func(x *txn) error {
		live, err := m.liveSessions(ctx)
		if err != nil {
			return err
		}
		if err := s.check(ctx); err != nil {
			return err
		}
		sub, srev, err := load[Subsystem](ctx, m, keySubsystem(nqn))
		if err != nil {
			return fmt.Errorf("%s: %w", exportTitle(nqn), err)
		}
		if !sub.Allows(h.Name) {
			return invalid("host", "one that %s allows; %s is not", sub.title(), h.Name)
		}
		a, err := m.associations(ctx, nqn, h)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(a.Open, func(e OpenAssociation) bool { return e.Session == o.Session && e.ID == o.ID }) {
			return nil // and raised is what it was when this was written
		}
		raised = false
		a.Host = h
		before := len(a.Open)
		a.Open = slices.DeleteFunc(a.Open, func(e OpenAssociation) bool { return e.Session != s.id && !live[e.Session] })
		if a.Unclean || len(a.Open) < before {
			a.Unclean, raised = false, true
			a.Raises++
		}
		if len(a.Open) >= maxOpenAssociations {
			return &InUseError{What: "every association of the host", Users: []string{fmt.Sprintf("%d open ones", len(a.Open))}}
		}
		a.Open = append(a.Open, o)
		s.require(x)
		x.at(keySubsystem(nqn), srev)
		x.update(keyAssociation(nqn, h), a.revision, a)
		return nil
	})
	return raised, err
}

// EndAssociation records the end of an association; clean says that every command
// had been completed to the host. Ending one twice changes nothing.
func (m *Meta) EndAssociation(ctx context.Context, s *Session, nqn string, h HostID, id uint64, clean bool) error {
	return m.retry(ctx, func(x *txn) error {
		a, err := m.associations(ctx, nqn, h)
		if err != nil {
			return err
		}
		before := len(a.Open)
		a.Open = slices.DeleteFunc(a.Open, func(e OpenAssociation) bool { return e.Session == s.id && e.ID == id })
		if len(a.Open) == before {
			return nil
		}
		a.Unclean = a.Unclean || !clean
		x.update(keyAssociation(nqn, h), a.revision, a)
		return nil
	})
}

func (m *Meta) liveSessions(ctx context.Context) (map[SessionID]bool, error) {
	all, err := m.Sessions(ctx)
	if err != nil {
		return nil, err
	}
	live := make(map[SessionID]bool, len(all))
	for _, s := range all {
		live[s.ID] = true
	}
	return live, nil
}

// ---------------------------------------------------------------- paths

// Path returns one path, or ErrNotFound before it was placed.
func (m *Meta) Path(ctx context.Context, k PathKey) (Path, error) {
	var p Path
	raises, err := m.amongRaises(ctx, k.Subsystem, k.Host, func() (err error) {
		p, _, err = load[Path](ctx, m, keyPath(k))
		return err
	})
	if err != nil {
		return p, fmt.Errorf("path of %s: %w", k, err)
	}
	p.Epoch = p.Moves + raises
	return p, nil
}

// VolumeEpoch is the epoch of a host's path to a volume: of the namespace that it is for the host's protocol. 0: there is no path.
func (m *Meta) VolumeEpoch(ctx context.Context, volume uuid.UUID, h HostID) (PathEpoch, error) {
	at, _, err := load[Attachments](ctx, m, keyAttached(volume))
	if isNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("where volume %s is attached: %w", volume, err)
	}
	nqn, id := at.at(h.Protocol)
	if *nqn == "" {
		return 0, nil
	}
	p, err := m.Path(ctx, NewPathKey(h, *nqn, *id))
	if isNotFound(err) {
		return 0, nil
	}
	return p.Epoch, err
}

// amongRaises runs read while a host's raises do not change, and returns them. Raises and
// moves of different moments would add up to the epoch of another path.
func (m *Meta) amongRaises(ctx context.Context, nqn string, h HostID, read func() error) (PathEpoch, error) {
	before, err := m.associations(ctx, nqn, h)
	for err == nil {
		if err = read(); err != nil {
			break
		}
		var after Associations
		if after, err = m.associations(ctx, nqn, h); err == nil && after.Raises == before.Raises {
			break
		}
		before = after
	}
	return before.Raises, err
}

// HostPaths returns the paths of one host to a subsystem by NSID.
func (m *Meta) HostPaths(ctx context.Context, nqn string, h HostID) ([]Path, error) {
	var paths []Path
	raises, err := m.amongRaises(ctx, nqn, h, func() (err error) {
		paths, err = list[Path](ctx, m, keyPaths(nqn, h))
		return err
	})
	for i := range paths {
		paths[i].Epoch = paths[i].Moves + raises
	}
	return paths, err
}

// Paths returns every path.
func (m *Meta) Paths(ctx context.Context) ([]Path, error) {
	raises := map[string]PathEpoch{}
	all, err := list[Associations](ctx, m, "association/")
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		raises[keyAssociation(a.Subsystem, a.Host)] = a.Raises
	}
	paths, err := list[Path](ctx, m, "path/")
	for i := range paths {
		paths[i].Epoch = paths[i].Moves + raises[keyAssociation(paths[i].Key.Subsystem, paths[i].Key.Host)]
	}
	return paths, err
}

// MaxNonOptimized is how many non-optimized access points a path has at most.
const MaxNonOptimized = 2

// PathChange is a placement decided on the basis of a path whose Moves were Expect
// (0: there was none).
type PathChange struct {
	Expect PathEpoch
	Path   Path
}

// SetPath commits one placement: ErrConflict if the path changed since. When the
// optimized access point changes, the epoch grows in the same transaction.
// Committing what is there changes nothing.
func (m *Meta) SetPath(ctx context.Context, expect PathEpoch, want Path) (Path, error) {
	out, err := m.SetPaths(ctx, []PathChange{{Expect: expect, Path: want}})
	if err != nil {
		return want, err
	}
	if len(out) == 0 {
		return want, fmt.Errorf("%s: %w", want.Key, ErrNotFound)
	}
	return out[0], nil
}

// pathsPerTxn fits MaxOps: a path has three conditions at most, its host and subsystem one.
const pathsPerTxn = 30

// SetPaths commits placements like SetPath, many in one transaction; a failure may
// come after some of them. Those whose namespace is gone are left out of the answer.
func (m *Meta) SetPaths(ctx context.Context, changes []PathChange) ([]Path, error) {
	var all []Path
	for part := range slices.Chunk(changes, pathsPerTxn) {
		var out []Path
		err := m.retry(ctx, func(x *txn) error {
			out = out[:0]
			if slices.ContainsFunc(part, func(c PathChange) bool { return c.Path.Key.NSID == WholeTarget }) {
				if _, err := m.nextLinkTurn(ctx, x); err != nil {
					return err
				}
			}
			associations := map[string]Associations{}
			for _, c := range part {
				c.Path.Key = NewPathKey(c.Path.Key.Host, c.Path.Key.Subsystem, c.Path.Key.NSID)
				who := keyAssociation(c.Path.Key.Subsystem, c.Path.Key.Host)
				a, ok := associations[who]
				if !ok {
					var err error
					if a, err = m.associations(ctx, c.Path.Key.Subsystem, c.Path.Key.Host); err != nil {
						return err
					}
					associations[who] = a
				}
				p, err := m.setPath(ctx, x, a, c)
				if isNotFound(err) {
					continue
				}
				if err != nil {
					return err
				}
				out = append(out, p)
			}
			return nil
		})
		if err != nil {
			return all, err
		}
		all = append(all, out...)
	}
	return all, nil
}

// setPath adds one placement to a transaction.
func (m *Meta) setPath(ctx context.Context, x *txn, a Associations, c PathChange) (Path, error) {
	want := c.Path
	if len(want.NonOptimized) > MaxNonOptimized || slices.Contains(want.NonOptimized, want.Optimized) {
		return want, invalid("path", "at most %d non-optimized access points besides the optimized one", MaxNonOptimized)
	}
	if want.Key.NSID == WholeTarget {
		return m.setLink(ctx, x, c)
	}
	n, nrev, err := load[Namespace](ctx, m, keyNamespace(want.Key.Subsystem, want.Key.NSID))
	if err != nil {
		return want, fmt.Errorf("%s: %w", want.Key, err)
	}
	if a.revision == 0 {
		return want, fmt.Errorf("%s has no association yet: %w", want.Key, ErrConflict)
	}
	old, rev, err := load[Path](ctx, m, keyPath(want.Key))
	if err != nil && !isNotFound(err) {
		return want, err
	}
	settled := rev != 0 && old.Optimized == want.Optimized && slices.Equal(old.NonOptimized, want.NonOptimized)
	if settled && old.Reason == want.Reason && old.Policy == want.Policy {
		old.Epoch = old.Moves + a.Raises
		return old, nil
	}
	if old.Moves != c.Expect {
		return want, fmt.Errorf("path of %s moved meanwhile: %w", want.Key, ErrConflict)
	}
	want.Moves, want.Since = old.Moves, old.Since
	if rev == 0 {
		v, vrev, err := load[Volume](ctx, m, keyVolume(n.Volume))
		if err != nil {
			return want, err
		}
		x.at(keyVolume(n.Volume), vrev)
		want.Moves, want.Since = v.EpochBase+1, m.now().UTC()
	} else if old.Optimized != want.Optimized {
		want.Moves, want.Since = old.Moves+1, m.now().UTC()
	}
	x.at(keyNamespace(want.Key.Subsystem, want.Key.NSID), nrev)
	x.update(keyPath(want.Key), rev, want)
	want.Epoch = want.Moves + a.Raises
	return want, nil
}

// ---------------------------------------------------------------- access points

// AccessPoint is a node, protocol and address at which hosts can reach it.
type AccessPoint struct {
	ID     string    `json:"id"`   // unique in the cluster
	Node   uuid.UUID `json:"node"` // whose it is
	URL    string    `json:"url"`  // scheme://address:port
	Up     bool      `json:"up"`   // its listener runs, its address is there, its node alive
	Reason string    `json:"reason,omitempty"`
	// Redirector says that no host is served there: it is an address that nodes take in turns, to send
	// initiators on.
	Redirector bool   `json:"redirector,omitempty"`
	PortID     uint16 `json:"port_id"` // NVMe port identifier, unique in the cluster and kept for the URL's life
	// Draining says that its node is, so that paths are to leave it. Not stored.
	Draining bool `json:"-"`
}

// maxAccessPoints is how many access points a node has at most.
const maxAccessPoints = 60

// PublishAccessPoints states all access points of the session's node; those not
// named any more are removed. Node and PortID are set by the call.
func (m *Meta) PublishAccessPoints(ctx context.Context, s *Session, want []AccessPoint) ([]AccessPoint, error) {
	if len(want) > maxAccessPoints {
		return nil, invalid("listeners", "at most %d on a node; there are %d", maxAccessPoints, len(want))
	}
	node, err := m.Node(ctx, s.node)
	if err != nil {
		return nil, err
	}
	base, _ := node.Controllers()
	var out []AccessPoint
	err = m.retry(ctx, func(x *txn) error {
		if err := s.check(ctx); err != nil {
			return err
		}
		s.require(x)
		out = nil
		present := map[string]store.Revision{}
		old := map[string]AccessPoint{}
		taken := map[uint16]bool{}
		err := m.st.Range(ctx, "accesspoint/", func(kv store.KV) error {
			var p AccessPoint
			if err := decode(kv.Key, kv.Value, &p); err != nil {
				return err
			}
			if p.Node != s.node {
				if slices.ContainsFunc(want, func(w AccessPoint) bool { return w.ID == p.ID }) {
					return fmt.Errorf("access point %s of another node: %w", p.ID, ErrExists)
				}
				return nil
			}
			old[p.ID], present[p.ID] = p, kv.Revision
			if slices.ContainsFunc(want, func(w AccessPoint) bool { return w.ID == p.ID && w.URL == p.URL }) {
				taken[p.PortID] = true
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, w := range want {
			p, known := old[w.ID]
			w.Node, w.PortID = s.node, p.PortID
			if !known || p.URL != w.URL {
				for w.PortID = base; taken[w.PortID]; w.PortID++ {
				}
				taken[w.PortID] = true
			}
			if !same(w, p) {
				x.update(keyAccessPoint(w.ID), present[w.ID], w)
			}
			delete(old, w.ID)
			out = append(out, w)
		}
		for id := range old {
			x.remove(keyAccessPoint(id), present[id])
		}
		return nil
	})
	return out, err
}

// AccessPoints returns the access points of all nodes by ID; those of a node that
// is not alive are down, and those of one that is draining are draining.
func (m *Meta) AccessPoints(ctx context.Context) ([]AccessPoint, error) {
	sessions, err := m.Sessions(ctx)
	if err != nil {
		return nil, err
	}
	alive := map[uuid.UUID]bool{}
	for _, s := range sessions {
		alive[s.Node] = true
	}
	nodes, err := m.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	draining := map[uuid.UUID]bool{}
	for _, n := range nodes {
		draining[n.ID] = n.Draining
	}
	all, err := list[AccessPoint](ctx, m, "accesspoint/")
	for i := range all {
		all[i].Draining = draining[all[i].Node]
		if !alive[all[i].Node] {
			all[i].Up, all[i].Reason = false, "its node is not alive"
		}
	}
	return all, err
}
