package node

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost"
)

// root skips the test where it cannot mount, which CI takes for a failure.
func root(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("missing: root, to mount a small file system")
	}
	t.Skip("missing: root, to mount a small file system")
}

// mount makes a file system of n bytes until the test ends.
func mount(t *testing.T, kind string, n int64) string {
	t.Helper()
	dir := t.TempDir()
	at := filepath.Join(dir, "at")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	if kind == "ext4" {
		image := filepath.Join(dir, "image")
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(image, n); err != nil {
			t.Fatal(err)
		}
		run("mkfs.ext4", "-q", "-F", image)
		run("mount", "-o", "loop", image, at)
	} else {
		run("mount", "-t", kind, "-o", fmt.Sprintf("size=%d", n), kind, at)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return at
}

// fill takes all the space that there is, as another process would.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "filler")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for b := make([]byte, 1<<20); len(b) >= 512; {
		if _, err := f.Write(b); errors.Is(err, unix.ENOSPC) {
			b = b[:len(b)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// cli runs a command of the CLI against the agent.
func (a *agent) cli(args ...string) (out string, err error) {
	b, err := exec.CommandContext(a.ctx, filepath.Join(programs, "mooring"), append([]string{"-socket", a.socket}, args...)...).CombinedOutput()
	return string(b), err
}

func (a *agent) mustCLI(args ...string) string {
	a.t.Helper()
	out, err := a.cli(args...)
	if err != nil {
		a.t.Fatalf("mooring %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// kill is kill -9.
func (a *agent) kill() {
	a.t.Helper()
	if err := a.cmd.Process.Kill(); err != nil {
		a.t.Fatal(err)
	}
	<-a.ended
	if !a.cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
		a.t.Errorf("the agent had ended by itself: %v\n%s", a.err, a.log.String())
	}
	a.err = nil
}

const blocksOfIO = 16 // of 4 KiB

// io writes or reads what mark says at the n-th MiB of the namespace.
func (a *agent) io(c *nvmehost.Controller, write bool, n int, mark byte) error {
	want := bytes.Repeat([]byte{mark}, blocksOfIO*4096)
	op, data := nvme.IORead, make([]byte, len(want))
	if write {
		op, data = nvme.IOWrite, bytes.Clone(want)
	}
	io := &nvmehost.IO{Cmd: nvmehost.BlockCommand(op, 1, nvme.LBA(n*256), blocksOfIO), Data: data, Write: write}
	if err := c.DoMany(a.ctx, 0, io); err != nil {
		return err
	}
	if err := io.Status(); err != nil {
		return err
	}
	if !bytes.Equal(io.Data, want) {
		return fmt.Errorf("MiB %d does not hold what was written: %x…", n, io.Data[:8])
	}
	return nil
}

// When something else has taken all space of the data directory's file system, what exists is read and overwritten, and what is new is refused
// with the reason, before and after kill -9 and a restart; volumes can be deleted; and with space everything goes on.
func TestFullFileSystem(t *testing.T) {
	root(t)
	for _, kind := range []string{"ext4", "tmpfs"} {
		t.Run(kind, func(t *testing.T) { fullFileSystem(t, mount(t, kind, 400<<20)) })
	}
}

func fullFileSystem(t *testing.T, dir string) {
	args := []string{"-dev", "-data-dir", filepath.Join(dir, "data")}
	a := start(t, 1, args...)
	c := a.connect(0, nvmehost.Options{Queues: 1})
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, a.log.String())
		}
	}
	ok(a.io(c, true, 1, 'a'))
	for i := range 3 {
		a.mustCLI("volume", "create", fmt.Sprint("spare", i), "-size", "1GiB")
	}
	free := fill(t, dir)

	refused := func() {
		t.Helper()
		if out, err := a.cli("volume", "create", "new", "-size", "1GiB"); err == nil || !strings.Contains(out, dir) {
			t.Fatalf("volume create on a full file system: %v\n%s", err, out)
		}
		if out, err := a.cli("doctor"); err == nil || !strings.Contains(out, "file system of "+dir) {
			t.Errorf("doctor on a full file system: %v\n%s", err, out)
		}
		fill(t, dir)
	}
	mark := byte('a')
	goesOn := func() {
		t.Helper()
		for range 20 {
			ok(a.io(c, false, 1, mark))
			mark++
			ok(a.io(c, true, 1, mark))
		}
		for i := range 4 { // first writes to all extents of the volume: whatever fits, and no other error than this
			var status nvme.Status
			if err := a.io(c, true, 2+256*i, 'n'); err != nil && (!errors.As(err, &status) || status != nvme.StatusCapacityExceeded) {
				t.Fatalf("a write to extent %d: %v\n%s", i, err, a.log.String())
			}
		}
		for range 10 { // associations are Meta's business
			ok(c.Close())
			c = a.connect(0, nvmehost.Options{Queues: 1})
			ok(a.io(c, false, 1, mark))
		}
	}
	refused()
	goesOn()
	a.kill()
	fill(t, dir)
	a = start(t, 1, args...)
	c = a.connect(0, nvmehost.Options{Queues: 1})
	refused()
	goesOn()
	a.mustCLI("volume", "delete", "spare0")

	a.stop()
	fill(t, dir)
	a = start(t, 1, args...)
	c = a.connect(0, nvmehost.Options{Queues: 1})
	refused()
	goesOn()
	a.mustCLI("volume", "delete", "spare1")

	free()
	a.mustCLI("volume", "create", "new", "-size", "1GiB")
	for {
		err := a.io(c, true, 3*256+5, 'z')
		if err == nil {
			break
		}
		var status nvme.Status
		if !errors.As(err, &status) || status != nvme.StatusCapacityExceeded || a.ctx.Err() != nil {
			t.Fatalf("with space again: %v\n%s", err, a.log.String())
		}
	}
	ok(a.io(c, false, 3*256+5, 'z'))
	goesOn()
	if list := a.mustCLI("volume", "list"); strings.Contains(list, "spare0") || !strings.Contains(list, "spare2") {
		t.Errorf("the volumes are\n%s", list)
	}
}
