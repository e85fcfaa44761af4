package nvmf

import (
	"errors"
	"testing"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/proto"
)

func (h *host) csts() nvme.ControllerStatus {
	h.r.t.Helper()
	return nvme.ControllerStatus(h.ok(propertyGet(nvme.PropertyCSTS), nil).DW0())
}

func (r *rig) waitDissociated(n int) []*proto.DissociateRequest {
	r.t.Helper()
	var list []*proto.DissociateRequest
	r.eventually("the association ends", func() bool {
		r.core.mu.Lock()
		defer r.core.mu.Unlock()
		list = r.core.dissociated
		return len(list) >= n
	})
	return list
}

func TestProperties(t *testing.T) {
	h := newRig(t).connect(0)
	caps := nvme.ParseCapabilities(h.ok(propertyGet(nvme.PropertyCAP), nil).Result64())
	if caps.MaxQueueEntries != 1024 || !caps.ContiguousQueues || caps.CommandSets != nvme.CommandSetNVM|nvme.CommandSetIO ||
		caps.MinPageShift != 0 || !caps.ReadyWithMedia || caps.ReadyTimeout == 0 || caps.SubsystemReset {
		t.Errorf("%+v", caps)
	}
	if v := nvme.Version(h.ok(propertyGet(nvme.PropertyVS), nil).DW0()); v != nvme.Version20 {
		t.Errorf("version %v", v)
	}
	if v := nvme.Config(h.ok(propertyGet(nvme.PropertyCC), nil).DW0()); !v.Enable() {
		t.Errorf("CC is %x", v)
	}
	if v := nvme.ParseReadyTimeouts(h.ok(propertyGet(nvme.PropertyCRTO), nil).DW0()); v.WithMedia == 0 {
		t.Error("CRTO is 0")
	}
}

// A configuration that the controller does not have is fatal. Base 3.5.1
func TestEnable(t *testing.T) {
	good := nvme.MakeConfig(nvme.SelectNVM)
	for _, tc := range []struct {
		rule      string
		cc        nvme.Config
		discovery bool
		ready     bool
	}{
		{"NVM command set", good, false, true},
		{"all command sets", nvme.MakeConfig(nvme.SelectAll), false, true},
		{"Admin only", nvme.MakeConfig(nvme.SelectAdminOnly), false, false},
		{"reserved command set", nvme.MakeConfig(3), false, false},
		{"pages of 8 KiB", good | 1<<7, false, false},
		{"weighted round robin", good | 1<<11, false, false},
		{"submission entries of 128 bytes", good | 7<<16, false, false},
		{"completion entries of 32 bytes", good | 5<<20, false, false},
		{"no entry sizes", 1, false, false},
		{"discovery without entry sizes", 1, true, true},
		{"discovery, Admin only", nvme.MakeConfig(nvme.SelectAdminOnly), true, true},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			r := newRig(t)
			h := &host{fakeConn: r.dial(0)}
			d := connectData(nvme.DynamicControllerID)
			if tc.discovery {
				d.SubsystemNQN = nvme.DiscoveryNQN
			}
			h.ok(connectCommand(0, 32, 0).Command(), d.Append(nil))
			h.fails(nvme.StatusSequenceError, identify(nvme.CNSController, 0), nil)
			h.ok(setCC(tc.cc), nil)
			if st := h.csts(); st.Ready() != tc.ready || st.Fatal() == tc.ready {
				t.Errorf("CSTS is %x", st)
			}
			if tc.ready {
				h.ok(identify(nvme.CNSController, 0), nil)
			}
		})
	}
}

// A reset closes I/O queues, ends events and forgets features; the controller can be enabled
// again. Base 3.7.2
func TestControllerReset(t *testing.T) {
	r := newRig(t, withThreads(2))
	h := r.connect(2)
	h.enableEvents()
	ev := h.requestEvent()
	r.blocks.Hold()
	for _, c := range h.io {
		c.post(rw(nvme.IOWrite, 1, 0, 1, 4096), make([]byte, 4096))
	}
	r.eventually("commands are at the core", func() bool { return r.blocks.Held() == 2 })
	h.ok(setCC(nvme.MakeConfig(nvme.SelectNVM).WithEnable(false)), nil)
	h.fails(nvme.StatusSequenceError, identify(nvme.CNSController, 0), nil)
	r.blocks.Release()
	r.eventually("not ready", func() bool { return !h.csts().Ready() })
	if a := h.get(ev); a.Status().OK() {
		t.Error("an event by reset")
	}
	for _, c := range h.io {
		c.waitClosed(ErrReset)
	}
	h.ok(setCC(nvme.MakeConfig(nvme.SelectNVM)), nil)
	if !h.csts().Ready() {
		t.Fatal("not ready again")
	}
	if v := h.ok(getFeature(nvme.FeatureAsyncEvents, 0, 0, 0), nil).DW0(); v != 0 {
		t.Errorf("event configuration %x survived", v)
	}
	h.io = nil
	h.addQueue(1, connectData(h.id)).ok(rw(nvme.IORead, 1, 0, 1, 4096), nil)
}

