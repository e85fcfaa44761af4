package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
)

func hostCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "host", Short: "Say which hosts may connect and what they see", Aliases: []string{"hosts"}}
	c.AddCommand(hostRule(g, "allow", "Let a host connect to a subsystem, or see one namespace"),
		hostRule(g, "deny", "Take that back; a connected host is disconnected"), hostList(g))
	return c
}

func hostRule(g *globals, verb, short string) *cobra.Command {
	var in admin.HostRule
	c := &cobra.Command{
		Use: verb + " SUBSYSTEM HOST", Short: short, Args: usageArgs(cobra.ExactArgs(2)),
		Long:    short + ".\n\nSUBSYSTEM is the NQN of a subsystem, or the IQN of an iSCSI target.\nHOST is an NQN (a Linux host has its own in /etc/nvme/hostnqn) or an IQN\n(/etc/iscsi/initiatorname.iscsi), the name of a host block of the configuration, or\n\"any\" for every host.",
		Example: "  mooring host " + verb + " nqn.2026-11.com.example:db nqn.2014-08.org.nvmexpress:uuid:4c4c4544-0033-4710-8051-b4c04f4d3132",
		RunE: func(c *cobra.Command, args []string) error {
			in.Subsystem, in.Host = args[0], args[1]
			existed, err := g.client().Create(c.Context(), "/v1/hosts/"+verb, in, nil)
			if err != nil {
				return err
			}
			what, can := "subsystem "+in.Subsystem, map[string]string{"allow": "may connect to", "deny": "may no longer connect to"}
			if in.NSID != 0 {
				what, can = fmt.Sprintf("namespace %d of %s", in.NSID, in.Subsystem), map[string]string{"allow": "sees", "deny": "no longer sees"}
			}
			return g.done(c.OutOrStdout(), in, "host %s %s %s%s", in.Host, can[verb], what, already(existed))
		},
	}
	c.Flags().Uint32Var(&in.NSID, "nsid", 0, "one namespace's visibility instead of the whole subsystem; of a target, the LUN and one")
	return c
}

func hostList(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the hosts that are connected", Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			var hs []admin.Session
			if err := g.client().Do(c.Context(), "GET", "/v1/hosts", nil, &hs); err != nil {
				return err
			}
			return g.print(c.OutOrStdout(), hs, "HOST SUBSYSTEM CONTROLLER PEER ACCESS-POINT SINCE", func(row func(...any)) {
				for _, h := range hs {
					row(h.Host, h.Subsystem, h.ControllerID, h.Peer, h.AccessPoint, h.Since.Format("2006-01-02 15:04:05"))
				}
			})
		},
	}
}
