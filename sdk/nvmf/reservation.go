package nvmf

import (
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/proto"
)

// beginReservation judges a Reservation Register, Acquire or Release. Base 7.2 to 7.4
func beginReservation(q *Queue, c *Command, _ *namespace) nvme.Status {
	if _, st := reservationAction(nvme.ParseReservationCommand(&c.SQE)); !st.OK() {
		return st
	}
	n := nvme.ReservationKeysSize
	if c.SQE.Opcode() == nvme.IOReservationRelease {
		n = nvme.ReservationReleaseSize
	}
	return q.move(c, TransferFromHost, n)
}

// reservationAction finds the action, or which field is invalid.
func reservationAction(r nvme.ReservationCommand) (proto.ReserveAction, nvme.Status) {
	invalid := nvme.StatusInvalidField.WithDNR()
	var actions []proto.ReserveAction
	switch r.Opcode {
	case nvme.IOReservationRegister:
		if r.Persist == nvme.PersistReserved {
			return 0, invalid
		}
		actions = registerActions[:]
	case nvme.IOReservationAcquire:
		if r.IgnoreExisting || !r.Type.Valid() {
			return 0, invalid
		}
		actions = acquireActions[:]
	default:
		if r.IgnoreExisting || r.Action == nvme.Release && !r.Type.Valid() {
			return 0, invalid
		}
		actions = releaseActions[:]
	}
	if int(r.Action) >= len(actions) {
		return 0, invalid
	}
	return actions[r.Action], nvme.StatusSuccess
}

var (
	registerActions = [...]proto.ReserveAction{
		nvme.RegisterKey:   proto.ReserveAction_RESERVE_REGISTER,
		nvme.UnregisterKey: proto.ReserveAction_RESERVE_UNREGISTER,
		nvme.ReplaceKey:    proto.ReserveAction_RESERVE_REPLACE,
	}
	acquireActions = [...]proto.ReserveAction{
		nvme.Acquire:         proto.ReserveAction_RESERVE_ACQUIRE,
		nvme.Preempt:         proto.ReserveAction_RESERVE_PREEMPT,
		nvme.PreemptAndAbort: proto.ReserveAction_RESERVE_PREEMPT_ABORT,
	}
	releaseActions = [...]proto.ReserveAction{
		nvme.Release:  proto.ReserveAction_RESERVE_RELEASE,
		nvme.ClearAll: proto.ReserveAction_RESERVE_CLEAR,
	}
)

func executeReservation(c *Command) {
	cmd := nvme.ParseReservationCommand(&c.SQE)
	action, _ := reservationAction(cmd)
	keys, err := reservationKeys(c)
	if err != nil {
		panic("nvmf: reservation data shorter than it was made: " + err.Error())
	}
	req := &proto.ReserveRequest{
		Nsid: uint32(cmd.NSID), Action: action, CurrentKey: uint64(keys.Current), NewKey: uint64(keys.Other),
		IgnoreKey: cmd.IgnoreExisting, Type: proto.ReservationType(cmd.Type),
		Persistence: proto.PersistenceChange(cmd.Persist),
	}
	c.q.ctrl.reserve(c, req, func(st nvme.Status, _ *proto.ReservationState) { c.q.complete(c, st) })
}

func reservationKeys(c *Command) (nvme.ReservationKeys, error) {
	if c.SQE.Opcode() == nvme.IOReservationRelease {
		key, _, err := nvme.ParseReservationRelease(c.Data.Bytes())
		return nvme.ReservationKeys{Current: key}, err
	}
	keys, _, err := nvme.ParseReservationKeys(c.Data.Bytes())
	return keys, err
}

// beginReservationReport insists on the extended structure: hosts have 128-bit identifiers
// over fabrics. Base 7.5
func beginReservationReport(q *Queue, c *Command, _ *namespace) nvme.Status {
	r := nvme.ParseReservationReport(&c.SQE)
	switch {
	case !r.Extended:
		return nvme.StatusHostIDFormat.WithDNR()
	case r.Length > uint64(q.maxTransfer):
		return nvme.StatusInvalidField.WithDNR()
	}
	return q.move(c, TransferToHost, int(r.Length))
}

func executeReservationReport(c *Command) {
	req := &proto.ReserveRequest{Nsid: uint32(c.ns.id), Action: proto.ReserveAction_RESERVE_REPORT}
	c.q.ctrl.reserve(c, req, func(st nvme.Status, s *proto.ReservationState) {
		if !c.failed(st) {
			c.respond(reservationStatus(s).Append(nil))
		}
	})
}

// reservationStatus lists NVMe registrants; an iSCSI initiator appears with the start of its
// name as identifier, so that a host sees that somebody else is there.
func reservationStatus(s *proto.ReservationState) nvme.ReservationStatus {
	r := nvme.ReservationStatus{
		Extended: true, Generation: s.GetGeneration(), Type: nvme.ReservationType(s.GetType()), Persistent: s.GetPersist(),
	}
	for _, p := range s.GetRegistrants() {
		reg := nvme.Registrant{
			Controller: nvme.ControllerID(p.GetControllerId()), Holder: p.GetHolder(), Key: nvme.ReservationKey(p.GetKey()),
		}
		if id := p.GetHost().GetHostId(); len(id) == len(reg.Host) {
			copy(reg.Host[:], id)
		} else {
			copy(reg.Host[:], p.GetHost().GetName())
		}
		r.Registrants = append(r.Registrants, reg)
	}
	return r
}
