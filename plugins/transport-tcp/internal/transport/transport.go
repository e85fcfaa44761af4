package transport

import (
	"context"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmetcp"
	"github.com/mooring-io/mooring/sdk/nvmf"
	"github.com/mooring-io/mooring/sdk/stream"
)

// Scheme is the URL scheme of listeners.
const Scheme = "nvme-tcp"

// besideData bounds what a capsule has besides its data: PDO is a byte, and there is a digest.
const besideData = 256 + nvmetcp.DigestSize

// Transport serves NVMe/TCP on a set of I/O threads. Its methods may be called by any goroutine,
// but SetListeners and Stop not at the same time.
type Transport struct {
	server    *stream.Server
	makeQueue func(*conn) frontEnd
	made      Config // what New got: attributes that need a restart hold as they are here
	cfg       atomic.Pointer[Config]
}

// New returns a transport without listeners whose queue pairs belong to target.
func New(target *nvmf.Target, threads []*block.Thread, cfg Config, logger hclog.Logger) *Transport {
	t := &Transport{made: cfg}
	t.makeQueue = func(c *conn) frontEnd {
		return target.NewQueue(c, nvmf.ConnInfo{
			Thread: c.stream.Thread(), AccessPointID: c.stream.AccessPoint(), TransportType: nvme.TransportTCP,
			LocalURL: c.stream.LocalURL(), Peer: c.stream.Peer(), InCapsuleData: cfg.InCapsuleBytes,
		})
	}
	t.cfg.Store(&cfg)
	t.server = stream.NewServer(stream.Config{
		Scheme: Scheme, Port: nvmetcp.Port, Threads: threads, Piece: cfg.InCapsuleBytes + besideData,
		New:    func(s *stream.Conn) stream.Handler { return &conn{transport: t, stream: s} },
		Limits: cfg.limits(), Logger: logger.Named("nvmetcp"),
	})
	return t
}

// Configure applies what can be applied to a running transport: connections to come have the
// new digests, limits and timeout. The other attributes need sdk.ErrRestartRequired.
func (t *Transport) Configure(cfg Config) error {
	restart := cfg.InCapsuleBytes != t.made.InCapsuleBytes || cfg.MaxIOQueues != t.made.MaxIOQueues || cfg.QueueDepth != t.made.QueueDepth
	t.cfg.Store(&cfg)
	t.server.SetLimits(cfg.limits())
	if restart {
		return sdk.ErrRestartRequired
	}
	return nil
}

func (t *Transport) config() *Config { return t.cfg.Load() }

// Health reports gauges and counters.
func (t *Transport) Health() sdk.Health { return sdk.Health{Metrics: t.server.Metrics()} }

// SetListeners opens and closes listeners until those that are there are the ones named.
func (t *Transport) SetListeners(ctx context.Context, want []sdk.Listener) []sdk.ListenerState {
	return t.server.SetListeners(ctx, want)
}

// Stop closes listeners and connections and returns when no command is under way any more.
func (t *Transport) Stop(ctx context.Context) error { return t.server.Stop(ctx) }
