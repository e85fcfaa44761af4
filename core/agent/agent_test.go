package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/meta/store"
)

// node is an agent without plugins, in this process.
type node struct {
	*testing.T
	dir    string
	ctx    context.Context
	client *admin.Client
	stop   func() error
}

// startNode runs an agent on dir until stop is called, at the latest when the test ends.
func startNode(t *testing.T, dir, objects string) *node {
	t.Helper()
	file := filepath.Join(dir, "node.hcl")
	src := fmt.Sprintf("data_dir = %q\nplugin_dir = %q\nadmin {\n  metrics = \"off\"\n}\nstore \"main\" {\n  capacity = \"512MiB\"\n}\n%s", filepath.Join(dir, "data"), dir, objects)
	if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Options{Config: cfg, Version: "test", Stdout: out, Stderr: io.Discard})
		out.Close()
	}()
	var seen bytes.Buffer
	for b := make([]byte, 1024); !strings.Contains(seen.String(), "mooring: ready"); {
		n, err := ready.Read(b)
		seen.Write(b[:n])
		if err != nil {
			t.Fatalf("the agent ended: %v\n%s", <-done, seen.String())
		}
	}
	go func() { _, _ = io.Copy(io.Discard, ready) }() // ends with the agent
	n := &node{T: t, dir: dir, ctx: context.Background(), client: admin.NewClient(cfg.Admin.Socket)}
	n.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() {
		if err := n.stop(); err != nil {
			t.Errorf("the agent ended with %v", err)
		}
	})
	return n
}

// do expects the call to work, or to be refused with a kind and a text.
func (n *node) do(method, path string, in, out any, refused ...string) {
	n.Helper()
	err := n.client.Do(n.ctx, method, path, in, out)
	if len(refused) == 0 {
		if err != nil {
			n.Fatalf("%s %s: %v", method, path, err)
		}
		return
	}
	var p *admin.Error
	if !errors.As(err, &p) || p.Kind != refused[0] {
		n.Fatalf("%s %s: %v, want a refusal of kind %s", method, path, err, refused[0])
	}
	for _, text := range refused[1:] {
		if !strings.Contains(p.Error(), text) {
			n.Errorf("%s %s: %q does not say %q", method, path, p.Error(), text)
		}
	}
}

// TestNotify: systemd (Type=notify) is told that the node is ready when it is, and that it stops.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	told := func(want string) {
		t.Helper()
		if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1024)
		n, err := c.Read(b)
		if got := strings.TrimSpace(string(b[:n])); err != nil || got != want {
			t.Fatalf("systemd was told %q, %v; want %q", got, err, want)
		}
	}
	n := startNode(t, t.TempDir(), "")
	told("READY=1")
	if err := n.stop(); err != nil {
		t.Error(err)
	}
	told("STOPPING=1")
}

