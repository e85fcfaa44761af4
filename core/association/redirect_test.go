package association

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/sdk/proto"
)

// All sessions of an initiator with a target go where its first one went, whatever portal they come to, and
// the units' paths are there.
func TestRedirect(t *testing.T) {
	w := newWorld(t)
	w.withTarget()
	p := w.plugin()
	first := p.login("i", initiator, iqn, 1)
	at, other, address := "i", "j", "192.0.2.1:3260"
	if first.Result == proto.AssociateResult_ASSOCIATE_ELSEWHERE {
		at, other, address = "j", "i", "[2001:db8::2]:3261"
		if first.Address != address {
			t.Fatalf("sent to %q", first.Address)
		}
		first = p.login(at, initiator, iqn, 1)
	}
	if first.Result != proto.AssociateResult_ASSOCIATE_OK || first.Grants.Grants[0].AnaState != proto.AnaState_ANA_OPTIMIZED {
		t.Fatalf("at the access point that the link names: %+v", first)
	}
	if r := p.login(other, initiator, iqn, 2); r.Result != proto.AssociateResult_ASSOCIATE_ELSEWHERE || r.Address != address {
		t.Errorf("a second session at another portal: %+v", r)
	}
	if r := p.login(other, initiator, iqn, 1); r.Result != proto.AssociateResult_ASSOCIATE_ELSEWHERE || len(w.Sessions()) != 1 {
		t.Errorf("the same session at another portal: %+v, %d sessions", r, len(w.Sessions()))
	}
	w.portals(other) // its portal goes down: the link must go, and the session with it
	w.must(w.Paths.Reconcile(w.ctx))
	p.until("the session is asked to leave", func() bool {
		m := p.moves[first.Association]
		return m != nil && m.Seconds > 0 && strings.Contains(m.Reason, other)
	})
	w.must(p.dissociate(first.Association, true))
	again := p.login(other, initiator, iqn, 1)
	if again.Result != proto.AssociateResult_ASSOCIATE_OK || again.Grants.Grants[0].AnaState != proto.AnaState_ANA_OPTIMIZED ||
		again.Grants.Grants[0].PathEpoch <= first.Grants.Grants[0].PathEpoch {
		t.Errorf("after the move: %+v", again)
	}
}

// Nobody is served at a redirector's address, and nobody sent there but by discovery, which names this node's. Targets that do not
// redirect, and those of nodes without a redirector, are where they are asked for.
func TestRedirector(t *testing.T) {
	w := newWorld(t)
	w.withTarget()
	p := w.plugin()
	named := func() string {
		t.Helper()
		x, err := w.exportsNow(w.ctx)
		w.must(err)
		for _, a := range x.AccessPoints {
			if strings.Contains(a.Url, ".100:") {
				t.Errorf("hosts are told of %s", a.Url)
			}
		}
		return x.Targets[0].Address
	}
	if got := named(); got != "" {
		t.Errorf("discovery names %q", got)
	}
	node, err := w.Meta.JoinNode(w.ctx, meta.Node{ID: uuid.New(), Name: "other", Address: "198.51.100.9:7400"})
	w.must(err)
	session, err := w.Meta.StartSession(w.ctx, meta.SessionOptions{Node: node.ID, TTL: time.Minute})
	w.must(err)
	t.Cleanup(func() { w.must(session.Close(context.Background())) })
	publish := func(s *meta.Session, at ...meta.AccessPoint) {
		t.Helper()
		_, err := w.Meta.PublishAccessPoints(w.ctx, s, at)
		w.must(err)
	}
	publish(session, meta.AccessPoint{ID: "other/r", URL: "iscsi://198.51.100.100:3260", Redirector: true}, meta.AccessPoint{ID: "z/r", URL: "iscsi://203.0.113.100:3260", Redirector: true})
	if got := named(); got != "198.51.100.100:3260" {
		t.Errorf("discovery names %q", got)
	}
	publish(w.Session, meta.AccessPoint{ID: "i", URL: "iscsi://192.0.2.1:3260", Up: true}, meta.AccessPoint{ID: "r", URL: "iscsi://192.0.2.100:3260", Up: true, Redirector: true})
	if got := named(); got != "192.0.2.100:3260" {
		t.Errorf("discovery names %q", got)
	}
	for range 2 { // before there is a link, and then
		if r := p.login("r", initiator, iqn, 1); r.Result != proto.AssociateResult_ASSOCIATE_ELSEWHERE || r.Address != "192.0.2.1:3260" {
			t.Errorf("a login there: %+v", r)
		}
	}
	if r := p.login("i", initiator, iqn, 1); r.Result != proto.AssociateResult_ASSOCIATE_OK {
		t.Errorf("where it was sent: %+v", r)
	}
	publish(w.Session, meta.AccessPoint{ID: "r", URL: "iscsi://192.0.2.100:3260", Up: true, Redirector: true})
	if r := p.login("r", initiator, iqn, 2); r.Result == proto.AssociateResult_ASSOCIATE_OK || r.Address != "" {
		t.Errorf("a login while no portal is up: %+v", r)
	}
}

