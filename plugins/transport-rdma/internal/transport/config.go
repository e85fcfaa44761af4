package transport

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/mooring-io/mooring/sdk"
)

// Bounds of Config.
const (
	maxInCapsule        = 64 << 10
	maxConnectionsBound = 65_536
	minReceives         = 64
	maxReceives         = 32_768
	maxQueueDepth       = 8192
)

// Config is the plugin's config block.
type Config struct {
	MaxConnections int `json:"max_connections"`
	InCapsuleBytes int `json:"in_capsule_bytes"`
	SharedReceives int `json:"shared_receives"` // of each I/O thread and device
	MaxIOQueues    int `json:"max_io_queues"`   // of each controller
	QueueDepth     int `json:"queue_depth"`     // entries
}

// DefaultConfig is what an empty config block means.
func DefaultConfig() Config {
	return Config{MaxConnections: 4096, InCapsuleBytes: 4096, SharedReceives: 1024, MaxIOQueues: 128, QueueDepth: 1024}
}

// Schema describes Config.
func Schema() []sdk.Attribute {
	d := DefaultConfig()
	return []sdk.Attribute{
		{
			Name: "max_connections", Type: sdk.Number, Default: d.MaxConnections,
			Help: "Most connections at a time; a host takes one per queue pair.",
		},
		{
			Name: "in_capsule_bytes", Type: sdk.Size, Default: d.InCapsuleBytes,
			Help: "Most bytes of data that a host may send along with a command, 0 to 64 KiB.",
		},
		{
			Name: "shared_receives", Type: sdk.Number, Default: d.SharedReceives,
			Help: "Commands that all hosts of an I/O thread together can have on their way; at most a quarter of the pool holds them.",
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
	between("in_capsule_bytes", c.InCapsuleBytes, 0, maxInCapsule)
	between("shared_receives", c.SharedReceives, minReceives, maxReceives)
	between("max_io_queues", c.MaxIOQueues, 1, 65_535)
	between("queue_depth", c.QueueDepth, 32, maxQueueDepth)
	if c.InCapsuleBytes%16 != 0 {
		errs = append(errs, &sdk.AttributeError{
			Attribute: "in_capsule_bytes", Message: fmt.Sprintf("%d is not a multiple of 16", c.InCapsuleBytes),
		})
	}
	return errors.Join(errs...)
}
