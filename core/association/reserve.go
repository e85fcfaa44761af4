package association

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

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
	if !r.Guards() {
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
	a.mu.Unlock()
	if g == nil {
		return &proto.ReserveResponse{Result: proto.ReserveResult_RESERVE_INVALID}, nil
	}
	if r.Action == proto.ReserveAction_RESERVE_REPORT {
		state, err := s.Meta.Reservation(ctx, g.id)
		if err != nil {
			return nil, err
		}
		return &proto.ReserveResponse{State: s.present(g.id, state)}, nil
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
		if err := s.Guards.Enforce(ctx, g.volume); err != nil {
			return nil, fmt.Errorf("put the reservation in force: %w", err)
		}
	}
	s.notify(g.id, out.Tell)
	return &proto.ReserveResponse{Result: results[out.Result], State: s.present(g.id, out.State), After: a.life.lastTold()}, nil
}

var results = map[meta.ReserveResult]proto.ReserveResult{
	meta.ReserveOK:       proto.ReserveResult_RESERVE_OK,
	meta.ReserveConflict: proto.ReserveResult_RESERVE_CONFLICT,
	meta.ReserveInvalid:  proto.ReserveResult_RESERVE_INVALID,
}

// releaseUnits ends what a session reserved with RESERVE (6). SPC-2 5.5.1
func (s *Service) releaseUnits(ctx context.Context, u unended) error {
	if u.host.Protocol != meta.ISCSI {
		return nil
	}
	for _, g := range u.grants {
		state, err := s.Meta.Reservation(ctx, g.id)
		if err != nil {
			return err
		}
		if state.Unit == nil || !state.Unit.Same(u.host) {
			continue
		}
		if _, err := s.Meta.Reserve(ctx, g.id, meta.ReserveRequest{ID: uuid.New(), Host: u.host, Action: meta.ReserveReleaseUnit}); err != nil {
			return fmt.Errorf("end the reservation of a session: %w", err)
		}
		if err := s.Guards.Enforce(ctx, g.volume); err != nil && !errors.Is(err, access.ErrStopped) {
			return err
		}
	}
	return nil
}

// Guards put reservations in force.
type Guards struct {
	Meta *meta.Meta
	one  locks[uuid.UUID] // one change of a volume's guard at a time
}

// Enforce installs what Meta says now, not what one request left: of two at once, or
// of a request and a host that connects, the later state wins whoever comes last. Where another
// node drives the volume, that one does it.
func (g *Guards) Enforce(ctx context.Context, volume *access.Volume) error {
	defer g.one.lock(volume.ID())()
	state, err := g.Meta.Reservation(ctx, volume.ID())
	if err != nil {
		return err
	}
	return volume.SetGuard(ctx, guardOf(state))
}

// notify tells hosts what another one did to their reservation of a volume.
func (s *Service) notify(volume uuid.UUID, tell []meta.Notification) {
	if len(tell) == 0 {
		return
	}
	for a, nsid := range s.having(volume) {
		for _, n := range tell {
			if a.host.Same(n.Host) {
				a.life.tell(&proto.Update{Update: &proto.Update_Reservation{Reservation: &proto.ReservationEvent{
					Association: a.id, Nsid: uint32(nsid), Type: proto.ReservationEventType(n.Type),
				}}})
			}
		}
	}
}

// having finds the associations that have a volume, and what they call it.
func (s *Service) having(volume uuid.UUID) map[*association]meta.NSID {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.assocs))
	s.mu.Unlock()
	out := map[*association]meta.NSID{}
	for _, a := range all {
		a.mu.Lock()
		for nsid, g := range a.grants {
			if g.id == volume {
				out[a] = nsid
			}
		}
		a.mu.Unlock()
	}
	return out
}

// present is a volume's reservation as plugins see it, with the controllers of the
// registrants. iSCSI initiator ports have none.
func (s *Service) present(volume uuid.UUID, r meta.Reservation) *proto.ReservationState {
	out := &proto.ReservationState{Generation: r.Generation, Type: proto.ReservationType(r.Type), Persist: r.Persist}
	if r.Unit != nil {
		out.Unit = identity(*r.Unit)
	}
	having := s.having(volume)
	for _, g := range r.Registrants {
		here := false
		for a := range having {
			if g.Host.Protocol == meta.NVMe && a.host.Same(g.Host) {
				here = true
				out.Registrants = append(out.Registrants, registrant(g, uint32(a.controller)))
			}
		}
		if !here {
			out.Registrants = append(out.Registrants, registrant(g, noController))
		}
	}
	return out
}

// noController is the controller of a registrant that is not associated now.
const noController = 0xFFFF

func registrant(g meta.Registrant, controller uint32) *proto.Registrant {
	return &proto.Registrant{Host: identity(g.Host), Key: g.Key, Holder: g.Holder, ControllerId: controller}
}

// isidBytes is the length of an ISID, which lies at the beginning of a HostID's ID.
const isidBytes = 6

func identity(h meta.HostID) *proto.HostIdentity {
	out := &proto.HostIdentity{Protocol: proto.Protocol_PROTOCOL_NVME, Name: h.Name, HostId: h.ID[:]}
	if h.Protocol == meta.ISCSI {
		out.Protocol, out.HostId = proto.Protocol_PROTOCOL_ISCSI, h.ID[:isidBytes]
	}
	return out
}
