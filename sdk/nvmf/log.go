package nvmf

import (
	"slices"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/proto"
)

// maxReservationEvents is how many reservation notifications are kept for a host that does not
// read them; older ones are dropped.
const maxReservationEvents = 256

// logs is what a controller's log pages are made of.
type logs struct {
	errors       []nvme.ErrorEntry // newest first
	errorLimit   int
	errorCount   uint64
	changed      changedNamespaces
	anaChanges   uint64
	reservations []nvme.ReservationNotification // not read yet, oldest first
	reserveCount uint64
	discovery    discoveryLog
}

// reset is a controller level reset. What happened to the subsystem stays.
func (l *logs) reset(errors int) {
	*l = logs{
		errorLimit: errors, errorCount: l.errorCount, errors: l.errors, anaChanges: l.anaChanges,
		reserveCount: l.reserveCount, discovery: l.discovery,
	}
}

// changedNamespaces is the Changed Namespace List. Base 5.16.1.5
type changedNamespaces struct {
	ids  []nvme.NSID // increasing
	many bool        // more than the page can hold
}

func (c *changedNamespaces) add(ids []nvme.NSID) {
	if c.many {
		return
	}
	c.ids = append(c.ids, ids...)
	slices.Sort(c.ids)
	c.ids = slices.Compact(c.ids)
	if len(c.ids) > nvme.MaxNSList {
		c.ids, c.many = nil, true
	}
}

// logPage builds one log page.
type logPage struct {
	build func(ct *Controller, g nvme.GetLogPage, b []byte) ([]byte, nvme.Status)
	kinds controllerKinds
	// read, if not nil, hears that the page was read without Retain Asynchronous Event.
	read func(ct *Controller)
}

// logPages is what Get Log Page knows. Base 5.16.1, Figure 202
var logPages map[nvme.LogID]logPage

func init() {
	logPages = map[nvme.LogID]logPage{
		nvme.LogSupportedPages:    {logSupportedPages, onAll, nil},
		nvme.LogError:             {logErrors, onAll, nil},
		nvme.LogSMART:             {nil, onIO, nil}, // executeGetLogPage gathers it from the queues
		nvme.LogFirmwareSlot:      {logFirmware, onIO, nil},
		nvme.LogChangedNamespaces: {logChanged, onIO, readChanged},
		nvme.LogCommandEffects:    {logCommandEffects, onAll, nil},
		nvme.LogANA:               {logANA, onIO, func(ct *Controller) { ct.events.rearm(ct, eventANA) }},
		nvme.LogFeatureEffects:    {logFeatureEffects, onAll, nil},
		nvme.LogDiscovery: {
			logDiscovery, onDiscovery,
			func(ct *Controller) { ct.events.rearm(ct, eventDiscovery) },
		},
		nvme.LogReservationNotification: {logReservation, onIO, readReservation},
	}
}

func beginGetLogPage(ct *Controller, c *Command) nvme.Status {
	g := nvme.ParseGetLogPage(&c.SQE)
	p, ok := logPages[g.LID]
	switch {
	case !ok || !p.kinds.has(ct):
		return nvme.StatusInvalidLogPage.WithDNR()
	case g.Length > uint64(c.q.maxTransfer), g.Offset%4 != 0, g.OffsetIndex:
		return nvme.StatusInvalidField.WithDNR()
	case g.NSID != 0 && g.NSID != nvme.BroadcastNSID && g.LID == nvme.LogSMART:
		return nvme.StatusInvalidField.WithDNR() // LPA bit 0 is clear
	}
	return c.q.move(c, TransferToHost, int(g.Length))
}

func executeGetLogPage(c *Command) {
	ct := c.q.ctrl
	g := nvme.ParseGetLogPage(&c.SQE)
	if g.LID == nvme.LogSMART {
		ct.gatherSMART(c, g)
		return
	}
	p := logPages[g.LID]
	b, st := p.build(ct, g, ct.scratch[:0])
	if c.failed(st) {
		return
	}
	ct.scratch = b
	if c.answerLog(g, b) && p.read != nil && !g.RetainEvent {
		p.read(ct)
	}
}

// answerLog completes a Get Log Page with the part of the page that was asked for.
func (c *Command) answerLog(g nvme.GetLogPage, page []byte) bool {
	if g.Offset > uint64(len(page)) {
		c.q.complete(c, nvme.StatusInvalidField.WithDNR())
		return false
	}
	c.respond(page[g.Offset:])
	return true
}

