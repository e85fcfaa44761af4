package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
)

func targetCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "target", Short: "Create, list, show and delete iSCSI targets", Aliases: []string{"targets"}}
	c.AddCommand(targetCreate(g), targetList(g), targetShow(g), targetCHAP(g), targetDelete(g))
	return c
}

func targetPath(iqn string) string { return "/v1/targets/" + url.PathEscape(iqn) }

func targetCreate(g *globals) *cobra.Command {
	var in admin.TargetCreate
	c := &cobra.Command{
		Use: "create IQN", Short: "Create a target", Args: usageArgs(cobra.ExactArgs(1)),
		Example: "  mooring target create iqn.2026-11.com.example:db",
		RunE: func(c *cobra.Command, args []string) error {
			in.IQN = args[0]
			var t admin.Target
			existed, err := g.client().Create(c.Context(), "/v1/targets", in, &t)
			if err != nil {
				return err
			}
			return g.made(c.OutOrStdout(), existed, t, "target "+t.IQN, "created; allow initiators with: mooring host allow %s INITIATOR_IQN", t.IQN)
		},
	}
	c.Flags().BoolVar(&in.AllowAnyHost, "allow-any-host", false, "let every initiator log in")
	c.Flags().StringVar(&in.Tenant, "tenant", "", "owner")
	return c
}

func targetHosts(t admin.Target) string {
	if t.AllowAnyHost {
		return "any"
	}
	return list(t.Hosts)
}

func targetProof(t admin.Target) string {
	switch {
	case t.CHAP == nil:
		return "none"
	case t.CHAP.Mutual:
		return "mutual CHAP"
	}
	return "CHAP"
}

func targetList(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List targets", Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			var ts []admin.Target
			if err := g.client().Do(c.Context(), "GET", "/v1/targets", nil, &ts); err != nil {
				return err
			}
			return g.print(c.OutOrStdout(), ts, "IQN LUNS INITIATORS PROOF MANAGED", func(row func(...any)) {
				for _, t := range ts {
					row(t.IQN, len(t.LUNs), targetHosts(t), targetProof(t), t.Managed)
				}
			})
		},
	}
}

func targetShow(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show IQN", Short: "Show one target", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			var t admin.Target
			if err := g.client().Do(c.Context(), "GET", targetPath(args[0]), nil, &t); err != nil {
				return err
			}
			return g.print(c.OutOrStdout(), t, "FIELD VALUE", func(row func(...any)) {
				row("iqn", t.IQN)
				row("tenant", t.Tenant)
				row("mode", t.Mode)
				row("initiators", targetHosts(t))
				row("proof", targetProof(t))
				if t.CHAP != nil && t.CHAP.User != "" {
					row("CHAP user", t.CHAP.User)
				}
				row("managed by", t.Managed)
				for _, n := range t.LUNs {
					row(fmt.Sprintf("LUN %d", n.LUN), n.Volume+" "+size(n.Size)+" "+n.UUID)
				}
			})
		},
	}
}

func targetCHAP(g *globals) *cobra.Command {
	var in admin.TargetCHAP
	var file, mutualFile string
	var off bool
	c := &cobra.Command{
		Use: "chap IQN", Short: "Have initiators of a target prove who they are", Args: usageArgs(cobra.ExactArgs(1)),
		Long: `Have initiators of a target prove who they are by CHAP: with a secret that they share
with the target, and with -mutual-secret-file the target likewise, with another one.
A secret has 12 to 255 bytes. It is read from a file, or from standard input with "-", so
that it is in no list of processes; it is in no listing either. Sessions that are there stay.`,
		Example: "  mooring target chap iqn.2026-11.com.example:db -user db1 -secret-file /root/db.secret\n  mooring target chap iqn.2026-11.com.example:db -off",
		RunE: func(c *cobra.Command, args []string) error {
			if off == (file != "") {
				return &usageError{errors.New("give -secret-file FILE, or -off")}
			}
			if off && (in.User != "" || in.MutualUser != "" || mutualFile != "") {
				return &usageError{errors.New("-off stands alone")}
			}
			var err error
			if !off {
				if in.Secret, err = secretFrom(c, file); err != nil {
					return err
				}
				if in.MutualSecret, err = secretFrom(c, mutualFile); err != nil {
					return err
				}
			}
			if err := g.client().Do(c.Context(), "PUT", targetPath(args[0])+"/chap", in, nil); err != nil {
				return err
			}
			if off {
				return g.done(c.OutOrStdout(), struct{}{}, "initiators of %s need not prove who they are any more", args[0])
			}
			return g.done(c.OutOrStdout(), struct{}{}, "initiators of %s must prove who they are from now on", args[0])
		},
	}
	c.Flags().StringVar(&in.User, "user", "", "the `name` that initiators give; without, each its own IQN")
	c.Flags().StringVar(&file, "secret-file", "", "`file` with the secret that initiators prove to know")
	c.Flags().StringVar(&in.MutualUser, "mutual-user", "", "the `name` that the target gives; without, its IQN")
	c.Flags().StringVar(&mutualFile, "mutual-secret-file", "", "`file` with the secret that the target proves to know")
	c.Flags().BoolVar(&off, "off", false, "ask for no proof any more")
	return c
}

// secretFrom reads a secret, without the end of its line; "" of no file.
func secretFrom(c *cobra.Command, file string) (string, error) {
	if file == "" {
		return "", nil
	}
	var b []byte
	var err error
	if file == "-" {
		b, err = io.ReadAll(io.LimitReader(c.InOrStdin(), 4096))
	} else {
		b, err = os.ReadFile(file)
	}
	if err != nil {
		return "", &usageError{fmt.Errorf("read the secret: %w", err)}
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

func targetDelete(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "delete IQN", Short: "Delete a target without logical units", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := g.client().Do(c.Context(), "DELETE", targetPath(args[0]), nil, nil); err != nil {
				return err
			}
			return g.done(c.OutOrStdout(), struct{}{}, "target %s deleted", args[0])
		},
	}
}
