package agent

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/supervisor"
	"github.com/mooring-io/mooring/core/vfs"
	"github.com/mooring-io/mooring/sdk/proto"
)

// Validate says what is wrong with a file that only its plugins know: listeners that they do not serve, and their config
// blocks. Each plugin that the agent would run is asked who it is and what it says to its block, and nothing else is run. The error is a *config.Error; doubts are
// what could not be found out, and what the file relies on and does not have.
func Validate(ctx context.Context, c *config.Config) (doubts []string, err error) {
	doubts = c.Doubts()
	dir, err := os.MkdirTemp("", "mooring-validate-")
	if err != nil {
		return doubts, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// What was registered counts, but nothing is added to it.
	switch b, err := os.ReadFile(filepath.Join(c.DataDir, supervisor.CatalogFile)); {
	case err == nil:
		if err := vfs.ReplaceFile(filepath.Join(dir, supervisor.CatalogFile), b, 0o600); err != nil {
			return doubts, err
		}
	case !errors.Is(err, os.ErrNotExist):
		doubts = append(doubts, fmt.Sprintf("which plugins are registered is not known: %v", err))
	}
	s, err := supervisor.New(supervisor.Options{DataDir: dir, PluginDir: c.PluginDir})
	if err != nil {
		return doubts, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	var diags hcl.Diagnostics
	for _, p := range c.Plugins {
		d, err := s.Try(ctx, p.Name, p.Config, p.Range)
		var wrong *supervisor.ConfigError
		switch {
		case errors.Is(err, supervisor.ErrUnknown):
			continue // a doubt already
		case errors.As(err, &wrong):
			diags = append(diags, wrong.Diagnostics...)
		case err != nil:
			doubts = append(doubts, fmt.Sprintf("%s: plugin %s could not be asked what it serves: %v", p.Pos, p.Name, err))
			continue
		}
		diags = append(diags, checkListeners(p, d)...)
	}
	if diags.HasErrors() {
		return doubts, c.Wrong(diags)
	}
	return doubts, nil
}

// checkListeners finds the listeners that a plugin does not serve.
func checkListeners(p config.Plugin, d *proto.Description) (diags hcl.Diagnostics) {
	for i, l := range p.Listen {
		u, err := url.Parse(l)
		if err != nil || slices.Contains(d.ListenSchemes, u.Scheme) {
			continue
		}
		serves := "it listens nowhere"
		if len(d.ListenSchemes) > 0 {
			serves = "it serves " + strings.Join(d.ListenSchemes, "://, ") + "://"
		}
		diags = append(diags, &hcl.Diagnostic{
			Severity: hcl.DiagError, Summary: "Listener of another plugin",
			Detail: fmt.Sprintf("Plugin %s does not serve %s://; %s.", p.Name, u.Scheme, serves), Subject: &p.ListenAt[i],
		})
	}
	return diags
}
