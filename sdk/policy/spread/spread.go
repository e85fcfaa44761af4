// Package spread puts items at points: the part of a placement that policies have in
// common once each has said what its own rule is.
//
// It owns the solver. It does not know hosts or namespaces, nor what an item stands
// for: one namespace of one host, say, or all of a host's namespaces together.
package spread

import (
	"cmp"
	"context"
	"slices"
)

// Problem is items to be put at points, which are numbered from 0.
//
// Among all ways to do so a solution has, in this order:
//  1. the fewest clashes: at each point, the items of a class beyond its first there;
//  2. the fewest moves: placements that are not where they are now;
//  3. the least unevenness: the sum of the squares of the points' loads.
//
// With Rebalance, 3 comes before 2.
type Problem struct {
	Load      []int // of each point, from what is not among the items
	Items     []Item
	Rebalance bool
}

// Item is what is put at one point as a whole.
type Item struct {
	Class      int     // items of one class want different points; 0: of no class
	Weight     int     // its part in the load of its point, at least 1
	Candidates []int   // points where it can be, increasing; at least one
	Present    []Share // where its placements are now; not to be named: nowhere
}

// Share says how many of an item's placements are at a point now. With none, it says
// where the item is put rather than elsewhere if both are as good.
type Share struct{ Point, Placements int }

// Kept is how many of the item's placements are at a point now: at any other one
// they have moved.
func (i *Item) Kept(point int) int {
	n := 0
	for _, s := range i.Present {
		if s.Point == point {
			n += s.Placements
		}
	}
	return n
}

// Placed is how many of the item's placements are anywhere now.
func (i *Item) Placed() int {
	n := 0
	for _, s := range i.Present {
		n += s.Placements
	}
	return n
}

// Solve returns the point of each item. If all weights are equal the solution is a best
// one. If they are not, clashes and moves are still the fewest (with Rebalance: the
// clashes), and no single item could make the loads more even by going elsewhere.
// Equal problems have equal solutions. It fails only when ctx ends.
func Solve(ctx context.Context, p Problem) ([]int, error) {
	if len(p.Items) == 0 {
		return nil, ctx.Err()
	}
	s := newSolver(p)
	s.begin()
	if p.Rebalance {
		s.moved, s.even = s.even, s.moved
		s.shed()
	}
	s.improve()
	for k := range s.members { // each class by itself: a small graph
		for ctx.Err() == nil && s.cancel(k, k+1, nil) {
		}
	}
	for ctx.Err() == nil && s.cancel(0, 0, s.free) {
	}
	for ctx.Err() == nil {
		if !s.cancel(0, len(s.members), s.free) && (s.uniform || !s.improve()) {
			return s.at, nil
		}
	}
	return nil, ctx.Err()
}

// cost is a change of the objective, the most important part first.
type cost [3]int

func (c cost) plus(o cost) cost { return cost{c[0] + o[0], c[1] + o[1], c[2] + o[2]} }

func (c cost) less(o cost) bool {
	for i := range c {
		if c[i] != o[i] {
			return c[i] < o[i]
		}
	}
	return false
}

// solver begins with a good guess (with Rebalance: that of a problem without it) and
// improves it. Single items are moved as long as
// that helps; then negative cycles are cancelled in the residual graph of the flow
//
//	item ─► (class, point) ─► point
//
// where a second item of a class at a point costs a clash, and each item at a point
// costs more than the one before. With convex costs like these, no negative cycle
// means that there is no better solution.
type solver struct {
	Problem
	moved, even int // places of these in a cost
	uniform     bool
	unit        int // the weight of every item, if uniform

	at      []int // point of each item
	load    []int
	class   []int   // dense number of each item's class, or -1
	members [][]int // items of each class
	free    []int   // items of no class
	count   []int   // of items, by class*points+point

	// Of cancel: by node.
	dist []cost
	pred []step
	mark []int
}

// step is how a node of the residual graph was reached.
type step struct{ from, item int }

const nobody = -1

