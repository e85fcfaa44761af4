package policy

import (
	"errors"
	"fmt"
	"slices"
)

// ErrBadAnswer says that a policy's answer cannot be used.
var ErrBadAnswer = errors.New("the policy's answer is invalid")

// Check says what is wrong with the answer to a request, with ErrBadAnswer. The core
// drops such an answer as a whole, and everything stays as it is.
//
// Every placement of the request is answered once, nothing else is, and each answer
// has a reason. The optimized access point is one of the pair's Candidates. Beside it
// there are as many non-optimized ones as there can be, up to MaxNonOptimized, all of
// them up, and the three are on as many different nodes as there are; none of a node that
// drains, if three others have access points that are up. Where nothing is up, the
// placement is what it was.
func Check(req *Request, resp *Response) error {
	c, err := Read(req)
	if err != nil {
		return err
	}
	bad := func(f string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrBadAnswer, fmt.Sprintf(f, args...))
	}
	type key struct{ host, namespace string }
	answers := make(map[key]*Placement, len(c.Pairs))
	for _, a := range resp.GetPlacements() {
		k := key{a.GetHost(), a.GetNamespace()}
		if answers[k] != nil {
			return bad("host %s, namespace %s is answered twice", k.host, k.namespace)
		}
		answers[k] = a
	}
	for _, p := range c.Pairs {
		k := key{p.Host.GetKey(), p.Namespace.GetKey()}
		a := answers[k]
		if a == nil {
			return bad("host %s, namespace %s is not answered", k.host, k.namespace)
		}
		delete(answers, k)
		if why := c.wrong(p, a); why != "" {
			return bad("host %s, namespace %s: %s", k.host, k.namespace, why)
		}
	}
	for k := range answers {
		return bad("host %s, namespace %s was not asked for", k.host, k.namespace)
	}
	return nil
}

// wrong says what is wrong with one answer, or nothing.
func (c *Cluster) wrong(p *Pair, a *Placement) string {
	switch {
	case a.GetReason() == "" || len(a.GetReason()) > MaxReason:
		return fmt.Sprintf("the reason has %d bytes, want 1 to %d", len(a.GetReason()), MaxReason)
	case len(p.Candidates) == 0:
		if a.GetOptimized() != p.Present.GetOptimized() || !slices.Equal(a.GetNonOptimized(), p.Present.GetNonOptimized()) {
			return "no access point is up, and it changes"
		}
		return ""
	case a.GetOptimized() == "":
		return "it gets no optimized access point"
	case !p.Candidate(a.GetOptimized()):
		return fmt.Sprintf("it is placed at %q, and %s", a.GetOptimized(), c.WhyNot(p, a.GetOptimized()))
	}
	nodes := map[string]bool{c.points[a.GetOptimized()].GetNode(): true}
	for i, id := range a.GetNonOptimized() {
		if id == a.GetOptimized() || slices.Contains(a.GetNonOptimized()[:i], id) {
			return fmt.Sprintf("it has %q twice", id)
		}
		if _, ok := slices.BinarySearchFunc(p.usable, id, byID); !ok {
			return fmt.Sprintf("it has %q as non-optimized, which is not up, or not of the host's protocol", id)
		}
		if !p.besides(id) {
			return fmt.Sprintf("it has %q as non-optimized, which is draining, and three other nodes are not", id)
		}
		nodes[c.points[id].GetNode()] = true
	}
	if got, want := len(a.GetNonOptimized()), min(MaxNonOptimized, len(p.usable)-1); got != want {
		return fmt.Sprintf("it has %d non-optimized access points, and can have %d", got, want)
	}
	if want := min(1+MaxNonOptimized, p.nodes); len(nodes) < want {
		return fmt.Sprintf("its access points are on %d nodes, and can be on %d", len(nodes), want)
	}
	return ""
}
