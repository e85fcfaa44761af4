package node

import (
	"encoding/json"
	"syscall"
	"testing"
	"time"

	"github.com/mooring-io/mooring/sdk/bench"
)

// A host with two ways goes on when the plugin that serves both is killed, and when its path is moved under
// it: no error, and all that it wrote is there. An I/O that no way can serve waits.
func TestMultipathHostGoesOn(t *testing.T) {
	a := start(t, 2, "-dev")
	url := func(i int) string { return "nvme-tcp://" + a.addresses[i] + "/" + devNQN }
	type outcome struct {
		r   *bench.Result
		err error
	}
	over := make(chan outcome, 1)
	up := make(chan struct{}, 100)
	cfg := bench.Config{
		URL: url(0), More: []string{url(1)}, RW: "randrw", QueueDepth: 16, Time: 8 * time.Second, SpanBytes: 16 << 20, Verify: true,
		OnPath: func(bench.PathChange) { up <- struct{}{} },
	}
	go func() {
		r, err := bench.Run(a.ctx, cfg)
		over <- outcome{r, err}
	}()
	<-up
	<-up
	for range 3 {
		out, err := a.mooring("plugin", "list", "-o", "json")
		var plugins []struct {
			Name string
			PID  int
		}
		if err != nil || json.Unmarshal([]byte(out), &plugins) != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, p := range plugins {
			if p.Name == "transport-tcp" && p.PID != 0 {
				if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		<-time.After(time.Second) // of load
		if out, err := a.mooring("plugin", "restart", "transport-tcp"); err != nil {
			t.Errorf("restart: %v\n%s", err, out)
		}
		<-time.After(500 * time.Millisecond)
	}
	o := <-over
	if o.err != nil {
		t.Fatal(o.err)
	}
	r := o.r
	t.Logf("%d I/Os, longest %.0f ms, %d changes of ways, %d blocks verified", r.Total.IOs, r.Total.Latency.Max/1000, len(r.PathChanges), r.Verified)
	if r.Errors != 0 || r.VerifyErrors != 0 || r.Verified == 0 {
		t.Errorf("errors %v, %d blocks wrong: %v", r.ErrorCounts, r.VerifyErrors, r.Mismatches)
	}
	if len(r.PathChanges) < 8 {
		t.Errorf("ways: %+v", r.PathChanges)
	}
}
