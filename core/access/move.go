package access

import (
	"context"
	"errors"
	"fmt"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/sdk/ring"
)

// opCopy is a command of our own: it reads a region and writes it to the store that
// joins, and holds its blocks from the one to the other. Plugins have no such operation.
const opCopy ring.Op = 0xff

// copyWindow is how many regions of an extent are being copied at once.
const copyWindow = 4

// ErrChanged says that an extent did not stay what it was while it was to be moved; it
// may be tried again.
var ErrChanged = errors.New("the extent changed meanwhile")

// joiner is a store that is to take an extent over. It gets every write from before
// copying begins, and is never read. Owned by the reactor.
type joiner struct {
	store    *extent.Store
	handle   *extent.Extent
	inflight int    // writes
	failed   error  // it missed one: the attempt is over
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

// copying is a range of a volume that is being copied.
type copying struct {
	joiner *joiner
	done   func(ring.Status)
}

// joins says whether a store is to get what is written to r, beside the one that has it.
func (v *Volume) joins(r span) bool {
	size := v.access.extentBytes
	for i := r.from / size; i*size < r.to; i++ {
		if v.extents[i].joiner != nil {
			return true
		}
	}
	return false
}

// alsoTo hands a request that went to a store to the one that joins. n is how many
// requests o has; the new number is returned.
func (o *op) alsoTo(j *joiner, first *extent.IO, n int) int {
	io := o.io(n)
	*io = extent.IO{
		Op: first.Op, Extent: j.handle, Gen: first.Gen, Block: first.Block, Blocks: first.Blocks, Buf: first.Buf, Durable: first.Durable,
	}
	o.sendTo(j, io)
	return n + 1
}

// sendTo submits io to the joiner. If that fails, it has missed a write; the command
// does not fail for it.
func (o *op) sendTo(j *joiner, io *extent.IO) {
	io.Done = func(io *extent.IO) {
		o.disk = max(o.disk, io.DiskNanos)
		if io.Err != nil && j.failed == nil {
			j.failed = io.Err
		}
		if j.inflight--; j.inflight == 0 && j.idle != nil {
			idle := j.idle
			j.idle = nil
			idle()
		}
		if o.pending--; o.pending == 0 {
			o.step()
		}
	}
	j.inflight++
	o.pending++
	o.vol.access.submit(j.store, io)
}

// writeCopy writes what was read to the joiner: the blocks that are all zeros as such,
// so that they take no space there either.
func (o *op) writeCopy() {
	size := o.vol.access.extentBytes
	e := &o.vol.extents[o.range_.from/size]
	j := o.copy.joiner
	if e.joiner != j {
		o.fail(ring.StatusAborted, 0)
		o.finish()
		return
	}
	first := uint32(o.range_.from % size / blockBytes)
	n := uint32(len(o.bounce) / blockBytes)
	o.pending++ // kept until all are submitted
	used := 0
	for at := uint32(0); at < n; {
		zero := allZero(o.bounce[at*blockBytes:][:blockBytes])
		end := at + 1
		for end < n && allZero(o.bounce[end*blockBytes:][:blockBytes]) == zero {
			end++
		}
		io := o.io(used)
		used++
		*io = extent.IO{Op: extent.OpWrite, Extent: j.handle, Gen: e.generation, Block: first + at, Blocks: end - at, Buf: o.bounce[at*blockBytes : end*blockBytes]}
		if zero {
			io.Op, io.Buf = extent.OpZero, nil
		}
		o.sendTo(j, io)
		at = end
	}
	if o.pending--; o.pending == 0 {
		o.step()
	}
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// copyRange copies r, which lies in one extent, to the store that joins there.
func (v *Volume) copyRange(r span, j *joiner, done func(ring.Status)) {
	now := v.access.reactor.now()
	o := &op{
		vol: v, kind: opCopy, range_: r, hold: r, holds: true, begun: true, seq: v.seq, taken: now, submitted: now,
		copy: &copying{joiner: j, done: done},
	}
	v.seq++
	v.inflight++
	o.resume()
}

// Moved says how far the move of an extent has come, in bytes.
type Moved struct{ Copied, Total int64 }

// Move brings an extent to another store of this node while it serves: the store joins,
// gets every write and a copy of what was there, and takes the former one's place by one
// transaction of Meta. progress is told how far it has come, on the caller's goroutine.
// An extent that was never written, or is there already, needs nothing. After an error
// it may be tried again.
func (a *Access) Move(ctx context.Context, v *Volume, index uint32, to *extent.Store, progress func(Moved)) error {
	v.resize.Lock()
	defer v.resize.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := a.reactor.Do(ctx, func() { v.interrupt = cancel }); err != nil {
		return err
	}
	m := &move{access: a, vol: v, index: index, id: extent.ID{Volume: v.id, Index: index}, to: to, progress: progress}
	if err := m.run(ctx); err != nil {
		return fmt.Errorf("move extent %d of volume %s: %w", index, v.name, err)
	}
	return nil
}

// lockSize takes the volume's size for the caller alone, and ends the move of an extent
// that holds it, unless it is about to be committed.
func (v *Volume) lockSize(ctx context.Context) error {
	if err := v.access.reactor.Do(ctx, func() {
		if v.interrupt != nil {
			v.interrupt()
		}
	}); err != nil {
		return err
	}
	v.resize.Lock()
	return nil
}

// Sweep removes from a store the replicas that pick chooses among all that are there.
func (a *Access) Sweep(ctx context.Context, s *extent.Store, pick func([]extent.ID) ([]extent.ID, error)) error {
	var all []extent.ID
	if err := a.reactor.Do(ctx, func() { all = s.IDs() }); err != nil {
		return err
	}
	strays, err := pick(all)
	if err != nil {
		return err
	}
	for _, id := range strays {
		if err := a.ask(ctx, func(done func(error)) { s.Delete(id, done) }); err != nil {
			return err
		}
	}
	return nil
}

// move is one attempt to move an extent.
type move struct {
	access     *Access
	vol        *Volume
	index      uint32
	id         extent.ID
	from, to   *extent.Store
	generation extent.Generation
	joiner     *joiner
	progress   func(Moved)
}

func (m *move) run(ctx context.Context) error {
	here, err := m.ready(ctx)
	if err != nil || !here {
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
		return errors.Join(err, m.abandon())
	}
	// What is left there is nobody's; should this fail, whoever empties the store removes it.
	return m.remove(ctx, m.from)
}

func (m *move) remove(ctx context.Context, s *extent.Store) error {
	return m.access.ask(ctx, func(done func(error)) { s.Delete(m.id, done) })
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
		if m.from != nil && (e.resolving != nil || e.state != extentReady || e.store != m.from || e.generation != m.generation) {
			changed = ErrChanged
			return
		}
		fn(e)
	})
	return errors.Join(err, changed)
}

