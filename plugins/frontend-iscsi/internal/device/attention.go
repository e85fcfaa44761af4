package device

import (
	"slices"

	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/scsi"
)

// maxAttentions is how many unit attentions a unit keeps for a nexus; more are not queued. SAM-5
// 5.14.2
const maxAttentions = 16

// attend raises a unit attention, unless the same waits already. A reset makes what was before it
// void.
func (n *Nexus) attend(l scsi.LUN, asc scsi.ASC) {
	list := n.attentions[l]
	if asc>>8 == scsi.ASCReset>>8 {
		n.unreported -= len(list)
		list = list[:0]
	}
	if slices.Contains(list, asc) || len(list) >= maxAttentions {
		return
	}
	n.attentions[l] = append(list, asc)
	n.unreported++
}

// attention takes the first unit attention of a unit.
func (n *Nexus) attention(l scsi.LUN) (scsi.ASC, bool) {
	list := n.attentions[l]
	if len(list) == 0 {
		return 0, false
	}
	n.unreported--
	asc := list[0]
	n.attentions[l] = list[1:]
	return asc, true
}

// clearAttention drops the unit attentions of one kind that a unit has.
func (n *Nexus) clearAttention(l scsi.LUN, asc scsi.ASC) {
	before := len(n.attentions[l])
	n.attentions[l] = slices.DeleteFunc(n.attentions[l], func(a scsi.ASC) bool { return a == asc })
	n.unreported -= before - len(n.attentions[l])
}

// reservationEvent tells of what another host did to the initiator's registration. SPC-4 5.13.11
func (n *Nexus) reservationEvent(e *proto.ReservationEvent) {
	l := scsi.LUN(e.GetNsid() - 1)
	if !slices.Contains(n.view.luns, l) {
		return
	}
	switch e.GetType() {
	case proto.ReservationEventType_RESERVATION_EVENT_REGISTRATION_PREEMPTED:
		n.attend(l, scsi.ASCRegistrationsPreempted)
	case proto.ReservationEventType_RESERVATION_EVENT_RELEASED:
		n.attend(l, scsi.ASCReservationsReleased)
	case proto.ReservationEventType_RESERVATION_EVENT_PREEMPTED:
		n.attend(l, scsi.ASCReservationsPreempted)
	case proto.ReservationEventType_RESERVATION_EVENT_UNSPECIFIED:
	}
}
