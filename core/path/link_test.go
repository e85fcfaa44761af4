package path_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/meta/store/memory"
	"github.com/mooring-io/mooring/core/meta/store/storetest"
	"github.com/mooring-io/mooring/core/path"
)

// links is a cluster of nodes with a portal each, and initiators that log in at any of them.
type links struct {
	*testing.T
	m        *meta.Meta
	clock    *storetest.Clock
	sessions []*meta.Session
	engines  []*path.Engine
	up       []bool

	mu   sync.Mutex
	next uint64
}

func newLinks(t *testing.T, nodes int) *links {
	l := &links{T: t, clock: storetest.NewClock()}
	st := memory.New(memory.Options{Clock: l.clock})
	t.Cleanup(func() { l.must(st.Close()) })
	var err error
	l.m, err = meta.Open(t.Context(), meta.Options{Store: st, Clock: l.clock, Now: func() time.Time { return time.Unix(0, l.clock.Boot()) }}, meta.Cluster{ExtentBytes: 1 << 28})
	l.must(err)
	for i := range nodes {
		n, err := l.m.JoinNode(t.Context(), meta.Node{ID: uuid.New(), Name: fmt.Sprintf("n%d", i)})
		l.must(err)
		s, err := l.m.StartSession(t.Context(), meta.SessionOptions{Node: n.ID, TTL: time.Hour})
		l.must(err)
		t.Cleanup(func() { l.must(s.Close(context.Background())) })
		l.sessions, l.up = append(l.sessions, s), append(l.up, false)
		l.engines = append(l.engines, path.NewEngine(path.Options{Meta: l.m, Clock: l.clock}))
		l.set(i, true)
	}
	return l
}

func (l *links) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func portal(node int) string { return fmt.Sprintf("p%d", node) }

func (l *links) set(node int, up bool) {
	l.up[node] = up
	_, err := l.m.PublishAccessPoints(l.Context(), l.sessions[node], []meta.AccessPoint{{ID: portal(node), URL: "iscsi://" + portal(node) + ":3260", Up: up}})
	l.must(err)
}

func (l *links) target(i int) string {
	iqn := fmt.Sprintf("iqn.2026-11.io.mooring:t%d", i)
	_, err := l.m.CreateTarget(l.Context(), meta.Target{IQN: iqn, AllowAnyHost: true})
	l.must(err)
	return iqn
}

func initiator(i int) meta.HostID {
	return meta.HostID{Protocol: meta.ISCSI, Name: fmt.Sprintf("iqn.2026-11.com.example:h%d", i)}
}

// session is one that is open.
type session struct {
	iqn  string
	host meta.HostID
	node int
	id   uint64
}

// login does what an initiator does that was given the portal of a node: it goes where it is sent.
func (l *links) login(iqn string, h meta.HostID, node int) (session, error) {
	for {
		at, err := l.engines[node].Link(l.Context(), iqn, h, portal(node))
		if err != nil {
			return session{}, err
		}
		if at.ID == portal(node) {
			l.mu.Lock()
			l.next++
			s := session{iqn, h, node, l.next}
			l.mu.Unlock()
			_, err := l.m.BeginAssociation(l.Context(), l.sessions[node], iqn, h, meta.OpenAssociation{ID: s.id, AccessPoint: at.ID})
			return s, err
		}
		node = slices.IndexFunc(l.engines, func(e *path.Engine) bool { return portal(slices.Index(l.engines, e)) == at.ID })
	}
}

func (l *links) logout(s session) {
	l.must(l.m.EndAssociation(l.Context(), l.sessions[s.node], s.iqn, s.host, s.id, true))
}

// even checks that the links of the open sessions differ by one at most between the portals that are up.
func (l *links) even(when string, open []session) {
	l.Helper()
	per := make([]int, len(l.engines))
	for _, s := range open {
		per[s.node]++
	}
	least, most := len(open), 0
	for i, n := range per {
		if l.up[i] {
			least, most = min(least, n), max(most, n)
		} else if n > 0 {
			l.Errorf("%s: %d links at portal %d, which is down", when, n, i)
		}
	}
	if most-least > 1 {
		l.Errorf("%s: links are %v", when, per)
	}
}