// ready seals the extent if need be and notes what it is; false means that there is
// nothing to move.
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
	here := false
	err := m.do(ctx, func(e *extentSlot) {
		if e.resolving == nil && e.state == extentReady && e.store != m.to {
			here, m.from, m.generation = true, e.store, e.generation
		}
	})
	return here, err
}

// join makes an empty replica, and has it get every write from now on. It returns when
// those that it does not get have ended.
func (m *move) join(ctx context.Context) error {
	a := m.access
	// What the store may have of a former attempt missed writes. Where Meta may be older than
	// the stores, it may be more than that.
	if a.metaRestored {
		var there bool
		if err := m.do(ctx, func(*extentSlot) { there = m.to.Extent(m.id) != nil }); err != nil {
			return err
		}
		if there {
			return fmt.Errorf("the new store has a replica of it: %w", errMetaBehind)
		}
	}
	if err := m.remove(ctx, m.to); err != nil {
		return err
	}
	if err := a.ask(ctx, func(done func(error)) { m.to.Create(m.id, extent.Seal{Gen: m.generation}, done) }); err != nil {
		return err
	}
	var before <-chan struct{}
	if err := m.do(ctx, func(e *extentSlot) {
		m.joiner = &joiner{store: m.to, handle: m.to.Extent(m.id)}
		e.joiner = m.joiner
		before = m.vol.fenced(nil)
	}); err != nil {
		return err
	}
	return a.reactor.wait(ctx, before)
}

