package main

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
)

func lunCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "lun", Short: "Attach volumes to iSCSI targets and detach them", Aliases: []string{"luns"}}
	c.AddCommand(lunAttach(g), lunDetach(g), lunList(g))
	return c
}

func lunAttach(g *globals) *cobra.Command {
	var in admin.LUNAttach
	var lun uint16
	c := &cobra.Command{
		Use: "attach TARGET", Short: "Make a volume a logical unit; initiators can use it at once", Args: usageArgs(cobra.ExactArgs(1)),
		Long:    "Make a volume a logical unit; initiators can use it at once, when they look again (iscsiadm -m session --rescan).\nA volume may be a namespace of an NVMe subsystem at the same time.",
		Example: "  mooring lun attach iqn.2026-11.com.example:db -volume db1",
		RunE: func(c *cobra.Command, args []string) error {
			if in.Volume == "" {
				return &usageError{errors.New("name the volume: -volume NAME")}
			}
			if c.Flags().Changed("lun") {
				in.LUN = &lun
			}
			var n admin.LUN
			existed, err := g.client().Create(c.Context(), targetPath(args[0])+"/luns", in, &n)
			if err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), n, "volume %s is LUN %d of %s%s", n.Volume, n.LUN, n.Target, already(existed))
		},
	}
	c.Flags().StringVar(&in.Volume, "volume", "", "the volume's `name`, of the target's tenant (required)")
	c.Flags().Uint16Var(&lun, "lun", 0, "logical unit `number`; without, the lowest free one")
	c.Flags().StringSliceVar(&in.VisibleTo, "visible-to", nil, "`IQNs` of initiators that see it; without, every allowed one")
	return c
}

func lunDetach(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "detach TARGET LUN", Short: "Take a logical unit away from initiators; the volume and its data stay", Args: usageArgs(cobra.ExactArgs(2)),
		RunE: func(c *cobra.Command, args []string) error {
			n, err := strconv.ParseUint(args[1], 10, 14)
			if err != nil {
				return &usageError{fmt.Errorf("LUN must be a number from 0; it is %q", args[1])}
			}
			if err := g.client().Do(c.Context(), "DELETE", targetPath(args[0])+"/luns/"+args[1], nil, nil); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), struct{}{}, "LUN %d of %s detached", n, args[0])
		},
	}
}

func lunList(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list [TARGET]", Short: "List logical units", Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			var ts []admin.Target
			if len(args) == 1 {
				ts = make([]admin.Target, 1)
				if err := g.client().Do(c.Context(), "GET", targetPath(args[0]), nil, &ts[0]); err != nil {
					return err
				}
			} else if err := g.client().Do(c.Context(), "GET", "/v1/targets", nil, &ts); err != nil {
				return err
			}
			out := []admin.LUN{}
			for _, t := range ts {
				out = append(out, t.LUNs...)
			}
			return g.print(c.OutOrStdout(), out, "TARGET LUN VOLUME SIZE BLOCK VISIBLE-TO", func(row func(...any)) {
				for _, n := range out {
					seen := "all"
					if len(n.VisibleTo) > 0 {
						seen = list(n.VisibleTo)
					}
					row(n.Target, n.LUN, n.Volume, size(n.Size), n.BlockSize, seen)
				}
			})
		},
	}
}
