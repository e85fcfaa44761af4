package device

import (
	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/scsi"
)

// The core keeps reservations, one state for NVMe and iSCSI, with NVMe's numbers. Both have the same
// types.
var (
	typesToCore = map[scsi.PersistentType]proto.ReservationType{
		scsi.WriteExclusive:                proto.ReservationType_RESERVATION_WRITE_EXCLUSIVE,
		scsi.ExclusiveAccess:               proto.ReservationType_RESERVATION_EXCLUSIVE_ACCESS,
		scsi.WriteExclusiveRegistrants:     proto.ReservationType_RESERVATION_WRITE_EXCLUSIVE_REGISTRANTS,
		scsi.ExclusiveAccessRegistrants:    proto.ReservationType_RESERVATION_EXCLUSIVE_ACCESS_REGISTRANTS,
		scsi.WriteExclusiveAllRegistrants:  proto.ReservationType_RESERVATION_WRITE_EXCLUSIVE_ALL,
		scsi.ExclusiveAccessAllRegistrants: proto.ReservationType_RESERVATION_EXCLUSIVE_ACCESS_ALL,
	}
	typesFromCore = map[proto.ReservationType]scsi.PersistentType{}
)

func init() {
	for s, c := range typesToCore {
		typesFromCore[c] = s
	}
}

// PERSISTENT RESERVE IN. SPC-4 6.15

func beginPersistentIn(_ *Nexus, t *Task) { t.run = executePersistentIn }

func executePersistentIn(t *Task) {
	action := scsi.ServiceAction(t.CDB[:])
	t.reserve(&proto.ReserveRequest{Action: proto.ReserveAction_RESERVE_REPORT}, func(r *proto.ReserveResponse) {
		if u := r.GetState().GetUnit(); u != nil { // SPC-2 5.5.1
			t.failStatus(scsi.StatusReservationConflict)
			return
		}
		if action == scsi.PersistentCapabilities {
			t.answer(scsi.AppendPersistentCapabilities(t.scratch(), r.GetState().GetPersist()))
			return
		}
		s := persistentStatus(r.GetState(), t.nexus.port16())
		switch action {
		case scsi.PersistentReadKeys:
			t.answer(s.AppendKeys(t.scratch()))
		case scsi.PersistentReadHolder:
			t.answer(s.AppendHolder(t.scratch()))
		default:
			t.answer(s.AppendFull(t.scratch()))
		}
	})
}

// persistentStatus is a reservation as SCSI tells it. A host that is registered by NVMe with several
// controllers is one registrant here; its NQN stands where an initiator has its name.
func persistentStatus(s *proto.ReservationState, port uint16) scsi.PersistentStatus {
	out := scsi.PersistentStatus{Generation: s.GetGeneration(), Type: typesFromCore[s.GetType()]}
	seen := map[string]bool{}
	for _, r := range s.GetRegistrants() {
		h := r.GetHost()
		id := h.GetProtocol().String() + h.GetName() + string(h.GetHostId())
		if h.GetProtocol() == proto.Protocol_PROTOCOL_NVME {
			id = string(h.GetHostId())
		}
		if seen[id] {
			continue
		}
		seen[id] = true
		isid := ""
		if h.GetProtocol() == proto.Protocol_PROTOCOL_ISCSI {
			isid = hexOf(h.GetHostId())
		}
		out.Registrants = append(out.Registrants, scsi.PersistentRegistrant{
			Key: r.GetKey(), Holder: r.GetHolder(), TransportID: scsi.AppendTransportID(nil, h.GetName(), isid), Port: port,
		})
	}
	return out
}

// PERSISTENT RESERVE OUT. SPC-4 6.16

func beginPersistentOut(n *Nexus, t *Task) {
	action := scsi.ServiceAction(t.CDB[:])
	kind := scsi.PersistentType(t.CDB[2] & 0xf)
	switch action {
	case scsi.PersistentReserve, scsi.PersistentRelease, scsi.PersistentPreempt, scsi.PersistentPreemptAbort:
		if t.CDB[2]>>4 != 0 { // only logical units have a scope
			t.invalidCDB(2, 7)
			return
		}
		if !kind.Valid() {
			t.invalidCDB(2, 3)
			return
		}
	}
	if scsi.ParameterListLength(&t.CDB) != scsi.PersistentListSize {
		t.refuse(scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCParameterListLength})
		return
	}
	t.run = executePersistentOut
	n.wants(t, scsi.PersistentListSize)
}

// persistentActions are the actions of the core; REGISTER AND MOVE is none of them.
var persistentActions = map[uint8]proto.ReserveAction{
	scsi.PersistentRegister:       proto.ReserveAction_RESERVE_REGISTER,
	scsi.PersistentRegisterIgnore: proto.ReserveAction_RESERVE_REGISTER,
	scsi.PersistentReserve:        proto.ReserveAction_RESERVE_ACQUIRE,
	scsi.PersistentRelease:        proto.ReserveAction_RESERVE_RELEASE,
	scsi.PersistentClear:          proto.ReserveAction_RESERVE_CLEAR,
	scsi.PersistentPreempt:        proto.ReserveAction_RESERVE_PREEMPT,
	scsi.PersistentPreemptAbort:   proto.ReserveAction_RESERVE_PREEMPT_ABORT,
}

func executePersistentOut(t *Task) {
	p, err := scsi.ParsePersistent(t.Data.Bytes())
	if err != nil {
		t.fail(scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCParameterListLength})
		return
	}
	action := scsi.ServiceAction(t.CDB[:])
	registers := action == scsi.PersistentRegister || action == scsi.PersistentRegisterIgnore
	switch {
	case registers && p.SpecPorts: // as REPORT CAPABILITIES says
		t.invalidList(20, 3)
		return
	case registers && p.AllPorts:
		t.invalidList(20, 2)
		return
	}
	req := &proto.ReserveRequest{
		Action: persistentActions[action], CurrentKey: p.Key, NewKey: p.ActionKey, IgnoreKey: action == scsi.PersistentRegisterIgnore,
		Type: typesToCore[scsi.PersistentType(t.CDB[2]&0xf)],
	}
	if registers {
		req.Persistence = proto.PersistenceChange_PERSISTENCE_CLEAR
		if p.PowerLoss {
			req.Persistence = proto.PersistenceChange_PERSISTENCE_SET
		}
	}
	t.reserve(req, func(r *proto.ReserveResponse) { t.persistentDone(r) })
}

func (t *Task) persistentDone(r *proto.ReserveResponse) {
	switch r.GetResult() {
	case proto.ReserveResult_RESERVE_OK:
		t.nexus.complete(t)
	case proto.ReserveResult_RESERVE_INVALID:
		if scsi.ServiceAction(t.CDB[:]) == scsi.PersistentRelease {
			t.fail(scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCInvalidRelease})
			return
		}
		t.invalidList(8, 7)
	case proto.ReserveResult_RESERVE_CONFLICT, proto.ReserveResult_RESERVE_RETRY:
		t.failStatus(scsi.StatusReservationConflict)
	}
}
