package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
)

func nodeCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "node", Short: "List the nodes of the cluster", Aliases: []string{"nodes"}}
	c.AddCommand(nodeList(g))
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
			return g.print(c.OutOrStdout(), ns, "NAME STATE UP ADDRESS METADATA STORES CAPACITY ID", func(row func(...any)) {
				for _, n := range ns {
					up := ""
					if !n.Since.IsZero() {
						up = time.Since(n.Since).Round(time.Second).String()
					}
					name := n.Name
					if n.Self {
						name += " (this)"
					}
					row(name, n.State, up, n.Address, n.Vote, n.Stores, size(n.Capacity), n.ID)
				}
			})
		},
	}
}
