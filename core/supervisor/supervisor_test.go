package supervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/policy"
	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/ring"
)

// host is a DataHost that makes rings and serves nothing with them. It fails the
// test if lives overlap.
type host struct {
	t *testing.T

	mu       sync.Mutex
	attached map[string]*Instance // guarded by mu, by plugin
	lives    int                  // guarded by mu
	last     *Instance            // guarded by mu
}

type core struct {
	proto.UnimplementedCoreServer
	inst *Instance

	mu   sync.Mutex
	ends []*ring.CoreEnd // guarded by mu
}

func newHost(t *testing.T) *host { return &host{t: t, attached: map[string]*Instance{}} }

var cores sync.Map // *Instance -> *core

func (h *host) Attach(_ context.Context, inst *Instance) (proto.CoreServer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.attached[inst.Plugin] != nil {
		h.t.Errorf("life %d of %s attached before life %d was detached", inst.ID, inst.Plugin, h.attached[inst.Plugin].ID)
	}
	h.attached[inst.Plugin], h.last = inst, inst
	h.lives++
	c := &core{inst: inst}
	cores.Store(inst, c)
	return c, nil
}

func (h *host) Detach(inst *Instance) {
	if err := syscall.Kill(inst.PID, 0); !errors.Is(err, syscall.ESRCH) {
		h.t.Errorf("process %d still exists when it is detached: %v", inst.PID, err)
	}
	v, _ := cores.LoadAndDelete(inst)
	c := v.(*core)
	c.mu.Lock()
	for _, e := range c.ends {
		e.Close()
	}
	c.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.attached[inst.Plugin] != inst {
		h.t.Errorf("life %d of %s is detached and was not attached", inst.ID, inst.Plugin)
	}
	delete(h.attached, inst.Plugin)
}

func (h *host) instance() *Instance {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

func (c *core) OpenRings(_ context.Context, req *proto.OpenRingsRequest) (*proto.OpenRingsResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range req.Threads {
		end, err := ring.Create(ring.Config{Entries: int(req.RingEntries), PoolBytes: int64(req.PoolBytes), Incarnation: c.inst.ID, Thread: i})
		if err != nil {
			return nil, err
		}
		c.ends = append(c.ends, end)
		if err := ring.Send(c.inst.Descriptors, end.Descriptors()); err != nil {
			return nil, err
		}
	}
	return &proto.OpenRingsResponse{Incarnation: c.inst.ID}, nil
}

// bench is a supervisor with plugins in a directory, and what it told.
type bench struct {
	*Supervisor
	t    *testing.T
	host *host
	dir  string
	opts Options

	mu     sync.Mutex
	states map[string][]State // guarded by mu
	news   chan struct{}      // capacity 1
}

// fast is quick enough for tests and slow enough for a busy machine.
var fast = Timing{
	Start: 20 * time.Second, Stop: 5 * time.Second, Health: 20 * time.Millisecond, HealthTimeout: 4 * time.Second,
	BackoffMin: time.Millisecond, BackoffMax: 10 * time.Millisecond, HealthyAfter: time.Hour,
}

func newBench(t *testing.T, timing Timing, names ...string) *bench {
	t.Helper()
	b := &bench{t: t, host: newHost(t), dir: t.TempDir(), states: map[string][]State{}, news: make(chan struct{}, 1)}
	plugins := filepath.Join(b.dir, "plugins")
	if err := os.Mkdir(plugins, 0o700); err != nil { // plugins under their own users need no way in
		t.Fatal(err)
	}
	for _, n := range names {
		install(t, filepath.Join(plugins, n))
	}
	b.opts = Options{
		Logger:  hclog.New(&hclog.LoggerOptions{Output: &testWriter{t: t}, Level: hclog.Debug}),
		DataDir: b.dir, PluginDir: plugins, RunDir: runDirOf(t), Host: b.host, Timing: timing, OnChange: b.changed,
	}
	b.open()
	return b
}

// runDirOf is short, since a socket's path must be.
func runDirOf(t *testing.T) string {
	dir, err := os.MkdirTemp("/tmp", "mr")
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir, 0o755)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (b *bench) open() {
	b.t.Helper()
	s, err := New(b.opts)
	if err != nil {
		b.t.Fatal(err)
	}
	b.Supervisor = s
	b.t.Cleanup(func() { b.close() })
}

func (b *bench) close() {
	b.t.Helper()
	if err := b.Close(); err != nil {
		b.t.Errorf("close: %v", err)
	}
	left, _ := filepath.Glob(filepath.Join(b.opts.RunDir, "*"))
	if len(left) > 0 {
		b.t.Errorf("left after close: %v", left)
	}
}

func install(t *testing.T, path string) {
	t.Helper()
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	name, err := os.Executable()
	if err == nil && os.Link(name, path) == nil {
		return
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(f, self)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) changed(st Status) {
	b.mu.Lock()
	b.states[st.Entry.Name] = append(b.states[st.Entry.Name], st.State)
	b.mu.Unlock()
	select {
	case b.news <- struct{}{}:
	default:
	}
}

// await waits until ok is satisfied with the plugin's status.
func (b *bench) await(name, what string, ok func(Status) bool) Status {
	b.t.Helper()
	deadline := time.After(20 * time.Second)
	look := time.NewTicker(10 * time.Millisecond) // new metrics are no news
	defer look.Stop()
	for {
		st, err := b.Status(name)
		if err != nil {
			b.t.Fatal(err)
		}
		if ok(st) {
			return st
		}
		select {
		case <-b.news:
		case <-look.C:
		case <-deadline:
			b.t.Fatalf("%s: not %s: %+v", name, what, st)
		}
	}
}

func (b *bench) start(spec Spec) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	spec.PoolBytes, spec.RingEntries = 1<<20, 16
	if err := b.Start(ctx, spec); err != nil {
		b.t.Fatalf("start %s: %v", spec.Name, err)
	}
}

func listeners(addresses ...string) []*proto.Listener {
	var out []*proto.Listener
	for i, a := range addresses {
		out = append(out, &proto.Listener{Url: "test://" + a, AccessPointId: strconv.Itoa(i)})
	}
	return out
}

// tell connects to the plugin's first listener, sends it an order and returns its PID.
func (b *bench) tell(name, order string) int {
	b.t.Helper()
	st := b.await(name, "listening", func(s Status) bool { return len(s.Listeners) > 0 && s.Listeners[0].Error == "" })
	c, err := net.Dial("tcp", strings.TrimPrefix(st.Listeners[0].Url, "test://"))
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, order)
	line, _ := bufio.NewReader(c).ReadString('\n')
	pid, _ := strconv.Atoi(strings.TrimSpace(line))
	return pid
}