func logSupportedPages(ct *Controller, _ nvme.GetLogPage, b []byte) ([]byte, nvme.Status) {
	var s nvme.SupportedLogs
	for id, p := range logPages {
		if p.kinds.has(ct) {
			s[id] = nvme.LogSupported
		}
	}
	return s.Append(b), nvme.StatusSuccess
}

func logErrors(ct *Controller, _ nvme.GetLogPage, b []byte) ([]byte, nvme.Status) {
	for _, e := range ct.logs.errors {
		b = e.Append(b)
	}
	for n := len(ct.logs.errors); n < ct.logs.errorLimit; n++ {
		b = nvme.ErrorEntry{}.Append(b)
	}
	return b, nvme.StatusSuccess
}

// addError keeps an entry of the Error Information log page.
func (ct *Controller) addError(e nvme.ErrorEntry) {
	l := &ct.logs
	l.errorCount++
	e.Count = l.errorCount
	l.errors = slices.Insert(l.errors, 0, e)
	if len(l.errors) > l.errorLimit {
		l.errors = l.errors[:l.errorLimit]
	}
}

// maxErrorsAway bounds what a queue sends its controller; a flood of errors is sampled.
const maxErrorsAway = 8

// countFailure tells the controller of a command that the medium or the core failed.
func (q *Queue) countFailure(c *Command, st nvme.Status) {
	if st.SCT() == nvme.StatusMedia && st.Code() != nvme.StatusCompareFailure {
		q.stats.mediaErrors++
	}
	if st.IsPath() || q.ctrl == nil || q.errorsAway >= maxErrorsAway {
		return
	}
	e := nvme.ErrorEntry{
		Queue: q.id, CID: c.SQE.CID(), Status: st, NSID: c.ns.id, Transport: q.info.TransportType,
		LBA: nvme.LBA((c.req.Offset) >> c.ns.shift),
	}
	if c.req.Info != 0 {
		e.LBA = nvme.LBA(c.req.Info >> c.ns.shift)
	}
	e.SetNoParameter()
	q.errorsAway++
	ct := q.ctrl
	ct.thread.Post(func() {
		ct.addError(e)
		q.thread.Post(func() { q.errorsAway-- })
	})
}

// gatherSMART answers with the sum of what the controller's queues have counted.
func (ct *Controller) gatherSMART(c *Command, g nvme.GetLogPage) {
	parts := make(chan queueStats, len(ct.queues))
	ct.onQueues(func(q *Queue) { parts <- q.stats }, func() {
		sum := ct.pastStats
		for len(parts) > 0 {
			sum.add(<-parts)
		}
		units := func(bytes uint64) nvme.Uint128 {
			return nvme.Uint128{Lo: (bytes + nvme.SMARTDataUnit - 1) / nvme.SMARTDataUnit}
		}
		page := nvme.SMARTLog{
			AvailableSpare: 100, SpareThreshold: 1,
			DataRead: units(sum.readBytes), DataWritten: units(sum.writeBytes),
			ReadCommands: nvme.Uint128{Lo: sum.reads}, WriteCommands: nvme.Uint128{Lo: sum.writes},
			MediaErrors: nvme.Uint128{Lo: sum.mediaErrors}, ErrorEntries: nvme.Uint128{Lo: ct.logs.errorCount},
		}
		c.answerLog(g, page.Append(nil))
	})
}

func (s *queueStats) add(o queueStats) {
	s.reads += o.reads
	s.writes += o.writes
	s.readBytes += o.readBytes
	s.writeBytes += o.writeBytes
	s.mediaErrors += o.mediaErrors
}

func logFirmware(ct *Controller, _ nvme.GetLogPage, b []byte) ([]byte, nvme.Status) {
	f := nvme.FirmwareSlotLog{Active: 1}
	f.Revisions[0] = ct.target.firmware
	return f.Append(b), nvme.StatusSuccess
}

func logChanged(ct *Controller, _ nvme.GetLogPage, b []byte) ([]byte, nvme.Status) {
	c := &ct.logs.changed
	return nvme.ChangedNSList{NSIDs: c.ids, Many: c.many}.Append(b), nvme.StatusSuccess
}

func readChanged(ct *Controller) {
	ct.logs.changed = changedNamespaces{}
	ct.events.pending[eventNamespace] = false // told of all that changed so far
	ct.events.rearm(ct, eventNamespace)
}

func logCommandEffects(ct *Controller, g nvme.GetLogPage, b []byte) ([]byte, nvme.Status) {
	if g.CommandSet != nvme.CommandSetIDNVM {
		return nil, nvme.StatusInvalidField.WithDNR()
	}
	var l nvme.CommandEffectsLog
	for i, cmd := range adminCommands {
		if cmd.run != nil && cmd.kinds.has(ct) {
			l.Admin[i] = cmd.effects
		}
	}
	if ct.kind == nvme.ControllerIO {
		for i, cmd := range ioCommands {
			l.IO[i] = cmd.effects
		}
	}
	return l.Append(b), nvme.StatusSuccess
}

