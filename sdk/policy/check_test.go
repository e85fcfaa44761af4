package policy_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/mooring-io/mooring/sdk/policy"
)

// request is one host that sees one namespace, with access points a and a2 on node 1,
// b on 2, c on 3, d on 4, and i of iSCSI.
func request(connected ...string) *policy.Request {
	req := &policy.Request{
		Hosts:      []*policy.Host{{Key: "h", Protocol: policy.NVMe, Connections: []*policy.Connection{{Subsystem: "s", AccessPoints: connected}}}},
		Namespaces: []*policy.Namespace{{Key: "n", Subsystem: "s"}},
		Placements: []*policy.Placement{{Host: "h", Namespace: "n", Optimized: "c", NonOptimized: []string{"b"}}},
	}
	for id, node := range map[string]string{"a": "1", "a2": "1", "b": "2", "c": "3", "d": "4"} {
		req.AccessPoints = append(req.AccessPoints, &policy.AccessPoint{Id: id, Node: node, Protocol: policy.NVMe, Up: true})
	}
	req.AccessPoints = append(req.AccessPoints, &policy.AccessPoint{Id: "i", Node: "5", Protocol: policy.ISCSI, Up: true})
	return req
}

func set(req *policy.Request, change func(*policy.AccessPoint), ids ...string) *policy.Request {
	for _, a := range req.AccessPoints {
		for _, id := range ids {
			if a.Id == id || id == "all" {
				change(a)
			}
		}
	}
	return req
}

func down(req *policy.Request, ids ...string) *policy.Request {
	return set(req, func(a *policy.AccessPoint) { a.Up = false }, ids...)
}

func draining(req *policy.Request, ids ...string) *policy.Request {
	return set(req, func(a *policy.AccessPoint) { a.Draining = true }, ids...)
}

func one(optimized string, non ...string) []*policy.Placement {
	return []*policy.Placement{{Host: "h", Namespace: "n", Optimized: optimized, NonOptimized: non, Reason: "because"}}
}

func TestCheck(t *testing.T) {
	silent := one("a", "b", "c")
	silent[0].Reason = ""
	verbose := one("a", "b", "c")
	verbose[0].Reason = strings.Repeat("x", policy.MaxReason+1)
	stranger := one("a", "b", "c")
	stranger[0].Namespace = "other"
	for _, c := range []struct {
		rule   string
		req    *policy.Request
		answer []*policy.Placement
		wrong  string // "": it is good
	}{
		{"good", request("a"), one("a", "b", "c"), ""},
		{"not answered", request("a"), nil, "not answered"},
		{"answered twice", request("a"), append(one("a", "b", "c"), one("a", "b", "c")...), "twice"},
		{"not asked for", request("a"), append(one("a", "b", "c"), stranger...), "not asked for"},
		{"no reason", request("a"), silent, "reason"},
		{"too long a reason", request("a"), verbose, "reason"},
		{"none", request("a"), one(""), "no optimized"},
		{"unknown", request("a"), one("x", "b", "c"), "x is gone"},
		{"down", down(request("a", "b"), "b"), one("b", "c", "d"), "b is down"},
		{"non-optimized and down", down(request("a", "b"), "b"), one("a", "b", "c"), "not up"},
		{"another protocol", request(), one("i", "b", "c"), "another protocol"},
		{"non-optimized of another protocol", request("a"), one("a", "i", "c"), "protocol"},
		{"where the host is not connected", request("a", "b"), one("c", "a", "b"), "not connected to c"},
		{"a host that is not connected can be anywhere", request(), one("c", "a", "b"), ""},
		{"a host whose connections are all down, too", down(request("a"), "a"), one("c", "a2", "b"), ""},
		{"draining", draining(request("a", "b"), "b"), one("b", "a", "c"), "b is draining"},
		{"draining, but there is no other", draining(request("b"), "b"), one("b", "a", "c"), ""},
		{"non-optimized and draining", draining(request("a", "b"), "b"), one("a", "b", "c"), "b\" as non-optimized, which is draining"},
		{"non-optimized and draining, and there are too few others", draining(request("a"), "b", "c"), one("a", "b", "d"), ""},
		{"optimized where all drain, beside others that do not", draining(request("b"), "b"), one("b", "c", "d"), ""},
		{"the same twice", request("a"), one("a", "b", "b"), "twice"},
		{"optimized again", request("a"), one("a", "a", "b"), "twice"},
		{"too many", request("a"), one("a", "b", "c", "d"), "3 non-optimized"},
		{"too few", request("a"), one("a", "b"), "1 non-optimized"},
		{"fewer if there are no more", down(request("a"), "b", "c", "d"), one("a", "a2"), ""},
		{"on one node", request("a"), one("a", "a2", "b"), "2 nodes"},
		{"on two nodes if there are no more", down(request("a"), "c", "d"), one("a", "a2", "b"), ""},
		{"nothing is up: it stays", down(request("a"), "all"), one("c", "b"), ""},
		{"nothing is up, and it changes", down(request("a"), "all"), one("a", "b"), "changes"},
	} {
		err := policy.Check(c.req, &policy.Response{Placements: c.answer})
		if c.wrong == "" && err != nil {
			t.Errorf("%s: %v", c.rule, err)
		}
		if c.wrong != "" && (!errors.Is(err, policy.ErrBadAnswer) || !strings.Contains(err.Error(), c.wrong)) {
			t.Errorf("%s: %v, want %q", c.rule, err, c.wrong)
		}
	}
	twice := request("a")
	twice.Hosts = append(twice.Hosts, twice.Hosts[0])
	if _, err := policy.Read(twice); !errors.Is(err, policy.ErrBadRequest) {
		t.Errorf("a host that is there twice: %v", err)
	}
}
