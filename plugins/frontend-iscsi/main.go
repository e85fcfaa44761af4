// Command frontend-iscsi is the plugin that serves volumes over iSCSI: the sessions of
// internal/portal on the SCSI device server of internal/device. It owns nothing but their wiring.
package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/mooring-io/mooring/plugins/frontend-iscsi/internal/device"
	"github.com/mooring-io/mooring/plugins/frontend-iscsi/internal/portal"
	"github.com/mooring-io/mooring/sdk"
)

// version is the plugin's own, semantic; revision is what initiators see of it, 4 characters.
const (
	version  = "0.1.0"
	revision = "0.1"
)

func main() { sdk.Serve(&plugin{cfg: portal.DefaultConfig()}) }

// plugin implements sdk.DataPlugin and sdk.HealthReporter.
type plugin struct {
	mu     sync.Mutex
	cfg    portal.Config  // guarded by mu
	portal *portal.Portal // nil before Start; guarded by mu

	cancel context.CancelFunc // ends the device server
	ended  chan struct{}      // closed when the device server has ended
}

// Describe is part of sdk.Plugin.
func (p *plugin) Describe() sdk.Description {
	return sdk.Description{
		Name: "frontend-iscsi", Version: version, Schema: portal.Schema(), ListenSchemes: []string{portal.Scheme},
	}
}

// Configure is part of sdk.Plugin.
func (p *plugin) Configure(config []byte) error {
	cfg, err := portal.ParseConfig(config)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cfg = cfg
	if p.portal != nil {
		p.portal.Configure(cfg)
	}
	return nil
}

// Start is part of sdk.DataPlugin.
func (p *plugin) Start(ctx context.Context, env *sdk.Env) error {
	p.mu.Lock()
	server := device.NewServer(device.Options{Core: env.Core, Logger: env.Logger, Revision: revision})
	p.portal = portal.New(server, env.Threads, p.cfg, env.Logger)
	life, cancel := context.WithCancel(context.Background())
	p.cancel, p.ended = cancel, make(chan struct{})
	p.mu.Unlock()
	go func() {
		defer close(p.ended)
		if err := server.Run(life); !errors.Is(err, context.Canceled) {
			env.Fatal(fmt.Errorf("SCSI device server: %w", err))
		}
	}()
	if !server.Ready(ctx) {
		env.Logger.Warn("the core has not said yet what is exported, hosts must try again")
	}
	return nil
}

// SetListeners is part of sdk.DataPlugin.
func (p *plugin) SetListeners(ctx context.Context, listeners []sdk.Listener) []sdk.ListenerState {
	return p.running().SetListeners(ctx, listeners)
}

// Stop is part of sdk.DataPlugin.
func (p *plugin) Stop(ctx context.Context) error {
	err := p.running().Stop(ctx)
	p.cancel()
	select {
	case <-p.ended:
	case <-ctx.Done():
		err = errors.Join(err, fmt.Errorf("end the device server: %w", ctx.Err()))
	}
	return err
}

// Health is part of sdk.HealthReporter.
func (p *plugin) Health() sdk.Health {
	if t := p.running(); t != nil {
		return t.Health()
	}
	return sdk.Health{}
}

func (p *plugin) running() *portal.Portal {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.portal
}
