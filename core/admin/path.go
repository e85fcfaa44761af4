package admin

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/path"
)

// Path is where one host reaches one namespace. All access points that are not named
// are inaccessible to it.
type Path struct {
	Host         string    `json:"host"`
	Subsystem    string    `json:"subsystem"`
	NSID         uint32    `json:"nsid"` // 0: the link of an initiator with a target, which its units follow
	Optimized    string    `json:"optimized"`
	NonOptimized []string  `json:"non_optimized"`
	Policy       string    `json:"policy"` // who decided; "builtin": no policy has yet; "host": its writes
	Reason       string    `json:"reason"`
	Epoch        uint64    `json:"epoch"`
	Since        time.Time `json:"since"` // that it is optimized there
	// Draining are those of its access points whose node drains: the optimized one is to leave it.
	Draining []string `json:"draining,omitempty"`
}

// PathWhatIf is what a simulation supposes.
type PathWhatIf struct {
	Down      []string `json:"down,omitempty"`   // access points that are down, by ID or URL
	Tenant    string   `json:"tenant,omitempty"` // it chooses Policy
	Policy    string   `json:"policy,omitempty"`
	Rebalance bool     `json:"rebalance,omitempty"` // evenness comes before staying
}

// PathOutcome is a path as it is and as it would be. Then has no epoch and no time.
type PathOutcome struct {
	Now   Path `json:"now"`
	Then  Path `json:"then"`
	Moves bool `json:"moves"` // the optimized access point would be another one
}

// PathExplanation is why a host reaches a namespace where it does.
type PathExplanation struct {
	Path
	Tenant       string      `json:"tenant"`
	TenantPolicy string      `json:"tenant_policy"` // that the tenant chose
	Points       []PathPoint `json:"access_points"`
	Next         *Path       `json:"next,omitempty"` // what the policy would decide now; absent while the host is not connected
}

// PathPoint is an access point in the eyes of one host and namespace.
type PathPoint struct {
	ID        string `json:"id"`
	URL       string `json:"url"`
	Up        bool   `json:"up"`
	Reason    string `json:"reason,omitempty"` // why it is not up
	Draining  bool   `json:"draining"`         // its node is: it is optimized only where the host has no other
	State     string `json:"state"`            // optimized, non-optimized or inaccessible
	Connected bool   `json:"connected"`        // the host is, there
	Load      int    `json:"load"`             // paths of all connected hosts that are optimized there
}

func (s *Server) pathRoutes(m *http.ServeMux) {
	m.HandleFunc("GET /v1/paths", answer(s.paths))
	m.HandleFunc("GET /v1/paths/watch", s.watchPaths)
	m.HandleFunc("GET /v1/paths/explain", answer(s.explainPath))
	m.HandleFunc("POST /v1/paths/simulate", answer(s.simulatePaths))
	m.HandleFunc("POST /v1/paths/rebalance", answer(func(r *http.Request) (any, error) { return struct{}{}, s.Paths.Rebalance(r.Context()) }))
}

func presentPath(p meta.Path) Path {
	x := Path{
		Host: p.Key.Host.Name, Subsystem: p.Key.Subsystem, NSID: uint32(p.Key.NSID), Optimized: p.Optimized, NonOptimized: p.NonOptimized,
		Policy: p.Policy, Reason: p.Reason, Epoch: uint64(p.Epoch), Since: p.Since,
	}
	if x.NonOptimized == nil {
		x.NonOptimized = []string{}
	}
	return x
}

func (s *Server) paths(r *http.Request) (any, error) {
	points, err := s.Meta.AccessPoints(r.Context())
	if err != nil {
		return nil, err
	}
	all, err := s.Meta.Paths(r.Context())
	out := []Path{}
	for _, p := range all {
		x := presentPath(p)
		x.markDraining(points)
		out = append(out, x)
	}
	return out, err
}

func (p *Path) markDraining(points []meta.AccessPoint) {
	for _, id := range append([]string{p.Optimized}, p.NonOptimized...) {
		if slices.ContainsFunc(points, func(a meta.AccessPoint) bool { return a.ID == id && a.Draining }) {
			p.Draining = append(p.Draining, id)
		}
	}
}

func (s *Server) simulatePaths(r *http.Request) (any, error) {
	in, err := read[PathWhatIf](r)
	if err != nil {
		return nil, err
	}
	all, err := s.Paths.Simulate(r.Context(), path.WhatIf{Down: in.Down, Tenant: in.Tenant, Policy: in.Policy, Rebalance: in.Rebalance})
	out := []PathOutcome{}
	for _, o := range all {
		out = append(out, PathOutcome{Now: presentPath(o.Now), Then: presentPath(o.Then), Moves: o.Moves()})
	}
	return out, err
}

var stateNames = map[path.State]string{path.Optimized: "optimized", path.NonOptimized: "non-optimized", path.Inaccessible: "inaccessible", path.Change: "change"}

func (s *Server) explainPath(r *http.Request) (any, error) {
	q := r.URL.Query()
	nsid, err := strconv.ParseUint(q.Get("nsid"), 10, 32)
	if err != nil {
		return nil, &meta.InvalidError{Field: "nsid", Want: "a number; it is " + strconv.Quote(q.Get("nsid"))}
	}
	x, err := s.Paths.Explain(r.Context(), q.Get("host"), q.Get("subsystem"), meta.NSID(nsid))
	if err != nil {
		return nil, err
	}
	out := PathExplanation{Path: presentPath(x.Path), Tenant: x.Tenant, TenantPolicy: x.Policy, Points: []PathPoint{}}
	var points []meta.AccessPoint
	for _, p := range x.Points {
		points = append(points, p.AccessPoint)
		out.Points = append(out.Points, PathPoint{
			ID: p.ID, URL: p.URL, Up: p.Up, Reason: p.Reason, Draining: p.Draining, State: stateNames[p.State], Connected: p.Connected, Load: p.Load,
		})
	}
	out.markDraining(points)
	if x.Next.Optimized != "" {
		next := presentPath(x.Next)
		next.markDraining(points)
		out.Next = &next
	}
	return out, nil
}
