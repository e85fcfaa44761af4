package block_test

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/block/blocktest"
)

// 4 KiB reads of a volume in memory through a thread and real rings, the core's side
// on a thread of this process: time and processor time of both sides, doorbells.
func BenchmarkRead(b *testing.B) {
	for _, depth := range []int{1, 32, 128} {
		b.Run(fmt.Sprintf("depth=%d", depth), func(b *testing.B) { benchmarkRead(b, depth) })
	}
}

func benchmarkRead(b *testing.B, depth int) {
	core, threads := blocktest.Start(b, blocktest.Options{})
	v, th := core.AddVolume(1<<20, 4096), threads[0]
	finished := make(chan struct{})
	before := cpuTime(b)
	b.ResetTimer()
	th.Post(func() {
		left, under := b.N, 0
		next := func(r *block.Request) {
			if left > 0 {
				left--
				under++
				th.Submit(r)
			}
		}
		for range depth {
			buf, _ := th.Pool().Alloc(4096)
			next(&block.Request{Op: block.OpRead, Volume: v.Handle(), Length: 4096, Buf: buf, Done: func(r *block.Request) {
				under--
				next(r)
				if left+under == 0 {
					close(finished)
				}
			}})
		}
	})
	<-finished
	b.StopTimer()
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(th.Counters().Doorbells)/float64(b.N), "doorbells/op")
}

// cpuTime is the processor time of this process in nanoseconds.
func cpuTime(tb testing.TB) int64 {
	tb.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		tb.Fatal(err)
	}
	return ts.Nano()
}
