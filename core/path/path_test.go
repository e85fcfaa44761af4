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
	"go.uber.org/goleak"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/meta/store/memory"
	"github.com/mooring-io/mooring/core/meta/store/storetest"
	"github.com/mooring-io/mooring/core/path"
	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/plugintest"
	"github.com/mooring-io/mooring/sdk/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const nqn = "nqn.2026-11.io.mooring:test"

var host = meta.HostID{Protocol: meta.NVMe, Name: "nqn.2026-11.io.mooring:h", ID: meta.UID{1}}

func TestBuiltin(t *testing.T) {
	three := map[string]string{"a": "1", "b": "1", "c": "2", "d": "3"} // access points and their nodes
	present := func(o string, n ...string) *policy.Placement {
		return &policy.Placement{Host: "h", Namespace: "n", Optimized: o, NonOptimized: n}
	}
	for _, c := range []struct {
		rule      string
		points    map[string]string
		down      string
		connected []string
		present   *policy.Placement
		want      string
	}{
		{"the first connection decides", three, "", []string{"b"}, present(""), "b [c d]"},
		{"the order of connections counts, not of names", three, "", []string{"d", "a"}, present(""), "d [a c]"},
		{"it is sticky", three, "", []string{"a", "b"}, present("b", "c", "d"), "b [c d]"},
		{"one that is down is left", three, "b", []string{"b", "c"}, present("b", "c", "d"), "c [a d]"},
		{"one that the host left is left", three, "", []string{"c"}, present("b", "c", "d"), "c [b d]"},
		{"a host that is not connected moves nothing", three, "", nil, present("b", "c", "d"), "b [c d]"},
		{"unless what it had is down", three, "b", nil, present("b", "c", "d"), "a [c d]"},
		{"a standby that is down is replaced", three, "c", []string{"b"}, present("b", "c", "d"), "b [a d]"},
		{"nothing up: nothing moves", three, "abcd", nil, present("b", "c", "d"), "b [c d]"},
		{"nothing at all", nil, "", nil, present(""), " []"},
		{"one access point", map[string]string{"a": "1"}, "", []string{"a"}, present(""), "a []"},
	} {
		req := &policy.Request{
			Hosts:      []*policy.Host{{Key: "h", Protocol: policy.NVMe, Connections: []*policy.Connection{{Subsystem: "s", AccessPoints: c.connected}}}},
			Namespaces: []*policy.Namespace{{Key: "n", Subsystem: "s"}}, Placements: []*policy.Placement{c.present},
		}
		for id, node := range c.points {
			req.AccessPoints = append(req.AccessPoints, &policy.AccessPoint{Id: id, Node: node, Protocol: policy.NVMe, Up: !strings.Contains(c.down, id)})
		}
		got, err := path.Builtin{}.Place(t.Context(), req)
		if err == nil {
			err = policy.Check(req, got)
		}
		if err != nil {
			t.Fatalf("%s: %v: %v", c.rule, got, err)
		}
		if s := fmt.Sprintf("%s %v", got.Placements[0].Optimized, got.Placements[0].NonOptimized); s != c.want {
			t.Errorf("%s: got %q, want %q", c.rule, s, c.want)
		}
	}
}

// Whatever is up and connected: the answer is good, repeats itself, and changes
// nothing when asked again.
func TestBuiltinConforms(t *testing.T) {
	plugintest.RunPolicy(t, plugintest.PolicyConfig{New: func() sdk.PolicyPlugin { return asPlugin{} }})
}

type asPlugin struct{ path.Builtin }

func (asPlugin) Describe() sdk.Description { return sdk.Description{Name: "builtin", Version: "1.0.0"} }
func (asPlugin) Configure(c []byte) error  { return sdk.NoConfig(c) }

// world is an engine over a Meta with one subsystem and two namespaces.
type world struct {
	*testing.T
	ctx    context.Context
	m      *meta.Meta
	e      *path.Engine
	s      *meta.Session
	clock  *storetest.Clock
	policy policy.Policy
	next   uint64
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, ctx: context.Background(), clock: storetest.NewClock()}
	st := memory.New(memory.Options{Clock: w.clock})
	t.Cleanup(func() { w.must(st.Close()) })
	var err error
	w.m, err = meta.Open(w.ctx, meta.Options{Store: st, Clock: w.clock}, meta.Cluster{ExtentBytes: 1 << 28})
	w.must(err)
	node, err := w.m.JoinNode(w.ctx, meta.Node{ID: uuid.New(), Name: "n"})
	w.must(err)
	w.s, err = w.m.StartSession(w.ctx, meta.SessionOptions{Node: node.ID, TTL: time.Minute})
	w.must(err)
	t.Cleanup(func() { w.must(w.s.Close(w.ctx)) })
	_, err = w.m.CreateSubsystem(w.ctx, meta.Subsystem{NQN: nqn, AllowAnyHost: true})
	w.must(err)
	for _, name := range []string{"v", "w"} {
		w.attach(name)
	}
	w.e = path.NewEngine(path.Options{Meta: w.m, Clock: w.clock, Policy: w.policyOf, PolicyTimeout: 100 * time.Millisecond, Settle: time.Millisecond})
	w.up("a", "b", "c")
	return w
}

