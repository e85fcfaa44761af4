package node

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost"
)

// file is a node's configuration: data beside it, one volume of 64 MiB for any host.
type file struct {
	path    string
	dir     string
	plugin  string // what the plugin block says
	store   string // what the store block says
	limits  string // what the limits block says
	volumes string
}

func newFile(t *testing.T, listen ...string) *file {
	dir := t.TempDir()
	return &file{
		path: filepath.Join(dir, "node.hcl"), dir: dir, plugin: listenAt(listen...), store: "capacity = \"512MiB\"",
		volumes: fmt.Sprintf("volume \"v\" {\n size = \"64MiB\"\n}\nsubsystem %q {\n allow_any_host = true\n namespace \"1\" {\n  volume = \"v\"\n }\n}\n", devNQN),
	}
}

func listenAt(addresses ...string) string {
	return fmt.Sprintf("listen = [\"nvme-tcp://%s\"]", strings.Join(addresses, `", "nvme-tcp://`))
}

func (f *file) write(t *testing.T) {
	t.Helper()
	src := fmt.Sprintf("data_dir = \"data\"\nnode {\n name = \"n\"\n}\nadmin {\n metrics = \"off\"\n}\nlimits {\n %s\n}\nstore \"main\" {\n %s\n}\nplugin \"transport-tcp\" {\n %s\n}\n%s",
		f.limits, f.store, f.plugin, f.volumes)
	if err := os.WriteFile(f.path, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
}

// freePort is an address of loopback that nobody listened at a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	l := listenLow(t)
	defer l.Close()
	return l.Addr().String()
}

// lastPort is the one that listenLow tried last.
var lastPort atomic.Int32

func init() { lastPort.Store(21000 + rand.Int32N(9000)) }

// listenLow listens at a port of loopback below those that the kernel gives to connections, so that it is still free when it is closed
// and an agent is to listen there, and at another one each time.
func listenLow(t *testing.T) net.Listener {
	t.Helper()
	for range 1000 {
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", lastPort.Add(1))); err == nil {
			return l
		}
	}
	t.Fatal("no port of loopback is free")
	return nil
}

