// Command transport-tcp is the plugin that serves volumes over NVMe/TCP: the transport of
// internal/transport under the NVMe-oF front end of sdk/nvmf. It owns nothing but their wiring.
package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/mooring-io/mooring/plugins/transport-tcp/internal/transport"
	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/nvmf"
)

// version is the plugin's own, semantic.
const version = "0.1.0"

func main() { sdk.Serve(&plugin{cfg: transport.DefaultConfig()}) }

// plugin implements sdk.DataPlugin and sdk.HealthReporter.
type plugin struct {
	mu        sync.Mutex
	cfg       transport.Config     // guarded by mu
	transport *transport.Transport // nil before Start; guarded by mu

	cancel context.CancelFunc // ends the target
	ended  chan struct{}      // closed when the target has ended
}

// Describe is part of sdk.Plugin.
func (p *plugin) Describe() sdk.Description {
	return sdk.Description{
		Name: "transport-tcp", Version: version, Schema: transport.Schema(), ListenSchemes: []string{transport.Scheme},
	}
}

// Configure is part of sdk.Plugin.
func (p *plugin) Configure(config []byte) error {
	cfg, err := transport.ParseConfig(config)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cfg = cfg
	if p.transport == nil {
		return nil
	}
	return p.transport.Configure(cfg)
}

// Start is part of sdk.DataPlugin.
func (p *plugin) Start(ctx context.Context, env *sdk.Env) error {
	p.mu.Lock()
	target := nvmf.NewTarget(nvmf.Options{
		Core: env.Core, Logger: env.Logger, Firmware: version,
		Limits: nvmf.Limits{Queues: p.cfg.MaxIOQueues, QueueEntries: p.cfg.QueueDepth},
	})
	p.transport = transport.New(target, env.Threads, p.cfg, env.Logger)
	life, cancel := context.WithCancel(context.Background())
	p.cancel, p.ended = cancel, make(chan struct{})
	p.mu.Unlock()
	go func() {
		defer close(p.ended)
		if err := target.Run(life); !errors.Is(err, context.Canceled) {
			env.Fatal(fmt.Errorf("NVMe-oF target: %w", err))
		}
	}()
	if !target.Ready(ctx) {
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
		err = errors.Join(err, fmt.Errorf("end the target: %w", ctx.Err()))
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

func (p *plugin) running() *transport.Transport {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.transport
}