// Base 3.6.2
func TestShutdown(t *testing.T) {
	for _, how := range []nvme.Shutdown{nvme.ShutdownNormal, nvme.ShutdownAbrupt} {
		r := newRig(t)
		h := r.connect(1)
		h.ok(setCC(nvme.MakeConfig(nvme.SelectNVM).WithShutdown(how)), nil)
		r.eventually("shutdown completes", func() bool { return h.csts().ShutdownComplete() })
		h.io[0].waitClosed(ErrReset)
		h.gone()
		if d := r.waitDissociated(1); !d[0].Clean {
			t.Error("a host that shut down has not ended cleanly")
		}
	}
}

func TestDisabledControllerEnds(t *testing.T) {
	r := newRig(t, withLimits(Limits{DisabledTimeout: 20e6}))
	c := r.dial(0)
	c.ok(connectCommand(0, 32, 0).Command(), connectData(nvme.DynamicControllerID).Append(nil))
	c.waitClosed(ErrIdle)
}

// A host that is silent for the timeout loses its association. Base 3.9
func TestKeepAliveExpires(t *testing.T) {
	r := newRig(t)
	h := r.connectAs(connectData(nvme.DynamicControllerID), 1, 1) // rounded up to 100 ms
	h.waitClosed(ErrKeepAlive)
	h.io[0].waitClosed(ErrKeepAlive)
	if d := r.waitDissociated(1); d[0].Clean {
		t.Error("ended cleanly without keep alive")
	}
}

// Any command, on any queue, keeps the association alive (CTRATT.TBKAS). The test is the clock.
func TestKeepAlive(t *testing.T) {
	r := newRig(t, withThreads(2))
	h := r.connectAs(connectData(nvme.DynamicControllerID), 1, 3_600_000)
	halfTimeout := func() { onThread(h.thread, func() bool { h.q.ctrl.keepAliveTick(); return true }) }
	for _, command := range []func(){
		func() { h.ok(plain(nvme.AdminKeepAlive, 0), nil) },
		func() { h.ok(propertyGet(nvme.PropertyCSTS), nil) },
		func() { h.io[0].ok(plain(nvme.IOFlush, 1), nil) },
	} {
		for range 3 {
			command()
			halfTimeout()
			halfTimeout()
		}
	}
	if len(h.closed) > 0 {
		t.Fatal("closed in spite of commands")
	}
	halfTimeout()
	h.waitClosed(ErrKeepAlive)
}

func TestKeepAliveOff(t *testing.T) {
	r := newRig(t)
	h := r.connectAs(connectData(nvme.DynamicControllerID), 0, 100)
	h.ok(setFeature(nvme.FeatureKeepAlive, 0, 0), nil)
	if running := onThread(h.thread, func() bool { return h.q.ctrl.kaTimer.Stop() }); running {
		t.Error("the timer runs")
	}
}

// The association ends when the last command has, and says whether all were answered.
func TestAssociationEnds(t *testing.T) {
	t.Run("idle", func(t *testing.T) {
		r := newRig(t, withThreads(2))
		h := r.connect(2)
		for _, c := range h.io {
			c.gone()
		}
		h.gone()
		if d := r.waitDissociated(1); !d[0].Clean || d[0].Association != h.association() {
			t.Errorf("%v", d)
		}
		r.eventually("the controller is gone", func() bool { return r.target.Controllers() == 0 })
	})
	t.Run("commands under way", func(t *testing.T) {
		r := newRig(t, withThreads(2))
		h := r.connect(2)
		r.blocks.Intercept(nil)
		r.blocks.Hold()
		h.io[0].post(rw(nvme.IOWrite, 1, 0, 1, 4096), make([]byte, 4096))
		r.eventually("the command is at the core", func() bool { return r.blocks.Held() == 1 })
		h.gone()
		h.io[0].waitClosed(ErrAdminLost)
		r.blocks.Release()
		if d := r.waitDissociated(1); d[0].Clean {
			t.Error("ended cleanly with a command under way")
		}
	})
	t.Run("not before the commands have ended", func(t *testing.T) {
		r := newRig(t)
		release := make(chan struct{})
		r.core.reserve = func(*proto.ReserveRequest) (*proto.ReserveResponse, error) {
			<-release
			return &proto.ReserveResponse{}, nil
		}
		h := r.connect(1)
		h.io[0].post(reservationReport(64), nil)
		r.eventually("the core was asked", func() bool {
			r.core.mu.Lock()
			defer r.core.mu.Unlock()
			return len(r.core.reserved) == 1
		})
		h.gone()
		h.io[0].waitClosed(ErrAdminLost)
		onThread(h.thread, func() bool { return true })
		r.core.mu.Lock()
		n := len(r.core.dissociated)
		r.core.mu.Unlock()
		if n != 0 {
			t.Error("ended with a command under way")
		}
		close(release)
		r.waitDissociated(1)
	})
}

