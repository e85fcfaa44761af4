//go:build e2e

package powerloss

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
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
)

// programs is the folder with mooring and plugins/.
type programs string

func build(t *testing.T) programs {
	t.Helper()
	dir := t.TempDir()
	for out, pkg := range map[string]string{"mooring": "cmd/mooring", "plugins/transport-tcp": "plugins/transport-tcp"} {
		c := exec.Command("go", "build", "-o", filepath.Join(dir, out), "github.com/mooring-io/mooring/"+pkg)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := c.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", pkg, err, text)
		}
	}
	return programs(dir)
}

// agent is a running agent.
type agent struct {
	address string
	socket  string
	cmd     *exec.Cmd
	ready   chan struct{} // closed when hosts can connect
	ended   chan struct{} // closed when err is set
	err     error
	log     tail
}

const stopTimeout = 60 * time.Second

// startAgent starts an agent on the folder data, on a machine with the given boot ID.
func (p programs) startAgent(t *testing.T, data, bootID string) *agent {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	a := &agent{
		address: l.Addr().String(), socket: filepath.Join(dir, "socket"), ready: make(chan struct{}), ended: make(chan struct{}),
	}
	if err := errors.Join(l.Close(), os.WriteFile(filepath.Join(dir, "boot_id"), []byte(bootID+"\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	// Each exec keeps the process: its ID is the agent's.
	a.cmd = exec.Command("unshare", "-m", "sh", "-c", `mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"`,
		filepath.Join(dir, "boot_id"), filepath.Join(string(p), "mooring"), "agent", "-dev", "-data-dir", data,
		"-listen", "nvme-tcp://"+a.address, "-socket", a.socket, "-log-level", "debug")
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	a.cmd.WaitDelay = 10 * time.Second
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	a.cmd.Stderr = &a.log
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(a.ended)
		a.read(out)
		a.err = a.cmd.Wait()
	}()
	return a
}

func (a *agent) read(out io.Reader) {
	once := sync.OnceFunc(func() { close(a.ready) })
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.TrimSpace(lines.Text()) == "mooring: ready" {
			once()
		}
	}
}

// kill ends the agent at once; wait sees its end.
func (a *agent) kill() { _ = a.cmd.Process.Kill() }

// wait waits for the agent's end and returns how it ended.
func (a *agent) wait() error {
	select {
	case <-a.ended:
		return a.err
	case <-time.After(stopTimeout):
		return errors.New("the agent does not end")
	}
}

// stop ends the agent in order.
func (a *agent) stop() error {
	return errors.Join(a.cmd.Process.Signal(syscall.SIGTERM), a.wait())
}

// up waits until hosts can connect.
func (a *agent) up(ctx context.Context) error {
	select {
	case <-a.ready:
		return nil
	case <-a.ended:
		return fmt.Errorf("the agent ended instead of becoming ready: %v", a.err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  bytes.Buffer
}

const tailBytes = 64 << 10

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
	return w.b.String()
}

func newBootID() string { return uuid.NewString() }
