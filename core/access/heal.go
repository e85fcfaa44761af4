package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/sdk/ring"
)

// Heal says how replicas that are missing are made. The node that drives a volume does it by itself.
type Heal struct {
	Rate int64 // bytes per second that are copied; 0: DefaultResyncRate
	// LostAfter is how long a store is out of reach before its replicas are made anew elsewhere; 0: DefaultLostAfter.
	LostAfter time.Duration
	// Told hears, on the healer's goroutine, that work on a volume has begun, and that it is whole again. nil: nobody.
	Told func(Healing)
}

// DefaultLostAfter is longer than a machine takes to start again.
const DefaultLostAfter = 10 * time.Minute

// Healing is the beginning or the end of making a volume whole.
type Healing struct {
	Volume  uuid.UUID
	Name    string
	Ended   bool
	Extents uint64 // at the beginning, those that lack a replica; at the end, those that got one
	Bytes   uint64 // at the beginning, those to be copied, as far as is known; at the end, that were
	Took    time.Duration
}

// Health says how far a volume is from having all its replicas, as it was when it was looked at last. The zero value is well.
type Health struct {
	Reduced int    // extents with fewer members than they are to have
	Away    int    // extents of which a member is out of reach
	Left    int64  // bytes to be copied for them, as far as is known
	Reason  string // why it does not go on; "": it does, or waits for a store to come back
}

// health is what the healer keeps of a volume.
type health struct {
	Health
	began  int64  // when work began, CLOCK_MONOTONIC ns; 0: there is none
	joined uint64 // the volume's counters then
	copied uint64
	after  int64 // not to be looked at before; CLOCK_MONOTONIC ns
}

// Bounds of the healer.
const (
	healPause = time.Second            // between two looks at volumes that are not whole
	healSoon  = 100 * time.Millisecond // from what may have changed something to the next look
	healRetry = 5 * time.Second        // after something that did not go
	healBatch = 64                     // extents of a volume that are taken up before others have their turn
	healScan  = 1024                   // extents looked at in one turn of the reactor
)

// healAtOnce is how many extents get a replica at once: most of that is waiting.
const healAtOnce = 16

// healer makes replicas that are missing. It is level-triggered: it looks at what is, whatever has happened.
type healer struct {
	access    *Access
	lostAfter int64
	told      func(Healing)
	kick      chan struct{}

	away map[uuid.UUID]int64 // since when a store is out of reach; reactor
	shun map[uuid.UUID]int64 // until when a store gets no replica, since it failed to take one; reactor
}

func (a *Access) startHealer(o Heal) {
	if o.LostAfter == 0 {
		o.LostAfter = DefaultLostAfter
	}
	if o.Told == nil {
		o.Told = func(Healing) {}
	}
	a.heal = &healer{
		access: a, lostAfter: int64(o.LostAfter), told: o.Told, kick: make(chan struct{}, 1), away: map[uuid.UUID]int64{}, shun: map[uuid.UUID]int64{},
	}
	a.workers.Go(a.heal.run)
}

