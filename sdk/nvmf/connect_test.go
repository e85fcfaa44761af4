package nvmf

import (
	"testing"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/proto"
)

// Base 6.3: a Connect that asks for what cannot be is answered with the offset of the field.
func TestConnectRefused(t *testing.T) {
	r := newRig(t)
	h := r.connect(1)
	admin, io := connectData(nvme.DynamicControllerID), connectData(h.id)
	type change func(*nvme.Connect, *nvme.ConnectData)
	for _, tc := range []struct {
		rule   string
		queue  nvme.QueueID
		change change
		status nvme.Status
		bad    nvme.InvalidParameter
	}{
		{"record format unknown", 0, func(c *nvme.Connect, _ *nvme.ConnectData) { c.RecordFormat = 1 },
			nvme.StatusConnectIncompatibleFormat, nvme.InvalidParameter{}},
		{"queue identifier above the limit", 129, func(*nvme.Connect, *nvme.ConnectData) {},
			nvme.StatusConnectInvalidParameters, nvme.InvalidConnectQueue},
		{"queue of one entry", 0, func(c *nvme.Connect, _ *nvme.ConnectData) { c.Entries = 1 },
			nvme.StatusConnectInvalidParameters, nvme.InvalidConnectEntries},
		{"queue above MQES", 0, func(c *nvme.Connect, _ *nvme.ConnectData) { c.Entries = 1025 },
			nvme.StatusConnectInvalidParameters, nvme.InvalidConnectEntries},
		{"I/O queue above MQES", 2, func(c *nvme.Connect, _ *nvme.ConnectData) { c.Entries = 65536 },
			nvme.StatusConnectInvalidParameters, nvme.InvalidConnectEntries},
		{"no host identifier", 0, func(_ *nvme.Connect, d *nvme.ConnectData) { d.HostID = nvme.HostID{} },
			nvme.StatusConnectInvalidParameters, nvme.InvalidConnectHostID},
		{"reserved controller identifier", 0, func(_ *nvme.Connect, d *nvme.ConnectData) { d.Controller = 0xfff5 },
			nvme.StatusConnectInvalidParameters, nvme.InvalidConnectController},
		{"subsystem name malformed", 0, func(_ *nvme.Connect, d *nvme.ConnectData) { d.SubsystemNQN = "disk" },
			nvme.StatusConnectInvalidParameters, nvme.InvalidConnectSubsystem},
		{"host name malformed", 0, func(_ *nvme.Connect, d *nvme.ConnectData) { d.HostNQN = "" },
			nvme.StatusConnectInvalidParameters, nvme.InvalidConnectHost},
		{"I/O queue of an unknown controller", 2, func(_ *nvme.Connect, d *nvme.ConnectData) { d.Controller = 77 },
			nvme.StatusConnectInvalidParameters, nvme.InvalidConnectController},
		{"I/O queue asks for a dynamic controller", 2, func(_ *nvme.Connect, d *nvme.ConnectData) { d.Controller = nvme.DynamicControllerID },
			nvme.StatusConnectInvalidParameters, nvme.InvalidConnectController},
		{"I/O queue of another subsystem", 2, func(_ *nvme.Connect, d *nvme.ConnectData) { d.SubsystemNQN += "x" },
			nvme.StatusConnectInvalidParameters, nvme.InvalidConnectController},
		{"I/O queue of another host", 2, func(_ *nvme.Connect, d *nvme.ConnectData) { d.HostNQN = otherNQN },
			nvme.StatusConnectInvalidParameters, nvme.InvalidConnectHost},
		{"I/O queue with another host identifier", 2, func(_ *nvme.Connect, d *nvme.ConnectData) { d.HostID[0]++ },
			nvme.StatusConnectInvalidParameters, nvme.InvalidConnectHostID},
		{"I/O queue exists", 1, func(*nvme.Connect, *nvme.ConnectData) {},
			nvme.StatusSequenceError, nvme.InvalidParameter{}},
		{"I/O queue of discovery", 1, func(_ *nvme.Connect, d *nvme.ConnectData) { d.SubsystemNQN = nvme.DiscoveryNQN },
			nvme.StatusConnectInvalidParameters, nvme.InvalidConnectQueue},
		{"static discovery controller", 0, func(_ *nvme.Connect, d *nvme.ConnectData) {
			d.SubsystemNQN, d.Controller = nvme.DiscoveryNQN, nvme.StaticControllerID
		}, nvme.StatusConnectInvalidParameters, nvme.InvalidConnectController},
		{"data too short", 0, func(c *nvme.Connect, _ *nvme.ConnectData) { c.SGL = nvme.InCapsule(0, 1023) },
			nvme.StatusInvalidSGLLength, nvme.InvalidParameter{}},
		{"data not in the capsule", 0, func(c *nvme.Connect, _ *nvme.ConnectData) { c.SGL = nvme.InCapsule(0, 1025) },
			nvme.StatusInvalidSGLOffset, nvme.InvalidParameter{}},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			c := r.dial(0)
			n, d := connectCommand(tc.queue, 32, 0), admin
			if tc.queue != 0 {
				d = io
			}
			tc.change(&n, &d)
			a := c.fails(tc.status, n.Command(), d.Append(nil))
			if tc.status == nvme.StatusConnectInvalidParameters && nvme.ParseInvalidParameter(a.DW0()) != tc.bad {
				t.Errorf("names %+v, want %+v", nvme.ParseInvalidParameter(a.DW0()), tc.bad)
			}
			// The same connection can be used for a better Connect.
			c.ok(connectCommand(0, 32, 0).Command(), admin.Append(nil))
		})
	}
}

