package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/plugintest"
	"github.com/mooring-io/mooring/sdk/policy"
)

func TestConformance(t *testing.T) {
	plugintest.RunPolicy(t, plugintest.PolicyConfig{New: func() sdk.PolicyPlugin { return plugin{} }})
}

func place(t testing.TB, req *policy.Request) []*policy.Placement {
	t.Helper()
	resp, err := plugin{}.Place(context.Background(), req)
	if err == nil {
		err = policy.Check(req, resp)
	}
	if err != nil {
		t.Fatalf("%v: %v", req, err)
	}
	return resp.Placements
}

// cluster has access points a, b, …, each on a node of its own, all up, and one host
// connected to them all with that many namespaces in group g.
func cluster(points, namespaces int) *policy.Request {
	k := &policy.Connection{Subsystem: "sub"}
	req := &policy.Request{Hosts: []*policy.Host{{Key: "h", Protocol: policy.NVMe, Connections: []*policy.Connection{k}}}}
	for i := range points {
		id := string(rune('a' + i))
		req.AccessPoints = append(req.AccessPoints, &policy.AccessPoint{Id: id, Node: "node-" + id, Protocol: policy.NVMe, Up: true})
		k.AccessPoints = append(k.AccessPoints, id)
	}
	for i := range namespaces {
		n := &policy.Namespace{Key: fmt.Sprint("ns", i), Subsystem: "sub", Group: "g", Weight: 1}
		req.Namespaces = append(req.Namespaces, n)
		req.Placements = append(req.Placements, &policy.Placement{Host: "h", Namespace: n.Key})
	}
	return req
}

// at is where each placement's optimized access point is, as one word.
func at(ps []*policy.Placement) (s string) {
	for _, p := range ps {
		s += p.Optimized
	}
	return s
}

func present(req *policy.Request, ids string) *policy.Request {
	for i, id := range ids {
		req.Placements[i].Optimized = string(id)
	}
	return req
}

func TestRules(t *testing.T) {
	for _, c := range []struct {
		rule string
		req  *policy.Request
		want string
	}{
		{"a group goes apart", cluster(3, 3), "abc"},
		{"as far as there are access points", cluster(3, 5), "abcab"},
		{"the group's rule comes before staying", present(cluster(3, 3), "aab"), "acb"},
		{"what need not move stays", present(cluster(3, 2), "cb"), "cb"},
		{"staying comes before evenness", present(ungrouped(cluster(3, 3)), "aaa"), "aaa"},
		{"what is new makes it even", present(ungrouped(cluster(3, 6)), "aab"), "aabcbc"},
		{"rebalance puts evenness before staying", rebalance(present(ungrouped(cluster(3, 6)), "aaaabb")), "ccaabb"},
		{"one that is down is left", down(present(cluster(3, 3), "abc"), "b"), "aac"},
		{"one that drains is left", draining(present(cluster(3, 3), "abc"), "b"), "aac"},
		{"and gets nothing that is new", draining(cluster(3, 4), "a"), "bcbc"},
		{"one that does not drain any more gets nothing back", present(cluster(3, 2), "ac"), "ac"},
		{"unless the group goes apart by that", present(cluster(3, 3), "aac"), "abc"},
		{"all drain: nothing moves", draining(draining(present(cluster(2, 2), "ab"), "a"), "b"), "ab"},
	} {
		if s := at(place(t, c.req)); s != c.want {
			t.Errorf("%s: %q, want %q", c.rule, s, c.want)
		}
	}
}

func draining(req *policy.Request, id string) *policy.Request {
	for _, a := range req.AccessPoints {
		a.Draining = a.Draining || a.Id == id
	}
	return req
}

func ungrouped(req *policy.Request) *policy.Request {
	for _, n := range req.Namespaces {
		n.Group = ""
	}
	return req
}

func rebalance(req *policy.Request) *policy.Request { req.Rebalance = true; return req }

func down(req *policy.Request, id string) *policy.Request {
	for _, a := range req.AccessPoints {
		a.Up = a.Up && a.Id != id
	}
	return req
}

// score says how good placements are, the most important part first: namespaces of one
// host and group at one access point; moves; the sum of squares of the loads.
func score(req *policy.Request, where map[[2]string]string) [3]int {
	var s [3]int
	load := map[string]int{}
	for _, a := range req.AccessPoints {
		load[a.Id] = int(a.Load)
	}
	groups := map[string]string{}
	for _, n := range req.Namespaces {
		groups[n.Key] = n.Group
	}
	seen := map[[3]string]bool{}
	for _, p := range req.Placements {
		id := where[[2]string{p.Host, p.Namespace}]
		if id == "" {
			continue // nothing is up
		}
		load[id]++
		if p.Optimized != "" && p.Optimized != id && !p.Provisional {
			s[1]++
		}
		if g := groups[p.Namespace]; g != "" {
			if k := [3]string{p.Host, g, id}; seen[k] {
				s[0]++
			} else {
				seen[k] = true
			}
		}
	}
	for _, l := range load {
		s[2] += l * l
	}
	if req.Rebalance {
		s[1], s[2] = s[2], s[1]
	}
	return s
}

// oracle finds the best score by trying everything, or gives up on large clusters.
func oracle(t *testing.T, req *policy.Request) (best [3]int, ok bool) {
	c, err := policy.Read(req)
	if err != nil {
		t.Fatal(err)
	}
	ways := 1
	for _, p := range c.Pairs {
		if ways *= max(1, len(p.Candidates)); ways > 20_000 {
			return best, false
		}
	}
	where := map[[2]string]string{}
	found := false
	var try func(i int)
	try = func(i int) {
		if i == len(c.Pairs) {
			if s := score(req, where); !found || slices.Compare(s[:], best[:]) < 0 {
				best, found = s, true
			}
			return
		}
		p := c.Pairs[i]
		for _, a := range p.Candidates {
			where[[2]string{p.Host.Key, p.Namespace.Key}] = a.Id
			try(i + 1)
		}
		if len(p.Candidates) == 0 {
			try(i + 1)
		}
	}
	try(0)
	return best, true
}

// No placement of a small cluster is better than the policy's: its own rule first,
// then staying, then evenness.
func TestOracle(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if v, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for judged := 0; judged < 500; {
		req := plugintest.RandomCluster(r)
		want, ok := oracle(t, req)
		if !ok {
			continue
		}
		judged++
		where := map[[2]string]string{}
		for _, p := range place(t, req) {
			if p.Reason != "no access point is up" {
				where[[2]string{p.Host, p.Namespace}] = p.Optimized
			}
		}
		if got := score(req, where); got != want {
			t.Fatalf("%v\nplaced as %v: %v, want %v", req, where, got, want)
		}
	}
}

// The loads of new placements differ by at most one.
func TestEven(t *testing.T) {
	req := plugintest.LargeCluster(7, 11, 5)
	load := map[string]int{}
	for _, p := range place(t, req) {
		load[p.Optimized]++
	}
	lowest, highest := 1000, 0
	for _, a := range req.AccessPoints {
		lowest, highest = min(lowest, load[a.Id]), max(highest, load[a.Id])
	}
	if highest-lowest > 1 {
		t.Errorf("loads %v", load)
	}
}

func BenchmarkTenThousandPairs(b *testing.B) {
	req := plugintest.LargeCluster(100, 100, 12)
	settled := plugintest.LargeCluster(100, 100, 12)
	settled.Placements = place(b, req)
	settled.AccessPoints[3].Up = false
	for name, req := range map[string]*policy.Request{"new": req, "one of 12 down": settled} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				place(b, req)
			}
		})
	}
}
