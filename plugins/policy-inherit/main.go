// Command policy-inherit is the path policy "inherit": all namespaces of a subsystem go
// through one access point for a given host; with no more hosts than access points, no
// two hosts share one; what need not move stays; and what moves, or is new, goes where
// it makes the loads even.
package main

import (
	"context"
	"fmt"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/policy"
)

// version is the plugin's own, semantic.
const version = "0.1.0"

func main() { sdk.Serve(plugin{}) }

// plugin implements sdk.PolicyPlugin.
type plugin struct{}

// Describe is part of sdk.Plugin.
func (plugin) Describe() sdk.Description {
	return sdk.Description{Name: "policy-inherit", Version: version}
}

// Configure is part of sdk.Plugin.
func (plugin) Configure(config []byte) error { return sdk.NoConfig(config) }

// Place is part of policy.Policy. Protocols have access points of their own, and are
// placed one after the other.
func (plugin) Place(ctx context.Context, req *policy.Request) (*policy.Response, error) {
	c, err := policy.Read(req)
	if err != nil {
		return nil, err
	}
	out := &policy.Response{}
	for _, p := range c.Pairs {
		if len(p.Candidates) == 0 {
			out.Placements = append(out.Placements, c.Stay(p))
		}
	}
	for _, f := range fleets(c) {
		at, err := f.place(ctx)
		if err != nil {
			return nil, err
		}
		for i, b := range f.bundles {
			id := c.AccessPoints[at[i]].GetId()
			for _, p := range b.pairs {
				out.Placements = append(out.Placements, c.Place(p, id, f.why(p, id)))
			}
		}
	}
	return out, nil
}

// why explains a placement.
func (f *fleet) why(p *policy.Pair, id string) string {
	was := p.Present.GetOptimized()
	if was == id && p.Present.GetProvisional() {
		was = "" // as if it were new
	}
	rule := "all namespaces of the subsystem go through one access point"
	if f.apart() {
		rule += fmt.Sprintf(", and none of the %d hosts shares it, as far as the %d access points allow", len(f.hosts), f.points)
	}
	switch {
	case was == id && p.Present.GetReason() != "":
		return p.Present.GetReason()
	case was == id:
		return "it is there already, and no rule makes it move"
	case was != "" && !p.Stays():
		return f.WhyNot(p, was) + "; " + rule
	case was != "" && f.Rebalance:
		return "rebalanced: it makes the loads more even than at " + was
	}
	return rule
}
