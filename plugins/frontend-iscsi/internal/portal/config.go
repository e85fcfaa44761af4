package portal

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/iscsi"
	"github.com/mooring-io/mooring/sdk/stream"
)

// Bounds of Config.
const (
	maxConnectionsBound = 65_536
	minTimeout          = 100 * time.Millisecond
	maxQueueDepth       = 4096
)

// Config is the plugin's config block.
type Config struct {
	HeaderDigest   bool          `json:"header_digest"`
	DataDigest     bool          `json:"data_digest"`
	MaxConnections int           `json:"max_connections"`
	QueueDepth     int           `json:"queue_depth"`   // commands
	LoginTimeout   time.Duration `json:"login_timeout"` // nanoseconds in JSON
	PingInterval   time.Duration `json:"ping_interval"` // nanoseconds in JSON; 0: never
}

// DefaultConfig is what an empty config block means.
func DefaultConfig() Config {
	return Config{
		HeaderDigest: true, DataDigest: true, MaxConnections: 4096, QueueDepth: 256, LoginTimeout: 15 * time.Second, PingInterval: 30 * time.Second,
	}
}

// Schema describes Config.
func Schema() []sdk.Attribute {
	d := DefaultConfig()
	return []sdk.Attribute{
		{
			Name: "header_digest", Type: sdk.Bool, Default: d.HeaderDigest,
			Help: "Protect PDU headers with a CRC32C where the initiator asks for it.",
		},
		{
			Name: "data_digest", Type: sdk.Bool, Default: d.DataDigest,
			Help: "Protect data with a CRC32C where the initiator asks for it.",
		},
		{
			Name: "max_connections", Type: sdk.Number, Default: d.MaxConnections,
			Help: "Most connections at a time; a session has one.",
		},
		{
			Name: "queue_depth", Type: sdk.Number, Default: d.QueueDepth,
			Help: "Most commands that a session may have under way.",
		},
		{
			Name: "login_timeout", Type: sdk.Duration, Default: d.LoginTimeout,
			Help: "How long a login may take.",
		},
		{
			Name: "ping_interval", Type: sdk.Duration, Default: d.PingInterval,
			Help: "After how long a silent initiator is asked whether it is still there; 0 for never.",
		},
	}
}

// ParseConfig decodes a config block. Its errors are sdk.AttributeErrors, joined.
func ParseConfig(b []byte) (Config, error) {
	c := DefaultConfig()
	if len(b) > 0 {
		if err := json.Unmarshal(b, &c); err != nil {
			return c, fmt.Errorf("decode config block: %w", err)
		}
	}
	return c, c.check()
}

func (c Config) check() error {
	var errs []error
	wrong := func(name, why string, args ...any) {
		errs = append(errs, &sdk.AttributeError{Attribute: name, Message: fmt.Sprintf(why, args...)})
	}
	if c.MaxConnections < 2 || c.MaxConnections > maxConnectionsBound {
		wrong("max_connections", "%d is not within 2 to %d", c.MaxConnections, maxConnectionsBound)
	}
	if c.QueueDepth < 2 || c.QueueDepth > maxQueueDepth {
		wrong("queue_depth", "%d is not within 2 to %d", c.QueueDepth, maxQueueDepth)
	}
	if c.LoginTimeout < minTimeout {
		wrong("login_timeout", "%s is less than %s", c.LoginTimeout, minTimeout)
	}
	if c.PingInterval != 0 && c.PingInterval < minTimeout {
		wrong("ping_interval", "%s is less than %s, and not 0", c.PingInterval, minTimeout)
	}
	return errors.Join(errs...)
}

func (c Config) limits() stream.Limits {
	return stream.Limits{Connections: c.MaxConnections, Greeting: c.LoginTimeout}
}

// What we offer in every negotiation, in bytes.
const (
	maxRecvData = 256 << 10
	maxBurst    = 1 << 20
	firstBurst  = 256 << 10
	maxR2Ts     = 4
)

// wish is what we would have of a session.
func (c Config) wish() iscsi.Params {
	w := iscsi.DefaultParams()
	w.HeaderDigest, w.DataDigest = c.HeaderDigest, c.DataDigest
	w.InitialR2T, w.MaxRecvData, w.MaxBurst, w.FirstBurst = false, maxRecvData, maxBurst, firstBurst
	w.MaxOutstandingR2T, w.Time2Wait, w.Time2Retain = maxR2Ts, 0, 0
	return w
}
