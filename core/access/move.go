package access

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/sdk/ring"
)

// copyWindow is how many regions of an extent are being copied at once.
const copyWindow = 4

// ErrChanged says that an extent did not stay what it was while it was to be moved; it
// may be tried again.
var ErrChanged = errors.New("the extent changed meanwhile")

// joiner is a store that is to become a member. It gets every write from before
// copying begins, and is never read. Owned by the reactor.
type joiner struct {
	replica
	inflight int    // writes
	failed   error  // it missed one: the attempt is over
	left     int64  // bytes to be copied
	giveUp   func() // ends what goes on
	idle     func() // runs once when nothing is in flight
}

// whenIdle runs fn when nothing is in flight.
func (j *joiner) whenIdle(fn func()) {
	if j.inflight == 0 {
		fn()
		return
	}
	j.idle = fn
}

// ended is called when a write has.
func (j *joiner) ended(err error) {
	if err != nil {
		j.miss(err) // the command that it was part of does not fail for it
	}
	if j.inflight--; j.inflight == 0 && j.idle != nil {
		idle := j.idle
		j.idle = nil
		idle()
	}
}

// miss ends the attempt.
func (j *joiner) miss(err error) {
	if j.failed == nil {
		j.failed = err
		j.giveUp()
	}
}

// alsoTo hands a request that goes to the members of an extent to the store that joins, if there is one.
func (o *op) alsoTo(e *extentSlot, io *extent.IO) {
	j := e.joiner
	if j == nil {
		return
	}
	r := o.request()
	r.op, r.index, r.store, r.of, r.joiner = o, io.ID.Index, j.member.Store, 0, j
	j.inflight++
	o.send(&j.replica, r, io)
}

// Moved says how far the move of an extent has come, in bytes.
type Moved struct{ Copied, Total int64 }

// Move brings an extent that has one replica to another store of this node while it serves; see Join.
func (a *Access) Move(ctx context.Context, v *Volume, index uint32, to *extent.Store, progress func(Moved)) error {
	return a.join(ctx, &move{vol: v, index: index, to: to, only: true, progress: progress})
}

// Join makes a store a member of an extent's set while it serves, in place of the store that it relieves, unless that is the
// zero UUID. The store gets every write from now on and a copy of what was there before; if it was a member
// that left, only of what it may miss. Then it is committed by one transaction of Meta. progress is told how
// far it has come, on the caller's goroutine. An extent that was never written, or is there already, needs nothing. After an
// error it may be tried again.
func (a *Access) Join(ctx context.Context, v *Volume, index uint32, store, relieved uuid.UUID, progress func(Moved)) error {
	var to Store
	if err := a.reactor.Do(ctx, func() { to = a.store(store) }); err != nil {
		return err
	}
	if to == nil {
		return fmt.Errorf("store %s: %w", store, errLeft)
	}
	return a.join(ctx, &move{vol: v, index: index, to: to, relieved: relieved, progress: progress})
}

func (a *Access) join(ctx context.Context, m *move) error {
	v := m.vol
	v.resize.RLock()
	defer v.resize.RUnlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m.access, m.id, m.cancel = a, extent.ID{Volume: v.id, Index: m.index}, cancel
	var wanted error
	if err := a.reactor.Do(ctx, func() {
		if v.resizing > 0 {
			wanted = ErrChanged
			return
		}
		v.moves[m] = cancel
	}); err != nil || wanted != nil {
		return errors.Join(err, wanted)
	}
	defer a.reactor.Post(func() { delete(v.moves, m) })
	if err := m.run(ctx); err != nil {
		return fmt.Errorf("bring extent %d of volume %s to another store: %w", m.index, v.name, err)
	}
	return nil
}

// lockSize takes the volume's size for the caller alone, and ends the moves of extents
// that hold it, unless they are about to be committed.
func (v *Volume) lockSize(ctx context.Context) (unlock func(), err error) {
	if err := v.access.reactor.Do(ctx, v.interrupt); err != nil {
		return nil, err
	}
	v.resize.Lock()
	return func() {
		v.access.reactor.Post(func() { v.resizing-- })
		v.resize.Unlock()
	}, nil
}

// interrupt ends the moves of extents, and has none begin until resizing is taken back. Reactor.
func (v *Volume) interrupt() {
	v.resizing++
	for _, cancel := range v.moves {
		cancel()
	}
}

