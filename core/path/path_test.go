package path_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/meta/store/memory"
	"github.com/mooring-io/mooring/core/meta/store/storetest"
	"github.com/mooring-io/mooring/core/path"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const nqn = "nqn.2026-11.io.mooring:test"

var host = meta.HostID{Protocol: meta.NVMe, Name: "nqn.2026-11.io.mooring:h", ID: meta.UID{1}}

func point(id, node string, up bool) path.AccessPoint {
	return path.AccessPoint{ID: id, Node: node, Protocol: meta.NVMe, Up: up}
}

func TestBuiltin(t *testing.T) {
	three := []path.AccessPoint{point("a", "1", true), point("b", "1", true), point("c", "2", true), point("d", "3", true)}
	down := func(ids ...string) []path.AccessPoint {
		out := slices.Clone(three)
		for i := range out {
			out[i].Up = !slices.Contains(ids, out[i].ID)
		}
		return out
	}
	present := func(o string, n ...string) path.Placement { return path.Placement{Optimized: o, NonOptimized: n} }
	for _, c := range []struct {
		rule      string
		points    []path.AccessPoint
		connected []string
		present   path.Placement
		want      string
	}{
		{"the first connection decides", three, []string{"b"}, present(""), "b [c d]"},
		{"the order of connections counts, not of names", three, []string{"d", "a"}, present(""), "d [a c]"},
		{"it is sticky", three, []string{"a", "b"}, present("b", "c", "d"), "b [c d]"},
		{"standbys are sticky, too", three, []string{"a"}, present("c", "a", "d"), "a [c d]"},
		{"but go to other nodes where they can", three, []string{"a"}, present("a", "b", "d"), "a [c d]"},
		{"one that is down is left", down("b"), []string{"b", "c"}, present("b", "c", "d"), "c [a d]"},
		{"one that the host left is left", three, []string{"c"}, present("b", "c", "d"), "c [b d]"},
		{"a host that is not connected moves nothing", three, nil, present("b", "c", "d"), "b [c d]"},
		{"unless what it had is down", down("b"), nil, present("b", "c", "d"), "a [c d]"},
		{"a standby that is down is replaced", down("c"), []string{"b"}, present("b", "c", "d"), "b [a d]"},
		{"nothing up: nothing moves", down("a", "b", "c", "d"), nil, present("b", "c", "d"), "b [c d]"},
		{"nothing at all", nil, nil, present(""), " []"},
		{"one access point", three[:1], []string{"a"}, present(""), "a []"},
	} {
		key := meta.NewPathKey(host, nqn, 1)
		c.present.Key = key
		q := path.Request{AccessPoints: c.points, Pairs: []path.Pair{{Key: key, Connected: c.connected, Present: c.present}}}
		got, err := path.Builtin{}.Place(t.Context(), q)
		if err != nil || len(got) != 1 || got[0].Reason == "" {
			t.Fatalf("%s: %+v, %v", c.rule, got, err)
		}
		if s := fmt.Sprintf("%s %v", got[0].Optimized, got[0].NonOptimized); s != c.want {
			t.Errorf("%s: got %q, want %q", c.rule, s, c.want)
		}
		if c.points != nil {
			if err := path.Validate(q, got); err != nil {
				t.Errorf("%s: %v", c.rule, err)
			}
		}
	}
}

