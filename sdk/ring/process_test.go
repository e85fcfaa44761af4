package ring

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The tests' other side is this binary again, in the role that the environment
// names, with one end of a SOCK_SEQPACKET pair as descriptor 3.
const roleVariable = "RING_TEST_ROLE"

var roles = map[string]func(*net.UnixConn) error{
	"plugin": pluginRole,
	"core":   coreRole,
}

func TestMain(m *testing.M) {
	role, ok := roles[os.Getenv(roleVariable)]
	if !ok {
		goleak.VerifyTestMain(m)
		return
	}
	conn, err := unixConn(os.NewFile(3, "descriptors"))
	if err == nil {
		err = role(conn)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// process is the other side.
type process struct {
	*exec.Cmd
	conn *net.UnixConn
}

func start(tb testing.TB, role string) process {
	tb.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	conn, err := unixConn(os.NewFile(uintptr(pair[0]), "descriptors"))
	if err != nil {
		tb.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "descriptors")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	theirs.Close()
	tb.Cleanup(func() { cmd.Process.Kill(); cmd.Wait(); conn.Close() })
	return process{cmd, conn}
}

// kill is kill -9, and returns when the process is gone.
func (p process) kill() { p.Process.Kill(); p.Wait() }

func unixConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

// pluginRole attaches to what it receives and keeps as many writes in flight as
// it can, for ever. Each carries its number.
func pluginRole(conn *net.UnixConn) error {
	d, err := Receive(conn)
	if err != nil {
		return err
	}
	p, err := Attach(d)
	if err != nil {
		return err
	}
	for n := uint64(0); ; {
		for p.Room() > 0 {
			if _, err := p.Submit(&Entry{Op: OpWrite, Offset: n, Length: 8, PoolLength: 8}); err != nil {
				return err
			}
			n++
		}
		p.Publish()
		if err := p.await(); err != nil {
			return err
		}
		for done := (Completion{}); ; {
			if ok, err := p.Take(&done); err != nil {
				return err
			} else if !ok {
				break
			}
		}
	}
}

// await blocks until there is a completion.
func (p *PluginEnd) await() error {
	for p.Sleep() {
		set := []unix.PollFd{{Fd: int32(p.DoorbellFD()), Events: unix.POLLIN}}
		if _, err := unix.Poll(set, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		p.Awake()
		if set[0].Revents != 0 && !p.Drain() {
			return io.EOF
		}
	}
	return nil
}

// coreRole makes rings, passes them, and completes all that comes. Offset comes back
// as Info.
func coreRole(conn *net.UnixConn) error {
	c, err := Create(Config{Entries: 128, PoolBytes: 1 << 20, Incarnation: 1})
	if err != nil {
		return err
	}
	if err := Send(conn, c.Descriptors()); err != nil {
		return err
	}
	for {
		for e := (Entry{}); ; {
			ok, err := c.Take(&e)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if err := c.Complete(&Completion{Tag: e.Tag, Info: e.Offset}); err != nil {
				return err
			}
		}
		c.Publish()
		c.await()
	}
}

// await blocks until there is an entry.
func (c *CoreEnd) await() {
	for c.Sleep() {
		var tokens [64]byte
		unix.Read(c.DoorbellFD(), tokens[:])
		c.Awake()
	}
}

// A plugin is killed in the middle of its work, again and again. What it left is
// whole, the end of its socket tells of its death, and its successor's rings begin
// empty.
func TestPluginKilled(t *testing.T) {
	for life := range uint64(3) {
		c, err := Create(Config{Entries: 64, PoolBytes: 1 << 20, Incarnation: life + 1, Thread: 2})
		if err != nil {
			t.Fatal(err)
		}
		plugin := start(t, "plugin")
		if err := Send(plugin.conn, c.Descriptors()); err != nil {
			t.Fatal(err)
		}
		next := uint64(0)
		serve := func() {
			for e := (Entry{}); ; next++ {
				ok, err := c.Take(&e)
				if err != nil {
					t.Fatal(err)
				}
				if !ok {
					break
				}
				if e.Offset != next {
					t.Fatalf("entry %d says it is %d", next, e.Offset)
				}
				if err := c.Complete(&Completion{Tag: e.Tag}); err != nil {
					t.Fatal(err)
				}
			}
			c.Publish()
		}
		for next < 10_000 {
			c.await()
			serve()
		}
		plugin.kill()
		if _, err := Receive(plugin.conn); !errors.Is(err, io.EOF) {
			t.Fatalf("socket of a dead plugin: %v, want EOF", err)
		}
		serve()
		if got := c.Counters(); got.Entries != next || got.WriteBytes != 8*next {
			t.Fatalf("%d entries taken, counters %+v", next, got)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The core is killed: the doorbell hangs up, though nobody rang it.
func TestCoreKilled(t *testing.T) {
	core := start(t, "core")
	d, err := Receive(core.conn)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Attach(d)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for n := range uint64(1000) {
		if ok, err := p.Submit(&Entry{Op: OpVerify, Offset: n, Length: 1}); !ok || err != nil {
			t.Fatal(ok, err)
		}
		p.Publish()
		if err := p.await(); err != nil {
			t.Fatal(err)
		}
		var done Completion
		if ok, err := p.Take(&done); !ok || err != nil || done.Info != n {
			t.Fatal(ok, err, done)
		}
	}
	core.kill()
	if err := p.await(); !errors.Is(err, io.EOF) {
		t.Fatalf("doorbell of a dead core: %v, want EOF", err)
	}
}