// copy copies every region that has data.
func (m *move) copy(ctx context.Context) error {
	a := m.access
	var regions extent.Regions
	if err := m.do(ctx, func(e *extentSlot) { _, _, regions = m.from.Marks(e.handle) }); err != nil {
		return err
	}
	size := int64(extent.RegionBlocks(uint32(a.extentBytes/blockBytes))) * blockBytes
	p := Moved{Total: int64(regions.Count()) * size}
	m.progress(p)
	ended := make(chan ring.Status, copyWindow)
	flying := 0
	var failed error
	for region, more := regions.Next(0); (more && failed == nil) || flying > 0; {
		if more && failed == nil && flying < copyWindow {
			at := int64(m.index)*a.extentBytes + int64(region)*size
			failed = m.do(ctx, func(*extentSlot) {
				m.vol.copyRange(span{at, at + size}, m.joiner, func(s ring.Status) { ended <- s })
			})
			if failed == nil {
				flying++
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

func (m *move) flush(ctx context.Context) error {
	return m.access.ask(ctx, func(done func(error)) {
		m.access.submit(m.to, &extent.IO{Op: extent.OpFlush, Durable: true, Done: func(io *extent.IO) { done(io.Err) }})
	})
}

// commit puts the joiner in the former store's place. Commands that come meanwhile wait.
// Once begun it is not interrupted.
func (m *move) commit(ctx context.Context) error {
	a, v := m.access, m.vol
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(a.ctx, a.holdFor)
	defer cancel()
	idle := make(chan struct{})
	if err := m.do(ctx, func(e *extentSlot) {
		e.resolving = &resolving{seq: v.seq}
		v.seq++
		v.resolving++
		m.joiner.whenIdle(func() { close(idle) })
	}); err != nil {
		return err
	}
	next, err := m.replace(ctx, idle)
	return errors.Join(err, a.reactor.Do(context.WithoutCancel(ctx), func() {
		e := &v.extents[m.index]
		e.joiner = nil
		switch {
		case err == nil:
			e.store = nil
			v.resolved(m.index, m.to, m.joiner.handle, next, ring.StatusOK)
		case errors.Is(err, errUnknown):
			// Meta may have it there or here: neither serves before a new life has asked.
			e.state, e.store, e.handle = extentUnsealed, nil, nil
			v.trouble(fmt.Sprintf("extent %d cannot be used", m.index), err)
			v.resolved(m.index, nil, nil, 0, ring.StatusPathLost)
		default:
			v.resolved(m.index, nil, nil, 0, ring.StatusOK)
		}
		v.recount(nil)
	}))
}

// errUnknown says that nobody knows whether Meta has changed a set, or that it has and
// the new store does not serve.
var errUnknown = errors.New("it is not settled on which store the extent is")

// replace waits until the joiner has everything, durably, and changes the set.
func (m *move) replace(ctx context.Context, idle <-chan struct{}) (extent.Generation, error) {
	a := m.access
	if err := a.reactor.wait(ctx, idle); err != nil {
		return 0, err
	}
	var missed error
	if err := a.reactor.Do(ctx, func() { missed = m.joiner.failed }); err != nil {
		return 0, err
	}
	if missed != nil {
		return 0, fmt.Errorf("the new store missed a write: %w", missed)
	}
	if err := m.flush(ctx); err != nil {
		return 0, err
	}
	store, incarnation := m.to.Identity()
	by := extent.Member{Store: store, Incarnation: incarnation}
	next, err := a.meta.Replace(ctx, m.id.Volume, m.index, m.generation, by)
	if errors.Is(err, meta.ErrConflict) {
		return 0, err
	}
	if err == nil {
		err = a.ask(ctx, func(done func(error)) {
			m.to.Seal(m.id, extent.Seal{Gen: next, Set: []extent.Member{by}, Absence: &extent.Absence{}}, func(_ extent.Sealed, err error) { done(err) })
		})
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errUnknown, err)
	}
	return next, nil
}

// abandon takes back what a failed attempt has begun, as far as it is sure to have failed.
func (m *move) abandon() error {
	a := m.access
	ctx, cancel := context.WithTimeout(a.ctx, a.holdFor)
	defer cancel()
	if m.joiner == nil {
		if a.metaRestored {
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
			sure = e.store != nil
		}
		m.joiner.whenIdle(func() { close(idle) })
	}); err != nil || !sure {
		return err
	}
	if err := a.reactor.wait(ctx, idle); err != nil {
		return err
	}
	return m.remove(ctx, m.to)
}
