package device

import (
	"context"

	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/scsi"
)

// reserve asks the core about the reservation of a task's unit and goes on with its answer, on the
// nexus's thread; a task that cannot be answered ends busy.
func (t *Task) reserve(req *proto.ReserveRequest, then func(*proto.ReserveResponse)) {
	n := t.nexus
	req.Association, req.Nsid = n.association, uint32(t.unit.lun)+1
	ok := n.server.call(func(ctx context.Context) {
		r, err := n.server.core.Reserve(ctx, req)
		n.server.passedOn(ctx, r.GetAfter())
		n.thread.Post(func() {
			switch {
			case t.dropped:
				n.abandoned(t)
			case err != nil || r.GetResult() == proto.ReserveResult_RESERVE_RETRY:
				n.log.Warn("the core does not answer about a reservation", "lun", t.unit.lun, "error", err)
				t.failStatus(scsi.StatusBusy)
			default:
				then(r)
			}
		})
	})
	if !ok {
		t.failStatus(scsi.StatusBusy)
	}
}

// gate has a task of another kind than reads and writes wait for the core's word on reservations.
func (n *Nexus) gate(t *Task, k kind) {
	t.gated = t.run
	t.run = func(t *Task) {
		t.reserve(&proto.ReserveRequest{Action: proto.ReserveAction_RESERVE_REPORT}, func(r *proto.ReserveResponse) {
			if n.conflicts(r.GetState(), k) {
				t.failStatus(scsi.StatusReservationConflict)
				return
			}
			t.gated(t)
		})
	}
}

// conflicts says whether a reservation keeps a command of a kind from being carried out. SPC-4
// table 67, SBC-3 table 7; SPC-2 5.5.1
func (n *Nexus) conflicts(s *proto.ReservationState, k kind) bool {
	if u := s.GetUnit(); u != nil {
		return !n.is(u)
	}
	if k == kindAsk || s.GetType() == proto.ReservationType_RESERVATION_NONE {
		return false
	}
	if k == kindExclusive && !exclusive(s.GetType()) {
		return false
	}
	for _, r := range s.GetRegistrants() {
		if n.is(r.GetHost()) {
			return !r.GetHolder() && s.GetType() < proto.ReservationType_RESERVATION_WRITE_EXCLUSIVE_REGISTRANTS
		}
	}
	return true
}

func exclusive(t proto.ReservationType) bool {
	return t == proto.ReservationType_RESERVATION_EXCLUSIVE_ACCESS || t == proto.ReservationType_RESERVATION_EXCLUSIVE_ACCESS_REGISTRANTS ||
		t == proto.ReservationType_RESERVATION_EXCLUSIVE_ACCESS_ALL
}

// is says whether an identity is the nexus's initiator port.
func (n *Nexus) is(h *proto.HostIdentity) bool {
	return h.GetProtocol() == proto.Protocol_PROTOCOL_ISCSI && h.GetName() == n.info.Initiator && string(h.GetHostId()) == string(n.info.ISID[:])
}

// RESERVE (6) and RELEASE (6). SPC-2 7.21 and 7.16

func beginReserveUnit(_ *Nexus, t *Task) {
	if t.CDB[1]&0x11 != 0 { // third party and extent reservations are obsolete
		t.invalidCDB(1, 4)
		return
	}
	t.run = executeReserveUnit
}

func executeReserveUnit(t *Task) {
	action := proto.ReserveAction_RESERVE_UNIT
	if scsi.Opcode(t.CDB[0]) == scsi.Release6 {
		action = proto.ReserveAction_RESERVE_RELEASE_UNIT
	}
	t.reserve(&proto.ReserveRequest{Action: action}, func(r *proto.ReserveResponse) {
		if r.GetResult() != proto.ReserveResult_RESERVE_OK {
			t.failStatus(scsi.StatusReservationConflict)
			return
		}
		t.nexus.complete(t)
	})
}