// A reload compares the file with what runs: what could not be applied is said again until it
// holds, and not any more once the file asks for what there is.
func TestReload(t *testing.T) {
	first := freePort(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	f := newFile(t, first)
	before := *f
	f.write(t)
	a := start(t, 0, "-config", f.path)
	a.addresses = []string{first}
	reload := func(code int, want ...string) {
		t.Helper()
		f.write(t)
		out, err := exec.Command(filepath.Join(programs, "mooring"), "-socket", a.socket, "agent", "reload").CombinedOutput()
		var exit *exec.ExitError
		if got := 0; errors.As(err, &exit) || err == nil {
			if exit != nil {
				got = exit.ExitCode()
			}
			if got != code {
				t.Errorf("exit code %d, want %d", got, code)
			}
		} else {
			t.Fatal(err)
		}
		missing := false
		for _, w := range want {
			missing = missing || !strings.Contains(string(out), w)
		}
		if n := strings.Count(string(out), "pplied: "); missing || n != len(want) {
			t.Errorf("reload says\n%swant %q", out, want)
		}
	}
	const threads, capacity = "threads, pool, ring_entries", "capacity and media of store main"
	f.plugin = listenAt(first, busy.Addr().String()) + "\n threads = 2"
	f.store = "capacity = \"768MiB\""
	f.volumes = strings.Replace(f.volumes, "64MiB", "32MiB", 1)
	for range 2 {
		reload(6, "address already in use", threads, capacity, "never destroys data")
	}
	if err := busy.Close(); err != nil {
		t.Fatal(err)
	}
	reload(6, "applied: plugin transport-tcp listens", threads, capacity, "never destroys data")
	reload(6, threads, capacity, "never destroys data")
	*f = before
	reload(0, "applied: plugin transport-tcp listens")
	reload(0)

	f.plugin += "\n config {\n  nonsense = 1\n }"
	for range 2 {
		reload(6, "nonsense")
	}

	// What needs a restart is said until there was one.
	restart := func() {
		t.Helper()
		if out, err := a.mooring("plugin", "restart", "transport-tcp"); err != nil {
			t.Errorf("restart: %v\n%s", err, out)
		}
	}
	f.plugin = before.plugin + "\n config {\n  queue_depth = 128\n }"
	for range 2 {
		reload(6, "plugin restart transport-tcp")
	}
	f.plugin = before.plugin + "\n config {\n  queue_depth = 128\n  max_connections = 100\n }"
	reload(6, "plugin restart transport-tcp")
	restart()
	reload(0)
	f.plugin = strings.Replace(f.plugin, "100", "101", 1)
	reload(0, "applied: config of plugin transport-tcp")
	*f = before
	reload(6, "plugin restart transport-tcp")
	restart()
	reload(0)

	// Only the CLI shrinks, also what the file sets; nothing else may it change there.
	f.volumes = strings.Replace(f.volumes, "64MiB", "32MiB", 1)
	reload(6, "never destroys data")
	if out, err := a.mooring("volume", "delete", "v"); !strings.Contains(out, "node.hcl:") {
		t.Errorf("a volume of the file is deleted: %v\n%s", err, out)
	}
	if out, err := a.mooring("volume", "resize", "v", "32MiB", "-force"); err != nil {
		t.Errorf("shrink: %v\n%s", err, out)
	}
	reload(0)
}

// What a reload lets listen is an access point when the reload is over: a host that comes there has
// its path there. What it cannot let listen, it says.
func TestReloadedListeners(t *testing.T) {
	first, second, third := freePort(t), freePort(t), freePort(t)
	f := newFile(t, first)
	f.write(t)
	a := start(t, 0, "-config", f.path)
	f.plugin = listenAt(first, second)
	volumes := f.volumes
	f.volumes += fmt.Sprintf("plugin \"frontend-iscsi\" {\n listen = [\"iscsi://%s\"]\n}\n", third)
	f.write(t)
	if out, err := a.mooring("agent", "reload"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	a.addresses = []string{second}
	if s := a.way(0).state(); s != nvme.ANAOptimized {
		t.Errorf("the path of a host that only knows the new listener is %v there", s)
	}
	if out, err := a.mooring("path", "simulate", "-down", "iscsi://"+third); err != nil {
		t.Errorf("the new plugin's listener is no access point: %v\n%s", err, out)
	}

	f.volumes = volumes
	f.write(t)
	if out, err := a.mooring("agent", "reload"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	f.volumes += fmt.Sprintf("plugin \"frontend-iscsi\" {\n listen = [\"nvme-tcp://%s\"]\n}\n", third)
	f.write(t)
	if out, err := a.mooring("agent", "reload"); err == nil || !strings.Contains(out, "iscsi://ADDRESS:PORT") {
		t.Errorf("a listener of a new plugin is not up, and the reload says\n%s", out)
	}
}

// mooring runs a command of the CLI at this agent.
func (a *agent) mooring(args ...string) (string, error) {
	out, err := exec.Command(filepath.Join(programs, "mooring"), append([]string{"-socket", a.socket}, args...)...).CombinedOutput()
	return string(out), err
}

// A node that stands still for longer than its Meta session lives has lost its leases. It
// serves nothing by them when it wakes up: it begins again, and all that was acknowledged is there.
func TestStandsStillTooLong(t *testing.T) {
	at := freePort(t)
	f := newFile(t, at)
	f.limits = "session_ttl = \"2s\""
	f.write(t)
	a := start(t, 0, "-config", f.path)
	a.addresses = []string{at}
	block := func(n uint64) []byte { return bytes.Repeat([]byte{byte(n), byte(n >> 8), 0xa5, byte(n >> 16)}, 1024) }

	const blocks = 64 // written over and over, each with a greater number
	var acked, sent [blocks]atomic.Uint64
	written := make(chan error, 1)
	host := a.connect(0, nvmehost.Options{Queues: 1})
	busy := make(chan struct{})
	go func() {
		for n := uint64(1); ; n++ {
			if n == 10*blocks {
				close(busy)
			}
			sent[n%blocks].Store(n)
			if err := host.Write(a.ctx, 1, nvme.LBA(n%blocks), block(n), false); err != nil {
				written <- err
				return
			}
			acked[n%blocks].Store(n)
		}
	}()
	select {
	case <-busy:
	case err := <-written:
		t.Fatal(err)
	}
	if err := a.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	<-time.After(4 * time.Second) // the fault itself, not a wait for something
	if err := a.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	a.up() // once more
	t.Logf("the host that wrote was told: %v", <-written)
	host = a.connect(0, nvmehost.Options{Queues: 1})
	got := make([]byte, 4096)
	for i := range uint64(blocks) {
		if err := host.Read(a.ctx, 1, nvme.LBA(i), got); err != nil {
			t.Fatal(err)
		}
		low, high := acked[i].Load(), sent[i].Load()
		if !bytes.Equal(got, block(low)) && !bytes.Equal(got, block(high)) {
			t.Errorf("block %d: % x, want number %d or %d", i, got[:8], low, high)
		}
	}
	if err := host.Write(a.ctx, 1, 0, block(0), false); err != nil {
		t.Error(err)
	}
	if out, err := a.mooring("events"); err != nil || !strings.Contains(out, "node-started") {
		t.Errorf("events: %v\n%s", err, out)
	}
	if !strings.Contains(a.log.String(), "the node begins again") {
		t.Error("the node went on as if nothing had been")
	}
}
