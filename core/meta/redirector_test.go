package meta_test

import (
	"net/netip"
	"testing"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
)

// A redirector's address is one node's until it yields it, or its Meta session is over; never two nodes'.
func TestRedirector(t *testing.T) {
	address := netip.MustParseAddr("192.0.2.100")
	w := newWorld(t)
	a, b := w.node("a"), w.node("b")
	take := func(s, holder *meta.Session) {
		t.Helper()
		node, err := w.TakeRedirector(w.ctx, s, address)
		w.must(err)
		if node != holder.Node() {
			t.Fatalf("node %s has it", node)
		}
	}
	take(a, a)
	take(b, a)
	take(a, a)
	w.must(w.YieldRedirector(w.ctx, b, address)) // it has nothing to yield
	take(b, a)
	w.must(w.YieldRedirector(w.ctx, a, address))
	take(b, b)
	take(a, b)
	if node, err := w.TakeRedirector(w.ctx, a, netip.MustParseAddr("2001:db8::100")); err != nil || node != a.Node() {
		t.Fatalf("another address: node %s, %v", node, err)
	}
	w.must(b.Close(w.ctx))
	take(a, a)
	w.clock.Suspend(2 * ttl)
	if node, err := w.TakeRedirector(w.ctx, a, address); node != uuid.Nil || err == nil {
		t.Fatalf("a session that is over: node %s has it, %v", node, err)
	}
}
