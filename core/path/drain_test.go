package path_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/path"
	"github.com/mooring-io/mooring/sdk/policy"
)

// others adds nodes that have one access point each, by their names.
func (w *world) others(names ...string) {
	w.Helper()
	for _, name := range names {
		n, err := w.m.JoinNode(w.ctx, meta.Node{ID: uuid.New(), Name: name})
		w.must(err)
		s, err := w.m.StartSession(w.ctx, meta.SessionOptions{Node: n.ID, TTL: time.Minute})
		w.must(err)
		w.Cleanup(func() { w.must(s.Close(w.ctx)) })
		_, err = w.m.PublishAccessPoints(w.ctx, s, []meta.AccessPoint{{ID: name, URL: "nvme-tcp://" + name + ":4420", Up: true}})
		w.must(err)
	}
}

// drain has the node with access points a to d drain, or not any more.
func (w *world) drain(on bool) {
	w.Helper()
	w.must(w.m.SetNodeDraining(w.ctx, w.s.Node(), on))
}

// While a node drains its paths leave it, with a higher epoch, and none goes there, not even as non-optimized; when it does not any more
// they stay where they are.
func TestDrain(t *testing.T) {
	w := newWorld(t)
	w.others("x", "y", "z")
	before := w.connect("a")
	w.connect("x")
	w.drain(true)
	w.attach("late") // it is placed before a policy is asked
	late := w.connect("b")[2]
	left := func(when string, paths ...meta.Path) {
		t.Helper()
		for _, p := range paths {
			if p.Optimized != "x" || !slices.Equal(p.NonOptimized, []string{"y", "z"}) {
				t.Errorf("%s: %+v", when, p)
			}
		}
	}
	left("a new namespace", late)
	w.must(w.e.Reconcile(w.ctx))
	left("after the drain", w.paths()...)
	for i, p := range w.paths()[:2] {
		if p.Epoch != before[i].Epoch+1 || !strings.Contains(p.Reason, "a is draining") {
			t.Errorf("%+v after %+v", p, before[i])
		}
	}
	if n, why, err := w.e.Left(w.ctx, w.s.Node()); n != 0 || why != "" || err != nil {
		t.Errorf("%d paths are left: %s, %v", n, why, err)
	}
	after := w.paths()
	w.drain(false)
	w.must(w.e.Reconcile(w.ctx))
	for i, p := range w.paths() {
		if p.Optimized != "x" || p.Epoch != after[i].Epoch {
			t.Errorf("when it drains no more %+v becomes %+v", after[i], p)
		}
	}
}

// Of few nodes the one that drains stays non-optimized, and a host that is connected nowhere else keeps its paths there until it is.
func TestDrainOfFew(t *testing.T) {
	w := newWorld(t)
	w.others("x", "y")
	w.connect("a")
	w.drain(true)
	w.must(w.e.Reconcile(w.ctx))
	for _, p := range w.paths() {
		if p.Optimized != "a" {
			t.Errorf("the host is connected to nothing else, and is sent away: %+v", p)
		}
	}
	if n, why, err := w.e.Left(w.ctx, w.s.Node()); n != 2 || !strings.Contains(why, host.Name) || err != nil {
		t.Errorf("%d paths are left: %q, %v", n, why, err)
	}
	w.connect("y")
	w.must(w.e.Reconcile(w.ctx))
	for _, p := range w.paths() {
		if p.Optimized != "y" || !slices.Contains(p.NonOptimized, "a") || !slices.Contains(p.NonOptimized, "x") {
			t.Errorf("the host has another way: %+v", p)
		}
	}
}

// Paths leave a node that drains at a bounded pace; those that their hosts cannot use there do not wait.
func TestDrainPace(t *testing.T) {
	w := newWorld(t)
	w.others("x", "y")
	for i := range 118 {
		w.attach(fmt.Sprint("v", i))
	}
	w.connect("a")
	w.connect("x")
	w.drain(true)
	at := func() map[string]int {
		w.Helper()
		w.must(w.e.Reconcile(w.ctx))
		out := map[string]int{}
		for _, p := range w.paths() {
			out[p.Optimized]++
		}
		return out
	}
	for range 2 {
		if n := at(); n["x"] != 50 || n["a"] != 70 {
			t.Fatalf("at once: %v", n)
		}
	}
	w.clock.Advance(time.Second)
	if n := at(); n["x"] != 100 || n["a"] != 20 {
		t.Fatalf("a second later: %v", n)
	}
	w.up("b") // a is down
	if n := at(); n["x"] != 120 {
		t.Fatalf("where it cannot be used any more: %v", n)
	}
}