// policyOf is that of every tenant: the world's, or the built-in rule.
func (w *world) policyOf(context.Context, string) (policy.Policy, error) {
	if w.policy == nil {
		return path.Builtin{}, nil
	}
	return w.policy, nil
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) attach(name string) meta.Namespace {
	v, err := w.m.CreateVolume(w.ctx, meta.Volume{Name: name, Bytes: 1 << 30})
	w.must(err)
	n, err := w.m.AttachNamespace(w.ctx, meta.Namespace{Subsystem: nqn, Volume: v.ID})
	w.must(err)
	return n
}

// up publishes access points a to d, of which these are up.
func (w *world) up(ids ...string) {
	w.Helper()
	var all []meta.AccessPoint
	for _, id := range []string{"a", "b", "c", "d"} {
		all = append(all, meta.AccessPoint{ID: id, URL: "nvme-tcp://" + id + ":4420", Up: slices.Contains(ids, id)})
	}
	_, err := w.m.PublishAccessPoints(w.ctx, w.s, all)
	w.must(err)
}

func (w *world) connect(accessPoint string) []meta.Path {
	w.Helper()
	w.next++
	_, err := w.m.BeginAssociation(w.ctx, w.s, nqn, host, meta.OpenAssociation{ID: w.next, AccessPoint: accessPoint})
	w.must(err)
	paths, err := w.e.Place(w.ctx, nqn, host)
	w.must(err)
	return paths
}

func (w *world) paths() []meta.Path {
	w.Helper()
	paths, err := w.m.HostPaths(w.ctx, nqn, host)
	w.must(err)
	return paths
}

func TestPlace(t *testing.T) {
	w := newWorld(t)
	for _, p := range w.connect("b") {
		if p.Optimized != "b" || !slices.Equal(p.NonOptimized, []string{"a", "c"}) || p.Epoch == 0 || p.Policy != "builtin" {
			t.Fatalf("%+v", p)
		}
		for id, want := range map[string]path.State{"b": path.Optimized, "a": path.NonOptimized, "d": path.Inaccessible} {
			if got := path.StateAt(p, id); got != want {
				t.Fatalf("at %s it is %d, want %d", id, got, want)
			}
		}
	}
	before := w.paths()
	after := w.connect("a")
	if len(after) != 2 || after[0].Epoch != before[0].Epoch || after[0].Optimized != "b" {
		t.Fatalf("a second connection changed %+v to %+v", before, after)
	}
}

func TestReconcile(t *testing.T) {
	w := newWorld(t)
	before := w.connect("a")
	w.connect("b")
	w.attach("x") // placed without the host's doing
	w.must(w.e.Reconcile(w.ctx))
	if p := w.paths(); len(p) != 3 || p[2].Optimized != "a" {
		t.Fatalf("%+v", p)
	}
	w.up("b", "c")
	w.must(w.e.Reconcile(w.ctx))
	for i, p := range w.paths()[:2] {
		if p.Optimized != "b" || p.Epoch != before[i].Epoch+1 || slices.Contains(p.NonOptimized, "a") || !strings.Contains(p.Reason, "a is down") {
			t.Fatalf("access point a went down: %+v after %+v", p, before[i])
		}
	}
	w.up("a", "b", "c", "d") // back again: nothing that need not moves
	w.must(w.e.Reconcile(w.ctx))
	for i, p := range w.paths()[:2] {
		if p.Optimized != "b" || p.Epoch != before[i].Epoch+1 {
			t.Fatalf("access point a came back: %+v", p)
		}
	}
}

// A host that connects is served at once, whatever its policy does.
func TestConnectingAsksNoPolicy(t *testing.T) {
	w := newWorld(t)
	w.policy = policy.Func(func(context.Context, *policy.Request) (*policy.Response, error) {
		t.Error("a policy was asked")
		return nil, errors.New("no")
	})
	w.connect("b")
	w.up("a", "c", "d") // the host's only connection is where its paths are; another one is made
	if p := w.connect("d"); p[0].Optimized != "d" || p[1].Optimized != "d" || p[0].Policy != path.BuiltinName {
		t.Fatalf("%+v", p)
	}
}

