package path

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/meta/store"
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
	// Policy returns the policy of that name; nil, or a nil answer: Builtin.
	Policy func(name string) Policy
	Clock  store.Clock // nil: the machine's
	// MoveInterval is the least time between two moves of a path that a host's writes
	// cause. 0: one second
	MoveInterval time.Duration
	// PolicyTimeout bounds how long a policy may think. 0: two seconds
	PolicyTimeout time.Duration
	Logger        hclog.Logger
}

// Engine places paths. It is safe for use by many goroutines; several engines on
// one Meta agree, because every change is a compare-and-commit.
type Engine struct {
	meta     *meta.Meta
	policy   func(string) Policy
	clock    store.Clock
	interval time.Duration
	patience time.Duration
	log      hclog.Logger

	mu    sync.Mutex
	moved map[meta.PathKey]int64 // Boot time of the last move by a write
}

// NewEngine returns an engine without goroutines of its own; see Run.
func NewEngine(o Options) *Engine {
	e := &Engine{
		meta: o.Meta, policy: o.Policy, clock: o.Clock, log: o.Logger, moved: map[meta.PathKey]int64{},
		interval: cmp.Or(o.MoveInterval, time.Second), patience: cmp.Or(o.PolicyTimeout, 2*time.Second),
	}
	if e.clock == nil {
		e.clock = store.SystemClock()
	}
	if e.log == nil {
		e.log = hclog.NewNullLogger()
	}
	return e
}

// Place makes sure that a host's namespaces of a subsystem are placed and returns
// their paths with epochs, by NSID. It is called after meta.BeginAssociation. A
// policy that fails changes nothing; what has no path yet is then placed by Builtin.
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
	q, paths, tenant, err := e.request(ctx, nqn, h)
	if err != nil || len(q.Pairs) == 0 {
		return err
	}
	name, answer := e.ask(ctx, tenant, q)
	var changes []meta.PathChange
	for i, a := range answer {
		was := paths[a.Key]
		if a.equal(q.Pairs[i].Present) && was.Moves != 0 {
			continue
		}
		changes = append(changes, meta.PathChange{Expect: was.Moves, Path: meta.Path{
			Key: a.Key, Optimized: a.Optimized, NonOptimized: a.NonOptimized, Policy: name, Reason: a.Reason,
		}})
	}
	done, err := e.meta.SetPaths(ctx, changes)
	for _, p := range done {
		if was := paths[p.Key]; was.Optimized != p.Optimized {
			e.log.Info("path placed", "host", p.Key.Host.Name, "subsystem", p.Key.Subsystem, "nsid", p.Key.NSID,
				"optimized", p.Optimized, "epoch", p.Epoch, "reason", p.Reason)
		}
	}
	return err
}

// ask returns a valid answer, in the order of the pairs, and who gave it.
func (e *Engine) ask(ctx context.Context, tenant meta.Tenant, q Request) (string, []Placement) {
	if e.policy != nil {
		if p := e.policy(tenant.Policy); p != nil {
			answer, err := e.consult(ctx, p, q)
			if err == nil {
				return p.Name(), answer
			}
			e.log.Warn("the path policy gave no valid answer; placed paths stay", "policy", p.Name(), "tenant", tenant.Name, "error", err)
			return p.Name(), e.fallback(ctx, q)
		}
	}
	answer, err := e.consult(ctx, Builtin{}, q)
	if err != nil {
		e.log.Debug("no placement is possible", "error", err)
		answer = nil
	}
	return Builtin{}.Name(), answer
}

// fallback keeps what is placed and places the rest by the built-in rule.
func (e *Engine) fallback(ctx context.Context, q Request) []Placement {
	answer, err := e.consult(ctx, Builtin{}, q)
	if err != nil {
		return nil
	}
	for i, p := range q.Pairs {
		if p.Present.Optimized != "" {
			answer[i] = p.Present
		}
	}
	return answer
}

func (e *Engine) consult(ctx context.Context, p Policy, q Request) ([]Placement, error) {
	ctx, cancel := context.WithTimeout(ctx, e.patience)
	defer cancel()
	answer, err := p.Place(ctx, q)
	if err != nil {
		return nil, err
	}
	if err := Validate(q, answer); err != nil {
		return nil, err
	}
	at := make(map[meta.PathKey]int, len(q.Pairs))
	for i, pair := range q.Pairs {
		at[pair.Key] = i
	}
	slices.SortFunc(answer, func(a, b Placement) int { return at[a.Key] - at[b.Key] })
	return answer, nil
}

