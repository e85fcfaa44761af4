package association

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/path"
	"github.com/mooring-io/mooring/sdk/proto"
)

// reconcileTimeout bounds one round, so that a stuck disk does not stop the next.
const reconcileTimeout = time.Minute

// reconcile brings volumes, associations and plugins in line with Meta, whenever
// something may have changed.
func (s *Service) reconcile(ctx context.Context) {
	defer close(s.done)
	hints := s.Meta.Watch(ctx, meta.TopicSubsystems, meta.TopicNamespaces, meta.TopicVolumes, meta.TopicPaths,
		meta.TopicAssociations, meta.TopicAccessPoints, meta.TopicReservations)
	for {
		var ran chan struct{}
		select {
		case _, ok := <-hints:
			if !ok {
				return
			}
		case ran = <-s.poke:
		case <-ctx.Done():
			return
		}
		round, cancel := context.WithTimeout(ctx, reconcileTimeout)
		if err := s.once(round); err != nil && ctx.Err() == nil {
			s.log.Error("state could not be brought in line; it is tried again with the next change", "error", err)
		}
		cancel()
		if ran != nil {
			close(ran)
		}
	}
}

// nudge asks for a round soon, without waiting for it.
func (s *Service) nudge() {
	go func() {
		select {
		case s.poke <- nil:
		case <-s.done:
		}
	}()
}

// once is one round. What fails for one association is logged and does not stop the others.
func (s *Service) once(ctx context.Context) error {
	v, err := s.read(ctx)
	if err != nil {
		return err
	}
	if err := s.resize(ctx, v); err != nil {
		return err
	}
	s.mu.Lock()
	var all []*association
	for _, a := range s.assocs {
		all = append(all, a)
	}
	var lives []*life
	for l := range s.lives {
		lives = append(lives, l)
	}
	s.mu.Unlock()
	for _, l := range lives {
		l.tellExports()
	}
	for _, a := range all {
		if sub := v.subsystems[a.subsystem]; sub == nil || (a.host.Protocol == meta.NVMe && !sub.Allows(a.host.Name)) {
			if err := s.end(ctx, a, false, "the host is not allowed any more"); err != nil {
				s.log.Error("association does not end", "host", a.host.Name, "error", err)
			}
			continue
		}
		changed, err := s.settleOne(ctx, a, v)
		if err != nil {
			s.log.Error("grants of a host cannot be settled", "host", a.host.Name, "subsystem", a.subsystem, "error", err)
		}
		if changed {
			a.life.tellGrants(a)
		}
	}
	return nil
}

func (s *Service) settleOne(ctx context.Context, a *association, v *view) (bool, error) {
	lock := s.pairLock(pair{a.host, a.subsystem})
	lock.Lock()
	defer lock.Unlock()
	a.mu.Lock()
	ended := a.ended
	a.mu.Unlock()
	if ended {
		return false, nil
	}
	return s.settle(ctx, a, v)
}

// resize makes open volumes as large as Meta says. They are made smaller by whoever
// asked for it, before the data beyond is given up.
func (s *Service) resize(ctx context.Context, v *view) error {
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
			if now.Trim < 0 && now.Bytes == n.volume.Bytes {
				if err := open.Grow(ctx, now.Bytes); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// settle brings an association's grants in line: handles for the namespaces that
// the host sees, with the state and epoch of its paths. The caller holds the pair's
// lock. It says whether anything changed.
func (s *Service) settle(ctx context.Context, a *association, v *view) (changed bool, err error) {
	sub := v.subsystems[a.subsystem]
	if sub == nil {
		return false, fmt.Errorf("subsystem %s: %w", a.subsystem, meta.ErrNotFound)
	}
	var want []namespace
	for _, n := range sub.namespaces {
		if a.host.Protocol != meta.NVMe || n.VisibleHost(a.host.Name) {
			want = append(want, n)
		}
	}
	placed, err := s.Paths.Place(ctx, a.subsystem, a.host)
	if err != nil {
		return false, err
	}
	paths := map[meta.NSID]meta.Path{}
	for _, p := range placed {
		paths[p.Key.NSID] = p
	}
	gone := a.missing(want)
	if len(gone) > 0 {
		changed = true
		if err := a.life.client.Revoke(ctx, gone...); err != nil {
			return true, err
		}
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

// missing takes out the grants of namespaces that are not wanted any more, or are
// another volume now.
func (a *association) missing(want []namespace) []access.Handle {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []access.Handle
	for nsid, g := range a.grants {
		keep := false
		for _, n := range want {
			keep = keep || (n.NSID == nsid && n.volume.ID == g.id)
		}
		if !keep {
			out = append(out, g.handle)
			delete(a.grants, nsid)
		}
	}
	return out
}

// grant gives a a handle for n, or brings the one it has up to date.
func (s *Service) grant(ctx context.Context, a *association, n namespace, p meta.Path) (bool, error) {
	state := proto.AnaState(path.StateAt(p, a.accessPoint)) // both have NVMe's numbers
	a.mu.Lock()
	g := a.grants[n.NSID]
	a.mu.Unlock()
	if g == nil {
		vol, err := s.open(ctx, n.volume)
		if err != nil {
			return false, err
		}
		if n.volume.Durability == meta.Volatile {
			told, err := s.Meta.LossTold(ctx, n.volume.ID, a.host)
			if err == nil {
				err = vol.Told(ctx, a.host, told)
			}
			if err != nil {
				return false, err
			}
		}
		h, err := a.life.client.Grant(ctx, vol, a.host, uint64(p.Epoch))
		if err != nil {
			return false, err
		}
		a.mu.Lock()
		a.grants[n.NSID] = &grant{volume: vol, id: n.volume.ID, handle: h, state: state, changes: 1, epoch: p.Epoch}
		a.mu.Unlock()
		return true, nil
	}
	changed := false
	if p.Epoch > g.epoch {
		if err := a.life.client.SetEpoch(ctx, g.handle, uint64(p.Epoch)); err != nil {
			return false, err
		}
		changed = true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	g.epoch = max(g.epoch, p.Epoch)
	if state != g.state {
		g.state = state
		g.changes++
		changed = true
	}
	return changed, nil
}

// open opens a volume with its present reservation.
func (s *Service) open(ctx context.Context, v meta.Volume) (*access.Volume, error) {
	vol, err := s.Access.Open(ctx, access.Geometry{
		ID: v.ID, Name: v.Name, Size: v.Bytes, BlockSize: v.BlockBytes, Volatile: v.Durability == meta.Volatile, Losses: v.Losses,
	})
	if err != nil {
		return nil, err
	}
	r, err := s.Meta.Reservation(ctx, v.ID)
	if err != nil {
		return nil, fmt.Errorf("read the reservation of volume %s: %w", v.Name, err)
	}
	return vol, vol.SetGuard(ctx, guardOf(r))
}
