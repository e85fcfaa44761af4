//go:build !race

package access

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk/ring"
)

// A read or an overwrite of 4 KiB costs no memory of the collector's, from the ring to
// the disk and back.
func TestNoAllocation(t *testing.T) {
	for _, volatile := range []bool{false, true} {
		r := newRig(t, rigOptions{real: true})
		v := r.volume(4*testExtent, 4096, volatile)
		c, _ := r.newClient("p")
		end := r.attach(c, 8, 1<<20)
		defer end.Close()
		h, err := c.Grant(r.ctx, v, Host{}, Path{Epoch: 1}, nil)
		r.must(err)
		n, bell := uint64(0), []unix.PollFd{{Fd: int32(end.DoorbellFD()), Events: unix.POLLIN}}
		run := func(op ring.Op) func() {
			e := ring.Entry{Op: op, Handle: h.Index, HandleGeneration: h.Generation, Length: 4096, PoolLength: 4096}
			var done ring.Completion
			return func() {
				n++
				e.Offset = n % 64 * 4096
				if ok, err := end.Submit(&e); !ok || err != nil {
					t.Fatal(ok, err)
				}
				end.Publish()
				for {
					ok, err := end.Take(&done)
					if err != nil {
						t.Fatal(err)
					}
					if ok {
						break
					}
					if end.Sleep() {
						_, _ = unix.Poll(bell, -1)
						end.Drain()
						end.Awake()
					}
				}
				if done.Status != ring.StatusOK {
					t.Fatal(done.Status)
				}
			}
		}
		for _, op := range []ring.Op{ring.OpWrite, ring.OpRead} {
			f := run(op)
			for range 300 {
				f()
			}
			if got := testing.AllocsPerRun(500, f); got >= 1 {
				t.Errorf("%v, volatile %v: %v allocations per command", op, volatile, got)
			}
		}
	}
}
