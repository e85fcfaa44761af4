package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/agent"
	"github.com/mooring-io/mooring/core/config"
)

func agentCommand(g *globals) *cobra.Command {
	var o agent.Options
	var file string
	c := &cobra.Command{
		Use: "agent", Short: "Run this node", Args: cobra.NoArgs,
		Long: `Run this node until SIGINT or SIGTERM. SIGHUP reloads the configuration.

With -dev: temporary data (unless -data-dir is given), one volume of 1 GiB for any
host, as namespace 1 of nqn.2026-11.io.mooring:dev on 127.0.0.1:4420 and as LUN 0 of
iqn.2026-11.io.mooring:dev on 127.0.0.1:3260. With -listen, there instead: at an
nvme-tcp:// address, an iscsi:// address, or several. A port that another program
has is said so; the others are served.`,
		Example: "  mooring agent -config config.hcl\n  mooring agent -dev -listen nvme-tcp://127.0.0.1:14420 -listen iscsi://127.0.0.1:13260",
		RunE: func(c *cobra.Command, _ []string) error {
			if (file == "") != o.Dev {
				return &usageError{errors.New("give -config FILE, or -dev for a node to try things with")}
			}
			if !o.Dev && (len(o.Listen) > 0 || o.DataDir != "") {
				return &usageError{errors.New("-listen and -data-dir go with -dev; with -config they are set in the file")}
			}
			for _, l := range o.Listen {
				if err := config.CheckListen(l); err != nil {
					return &usageError{fmt.Errorf("-listen: %w", err)}
				}
			}
			if o.Witness && o.Dev {
				return &usageError{errors.New("-witness goes with -config")}
			}
			if file != "" {
				cfg, err := config.Load(file)
				if err != nil {
					return &usageError{err}
				}
				o.Config = cfg
			}
			o.Version = version
			o.Stdout = c.OutOrStdout()
			o.Stderr = c.ErrOrStderr()
			if c.Flags().Changed("socket") {
				o.Socket = g.socket
			}
			return agent.Run(c.Context(), o)
		},
	}
	c.Flags().StringVar(&file, "config", "", "the node's HCL `file`")
	c.Flags().BoolVar(&o.Dev, "dev", false, "a node to try things with")
	c.Flags().BoolVar(&o.Witness, "witness", false, "only vote in the cluster's etcd: for a third machine beside two storage nodes")
	c.Flags().StringVar(&o.DataDir, "data-dir", "", "with -dev: keep the data in this `folder`")
	c.Flags().StringSliceVar(&o.Listen, "listen", nil, "with -dev: listen at this `URL` (may be repeated)")
	c.Flags().BoolVar(&o.TrustPlugins, "trust-plugins", false, "run plugins of the plugin directory that changed since they were registered (-dev does)")
	c.Flags().StringVar(&o.LogLevel, "log-level", "", "trace, debug, info, warn or error; overrides the file")
	c.AddCommand(agentReload(g), agentValidate(g))
	return c
}

func agentReload(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "reload", Short: "Have the agent read its configuration again", Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			var r admin.ReloadReport
			if err := g.client().Do(c.Context(), "POST", "/v1/reload", nil, &r); err != nil {
				return err
			}
			var missed error
			if len(r.NotApplied) > 0 {
				missed = &degradedError{}
			}
			if g.output == "json" {
				return errors.Join(g.print(c.OutOrStdout(), r, "", nil), missed)
			}
			w := c.OutOrStdout()
			for _, s := range r.Applied {
				fmt.Fprintln(w, "applied:", s)
			}
			for _, s := range r.Unmanaged {
				fmt.Fprintln(w, "unmanaged from now on:", s)
			}
			for _, s := range r.NotApplied {
				fmt.Fprintln(w, "not applied:", s)
			}
			fmt.Fprintf(w, "%d objects unchanged\n", r.Unchanged)
			return missed
		},
	}
}

// validity is what there is to say of a valid file.
type validity struct {
	File     string   `json:"file"`
	Warnings []string `json:"warnings"`
}

func agentValidate(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "validate FILE", Short: "Check a configuration file without running it", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := config.Load(args[0])
			if err != nil {
				return &usageError{err}
			}
			doubts, err := agent.Validate(c.Context(), cfg)
			if err != nil {
				return err
			}
			if g.output == "json" {
				return g.print(c.OutOrStdout(), validity{args[0], append([]string{}, doubts...)}, "", nil)
			}
			for _, d := range doubts {
				fmt.Fprintln(c.ErrOrStderr(), "warning:", d)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s is valid\n", args[0])
			return err
		},
	}
}
