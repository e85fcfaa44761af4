package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Result is what a run measured.
type Result struct {
	URL        string  `json:"url"`
	RW         string  `json:"rw"`
	Mix        int     `json:"mix"` // percent of reads
	BlockBytes int     `json:"block_bytes"`
	QueueDepth int     `json:"queue_depth"`
	Queues     int     `json:"queues"`
	Seconds    float64 `json:"seconds"` // of the measurement

	Total Figures `json:"total"`
	Read  Figures `json:"read"`
	Write Figures `json:"write"`

	Errors       uint64            `json:"errors"`           // I/Os that failed
	ErrorCounts  map[string]uint64 `json:"error_counts"`     // the same, by status
	Verified     uint64            `json:"verified"`         // blocks whose content was checked
	VerifyErrors uint64            `json:"verify_errors"`    // of these, wrong ones
	Mismatches   []string          `json:"mismatches"`       // the first of these
	TargetCPU    float64           `json:"target_cpu_s"`     // user and system, of Config.PIDs; less by those that ended meanwhile
	TargetPerIO  float64           `json:"target_cpu_us_io"` // microseconds per I/O
	HostCPU      float64           `json:"host_cpu_s"`       // of this process
	PathChanges  []PathChange      `json:"path_changes,omitempty"`
}

// Figures are of one kind of I/O, of those that succeeded within the measurement.
type Figures struct {
	IOs          uint64  `json:"ios"`
	Bytes        uint64  `json:"bytes"`
	IOPS         float64 `json:"iops"`
	MiBPerSecond float64 `json:"mib_per_s"`
	Latency      Latency `json:"latency_us"`
}

// Latency is in microseconds, from submission to completion.
type Latency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
	Max  float64 `json:"max"`
}

func figures(h *histogram, blockBytes int, elapsed time.Duration) Figures {
	f := Figures{IOs: h.count, Bytes: h.count * uint64(blockBytes), Latency: h.latency()}
	if s := elapsed.Seconds(); s > 0 {
		f.IOPS = float64(f.IOs) / s
		f.MiBPerSecond = float64(f.Bytes) / (1 << 20) / s
	}
	return f
}

// clockTick is how /proc counts CPU time: USER_HZ is 100 on every architecture that Go runs on.
const clockTick = 10 * time.Millisecond

// cpuOf returns the user and system time of processes; those that are gone count nothing.
func cpuOf(pids []int) time.Duration {
	var sum time.Duration
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// The second field is a name in parentheses that may contain anything. proc(5)
		fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		if len(fields) < 13 {
			continue
		}
		for _, f := range fields[11:13] { // utime, stime
			n, _ := strconv.ParseInt(string(f), 10, 64)
			sum += time.Duration(n) * clockTick
		}
	}
	return sum
}

// ownCPU returns the user and system time of this process.
func ownCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
