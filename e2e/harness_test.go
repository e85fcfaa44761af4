//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mooring-io/mooring/e2e/rig"
)

const (
	devNQN    = "nqn.2026-11.io.mooring:dev"
	kernelNQN = "nqn.2014-08.org.example:kernel-target"

	logTail = 60 // lines of each log quoted when a case fails
)

// image is shared by all cases, so that it is built once.
var image = rig.Image{
	Programs: []string{
		"nvme", "fio", "mkfs.ext4", "fsck.ext4", "blkdiscard", "blockdev", "ip", "dd", "cmp", "stat", "truncate",
		"iscsid", "iscsiadm",
	},
	Modules: []string{
		"crc32c_generic", "crc32c_intel", "ext4", "nvme_tcp", "nvmet_tcp", "configfs", "sd_mod", "iscsi_tcp",
	},
}

// guestCase is one boot.
type guestCase struct {
	script   string     // in testdata
	image    *rig.Image // nil: the image of all others
	target   string     // "mooring" or "kernel"; empty: what E2E_TARGET says
	env      map[string]string
	files    map[string]string
	disks    []rig.Disk
	onStatus func(string)
	timeout  time.Duration // 0: the rig's
}

// machine is a running guestCase.
type machine struct {
	*rig.Machine
	results string
	steps   *steps
}

// require skips the test when something that it needs is not there; with CI=true it fails.
func require(t *testing.T, missing []string) {
	t.Helper()
	if len(missing) == 0 {
		return
	}
	text := "missing: " + strings.Join(missing, ", ") + " (e2e/install-deps.sh installs packages, make build the rest)"
	if os.Getenv("CI") == "true" {
		t.Fatal(text)
	}
	t.Skip(text)
}

// targetUnderTest is the target that the cases run against.
func targetUnderTest() string {
	if target := os.Getenv("E2E_TARGET"); target != "" {
		return target
	}
	return "mooring"
}

func binaries() string {
	if dir := os.Getenv("MOORING_BIN"); dir != "" {
		return dir
	}
	return filepath.Join("..", "bin")
}

// mooringFiles maps guest paths to the built binaries.
func mooringFiles() (files map[string]string, missing []string) {
	dir := binaries()
	files = map[string]string{"/opt/bin/mooring": filepath.Join(dir, "mooring")}
	if _, err := os.Stat(files["/opt/bin/mooring"]); err != nil {
		missing = append(missing, files["/opt/bin/mooring"])
	}
	plugins, _ := filepath.Glob(filepath.Join(dir, "plugins", "*")) // the pattern is well-formed
	if len(plugins) == 0 {
		missing = append(missing, filepath.Join(dir, "plugins", "*"))
	}
	for _, plugin := range plugins {
		if filepath.Base(plugin) == "transport-rdma" {
			continue // it needs libraries that only its own case carries
		}
		files["/opt/bin/plugins/"+filepath.Base(plugin)] = plugin
	}
	return files, missing
}

