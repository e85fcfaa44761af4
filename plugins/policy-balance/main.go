// Command policy-balance is the path policy "balance": for each host, the namespaces of
// a group get different access points, as far as there are any; what need not move
// stays; and what moves, or is new, goes where it makes the loads even.
package main

import (
	"context"
	"fmt"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/policy"
	"github.com/mooring-io/mooring/sdk/policy/spread"
)

// version is the plugin's own, semantic.
const version = "0.1.0"

func main() { sdk.Serve(plugin{}) }

// plugin implements sdk.PolicyPlugin.
type plugin struct{}

// Describe is part of sdk.Plugin.
func (plugin) Describe() sdk.Description {
	return sdk.Description{Name: "policy-balance", Version: version}
}

// Configure is part of sdk.Plugin.
func (plugin) Configure(config []byte) error { return sdk.NoConfig(config) }

// Place is part of policy.Policy. The items to spread are the pairs; those of one host
// and one group are a class.
func (plugin) Place(ctx context.Context, req *policy.Request) (*policy.Response, error) {
	c, err := policy.Read(req)
	if err != nil {
		return nil, err
	}
	problem, points := spread.Problem{Rebalance: c.Rebalance}, map[string]int{}
	for i, a := range c.AccessPoints {
		problem.Load = append(problem.Load, int(a.GetLoad()))
		points[a.GetId()] = i
	}
	out := &policy.Response{}
	type class struct{ host, group string }
	classes := map[class]int{}
	var placed []*policy.Pair
	for _, p := range c.Pairs {
		if len(p.Candidates) == 0 {
			out.Placements = append(out.Placements, c.Stay(p))
			continue
		}
		it := spread.Item{Weight: int(max(p.Namespace.GetWeight(), 1))}
		for _, a := range p.Candidates {
			it.Candidates = append(it.Candidates, points[a.GetId()])
		}
		if at, ok := points[p.Present.GetOptimized()]; ok {
			it.Present = []spread.Share{{Point: at, Placements: policy.Kept(p.Present)}}
		}
		if g := p.Namespace.GetGroup(); g != "" {
			k := class{p.Host.GetKey(), g}
			if classes[k] == 0 {
				classes[k] = len(classes) + 1
			}
			it.Class = classes[k]
		}
		problem.Items = append(problem.Items, it)
		placed = append(placed, p)
	}
	at, err := spread.Solve(ctx, problem)
	if err != nil {
		return nil, err
	}
	for i, p := range placed {
		id := c.AccessPoints[at[i]].GetId()
		out.Placements = append(out.Placements, c.Place(p, id, why(c, p, id)))
	}
	return out, nil
}

// why explains a placement.
func why(c *policy.Cluster, p *policy.Pair, id string) string {
	was, group := p.Present.GetOptimized(), p.Namespace.GetGroup()
	if was == id && p.Present.GetProvisional() {
		was = "" // as if it were new
	}
	switch {
	case was == id && p.Present.GetReason() != "":
		return p.Present.GetReason()
	case was == id:
		return "it is there already, and no rule makes it move"
	case was != "" && !p.Stays():
		return fmt.Sprintf("%s; of the %d access points that the host can use, this one makes the loads most even", c.WhyNot(p, was), len(p.Candidates))
	case was != "" && c.Rebalance:
		return "rebalanced: it makes the loads more even than at " + was
	case was != "" && !p.Present.GetProvisional():
		return fmt.Sprintf("the namespaces of group %s go apart", group)
	case group != "":
		return fmt.Sprintf("apart from the other namespaces of group %s, as far as there are access points", group)
	}
	return fmt.Sprintf("of the %d access points that the host can use, this one makes the loads most even", len(p.Candidates))
}
