package nvmf

import (
	"errors"
	"slices"
	"testing"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/ring"
)

func TestAdminRefused(t *testing.T) {
	h := newRig(t).connect(0)
	for _, tc := range []struct {
		rule   string
		cmd    nvme.Command
		status nvme.Status
	}{
		{"create I/O queue is not for fabrics", plain(nvme.AdminCreateIOSQ, 0), nvme.StatusInvalidOpcode},
		{"format is not supported", plain(nvme.AdminFormatNVM, 1), nvme.StatusInvalidOpcode},
		{"vendor specific", plain(0xc5, 0), nvme.StatusInvalidOpcode},
		{"fused Admin command", func() nvme.Command {
			c := identify(nvme.CNSController, 0)
			c.SetFuse(nvme.FuseFirst)
			return c
		}(), nvme.StatusInvalidField},
		{"identify: unknown CNS", identify(0x55, 0), nvme.StatusInvalidField},
		{"identify: SGL too short", toHost(nvme.Identify{CNS: nvme.CNSController}.Command(), 4092), nvme.StatusInvalidSGLLength},
		{"identify: broadcast without namespace management", identify(nvme.CNSNamespace, nvme.BroadcastNSID), nvme.StatusInvalidNamespace},
		{"identify: namespace 0", identify(nvme.CNSNamespace, 0), nvme.StatusInvalidNamespace},
		{"identify: namespace above NN", identify(nvme.CNSNamespace, 17), nvme.StatusInvalidNamespace},
		{"identify: descriptors of an inactive namespace", identify(nvme.CNSNamespaceDescriptors, 9), nvme.StatusInvalidField},
		{"identify: list from FFFFFFFEh", identify(nvme.CNSActiveNamespaces, nvme.BroadcastNSID-1), nvme.StatusInvalidNamespace},
		{"identify: another command set", toHost(nvme.Identify{CNS: nvme.CNSNamespaceForSet, NSID: 1, CommandSet: nvme.CommandSetIDZoned}.Command(), 4096), nvme.StatusInvalidField},
		{"identify: command sets of a controller that does not exist", toHost(nvme.Identify{CNS: nvme.CNSIOCommandSets, Controller: 99}.Command(), 4096), nvme.StatusInvalidField},
		{"log: unknown page", getLog(0xaa, 512), nvme.StatusInvalidLogPage},
		{"log: discovery page of an I/O controller", getLog(nvme.LogDiscovery, 1024), nvme.StatusInvalidLogPage},
		{"log: more than MDTS", getLog(nvme.LogError, 1<<20+4), nvme.StatusInvalidField},
		{"log: SGL shorter than NUMD says", func() nvme.Command {
			c := getLog(nvme.LogSMART, 512)
			return toHost(c, 508)
		}(), nvme.StatusInvalidSGLLength},
		{"log: offset not a dword", toHost(nvme.GetLogPage{LID: nvme.LogSMART, Length: 512, Offset: 2}.Command(), 512), nvme.StatusInvalidField},
		{"log: offset behind the page", toHost(nvme.GetLogPage{LID: nvme.LogSMART, Length: 512, Offset: 516}.Command(), 512), nvme.StatusInvalidField},
		{"log: offset is an index", toHost(nvme.GetLogPage{LID: nvme.LogSMART, Length: 512, OffsetIndex: true}.Command(), 512), nvme.StatusInvalidField},
		{"log: SMART of one namespace", toHost(nvme.GetLogPage{LID: nvme.LogSMART, Length: 512, NSID: 1}.Command(), 512), nvme.StatusInvalidField},
		{"log: effects of another command set", toHost(nvme.GetLogPage{LID: nvme.LogCommandEffects, Length: 512, CommandSet: 2}.Command(), 512), nvme.StatusInvalidField},
		{"feature: unknown", getFeature(0x70, 0, 0, 0), nvme.StatusInvalidField},
		{"feature: reserved selection", getFeature(nvme.FeatureArbitration, 0, 5, 0), nvme.StatusInvalidField},
		{"feature: cannot be saved", nvme.Features{Opcode: nvme.AdminSetFeatures, ID: nvme.FeatureArbitration, Save: true}.Command(), nvme.StatusFeatureNotSaveable},
		{"feature: not namespace specific", setFeature(nvme.FeatureArbitration, 1, 0), nvme.StatusFeatureNotNamespaceSpecific},
		{"feature: namespace inactive", setFeature(nvme.FeatureReservationMask, 9, 0), nvme.StatusInvalidField},
		{"feature: namespace invalid", getFeature(nvme.FeatureReservationMask, 99, 0, 0), nvme.StatusInvalidNamespace},
		{"feature: broadcast get", getFeature(nvme.FeatureReservationMask, nvme.BroadcastNSID, 0, 0), nvme.StatusInvalidNamespace},
		{"feature: host identifier is set by Connect", setFeature(nvme.FeatureHostID, 0, nvme.HostIDExtended), nvme.StatusSequenceError},
		{"feature: host identifier of 64 bits", toHost(getFeature(nvme.FeatureHostID, 0, 0, 0), 8), nvme.StatusInvalidField},
		{"feature: no such power state", setFeature(nvme.FeaturePower, 0, 1), nvme.StatusInvalidField},
		{"feature: no such temperature sensor", setFeature(nvme.FeatureTemperature, 0, nvme.Temperature{Sensor: 2}.Value()), nvme.StatusInvalidField},
		{"feature: 65,536 queues", setFeature(nvme.FeatureQueues, 0, 0xffff), nvme.StatusInvalidField},
		{"feature: event not supported", setFeature(nvme.FeatureAsyncEvents, 0, uint32(nvme.EventsTelemetry)), nvme.StatusInvalidField},
		{"feature: unwritten errors are not supported", setFeature(nvme.FeatureErrorRecovery, 1, nvme.ErrorRecovery{UnwrittenErrors: true}.Value()), nvme.StatusInvalidField},
		{"feature: no write cache", setFeature(nvme.FeatureWriteCache, 0, 1), nvme.StatusInvalidField},
		{"feature: another command set profile", setFeature(nvme.FeatureCommandSetProfile, 0, 1), nvme.StatusIOCommandSetCombinationRejected},
		{"property: unknown", nvme.PropertyGet{Size: 4, Offset: 0x30}.Command(), nvme.StatusInvalidField},
		{"property: wrong size", nvme.PropertyGet{Size: 4, Offset: nvme.PropertyCAP}.Command(), nvme.StatusInvalidField},
		{"property: read only", nvme.PropertySet{Size: 4, Offset: nvme.PropertyCSTS}.Command(), nvme.StatusInvalidField},
		{"property: subsystem reset is not supported", nvme.PropertySet{Size: 4, Offset: nvme.PropertyNSSR, Value: uint64(nvme.SubsystemResetMagic)}.Command(), nvme.StatusInvalidField},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			if a := h.fails(tc.status, tc.cmd, nil); !a.Status().DNR() {
				t.Error("Do Not Retry is clear")
			}
		})
	}
}

