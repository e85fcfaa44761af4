package nvmf

import (
	"testing"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/proto"
)

// Each step of the fuzzer is a control byte and a command.
const fuzzStep = 1 + nvme.CommandSize

// Bits of the control byte.
const (
	fuzzIO      = 1 << 0 // on the I/O queue
	fuzzGoodSGL = 1 << 1 // a data pointer that suits
	fuzzCapsule = 1 << 2 // data in the capsule
	fuzzLate    = 1 << 3 // data later
	fuzzRange   = 1 << 4 // a range of few blocks near the start of namespace 1 or 2
	fuzzHold    = 1 << 5 // the core keeps commands from here on
	fuzzRelease = 1 << 6 // the core goes on
	fuzzChange  = 1 << 7 // the core changes what it exports and grants
)

// FuzzQueue sends commands to a controller and its I/O queue, in any order, and loses the
// connections: nothing panics, and no command and no buffer is left. Coverage depends on timing
// here, so that minimizing inputs is a waste: run it with -fuzzminimizetime 1x.
func FuzzQueue(f *testing.F) {
	for _, seed := range fuzzSeeds() {
		f.Add(seed)
	}
	r := newRig(f, withThreads(2), withPool(1<<20), withLimits(Limits{MaxTransfer: 128 << 10, LossGrace: 1e6, AbortWait: 1e6}))
	f.Fuzz(func(t *testing.T, steps []byte) {
		r.t = t
		h := r.connect(1)
		data := make([]byte, 8192)
		for n := 0; len(steps) >= fuzzStep && n < 64; n++ {
			ctl, cmd := steps[0], nvme.Command(steps[1:fuzzStep])
			steps = steps[fuzzStep:]
			r.fuzzStep(h, ctl, cmd, data)
		}
		for _, c := range r.conns {
			c.gone()
		}
		r.blocks.Release()
		r.eventually("queues drained", func() bool { return r.target.Queues() == 0 })
		r.eventually("associations ended", func() bool { return r.target.Controllers() == 0 })
		for _, c := range r.conns {
			if onThread(c.thread, func() bool { return c.q.held != 0 || c.q.outstanding != 0 || c.q.begun != nil || len(c.payload) != 0 }) {
				t.Error("commands leaked")
			}
		}
		for _, th := range r.threads {
			if onThread(th, func() bool { return th.Pool().InUse() != 0 }) {
				t.Error("buffers leaked")
			}
		}
		r.conns = nil
	})
}

func (r *rig) fuzzStep(h *host, ctl byte, cmd nvme.Command, data []byte) {
	if ctl&fuzzHold != 0 {
		r.blocks.Hold()
	}
	if ctl&fuzzRelease != 0 {
		r.blocks.Release()
	}
	if ctl&fuzzChange != 0 {
		state := []proto.AnaState{proto.AnaState_ANA_OPTIMIZED, proto.AnaState_ANA_CHANGE, proto.AnaState_ANA_INACCESSIBLE}[int(cmd[63])%3]
		r.grant(h.association(), func(g map[uint32]*proto.Grant) { g[1].AnaState = state })
		r.export(func(s *proto.Subsystem) { s.Namespaces[1].SizeBytes ^= 4096 })
	}
	c := h.fakeConn
	if ctl&fuzzIO != 0 {
		c = h.io[0]
	}
	if ctl&fuzzRange != 0 {
		cmd.SetNSID(cmd.NSID()%3 + 1)
		cmd.SetStartLBA(cmd.StartLBA() % 64)
		cmd.SetBlocks(cmd.Blocks()%16 + 1)
	}
	capsule := ctl&fuzzCapsule != 0
	if ctl&fuzzGoodSGL != 0 {
		if capsule {
			cmd = inCapsule(cmd, len(data))
		} else {
			cmd = toHost(cmd, 128<<10)
		}
	}
	onThread(c.thread, func() bool {
		c.late, c.zeroCopy = ctl&fuzzLate != 0, ctl&fuzzRange == 0
		if !c.isGone {
			c.send(cmd, data, nil)
		}
		return true
	})
}

func fuzzSeeds() [][]byte {
	step := func(ctl byte, cmds ...nvme.Command) []byte {
		var b []byte
		for i, c := range cmds {
			c.SetCID(nvme.CommandID(i + 1))
			b = append(append(b, ctl), c[:]...)
		}
		return b
	}
	compare, write := fusedPair(1)
	var seeds [][]byte
	for op := range ioCommands {
		if ioCommands[op].run != nil {
			c := rw(nvme.Opcode(op), 1, 1, 2, 8192)
			seeds = append(seeds, step(fuzzIO, c, c), step(fuzzIO|fuzzGoodSGL|fuzzCapsule, c), step(fuzzIO|fuzzHold|fuzzLate, c, c))
		}
	}
	seeds = append(seeds,
		step(fuzzIO, compare, write), step(fuzzIO|fuzzLate, compare, compare, write), step(fuzzIO|fuzzHold, write, compare),
		step(fuzzIO, nvme.Disconnect{}.Command(), write), step(fuzzIO|fuzzHold, rw(nvme.IORead, 1, 0, 1, 4096), nvme.Disconnect{}.Command()),
		step(0, plain(nvme.AdminAsyncEventRequest, 0), setFeature(nvme.FeatureAsyncEvents, 0, 0x900), identify(nvme.CNSController, 0)),
		step(fuzzChange, plain(nvme.AdminAsyncEventRequest, 0), getLog(nvme.LogChangedNamespaces, 4096), getLog(nvme.LogANA, 4096)),
		step(0, setCC(0), setCC(nvme.MakeConfig(nvme.SelectNVM)), propertyGet(nvme.PropertyCSTS)),
		step(0, setCC(nvme.MakeConfig(nvme.SelectNVM).WithShutdown(nvme.ShutdownNormal)), identify(nvme.CNSController, 0)),
		step(fuzzGoodSGL|fuzzCapsule, connectCommand(0, 32, 0).Command()),
	)
	for cns := range identifyStructures {
		seeds = append(seeds, step(0, identify(cns, 1)))
	}
	for id := range logPages {
		seeds = append(seeds, step(0, getLog(id, 4096)))
	}
	for id := range featureTable {
		seeds = append(seeds, step(fuzzGoodSGL, getFeature(id, 1, 0, 1), setFeature(id, 1, 1)))
	}
	for i := range nvme.CommandID(4) {
		abort := nvme.Abort{Queue: 1, CID: i}.Command()
		seeds = append(seeds, append(step(fuzzIO|fuzzHold, compare, write, write), step(0, abort)...))
	}
	return seeds
}
