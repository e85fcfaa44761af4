package transport

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/stream"
)

// Bounds of Config.
const (
	minInCapsule        = 8 << 10
	maxInCapsule        = 64 << 10
	maxConnectionsBound = 65_536
	minHandshake        = 100 * time.Millisecond
	maxQueueDepth       = 32_768 // so that transfer tags, of 16 bits, suffice
)

// Config is the plugin's config block.
type Config struct {
	HeaderDigest     bool          `json:"header_digest"`
	DataDigest       bool          `json:"data_digest"`
	MaxConnections   int           `json:"max_connections"`
	InCapsuleBytes   int           `json:"in_capsule_bytes"`
	HandshakeTimeout time.Duration `json:"handshake_timeout"` // nanoseconds in JSON
	MaxIOQueues      int           `json:"max_io_queues"`     // of each controller
	QueueDepth       int           `json:"queue_depth"`       // entries
}

// DefaultConfig is what an empty config block means.
func DefaultConfig() Config {
	return Config{
		HeaderDigest: true, DataDigest: true,
		MaxConnections: 4096, InCapsuleBytes: minInCapsule, HandshakeTimeout: 5 * time.Second,
		MaxIOQueues: 128, QueueDepth: 1024,
	}
}

// Schema describes Config.
func Schema() []sdk.Attribute {
	d := DefaultConfig()
	return []sdk.Attribute{
		{
			Name: "header_digest", Type: sdk.Bool, Default: d.HeaderDigest,
			Help: "Protect PDU headers with a CRC32C where the host asks for it.",
		},
		{
			Name: "data_digest", Type: sdk.Bool, Default: d.DataDigest,
			Help: "Protect data with a CRC32C where the host asks for it.",
		},
		{
			Name: "max_connections", Type: sdk.Number, Default: d.MaxConnections,
			Help: "Most connections at a time; a host takes one per queue pair.",
		},
		{
			Name: "in_capsule_bytes", Type: sdk.Size, Default: d.InCapsuleBytes,
			Help: "Most bytes of data that a host may send along with a command, 8 KiB to 64 KiB.",
		},
		{
			Name: "handshake_timeout", Type: sdk.Duration, Default: d.HandshakeTimeout,
			Help: "How long a new connection may take to send its first PDU.",
		},
		{
			Name: "max_io_queues", Type: sdk.Number, Default: d.MaxIOQueues,
			Help: "Most I/O queue pairs of one controller.",
		},
		{
			Name: "queue_depth", Type: sdk.Number, Default: d.QueueDepth,
			Help: "Most entries of a submission queue.",
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

func (c Config) limits() stream.Limits {
	return stream.Limits{Connections: c.MaxConnections, Greeting: c.HandshakeTimeout}
}

func (c Config) check() error {
	var errs []error
	between := func(name string, v, low, high int) {
		if v < low || v > high {
			errs = append(errs, &sdk.AttributeError{
				Attribute: name, Message: fmt.Sprintf("%d is not within %d to %d", v, low, high),
			})
		}
	}
	between("max_connections", c.MaxConnections, 2, maxConnectionsBound)
	between("in_capsule_bytes", c.InCapsuleBytes, minInCapsule, maxInCapsule)
	between("max_io_queues", c.MaxIOQueues, 1, 65_535)
	between("queue_depth", c.QueueDepth, 2, maxQueueDepth)
	if c.InCapsuleBytes%16 != 0 {
		errs = append(errs, &sdk.AttributeError{
			Attribute: "in_capsule_bytes", Message: fmt.Sprintf("%d is not a multiple of 16", c.InCapsuleBytes),
		})
	}
	if c.HandshakeTimeout < minHandshake {
		errs = append(errs, &sdk.AttributeError{
			Attribute: "handshake_timeout", Message: fmt.Sprintf("%s is less than %s", c.HandshakeTimeout, minHandshake),
		})
	}
	return errors.Join(errs...)
}
