package supervisor

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/meta/store/memory"
	"github.com/mooring-io/mooring/core/path"
	"github.com/mooring-io/mooring/sdk/policy"
)

// Policies that hang, die or answer nonsense, as processes, change nothing; what no
// policy has placed yet can be reached all the same.
func TestMisbehavingPolicies(t *testing.T) {
	noLeaks(t)
	ctx := context.Background()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	const nqn = "nqn.2026-11.io.mooring:test"
	host := meta.HostID{Protocol: meta.NVMe, Name: "nqn.2026-11.io.mooring:h"}
	names := []string{"policy-hangs", "policy-exits", "policy-panics", "policy-lies"}
	b := newBench(t, fast, names...)
	for _, name := range names {
		b.start(Spec{Name: name})
	}
	st := memory.New(memory.Options{})
	defer func() { must(st.Close()) }()
	m, err := meta.Open(ctx, meta.Options{Store: st}, meta.Cluster{ExtentBytes: 1 << 28})
	must(err)
	node, err := m.JoinNode(ctx, meta.Node{ID: uuid.New(), Name: "n"})
	must(err)
	s, err := m.StartSession(ctx, meta.SessionOptions{Node: node.ID, TTL: time.Minute})
	must(err)
	defer func() { must(s.Close(ctx)) }()
	_, err = m.CreateSubsystem(ctx, meta.Subsystem{NQN: nqn, AllowAnyHost: true})
	must(err)
	attach := func(name string) {
		t.Helper()
		v, err := m.CreateVolume(ctx, meta.Volume{Name: name, Bytes: 1 << 30})
		must(err)
		_, err = m.AttachNamespace(ctx, meta.Namespace{Subsystem: nqn, Volume: v.ID})
		must(err)
	}
	attach("v")
	_, err = m.PublishAccessPoints(ctx, s, []meta.AccessPoint{
		{ID: "a", URL: "nvme-tcp://192.0.2.1:4420", Up: true}, {ID: "b", URL: "nvme-tcp://192.0.2.2:4420", Up: true},
	})
	must(err)
	e := path.NewEngine(path.Options{
		Meta: m, PolicyTimeout: 500 * time.Millisecond,
		Policy: func(_ context.Context, name string) (policy.Policy, error) { return b.Policy("policy-" + name) },
	})
	for i, at := range []string{"b", "a"} {
		_, err = m.BeginAssociation(ctx, s, nqn, host, meta.OpenAssociation{ID: uint64(i + 1), AccessPoint: at})
		must(err)
		_, err = e.Place(ctx, nqn, host)
		must(err)
	}
	before, err := m.HostPaths(ctx, nqn, host)
	must(err)
	for i, name := range []string{"hangs", "exits", "panics", "lies"} {
		_, err := m.UpdateTenant(ctx, meta.DefaultTenant, func(t *meta.Tenant) { t.Policy = name })
		must(err)
		attach("late-" + name)
		if err := e.Reconcile(ctx); err == nil {
			t.Errorf("%s: nobody is told", name)
		}
		after, err := m.HostPaths(ctx, nqn, host)
		must(err)
		if len(after) != i+2 || after[0].Epoch != before[0].Epoch || after[0].Optimized != "b" || !slices.Equal(after[0].NonOptimized, before[0].NonOptimized) ||
			after[i+1].Optimized != "b" {
			t.Errorf("%s: paths %+v, before %+v", name, after, before)
		}
	}
}