func (h *host) identifyController() nvme.IdentifyController {
	h.r.t.Helper()
	id, _, err := nvme.ParseIdentifyController(h.ok(identify(nvme.CNSController, 0), nil).data)
	if err != nil {
		h.r.t.Fatal(err)
	}
	return id
}

// The kernel refuses a controller whose MNAN is 0 or above NN, drops ANA when its log exceeds
// MDTS, and needs what is checked here.
func TestIdentifyController(t *testing.T) {
	r := newRig(t)
	h := r.connect(0)
	id := h.identifyController()
	if id.MaxNamespaces == 0 || id.MaxNamespaces > uint32(id.MaxNSID) || id.MaxNSID != 16 {
		t.Errorf("MNAN %d, NN %d", id.MaxNamespaces, id.MaxNSID)
	}
	log := nvme.ANALogHeaderSize + int(id.ANAGroupCount)*nvme.ANAGroupSize + int(id.MaxNamespaces)*4
	if mdts := 4096 << id.MaxTransferShift; log > mdts || mdts != 1<<20 {
		t.Errorf("ANA log of %d bytes, MDTS %d", log, mdts)
	}
	if id.Type != nvme.ControllerIO || id.Version != nvme.Version20 || id.Controller != h.id ||
		id.SerialNumber != "SN1" || id.ModelNumber != "Mooring" || id.SubsystemNQN != testNQN ||
		id.CommandCapsule != (64+8192)/16 || id.ResponseCapsule != 1 || id.MaxCommands != 1024 ||
		id.WriteCache&nvme.WriteCachePresent != 0 || id.MaxANAGroup < 2 || id.KeepAliveGranularity == 0 {
		t.Errorf("%+v", id)
	}
	// The largest subsystem that the limits allow.
	const most = MaxNamespaces
	if n := nvme.ANALogHeaderSize + most*(nvme.ANAGroupSize+4); n > 1<<20 {
		t.Errorf("ANA log of %d namespaces is %d bytes", most, n)
	}
}

