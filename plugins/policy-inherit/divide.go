package main

import (
	"context"
	"slices"

	"github.com/mooring-io/mooring/sdk/policy/spread"
)

// A host with several subsystems may use several access points, as long as no other
// host needs them. A division says which host may use which: that is what is searched,
// since it settles the rest.
type division [][]bool // [host][point]

// maxClimb bounds the work of divide: bundles looked at.
const maxClimb = 5_000_000

// divide improves on best by divisions that no small change makes better, from the
// present one and from one that gives every host a home.
func (f *fleet) divide(ctx context.Context, bundles []bundle, best *outcome) error {
	home, err := f.homes(ctx, bundles)
	if err != nil {
		return err
	}
	for _, d := range []division{f.present(bundles), home} {
		f.climb(ctx, bundles, d, best)
	}
	return nil
}

func (f *fleet) nobody() division {
	d := make(division, len(f.hosts))
	for h := range d {
		d[h] = make([]bool, len(f.load))
	}
	return d
}

// present is the division as it is, as far as it can stay.
func (f *fleet) present(bundles []bundle) division {
	d := f.nobody()
	for _, b := range bundles {
		at := b.item.Candidates[0]
		for _, p := range b.item.Candidates {
			if b.item.Kept(p) > b.item.Kept(at) {
				at = p
			}
		}
		d[b.host][at] = true
	}
	return d
}

// homes gives each host, and each part of a host with connections of its own, one
// access point; no two the same, as far as that can be, and where it has most.
func (f *fleet) homes(ctx context.Context, bundles []bundle) (division, error) {
	var parts []bundle
	for _, b := range bundles {
		i := slices.IndexFunc(parts, func(n bundle) bool {
			return n.host == b.host && slices.Equal(n.item.Candidates, b.item.Candidates)
		})
		if i < 0 {
			i = len(parts)
			parts = append(parts, bundle{host: b.host, item: spread.Item{Class: 1, Weight: 1, Candidates: b.item.Candidates}})
		}
		parts[i].item.Present = append(parts[i].item.Present, b.item.Present...)
	}
	problem := spread.Problem{Load: f.load}
	for _, n := range parts {
		problem.Items = append(problem.Items, n.item)
	}
	at, err := spread.Solve(ctx, problem)
	d := f.nobody()
	for i, p := range at {
		d[parts[i].host][p] = true
	}
	return d, err
}

// climb changes a division as long as that makes it better, and keeps the best outcome.
func (f *fleet) climb(ctx context.Context, bundles []bundle, d division, best *outcome) {
	now, ok := f.judge(bundles, d)
	if !ok {
		return
	}
	steps := 0
	try := func(change func()) bool {
		was := make(division, len(d))
		for h := range d {
			was[h] = slices.Clone(d[h])
		}
		change()
		steps += len(bundles)
		if o, ok := f.judge(bundles, d); ok && o.better(now) {
			now = o
			return true
		}
		copy(d, was)
		return false
	}
	for again := true; again && steps < maxClimb && ctx.Err() == nil; {
		again = false
		for p := range f.load {
			for h := range d {
				again = try(func() { d[h][p] = !d[h][p] }) || again
				again = try(func() { // for this host alone
					for o := range d {
						d[o][p] = o == h
					}
				}) || again
			}
			for q := range p {
				again = try(func() { // p for q
					for o := range d {
						d[o][p], d[o][q] = d[o][q], d[o][p]
					}
				}) || again
			}
		}
	}
	if now.better(*best) {
		*best = now
	}
}

// judge places each bundle by itself: where most of it is, among the access points
// that its host may use, and else where the load is least. It fails where a host has
// no access point for a bundle.
func (f *fleet) judge(bundles []bundle, d division) (outcome, bool) {
	o := outcome{at: make([]int, len(bundles))}
	load := slices.Clone(f.load)
	for _, i := range f.order {
		b := &bundles[i]
		at := -1
		for _, p := range b.item.Candidates {
			if d[b.host][p] && (at < 0 || f.prefers(b, p, at, load)) {
				at = p
			}
		}
		if at < 0 {
			return o, false
		}
		o.at[i] = at
		load[at] += b.item.Weight
	}
	o.score = f.score(bundles, o.at)
	return o, true
}

// prefers says whether p is better than q for a bundle.
func (f *fleet) prefers(b *bundle, p, q int, load []int) bool {
	kept, less := b.item.Kept(p)-b.item.Kept(q), load[p] < load[q]
	if f.Rebalance {
		return less || (load[p] == load[q] && kept > 0)
	}
	return kept > 0 || (kept == 0 && less)
}
