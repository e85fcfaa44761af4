package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/mooring-io/mooring/core/admin"
)

const nqn = "nqn.2026-11.io.mooring:chaos"

// build makes the programs that the run uses, in a folder that a plugin's own user can reach.
func build(ctx context.Context, dir string) error {
	for out, pkg := range map[string]string{
		"mooring": "cmd/mooring", "plugins/transport-tcp": "plugins/transport-tcp", "plugins/policy-inherit": "plugins/policy-inherit",
	} {
		c := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, out), "github.com/mooring-io/mooring/"+pkg)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", pkg, err, text)
		}
	}
	return nil
}

// node is one agent: its configuration and, while it runs, its process.
type node struct {
	name     string
	dir      string
	programs string
	nvme     string
	place    *place
	machine  *machine
	log      *os.File

	cmd   *exec.Cmd
	ready chan struct{} // closed when hosts can connect
	ended chan struct{} // closed when the process is gone
}

// newNode makes the machine of a node of the cluster and writes its configuration.
func newNode(dir, programs string, at *place) (*node, error) {
	n := &node{name: at.name, dir: filepath.Join(dir, at.name), programs: programs, place: at, nvme: net.JoinHostPort(at.ip.String(), "4420")}
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return nil, err
	}
	var err error
	if n.log, err = os.Create(filepath.Join(dir, n.name+".log")); err != nil {
		return nil, err
	}
	src := fmt.Sprintf("data_dir = \"data\"\nplugin_dir = %q\nnode {\n  name = %q\n  address = \"%s:7000\"\n}\ncluster {\n  embed = true\n}\nadmin {\n  metrics = \"off\"\n  socket = %q\n}\n"+
		"limits {\n  lost_after = \"20s\"\n}\nstore \"main\" {\n  path = \"store/main\"\n  capacity = \"2GiB\"\n}\nplugin \"transport-tcp\" {\n  listen = [\"nvme-tcp://%s\"]\n}\n",
		filepath.Join(programs, "plugins"), n.name, at.ip, n.socket(), n.nvme)
	if err := os.WriteFile(n.file(), []byte(src), 0o600); err != nil {
		return nil, err
	}
	n.machine, err = newMachine(n.dir)
	return n, err
}

func (n *node) file() string   { return filepath.Join(n.dir, "node.hcl") }
func (n *node) socket() string { return filepath.Join(n.dir, "socket") }

// form makes and starts a cluster of nodes, of which three vote, and a volume on two of them that any host may use.
func form(ctx context.Context, nodes []*node) error {
	for i, n := range nodes {
		var err error
		if i == 0 {
			_, err = n.run(ctx, "cluster", "init", "-config", n.file())
		} else {
			var token string
			if token, err = nodes[0].run(ctx, "cluster", "token"); err == nil {
				_, err = n.run(ctx, "cluster", "join", "-config", n.file(), token)
			}
		}
		if err == nil {
			err = n.start(ctx)
		}
		if err != nil {
			return err
		}
	}
	if err := settle(ctx, nodes); err != nil {
		return err
	}
	for _, line := range []string{
		fmt.Sprintf("volume create v -replicas 2 -size %dMiB", extents*extentBytes>>20),
		"subsystem create " + nqn + " -allow-any-host",
		"namespace attach " + nqn + " -volume v",
	} {
		if _, err := nodes[0].run(ctx, strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// settle waits until all nodes are up in the eyes of each, and vote.
func settle(ctx context.Context, nodes []*node) error {
	for _, n := range nodes {
		for {
			out, err := n.run(ctx, "node", "list", "-o", "json")
			var all []admin.Node
			if err == nil {
				err = json.Unmarshal([]byte(out), &all)
			}
			up := 0
			for _, x := range all {
				if x.State == "up" && x.Vote == "votes" {
					up++
				}
			}
			if up == len(nodes) {
				break
			}
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("the cluster does not become whole: at %s %d of %d nodes are up, %w\n%s", n.name, up, len(nodes), err, out)
			}
		}
	}
	return nil
}

// run runs a command of the CLI against the agent.
func (n *node) run(ctx context.Context, args ...string) (string, error) {
	c := exec.CommandContext(ctx, filepath.Join(n.programs, "mooring"), append([]string{"-socket", n.socket()}, args...)...)
	var out, bad bytes.Buffer
	c.Stdout, c.Stderr = &out, &bad
	err := n.place.in(c.Start)
	if err == nil {
		err = c.Wait()
	}
	if err != nil {
		return out.String(), fmt.Errorf("mooring %s on %s: %w\n%s", strings.Join(args, " "), n.name, err, bad.String())
	}
	return strings.TrimSpace(out.String()), nil
}

// start runs the agent and waits until hosts can connect.
func (n *node) start(ctx context.Context) error {
	if err := n.launch(); err != nil {
		return err
	}
	select {
	case <-n.ready:
		return nil
	case <-n.ended:
		return fmt.Errorf("agent %s ended instead of becoming ready: %v; see %s", n.name, n.cmd.ProcessState, n.log.Name())
	case <-ctx.Done():
		return fmt.Errorf("agent %s does not become ready; see %s", n.name, n.log.Name())
	}
}

// launch runs the agent.
func (n *node) launch() error {
	// Each exec keeps the process: its ID is the agent's.
	n.cmd = exec.Command("unshare", "-m", "sh", "-c", `mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"`,
		n.machine.bootID(), filepath.Join(n.programs, "mooring"), "agent", "-config", n.file(), "-trust-plugins")
	n.cmd.Stderr = n.log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out := &firstReady{ready: make(chan struct{})}
	n.cmd.Stdout = out
	n.cmd.WaitDelay = 10 * time.Second
	n.ready, n.ended = out.ready, make(chan struct{})
	if err := n.place.in(n.cmd.Start); err != nil {
		return fmt.Errorf("start agent %s: %w", n.name, err)
	}
	go func(c *exec.Cmd, ended chan struct{}) {
		_ = c.Wait() // how it ended is in its state
		close(ended)
	}(n.cmd, n.ended)
	return nil
}

// firstReady closes ready at the line that says so. It is written to by one goroutine.
type firstReady struct {
	text  bytes.Buffer
	ready chan struct{}
	seen  bool
}

func (f *firstReady) Write(b []byte) (int, error) {
	if !f.seen {
		f.text.Write(b)
		if bytes.Contains(f.text.Bytes(), []byte("mooring: ready\n")) {
			f.seen = true
			close(f.ready)
		}
	}
	return len(b), nil
}

// runs says whether the agent has a process.
func (n *node) runs() bool {
	if n.cmd == nil {
		return false
	}
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

// signal sends a signal to the agent; it may have ended.
func (n *node) signal(s syscall.Signal) { _ = n.cmd.Process.Signal(s) }

// kill is kill -9, and returns when the process is gone.
func (n *node) kill() {
	if n.runs() {
		n.signal(syscall.SIGKILL)
		<-n.ended
	}
}

// stop ends the agent in order; an error says that it did not end well.
func (n *node) stop() error {
	if !n.runs() {
		return nil
	}
	n.signal(syscall.SIGTERM)
	select {
	case <-n.ended:
	case <-time.After(time.Minute):
		n.kill()
	}
	if !n.cmd.ProcessState.Success() {
		return fmt.Errorf("agent %s: %v at its end; see %s", n.name, n.cmd.ProcessState, n.log.Name())
	}
	return nil
}
