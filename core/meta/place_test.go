package meta

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/uuid"
)

// unevenness is what a choice of nodes is judged by, the less the better: fewer replicas than asked for, then how unevenly they
// are spread over zones, then over racks.
func unevenness(chosen []Node, n int) [3]int {
	zones, racks := map[string]int{}, map[string]int{}
	for _, x := range chosen {
		zones[x.Zone]++
		racks[x.Zone+"/"+x.Rack]++
	}
	out := [3]int{n - len(chosen)}
	for _, c := range zones {
		out[1] += c * c
	}
	for _, c := range racks {
		out[2] += c * c
	}
	return out
}

// best is the least unevenness of any choice of n nodes that has the first one.
func best(first Node, others []Node, n int) [3]int {
	out := unevenness(nil, n+1) // above every other
	for set := range 1 << len(others) {
		chosen := []Node{first}
		for i, x := range others {
			if set&(1<<i) != 0 {
				chosen = append(chosen, x)
			}
		}
		if len(chosen) <= n {
			if u := unevenness(chosen, n); slices.Compare(u[:], out[:]) < 0 {
				out = u
			}
		}
	}
	return out
}

// TestSpread compares the choice of stores with every possible one, on small clusters of every shape.
func TestSpread(t *testing.T) {
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		nodes := map[uuid.UUID]Node{}
		var ranked []Store
		for i := range 1 + r.IntN(8) {
			n := Node{ID: uuid.UUID{byte(i)}, Zone: fmt.Sprint(r.IntN(1 + r.IntN(4))), Rack: fmt.Sprint(r.IntN(1 + r.IntN(4)))}
			nodes[n.ID] = n
			for j := range 1 + r.IntN(2) {
				ranked = append(ranked, Store{ID: uuid.UUID{byte(i), byte(j)}, Node: n.ID})
			}
		}
		r.Shuffle(len(ranked), func(i, j int) { ranked[i], ranked[j] = ranked[j], ranked[i] })
		n := 1 + r.IntN(5)
		got := spread(ranked, nodes, n)
		var chosen []Node
		seen := map[uuid.UUID]bool{}
		for _, s := range got {
			if seen[s.Node] {
				t.Fatalf("seed %d: node %s has two replicas", seed, s.Node)
			}
			seen[s.Node] = true
			chosen = append(chosen, nodes[s.Node])
		}
		if len(got) == 0 || got[0].ID != ranked[0].ID {
			t.Fatalf("seed %d: the first is not the best ranked", seed)
		}
		var others []Node
		for _, x := range nodes {
			if x.ID != got[0].Node {
				others = append(others, x)
			}
		}
		if g, w := unevenness(chosen, n), best(chosen[0], others, n); g != w {
			t.Errorf("seed %d: %d replicas on %+v: %v, possible is %v", seed, n, chosen, g, w)
		}
	}
}
