package association

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/sdk/proto"
)

// association is one host's association with one subsystem at one access point: in
// NVMe, a controller and its queues.
type association struct {
	id          uint64
	life        *life
	host        access.Host
	subsystem   string
	accessPoint string
	peer        string
	controller  uint16
	since       time.Time

	sent meta.PathEpoch // the move of the link that its host was told of; under the pair's lock

	mu     sync.Mutex
	grants map[meta.NSID]*grant   // guarded by mu
	ended  bool                   // guarded by mu
	wants  map[meta.NSID]struct{} // whose path the host's writes want here; guarded by mu
	moving bool                   // a goroutine is at them; guarded by mu
}

func (a *association) pair() pair { return pairOf(a.host, a.subsystem) }

// grant is one namespace of an association.
type grant struct {
	volume  *access.Volume
	id      [16]byte // of the volume
	handle  access.Handle
	state   proto.AnaState
	changes uint64 // how often state changed
	epoch   meta.PathEpoch
}

// grantsNow is what the plugin is told.
func (a *association) grantsNow() *proto.Grants {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := &proto.Grants{Association: a.id}
	for nsid, g := range a.grants {
		out.Grants = append(out.Grants, &proto.Grant{
			Nsid: uint32(nsid), Handle: g.handle.Index, HandleGeneration: g.handle.Generation,
			AnaState: g.state, AnaChangeCount: g.changes, PathEpoch: uint64(g.epoch),
		})
	}
	slices.SortFunc(out.Grants, func(x, y *proto.Grant) int { return int(x.Nsid) - int(y.Nsid) })
	return out
}

// refused is an association that is not to be.
type refused struct {
	result  proto.AssociateResult
	text    string
	address string // address:port to go to, with ASSOCIATE_ELSEWHERE
}

func (e *refused) Error() string { return e.text }

// Associate implements proto.CoreServer.
func (l *life) Associate(ctx context.Context, r *proto.AssociateRequest) (*proto.AssociateResponse, error) {
	a, err := l.associate(ctx, r)
	var no *refused
	if errors.As(err, &no) {
		return &proto.AssociateResponse{Result: no.result, Message: no.text, Address: no.address}, nil
	}
	if err != nil {
		l.service.log.Warn("association refused", "host", r.GetHost().GetName(), "subsystem", r.Subsystem, "error", err)
		return &proto.AssociateResponse{Result: proto.AssociateResult_ASSOCIATE_NOT_READY, Message: err.Error()}, nil
	}
	return &proto.AssociateResponse{Association: a.id, ControllerId: uint32(a.controller), Grants: a.grantsNow()}, nil
}

// associate is begin; a node that cannot serve for want of its Meta session sends initiators elsewhere.
func (l *life) associate(ctx context.Context, r *proto.AssociateRequest) (*association, error) {
	if r.GetHost().GetProtocol() != proto.Protocol_PROTOCOL_ISCSI {
		return l.service.begin(ctx, l, r)
	}
	leased, stop := l.service.leased(ctx)
	defer stop()
	a, err := l.service.begin(leased, l, r)
	if err == nil {
		return a, nil
	}
	if address := l.service.elsewhere(r.Host.Name, r.Subsystem); address != "" {
		err = &refused{result: proto.AssociateResult_ASSOCIATE_ELSEWHERE, text: "this node has lost its Meta session", address: address}
	}
	return nil, err
}

func hostOf(h *proto.HostIdentity) (access.Host, error) {
	out := access.Host{Name: h.GetName()}
	switch h.GetProtocol() {
	case proto.Protocol_PROTOCOL_NVME:
		out.Protocol = meta.NVMe
		if len(h.HostId) != len(out.ID) {
			return out, fmt.Errorf("the host identifier has %d bytes, not %d", len(h.HostId), len(out.ID))
		}
		copy(out.ID[:], h.HostId)
	case proto.Protocol_PROTOCOL_ISCSI:
		out.Protocol = meta.ISCSI
		if len(h.HostId) != isidBytes {
			return out, fmt.Errorf("the ISID has %d bytes, not %d", len(h.HostId), isidBytes)
		}
		copy(out.ID[:], h.HostId)
	default:
		return out, fmt.Errorf("protocol %v is unknown", h.GetProtocol())
	}
	return out, nil
}

