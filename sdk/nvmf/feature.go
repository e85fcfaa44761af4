package nvmf

import (
	"context"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/proto"
)

// features are a controller's feature values.
type features struct {
	plain           map[nvme.FeatureID]uint32 // what no code looks at
	overThreshold   uint16                    // kelvin
	underThreshold  uint16                    // kelvin
	errorRecovery   map[nvme.NSID]uint32
	reservationMask map[nvme.NSID]uint32
	writeCache      bool
	queues          int // I/O queues allocated
}

// defaultTemperature is the over temperature threshold until set; there is no sensor.
const defaultTemperature = 0xffff

func (f *features) reset(l Limits) {
	*f = features{
		plain: map[nvme.FeatureID]uint32{}, overThreshold: defaultTemperature,
		errorRecovery: map[nvme.NSID]uint32{}, reservationMask: map[nvme.NSID]uint32{},
		writeCache: true, queues: l.Queues,
	}
}

// feature is one feature. No feature can be saved: the core keeps what must last.
type feature struct {
	kinds controllerKinds
	scope nvme.Effects
	caps  uint32 // nvme.FeatureChangeable, nvme.FeatureNamespaceSpecific
	def   func(ct *Controller) uint32
	get   func(ct *Controller, f nvme.Features) (uint32, nvme.Status)
	set   func(ct *Controller, f nvme.Features) (dw0 uint32, st nvme.Status)
	// getAsync and setAsync, if not nil, take the place of get and set and complete the command.
	getAsync, setAsync func(ct *Controller, c *Command, f nvme.Features)
}

// featureTable is what Get and Set Features know. Base 5.27.1
var featureTable map[nvme.FeatureID]feature

func init() {
	const (
		controller = nvme.EffectOnController
		ns         = nvme.EffectOnNamespace
		change     = nvme.FeatureChangeable
		perNS      = nvme.FeatureChangeable | nvme.FeatureNamespaceSpecific
	)
	zero := func(*Controller) uint32 { return 0 }
	noLimit := func(*Controller) uint32 { return 7 } // arbitration burst
	featureTable = map[nvme.FeatureID]feature{
		nvme.FeatureArbitration:       {kinds: onIO, scope: controller, caps: change, def: noLimit, get: getPlain, set: setPlain},
		nvme.FeaturePower:             {kinds: onIO, scope: controller, caps: change, def: zero, get: getPlain, set: setPower},
		nvme.FeatureTemperature:       {kinds: onIO, scope: controller, caps: change, def: zero, get: getTemperature, set: setTemperature},
		nvme.FeatureErrorRecovery:     {kinds: onIO, scope: ns, caps: perNS, def: zero, get: getErrorRecovery, set: setErrorRecovery},
		nvme.FeatureWriteCache:        {kinds: onIO, scope: controller, caps: change, def: one, get: getWriteCache, set: setWriteCache},
		nvme.FeatureQueues:            {kinds: onIO, scope: controller, caps: change, def: defaultQueues, get: getQueues, set: setQueues},
		nvme.FeatureWriteAtomicity:    {kinds: onIO, scope: controller, caps: change, def: zero, get: getPlain, set: setWriteAtomicity},
		nvme.FeatureAsyncEvents:       {kinds: onAll, scope: controller, caps: change, def: zero, get: getEvents, set: setEvents},
		nvme.FeatureKeepAlive:         {kinds: onAll, scope: controller, caps: change, def: zero, get: getKeepAlive, set: setKeepAlive},
		nvme.FeatureCommandSetProfile: {kinds: onIO, scope: controller, caps: change, def: zero, get: getPlain, set: setProfile},
		nvme.FeatureHostID:            {kinds: onIO, scope: controller, def: zero, getAsync: getHostID, set: setHostID},
		nvme.FeatureReservationMask:   {kinds: onIO, scope: ns, caps: perNS, def: zero, get: getReservationMask, set: setReservationMask},
		nvme.FeatureReservationPersist: {
			kinds: onIO, scope: ns, caps: perNS, def: zero,
			getAsync: getReservationPersist, setAsync: setReservationPersist,
		},
	}
}

func one(*Controller) uint32 { return 1 }