func TestWriteCacheIsThatOfTheVolumes(t *testing.T) {
	r := newRig(t)
	r.sub().Namespaces[1].Durability = proto.Durability_DURABILITY_VOLATILE
	r.target.setExports(r.exports)
	h := r.connect(0)
	if h.identifyController().WriteCache&nvme.WriteCachePresent == 0 {
		t.Error("no write cache reported")
	}
	if v := h.ok(getFeature(nvme.FeatureWriteCache, 0, 0, 0), nil).DW0(); v != nvme.WriteCacheEnabled {
		t.Errorf("write cache is %d", v)
	}
}

func TestIdentifyNamespace(t *testing.T) {
	r := newRig(t)
	h := r.connect(0)
	for _, tc := range []struct {
		nsid   nvme.NSID
		blocks nvme.BlockCount
		shift  uint8
		atomic uint32
		bound  uint16
	}{{1, 2048, 12, 1, 0}, {2, 2048, 9, 8, 7}} {
		id, _, err := nvme.ParseIdentifyNamespace(h.ok(identify(nvme.CNSNamespace, tc.nsid), nil).data)
		if err != nil {
			t.Fatal(err)
		}
		if id.Size != tc.blocks || id.Capacity != tc.blocks || id.Format().DataShift != tc.shift ||
			id.AtomicWritePower != tc.atomic || id.AtomicBoundaryPwr != tc.bound || id.PreferredDiscard != tc.atomic ||
			id.ANAGroup != nvme.ANAGroupID(tc.nsid) || id.NGUID[0] != byte(tc.nsid) || id.EUI64[0] != byte(tc.nsid) ||
			id.Used != nvme.BlockCount(4096>>tc.shift) {
			t.Errorf("namespace %d: %+v", tc.nsid, id)
		}
	}
	for _, cns := range []nvme.CNS{nvme.CNSNamespace, nvme.CNSNamespaceIndependent, nvme.CNSNamespaceForSet, nvme.CNSAllocatedNamespace, nvme.CNSAllocatedNamespaceSet} {
		if b := h.ok(identify(cns, 9), nil).data; slices.ContainsFunc(b, func(b byte) bool { return b != 0 }) {
			t.Errorf("CNS %02xh of an inactive namespace is not zero", cns)
		}
		h.ok(identify(cns, 1), nil)
	}
	ids, _, err := nvme.ParseNamespaceIDs(h.ok(identify(nvme.CNSNamespaceDescriptors, 1), nil).data)
	if err != nil || !ids.HasCommandSet || ids.NGUID[15] != 1 || ids.EUI64[7] != 1 || ids.UUID[15] != 1 {
		t.Errorf("%+v, %v", ids, err)
	}
	ind, _, _ := nvme.ParseIndependentNamespace(h.ok(identify(nvme.CNSNamespaceIndependent, 2), nil).data)
	if ind.ANAGroup != 2 || ind.Status != nvme.NamespaceReady {
		t.Errorf("%+v", ind)
	}
	sets, _, _ := nvme.ParseIOCommandSets(h.ok(toHost(nvme.Identify{CNS: nvme.CNSIOCommandSets, Controller: 0xffff}.Command(), 4096), nil).data)
	if len(sets) != 1 || sets[0] != 1 {
		t.Errorf("command sets %v", sets)
	}
	h.ok(identify(nvme.CNSControllerForSet, 0), nil)
}

// A namespace is active for the hosts that may see it, allocated for all.
func TestNamespaceVisibility(t *testing.T) {
	r := newRig(t)
	r.sub().Namespaces[1].VisibleTo = []string{otherNQN}
	r.target.setExports(r.exports)
	h := r.connect(1)
	d := connectData(nvme.DynamicControllerID)
	d.HostNQN = otherNQN
	other := r.connectAs(d, 0, 0)
	list := func(h *host, cns nvme.CNS, from nvme.NSID) nvme.NSList {
		l, _, _ := nvme.ParseNSList(h.ok(identify(cns, from), nil).data)
		return l
	}
	for _, tc := range []struct {
		h    *host
		cns  nvme.CNS
		from nvme.NSID
		want nvme.NSList
	}{
		{h, nvme.CNSActiveNamespaces, 0, nvme.NSList{1}},
		{h, nvme.CNSActiveNamespacesForSet, 0, nvme.NSList{1}},
		{h, nvme.CNSAllocatedNamespaces, 0, nvme.NSList{1, 2}},
		{h, nvme.CNSAllocatedForSet, 1, nvme.NSList{2}},
		{other, nvme.CNSActiveNamespaces, 0, nvme.NSList{1, 2}},
		{other, nvme.CNSActiveNamespaces, 1, nvme.NSList{2}},
		{other, nvme.CNSActiveNamespaces, 2, nvme.NSList{}},
	} {
		if got := list(tc.h, tc.cns, tc.from); !slices.Equal(got, tc.want) {
			t.Errorf("CNS %02xh from %d: %v, want %v", tc.cns, tc.from, got, tc.want)
		}
	}
	h.io[0].fails(nvme.StatusInvalidField, rw(nvme.IORead, 2, 0, 1, 512), nil)
	controllers := func(cns nvme.CNS, nsid nvme.NSID) nvme.ControllerList {
		l, _, _ := nvme.ParseControllerList(h.ok(identify(cns, nsid), nil).data)
		return l
	}
	if l := controllers(nvme.CNSControllers, 0); !slices.Equal(l, nvme.ControllerList{h.id, other.id}) {
		t.Errorf("controllers %v", l)
	}
	if l := controllers(nvme.CNSControllersOfNamespace, 2); !slices.Equal(l, nvme.ControllerList{other.id}) {
		t.Errorf("controllers of namespace 2: %v", l)
	}
	if id, _, _ := nvme.ParseIdentifyNamespace(h.ok(identify(nvme.CNSAllocatedNamespace, 2), nil).data); id.Size != 2048 {
		t.Errorf("allocated namespace has %d blocks", id.Size)
	}
}

