//go:build cluster

package cluster

import (
	"strings"
	"testing"

	"github.com/mooring-io/mooring/core/admin"
)

// A node is removed when another vote is there to take its place; a witness votes like a node, and goes on with one
// when the other dies.
func TestRemoveAndWitness(t *testing.T) {
	t.Parallel()
	nodes := form(t, "a", "b", "c")
	a, b, c := nodes[0], nodes[1], nodes[2]
	a.refused("which runs", "node", "remove", "c")
	a.refused("this one", "node", "remove", "a")
	a.refused("not found", "node", "remove", "x")
	c.serve("v")
	host := c.connect()
	if err := host.Write(c.ctx, 1, 0, make([]byte, 4096), false); err != nil {
		t.Fatal(err)
	}
	if err := host.Close(); err != nil {
		t.Fatal(err)
	}
	c.stop()
	a.refused("extents in store main", "node", "remove", "c")
	c.start()
	c.do("namespace", "detach", nqn, "1")
	c.do("volume", "delete", "v")
	c.stop()
	a.refused("witness", "node", "remove", "c")

	w := newNode(t, "w", embed)
	w.witness = true
	w.join(a)
	w.start()
	until(a, "the witness", func(s admin.Cluster) bool { return len(s.Members) == 4 && s.Members[3].Client != "" }, "cluster", "status")
	a.do("node", "remove", "c")
	a.votes(3)
	if all := get[[]admin.Node](b, "node", "list"); len(all) != 2+1 || all[2].State != "witness" || all[2].Vote != "votes" {
		t.Errorf("nodes after the removal: %+v", all)
	}
	c.launch()
	<-c.ended
	if c.err == nil || !strings.Contains(c.log.String(), "removed") {
		t.Errorf("the removed node ends with %v\n%s", c.err, c.log.String())
	}
	c.err = nil // as it should

	b.kill()
	until(a, "a change with the witness' vote", func(admin.Volume) bool { return true }, "volume", "create", "u", "-size", "1GiB")
	b.start()
}
