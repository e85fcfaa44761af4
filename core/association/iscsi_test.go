package association

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/sdk/iscsi"
	"github.com/mooring-io/mooring/sdk/proto"
)

const (
	iqn       = "iqn.2026-11.io.mooring:test"
	initiator = "iqn.2026-11.com.example:host"
)

// withTarget exports volume "one" as LUN 0 as well, with iSCSI portals i and j.
func (w *world) withTarget() uuid.UUID {
	w.Helper()
	v, err := w.Meta.FindVolume(w.ctx, "", "one")
	w.must(err)
	_, err = w.Meta.CreateTarget(w.ctx, meta.Target{IQN: iqn, AllowedHosts: []string{initiator}})
	w.must(err)
	_, err = w.Meta.AttachUnit(w.ctx, iqn, 0, v.ID, nil, nil)
	w.must(err)
	w.portals("i", "j")
	return v.ID
}

// portals publishes the world's access points and iSCSI portals i and j, of which these are up.
func (w *world) portals(up ...string) {
	w.Helper()
	_, err := w.Meta.PublishAccessPoints(w.ctx, w.Session, []meta.AccessPoint{
		{ID: "a", URL: "nvme-tcp://192.0.2.1:4420", Up: true}, {ID: "b", URL: "nvme-tcp://192.0.2.2:4420", Up: true},
		{ID: "i", URL: "iscsi://192.0.2.1:3260", Up: slices.Contains(up, "i")}, {ID: "j", URL: "iscsi://[2001:db8::2]:3261", Up: slices.Contains(up, "j")},
	})
	w.must(err)
}

// login is an iSCSI session at an access point.
func (p *plugin) login(at, name, target string, isid byte) *proto.AssociateResponse {
	p.w.Helper()
	r, err := p.core.Associate(p.w.ctx, &proto.AssociateRequest{
		Host:      &proto.HostIdentity{Protocol: proto.Protocol_PROTOCOL_ISCSI, Name: name, HostId: []byte{isid, 0, 0, 0, 0, 0}},
		Subsystem: target, AccessPointId: at, ControllerId: 0xFFFF,
	})
	if err != nil {
		p.w.Fatal(err)
	}
	return r
}

func (p *plugin) reserve(id uint64, q *proto.ReserveRequest) *proto.ReserveResponse {
	p.w.Helper()
	q.Association, q.Nsid = id, 1
	r, err := p.core.Reserve(p.w.ctx, q)
	if err != nil {
		p.w.Fatal(err)
	}
	return r
}

// A session is one of an initiator port: the same port again is reinstatement; another is another.
func TestSessions(t *testing.T) {
	w := newWorld(t)
	w.withTarget()
	p := w.plugin()
	first := p.login("i", initiator, iqn, 1)
	if first.Result != proto.AssociateResult_ASSOCIATE_OK || len(first.Grants.Grants) != 1 {
		t.Fatalf("%+v", first)
	}
	if other := p.login("i", initiator, iqn, 2); other.Result != proto.AssociateResult_ASSOCIATE_OK || len(w.Sessions()) != 2 {
		t.Fatalf("a second session: %+v, %d", other, len(w.Sessions()))
	}
	if again := p.login("i", initiator, iqn, 1); again.Result != proto.AssociateResult_ASSOCIATE_OK {
		t.Fatalf("%+v", again)
	}
	p.ended(first.Association)
	if n := len(w.Sessions()); n != 2 {
		t.Errorf("%d sessions", n)
	}
	for name, r := range map[string]*proto.AssociateResponse{
		"an initiator that is not allowed": p.login("i", initiator+"2", iqn, 1), "a target that is none": p.login("i", initiator, iqn+"2", 1),
		"a subsystem": p.login("i", initiator, nqn, 1),
	} {
		if r.Result == proto.AssociateResult_ASSOCIATE_OK {
			t.Errorf("%s is let in", name)
		}
	}
	w.must(w.Meta.DenyHost(w.ctx, iqn, initiator))
	w.nudge()
	p.until("the sessions end", func() bool { return len(p.ends) == 3 })
}