// Sweep removes from a store the replicas that pick chooses among all that are there.
func (a *Access) Sweep(ctx context.Context, s *extent.Store, pick func([]extent.ID) ([]extent.ID, error)) error {
	var all []extent.ID
	found := map[extent.ID]extent.Generation{}
	if err := a.reactor.Do(ctx, func() {
		all = s.IDs()
		for _, id := range all {
			found[id] = s.Extent(id).Generation()
		}
	}); err != nil {
		return err
	}
	strays, err := pick(all)
	if err != nil {
		return err
	}
	for _, id := range strays {
		// One that an owner has sealed meanwhile is about to be a member.
		err := a.ask(ctx, func(done func(error)) { s.Delete(id, found[id], done) })
		if err != nil && !errors.Is(err, extent.ErrFenced) {
			return err
		}
	}
	return nil
}

// move is one attempt to bring an extent to another store.
type move struct {
	access     *Access
	vol        *Volume
	index      uint32
	id         extent.ID
	to         Store
	relieved   uuid.UUID // whom it relieves; zero: nobody
	only       bool      // it relieves the only member
	set        []replica // as the move found it
	absent     []uuid.UUID
	generation extent.Generation
	began      bool // what the store has of it is ours to remove
	returns    bool // the store was a member before, and has most of it
	had        extent.Regions
	joiner     *joiner
	cancel     func()
	progress   func(Moved)
}

func (m *move) run(ctx context.Context) error {
	needed, err := m.ready(ctx)
	if err != nil || !needed {
		return err
	}
	err = m.join(ctx)
	if err == nil {
		err = m.copy(ctx)
	}
	if err == nil {
		err = m.commit(ctx)
	}
	if err != nil {
		return errors.Join(err, m.missed(), m.abandon())
	}
	for i := range m.set {
		if r := &m.set[i]; r.member.Store == m.relieved && r.store != nil {
			// What is left there is nobody's; should this fail, whoever empties the store removes it.
			return m.remove(ctx, r.store)
		}
	}
	return nil
}

// missed is why the joiner could not go on, if that is so.
func (m *move) missed() (err error) {
	if m.joiner == nil {
		return nil
	}
	_ = m.access.reactor.Do(context.Background(), func() {
		if m.joiner.failed != nil {
			err = fmt.Errorf("the new store missed a write: %w", m.joiner.failed)
		}
	})
	return err
}

func (m *move) remove(ctx context.Context, s Store) error {
	return m.access.ask(ctx, func(done func(error)) { s.Delete(m.id, m.generation, done) })
}

// do runs fn on the reactor if the extent is as it was when the move began.
func (m *move) do(ctx context.Context, fn func(e *extentSlot)) error {
	var changed error
	err := m.access.reactor.Do(ctx, func() {
		v := m.vol
		if v.closed || int(m.index) >= len(v.extents) {
			changed = ErrChanged
			return
		}
		e := &v.extents[m.index]
		if m.set != nil && (e.resolving != nil || e.state != extentReady || e.generation != m.generation) {
			changed = ErrChanged
			return
		}
		fn(e)
	})
	return errors.Join(err, changed)
}

// ready seals the extent if need be and notes what it is; false means that there is
// nothing to do.
func (m *move) ready(ctx context.Context) (bool, error) {
	result := make(chan ring.Status, 1)
	if err := m.do(ctx, func(e *extentSlot) {
		if e.resolving == nil && e.state != extentUnsealed {
			result <- ring.StatusOK
			return
		}
		r := m.vol.resolve(m.index)
		r.then = append(r.then, func(s ring.Status) { result <- s })
	}); err != nil {
		return false, err
	}
	select {
	case s := <-result:
		if s != ring.StatusOK {
			return false, fmt.Errorf("it cannot be used now: %v", s)
		}
	case <-ctx.Done():
		return false, ctx.Err()
	case <-m.access.reactor.done:
		return false, ErrStopped
	}
	needed := false
	var wrong error
	id, _ := m.to.Identity()
	err := m.do(ctx, func(e *extentSlot) {
		if e.resolving != nil || e.state != extentReady || e.has(id) {
			return
		}
		if m.only {
			if len(e.set) != 1 {
				wrong = fmt.Errorf("it has %d replicas, not one: %w", len(e.set), ErrChanged)
				return
			}
			m.relieved = e.set[0].member.Store
		}
		needed, m.set, m.absent, m.generation = true, slices.Clone(e.set), slices.Clone(e.absent), e.generation
	})
	return needed, errors.Join(err, wrong)
}

// members is the present set.
func (m *move) members() (out []extent.Member) {
	for _, r := range m.set {
		out = append(out, r.member)
	}
	return out
}

// next is the set with the new member, at the end.
func (m *move) next() (out []extent.Member) {
	for _, r := range m.set {
		if r.member.Store != m.relieved {
			out = append(out, r.member)
		}
	}
	return append(out, m.joiner.member)
}

