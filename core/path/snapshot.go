package path

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/sdk/policy"
	"github.com/mooring-io/mooring/sdk/proto"
)

// snapshot is what decisions are made from, read from Meta. It may be torn: every
// change that follows from it is compared with what it was decided on.
type snapshot struct {
	points     []meta.AccessPoint
	live       map[meta.SessionID]bool
	policyOf   map[string]string // by tenant
	subsystems map[string]meta.Subsystem
	namespaces map[string][]meta.Namespace    // by NQN
	hosts      map[string][]meta.Associations // of connected hosts, by NQN
	paths      map[meta.PathKey]meta.Path     // of all hosts
	groups     map[uuid.UUID]string           // namespace groups, by volume
	keys       map[pairKey]meta.PathKey       // of what was asked for; made by request
}

// pairKey is a pair as requests name it.
type pairKey struct{ host, namespace string }

// read reads what every decision needs.
func (e *Engine) read(ctx context.Context) (*snapshot, error) {
	s := &snapshot{
		live: map[meta.SessionID]bool{}, policyOf: map[string]string{}, subsystems: map[string]meta.Subsystem{},
		namespaces: map[string][]meta.Namespace{}, hosts: map[string][]meta.Associations{}, paths: map[meta.PathKey]meta.Path{},
	}
	var err error
	if s.points, err = e.meta.AccessPoints(ctx); err != nil {
		return nil, err
	}
	s.points = slices.DeleteFunc(s.points, func(a meta.AccessPoint) bool { return a.Redirector })
	sessions, err := e.meta.Sessions(ctx)
	for _, x := range sessions {
		s.live[x.ID] = true
	}
	return s, err
}

