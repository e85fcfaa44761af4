package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/agent"
	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/vfs"
)

func checkCommand(g *globals) *cobra.Command {
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
			found := []checked{}
			bad := 0
			for _, d := range dirs {
				s, err := checkStore(c, g, d, rebuild)
				if err != nil {
					return fmt.Errorf("store %s: %w", d, err)
				}
				found = append(found, s)
				bad += s.Count
			}
			if g.output == "json" {
				if err := g.print(c.OutOrStdout(), found, "", nil); err != nil {
					return err
				}
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
		_, err := os.Stat(dir)
		return []string{dir}, fileError(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		return nil, &usageError{err}
	}
	return agent.StoreDirs(ctx, cfg)
}

// checked is what was found in one store.
type checked struct {
	Store    string    `json:"store"`
	Count    int       `json:"count"`    // of all problems
	Problems []problem `json:"problems"` // the first of them
}

type problem struct {
	Extent string `json:"extent,omitempty"`
	Block  uint32 `json:"block"`
	What   string `json:"what"`
}

const keepProblems = 10_000 // in JSON, which is printed at the end

// checkStore checks one store. Problems are printed as they are found, but for JSON.
func checkStore(c *cobra.Command, g *globals, dir string, rebuild bool) (checked, error) {
	ctx, w := c.Context(), c.OutOrStdout()
	out := checked{Store: dir, Problems: []problem{}}
	say := func(format string, args ...any) {
		if g.output != "json" {
			fmt.Fprintf(w, "%s: "+format+"\n", append([]any{dir}, args...)...)
		}
	}
	if rebuild {
		say("rebuilding the index from the disk")
		if err := extent.RebuildIndex(ctx, vfs.NewOS(), dir, nil); err != nil {
			return out, fmt.Errorf("rebuild the index: %w", err)
		}
	}
	err := extent.CheckDir(ctx, vfs.NewOS(), dir, nil, func(p extent.Problem) {
		say("%v", p)
		if out.Count++; len(out.Problems) < keepProblems {
			x := problem{Block: p.Block, What: p.What}
			if p.Extent != (extent.ID{}) {
				x.Extent = p.Extent.String()
			}
			out.Problems = append(out.Problems, x)
		}
	})
	if err == nil && out.Count == 0 {
		say("no problems")
	}
	return out, err
}
