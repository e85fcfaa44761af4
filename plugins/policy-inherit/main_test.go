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

// cluster has access points a, b, …, each on a node of its own, all up, and hosts that
// are connected to them all, each with so many subsystems of two namespaces.
func cluster(points int, subsystems ...int) *policy.Request {
	req := &policy.Request{}
	var ids []string
	for i := range points {
		id := string(rune('a' + i))
		req.AccessPoints = append(req.AccessPoints, &policy.AccessPoint{Id: id, Node: "node-" + id, Protocol: policy.NVMe, Up: true})
		ids = append(ids, id)
	}
	for i, n := range subsystems {
		h := &policy.Host{Key: fmt.Sprint("host", i), Protocol: policy.NVMe}
		req.Hosts = append(req.Hosts, h)
		for k := range n {
			sub := fmt.Sprint("sub", i, "-", k)
			h.Connections = append(h.Connections, &policy.Connection{Subsystem: sub, AccessPoints: ids})
			for j := range 2 {
				ns := &policy.Namespace{Key: fmt.Sprint(sub, "/", j), Subsystem: sub, Weight: 1}
				req.Namespaces = append(req.Namespaces, ns)
				req.Placements = append(req.Placements, &policy.Placement{Host: h.Key, Namespace: ns.Key})
			}
		}
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
		if id != '-' {
			req.Placements[i].Optimized = string(id)
		}
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

func draining(req *policy.Request, id string) *policy.Request {
	for _, a := range req.AccessPoints {
		a.Draining = a.Draining || a.Id == id
	}
	return req
}

func TestRules(t *testing.T) {
	for _, c := range []struct {
		rule string
		req  *policy.Request
		want string
	}{
		{"a subsystem goes through one access point", cluster(3, 1), "aa"},
		{"where most of it is", present(cluster(3, 1), "b-"), "bb"},
		{"hosts do not share", cluster(3, 1, 1, 1), "aabbcc"},
		{"so that one must move", present(cluster(3, 1, 1), "bbbb"), "bbaa"},
		{"but no more than one", present(cluster(3, 1, 1, 1), "bbbbcc"), "bbaacc"},
		{"with more hosts than access points they may", present(cluster(2, 1, 1, 1), "aaaaaa"), "aaaaaa"},
		{"and new ones make the loads even", cluster(2, 1, 1, 1, 1), "aabbaabb"},
		{"a host has several access points, if they are free", cluster(3, 2, 1), "aabbcc"},
		{"and stays at those that it has", present(cluster(3, 3, 1), "aabbcc--"), "bbbbccaa"},
		{"rebalance puts evenness before staying", rebalance(present(cluster(2, 1, 1, 1, 1), "aaaaaaaa")), "bbbbaaaa"},
		{"one that is down is left", down(present(cluster(3, 1, 1), "aabb"), "a"), "ccbb"},
		{"one that drains is left", draining(present(cluster(3, 1, 1), "aabb"), "a"), "ccbb"},
		{"it gets nothing that is new, and does not count where hosts are kept apart", draining(cluster(3, 1, 1, 1), "b"), "aaccaa"},
		{"one that does not drain any more gets nothing back", present(cluster(3, 1, 1), "ccbb"), "ccbb"},
		{"all drain: nothing moves", draining(draining(present(cluster(2, 1, 1), "aabb"), "a"), "b"), "aabb"},
	} {
		if s := at(place(t, c.req)); s != c.want {
			t.Errorf("%s: %q, want %q", c.rule, s, c.want)
		}
	}
}

// score says how good placements are, the most important part first: hosts at an access
// point beside the first, with no more hosts than access points; moves; the sum of
// squares of the loads. A subsystem that a host reaches through two is not accepted.
func score(t *testing.T, c *policy.Cluster, where func(i int) string) [3]int {
	var s [3]int
	load := map[string]int{}
	points := map[bool]int{}
	for _, a := range c.AccessPoints {
		load[a.Id] = int(a.Load)
		if a.Up && a.Protocol == policy.NVMe {
			points[a.Draining]++
		}
	}
	hosts := map[string]bool{}
	used := map[[2]string]bool{}
	bundles := map[[2]string]string{}
	for i, p := range c.Pairs {
		if len(p.Candidates) == 0 {
			continue
		}
		id := where(i)
		if k := [2]string{p.Host.Key, p.Namespace.Subsystem}; bundles[k] == "" {
			bundles[k] = id
		} else if bundles[k] != id {
			t.Fatalf("host %s reaches subsystem %s through %s and %s", p.Host.Key, p.Namespace.Subsystem, bundles[k], id)
		}
		hosts[p.Host.Key], used[[2]string{p.Host.Key, id}] = true, true
		load[id]++
		if p.Present.Optimized != "" && p.Present.Optimized != id && !p.Present.Provisional {
			s[1]++
		}
	}
	if points[false] == 0 {
		points[false] = points[true]
	}
	if len(hosts) <= points[false] {
		at := map[string]int{}
		for k := range used {
			if at[k[1]]++; at[k[1]] > 1 {
				s[0]++
			}
		}
	}
	for _, l := range load {
		s[2] += l * l
	}
	if c.Rebalance {
		s[1], s[2] = s[2], s[1]
	}
	return s
}

// oracle finds the best score by trying everything, or gives up on large clusters.
func oracle(t *testing.T, c *policy.Cluster) (best [3]int, ok bool) {
	var bundles []*policy.Pair // the first pair of each
	index := make([]int, len(c.Pairs))
	ways := 1
	for i, p := range c.Pairs {
		at := slices.IndexFunc(bundles, func(b *policy.Pair) bool {
			return b.Host == p.Host && b.Namespace.Subsystem == p.Namespace.Subsystem
		})
		if at < 0 {
			at = len(bundles)
			bundles = append(bundles, p)
			if ways *= max(1, len(p.Candidates)); ways > 20_000 {
				return best, false
			}
		}
		index[i] = at
	}
	where := make([]string, len(bundles))
	found := false
	var try func(i int)
	try = func(i int) {
		if i == len(bundles) {
			s := score(t, c, func(i int) string { return where[index[i]] })
			if !found || slices.Compare(s[:], best[:]) < 0 {
				best, found = s, true
			}
			return
		}
		for _, a := range bundles[i].Candidates {
			where[i] = a.Id
			try(i + 1)
		}
		if len(bundles[i].Candidates) == 0 {
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
	for judged := 0; judged < 1000; {
		req := plugintest.RandomCluster(r)
		for _, a := range req.AccessPoints { // score knows one protocol only
			a.Protocol = policy.NVMe
		}
		for _, h := range req.Hosts {
			h.Protocol = policy.NVMe
		}
		c, err := policy.Read(req)
		if err != nil {
			t.Fatal(err)
		}
		want, ok := oracle(t, c)
		if !ok {
			continue
		}
		judged++
		where := map[[2]string]string{}
		for _, p := range place(t, req) {
			where[[2]string{p.Host, p.Namespace}] = p.Optimized
		}
		got := score(t, c, func(i int) string { return where[[2]string{c.Pairs[i].Host.Key, c.Pairs[i].Namespace.Key}] })
		if got != want {
			t.Fatalf("%v\nplaced as %v: %v, want %v", req, where, got, want)
		}
	}
}

func BenchmarkTenThousandPairs(b *testing.B) {
	req := plugintest.LargeCluster(100, 100, 12)
	settled := plugintest.LargeCluster(100, 100, 12)
	settled.Placements = place(b, req)
	settled.AccessPoints[3].Up = false
	few := plugintest.LargeCluster(8, 1250, 12)
	for i, n := range few.Namespaces { // ten subsystems each
		n.Subsystem = fmt.Sprint(n.Subsystem, i%10)
	}
	for _, h := range few.Hosts {
		ids := h.Connections[0].AccessPoints
		for i := range 10 {
			h.Connections = append(h.Connections, &policy.Connection{Subsystem: fmt.Sprint(h.Connections[0].Subsystem, i), AccessPoints: ids})
		}
	}
	for name, req := range map[string]*policy.Request{"new": req, "one of 12 down": settled, "few hosts": few} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				place(b, req)
			}
		})
	}
}