func TestLogPages(t *testing.T) {
	r := newRig(t)
	h := r.connect(1)
	c := h.io[0]
	s, _, _ := nvme.ParseSupportedLogs(h.ok(getLog(nvme.LogSupportedPages, nvme.SupportedLogsSize), nil).data)
	for _, id := range []nvme.LogID{
		nvme.LogSupportedPages, nvme.LogError, nvme.LogSMART, nvme.LogFirmwareSlot, nvme.LogChangedNamespaces,
		nvme.LogCommandEffects, nvme.LogFeatureEffects, nvme.LogANA, nvme.LogReservationNotification,
	} {
		if s[id]&nvme.LogSupported == 0 {
			t.Errorf("page %02xh is not among the supported ones", id)
		}
		h.ok(getLog(id, 64), nil)
	}
	e, _, _ := nvme.ParseCommandEffectsLog(h.ok(getLog(nvme.LogCommandEffects, nvme.CommandEffectsLogSize), nil).data)
	if e.Admin[nvme.AdminIdentify]&nvme.EffectSupported == 0 || e.IO[nvme.IOWrite]&nvme.EffectContent == 0 || e.IO[nvme.IOCopy] != 0 {
		t.Error("command effects are wrong")
	}
	f, _, _ := nvme.ParseFeatureEffectsLog(h.ok(getLog(nvme.LogFeatureEffects, nvme.FeatureEffectsLogSize), nil).data)
	if f[nvme.FeatureReservationMask]&nvme.EffectOnNamespace == 0 || f[0x70] != 0 {
		t.Error("feature effects are wrong")
	}
	fw, _, _ := nvme.ParseFirmwareSlotLog(h.ok(getLog(nvme.LogFirmwareSlot, 512), nil).data)
	if fw.Active != 1 || fw.Revisions[0] != "1" {
		t.Errorf("firmware %+v", fw)
	}

	for range 3 {
		c.ok(rw(nvme.IOWrite, 1, 0, 1, 4096), make([]byte, 4096))
		c.ok(rw(nvme.IORead, 1, 0, 1, 4096), nil)
	}
	r.blocks.Intercept(func(*ring.Entry) (ring.Status, bool) { return ring.StatusMediaError, true })
	c.fails(nvme.StatusUnrecoveredReadError, rw(nvme.IORead, 1, 5, 1, 4096), nil)
	r.blocks.Intercept(nil)
	smart := func() nvme.SMARTLog {
		l, _, _ := nvme.ParseSMARTLog(h.ok(getLog(nvme.LogSMART, 512), nil).data)
		return l
	}
	if l := smart(); l.ReadCommands.Lo != 3 || l.WriteCommands.Lo != 3 || l.DataRead.Lo != 1 || l.MediaErrors.Lo != 1 || l.ErrorEntries.Lo != 1 {
		t.Errorf("%+v", l)
	}
	entry, _, _ := nvme.ParseErrorEntry(h.ok(getLog(nvme.LogError, 64), nil).data)
	if entry.Count != 1 || entry.Queue != 1 || entry.LBA != 5 || entry.NSID != 1 || entry.Status.Code() != nvme.StatusUnrecoveredReadError {
		t.Errorf("%+v", entry)
	}
	// What a queue has counted outlives it.
	c.ok(nvme.Disconnect{}.Command(), nil)
	r.eventually("the queue's count is kept", func() bool { return smart().ReadCommands.Lo == 3 })
}

