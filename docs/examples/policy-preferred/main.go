// Policy-preferred is a path policy that sends hosts to the nodes that the operator
// prefers, as long as they can be reached, and back to them as soon as they can.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/policy"
)

func main() { sdk.Serve(&plugin{}) }

type plugin struct {
	nodes atomic.Pointer[[]string] // names, the most preferred first
}

func (p *plugin) Describe() sdk.Description {
	return sdk.Description{
		Name:    "policy-preferred",
		Version: "0.1.0",
		Schema: []sdk.Attribute{{
			Name: "nodes", Type: sdk.StringList, Required: true,
			Help: "names of the nodes that hosts should use, the most preferred first.",
		}},
	}
}

func (p *plugin) Configure(config []byte) error {
	var c struct {
		Nodes []string `json:"nodes"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return err
	}
	if len(c.Nodes) == 0 {
		return &sdk.AttributeError{Attribute: "nodes", Message: "the list is empty; name at least one node"}
	}
	p.nodes.Store(&c.Nodes)
	return nil
}

func (p *plugin) Place(_ context.Context, req *policy.Request) (*policy.Response, error) {
	cluster, err := policy.Read(req)
	if err != nil {
		return nil, err
	}
	nodes := *p.nodes.Load()
	out := &policy.Response{}
	for _, pair := range cluster.Pairs {
		if len(pair.Candidates) == 0 {
			out.Placements = append(out.Placements, cluster.Stay(pair))
			continue
		}
		best := slices.MinFunc(pair.Candidates, func(a, b *policy.AccessPoint) int {
			return rank(nodes, a) - rank(nodes, b)
		})
		reason := fmt.Sprintf("%s is number %d in the order of preference", best.Node, rank(nodes, best)+1)
		if rank(nodes, best) == len(nodes) {
			reason = "none of the preferred nodes can be used"
		}
		out.Placements = append(out.Placements, cluster.Place(pair, best.Id, reason))
	}
	return out, nil
}

// rank is the place of an access point's node in the order of preference.
func rank(nodes []string, a *policy.AccessPoint) int {
	if i := slices.Index(nodes, a.Node); i >= 0 {
		return i
	}
	return len(nodes)
}
