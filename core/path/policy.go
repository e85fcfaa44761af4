package path

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mooring-io/mooring/core/meta"
)

// Policy is a pure decision: the same request always gets the same answer, and
// asking changes nothing. It may be slow, dead or wrong; then nothing changes.
type Policy interface {
	Name() string
	// Place returns one placement for each pair of the request.
	Place(ctx context.Context, r Request) ([]Placement, error)
}

// Request is all that a policy knows.
type Request struct {
	AccessPoints []AccessPoint // by ID
	Pairs        []Pair        // to be placed, by host, subsystem and NSID
}

// AccessPoint is where hosts of one protocol can be served.
type AccessPoint struct {
	ID       string
	Node     string
	Protocol meta.Protocol
	Up       bool
	Reason   string // why it is down
}

// Pair is a host and a namespace that it sees.
type Pair struct {
	Key meta.PathKey
	// Connected are the access points at which the host has an association with the
	// subsystem, the earliest first.
	Connected []string
	Present   Placement // Optimized is "" before the first placement
}

// Placement is one pair's access points.
type Placement struct {
	Key          meta.PathKey
	Optimized    string   // "" if none can be
	NonOptimized []string // at most meta.MaxNonOptimized, none equal to Optimized
	Reason       string   // one sentence for the operator
}

func (p Placement) equal(o Placement) bool {
	return p.Optimized == o.Optimized && slices.Equal(p.NonOptimized, o.NonOptimized)
}

// Builtin is the rule where no policy plugin is configured: a path stays where it
// is as long as the host can use it; otherwise it goes to the access point that the
// host connected to first. Two others, those it is connected to and those on other
// nodes first, are non-optimized.
type Builtin struct{}

// Name is Policy.Name.
func (Builtin) Name() string { return "builtin" }

// Place is Policy.Place.
func (Builtin) Place(_ context.Context, r Request) ([]Placement, error) {
	points := make(map[string]AccessPoint, len(r.AccessPoints))
	for _, a := range r.AccessPoints {
		points[a.ID] = a
	}
	out := make([]Placement, 0, len(r.Pairs))
	for _, p := range r.Pairs {
		out = append(out, placeOne(r, points, p))
	}
	return out, nil
}

func placeOne(r Request, points map[string]AccessPoint, p Pair) Placement {
	usable := func(id string) bool {
		a, ok := points[id]
		return ok && a.Up && a.Protocol == p.Key.Host.Protocol
	}
	var connected []string
	for _, id := range p.Connected {
		if usable(id) {
			connected = append(connected, id)
		}
	}
	out := Placement{Key: p.Key}
	present := p.Present.Optimized
	switch {
	case usable(present) && (slices.Contains(connected, present) || len(connected) == 0):
		out.Optimized, out.Reason = present, "it stays where it is"
		if p.Present.Reason != "" {
			out.Reason = p.Present.Reason
		}
	case len(connected) > 0:
		out.Optimized, out.Reason = connected[0], "the host connected there first"
		if present != "" {
			out.Reason = fmt.Sprintf("the host is connected there, and %s cannot be used: %s", present, whyNot(points, p, present))
		}
	default:
		for _, a := range r.AccessPoints {
			if usable(a.ID) {
				out.Optimized, out.Reason = a.ID, "it is the first that is up"
				break
			}
		}
	}
	if out.Optimized == "" { // nothing is up: a change would gain nothing
		out.Optimized, out.NonOptimized = present, p.Present.NonOptimized
		out.Reason = "no access point is up"
		return out
	}
	out.NonOptimized = standbys(r, points, p, connected, out.Optimized, usable)
	return out
}

func whyNot(points map[string]AccessPoint, p Pair, id string) string {
	a, ok := points[id]
	switch {
	case !ok:
		return "it does not exist any more"
	case !a.Up && a.Reason != "":
		return a.Reason
	case !a.Up:
		return "it is down"
	case !slices.Contains(p.Connected, id):
		return "the host is not connected there"
	}
	return "it speaks another protocol"
}

// standbys chooses the non-optimized access points: those that were, then those the
// host is connected to, then the rest; nodes that are not represented yet go first.
func standbys(r Request, points map[string]AccessPoint, p Pair, connected []string, optimized string, usable func(string) bool) []string {
	var order []string
	add := func(ids ...string) {
		for _, id := range ids {
			if id != optimized && usable(id) && !slices.Contains(order, id) {
				order = append(order, id)
			}
		}
	}
	add(p.Present.NonOptimized...)
	add(connected...)
	add(p.Present.Optimized)
	for _, a := range r.AccessPoints {
		add(a.ID)
	}
	nodes := map[string]bool{points[optimized].Node: true}
	var out []string
	for _, again := range []bool{false, true} {
		for _, id := range order {
			if len(out) < meta.MaxNonOptimized && !slices.Contains(out, id) && (again || !nodes[points[id].Node]) {
				nodes[points[id].Node] = true
				out = append(out, id)
			}
		}
	}
	slices.Sort(out)
	return out
}

// ErrBadPlacement says that a policy's answer cannot be used.
var ErrBadPlacement = errors.New("the policy's answer is invalid")

// Validate says what is wrong with a policy's answer to r, with ErrBadPlacement.
func Validate(r Request, answer []Placement) error {
	bad := func(f string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrBadPlacement, fmt.Sprintf(f, args...))
	}
	points := make(map[string]AccessPoint, len(r.AccessPoints))
	for _, a := range r.AccessPoints {
		points[a.ID] = a
	}
	pairs := make(map[meta.PathKey]Pair, len(r.Pairs))
	for _, p := range r.Pairs {
		pairs[p.Key] = p
	}
	for _, a := range answer {
		p, ok := pairs[a.Key]
		if !ok {
			return bad("%s was not asked for, or is answered twice", a.Key)
		}
		delete(pairs, a.Key)
		if a.equal(p.Present) {
			continue // what is may stay, even if it could not be chosen now
		}
		if a.Optimized == "" || len(a.NonOptimized) > meta.MaxNonOptimized {
			return bad("%s gets no optimized access point, or %d non-optimized ones", a.Key, len(a.NonOptimized))
		}
		for i, id := range append([]string{a.Optimized}, a.NonOptimized...) {
			point, ok := points[id]
			if !ok || point.Protocol != a.Key.Host.Protocol {
				return bad("%s cannot be served at %q", a.Key, id)
			}
			if !point.Up {
				return bad("%s is placed at %q, which is down", a.Key, id)
			}
			if i > 0 && (id == a.Optimized || slices.Contains(a.NonOptimized[:i-1], id)) {
				return bad("%s has %q twice", a.Key, id)
			}
		}
	}
	for k := range pairs {
		return bad("%s is not answered", k)
	}
	return nil
}

// protocolOf tells whom an access point can serve from its URL's scheme.
func protocolOf(url string) meta.Protocol {
	if strings.HasPrefix(url, "iscsi") {
		return meta.ISCSI
	}
	return meta.NVMe
}