// NUMD and the offset select any part of a page; what is behind it reads as zeroes.
func TestLogOffsets(t *testing.T) {
	h := newRig(t).connect(0)
	whole := h.ok(getLog(nvme.LogCommandEffects, 4096), nil).data
	for _, tc := range []struct{ off, n int }{{0, 4}, {24, 8}, {1024, 1024}, {4092, 4}, {4092, 64}, {4096, 4}} {
		got := h.ok(toHost(nvme.GetLogPage{LID: nvme.LogCommandEffects, Offset: uint64(tc.off), Length: uint64(tc.n)}.Command(), tc.n), nil).data
		want := append(slices.Clone(whole[tc.off:]), make([]byte, tc.n)...)[:tc.n]
		if !slices.Equal(got, want) {
			t.Errorf("%d bytes at %d differ", tc.n, tc.off)
		}
	}
}

func (h *host) anaLog(lsp uint8) nvme.ANALog {
	h.r.t.Helper()
	b := h.ok(toHost(nvme.GetLogPage{LID: nvme.LogANA, Length: 4096, Specific: lsp}.Command(), 4096), nil).data
	l, _, err := nvme.ParseANALog(b)
	if err != nil {
		h.r.t.Fatal(err)
	}
	return l
}

// Base 5.16.1.13: one group per attached namespace.
func TestANALog(t *testing.T) {
	r := newRig(t)
	h := r.connect(0)
	l := h.anaLog(0)
	if len(l.Groups) != 2 || l.Groups[0].ID != 1 || l.Groups[1].ID != 2 || !slices.Equal(l.Groups[1].NSIDs, []nvme.NSID{2}) ||
		l.Groups[0].State != nvme.ANAOptimized {
		t.Fatalf("%+v", l)
	}
	if l := h.anaLog(nvme.ANAGroupsOnly); len(l.Groups) != 2 || len(l.Groups[0].NSIDs) != 0 {
		t.Errorf("groups only: %+v", l)
	}
	r.grant(h.association(), func(g map[uint32]*proto.Grant) {
		g[2].AnaState, g[2].AnaChangeCount = proto.AnaState_ANA_INACCESSIBLE, 9
	})
	r.eventually("the log follows", func() bool {
		n := h.anaLog(0)
		return n.Groups[1].State == nvme.ANAInaccessible && n.Groups[1].ChangeCount == 9 && n.ChangeCount > l.ChangeCount
	})
}

func TestFeatures(t *testing.T) {
	r := newRig(t)
	h := r.connect(0)
	for _, tc := range []struct {
		id       nvme.FeatureID
		nsid     nvme.NSID
		def, set uint32
		caps     uint32
	}{
		{nvme.FeatureArbitration, 0, 7, 0x01020303, nvme.FeatureChangeable},
		{nvme.FeatureErrorRecovery, 1, 0, 50, nvme.FeatureChangeable | nvme.FeatureNamespaceSpecific},
		{nvme.FeatureWriteAtomicity, 0, 0, 1, nvme.FeatureChangeable},
		{nvme.FeatureAsyncEvents, 0, 0, uint32(nvme.EventsANAChange), nvme.FeatureChangeable},
		{nvme.FeatureReservationMask, 2, 0, nvme.MaskReservationReleased, nvme.FeatureChangeable | nvme.FeatureNamespaceSpecific},
		{nvme.FeatureKeepAlive, 0, 0, 60000, nvme.FeatureChangeable},
	} {
		get := func(sel nvme.FeatureSelect) uint32 {
			return h.ok(getFeature(tc.id, tc.nsid, sel, 0), nil).DW0()
		}
		if v := get(nvme.FeatureCurrent); v != tc.def {
			t.Errorf("%v: first value %x, want %x", tc.id, v, tc.def)
		}
		if v := get(nvme.FeatureSupported); v != tc.caps {
			t.Errorf("%v: capabilities %x, want %x", tc.id, v, tc.caps)
		}
		h.ok(setFeature(tc.id, tc.nsid, tc.set), nil)
		if v := get(nvme.FeatureCurrent); v != tc.set {
			t.Errorf("%v: set to %x, is %x", tc.id, tc.set, v)
		}
		for _, sel := range []nvme.FeatureSelect{nvme.FeatureDefault, nvme.FeatureSaved} {
			if v := get(sel); v != tc.def {
				t.Errorf("%v: selection %d is %x, want %x", tc.id, sel, v, tc.def)
			}
		}
	}
	if v := h.ok(setFeature(nvme.FeatureKeepAlive, 0, 30001), nil); v.DW0() != 0 {
		t.Error("setting has a result")
	}
	if v := h.ok(getFeature(nvme.FeatureKeepAlive, 0, 0, 0), nil).DW0(); v != 30100 {
		t.Errorf("keep alive timeout of 30,001 ms became %d ms", v)
	}
	if b := h.ok(toHost(getFeature(nvme.FeatureHostID, 0, 0, nvme.HostIDExtended), 16), nil).data; nvme.HostID(b) != hostID {
		t.Errorf("host identifier %x", b)
	}
	h.ok(setFeature(nvme.FeatureReservationMask, nvme.BroadcastNSID, nvme.MaskReservationPreempted), nil)
	for _, id := range []nvme.NSID{1, 2} {
		if v := h.ok(getFeature(nvme.FeatureReservationMask, id, 0, 0), nil).DW0(); v != nvme.MaskReservationPreempted {
			t.Errorf("namespace %d: mask %x after a broadcast", id, v)
		}
	}
	h.ok(setFeature(nvme.FeatureTemperature, 0, nvme.Temperature{Threshold: 350}.Value()), nil)
	if v := h.ok(getFeature(nvme.FeatureTemperature, 0, 0, 0), nil).DW0(); v != 350 {
		t.Errorf("temperature threshold %d", v)
	}
}

