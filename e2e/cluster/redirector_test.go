//go:build cluster

package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mooring-io/mooring/core/admin"
)

// lan makes network namespaces on one bridge: namespace i has 192.0.2.i+1 at eth0.
func lan(t *testing.T, names ...string) (spaces []string) {
	t.Helper()
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	space := func(name string) string {
		ns := fmt.Sprintf("mrg%d%s", os.Getpid()%100_000, name)
		ip("netns", "add", ns)
		t.Cleanup(func() { ip("netns", "del", ns) })
		ip("-n", ns, "link", "set", "lo", "up")
		return ns
	}
	bridge := space("br")
	ip("-n", bridge, "link", "add", "name", "br0", "type", "bridge")
	ip("-n", bridge, "link", "set", "dev", "br0", "up")
	for i, name := range names {
		ns := space(name)
		ip("-n", ns, "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", bridge)
		ip("-n", bridge, "link", "set", "dev", name, "master", "br0", "up")
		ip("-n", ns, "addr", "add", fmt.Sprintf("192.0.2.%d/24", i+1), "dev", "eth0")
		ip("-n", ns, "link", "set", "eth0", "up")
		spaces = append(spaces, ns)
	}
	return spaces
}

const redirectorURL = "iscsi://192.0.2.100:3260"

// A redirectorLAN is three agents on one bridge, each with the redirector, and an initiator beside them.
type redirectorLAN struct {
	t     *testing.T
	nodes []*node
	host  string // the initiator's namespace
}

func newRedirectorLAN(t *testing.T) *redirectorLAN {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("network namespaces need root")
	}
	spaces := lan(t, "a", "b", "c", "host")
	l := &redirectorLAN{t: t, host: spaces[3]}
	for i, name := range []string{"a", "b", "c"} {
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		t.Cleanup(cancel)
		n := &node{t: t, ctx: ctx, name: name, dir: t.TempDir(), netns: spaces[i]}
		at := fmt.Sprintf("192.0.2.%d:", i+1)
		n.file, n.address, n.nvme, n.iscsi = filepath.Join(n.dir, "node.hcl"), at+"7400", at+"4420", at+"3260"
		n.portal = redirectorBlock
		n.write(embed)
		l.nodes = append(l.nodes, n)
	}
	formOf(t, l.nodes...)
	l.nodes[0].serveTarget("v", iqn, "-replicas", "2")
	return l
}

const redirectorBlock = "  redirector \"" + redirectorURL + "\" {\n    interface = \"eth0\"\n  }\n"

// redirector is what a node says of the redirector; nil if it does not answer, or has none.
func (n *node) redirector() *admin.Access {
	s, err := try[admin.Status](n, "status")
	for _, l := range s.Access {
		if err == nil && l.Redirector {
			return &l
		}
	}
	return nil
}

// has says whether the address is on a node's interface, whatever the node says.
func (l *redirectorLAN) has(n *node) bool {
	l.t.Helper()
	out, err := exec.Command("ip", "-n", n.netns, "addr", "show", "dev", "eth0").CombinedOutput()
	if err != nil {
		l.t.Fatalf("%v\n%s", err, out)
	}
	return strings.Contains(string(out), " 192.0.2.100/")
}

// settled waits until the address is at one node, and all that run know that. It returns that node.
func (l *redirectorLAN) settled(what string, running ...*node) *node {
	l.t.Helper()
	seen := false
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if running[0].ctx.Err() != nil {
			l.t.Fatalf("%s: no node has the address, or they do not agree which", what)
		}
		var holder *node
		for _, n := range l.nodes {
			if !l.has(n) {
				continue
			}
			if holder != nil && l.has(holder) {
				l.t.Errorf("%s: nodes %s and %s have the address", what, holder.name, n.name)
			}
			holder = n
		}
		if holder == nil || !slices.Contains(running, holder) {
			continue
		}
		if !seen {
			l.t.Logf("%s: node %s has the address after %v", what, holder.name, time.Since(began).Round(time.Millisecond))
			seen = true
		}
		if !slices.ContainsFunc(running, func(n *node) bool {
			r := n.redirector()
			return r == nil || n == holder && r.State != "up" || n != holder && r.Other != holder.name
		}) {
			return holder
		}
	}
}

