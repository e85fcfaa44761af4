package main

import (
	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
)

func pathCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "path", Short: "See at which access points hosts reach namespaces", Aliases: []string{"paths"}}
	c.AddCommand(pathList(g))
	return c
}

func pathList(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List for each host and namespace its access points, and why", Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			var ps []admin.Path
			if err := g.client().Do(c.Context(), "GET", "/v1/paths", nil, &ps); err != nil {
				return err
			}
			return g.print(c.OutOrStdout(), ps, "HOST SUBSYSTEM NSID OPTIMIZED NON-OPTIMIZED EPOCH POLICY REASON", func(row func(...any)) {
				for _, p := range ps {
					row(p.Host, p.Subsystem, p.NSID, p.Optimized, list(p.NonOptimized), p.Epoch, p.Policy, p.Reason)
				}
			})
		},
	}
}
