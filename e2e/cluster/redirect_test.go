//go:build cluster

package cluster

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/mooring-io/mooring/core/admin"
)

const iqn = "iqn.2026-11.io.mooring:test"

// qemu is QEMU's own initiator, by qemu-io, with a session that lasts until it is closed.
type qemu struct {
	n     *node // whose portal it was given
	in    io.WriteCloser
	lines *bufio.Scanner
	cmd   *exec.Cmd
}

// qemu logs in to LUN 0 of a target at a node's portal.
func (n *node) qemu(target, initiator string) *qemu {
	n.t.Helper()
	program, err := exec.LookPath("qemu-io")
	if err != nil {
		n.t.Fatalf("%v: apt-get install qemu-utils qemu-block-extra", err)
	}
	q := &qemu{n: n}
	q.cmd = exec.CommandContext(n.ctx, program, "--image-opts",
		fmt.Sprintf("driver=iscsi,transport=tcp,portal=%s,target=%s,lun=0,initiator-name=%s", n.iscsi, target, initiator))
	q.in, err = q.cmd.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	out, err := q.cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	q.cmd.Stderr = q.cmd.Stdout
	q.lines = bufio.NewScanner(out)
	if err := q.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(q.close)
	return q
}

// do has qemu-io carry out a command, and returns what it says until a line has the word that it is to say.
func (q *qemu) do(command, says string) {
	q.n.t.Helper()
	if _, err := io.WriteString(q.in, command+"\n"); err != nil {
		q.n.t.Fatal(err)
	}
	var seen strings.Builder
	for q.lines.Scan() {
		fmt.Fprintln(&seen, q.lines.Text())
		if strings.Contains(q.lines.Text(), "failed") {
			break
		}
		if strings.Contains(q.lines.Text(), says) {
			return
		}
	}
	q.n.t.Fatalf("qemu-io %q says\n%s\n%s", command, seen.String(), q.n.log.String())
}

func (q *qemu) close() {
	if q.in != nil {
		_ = q.in.Close() // qemu-io logs out and ends
		_ = q.cmd.Wait()
		q.in = nil
	}
}

// serveTarget makes a volume and a target that any initiator may use.
func (n *node) serveTarget(volume, target string, args ...string) {
	n.t.Helper()
	n.do(append([]string{"volume", "create", volume, "-size", "1GiB"}, args...)...)
	n.do("target", "create", target, "-allow-any-host")
	n.do("lun", "attach", target, "-volume", volume)
}

// session waits until an initiator has its one session with a target, and returns the node where it is.
func session(nodes []*node, target, initiator string) *node {
	nodes[0].t.Helper()
	for {
		for _, n := range nodes {
			for _, h := range get[[]admin.Session](n, "host", "list") {
				if h.Subsystem == target && h.Host == initiator {
					return n
				}
			}
		}
		if nodes[0].ctx.Err() != nil {
			nodes[0].t.Fatal("there is no session")
		}
	}
}

// An initiator that logs in at any portal of the cluster is sent to the one that its link names, and does its I/O there.
func TestRedirect(t *testing.T) {
	nodes := form(t, "a", "b", "c")
	nodes[0].serveTarget("v", iqn)
	const initiator = "iqn.2026-11.com.example:qemu"
	var bound *node
	sent := 0
	for i, n := range nodes {
		q := n.qemu(iqn, initiator)
		q.do(fmt.Sprintf("write -P %d 64k 64k", i+1), "wrote 65536/65536")
		q.do(fmt.Sprintf("read -P %d 64k 64k", i+1), "read 65536/65536")
		at := session(nodes, iqn, initiator)
		t.Logf("the initiator was given %s (node %s), its session is with %s (node %s)", n.iscsi, n.name, at.iscsi, at.name)
		if bound == nil {
			bound = at
		}
		if at != bound {
			t.Errorf("its link was with node %s", bound.name)
		}
		if n != at {
			sent++
		}
		q.close()
	}
	if sent < 2 {
		t.Errorf("it was sent elsewhere %d times only", sent)
	}
}

// sessions is which node every session is with, by target.
func sessions(nodes []*node) map[string]*node {
	out := map[string]*node{}
	for _, n := range nodes {
		for _, h := range get[[]admin.Session](n, "host", "list") {
			out[h.Subsystem] = n
		}
	}
	return out
}

// Another policy and a rebalance have live sessions leave and come back elsewhere: two initiators with three targets each share
// no portal by the one, and have their links evenly spread by the other. They leave a node that is drained, and initiators go on.
func TestSessionsMove(t *testing.T) {
	nodes := form(t, "a", "b", "c")
	const initiators, targets = 2, 6
	var hosts []*qemu
	for i := range targets {
		target := fmt.Sprintf("%s%d", iqn, i)
		nodes[0].serveTarget(fmt.Sprintf("v%d", i), target, "-replicas", "1")
		hosts = append(hosts, nodes[i%3].qemu(target, fmt.Sprintf("iqn.2026-11.com.example:h%d", i%initiators)))
	}
	settled := func(what string, ok func(map[*node]int) bool) map[string]*node {
		t.Helper()
		for {
			at, links := sessions(nodes), map[*node]int{}
			for _, n := range at {
				links[n]++
			}
			if len(at) == targets && ok(links) {
				return at
			}
			if nodes[0].ctx.Err() != nil {
				t.Fatalf("%s: sessions stay at %v", what, links)
			}
		}
	}
	before := settled("apart", func(links map[*node]int) bool {
		return links[nodes[0]] == 3 || links[nodes[1]] == 3 || links[nodes[2]] == 3
	})
	nodes[0].do("tenant", "set", "default", "-policy", "balance")
	nodes[0].do("path", "rebalance")
	after := settled("even", func(links map[*node]int) bool {
		return links[nodes[0]] == 2 && links[nodes[1]] == 2 && links[nodes[2]] == 2
	})
	for target, n := range before {
		if after[target] != n {
			t.Logf("the live session with %s moved from %s (node %s) to %s (node %s)", target, n.iscsi, n.name, after[target].iscsi, after[target].name)
		}
	}
	nodes[1].do("node", "drain", nodes[0].name)
	settled("not at the drained one", func(links map[*node]int) bool { return links[nodes[0]] == 0 })
	nodes[1].drains(nodes[0], "to be drained", func(d admin.NodeDrain) bool { return d.Paths == 0 && d.Left == 0 })
	for _, q := range hosts {
		q.do("write -P 7 64k 64k", "wrote 65536/65536")
	}
}
