package nvmf

import (
	"fmt"
	"slices"
	"testing"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/proto"
)

func (h *host) enableEvents() {
	h.r.t.Helper()
	h.ok(setFeature(nvme.FeatureAsyncEvents, 0, uint32(nvme.EventsNamespaceChange|nvme.EventsANAChange)), nil)
}

func (h *host) requestEvent() chan answer {
	return h.post(plain(nvme.AdminAsyncEventRequest, 0), nil)
}

// event waits for an event.
func (h *host) event(ch chan answer, want nvme.AsyncEvent) {
	h.r.t.Helper()
	a := h.get(ch)
	if !a.Status().OK() || nvme.ParseAsyncEvent(a.DW0()) != want {
		h.r.t.Fatalf("%v, event %+v, want %+v", a.Status(), nvme.ParseAsyncEvent(a.DW0()), want)
	}
}

// changed reads the Changed Namespace List.
func (h *host) changed(retain bool) nvme.ChangedNSList {
	h.r.t.Helper()
	l, _, err := nvme.ParseChangedNSList(h.ok(toHost(nvme.GetLogPage{
		LID: nvme.LogChangedNamespaces, Length: 4096, RetainEvent: retain,
	}.Command(), 4096), nil).data)
	if err != nil {
		h.r.t.Fatal(err)
	}
	return l
}

// settled waits until the controller has seen what the core sent before: updates are taken in
// order, and the last one changes nothing.
func (h *host) settled() {
	h.r.t.Helper()
	h.r.export(func(*proto.Subsystem) {})
	h.r.eventually("the exports are current", func() bool {
		return h.r.target.currentExports().subsystem(testNQN).GetGeneration() == h.r.sub().GetGeneration()
	})
	onThread(h.thread, func() bool { return true })
}

// Namespaces come, go and change under a connected host.
func TestLiveNamespaces(t *testing.T) {
	r := newRig(t)
	h := r.connect(1)
	c := h.io[0]
	h.enableEvents()
	expect := func(what string, ids ...nvme.NSID) {
		t.Helper()
		if l := h.changed(false); !slices.Equal(l.NSIDs, ids) {
			t.Errorf("%s: changed %v, want %v", what, l.NSIDs, ids)
		}
	}
	ev := h.requestEvent()
	r.addNamespace(5, 4096, 1<<20, proto.Durability_DURABILITY_SYNC)
	r.export(func(*proto.Subsystem) {})
	r.grant(h.association(), func(map[uint32]*proto.Grant) {})
	h.event(ev, nvme.EventNSAttribute)
	expect("attached", 5)
	c.ok(rw(nvme.IORead, 5, 0, 1, 4096), nil)

	ev = h.requestEvent()
	r.export(func(s *proto.Subsystem) { s.Namespaces[0].SizeBytes = 16 << 20 })
	h.event(ev, nvme.EventNSAttribute)
	expect("resized", 1)
	if id, _, _ := nvme.ParseIdentifyNamespace(h.ok(identify(nvme.CNSNamespace, 1), nil).data); id.Size != 4096 {
		t.Errorf("%d blocks after the resize", id.Size)
	}

	ev = h.requestEvent()
	r.grant(h.association(), func(g map[uint32]*proto.Grant) { delete(g, 2); delete(g, 5) })
	h.event(ev, nvme.EventNSAttribute)
	expect("detached", 2, 5)
	c.fails(nvme.StatusInvalidField, rw(nvme.IORead, 5, 0, 1, 4096), nil)

	ev = h.requestEvent()
	r.export(func(s *proto.Subsystem) { s.Namespaces[0].VisibleTo = []string{otherNQN} })
	h.event(ev, nvme.EventNSAttribute)
	expect("hidden", 1)
	if l := h.changed(false); len(l.NSIDs) != 0 {
		t.Errorf("read again: %v", l.NSIDs)
	}
	// Used space is no attribute that hosts are told of.
	r.export(func(s *proto.Subsystem) { s.Namespaces[0].UsedBytes += 4096 })
	h.settled()
	if l := h.changed(false); len(l.NSIDs) != 0 {
		t.Errorf("used space: %v", l.NSIDs)
	}
}

// An event stays masked until its page is read without RAE. Base 5.2
func TestEventMaskedUntilRead(t *testing.T) {
	r := newRig(t)
	h := r.connect(0)
	h.enableEvents()
	resize := func(n uint64) { r.export(func(s *proto.Subsystem) { s.Namespaces[0].SizeBytes = n << 20 }) }
	first, second := h.requestEvent(), h.requestEvent()
	resize(16)
	h.event(first, nvme.EventNSAttribute)
	resize(24)
	h.settled()
	if l := h.changed(true); !slices.Equal(l.NSIDs, []nvme.NSID{1}) {
		t.Errorf("changed %v", l.NSIDs)
	}
	if len(second) > 0 {
		t.Fatal("a second event before the page was read")
	}
	if l := h.changed(false); !slices.Equal(l.NSIDs, []nvme.NSID{1}) {
		t.Errorf("RAE has cleared the list: %v", l.NSIDs)
	}
	resize(32)
	h.event(second, nvme.EventNSAttribute)
}

