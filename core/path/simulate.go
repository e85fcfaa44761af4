package path

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mooring-io/mooring/core/meta"
)

// WhatIf is what a simulation supposes. The zero value supposes what is.
type WhatIf struct {
	Down           []string // access points that are down
	Tenant, Policy string   // the tenant chooses that policy; both or none
	Rebalance      bool     // evenness comes before staying
}

// Outcome is a path as it is and as it would be.
type Outcome struct{ Now, Then meta.Path }

// Moves says whether the optimized access point would be another one.
func (o Outcome) Moves() bool { return o.Now.Optimized != o.Then.Optimized }

// Simulate says where the policies would place the paths of all connected hosts, by key, and changes
// nothing. Then has no epoch.
func (e *Engine) Simulate(ctx context.Context, w WhatIf) ([]Outcome, error) {
	s, err := e.all(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.suppose(w); err != nil {
		return nil, err
	}
	out := map[meta.PathKey]Outcome{}
	for _, name := range s.policies() {
		answer, by, err := e.ask(ctx, name, s.request(name, w.Rebalance))
		if err != nil {
			return nil, err
		}
		for _, a := range answer.GetPlacements() {
			key := s.keys[pairKey{a.GetHost(), a.GetNamespace()}]
			o := Outcome{Now: s.paths[key]}
			o.Then = meta.Path{Key: key, Optimized: a.GetOptimized(), NonOptimized: a.GetNonOptimized(), Policy: by, Reason: a.GetReason()}
			out[key] = o
		}
		for _, a := range answer.GetPlacements() { // the next policy sees where these would be
			key := s.keys[pairKey{a.GetHost(), a.GetNamespace()}]
			s.paths[key] = out[key].Then
		}
	}
	list := slices.Collect(maps.Values(out))
	slices.SortFunc(list, func(a, b Outcome) int {
		x, y := a.Then.Key, b.Then.Key
		return cmp.Or(strings.Compare(x.Host.Name, y.Host.Name), strings.Compare(x.Subsystem, y.Subsystem), cmp.Compare(x.NSID, y.NSID))
	})
	return list, nil
}

// suppose changes the snapshot.
func (s *snapshot) suppose(w WhatIf) error {
	for _, id := range w.Down {
		i := slices.IndexFunc(s.points, func(a meta.AccessPoint) bool { return a.ID == id || a.URL == id })
		if i < 0 {
			return fmt.Errorf("access point %s: %w", id, meta.ErrNotFound)
		}
		s.points[i].Up = false
	}
	if (w.Tenant == "") != (w.Policy == "") {
		return fmt.Errorf("a tenant is supposed with a policy, and a policy with a tenant: %w", meta.ErrInvalid)
	}
	if w.Tenant != "" {
		if _, ok := s.policyOf[w.Tenant]; !ok {
			return fmt.Errorf("tenant %s: %w", w.Tenant, meta.ErrNotFound)
		}
		s.policyOf[w.Tenant] = w.Policy
	}
	return nil
}

// Explanation is why a host reaches a namespace where it does.
type Explanation struct {
	Path   meta.Path
	Tenant string
	Policy string // that the tenant chose
	Points []Point
	// Next is what the policy would decide now; the zero value while the host is not connected.
	Next meta.Path
}

// Point is one access point in the eyes of one host and namespace.
type Point struct {
	meta.AccessPoint
	State     State
	Connected bool // the host has an association with the subsystem there
	Load      int  // paths that are optimized there, of all connected hosts
}

// Explain tells all about the path of a host to a namespace. The host is named by its NQN or IQN.
func (e *Engine) Explain(ctx context.Context, host, subsystem string, nsid meta.NSID) (Explanation, error) {
	s, err := e.all(ctx)
	if err != nil {
		return Explanation{}, err
	}
	var out Explanation
	found := false
	if s.linked(host, subsystem) {
		nsid = meta.WholeTarget
	}
	for key, p := range s.paths {
		if key.Host.Name == host && key.Subsystem == subsystem && key.NSID == nsid {
			out.Path, found = p, true
		}
	}
	if !found {
		return out, fmt.Errorf("path of host %s to namespace %d of %s: %w", host, nsid, subsystem, meta.ErrNotFound)
	}
	out.Tenant = s.subsystems[subsystem].Tenant
	out.Policy = s.policyOf[out.Tenant]
	var connected []string
	load := map[string]int{}
	for nqn, hosts := range s.hosts {
		for _, a := range hosts {
			if nqn == subsystem && a.Host.Name == host {
				connected = s.connected(a)
			}
			for _, n := range s.decided(nqn) {
				load[s.paths[meta.NewPathKey(a.Host, nqn, n.NSID)].Optimized]++
			}
		}
	}
	for _, a := range s.points {
		out.Points = append(out.Points, Point{AccessPoint: a, State: StateAt(out.Path, a.ID), Connected: slices.Contains(connected, a.ID), Load: load[a.ID]})
	}
	next, err := e.Simulate(ctx, WhatIf{})
	for _, o := range next {
		if o.Then.Key == out.Path.Key {
			out.Next = o.Then
		}
	}
	return out, err
}