// SIGHUP asks for a reload at any moment: one that comes while the node starts waits until it has.
func TestReloadWhileStarting(t *testing.T) {
	dir := t.TempDir()
	var sent sync.WaitGroup
	sent.Go(func() {
		for { // the lock is the first that the agent makes
			if _, err := os.Stat(filepath.Join(dir, "data", "lock")); err == nil {
				break
			}
			runtime.Gosched()
		}
		f, err := os.OpenFile(filepath.Join(dir, "node.hcl"), os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString("volume \"late\" {\n  size = \"1MiB\"\n}\n")
			err = errors.Join(err, f.Close(), syscall.Kill(os.Getpid(), syscall.SIGHUP))
		}
		if err != nil {
			t.Error(err)
		}
	})
	n := startNode(t, dir, "")
	sent.Wait()
	for end := time.Now().Add(time.Minute); ; runtime.Gosched() {
		var v admin.Volume
		if err := n.client.Do(n.ctx, "GET", "/v1/volumes/late", nil, &v); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// What never ends does not keep the process: its end says what was left.
func TestEndIsBounded(t *testing.T) {
	a := &agent{ending: []*openStore{{name: "slow", path: "/mnt/slow"}}}
	forever := make(chan struct{})
	defer close(forever)
	err := a.end(stack{func() error { <-forever; return nil }}, time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "store slow at /mnt/slow") {
		t.Errorf("ended with %v", err)
	}
	if err := a.end(stack{func() error { return io.ErrClosedPipe }}, time.Minute); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("ended with %v", err)
	}
}

const testNQN = "nqn.2026-11.io.mooring:test"

func TestObjectsOverTheAPI(t *testing.T) {
	n := startNode(t, t.TempDir(), "")
	sub := "/v1/subsystems/" + url.PathEscape(testNQN)
	n.do("POST", "/v1/volumes", admin.VolumeCreate{Name: "a", Size: 1 << 30}, nil)
	n.do("POST", "/v1/volumes", admin.VolumeCreate{Name: "a", Size: 1 << 31}, nil, admin.KindExists)
	n.do("POST", "/v1/volumes", admin.VolumeCreate{Name: "b", Size: 1000}, nil, admin.KindInvalid, "size")
	n.do("POST", "/v1/volumes", map[string]any{"nmae": "b"}, nil, admin.KindInvalid, "nmae")
	n.do("POST", "/v1/subsystems", admin.SubsystemCreate{NQN: testNQN}, nil)
	n.do("POST", sub+"/namespaces", admin.NamespaceAttach{Volume: "none"}, nil, admin.KindNotFound)
	var ns admin.Namespace
	n.do("POST", sub+"/namespaces", admin.NamespaceAttach{Volume: "a"}, &ns)
	if ns.NSID != 1 || ns.ANAGroup != 1 || ns.Size != 1<<30 {
		t.Errorf("attached as %+v", ns)
	}
	n.do("DELETE", "/v1/volumes/a", nil, nil, admin.KindInUse, testNQN, "namespace 1")
	n.do("DELETE", sub, nil, nil, admin.KindInUse, "namespace 1")
	n.do("POST", "/v1/hosts/allow", admin.HostRule{Subsystem: testNQN, Host: "nobody"}, nil, admin.KindNotFound)
	n.do("POST", "/v1/hosts/allow", admin.HostRule{Subsystem: testNQN, Host: "nqn.2026-11.com.example:h"}, nil)

	var v admin.Volume
	n.do("PATCH", "/v1/volumes/a", admin.VolumeSet{Size: 2 << 30}, &v)
	n.do("PATCH", "/v1/volumes/a", admin.VolumeSet{Size: 1 << 29}, nil, admin.KindInvalid, "-force")
	n.do("DELETE", sub+"/namespaces/1", nil, nil)
	n.do("PATCH", "/v1/volumes/a", admin.VolumeSet{Size: 1 << 29, Force: true}, &v)
	if v.Size != 1<<29 || v.State != "online" {
		t.Errorf("after shrinking: %+v", v)
	}
	n.do("DELETE", sub, nil, nil)
	n.do("DELETE", "/v1/volumes/a", nil, nil)
	n.do("GET", "/v1/volumes/a", nil, nil, admin.KindNotFound)

	var stores []admin.Store
	n.do("GET", "/v1/stores", nil, &stores)
	if len(stores) != 1 || stores[0].State != "active" || stores[0].Capacity > 512<<20 {
		t.Errorf("stores %+v", stores)
	}
	n.do("DELETE", "/v1/stores/main", nil, nil, admin.KindManaged, "node.hcl")
	var st admin.Status
	n.do("GET", "/v1/status", nil, &st)
	if st.Version != "test" || st.Meta.Left <= 0 {
		t.Errorf("status %+v", st)
	}
	var kinds []string
	for deadline := time.Now().Add(10 * time.Second); !slices.Contains(kinds, "volume-deleted"); time.Sleep(10 * time.Millisecond) { // the journal writes when it can
		if time.Now().After(deadline) {
			t.Fatalf("events %q lack the deletion", kinds)
		}
		kinds = nil
		if err := admin.Stream(n.ctx, n.client, "GET", "/v1/events", func(e admin.Event) error { kinds = append(kinds, e.Kind); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []string{
		"volume-created", "volume-resized", "subsystem-created", "subsystem-deleted", "namespace-attached", "namespace-detached", "host-allowed",
	} {
		if !slices.Contains(kinds, kind) {
			t.Errorf("events %q lack %s", kinds, kind)
		}
	}
}

// A check of a stopped node sees the stores that were added by hand.
func TestStoreDirs(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir, "")
	second := filepath.Join(dir, "second")
	n.do("POST", "/v1/stores", admin.StoreAdd{Name: "second", Path: second, Capacity: 512 << 20}, nil)
	cfg, err := config.Load(filepath.Join(dir, "node.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := StoreDirs(n.ctx, cfg); !errors.Is(err, store.ErrLocked) {
		t.Errorf("beside a running agent: %v", err)
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	dirs, err := StoreDirs(n.ctx, cfg)
	if err != nil || len(dirs) != 2 || dirs[0] != cfg.Stores[0].Path || dirs[1] != second {
		t.Errorf("found %q, %v", dirs, err)
	}
}

func TestTenantsOverTheAPI(t *testing.T) {
	n := startNode(t, t.TempDir(), "tenant \"filed\" {\n  policy = \"balance\"\n}\n")
	n.do("POST", "/v1/tenants", admin.TenantSet{Name: "acme", Policy: "balance"}, nil)
	n.do("POST", "/v1/tenants", admin.TenantSet{Name: "acme", Policy: "inherit"}, nil, admin.KindExists)
	n.do("POST", "/v1/tenants", admin.TenantSet{Name: "a/b"}, nil, admin.KindInvalid, "tenant")
	var x admin.Tenant
	n.do("PATCH", "/v1/tenants/acme", admin.TenantSet{Policy: "inherit"}, &x)
	if x != (admin.Tenant{Name: "acme", Policy: "inherit"}) {
		t.Errorf("%+v", x)
	}
	n.do("PATCH", "/v1/tenants/nobody", admin.TenantSet{Policy: "inherit"}, nil, admin.KindNotFound)
	n.do("PATCH", "/v1/tenants/filed", admin.TenantSet{Policy: "inherit"}, nil, admin.KindManaged, "node.hcl")
	n.do("POST", "/v1/volumes", admin.VolumeCreate{Name: "v", Tenant: "acme", Size: 1 << 20}, nil)
	n.do("DELETE", "/v1/tenants/acme", nil, nil, admin.KindInUse, "volume v")
	n.do("DELETE", "/v1/volumes/v?tenant=acme", nil, nil)
	n.do("DELETE", "/v1/tenants/acme", nil, nil)
	n.do("DELETE", "/v1/tenants/default", nil, nil, admin.KindInvalid)
	var all []admin.Tenant
	n.do("GET", "/v1/tenants", nil, &all)
	if len(all) != 2 || all[0].Name != "default" || all[1].Name != "filed" || all[1].Managed == "" {
		t.Errorf("%+v", all)
	}
	var paths []admin.Path
	n.do("GET", "/v1/paths", nil, &paths)
	if len(paths) != 0 {
		t.Errorf("%+v", paths)
	}
}

func volumeBlock(size string) string {
	return "volume \"v\" {\n  size = \"" + size + "\"\n}\nsubsystem \"" + testNQN + "\" {\n  allow_any_host = true\n  namespace \"1\" {\n    volume = \"v\"\n  }\n}\n"
}

// What the file sets, the API refuses to change, naming the line; a reload changes it;
// without its block the object stays. All of it outlives the agent.
func TestManagedObjects(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir, volumeBlock("1GiB"))
	n.do("PATCH", "/v1/volumes/v", admin.VolumeSet{Size: 2 << 30}, nil, admin.KindManaged, "node.hcl:9")
	n.do("POST", "/v1/volumes", admin.VolumeCreate{Name: "mine", Size: 1 << 20}, nil)

	file := filepath.Join(dir, "node.hcl")
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	reload := func(text string, refused ...string) admin.ReloadReport {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var r admin.ReloadReport
		n.do("POST", "/v1/reload", nil, &r, refused...)
		return r
	}
	reload(string(src)+"volume \"v\" {}\n", admin.KindInvalid, "line", "size")
	if r := reload(strings.Replace(string(src), "1GiB", "3GiB", 1)); len(r.Applied) != 1 || len(r.NotApplied) != 0 {
		t.Errorf("reload of a larger size: %+v", r)
	}
	var v admin.Volume
	n.do("GET", "/v1/volumes/v", nil, &v)
	if v.Size != 3<<30 || v.Managed == "" {
		t.Errorf("after the reload: %+v", v)
	}
	bare, _, _ := strings.Cut(string(src), "volume \"v\"")
	if r := reload(bare); len(r.Unmanaged) == 0 {
		t.Errorf("reload without the blocks: %+v", r)
	}
	n.do("PATCH", "/v1/volumes/v", admin.VolumeSet{Size: 4 << 30}, nil)
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}

	n = startNode(t, dir, "")
	var vs []admin.Volume
	n.do("GET", "/v1/volumes", nil, &vs)
	slices.SortFunc(vs, func(a, b admin.Volume) int { return strings.Compare(a.Name, b.Name) })
	if len(vs) != 2 || vs[0].Name != "mine" || vs[1].Size != 4<<30 || len(vs[1].Users) != 1 || vs[1].Managed != "" {
		t.Errorf("after a restart: %+v", vs)
	}
}

// A node whose Meta session is lost begins again by itself.
func TestSessionLost(t *testing.T) {
	dir := t.TempDir()
	src := fmt.Sprintf("data_dir = %q\nplugin_dir = %q\nadmin {\n  metrics = \"off\"\n}\n%s", filepath.Join(dir, "data"), dir, volumeBlock("1GiB"))
	cfg, err := config.Parse([]byte(src), filepath.Join(dir, "node.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	out, in := io.Pipe()
	a, err := newAgent(Options{Config: cfg, Stdout: in, Stderr: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.run(ctx); in.Close() }()
	lines := bufio.NewScanner(out)
	var sessions []string
	for lines.Scan() {
		if lines.Text() != "mooring: ready" {
			continue
		}
		var st admin.Status
		if err := admin.NewClient(cfg.Admin.Socket).Do(ctx, "GET", "/v1/status", nil, &st); err != nil || len(st.Volumes) != 1 {
			t.Errorf("life %d: %v, %+v", len(sessions)+1, err, st.Volumes)
		}
		if sessions = append(sessions, st.Meta.Session); len(sessions) < 3 {
			a.fail(errSessionLost) // what watchSession does
		} else {
			cancel()
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(slices.Compact(sessions)) != 3 {
		t.Errorf("sessions %q", sessions)
	}
}

func TestSecondAgentIsRefused(t *testing.T) {
	dir := t.TempDir()
	startNode(t, dir, "")
	cfg, err := config.Load(filepath.Join(dir, "node.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	err = Run(context.Background(), Options{Config: cfg, Stdout: io.Discard, Stderr: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "another agent uses") {
		t.Errorf("a second agent on the data directory: %v", err)
	}
}

// A node whose metadata is gone does not begin anew over stores that are in use: their volumes would read as zeros.
func TestMetadataLost(t *testing.T) {
	dir := t.TempDir()
	if err := startNode(t, dir, volumeBlock("1GiB")).stop(); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(filepath.Join(dir, "node.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(metaDir(cfg), "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("tables %v, %v", tables, err)
	}
	refused := func(why, want string) {
		t.Helper()
		err := Run(context.Background(), Options{Config: cfg, Stdout: io.Discard, Stderr: io.Discard})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", why, err)
		}
	}
	manifest := filepath.Join(metaDir(cfg), "MANIFEST")
	whole, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(manifest, int64(len(whole)/4)); err != nil {
		t.Fatal(err)
	}
	refused("its list of tables is cut off", "damaged")
	if err := os.Remove(manifest); err != nil {
		t.Fatal(err)
	}
	refused("its list of tables is gone", "damaged")
	for _, name := range tables {
		if _, err := os.Stat(name); err != nil {
			t.Errorf("what was left of the metadata is gone: %v", err)
		}
	}
	if err := os.RemoveAll(metaDir(cfg)); err != nil {
		t.Fatal(err)
	}
	refused("all of it is gone", "meta restore")
}

func TestBackupAndRestore(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir, volumeBlock("1GiB"))
	var b bytes.Buffer
	if _, err := n.client.Download(n.ctx, "/v1/meta/backup", &b); err != nil {
		t.Fatal(err)
	}
	n.do("POST", "/v1/volumes", admin.VolumeCreate{Name: "later", Size: 1 << 20}, nil)
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(dir, "backup")
	if err := os.WriteFile(backup, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(filepath.Join(dir, "node.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := RestoreMeta(n.ctx, cfg, backup); err == nil {
		t.Error("restored over a store that is there")
	}
	if err := os.Rename(metaDir(cfg), metaDir(cfg)+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(backup+".cut", b.Bytes()[:b.Len()-8], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := RestoreMeta(n.ctx, cfg, backup+".cut"); err == nil || metaRestored(cfg) {
		t.Errorf("half a backup: %v, marked as restored: %v", err, metaRestored(cfg))
	}
	if err := RestoreMeta(n.ctx, cfg, backup); err != nil {
		t.Fatal(err)
	}
	n = startNode(t, dir, volumeBlock("1GiB"))
	var vs []admin.Volume
	n.do("GET", "/v1/volumes", nil, &vs)
	if len(vs) != 1 || vs[0].Name != "v" {
		t.Errorf("after the restore: %+v", vs)
	}
	var fs []admin.Finding
	n.do("GET", "/v1/doctor", nil, &fs)
	if !slices.ContainsFunc(fs, func(f admin.Finding) bool { return strings.Contains(f.What, "restored from a backup") }) {
		t.Errorf("doctor does not tell of the restore: %+v", fs)
	}
}
