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
