//go:build cluster

package cluster

import (
	"bytes"
	"testing"

	"github.com/mooring-io/mooring/core/admin"
)

// A volume that no host uses is driven by nobody, and gets its replicas back all the same when a node is lost for good.
func TestUndriven(t *testing.T) {
	t.Parallel()
	nodes := formWith(t, embed+"\nlimits {\n  lost_after = \"3s\"\n}", "a", "b", "c")
	a := nodes[0]
	a.serveTwice()
	host := a.connect()
	holder := replicated(nodes, host)
	if err := host.Close(); err != nil {
		t.Fatal(err)
	}
	undriven := func(v admin.Volume) bool { return v.Driver == "" }
	until(a, "nobody to drive it", undriven, "volume", "show", "v")
	holder.kill()
	third := nodes[1]
	if third == holder {
		third = nodes[2]
	}
	until(third, "another replica", func(s []admin.Store) bool { return s[0].Extents == 1 }, "store", "list")
	until(a, "nobody to drive it any more", undriven, "volume", "show", "v")
	got := make([]byte, len(first))
	host = third.connect()
	if err := again(func() error { return host.Read(third.ctx, 1, 0, got) }); err != nil || !bytes.Equal(got, first) {
		t.Errorf("at the new replica: %v, %x", err, got[:4])
	}
}
