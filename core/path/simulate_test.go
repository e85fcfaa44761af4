package path_test

import (
	"context"
	"errors"
	"testing"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/path"
	"github.com/mooring-io/mooring/sdk/policy"
)

// A simulation says what Reconcile would do if its suppositions held, and changes nothing.
func TestSimulate(t *testing.T) {
	w := newWorld(t)
	w.connect("a")
	w.connect("b")
	before := w.paths()
	unchanged := func() {
		t.Helper()
		for i, p := range w.paths() {
			if p.Optimized != before[i].Optimized || p.Epoch != before[i].Epoch {
				t.Fatalf("%+v became %+v", before[i], p)
			}
		}
	}
	out, err := w.e.Simulate(w.ctx, path.WhatIf{})
	w.must(err)
	if len(out) != 2 || out[0].Moves() || out[1].Moves() {
		t.Fatalf("nothing supposed: %+v", out)
	}
	for _, down := range []string{"a", "nvme-tcp://a:4420"} {
		out, err = w.e.Simulate(w.ctx, path.WhatIf{Down: []string{down}})
		w.must(err)
		for i, o := range out {
			if o.Now.Optimized != "a" || o.Then.Optimized != "b" || o.Then.Key != before[i].Key || o.Then.Reason == "" {
				t.Fatalf("without %s: %+v", down, o)
			}
		}
		unchanged()
	}
	w.policy = policy.Func(func(_ context.Context, q *policy.Request) (*policy.Response, error) {
		r, err := path.Builtin{}.Place(t.Context(), q)
		if q.Rebalance {
			r.Placements[1].Optimized, r.Placements[1].NonOptimized = "b", []string{"a", "c"}
		}
		return r, err
	})
	out, err = w.e.Simulate(w.ctx, path.WhatIf{Rebalance: true})
	w.must(err)
	if out[0].Moves() || !out[1].Moves() {
		t.Fatalf("rebalanced: %+v", out)
	}
	unchanged()
	for _, wrong := range []path.WhatIf{{Down: []string{"z"}}, {Tenant: meta.DefaultTenant}, {Policy: "p"}, {Tenant: "nobody", Policy: "p"}} {
		if _, err := w.e.Simulate(w.ctx, wrong); !errors.Is(err, meta.ErrNotFound) && !errors.Is(err, meta.ErrInvalid) {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
	w.must(w.e.Rebalance(w.ctx))
	if p := w.paths(); p[0].Optimized != "a" || p[1].Optimized != "b" {
		t.Errorf("Rebalance did something else than was simulated: %+v", p)
	}
}

func TestExplain(t *testing.T) {
	w := newWorld(t)
	w.connect("a")
	w.connect("b")
	x, err := w.e.Explain(w.ctx, host.Name, nqn, 2)
	w.must(err)
	if x.Path.Optimized != "a" || x.Tenant != meta.DefaultTenant || x.Policy == "" || x.Next.Optimized != "a" || len(x.Points) != 4 {
		t.Errorf("%+v", x)
	}
	for _, p := range x.Points {
		want := map[string]path.Point{
			"a": {State: path.Optimized, Connected: true, Load: 2}, "b": {State: path.NonOptimized, Connected: true},
			"c": {State: path.NonOptimized}, "d": {State: path.Inaccessible},
		}[p.ID]
		if p.State != want.State || p.Connected != want.Connected || p.Load != want.Load || p.Up != (p.ID != "d") {
			t.Errorf("%+v, want %+v", p, want)
		}
	}
	if _, err := w.e.Explain(w.ctx, host.Name, nqn, 9); !errors.Is(err, meta.ErrNotFound) {
		t.Errorf("a path that is not there: %v", err)
	}
}