func newSolver(p Problem) *solver {
	s := &solver{
		Problem: p, moved: 1, even: 2, uniform: true, at: make([]int, len(p.Items)),
		load: slices.Clone(p.Load), class: make([]int, len(p.Items)),
	}
	known := map[int]int{}
	for i, it := range p.Items {
		s.unit = p.Items[0].Weight
		s.uniform = s.uniform && it.Weight == s.unit
		s.at[i], s.class[i] = nobody, nobody
		if it.Class == 0 {
			s.free = append(s.free, i)
			continue
		}
		k, ok := known[it.Class]
		if !ok {
			k = len(s.members)
			known[it.Class] = k
			s.members = append(s.members, nil)
		}
		s.members[k] = append(s.members[k], i)
		s.class[i] = k
	}
	s.count = make([]int, len(s.members)*len(p.Load))
	nodes := len(p.Load) + 1 + len(s.count)
	s.dist, s.pred, s.mark = make([]cost, nodes), make([]step, nodes), make([]int, nodes)
	return s
}

// put moves an item.
func (s *solver) put(i, point int) {
	s.add(i, s.at[i], -1)
	s.add(i, point, +1)
	s.at[i] = point
}

// add counts an item at a point.
func (s *solver) add(i, point, n int) {
	if point == nobody {
		return
	}
	s.load[point] += n * s.Items[i].Weight
	if k := s.class[i]; k != nobody {
		s.count[k*len(s.load)+point] += n
	}
}

// to is what it costs to bring an item to a point from nowhere.
func (s *solver) to(i, point int) cost {
	var c cost
	it := &s.Items[i]
	if k := s.class[i]; k != nobody && s.count[k*len(s.load)+point] > 0 {
		c[0] = 1
	}
	c[s.moved] = -it.Kept(point)
	c[s.even] = it.Weight * (2*s.load[point] + it.Weight)
	return c
}

// begin puts every item somewhere: those first that may stay, then the heavier ones.
func (s *solver) begin() {
	order := make([]int, len(s.Items))
	for i := range order {
		order[i] = i
	}
	stays := func(i int) int {
		for _, p := range s.Items[i].Candidates {
			if s.Items[i].Kept(p) > 0 {
				return 0
			}
		}
		return 1
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(stays(a)-stays(b), s.Items[b].Weight-s.Items[a].Weight)
	})
	for _, i := range order {
		s.put(i, s.best(i))
	}
}

// best is the cheapest point for an item that is nowhere.
func (s *solver) best(i int) int {
	best := nobody
	var least cost
	look := func(p int) {
		if c := s.to(i, p); best == nobody || c.less(least) {
			best, least = p, c
		}
	}
	it := &s.Items[i]
	for _, sh := range it.Present {
		if _, ok := slices.BinarySearch(it.Candidates, sh.Point); ok && sh.Placements == 0 {
			look(sh.Point)
		}
	}
	for _, p := range it.Candidates {
		look(p)
	}
	return best
}

// improve moves single items as long as that helps, and says whether it did.
func (s *solver) improve() bool {
	any := false
	for again := true; again; {
		again = false
		for i := range s.Items {
			was := s.at[i]
			s.put(i, nobody)
			now := s.best(i)
			if now != was && !s.to(i, now).less(s.to(i, was)) {
				now = was
			}
			s.put(i, now)
			again = again || now != was
		}
		any = any || again
	}
	return any
}

// shed moves items from points that have more than their share to those that have
// less, as a rebalance must, and no others.
func (s *solver) shed() {
	sum := 0
	for _, l := range s.load {
		sum += l
	}
	share := (sum + len(s.load) - 1) / len(s.load)
	for i := range s.Items {
		was := s.at[i]
		if s.load[was] <= share {
			continue
		}
		s.put(i, nobody)
		now := s.best(i)
		if s.load[now] >= share || !s.to(i, now).less(s.to(i, was)) {
			now = was
		}
		s.put(i, now)
	}
}

// ---------------------------------------------------------------- cycles

// The nodes of the residual graph: the points, the balance of all loads, and for each
// class the points again. An arc says that something moves from one to the next.
func (s *solver) balance() int { return len(s.load) }

func (s *solver) node(class, point int) int { return len(s.load) + 1 + class*len(s.load) + point }