// login reads and writes at the redirector's address until it works.
func (l *redirectorLAN) login(what string) {
	l.t.Helper()
	for began := time.Now(); ; {
		out, err := inside(l.nodes[0].ctx, l.host, "bench", redirectorURL+"/"+iqn+"?lun=0", "-rw", "randrw", "-verify", "-span", "16MiB", "-time", "100ms",
			"-host", "iqn.2026-11.com.example:h").CombinedOutput()
		if err == nil {
			l.t.Logf("%s: logged in and verified after %v", what, time.Since(began).Round(time.Millisecond))
			return
		}
		if l.nodes[0].ctx.Err() != nil {
			l.t.Fatalf("%s: %v\n%s", what, err, out)
		}
	}
}

// discover is a discovery session at an address.
func (l *redirectorLAN) discover(at string) string {
	l.t.Helper()
	out, err := exec.Command("ip", "netns", "exec", l.host, "iscsi-ls", at).CombinedOutput()
	if err != nil {
		l.t.Errorf("iscsi-ls %s: %v", at, err)
	}
	return string(out)
}

// others are the nodes but for some.
func (l *redirectorLAN) others(but ...*node) []*node {
	return slices.DeleteFunc(slices.Clone(l.nodes), func(n *node) bool { return slices.Contains(but, n) })
}

// reload changes a node's frontend-iscsi block, and expects it to be applied.
func (n *node) reload(portal string) {
	n.t.Helper()
	n.portal = portal
	n.write(embed)
	if r := get[admin.ReloadReport](n, "agent", "reload"); len(r.NotApplied) > 0 || !slices.Contains(r.Applied, "redirector of plugin frontend-iscsi") {
		n.t.Errorf("reload of node %s: %+v", n.name, r)
	}
}

// finding is what doctor says of the redirector.
func (n *node) finding() admin.Finding {
	n.t.Helper()
	for _, f := range get[[]admin.Finding](n, "doctor") {
		if strings.HasPrefix(f.What, "the redirector ") {
			return f
		}
	}
	n.t.Errorf("doctor of node %s says nothing of the redirector", n.name)
	return admin.Finding{}
}

// An initiator logs in at the redirector's address and is sent on, wherever that address is: its node is killed; killed and
// begins again at once; has the redirector taken out of its file; ends.
func TestRedirectorMoves(t *testing.T) {
	l := newRedirectorLAN(t)
	first := l.settled("start", l.nodes...)
	l.login("at node " + first.name)
	for _, at := range []string{redirectorURL, "iscsi://" + first.iscsi, "iscsi://" + l.others(first)[0].iscsi} {
		if out := l.discover(at); !strings.Contains(out, iqn) || !strings.Contains(out, "192.0.2.100:3260,") || strings.Count(out, "Portal:") != 1 {
			t.Errorf("discovery at %s:\n%s", at, out)
		}
	}
	for _, n := range l.nodes {
		want := "node " + first.name + " has the address"
		if n == first {
			want = "this node has the address"
		}
		if f := n.finding(); f.Level != "ok" || !strings.Contains(f.What, want) {
			t.Errorf("doctor of node %s: %+v", n.name, f)
		}
	}

	first.kill()
	second := l.settled("the first is killed", l.others(first)...)
	l.login("at node " + second.name)
	first.start()

	second.kill()
	second.start()
	third := l.settled("the second is killed and begins again", l.nodes...)
	l.login("at node " + third.name)

	third.reload("")
	fourth := l.settled("the redirector is taken out of the third's file", l.others(third)...)
	if third.redirector() != nil {
		t.Errorf("node %s has a redirector", third.name)
	}
	third.reload(redirectorBlock)
	if now := l.settled("and put into it again", l.nodes...); now != fourth {
		t.Errorf("the address went from node %s to node %s", fourth.name, now.name)
	}

	fourth.stop()
	if l.has(fourth) {
		t.Errorf("node %s has the address, and ended", fourth.name)
	}
	fifth := l.settled("the fourth ended", l.others(fourth)...)
	l.login("at node " + fifth.name)
	fourth.start()
}
