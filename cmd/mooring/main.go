// Command mooring is the agent of a storage node and the tool to steer it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/sdk"
)

// version is set by the build.
var version = "dev"

// Exit codes. docs/cli.md lists them.
const (
	exitOK       = 0
	exitFailed   = 1 // what was asked for did not work
	exitUsage    = 2 // the command line or the configuration is wrong
	exitNotFound = 3 // an object that was named does not exist
	exitConflict = 4 // refused: it exists, is in use, or is managed by a file
	exitNoAgent  = 5 // no agent could be reached
	exitDegraded = 6 // status, doctor, check, reload: something is not as it should be
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// run executes one command line and maps its error to an exit code: the one place
// where that is done.
func run(ctx context.Context, args []string) int {
	root := newRoot()
	args = longFlags(args)
	root.SetArgs(args)
	c, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	var degraded *degradedError
	if !errors.As(err, &degraded) || degraded.text != "" {
		complain(os.Stderr, c, err, wantsJSON(args))
	}
	return exitCode(err)
}

func exitCode(err error) int {
	var refused *admin.Error
	var usage *usageError
	var degraded *degradedError
	var unreachable *admin.UnreachableError
	switch {
	case errors.As(err, &usage), errors.Is(err, sdk.ErrInvalid):
		return exitUsage
	case errors.As(err, &degraded):
		return exitDegraded
	case errors.As(err, &unreachable):
		return exitNoAgent
	case errors.As(err, &refused):
		switch refused.Kind {
		case admin.KindInvalid:
			return exitUsage
		case admin.KindNotFound:
			return exitNotFound
		case admin.KindExists, admin.KindInUse, admin.KindManaged, admin.KindConflict:
			return exitConflict
		}
	}
	return exitFailed
}

// usageError is a command line or file that is wrong.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// degradedError ends a command that worked and found something wrong.
type degradedError struct{ text string }

func (e *degradedError) Error() string { return e.text }

// longFlags lets long flags begin with one dash (-config), as Go's own do, beside two.
func longFlags(args []string) []string {
	out := make([]string, len(args))
	rest := false
	for i, a := range args {
		rest = rest || a == "--"
		if !rest && len(a) > 2 && a[0] == '-' && a[1] != '-' {
			number := a[1] == '.' || '0' <= a[1] && a[1] <= '9' // such as -1s
			if !number && a[2] != '=' {                         // -o=json is short already
				a = "-" + a
			}
		}
		out[i] = a
	}
	return out
}

// globals are the flags that every command has.
type globals struct {
	socket string
	output string
}

func (g *globals) client() *admin.Client { return admin.NewClient(g.socket) }

func newRoot() *cobra.Command {
	g := &globals{}
	root := &cobra.Command{
		Use:           "mooring",
		Short:         "Block storage over NVMe/TCP: the node's agent and the tool to steer it",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&g.socket, "socket", defaultSocket(), "the agent's control `socket` (MOORING_SOCKET)")
	root.PersistentFlags().StringVarP(&g.output, "output", "o", "table", "how to print: table or json")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if g.output != "table" && g.output != "json" {
			return &usageError{fmt.Errorf("-o must be table or json; it is %q", g.output)}
		}
		return nil
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &usageError{err}
	})
	root.AddCommand(
		agentCommand(g), volumeCommand(g), subsystemCommand(g), namespaceCommand(g), targetCommand(g), lunCommand(g), hostCommand(g), pluginCommand(g),
		storeCommand(g), scrubCommand(g), nodeCommand(g), clusterCommand(g), tenantCommand(g), pathCommand(g), eventsCommand(g), doctorCommand(g), statusCommand(g), benchCommand(g), checkCommand(g), metaCommand(g),
	)
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	group(root)
	for _, c := range root.Commands() {
		if c.HasSubCommands() && !c.Runnable() {
			group(c)
		}
		if c.Name() == "help" {
			c.Args = func(_ *cobra.Command, args []string) error {
				of, rest, err := root.Find(args)
				if err == nil && len(rest) > 0 {
					err = of.Args(of, rest)
				}
				if err != nil {
					return &usageError{err}
				}
				return nil
			}
		}
		c.Args = usageArgs(c.Args)
	}
	completeNames(root, g)
	return root
}

// group makes an unknown command below c a usage error; without any, c prints its help.
func group(c *cobra.Command) {
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		if s := c.SuggestionsFor(args[0]); len(s) > 0 {
			return &usageError{fmt.Errorf("there is no command %q in %s; did you mean %s?", args[0], c.CommandPath(), strings.Join(s, " or "))}
		}
		return &usageError{fmt.Errorf("there is no command %q in %s", args[0], c.CommandPath())}
	}
	c.SuggestionsMinimumDistance = 2
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
}

// usageArgs makes a wrong number of arguments a usage error.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if check == nil {
			return nil
		}
		err := check(c, args)
		if usage := new(usageError); errors.As(err, &usage) {
			return err
		}
		if err != nil {
			return &usageError{fmt.Errorf("%w; usage: %s", err, c.UseLine())}
		}
		return nil
	}
}

// defaultSocket is where the agent of this folder, or of this machine, listens.
func defaultSocket() string {
	if s := os.Getenv("MOORING_SOCKET"); s != "" {
		return s
	}
	for _, s := range []string{"data/mooring.sock", "/var/lib/mooring/mooring.sock"} {
		if _, err := os.Stat(s); err == nil {
			return s
		}
	}
	return "/var/lib/mooring/mooring.sock"
}
