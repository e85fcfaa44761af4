package nvmf

import (
	"context"

	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/sdk/proto"
)

// Options are what a Target is made of.
type Options struct {
	Core   proto.CoreClient // of the core that started the plugin
	Logger hclog.Logger     // nil: none
	Limits Limits           // zero fields have defaults
	// Firmware is the revision that hosts see, at most 8 characters of ASCII; "1" if empty.
	Firmware string
}

// Target is the NVMe-oF front end of one plugin process: subsystems, discovery, controllers.
// Its methods may be called from any goroutine, except NewQueue.
type Target struct {
	core   proto.CoreClient
	log    hclog.Logger
	limits Limits
}

// NewTarget makes a target that knows nothing yet; Run fills it.
func NewTarget(o Options) *Target {
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	return &Target{core: o.Core, log: o.Logger.Named("nvmf"), limits: o.Limits.withDefaults()}
}

// Run keeps the target in step with the core until ctx ends or the core is gone. Then it closes
// every queue and waits for the calls to the core that are under way. It is called once.
func (t *Target) Run(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}