func beginGetFeatures(ct *Controller, c *Command) nvme.Status {
	f := nvme.ParseFeatures(&c.SQE)
	if f.ID != nvme.FeatureHostID || f.Select == nvme.FeatureSupported || !featureTable[f.ID].kinds.has(ct) {
		return nvme.StatusSuccess
	}
	if f.Value&nvme.HostIDExtended == 0 {
		return nvme.StatusInvalidField.WithDNR() // over fabrics it has 128 bits, Base 5.27.1.25
	}
	return c.q.move(c, TransferToHost, len(nvme.HostID{}))
}

func executeGetFeatures(c *Command) {
	ct := c.q.ctrl
	f := nvme.ParseFeatures(&c.SQE)
	ft, ok := featureTable[f.ID]
	if !ok || !ft.kinds.has(ct) {
		c.q.complete(c, nvme.StatusInvalidField.WithDNR())
		return
	}
	if f.Select != nvme.FeatureSupported && ft.caps&nvme.FeatureNamespaceSpecific != 0 {
		if _, st := ct.view.find(f.NSID); c.failed(st) {
			return
		}
	}
	switch f.Select {
	case nvme.FeatureSupported:
		c.dw0 = ft.caps
		completeOK(c)
	case nvme.FeatureCurrent:
		ct.getCurrent(c, ft, f)
	case nvme.FeatureDefault, nvme.FeatureSaved: // what cannot be saved has its default, Base 5.27
		if f.ID == nvme.FeatureHostID {
			ct.getCurrent(c, ft, f)
			return
		}
		c.dw0 = ft.def(ct)
		completeOK(c)
	default:
		c.q.complete(c, nvme.StatusInvalidField.WithDNR())
	}
}

func (ct *Controller) getCurrent(c *Command, ft feature, f nvme.Features) {
	if ft.getAsync != nil {
		ft.getAsync(ct, c, f)
		return
	}
	v, st := ft.get(ct, f)
	c.dw0 = v
	c.q.complete(c, st)
}

func executeSetFeatures(c *Command) {
	ct := c.q.ctrl
	f := nvme.ParseFeatures(&c.SQE)
	ft, ok := featureTable[f.ID]
	if c.failed(ct.admitSet(f, ft, ok)) {
		return
	}
	if ft.setAsync != nil {
		ft.setAsync(ct, c, f)
		return
	}
	v, st := ft.set(ct, f)
	c.dw0 = v
	c.q.complete(c, st)
}

// admitSet judges what is common to all features. Base 5.27
func (ct *Controller) admitSet(f nvme.Features, ft feature, ok bool) nvme.Status {
	switch {
	case !ok || !ft.kinds.has(ct):
		return nvme.StatusInvalidField.WithDNR()
	case f.Save:
		return nvme.StatusFeatureNotSaveable.WithDNR()
	case f.ID == nvme.FeatureHostID:
		return nvme.StatusSequenceError.WithDNR() // Connect has set it, Base 5.27.1.25
	case ft.caps&nvme.FeatureNamespaceSpecific == 0:
		if f.NSID != 0 && f.NSID != nvme.BroadcastNSID {
			return nvme.StatusFeatureNotNamespaceSpecific.WithDNR()
		}
	case f.NSID != nvme.BroadcastNSID:
		_, st := ct.view.find(f.NSID)
		return st
	}
	return nvme.StatusSuccess
}

// targets lists the namespaces that a Set Features is for.
func (ct *Controller) targets(id nvme.NSID) []nvme.NSID {
	if id != nvme.BroadcastNSID {
		return []nvme.NSID{id}
	}
	var ids []nvme.NSID
	for _, ns := range ct.view.active {
		ids = append(ids, ns.id)
	}
	return ids
}

func getPlain(ct *Controller, f nvme.Features) (uint32, nvme.Status) {
	if v, ok := ct.features.plain[f.ID]; ok {
		return v, nvme.StatusSuccess
	}
	return featureTable[f.ID].def(ct), nvme.StatusSuccess
}

func setPlain(ct *Controller, f nvme.Features) (uint32, nvme.Status) {
	ct.features.plain[f.ID] = f.Value
	return 0, nvme.StatusSuccess
}

// setPower accepts the one power state that there is.
func setPower(ct *Controller, f nvme.Features) (uint32, nvme.Status) {
	if f.Value&0x1f != 0 {
		return 0, nvme.StatusInvalidField.WithDNR()
	}
	return setPlain(ct, f)
}