func TestWritten(t *testing.T) {
	w := newWorld(t)
	first := w.connect("a")[0]
	w.connect("b")
	p, err := w.e.Written(w.ctx, first.Key, "b")
	w.must(err)
	if p.Optimized != "b" || p.Epoch != first.Epoch+1 || !slices.Equal(p.NonOptimized, []string{"a", "c"}) {
		t.Fatalf("%+v after %+v", p, first)
	}
	if again, err := w.e.Written(w.ctx, first.Key, "b"); err != nil || again.Epoch != p.Epoch {
		t.Fatalf("%+v, %v", again, err)
	}
	// The other namespace's path is its own.
	if other := w.paths()[1]; other.Optimized != "a" {
		t.Fatalf("%+v", other)
	}
	_, err = w.e.Written(w.ctx, first.Key, "a")
	var soon *path.TooSoonError
	if !errors.As(err, &soon) || soon.After <= 0 || soon.After > time.Second || !errors.Is(err, path.ErrTooSoon) {
		t.Fatalf("got %v, want it to wait", err)
	}
	w.clock.Advance(soon.After)
	if p, err := w.e.Written(w.ctx, first.Key, "a"); err != nil || p.Optimized != "a" {
		t.Fatalf("%+v, %v", p, err)
	}
	if _, err := w.e.Written(w.ctx, first.Key, "d"); !errors.Is(err, meta.ErrInvalid) {
		t.Fatalf("a write at an inaccessible one: %v", err)
	}
}

