package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// ringCommands is how many commands each side of a pair carries out, by queue depth.
var ringCommands = map[int]int{1: 10_000, 32: 60_000, 128: 60_000}

// Ring is the result of BenchmarkCommand in core/access for one kind of command: with the rings and with a function call
// in their place.
type Ring struct {
	Op         string    `json:"op"`
	QueueDepth int       `json:"queue_depth"`
	Goal       float64   `json:"goal"` // of the ratio, at most; 0 is none
	CallCPU    []float64 `json:"call_cpu_ns"`
	RingCPU    []float64 `json:"ring_cpu_ns"`
	CallTime   []float64 `json:"call_ns"`
	RingTime   []float64 `json:"ring_ns"`
	Doorbells  float64   `json:"doorbells_per_io"`
	CPU        Interval  `json:"cpu_ratio"`
	Time       Interval  `json:"time_ratio"`
}

var ringGoals = map[int]float64{32: 1.15, 128: 1.10}

func ringRow() row {
	return row{ID: "ring", Title: "4 KiB commands through the rings beside function calls, core/access on disk, volatile", measure: measureRing}
}

func measureRing(ctx context.Context, b *harness, rep *report) error {
	if _, err := os.Stat("core/access"); err != nil {
		return &missingError{"core/access is not here: run it at the root of the source"}
	}
	dir, err := b.folder(b.Dir)
	if err != nil {
		return err
	}
	bin := filepath.Join(dir, "access.test")
	progress("ring: building the benchmark of core/access")
	if out, err := exec.CommandContext(ctx, "go", "test", "-c", "-o", bin, "./core/access").CombinedOutput(); err != nil {
		return fmt.Errorf("build the benchmark: %w: %s", err, out)
	}
	var results []Ring
	for _, depth := range []int{1, 32, 128} {
		pairs := b.Pairs
		progress("ring: %d pairs at depth %d", pairs, depth)
		cmd := exec.CommandContext(ctx, bin, "-test.run=^$", fmt.Sprintf("-test.bench=^BenchmarkCommand$/^(read|write)$/^qd=%d$", depth),
			fmt.Sprintf("-test.benchtime=%dx", ringCommands[depth]), "-test.timeout=1h")
		cmd.Env = append(b.Pinning.goEnvironment(), "BENCH_DIR="+dir, fmt.Sprintf("BENCH_PAIRS=%d", pairs))
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, os.Stderr
		if err := b.Pinning.run(cmd, b.Pinning.Target); err != nil {
			return fmt.Errorf("benchmark of core/access: %w\n%s", err, out.Bytes())
		}
		got, err := parseRing(&out)
		if err != nil {
			return err
		}
		results = append(results, got...)
	}
	rep.Rings = append(rep.Rings, results...)
	return nil
}

var ringLine = regexp.MustCompile(`^BenchmarkCommand/(\w+)/qd=(\d+)/pair=\d+/(call|ring)(?:-\d+)?\s+\d+\s+(.*)$`)

// parseRing reads the output of the benchmark.
func parseRing(r io.Reader) ([]Ring, error) {
	var all []*Ring
	for s := bufio.NewScanner(r); s.Scan(); {
		m := ringLine.FindStringSubmatch(s.Text())
		if m == nil {
			continue
		}
		depth, err := strconv.Atoi(m[2])
		if err != nil {
			return nil, err
		}
		x := findRing(&all, m[1], depth)
		values := map[string]float64{}
		for f := strings.Fields(m[4]); len(f) >= 2; f = f[2:] {
			if values[f[1]], err = strconv.ParseFloat(f[0], 64); err != nil {
				return nil, fmt.Errorf("benchmark line %q: %w", s.Text(), err)
			}
		}
		if m[3] == "call" {
			x.CallCPU, x.CallTime = append(x.CallCPU, values["cpu-ns/op"]), append(x.CallTime, values["ns/op"])
		} else {
			x.RingCPU, x.RingTime = append(x.RingCPU, values["cpu-ns/op"]), append(x.RingTime, values["ns/op"])
			x.Doorbells = values["doorbells/op"]
		}
	}
	var out []Ring
	for _, x := range all {
		if len(x.CallCPU) != len(x.RingCPU) {
			return nil, fmt.Errorf("%s at depth %d: %d measurements of one side, %d of the other", x.Op, x.QueueDepth, len(x.CallCPU), len(x.RingCPU))
		}
		var cpu, time []float64
		for i := range x.CallCPU {
			cpu, time = append(cpu, x.RingCPU[i]/x.CallCPU[i]), append(time, x.RingTime[i]/x.CallTime[i])
		}
		x.CPU, x.Time, x.Goal = medianOf(cpu), medianOf(time), ringGoals[x.QueueDepth]
		out = append(out, *x)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the benchmark printed no figures")
	}
	return out, nil
}

func findRing(all *[]*Ring, op string, depth int) *Ring {
	for _, x := range *all {
		if x.Op == op && x.QueueDepth == depth {
			return x
		}
	}
	x := &Ring{Op: op, QueueDepth: depth}
	*all = append(*all, x)
	return x
}
