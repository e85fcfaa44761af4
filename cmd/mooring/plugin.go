package main

import (
	"fmt"
	"net/url"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
)

func pluginCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "plugin", Short: "Register, list, restart and remove plugins, and read their logs", Aliases: []string{"plugins"}}
	c.AddCommand(pluginAdd(g), pluginList(g), pluginLogs(g), pluginRestart(g), pluginRemove(g))
	return c
}

func pluginPath(name string) string { return "/v1/plugins/" + url.PathEscape(name) }

func pluginAdd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "add FILE", Short: "Register a plugin's file, with its SHA-256, in the catalog", Args: usageArgs(cobra.ExactArgs(1)),
		Long: "Register a plugin's file in the catalog. The agent starts only files whose SHA-256 is the registered one;\nafter a rebuild, add the file again and restart the plugin.",
		RunE: func(c *cobra.Command, args []string) error {
			path, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			var p admin.Plugin
			existed, err := g.client().Create(c.Context(), "/v1/plugins", admin.PluginAdd{Path: path}, &p)
			if err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), p, "plugin %s registered%s, sha256 %s", p.Name, already(existed), p.SHA256)
		},
	}
}

func pluginList(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List plugins", Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			var ps []admin.Plugin
			if err := g.client().Do(c.Context(), "GET", "/v1/plugins", nil, &ps); err != nil {
				return err
			}
			return g.print(c.OutOrStdout(), ps, "NAME KIND VERSION STATE PID RESTARTS PATH REASON", func(row func(...any)) {
				for _, p := range ps {
					row(p.Name, p.Kind, p.Version, p.State, p.PID, p.Restarts, p.Path, p.Reason)
				}
			})
		},
	}
}

func pluginLogs(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "logs NAME", Short: "Print what a plugin logged last", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			var lines []string
			if err := g.client().Do(c.Context(), "GET", pluginPath(args[0])+"/logs", nil, &lines); err != nil {
				return err
			}
			if g.output == "json" {
				return g.print(c.OutOrStdout(), lines, "", nil)
			}
			for _, l := range lines {
				fmt.Fprintln(c.OutOrStdout(), l)
			}
			return nil
		},
	}
}

func pluginRestart(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "restart NAME", Short: "Restart a plugin; its hosts reconnect", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := g.client().Do(c.Context(), "POST", pluginPath(args[0])+"/restart", nil, nil); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), struct{}{}, "plugin %s restarted", args[0])
		},
	}
}

func pluginRemove(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Take a plugin out of the catalog; its file stays", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := g.client().Do(c.Context(), "DELETE", pluginPath(args[0]), nil, nil); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), struct{}{}, "plugin %s removed from the catalog", args[0])
		},
	}
}
