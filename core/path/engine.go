package path

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/meta/store"
	"github.com/mooring-io/mooring/sdk/policy"
)

// State is what a host sees at one access point, with NVMe's numbers. Base 8.1.3
type State uint8

// The states.
const (
	Optimized    State = 1
	NonOptimized State = 2
	Inaccessible State = 3
	Change       State = 15 // shown by who moves a path while it does
)

// StateAt says what a host sees of a path at an access point.
func StateAt(p meta.Path, accessPoint string) State {
	switch {
	case p.Optimized == accessPoint:
		return Optimized
	case slices.Contains(p.NonOptimized, accessPoint):
		return NonOptimized
	}
	return Inaccessible
}

// ErrTooSoon says that a path moved a moment ago and must stay for now; see TooSoonError.
var ErrTooSoon = errors.New("path moved too recently")

// TooSoonError is an ErrTooSoon with the time to wait.
type TooSoonError struct {
	Key   meta.PathKey
	After time.Duration
}

func (e *TooSoonError) Error() string {
	return fmt.Sprintf("path of %s moved too recently; it may move again in %v", e.Key, e.After)
}

// Is makes it an ErrTooSoon.
func (e *TooSoonError) Is(target error) bool { return target == ErrTooSoon }

// Options configure an Engine.
type Options struct {
	Meta *meta.Meta
	// Node is whose engine it is. Of the nodes that are alive, the one with the lowest
	// slot has policies decide. uuid.Nil: this one does.
	Node uuid.UUID
	// Policy returns the policy that tenants choose by that name. nil: there are none,
	// and Builtin decides everything.
	Policy func(ctx context.Context, name string) (policy.Policy, error)
	Clock  store.Clock // nil: the machine's
	// MoveInterval is the least time between two moves of a path that a host's writes
	// cause. 0: one second
	MoveInterval time.Duration
	// PolicyTimeout bounds how long a policy may think. 0: two seconds
	PolicyTimeout time.Duration
	// Settle is how long Run waits for more after a host connected or left: hosts make
	// their connections one after the other. 0: one second
	Settle time.Duration
	Logger hclog.Logger
}

// Engine places paths. It is safe for use by many goroutines; several engines on
// one Meta agree, because every change is a compare-and-commit.
type Engine struct {
	meta     *meta.Meta
	node     uuid.UUID
	policy   func(context.Context, string) (policy.Policy, error)
	clock    store.Clock
	interval time.Duration
	patience time.Duration
	calm     time.Duration
	log      hclog.Logger
	poke     chan struct{} // capacity 1

	deciding sync.Mutex // one Reconcile at a time
	linking  sync.Mutex // one decision on a link at a time

	mu    sync.Mutex
	moved map[meta.PathKey]int64 // Boot time of the last move by a write
	left  pace                   // of paths that leave nodes that drain
}

// NewEngine returns an engine without goroutines of its own; see Run.
func NewEngine(o Options) *Engine {
	e := &Engine{
		meta: o.Meta, node: o.Node, policy: o.Policy, clock: o.Clock, log: o.Logger, moved: map[meta.PathKey]int64{},
		interval: cmp.Or(o.MoveInterval, time.Second), patience: cmp.Or(o.PolicyTimeout, 2*time.Second),
		calm: cmp.Or(o.Settle, time.Second), poke: make(chan struct{}, 1),
	}
	if e.clock == nil {
		e.clock = store.SystemClock()
	}
	if e.log == nil {
		e.log = hclog.NewNullLogger()
	}
	return e
}

// Place makes sure that a host can reach its namespaces of a subsystem and returns
// their paths with epochs, by NSID. It is called after meta.BeginAssociation, and
// asks no policy: what has no path yet, or none that the host could use, is placed
// by Builtin, until Run has the policy decide.
func (e *Engine) Place(ctx context.Context, nqn string, h meta.HostID) ([]meta.Path, error) {
	for range 10 {
		err := e.place(ctx, nqn, h)
		if errors.Is(err, meta.ErrConflict) {
			continue // somebody else placed it
		}
		if err != nil {
			return nil, fmt.Errorf("place the namespaces of host %s: %w", h.Name, err)
		}
		return e.meta.HostPaths(ctx, nqn, h)
	}
	return nil, fmt.Errorf("place the namespaces of host %s: %w", h.Name, meta.ErrConflict)
}