// A reservation of one protocol keeps the other out, and both hear of what is done to them.
func TestReservationOfBoth(t *testing.T) {
	w := newWorld(t)
	volume := w.withTarget()
	p := w.plugin()
	nvme, _ := p.associate("a", 1)
	session := p.login("i", initiator, iqn, 1).Association
	if r := p.reserve(session, &proto.ReserveRequest{Action: proto.ReserveAction_RESERVE_REGISTER, NewKey: 1}); r.Result != proto.ReserveResult_RESERVE_OK {
		t.Fatalf("%+v", r)
	}
	p.reserve(nvme, &proto.ReserveRequest{Action: proto.ReserveAction_RESERVE_REGISTER, NewKey: 2})
	p.reserve(session, &proto.ReserveRequest{Action: proto.ReserveAction_RESERVE_ACQUIRE, CurrentKey: 1, Type: proto.ReservationType_RESERVATION_WRITE_EXCLUSIVE})
	r := p.reserve(nvme, &proto.ReserveRequest{Action: proto.ReserveAction_RESERVE_ACQUIRE, CurrentKey: 2, Type: proto.ReservationType_RESERVATION_WRITE_EXCLUSIVE})
	if r.Result != proto.ReserveResult_RESERVE_CONFLICT {
		t.Errorf("the host got what the initiator holds: %v", r.Result)
	}
	state := p.reserve(nvme, &proto.ReserveRequest{Action: proto.ReserveAction_RESERVE_REPORT}).State
	if len(state.Registrants) != 2 || !state.Registrants[0].Holder || state.Registrants[0].Host.Name != initiator ||
		len(state.Registrants[0].Host.HostId) != isidBytes || state.Registrants[0].ControllerId != noController || state.Registrants[1].ControllerId == noController {
		t.Errorf("%+v", state)
	}
	p.reserve(nvme, &proto.ReserveRequest{Action: proto.ReserveAction_RESERVE_PREEMPT, CurrentKey: 2, NewKey: 1, Type: proto.ReservationType_RESERVATION_WRITE_EXCLUSIVE})
	now, err := w.Meta.Reservation(w.ctx, volume)
	w.must(err)
	if len(now.Registrants) != 1 || now.Registrants[0].Host.Protocol != meta.NVMe || !now.Registrants[0].Holder {
		t.Errorf("%+v", now)
	}
	p.until("the initiator is told", func() bool {
		return p.told[session] == proto.ReservationEventType_RESERVATION_EVENT_REGISTRATION_PREEMPTED
	})
}

// RESERVE (6) ends with its session, however that ends.
func TestReserveUnitEndsWithSession(t *testing.T) {
	w := newWorld(t)
	volume := w.withTarget()
	p := w.plugin()
	held := func() bool {
		r, err := w.Meta.Reservation(w.ctx, volume)
		w.must(err)
		return r.Unit != nil
	}
	for name, end := range map[string]func(uint64){
		"logout":        func(id uint64) { w.must(p.dissociate(id, true)) },
		"loss":          func(id uint64) { w.must(p.dissociate(id, false)) },
		"reinstatement": func(uint64) { p.login("i", initiator, iqn, 1) },
	} {
		id := p.login("i", initiator, iqn, 1).Association
		if r := p.reserve(id, &proto.ReserveRequest{Action: proto.ReserveAction_RESERVE_UNIT}); r.Result != proto.ReserveResult_RESERVE_OK || !held() {
			t.Fatalf("%+v", r)
		}
		if end(id); held() {
			t.Errorf("%s: the reservation is still there", name)
		}
	}
	id := p.login("i", initiator, iqn, 1).Association
	p.reserve(id, &proto.ReserveRequest{Action: proto.ReserveAction_RESERVE_UNIT})
	if p.dead(); held() {
		t.Error("the plugin's death: the reservation is still there")
	}
}