func config(t *testing.T, src string) hcl.Body {
	t.Helper()
	f, diags := hclsyntax.ParseConfig([]byte(src), "test.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return f.Body
}

type testWriter struct{ t *testing.T }

func (w *testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func noLeaks(t *testing.T) {
	t.Helper()
	fds := openFiles(t)
	t.Cleanup(func() {
		goleak.VerifyNone(t, goleak.IgnoreAnyFunction("os/signal.loop"))
		if now := openFiles(t); len(now) > len(fds) {
			t.Errorf("descriptors leaked: before\n%v\nafter\n%v", fds, now)
		}
	})
}

func openFiles(t *testing.T) []string {
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range files {
		if to, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil && !strings.HasPrefix(to, "/proc/") {
			out = append(out, f.Name()+"="+to)
		}
	}
	return out
}

func TestLifeOfDataPlugin(t *testing.T) {
	noLeaks(t)
	b := newBench(t, fast, "data")
	b.start(Spec{Name: "data", Threads: 2, Listeners: listeners("127.0.0.1:0")})
	st, _ := b.Status("data")
	if st.State != StateRunning || !st.Healthy || st.PID == 0 || st.Incarnation == 0 || st.Description.Version != "1.2.3" {
		t.Errorf("status %+v", st)
	}
	if pid := b.tell("data", "who"); pid != st.PID {
		t.Errorf("the listener belongs to process %d, the plugin is %d", pid, st.PID)
	}
	checkIsolation(t, st)

	states, err := b.SetListeners(context.Background(), "data", listeners("127.0.0.1:0", "192.0.2.1:1"))
	if err != nil || len(states) != 2 || states[0].Error != "" || states[1].Error == "" {
		t.Errorf("set listeners: %v, %v", states, err)
	}
	lines := b.awaitLog("data", "printed to standard output")
	if !slices.ContainsFunc(lines, func(l LogLine) bool {
		return l.Level == "info" && strings.HasPrefix(l.Text, "greeter: started") && strings.Contains(l.Text, "threads=2")
	}) {
		t.Errorf("logs %+v", lines)
	}
	b.await("data", "reporting metrics", func(s Status) bool {
		return slices.ContainsFunc(s.Metrics, func(m *proto.Metric) bool { return m.Name == "answer" && m.Value == 42 })
	})
	if err := b.Stop(context.Background(), "data"); err != nil {
		t.Fatal(err)
	}
	if st, _ := b.Status("data"); st.State != StateIdle || st.PID != 0 {
		t.Errorf("after stop: %+v", st)
	}
	want := []State{StateStarting, StateRunning, StateStopping, StateIdle}
	if !slices.Equal(slices.Compact(b.states["data"]), want) { // its health may change while it runs
		t.Errorf("states %v, want %v", b.states["data"], want)
	}
	b.close()
}

func (b *bench) awaitLog(name, text string) []LogLine {
	b.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		lines, err := b.Logs(name, 0)
		if err != nil {
			b.t.Fatal(err)
		}
		if slices.ContainsFunc(lines, func(l LogLine) bool { return strings.Contains(l.Text, text) }) {
			return lines
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("no %q in the log of %s: %v", text, name, lines)
		}
	}
}

func checkIsolation(t *testing.T, st Status) {
	t.Helper()
	if n, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); n != 0 || err != nil {
		t.Errorf("the core is dumpable: %d, %v", n, err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", st.PID))
	if err != nil {
		t.Fatal(err)
	}
	status := string(b)
	if !strings.Contains(status, "NoNewPrivs:\t1") {
		t.Error("the plugin may gain privileges")
	}
	if os.Geteuid() == 0 {
		want := fmt.Sprintf("Uid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\nGid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", DefaultBaseUID+st.Entry.Slot)
		if !strings.Contains(status, want) || !strings.Contains(status, "Groups:\t \n") || !strings.Contains(status, "CapEff:\t0000000000000000") {
			t.Errorf("the plugin runs as\n%s", status)
		}
		if st.UID != DefaultBaseUID+st.Entry.Slot {
			t.Errorf("status says user %d", st.UID)
		}
	}
}

func TestKilledPluginIsBack(t *testing.T) {
	noLeaks(t)
	b := newBench(t, fast, "data", "other")
	b.start(Spec{Name: "data", Listeners: listeners("127.0.0.1:0")})
	b.start(Spec{Name: "other"})
	other, _ := b.Status("other")
	for n := range 2 {
		st, _ := b.Status("data")
		if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed := time.Now()
		now := b.await("data", "back", func(s Status) bool { return s.State == StateRunning && s.Incarnation > st.Incarnation })
		t.Logf("back after %v", time.Since(killed))
		if now.Restarts != uint64(n+1) || !strings.Contains(now.Reason, "SIGKILL") {
			t.Errorf("status %+v", now)
		}
		if pid := b.tell("data", "who"); pid != now.PID {
			t.Errorf("listener of process %d, want %d", pid, now.PID)
		}
	}
	if st, _ := b.Status("other"); st.PID != other.PID || st.Restarts != 0 {
		t.Errorf("another plugin noticed: %+v", st)
	}
	b.close()
}

// A plugin that dies is back also when somebody has removed the directory of the sockets: it is made anew.
func TestRunDirRemoved(t *testing.T) {
	noLeaks(t)
	b := newBench(t, fast, "data")
	b.start(Spec{Name: "data", Listeners: listeners("127.0.0.1:0")})
	if err := os.RemoveAll(b.run.path); err != nil {
		t.Fatal(err)
	}
	st, _ := b.Status("data")
	if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	now := b.await("data", "back", func(s Status) bool { return s.State == StateRunning && s.Incarnation > st.Incarnation })
	if pid := b.tell("data", "who"); pid != now.PID {
		t.Errorf("listener of process %d, want %d", pid, now.PID)
	}
	b.close() // looks for what is left
}

// Every way to go wrong once running ends in a new life that serves.
func TestTroubleEndsInNewLife(t *testing.T) {
	for _, c := range []struct {
		order, reason string
	}{
		{order: "panic", reason: "panic: as ordered"},
		{order: "fatal", reason: "exited with status 1"},
		{order: "hangup", reason: ""},
		{order: "stuck", reason: "hung: no health report"},
	} {
		t.Run(c.order, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, fast, "data")
			b.start(Spec{Name: "data", Listeners: listeners("127.0.0.1:0")})
			before, _ := b.Status("data")
			b.tell("data", c.order)
			st := b.await("data", "back", func(s Status) bool { return s.State == StateRunning && s.Incarnation > before.Incarnation })
			if !strings.Contains(st.Reason, c.reason) {
				t.Errorf("reason %q, want %q", st.Reason, c.reason)
			}
		})
	}
}