// An event that nobody waits for is told as soon as somebody does.
func TestEventWaitsForRequest(t *testing.T) {
	r := newRig(t)
	h := r.connect(0)
	h.enableEvents()
	r.export(func(s *proto.Subsystem) { s.Namespaces[0].SizeBytes = 16 << 20 })
	h.settled()
	h.event(h.requestEvent(), nvme.EventNSAttribute)
}

func TestEventNotEnabled(t *testing.T) {
	r := newRig(t)
	h := r.connect(0)
	h.ok(setFeature(nvme.FeatureAsyncEvents, 0, uint32(nvme.EventsANAChange)), nil)
	ev := h.requestEvent()
	r.export(func(s *proto.Subsystem) { s.Namespaces[0].SizeBytes = 16 << 20 })
	r.grant(h.association(), func(g map[uint32]*proto.Grant) { g[1].AnaState = proto.AnaState_ANA_CHANGE })
	h.event(ev, nvme.EventANAChange)
}

func TestEventRequestLimit(t *testing.T) {
	h := newRig(t, withLimits(Limits{AsyncEvents: 2})).connect(0)
	h.requestEvent()
	h.requestEvent()
	h.fails(nvme.StatusAsyncEventLimitExceeded, plain(nvme.AdminAsyncEventRequest, 0), nil)
}

// More namespaces changed than the page can name. Base 5.16.1.5
func TestManyNamespacesChanged(t *testing.T) {
	r := newRig(t)
	r.sub().MaxNamespaces = 2000
	h := r.connect(0)
	r.export(func(s *proto.Subsystem) {
		for i := uint32(3); i <= 1100; i++ {
			s.Namespaces = append(s.Namespaces, &proto.Namespace{
				Nsid: i, VolumeId: fmt.Sprint(i), SizeBytes: 1 << 20, BlockBytes: 4096, AnaGroup: i,
			})
		}
	})
	r.grant(h.association(), func(g map[uint32]*proto.Grant) {
		for i := uint32(3); i <= 1100; i++ {
			g[i] = &proto.Grant{Nsid: i, AnaState: proto.AnaState_ANA_INACCESSIBLE}
		}
	})
	r.eventually("the list gives up", func() bool { return h.changed(true).Many })
	l, _, _ := nvme.ParseNSList(h.ok(identify(nvme.CNSActiveNamespaces, 0), nil).data)
	if len(l) != nvme.MaxNSList || l[1023] != 1024 {
		t.Errorf("active list has %d entries", len(l))
	}
}

// Commands end as the ANA state says; a change of state is an event. Base 8.1
func TestANAStates(t *testing.T) {
	r := newRig(t)
	h := r.connect(1)
	c := h.io[0]
	h.enableEvents()
	commands := []nvme.Command{
		rw(nvme.IORead, 1, 0, 1, 4096), rw(nvme.IOWrite, 1, 0, 1, 4096), rw(nvme.IOCompare, 1, 0, 1, 4096),
		rw(nvme.IOWriteZeroes, 1, 0, 1, 0), rw(nvme.IOVerify, 1, 0, 1, 0), plain(nvme.IOFlush, 1),
		datasetCommand(1, nvme.DatasetDeallocate), reservationReport(64),
	}
	for _, tc := range []struct {
		state  proto.AnaState
		status nvme.Status
	}{
		{proto.AnaState_ANA_NON_OPTIMIZED, nvme.StatusSuccess},
		{proto.AnaState_ANA_INACCESSIBLE, nvme.StatusANAInaccessible},
		{proto.AnaState_ANA_CHANGE, nvme.StatusANATransition},
		{proto.AnaState_ANA_PERSISTENT_LOSS, nvme.StatusANAPersistentLoss},
		{proto.AnaState_ANA_OPTIMIZED, nvme.StatusSuccess},
	} {
		t.Run(tc.state.String(), func(t *testing.T) {
			ev := h.requestEvent()
			r.grant(h.association(), func(g map[uint32]*proto.Grant) { g[1].AnaState = tc.state })
			h.event(ev, nvme.EventANAChange)
			if l := h.anaLog(0); anaState(tc.state) != l.Groups[0].State {
				t.Errorf("log says %v", l.Groups[0].State)
			}
			for _, cmd := range commands {
				if a := c.fails(tc.status, cmd, make([]byte, 4096)); a.Status().DNR() {
					t.Errorf("opcode %02xh: Do Not Retry is set", uint8(cmd.Opcode()))
				}
			}
			// Identify works in every state.
			h.ok(identify(nvme.CNSNamespace, 1), nil)
		})
	}
	if l := h.changed(false); len(l.NSIDs) != 0 {
		t.Errorf("an ANA change is no attribute change, but %v changed", l.NSIDs)
	}
}

