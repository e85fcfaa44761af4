package node

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost"
)

// terminate is SIGTERM where the agent cannot end well, and returns what it said.
func (a *agent) terminate() string {
	a.t.Helper()
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		a.t.Fatal(err)
	}
	select {
	case <-a.ended:
	case <-time.After(time.Minute): // TimeoutStopSec of the unit: it would be killed
		a.t.Errorf("the agent does not end\n%s", a.log.String())
		a.kill()
	}
	if a.err == nil {
		a.t.Error("the agent says that it ended well")
	}
	a.err = nil
	return a.log.String()
}

// A store whose folder vanishes takes neither the agent's end nor its next start with it. What lay on it is said to be unavailable, and
// never read as zeros; the rest is served.
func TestStoreFolderGone(t *testing.T) {
	dir := t.TempDir()
	x := filepath.Join(dir, "x")
	args := []string{"-dev", "-data-dir", filepath.Join(dir, "data")}
	a := start(t, 1, args...)
	c := a.connect(0, nvmehost.Options{Queues: 1})
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, a.log.String())
		}
	}
	ok(a.io(c, true, 1, 'm'))
	a.mustCLI("store", "add", "x", x)
	for _, other := range []string{dir, filepath.Join(dir, "data"), filepath.Join(x, "y"), filepath.Join(dir, "data", "stores")} {
		if out, err := a.cli("store", "add", "z", other); err == nil || !strings.Contains(out, "a folder of its own") {
			t.Errorf("a store at %s: %v\n%s", other, err, out)
		}
	}
	a.mustCLI("volume", "resize", "dev", "16GiB")
	on := 0 // MiB whose extent is on x
	for !a.holds("x") {
		on += 256
		ok(a.io(c, true, on, 'x'))
	}
	if err := os.RemoveAll(x); err != nil {
		t.Fatal(err)
	}
	found := func(what, text string, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(text, w) {
				t.Errorf("%s does not say %q:\n%s", what, w, text)
			}
		}
	}
	doctor := func(words ...string) {
		t.Helper()
		out, err := a.cli("doctor")
		if err == nil {
			t.Error("doctor finds nothing")
		}
		found("doctor", out, words...)
	}
	doctor("store x is gone")
	ok(a.io(c, false, 1, 'm'))
	found("the log", a.terminate(), "store x was abandoned", x)

	a = start(t, 1, args...)
	c = a.connect(0, nvmehost.Options{Queues: 1})
	ok(a.io(c, false, 1, 'm'))
	var status nvme.Status
	if err := a.io(c, false, on, 'x'); !errors.As(err, &status) || !status.IsPath() || status.DNR() {
		t.Errorf("what lay on the store is read with %v", err)
	}
	if _, err := os.Stat(x); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the store was made anew where its folder had been: %v", err)
	}
	doctor("store x at "+x, "no such file")
	found("store list", a.mustCLI("store", "list"), "failed: not there", x)
	out, err := a.cli("status")
	if err == nil {
		t.Error("status says that all is well")
	}
	found("status", out, "failed: not there")
	if out, err := a.cli("store", "remove", "x"); err == nil {
		t.Errorf("a store is removed though volumes need it:\n%s", out)
	}
}

// With all stores draining a first write is held, doctor says why, and undoing the drain lets it go on.
func TestUndrain(t *testing.T) {
	a := start(t, 1, "-dev", "-data-dir", t.TempDir())
	c := a.connect(0, nvmehost.Options{Queues: 1})
	if err := a.io(c, true, 1, 'a'); err != nil {
		t.Fatal(err)
	}
	a.mustCLI("store", "drain", "main")
	written := make(chan error, 1)
	go func() { written <- a.io(c, true, 257, 'b') }()
	for {
		out, err := a.cli("doctor")
		if err != nil && strings.Contains(out, "no store is active") && strings.Contains(out, "undrain") {
			break
		}
		select {
		case err := <-written:
			t.Fatalf("the write ended with %v; doctor says\n%s", err, out)
		default:
		}
	}
	a.mustCLI("store", "undrain", "main")
	if err := <-written; err != nil {
		t.Errorf("the held write: %v\n%s", err, a.log.String())
	}
	if out := a.mustCLI("store", "list"); !strings.Contains(out, "active") {
		t.Errorf("the stores are\n%s", out)
	}
	if out, err := a.cli("store", "undrain", "none"); err == nil {
		t.Errorf("a store that does not exist is undrained: %s", out)
	}
	if err := a.io(c, false, 1, 'a'); err != nil {
		t.Error(err)
	}
}

// holds tells whether a store has extents.
func (a *agent) holds(store string) bool {
	a.t.Helper()
	type entry struct {
		Name    string
		Extents int
	}
	var all []entry
	if err := json.Unmarshal([]byte(a.mustCLI("store", "list", "-o", "json")), &all); err != nil {
		a.t.Fatal(err)
	}
	return slices.ContainsFunc(all, func(s entry) bool { return s.Name == store && s.Extents > 0 })
}