// Whatever is up and connected: the answer is valid, repeats itself, and changes
// nothing when asked again.
func TestBuiltinProperties(t *testing.T) {
	rnd := rand.New(rand.NewSource(storetest.Seed(t)))
	for range 2000 {
		var q path.Request
		for i := range 1 + rnd.Intn(6) {
			q.AccessPoints = append(q.AccessPoints, point(string(rune('a'+i)), string(rune('1'+rnd.Intn(3))), rnd.Intn(4) > 0))
		}
		ids := func(n int) (out []string) {
			for _, i := range rnd.Perm(len(q.AccessPoints))[:min(n, len(q.AccessPoints))] {
				out = append(out, q.AccessPoints[i].ID)
			}
			return out
		}
		for id := range 3 {
			p := path.Pair{Key: meta.NewPathKey(host, nqn, meta.NSID(id+1)), Connected: ids(rnd.Intn(3))}
			if had := ids(rnd.Intn(4)); len(had) > 0 {
				p.Present = path.Placement{Optimized: had[0], NonOptimized: had[1:]}
			}
			p.Present.Key = p.Key
			q.Pairs = append(q.Pairs, p)
		}
		first, err := path.Builtin{}.Place(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		up := slices.ContainsFunc(q.AccessPoints, func(a path.AccessPoint) bool { return a.Up })
		if err := path.Validate(q, first); err != nil && up {
			t.Fatalf("%+v: %+v: %v", q, first, err)
		}
		for i := range q.Pairs {
			q.Pairs[i].Present = first[i]
		}
		again, err := path.Builtin{}.Place(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for i := range again {
			if again[i].Optimized != first[i].Optimized || !slices.Equal(again[i].NonOptimized, first[i].NonOptimized) {
				t.Fatalf("%+v: %+v, and then %+v", q, first[i], again[i])
			}
		}
	}
}

func TestValidate(t *testing.T) {
	key := meta.NewPathKey(host, nqn, 1)
	q := path.Request{
		AccessPoints: []path.AccessPoint{point("a", "1", true), point("b", "2", true), point("c", "3", false), {ID: "i", Protocol: meta.ISCSI, Up: true}},
		Pairs:        []path.Pair{{Key: key, Present: path.Placement{Key: key, Optimized: "c"}}},
	}
	one := func(o string, n ...string) []path.Placement {
		return []path.Placement{{Key: key, Optimized: o, NonOptimized: n}}
	}
	for rule, c := range map[string]struct {
		answer []path.Placement
		ok     bool
	}{
		"good":                   {one("a", "b"), true},
		"what is may stay":       {one("c"), true},
		"missing":                {nil, false},
		"twice":                  {append(one("a"), one("a")...), false},
		"not asked":              {append(one("a"), path.Placement{Key: meta.NewPathKey(host, nqn, 2), Optimized: "a"}), false},
		"none":                   {one(""), false},
		"unknown":                {one("x"), false},
		"down":                   {one("a", "c"), false},
		"another protocol":       {one("i"), false},
		"optimized again":        {one("a", "a"), false},
		"the same standby twice": {one("a", "b", "b"), false},
		"three standbys":         {one("a", "b", "c", "i"), false},
	} {
		if err := path.Validate(q, c.answer); (err == nil) != c.ok || (err != nil && !errors.Is(err, path.ErrBadPlacement)) {
			t.Errorf("%s: %v", rule, err)
		}
	}
}

// world is an engine over a Meta with one subsystem and two namespaces.
type world struct {
	*testing.T
	ctx    context.Context
	m      *meta.Meta
	e      *path.Engine
	s      *meta.Session
	clock  *storetest.Clock
	policy path.Policy
	next   uint64
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, ctx: context.Background(), clock: storetest.NewClock()}
	st := memory.New(memory.Options{Clock: w.clock})
	t.Cleanup(func() { w.must(st.Close()) })
	var err error
	w.m, err = meta.Open(w.ctx, meta.Options{Store: st, Clock: w.clock}, meta.Cluster{ExtentBytes: 1 << 28})
	w.must(err)
	node, err := w.m.JoinNode(w.ctx, uuid.New(), "n")
	w.must(err)
	w.s, err = w.m.StartSession(w.ctx, meta.SessionOptions{Node: node.ID, TTL: time.Minute})
	w.must(err)
	t.Cleanup(func() { w.must(w.s.Close(w.ctx)) })
	_, err = w.m.CreateSubsystem(w.ctx, meta.Subsystem{NQN: nqn, AllowAnyHost: true})
	w.must(err)
	for _, name := range []string{"v", "w"} {
		w.attach(name)
	}
	w.e = path.NewEngine(path.Options{Meta: w.m, Clock: w.clock, Policy: func(string) path.Policy { return w.policy }, PolicyTimeout: 10 * time.Millisecond})
	w.up("a", "b", "c")
	return w
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
		if p.Optimized != "b" || p.Epoch != before[i].Epoch+1 || slices.Contains(p.NonOptimized, "a") {
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
	h := meta.HostID{Protocol: meta.NVMe, Name: host.Name}
	w.must(w.m.SetVisibility(w.ctx, nqn, 1, []string{nqn}))
	if p, err := w.e.Simulate(w.ctx, nqn, h, []string{"d"}); err != nil || len(p) != 2 || p[0].Optimized != "d" {
		t.Fatalf("%+v, %v", p, err)
	}
	if p := w.paths()[1]; p.Optimized != "b" {
		t.Fatalf("a simulation changed %+v", p)
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

// rogue is a policy that misbehaves.
type rogue struct {
	place func(ctx context.Context, q path.Request) ([]path.Placement, error)
}

func (rogue) Name() string { return "rogue" }
func (r rogue) Place(ctx context.Context, q path.Request) ([]path.Placement, error) {
	return r.place(ctx, q)
}

func TestBadPolicyChangesNothing(t *testing.T) {
	for name, place := range map[string]func(ctx context.Context, q path.Request) ([]path.Placement, error){
		"dead":  func(context.Context, path.Request) ([]path.Placement, error) { return nil, errors.New("plugin exited") },
		"empty": func(context.Context, path.Request) ([]path.Placement, error) { return nil, nil },
		"hangs": func(ctx context.Context, _ path.Request) ([]path.Placement, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
		"nonsense": func(_ context.Context, q path.Request) ([]path.Placement, error) {
			return []path.Placement{{Key: q.Pairs[0].Key, Optimized: "nowhere"}, {Key: q.Pairs[1].Key, Optimized: "a"}}, nil
		},
	} {
		w := newWorld(t)
		before := w.connect("a")
		w.policy = rogue{place}
		w.connect("b")
		n := w.attach("late") // a host must find what it is given, policy or not
		w.must(w.e.Reconcile(w.ctx))
		after := w.paths()
		for i := range before {
			if after[i].Epoch != before[i].Epoch || after[i].Optimized != "a" {
				t.Errorf("%s: %+v became %+v", name, before[i], after[i])
			}
		}
		if len(after) != 3 || after[2].Key.NSID != n.NSID || after[2].Optimized != "a" {
			t.Errorf("%s: %+v", name, after)
		}
	}
}

func TestGoodPolicyIsFollowed(t *testing.T) {
	w := newWorld(t)
	w.connect("a")
	w.connect("c")
	w.policy = rogue{func(_ context.Context, q path.Request) ([]path.Placement, error) {
		var out []path.Placement
		for i := len(q.Pairs) - 1; i >= 0; i-- { // the order is the policy's own
			out = append(out, path.Placement{Key: q.Pairs[i].Key, Optimized: []string{"a", "c"}[i], NonOptimized: []string{"b"}, Reason: "spread"})
		}
		return out, nil
	}}
	w.must(w.e.Reconcile(w.ctx))
	p := w.paths()
	if p[0].Optimized != "a" || p[1].Optimized != "c" || p[1].Policy != "rogue" || p[1].Reason != "spread" {
		t.Fatalf("%+v", p)
	}
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
