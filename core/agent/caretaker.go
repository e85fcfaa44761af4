package agent

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
)

// careEvery is how long the caretaker lets things settle between two looks.
const careEvery = 5 * time.Second

// caretaker is a node's part in looking after volumes that nobody drives: one that has fewer replicas than it is to have, or some on a
// store that has been out of reach for lost_after, is opened by one of the nodes, whose healer makes it whole. After that it is given
// up again (core/access). What hosts use is its driver's to look after.
type caretaker struct {
	agent *agent
	away  map[uuid.UUID]time.Time // since when a store's node has no Meta session
	seen  map[uuid.UUID]condition // in which a volume needed nothing, or was opened
}

// condition is what a look at a volume's extents depends on.
type condition struct {
	replicas int
	term     meta.Generation
	lost     int // how often stores were lost until then
}

// care runs the caretaker until ctx ends.
func (a *agent) care(ctx context.Context) {
	c := &caretaker{agent: a, away: map[uuid.UUID]time.Time{}, seen: map[uuid.UUID]condition{}}
	hints := a.meta.Watch(ctx, meta.TopicSessions, meta.TopicStores, meta.TopicVolumes, meta.TopicOwners)
	tick := time.NewTicker(careEvery)
	defer tick.Stop()
	var lost []uuid.UUID
	losses, changed := 0, true
	for last := ""; ; {
		select {
		case _, ok := <-hints:
			if !ok {
				return
			}
			changed = true
			continue
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !changed && len(c.away) == 0 {
			continue
		}
		live, now, err := c.nodes(ctx)
		if err == nil && !slices.Equal(now, lost) {
			lost, losses, changed = now, losses+1, true
		}
		if err == nil && changed {
			err = c.look(ctx, live, lost, losses)
		}
		if changed = err != nil; !changed {
			last = ""
		} else if ctx.Err() == nil && err.Error() != last {
			last = err.Error()
			a.log.Warn("volumes that nobody drives cannot be looked after now; it is tried again", "error", err)
		}
	}
}

// look goes once over the volumes that are this node's to look after.
func (c *caretaker) look(ctx context.Context, live, lost []uuid.UUID, losses int) error {
	a := c.agent
	sessions, err := a.meta.Sessions(ctx)
	if err != nil {
		return err
	}
	owners, err := a.meta.Owners(ctx)
	if err != nil {
		return err
	}
	of := map[uuid.UUID]meta.Ownership{}
	for _, o := range owners {
		of[o.Volume] = o
	}
	vols, err := a.meta.Volumes(ctx)
	if err != nil {
		return err
	}
	for _, v := range vols {
		o := of[v.ID]
		now := condition{v.Replicas, o.Term, losses}
		driven := slices.ContainsFunc(sessions, func(s meta.SessionInfo) bool { return s.ID == o.Session })
		if driven || v.State != meta.VolumeActive || c.seen[v.ID] == now || keeper(v.ID, live) != a.node.ID {
			continue
		}
		ails := false
		if err := a.meta.Extents(ctx, v.ID, func(_ uint32, e meta.Extent) error {
			away := slices.ContainsFunc(e.Set, func(m meta.Member) bool { return slices.Contains(lost, m.Store) })
			ails = ails || len(e.Set) > 0 && (away || len(e.Set) < v.Replicas)
			return nil
		}); err != nil {
			return err
		}
		if ails {
			if _, err := a.access.Open(ctx, geometry(v)); meta.IsHeld(err) {
				continue
			} else if err != nil {
				return err
			}
			a.log.Info("a volume that nobody drives lacks replicas; this node makes them", "volume", v.String())
			now.term++ // by that
		}
		c.seen[v.ID] = now
	}
	return nil
}

// nodes returns the nodes that have a Meta session, and the stores of others that have been out of reach for lost_after, each in order.
func (c *caretaker) nodes(ctx context.Context) (live, lost []uuid.UUID, err error) {
	sessions, err := c.agent.meta.Sessions(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range sessions {
		live = append(live, s.Node)
	}
	stores, err := c.agent.meta.Stores(ctx)
	if err != nil {
		return nil, nil, err
	}
	away := map[uuid.UUID]time.Time{}
	for _, s := range stores {
		if slices.Contains(live, s.Node) {
			continue
		}
		since, known := c.away[s.ID]
		if !known {
			since = time.Now()
		}
		away[s.ID] = since
		if time.Since(since) >= c.agent.cfg.Limits.LostAfter {
			lost = append(lost, s.ID)
		}
	}
	c.away = away
	order := func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) }
	slices.SortFunc(live, order)
	slices.SortFunc(lost, order)
	return live, lost, nil
}

// keeper is the one of the nodes that looks after a volume, the same for all that know the same.
func keeper(volume uuid.UUID, live []uuid.UUID) uuid.UUID {
	if len(live) == 0 {
		return uuid.Nil
	}
	return live[binary.BigEndian.Uint64(volume[8:])%uint64(len(live))]
}