// threshold finds the one that is meant: there is only the composite temperature.
func (ct *Controller) threshold(v nvme.Temperature, all bool) *uint16 {
	switch {
	case v.Sensor != 0 && !(all && v.Sensor == 0xf):
		return nil
	case v.Under:
		return &ct.features.underThreshold
	}
	return &ct.features.overThreshold
}

func getTemperature(ct *Controller, f nvme.Features) (uint32, nvme.Status) {
	v := nvme.ParseTemperature(f.Value)
	t := ct.threshold(v, false)
	if t == nil || f.Value>>20&3 > 1 {
		return 0, nvme.StatusInvalidField.WithDNR()
	}
	return uint32(*t), nvme.StatusSuccess
}

func setTemperature(ct *Controller, f nvme.Features) (uint32, nvme.Status) {
	v := nvme.ParseTemperature(f.Value)
	t := ct.threshold(v, true)
	if t == nil || f.Value>>20&3 > 1 {
		return 0, nvme.StatusInvalidField.WithDNR()
	}
	*t = v.Threshold
	return 0, nvme.StatusSuccess
}

func getErrorRecovery(ct *Controller, f nvme.Features) (uint32, nvme.Status) {
	return ct.features.errorRecovery[f.NSID], nvme.StatusSuccess
}

func setErrorRecovery(ct *Controller, f nvme.Features) (uint32, nvme.Status) {
	v := nvme.ParseErrorRecovery(f.Value)
	if v.UnwrittenErrors {
		return 0, nvme.StatusInvalidField.WithDNR() // NSFEAT.DAE is 0
	}
	for _, id := range ct.targets(f.NSID) {
		ct.features.errorRecovery[id] = v.Value()
	}
	return 0, nvme.StatusSuccess
}

// The write cache feature exists only where Identify has reported a cache. Base 5.27.1.4

func getWriteCache(ct *Controller, _ nvme.Features) (uint32, nvme.Status) {
	switch {
	case !ct.cacheSeen:
		return 0, nvme.StatusInvalidField.WithDNR()
	case ct.features.writeCache:
		return nvme.WriteCacheEnabled, nvme.StatusSuccess
	}
	return 0, nvme.StatusSuccess
}

func setWriteCache(ct *Controller, f nvme.Features) (uint32, nvme.Status) {
	if !ct.cacheSeen {
		return 0, nvme.StatusInvalidField.WithDNR()
	}
	ct.features.writeCache = f.Value&nvme.WriteCacheEnabled != 0
	ct.refresh()
	return 0, nvme.StatusSuccess
}

func defaultQueues(ct *Controller) uint32 { return queueCounts(ct.target.limits.Queues) }

func queueCounts(n int) uint32 {
	return nvme.QueueCounts{Submission: uint32(n), Completion: uint32(n)}.Value()
}

func getQueues(ct *Controller, _ nvme.Features) (uint32, nvme.Status) {
	return queueCounts(ct.features.queues), nvme.StatusSuccess
}

func setQueues(ct *Controller, f nvme.Features) (uint32, nvme.Status) {
	want := nvme.ParseQueueCounts(f.Value)
	switch {
	case len(ct.queues) > 0:
		return 0, nvme.StatusSequenceError.WithDNR()
	case want.Submission > 0xffff || want.Completion > 0xffff:
		return 0, nvme.StatusInvalidField.WithDNR()
	}
	ct.features.queues = min(int(want.Submission), int(want.Completion), ct.target.limits.Queues)
	return queueCounts(ct.features.queues), nvme.StatusSuccess
}

func setWriteAtomicity(ct *Controller, f nvme.Features) (uint32, nvme.Status) {
	f.Value &= nvme.WriteAtomicityDisabled
	return setPlain(ct, f)
}

func getEvents(ct *Controller, _ nvme.Features) (uint32, nvme.Status) {
	return uint32(ct.events.enabled), nvme.StatusSuccess
}

// setEvents enables what is supported; SMART warnings can be enabled and never happen.
func setEvents(ct *Controller, f nvme.Features) (uint32, nvme.Status) {
	v := nvme.AsyncEvents(f.Value)
	if v&^(ct.supportedEvents()|nvme.EventsSMARTMask) != 0 {
		return 0, nvme.StatusInvalidField.WithDNR()
	}
	ct.events.configure(v)
	return 0, nvme.StatusSuccess
}