// Run notices a drain, goes on with it, and has a path leave again that a write of its host moved back.
func TestRunDrains(t *testing.T) {
	w := newWorld(t)
	w.others("x", "y")
	for i := range 53 {
		w.attach(fmt.Sprint("v", i))
	}
	w.connect("a")
	w.connect("x")
	asked := make(chan struct{}, 1000)
	w.e = path.NewEngine(path.Options{Meta: w.m, Settle: time.Millisecond, Policy: func(context.Context, string) (policy.Policy, error) {
		asked <- struct{}{}
		return path.Builtin{}, nil
	}})
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan struct{})
	go func() { defer close(done); w.e.Run(ctx) }()
	hints := w.m.Watch(ctx, meta.TopicPaths)
	gone := func() {
		t.Helper()
		for {
			if paths := w.paths(); !slices.ContainsFunc(paths, func(p meta.Path) bool { return p.Optimized != "x" }) {
				return
			}
			select {
			case <-hints:
			case <-time.After(time.Minute):
				t.Fatalf("they stay: %+v", w.paths())
			}
		}
	}
	<-asked // it has begun
	w.drain(true)
	gone()
	_, err := w.e.Written(w.ctx, w.paths()[0].Key, "a")
	w.must(err)
	gone()
	cancel()
	for range hints { //nolint:revive // until it is closed
	}
	<-done
}

// A policy that does not heed what drains is refused as a whole, and those who ask how far the drain is are told so. One that is dead
// leaves paths that hosts can use where they are.
func TestDrainAgainstThePolicy(t *testing.T) {
	w := newWorld(t)
	w.others("x", "y", "z")
	w.connect("a")
	w.connect("z") // which is not non-optimized yet
	for says, place := range map[string]policy.Func{
		"a is draining": func(ctx context.Context, q *policy.Request) (*policy.Response, error) {
			for _, a := range q.AccessPoints {
				a.Draining = false
			}
			r, err := path.Builtin{}.Place(ctx, q)
			for _, a := range q.AccessPoints {
				a.Draining = slices.Contains([]string{"a", "b", "c", "d"}, a.Id)
			}
			return r, err
		},
		"plugin exited": func(context.Context, *policy.Request) (*policy.Response, error) {
			return nil, errors.New("plugin exited")
		},
	} {
		w.policy = place
		w.drain(true)
		if err := w.e.Reconcile(w.ctx); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), meta.DefaultPolicy) {
			t.Errorf("got %v, want one that names the policy and says %q", err, says)
		}
		w.must(func() error { _, err := w.e.Place(w.ctx, nqn, host); return err }())
		for _, p := range w.paths() {
			if p.Optimized != "a" {
				t.Errorf("%s: %+v", says, p)
			}
		}
		if n, why, err := w.e.Left(w.ctx, w.s.Node()); n != 2 || !strings.Contains(why, says) || err != nil {
			t.Errorf("%d paths are left: %q, %v", n, why, err)
		}
		w.drain(false)
	}
}

func TestIrreplaceable(t *testing.T) {
	w := newWorld(t)
	is := func(when, want string) {
		t.Helper()
		points, err := w.e.Irreplaceable(w.ctx, w.s.Node())
		w.must(err)
		got := ""
		for _, p := range points {
			got += p.ID
		}
		if got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	is("it is the only node", "abc")
	w.others("x")
	is("there is another one", "")
	nodes, err := w.m.Nodes(w.ctx)
	w.must(err)
	for _, n := range nodes {
		if n.Name == "x" {
			w.must(w.m.SetNodeDraining(w.ctx, n.ID, true))
		}
	}
	is("the other one drains", "abc")
	_, err = w.m.PublishAccessPoints(w.ctx, w.s, []meta.AccessPoint{{ID: "a", URL: "nvme-tcp://a:4420", Up: true}, {ID: "i", URL: "iscsi://a:3260", Up: true}})
	w.must(err)
	w.others("y")
	is("the other one speaks one protocol of two", "i")
}

// An initiator that logs in is not sent to a node that drains, also when it has a session there; and its link leaves it.
func TestLinkLeavesADrain(t *testing.T) {
	l := newLinks(t, 3)
	drain := func(node int, on bool) { l.must(l.m.SetNodeDraining(t.Context(), l.sessions[node].Node(), on)) }
	first, err := l.login(l.target(1), initiator(1), 0)
	l.must(err)
	drain(first.node, true)
	for i := range 6 {
		s, err := l.login(l.target(10+i), initiator(1), first.node)
		l.must(err)
		if s.node == first.node {
			t.Errorf("login %d is sent to the node that drains", i)
		}
	}
	again, err := l.engines[0].Link(t.Context(), first.iqn, first.host, portal(first.node))
	l.must(err)
	if again.ID == portal(first.node) {
		t.Error("a second session is sent to the node that drains, as the first one was")
	}
	for i := range l.engines {
		drain(i, true)
	}
	if s, err := l.login(l.target(20), initiator(2), 1); err != nil {
		t.Errorf("all drain: %+v, %v", s, err)
	}
	for i := range l.engines {
		drain(i, false)
	}
	second, err := l.login(l.target(21), initiator(3), 1)
	l.must(err)
	drain(second.node, true)
	l.must(l.engines[0].Reconcile(t.Context()))
	p, err := l.m.HostPaths(t.Context(), second.iqn, second.host)
	l.must(err)
	if len(p) != 1 || p[0].Optimized == portal(second.node) {
		t.Errorf("the link of an open session stays: %+v", p)
	}
}