// join seals a replica on the new store, and has it get every write from now on. It returns when
// those that it does not get have ended.
func (m *move) join(ctx context.Context) error {
	a := m.access
	id, life := m.to.Identity()
	w := extent.Seal{Gen: m.generation, Set: m.members()}
	var was extent.Sealed
	err := a.askSeal(ctx, m.to, m.id, w, &was)
	switch {
	case err == nil && slices.Contains(m.absent, id):
		m.returns, m.had = true, was.Dirty
	case err == nil && !a.metaRestored:
		// What the store has of a former attempt missed writes.
		if err := m.remove(ctx, m.to); err != nil {
			return err
		}
	case errors.Is(err, extent.ErrMissing):
	case err == nil || errors.Is(err, extent.ErrFenced):
		// Where Meta may be older than the stores, it may be more than that.
		return fmt.Errorf("the new store has a replica of it: %w", errors.Join(errMetaBehind, err))
	default:
		return err
	}
	m.began = true
	if !m.returns {
		if err := a.ask(ctx, func(done func(error)) { m.to.Create(m.id, w, done) }); err != nil {
			return err
		}
	}
	var before <-chan struct{}
	taken := false // by another store that joins
	if err := m.do(ctx, func(e *extentSlot) {
		if taken = e.joiner != nil; taken {
			return
		}
		m.joiner = &joiner{replica: replica{member: extent.Member{Store: id, Incarnation: life}, store: m.to, handle: handleOf(m.to, m.id)}, giveUp: m.cancel}
		e.joiner = m.joiner
		before = m.vol.fenced(nil)
	}); err != nil || taken {
		if taken {
			err = ErrChanged
		}
		return err
	}
	return a.reactor.wait(ctx, before)
}

// missing tells which regions the new store has to be given: of one that returns, what the members noted since it left and what was
// dirty on itself; of any other, all that have data on a member.
func (m *move) missing(ctx context.Context) (extent.Regions, error) {
	a := m.access
	out := extent.NewRegions(a.regions())
	out.Or(m.had)
	w := extent.Seal{Gen: m.generation, Set: m.members()}
	for i := range m.set {
		s := m.set[i].store
		if s == nil {
			return nil, ErrChanged
		}
		var some extent.Regions
		var err error
		if m.returns {
			var was extent.Sealed
			err = a.askSeal(ctx, s, m.id, w, &was)
			if some = was.Behind; err == nil && !slices.Contains(was.Absent, m.joiner.member.Store) {
				err = fmt.Errorf("a member has not noted what it misses: %w", ErrChanged)
			}
		} else {
			err = a.ask(ctx, func(done func(error)) {
				s.Mapped(m.id, func(r extent.Regions, err error) { some = r; done(err) })
			})
		}
		if err != nil {
			return nil, err
		}
		out.Or(some)
	}
	return out, nil
}

// copy copies every region that the new store has to be given.
func (m *move) copy(ctx context.Context) error {
	a := m.access
	regions, err := m.missing(ctx)
	if err != nil {
		return err
	}
	size := m.vol.regionBytes()
	p := Moved{Total: int64(regions.Count()) * size}
	m.progress(p)
	if err := m.do(ctx, func(*extentSlot) { m.joiner.left = p.Total }); err != nil {
		return err
	}
	ended := make(chan ring.Status, copyWindow)
	flying := 0
	var failed error
	for region, more := regions.Next(0); (more && failed == nil) || flying > 0; {
		if more && failed == nil && flying < copyWindow {
			at := int64(m.index)*a.extentBytes + int64(region)*size
			if failed = a.pace.take(ctx, int(size)); failed != nil {
				continue
			}
			failed = m.do(ctx, func(*extentSlot) {
				m.vol.run(opCopy, span{at, at + size}, inner{joiner: m.joiner, done: func(s ring.Status) { m.copied(size, s); ended <- s }})
			})
			if failed == nil {
				flying++
			} else {
				a.pace.give()
			}
			region, more = regions.Next(region + 1)
			continue
		}
		select {
		case s := <-ended:
			flying--
			if s != ring.StatusOK && failed == nil {
				failed = fmt.Errorf("copy a region: %v", s)
			}
			p.Copied += size
			m.progress(p)
		case <-a.reactor.done:
			return ErrStopped
		}
	}
	if failed != nil {
		return failed
	}
	return m.flush(ctx) // most of it, so that the last flush, for which hosts wait, is short
}