// The links of 100 targets differ by at most one between access points: when initiators log in one after the
// other or all at once, at whatever portal, after some have left and others came, and after a portal has gone.
func TestLinksAreEven(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const nodes, targets = 3, 100
	l := newLinks(t, nodes)
	var open []session
	var iqns []string
	for i := range targets {
		iqns = append(iqns, l.target(i))
	}
	for i, iqn := range iqns[:targets/2] {
		s, err := l.login(iqn, initiator(i%7), rnd.IntN(nodes))
		l.must(err)
		open = append(open, s)
		l.even("one after the other", open)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for i, iqn := range iqns[targets/2:] {
		node := rnd.IntN(nodes)
		wg.Go(func() {
			s, err := l.login(iqn, initiator(i%7), node)
			mu.Lock()
			defer mu.Unlock()
			open = append(open, s)
			if err != nil {
				failed = err
			}
		})
	}
	wg.Wait()
	l.must(failed)
	l.even("all at once", open)

	// Those of one portal leave, and come back when others have come in their place.
	var left []session
	open = slices.DeleteFunc(open, func(s session) bool {
		if s.node == 1 {
			l.logout(s)
			left = append(left, s)
		}
		return s.node == 1
	})
	l.clock.Advance(time.Minute) // nobody's place is kept for so long
	for _, s := range left {
		now, err := l.login(s.iqn, s.host, rnd.IntN(nodes))
		l.must(err)
		open = append(open, now)
	}
	l.even("after some came back", open)

	// A portal goes down, and with it its sessions.
	l.set(2, false)
	open = slices.DeleteFunc(open, func(s session) bool {
		if s.node == 2 {
			l.logout(s)
			now, err := l.login(s.iqn, s.host, rnd.IntN(2))
			l.must(err)
			left = append(left, now)
		}
		return s.node == 2
	})
	open = append(open, left[len(left)-(targets-len(open)):]...)
	l.even("after a portal went down", open)

	// It comes back: nothing moves by itself, and all is even when that is asked for.
	l.set(2, true)
	l.must(l.engines[0].Reconcile(t.Context()))
	for _, s := range open {
		at, err := l.engines[0].Link(t.Context(), s.iqn, s.host, portal(0))
		l.must(err)
		if at.ID != portal(s.node) {
			t.Errorf("the link of %s moved from %s to %s though nothing made it", s.iqn, portal(s.node), at.ID)
		}
	}
}

// A link holds for as long as its host has a session, and for a moment before; then it is forgotten.
func TestLinkIsForgotten(t *testing.T) {
	l := newLinks(t, 2)
	iqn, h := l.target(1), initiator(1)
	s, err := l.login(iqn, h, 0)
	l.must(err)
	there := func() bool {
		l.must(l.engines[0].Reconcile(t.Context()))
		p, err := l.m.HostPaths(t.Context(), iqn, h)
		l.must(err)
		return len(p) == 1 && p[0].Key.NSID == meta.WholeTarget && p[0].Optimized == portal(s.node)
	}
	l.clock.Advance(time.Hour / 2)
	if !there() {
		t.Error("a link was forgotten while there is a session")
	}
	l.logout(s)
	if there() {
		t.Error("a link without a session is kept")
	}
	if s, err = l.login(iqn, h, 1); err != nil {
		t.Fatal(err)
	}
	l.logout(s)
	if !there() {
		t.Error("a link was forgotten while its host may be on its way")
	}
	l.clock.Advance(time.Minute)
	if there() {
		t.Error("the link of a host that never came is kept")
	}
	_, err = l.m.CreateTarget(t.Context(), meta.Target{IQN: iqn + "alua", AllowAnyHost: true, Mode: meta.ALUA})
	l.must(err)
	if at, err := l.engines[0].Link(t.Context(), iqn+"alua", h, portal(0)); err == nil {
		t.Errorf("a target that does not redirect has a link at %s", at.ID)
	}
}