// What the core answers decides. Base 6.3
func TestAssociateRefused(t *testing.T) {
	r := newRig(t)
	for _, tc := range []struct {
		result proto.AssociateResult
		status nvme.Status
		bad    nvme.InvalidParameter
	}{
		{proto.AssociateResult_ASSOCIATE_NO_SUBSYSTEM, nvme.StatusConnectInvalidParameters, nvme.InvalidConnectSubsystem},
		{proto.AssociateResult_ASSOCIATE_HOST_NOT_ALLOWED, nvme.StatusConnectInvalidHost, nvme.InvalidParameter{}},
		{proto.AssociateResult_ASSOCIATE_BUSY, nvme.StatusConnectControllerBusy, nvme.InvalidParameter{}},
		{proto.AssociateResult_ASSOCIATE_BAD_CONTROLLER, nvme.StatusConnectInvalidParameters, nvme.InvalidConnectController},
		{proto.AssociateResult_ASSOCIATE_NOT_READY, nvme.StatusConnectControllerBusy, nvme.InvalidParameter{}},
	} {
		t.Run(tc.result.String(), func(t *testing.T) {
			r.core.result = tc.result
			a := r.dial(0).fails(tc.status, connectCommand(0, 32, 0).Command(), connectData(nvme.DynamicControllerID).Append(nil))
			if tc.status == nvme.StatusConnectInvalidParameters && nvme.ParseInvalidParameter(a.DW0()) != tc.bad {
				t.Errorf("names %+v, want %+v", nvme.ParseInvalidParameter(a.DW0()), tc.bad)
			}
		})
	}
}

// An I/O queue comes through the access point of its Admin queue, for which the core granted.
func TestIOConnectThroughAnotherAccessPoint(t *testing.T) {
	r := newRig(t)
	h := r.connect(0)
	c := r.dialAt(0, "ap2", nvme.TransportTCP)
	a := c.fails(nvme.StatusConnectInvalidParameters, connectCommand(1, 32, 0).Command(), connectData(h.id).Append(nil))
	if bad := nvme.ParseInvalidParameter(a.DW0()); bad != nvme.InvalidConnectController {
		t.Errorf("names %+v", bad)
	}
}