// all reads everything that every policy is to decide on.
func (e *Engine) all(ctx context.Context) (*snapshot, error) {
	s, err := e.read(ctx)
	if err != nil {
		return nil, err
	}
	tenants, err := e.meta.Tenants(ctx)
	if err != nil {
		return nil, err
	}
	for _, t := range tenants {
		s.policyOf[t.Name] = t.Policy
	}
	subsystems, err := e.meta.Exports(ctx)
	if err != nil {
		return nil, err
	}
	for _, x := range subsystems {
		s.subsystems[x.NQN] = x
		hosts, err := e.meta.Associations(ctx, x.NQN)
		if err != nil {
			return nil, err
		}
		for _, a := range hosts {
			if len(s.connected(a)) > 0 {
				s.hosts[x.NQN] = append(s.hosts[x.NQN], a)
			}
		}
	}
	namespaces, err := e.meta.AllNamespaces(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range namespaces {
		s.namespaces[n.Subsystem] = append(s.namespaces[n.Subsystem], n)
	}
	volumes, err := e.meta.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	s.groups = map[uuid.UUID]string{}
	for _, v := range volumes {
		if v.Group != "" {
			s.groups[v.ID] = v.Tenant + "/" + v.Group
		}
	}
	paths, err := e.meta.Paths(ctx)
	for _, p := range paths {
		s.paths[p.Key] = p
		if p.Key.NSID == meta.WholeTarget && e.meta.Promised(p) {
			s.expect(p.Key.Subsystem, p.Key.Host)
		}
	}
	return s, err
}

// expect makes a host that is on its way to a target count as one that is there.
func (s *snapshot) expect(iqn string, h meta.HostID) {
	if !slices.ContainsFunc(s.hosts[iqn], func(a meta.Associations) bool { return a.Host.Name == h.Name }) {
		s.hosts[iqn] = append(s.hosts[iqn], meta.Associations{Host: h, Subsystem: iqn})
	}
}

// host reads what concerns one host and one subsystem. The host need not be connected.
func (e *Engine) host(ctx context.Context, nqn string, h meta.HostID) (*snapshot, error) {
	s, err := e.read(ctx)
	if err != nil {
		return nil, err
	}
	sub, err := e.meta.Subsystem(ctx, nqn)
	if err != nil {
		return nil, err
	}
	s.subsystems[nqn] = sub
	s.policyOf[sub.Tenant] = BuiltinName
	a, err := e.meta.HostAssociations(ctx, nqn, h)
	if err != nil {
		return nil, err
	}
	a.Host, a.Subsystem = h, nqn
	s.hosts[nqn] = []meta.Associations{a}
	if s.namespaces[nqn], err = e.meta.Namespaces(ctx, nqn); err != nil {
		return nil, err
	}
	paths, err := e.meta.HostPaths(ctx, nqn, h)
	for _, p := range paths {
		s.paths[p.Key] = p
	}
	return s, err
}

// connected returns where a host has living associations, the earliest first.
func (s *snapshot) connected(a meta.Associations) []string {
	var out []string
	for _, o := range a.Open { // in the order in which they began
		if s.live[o.Session] && !slices.Contains(out, o.AccessPoint) {
			out = append(out, o.AccessPoint)
		}
	}
	return out
}

// policies lists those that tenants chose, by name.
func (s *snapshot) policies() []string {
	var out []string
	for _, name := range s.policyOf {
		out = append(out, name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// request is what one policy is to decide: the connected hosts of the tenants that
// chose it. What the others have placed is load.
func (s *snapshot) request(name string, rebalance bool) *policy.Request {
	s.keys = map[pairKey]meta.PathKey{}
	req := &policy.Request{Rebalance: rebalance}
	load := map[string]uint64{}
	hosts := map[string]*policy.Host{}
	for nqn, sub := range s.subsystems {
		mine := s.policyOf[sub.Tenant] == name
		for _, n := range s.decided(nqn) {
			ns := &policy.Namespace{Key: namespaceKey(nqn, n.NSID), Subsystem: nqn, Tenant: sub.Tenant, Group: s.group(n), Weight: 1}
			seen := false
			for _, a := range s.hosts[nqn] {
				if !n.VisibleHost(a.Host.Name) {
					continue
				}
				key := meta.NewPathKey(a.Host, nqn, n.NSID)
				if !mine {
					load[s.paths[key].Optimized] += uint64(ns.Weight)
					continue
				}
				seen = true
				h := s.hostOf(hosts, a)
				req.Placements = append(req.Placements, s.present(name, h.Key, ns.Key, key))
				s.keys[pairKey{h.Key, ns.Key}] = key
			}
			if seen {
				req.Namespaces = append(req.Namespaces, ns)
			}
		}
	}
	for _, h := range hosts {
		slices.SortFunc(h.Connections, func(a, b *policy.Connection) int { return strings.Compare(a.Subsystem, b.Subsystem) })
		req.Hosts = append(req.Hosts, h)
	}
	for _, a := range s.points {
		req.AccessPoints = append(req.AccessPoints, &policy.AccessPoint{
			Id: a.ID, Node: a.Node.String(), Protocol: protocolOf(a.URL), Up: a.Up, Draining: a.Draining, Load: load[a.ID],
		})
	}
	sortRequest(req)
	return req
}

// decided lists what policies decide on: namespaces, or a target as a whole, whose units follow its link.
func (s *snapshot) decided(nqn string) []meta.Namespace {
	if s.subsystems[nqn].Redirects() {
		return []meta.Namespace{{Subsystem: nqn, NSID: meta.WholeTarget}}
	}
	return s.namespaces[nqn]
}

// group is the namespace group of a namespace; of a target as a whole, that of its units if they have
// one and the same.
func (s *snapshot) group(n meta.Namespace) string {
	if n.NSID != meta.WholeTarget {
		return s.groups[n.Volume]
	}
	units := s.namespaces[n.Subsystem]
	if len(units) == 0 || slices.ContainsFunc(units, func(u meta.Namespace) bool { return s.groups[u.Volume] != s.groups[units[0].Volume] }) {
		return ""
	}
	return s.groups[units[0].Volume]
}

// hostOf returns the host of an association as requests name it, with its connections.
func (s *snapshot) hostOf(hosts map[string]*policy.Host, a meta.Associations) *policy.Host {
	key := string(a.Host.Protocol) + ":" + a.Host.Name
	h := hosts[key]
	if h == nil {
		h = &policy.Host{Key: key, Protocol: policy.NVMe, Name: a.Host.Name}
		if a.Host.Protocol == meta.ISCSI {
			h.Protocol = policy.ISCSI
		}
		hosts[key] = h
	}
	if s.subsystems[a.Subsystem].Redirects() {
		return h // it can be sent to any access point, wherever it is now
	}
	if !slices.ContainsFunc(h.Connections, func(c *policy.Connection) bool { return c.Subsystem == a.Subsystem }) {
		if at := s.connected(a); at != nil {
			h.Connections = append(h.Connections, &policy.Connection{Subsystem: a.Subsystem, AccessPoints: at})
		}
	}
	return h
}

// present is a pair as it is now. The reason is passed on to the policy that gave it,
// and to Builtin.
func (s *snapshot) present(name, host, namespace string, key meta.PathKey) *policy.Placement {
	was := s.paths[key]
	p := &policy.Placement{
		Host: host, Namespace: namespace, Optimized: was.Optimized, NonOptimized: slices.Clone(was.NonOptimized),
		Provisional: was.Policy == BuiltinName && name != BuiltinName,
	}
	if was.Policy == name || p.Provisional {
		p.Reason = was.Reason
	}
	return p
}

func namespaceKey(nqn string, id meta.NSID) string { return fmt.Sprintf("%s/%d", nqn, id) }

// sortRequest puts the lists in the order of their keys.
func sortRequest(r *policy.Request) {
	slices.SortFunc(r.Hosts, func(a, b *policy.Host) int { return strings.Compare(a.Key, b.Key) })
	slices.SortFunc(r.Namespaces, func(a, b *policy.Namespace) int { return strings.Compare(a.Key, b.Key) })
	slices.SortFunc(r.AccessPoints, func(a, b *policy.AccessPoint) int { return strings.Compare(a.Id, b.Id) })
	slices.SortFunc(r.Placements, func(a, b *policy.Placement) int {
		if o := strings.Compare(a.Host, b.Host); o != 0 {
			return o
		}
		return strings.Compare(a.Namespace, b.Namespace)
	})
}

// protocolOf tells whom an access point can serve from its URL's scheme.
func protocolOf(url string) proto.Protocol {
	if strings.HasPrefix(url, "iscsi") {
		return policy.ISCSI
	}
	return policy.NVMe
}