func TestBadPolicyChangesNothing(t *testing.T) {
	good := func(q *policy.Request) *policy.Response {
		r, err := path.Builtin{}.Place(t.Context(), q)
		if err != nil {
			t.Error(err)
		}
		return r
	}
	for name, place := range map[string]policy.Func{
		"dead": func(context.Context, *policy.Request) (*policy.Response, error) {
			return nil, errors.New("plugin exited")
		},
		"empty": func(context.Context, *policy.Request) (*policy.Response, error) { return nil, nil },
		"hangs": func(ctx context.Context, _ *policy.Request) (*policy.Response, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
		"nowhere": func(_ context.Context, q *policy.Request) (*policy.Response, error) {
			r := good(q)
			r.Placements[1].Optimized = "nowhere"
			return r, nil
		},
		"one too few": func(_ context.Context, q *policy.Request) (*policy.Response, error) {
			r := good(q)
			r.Placements[0], r.Placements = r.Placements[len(r.Placements)-1], r.Placements[:len(r.Placements)-1]
			return r, nil
		},
		"no standby": func(_ context.Context, q *policy.Request) (*policy.Response, error) {
			r := good(q)
			r.Placements[0].Optimized, r.Placements[0].NonOptimized = "b", nil
			return r, nil
		},
	} {
		w := newWorld(t)
		before := w.connect("a")
		w.policy = place
		w.connect("b")
		n := w.attach("late") // a host must find what it is given, policy or not
		if err := w.e.Reconcile(w.ctx); err == nil {
			t.Errorf("%s: nobody is told", name)
		}
		after := w.paths()
		for i := range before {
			if after[i].Epoch != before[i].Epoch || after[i].Optimized != "a" || after[i].Reason != before[i].Reason {
				t.Errorf("%s: %+v became %+v", name, before[i], after[i])
			}
		}
		if len(after) != 3 || after[2].Key.NSID != n.NSID || after[2].Optimized != "a" {
			t.Errorf("%s: %+v", name, after)
		}
		// What is optimized is down, and the host can go on elsewhere: it stays. Where
		// it cannot, the built-in rule takes over.
		w.up("b", "c", "d")
		_ = w.e.Reconcile(w.ctx)
		if p := w.paths()[0]; p.Optimized != "a" {
			t.Errorf("%s: %+v", name, p)
		}
		w.connect("d")
		w.up("d")
		_ = w.e.Reconcile(w.ctx)
		if p := w.paths()[0]; p.Optimized != "d" || p.Policy != path.BuiltinName {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

func TestGoodPolicyIsFollowed(t *testing.T) {
	w := newWorld(t)
	w.connect("a")
	w.connect("c")
	w.policy = policy.Func(func(_ context.Context, q *policy.Request) (*policy.Response, error) {
		c, err := policy.Read(q)
		if err != nil {
			return nil, err
		}
		out := &policy.Response{}
		for i, p := range c.Pairs {
			if !p.Present.Provisional || p.Present.Reason != "" {
				t.Errorf("asked with %v", p.Present)
			}
			out.Placements = append(out.Placements, c.Place(p, []string{"a", "c"}[i], "spread"))
		}
		slices.Reverse(out.Placements) // the order is the policy's own
		return out, nil
	})
	w.must(w.e.Reconcile(w.ctx))
	p := w.paths()
	if p[0].Optimized != "a" || p[1].Optimized != "c" || p[1].Policy != meta.DefaultPolicy || p[1].Reason != "spread" || p[0].Policy != meta.DefaultPolicy {
		t.Fatalf("%+v", p)
	}
	w.policy = policy.Func(func(_ context.Context, q *policy.Request) (*policy.Response, error) {
		for _, p := range q.Placements {
			if p.Provisional || p.Reason != "spread" {
				t.Errorf("asked again with %v", p)
			}
		}
		return nil, errors.New("no")
	})
	_ = w.e.Reconcile(w.ctx)
}

// Each tenant has its own policy; what the other has placed is load.
func TestPolicyOfTenant(t *testing.T) {
	w := newWorld(t)
	_, err := w.m.CreateTenant(w.ctx, meta.Tenant{Name: "acme", Policy: "other"})
	w.must(err)
	const acme = nqn + ":acme"
	_, err = w.m.CreateSubsystem(w.ctx, meta.Subsystem{NQN: acme, Tenant: "acme", AllowAnyHost: true})
	w.must(err)
	v, err := w.m.CreateVolume(w.ctx, meta.Volume{Name: "v", Tenant: "acme", Bytes: 1 << 30})
	w.must(err)
	_, err = w.m.AttachNamespace(w.ctx, meta.Namespace{Subsystem: acme, Volume: v.ID})
	w.must(err)
	w.connect("a")
	w.next++
	_, err = w.m.BeginAssociation(w.ctx, w.s, acme, host, meta.OpenAssociation{ID: w.next, AccessPoint: "b"})
	w.must(err)
	_, err = w.e.Place(w.ctx, acme, host)
	w.must(err)
	asked := map[string]*policy.Request{}
	e := path.NewEngine(path.Options{Meta: w.m, Policy: func(_ context.Context, name string) (policy.Policy, error) {
		return policy.Func(func(ctx context.Context, q *policy.Request) (*policy.Response, error) {
			asked[name] = q
			return path.Builtin{}.Place(ctx, q)
		}), nil
	}})
	w.must(e.Reconcile(w.ctx))
	load := func(q *policy.Request) (s string) {
		for _, a := range q.AccessPoints {
			s += fmt.Sprint(a.Load)
		}
		return s
	}
	if q := asked["other"]; len(q.Placements) != 1 || load(q) != "2000" || len(q.Hosts[0].Connections) != 1 {
		t.Errorf("the policy of acme is asked %v", q)
	}
	if q := asked[meta.DefaultPolicy]; len(q.Placements) != 2 || load(q) != "0100" {
		t.Errorf("the policy of the others is asked %v", q)
	}
}

// Of several nodes, one has policies decide: the next one when that is gone.
func TestOneNodeDecides(t *testing.T) {
	w := newWorld(t)
	w.connect("a")
	w.connect("b")
	second, err := w.m.JoinNode(w.ctx, meta.Node{ID: uuid.New(), Name: "second"})
	w.must(err)
	s, err := w.m.StartSession(w.ctx, meta.SessionOptions{Node: second.ID, TTL: time.Minute})
	w.must(err)
	defer func() { w.must(s.Close(w.ctx)) }()
	_, err = w.m.PublishAccessPoints(w.ctx, s, []meta.AccessPoint{{ID: "x", URL: "nvme-tcp://x:4420", Up: true}, {ID: "y", URL: "nvme-tcp://y:4420", Up: true}})
	w.must(err)
	_, err = w.m.BeginAssociation(w.ctx, s, nqn, host, meta.OpenAssociation{ID: 1, AccessPoint: "x"})
	w.must(err)
	asked := make(chan string)
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan struct{})
	for name, node := range map[string]uuid.UUID{"first": w.s.Node(), "second": second.ID} {
		e := path.NewEngine(path.Options{Meta: w.m, Node: node, Settle: time.Millisecond, Policy: func(context.Context, string) (policy.Policy, error) {
			select {
			case asked <- name:
			case <-ctx.Done():
			}
			return path.Builtin{}, nil
		}})
		go func() { e.Run(ctx); done <- struct{}{} }()
	}
	if who := <-asked; who != "first" {
		t.Errorf("node %s decides", who)
	}
	w.must(w.s.Close(w.ctx))
	for who := range asked {
		if who == "second" {
			break
		}
	}
	cancel()
	<-done
	<-done
}

// Run notices by itself that an access point went down.
func TestRun(t *testing.T) {
	w := newWorld(t)
	w.connect("a")
	w.connect("b")
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan struct{})
	go func() { defer close(done); w.e.Run(ctx) }()
	hints := w.m.Watch(ctx, meta.TopicPaths)
	w.up("b", "c")
	for range hints {
		if w.paths()[1].Optimized == "b" {
			break
		}
	}
	cancel()
	for range hints { //nolint:revive // until it is closed
	}
	<-done
}