// cancel finds a negative cycle in the graph of some classes, from one number up to
// another, and of some items without a class, and moves the items on it; false if
// there is none.
func (s *solver) cancel(from, to int, free []int) bool {
	nodes := []int{0, s.balance() + 1, s.node(from, 0), s.node(to, 0)}
	for i := 0; i < len(nodes); i += 2 {
		clear(s.dist[nodes[i]:nodes[i+1]])
		for n := nodes[i]; n < nodes[i+1]; n++ {
			s.pred[n] = step{nobody, nobody}
		}
	}
	hops := s.hops(free)
	for s.relax(from, to, hops) {
		clear(s.mark[:s.balance()+1])
		clear(s.mark[s.node(from, 0):s.node(to, 0)])
		for i := 0; i < len(nodes); i += 2 {
			if at := s.cycle(nodes[i], nodes[i+1]); at != nobody {
				s.follow(at)
				return true
			}
		}
	}
	return false
}

// hop is the cheapest way from one point to another for an item without a class.
type hop struct{ from, to, item int }

func (s *solver) hops(free []int) []hop {
	best := make([]int, len(s.load)*len(s.load)) // item+1
	for _, i := range free {
		for _, p := range s.Items[i].Candidates {
			if b := &best[s.at[i]*len(s.load)+p]; p != s.at[i] && (*b == 0 || s.hop(i, p).less(s.hop(*b-1, p))) {
				*b = i + 1
			}
		}
	}
	var out []hop
	for n, i := range best {
		if i > 0 {
			out = append(out, hop{n / len(s.load), n % len(s.load), i - 1})
		}
	}
	return out
}

// hop is what it costs to move an item to a point, but for clashes and loads.
func (s *solver) hop(i, to int) cost {
	var c cost
	if s.uniform || !s.Rebalance { // else moves count for less than what is not seen here
		c[s.moved] = s.Items[i].Kept(s.at[i]) - s.Items[i].Kept(to)
	}
	return c
}

// relax is one round of Bellman and Ford over all arcs.
func (s *solver) relax(from, to int, hops []hop) bool {
	changed := false
	arc := func(from, to, item int, c cost) {
		if c = s.dist[from].plus(c); c.less(s.dist[to]) {
			s.dist[to], s.pred[to] = c, step{from, item}
			changed = true
		}
	}
	for _, h := range hops {
		arc(h.from, h.to, h.item, s.hop(h.item, h.to))
	}
	for k := from; k < to; k++ {
		for _, i := range s.members[k] {
			for _, p := range s.Items[i].Candidates {
				if p != s.at[i] {
					arc(s.node(k, s.at[i]), s.node(k, p), i, s.hop(i, p))
				}
			}
		}
		for p := range s.load {
			n := s.count[k*len(s.load)+p]
			if n > 0 { // one leaves
				arc(p, s.node(k, p), nobody, cost{-min(n-1, 1)})
			}
			arc(s.node(k, p), p, nobody, cost{min(n, 1)})
		}
	}
	for p, l := range s.load {
		var less, more cost
		if s.uniform {
			less[s.even] = s.unit * (s.unit - 2*l)
			more[s.even] = s.unit * (s.unit + 2*l)
		}
		arc(s.balance(), p, nobody, less)
		arc(p, s.balance(), nobody, more)
	}
	return changed
}

// cycle finds a node on a cycle of predecessors, which is always a negative one,
// looking from some nodes on.
func (s *solver) cycle(from, to int) int {
	for n := from; n < to; n++ {
		walk := n + 1
		for v := n; v != nobody && s.mark[v] == 0; v = s.pred[v].from {
			s.mark[v] = walk
			if f := s.pred[v].from; f != nobody && s.mark[f] == walk {
				return f
			}
		}
	}
	return nobody
}

// follow moves the items on the cycle through a node.
func (s *solver) follow(node int) {
	type move struct{ item, point int }
	var moves []move
	for v := node; ; {
		if st := s.pred[v]; st.item != nobody {
			point := v
			if v > s.balance() {
				point = (v - s.balance() - 1) % len(s.load)
			}
			moves = append(moves, move{st.item, point})
		}
		if v = s.pred[v].from; v == node {
			break
		}
	}
	for _, m := range moves {
		s.put(m.item, m.point)
	}
}
