package main

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
)

func scrubCommand(g *globals) *cobra.Command {
	var tenant string
	c := &cobra.Command{
		Use: "scrub [VOLUME]", Short: "Read all replicas of a volume, or of all, and repair what is damaged or differs", Args: usageArgs(cobra.MaximumNArgs(1)),
		Long: "Reads everything that the replicas of a volume hold, while hosts use it, no faster than limits.resync_rate. Blocks whose checksum does not match\n" +
			"are repaired from a good replica, and so are replicas that differ. Without VOLUME all volumes that this node may drive are read.",
		RunE: func(c *cobra.Command, args []string) error {
			var vs []admin.Volume
			if len(args) > 0 {
				vs = []admin.Volume{{Name: args[0], Tenant: tenant}}
			} else if err := g.client().Do(c.Context(), "GET", "/v1/volumes", nil, &vs); err != nil {
				return err
			}
			found := []admin.Scrub{}
			bad := false
			for _, v := range vs {
				s, err := scrubOne(c, g, v)
				var refused *admin.Error
				if len(args) == 0 && errors.As(err, &refused) && refused.Kind == admin.KindConflict {
					s, err = admin.Scrub{Volume: v.Name, Reason: refused.Problem.Error}, nil
				}
				if err != nil {
					return err
				}
				bad = bad || !s.Ended || s.Skipped > 0 || s.Repaired < s.Corrupt+s.Different
				found = append(found, s)
			}
			if err := g.print(c.OutOrStdout(), found, "VOLUME EXTENTS READ DAMAGED DIFFERENT REPAIRED SKIPPED NOTE", func(row func(...any)) {
				for _, s := range found {
					row(s.Volume, s.Extents, size(s.Bytes), s.Corrupt, s.Different, s.Repaired, s.Skipped, s.Reason)
				}
			}); err != nil {
				return err
			}
			if bad {
				return &degradedError{}
			}
			return nil
		},
	}
	tenantFlag(c, &tenant)
	return c
}

// scrubOne follows the scrub of one volume to its end.
func scrubOne(c *cobra.Command, g *globals, v admin.Volume) (last admin.Scrub, err error) {
	path := "/v1/volumes/" + url.PathEscape(v.Name) + "/scrub?tenant=" + url.QueryEscape(v.Tenant)
	shown := false
	err = admin.Stream(c.Context(), g.client(), "POST", path, func(s admin.Scrub) error {
		if last = s; g.output != "json" && !s.Ended {
			shown = true
			fmt.Fprintf(c.ErrOrStderr(), "\r%s: %d of %d extents, %s read, %d damaged, %d different ", s.Volume, s.Extents+s.Skipped, s.Total, size(s.Bytes), s.Corrupt, s.Different)
		}
		return nil
	})
	if shown {
		fmt.Fprintln(c.ErrOrStderr())
	}
	return last, err
}
