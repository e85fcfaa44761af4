package nvmf

import (
	"github.com/mooring-io/mooring/sdk/nvme"
)

// adminCommand is one Admin command.
type adminCommand struct {
	// begin judges the command as far as its transfer needs it, and plans that.
	begin   func(ct *Controller, c *Command) nvme.Status
	run     func(*Command) // nil: not supported
	kinds   controllerKinds
	effects nvme.Effects
}

// controllerKinds says which controllers know a command, feature, log page or structure.
type controllerKinds uint8

const (
	onIO        controllerKinds = 1
	onDiscovery controllerKinds = 2
	onAll                       = onIO | onDiscovery
)

func (k controllerKinds) has(ct *Controller) bool {
	if ct.kind == nvme.ControllerDiscovery {
		return k&onDiscovery != 0
	}
	return k&onIO != 0
}

// adminCommands is what an Admin queue knows. Base 5
var adminCommands [256]adminCommand

func init() {
	const plain = nvme.EffectSupported
	adminCommands = [256]adminCommand{
		nvme.AdminGetLogPage:        {beginGetLogPage, executeGetLogPage, onAll, plain},
		nvme.AdminIdentify:          {beginIdentify, executeIdentify, onAll, plain},
		nvme.AdminAbort:             {beginNoData, executeAbort, onAll, plain},
		nvme.AdminSetFeatures:       {beginNoData, executeSetFeatures, onAll, plain | nvme.EffectControllerCaps},
		nvme.AdminGetFeatures:       {beginGetFeatures, executeGetFeatures, onAll, plain},
		nvme.AdminAsyncEventRequest: {beginNoData, executeAsyncEventRequest, onAll, plain},
		nvme.AdminKeepAlive:         {beginNoData, completeOK, onAll, plain},
	}
}

func (ct *Controller) beginAdmin(c *Command) {
	st := ct.admitAdmin(c)
	if !st.OK() {
		c.refuse(st)
	}
}

func (ct *Controller) admitAdmin(c *Command) nvme.Status {
	cmd := &adminCommands[c.SQE.Opcode()]
	switch {
	case !ct.ready():
		return nvme.StatusSequenceError.WithDNR()
	case cmd.run == nil || !cmd.kinds.has(ct):
		return nvme.StatusInvalidOpcode.WithDNR()
	case c.SQE.Fuse() != nvme.FuseNone:
		return nvme.StatusInvalidField.WithDNR()
	}
	c.run = cmd.run
	return cmd.begin(ct, c)
}

func beginNoData(*Controller, *Command) nvme.Status { return nvme.StatusSuccess }

// respond completes a command with a structure, of which the host gets as much as it asked for;
// the rest of its buffer is zero.
func (c *Command) respond(data []byte) {
	b := c.Data.Bytes()
	clear(b[copy(b, data):])
	completeOK(c)
}

// failed completes a command and reports true if st is not success.
func (c *Command) failed(st nvme.Status) bool {
	if st.OK() {
		return false
	}
	c.q.complete(c, st)
	return true
}
