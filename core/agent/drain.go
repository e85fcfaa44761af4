package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/meta"
)

// drainRetry is how long the drainer waits before it tries again what did not go.
const drainRetry = 10 * time.Second

// errNoRoom says that there is no store to which an extent could go.
var errNoRoom = errors.New("no other active store of this node has room; add one, or free space: mooring store add")

// drainer empties the stores that are draining, one extent at a time, until ctx ends.
func (a *agent) drainer(ctx context.Context) {
	hints := a.meta.Watch(ctx, meta.TopicStores)
	for {
		left := false
		for _, s := range a.openedStores() {
			id, _ := s.store.Identity()
			st, err := a.meta.ExtentStore(ctx, id)
			if err != nil || st.State != meta.StoreDraining || s.store.Err() != nil {
				a.setDrain(s, nil)
				continue
			}
			if err := a.drain(ctx, s, id); err != nil && ctx.Err() == nil {
				left = true
				a.drainStands(s, err)
			}
		}
		var again <-chan time.Time
		if left {
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

// setDrain shows how far a store is, to those who list stores.
func (a *agent) setDrain(s *openStore, d *admin.StoreDrain) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s.drain = d
}

// drainStands shows why a store is not emptied, and logs it when it is news.
func (a *agent) drainStands(s *openStore, err error) {
	a.mu.Lock()
	d := admin.StoreDrain{}
	if s.drain != nil {
		d = *s.drain
	}
	news := d.Reason != err.Error()
	d.Reason = err.Error()
	s.drain = &d
	a.mu.Unlock()
	if news {
		a.log.Warn("a store cannot be emptied now; it is tried again", "store", s.name, "error", err)
	}
}

// drain moves every extent off a store, and removes what is left there of others' making.
func (a *agent) drain(ctx context.Context, s *openStore, id uuid.UUID) error {
	vols, err := a.meta.Volumes(ctx)
	if err != nil {
		return err
	}
	type item struct {
		vol   meta.Volume
		index uint32
	}
	var todo []item
	for _, v := range vols {
		if v.State != meta.VolumeActive {
			continue
		}
		if err := a.meta.Extents(ctx, v.ID, func(i uint32, e meta.Extent) error {
			if holds(e, id) {
				todo = append(todo, item{v, i})
			}
			return nil
		}); err != nil {
			return err
		}
	}
	d := admin.StoreDrain{Left: len(todo)}
	a.setDrain(s, &d)
	var failed error
	for _, t := range todo {
		if st, err := a.meta.ExtentStore(ctx, id); err == nil && st.State != meta.StoreDraining {
			a.setDrain(s, nil)
			return nil // undrained meanwhile
		}
		before := d
		err := a.moveExtent(ctx, s, t.vol, t.index, func(m access.Moved) {
			now := before
			now.Copied += m.Copied
			a.setDrain(s, &now)
			d.Copied = now.Copied
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			failed = err // the others may go all the same
			a.drainStands(s, err)
		default:
			d.Left--
			d.Moved++
			a.setDrain(s, &d)
		}
	}
	if failed != nil {
		return failed
	}
	if err := a.sweep(ctx, s, id); err != nil {
		return err
	}
	if d.Moved > 0 {
		a.event(meta.Info, "store-drained", s.name, fmt.Sprintf("%d extents were moved to other stores", d.Moved))
	}
	return nil
}

func holds(e meta.Extent, id uuid.UUID) bool {
	for _, m := range e.Set {
		if m.Store == id {
			return true
		}
	}
	return false
}

// moveExtent moves one extent to the store of this node that has the most room.
func (a *agent) moveExtent(ctx context.Context, from *openStore, v meta.Volume, index uint32, progress func(access.Moved)) error {
	to, err := a.roomiest(ctx, from)
	if err != nil {
		return fmt.Errorf("extent %d of volume %s: %w", index, v, err)
	}
	open, err := a.access.Open(ctx, geometry(v))
	if err != nil {
		return err
	}
	return a.access.Move(ctx, open, index, to.store, progress)
}

// roomiest is the active store, other than one, with the most free space: enough for a
// whole extent.
func (a *agent) roomiest(ctx context.Context, other *openStore) (*openStore, error) {
	var best *openStore
	var room int64
	for _, s := range a.openedStores() {
		id, _ := s.store.Identity()
		st, err := a.meta.ExtentStore(ctx, id)
		if err != nil || s == other || st.State != meta.StoreActive || s.store.Err() != nil {
			continue
		}
		if free := s.store.Usage().Free; free > room {
			best, room = s, free
		}
	}
	if best == nil || room < a.meta.Cluster().ExtentBytes {
		return nil, errNoRoom
	}
	return best, nil
}

// sweep removes the replicas on a draining store that belong to no extent any more:
// those of moves that a crash cut off. Meta is asked after they were listed, so that
// none of them can be one that has just been placed.
func (a *agent) sweep(ctx context.Context, s *openStore, id uuid.UUID) error {
	if metaRestored(a.config()) {
		return nil // Meta may not know what is there
	}
	return a.access.Sweep(ctx, s.store, func(found []extent.ID) ([]extent.ID, error) {
		var strays []extent.ID
		for _, f := range found {
			e, err := a.meta.Extent(ctx, f.Volume, f.Index)
			if err != nil {
				return nil, err
			}
			if !holds(e, id) {
				strays = append(strays, f)
			}
		}
		return strays, nil
	})
}
