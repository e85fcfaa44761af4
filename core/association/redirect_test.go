package association

import (
	"context"
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
		{ID: "x", URL: "iscsi://0.0.0.0:3260", Up: true}, {ID: "y", URL: "iscsi://198.51.100.8:3260"}, {ID: "z", URL: "nvme-tcp://198.51.100.9:4420", Up: true},
	})
	w.must(err)
	w.nudge()
	w.must(w.Sync(w.ctx))
	w.must(w.Session.Close(w.ctx))
	if got := elsewhere(); got != "198.51.100.9:3260" {
		t.Errorf("sent to %q", got)
	}
}
