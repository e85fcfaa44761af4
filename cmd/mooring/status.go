package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
)

func statusCommand(g *globals) *cobra.Command {
	var watch bool
	c := &cobra.Command{
		Use: "status", Short: "Show the node: stores, plugins, volumes, hosts, live rates", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			for {
				var s admin.Status
				if err := g.client().Do(c.Context(), "GET", "/v1/status", nil, &s); err != nil {
					return err
				}
				if g.output == "json" {
					if err := g.print(c.OutOrStdout(), s, "", nil); err != nil {
						return err
					}
				} else {
					if watch {
						fmt.Fprint(c.OutOrStdout(), "\x1b[H\x1b[2J")
					}
					printStatus(c.OutOrStdout(), &s)
				}
				if !watch {
					if len(s.Warnings) > 0 {
						return &degradedError{}
					}
					return nil
				}
				select {
				case <-c.Context().Done():
					return nil
				case <-time.After(time.Second):
				}
			}
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, "again every second, until interrupted")
	return c
}

func printStatus(w io.Writer, s *admin.Status) {
	fmt.Fprintf(w, "node %s, version %s, up %s, pid %d, disk engine %s\n", s.Node, s.Version, time.Since(s.Started).Round(time.Second), s.PID, s.Engine)
	session := "ends in " + s.Meta.Left.Round(100*time.Millisecond).String() + " unless renewed"
	if s.Meta.Left <= 0 {
		session = "could not be renewed in time: nothing is served by it until it is"
	}
	fmt.Fprintf(w, "meta on %s, session %s %s\n", s.Meta.Engine, s.Meta.Session, session)
	fmt.Fprintf(w, "now: read %.0f IOPS %.1f MiB/s, write %.0f IOPS %.1f MiB/s\n", s.Rates.ReadIOPS, s.Rates.ReadBytes/(1<<20), s.Rates.WriteIOPS, s.Rates.WriteBytes/(1<<20))
	for _, x := range s.Stores {
		fmt.Fprintf(w, "store   %-16s %-8s %s used, %s free of %s\n", x.Name, x.State, size(x.Used), size(x.Free), size(x.Capacity))
	}
	for _, x := range s.Plugins {
		line := fmt.Sprintf("plugin  %-16s %-8s", x.Name, x.State)
		if x.PID != 0 {
			line += fmt.Sprintf(" pid %d,", x.PID)
		}
		line += fmt.Sprintf(" %d restarts", x.Restarts)
		if x.Reason != "" {
			line += ", " + x.Reason
		}
		fmt.Fprintln(w, line)
	}
	for _, x := range s.Access {
		fmt.Fprintf(w, "listen  %-32s %s\n", x.URL, x.State)
	}
	for _, x := range s.Volumes {
		users := "not attached"
		if len(x.Users) > 0 {
			users = list(x.Users)
		} else if s.Meta.Silent > 0 {
			users = "attachments not known"
		}
		fmt.Fprintf(w, "volume  %-16s %-8s %s, %s used, %s\n", x.Name, x.State, size(x.Size), size(x.Used), users)
		if x.Health != nil && x.Health.Reduced+x.Health.Away > 0 {
			fmt.Fprintf(w, "                         %s\n", health(x.Health))
		}
	}
	for _, x := range s.Hosts {
		fmt.Fprintf(w, "host    %s → %s from %s\n", x.Host, x.Subsystem, x.Peer)
	}
	for _, x := range s.Warnings {
		fmt.Fprintf(w, "warning: %s\n", x)
	}
}