// stir has the healer look at once.
func (h *healer) stir() {
	if h == nil {
		return
	}
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// arrived notes that a store is in reach. Reactor.
func (h *healer) arrived(id uuid.UUID) {
	if h == nil {
		return
	}
	delete(h.away, id)
	delete(h.shun, id)
	for _, v := range h.access.volumes {
		v.health.after = 0
	}
	h.stir()
}

// left notes that a store is out of reach. Reactor.
func (h *healer) left(id uuid.UUID, now int64) {
	if h == nil {
		return
	}
	h.away[id] = now
	h.stir()
}

// usable is a store that can be given a replica, or nil. Reactor.
func (h *healer) usable(id uuid.UUID) Store {
	if h.shun[id] > h.access.reactor.now() {
		return nil
	}
	s := h.access.store(id)
	if l, ok := s.(*extent.Store); ok && l.Err() != nil {
		return nil
	}
	return s
}

// lost says whether a store that cannot be used is not waited for any more. Reactor.
func (h *healer) lost(id uuid.UUID) bool {
	now := h.access.reactor.now()
	since, known := h.away[id]
	if !known { // it was never here in this life of ours
		h.away[id] = now
		return false
	}
	return now-since >= h.lostAfter
}

// run is the healer's goroutine. Volumes have turns: what needs much in one does not keep the others waiting.
func (h *healer) run() {
	ctx := h.access.ctx
	var todo []ailing
	busy := map[ailing]bool{}
	ended := make(chan ailing)
	look := time.NewTimer(healPause)
	defer look.Stop()
	for {
		select {
		case <-h.kick:
			look.Reset(healSoon)
		case <-look.C:
			todo = h.round(ctx, busy)
			look.Reset(healPause)
		case t := <-ended:
			if delete(busy, t); len(todo) == 0 {
				look.Reset(healSoon)
			}
		case <-ctx.Done():
			for range busy {
				<-ended
			}
			return
		}
		for ; len(todo) > 0 && len(busy) < healAtOnce; todo = todo[1:] {
			t := todo[0]
			busy[t] = true
			go func() { // joined above
				h.outcome(ctx, t, h.mend(ctx, t))
				ended <- t
			}()
		}
	}
}

// ailing is an extent that is to be looked after.
type ailing struct {
	vol   *Volume
	index uint32
}

// round looks at the volumes that may need something and returns what is to be done, but for what is being done.
func (h *healer) round(ctx context.Context, busy map[ailing]bool) (todo []ailing) {
	var volumes []*Volume
	if h.access.reactor.Do(ctx, func() {
		now := h.access.reactor.now()
		for _, v := range h.access.volumes {
			if (v.stirred || v.health.Health != Health{}) && now >= v.health.after && !v.closed {
				v.stirred = false
				volumes = append(volumes, v)
			}
		}
	}) != nil {
		return nil
	}
	var each [][]ailing
	for _, v := range volumes {
		each = append(each, h.look(ctx, v, busy))
	}
	for n := range healBatch {
		for _, l := range each {
			if n < len(l) {
				todo = append(todo, l[n])
			}
		}
	}
	return todo
}

// outcome notes why something did not go.
func (h *healer) outcome(ctx context.Context, t ailing, err error) {
	if ctx.Err() != nil || errors.Is(err, ErrChanged) {
		return // it is looked at again
	}
	_ = h.access.reactor.Do(ctx, func() {
		s := &t.vol.health
		if err == nil {
			s.Reason = ""
			return
		}
		if now := h.access.reactor.now(); now >= s.after {
			s.after = now + int64(healRetry)
		}
		if text := err.Error(); s.Reason != text {
			s.Reason = text
			h.access.log.Warn("a replica that is missing cannot be made now; it is tried again", "volume", t.vol.name, "extent", t.index, "error", err)
		}
	})
}

// look goes through a volume's extents, notes how it is, and returns some of those that need something.
func (h *healer) look(ctx context.Context, v *Volume, busy map[ailing]bool) (todo []ailing) {
	var now Health
	var state Healing
	needs := false
	for from, more := 0, true; more; from += healScan {
		if h.access.reactor.Do(ctx, func() {
			if more = from+healScan < len(v.extents); v.closed {
				more = false
				return
			}
			for i := from; i < min(from+healScan, len(v.extents)); i++ {
				if !h.examine(v, &v.extents[i], &now) {
					continue
				}
				needs = true
				if t := (ailing{v, uint32(i)}); len(todo) < healBatch && !busy[t] {
					todo = append(todo, t)
				}
			}
		}) != nil {
			return nil
		}
	}
	if h.access.reactor.Do(ctx, func() {
		s := &v.health
		if needs {
			now.Reason = s.Reason
		}
		s.Health = now
		clock := h.access.reactor.now()
		state = Healing{Volume: v.id, Name: v.name}
		switch {
		case s.began == 0 && now.Reduced > 0 && needs:
			s.began, s.joined, s.copied = clock, v.stats.Joined, v.stats.Copied
			state.Extents, state.Bytes = uint64(now.Reduced), uint64(now.Left)
		case s.began != 0 && now.Reduced == 0:
			state.Ended, state.Took = true, time.Duration(clock-s.began)
			state.Extents, state.Bytes = v.stats.Joined-s.joined, v.stats.Copied-s.copied
			s.began = 0
		default:
			state.Volume = uuid.Nil
		}
	}) == nil && state.Volume != uuid.Nil {
		h.told(state)
	}
	return todo
}

// examine counts an extent, and says whether something can be done for it. Reactor.
func (h *healer) examine(v *Volume, e *extentSlot, sum *Health) (needs bool) {
	if e.state == extentAbsent || e.disowned {
		return false
	}
	away := false
	for i := range e.set {
		if e.set[i].store == nil {
			away = true
			needs = needs || len(e.set) > 1 && h.lost(e.set[i].member.Store)
		}
	}
	if away {
		sum.Away++
	}
	back, awaited := h.absent(e)
	if len(e.set) >= v.replicas {
		return needs || len(back) > 0 || v.surplus(e) != uuid.Nil
	}
	sum.Reduced++
	sum.Left += e.toCopy(len(back) > 0, v)
	return needs || len(back) > 0 || !awaited
}

// surplus is the member that goes where an extent has more than the volume is to have: one that is out of reach, else
// the last one that is not of this node; uuid.Nil: none. All members have all that was acknowledged, so whoever stays has it. What the
// store that went still has is removed as that of any other that left. Reactor.
func (v *Volume) surplus(e *extentSlot) uuid.UUID {
	if v.asked == 0 || len(e.set) <= v.asked {
		return uuid.Nil
	}
	var id uuid.UUID
	for i := range e.set {
		r := &e.set[i]
		if r.store == nil {
			return r.member.Store
		}
		if _, local := r.store.(*extent.Store); !local || id == uuid.Nil {
			id = r.member.Store
		}
	}
	return id
}

// absent is who left the set of an extent and could get its replica back, and whether others are waited for. Reactor.
func (h *healer) absent(e *extentSlot) (back []uuid.UUID, awaited bool) {
	for _, id := range e.absent {
		switch {
		case h.usable(id) != nil:
			back = append(back, id)
		case !h.lost(id):
			awaited = true
		}
	}
	return back, awaited
}

// toCopy is how many bytes a new member of e has to be given, as far as that can be told without asking anybody. Reactor.
func (e *extentSlot) toCopy(returns bool, v *Volume) int64 {
	if e.joiner != nil && e.joiner.left > 0 {
		return e.joiner.left
	}
	for i := range e.set {
		if l := e.set[i].handle; l != nil {
			behind, data := l.Amounts()
			if returns {
				return behind
			}
			return data
		}
	}
	return 0
}

// mend does what an extent needs.
func (h *healer) mend(ctx context.Context, t ailing) error {
	a, v := h.access, t.vol
	// Who is absent is known when its members were sealed.
	if err := h.ready(ctx, t); err != nil {
		return err
	}
	var id uuid.UUID // lost
	var set []extent.Member
	var back, avoid []uuid.UUID
	wait, whole := false, false
	if err := a.reactor.Do(ctx, func() {
		if int(t.index) >= len(v.extents) || v.closed {
			whole = true
			return
		}
		e := &v.extents[t.index]
		for i := range e.set {
			if m := e.set[i].member.Store; e.set[i].store == nil && len(e.set) > 1 && h.lost(m) {
				id = m
			}
		}
		if id == uuid.Nil {
			id = v.surplus(e)
		}
		set, whole = e.members(), len(e.set) >= v.replicas
		back, wait = h.absent(e)
		for s := range h.away {
			if h.usable(s) == nil {
				avoid = append(avoid, s)
			}
		}
	}); err != nil {
		return err
	}
	switch {
	case id != uuid.Nil:
		return h.drop(ctx, t, id)
	case whole && len(back) > 0:
		return a.forget(ctx, v, t.index, back)
	case whole || len(back) == 0 && wait:
		return nil
	}
	to, err := a.meta.Refill(ctx, v.id, t.index, set, back, avoid)
	if errors.Is(err, meta.ErrNoStore) {
		return fmt.Errorf("extent %d: no store takes another replica: %w", t.index, err)
	}
	if err != nil {
		return err
	}
	err = a.Join(ctx, v, t.index, to, uuid.Nil, func(Moved) {})
	if errors.Is(err, ErrChanged) {
		return err
	}
	return errors.Join(err, a.reactor.Do(ctx, func() {
		if err != nil {
			h.refused(to)
			return
		}
		delete(h.away, to)
		delete(h.shun, to)
	}))
}

// refused notes that a store did not take a replica: others are preferred for a while, and should it go on so, it counts as lost. Reactor.
func (h *healer) refused(id uuid.UUID) {
	now := h.access.reactor.now()
	h.shun[id] = now + int64(healRetry)
	if _, known := h.away[id]; !known {
		h.away[id] = now
	}
}

// ready has an extent sealed, if it is not.
func (h *healer) ready(ctx context.Context, t ailing) error {
	return h.await(ctx, func(then func(ring.Status)) {
		if int(t.index) >= len(t.vol.extents) || t.vol.closed {
			then(ring.StatusOK)
			return
		}
		if e := &t.vol.extents[t.index]; e.resolving == nil && e.state != extentUnsealed {
			then(ring.StatusOK)
			return
		}
		r := t.vol.resolve(t.index)
		r.then = append(r.then, then)
	})
}

// drop takes a store that is lost out of the set of an extent.
func (h *healer) drop(ctx context.Context, t ailing, id uuid.UUID) error {
	return h.await(ctx, func(then func(ring.Status)) { t.vol.lose(t.index, id, then) })
}

// await starts something on the reactor and waits for its end.
func (h *healer) await(ctx context.Context, start func(then func(ring.Status))) error {
	return h.access.ask(ctx, func(done func(error)) {
		start(func(s ring.Status) {
			if s == ring.StatusOK {
				done(nil)
				return
			}
			done(fmt.Errorf("it cannot be used now: %v", s))
		})
	})
}

// forget removes the replicas of an extent, which is whole, from stores that left its set and are back, and has the members forget them.
func (a *Access) forget(ctx context.Context, v *Volume, index uint32, stores []uuid.UUID) error {
	id := extent.ID{Volume: v.id, Index: index}
	var now extentSlot
	var from []Store
	busy := false
	if err := a.reactor.Do(ctx, func() {
		if int(index) >= len(v.extents) || v.closed {
			busy = true
			return
		}
		e := &v.extents[index]
		if busy = e.resolving != nil || e.state != extentReady || e.joiner != nil || !e.serves(extent.OpWrite) || len(e.set) < v.replicas; busy {
			return
		}
		for _, s := range stores {
			if to := a.store(s); to != nil && !e.has(s) {
				from = append(from, to)
			}
		}
		e.resolving = &resolving{seq: v.seq}
		v.seq++
		v.resolving++
		now = *e
		now.set = slices.Clone(e.set)
	}); err != nil || busy {
		return errors.Join(err, ErrChanged)
	}
	ctx, cancel := context.WithTimeout(a.ctx, a.holdFor)
	defer cancel()
	var failed error
	next := now
	next.absent = slices.DeleteFunc(slices.Clone(now.absent), func(s uuid.UUID) bool { return slices.Contains(stores, s) })
	for _, s := range from {
		failed = errors.Join(failed, a.ask(ctx, func(done func(error)) { s.Delete(id, now.generation, done) }))
	}
	if failed == nil {
		w := extent.Seal{Gen: now.generation, Set: now.members(), Absence: &extent.Absence{Stores: next.absent}}
		for _, err := range each(next.set, func(r *replica) error { return a.askSeal(ctx, r.store, id, w, new(extent.Sealed)) }) {
			failed = errors.Join(failed, err)
		}
	}
	if failed != nil {
		next = now // those who were told take what they note for nobody
	}
	return errors.Join(failed, a.reactor.Do(context.WithoutCancel(ctx), func() { v.resolved(index, next, ring.StatusOK) }))
}

// SetReplicas says how many replicas a volume's extents are to have.
func (v *Volume) SetReplicas(ctx context.Context, n int) error {
	return v.access.reactor.Do(ctx, func() {
		v.asked = n
		if n = max(n, 1); n != v.replicas {
			v.replicas, v.stirred, v.health.after = n, true, 0
			v.access.heal.stir()
		}
	})
}