// copied is called when a region was. Reactor.
func (m *move) copied(n int64, s ring.Status) {
	m.access.pace.give()
	m.joiner.left -= n
	if s == ring.StatusOK {
		m.vol.stats.Copied += uint64(n)
	}
}

func (m *move) flush(ctx context.Context) error {
	return m.access.ask(ctx, func(done func(error)) {
		m.access.submit(m.to, &extent.IO{Op: extent.OpFlush, Durable: true, Done: func(io *extent.IO) { done(io.Err) }})
	})
}

// commit makes the joiner a member. Commands that come meanwhile wait.
// Once begun it is not interrupted.
func (m *move) commit(ctx context.Context) error {
	a, v := m.access, m.vol
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(a.ctx, a.holdFor)
	defer cancel()
	idle := make(chan struct{})
	var now extentSlot
	if err := m.do(ctx, func(e *extentSlot) {
		e.resolving = &resolving{seq: v.seq}
		v.seq++
		v.resolving++
		now = *e
		now.set = slices.Clone(e.set)
		m.joiner.whenIdle(func() { close(idle) })
	}); err != nil {
		return err
	}
	next, err := m.change(ctx, idle, now)
	return errors.Join(err, a.reactor.Do(context.WithoutCancel(ctx), func() {
		v.extents[m.index].joiner = nil
		status := ring.StatusOK
		if next.state != extentReady && err != nil {
			v.trouble(fmt.Sprintf("extent %d cannot be used", m.index), err)
			status = ring.StatusPathLost
		}
		v.resolved(m.index, next, status)
		v.recount(nil)
		if err == nil {
			v.stats.Joined++
		}
	}))
}

// change waits until the joiner has everything, durably, and changes the set. It returns what the extent is then.
func (m *move) change(ctx context.Context, idle <-chan struct{}, e extentSlot) (extentSlot, error) {
	a := m.access
	if err := a.reactor.wait(ctx, idle); err != nil {
		return e, err
	}
	if err := m.missed(); err != nil {
		return e, err
	}
	if err := m.flush(ctx); err != nil {
		return e, err
	}
	change := SetChange{Index: m.index, Generation: m.generation, Set: m.members(), Next: m.next(), Joined: []extent.Member{m.joiner.member}}
	generation, err := a.meta.ChangeSet(ctx, m.id.Volume, change)
	if errors.Is(err, meta.ErrConflict) {
		return e, err
	}
	if err != nil { // Meta may have changed it or not: it is asked before the extent is used again
		e.state, e.unsure = extentUnsealed, true
		return e, fmt.Errorf("%w: %w", errUnknown, err)
	}
	var set []replica
	for _, r := range append(e.set, m.joiner.replica) {
		if r.member.Store != m.relieved {
			set = append(set, r)
		}
	}
	e.set, e.generation, e.sealed, e.marks = set, generation, false, nil
	if len(set) > 1 {
		e.marks = allDirty(a.regions())
	}
	e.absent = slices.DeleteFunc(slices.Clone(e.absent), e.has)
	w := extent.Seal{Gen: generation, Set: change.Next, Absence: &extent.Absence{Stores: e.absent}}
	for i, err := range each(e.set, func(r *replica) error { return a.askSeal(ctx, r.store, m.id, w, new(extent.Sealed)) }) {
		if err != nil { // it has to go, when the extent is used next
			e.state = extentUnsealed
			e.gone = append(slices.Clone(e.gone), e.set[i].member.Store)
		}
	}
	e.sealed = e.state == extentReady
	return e, nil
}

// errUnknown says that nobody knows whether Meta has changed a set.
var errUnknown = errors.New("it is not settled which stores the extent is on")

// abandon takes back what a failed attempt has begun, as far as it is sure to have failed. A store that returned keeps what it has.
func (m *move) abandon() error {
	a := m.access
	if !m.began {
		return nil
	}
	ctx, cancel := context.WithTimeout(a.ctx, a.holdFor)
	defer cancel()
	if m.joiner == nil {
		if m.returns {
			return nil
		}
		return m.remove(ctx, m.to)
	}
	idle, sure := make(chan struct{}), true
	if err := a.reactor.Do(ctx, func() {
		if v := m.vol; int(m.index) < len(v.extents) {
			e := &v.extents[m.index]
			if e.joiner == m.joiner {
				e.joiner = nil
			}
			sure = !e.unsure
		}
		m.joiner.whenIdle(func() { close(idle) })
	}); err != nil || !sure || m.returns {
		return err
	}
	if err := a.reactor.wait(ctx, idle); err != nil {
		return err
	}
	return m.remove(ctx, m.to)
}
