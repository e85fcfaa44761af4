package nvmf

import (
	"math/bits"

	"github.com/mooring-io/mooring/sdk/nvme"
)

// anaTransitionTime is ANATT: for so long a group may be in the Change state, in seconds, before
// hosts give up on it.
const anaTransitionTime = 30

// volumeBlock is the grain of volumes in bytes: what is written atomically, even when power
// fails, and what can be deallocated.
const volumeBlock = 4096

func beginIdentify(ct *Controller, c *Command) nvme.Status {
	return c.q.move(c, TransferToHost, nvme.IdentifySize)
}

// identifyStructure builds one Identify data structure.
type identifyStructure struct {
	build func(ct *Controller, id nvme.Identify, b []byte) ([]byte, nvme.Status)
	kinds controllerKinds
}

// identifyStructures is what can be identified. Base 5.17.1, Figure 273
var identifyStructures = map[nvme.CNS]identifyStructure{
	nvme.CNSController:             {identifyController, onAll},
	nvme.CNSNamespace:              {identifyNamespace, onIO},
	nvme.CNSActiveNamespaces:       {identifyActive, onIO},
	nvme.CNSNamespaceDescriptors:   {identifyDescriptors, onIO},
	nvme.CNSNamespaceForSet:        {forNVM(identifyNVMNamespace), onIO},
	nvme.CNSControllerForSet:       {forNVM(identifyNVMController), onIO},
	nvme.CNSActiveNamespacesForSet: {forNVM(identifyActive), onIO},
	nvme.CNSNamespaceIndependent:   {identifyIndependent, onIO},
	nvme.CNSAllocatedNamespaces:    {identifyAllocatedList, onIO},
	nvme.CNSAllocatedNamespace:     {identifyAllocated, onIO},
	nvme.CNSControllersOfNamespace: {identifyAttachedControllers, onIO},
	nvme.CNSControllers:            {identifyControllers, onIO},
	nvme.CNSAllocatedForSet:        {forNVM(identifyAllocatedList), onIO},
	nvme.CNSAllocatedNamespaceSet:  {forNVM(identifyNVMAllocated), onIO},
	nvme.CNSIOCommandSets:          {identifyCommandSets, onIO},
}

func executeIdentify(c *Command) {
	ct := c.q.ctrl
	id := nvme.ParseIdentify(&c.SQE)
	s, ok := identifyStructures[id.CNS]
	if !ok || !s.kinds.has(ct) {
		c.q.complete(c, nvme.StatusInvalidField.WithDNR())
		return
	}
	b, st := s.build(ct, id, ct.scratch[:0])
	if c.failed(st) {
		return
	}
	c.respond(b)
	ct.scratch = b
}

// forNVM restricts a structure to the NVM command set.
func forNVM(build func(*Controller, nvme.Identify, []byte) ([]byte, nvme.Status)) func(*Controller, nvme.Identify, []byte) ([]byte, nvme.Status) {
	return func(ct *Controller, id nvme.Identify, b []byte) ([]byte, nvme.Status) {
		if id.CommandSet != nvme.CommandSetIDNVM {
			return nil, nvme.StatusInvalidField.WithDNR()
		}
		return build(ct, id, b)
	}
}

func identifyController(ct *Controller, _ nvme.Identify, b []byte) ([]byte, nvme.Status) {
	l := ct.target.limits
	id := nvme.IdentifyController{
		FirmwareRevision: ct.target.firmware,
		MultiPath:        nvme.MultiPathPorts | nvme.MultiPathControllers,
		MaxTransferShift: uint8(bits.Len(uint(ct.admin.maxTransfer/4096)) - 1),
		Controller:       ct.id,
		Version:          nvme.Version20,
		AsyncEvents:      ct.supportedEvents(),
		Attributes:       nvme.AttributeExtendedHostID | nvme.AttributeTrafficKeepAlive,
		Type:             ct.kind,
		AbortLimit:       uint16(l.Aborts), AsyncEventLimit: uint16(l.AsyncEvents), ErrorLogEntries: uint16(l.ErrorEntries),
		Firmware:             1 | 1<<1, // one slot, read only
		LogPages:             nvme.LogPageCommandEffects | nvme.LogPageExtendedData | nvme.LogPageSupportedPages,
		PowerStateCount:      1,
		KeepAliveGranularity: uint16(keepAliveGranularity.Milliseconds() / nvme.KeepAliveUnit),
		MaxCommands:          uint16(min(l.QueueEntries, 0xffff)),
		SGLs:                 ct.sgls(),
		SubsystemNQN:         ct.subsystem,
		AtomicWriteNormal:    1, AtomicWritePower: 1, AtomicCompareWrite: 1,
		CommandCapsule:  uint32(nvme.CommandSize+ct.admin.info.InCapsuleData) / 16,
		ResponseCapsule: nvme.CompletionSize / 16,
		MaxDescriptors:  uint8(ct.admin.maxDescriptors()),
	}
	if ct.kind == nvme.ControllerIO {
		ct.identifyIO(&id)
	}
	return id.Append(b), nvme.StatusSuccess
}

