//go:build cluster

package cluster

import (
	"bytes"
	"testing"

	"github.com/mooring-io/mooring/core/admin"
)

// The replicas of a node that is drained are made elsewhere while a host writes, also of the node that drives the volume; a drain that would
// leave a volume with too few is refused. An emptied node may be removed.
func TestNodeDrain(t *testing.T) {
	nodes := form(t, "a", "b", "c")
	a := nodes[0]
	a.serveTwice()
	host := a.connect()
	holder := replicated(nodes, host)
	if err := again(func() error { return host.Write(a.ctx, 1, 5000, first, false) }); err != nil { // where the load does not write
		t.Fatal(err)
	}
	third := nodes[1]
	if third == holder {
		third = nodes[2]
	}
	a.do("volume", "set", "v", "-replicas", "3")
	until(a, "three replicas", func(v admin.Volume) bool { return v.Health != nil && v.Health.Reduced == 0 && v.State == "online" }, "volume", "show", "v")
	a.refused("3 replicas", "node", "drain", holder.name)
	a.do("volume", "set", "v", "-replicas", "2")
	until(third, "that the third replica is gone", func(s []admin.Store) bool { return s[0].Extents == 0 }, "store", "list")
	l := a.load(host)
	l.goesOn(100)
	for _, n := range []*node{holder, a} {
		a.do("node", "drain", n.name)
		until(a, n.name+" to be empty", func(all []admin.Node) bool {
			for _, x := range all {
				if x.Name == n.name {
					return x.Drain != nil && x.Drain.Left == 0
				}
			}
			return false
		}, "node", "list")
		until(n, "nothing to be left there", func(s []admin.Store) bool { return s[0].Extents == 0 }, "store", "list")
		l.goesOn(100)
		if n == holder {
			a.do("node", "undrain", n.name)
		}
	}
	l.end()
	got := make([]byte, len(first))
	if err := again(func() error { return host.Read(a.ctx, 1, 5000, got) }); err != nil || !bytes.Equal(got, first) {
		t.Errorf("after both moves: %v, %x", err, got[:4])
	}
}