func TestStoppedProcessIsTakenForHung(t *testing.T) {
	b := newBench(t, fast, "data")
	b.start(Spec{Name: "data"})
	before, _ := b.Status("data")
	if err := syscall.Kill(before.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	st := b.await("data", "back", func(s Status) bool { return s.State == StateRunning && s.PID != before.PID })
	if !strings.Contains(st.Reason, "hung") {
		t.Errorf("reason %q", st.Reason)
	}
}

func TestHostFailsInstance(t *testing.T) {
	b := newBench(t, fast, "data")
	b.start(Spec{Name: "data"})
	before, _ := b.Status("data")
	b.host.instance().Fail(errors.New("garbage in its ring"))
	b.host.instance().Fail(errors.New("again"))
	st := b.await("data", "back", func(s Status) bool { return s.State == StateRunning && s.PID != before.PID })
	if st.Reason != "garbage in its ring" {
		t.Errorf("reason %q", st.Reason)
	}
}

func TestHealthIsStreamed(t *testing.T) {
	b := newBench(t, fast, "data")
	b.start(Spec{Name: "data", Listeners: listeners("127.0.0.1:0")})
	b.tell("data", "sick")
	st := b.await("data", "sick", func(s Status) bool { return !s.Healthy })
	if st.HealthReason != "caught a cold" || st.State != StateRunning {
		t.Errorf("status %+v", st)
	}
}

func TestPluginsThatDoNotComeUp(t *testing.T) {
	noLeaks(t)
	timing := fast
	timing.BackoffMin, timing.BackoffMax = time.Hour, time.Hour
	patient := newBench(t, timing, "exits", "babbles", "elsewhere", "misnamed", "data")
	timing.Start = 1500 * time.Millisecond // what the silent ones cost
	hurried := newBench(t, timing, "silent")
	timing.Start = 4 * time.Second // so long it may take until it hangs
	slower := newBench(t, timing, "data")
	for _, c := range []struct {
		b                *bench
		name, mode, want string
	}{
		{patient, "exits", "", "exited with status 3"},
		{patient, "babbles", "", "hello, I am no plugin"},
		{patient, "elsewhere", "", "not in its own directory"},
		{patient, "misnamed", "", `says that it is "data"`},
		{patient, "data", "panic", "panic: at the disco"},
		{patient, "data", "refuse", "no wish to start"},
		{patient, "absent", "", "no such plugin"},
		{hurried, "silent", "", "did not come up in time"},
		{slower, "data", "hang", "deadline"},
	} {
		t.Run(c.name+c.mode, func(t *testing.T) {
			spec := Spec{Name: c.name, PoolBytes: 1 << 20, RingEntries: 16}
			if c.mode != "" {
				spec.Config = config(t, fmt.Sprintf("mode = %q", c.mode))
			}
			err := c.b.Start(context.Background(), spec)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("start: %v, want %q", err, c.want)
			}
			if c.mode == "refuse" && !errors.Is(err, sdk.ErrBusy) {
				t.Errorf("%v is not ErrBusy", err)
			}
			if err := c.b.Stop(context.Background(), c.name); err != nil {
				t.Error(err)
			}
		})
	}
	patient.close()
	hurried.close()
	slower.close()
}