func getKeepAlive(ct *Controller, _ nvme.Features) (uint32, nvme.Status) {
	return uint32(ct.keepAlive.Milliseconds()), nvme.StatusSuccess
}

func setKeepAlive(ct *Controller, f nvme.Features) (uint32, nvme.Status) {
	ct.setKeepAlive(f.Value)
	ct.watchIdle()
	return 0, nvme.StatusSuccess
}

// setProfile accepts the one combination that CNS 1Ch lists.
func setProfile(ct *Controller, f nvme.Features) (uint32, nvme.Status) {
	if f.Value&0x1ff != 0 {
		return 0, nvme.StatusIOCommandSetCombinationRejected.WithDNR()
	}
	return setPlain(ct, f)
}

func getHostID(ct *Controller, c *Command, _ nvme.Features) { c.respond(ct.hostID[:]) }

// setHostID is never reached: admitSet has refused it.
func setHostID(*Controller, nvme.Features) (uint32, nvme.Status) {
	return 0, nvme.StatusSequenceError.WithDNR()
}

func getReservationMask(ct *Controller, f nvme.Features) (uint32, nvme.Status) {
	return ct.features.reservationMask[f.NSID], nvme.StatusSuccess
}

func setReservationMask(ct *Controller, f nvme.Features) (uint32, nvme.Status) {
	const known = nvme.MaskRegistrationPreempted | nvme.MaskReservationReleased | nvme.MaskReservationPreempted
	for _, id := range ct.targets(f.NSID) {
		ct.features.reservationMask[id] = f.Value & known
	}
	return 0, nvme.StatusSuccess
}

func getReservationPersist(ct *Controller, c *Command, f nvme.Features) {
	req := &proto.ReserveRequest{Nsid: uint32(f.NSID), Action: proto.ReserveAction_RESERVE_REPORT}
	ct.reserve(c, req, func(st nvme.Status, s *proto.ReservationState) {
		if s.GetPersist() {
			c.dw0 = nvme.ReservationPersistPower
		}
		c.q.complete(c, st)
	})
}

// setReservationPersist sets one namespace, or one after the other until one fails.
func setReservationPersist(ct *Controller, c *Command, f nvme.Features) {
	change := proto.PersistenceChange_PERSISTENCE_CLEAR
	if f.Value&nvme.ReservationPersistPower != 0 {
		change = proto.PersistenceChange_PERSISTENCE_SET
	}
	ids := ct.targets(f.NSID)
	var next func()
	next = func() {
		if len(ids) == 0 {
			completeOK(c)
			return
		}
		req := &proto.ReserveRequest{
			Nsid: uint32(ids[0]), Action: proto.ReserveAction_RESERVE_SET_PERSISTENCE, Persistence: change,
		}
		ids = ids[1:]
		ct.reserve(c, req, func(st nvme.Status, _ *proto.ReservationState) {
			if !c.failed(st) {
				next()
			}
		})
	}
	next()
}

// reserve asks the core for a change or a report of reservation state and calls fn with the
// outcome, on the thread of c's queue.
func (ct *Controller) reserve(c *Command, req *proto.ReserveRequest, fn func(nvme.Status, *proto.ReservationState)) {
	q := c.q
	req.Association = ct.association
	ok := ct.target.call(func(ctx context.Context) {
		r, err := ct.target.core.Reserve(ctx, req)
		if err != nil {
			ct.log.Warn("reservation command did not reach the core", "nsid", req.GetNsid(), "error", err)
		}
		st := reserveStatus(r, err)
		q.thread.Post(func() { fn(st, r.GetState()) })
	})
	if !ok {
		fn(nvme.StatusANATransition, nil)
	}
}

func reserveStatus(r *proto.ReserveResponse, err error) nvme.Status {
	if err != nil {
		return nvme.StatusANATransition
	}
	switch r.GetResult() {
	case proto.ReserveResult_RESERVE_OK:
		return nvme.StatusSuccess
	case proto.ReserveResult_RESERVE_CONFLICT:
		return nvme.StatusReservationConflict.WithDNR()
	case proto.ReserveResult_RESERVE_INVALID:
		return nvme.StatusInvalidField.WithDNR()
	case proto.ReserveResult_RESERVE_RETRY:
	}
	return nvme.StatusANATransition
}