func (e *Engine) place(ctx context.Context, nqn string, h meta.HostID) error {
	s, err := e.host(ctx, nqn, h)
	if err != nil {
		return err
	}
	if s.subsystems[nqn].Redirects() {
		_, err = e.commit(ctx, s, s.follow(nqn))
		return err
	}
	_, err = e.rescue(ctx, s.request(BuiltinName, false), s)
	return err
}

// rescue has Builtin place the pairs of a request that have no path that their host
// could use, and leaves all others as they are.
func (e *Engine) rescue(ctx context.Context, req *policy.Request, s *snapshot) ([]meta.Path, error) {
	c, err := policy.Read(req)
	if err != nil {
		return nil, err
	}
	var lost policy.Response
	loads := loadsOf(c)
	for _, p := range c.Pairs {
		if !reachable(p) && len(p.Candidates) > 0 {
			lost.Placements = append(lost.Placements, placeOne(c, p, loads))
		}
	}
	return e.commit(ctx, s, s.placed(BuiltinName, &lost))
}

// reachable says whether a host has a connection, or could have one, to an access point
// where the pair is optimized or non-optimized.
func reachable(p *policy.Pair) bool {
	return p.Reaches(p.Present.GetOptimized()) || slices.ContainsFunc(p.Present.GetNonOptimized(), p.Reaches)
}

// placed are the paths of an answer that was found to be good.
func (s *snapshot) placed(name string, answer *policy.Response) []meta.Path {
	var out []meta.Path
	for _, a := range answer.GetPlacements() {
		out = append(out, meta.Path{
			Key:       s.keys[pairKey{a.GetHost(), a.GetNamespace()}],
			Optimized: a.GetOptimized(), NonOptimized: a.GetNonOptimized(), Policy: name, Reason: a.GetReason(),
		})
	}
	return out
}

// commit writes those of the paths that are not there already.
func (e *Engine) commit(ctx context.Context, s *snapshot, paths []meta.Path) ([]meta.Path, error) {
	var changes []meta.PathChange
	for _, p := range paths {
		was := s.paths[p.Key]
		if was.Optimized == p.Optimized && slices.Equal(was.NonOptimized, p.NonOptimized) && was.Policy == p.Policy && was.Reason == p.Reason {
			continue
		}
		changes = append(changes, meta.PathChange{Expect: was.Moves, Path: p})
	}
	done, err := e.meta.SetPaths(ctx, changes)
	for _, p := range done {
		e.logPlaced(s.paths[p.Key], p)
	}
	return done, err
}

func (e *Engine) logPlaced(was, p meta.Path) {
	if was.Optimized != p.Optimized {
		e.log.Info("path placed", "host", p.Key.Host.Name, "subsystem", p.Key.Subsystem, "nsid", p.Key.NSID,
			"from", was.Optimized, "optimized", p.Optimized, "epoch", p.Epoch, "policy", p.Policy, "reason", p.Reason)
	}
}

// Reconcile has the policy of each tenant decide anew where every connected host finds
// its namespaces. A policy that fails changes nothing, but for what has no path that
// its host could use: that is placed by Builtin. The error joins those of the policies.
// Paths leave nodes that drain at a bounded pace, which may need further calls: Run makes them.
func (e *Engine) Reconcile(ctx context.Context) error {
	_, err := e.decideAll(ctx, false)
	return err
}

// Rebalance is Reconcile, but evenness comes before staying.
func (e *Engine) Rebalance(ctx context.Context) error {
	defer e.Nudge() // for what the pace held back
	_, err := e.decideAll(ctx, true)
	return err
}

// round is what a call of reconcile leaves.
type round struct {
	drains bool // a node does
	held   bool // paths that are to leave such nodes wait for their turn
}

func (e *Engine) decideAll(ctx context.Context, rebalance bool) (round, error) {
	e.deciding.Lock()
	defer e.deciding.Unlock()
	for range 10 {
		r, err := e.reconcile(ctx, rebalance)
		if !errors.Is(err, meta.ErrConflict) {
			return r, err
		}
	}
	return round{}, fmt.Errorf("place paths: %w", meta.ErrConflict)
}