// request gathers what a policy must know of one host and subsystem.
func (e *Engine) request(ctx context.Context, nqn string, h meta.HostID) (Request, map[meta.PathKey]meta.Path, meta.Tenant, error) {
	var q Request
	var tenant meta.Tenant
	sub, err := e.meta.Subsystem(ctx, nqn)
	if err == nil {
		tenant, err = e.meta.Tenant(ctx, sub.Tenant)
	}
	if err != nil {
		return q, nil, tenant, err
	}
	if q.AccessPoints, err = e.accessPoints(ctx); err != nil {
		return q, nil, tenant, err
	}
	connected, err := e.connected(ctx, nqn, h)
	if err != nil {
		return q, nil, tenant, err
	}
	spaces, err := e.meta.Namespaces(ctx, nqn)
	if err != nil {
		return q, nil, tenant, err
	}
	present, err := e.meta.HostPaths(ctx, nqn, h)
	if err != nil {
		return q, nil, tenant, err
	}
	paths := make(map[meta.PathKey]meta.Path, len(present))
	for _, p := range present {
		paths[p.Key] = p
	}
	for _, n := range spaces {
		if h.Protocol == meta.NVMe && !n.VisibleHost(h.Name) {
			continue
		}
		key := meta.NewPathKey(h, nqn, n.NSID)
		q.Pairs = append(q.Pairs, Pair{Key: key, Connected: connected, Present: placement(paths[key])})
	}
	return q, paths, tenant, nil
}

func placement(p meta.Path) Placement {
	return Placement{Key: p.Key, Optimized: p.Optimized, NonOptimized: p.NonOptimized, Reason: p.Reason}
}

func (e *Engine) accessPoints(ctx context.Context) ([]AccessPoint, error) {
	all, err := e.meta.AccessPoints(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]AccessPoint, 0, len(all))
	for _, a := range all {
		out = append(out, AccessPoint{ID: a.ID, Node: a.Node.String(), Protocol: protocolOf(a.URL), Up: a.Up, Reason: a.Reason})
	}
	return out, nil
}

// connected returns where the host has living associations, the earliest first.
func (e *Engine) connected(ctx context.Context, nqn string, h meta.HostID) ([]string, error) {
	a, err := e.meta.HostAssociations(ctx, nqn, h)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, o := range a.Open { // in the order in which they began
		if !slices.Contains(out, o.AccessPoint) {
			out = append(out, o.AccessPoint)
		}
	}
	return out, nil
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

// Reconcile places again what every connected host has: after access points went
// up or down, namespaces came, or a tenant chose another policy. What need not move
// does not.
func (e *Engine) Reconcile(ctx context.Context) error {
	subsystems, err := e.meta.Subsystems(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, s := range subsystems {
		all, err := e.meta.Associations(ctx, s.NQN)
		if err != nil {
			return err
		}
		for _, a := range all {
			if len(a.Open) == 0 {
				continue
			}
			if _, err := e.Place(ctx, s.NQN, a.Host); err != nil {
				failed = append(failed, err)
			}
		}
	}
	return errors.Join(failed...)
}

// Run reconciles whenever Meta hints at a reason, until ctx ends.
func (e *Engine) Run(ctx context.Context) {
	hints := e.meta.Watch(ctx, meta.TopicAccessPoints, meta.TopicSessions, meta.TopicNamespaces, meta.TopicSubsystems, meta.TopicTenants)
	for range hints {
		if err := e.Reconcile(ctx); err != nil && ctx.Err() == nil {
			e.log.Warn("paths could not be placed", "error", err)
		}
	}
}

// Simulate says how a host's namespaces would be placed if it were connected at
// these access points, without changing anything.
func (e *Engine) Simulate(ctx context.Context, nqn string, h meta.HostID, connected []string) ([]Placement, error) {
	q, _, tenant, err := e.request(ctx, nqn, h)
	if err != nil {
		return nil, err
	}
	for i := range q.Pairs {
		q.Pairs[i].Connected = connected
	}
	_, answer := e.ask(ctx, tenant, q)
	return answer, nil
}
