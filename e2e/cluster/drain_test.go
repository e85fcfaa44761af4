//go:build cluster

package cluster

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/sdk/nvmehost/multipath"
)

// The replicas of a node that is drained are made elsewhere while a host writes, also of the node that drives the volume; a drain that would
// leave a volume with too few is refused. The paths of hosts that have other ways leave it, without an error and without a lost connection;
// then its agent may be stopped. An emptied node may be removed.
func TestNodeDrain(t *testing.T) {
	nodes := form(t, "a", "b", "c")
	a := nodes[0]
	a.serveTwice()
	host := a.connect() // to this node alone
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
	device := anywhere(nodes)
	l := a.loadOn(device, 0)
	l.goesOn(100)
	for _, n := range []*node{holder, a} {
		a.do("node", "drain", n.name)
		a.drains(n, "to be empty", func(d admin.NodeDrain) bool { return d.Left == 0 })
		until(n, "nothing to be left there", func(s []admin.Store) bool { return s[0].Extents == 0 }, "store", "list")
		l.goesOn(100)
		if n == holder {
			a.do("node", "undrain", n.name)
		}
	}
	a.drains(a, "one path to be left, and to say whose", func(d admin.NodeDrain) bool { return d.Paths == 1 && strings.Contains(d.Reason, "host "+hostNQN+" ") })
	got := make([]byte, len(first))
	if err := again(func() error { return host.Read(a.ctx, 1, 5000, got) }); err != nil || !bytes.Equal(got, first) {
		t.Errorf("after both moves: %v, %x", err, got[:4])
	}
	host.Abandon()
	a.drains(a, "no path to be left", func(d admin.NodeDrain) bool { return d.Paths == 0 })
	a.do("node", "undrain", "a")

	// The node that has the path of the host with several ways.
	was := a.pathOf(deviceNQN, nil)
	n := nodes[slices.IndexFunc(nodes, func(n *node) bool { return n.has(was.Optimized) })]
	rest := slices.DeleteFunc(slices.Clone(nodes), func(x *node) bool { return x == n })
	n.do("node", "drain", n.name)
	rest[0].drains(n, "to be drained", func(d admin.NodeDrain) bool { return d.Left == 0 && d.Paths == 0 })
	p := rest[0].pathOf(deviceNQN, func(p admin.Path) bool { return !n.has(p.Optimized) })
	if p.Epoch <= was.Epoch || !slices.ContainsFunc(p.Draining, n.has) || !slices.ContainsFunc(p.NonOptimized, n.has) {
		t.Errorf("%+v after %+v; of three nodes, %s is to stay non-optimized", p, was, n.name)
	}
	x := get[admin.PathExplanation](rest[0], "path", "explain", deviceNQN, nqn, "1")
	for _, p := range x.Points {
		if p.Draining != n.has(p.ID) {
			t.Errorf("%s drains, and of its access points it is said: %+v", n.name, p)
		}
	}
	l.goesOn(200)
	for _, p := range device.Paths() {
		if !p.Connected {
			t.Errorf("the host lost a connection: %v", p)
		}
	}
	l.gap.Store(0)
	n.stop()
	until(rest[0], "its end", state(n.name, "down"), "node", "list")
	l.goesOn(200)
	l.end()
	t.Logf("the agent of the drained node was stopped: longest time without an answer %v", time.Duration(l.gap.Load()).Round(time.Millisecond))

	// Of the last one that hosts can use.
	rest[0].do("node", "drain", rest[1].name, "-force")
	rest[0].refused("no other node has an access point", "node", "drain", rest[0].name)
}

// deviceNQN is a host with native multipath.
const deviceNQN = hostNQN + ":anywhere"

// anywhere opens namespace 1 at all nodes.
func anywhere(nodes []*node) *multipath.Device {
	t := nodes[0].t
	t.Helper()
	o := multipath.Options{NQN: nqn, NSID: 1, HostNQN: deviceNQN, OnChange: func(p multipath.Path) { t.Logf("host: %v", p) }}
	for _, n := range nodes {
		o.Addresses = append(o.Addresses, n.nvme)
	}
	d, err := multipath.Open(nodes[0].ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// has says whether an access point is the node's.
func (n *node) has(accessPoint string) bool { return strings.HasPrefix(accessPoint, n.name+"/") }

// pathOf is the path of a host, when it is as it should be.
func (n *node) pathOf(host string, ok func(admin.Path) bool) (out admin.Path) {
	n.t.Helper()
	until(n, "the path of "+host, func(all []admin.Path) bool {
		for _, p := range all {
			if p.Host == host && (ok == nil || ok(p)) {
				out = p
				return true
			}
		}
		return false
	}, "path", "list")
	return out
}

// drains waits until so much is said of the drain of another node.
func (n *node) drains(of *node, what string, ok func(admin.NodeDrain) bool) {
	n.t.Helper()
	until(n, of.name+" "+what, func(all []admin.Node) bool {
		return slices.ContainsFunc(all, func(x admin.Node) bool { return x.Name == of.name && x.Drain != nil && ok(*x.Drain) })
	}, "node", "list")
}
