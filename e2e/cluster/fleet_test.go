//go:build cluster

package cluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost"
)

const (
	nqn     = "nqn.2026-11.io.mooring:test"
	hostNQN = "nqn.2014-08.org.example:cluster"

	testTimeout = 5 * time.Minute // for hangs
)

var programs string // the folder with mooring and plugins/

func TestMain(m *testing.M) {
	code, err := func() (int, error) {
		dir, err := os.MkdirTemp("", "mooring-cluster-")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		for out, pkg := range map[string]string{
			"mooring": "cmd/mooring", "plugins/transport-tcp": "plugins/transport-tcp", "plugins/policy-inherit": "plugins/policy-inherit",
			"plugins/frontend-iscsi": "plugins/frontend-iscsi",
			"plugins/policy-balance": "plugins/policy-balance",
		} {
			c := exec.Command("go", "build", "-o", filepath.Join(dir, out), "github.com/mooring-io/mooring/"+pkg)
			c.Env = append(os.Environ(), "CGO_ENABLED=0")
			if text, err := c.CombinedOutput(); err != nil {
				return 0, fmt.Errorf("build %s: %w\n%s", pkg, err, text)
			}
		}
		// A plugin has a user of its own when we are root, and must reach its program.
		if err := os.Chmod(dir, 0o755); err != nil {
			return 0, err
		}
		programs = dir
		return m.Run(), nil
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// node is one agent's configuration and process.
type node struct {
	t       *testing.T
	ctx     context.Context
	name    string
	dir     string
	file    string
	address string // the first of its four ports
	nvme    string
	iscsi   string
	witness bool
	netns   string // network namespace that it lives in; "": this one
	portal  string // more for the block of frontend-iscsi

	cmd   *exec.Cmd
	ready chan struct{} // closed when hosts can connect
	ended chan struct{} // closed when err is set
	err   error
	log   tail
}

// newNode writes the configuration of a node; with cluster, one that is to be in a cluster.
func newNode(t *testing.T, name, cluster string) *node {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	n := &node{t: t, ctx: ctx, name: name, dir: t.TempDir()}
	n.file = filepath.Join(n.dir, "node.hcl")
	ports := freePorts(t, config.NodePorts+2)
	n.address, n.nvme, n.iscsi = ports[0], ports[config.NodePorts], ports[config.NodePorts+1]
	n.write(cluster)
	return n
}

func (n *node) write(cluster string) {
	n.t.Helper()
	src := fmt.Sprintf("data_dir = \"data\"\nplugin_dir = %q\nnode {\n  name = %q\n  address = %q\n}\n%s\nadmin {\n  metrics = \"off\"\n}\n"+
		"store \"main\" {\n  capacity = \"512MiB\"\n}\nplugin \"transport-tcp\" {\n  listen = [\"nvme-tcp://%s\"]\n}\n"+
		"plugin \"frontend-iscsi\" {\n  listen = [\"iscsi://%s\"]\n%s}\n",
		filepath.Join(programs, "plugins"), n.name, n.address, cluster, n.nvme, n.iscsi, n.portal)
	if err := os.WriteFile(n.file, []byte(src), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

const embed = "cluster {\n  embed = true\n}"

// freePorts are consecutive ports of loopback that were free a moment ago, below those that the kernel gives out.
func freePorts(t *testing.T, count int) []string {
	t.Helper()
	for range 100 {
		first := 20000 + rand.IntN(1200)*10
		var out []string
		for p := first; p < first+count; p++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
			if err != nil {
				break
			}
			defer l.Close()
			out = append(out, l.Addr().String())
		}
		if len(out) == count {
			return out
		}
	}
	t.Fatal("no free ports")
	return nil
}

// start runs the agent and waits until hosts can connect.
func (n *node) start() {
	n.t.Helper()
	n.launch()
	n.up()
}

// launch runs the agent until the test ends, at which it must end well.
func (n *node) launch() {
	n.t.Helper()
	args := []string{"agent", "-config", n.file, "-trust-plugins"}
	if n.witness {
		args = append(args, "-witness")
	}
	n.ready, n.ended, n.err = make(chan struct{}), make(chan struct{}), nil
	cmd := inside(context.Background(), n.netns, args...)
	cmd.WaitDelay = 10 * time.Second
	cmd.Stderr = &n.log
	out, err := cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	first := n.cmd == nil
	n.cmd = cmd
	go n.read(out, cmd, n.ready, n.ended)
	if first {
		n.t.Cleanup(n.stop)
	}
}

func (n *node) read(out io.Reader, cmd *exec.Cmd, ready, ended chan struct{}) {
	defer close(ended)
	seen := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == "mooring: ready" && !seen {
			seen = true
			close(ready)
		}
	}
	n.err = cmd.Wait()
}

func (n *node) up() {
	n.t.Helper()
	select {
	case <-n.ready:
	case <-n.ended:
		n.t.Fatalf("agent %s ended instead of becoming ready: %v\n%s", n.name, n.err, n.log.String())
	case <-n.ctx.Done():
		n.t.Fatalf("agent %s does not become ready\n%s", n.name, n.log.String())
	}
}

// stop ends the agent in order.
func (n *node) stop() {
	n.signal(syscall.SIGTERM)
	select {
	case <-n.ended:
	case <-time.After(time.Minute):
		n.signal(syscall.SIGKILL)
		<-n.ended
		n.t.Errorf("agent %s did not end; killed", n.name)
	}
	killed := n.cmd.ProcessState != nil && n.cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled()
	if (n.err != nil && !killed) || n.t.Failed() {
		n.t.Errorf("agent %s ended with %v\n%s", n.name, n.err, n.log.String())
	}
}

// kill is kill -9, and returns when the process is gone.
func (n *node) kill() {
	n.signal(syscall.SIGKILL)
	<-n.ended
}

func (n *node) signal(s syscall.Signal) { _ = n.cmd.Process.Signal(s) } // it may have ended

// inside is mooring in a network namespace.
func inside(ctx context.Context, netns string, args ...string) *exec.Cmd {
	program := filepath.Join(programs, "mooring")
	if netns == "" {
		return exec.CommandContext(ctx, program, args...)
	}
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", netns, program}, args...)...)
}

// run runs a command of the CLI against the agent.
func (n *node) run(args ...string) (stdout, stderr string, err error) {
	c := inside(n.ctx, n.netns, append([]string{"-socket", filepath.Join(n.dir, "data", "mooring.sock")}, args...)...)
	var out, bad bytes.Buffer
	c.Stdout, c.Stderr = &out, &bad
	err = c.Run()
	return strings.TrimSpace(out.String()), strings.TrimSpace(bad.String()), err
}

// do expects a command to work, and returns what it printed.
func (n *node) do(args ...string) string {
	n.t.Helper()
	out, bad, err := n.run(args...)
	if err != nil {
		n.t.Fatalf("mooring %s on %s: %v\n%s\n%s", strings.Join(args, " "), n.name, err, out, bad)
	}
	return out
}

// refused expects a command to fail, saying something.
func (n *node) refused(says string, args ...string) {
	n.t.Helper()
	out, bad, err := n.run(args...)
	if err == nil || !strings.Contains(bad, says) {
		n.t.Errorf("mooring %s on %s: %v\n%s\n%s\nwant a refusal that says %q", strings.Join(args, " "), n.name, err, out, bad, says)
	}
}

// get reads what a command prints with -o json.
func get[T any](n *node, args ...string) T {
	n.t.Helper()
	v, err := try[T](n, args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return v
}

// try is get for what may fail for a while.
func try[T any](n *node, args ...string) (v T, err error) {
	out, bad, err := n.run(append(args, "-o", "json")...)
	if out != "" { // exit code 6 comes with an answer
		err = json.Unmarshal([]byte(out), &v)
	}
	if err != nil {
		err = fmt.Errorf("mooring %s on %s: %w\n%s\n%s", strings.Join(args, " "), n.name, err, out, bad)
	}
	return v, err
}

// until asks again until the answer is as it should be.
func until[T any](n *node, what string, ok func(T) bool, args ...string) T {
	n.t.Helper()
	for {
		v, err := try[T](n, args...)
		if err == nil && ok(v) {
			return v
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-n.ctx.Done():
			n.t.Fatalf("%s: it stays %+v, %v", what, v, err)
		}
	}
}

// join has n join the cluster of a node that runs.
func (n *node) join(by *node) (note string) {
	n.t.Helper()
	args := []string{"cluster", "join", "-config", n.file, by.do("cluster", "token")}
	if n.witness {
		args = append(args, "-witness")
	}
	_, bad, err := n.run(args...)
	if err != nil {
		n.t.Fatalf("%s joins: %v\n%s", n.name, err, bad)
	}
	return bad
}

// form makes and starts a cluster of nodes; with three and more it waits until three vote.
func form(t *testing.T, names ...string) []*node {
	t.Helper()
	return formWith(t, embed, names...)
}

// formWith is form for nodes with more in their configuration than a cluster block.
func formWith(t *testing.T, config string, names ...string) []*node {
	t.Helper()
	var nodes []*node
	for _, name := range names {
		nodes = append(nodes, newNode(t, name, config))
	}
	return formOf(t, nodes...)
}

// formOf is form for nodes that are made already.
func formOf(t *testing.T, nodes ...*node) []*node {
	t.Helper()
	var out []*node
	for _, n := range nodes {
		if len(out) == 0 {
			n.do("cluster", "init", "-config", n.file)
		} else {
			n.join(out[0])
		}
		n.start()
		out = append(out, n)
	}
	if len(out) >= 3 {
		out[0].votes(3)
	}
	// All at once: the last ones of those that stop one after the other would wait for a majority that is gone.
	t.Cleanup(func() {
		for _, n := range out {
			n.signal(syscall.SIGTERM)
		}
	})
	return out
}

// votes waits until so many members of etcd vote.
func (n *node) votes(want int) {
	n.t.Helper()
	until(n, fmt.Sprintf("%d votes", want), func(c admin.Cluster) bool {
		count, leads := 0, false
		for _, m := range c.Members {
			if m.Votes {
				count++
			}
			leads = leads || m.Leads
		}
		return count == want && leads
	}, "cluster", "status")
}

// serve makes a volume and a subsystem that any host may use.
func (n *node) serve(volume string) {
	n.t.Helper()
	n.do("volume", "create", volume, "-size", "1GiB", "-replicas", "1")
	n.do("subsystem", "create", nqn, "-allow-any-host")
	n.do("namespace", "attach", nqn, "-volume", volume)
}

// connect connects the test's host.
func (n *node) connect() *nvmehost.Controller { return n.connectAs(hostNQN, 1) }

func (n *node) connectAs(host string, id byte) *nvmehost.Controller {
	n.t.Helper()
	c, err := nvmehost.Connect(n.ctx, n.nvme, nqn, nvmehost.Options{HostNQN: host, HostID: nvme.HostID{15: id}, Queues: 1, KeepAlive: 10 * time.Second})
	if err != nil {
		n.t.Fatalf("connect to %s: %v\n%s", n.name, err, n.log.String())
	}
	n.t.Cleanup(c.Abandon)
	return c
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  bytes.Buffer
}

const tailBytes = 16 << 10

func (w *tail) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.b.Len() > 2*tailBytes {
		w.b.Next(w.b.Len() - tailBytes)
	}
	return w.b.Write(b)
}

func (w *tail) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.TrimSpace(w.b.String())
}