// begin makes an association: who the host was before at this access point is ended
// and drained first.
func (s *Service) begin(ctx context.Context, l *life, r *proto.AssociateRequest) (*association, error) {
	host, err := hostOf(r.Host)
	if err != nil {
		return nil, err
	}
	sub, err := s.Meta.Subsystem(ctx, r.Subsystem)
	if errors.Is(err, meta.ErrNotFound) {
		return nil, &refused{result: proto.AssociateResult_ASSOCIATE_NO_SUBSYSTEM, text: "there is no such subsystem"}
	}
	if err != nil {
		return nil, err
	}
	if host.Protocol != sub.Protocol() {
		return nil, &refused{result: proto.AssociateResult_ASSOCIATE_NO_SUBSYSTEM, text: "it is one of another protocol"}
	}
	if !sub.Allows(host.Name) {
		s.refusals.note(s.Journal, host.Name, sub.NQN, r.Peer)
		return nil, &refused{result: proto.AssociateResult_ASSOCIATE_HOST_NOT_ALLOWED, text: "the host is not allowed: mooring host allow " + sub.NQN + " " + host.Name}
	}
	if sub.Target != nil && sub.Target.CHAP != nil && !l.proofs.use(r.Proof, host.Name, sub.NQN, time.Now()) {
		return nil, &refused{result: proto.AssociateResult_ASSOCIATE_NO_PROOF, text: "the host has not proved who it is"}
	}
	if sub.Redirects() {
		if err := s.redirect(ctx, sub.NQN, host, r.AccessPointId); err != nil {
			return nil, err
		}
	}
	p := pairOf(host, sub.NQN)
	defer s.pairs.lock(p)()
	// What Meta takes for living would keep it from raising the epochs.
	if err := s.finishEnds(ctx, &p); err != nil {
		return nil, err
	}
	for _, old := range s.of(p) {
		// A target whose sessions are redirected has one portal group: the same initiator
		// port at another access point is the same I_T nexus.
		anywhere := sub.Redirects()
		if host.Protocol == meta.ISCSI && !old.host.Same(host) {
			continue // another session of the same initiator
		}
		if anywhere || old.accessPoint == r.AccessPointId {
			if err := s.endLocked(ctx, old, false, "the host began a new association"); err != nil {
				return nil, err
			}
		}
	}
	a := &association{
		life: l, host: host, subsystem: sub.NQN, accessPoint: r.AccessPointId, peer: r.Peer, since: time.Now(),
		grants: map[meta.NSID]*grant{}, wants: map[meta.NSID]struct{}{},
	}
	if err := s.number(a, r.ControllerId); err != nil {
		return nil, err
	}
	if err := s.admit(ctx, a); err != nil {
		s.forget(a)
		return nil, err
	}
	s.Journal.Record(meta.Event{
		Severity: meta.Info, Kind: "host-connected", Object: host.Name, Message: fmt.Sprintf("to %s as controller %d from %s", sub.NQN, a.controller, a.peer),
	})
	return a, nil
}

// admit records the association with Meta and grants its namespaces.
func (s *Service) admit(ctx context.Context, a *association) error {
	raised, err := s.Meta.BeginAssociation(ctx, s.Session, a.subsystem, a.host, meta.OpenAssociation{
		ID: a.id, AccessPoint: a.accessPoint, Controller: a.controller, Peer: a.peer,
	})
	if errors.Is(err, meta.ErrInvalid) {
		return &refused{result: proto.AssociateResult_ASSOCIATE_HOST_NOT_ALLOWED, text: err.Error()}
	}
	if errors.Is(err, meta.ErrInUse) {
		return &refused{result: proto.AssociateResult_ASSOCIATE_BUSY, text: err.Error()}
	}
	var v *view
	if err == nil {
		v, err = s.read(ctx)
	}
	if err == nil {
		err = s.settleNew(ctx, a, v)
	}
	if err != nil {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		return errors.Join(err, s.withdraw(end, a, true))
	}
	s.mu.Lock()
	_, alive := s.lives[a.life]
	if alive {
		s.assocs[a.id] = a
	}
	s.mu.Unlock()
	if !alive {
		return errors.Join(errors.New("the plugin has died"), s.withdraw(context.WithoutCancel(ctx), a, true))
	}
	if raised {
		// The host's other associations hold an epoch that is too low now; they are
		// told the new one.
		s.nudge()
	}
	return nil
}

