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

// reachFor is how long a node that has just started waits for links to other nodes before it takes members for lost.
const reachFor = 3 * time.Second

// resolve has extent i made usable, allocated if need be.
func (v *Volume) resolve(i uint32) *resolving {
	e := &v.extents[i]
	if e.resolving == nil {
		e.resolving = &resolving{seq: v.seq}
		v.seq++
		v.resolving++
		v.access.resolve(v, i, *e)
	}
	return e.resolving
}

// resolve allocates or seals extent i, or changes its set, on a control goroutine. e is what it was.
func (a *Access) resolve(v *Volume, i uint32, e extentSlot) {
	id := extent.ID{Volume: v.id, Index: i}
	e.set, e.gone = slices.Clone(e.set), slices.Clone(e.gone)
	began := a.reactor.now()
	var attempt func()
	attempt = func() {
		ctx, cancel := context.WithTimeout(a.ctx, a.holdFor)
		defer cancel()
		next, err := a.settle(ctx, id, e)
		again := errors.Is(err, meta.ErrNoStore) && a.reactor.clock.Monotonic()-began < int64(a.holdFor)
		if again { // somebody may add a store, or undo a drain
			time.AfterFunc(noStorePause, func() { a.reactor.Post(func() { a.start(attempt) }) })
		}
		a.reactor.Post(func() {
			if err == nil {
				v.resolved(i, next, ring.StatusOK)
				return
			}
			if !e.disowned { // that was said when it was found
				v.trouble(fmt.Sprintf("extent %d cannot be used", i), err)
			}
			if again {
				return
			}
			status := ring.StatusPathLost
			full := errors.Is(err, extent.ErrNoSpace) || errors.Is(err, meta.ErrFull)
			if full && e.state == extentAbsent { // else what is there cannot be reached for our own reasons
				status = ring.StatusNoSpace
			}
			v.resolved(i, next, status)
		})
	}
	a.start(attempt)
}

// noStorePause is how long a first write waits before it asks again for a store that takes new extents.
const noStorePause = 200 * time.Millisecond

// settle returns what an extent is after it was made usable, or how far that came.
func (a *Access) settle(ctx context.Context, id extent.ID, e extentSlot) (extentSlot, error) {
	if e.disowned {
		return e, errMetaBehind
	}
	if e.state == extentAbsent {
		next, err := a.allocate(ctx, id)
		if err != nil {
			return e, err
		}
		if e = next; e.state == extentReady {
			return e, nil
		}
	}
	for range 3 {
		if e.unsure {
			l, err := a.meta.Lease(ctx, id.Volume, id.Index)
			if err != nil {
				return e, err
			}
			gone := e.gone
			if e = l.slot(); e.state == extentAbsent {
				return e, nil
			}
			e.gone = gone
		}
		next, err := a.seal(ctx, id, e)
		if e = next; !errors.Is(err, meta.ErrConflict) {
			return e, err
		}
		e.unsure = true // an answer of Meta was lost, or somebody else owns the volume
	}
	return e, meta.ErrConflict
}

// slot is the extent as Meta says it is.
func (l Lease) slot() extentSlot {
	if !l.Allocated {
		return extentSlot{}
	}
	e := extentSlot{state: extentUnsealed, generation: l.Generation}
	for _, m := range l.Set {
		e.set = append(e.set, replica{member: m, suspect: slices.Contains(l.Suspect, m.Store)})
	}
	return e
}

