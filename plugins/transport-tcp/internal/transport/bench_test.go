package transport

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/mooring-io/mooring/sdk/bench"
	"github.com/mooring-io/mooring/sdk/block/blocktest"
)

// Benchmark loads the stack in one process, volumes in memory: good for profiles and for what is
// allocated, not for figures. Each of its rounds runs for a second.
func Benchmark(b *testing.B) {
	for _, rw := range []string{"randread", "randwrite"} {
		for _, size := range []int{4 << 10, 256 << 10} {
			for _, depth := range []int{1, 32, 128} {
				if size*depth > 8<<20 {
					continue
				}
				b.Run(fmt.Sprintf("%s/%dk/qd%d", rw, size>>10, depth), func(b *testing.B) {
					r := newRig(b, rigOptions{Options: blocktest.Options{PoolBytes: 64 << 20}})
					for b.Loop() {
						res, err := bench.Run(context.Background(), bench.Config{
							URL: fmt.Sprintf("nvme-tcp://%s/%s", r.address, testNQN), RW: rw, BlockBytes: size,
							QueueDepth: depth, Time: time.Second, NoSQFlow: true,
						})
						if err != nil || res.Errors != 0 {
							b.Fatal(err, res)
						}
						b.ReportMetric(res.Total.IOPS, "IOPS")
						b.ReportMetric(res.Total.Latency.P50, "p50-us")
					}
				})
			}
		}
	}
}
