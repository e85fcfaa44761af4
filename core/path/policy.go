package path

import (
	"context"

	"github.com/mooring-io/mooring/sdk/policy"
)

// Builtin is the rule for what no policy has decided yet, or none can: a path stays as
// long as the host can use it; else it goes where the host connected first.
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
	for _, p := range c.Pairs {
		out.Placements = append(out.Placements, placeOne(c, p))
	}
	return out, nil
}

func placeOne(c *policy.Cluster, p *policy.Pair) *policy.Placement {
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
	at, reason := p.Candidates[0].GetId(), "it is the first that is up"
	for _, id := range p.Connected {
		if p.Candidate(id) {
			at, reason = id, "the host connected there first"
			break
		}
	}
	if was != "" {
		reason += ", and " + c.WhyNot(p, was)
	}
	return c.Place(p, at, reason)
}
