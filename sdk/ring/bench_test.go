package ring

import (
	"fmt"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Commands to another process and back: time, processor time of both sides, and
// doorbells per command.
func BenchmarkRing(b *testing.B) {
	for _, depth := range []int{1, 32, 128} {
		b.Run(fmt.Sprintf("depth=%d", depth), func(b *testing.B) { benchmarkRing(b, depth) })
	}
}

func benchmarkRing(b *testing.B, depth int) {
	core := start(b, "core")
	d, err := Receive(core.conn)
	if err != nil {
		b.Fatal(err)
	}
	p, err := Attach(d)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, bells := cpuTime(b, 0)+cpuTime(b, core.Process.Pid), doorbells(p)
	b.ResetTimer()
	for sent, got := 0, 0; got < b.N; {
		for ; sent < b.N && p.InFlight() < depth; sent++ {
			p.Submit(&Entry{Op: OpFlush})
		}
		p.Publish()
		if err := p.await(); err != nil {
			b.Fatal(err)
		}
		for done := (Completion{}); ; got++ {
			if ok, err := p.Take(&done); err != nil {
				b.Fatal(err)
			} else if !ok {
				break
			}
		}
	}
	b.StopTimer()
	cpu := cpuTime(b, 0) + cpuTime(b, core.Process.Pid) - before
	b.ReportMetric(float64(cpu)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(doorbells(p)-bells)/float64(b.N), "doorbells/op")
}

// doorbells counts those of both sides.
func doorbells(p *PluginEnd) uint64 {
	return p.counters.Doorbells + p.completion.loadCounters().Doorbells
}

// cpuTime is the processor time of a process, 0 for this one, in nanoseconds.
func cpuTime(tb testing.TB, pid int) int64 {
	tb.Helper()
	var ts unix.Timespec
	// clock_getcpuclockid(3)
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		tb.Fatal(err)
	}
	return ts.Nano()
}

// What both ends compute per command, without another process: a batch there and
// back.
func BenchmarkBatch(b *testing.B) {
	const batch = 128
	c, p := pair(b, Config{Entries: batch, PoolBytes: 1 << 20})
	for n := 0; n < b.N; n += batch {
		for range batch {
			p.Submit(&Entry{Op: OpWrite, Offset: 4096, Length: 4096, PoolLength: 4096})
		}
		p.Publish()
		for e := (Entry{}); ; {
			if ok, _ := c.Take(&e); !ok {
				break
			}
			c.Complete(&Completion{Tag: e.Tag})
		}
		c.Publish()
		for done := (Completion{}); ; {
			if ok, _ := p.Take(&done); !ok {
				break
			}
		}
	}
}
