package main

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
)

func volumeCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "volume", Short: "Create, list, show, resize, change and delete volumes", Aliases: []string{"volumes"}}
	c.AddCommand(volumeCreate(g), volumeList(g), volumeShow(g), volumeResize(g), volumeSet(g), volumeDelete(g))
	return c
}

func volumeCreate(g *globals) *cobra.Command {
	var in admin.VolumeCreate
	var bytes string
	c := &cobra.Command{
		Use: "create NAME", Short: "Create a thin volume", Args: usageArgs(cobra.ExactArgs(1)),
		Example: "  mooring volume create db1 -size 100GiB",
		RunE: func(c *cobra.Command, args []string) error {
			if bytes == "" {
				return &usageError{errors.New("name the size, such as -size 100GiB")}
			}
			n, err := sizeArg("-size", bytes)
			if err != nil {
				return err
			}
			in.Name, in.Size = args[0], n
			var v admin.Volume
			existed, err := g.client().Create(c.Context(), "/v1/volumes", in, &v)
			if err != nil {
				return err
			}
			return g.made(c.OutOrStdout(), existed, v, "volume "+v.Name, "created: %s, %s", size(v.Size), v.ID)
		},
	}
	c.Flags().StringVar(&bytes, "size", "", "`size`, such as 100GiB (required)")
	c.Flags().IntVar(&in.BlockSize, "block-size", 4096, "logical block size, 512 or 4096 `bytes`")
	c.Flags().StringVar(&in.Durability, "durability", "sync", "sync, or volatile: writes may wait in the disk's cache for a flush")
	c.Flags().IntVar(&in.Replicas, "replicas", 0, "on how many nodes its data lies; without, on two where there are two")
	c.Flags().StringVar(&in.Media, "media", "", "`class` of the stores it lies on: nvme, ssd or hdd; without, any")
	c.Flags().StringVar(&in.Tenant, "tenant", "", "owner; without, the default tenant")
	c.Flags().StringVar(&in.Group, "group", "", "namespace `group`, which a balancing path policy spreads over access points")
	return c
}

func volumeList(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List volumes", Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			var vs []admin.Volume
			if err := g.client().Do(c.Context(), "GET", "/v1/volumes", nil, &vs); err != nil {
				return err
			}
			return g.print(c.OutOrStdout(), vs, "NAME SIZE USED BLOCK DURABILITY REPLICAS GROUP STATE USERS MANAGED", func(row func(...any)) {
				for _, v := range vs {
					row(v.Name, size(v.Size), size(v.Used), v.BlockSize, v.Durability, v.Replicas, v.Group, v.State, list(v.Users), v.Managed)
				}
			})
		},
	}
}

func volumeShow(g *globals) *cobra.Command {
	var tenant string
	c := &cobra.Command{
		Use: "show NAME", Short: "Show one volume", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			var v admin.Volume
			if err := g.client().Do(c.Context(), "GET", volumePath(args[0], tenant), nil, &v); err != nil {
				return err
			}
			return g.print(c.OutOrStdout(), v, "FIELD VALUE", func(row func(...any)) {
				row("name", v.Name)
				row("id", v.ID)
				row("tenant", v.Tenant)
				row("size", size(v.Size))
				row("used", size(v.Used))
				row("block size", v.BlockSize)
				row("durability", v.Durability)
				row("replicas", v.Replicas)
				row("media", v.Media)
				row("group", v.Group)
				row("created", v.Created.Format("2006-01-02 15:04:05"))
				row("state", v.State)
				if v.Health != nil {
					row("replicas missing", health(v.Health))
				}
				row("driven by", v.Driver)
				row("users", list(v.Users))
				row("managed by", v.Managed)
				row("reads", v.ReadOps)
				row("writes", v.WriteOps)
			})
		},
	}
	tenantFlag(c, &tenant)
	return c
}

func volumeResize(g *globals) *cobra.Command {
	var in admin.VolumeSet
	var tenant string
	c := &cobra.Command{
		Use: "resize NAME SIZE", Short: "Change a volume's size, also while it is in use", Args: usageArgs(cobra.ExactArgs(2)),
		Example: "  mooring volume resize db1 200GiB",
		RunE: func(c *cobra.Command, args []string) error {
			n, err := sizeArg("SIZE", args[1])
			if err != nil {
				return err
			}
			if in.Size = n; n == 0 {
				return &usageError{errors.New("SIZE must be more than nothing")}
			}
			var v admin.Volume
			if err := g.client().Do(c.Context(), "PATCH", volumePath(args[0], tenant), in, &v); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), v, "volume %s is %s now", v.Name, size(v.Size))
		},
	}
	tenantFlag(c, &tenant)
	c.Flags().BoolVar(&in.Force, "force", false, "shrink, destroying what lies beyond the new end")
	return c
}

func volumeSet(g *globals) *cobra.Command {
	var in admin.VolumeSet
	var tenant, group string
	c := &cobra.Command{
		Use: "set NAME", Short: "Change a volume's durability, replicas or namespace group, also while it is in use", Args: usageArgs(cobra.ExactArgs(1)),
		Example: "  mooring volume set db1 -replicas 3\n  mooring volume set db1 -group db\n  mooring volume set db1 -group ''",
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("group") {
				in.Group = &group
			}
			replicas := c.Flags().Changed("replicas")
			if replicas && in.Replicas < 1 {
				return &usageError{fmt.Errorf("-replicas must be from 1; it is %d", in.Replicas)}
			}
			if in.Group == nil && in.Durability == "" && !replicas {
				return &usageError{errors.New("say what to change: -replicas, -group or -durability")}
			}
			var v admin.Volume
			if err := g.client().Do(c.Context(), "PATCH", volumePath(args[0], tenant), in, &v); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), v, "volume %s: durability %s, replicas %d, group %q", v.Name, v.Durability, v.Replicas, v.Group)
		},
	}
	tenantFlag(c, &tenant)
	c.Flags().IntVar(&in.Replicas, "replicas", 0, "on how many nodes its data lies; more are filled in the background, fewer are dropped at once")
	c.Flags().StringVar(&in.Durability, "durability", "", "sync, or volatile: writes may wait in the disk's cache for a flush")
	c.Flags().StringVar(&group, "group", "", "namespace `group`, which a balancing path policy spreads over access points; '' is none")
	return c
}

func volumeDelete(g *globals) *cobra.Command {
	var tenant string
	c := &cobra.Command{
		Use: "delete NAME", Short: "Delete a volume and its data", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := g.client().Do(c.Context(), "DELETE", volumePath(args[0], tenant), nil, nil); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), struct{}{}, "volume %s deleted", args[0])
		},
	}
	tenantFlag(c, &tenant)
	return c
}

// health says how far a volume is from having all its replicas.
func health(h *admin.Health) string {
	if h.Reduced+h.Away == 0 {
		return "none"
	}
	out := fmt.Sprintf("%d extents lack one, %d have one out of reach; %s to copy, %s copied", h.Reduced, h.Away, size(h.Left), size(int64(h.Copied)))
	if h.Reason != "" {
		out += "; " + h.Reason
	}
	return out
}

// tenantFlag says whose volume is meant, when it is not the default tenant's.
func tenantFlag(c *cobra.Command, tenant *string) {
	c.Flags().StringVar(tenant, "tenant", "", "owner of the volume; without, the default tenant")
}

func volumePath(name, tenant string) string {
	return "/v1/volumes/" + url.PathEscape(name) + "?tenant=" + url.QueryEscape(tenant)
}
