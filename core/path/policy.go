package path

import (
	"context"

	"github.com/mooring-io/mooring/sdk/policy"
)

// Builtin is the rule for what no policy has decided yet, or none can: a path stays as
// long as the host can use it; else it goes where the host connected first, or, before it has connected
// anywhere, where the fewest paths are.
type Builtin struct{}

// BuiltinName is who decided, in the record of a path.
const BuiltinName = "builtin"

// Place is policy.Policy.
func (Builtin) Place(_ context.Context, r *policy.Request) (*policy.Response, error) {
	c, err := policy.Read(r)
	if err != nil {
		return nil, err
	}
	out := &policy.Response{}
	loads := loadsOf(c)
	for _, p := range c.Pairs {
		out.Placements = append(out.Placements, placeOne(c, p, loads))
	}
	return out, nil
}

// loadsOf counts the paths at each access point.
func loadsOf(c *policy.Cluster) map[string]uint64 {
	loads := map[string]uint64{}
	for _, a := range c.AccessPoints {
		loads[a.GetId()] = a.GetLoad()
	}
	for _, p := range c.Pairs {
		loads[p.Present.GetOptimized()]++
	}
	return loads
}

// placeOne answers one pair, and counts it if it moves.
func placeOne(c *policy.Cluster, p *policy.Pair, loads map[string]uint64) *policy.Placement {
	was := p.Present.GetOptimized()
	if len(p.Candidates) == 0 {
		return c.Stay(p)
	}
	if p.Stays() {
		reason := p.Present.GetReason()
		if reason == "" {
			reason = "it stays where it is"
		}
		return c.Place(p, was, reason)
	}
	at, reason := leastLoaded(p.Candidates, loads), "the fewest paths are there"
	for _, id := range p.Connected {
		if p.Candidate(id) {
			at, reason = id, "the host connected there first"
			break
		}
	}
	loads[at]++
	if was != "" {
		reason += ", and " + c.WhyNot(p, was)
	}
	return c.Place(p, at, reason)
}

func leastLoaded(candidates []*policy.AccessPoint, loads map[string]uint64) string {
	best := candidates[0].GetId()
	for _, a := range candidates {
		if loads[a.GetId()] < loads[best] {
			best = a.GetId()
		}
	}
	return best
}