func logFeatureEffects(ct *Controller, _ nvme.GetLogPage, b []byte) ([]byte, nvme.Status) {
	var l nvme.FeatureEffectsLog
	for id, f := range featureTable {
		if f.kinds.has(ct) {
			l[id] = nvme.EffectSupported | f.scope
		}
	}
	return l.Append(b), nvme.StatusSuccess
}

// logANA has a group for every attached namespace, or several namespaces in one group if the
// core says so. Base 5.16.1.13
func logANA(ct *Controller, g nvme.GetLogPage, b []byte) ([]byte, nvme.Status) {
	page := nvme.ANALog{ChangeCount: ct.logs.anaChanges}
	at := map[nvme.ANAGroupID]int{}
	for _, ns := range ct.view.active {
		i, ok := at[ns.group]
		if !ok {
			i = len(page.Groups)
			at[ns.group] = i
			page.Groups = append(page.Groups, nvme.ANAGroup{ID: ns.group, State: ns.state, ChangeCount: ns.anaChange})
		}
		page.Groups[i].NSIDs = append(page.Groups[i].NSIDs, ns.id)
	}
	slices.SortFunc(page.Groups, func(a, b nvme.ANAGroup) int { return int(int64(a.ID) - int64(b.ID)) })
	if g.Specific&nvme.ANAGroupsOnly != 0 {
		b = page.AppendGroupsOnly(b)
	} else {
		b = page.Append(b)
	}
	// Hosts size the page by NANAGRPID and MNAN and read it in pieces (libnvme in
	// those of 4 KiB): it is as long as they may expect, whatever there is now.
	if longest := anaHeaderLen + int(ct.view.maxNSID)*(anaGroupLen+nsidLen); len(b) < longest {
		b = append(b, make([]byte, longest-len(b))...)
	}
	return b, nvme.StatusSuccess
}

// Lengths of the ANA log page's parts, in bytes. Base 5.16.1.13
const (
	anaHeaderLen = 16
	anaGroupLen  = 32
	nsidLen      = 4
)

// reservationEvent queues a notification for a host that wants it. Base 5.16.1.24
func (ct *Controller) reservationEvent(e *proto.ReservationEvent) {
	kind, mask := nvme.ReservationLogEmpty, uint32(0)
	switch e.GetType() {
	case proto.ReservationEventType_RESERVATION_EVENT_REGISTRATION_PREEMPTED:
		kind, mask = nvme.ReservationUnregistered, nvme.MaskRegistrationPreempted
	case proto.ReservationEventType_RESERVATION_EVENT_RELEASED:
		kind, mask = nvme.ReservationReleased, nvme.MaskReservationReleased
	case proto.ReservationEventType_RESERVATION_EVENT_PREEMPTED:
		kind, mask = nvme.ReservationPreemptedAway, nvme.MaskReservationPreempted
	case proto.ReservationEventType_RESERVATION_EVENT_UNSPECIFIED:
	}
	id := nvme.NSID(e.GetNsid())
	if mask == 0 || ct.features.reservationMask[id]&mask != 0 || !ct.csts.Ready() {
		return
	}
	l := &ct.logs
	if l.reserveCount++; l.reserveCount == 0 {
		l.reserveCount = 1 // 0 says that there is none
	}
	l.reservations = append(l.reservations, nvme.ReservationNotification{Count: l.reserveCount, Type: kind, NSID: id})
	if len(l.reservations) > maxReservationEvents {
		l.reservations = slices.Delete(l.reservations, 0, 1)
	}
	ct.events.raise(ct, eventReservation)
}

func logReservation(ct *Controller, _ nvme.GetLogPage, b []byte) ([]byte, nvme.Status) {
	var n nvme.ReservationNotification
	if l := ct.logs.reservations; len(l) > 0 {
		n = l[0]
		n.Available = uint8(min(len(l)-1, 255))
	}
	return n.Append(b), nvme.StatusSuccess
}

// readReservation drops the notification that was read; the next one is an event of its own.
func readReservation(ct *Controller) {
	l := &ct.logs
	if len(l.reservations) > 0 {
		l.reservations = slices.Delete(l.reservations, 0, 1)
	}
	ct.events.pending[eventReservation] = len(l.reservations) > 0
	ct.events.rearm(ct, eventReservation)
}