// A node whose Meta session must not be used any more sends initiators to a portal of another node, with
// or without proof; not one that is down, nor its own.
func TestRedirectWithoutMeta(t *testing.T) {
	w := newWorld(t)
	w.withTarget()
	p := w.plugin()
	elsewhere := func() string {
		r := p.login("i", initiator, iqn, 1)
		if r.Result == proto.AssociateResult_ASSOCIATE_OK {
			t.Fatal("a session without leases")
		}
		a, err := p.core.Authenticate(w.ctx, &proto.AuthenticateRequest{Host: &proto.HostIdentity{Protocol: proto.Protocol_PROTOCOL_ISCSI, Name: initiator}, Subsystem: iqn})
		w.must(err)
		if a.Ok || a.Address != r.Address {
			t.Fatalf("%+v, %+v", a, r)
		}
		return r.Address
	}
	node, err := w.Meta.JoinNode(w.ctx, meta.Node{ID: uuid.New(), Name: "other", Address: "198.51.100.9:7400"})
	w.must(err)
	session, err := w.Meta.StartSession(w.ctx, meta.SessionOptions{Node: node.ID, TTL: time.Minute})
	w.must(err)
	t.Cleanup(func() { w.must(session.Close(context.Background())) })
	_, err = w.Meta.PublishAccessPoints(w.ctx, session, []meta.AccessPoint{
		{ID: "r", URL: "iscsi://192.0.2.100:3260", Up: true, Redirector: true}, {ID: "x", URL: "iscsi://0.0.0.0:3260", Up: true}, {ID: "y", URL: "iscsi://198.51.100.8:3260"}, {ID: "z", URL: "nvme-tcp://198.51.100.9:4420", Up: true},
	})
	w.must(err)
	w.nudge()
	w.must(w.Sync(w.ctx))
	w.Service.mu.Lock()
	known := slices.Clone(w.Service.portals)
	w.Service.mu.Unlock()
	if !slices.Equal(known, []string{"198.51.100.9:3260"}) {
		t.Errorf("portals to send to: %v", known)
	}
	w.must(w.Session.Close(w.ctx))
	if got := elsewhere(); got != "198.51.100.9:3260" {
		t.Errorf("sent to %q", got)
	}

	// A node that drains is the last resort.
	third, err := w.Meta.JoinNode(w.ctx, meta.Node{ID: uuid.New(), Name: "third", Address: "198.51.100.10:7400"})
	w.must(err)
	s3, err := w.Meta.StartSession(w.ctx, meta.SessionOptions{Node: third.ID, TTL: time.Minute})
	w.must(err)
	t.Cleanup(func() { w.must(s3.Close(context.Background())) })
	_, err = w.Meta.PublishAccessPoints(w.ctx, s3, []meta.AccessPoint{{ID: "t", URL: "iscsi://198.51.100.10:3260", Up: true}})
	w.must(err)
	for _, x := range []struct {
		drains uuid.UUID
		want   string
	}{{node.ID, "198.51.100.10:3260"}, {third.ID, "198.51.100.10:3260 198.51.100.9:3260"}} {
		w.must(w.Meta.SetNodeDraining(w.ctx, x.drains, true))
		w.must(w.readPortals(w.ctx))
		w.mu.Lock()
		got := slices.Clone(w.Service.portals)
		w.mu.Unlock()
		slices.Sort(got)
		if s := strings.Join(got, " "); s != x.want {
			t.Errorf("with another node that drains initiators are sent to %q, want %q", s, x.want)
		}
	}
}
