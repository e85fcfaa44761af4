package sdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/policy"
	"github.com/mooring-io/mooring/sdk/proto"
)

// Plugin is what every plugin implements, whatever its kind. A plugin is also a
// DataPlugin or a PolicyPlugin.
type Plugin interface {
	// Describe says who the plugin is. It has no side effects, always returns the
	// same, and may be called at any time from any goroutine.
	Describe() Description
	// Configure hands over the plugin's config block as a JSON object: attribute
	// name to value, defaults filled in, every value of the type that the schema
	// declares. It is called before Start, and again while the plugin runs when the
	// configuration changed; calls do not overlap with each other or with Start and
	// Stop. Return AttributeErrors (joined, if several) for values that are wrong,
	// and ErrRestartRequired if they are right but some that differ from what is in force
	// cannot be applied live; it is asked again at every reload.
	Configure(config []byte) error
}

// DataPlugin is a transport or front end: it serves volumes to hosts.
type DataPlugin interface {
	Plugin
	// Start begins the plugin's life; it is called once. It returns when SetListeners
	// can be called; ctx bounds the call alone. env stays valid until Stop returns.
	// After an error the process is ended.
	Start(ctx context.Context, env *Env) error
	// SetListeners names every address to listen on. It opens those that are new,
	// closes those that are not named any more, leaves the rest alone, and returns
	// one state for each. It is called again with the same list at any time; calls
	// do not overlap. One address that cannot be bound does not spoil the others.
	SetListeners(ctx context.Context, listeners []Listener) []ListenerState
	// Stop closes listeners and connections and returns when nothing is in flight
	// and every goroutine is joined. After ctx ends it may cut short. It is called
	// once, if Start succeeded; the core may be dead then.
	Stop(ctx context.Context) error
}

// PolicyPlugin decides placements.
type PolicyPlugin interface {
	Plugin
	policy.Policy
}

// HealthReporter is an optional ability of every plugin.
type HealthReporter interface {
	// Health says how the plugin is. It must not block and may be called from any
	// goroutine.
	Health() Health
}

// ErrRestartRequired is what Configure returns for values that will hold after the
// plugin was restarted.
var ErrRestartRequired = errors.New("applies after the plugin is restarted")

// NoConfig is what Configure returns in a plugin without attributes.
func NoConfig(config []byte) error {
	var none struct{}
	return json.Unmarshal(config, &none)
}

// Description is who a plugin is.
type Description struct {
	// Name is also the name of the plugin's file and of its HCL block: lower case,
	// digits and dashes.
	Name string
	// Version is the plugin's own, semantic.
	Version string
	// Schema lists the attributes of the plugin's config block.
	Schema []Attribute
	// ListenSchemes are the URL schemes that SetListeners understands, such as
	// "nvme-tcp". For data plugins, at least one.
	ListenSchemes []string
	// Capabilities names optional abilities. None are defined so far.
	Capabilities []string
}

// AttributeType is the type of an attribute's value.
type AttributeType int

// The comment says what is written in HCL, and what Configure gets.
const (
	String     AttributeType = iota + 1 // a string
	Number                              // a number
	Bool                                // true or false
	StringList                          // a list of strings
	Size                                // "8KiB" or a number; an integer, bytes
	Duration                            // "5s"; an integer, nanoseconds
)

// Attribute is one attribute of a plugin's config block.
type Attribute struct {
	Name     string
	Type     AttributeType
	Required bool
	// Default is the value when the attribute is absent: string, number, bool,
	// []string, bytes as an integer, time.Duration. nil: Configure does not get the
	// attribute then.
	Default any
	// Help is one sentence, shown in diagnostics and documentation.
	Help string
}

// AttributeError says which attribute's value is wrong.
type AttributeError struct {
	Attribute string
	Message   string // what is wrong and what would be right
}

func (e *AttributeError) Error() string { return e.Attribute + ": " + e.Message }

// Listener is one address to listen on.
type Listener struct {
	URL           string // e.g. "nvme-tcp://127.0.0.1:4420"; port 0 chooses one
	AccessPointID string // the core's name for it, to be given in AssociateRequest
	// Floating says that the address may come and go: it is to be bound also while it is not there
	// (IP_FREEBIND).
	Floating bool
}