func TestCrashLoopBacksOff(t *testing.T) {
	timing := Timing{BackoffMin: 100 * time.Millisecond, BackoffMax: 30 * time.Second}.withDefaults()
	var waits []time.Duration
	for deaths := range 12 {
		waits = append(waits, timing.backoff(deaths))
	}
	if waits[1] != 0 || waits[2] != 100*time.Millisecond || waits[3] != 200*time.Millisecond || waits[11] != 30*time.Second {
		t.Errorf("waits %v", waits)
	}

	b := newBench(t, fast, "exits")
	if err := b.Start(context.Background(), Spec{Name: "exits"}); err == nil {
		t.Fatal("started")
	}
	st := b.await("exits", "dead five times", func(s Status) bool { return s.Restarts >= 5 })
	if !strings.Contains(st.Reason, "exited with status 3") {
		t.Errorf("reason %q", st.Reason)
	}
}

func TestChangedFileIsRefused(t *testing.T) {
	b := newBench(t, fast, "data")
	b.start(Spec{Name: "data"})
	path := filepath.Join(b.opts.PluginDir, "data")
	replace := func(tail string) {
		content, err := os.ReadFile(path)
		if err == nil {
			err = errors.Join(os.Remove(path), os.WriteFile(path, append(content, tail...), 0o755))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	replace("x") // still runs, but is another file
	ctx := context.Background()
	err := b.Restart(ctx, "data")
	if !errors.Is(err, ErrChecksum) || !strings.Contains(err.Error(), "mooring plugin add "+path) {
		t.Fatalf("restart: %v", err)
	}
	st := b.await("data", "refused", func(s Status) bool { return s.State == StateRefused })
	if b.host.lives != 1 || st.PID != 0 {
		t.Errorf("it was run: %d lives, %+v", b.host.lives, st)
	}
	if _, err := b.Add(ctx, path); err != nil {
		t.Fatal(err)
	}
	if err := b.Restart(ctx, "data"); err != nil {
		t.Fatal(err)
	}
	b.close()

	// A core that has changed too takes the change for an upgrade.
	replace("y")
	b.open()
	b.catalog.core = "another core"
	b.start(Spec{Name: "data"})
	b.close()

	// A file that everybody can write is never run.
	if err := os.Chmod(path, 0o757); err != nil {
		t.Fatal(err)
	}
	b.open()
	if err := b.Start(ctx, Spec{Name: "data"}); err == nil || !strings.Contains(err.Error(), "written by everybody") {
		t.Errorf("start: %v", err)
	}
}

func TestCatalog(t *testing.T) {
	noLeaks(t)
	b := newBench(t, fast, "data", "policy")
	ctx := context.Background()
	if name, err := b.ForScheme(ctx, "test-data"); name != "data" || err != nil {
		t.Errorf("for scheme: %q, %v", name, err)
	}
	if _, err := b.ForScheme(ctx, "test-none"); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "test-data") {
		t.Errorf("for scheme: %v", err)
	}
	added := filepath.Join(t.TempDir(), "other")
	install(t, added)
	if _, err := b.Add(ctx, added); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Add(ctx, "/etc/passwd"); err == nil {
		t.Error("added what is no program")
	}
	if err := b.Remove(ctx, "policy"); err != nil {
		t.Fatal(err)
	}
	b.close()

	b.open()
	var names []string
	slots := map[int]bool{}
	for _, st := range b.List() {
		names = append(names, st.Entry.Name)
		slots[st.Entry.Slot] = true
	}
	if !slices.Equal(names, []string{"data", "other"}) || len(slots) != 2 {
		t.Errorf("after reopening: %v, slots %v", names, slots)
	}
	if st, err := b.Status("data"); err != nil || st.Description.GetVersion() != "1.2.3" {
		t.Errorf("the description is forgotten: %v, %v", st, err)
	}
	b.close()

	if err := os.WriteFile(filepath.Join(b.dir, CatalogFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(b.opts); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("damaged catalog: %v", err)
	}
}

func TestConfiguration(t *testing.T) {
	b := newBench(t, fast, "data")
	ctx := context.Background()
	bad := config(t, "patience = \"5s\"\nmode = \"wrong\"\n")
	err := b.Start(ctx, Spec{Name: "data", Config: bad})
	var ce *ConfigError
	if !errors.As(err, &ce) || len(ce.Diagnostics) != 1 || ce.Diagnostics[0].Subject.Start.Line != 2 {
		t.Fatalf("start: %v", err)
	}
	b.await("data", "refused", func(s Status) bool { return s.State == StateRefused })
	if err := b.Stop(ctx, "data"); err != nil {
		t.Fatal(err)
	}
	b.start(Spec{Name: "data"})
	if changed, _, err := b.Reconfigure(ctx, "data", bad, hcl.Range{}); changed || !errors.As(err, &ce) {
		t.Errorf("reconfigure: changed %v, %v", changed, err)
	}
	for _, c := range []struct {
		block          string
		changed, later bool
	}{
		{`patience = "5s"`, true, false},
		{`patience = "5s"`, false, false},
		{`mode = "later"`, true, true},
		{`mode = "later"`, false, true},
	} {
		changed, later, err := b.Reconfigure(ctx, "data", config(t, c.block), hcl.Range{})
		if st, _ := b.Status("data"); err != nil || changed != c.changed || later != c.later || st.RestartRequired != c.later || st.State != StateRunning {
			t.Errorf("reconfigure with %s: changed %v, restart %v, %v, %+v", c.block, changed, later, err, st)
		}
	}
	if err := b.Restart(ctx, "data"); err != nil {
		t.Fatal(err)
	}
	if st, _ := b.Status("data"); st.RestartRequired {
		t.Error("a restart is still required")
	}
}

func TestPluginThatHangsInStop(t *testing.T) {
	noLeaks(t)
	timing := fast
	timing.Stop = 500 * time.Millisecond
	b := newBench(t, timing, "data")
	b.start(Spec{Name: "data", Config: config(t, `mode = "hang-stop"`)})
	b.close()
}

func TestNothingOutlivesPlugin(t *testing.T) {
	noLeaks(t)
	b := newBench(t, fast, "data")
	b.start(Spec{Name: "data", Config: config(t, `mode = "orphan"`)})
	st, _ := b.Status("data")
	if n := groupSize(t, st.PID); n != 2 {
		t.Fatalf("%d processes in the plugin's group, want it and its child", n)
	}
	syscall.Kill(st.PID, syscall.SIGKILL)
	b.await("data", "back", func(s Status) bool { return s.State == StateRunning && s.PID != st.PID })
	if n := groupSize(t, st.PID); n != 0 {
		t.Errorf("%d processes of the dead plugin's group are left", n)
	}
	b.close()
}

func groupSize(t *testing.T, pgid int) int {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, s := range stats {
		b, _ := os.ReadFile(s)
		_, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); len(f) > 2 && f[2] == strconv.Itoa(pgid) && f[0] != "Z" {
			n++
		}
	}
	return n
}

func TestPolicyPlugin(t *testing.T) {
	noLeaks(t)
	b := newBench(t, fast, "policy")
	b.start(Spec{Name: "policy"})
	p, err := b.Policy("policy")
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	resp, err := p.Place(ctx, &policy.Request{
		Hosts: []*policy.Host{{}}, Namespaces: []*policy.Namespace{{Key: "ns"}}, AccessPoints: []*policy.AccessPoint{{Id: "ap"}},
	})
	if err != nil || resp.Placements[0].Optimized != "ap" {
		t.Errorf("place: %v, %v", resp, err)
	}
	if _, err := p.Place(ctx, &policy.Request{}); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("place: %v", err)
	}
	b.close()
	if _, err := p.Place(ctx, &policy.Request{}); !errors.Is(err, sdk.ErrNotReady) {
		t.Errorf("place after close: %v", err)
	}
}

