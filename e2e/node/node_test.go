package node

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost"
)

const (
	devNQN  = "nqn.2026-11.io.mooring:dev"
	hostNQN = "nqn.2014-08.org.example:node"

	testTimeout = 3 * time.Minute // for hangs
)

var programs string // the folder with mooring and plugins/

func TestMain(m *testing.M) {
	code, err := func() (int, error) {
		dir, err := os.MkdirTemp("", "mooring-node-")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		for out, pkg := range map[string]string{
			"mooring": "cmd/mooring", "plugins/transport-tcp": "plugins/transport-tcp", "plugins/policy-inherit": "plugins/policy-inherit",
			"plugins/frontend-iscsi": "plugins/frontend-iscsi",
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

// agent is a running agent of the built binaries.
type agent struct {
	t         *testing.T
	ctx       context.Context
	addresses []string // of its listeners
	socket    string
	cmd       *exec.Cmd
	ready     chan struct{} // gets one value each time when hosts can connect
	ended     chan struct{} // closed when err is set
	err       error
	log       tail
}

// start runs "agent ARGS... -listen ...", with so many NVMe/TCP listeners, until the test ends, at which it must end
// well.
func start(t *testing.T, listeners int, args ...string) *agent {
	t.Helper()
	return startAt(t, slices.Repeat([]string{"nvme-tcp"}, listeners), args...)
}

// startAt is start with a listener for each of the URL schemes.
func startAt(t *testing.T, schemes []string, args ...string) *agent {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	a := &agent{
		t: t, ctx: ctx, socket: filepath.Join(t.TempDir(), "socket"), ready: make(chan struct{}, 100), ended: make(chan struct{}),
	}
	args = append([]string{"agent", "-socket", a.socket}, args...)
	var ports []net.Listener
	for _, scheme := range schemes {
		l := listenLow(t)
		defer l.Close() // in case of an error below
		ports = append(ports, l)
		a.addresses = append(a.addresses, l.Addr().String())
		args = append(args, "-listen", scheme+"://"+l.Addr().String())
	}
	for _, l := range ports { // only now, so that they differ
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	a.cmd = exec.Command(filepath.Join(programs, "mooring"), args...)
	a.cmd.WaitDelay = 10 * time.Second
	a.cmd.Stderr = &a.log
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(a.ended)
		a.read(out)
		a.err = a.cmd.Wait()
	}()
	t.Cleanup(a.stop)
	a.up()
	return a
}

func (a *agent) read(out io.Reader) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == "mooring: ready" {
			a.ready <- struct{}{}
		}
	}
}

// up waits until hosts can connect, once more each time.
func (a *agent) up() {
	a.t.Helper()
	select {
	case <-a.ready:
	case <-a.ended:
		a.t.Fatalf("the agent ended instead of becoming ready: %v\n%s", a.err, a.log.String())
	case <-a.ctx.Done():
		a.t.Fatalf("the agent does not become ready\n%s", a.log.String())
	}
}

func (a *agent) stop() {
	_ = a.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-a.ended:
	case <-time.After(time.Minute):
		_ = a.cmd.Process.Kill()
		<-a.ended
		a.err = errors.Join(a.err, errors.New("killed, since it did not end"))
	}
	if a.err != nil || a.t.Failed() {
		a.t.Errorf("the agent ended with %v\n%s", a.err, a.log.String())
	}
}

// connect connects the test's host to the i-th listener.
func (a *agent) connect(i int, o nvmehost.Options) *nvmehost.Controller {
	a.t.Helper()
	o.HostNQN, o.HostID = hostNQN, nvme.HostID{15: 1}
	c, err := nvmehost.Connect(a.ctx, a.addresses[i], devNQN, o)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(c.Abandon)
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
