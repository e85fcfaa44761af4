package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/agent"
	"github.com/mooring-io/mooring/core/cluster"
	"github.com/mooring-io/mooring/core/config"
)

func clusterCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "cluster", Short: "Form a cluster of nodes and see how it fares"}
	c.AddCommand(clusterInit(g), clusterToken(g), clusterJoin(g), clusterStatus(g), clusterCert(g))
	return c
}

// clusterConfig reads the file of a node that is to be in a cluster.
func clusterConfig(file string) (*config.Config, error) {
	if file == "" {
		return nil, &usageError{errors.New("name the node's configuration: -config FILE")}
	}
	cfg, err := config.Load(file)
	if err != nil {
		return nil, &usageError{err}
	}
	if cfg.Cluster == nil {
		return nil, &usageError{fmt.Errorf("%s has no cluster block; the smallest is: cluster { embed = true }, with an address in the node block", file)}
	}
	return cfg, nil
}

func clusterInit(g *globals) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "init", Short: "Make a stopped node the first one of a cluster", Args: usageArgs(cobra.NoArgs),
		Long: `Make a node, new or with volumes, the first one of a cluster. The agent must be stopped.
The metadata moves from the data directory into etcd; volumes, hosts and everything else
stay as they are. If it is interrupted, run it again: until its last step the node is on
its own as before, and after it the node is in its cluster.`,
		Example: "  mooring cluster init -config /etc/mooring/config.hcl",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := clusterConfig(file)
			if err != nil {
				return err
			}
			done, err := agent.InitCluster(c.Context(), cfg, func(s string) { fmt.Fprintln(c.ErrOrStderr(), s) })
			if err != nil {
				return fmt.Errorf("make the cluster: %w", err)
			}
			text := "node %s is the first one of a cluster. Start its agent (mooring agent -config %s); then, for every other node: mooring cluster token"
			if done {
				text = "node %s is in its cluster already; nothing was left to do (mooring agent -config %s)"
			}
			return g.done(c.OutOrStdout(), map[string]bool{"already": done}, text, cfg.Node.Name, file)
		},
	}
	c.Flags().StringVar(&file, "config", "", "the node's HCL `file` (required)")
	return c
}

func clusterToken(g *globals) *cobra.Command {
	in := admin.TokenCreate{}
	c := &cobra.Command{
		Use: "token", Short: "Make a one-time word by which a node can join", Args: usageArgs(cobra.NoArgs),
		Long: `Make a one-time word by which one node can join. Whoever has it can join until it is
used or expires: hand it on as you would a password.`,
		RunE: func(c *cobra.Command, _ []string) error {
			var t admin.Token
			if err := g.client().Do(c.Context(), "POST", "/v1/cluster/tokens", in, &t); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), t, "%s", t.Token)
		},
	}
	c.Flags().DurationVar(&in.Life, "life", time.Hour, "how long it can be used, at most 24h")
	return c
}

func clusterJoin(g *globals) *cobra.Command {
	var file string
	var witness bool
	c := &cobra.Command{
		Use: "join TOKEN", Short: "Have a new node join a cluster", Args: usageArgs(cobra.ExactArgs(1)),
		Long: `Have a new node join a cluster, with a token of "mooring cluster token"; "-" reads it from
standard input. The agent must be stopped and its data directory empty. If it is
interrupted, run it again with the same token.`,
		Example: "  mooring cluster join -config /etc/mooring/config.hcl mooring-join-1.eyJ…",
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := clusterConfig(file)
			if err != nil {
				return err
			}
			word := args[0]
			if word == "-" {
				b, err := io.ReadAll(io.LimitReader(c.InOrStdin(), 1<<16))
				if err != nil {
					return err
				}
				word = string(b)
			}
			t, err := cluster.ParseToken(word)
			if err != nil {
				return &usageError{fmt.Errorf("the token: %w", err)}
			}
			note, err := agent.JoinCluster(c.Context(), cfg, t, witness)
			if err != nil {
				return fmt.Errorf("join the cluster: %w", err)
			}
			if note != "" {
				fmt.Fprintln(c.ErrOrStderr(), "note:", note)
			}
			as := ""
			if witness {
				as = " -witness"
			}
			return g.done(c.OutOrStdout(), map[string]string{"note": note}, "node %s has joined. Start its agent: mooring agent%s -config %s", cfg.Node.Name, as, file)
		},
	}
	c.Flags().StringVar(&file, "config", "", "the node's HCL `file` (required)")
	c.Flags().BoolVar(&witness, "witness", false, "join as a node that only votes")
	return c
}

func clusterStatus(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show the members of the cluster's etcd and how they fare", Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			var s admin.Cluster
			if err := g.client().Do(c.Context(), "GET", "/v1/cluster", nil, &s); err != nil {
				return err
			}
			err := g.print(c.OutOrStdout(), s, "MEMBER ROLE DATABASE STATE CLIENTS", func(row func(...any)) {
				for _, m := range s.Members {
					db := size(m.Database)
					if m.Quota > 0 {
						db += " of " + size(m.Quota)
					}
					state := "ok"
					if m.Trouble != "" {
						state = m.Trouble
					}
					row(m.Name, memberRole(m), db, state, m.Client)
				}
			})
			if err != nil {
				return err
			}
			if g.output != "json" {
				for _, w := range s.Warnings {
					fmt.Fprintln(c.OutOrStdout(), "warning:", w)
				}
			}
			if len(s.Warnings) > 0 {
				return &degradedError{}
			}
			return nil
		},
	}
}

func memberRole(m admin.Member) string {
	switch {
	case m.Leads:
		return "leads"
	case m.Votes:
		return "votes"
	}
	return "follows"
}

func clusterCert(g *globals) *cobra.Command {
	var renew bool
	c := &cobra.Command{
		Use: "cert", Short: "Show or renew the certificate by which other nodes know this one", Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			method := "GET"
			if renew {
				method = "POST"
			}
			var s admin.Certificate
			if err := g.client().Do(c.Context(), method, "/v1/cluster/certificate", nil, &s); err != nil {
				return err
			}
			ca := "on another node"
			if s.HasAuthority {
				ca = "on this node"
			}
			due := "renewed by itself when a third of its time is left"
			if s.Due {
				due = "due for renewal"
			}
			return g.done(c.OutOrStdout(), s, "node         %s\nserial       %s\nvalid        %s to %s, %s\nCA           %s\nkey of CA    %s",
				s.Node, s.Serial, s.NotBefore.Format(time.RFC3339), s.NotAfter.Format(time.RFC3339), due, strings.Join(s.Authorities, ", "), ca)
		},
	}
	c.Flags().BoolVar(&renew, "renew", false, "have a node with the CA's key renew it now")
	return c
}