func TestConnectAsksCoreForWhatHostAskedFor(t *testing.T) {
	r := newRig(t)
	r.dial(0).ok(connectCommand(0, 32, 0).Command(), connectData(7).Append(nil))
	got := r.core.associated[0]
	if got.GetControllerId() != 7 || got.GetSubsystem() != testNQN || got.GetHost().GetName() != hostNQN ||
		nvme.HostID(got.GetHost().GetHostId()) != hostID || got.GetAccessPointId() != "ap1" {
		t.Errorf("asked for %v", got)
	}
}

// A subsystem that was just made is exported a moment after the core knows it.
func TestConnectBeforeExport(t *testing.T) {
	r := newRig(t)
	r.target.setExports(&proto.Exports{})
	answer := r.dial(0).post(connectCommand(0, 32, 0).Command(), connectData(nvme.DynamicControllerID).Append(nil))
	r.eventually("the core has accepted", func() bool {
		r.core.mu.Lock()
		defer r.core.mu.Unlock()
		return len(r.core.associations) == 1
	})
	r.core.updates <- &proto.Update{Update: &proto.Update_Exports{Exports: r.exports}}
	if a := <-answer; !a.Status().OK() {
		t.Errorf("refused: %v", a.Status())
	}
}

func TestControllerLimit(t *testing.T) {
	r := newRig(t, withLimits(Limits{Controllers: 1}))
	h := r.connect(0)
	cmd, data := connectCommand(0, 32, 0).Command(), connectData(nvme.DynamicControllerID).Append(nil)
	r.dial(0).fails(nvme.StatusConnectControllerBusy, cmd, data)
	h.gone()
	r.eventually("the place is free again", func() bool { return r.dial(0).do(cmd, data).Status().OK() })
}

func TestSecondConnectOnQueue(t *testing.T) {
	r := newRig(t)
	h := r.connect(1)
	h.fails(nvme.StatusSequenceError, connectCommand(0, 32, 0).Command(), connectData(nvme.DynamicControllerID).Append(nil))
	h.io[0].fails(nvme.StatusSequenceError, connectCommand(1, 32, 0).Command(), connectData(h.id).Append(nil))
}

func TestNothingBeforeConnect(t *testing.T) {
	r := newRig(t)
	for _, cmd := range []nvme.Command{
		identify(nvme.CNSController, 0), propertyGet(nvme.PropertyCAP), setCC(1),
		nvme.Disconnect{}.Command(), plain(nvme.IOFlush, 1),
	} {
		r.dial(0).fails(nvme.StatusSequenceError, cmd, nil)
	}
}

func TestConnectTimeout(t *testing.T) {
	r := newRig(t, withLimits(Limits{ConnectTimeout: 1}))
	r.dial(0).waitClosed(ErrConnectTimeout)
}

// A queue pair is joined only when the controller is ready. Base 6.3
func TestIOConnectBeforeEnable(t *testing.T) {
	r := newRig(t)
	c := r.dial(0)
	a := c.ok(connectCommand(0, 32, 0).Command(), connectData(nvme.DynamicControllerID).Append(nil))
	d := connectData(nvme.ParseConnectResult(a.DW0()).Controller)
	r.dial(0).fails(nvme.StatusSequenceError, connectCommand(1, 32, 0).Command(), d.Append(nil))
}

func TestQueueCountLimitsQID(t *testing.T) {
	r := newRig(t)
	h := r.connect(0)
	a := h.ok(setFeature(nvme.FeatureQueues, 0, nvme.QueueCounts{Submission: 2, Completion: 3}.Value()), nil)
	if got := nvme.ParseQueueCounts(a.DW0()); got.Submission != 2 || got.Completion != 2 {
		t.Fatalf("allocated %+v", got)
	}
	h.addQueue(2, connectData(h.id))
	a = r.dial(0).fails(nvme.StatusConnectInvalidParameters, connectCommand(3, 32, 0).Command(), connectData(h.id).Append(nil))
	if nvme.ParseInvalidParameter(a.DW0()) != nvme.InvalidConnectQueue {
		t.Errorf("names %+v", nvme.ParseInvalidParameter(a.DW0()))
	}
	h.fails(nvme.StatusSequenceError, setFeature(nvme.FeatureQueues, 0, 0x10001), nil)
}

