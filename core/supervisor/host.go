package supervisor

import (
	"context"
	"net"

	"github.com/mooring-io/mooring/sdk/proto"
)

// Instance is one life of a data plugin's process, as a DataHost sees it.
// Immutable after the supervisor made it, but for what Fail does.
type Instance struct {
	// Plugin is the plugin's name in the catalog, e.g. "transport-tcp".
	Plugin string
	// ID is the incarnation: unique and growing within one life of the core.
	ID uint64
	// PID is the plugin's process.
	PID int
	// Description is what the process said about itself.
	Description *proto.Description
	// Descriptors is the core's end of the plugin's SOCK_SEQPACKET socket. The
	// DataHost writes ring descriptors to it. The supervisor alone reads it, for
	// the end of file that tells of the plugin's death, and closes it after Detach.
	Descriptors *net.UnixConn

	fail func(error)
}

// Fail ends this life of the plugin: its process is killed, and it is started again
// as after a crash, with reason shown in its status. For a plugin that broke the
// rules of the rings. It does not block and may be called at any time, more than
// once, from any goroutine; Detach follows as for every other death.
func (i *Instance) Fail(reason error) {
	if i.fail != nil {
		i.fail(reason)
	}
}

// DataHost is what data plugins need from the core. It is implemented by core/access
// and given to New; the supervisor calls it from one goroutine per plugin.
type DataHost interface {
	// Attach begins a life of a data plugin and returns the Core service that only
	// this life can call. It is called after Configure and before Data.Start; ctx
	// bounds the call alone. After an error nothing is attached and the plugin is
	// stopped; Detach is not called then.
	Attach(ctx context.Context, inst *Instance) (proto.CoreServer, error)
	// Detach ends it: no call of the CoreServer is under way any more and the
	// process is dead. It ends the rings and associations of that life and returns
	// when all that they had in flight is finished or dropped, because the next life
	// is attached right after. It is called exactly once for each successful Attach.
	Detach(inst *Instance)
}
