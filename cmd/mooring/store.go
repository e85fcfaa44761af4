package main

import (
	"fmt"
	"net/url"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
)

func storeCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "store", Short: "Add, list, drain, undrain and remove extent stores (disks)", Aliases: []string{"stores"}}
	c.AddCommand(storeAdd(g), storeList(g), storeDrain(g), storeUndrain(g), storeRemove(g))
	return c
}

func storeAdd(g *globals) *cobra.Command {
	var in admin.StoreAdd
	var capacity string
	c := &cobra.Command{
		Use: "add NAME PATH", Short: "Make a folder on a disk a store", Args: usageArgs(cobra.ExactArgs(2)),
		Example: "  mooring store add disk2 /mnt/disk2/mooring -capacity 500GiB",
		RunE: func(c *cobra.Command, args []string) error {
			in.Name = args[0]
			var err error
			if in.Path, err = filepath.Abs(args[1]); err != nil {
				return err
			}
			if capacity != "" {
				if in.Capacity, err = sizeArg("-capacity", capacity); err != nil {
					return err
				}
			}
			var s admin.Store
			existed, err := g.client().Create(c.Context(), "/v1/stores", in, &s)
			if err != nil {
				return err
			}
			return g.made(c.OutOrStdout(), existed, s, "store "+s.Name, "added: %s at %s", size(s.Capacity), s.Path)
		},
	}
	c.Flags().StringVar(&capacity, "capacity", "", "`size` that it may grow to; without, what the disk has free")
	c.Flags().StringVar(&in.Media, "media", "ssd", "media class: nvme, ssd or hdd")
	return c
}

func storeList(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List stores and how full they are", Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			var ss []admin.Store
			if err := g.client().Do(c.Context(), "GET", "/v1/stores", nil, &ss); err != nil {
				return err
			}
			return g.print(c.OutOrStdout(), ss, "NAME STATE CAPACITY USED PROMISED FREE EXTENTS MEDIA DIRECT PATH", func(row func(...any)) {
				for _, s := range ss {
					row(s.Name, storeState(s), size(s.Capacity), size(s.Used), size(s.Promised), size(s.Free), s.Extents, s.Media, s.Direct, s.Path)
				}
			})
		},
	}
}

// storeState is a store's state and, while it is draining, how far that is.
func storeState(s admin.Store) string {
	d := s.Drain
	switch {
	case d == nil:
		return s.State
	case d.Reason != "":
		return fmt.Sprintf("%s, %d extents left (%s)", s.State, d.Left, d.Reason)
	case d.Left == 0:
		return "drained"
	}
	return fmt.Sprintf("%s, %d of %d extents left, %s copied", s.State, d.Left, d.Left+d.Moved, size(d.Copied))
}

func storeDrain(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "drain NAME", Short: "Move the extents of a store to others, and put no new ones on it", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := g.client().Do(c.Context(), "POST", "/v1/stores/"+url.PathEscape(args[0])+"/drain", nil, nil); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), struct{}{}, "store %s is being emptied; see: mooring store list", args[0])
		},
	}
}

func storeUndrain(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "undrain NAME", Short: "Have a store that is draining take extents again", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := g.client().Do(c.Context(), "POST", "/v1/stores/"+url.PathEscape(args[0])+"/undrain", nil, nil); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), struct{}{}, "store %s takes new extents again; what was moved stays where it is", args[0])
		},
	}
}

func storeRemove(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Forget a store that holds no extents", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := g.client().Do(c.Context(), "DELETE", "/v1/stores/"+url.PathEscape(args[0]), nil, nil); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), struct{}{}, "store %s removed; its folder stays", args[0])
		},
	}
}
