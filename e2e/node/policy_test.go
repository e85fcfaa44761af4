package node

import (
	"strings"
	"testing"
	"time"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost"
)

// Two hosts connect at the same access point first. Once they have settled, the policy,
// a process that was started for it, gives each its own; the hosts hear of it by event.
func TestPolicyKeepsHostsApart(t *testing.T) {
	a := start(t, 2, "-dev")
	connect := func(host byte, i int) *way {
		w := &way{a: a, events: make(chan struct{}, 1)}
		c, err := nvmehost.Connect(a.ctx, a.addresses[i], devNQN, nvmehost.Options{
			HostNQN: hostNQN + "-" + string('a'+rune(host)), HostID: nvme.HostID{15: 1 + host}, Queues: 1, KeepAlive: 10 * time.Second,
			OnEvent: func(e nvme.AsyncEvent) {
				if e == nvme.EventANAChange {
					select {
					case w.events <- struct{}{}:
					default:
					}
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Abandon)
		w.Controller = c
		if err := w.SetEvents(a.ctx, nvme.EventsANAChange); err != nil {
			t.Fatal(err)
		}
		return w
	}
	first, second := [2]*way{connect(0, 0), connect(0, 1)}, [2]*way{connect(1, 0), connect(1, 1)}
	if s := second[1].state(); s != nvme.ANAOptimized { // reading it unmasks the event
		second[1].becomes(nvme.ANAOptimized)
	}
	for what, w := range map[string]*way{"second host, first": second[0], "first host, second": first[1]} {
		if s := w.state(); s == nvme.ANAOptimized {
			t.Errorf("%s access point: %v", what, s)
		}
	}
	if s := first[0].state(); s != nvme.ANAOptimized {
		t.Errorf("the first host's path moved: %v", s)
	}
	// What the operator is told agrees with what the hosts see.
	if out, err := a.mooring("path", "explain", hostNQN+"-b", devNQN, "1"); err != nil || !strings.Contains(out, "optimized at dev/nvme-tcp://"+a.addresses[1]) || !strings.Contains(out, "it would stay") {
		t.Errorf("explain: %v\n%s", err, out)
	}
	if out, err := a.mooring("path", "simulate", "-down", "nvme-tcp://"+a.addresses[1]); err != nil || !strings.Contains(out, "1 of 2 paths would move") || !strings.Contains(out, "is down") {
		t.Errorf("simulate: %v\n%s", err, out)
	}
	if out, err := a.mooring("path", "simulate", "-rebalance"); err != nil || !strings.Contains(out, "0 of 2 paths would move") {
		t.Errorf("simulate: %v\n%s", err, out)
	}
	if out, err := a.mooring("path", "rebalance"); err != nil {
		t.Errorf("rebalance: %v\n%s", err, out)
	}
	block := make([]byte, 4096)
	if err := second[1].write(0, block); err != nil {
		t.Error(err)
	}
}
