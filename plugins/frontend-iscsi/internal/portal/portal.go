package portal

import (
	"context"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/plugins/frontend-iscsi/internal/device"
	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/iscsi"
	"github.com/mooring-io/mooring/sdk/stream"
)

// Scheme is the URL scheme of listeners.
const Scheme = "iscsi"

// Portal serves iSCSI on a set of I/O threads. Its methods may be called by any goroutine, but
// SetListeners and Stop not at the same time.
type Portal struct {
	server *stream.Server
	device *device.Server
	logger hclog.Logger
	cfg    atomic.Pointer[Config]

	sessions atomic.Int32
	rejects  atomic.Uint64
}

// New returns a portal without listeners whose sessions belong to dev.
func New(dev *device.Server, threads []*block.Thread, cfg Config, logger hclog.Logger) *Portal {
	p := &Portal{device: dev, logger: logger.Named("iscsi")}
	p.cfg.Store(&cfg)
	p.server = stream.NewServer(stream.Config{
		Scheme: Scheme, Port: iscsi.Port, Threads: threads, Piece: maxPiece,
		New:    func(s *stream.Conn) stream.Handler { return newConn(p, s) },
		Limits: cfg.limits(), Logger: p.logger,
	})
	return p
}

// Configure applies a new config block to sessions to come.
func (p *Portal) Configure(cfg Config) {
	p.cfg.Store(&cfg)
	p.server.SetLimits(cfg.limits())
}

func (p *Portal) config() *Config { return p.cfg.Load() }

// Health reports gauges and counters.
func (p *Portal) Health() sdk.Health {
	return sdk.Health{Metrics: append(p.server.Metrics(),
		sdk.Metric{Name: "sessions", Value: float64(p.sessions.Load())},
		sdk.Metric{Name: "rejects_total", Value: float64(p.rejects.Load()), Counter: true},
	)}
}

// SetListeners opens and closes listeners until those that are there are the ones named.
func (p *Portal) SetListeners(ctx context.Context, want []sdk.Listener) []sdk.ListenerState {
	return p.server.SetListeners(ctx, want)
}

// Stop closes listeners and sessions and returns when no command is under way any more.
func (p *Portal) Stop(ctx context.Context) error { return p.server.Stop(ctx) }
