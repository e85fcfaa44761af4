//go:build cluster

package cluster

import (
	"testing"
	"time"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/sdk/nvme"
)

// Hosts at all nodes use a volume that one of them drives. When that one is killed, those of the others see a pause and no error.
func TestForward(t *testing.T) {
	t.Parallel()
	nodes := form(t, "a", "b", "c")
	a := nodes[0]
	a.serveTwice()
	replicated(nodes, a.connect())
	if v := get[admin.Volume](nodes[1], "volume", "show", "v"); v.Driver != a.name {
		t.Errorf("the volume is driven by %q, says the second node", v.Driver)
	}
	var loads []*load
	for i, n := range nodes[1:] {
		l := n.loadAt(n.connectAs(hostNQN+":"+n.name, byte(2+i)), nvme.LBA(1000*(1+i)))
		loads = append(loads, l)
	}
	for _, l := range loads {
		l.goesOn(200)
		l.gap.Store(0)
	}
	a.kill()
	for _, l := range loads {
		l.goesOn(200)
		t.Logf("at %s the longest time without an answer was %v", l.n.name, time.Duration(l.gap.Load()).Round(time.Millisecond))
	}
	a.start()
	here := a.loadAt(a.connectAs(hostNQN+":a", 9), 5000)
	here.goesOn(200)
}

// A volume whose host uses it from another node than the one that drives it comes to be driven there, and the host sees a short pause.
func TestFollow(t *testing.T) {
	t.Parallel()
	nodes := form(t, "a", "b", "c")
	a, b := nodes[0], nodes[1]
	a.serveTwice()
	replicated(nodes, a.connect())
	l := b.loadAt(b.connectAs(hostNQN+":b", 2), 1000)
	l.goesOn(50)
	l.gap.Store(0)
	until(a, "the volume follows its host", func(v admin.Volume) bool { return v.Driver == b.name }, "volume", "show", "v")
	l.goesOn(200)
	t.Logf("the longest time without an answer was %v", time.Duration(l.gap.Load()).Round(time.Millisecond))
}
