package main

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
)

func itoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

func namespaceCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "namespace", Short: "Attach volumes to subsystems and detach them", Aliases: []string{"namespaces"}}
	c.AddCommand(namespaceAttach(g), namespaceDetach(g), namespaceList(g))
	return c
}

func namespaceAttach(g *globals) *cobra.Command {
	var in admin.NamespaceAttach
	var tenant string
	c := &cobra.Command{
		Use: "attach SUBSYSTEM", Short: "Make a volume a namespace; hosts see it at once", Args: usageArgs(cobra.ExactArgs(1)),
		Example: "  mooring namespace attach nqn.2026-11.com.example:db -volume db1",
		RunE: func(c *cobra.Command, args []string) error {
			if in.Volume == "" {
				return &usageError{errors.New("name the volume: -volume NAME")}
			}
			var n admin.Namespace
			existed, err := g.client().Create(c.Context(), subsystemPath(args[0])+"/namespaces?tenant="+url.QueryEscape(tenant), in, &n)
			if err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), n, "volume %s is namespace %d of %s%s", n.Volume, n.NSID, n.Subsystem, already(existed))
		},
	}
	c.Flags().StringVar(&in.Volume, "volume", "", "the volume's `name` (required)")
	tenantFlag(c, &tenant)
	c.Flags().Uint32Var(&in.NSID, "nsid", 0, "namespace `ID`; 0 takes the next one that is free")
	c.Flags().StringSliceVar(&in.VisibleTo, "visible-to", nil, "host `NQNs` that see it; without, every allowed host")
	return c
}

func namespaceDetach(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "detach SUBSYSTEM NSID", Short: "Take a namespace away from hosts; the volume and its data stay", Args: usageArgs(cobra.ExactArgs(2)),
		RunE: func(c *cobra.Command, args []string) error {
			n, err := strconv.ParseUint(args[1], 10, 32)
			if err != nil || n == 0 {
				return &usageError{fmt.Errorf("NSID must be a number from 1; it is %q", args[1])}
			}
			if err := g.client().Do(c.Context(), "DELETE", subsystemPath(args[0])+"/namespaces/"+args[1], nil, nil); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), struct{}{}, "namespace %d of %s detached", n, args[0])
		},
	}
}

func namespaceList(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list [SUBSYSTEM]", Short: "List namespaces", Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			var ss []admin.Subsystem
			if err := g.client().Do(c.Context(), "GET", "/v1/subsystems", nil, &ss); err != nil {
				return err
			}
			out := []admin.Namespace{}
			if len(args) == 1 {
				var s admin.Subsystem
				if err := g.client().Do(c.Context(), "GET", subsystemPath(args[0]), nil, &s); err != nil {
					return err
				}
				ss = []admin.Subsystem{s}
			}
			for _, s := range ss {
				out = append(out, s.Namespaces...)
			}
			return g.print(c.OutOrStdout(), out, "SUBSYSTEM NSID VOLUME SIZE BLOCK ANA-GROUP VISIBLE-TO", func(row func(...any)) {
				for _, n := range out {
					seen := "all"
					if len(n.VisibleTo) > 0 {
						seen = list(n.VisibleTo)
					}
					row(n.Subsystem, n.NSID, n.Volume, size(n.Size), n.BlockSize, n.ANAGroup, seen)
				}
			})
		},
	}
}