// When the core is killed, nothing is left of its plugins, and the next core removes
// their sockets.
func TestKilledCore(t *testing.T) {
	if os.Getenv("MOORING_TEST_CORE") != "" {
		b := newBench(t, fast, "data")
		b.start(Spec{Name: "data", Listeners: listeners("127.0.0.1:0")})
		st, _ := b.Status("data")
		fmt.Printf("\npid %d run %s\n", st.PID, b.opts.RunDir)
		select {}
	}
	core := exec.Command("/proc/self/exe", "-test.run=^TestKilledCore$")
	core.Env = append(os.Environ(), "MOORING_TEST_CORE=1")
	core.Stderr = os.Stderr
	out, err := core.StdoutPipe()
	if err == nil {
		err = core.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	var run string
	for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
		fmt.Sscanf(lines.Text(), "pid %d run %s", &pid, &run)
	}
	if pid == 0 {
		t.Fatal("the core did not come up")
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	core.Process.Kill()
	core.Wait()
	poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, 10_000); n != 1 {
		t.Fatalf("the plugin outlives its core: %v", err)
	}
	left, _ := filepath.Glob(filepath.Join(run, runPrefix+"*"))
	if len(left) != 1 {
		t.Fatalf("expected the dead core's directory: %v", left)
	}
	d, err := openRunDir(run, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the dead core's directory is still there: %v", err)
	}
	// A live core's directory stays.
	d2, err := openRunDir(run, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.path); err != nil {
		t.Errorf("a live core's directory is gone: %v", err)
	}
	if err := errors.Join(d.close(), d2.close()); err != nil {
		t.Error(err)
	}
}