// number gives a its identifier and controller ID.
func (s *Service) number(a *association, want uint32) error {
	if want != 0xFFFF && want != 0 {
		if want > 0xFFFF || !s.ids.Claim(a.subsystem, uint16(want)) {
			return &refused{result: proto.AssociateResult_ASSOCIATE_BAD_CONTROLLER, text: fmt.Sprintf("controller ID %d is not to be had here", want)}
		}
		a.controller = uint16(want)
	} else {
		id, ok := s.ids.Take(a.subsystem)
		if !ok {
			return &refused{result: proto.AssociateResult_ASSOCIATE_BUSY, text: "all controllers that the subsystem may have on this node are in use"}
		}
		a.controller = id
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID++
	a.id = s.lastID
	return nil
}

func (s *Service) forget(a *association) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.assocs, a.id)
	s.ids.Give(a.subsystem, a.controller)
}

// of lists the living associations of a pair.
func (s *Service) of(p pair) []*association {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*association
	for _, a := range s.assocs {
		if a.pair() == p {
			out = append(out, a)
		}
	}
	return out
}

// Dissociate implements proto.CoreServer.
func (l *life) Dissociate(ctx context.Context, r *proto.DissociateRequest) (*proto.DissociateResponse, error) {
	a, err := l.service.lookup(l, r.Association)
	if err != nil {
		return &proto.DissociateResponse{}, nil // ended already
	}
	return &proto.DissociateResponse{}, l.service.end(ctx, a, r.Clean, "")
}

// end ends an association and returns when nothing of it is under way. With a
// reason, the plugin is told.
func (s *Service) end(ctx context.Context, a *association, clean bool, reason string) error {
	defer s.pairs.lock(a.pair())()
	return s.endLocked(ctx, a, clean, reason)
}

func (s *Service) endLocked(ctx context.Context, a *association, clean bool, reason string) error {
	a.mu.Lock()
	ended := a.ended
	a.ended = true
	a.mu.Unlock()
	if ended {
		return nil
	}
	err := s.withdraw(ctx, a, clean)
	s.forget(a)
	if reason != "" {
		a.life.tell(&proto.Update{Update: &proto.Update_End{End: &proto.AssociationEnd{Association: a.id, Reason: reason}}})
	}
	e := meta.Event{Severity: meta.Info, Kind: "host-disconnected", Object: a.host.Name, Message: "from " + a.subsystem}
	if !clean {
		e.Severity, e.Kind = meta.Warning, "host-lost"
	}
	s.Journal.Record(e)
	return err
}

// withdraw takes an association's handles, waits for what is under way, and tells Meta.
func (s *Service) withdraw(ctx context.Context, a *association, clean bool) error {
	a.mu.Lock()
	var handles []access.Handle
	for _, g := range a.grants {
		handles = append(handles, g.handle)
	}
	grants := a.grants
	a.grants = map[meta.NSID]*grant{}
	a.mu.Unlock()
	err := a.life.client.Revoke(ctx, handles...)
	if errors.Is(err, access.ErrStopped) {
		err = nil
	}
	return errors.Join(err, s.endInMeta(ctx, unended{a, clean, grants}))
}

// unended is an association that has ended, which Meta could not be told yet.
type unended struct {
	*association
	clean  bool
	grants map[meta.NSID]*grant // that it had
}

// endInMeta tells Meta of an end, and keeps it for finishEnds if that fails.
func (s *Service) endInMeta(ctx context.Context, u unended) error {
	err := s.releaseUnits(ctx, u)
	if err == nil {
		err = s.Meta.EndAssociation(ctx, s.Session, u.subsystem, u.host, u.id, u.clean)
	}
	if err != nil {
		s.mu.Lock()
		s.unended = append(s.unended, u)
		s.mu.Unlock()
	}
	return err
}

// finishEnds tells Meta of the ends that it could not be told of, of one pair or of all.
func (s *Service) finishEnds(ctx context.Context, p *pair) error {
	s.mu.Lock()
	var mine, others []unended
	for _, u := range s.unended {
		if p == nil || u.pair() == *p {
			mine = append(mine, u)
		} else {
			others = append(others, u)
		}
	}
	s.unended = others
	s.mu.Unlock()
	var failed []error
	for _, u := range mine {
		failed = append(failed, s.endInMeta(ctx, u))
	}
	return errors.Join(failed...)
}
