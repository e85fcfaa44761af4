package plugintest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/proto"
)

// Config describes a plugin to test.
type Config struct {
	// New makes a plugin, as main does. It is called once per life.
	New func() sdk.DataPlugin
	// Attributes are the values of its config block, as Configure gets them; the
	// schema's defaults are added.
	Attributes map[string]any
	// Listen is an address that can be bound at any time, several times over: of port
	// 0, if the protocol has ports.
	Listen string
	// Unbindable is an address that cannot be bound; "" leaves that out of the suite.
	Unbindable string
	// Connect connects a host, or says why that is refused.
	Connect func(ctx context.Context, target Target) (Host, error)
	// Raw sends bytes to the listener at url as they are, ending when the plugin
	// closes the connection or ctx ends. nil leaves bad input out of the suite.
	Raw func(ctx context.Context, url string, data []byte) error
}

// Target is what a host connects to.
type Target struct {
	URL       string // as the plugin reported it
	Subsystem string
	NSID      uint32
	Host      string // the host's own name
}

// Host is a host with one namespace. Its methods are called from one goroutine, but
// Close may be called while another is under way, which then fails. A method must
// not wait for longer than its ctx.
type Host interface {
	Read(ctx context.Context, p []byte, off int64) error
	Write(ctx context.Context, p []byte, off int64) error
	Flush(ctx context.Context) error
	// Close ends the association as the protocol has it.
	Close() error
}

// settings is the JSON for Configure.
func (c Config) settings(d *proto.Description) (string, error) {
	values := map[string]any{}
	for _, a := range d.Schema {
		if a.DefaultJson != "" {
			values[a.Name] = json.RawMessage(a.DefaultJson)
		}
		if v, ok := c.Attributes[a.Name]; ok {
			values[a.Name] = v
		} else if a.Required {
			return "", fmt.Errorf("attribute %q is required: give it in Config.Attributes", a.Name)
		}
	}
	b, err := json.Marshal(values)
	return string(b), err
}

func (c Config) check() error {
	if c.New == nil || c.Connect == nil || c.Listen == "" {
		return errors.New("plugintest: New, Listen and Connect are needed")
	}
	return nil
}
