package path

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/sdk/policy"
)

// At most leavePaths paths leave nodes that drain in each leaveEvery, so that hosts and nodes are not busy with
// thousands of moves at once.
const (
	leavePaths = 50
	leaveEvery = time.Second
)

// drainChecks times what Run waits for hosts to settle is how often it looks whether a path was moved back to a node
// that drains.
const drainChecks = 5

// pace counts what has left in the present span of time.
type pace struct {
	began int64 // Boot time
	count int
}

// mayLeave says how many of so many paths may leave nodes that drain now, and counts them.
func (e *Engine) mayLeave(want int) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now := e.clock.Boot(); e.left.count == 0 || now-e.left.began >= int64(leaveEvery) {
		e.left = pace{began: now}
	}
	n := min(want, leavePaths-e.left.count)
	e.left.count += n
	return n
}

// paced leaves out those of the paths that leave a node only because it drains, and whose turn it is not yet.
func (e *Engine) paced(req *policy.Request, s *snapshot, paths []meta.Path) (now []meta.Path, held bool, err error) {
	if !slices.ContainsFunc(s.points, func(a meta.AccessPoint) bool { return a.Draining }) {
		return paths, false, nil
	}
	c, err := policy.Read(req)
	if err != nil {
		return nil, false, err
	}
	to := map[meta.PathKey]string{}
	for _, p := range paths {
		to[p.Key] = p.Optimized
	}
	var leaving []meta.PathKey // those of a host one after the other
	for _, p := range c.Pairs {
		was, key := p.Present.GetOptimized(), s.keys[pairKey{p.Host.GetKey(), p.Namespace.GetKey()}]
		if c.AccessPoint(was).GetDraining() && p.Reaches(was) && to[key] != was {
			leaving = append(leaving, key)
		}
	}
	wait := map[meta.PathKey]bool{}
	for _, key := range leaving[e.mayLeave(len(leaving)):] {
		wait[key] = true
	}
	return slices.DeleteFunc(paths, func(p meta.Path) bool { return wait[p.Key] }), len(wait) > 0, nil
}

// leaves says whether what is at an access point is to go to another one: it drains, and one of its protocol that is
// up does not.
func (s *snapshot) leaves(a meta.AccessPoint) bool {
	return a.Draining && slices.ContainsFunc(s.points, func(o meta.AccessPoint) bool {
		return o.Up && !o.Draining && protocolOf(o.URL) == protocolOf(a.URL)
	})
}

// Irreplaceable lists the access points of a node that are up, while no other node that does not drain has one
// of their protocol up: their paths could go nowhere if the node drained.
func (e *Engine) Irreplaceable(ctx context.Context, node uuid.UUID) ([]meta.AccessPoint, error) {
	points, err := e.meta.AccessPoints(ctx)
	points = slices.DeleteFunc(points, func(a meta.AccessPoint) bool { return a.Redirector })
	var out []meta.AccessPoint
	for _, a := range points {
		if a.Node == node && a.Up && !slices.ContainsFunc(points, func(o meta.AccessPoint) bool {
			return o.Node != node && o.Up && !o.Draining && protocolOf(o.URL) == protocolOf(a.URL)
		}) {
			out = append(out, a)
		}
	}
	return out, err
}

// Left counts the paths of connected hosts that are optimized at access points of a node, and says why they do not
// leave it although it drains; "": they are about to.
func (e *Engine) Left(ctx context.Context, node uuid.UUID) (paths int, why string, err error) {
	s, err := e.all(ctx)
	if err != nil {
		return 0, "", err
	}
	for _, name := range s.policies() {
		req := s.request(name, false)
		c, err := policy.Read(req)
		if err != nil {
			return 0, "", err
		}
		movable := false
		for _, p := range c.Pairs {
			switch at := c.AccessPoint(p.Present.GetOptimized()); {
			case at.GetNode() != node.String():
				continue
			case !p.Stays() && len(p.Candidates) > 0:
				movable = true
			case why == "" && len(p.Connected) > 0:
				why = fmt.Sprintf("host %s is connected to no node that does not drain", p.Host.GetName())
			case why == "":
				why = fmt.Sprintf("host %s has nowhere else to go", p.Host.GetName())
			}
			paths++
		}
		if movable {
			if _, _, err := e.ask(ctx, name, req); err != nil {
				why = err.Error()
			}
		}
	}
	return paths, why, nil
}
