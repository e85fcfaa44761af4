package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/meta"
)

// findNode returns a node by its name.
func (a *agent) findNode(ctx context.Context, name string) (meta.Node, error) {
	nodes, err := a.meta.Nodes(ctx)
	if err != nil {
		return meta.Node{}, err
	}
	if i := slices.IndexFunc(nodes, func(n meta.Node) bool { return n.Name == name }); i >= 0 {
		return nodes[i], nil
	}
	return meta.Node{}, fmt.Errorf("node %s: %w", name, meta.ErrNotFound)
}

// DrainNode implements admin.Agent.
func (a *agent) DrainNode(ctx context.Context, name string, force bool) error {
	if a.quorum == nil {
		return errAlone
	}
	n, err := a.findNode(ctx, name)
	if err != nil || n.Draining {
		return err
	}
	if n.Witness {
		return fmt.Errorf("node %s is a witness and holds nothing: %w", name, meta.ErrConflict)
	}
	why, err := a.unsafeToDrain(ctx, n)
	if err != nil {
		return err
	}
	last, err := a.paths.Irreplaceable(ctx, n.ID)
	if err != nil {
		return err
	}
	for _, p := range last {
		why = append(why, fmt.Sprintf("hosts at %s: no other node has an access point of that protocol that is up and does not drain; add one, or -force begins all the same and leaves their paths where they are", p.URL))
	}
	if why != nil && !force {
		return &meta.InUseError{What: "node " + name, Users: why}
	}
	if err := a.meta.SetNodeDraining(ctx, n.ID, true); err != nil {
		return err
	}
	a.event(meta.Info, "node-draining", name, "it gets no new extents and paths, its replicas are made on other nodes, and its paths move there")
	return nil
}

// UndrainNode implements admin.Agent. What was moved stays where it is.
func (a *agent) UndrainNode(ctx context.Context, name string) error {
	if a.quorum == nil {
		return errAlone
	}
	n, err := a.findNode(ctx, name)
	if err != nil || !n.Draining {
		return err
	}
	if err := a.meta.SetNodeDraining(ctx, n.ID, false); err != nil {
		return err
	}
	a.event(meta.Info, "node-undrained", name, "it takes new extents and paths again")
	return nil
}

// unsafeToDrain says which volume would have fewer replicas than it is to have without a node, if any.
func (a *agent) unsafeToDrain(ctx context.Context, n meta.Node) ([]string, error) {
	on, err := a.storesOf(ctx, n.ID)
	if err != nil {
		return nil, err
	}
	vols, err := a.meta.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range vols {
		there := false
		if err := a.meta.Extents(ctx, v.ID, func(_ uint32, e meta.Extent) error {
			there = there || slices.ContainsFunc(e.Set, func(m meta.Member) bool { return on[m.Store] })
			return nil
		}); err != nil {
			return nil, err
		}
		if !there || v.State != meta.VolumeActive {
			continue
		}
		s, err := a.meta.Spread(ctx, v.Replicas, v.Media, n.ID)
		if err != nil {
			return nil, err
		}
		if s.Nodes < v.Replicas {
			return []string{fmt.Sprintf("volume %s, which is to have %d replicas: %d other nodes have active stores for them; add one, or -force begins all the same and leaves what finds no place", v, v.Replicas, s.Nodes)}, nil
		}
	}
	return nil, nil
}

func (a *agent) storesOf(ctx context.Context, nodes ...uuid.UUID) (map[uuid.UUID]bool, error) {
	all, err := a.meta.Stores(ctx)
	out := map[uuid.UUID]bool{}
	for _, s := range all {
		if slices.Contains(nodes, s.Node) {
			out[s.ID] = true
		}
	}
	return out, err
}

// evacuator has the extents that this node drives leave nodes that are draining, until ctx ends. Whoever drives an extent moves
// it, and what nobody drives is taken by the draining node itself.
func (a *agent) evacuator(ctx context.Context) {
	hints := a.meta.Watch(ctx, meta.TopicNodes, meta.TopicOwners)
	for last := ""; ; {
		left, err := a.evacuate(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != last {
			last = err.Error()
			a.log.Warn("a node cannot be drained now; it is tried again", "error", err)
		}
		var again <-chan time.Time
		if left || err != nil {
			again = time.After(drainRetry)
		}
		select {
		case _, ok := <-hints:
			if !ok {
				return
			}
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// evacuate goes once over the extents on draining nodes, and says whether some are left, of whomsoever.
func (a *agent) evacuate(ctx context.Context) (left bool, err error) {
	nodes, err := a.meta.Nodes(ctx)
	if err != nil {
		return false, err
	}
	var draining []uuid.UUID
	for _, n := range nodes {
		if n.Draining {
			draining = append(draining, n.ID)
		}
	}
	if draining == nil {
		return false, nil
	}
	off, err := a.storesOf(ctx, draining...)
	if err != nil {
		return true, err
	}
	vols, err := a.meta.Volumes(ctx)
	if err != nil {
		return true, err
	}
	var failed []error
	for _, v := range vols {
		if v.State != meta.VolumeActive {
			continue
		}
		mine, err := a.drives(ctx, v, slices.Contains(draining, a.node.ID))
		if err != nil {
			return true, err
		}
		var todo []relief
		if err := a.meta.Extents(ctx, v.ID, func(i uint32, e meta.Extent) error {
			for _, m := range e.Set {
				if off[m.Store] {
					left = true
					todo = append(todo, relief{i, e.Set, m.Store})
				}
			}
			return nil
		}); err != nil {
			return true, err
		}
		if !mine || len(todo) == 0 {
			continue
		}
		for _, t := range todo {
			if n, err := a.meta.Nodes(ctx); err != nil || !slices.ContainsFunc(n, func(n meta.Node) bool { return n.Draining }) {
				return false, err // undrained meanwhile
			}
			if err := a.relieve(ctx, v, t); ctx.Err() != nil {
				return true, ctx.Err()
			} else if err != nil {
				failed = append(failed, err)
				break // the next volume may go all the same
			}
		}
	}
	return left, errors.Join(failed...)
}

// relief is an extent that is to leave a store.
type relief struct {
	index uint32
	set   []meta.Member
	store uuid.UUID
}

// drives says whether a volume is this node's to move; take has it take one that nobody drives.
func (a *agent) drives(ctx context.Context, v meta.Volume, take bool) (bool, error) {
	o, owner, err := a.meta.VolumeOwner(ctx, v.ID)
	if err != nil {
		return false, err
	}
	return o.Session == a.session.ID() || owner == nil && take, nil
}

// relieve makes a replica of an extent elsewhere, in place of the one on a store.
func (a *agent) relieve(ctx context.Context, v meta.Volume, r relief) error {
	open, err := a.access.Open(ctx, geometry(v))
	if err != nil {
		return err
	}
	to, err := a.meta.Refill(ctx, a.session, v.ID, r.index, r.set, nil, nil)
	if err != nil {
		return err
	}
	return a.access.Join(ctx, open, r.index, to, r.store, func(access.Moved) {})
}

// drainState is how far a draining node is.
func (a *agent) drainState(ctx context.Context, n meta.Node, stores []meta.Store) (*admin.NodeDrain, error) {
	use, err := a.meta.StoreUse(ctx)
	if err != nil {
		return nil, err
	}
	out := &admin.NodeDrain{}
	for _, s := range stores {
		if s.Node == n.ID {
			out.Left += use[s.ID]
		}
	}
	out.Paths, out.Reason, err = a.paths.Left(ctx, n.ID)
	return out, err
}
