package main

import "slices"

// maxBranch is how many choices tryAll makes before it leaves it at what it has.
const maxBranch = 500_000

// tryAll looks at every placement of bundles that may be better than the best known one.
func (f *fleet) tryAll(bundles []bundle, best *outcome) {
	b := brancher{
		fleet: f, bundles: bundles, best: best, at: make([]int, len(bundles)), load: slices.Clone(f.load),
		used: make([]int, len(f.hosts)*len(f.load)), hosts: make([]int, len(f.load)),
	}
	for _, l := range f.load {
		b.uneven += l * l
	}
	b.branch(0)
}

// brancher is a placement that is being made, bundle by bundle.
type brancher struct {
	*fleet
	bundles               []bundle
	best                  *outcome
	at, load              []int
	used                  []int // bundles of each host at each point
	hosts                 []int // hosts at each point
	shared, moved, uneven int
	steps                 int
}

// branch places the bundles from number n of the order on.
func (b *brancher) branch(n int) {
	// All parts of the score only grow with what is placed: what is not better now
	// cannot become so.
	so := outcome{score: b.rank(b.shared, b.moved, b.uneven)}
	if !so.better(*b.best) {
		return
	}
	if n == len(b.order) {
		so.at = slices.Clone(b.at)
		*b.best = so
		return
	}
	i := b.order[n]
	it := &b.bundles[i].item
	for _, p := range it.Candidates {
		if b.steps++; b.steps > maxBranch {
			return
		}
		here := &b.used[b.bundles[i].host*len(b.load)+p]
		shared, moved, uneven := b.shared, b.moved, b.uneven
		if *here == 0 {
			if b.hosts[p]++; b.hosts[p] > 1 {
				b.shared++
			}
		}
		*here++
		b.moved += it.Placed() - it.Kept(p)
		b.uneven += it.Weight * (2*b.load[p] + it.Weight)
		b.load[p] += it.Weight
		b.at[i] = p
		b.branch(n + 1)
		b.load[p] -= it.Weight
		if *here--; *here == 0 {
			b.hosts[p]--
		}
		b.shared, b.moved, b.uneven = shared, moved, uneven
	}
}