// boot starts a case's machine. The machine's end is waited for at the latest when the test ends.
func boot(t *testing.T, c guestCase) *machine {
	t.Helper()
	if c.target == "" {
		c.target = targetUnderTest()
	}
	if c.image == nil {
		c.image = &image
	}
	missing := rig.Missing(*c.image)
	files := map[string]string{
		"/rig/lib.sh":                     filepath.Join("testdata", "lib.sh"),
		"/rig/target-" + c.target + ".sh": filepath.Join("testdata", "target-"+c.target+".sh"),
	}
	env := map[string]string{"TARGET": c.target, "NQN": kernelNQN}
	if c.target == "mooring" {
		env["NQN"] = devNQN
		built, lacking := mooringFiles()
		missing = append(missing, lacking...)
		for guest, host := range built {
			files[guest] = host
		}
	}
	require(t, missing)
	for guest, host := range c.files {
		files[guest] = host
	}
	for name, value := range c.env {
		env[name] = value
	}

	m := &machine{results: resultsDir(t, c.script), steps: newSteps(t)}
	var err error
	m.Machine, err = rig.Start(t.Context(), rig.Config{
		Image:   *c.image,
		Script:  filepath.Join("testdata", c.script),
		Files:   files,
		Env:     env,
		Results: m.results,
		Disks:   c.disks,
		Console: &logWriter{t},
		Timeout: c.timeout,
		OnStatus: func(line string) {
			if !m.steps.line(line) && c.onStatus != nil {
				c.onStatus(line)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.CutPower) // does nothing to a machine that has ended
	return m
}

// run boots a case and waits for its good end.
func run(t *testing.T, c guestCase) *machine {
	t.Helper()
	m := boot(t, c)
	m.mustEnd(t)
	return m
}

// mustEnd waits for the good end of the case; a bad one is shown with the logs that the guest left.
func (m *machine) mustEnd(t *testing.T) {
	t.Helper()
	err := m.Wait()
	m.steps.end()
	if err == nil {
		return
	}
	for _, name := range []string{"agent.log", "dmesg"} {
		if text, readErr := os.ReadFile(filepath.Join(m.results, name)); readErr == nil {
			_, late, booted := strings.Cut(string(text), "Run /init as init process")
			if !booted {
				late = string(text)
			}
			t.Logf("%s ends with:\n%s", name, tail(late, logTail))
		}
	}
	t.Fatalf("%s: %v", m.steps, err)
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func resultsDir(t *testing.T, script string) string {
	t.Helper()
	keep := os.Getenv("E2E_KEEP")
	if keep == "" {
		return t.TempDir()
	}
	dir, err := filepath.Abs(filepath.Join(keep, fmt.Sprintf("%s-%s-%d", t.Name(), script, time.Now().UnixMilli())))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// decode reads a JSON file that the guest left.
func (m *machine) decode(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(m.results, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, tail(string(text), logTail))
	}
}

// steps follows which step of its script a guest is at. Its methods may be called from any goroutine.
type steps struct {
	t *testing.T

	mu      sync.Mutex
	name    string
	since   time.Time
	failure string
}

func newSteps(t *testing.T) *steps {
	return &steps{t: t, name: "boot", since: time.Now()}
}

// line takes a status line and reports whether it was about steps.
func (s *steps) line(line string) bool {
	word, rest, _ := strings.Cut(line, " ")
	s.mu.Lock()
	defer s.mu.Unlock()
	switch word {
	case "step":
		s.next(rest)
	case "rig:": // "rig: up"
		s.next("prepare")
	case "fail":
		s.failure = rest
	default:
		return false
	}
	return true
}

func (s *steps) next(name string) {
	s.t.Logf("%6.1f s  %s", time.Since(s.since).Seconds(), s.name)
	s.name, s.since = name, time.Now()
}

func (s *steps) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next(s.name)
}

func (s *steps) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure != "" {
		return fmt.Sprintf("step %q: %s", s.name, s.failure)
	}
	return fmt.Sprintf("step %q", s.name)
}

// logWriter shows the console in the test's log.
type logWriter struct{ t *testing.T }

func (w *logWriter) Write(line []byte) (int, error) {
	w.t.Logf("guest: %s", strings.TrimRight(string(line), "\n"))
	return len(line), nil
}

// newDisk makes an empty disk of the given size in bytes.
func newDisk(t *testing.T, size int64, forgetful bool) rig.Disk {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return rig.Disk{Path: path, Forgetful: forgetful}
}

// goBuild builds a package of this module without cgo and returns the binary's path.
func goBuild(t *testing.T, pkg string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), filepath.Base(pkg))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	return binary
}

// cutWhen cuts the power once ready is closed. A machine that ends before is a failure.
func (m *machine) cutWhen(t *testing.T, ready <-chan struct{}) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.Wait() // looked at below
	}()
	select {
	case <-ready:
		m.CutPower()
		<-ended
	case <-ended:
		m.mustEnd(t)
		t.Fatal("the case ended before the power was cut")
	}
}
