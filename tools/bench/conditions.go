package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Conditions are what the figures depend on. Both sides of a pair have them in common.
type Conditions struct {
	Date     string `json:"date"`
	Mooring  string `json:"mooring"`
	Go       string `json:"go"`
	Kernel   string `json:"kernel"`
	CPU      string `json:"cpu"`
	CPUs     int    `json:"cpus"`
	Target   string `json:"target_cpu"`
	Host     string `json:"host_cpu"`
	Nice     int    `json:"nice"`
	Disk     string `json:"disk"`
	Memory   string `json:"memory"`
	Size     int64  `json:"bytes"` // of each volume and file
	Pairs    int    `json:"pairs"`
	Time     string `json:"time"` // of one measurement
	SPDK     string `json:"spdk"`
	SPDKArgs string `json:"spdk_args"`
	Fio      string `json:"fio"`
	Load     string `json:"load"`  // average over a minute, before and after
	Steal    string `json:"steal"` // CPU time that the hypervisor kept, percent
	before   cpuCounts
}

func conditions(ctx context.Context, o options) Conditions {
	c := Conditions{
		Date: time.Now().Format(time.DateOnly), Mooring: say(ctx, o.Mooring, "--version"), Go: runtime.Version(),
		Kernel: kernel(), CPU: cpuModel(), CPUs: runtime.NumCPU(),
		Target: cpuName(o.Pinning.Target), Host: cpuName(o.Pinning.Host), Nice: o.Pinning.Nice,
		Disk: fileSystem(o.Dir), Memory: fileSystem(o.MemDir), Size: o.Size, Pairs: o.Pairs, Time: o.Time.String(),
		SPDK: "none", Fio: say(ctx, "fio", "--version"), Load: loadAverage(), before: cpuCount(),
	}
	return c
}

// finish notes what only the end of the run can tell.
func (c *Conditions) finish(b *harness) {
	for _, p := range []*spdk{b.peer, b.peerISCSI} {
		if p != nil {
			c.SPDK, c.SPDKArgs = p.version, strings.Join(b.spdkArgs(), " ")
		}
	}
	c.Load += " before, " + loadAverage() + " after"
	after := cpuCount()
	if total := after.total - c.before.total; total > 0 {
		c.Steal = fmt.Sprintf("%.1f %%", 100*(after.steal-c.before.steal)/total)
	}
}

// say is the first line that a program prints, or "none".
func say(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return "none"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return runtime.GOARCH
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(b), " ")
	return first
}

type cpuCounts struct{ total, steal float64 }

func cpuCount() cpuCounts {
	var c cpuCounts
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return c
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	// cpu user nice system idle iowait irq softirq steal. proc(5)
	for i, f := range strings.Fields(string(line)) {
		n, err := strconv.ParseFloat(f, 64)
		if err != nil || i > 8 {
			continue
		}
		c.total += n
		if i == 8 {
			c.steal = n
		}
	}
	return c
}

// fileSystem describes what a folder lies on.
func fileSystem(dir string) string {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Sprintf("%s: %v", dir, err)
	}
	device := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return dir
	}
	for line := range strings.Lines(string(b)) {
		// id parent major:minor root mount-point options [optional…] - type source super-options. proc(5)
		mount, rest, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(mount), strings.Fields(rest)
		if !ok || len(f) < 6 || len(g) < 2 || f[2] != device {
			continue
		}
		what := fmt.Sprintf("%s on %s", g[0], g[1])
		if s := blockQueue(device); s != "" {
			what += ", " + s
		}
		return what
	}
	return "device " + device
}

// blockQueue tells how the kernel treats a disk.
func blockQueue(device string) string {
	dir := filepath.Join("/sys/dev/block", device)
	if _, err := os.Stat(filepath.Join(dir, "queue")); err != nil {
		dir = filepath.Dir(resolved(dir)) // a partition: its disk
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, "queue", name))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	cache := read("write_cache")
	if cache == "" {
		return ""
	}
	scheduler := read("scheduler")
	if i, j := strings.Index(scheduler, "["), strings.Index(scheduler, "]"); i >= 0 && j > i {
		scheduler = scheduler[i+1 : j]
	}
	return fmt.Sprintf("disk cache %s, scheduler %s", cache, scheduler)
}

func resolved(path string) string {
	if p, err := filepath.EvalSymlinks(path); err == nil {
		return p
	}
	return path
}
