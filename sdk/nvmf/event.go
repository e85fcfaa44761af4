package nvmf

import (
	"slices"

	"github.com/mooring-io/mooring/sdk/nvme"
)

// eventKind is an asynchronous event that this target reports.
type eventKind uint8

const (
	eventNamespace eventKind = iota
	eventANA
	eventReservation
	eventDiscovery
	eventKinds
)

// eventTable says how each kind is reported and which bit of the Asynchronous Event Configuration
// feature lets it through; 0 for an event that has masks of its own.
var eventTable = [eventKinds]struct {
	event  nvme.AsyncEvent
	enable nvme.AsyncEvents
}{
	eventNamespace:   {nvme.EventNSAttribute, nvme.EventsNamespaceChange},
	eventANA:         {nvme.EventANAChange, nvme.EventsANAChange},
	eventReservation: {nvme.EventReservation, 0},
	eventDiscovery:   {nvme.EventDiscovery, nvme.EventsDiscoveryChange},
}

// supportedEvents is OAES.
func (ct *Controller) supportedEvents() nvme.AsyncEvents {
	if ct.kind == nvme.ControllerDiscovery {
		return nvme.EventsDiscoveryChange
	}
	return nvme.EventsNamespaceChange | nvme.EventsANAChange
}

// events are the asynchronous events of a controller. An event that was reported stays masked
// until its log page is read without Retain Asynchronous Event; one that happens meanwhile is
// reported after that. Base 5.2
type events struct {
	enabled  nvme.AsyncEvents
	requests []*Command // Asynchronous Event Requests, oldest first
	pending  [eventKinds]bool
	masked   [eventKinds]bool
}

func (e *events) reset() { *e = events{requests: e.requests} }

// raise reports an event, now or when that is possible.
func (e *events) raise(ct *Controller, k eventKind) {
	if en := eventTable[k].enable; en != 0 && e.enabled&en == 0 {
		return
	}
	e.pending[k] = true
	e.deliver(ct)
}

func (e *events) deliver(ct *Controller) {
	for k := range eventKinds {
		if len(e.requests) == 0 {
			return
		}
		if !e.pending[k] || e.masked[k] {
			continue
		}
		e.pending[k], e.masked[k] = false, true
		c := e.requests[0]
		e.requests = slices.Delete(e.requests, 0, 1)
		c.dw0 = eventTable[k].event.DW0()
		ct.admin.complete(c, nvme.StatusSuccess)
	}
}

// rearm hears that an event's log page was read.
func (e *events) rearm(ct *Controller, k eventKind) {
	e.masked[k] = false
	e.deliver(ct)
}

// configure takes a new Asynchronous Event Configuration.
func (e *events) configure(v nvme.AsyncEvents) {
	e.enabled = v
	for k, t := range eventTable {
		if t.enable != 0 && v&t.enable == 0 {
			e.pending[k] = false
		}
	}
}

// abort completes all requests.
func (e *events) abort(ct *Controller) {
	list := e.requests
	e.requests = nil
	for _, c := range list {
		ct.admin.complete(c, nvme.StatusAbortSQDeletion)
	}
}

// remove takes one request out, if it is here.
func (e *events) remove(c *Command) bool {
	i := slices.Index(e.requests, c)
	if i < 0 {
		return false
	}
	e.requests = slices.Delete(e.requests, i, i+1)
	return true
}

func executeAsyncEventRequest(c *Command) {
	ct := c.q.ctrl
	if len(ct.events.requests) >= ct.target.limits.AsyncEvents {
		c.q.complete(c, nvme.StatusAsyncEventLimitExceeded.WithDNR())
		return
	}
	if !ct.ready() {
		c.q.complete(c, nvme.StatusAbortSQDeletion)
		return
	}
	ct.events.requests = append(ct.events.requests, c)
	ct.events.deliver(ct)
}
