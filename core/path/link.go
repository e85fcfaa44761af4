package path

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/mooring-io/mooring/core/meta"
)

// Link returns the access point to which the sessions of a host with a redirected target go. If none
// is bound, or the one that is bound is down, or drains while another one does not, the tenant's policy
// decides, before there is a session.
// asked is the access point where the host logs in, which is up, whatever Meta may say yet. The
// binding holds as long as the host has a session, and for a moment before the first one.
func (e *Engine) Link(ctx context.Context, iqn string, h meta.HostID, asked string) (meta.AccessPoint, error) {
	s, err := e.host(ctx, iqn, h)
	if err != nil {
		return meta.AccessPoint{}, fmt.Errorf("find the link of host %s: %w", h.Name, err)
	}
	s.up(asked)
	if a, ok := s.bound(e.meta, iqn, h); ok {
		return a, nil
	}
	e.linking.Lock() // decisions of other nodes are seen as conflicts
	defer e.linking.Unlock()
	for {
		a, err := e.link(ctx, iqn, h, asked)
		if errors.Is(err, meta.ErrConflict) && ctx.Err() == nil {
			continue // somebody else got on by that
		}
		if err != nil {
			err = fmt.Errorf("bind host %s to an access point of target %s: %w", h.Name, iqn, err)
		}
		return a, err
	}
}

// link decides.
func (e *Engine) link(ctx context.Context, iqn string, h meta.HostID, asked string) (meta.AccessPoint, error) {
	turn, err := e.meta.LinkTurn(ctx)
	if err != nil {
		return meta.AccessPoint{}, err
	}
	s, err := e.all(ctx)
	if err != nil {
		return meta.AccessPoint{}, err
	}
	s.up(asked)
	if a, ok := s.bound(e.meta, iqn, h); ok {
		return a, nil
	}
	key := meta.NewPathKey(h, iqn, meta.WholeTarget)
	was := s.paths[key]
	delete(s.paths, key) // as if it were new
	s.expect(iqn, h)
	name := s.policyOf[s.subsystems[iqn].Tenant]
	answer, by, err := e.ask(ctx, name, s.request(name, false))
	if err != nil {
		e.log.Warn("a policy does not place a host that logs in; the built-in rule does", "host", h.Name, "target", iqn, "error", err)
		by = BuiltinName
		if answer, err = (Builtin{}).Place(ctx, s.request(name, false)); err != nil {
			return meta.AccessPoint{}, err
		}
	}
	for _, p := range s.placed(by, answer) {
		if p.Key != key {
			continue // others are moved by Reconcile
		}
		done, err := e.meta.SetLink(ctx, turn, was.Moves, p)
		if err != nil {
			return meta.AccessPoint{}, err
		}
		e.logPlaced(was, done)
		s.paths[key] = done
		if a, ok := s.bound(e.meta, iqn, h); ok {
			return a, nil
		}
	}
	return meta.AccessPoint{}, errors.New("no access point is up")
}

// up makes an access point count as up.
func (s *snapshot) up(id string) {
	for i := range s.points {
		if s.points[i].ID == id {
			s.points[i].Up = true
		}
	}
}

// bound returns where a link is bound, if its host has a session or is on its way to one.
func (s *snapshot) bound(m *meta.Meta, iqn string, h meta.HostID) (meta.AccessPoint, bool) {
	link, ok := s.paths[meta.NewPathKey(h, iqn, meta.WholeTarget)]
	if !ok {
		return meta.AccessPoint{}, false
	}
	there := m.Promised(link) || slices.ContainsFunc(s.hosts[iqn], func(a meta.Associations) bool { return a.Host.Name == h.Name && len(s.connected(a)) > 0 })
	i := slices.IndexFunc(s.points, func(a meta.AccessPoint) bool { return a.ID == link.Optimized && a.Up && !s.leaves(a) })
	if !there || i < 0 {
		return meta.AccessPoint{}, false
	}
	return s.points[i], true
}

// forsaken lists links of hosts that have no session and are not on their way to one.
func (s *snapshot) forsaken() []meta.Path {
	var out []meta.Path
	for key, p := range s.paths {
		if key.NSID == meta.WholeTarget && !slices.ContainsFunc(s.hosts[key.Subsystem], func(a meta.Associations) bool { return a.Host.Name == key.Host.Name }) {
			out = append(out, p)
		}
	}
	return out
}

// follow places the units of a redirected target where its host has its session: at the access point
// of the link as soon as it is there, before that where it was.
func (s *snapshot) follow(iqn string) []meta.Path {
	var out []meta.Path
	for _, a := range s.hosts[iqn] {
		link := s.paths[meta.NewPathKey(a.Host, iqn, meta.WholeTarget)]
		connected := s.connected(a)
		if len(connected) == 0 {
			continue
		}
		for _, n := range s.namespaces[iqn] {
			if !n.VisibleHost(a.Host.Name) {
				continue
			}
			p := s.paths[meta.NewPathKey(a.Host, iqn, n.NSID)]
			p.Key = meta.NewPathKey(a.Host, iqn, n.NSID)
			switch {
			case slices.Contains(connected, link.Optimized):
				p.Optimized = link.Optimized
			case !slices.Contains(connected, p.Optimized):
				p.Optimized = connected[0]
			}
			p.NonOptimized = nil
			for _, id := range append([]string{link.Optimized}, link.NonOptimized...) {
				if id != "" && id != p.Optimized && len(p.NonOptimized) < meta.MaxNonOptimized {
					p.NonOptimized = append(p.NonOptimized, id)
				}
			}
			slices.Sort(p.NonOptimized)
			p.Policy, p.Reason = BuiltinName, "the link with the target is there"
			if link.Policy != "" {
				p.Policy = link.Policy
			}
			out = append(out, p)
		}
	}
	return out
}

// linked says whether a host, by its name, is bound to an access point of a target.
func (s *snapshot) linked(host, iqn string) bool {
	_, ok := s.paths[meta.NewPathKey(meta.HostID{Protocol: meta.ISCSI, Name: host}, iqn, meta.WholeTarget)]
	return ok
}
