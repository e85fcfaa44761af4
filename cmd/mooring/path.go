package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
)

func pathCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "path", Short: "See at which access points hosts reach namespaces, and even them out", Aliases: []string{"paths"}}
	c.AddCommand(pathList(g), pathExplain(g), pathSimulate(g), pathRebalance(g), pathWatch(g))
	return c
}

func pathList(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List for each host and namespace its access points, and why", Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			var ps []admin.Path
			if err := g.client().Do(c.Context(), "GET", "/v1/paths", nil, &ps); err != nil {
				return err
			}
			return g.print(c.OutOrStdout(), ps, "HOST SUBSYSTEM NSID OPTIMIZED NON-OPTIMIZED EPOCH POLICY REASON", func(row func(...any)) {
				for _, p := range ps {
					var other []string
					for _, id := range p.NonOptimized {
						other = append(other, pointOf(p, id))
					}
					row(p.Host, p.Subsystem, unit(p.NSID), pointOf(p, p.Optimized), list(other), p.Epoch, p.Policy, p.Reason)
				}
			})
		},
	}
}

func pathExplain(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "explain HOST SUBSYSTEM NSID", Short: "Say why a host reaches a namespace where it does", Args: usageArgs(cobra.ExactArgs(3)),
		Long: "Say why a host reaches a namespace where it does. For the link of an initiator with a target, NSID is \"" + wholeTarget + "\".",
		RunE: func(c *cobra.Command, args []string) error {
			if args[2] == wholeTarget {
				args[2] = "0"
			}
			q := url.Values{"host": {args[0]}, "subsystem": {args[1]}, "nsid": {args[2]}}
			var x admin.PathExplanation
			if err := g.client().Do(c.Context(), "GET", "/v1/paths/explain?"+q.Encode(), nil, &x); err != nil {
				return err
			}
			if g.output != "json" {
				explain(c.OutOrStdout(), x)
			}
			return g.print(c.OutOrStdout(), x, "ACCESS-POINT STATE CONNECTED LOAD UP", func(row func(...any)) {
				for _, p := range x.Points {
					up := "up"
					if !p.Up {
						up = "down: " + p.Reason
					}
					if p.Draining {
						up = "draining, " + up
					}
					row(p.ID, p.State, p.Connected, p.Load, up)
				}
			})
		},
	}
}

// pointOf is an access point of a path, and whether it drains.
func pointOf(p admin.Path, id string) string {
	if slices.Contains(p.Draining, id) {
		return id + " (draining)"
	}
	return id
}

// wholeTarget is how the link of an initiator with a target is written where namespaces have a number.
const wholeTarget = "all"

func unit(nsid uint32) string {
	if nsid == 0 {
		return wholeTarget
	}
	return strconv.FormatUint(uint64(nsid), 10)
}

func explain(w io.Writer, x admin.PathExplanation) {
	fmt.Fprintf(w, "optimized at %s since %s: %s (%s)\n", pointOf(x.Path, x.Optimized), x.Since.Local().Format("2006-01-02 15:04:05"), x.Reason, x.Policy)
	fmt.Fprintf(w, "tenant %s chose policy %s; path epoch %d\n", x.Tenant, x.TenantPolicy, x.Epoch)
	switch {
	case x.Next == nil:
		fmt.Fprintln(w, "the host is not connected: nothing is decided before it is")
	case x.Next.Optimized == x.Optimized:
		fmt.Fprintf(w, "decided now, it would stay: %s\n", x.Next.Reason)
	default:
		fmt.Fprintf(w, "decided now, it would move to %s: %s\n", x.Next.Optimized, x.Next.Reason)
	}
}

func pathSimulate(g *globals) *cobra.Command {
	var in admin.PathWhatIf
	var all bool
	c := &cobra.Command{
		Use: "simulate", Short: "Say which paths would move, and where; nothing is changed", Args: usageArgs(cobra.NoArgs),
		Example: "  mooring path simulate -down nvme-tcp://10.0.0.1:4420\n  mooring path simulate -tenant acme -policy balance\n  mooring path simulate -rebalance",
		RunE: func(c *cobra.Command, _ []string) error {
			var out []admin.PathOutcome
			if err := g.client().Do(c.Context(), "POST", "/v1/paths/simulate", in, &out); err != nil {
				return err
			}
			if g.output == "json" {
				return g.print(c.OutOrStdout(), out, "", nil)
			}
			moves := 0
			for _, o := range out {
				if o.Moves {
					moves++
				}
			}
			fmt.Fprintf(c.OutOrStdout(), "%d of %d paths would move\n", moves, len(out))
			if moves == 0 && !all {
				return nil
			}
			return g.print(c.OutOrStdout(), out, "HOST SUBSYSTEM NSID NOW THEN NON-OPTIMIZED POLICY REASON", func(row func(...any)) {
				for _, o := range out {
					if o.Moves || all {
						row(o.Then.Host, o.Then.Subsystem, unit(o.Then.NSID), o.Now.Optimized, o.Then.Optimized, list(o.Then.NonOptimized), o.Then.Policy, o.Then.Reason)
					}
				}
			})
		},
	}
	c.Flags().StringSliceVar(&in.Down, "down", nil, "suppose that this `access point`, by ID or URL, is down (may be repeated)")
	c.Flags().StringVar(&in.Tenant, "tenant", "", "suppose that this tenant chooses -policy")
	c.Flags().StringVar(&in.Policy, "policy", "", "the policy that -tenant is supposed to choose")
	c.Flags().BoolVar(&in.Rebalance, "rebalance", false, "suppose that paths are evened out, as by: mooring path rebalance")
	c.Flags().BoolVar(&all, "all", false, "print also the paths that would stay")
	return c
}

func pathRebalance(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "rebalance", Short: "Even out paths over access points, moving them under I/O", Args: usageArgs(cobra.NoArgs),
		Long: "Have each tenant's policy put evenness before staying. See first what would move with: mooring path simulate -rebalance",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := g.client().Do(c.Context(), "POST", "/v1/paths/rebalance", nil, nil); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), struct{}{}, "paths are as even as the policies allow; see: mooring path list")
		},
	}
}

func pathWatch(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "watch", Short: "Show paths and access points, and then their changes as they happen", Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			w := c.OutOrStdout()
			return admin.Stream(c.Context(), g.client(), "GET", "/v1/paths/watch", func(e admin.PathEvent) error {
				if g.output == "json" {
					return json.NewEncoder(w).Encode(e)
				}
				_, err := fmt.Fprintf(w, "%s  %s\n", e.Time.Local().Format("15:04:05.000"), change(e))
				return err
			})
		},
	}
}

// change is one line of what path watch shows.
func change(e admin.PathEvent) string {
	switch a, p := e.AccessPoint, e.Path; {
	case a != nil && a.Up:
		return fmt.Sprintf("access point %s is up", a.ID)
	case a != nil:
		return fmt.Sprintf("access point %s is down: %s", a.ID, a.Reason)
	case p == nil:
		return "something that this version does not know"
	case e.From == "":
		return fmt.Sprintf("%s %s/%s is optimized at %s (%s: %s)", p.Host, p.Subsystem, unit(p.NSID), p.Optimized, p.Policy, p.Reason)
	default:
		return fmt.Sprintf("%s %s/%s moves from %s to %s (%s: %s), path epoch %d", p.Host, p.Subsystem, unit(p.NSID), e.From, p.Optimized, p.Policy, p.Reason, p.Epoch)
	}
}
