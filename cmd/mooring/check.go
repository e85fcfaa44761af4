package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/agent"
	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/vfs"
)

func checkCommand() *cobra.Command {
	var file, dir string
	var rebuild bool
	c := &cobra.Command{
		Use: "check", Short: "Check every block of this node's stores, with the agent stopped", Args: cobra.NoArgs,
		Long: `Walk the stores: superblocks, index, maps, log, and the checksum of every block.
With -rebuild-meta, first make a new index from the identities that every extent
carries on disk; for a store whose index is lost or damaged.`,
		Example: "  mooring check -config config.hcl\n  mooring check -store data/stores/main -rebuild-meta",
		RunE: func(c *cobra.Command, _ []string) error {
			dirs, err := storeDirs(c.Context(), file, dir)
			if err != nil {
				return err
			}
			bad := 0
			for _, d := range dirs {
				n, err := checkStore(c, d, rebuild)
				if err != nil {
					return fmt.Errorf("store %s: %w", d, err)
				}
				bad += n
			}
			if bad > 0 {
				return &degradedError{fmt.Sprintf("%d problems found", bad)}
			}
			return nil
		},
	}
	c.Flags().StringVar(&file, "config", "", "the node's HCL `file`: check all of its stores, also those added by hand")
	c.Flags().StringVar(&dir, "store", "", "check the store in this `folder`")
	c.Flags().BoolVar(&rebuild, "rebuild-meta", false, "make a new index from what the extents say on disk")
	return c
}

func storeDirs(ctx context.Context, file, dir string) ([]string, error) {
	if (file == "") == (dir == "") {
		return nil, &usageError{fmt.Errorf("name either -config FILE or -store FOLDER")}
	}
	if dir != "" {
		return []string{dir}, nil
	}
	cfg, err := config.Load(file)
	if err != nil {
		return nil, &usageError{err}
	}
	return agent.StoreDirs(ctx, cfg)
}

func checkStore(c *cobra.Command, dir string, rebuild bool) (int, error) {
	ctx, w := c.Context(), c.OutOrStdout()
	if rebuild {
		fmt.Fprintf(w, "%s: rebuilding the index from the disk\n", dir)
		if err := extent.RebuildIndex(ctx, vfs.NewOS(), dir, nil); err != nil {
			return 0, fmt.Errorf("rebuild the index: %w", err)
		}
	}
	bad, err := countProblems(ctx, dir, func(p extent.Problem) { fmt.Fprintf(w, "%s: %v\n", dir, p) })
	if err == nil && bad == 0 {
		fmt.Fprintf(w, "%s: no problems\n", dir)
	}
	return bad, err
}

func countProblems(ctx context.Context, dir string, print func(extent.Problem)) (int, error) {
	n := 0
	err := extent.CheckDir(ctx, vfs.NewOS(), dir, nil, func(p extent.Problem) {
		n++
		print(p)
	})
	return n, err
}
