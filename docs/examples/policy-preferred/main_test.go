package main

import (
	"testing"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/plugintest"
	"github.com/mooring-io/mooring/sdk/policy"
)

func TestConformance(t *testing.T) {
	plugintest.RunPolicy(t, plugintest.PolicyConfig{
		New:        func() sdk.PolicyPlugin { return &plugin{} },
		Attributes: map[string]any{"nodes": []string{"node2", "node0"}},
	})
}

func TestPreferred(t *testing.T) {
	p := &plugin{}
	if err := p.Configure([]byte(`{"nodes": ["node-01", "node-02"]}`)); err != nil {
		t.Fatal(err)
	}
	req := plugintest.LargeCluster(2, 3, 4)
	for _, down := range []string{"", "node-01", "node-02"} {
		want := map[string]string{"": "node-01", "node-01": "node-02", "node-02": "node-00"}[down]
		for _, a := range req.AccessPoints {
			a.Up = a.Up && a.Node != down
		}
		resp, err := p.Place(t.Context(), req)
		if err == nil {
			err = policy.Check(req, resp)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range resp.Placements {
			if got := a.Optimized[:len("node-00")]; got != want {
				t.Errorf("with %q down too, namespace %s is at %s, want %s", down, a.Namespace, got, want)
			}
		}
		req.Placements = resp.Placements
	}
}