// Base 5.1
func TestAbort(t *testing.T) {
	abort := func(q nvme.QueueID, cid nvme.CommandID) nvme.Command { return nvme.Abort{Queue: q, CID: cid}.Command() }
	t.Run("of a command at the core", func(t *testing.T) {
		r := newRig(t, withThreads(2))
		h := r.connect(1)
		c := h.io[0]
		r.blocks.Hold()
		read := c.post(rw(nvme.IORead, 1, 0, 1, 4096), nil)
		r.eventually("the command is at the core", func() bool { return r.blocks.Held() == 1 })
		cid := onThread(c.thread, func() nvme.CommandID { return c.cid })
		if a := h.ok(abort(1, cid), nil); a.DW0() != nvme.AbortDone {
			t.Error("not aborted")
		}
		if a := c.get(read); a.Status().Code() != nvme.StatusAbortRequested {
			t.Error(a.Status())
		}
		r.blocks.Release()
	})
	t.Run("of an event request", func(t *testing.T) {
		h := newRig(t).connect(0)
		aer := h.post(plain(nvme.AdminAsyncEventRequest, 0), nil)
		cid := onThread(h.thread, func() nvme.CommandID { return h.cid })
		if a := h.ok(abort(0, cid), nil); a.DW0() != nvme.AbortDone {
			t.Error("not aborted")
		}
		if a := h.get(aer); a.Status().Code() != nvme.StatusAbortRequested {
			t.Error(a.Status())
		}
	})
	t.Run("of a command that waits for memory", func(t *testing.T) {
		r := newRig(t, withPool(1<<20), withLimits(Limits{MaxTransfer: 256 << 10}))
		h := r.connect(1)
		c := h.io[0]
		r.blocks.Hold()
		var answers []chan answer
		for range 8 {
			answers = append(answers, c.post(rw(nvme.IORead, 1, 0, 64, 256<<10), nil))
		}
		cid := onThread(c.thread, func() nvme.CommandID { return c.cid })
		if a := h.ok(abort(1, cid), nil); a.DW0() != nvme.AbortDone {
			t.Error("not aborted")
		}
		if a := c.get(answers[7]); a.Status().Code() != nvme.StatusAbortRequested {
			t.Error(a.Status())
		}
		r.blocks.Release()
		for _, ch := range answers[:7] {
			if a := c.get(ch); !a.Status().OK() {
				t.Error(a.Status())
			}
		}
	})
	t.Run("of half a fused pair", func(t *testing.T) {
		r := newRig(t)
		h := r.connect(1)
		c := h.io[0]
		compare, write := fusedPair(1)
		first := c.post(compare, make([]byte, 4096))
		cid := onThread(c.thread, func() nvme.CommandID { return c.cid })
		if a := h.ok(abort(1, cid), nil); a.DW0() != nvme.AbortDone {
			t.Error("not aborted")
		}
		if a := c.get(first); a.Status().Code() != nvme.StatusAbortRequested {
			t.Error(a.Status())
		}
		c.fails(nvme.StatusAbortFailedFused, write, make([]byte, 4096))
	})
	t.Run("of nothing", func(t *testing.T) {
		h := newRig(t).connect(1)
		for _, cmd := range []nvme.Command{abort(1, 999), abort(9, 1), abort(0, 999)} {
			if a := h.ok(cmd, nil); a.DW0() != nvme.AbortNotDone {
				t.Error("aborted what is not there")
			}
		}
	})
	t.Run("of what cannot be aborted in time", func(t *testing.T) {
		r := newRig(t, withLimits(Limits{AbortWait: 1}))
		release := make(chan struct{})
		r.core.reserve = func(*proto.ReserveRequest) (*proto.ReserveResponse, error) {
			<-release
			return &proto.ReserveResponse{}, nil
		}
		h := r.connect(1)
		c := h.io[0]
		slow := c.post(reservationReport(4096), nil)
		cid := onThread(c.thread, func() nvme.CommandID { return c.cid })
		if a := h.ok(abort(1, cid), nil); a.DW0() != nvme.AbortNotDone {
			t.Error("aborted")
		}
		close(release)
		if a := c.get(slow); !a.Status().OK() {
			t.Error(a.Status())
		}
	})
	t.Run("limit", func(t *testing.T) {
		r := newRig(t, withLimits(Limits{Aborts: 1, AbortWait: patience}))
		release := make(chan struct{})
		r.core.reserve = func(*proto.ReserveRequest) (*proto.ReserveResponse, error) {
			<-release
			return &proto.ReserveResponse{}, nil
		}
		h := r.connect(1)
		c := h.io[0]
		c.post(reservationReport(4096), nil)
		cid := onThread(c.thread, func() nvme.CommandID { return c.cid })
		first := h.post(abort(1, cid), nil)
		h.fails(nvme.StatusAbortLimitExceeded, abort(1, cid), nil)
		close(release)
		h.get(first)
	})
}

