package association

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/path"
	"github.com/mooring-io/mooring/sdk/proto"
)

// reconcileTimeout bounds one round, so that a stuck disk does not stop the next.
const reconcileTimeout = time.Minute

// reconcileRetry is how long after a round that failed the next one comes.
const reconcileRetry = time.Second

// reconcile brings volumes, associations and plugins in line with Meta, whenever
// something may have changed.
func (s *Service) reconcile(ctx context.Context) {
	defer close(s.done)
	hints := s.Meta.Watch(ctx, meta.TopicSubsystems, meta.TopicNamespaces, meta.TopicVolumes, meta.TopicPaths,
		meta.TopicAssociations, meta.TopicAccessPoints, meta.TopicReservations, meta.TopicSessions, meta.TopicNodes)
	var again <-chan time.Time // after a round that failed
	for {
		var ran chan struct{}
		select {
		case _, ok := <-hints:
			if !ok {
				return
			}
		case ran = <-s.poke:
		case <-s.nudged:
		case <-again:
		case <-ctx.Done():
			return
		}
		again = nil
		round, cancel := context.WithTimeout(ctx, reconcileTimeout)
		if err := s.once(round); err != nil && ctx.Err() == nil {
			s.log.Error("state could not be brought in line; it is tried again", "after", reconcileRetry, "error", err)
			again = time.After(reconcileRetry)
		}
		cancel()
		if ran != nil {
			close(ran)
		}
	}
}

// nudge asks for a round soon, without waiting for it.
func (s *Service) nudge() {
	select {
	case s.nudged <- struct{}{}:
	default:
	}
}

// once is one round. What fails for one association does not stop the others.
func (s *Service) once(ctx context.Context) error {
	failed := []error{s.finishEnds(ctx, nil)}
	v, err := s.read(ctx)
	if err != nil {
		return err
	}
	if err := s.Access.Relieved(ctx); err != nil {
		return err
	}
	if err := s.adapt(ctx, v); err != nil {
		return err
	}
	if err := s.readPortals(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	pairs := map[pair]struct{}{}
	for _, a := range s.assocs {
		pairs[a.pair()] = struct{}{}
	}
	var lives []*life
	for l := range s.lives {
		lives = append(lives, l)
	}
	s.mu.Unlock()
	for _, l := range lives {
		l.tellExports()
	}
	for p := range pairs {
		failed = append(failed, s.settlePair(ctx, p, v))
	}
	return errors.Join(failed...)
}

// settlePair brings a host's associations with a subsystem in line.
func (s *Service) settlePair(ctx context.Context, p pair, v *view) error {
	defer s.pairs.lock(p)()
	if err := s.settleLocked(ctx, p, v); err != nil {
		return fmt.Errorf("settle the grants of host %s in subsystem %s: %w", p.host.Name, p.subsystem, err)
	}
	return nil
}

// settleLocked is settlePair for who holds the pair's lock. What fails for one association
// does not stop the others.
func (s *Service) settleLocked(ctx context.Context, p pair, v *view) error {
	all := s.of(p)
	if len(all) == 0 {
		return nil
	}
	var failed []error
	if sub := v.subsystems[p.subsystem]; sub == nil || !sub.Allows(p.host.Name) {
		for _, a := range all {
			failed = append(failed, s.endLocked(ctx, a, false, "the host is not allowed any more"))
		}
		return errors.Join(failed...)
	}
	paths, err := s.place(ctx, p)
	if err != nil {
		return err
	}
	for _, a := range all {
		if a.leave(paths) {
			a.life.tellGrants(a)
		}
	}
	for _, a := range all {
		changed, err := s.settle(ctx, a, v, paths)
		if changed {
			a.life.tellGrants(a)
		}
		failed = append(failed, err)
		a.followLink(paths[meta.WholeTarget])
	}
	return errors.Join(failed...)
}

// settleNew gives an association that is just beginning its first grants.
func (s *Service) settleNew(ctx context.Context, a *association, v *view) error {
	paths, err := s.place(ctx, a.pair())
	if err == nil {
		_, err = s.settle(ctx, a, v, paths)
	}
	return err
}

// place returns a host's paths, which are decided now if there are none, by NSID.
func (s *Service) place(ctx context.Context, p pair) (map[meta.NSID]meta.Path, error) {
	placed, err := s.Paths.Place(ctx, p.subsystem, p.host)
	if err != nil {
		return nil, err
	}
	paths := make(map[meta.NSID]meta.Path, len(placed))
	for _, x := range placed {
		paths[x.Key.NSID] = x
	}
	return paths, nil
}

// leave shows the namespaces whose path is about to be taken away from a as changing, and
// says whether there are any.
func (a *association) leave(paths map[meta.NSID]meta.Path) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	changed := false
	for nsid, g := range a.grants {
		p := paths[nsid]
		if g.state == proto.AnaState_ANA_OPTIMIZED && p.Epoch > g.epoch && path.StateAt(p, a.accessPoint) != path.Optimized {
			g.state = proto.AnaState_ANA_CHANGE
			g.changes++
			changed = true
		}
	}
	return changed
}

