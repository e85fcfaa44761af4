package main

import (
	"net/url"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
)

func subsystemCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "subsystem", Short: "Create, list, show and delete NVMe subsystems", Aliases: []string{"subsystems"}}
	c.AddCommand(subsystemCreate(g), subsystemList(g), subsystemShow(g), subsystemDelete(g))
	return c
}

func subsystemPath(nqn string) string { return "/v1/subsystems/" + url.PathEscape(nqn) }

func subsystemCreate(g *globals) *cobra.Command {
	var in admin.SubsystemCreate
	c := &cobra.Command{
		Use: "create NQN", Short: "Create a subsystem", Args: usageArgs(cobra.ExactArgs(1)),
		Example: "  mooring subsystem create nqn.2026-11.com.example:db",
		RunE: func(c *cobra.Command, args []string) error {
			in.NQN = args[0]
			var s admin.Subsystem
			existed, err := g.client().Create(c.Context(), "/v1/subsystems", in, &s)
			if err != nil {
				return err
			}
			return g.made(c.OutOrStdout(), existed, s, "subsystem "+s.NQN, "created; allow hosts with: mooring host allow %s HOST_NQN", s.NQN)
		},
	}
	c.Flags().BoolVar(&in.AllowAnyHost, "allow-any-host", false, "let every host connect")
	c.Flags().StringVar(&in.Serial, "serial", "", "serial number, at most 20 characters; the default is made from the NQN")
	c.Flags().StringVar(&in.Tenant, "tenant", "", "owner")
	return c
}

func subsystemList(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List subsystems", Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			var ss []admin.Subsystem
			if err := g.client().Do(c.Context(), "GET", "/v1/subsystems", nil, &ss); err != nil {
				return err
			}
			return g.print(c.OutOrStdout(), ss, "NQN NAMESPACES HOSTS SERIAL MANAGED", func(row func(...any)) {
				for _, s := range ss {
					row(s.NQN, len(s.Namespaces), allowed(s), s.Serial, s.Managed)
				}
			})
		},
	}
}

func allowed(s admin.Subsystem) string {
	if s.AllowAnyHost {
		return "any"
	}
	return list(s.Hosts)
}

func subsystemShow(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show NQN", Short: "Show one subsystem", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			var s admin.Subsystem
			if err := g.client().Do(c.Context(), "GET", subsystemPath(args[0]), nil, &s); err != nil {
				return err
			}
			return g.print(c.OutOrStdout(), s, "FIELD VALUE", func(row func(...any)) {
				row("nqn", s.NQN)
				row("serial", s.Serial)
				row("tenant", s.Tenant)
				row("hosts", allowed(s))
				row("managed by", s.Managed)
				for _, n := range s.Namespaces {
					row("namespace "+itoa(n.NSID), n.Volume+" "+size(n.Size)+" ana-group "+itoa(n.ANAGroup)+" "+n.UUID)
				}
			})
		},
	}
}

func subsystemDelete(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "delete NQN", Short: "Delete a subsystem without namespaces", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := g.client().Do(c.Context(), "DELETE", subsystemPath(args[0]), nil, nil); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), struct{}{}, "subsystem %s deleted", args[0])
		},
	}
}