// A request that the core sends elsewhere ends as the present ANA state says.
func TestPathLostWhileUnderWay(t *testing.T) {
	r := newRig(t)
	h := r.connect(1)
	c := h.io[0]
	r.volumes[1].Revoke()
	c.fails(nvme.StatusANATransition, rw(nvme.IORead, 1, 0, 1, 4096), nil)
	r.blocks.Hold()
	read := c.post(rw(nvme.IORead, 1, 0, 1, 4096), nil)
	r.eventually("the command is at the core", func() bool { return r.blocks.Held() == 1 })
	r.grant(h.association(), func(g map[uint32]*proto.Grant) { g[1].AnaState = proto.AnaState_ANA_INACCESSIBLE })
	r.eventually("the grants arrive", func() bool { return h.anaLog(0).Groups[0].State == nvme.ANAInaccessible })
	onThread(c.thread, func() bool { return true })
	r.blocks.Release()
	if a := c.get(read); a.Status().Code() != nvme.StatusANAInaccessible {
		t.Error(a.Status())
	}
}

// Base 5.16.1.24
func TestReservationNotifications(t *testing.T) {
	r := newRig(t)
	h := r.connect(0)
	notify := func(nsid uint32, k proto.ReservationEventType) {
		r.core.updates <- &proto.Update{Update: &proto.Update_Reservation{Reservation: &proto.ReservationEvent{
			Association: h.association(), Nsid: nsid, Type: k,
		}}}
	}
	log := func() nvme.ReservationNotification {
		n, _, _ := nvme.ParseReservationNotification(h.ok(getLog(nvme.LogReservationNotification, 64), nil).data)
		return n
	}
	if n := log(); n.Type != nvme.ReservationLogEmpty || n.Count != 0 {
		t.Errorf("%+v", n)
	}
	h.ok(setFeature(nvme.FeatureReservationMask, 2, nvme.MaskReservationReleased), nil)
	first, second := h.requestEvent(), h.requestEvent()
	notify(2, proto.ReservationEventType_RESERVATION_EVENT_RELEASED) // masked
	notify(1, proto.ReservationEventType_RESERVATION_EVENT_RELEASED)
	h.event(first, nvme.EventReservation)
	notify(2, proto.ReservationEventType_RESERVATION_EVENT_PREEMPTED)
	h.settled()
	if n := log(); n.Type != nvme.ReservationReleased || n.NSID != 1 || n.Available != 1 || n.Count != 1 {
		t.Errorf("%+v", n)
	}
	h.event(second, nvme.EventReservation)
	if n := log(); n.Type != nvme.ReservationPreemptedAway || n.NSID != 2 || n.Available != 0 || n.Count != 2 {
		t.Errorf("%+v", n)
	}
	if n := log(); n.Type != nvme.ReservationLogEmpty {
		t.Errorf("%+v", n)
	}
}

// discovery is a host of the discovery service.
func (r *rig) discovery(name string, kato uint32) *host {
	d := connectData(nvme.DynamicControllerID)
	d.SubsystemNQN, d.HostNQN = nvme.DiscoveryNQN, name
	return r.connectAs(d, 0, kato)
}

func (h *host) discoveryLog() (nvme.DiscoveryHeader, []nvme.DiscoveryEntry) {
	h.r.t.Helper()
	b := h.ok(getLog(nvme.LogDiscovery, 1024), nil).data
	header, _, _ := nvme.ParseDiscoveryHeader(b)
	n := int(header.Records) * nvme.DiscoveryEntrySize
	if n == 0 {
		return header, nil
	}
	b = h.ok(toHost(nvme.GetLogPage{LID: nvme.LogDiscovery, Length: uint64(n), Offset: 1024}.Command(), n), nil).data
	var list []nvme.DiscoveryEntry
	for len(b) > 0 {
		e, n, err := nvme.ParseDiscoveryEntry(b)
		if err != nil {
			h.r.t.Fatal(err)
		}
		list = append(list, e)
		b = b[n:]
	}
	return header, list
}