// allocate makes the replicas of an extent that has none. It may turn out that they exist, and an answer of Meta was lost.
func (a *Access) allocate(ctx context.Context, id extent.ID) (extentSlot, error) {
	var full []uuid.UUID
	for {
		l, err := a.meta.Allocate(ctx, id.Volume, id.Index, full)
		if err != nil {
			return extentSlot{}, err
		}
		if l.Allocated {
			return l.slot(), nil
		}
		l.Allocated = true
		e := l.slot()
		if err := a.reach(ctx, id, e.set); err != nil {
			return e, err
		}
		var made []extent.Member
		for _, r := range e.set {
			if r.store != nil {
				s, life := r.store.Identity()
				made = append(made, extent.Member{Store: s, Incarnation: life})
			}
		}
		w := extent.Seal{Gen: l.Generation + 1, Set: made}
		var ok []uuid.UUID
		why := errors.New("its store is not here")
		for i, err := range each(e.set, func(r *replica) error {
			if r.store == nil {
				return why
			}
			return a.create(ctx, r.store, id, w)
		}) {
			switch s := e.set[i].member.Store; {
			case err == nil:
				ok = append(ok, s)
			case errors.Is(err, extent.ErrNoSpace):
				full = append(full, s)
				why = err
			default:
				why = err
			}
		}
		if len(ok) == 0 {
			if errors.Is(why, extent.ErrNoSpace) && len(full) < extent.MaxMembers && len(e.set) > 1 {
				continue
			}
			return extentSlot{}, why
		}
		set, err := a.meta.Confirm(ctx, id.Volume, id.Index, l.Generation, ok)
		if err != nil {
			return extentSlot{}, err
		}
		l.Generation, l.Set = w.Gen, set
		e = l.slot()
		e.state, e.sealed = extentReady, true
		if len(e.set) > 1 {
			e.marks = newMarks(a.regions())
		}
		return e, nil
	}
}

// each runs fn for all replicas at once and returns what each said.
func each(set []replica, fn func(*replica) error) []error {
	errs := make([]error, len(set))
	done := make(chan struct{})
	for i := range set {
		go func() {
			errs[i] = fn(&set[i])
			done <- struct{}{}
		}()
	}
	for range set {
		<-done
	}
	return errs
}

