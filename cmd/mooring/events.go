package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
)

func eventsCommand(g *globals) *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use: "events", Short: "Print what happened: objects, hosts, plugins, paths", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			path := "/v1/events"
			if follow {
				path += "?follow=1"
			}
			w := c.OutOrStdout()
			return admin.Stream(c.Context(), g.client(), "GET", path, func(e admin.Event) error {
				if g.output == "json" {
					return json.NewEncoder(w).Encode(e)
				}
				_, err := fmt.Fprintf(w, "%s  %-12s %s  %s\n", e.Time.Local().Format("2006-01-02 15:04:05.000"), e.Kind, e.Object, e.Text)
				return err
			})
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	return c
}