func (e *Engine) reconcile(ctx context.Context, rebalance bool) (round, error) {
	s, err := e.all(ctx)
	if err != nil {
		return round{}, err
	}
	r := round{drains: slices.ContainsFunc(s.points, func(a meta.AccessPoint) bool { return a.Draining })}
	failed := []error{e.meta.ForgetLinks(ctx, s.forsaken())}
	for _, name := range s.policies() {
		held, err := e.decide(ctx, s, name, rebalance)
		if errors.Is(err, meta.ErrConflict) {
			return r, err
		}
		r.held = r.held || held
		failed = append(failed, err)
	}
	return r, errors.Join(failed...)
}

// decide has one policy place what it is to place. held says that paths wait for their turn to leave a node that drains.
func (e *Engine) decide(ctx context.Context, s *snapshot, name string, rebalance bool) (held bool, err error) {
	req := s.request(name, rebalance)
	answer, by, err := e.ask(ctx, name, req)
	if err != nil {
		_, lost := e.rescue(ctx, req, s)
		return false, errors.Join(err, lost)
	}
	paths, held, err := e.paced(req, s, s.placed(by, answer))
	if err != nil {
		return false, err
	}
	done, err := e.commit(ctx, s, paths)
	for _, p := range done { // the next policy sees where these are now
		s.paths[p.Key] = p
	}
	return held, err
}

// ask returns a good answer, and who gave it. Where there is nothing to choose, the
// policy is not bothered.
func (e *Engine) ask(ctx context.Context, name string, req *policy.Request) (*policy.Response, string, error) {
	if e.policy == nil || !choice(req) {
		answer, err := Builtin{}.Place(ctx, req)
		return answer, BuiltinName, err
	}
	ctx, cancel := context.WithTimeout(ctx, e.patience)
	defer cancel()
	p, err := e.policy(ctx, name)
	if err != nil {
		return nil, "", fmt.Errorf("policy %s: %w", name, err)
	}
	for _, a := range req.Placements {
		if a.Provisional {
			a.Reason = "" // not its own
		}
	}
	answer, err := p.Place(ctx, req)
	if err == nil {
		err = policy.Check(req, answer)
	}
	if err != nil {
		return nil, "", fmt.Errorf("policy %s: %w", name, err)
	}
	return answer, name, nil
}

// choice says whether any host has more than one access point to choose from.
func choice(req *policy.Request) bool {
	up := map[any]int{}
	for _, a := range req.GetAccessPoints() {
		if a.GetUp() {
			up[a.GetProtocol()]++
		}
	}
	return slices.ContainsFunc(req.GetHosts(), func(h *policy.Host) bool { return up[h.GetProtocol()] > 1 })
}

// Written moves a path because the host writes at a non-optimized access point: that
// one becomes the optimized one, and the epoch grows. It returns the path as it is
// then; where it is there already, nothing changes. Only a write may call it. Moves
// follow each other at the move interval at the earliest: TooSoonError.
func (e *Engine) Written(ctx context.Context, k meta.PathKey, accessPoint string) (meta.Path, error) {
	for range 10 {
		p, err := e.meta.Path(ctx, k)
		if err != nil || p.Optimized == accessPoint {
			return p, err
		}
		if !slices.Contains(p.NonOptimized, accessPoint) {
			return p, fmt.Errorf("%s is inaccessible at %s: %w", k, accessPoint, meta.ErrInvalid)
		}
		if err := e.mayMove(p.Key); err != nil {
			return p, err
		}
		next := p
		next.Policy, next.Reason = "host", "the host wrote there"
		next.Optimized = accessPoint
		next.NonOptimized = nil
		for _, id := range append([]string{p.Optimized}, p.NonOptimized...) {
			if id != "" && id != accessPoint && len(next.NonOptimized) < meta.MaxNonOptimized {
				next.NonOptimized = append(next.NonOptimized, id)
			}
		}
		slices.Sort(next.NonOptimized)
		next, err = e.meta.SetPath(ctx, p.Moves, next)
		if errors.Is(err, meta.ErrConflict) {
			continue
		}
		if err == nil {
			e.noteMove(p.Key)
			e.log.Info("path moved by a write", "host", k.Host.Name, "subsystem", k.Subsystem, "nsid", k.NSID,
				"from", p.Optimized, "to", accessPoint, "epoch", next.Epoch)
		}
		return next, err
	}
	return meta.Path{}, fmt.Errorf("move the path of %s: %w", k, meta.ErrConflict)
}