// Who does not know the secret gets no association, and a proof is good for one, of its host, with its target.
func TestAuthenticate(t *testing.T) {
	w := newWorld(t)
	w.withTarget()
	secrets := meta.CHAPSecrets{Secret: []byte("what initiators know"), Mutual: []byte("what the target knows")}
	w.must(w.Meta.SetTargetCHAP(w.ctx, iqn, &meta.CHAP{Mutual: true}, secrets))
	p := w.plugin()
	challenge := &proto.ChapChallenge{Algorithm: uint32(iscsi.CHAPSHA256), Identifier: 7, Challenge: []byte("0123456789abcdef")}
	theirs := &proto.ChapChallenge{Algorithm: uint32(iscsi.CHAPSHA256), Identifier: 9, Challenge: []byte("fedcba9876543210")}
	ask := func(edit func(*proto.AuthenticateRequest)) *proto.AuthenticateResponse {
		t.Helper()
		q := &proto.AuthenticateRequest{
			Host: &proto.HostIdentity{Protocol: proto.Protocol_PROTOCOL_ISCSI, Name: initiator}, Subsystem: iqn,
			Answer: &proto.ChapProof{Challenge: challenge, Name: initiator, Response: iscsi.CHAPResponse(iscsi.CHAPSHA256, 7, secrets.Secret, challenge.Challenge)},
		}
		if edit != nil {
			edit(q)
		}
		r, err := p.core.Authenticate(w.ctx, q)
		w.must(err)
		return r
	}
	associate := func(name string, proof uint64) proto.AssociateResult {
		t.Helper()
		r, err := p.core.Associate(w.ctx, &proto.AssociateRequest{
			Host:      &proto.HostIdentity{Protocol: proto.Protocol_PROTOCOL_ISCSI, Name: name, HostId: []byte{1, 0, 0, 0, 0, 0}},
			Subsystem: iqn, AccessPointId: "i", ControllerId: 0xFFFF, Proof: proof,
		})
		w.must(err)
		return r.Result
	}
	for name, edit := range map[string]func(*proto.AuthenticateRequest){
		"another secret":    func(q *proto.AuthenticateRequest) { q.Answer.Response[0] ^= 1 },
		"no answer":         func(q *proto.AuthenticateRequest) { q.Answer = nil },
		"an empty response": func(q *proto.AuthenticateRequest) { q.Answer.Response = nil },
		"another name":      func(q *proto.AuthenticateRequest) { q.Answer.Name = "me" },
		"another algorithm": func(q *proto.AuthenticateRequest) {
			q.Answer.Challenge = &proto.ChapChallenge{Algorithm: 99, Identifier: 7, Challenge: challenge.Challenge}
		},
		"no such target": func(q *proto.AuthenticateRequest) { q.Subsystem += "2" },
		"a subsystem":    func(q *proto.AuthenticateRequest) { q.Subsystem = nqn },
	} {
		if r := ask(edit); r.Ok || r.Proof != 0 || r.Message == "" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	const noProof = proto.AssociateResult_ASSOCIATE_NO_PROOF
	for name, proof := range map[string]uint64{"none": 0, "an invented one": 12345} {
		if r := associate(initiator, proof); r != noProof {
			t.Errorf("with a proof that is %s: %v", name, r)
		}
	}
	good := ask(func(q *proto.AuthenticateRequest) { q.Challenge = theirs })
	if !good.Ok || good.Name != iqn || !iscsi.CHAPEqual(good.Response, iscsi.CHAPResponse(iscsi.CHAPSHA256, 9, secrets.Mutual, theirs.Challenge)) {
		t.Fatalf("%+v", good)
	}
	w.must(w.Meta.AllowHost(w.ctx, iqn, initiator+"2"))
	if r := associate(initiator+"2", good.Proof); r != noProof {
		t.Errorf("with the proof of another: %v", r)
	}
	if r := associate(initiator, good.Proof); r != proto.AssociateResult_ASSOCIATE_OK {
		t.Errorf("with the proof: %v", r)
	}
	if r := associate(initiator, good.Proof); r != noProof {
		t.Errorf("with the proof again: %v", r)
	}
	var many proofs
	now := time.Now()
	first := many.add("h", "t", now)
	late := many.add("h", "t", now)
	if many.use(first, "h", "t2", now) || !many.use(first, "h", "t", now.Add(proofLife)) || many.use(late, "h", "t", now.Add(proofLife+1)) {
		t.Error("a proof is good for another target, or for too short or long")
	}
	for range 2 * maxProofs {
		many.add("h", "t", now)
	}
	if len(many.list) > maxProofs {
		t.Errorf("%d proofs are kept", len(many.list))
	}
}
