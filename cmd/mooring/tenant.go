package main

import (
	"errors"
	"fmt"
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
	var quota quotaFlags
	c := &cobra.Command{
		Use: "create NAME", Short: "Create a tenant", Args: usageArgs(cobra.ExactArgs(1)),
		Example: "  mooring tenant create acme -policy balance",
		RunE: func(c *cobra.Command, args []string) error {
			if err := quota.into(c, &in); err != nil {
				return err
			}
			in.Name = args[0]
			var t admin.Tenant
			existed, err := g.client().Create(c.Context(), "/v1/tenants", in, &t)
			if err != nil {
				return err
			}
			return g.made(c.OutOrStdout(), existed, t, "tenant "+t.Name, "created, with path policy %s", t.Policy)
		},
	}
	c.Flags().StringVar(&in.Policy, "policy", "inherit", "path policy: the part of a plugin's name after policy-")
	quota.add(c)
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
			return g.print(c.OutOrStdout(), ts, "NAME POLICY VOLUMES SIZE QUOTA MANAGED", func(row func(...any)) {
				for _, t := range ts {
					row(t.Name, t.Policy, ofQuota(t.Volumes, t.QuotaVolumes), size(t.Bytes), quotaSize(t.QuotaBytes), t.Managed)
				}
			})
		},
	}
}

func tenantSet(g *globals) *cobra.Command {
	var in admin.TenantSet
	var quota quotaFlags
	c := &cobra.Command{
		Use: "set NAME", Short: "Change a tenant's path policy, also under I/O, and its quotas", Args: usageArgs(cobra.ExactArgs(1)),
		Example: "  mooring tenant set acme -policy inherit\n  mooring tenant set acme -quota 10TiB -max-volumes 100\n  mooring tenant set acme -quota none",
		RunE: func(c *cobra.Command, args []string) error {
			if err := quota.into(c, &in); err != nil {
				return err
			}
			if in.Policy == "" && in.QuotaBytes == nil && in.QuotaVolumes == nil {
				return &usageError{errors.New("say what to change: -policy, -quota or -max-volumes")}
			}
			var t admin.Tenant
			if err := g.client().Do(c.Context(), "PATCH", tenantPath(args[0]), in, &t); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), t, "tenant %s: path policy %s, %s of %s in %s volumes", t.Name, t.Policy, size(t.Bytes), quotaSize(t.QuotaBytes), ofQuota(t.Volumes, t.QuotaVolumes))
		},
	}
	c.Flags().StringVar(&in.Policy, "policy", "", "path policy: the part of a plugin's name after policy-")
	quota.add(c)
	return c
}

// quotaFlags are the quotas on a command line.
type quotaFlags struct {
	bytes   string
	volumes int
}

func (q *quotaFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&q.bytes, "quota", "", "`size` of all its volumes together, however much is used; none is no limit")
	c.Flags().IntVar(&q.volumes, "max-volumes", 0, "how many volumes it may have; 0 is no limit")
}

func (q *quotaFlags) into(c *cobra.Command, in *admin.TenantSet) error {
	if c.Flags().Changed("max-volumes") {
		in.QuotaVolumes = &q.volumes
	}
	if !c.Flags().Changed("quota") {
		return nil
	}
	var n int64
	if q.bytes != "none" {
		var err error
		if n, err = sizeArg("-quota", q.bytes); err != nil {
			return err
		}
	}
	in.QuotaBytes = &n
	return nil
}

func quotaSize(n int64) string {
	if n == 0 {
		return "no limit"
	}
	return size(n)
}

func ofQuota(n, quota int) string {
	if quota == 0 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d of %d", n, quota)
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
