package access

import (
	"math/rand/v2"
	"testing"

	"github.com/mooring-io/mooring/sdk/ring"
)

// A random history: commands enter and leave in any order. At no moment may a
// command that holds its blocks be active beside another that overlaps them, and
// of two overlapping commands of which one holds, the first to enter starts first.
func TestOrder(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := &port{}
		var q order
		var active, all []*op
		started := map[*op]int{}
		start := func(o *op) {
			started[o] = len(started)
			active = append(active, o)
		}
		for range 300 {
			if r.IntN(2) == 0 || len(active) == 0 {
				from := int64(r.IntN(16)) * blockBytes
				o := &op{port: p, kind: ring.OpWrite, holds: r.IntN(3) == 0, seq: uint64(len(all))}
				o.hold = span{from, from + int64(1+r.IntN(4))*blockBytes}
				all = append(all, o)
				if q.enter(o) {
					start(o)
				}
			} else {
				i := r.IntN(len(active))
				o := active[i]
				active = append(active[:i], active[i+1:]...)
				q.leave(o, start)
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
			q.leave(o, start)
		}
		if len(started) != len(all) || q.head != nil || q.tail != nil || q.holds != 0 || len(q.parked) != 0 {
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

func TestOrderDropsDeadCommands(t *testing.T) {
	p := &port{}
	var q order
	mk := func() *op { return &op{port: p, kind: ring.OpCompareAndWrite, holds: true, hold: span{0, blockBytes}} }
	a, b, c := mk(), mk(), mk()
	if !q.enter(a) || q.enter(b) || q.enter(c) {
		t.Fatal("only the first may start")
	}
	b.dead = true
	var got []*op
	q.leave(a, func(o *op) { got = append(got, o) })
	if len(got) != 1 || got[0] != c || len(p.spare) != 1 {
		t.Fatalf("started %v, recycled %d; want the third and one", got, len(p.spare))
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