func (e *Engine) mayMove(k meta.PathKey) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.clock.Boot()
	for k, at := range e.moved { // what is past the interval does not matter any more
		if now-at >= int64(e.interval) {
			delete(e.moved, k)
		}
	}
	if at, ok := e.moved[k]; ok {
		return &TooSoonError{Key: k, After: e.interval - time.Duration(now-at)}
	}
	return nil
}

func (e *Engine) noteMove(k meta.PathKey) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.moved[k] = e.clock.Boot()
}

// How long Run waits for more at most, while hosts keep connecting, and before it tries
// again after a failure.
const (
	maxSettle = 5 * time.Second
	minRetry  = time.Second
	maxRetry  = 30 * time.Second
)

// Nudge has Run decide soon: something that is not in Meta has changed, such as a
// policy's configuration.
func (e *Engine) Nudge() {
	select {
	case e.poke <- struct{}{}:
	default:
	}
}

// Run reconciles whenever Meta hints at a reason, until ctx ends: at once after most,
// after a while when hosts connect or leave. While a node drains it looks again and again: a host's
// write may move a path back there.
func (e *Engine) Run(ctx context.Context) {
	hints := e.meta.Watch(ctx, meta.TopicAccessPoints, meta.TopicSessions, meta.TopicNamespaces, meta.TopicSubsystems, meta.TopicTenants, meta.TopicVolumes,
		meta.TopicAssociations, meta.TopicNodes)
	due := time.NewTimer(0)
	defer due.Stop()
	var since time.Time // of the first change that waits; zero: none does
	retry, said := minRetry, ""
	soon := func(d time.Duration) {
		if since.IsZero() {
			since = time.Now()
		}
		due.Reset(min(d, max(0, time.Until(since.Add(maxSettle)))))
	}
	for {
		select {
		case topics, ok := <-hints:
			if !ok {
				return
			}
			if len(topics) == 1 && topics[0] == meta.TopicAssociations {
				soon(e.calm)
			} else {
				soon(0)
			}
		case <-e.poke:
			soon(0)
		case <-due.C:
			since = time.Time{}
			r, err := e.turn(ctx)
			if err == nil || ctx.Err() != nil {
				retry, said = minRetry, ""
				switch {
				case r.held:
					due.Reset(leaveEvery)
				case r.drains:
					due.Reset(drainChecks * e.calm)
				}
				continue
			}
			if err.Error() != said {
				said = err.Error()
				e.log.Warn("paths could not be placed; those that are placed stay, and it is tried again", "error", err)
			}
			due.Reset(retry)
			retry = min(2*retry, maxRetry)
		}
	}
}

// turn reconciles if that is for this node to do.
func (e *Engine) turn(ctx context.Context) (round, error) {
	mine, err := e.mine(ctx)
	if err != nil || !mine {
		return round{}, err
	}
	return e.decideAll(ctx, false)
}

// mine says whether this node is the one that has policies decide. Two nodes that both
// think so do no harm: each change is compared with what it was decided on.
func (e *Engine) mine(ctx context.Context) (bool, error) {
	if e.node == uuid.Nil {
		return true, nil
	}
	sessions, err := e.meta.Sessions(ctx)
	if err != nil {
		return false, err
	}
	nodes, err := e.meta.Nodes(ctx)
	if err != nil {
		return false, err
	}
	slices.SortFunc(nodes, func(a, b meta.Node) int { return a.Slot - b.Slot })
	for _, n := range nodes {
		if slices.ContainsFunc(sessions, func(s meta.SessionInfo) bool { return s.Node == n.ID }) {
			return n.ID == e.node, nil
		}
	}
	return false, nil
}
