package access

import (
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk/ring"
)

// A random history: commands enter and leave in any order. At no moment may a
// command that holds its blocks be active beside another that overlaps them, and
// of two overlapping commands of which one holds, the first to enter starts first.
func TestOrder(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		var q order
		var active, all []*op
		started := map[*op]int{}
		start := func(o *op) {
			started[o] = len(started)
			active = append(active, o)
		}
		wake := func(o *op) {
			q.parked.remove(o)
			start(o)
		}
		for range 300 {
			if r.IntN(2) == 0 || len(active) == 0 {
				from := int64(r.IntN(16)) * blockBytes
				o := &op{kind: ring.OpWrite, holds: r.IntN(3) == 0}
				o.hold = span{from, from + int64(1+r.IntN(4))*blockBytes}
				all = append(all, o)
				if q.enter(o) {
					start(o)
				}
			} else {
				i := r.IntN(len(active))
				o := active[i]
				active = append(active[:i], active[i+1:]...)
				q.leave(o, wake)
			}
			for i, a := range active {
				for _, b := range active[:i] {
					if (a.holds || b.holds) && a.hold.overlaps(b.hold) {
						t.Fatalf("seed %d: %v and %v are active together", seed, a.hold, b.hold)
					}
				}
			}
		}
		for len(active) > 0 {
			o := active[0]
			active = active[1:]
			q.leave(o, wake)
		}
		if len(started) != len(all) || q.head != nil || q.tail != nil || q.holds != 0 || q.parked.n != 0 {
			t.Fatalf("seed %d: %d of %d commands were started; left behind: %+v", seed, len(started), len(all), q)
		}
		for i, a := range all {
			for _, b := range all[:i] {
				if (a.holds || b.holds) && a.hold.overlaps(b.hold) && started[b] > started[a] {
					t.Fatalf("seed %d: %v overtook %v", seed, a.hold, b.hold)
				}
			}
		}
	}
}

// A parked command that is dropped holds nobody back any more.
func TestOrderParkedCommandLeaves(t *testing.T) {
	var q order
	mk := func(from, to int64) *op {
		return &op{kind: ring.OpCompareAndWrite, holds: true, hold: span{from * blockBytes, to * blockBytes}}
	}
	a, b, c := mk(0, 1), mk(0, 2), mk(1, 2)
	if !q.enter(a) || q.enter(b) || q.enter(c) {
		t.Fatal("only the first may start")
	}
	var got []*op
	wake := func(o *op) {
		q.parked.remove(o)
		got = append(got, o)
	}
	q.parked.remove(b)
	q.leave(b, wake)
	if len(got) != 1 || got[0] != c || q.parked.n != 0 {
		t.Fatalf("started %v, %d are parked; want the third alone", got, q.parked.n)
	}
}

func TestHistogram(t *testing.T) {
	for v := uint64(1); v < 1<<40; v += v/3 + 1 {
		i := bucketOf(v)
		if i < HistogramBuckets-1 && v >= Bound(i) || i > 0 && v < Bound(i-1) {
			t.Fatalf("%d ns is in bucket %d, whose bounds are %d and %d", v, i, Bound(max(i-1, 0)), Bound(i))
		}
	}
	var h Histogram
	for i := range 1000 {
		h.Add(int64(i) * 1000)
	}
	if q := h.Quantile(0.5); q < 450_000 || q > 640_000 {
		t.Errorf("median of 0..999 µs is %d ns", q)
	}
}

// The end of a command costs little where many wait for others than it.
func TestOrderOfMany(t *testing.T) {
	const n = 2048
	block := func(i int) span { return span{int64(i) * blockBytes, int64(i+1) * blockBytes} }
	var q order
	plain := make([]*op, n)
	for i := range plain {
		plain[i] = &op{hold: block(i)}
		q.enter(plain[i])
	}
	for i := range n { // each behind one of the last
		q.enter(&op{holds: true, hold: block(n - 1 - i%8)})
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began, woken := busy(t), 0
	for i, o := range plain {
		q.leave(o, func(p *op) { p.parked.remove(p); woken++ })
		if i < n-8 && woken > 0 {
			t.Fatal("a command was started while what it waits for is under way")
		}
	}
	if woken != 8 || q.parked.n != n-8 {
		t.Errorf("%d commands were started, %d wait", woken, q.parked.n)
	}
	if took := busy(t) - began; took > 5*time.Second { // it was 30 s, on the reactor
		t.Errorf("took %v", took)
	}
}

// busy is how long the calling thread has had a processor: what it takes has nothing to do with who else wants one.
func busy(t *testing.T) time.Duration {
	t.Helper()
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &at); err != nil {
		t.Fatal(err)
	}
	return time.Duration(at.Nano())
}
