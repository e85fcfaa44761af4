package main

import (
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
)

func nodeCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "node", Short: "List, drain, undrain and remove the nodes of the cluster", Aliases: []string{"nodes"}}
	c.AddCommand(nodeList(g), nodeDrain(g), nodeUndrain(g), nodeRemove(g))
	return c
}

func nodeList(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the nodes, who is up and who votes", Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			var ns []admin.Node
			if err := g.client().Do(c.Context(), "GET", "/v1/nodes", nil, &ns); err != nil {
				return err
			}
			if err := g.print(c.OutOrStdout(), ns, "NAME STATE UP ADDRESS METADATA STORES CAPACITY ZONE RACK ID", func(row func(...any)) {
				for _, n := range ns {
					up := ""
					if !n.Since.IsZero() {
						up = time.Since(n.Since).Round(time.Second).String()
					}
					name := n.Name
					if n.Self {
						name += " (this)"
					}
					row(name, nodeState(n), up, n.Address, n.Vote, n.Stores, size(n.Capacity), n.Zone, n.Rack, n.ID)
				}
			}); err != nil {
				return err
			}
			if len(ns) > 0 && ns[0].Silent > 0 {
				return &degradedError{fmt.Sprintf("etcd has not answered for %v; this is what the node knew until then", ns[0].Silent.Round(time.Second))}
			}
			return nil
		},
	}
}

// nodeState is a node's state and, while it is draining, how far that is.
func nodeState(n admin.Node) string {
	switch {
	case n.Drain == nil:
		return n.State
	case n.Drain.Left == 0 && n.Drain.Paths == 0:
		return n.State + ", drained"
	}
	s := fmt.Sprintf("%s, draining: %d replicas and %d paths left", n.State, n.Drain.Left, n.Drain.Paths)
	if n.Drain.Reason != "" {
		s += ": " + n.Drain.Reason
	}
	return s
}

func nodeDrain(g *globals) *cobra.Command {
	var in admin.NodeDrainAsk
	c := &cobra.Command{
		Use: "drain NAME", Short: "Move the replicas and the paths of a node to others, and put no new ones on it", Args: usageArgs(cobra.ExactArgs(1)),
		Long: `Make the replicas of a node on other nodes, and move the paths of its hosts there, while
hosts use them, and put no new ones on it. Hosts stay connected to it. Returns at once;
node list shows how far it is. It is refused when volumes would have fewer replicas than
they are to have, and when no other node could serve its hosts.`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := g.client().Do(c.Context(), "POST", "/v1/nodes/"+url.PathEscape(args[0])+"/drain", in, nil); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), struct{}{}, "node %s is being emptied; see: mooring node list", args[0])
		},
	}
	c.Flags().BoolVar(&in.Force, "force", false, "begin although there are too few other nodes; what finds no place stays, replicas and paths")
	return c
}

func nodeUndrain(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "undrain NAME", Short: "Have a node that is draining take replicas and paths again", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := g.client().Do(c.Context(), "POST", "/v1/nodes/"+url.PathEscape(args[0])+"/undrain", nil, nil); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), struct{}{}, "node %s takes new replicas and paths again; what was moved stays where it is", args[0])
		},
	}
}

func nodeRemove(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Forget a node that is down and holds no extents", Args: usageArgs(cobra.ExactArgs(1)),
		Long: `Forget a node: stop its agent, and run this on another one. It is refused while the node
holds extents, and when two nodes with a vote about the metadata would be left.
To come back, the node joins with an empty data directory.`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := g.client().Do(c.Context(), "DELETE", "/v1/nodes/"+url.PathEscape(args[0]), nil, nil); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), struct{}{}, "node %s removed", args[0])
		},
	}
}