// identifyIO adds what a discovery controller does not have.
func (ct *Controller) identifyIO(id *nvme.IdentifyController) {
	v := ct.view
	id.SerialNumber, id.ModelNumber = v.sub.GetSerial(), v.sub.GetModel()
	id.ArbitrationBurst = 6
	id.MultiPath |= nvme.MultiPathANA
	id.ANATransitionTime = anaTransitionTime
	id.ANACapabilities = nvme.ANACapOptimized | nvme.ANACapNonOptimized | nvme.ANACapInaccessible |
		nvme.ANACapPersistentLoss | nvme.ANACapChange | nvme.ANACapFixedGroup
	id.MaxANAGroup, id.ANAGroupCount = v.maxANAGroup(), uint32(v.maxNSID)
	id.SQEntrySizes, id.CQEntrySizes = nvme.SQEntrySizes, nvme.CQEntrySizes
	id.MaxNSID, id.MaxNamespaces = v.maxNSID, uint32(v.maxNSID)
	id.IOCommands = nvme.IOSupportsCompare | nvme.IOSupportsDatasetManagement | nvme.IOSupportsWriteZeroes |
		nvme.IOSupportsSaveSelect | nvme.IOSupportsReservations | nvme.IOSupportsVerify
	id.Fused = nvme.FusedCompareWrite
	id.WriteCache = nvme.WriteCacheFlushNotAll
	if ct.cacheSeen {
		id.WriteCache |= nvme.WriteCachePresent
	}
	id.FabricsCommands = nvme.FabricsDisconnectSupported
}

func (ct *Controller) sgls() uint32 {
	s := nvme.SGLsAnyAlignment | nvme.SGLsLonger | nvme.SGLsOffset
	if ct.admin.info.TransportType == nvme.TransportRDMA {
		return s | nvme.SGLsKeyed
	}
	return s | nvme.SGLsTransport
}

// maxANAGroup is the highest group that a namespace of the subsystem can be in: there is one
// per namespace.
func (v *view) maxANAGroup() nvme.ANAGroupID {
	highest := uint32(v.maxNSID)
	for _, n := range v.sub.GetNamespaces() {
		highest = max(highest, n.GetAnaGroup())
	}
	return nvme.ANAGroupID(highest)
}

// activeOrZeroes returns the namespace; or nil and success for an inactive one, whose structure
// is all zeroes. Base 5.17.2
func (ct *Controller) activeOrZeroes(id nvme.NSID) (*namespace, nvme.Status) {
	ns, st := ct.view.find(id)
	if ns == nil && st.Code() == nvme.StatusInvalidField {
		st = nvme.StatusSuccess
	}
	return ns, st
}

func identifyNamespace(ct *Controller, id nvme.Identify, b []byte) ([]byte, nvme.Status) {
	ns, st := ct.activeOrZeroes(id.NSID)
	if ns == nil {
		return b, st
	}
	return ns.identify().Append(b), st
}

// identify describes the namespace. Sizes in blocks follow from volumeBlock: a write within one
// volumeBlock is atomic.
func (ns *namespace) identify() nvme.IdentifyNamespace {
	per := uint32(volumeBlock >> ns.shift)
	id := nvme.IdentifyNamespace{
		Size: ns.blocks, Capacity: ns.blocks,
		Used:              min(ns.blocks, nvme.BlockCount((ns.info.GetUsedBytes()+1<<ns.shift-1)>>ns.shift)),
		Features:          nvme.NamespaceThin | nvme.NamespaceAtomics | nvme.NamespaceStableIDs | nvme.NamespacePreferred,
		Formats:           []nvme.LBAFormat{{DataShift: 9}, {DataShift: 12}},
		MultiPath:         nvme.NamespaceShared,
		Reservations:      reservationCapabilities,
		Deallocate:        nvme.DeallocateReadsZeroes | nvme.DeallocateWriteZeroes,
		AtomicWriteNormal: per, AtomicWritePower: per, AtomicCompareWrite: per,
		PreferredWrite: per, PreferredWriteAlign: per, OptimalWrite: per,
		PreferredDiscard: per, PreferredDiscardAlign: per,
		Bytes:    nvme.Uint128{Lo: ns.info.GetSizeBytes()},
		ANAGroup: ns.group,
	}
	if ns.shift == 12 {
		id.FormatIndex = 1
	} else {
		id.AtomicBoundary, id.AtomicBoundaryPwr = uint16(per-1), uint16(per-1)
	}
	copy(id.NGUID[:], ns.info.GetNguid())
	copy(id.EUI64[:], ns.info.GetEui64())
	return id
}

const reservationCapabilities = nvme.ReservePersistThroughPowerLoss | nvme.ReserveWriteExclusive |
	nvme.ReserveExclusiveAccess | nvme.ReserveWriteExclusiveReg | nvme.ReserveExclusiveAccessReg |
	nvme.ReserveWriteExclusiveAll | nvme.ReserveExclusiveAccessAll | nvme.ReserveIgnoreKey13

