package main

import (
	"net/url"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
)

func tenantCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "tenant", Short: "Create, list, change and delete tenants", Aliases: []string{"tenants"}}
	c.AddCommand(tenantCreate(g), tenantList(g), tenantSet(g), tenantDelete(g))
	return c
}

func tenantPath(name string) string { return "/v1/tenants/" + url.PathEscape(name) }

func tenantCreate(g *globals) *cobra.Command {
	var in admin.TenantSet
	c := &cobra.Command{
		Use: "create NAME", Short: "Create a tenant", Args: usageArgs(cobra.ExactArgs(1)),
		Example: "  mooring tenant create acme -policy balance",
		RunE: func(c *cobra.Command, args []string) error {
			in.Name = args[0]
			var t admin.Tenant
			if err := g.client().Do(c.Context(), "POST", "/v1/tenants", in, &t); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), t, "tenant %s created, with path policy %s", t.Name, t.Policy)
		},
	}
	c.Flags().StringVar(&in.Policy, "policy", "inherit", "path policy: the part of a plugin's name after policy-")
	return c
}

func tenantList(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List tenants", Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			var ts []admin.Tenant
			if err := g.client().Do(c.Context(), "GET", "/v1/tenants", nil, &ts); err != nil {
				return err
			}
			return g.print(c.OutOrStdout(), ts, "NAME POLICY MANAGED", func(row func(...any)) {
				for _, t := range ts {
					row(t.Name, t.Policy, t.Managed)
				}
			})
		},
	}
}

func tenantSet(g *globals) *cobra.Command {
	var in admin.TenantSet
	c := &cobra.Command{
		Use: "set NAME", Short: "Change a tenant's path policy, also under I/O", Args: usageArgs(cobra.ExactArgs(1)),
		Example: "  mooring tenant set acme -policy inherit",
		RunE: func(c *cobra.Command, args []string) error {
			var t admin.Tenant
			if err := g.client().Do(c.Context(), "PATCH", tenantPath(args[0]), in, &t); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), t, "tenant %s has path policy %s", t.Name, t.Policy)
		},
	}
	c.Flags().StringVar(&in.Policy, "policy", "", "path policy: the part of a plugin's name after policy-")
	_ = c.MarkFlagRequired("policy") // it exists
	return c
}

func tenantDelete(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a tenant that owns nothing", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := g.client().Do(c.Context(), "DELETE", tenantPath(args[0]), nil, nil); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), struct{}{}, "tenant %s deleted", args[0])
		},
	}
}