// SQHD moves with each completion and wraps; with flow control disabled it is not used.
// Base 3.3.1.2.1 and 6.3
func TestSQHead(t *testing.T) {
	r := newRig(t)
	h := r.connect(0)
	c := r.dial(0)
	a := c.ok(connectCommand(1, 3, 0).Command(), connectData(h.id).Append(nil))
	got := []uint16{a.SQHD()}
	for range 4 {
		got = append(got, c.ok(plain(nvme.IOFlush, 1), nil).SQHD())
	}
	for i, want := range []uint16{1, 2, 0, 1, 2} {
		if got[i] != want {
			t.Fatalf("SQHD is %v", got)
		}
	}
	c = r.dial(0)
	n := connectCommand(2, 3, 0)
	n.Attributes = nvme.ConnectDisableSQFlow
	if a := c.ok(n.Command(), connectData(h.id).Append(nil)); a.SQHD() != 0xffff {
		t.Errorf("SQHD of Connect is %x with flow control disabled", a.SQHD())
	}
	if !onThread(c.thread, c.q.FlowControlDisabled) {
		t.Error("flow control is not disabled")
	}
}

func TestQueueOverrun(t *testing.T) {
	r := newRig(t)
	h := r.connect(0)
	c := r.dial(0)
	c.ok(connectCommand(1, 4, 0).Command(), connectData(h.id).Append(nil))
	r.blocks.Hold()
	for range 5 {
		c.post(rw(nvme.IORead, 1, 0, 1, 4096), nil)
	}
	c.waitClosed(ErrQueueOverrun)
	r.blocks.Release()
}

func TestCommandIDConflict(t *testing.T) {
	r := newRig(t)
	h := r.connect(1)
	c := h.io[0]
	r.blocks.Hold()
	first := make(chan answer, 1)
	second := make(chan answer, 1)
	c.thread.Post(func() {
		cmd := rw(nvme.IORead, 1, 0, 1, 4096)
		cmd.SetCID(500)
		c.send(cmd, nil, nil)
		c.send(cmd, nil, second)
		c.wait[500] = first
	})
	if a := c.get(second); a.Status().Code() != nvme.StatusCommandIDConflict {
		t.Errorf("second command: %v", a.Status())
	}
	r.blocks.Release()
	if a := c.get(first); !a.Status().OK() {
		t.Errorf("first command: %v", a.Status())
	}
}

// Base 6.5
func TestDisconnect(t *testing.T) {
	r := newRig(t)
	h := r.connect(1)
	h.fails(nvme.StatusDisconnectInvalidQueueType, nvme.Disconnect{}.Command(), nil)
	c := h.io[0]
	c.fails(nvme.StatusConnectIncompatibleFormat, nvme.Disconnect{RecordFormat: 1}.Command(), nil)
	r.blocks.Hold()
	read := c.post(rw(nvme.IORead, 1, 0, 1, 4096), nil)
	bye := c.post(nvme.Disconnect{}.Command(), nil)
	late := c.post(rw(nvme.IORead, 1, 0, 1, 4096), nil)
	if a := c.get(late); a.Status().Code() != nvme.StatusSequenceError {
		t.Errorf("command after Disconnect: %v", a.Status())
	}
	if len(bye) > 0 {
		t.Error("Disconnect was answered before the commands ahead of it")
	}
	r.blocks.Release()
	if a := c.get(read); !a.Status().OK() {
		t.Errorf("command before Disconnect: %v", a.Status())
	}
	if a := c.get(bye); !a.Status().OK() {
		t.Errorf("Disconnect: %v", a.Status())
	}
	c.waitClosed(ErrDisconnected)
	// The identifier can be used again.
	r.eventually("the queue is free", func() bool {
		return r.dial(0).do(connectCommand(1, 32, 0).Command(), connectData(h.id).Append(nil)).Status().OK()
	})
}
