package main

import (
	"cmp"
	"context"
	"slices"

	"github.com/mooring-io/mooring/sdk/policy"
	"github.com/mooring-io/mooring/sdk/policy/spread"
	"github.com/mooring-io/mooring/sdk/proto"
)

// fleet is the hosts of one protocol and what they are to be placed at.
type fleet struct {
	*policy.Cluster
	protocol proto.Protocol
	hosts    []string // keys
	points   int      // access points that hosts can be placed at
	load     []int    // of all access points, from elsewhere
	bundles  []bundle // by host and subsystem
	order    []int    // of bundles, in which they are placed one by one
}

// bundle is one host's namespaces of one subsystem, which go together.
type bundle struct {
	host  int // in hosts
	pairs []*policy.Pair
	item  spread.Item
}

// fleets sorts out what can be placed.
func fleets(c *policy.Cluster) []*fleet {
	index := map[string]int{}
	for i, a := range c.AccessPoints {
		index[a.GetId()] = i
	}
	type key struct{ host, subsystem string }
	seen := map[key]int{} // bundle+1
	all := map[proto.Protocol]*fleet{}
	var out []*fleet
	for _, p := range c.Pairs {
		if len(p.Candidates) == 0 {
			continue
		}
		f := all[p.Host.GetProtocol()]
		if f == nil {
			f = newFleet(c, p.Host.GetProtocol())
			all[f.protocol] = f
			out = append(out, f)
		}
		if n := len(f.hosts); n == 0 || f.hosts[n-1] != p.Host.GetKey() { // pairs come by host
			f.hosts = append(f.hosts, p.Host.GetKey())
		}
		k := key{p.Host.GetKey(), p.Namespace.GetSubsystem()}
		if seen[k] == 0 {
			b := bundle{host: len(f.hosts) - 1}
			for _, a := range p.Candidates {
				b.item.Candidates = append(b.item.Candidates, index[a.GetId()])
			}
			f.bundles = append(f.bundles, b)
			seen[k] = len(f.bundles)
		}
		b := &f.bundles[seen[k]-1]
		b.pairs = append(b.pairs, p)
		b.item.Weight += int(max(p.Namespace.GetWeight(), 1))
		if at, ok := index[p.Present.GetOptimized()]; ok {
			b.item.Present = append(b.item.Present, spread.Share{Point: at, Placements: policy.Kept(p.Present)})
		}
	}
	return out
}

func newFleet(c *policy.Cluster, protocol proto.Protocol) *fleet {
	f := &fleet{Cluster: c, protocol: protocol}
	up, draining := 0, 0
	for _, a := range c.AccessPoints {
		f.load = append(f.load, int(a.GetLoad()))
		if a.GetUp() && a.GetProtocol() == protocol {
			up++
			if a.GetDraining() {
				draining++
			}
		}
	}
	if f.points = up - draining; f.points == 0 {
		f.points = up
	}
	return f
}

// apart says whether there are access points enough for each host to have its own.
func (f *fleet) apart() bool { return len(f.hosts) <= f.points }

// place returns the access point of each bundle. Placed like this, they are not placed
// otherwise when it is asked again.
func (f *fleet) place(ctx context.Context) ([]int, error) {
	f.order = byWeight(f.bundles, f.Rebalance)
	best, err := f.search(ctx, f.bundles)
	for err == nil && best.score[0] > 0 { // hosts share: would it find another way from there?
		settled := slices.Clone(f.bundles)
		for i := range settled {
			settled[i].item.Present = []spread.Share{{Point: best.at[i], Placements: len(settled[i].pairs)}}
		}
		var next outcome
		if next, err = f.search(ctx, settled); err == nil {
			if next.score[0] >= best.score[0] {
				break
			}
			best = next
		}
	}
	return best.at, err
}

// search looks for the best placement of bundles. If they are of equal weight and
// each host has one, or hosts may share, spread finds it. Else the problem is one of
// packing: where there are not many bundles everything that may be better is tried,
// and where there are many what is good without that must do.
func (f *fleet) search(ctx context.Context, bundles []bundle) (outcome, error) {
	problem := spread.Problem{Load: f.load, Rebalance: f.Rebalance}
	single, equal := len(bundles) == len(f.hosts), true
	for _, b := range bundles {
		it := b.item
		if f.apart() && single {
			it.Class = 1
		}
		problem.Items = append(problem.Items, it)
		equal = equal && it.Weight == problem.Items[0].Weight
	}
	at, err := spread.Solve(ctx, problem)
	if err != nil {
		return outcome{}, err
	}
	best := outcome{at: at, score: f.score(bundles, at)}
	if equal && (single || !f.apart()) {
		return best, nil
	}
	if f.apart() {
		if err := f.divide(ctx, bundles, &best); err != nil {
			return best, err
		}
	}
	f.tryAll(bundles, &best)
	return best, ctx.Err()
}

// outcome is a placement of bundles.
type outcome struct {
	at    []int  // point of each bundle
	score [3]int // the most important part first; lower is better
}

func (o outcome) better(than outcome) bool { return slices.Compare(o.score[:], than.score[:]) < 0 }

// score says how good a placement is.
func (f *fleet) score(bundles []bundle, at []int) [3]int {
	shared, moved, uneven := 0, 0, 0
	load := slices.Clone(f.load)
	here := make([][]int, len(load)) // hosts
	for i, b := range bundles {
		p := at[i]
		load[p] += b.item.Weight
		moved += b.item.Placed() - b.item.Kept(p)
		if !slices.Contains(here[p], b.host) {
			here[p] = append(here[p], b.host)
		}
	}
	for p, l := range load {
		shared += max(0, len(here[p])-1)
		uneven += l * l
	}
	return f.rank(shared, moved, uneven)
}

// rank puts the parts of a score into their order.
func (f *fleet) rank(shared, moved, uneven int) [3]int {
	if !f.apart() {
		shared = 0
	}
	if f.Rebalance {
		return [3]int{shared, uneven, moved}
	}
	return [3]int{shared, moved, uneven}
}

// byWeight is the order in which bundles are placed one by one: those that may stay
// first, and the heavier ones.
func byWeight(bundles []bundle, rebalance bool) []int {
	order := make([]int, len(bundles))
	for i := range order {
		order[i] = i
	}
	stays := func(b *bundle) int {
		if !rebalance && len(b.item.Present) > 0 {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(order, func(i, j int) int {
		a, b := &bundles[i], &bundles[j]
		return cmp.Or(stays(a)-stays(b), b.item.Weight-a.item.Weight)
	})
	return order
}