// ListenerState is what became of a Listener.
type ListenerState struct {
	AccessPointID string
	URL           string // with the port that was really bound
	Err           error  // nil: listening
}

// Health is how a plugin is.
type Health struct {
	// Reason is empty if all is well, else one line that says what is not.
	Reason  string
	Metrics []Metric
}

// Metric is one sample that the core publishes with the plugin's name.
type Metric struct {
	Name    string // Prometheus style, without the plugin's name: "connections"
	Value   float64
	Labels  map[string]string
	Counter bool // false: gauge
}

// Env is what a data plugin lives in. Immutable.
type Env struct {
	// Core is the core's service for this plugin. Its errors are those of this
	// package. It can be called from any goroutine.
	Core proto.CoreClient
	// Threads are the I/O threads, running. What belongs to a thread may be touched
	// on that thread alone: use Post.
	Threads []*block.Thread
	// Logger writes into the core's log, under the plugin's name.
	Logger hclog.Logger
	// Incarnation is the number of this set of rings.
	Incarnation uint64

	changed func()
	fatal   func(error)
}

// HealthChanged has Health called soon instead of when it is due next.
func (e *Env) HealthChanged() {
	if e.changed != nil {
		e.changed()
	}
}

// Fatal ends the process because the plugin cannot go on, with err in the log and in
// the plugin's status; the core starts it anew. It returns.
func (e *Env) Fatal(err error) {
	if e.fatal != nil {
		e.fatal(err)
	}
}

// toProto also checks what a plugin's author may get wrong.
func (d Description) toProto(kind proto.Kind) (*proto.Description, error) {
	if !validName(d.Name) {
		return nil, fmt.Errorf("description: name %q is not lower-case letters, digits and dashes, at most %d", d.Name, maxName)
	}
	if kind == proto.Kind_KIND_DATA && len(d.ListenSchemes) == 0 {
		return nil, fmt.Errorf("description of %s: a data plugin needs a listen scheme", d.Name)
	}
	out := &proto.Description{
		Name: d.Name, Kind: kind, Version: d.Version,
		ListenSchemes: d.ListenSchemes, Capabilities: d.Capabilities,
	}
	for _, a := range d.Schema {
		p, err := a.toProto()
		if err != nil {
			return nil, fmt.Errorf("description of %s: attribute %q: %w", d.Name, a.Name, err)
		}
		out.Schema = append(out.Schema, p)
	}
	return out, nil
}

const maxName = 40 // bytes

func validName(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= maxName
}

var attributeTypes = map[AttributeType]proto.AttributeType{
	String:     proto.AttributeType_ATTRIBUTE_TYPE_STRING,
	Number:     proto.AttributeType_ATTRIBUTE_TYPE_NUMBER,
	Bool:       proto.AttributeType_ATTRIBUTE_TYPE_BOOL,
	StringList: proto.AttributeType_ATTRIBUTE_TYPE_STRING_LIST,
	Size:       proto.AttributeType_ATTRIBUTE_TYPE_SIZE,
	Duration:   proto.AttributeType_ATTRIBUTE_TYPE_DURATION,
}

func (a Attribute) toProto() (*proto.Attribute, error) {
	t, ok := attributeTypes[a.Type]
	if !ok {
		return nil, fmt.Errorf("type %d is unknown", a.Type)
	}
	out := &proto.Attribute{Name: a.Name, Type: t, Required: a.Required, Help: a.Help}
	if a.Default == nil {
		return out, nil
	}
	if d, ok := a.Default.(time.Duration); ok != (a.Type == Duration) {
		return nil, fmt.Errorf("default %v is not of the attribute's type", a.Default)
	} else if ok {
		a.Default = d.Nanoseconds()
	}
	b, err := json.Marshal(a.Default)
	if err != nil {
		return nil, fmt.Errorf("default: %w", err)
	}
	out.DefaultJson = string(b)
	return out, nil
}

// attributeErrors takes apart what Configure returned.
func attributeErrors(err error) []*proto.AttributeError {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var out []*proto.AttributeError
		for _, e := range joined.Unwrap() {
			out = append(out, attributeErrors(e)...)
		}
		return out
	}
	var a *AttributeError
	if errors.As(err, &a) {
		return []*proto.AttributeError{{Attribute: a.Attribute, Message: a.Message}}
	}
	return []*proto.AttributeError{{Message: err.Error()}}
}