// What a host sees of subsystems and access points. Base 5.16.1.23
func TestDiscovery(t *testing.T) {
	r := newRig(t)
	secret := &proto.Subsystem{Nqn: testNQN + "-secret", AllowedHosts: []string{otherNQN}, MaxNamespaces: 1}
	r.exports.Subsystems = append(r.exports.Subsystems, secret)
	r.target.setExports(r.exports)
	show := func(h *host) []string {
		_, list := h.discoveryLog()
		var got []string
		for _, e := range list {
			got = append(got, fmt.Sprintf("%d %s %s %s:%s port %d", e.Subsystem, e.Transport, e.NQN, e.Address, e.Service, e.Port))
		}
		return got
	}
	want := []string{
		"3 tcp " + nvme.DiscoveryNQN + " 127.0.0.1:4420 port 1",
		"2 tcp " + testNQN + " 127.0.0.1:4420 port 1",
		"2 rdma " + testNQN + " fd00::1:4420 port 2",
	}
	if got := show(r.discovery(hostNQN, 0)); !slices.Equal(got, want) {
		t.Errorf("host sees %q", got)
	}
	all := []string{
		want[0], want[1], "2 tcp " + secret.Nqn + " 127.0.0.1:4420 port 1",
		want[2], "2 rdma " + secret.Nqn + " fd00::1:4420 port 2",
	}
	other := r.discovery(otherNQN, 0)
	if got := show(other); !slices.Equal(got, all) {
		t.Errorf("other host sees %q", got)
	}
	_, list := other.discoveryLog()
	if e := list[1]; e.Controller != nvme.DynamicControllerID || e.AdminEntries < 32 || e.Family != nvme.AddressIPv4 {
		t.Errorf("%+v", e)
	}
	if e := list[3]; e.Family != nvme.AddressIPv6 || e.Security != 1 || e.RDMAConnect != 1 {
		t.Errorf("%+v", e)
	}
}

func TestDiscoveryController(t *testing.T) {
	h := newRig(t).discovery(hostNQN, 0)
	id := h.identifyController()
	if id.Type != nvme.ControllerDiscovery || id.SubsystemNQN != nvme.DiscoveryNQN || id.MaxNSID != 0 || id.AsyncEvents != nvme.EventsDiscoveryChange {
		t.Errorf("%+v", id)
	}
	h.fails(nvme.StatusInvalidField, identify(nvme.CNSActiveNamespaces, 0), nil)
	h.fails(nvme.StatusInvalidLogPage, getLog(nvme.LogANA, 64), nil)
	h.fails(nvme.StatusInvalidField, getFeature(nvme.FeatureQueues, 0, 0, 0), nil)
	h.ok(getLog(nvme.LogSupportedPages, 1024), nil)
	h.ok(plain(nvme.AdminKeepAlive, 0), nil)
}

// A persistent discovery controller tells of changes of what its host may see, and of no other.
func TestDiscoveryChange(t *testing.T) {
	r := newRig(t)
	h := r.discovery(hostNQN, 60_000)
	h.ok(setFeature(nvme.FeatureAsyncEvents, 0, uint32(nvme.EventsDiscoveryChange)), nil)
	before, _ := h.discoveryLog()
	ev := h.requestEvent()
	r.export(func(s *proto.Subsystem) { // for another host
		r.exports.Subsystems = append(r.exports.Subsystems, &proto.Subsystem{Nqn: testNQN + "-b", AllowedHosts: []string{otherNQN}})
	})
	r.export(func(s *proto.Subsystem) { s.Namespaces[0].SizeBytes = 32 << 20 })
	h.settled()
	if now, _ := h.discoveryLog(); now.Generation != before.Generation || len(ev) > 0 {
		t.Errorf("generation %d became %d for what this host cannot see", before.Generation, now.Generation)
	}
	r.export(func(s *proto.Subsystem) { r.exports.Subsystems[1].AllowedHosts = []string{otherNQN, hostNQN} })
	h.event(ev, nvme.EventDiscovery)
	after, list := h.discoveryLog()
	if after.Generation <= before.Generation || len(list) != 5 {
		t.Errorf("generation %d became %d, %d entries", before.Generation, after.Generation, len(list))
	}
	ev = h.requestEvent()
	r.exports.AccessPoints = slices.Clone(r.exports.AccessPoints[:1])
	r.export(func(*proto.Subsystem) {})
	h.event(ev, nvme.EventDiscovery)
}

func TestIdleDiscoveryEnds(t *testing.T) {
	r := newRig(t, withLimits(Limits{DiscoveryTimeout: 20e6}))
	r.discovery(hostNQN, 0).waitClosed(ErrIdle)
}

// An access point that listens on every address is shown as the host reached it.
func TestDiscoveryOfWildcard(t *testing.T) {
	r := newRig(t)
	r.exports.AccessPoints = []*proto.AccessPoint{
		{Id: "ap1", Url: "nvme-tcp://0.0.0.0:4420", Up: true},
		{Id: "ap9", Url: "nvme-tcp://[::]:4420", Up: true},
	}
	r.target.setExports(r.exports)
	_, list := r.discovery(hostNQN, 0).discoveryLog()
	if len(list) != 2 || list[1].Address != "127.0.0.1" {
		t.Errorf("%+v", list)
	}
}