// adapt makes open volumes as large and as durable as Meta says. They are made smaller by whoever
// asked for it, before the data beyond is given up.
func (s *Service) adapt(ctx context.Context, v *view) error {
	volatile, err := s.Access.Volatile(ctx)
	if err != nil {
		return err
	}
	for _, sub := range v.subsystems {
		for _, n := range sub.namespaces {
			open, err := s.Access.Lookup(ctx, n.volume.ID)
			if err != nil {
				return err
			}
			if open == nil {
				continue
			}
			// Read again: the view may be from before a shrink that has ended since.
			now, err := s.Meta.Volume(ctx, n.volume.ID)
			if errors.Is(err, meta.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			here, _, err := open.Driven(ctx)
			if err != nil {
				return err
			}
			if !here {
				if err := open.Follow(ctx, now.Bytes, now.IsVolatile()); err != nil {
					return err
				}
				continue
			}
			if now.Trim < 0 && now.Bytes == n.volume.Bytes {
				if err := open.Grow(ctx, now.Bytes); err != nil {
					return err
				}
			}
			if err := open.SetReplicas(ctx, now.Replicas); err != nil {
				return err
			}
			if want := now.Durability == meta.Volatile; now.Hardening || want != volatile[now.ID] {
				if err := s.setDurability(ctx, open, now.ID, want); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// setDurability puts another durability in force. Hosts hear of a volume that is not volatile any more when
// all that it acknowledged is durable.
func (s *Service) setDurability(ctx context.Context, v *access.Volume, id uuid.UUID, volatile bool) error {
	if err := v.SetDurability(ctx, volatile); err != nil {
		return fmt.Errorf("change the durability of volume %s: %w", id, err)
	}
	if volatile {
		return nil
	}
	return s.Meta.FinishHardening(ctx, id)
}

// settle brings an association's grants in line: handles for the namespaces that
// the host sees, with the state and epoch of its paths. The caller holds the pair's
// lock, since before the paths were read. It says whether anything changed.
func (s *Service) settle(ctx context.Context, a *association, v *view, paths map[meta.NSID]meta.Path) (changed bool, err error) {
	sub := v.subsystems[a.subsystem]
	if sub == nil {
		return false, fmt.Errorf("%s: %w", a.subsystem, meta.ErrNotFound)
	}
	var want []namespace
	for _, n := range sub.namespaces {
		if n.VisibleHost(a.host.Name) {
			want = append(want, n)
		}
	}
	if gone := a.missing(want); len(gone) > 0 {
		var handles []access.Handle
		for _, g := range gone {
			handles = append(handles, g.handle)
		}
		if err := a.life.client.Revoke(ctx, handles...); err != nil {
			return false, err // and they are still a's, to be revoked with it
		}
		a.drop(gone)
		changed = true
	}
	for _, n := range want {
		c, err := s.grant(ctx, a, n, paths[n.NSID])
		if err != nil {
			return changed, err
		}
		changed = changed || c
	}
	return changed, nil
}

// missing are the grants of namespaces that are not wanted any more, or are another
// volume now.
func (a *association) missing(want []namespace) map[meta.NSID]*grant {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[meta.NSID]*grant{}
	for nsid, g := range a.grants {
		if !slices.ContainsFunc(want, func(n namespace) bool { return n.NSID == nsid && n.volume.ID == g.id }) {
			out[nsid] = g
		}
	}
	return out
}

// drop forgets grants that have been revoked.
func (a *association) drop(gone map[meta.NSID]*grant) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for nsid := range gone {
		delete(a.grants, nsid)
	}
}

// grant gives a a handle for n, or brings the one it has up to date.
func (s *Service) grant(ctx context.Context, a *association, n namespace, p meta.Path) (bool, error) {
	at := path.StateAt(p, a.accessPoint)
	state := proto.AnaState(at) // both have NVMe's numbers
	here := access.Path{Epoch: uint64(p.Epoch), State: access.PathInaccessible}
	switch at {
	case path.Optimized:
		here.State = access.PathOptimized
	case path.NonOptimized:
		here.State = access.PathStandby
	case path.Inaccessible, path.Change:
	}
	a.mu.Lock()
	g := a.grants[n.NSID]
	a.mu.Unlock()
	if g == nil {
		vol, err := s.open(ctx, n.volume)
		if err != nil {
			return false, err
		}
		// Also of a volume that is not volatile: it may become so while the host uses it.
		told, err := s.Meta.LossTold(ctx, n.volume.ID, a.host)
		if err == nil {
			err = vol.Told(ctx, a.host, told)
		}
		if err != nil {
			return false, err
		}
		h, err := a.life.client.Grant(ctx, vol, a.host, here, func() { s.wanted(a, n.NSID) })
		if err != nil {
			return false, err
		}
		a.mu.Lock()
		a.grants[n.NSID] = &grant{volume: vol, id: n.volume.ID, handle: h, state: state, changes: 1, epoch: p.Epoch}
		a.mu.Unlock()
		return true, nil
	}
	if p.Epoch == g.epoch && state == g.state {
		return false, nil
	}
	if err := a.life.client.SetPath(ctx, g.handle, here); err != nil {
		return false, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	g.epoch = p.Epoch
	if state != g.state {
		g.state = state
		g.changes++
	}
	return true, nil
}

// open opens a volume, which Access has its present reservation put in force for.
func (s *Service) open(ctx context.Context, v meta.Volume) (*access.Volume, error) {
	vol, err := s.Access.Use(ctx, access.Geometry{
		ID: v.ID, Name: v.Name, Size: v.Bytes, BlockSize: v.BlockBytes, Volatile: v.IsVolatile(), Losses: v.Losses, Replicas: v.Replicas,
	})
	if err != nil {
		return nil, err
	}
	return vol, nil
}