func identifyIndependent(ct *Controller, id nvme.Identify, b []byte) ([]byte, nvme.Status) {
	ns, st := ct.activeOrZeroes(id.NSID)
	if ns == nil {
		return b, st
	}
	return nvme.IndependentNamespace{
		Features: nvme.NamespaceStableIDs, MultiPath: nvme.NamespaceShared, Reservations: reservationCapabilities,
		ANAGroup: ns.group, Status: nvme.NamespaceReady,
	}.Append(b), st
}

func identifyNVMNamespace(ct *Controller, id nvme.Identify, b []byte) ([]byte, nvme.Status) {
	ns, st := ct.activeOrZeroes(id.NSID)
	if ns == nil {
		return b, st
	}
	return nvme.NVMNamespace{}.Append(b), st
}

func identifyNVMController(_ *Controller, _ nvme.Identify, b []byte) ([]byte, nvme.Status) {
	return nvme.NVMController{}.Append(b), nvme.StatusSuccess // no limits
}

// listNSIDs appends those of the NSIDs that are above after.
func listNSIDs(ids []nvme.NSID, after nvme.NSID, b []byte) ([]byte, nvme.Status) {
	if after >= nvme.BroadcastNSID-1 {
		return nil, nvme.StatusInvalidNamespace.WithDNR()
	}
	var list nvme.NSList
	for _, id := range ids {
		if id > after && len(list) < nvme.MaxNSList {
			list = append(list, id)
		}
	}
	return list.Append(b), nvme.StatusSuccess
}

func identifyActive(ct *Controller, id nvme.Identify, b []byte) ([]byte, nvme.Status) {
	ids := make([]nvme.NSID, 0, len(ct.view.active))
	for _, ns := range ct.view.active {
		ids = append(ids, ns.id)
	}
	return listNSIDs(ids, id.NSID, b)
}

func identifyAllocatedList(ct *Controller, id nvme.Identify, b []byte) ([]byte, nvme.Status) {
	return listNSIDs(ct.view.allocated(), id.NSID, b)
}

func identifyDescriptors(ct *Controller, id nvme.Identify, b []byte) ([]byte, nvme.Status) {
	ns, st := ct.view.find(id.NSID)
	if ns == nil {
		return nil, st
	}
	ids := nvme.NamespaceIDs{UUID: ns.uuid(), HasCommandSet: true}
	copy(ids.NGUID[:], ns.info.GetNguid())
	copy(ids.EUI64[:], ns.info.GetEui64())
	return ids.Append(b), st
}

// allocatedOrZeroes returns an existing namespace, attached to this host or not; or nil and
// success for one that does not exist.
func (ct *Controller) allocatedOrZeroes(id nvme.NSID) (*namespace, nvme.Status) {
	if ns, st := ct.activeOrZeroes(id); ns != nil || !st.OK() {
		return ns, st
	}
	for _, n := range ct.view.sub.GetNamespaces() {
		if nvme.NSID(n.GetNsid()) == id {
			return newNamespace(n, nil, false), nvme.StatusSuccess
		}
	}
	return nil, nvme.StatusSuccess
}

func identifyAllocated(ct *Controller, id nvme.Identify, b []byte) ([]byte, nvme.Status) {
	ns, st := ct.allocatedOrZeroes(id.NSID)
	if ns == nil {
		return b, st
	}
	return ns.identify().Append(b), st
}

func identifyNVMAllocated(ct *Controller, id nvme.Identify, b []byte) ([]byte, nvme.Status) {
	ns, st := ct.allocatedOrZeroes(id.NSID)
	if ns == nil {
		return b, st
	}
	return nvme.NVMNamespace{}.Append(b), st
}

// identifyControllers lists the controllers of the subsystem that this process serves.
func identifyControllers(ct *Controller, id nvme.Identify, b []byte) ([]byte, nvme.Status) {
	list := ct.target.controllersOf(ct.subsystem, id.Controller, func(string) bool { return true })
	return list.Append(b), nvme.StatusSuccess
}

func identifyAttachedControllers(ct *Controller, id nvme.Identify, b []byte) ([]byte, nvme.Status) {
	if id.NSID == 0 || id.NSID > ct.view.maxNSID {
		return nil, nvme.StatusInvalidNamespace.WithDNR()
	}
	list := ct.target.controllersOf(ct.subsystem, id.Controller, func(host string) bool {
		for _, n := range ct.view.sub.GetNamespaces() {
			if nvme.NSID(n.GetNsid()) == id.NSID {
				return visibleTo(n, host)
			}
		}
		return false
	})
	return list.Append(b), nvme.StatusSuccess
}

func identifyCommandSets(ct *Controller, id nvme.Identify, b []byte) ([]byte, nvme.Status) {
	if id.Controller != ct.id && id.Controller != nvme.DynamicControllerID &&
		ct.target.find(ct.subsystem, id.Controller) == nil {
		return nil, nvme.StatusInvalidField.WithDNR()
	}
	return nvme.IOCommandSets{1 << nvme.CommandSetIDNVM}.Append(b), nvme.StatusSuccess
}