func reservationReport(n int) nvme.Command {
	return toHost(nvme.ReservationReport{NSID: 1, Length: uint64(n), Extended: true}.Command(), n)
}

// What a reservation command becomes, and what is wrong with one. Base 7.2 to 7.5
func TestReservations(t *testing.T) {
	r := newRig(t)
	h := r.connect(1)
	c := h.io[0]
	keys := nvme.ReservationKeys{Current: 5, Other: 6}.Append(nil)
	cmd := func(op nvme.Opcode, fn func(*nvme.ReservationCommand)) nvme.Command {
		rc := nvme.ReservationCommand{Opcode: op, NSID: 1, Type: nvme.ReservationWriteExclusive}
		fn(&rc)
		return fromHost(rc.Command(), 16)
	}
	action := func(a uint8) func(*nvme.ReservationCommand) { return func(r *nvme.ReservationCommand) { r.Action = a } }
	for _, tc := range []struct {
		cmd  nvme.Command
		want *proto.ReserveRequest
	}{
		{cmd(nvme.IOReservationRegister, action(nvme.RegisterKey)), &proto.ReserveRequest{Action: proto.ReserveAction_RESERVE_REGISTER, NewKey: 6}},
		{cmd(nvme.IOReservationRegister, func(r *nvme.ReservationCommand) {
			r.Action, r.IgnoreExisting, r.Persist = nvme.UnregisterKey, true, nvme.PersistSet
		}), &proto.ReserveRequest{Action: proto.ReserveAction_RESERVE_UNREGISTER, NewKey: 6, IgnoreKey: true, Persistence: proto.PersistenceChange_PERSISTENCE_SET}},
		{cmd(nvme.IOReservationRegister, action(nvme.ReplaceKey)), &proto.ReserveRequest{Action: proto.ReserveAction_RESERVE_REPLACE, NewKey: 6}},
		{cmd(nvme.IOReservationAcquire, action(nvme.Acquire)), &proto.ReserveRequest{Action: proto.ReserveAction_RESERVE_ACQUIRE, NewKey: 6, Type: 1}},
		{cmd(nvme.IOReservationAcquire, action(nvme.Preempt)), &proto.ReserveRequest{Action: proto.ReserveAction_RESERVE_PREEMPT, NewKey: 6, Type: 1}},
		{cmd(nvme.IOReservationAcquire, action(nvme.PreemptAndAbort)), &proto.ReserveRequest{Action: proto.ReserveAction_RESERVE_PREEMPT_ABORT, NewKey: 6, Type: 1}},
		{cmd(nvme.IOReservationRelease, action(nvme.Release)), &proto.ReserveRequest{Action: proto.ReserveAction_RESERVE_RELEASE, Type: 1}},
		{cmd(nvme.IOReservationRelease, action(nvme.ClearAll)), &proto.ReserveRequest{Action: proto.ReserveAction_RESERVE_CLEAR, Type: 1}},
	} {
		c.ok(tc.cmd, keys)
		got := r.core.reserved[len(r.core.reserved)-1]
		if got.Association != h.association() || got.Nsid != 1 || got.CurrentKey != 5 || got.Action != tc.want.Action ||
			got.NewKey != tc.want.NewKey || got.IgnoreKey != tc.want.IgnoreKey || got.Type != tc.want.Type || got.Persistence != tc.want.Persistence {
			t.Errorf("core got %v, want %v", got, tc.want)
		}
	}
	for rule, bad := range map[string]nvme.Command{
		"reserved register action":    cmd(nvme.IOReservationRegister, action(3)),
		"reserved persistence change": cmd(nvme.IOReservationRegister, func(r *nvme.ReservationCommand) { r.Persist = nvme.PersistReserved }),
		"reserved acquire action":     cmd(nvme.IOReservationAcquire, action(3)),
		"no reservation type":         cmd(nvme.IOReservationAcquire, func(r *nvme.ReservationCommand) { r.Type = 0 }),
		"reserved reservation type":   cmd(nvme.IOReservationAcquire, func(r *nvme.ReservationCommand) { r.Type = 7 }),
		"acquire ignores the key":     cmd(nvme.IOReservationAcquire, func(r *nvme.ReservationCommand) { r.IgnoreExisting = true }),
		"reserved release action":     cmd(nvme.IOReservationRelease, action(2)),
	} {
		t.Run(rule, func(t *testing.T) { c.fails(nvme.StatusInvalidField, bad, keys) })
	}
	short := cmd(nvme.IOReservationRegister, action(nvme.RegisterKey))
	c.fails(nvme.StatusInvalidSGLLength, fromHost(short, 8), keys[:8])
	for result, want := range map[proto.ReserveResult]nvme.Status{
		proto.ReserveResult_RESERVE_CONFLICT: nvme.StatusReservationConflict.WithDNR(),
		proto.ReserveResult_RESERVE_INVALID:  nvme.StatusInvalidField.WithDNR(),
		proto.ReserveResult_RESERVE_RETRY:    nvme.StatusANATransition,
	} {
		r.core.reserve = func(*proto.ReserveRequest) (*proto.ReserveResponse, error) {
			return &proto.ReserveResponse{Result: result}, nil
		}
		if a := c.do(short, keys); a.Status() != want {
			t.Errorf("%v: %v, want %v", result, a.Status(), want)
		}
	}
	r.core.reserve = func(*proto.ReserveRequest) (*proto.ReserveResponse, error) { return nil, errors.New("gone") }
	c.fails(nvme.StatusANATransition, short, keys)
}

