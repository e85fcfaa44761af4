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
// blocks. Each plugin that the agent would run is asked who it is, and nothing else is run. The error is a *config.Error; doubts are
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
		d, err := s.Describe(ctx, p.Name)
		if errors.Is(err, supervisor.ErrUnknown) {
			continue // a doubt already
		}
		if err != nil {
			doubts = append(doubts, fmt.Sprintf("%s: plugin %s could not be asked what it serves: %v", p.Pos, p.Name, err))
			continue
		}
		diags = append(diags, checkPlugin(p, d)...)
	}
	if diags.HasErrors() {
		return doubts, c.Wrong(diags)
	}
	return doubts, nil
}

// checkPlugin compares a plugin block with what the plugin says of itself.
func checkPlugin(p config.Plugin, d *proto.Description) (diags hcl.Diagnostics) {
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
	_, wrong := supervisor.DecodeConfig(p.Config, d.Schema)
	for _, w := range wrong {
		if p.Config == nil { // what is missing has no place of its own
			w.Subject = &p.Range
		}
		diags = append(diags, w)
	}
	return diags
}
