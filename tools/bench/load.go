package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/mooring-io/mooring/sdk/bench"
)

// load is what is asked of a side.
type load struct {
	RW         string // of bench.Modes
	BlockBytes int
	QueueDepth int
}

func (l load) reads() bool { return l.RW == "randread" || l.RW == "read" }

// Sample is one measurement.
type Sample struct {
	IOPS    float64 `json:"iops"`
	MiBps   float64 `json:"mib_per_s"`
	P50     float64 `json:"p50_us"`
	P99     float64 `json:"p99_us"`
	CPU     float64 `json:"cpu_s"`      // user and system, of the target's processes
	HostCPU float64 `json:"host_cpu_s"` // of the load generator; 0 where that is the target too
	Seconds float64 `json:"seconds"`
}

// PerIO is the CPU time of one I/O in microseconds.
func (s Sample) PerIO() float64 { return s.CPU * 1e6 / (s.IOPS * s.Seconds) }

// PerCPU is how many I/Os one CPU second is enough for.
func (s Sample) PerCPU() float64 { return s.IOPS * s.Seconds / s.CPU }

// loadCommand makes this program the load generator, a process of its own so that it can have a CPU of its own.
const loadCommand = "internal-load"

// order is what the load generator is told.
type order struct {
	load
	URL  string
	Time time.Duration
	PIDs []int
	Seed uint64
}

func runLoad(in io.Reader, out io.Writer) error {
	var o order
	if err := json.NewDecoder(in).Decode(&o); err != nil {
		return err
	}
	r, err := bench.Run(context.Background(), bench.Config{
		URL: o.URL, RW: o.RW, BlockBytes: o.BlockBytes, QueueDepth: o.QueueDepth, Time: o.Time, PIDs: o.PIDs, Seed: o.Seed,
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}

// hostLoad measures a namespace or a logical unit from the host's CPU.
func hostLoad(ctx context.Context, o options, url string, pids []int, l load) (Sample, error) {
	in, err := json.Marshal(order{load: l, URL: url, Time: o.Time, PIDs: pids, Seed: uint64(time.Now().UnixNano())})
	if err != nil {
		return Sample{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return Sample{}, err
	}
	cmd := exec.CommandContext(ctx, self, loadCommand)
	var out, diag bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &diag
	if err := o.Pinning.run(cmd, o.Pinning.Host); err != nil {
		return Sample{}, fmt.Errorf("load on %s: %w: %s", url, err, bytes.TrimSpace(diag.Bytes()))
	}
	var r bench.Result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return Sample{}, err
	}
	if r.Errors > 0 {
		return Sample{}, fmt.Errorf("load on %s: %d I/Os failed: %v", url, r.Errors, r.ErrorCounts)
	}
	return Sample{
		IOPS: r.Total.IOPS, MiBps: r.Total.MiBPerSecond, P50: r.Total.Latency.P50, P99: r.Total.Latency.P99,
		CPU: r.TargetCPU, HostCPU: r.HostCPU, Seconds: r.Seconds,
	}, nil
}