func TestReservationReport(t *testing.T) {
	r := newRig(t)
	r.core.reserve = func(*proto.ReserveRequest) (*proto.ReserveResponse, error) {
		return &proto.ReserveResponse{State: &proto.ReservationState{
			Generation: 3, Type: proto.ReservationType_RESERVATION_EXCLUSIVE_ACCESS, Persist: true,
			Registrants: []*proto.Registrant{
				{Host: &proto.HostIdentity{Protocol: proto.Protocol_PROTOCOL_NVME, Name: hostNQN, HostId: hostID[:]}, Key: 5, Holder: true, ControllerId: 1},
				{Host: &proto.HostIdentity{Protocol: proto.Protocol_PROTOCOL_ISCSI, Name: "iqn.x"}, Key: 6, ControllerId: 0xffff},
			},
		}}, nil
	}
	h := r.connect(1)
	c := h.io[0]
	s, _, err := nvme.ParseReservationStatus(c.ok(reservationReport(4096), nil).data, true)
	if err != nil || s.Generation != 3 || s.Type != nvme.ReservationExclusiveAccess || !s.Persistent || len(s.Registrants) != 2 ||
		!s.Registrants[0].Holder || s.Registrants[0].Host != hostID || s.Registrants[1].Key != 6 {
		t.Errorf("%+v, %v", s, err)
	}
	if a := c.ok(reservationReport(64), nil); len(a.data) != 64 {
		t.Errorf("%d bytes", len(a.data))
	}
	c.fails(nvme.StatusHostIDFormat, toHost(nvme.ReservationReport{NSID: 1, Length: 64}.Command(), 64), nil)
	if v := h.ok(getFeature(nvme.FeatureReservationPersist, 1, 0, 0), nil).DW0(); v != nvme.ReservationPersistPower {
		t.Errorf("persistence is %d", v)
	}
	h.ok(setFeature(nvme.FeatureReservationPersist, nvme.BroadcastNSID, 1), nil)
	n := len(r.core.reserved)
	if a, b := r.core.reserved[n-2], r.core.reserved[n-1]; a.Nsid != 1 || b.Nsid != 2 ||
		b.Action != proto.ReserveAction_RESERVE_SET_PERSISTENCE || b.Persistence != proto.PersistenceChange_PERSISTENCE_SET {
		t.Errorf("core got %v and %v", a, b)
	}
}
