package spread_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/mooring-io/mooring/sdk/policy/spread"
)

func seed(t testing.TB) *rand.Rand {
	n := uint64(time.Now().UnixNano())
	if v, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		n = v
	}
	t.Logf("SEED=%d", n)
	return rand.New(rand.NewPCG(n, 1))
}

// score is the objective, in the order of Problem's documentation.
type score struct{ clashes, moves, unevenness int }

func (s score) less(o score, rebalance bool) bool {
	a, b := [3]int{s.clashes, s.moves, s.unevenness}, [3]int{o.clashes, o.moves, o.unevenness}
	if rebalance {
		a, b = [3]int{s.clashes, s.unevenness, s.moves}, [3]int{o.clashes, o.unevenness, o.moves}
	}
	return slices.Compare(a[:], b[:]) < 0
}

func judge(p spread.Problem, at []int) score {
	var s score
	load := slices.Clone(p.Load)
	seen := map[[2]int]bool{}
	for i, it := range p.Items {
		load[at[i]] += it.Weight
		for _, sh := range it.Present {
			if sh.Point != at[i] {
				s.moves += sh.Placements
			}
		}
		if k := [2]int{it.Class, at[i]}; it.Class != 0 && seen[k] {
			s.clashes++
		} else {
			seen[k] = true
		}
	}
	for _, l := range load {
		s.unevenness += l * l
	}
	return s
}

// best is the oracle: it tries everything.
func best(p spread.Problem) score {
	at := make([]int, len(p.Items))
	least, found := score{}, false
	var try func(i int)
	try = func(i int) {
		if i == len(at) {
			if s := judge(p, at); !found || s.less(least, p.Rebalance) {
				least, found = s, true
			}
			return
		}
		for _, c := range p.Items[i].Candidates {
			at[i] = c
			try(i + 1)
		}
	}
	try(0)
	return least
}

// random makes a small problem.
func random(r *rand.Rand, uniform bool) spread.Problem {
	points := 1 + r.IntN(4)
	p := spread.Problem{Load: make([]int, points), Rebalance: r.IntN(3) == 0}
	weight := 1 + r.IntN(3)
	for i := range p.Load {
		if r.IntN(3) == 0 {
			p.Load[i] = r.IntN(4)
		}
	}
	for range r.IntN(7) {
		it := spread.Item{Class: r.IntN(4), Weight: weight}
		if !uniform {
			it.Weight = 1 + r.IntN(4)
		}
		for c := range points {
			if r.IntN(4) > 0 {
				it.Candidates = append(it.Candidates, c)
			}
		}
		if it.Candidates == nil {
			it.Candidates = []int{r.IntN(points)}
		}
		for range r.IntN(3) {
			it.Present = append(it.Present, spread.Share{Point: r.IntN(points), Placements: 1 + r.IntN(2)})
		}
		p.Items = append(p.Items, it)
	}
	return p
}

func solve(t testing.TB, p spread.Problem) []int {
	t.Helper()
	at, err := spread.Solve(context.Background(), p)
	if err != nil {
		t.Fatal(err)
	}
	for i, it := range p.Items {
		if !slices.Contains(it.Candidates, at[i]) {
			t.Fatalf("%+v: item %d is at %d", p, i, at[i])
		}
	}
	return at
}

// With equal weights, nothing is better than the solution.
func TestSolutionIsBest(t *testing.T) {
	r := seed(t)
	for range 20_000 {
		p := random(r, true)
		at := solve(t, p)
		if got, want := judge(p, at), best(p); got != want {
			t.Fatalf("%+v\nsolution %v is %+v, the best is %+v", p, at, got, want)
		}
		if again := solve(t, p); !slices.Equal(again, at) {
			t.Fatalf("%+v\nsolved twice: %v, %v", p, at, again)
		}
	}
}

// With different ones, clashes and moves are the fewest, and no item alone can do
// better elsewhere.
func TestSolutionWithWeights(t *testing.T) {
	r := seed(t)
	for range 20_000 {
		p := random(r, false)
		at := solve(t, p)
		got, want := judge(p, at), best(p)
		if got.clashes != want.clashes || (!p.Rebalance && got.moves != want.moves) {
			t.Fatalf("%+v\nsolution %v is %+v, the best is %+v", p, at, got, want)
		}
		for i, it := range p.Items {
			for _, c := range it.Candidates {
				other := slices.Clone(at)
				other[i] = c
				if s := judge(p, other); s.less(got, p.Rebalance) {
					t.Fatalf("%+v\nsolution %v is %+v, item %d at %d makes it %+v", p, at, got, i, c, s)
				}
			}
		}
	}
}

// Solving again with the solution as the present moves nothing.
func TestSolutionStays(t *testing.T) {
	r := seed(t)
	for range 5_000 {
		p := random(r, r.IntN(2) == 0)
		at := solve(t, p)
		for i := range p.Items {
			p.Items[i].Present = []spread.Share{{Point: at[i], Placements: 1}}
		}
		p.Rebalance = false
		if again := solve(t, p); !slices.Equal(again, at) {
			t.Fatalf("%+v\nfirst %v, then %v", p, at, again)
		}
	}
}

func TestSolveEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := spread.Solve(ctx, spread.Problem{Load: []int{0}, Items: []spread.Item{{Weight: 1, Candidates: []int{0}}}}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// large makes 10,000 items of 100 hosts, in classes of group.
func large(points, group int, present func(i int) int) spread.Problem {
	p := spread.Problem{Load: make([]int, points)}
	all := make([]int, points)
	for i := range all {
		all[i] = i
	}
	for i := range 10_000 {
		it := spread.Item{Weight: 1, Candidates: all}
		if group > 0 {
			it.Class = 1 + i/group
		}
		if at := present(i); at >= 0 {
			it.Present = []spread.Share{{Point: at, Placements: 1}}
		}
		p.Items = append(p.Items, it)
	}
	return p
}

func BenchmarkSolve(b *testing.B) {
	for _, points := range []int{3, 12} {
		for _, group := range []int{0, 3} {
			for name, present := range map[string]func(i int) int{
				"new": func(int) int { return -1 }, "settled": func(i int) int { return i % points },
				"all at one": func(int) int { return 0 }, "scattered": func(i int) int { return i * i % 97 % points },
			} {
				for _, rebalance := range []bool{false, true} {
					b.Run(fmt.Sprintf("%d points/groups of %d/%s/rebalance=%v", points, group, name, rebalance), func(b *testing.B) {
						for b.Loop() {
							p := large(points, group, present)
							p.Rebalance = rebalance
							solve(b, p)
						}
					})
				}
			}
		}
	}
}
