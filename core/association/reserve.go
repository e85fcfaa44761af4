package association

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/sdk/proto"
)

// guard is a reservation as the reactor asks it. Immutable.
type guard struct{ meta.Reservation }

func (g *guard) AllowsRead(h access.Host) bool  { return g.Allows(h, meta.OpRead) }
func (g *guard) AllowsWrite(h access.Host) bool { return g.Allows(h, meta.OpWrite) }

// guardOf is nil where there is nothing to guard.
func guardOf(r meta.Reservation) access.Guard {
	if r.Type == meta.NoReservation {
		return nil
	}
	return &guard{r}
}

// Reserve implements proto.CoreServer. A change is durable in Meta first, then in
// force at the reactor, which drains what it admitted before; only then is the host
// answered.
func (l *life) Reserve(ctx context.Context, r *proto.ReserveRequest) (*proto.ReserveResponse, error) {
	s := l.service
	a, err := s.lookup(l, r.Association)
	if err != nil {
		return &proto.ReserveResponse{Result: proto.ReserveResult_RESERVE_RETRY}, nil
	}
	if r.Action != proto.ReserveAction_RESERVE_REPORT {
		// The end of the association waits for it: no successor meets a change that its
		// host has given up.
		defer s.pairs.lock(a.pair())()
		if a.hasEnded() {
			return &proto.ReserveResponse{Result: proto.ReserveResult_RESERVE_RETRY}, nil
		}
	}
	a.mu.Lock()
	g := a.grants[meta.NSID(r.Nsid)]
	_, away := a.away[meta.NSID(r.Nsid)]
	a.mu.Unlock()
	if away {
		return &proto.ReserveResponse{Result: proto.ReserveResult_RESERVE_RETRY}, nil
	}
	if g == nil {
		return &proto.ReserveResponse{Result: proto.ReserveResult_RESERVE_INVALID}, nil
	}
	if r.Action == proto.ReserveAction_RESERVE_REPORT {
		state, err := s.Meta.Reservation(ctx, g.id)
		if err != nil {
			return nil, err
		}
		return &proto.ReserveResponse{State: s.present(a.subsystem, state)}, nil
	}
	out, err := s.Meta.Reserve(ctx, g.id, meta.ReserveRequest{
		ID: uuid.New(), Host: a.host, Action: meta.ReserveAction(r.Action), Key: r.CurrentKey, NewKey: r.NewKey, IgnoreKey: r.IgnoreKey,
		Type: meta.ReservationType(r.Type), Persistence: meta.PersistenceChange(r.Persistence),
	})
	if err != nil {
		s.log.Warn("reservation command not carried out", "host", a.host.Name, "nsid", r.Nsid, "error", err)
		return &proto.ReserveResponse{Result: proto.ReserveResult_RESERVE_RETRY}, nil
	}
	if out.Changed {
		if err := s.enforce(ctx, g.volume, g.id); err != nil {
			return nil, fmt.Errorf("put the reservation in force: %w", err)
		}
	}
	s.notify(a.subsystem, meta.NSID(r.Nsid), out.Tell)
	return &proto.ReserveResponse{Result: results[out.Result], State: s.present(a.subsystem, out.State)}, nil
}

var results = map[meta.ReserveResult]proto.ReserveResult{
	meta.ReserveOK:       proto.ReserveResult_RESERVE_OK,
	meta.ReserveConflict: proto.ReserveResult_RESERVE_CONFLICT,
	meta.ReserveInvalid:  proto.ReserveResult_RESERVE_INVALID,
}

// enforce installs what Meta says now, not what one request left: of two at once, or
// of a request and a host that connects, the later state wins whoever comes last.
func (s *Service) enforce(ctx context.Context, volume *access.Volume, id uuid.UUID) error {
	defer s.enforcing.lock(id)()
	state, err := s.Meta.Reservation(ctx, id)
	if err != nil {
		return err
	}
	return volume.SetGuard(ctx, guardOf(state))
}

// notify tells hosts what another one did to their reservation.
func (s *Service) notify(nqn string, nsid meta.NSID, tell []meta.Notification) {
	s.mu.Lock()
	var all []*association
	for _, a := range s.assocs {
		if a.subsystem == nqn {
			all = append(all, a)
		}
	}
	s.mu.Unlock()
	for _, n := range tell {
		for _, a := range all {
			if !a.host.Same(n.Host) {
				continue
			}
			a.mu.Lock()
			sees := a.grants[nsid] != nil
			a.mu.Unlock()
			if sees {
				a.life.tell(&proto.Update{Update: &proto.Update_Reservation{Reservation: &proto.ReservationEvent{
					Association: a.id, Nsid: uint32(nsid), Type: proto.ReservationEventType(n.Type),
				}}})
			}
		}
	}
}

// present is a reservation as plugins see it, with the controllers of the registrants.
func (s *Service) present(nqn string, r meta.Reservation) *proto.ReservationState {
	out := &proto.ReservationState{Generation: r.Generation, Type: proto.ReservationType(r.Type), Persist: r.Persist}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range r.Registrants {
		p := proto.Protocol_PROTOCOL_NVME
		if g.Host.Protocol == meta.ISCSI {
			p = proto.Protocol_PROTOCOL_ISCSI
		}
		here := false
		for _, a := range s.assocs {
			if a.subsystem == nqn && a.host.Same(g.Host) {
				here = true
				out.Registrants = append(out.Registrants, registrant(p, g, uint32(a.controller)))
			}
		}
		if !here {
			out.Registrants = append(out.Registrants, registrant(p, g, 0xFFFF))
		}
	}
	return out
}

func registrant(p proto.Protocol, g meta.Registrant, controller uint32) *proto.Registrant {
	id := g.Host.ID
	return &proto.Registrant{
		Host: &proto.HostIdentity{Protocol: p, Name: g.Host.Name, HostId: id[:]}, Key: g.Key, Holder: g.Holder, ControllerId: controller,
	}
}
