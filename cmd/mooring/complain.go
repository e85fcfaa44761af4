package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/admin"
)

// complaint is an error as -o json prints it, on standard error.
type complaint struct {
	Error string   `json:"error"`
	Kind  string   `json:"kind"`            // of admin.Problem, or usage, no_agent, degraded, failed
	Fix   string   `json:"fix,omitempty"`   // what to do, where that is not in the text
	Users []string `json:"users,omitempty"` // of what is in use
	Exit  int      `json:"exit"`
}

// complain tells what went wrong in c, and what to do about it.
func complain(w io.Writer, c *cobra.Command, err error, asJSON bool) {
	p := complaint{Error: err.Error(), Kind: "failed", Exit: exitCode(err)}
	var refused *admin.Error
	switch {
	case errors.As(err, &refused):
		p.Kind, p.Users = refused.Kind, refused.Users
	case p.Exit == exitUsage:
		p.Kind = "usage"
	case p.Exit == exitNoAgent:
		p.Kind = "no_agent"
	case p.Exit == exitDegraded:
		p.Kind = "degraded"
	}
	p.Fix = fix(c, p.Kind, p.Error)
	if asJSON {
		_ = json.NewEncoder(w).Encode(p) // nobody is left to tell
		return
	}
	fmt.Fprintln(w, "mooring:", p.Error)
	if p.Fix != "" {
		fmt.Fprintln(w, "  →", p.Fix)
	}
}

// fix says what to do about an error of this kind, unless its text does.
func fix(c *cobra.Command, kind, text string) string {
	switch kind {
	case "usage", admin.KindInvalid:
		return c.CommandPath() + " -help"
	case admin.KindNotFound:
		// What does not exist may be of another kind than what the command is about.
		object, _, _ := strings.Cut(text, " ")
		for _, group := range c.Root().Commands() {
			if group.Name() == object && lists(group) != "" {
				return lists(group)
			}
		}
		if parent := c.Parent(); parent != nil {
			return lists(parent)
		}
	case admin.KindFull:
		return "free space on that file system, or delete volumes; what could not be done can be tried again at once"
	case admin.KindInUse:
		if parent := c.Parent(); parent != nil && (parent.Name() == "volume" || parent.Name() == "subsystem") {
			return "mooring namespace detach SUBSYSTEM NSID takes a namespace away from its hosts; the data stays"
		}
	}
	return ""
}

// lists names the command that lists the objects of a group, if it has one.
func lists(group *cobra.Command) string {
	for _, c := range group.Commands() {
		if c.Name() == "list" {
			return c.CommandPath() + " shows those there are"
		}
	}
	return ""
}

// wantsJSON looks for -o json, also where the command line could not be understood.
func wantsJSON(args []string) bool {
	for i, a := range args {
		switch a {
		case "--":
			return false
		case "-o", "--output":
			return i+1 < len(args) && args[i+1] == "json"
		}
		if name, value, ok := strings.Cut(a, "="); ok && value == "json" && (name == "-o" || name == "--output") {
			return true
		}
	}
	return false
}
