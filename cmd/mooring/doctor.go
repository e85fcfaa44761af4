package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
)

func doctorCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "doctor", Short: "Look for what is wrong or slow here, and say how to mend it",
		RunE: func(c *cobra.Command, _ []string) error {
			var fs []admin.Finding
			if err := g.client().Do(c.Context(), "GET", "/v1/doctor", nil, &fs); err != nil {
				return err
			}
			return g.findings(c.OutOrStdout(), fs)
		},
	}
	run := c.RunE
	c.AddCommand(doctorRDMACommand(g))
	group(c) // an unknown command below it is a usage error
	c.RunE = run
	return c
}

// findings prints what was found; an error among it is told by the exit code.
func (g *globals) findings(w io.Writer, fs []admin.Finding) error {
	worst := 0
	for _, f := range fs {
		if f.Level == "error" {
			worst++
		}
		if g.output != "json" {
			fmt.Fprintf(w, "%-6s %s\n", f.Level, f.What)
			if f.Fix != "" {
				fmt.Fprintf(w, "       → %s\n", f.Fix)
			}
		}
	}
	if g.output == "json" {
		if err := g.print(w, fs, "", nil); err != nil {
			return err
		}
	}
	if worst > 0 {
		return &degradedError{}
	}
	return nil
}