// One I/O queue lost with commands under way ends the association, after a grace in which the
// host may shut down; lost without, it does not.
func TestQueueLost(t *testing.T) {
	r := newRig(t, withLimits(Limits{LossGrace: 50e6}))
	h := r.connect(2)
	h.io[0].gone()
	r.eventually("the queue can be made again", func() bool {
		d := connectData(h.id)
		return r.dial(0).do(connectCommand(1, 32, 0).Command(), d.Append(nil)).Status().OK()
	})
	r.blocks.Hold()
	h.io[1].post(rw(nvme.IOWrite, 1, 0, 1, 4096), make([]byte, 4096))
	r.eventually("the command is at the core", func() bool { return r.blocks.Held() == 1 })
	h.io[1].gone()
	r.dial(0).fails(nvme.StatusConnectControllerBusy, connectCommand(2, 32, 0).Command(), connectData(h.id).Append(nil))
	h.waitClosed(ErrQueueLost)
	r.blocks.Release()
}

func TestCoreEndsAssociation(t *testing.T) {
	r := newRig(t)
	h := r.connect(1)
	r.core.updates <- &proto.Update{Update: &proto.Update_End{End: &proto.AssociationEnd{Association: h.association(), Reason: "host denied"}}}
	h.waitClosed(ErrEnded)
	h.io[0].waitClosed(ErrEnded)
}

func TestCoreDies(t *testing.T) {
	r := newRig(t)
	h := r.connect(1)
	close(r.core.updates)
	h.waitClosed(ErrTargetClosed)
	if err := <-r.ended; err == nil || errors.Is(err, ErrTargetClosed) {
		t.Errorf("Run ended with %v", err)
	}
	r.ended <- nil
}

// What the core sends of an association before its Associate has returned is not lost.
func TestUpdatesBeforeAssociateReturns(t *testing.T) {
	setup := func(t *testing.T) (*rig, *fakeConn, chan answer, chan struct{}) {
		r := newRig(t)
		hold := make(chan struct{})
		r.core.hold = hold
		c := r.dial(0)
		ch := c.post(connectCommand(0, 32, 0).Command(), connectData(nvme.DynamicControllerID).Append(nil))
		r.eventually("Associate is called", func() bool {
			r.target.mu.Lock()
			defer r.target.mu.Unlock()
			return r.target.associating == 1
		})
		return r, c, ch, hold
	}
	taken := func(r *rig) {
		r.eventually("the update is kept", func() bool {
			r.target.mu.Lock()
			defer r.target.mu.Unlock()
			return len(r.target.early) == 1
		})
	}
	t.Run("grants", func(t *testing.T) {
		r, c, ch, hold := setup(t)
		r.core.updates <- &proto.Update{Update: &proto.Update_Grants{Grants: &proto.Grants{
			Association: 1, Grants: []*proto.Grant{{Nsid: 2, AnaState: proto.AnaState_ANA_INACCESSIBLE}},
		}}}
		taken(r)
		close(hold)
		c.get(ch)
		h := &host{fakeConn: c, id: 1}
		h.ok(setCC(nvme.MakeConfig(nvme.SelectNVM)), nil)
		if l := h.anaLog(0); len(l.Groups) != 1 || l.Groups[0].State != nvme.ANAInaccessible {
			t.Errorf("%+v", l)
		}
	})
	t.Run("end", func(t *testing.T) {
		r, c, ch, hold := setup(t)
		r.core.updates <- &proto.Update{Update: &proto.Update_End{End: &proto.AssociationEnd{Association: 1}}}
		taken(r)
		close(hold)
		c.get(ch)
		c.waitClosed(ErrEnded)
	})
	t.Run("host gone meanwhile", func(t *testing.T) {
		r, c, _, hold := setup(t)
		c.gone()
		close(hold)
		if d := r.waitDissociated(1); !d[0].Clean {
			t.Error("not clean")
		}
	})
}

// Two hosts, their controllers and queues on two threads, at once.
func TestManyHosts(t *testing.T) {
	r := newRig(t, withThreads(2))
	d := connectData(nvme.DynamicControllerID)
	d.HostNQN = otherNQN
	hosts := []*host{r.connect(4), r.connectAs(d, 4, 0), r.discovery(hostNQN, 0)}
	var answers []chan answer
	for i := range 200 {
		for _, h := range hosts {
			for _, c := range h.io {
				if i%20 < 10 {
					answers = append(answers, c.post(rw(nvme.IOWrite, 1, nvme.LBA(i), 1, 4096), pattern(byte(i), 4096)))
				} else {
					answers = append(answers, c.post(rw(nvme.IORead, 1, nvme.LBA(i), 1, 4096), nil))
				}
			}
		}
		if i%20 == 19 {
			for _, ch := range answers {
				if a := hosts[0].get(ch); !a.Status().OK() {
					t.Fatal(a.Status())
				}
			}
			answers = answers[:0]
			r.export(func(s *proto.Subsystem) { s.Namespaces[1].UsedBytes++ })
			r.grant(hosts[0].association(), func(g map[uint32]*proto.Grant) { g[1].AnaChangeCount++ })
		}
	}
}
