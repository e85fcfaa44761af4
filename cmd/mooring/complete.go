package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// completeTimeout bounds how long a shell waits for names.
const completeTimeout = 2 * time.Second

// completeNames has the shell complete the names of objects that exist, by what the usage
// lines call them. What is to be made has no name yet.
func completeNames(root *cobra.Command, g *globals) {
	for _, c := range root.Commands() {
		completeNames(c, g)
		words := strings.Fields(c.Use)[1:]
		if len(words) > 0 && c.ValidArgsFunction == nil {
			c.ValidArgsFunction = func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
				if len(args) >= len(words) {
					return nil, cobra.ShellCompDirectiveNoFileComp
				}
				switch word := strings.Trim(words[len(args)], "[]"); {
				case word == "FILE" || word == "PATH":
					return nil, cobra.ShellCompDirectiveDefault
				case c.Name() == "create" || c.Name() == "add":
					return nil, cobra.ShellCompDirectiveNoFileComp
				case word == "TARGET" || word == "IQN":
					return g.names(c.Context(), "targets")
				case word == "SUBSYSTEM" || word == "NQN":
					return g.names(c.Context(), "subsystems")
				case word == "NAME":
					return g.names(c.Context(), c.Parent().Name()+"s")
				}
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
		}
		for _, flag := range []string{"tenant", "volume"} {
			if c.Flags().Lookup(flag) != nil {
				// It fails only for flags that are not there.
				_ = c.RegisterFlagCompletionFunc(flag, func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
					return g.names(c.Context(), flag+"s")
				})
			}
		}
	}
}

// names asks the agent for the names of all objects of a kind; without an agent there are none.
func (g *globals) names(ctx context.Context, kind string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(ctx, completeTimeout)
	defer cancel()
	var objects []struct {
		Name string `json:"name"`
		NQN  string `json:"nqn"`
		IQN  string `json:"iqn"`
	}
	if g.client().Do(ctx, "GET", "/v1/"+kind, nil, &objects) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, o := range objects {
		switch kind {
		case "subsystems":
			o.Name = o.NQN
		case "targets":
			o.Name = o.IQN
		}
		out = append(out, o.Name)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