// reach finds the stores of a set. Some may not have been found yet if this node has just begun.
func (a *Access) reach(ctx context.Context, id extent.ID, set []replica) error {
	for {
		all := true
		var news <-chan struct{}
		var left time.Duration
		if err := a.reactor.Do(ctx, func() {
			a.attach(id, set)
			for i := range set {
				all = all && set[i].store != nil
			}
			news = a.news
			left = time.Duration(a.reachUntil - a.reactor.clock.Monotonic())
		}); err != nil || all || left <= 0 {
			return err
		}
		late := time.NewTimer(left)
		select {
		case <-news:
		case <-late.C:
		case <-ctx.Done():
		}
		late.Stop()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// seal seals every member at the extent's generation, or first commits the set without those that do not answer, may
// lack acknowledged data or have failed a write, and seals the rest at its generation; see design section 5, rules 3 and 5.
// It returns how far it came.
func (a *Access) seal(ctx context.Context, id extent.ID, e extentSlot) (extentSlot, error) {
	if len(e.gone) >= len(e.set) {
		e.gone = nil // there is no doing without: perhaps they are back
	}
	if err := a.reach(ctx, id, e.set); err != nil {
		return e, err
	}
	why := map[uuid.UUID]error{}
	whole := 0 // members that have all acknowledged data, as far as anybody knows
	for _, r := range e.set {
		if !r.suspect {
			whole++
		}
	}
	found := make([]extent.Sealed, len(e.set))
	w := extent.Seal{Gen: e.generation, Set: e.members()}
	errs := each(e.set, func(r *replica) error {
		switch {
		case slices.Contains(e.gone, r.member.Store):
			return errFailed
		case r.suspect && whole > 0:
			return errSuspect
		case r.store == nil:
			return errors.New("it is not in reach")
		case e.sealed:
			return nil
		}
		for i := range e.set {
			if &e.set[i] == r {
				return a.askSeal(ctx, r.store, id, w, &found[i])
			}
		}
		return nil
	})
	var usable []replica
	var left []uuid.UUID
	dirty := extent.NewRegions(a.regions())
	for i, err := range errs {
		r := e.set[i]
		switch {
		case err == nil:
			usable = append(usable, r)
			dirty.Or(found[i].Dirty)
			for _, s := range found[i].Absent {
				e.away(s)
			}
		case errors.Is(err, extent.ErrFenced):
			return e, err // it knows a later owner, or Meta is older than it
		case ctx.Err() != nil:
			return e, err
		default:
			why[r.member.Store] = err
			left = append(left, r.member.Store)
		}
	}
	if !e.sealed && len(usable) > 0 {
		e.differs, e.marks = nil, nil
		if len(usable) > 1 {
			e.differs, e.marks = dirty, newMarks(a.regions())
			e.marks.dirty.Or(dirty)
		}
	}
	if len(left) == 0 {
		e.state, e.sealed, e.gone, e.unsure = extentReady, true, nil, false
		return e, nil
	}
	if len(usable) == 0 {
		if len(e.set) == 1 {
			return e, why[e.set[0].member.Store]
		}
		return e, offline(why)
	}
	change := SetChange{Index: id.Index, Generation: e.generation, Set: e.members()}
	for _, r := range usable {
		change.Next = append(change.Next, r.member)
	}
	next, err := a.meta.ChangeSet(ctx, id.Volume, change)
	if err != nil {
		e.unsure = true
		return e, err
	}
	a.log.Warn("an extent goes on with fewer replicas", "volume", id.Volume, "extent", id.Index, "generation", next, "without", left, "because", why[left[0]])
	e.set, e.generation, e.sealed, e.unsure = usable, next, false, false
	if len(usable) == 1 {
		e.differs, e.marks = nil, nil
	}
	for _, s := range left {
		e.away(s)
	}
	w = extent.Seal{Gen: next, Set: change.Next, Absence: &extent.Absence{Stores: e.absent}}
	for i, err := range each(e.set, func(r *replica) error { return a.askSeal(ctx, r.store, id, w, new(extent.Sealed)) }) {
		if err != nil {
			return e, fmt.Errorf("store %s: %w", e.set[i].member.Store, err)
		}
	}
	e.state, e.sealed, e.gone = extentReady, true, nil
	return e, nil
}

var (
	errFailed  = errors.New("it failed a write")
	errSuspect = errors.New("it may lack what was acknowledged")
)

// away notes a store that is not a member and may come back. The one that left first is forgotten if there are too many: it is
// copied whole then.
func (e *extentSlot) away(s uuid.UUID) {
	if e.has(s) || slices.Contains(e.absent, s) {
		return
	}
	e.absent = slices.Clone(append(e.absent, s))
	if len(e.absent) > extent.MaxMembers {
		e.absent = e.absent[1:]
	}
}

func (a *Access) regions() int {
	blocks := uint32(a.extentBytes / blockBytes)
	return int(blocks / extent.RegionBlocks(blocks))
}

// askSeal seals one replica and fills in what it knew.
func (a *Access) askSeal(ctx context.Context, s Store, id extent.ID, w extent.Seal, was *extent.Sealed) error {
	return a.ask(ctx, func(done func(error)) {
		s.Seal(id, w, func(k extent.Sealed, err error) {
			*was = k
			done(err)
		})
	})
}

// create makes a replica that Meta has just placed. What the store still has under
// that name was never confirmed, or was given up by a shrink: it goes, unless its
// generation says that Meta is behind.
func (a *Access) create(ctx context.Context, s Store, id extent.ID, w extent.Seal) error {
	create := func(done func(error)) { s.Create(id, w, done) }
	err := a.ask(ctx, create)
	if !errors.Is(err, extent.ErrFenced) {
		return err
	}
	var was extent.Sealed
	if e := a.askSeal(ctx, s, id, extent.Seal{Gen: w.Gen}, &was); e != nil || was.Gen >= w.Gen || a.metaRestored {
		return err
	}
	if err := a.ask(ctx, func(done func(error)) { s.Delete(id, w.Gen, done) }); err != nil {
		return err
	}
	return a.ask(ctx, create)
}
