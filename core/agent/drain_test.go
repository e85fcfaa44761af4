package agent

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/ring"
)

// testHost writes and reads blocks of a volume through rings, as a data plugin does.
type testHost struct {
	t      *testing.T
	thread *block.Thread
	handle block.Handle
}

func newTestHost(t *testing.T, a *agent, volume string) (*testHost, func()) {
	t.Helper()
	ctx := context.Background()
	v, err := a.meta.FindVolume(ctx, "", volume)
	if err != nil {
		t.Fatal(err)
	}
	vol, err := a.access.Open(ctx, access.Geometry{ID: v.ID, Name: v.Name, Size: v.Bytes, BlockSize: v.BlockBytes})
	if err != nil {
		t.Fatal(err)
	}
	client, err := a.access.NewClient(ctx, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	var end *ring.PluginEnd
	_, err = client.OpenRings(ctx, access.Rings{Threads: 1, Entries: 64, PoolBytes: 1 << 20}, func(d ring.Descriptors) error {
		d, err := d.Dup()
		if err == nil {
			end, err = ring.Attach(d)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	h, err := client.Grant(ctx, vol, access.Host{Protocol: meta.NVMe, Name: "host"}, access.Path{Epoch: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	th, err := block.NewThread(block.Config{End: end})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = th.Run(ctx) })
	return &testHost{t, th, block.Handle(h)}, func() {
		th.Stop()
		wg.Wait()
		if err := th.Close(); err != nil {
			t.Error(err)
		}
		if err := client.Close(ctx); err != nil {
			t.Error(err)
		}
	}
}

// do carries one command on a block out and returns what the block holds.
func (h *testHost) do(op block.Op, offset uint64, data []byte) []byte {
	h.t.Helper()
	out := h.try(op, offset, data)
	if out == nil {
		h.t.Fatalf("%v at %d failed", op, offset)
	}
	return out
}

// try is do; nil says that the command failed.
func (h *testHost) try(op block.Op, offset uint64, data []byte) []byte {
	h.t.Helper()
	done := make(chan []byte, 1)
	h.thread.Post(func() {
		buf, _ := h.thread.Pool().Alloc(4096)
		copy(buf.Bytes(), data)
		h.thread.Submit(&block.Request{Op: op, Volume: h.handle, Offset: offset, Length: 4096, Buf: buf, Done: func(r *block.Request) {
			out := bytes.Clone(buf.Bytes())
			if r.Status != block.StatusOK {
				out = nil
			}
			h.thread.Pool().Free(buf)
			done <- out
		}})
	})
	select {
	case out := <-done:
		return out
	case <-time.After(time.Minute):
		h.t.Fatalf("%v at %d does not end", op, offset)
		return nil
	}
}

// runAgent runs an agent in this process.
func runAgent(t *testing.T, cfg *config.Config) (*agent, *admin.Client, func()) {
	t.Helper()
	out, in := io.Pipe()
	a, err := newAgent(Options{Config: cfg, Stdout: in, Stderr: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.run(ctx); in.Close() }()
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "mooring: ready" {
	}
	return a, admin.NewClient(cfg.Admin.Socket), func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A store that does not come up after the metadata was restored may have what they do not know: that is not read as zeros.
func TestRestoreWithoutAStore(t *testing.T) {
	dir := t.TempDir()
	src := fmt.Sprintf("data_dir = %q\nplugin_dir = %q\nadmin {\n  metrics = \"off\"\n}\nstore \"one\" {\n  path = %q\n  capacity = \"1GiB\"\n}\n%s",
		filepath.Join(dir, "data"), dir, filepath.Join(dir, "one"), volumeBlock("1GiB"))
	cfg, err := config.Parse([]byte(src), filepath.Join(dir, "node.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	a, api, stop := runAgent(t, cfg)
	var b bytes.Buffer
	_, err = api.Download(t.Context(), "/v1/meta/backup", &b)
	must(err)
	host, leave := newTestHost(t, a, "v")
	host.do(block.OpWrite, 0, bytes.Repeat([]byte{7}, 4096))
	leave()
	stop()
	backup := filepath.Join(dir, "backup")
	must(os.WriteFile(backup, b.Bytes(), 0o600))
	must(os.Rename(metaDir(cfg), metaDir(cfg)+".old"))
	must(RestoreMeta(t.Context(), cfg, backup))
	must(os.Rename(filepath.Join(dir, "one"), filepath.Join(dir, "away")))

	a, _, stop = runAgent(t, cfg)
	host, leave = newTestHost(t, a, "v")
	if got := host.try(block.OpRead, 0, nil); got != nil {
		t.Errorf("read %d… where the store is away", got[0])
	}
	leave()
	stop()
	must(os.Rename(filepath.Join(dir, "away"), filepath.Join(dir, "one")))
	a, _, stop = runAgent(t, cfg)
	host, leave = newTestHost(t, a, "v")
	if got := host.try(block.OpRead, 0, nil); got != nil {
		t.Errorf("read %d… where the metadata are older", got[0])
	}
	host.do(block.OpWrite, 512<<20, bytes.Repeat([]byte{7}, 4096))
	leave()
	stop()
}

// A store is emptied while hosts write, over a restart, and can then be removed.
func TestDrainStore(t *testing.T) {
	dir := t.TempDir()
	src := fmt.Sprintf("data_dir = %q\nplugin_dir = %q\nadmin {\n  metrics = \"off\"\n}\nstore \"one\" {\n  capacity = \"1GiB\"\n}\n%s",
		filepath.Join(dir, "data"), dir, volumeBlock("1GiB"))
	cfg, err := config.Parse([]byte(src), filepath.Join(dir, "node.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	start := func() (*agent, *admin.Client, func()) { return runAgent(t, cfg) }
	ctx := context.Background()
	a, api, stop := start()
	call := func(method, path string, in, out any) error { return api.Do(ctx, method, path, in, out) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(call("POST", "/v1/stores", admin.StoreAdd{Name: "two", Path: filepath.Join(dir, "two"), Capacity: 1 << 30}, nil))
	host, leave := newTestHost(t, a, "v")
	want := map[uint64]byte{}
	write := func(n int) {
		for range n {
			k := uint64(len(want))
			offset := k%4*(256<<20) + k*12288
			want[offset] = byte(1 + k%250)
			host.do(block.OpWrite, offset, bytes.Repeat([]byte{want[offset]}, 4096))
		}
	}
	write(40)
	store := func(name string) admin.Store {
		t.Helper()
		var all []admin.Store
		must(call("GET", "/v1/stores", nil, &all))
		for _, s := range all {
			if s.Name == name {
				return s
			}
		}
		t.Fatalf("no store %s", name)
		return admin.Store{}
	}
	// until writes as long as something is not yet so.
	until := func(what string, so func() bool) {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Minute); !so(); write(1) {
			if time.Now().After(deadline) {
				t.Fatalf("in vain: %s; %+v, %+v", what, store("one"), store("two"))
			}
		}
	}
	empty := func(name string) func() bool {
		return func() bool { s := store(name); return s.Extents == 0 && s.Drain != nil && s.Drain.Left == 0 }
	}
	// Everything to store two, then a third one in place of that.
	must(call("POST", "/v1/stores/one/drain", nil, nil))
	until("store one is empty", empty("one"))
	must(call("POST", "/v1/stores/two/drain", nil, nil))
	until("it is said why store two is not emptied", func() bool { d := store("two").Drain; return d != nil && d.Reason != "" })
	if err := call("DELETE", "/v1/stores/two", nil, nil); err == nil {
		t.Fatal("a store with extents was removed")
	}
	must(call("POST", "/v1/stores/two/undrain", nil, nil))
	until("store two is active", func() bool { s := store("two"); return s.State == "active" && s.Drain == nil })
	must(call("POST", "/v1/stores/two/drain", nil, nil))
	leave()
	stop()
	a, api, stop = start() // goes on with it
	defer func() { stop() }()
	must(call("POST", "/v1/stores", admin.StoreAdd{Name: "three", Path: filepath.Join(dir, "three"), Capacity: 1 << 30}, nil))
	host, leave = newTestHost(t, a, "v")
	defer func() { leave() }()
	until("store two is empty", empty("two"))
	must(call("DELETE", "/v1/stores/two", nil, nil))
	if s := store("three"); s.Extents != 4 {
		t.Errorf("store three has %d extents", s.Extents)
	}
	for offset, b := range want {
		if got := host.do(block.OpRead, offset, nil); !bytes.Equal(got, bytes.Repeat([]byte{b}, 4096)) {
			t.Fatalf("at %d: %d…, want %d", offset, got[0], b)
		}
	}
}
