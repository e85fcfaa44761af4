package block

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// seed is printed with a failure; SEED=n replays it.
func seed(tb testing.TB) *rand.Rand {
	n := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		n = s
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("SEED=%d", n)
		}
	})
	return rand.New(rand.NewPCG(n, 0))
}

// Random allocations against a model: aligned, apart from each other, and all of the
// pool is whole again in the end.
func TestPoolModel(t *testing.T) {
	rnd := seed(t)
	const pages, maxTransfer = 1024 + 100, 256 << 10
	p := newPool(make([]byte, pages*PageBytes), maxTransfer)
	owner := make([]int, pages)
	live := map[int]Buffer{}
	for id := 1; id < 20_000; id++ {
		if rnd.IntN(2) == 0 || len(live) == 0 {
			n := 1 + rnd.IntN(PageBytes<<rnd.IntN(7))
			b, ok := p.Alloc(n)
			if !ok {
				continue
			}
			if b.Len() != n || b.Offset()%PageBytes != 0 || cap(b.Bytes()) != n {
				t.Fatalf("asked for %d, got %d at %d", n, b.Len(), b.Offset())
			}
			mark(t, owner, b, 0, id)
			live[id] = b
			continue
		}
		for old, b := range live {
			mark(t, owner, b, old, 0)
			delete(live, old)
			p.Free(b)
			break
		}
	}
	for _, b := range live {
		p.Free(b)
	}
	if p.InUse() != 0 {
		t.Fatalf("%d bytes in use", p.InUse())
	}
	for i := range pages * PageBytes / maxTransfer {
		if _, ok := p.Alloc(maxTransfer); !ok {
			t.Fatalf("largest block %d is gone: not coalesced", i)
		}
	}
}

func mark(t *testing.T, owner []int, b Buffer, from, to int) {
	t.Helper()
	for i := int(b.Offset()) / PageBytes; i <= (int(b.Offset())+b.Len()-1)/PageBytes; i++ {
		if owner[i] != from {
			t.Fatalf("page %d belongs to %d, want %d", i, owner[i], from)
		}
		owner[i] = to
	}
}

func TestPoolWaiters(t *testing.T) {
	p := newPool(make([]byte, 4*PageBytes), 4*PageBytes)
	all, _ := p.Alloc(4 * PageBytes)
	var order []int
	for i, n := range []int{3 * PageBytes, PageBytes} {
		p.Wait(n, func(b Buffer) { order = append(order, i); p.Free(b) })
	}
	p.serve()
	if len(order) != 0 || p.servable() {
		t.Fatal("served from nothing")
	}
	p.Free(all)
	if _, ok := p.Alloc(1); ok {
		t.Fatal("a newcomer got memory that others wait for")
	}
	p.serve()
	if len(order) != 2 || order[0] != 0 || order[1] != 1 {
		t.Fatal(order)
	}
	if _, ok := p.Alloc(4 * PageBytes); !ok {
		t.Fatal("not whole again")
	}
}

func TestPoolMisuse(t *testing.T) {
	p := newPool(make([]byte, 4*PageBytes), 2*PageBytes)
	b, _ := p.Alloc(2 * PageBytes)
	for name, misuse := range map[string]func(){
		"nothing":     func() { p.Alloc(0) },
		"too much":    func() { p.Alloc(2*PageBytes + 1) },
		"free inside": func() { p.Free(b.Slice(PageBytes, 1)) },
		"free twice":  func() { p.Free(b); p.Free(b) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			misuse()
		}()
	}
}

func BenchmarkPool(b *testing.B) {
	p := newPool(make([]byte, 16<<20), DefaultMaxTransfer)
	for b.Loop() {
		x, _ := p.Alloc(4096)
		y, _ := p.Alloc(128 << 10)
		p.Free(x)
		p.Free(y)
	}
}
