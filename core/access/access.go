package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/peer"
	"github.com/mooring-io/mooring/sdk/ring"
)

// maxTransfer is the longest data transfer of one command, in bytes.
const maxTransfer = 4 << 20

// controlWorkers is how many extents can be allocated or sealed at once.
const controlWorkers = 32

// Lease is Meta's word that this core may drive one extent.
type Lease struct {
	Allocated  bool // false: never written; Generation and Set mean something to Allocate only
	Generation extent.Generation
	Set        []extent.Member
	Suspect    []uuid.UUID // members that may lack acknowledged data
}

// SetChange is a change of an extent's replica set.
type SetChange struct {
	Index      uint32
	Generation extent.Generation // as we know it
	Set        []extent.Member   // as we know it
	Next       []extent.Member
	// Joined are the members of Next that were copied and flushed: the caller vouches that they
	// hold all acknowledged data, as those of Set do.
	Joined []extent.Member
}

// Meta is what Access asks of the metadata layer. Calls may block; they are made
// on control goroutines, never on the reactor.
type Meta interface {
	// Leases makes this core's Meta session the owner of a volume, or confirms that it is; it is a meta.HeldError if another one is. It
	// returns the leases of its extents by index. It may return fewer than the
	// volume has; the rest are not allocated.
	Leases(ctx context.Context, volume uuid.UUID) ([]Lease, error)
	// Yield ends this core's ownership of a volume, of which nothing is under way any more: it passes to the session of a node,
	// with uuid.Nil to whoever takes it next.
	Yield(ctx context.Context, volume, node uuid.UUID) error
	// Geometry describes a volume as it is now.
	Geometry(ctx context.Context, volume uuid.UUID) (Geometry, error)
	// Epoch is the path epoch of a host and a volume, as it is now.
	Epoch(ctx context.Context, volume uuid.UUID, h Host) (uint64, error)
	// Recorded returns the leases as Meta has them, of whoever has them, and changes nothing.
	Recorded(ctx context.Context, volume uuid.UUID) ([]Lease, error)
	// Lease returns one of them as it is now; meta.ErrConflict: somebody else owns the volume.
	Lease(ctx context.Context, volume uuid.UUID, index uint32) (Lease, error)
	// Allocate places an extent, not on the stores to avoid if that can be. It
	// is not there for anybody, nor Allocated in the lease, before Confirm.
	Allocate(ctx context.Context, volume uuid.UUID, index uint32, avoid []uuid.UUID) (Lease, error)
	// Confirm says that the replicas of the extent that Allocate placed at generation g exist on stores, sealed
	// at g+1, and returns the set. Until then, whoever comes after takes the extent for not allocated.
	Confirm(ctx context.Context, volume uuid.UUID, index uint32, g extent.Generation, stores []uuid.UUID) ([]extent.Member, error)
	// Refill chooses a store for one more replica of an extent: one of prefer if it takes any, else one that placement
	// allows beside the set, but none to avoid; meta.ErrNoStore: there is none now.
	Refill(ctx context.Context, volume uuid.UUID, index uint32, set []extent.Member, prefer, avoid []uuid.UUID) (uuid.UUID, error)
	// ChangeSet commits a new set and returns its generation. An error that Is meta.ErrConflict says that nothing
	// was changed by this call; after any other it may have been. The same call may be repeated.
	ChangeSet(ctx context.Context, volume uuid.UUID, c SetChange) (extent.Generation, error)
	// Free forgets the extents from index on; their generations are never used again.
	Free(ctx context.Context, volume uuid.UUID, from uint32) error
	// Behind notes extents of a volume of which a store here knows a higher generation than
	// Meta gave out, and returns all that were ever found. Only after a restore.
	Behind(ctx context.Context, volume uuid.UUID, found []uint32) ([]uint32, error)
	// Deadline is until when the leases may be used, on CLOCK_BOOTTIME in
	// nanoseconds. It is called on the reactor and must not block.
	Deadline() int64
}

// Options configure an Access.
type Options struct {
	Reactor     *Reactor
	Meta        Meta
	ExtentBytes int64         // a power of two
	BounceBytes int64         // core memory for sub-block and compare commands; 0: 64 MiB
	HoldFor     time.Duration // how long a command waits for a lease, or for a path to move; 0: 10 s
	Incarnation uint64        // of this life of the core; ring incarnations grow from it
	// LossTold hears, on a control goroutine, that a host's Flush has failed because of a
	// volume's losses up to that count. nil: nobody.
	LossTold func(volume uuid.UUID, h Host, losses uint64)
	// Enforce puts the reservation of a volume in force, as it is in Meta now: before the volume is served, and when another node
	// has changed it. Control goroutine. nil: there are no reservations.
	Enforce func(ctx context.Context, v *Volume) error
	// MetaRestored says that the metadata came from a backup and may be older than the
	// stores: an extent that a store has and Meta does not know, or knows by a lower
	// generation, is not served, rather than read as zeros, made anew or read as it was.
	MetaRestored bool
	Heal         *Heal // nil: replicas that are missing stay so, and copies are made as fast as it goes
	Logger       hclog.Logger
}

// Access serves I/O on volumes. Fields below the first blank line are owned by the
// reactor.
type Access struct {
	reactor      *Reactor
	meta         Meta
	log          hclog.Logger
	extentBytes  int64
	lossTold     func(uuid.UUID, Host, uint64)
	enforce      func(context.Context, *Volume) error
	metaRestored bool
	incomplete   bool // see Incomplete
	holdFor      time.Duration
	incarnation  atomic.Uint64
	work         chan func()
	workers      sync.WaitGroup
	ctx          context.Context
	cancel       context.CancelFunc
	opening      sync.Mutex // one Open or Close of a volume at a time

	ioDone     func(*extent.IO)
	wakeOp     func(*op) // wake
	forwarded  func(*peer.Command)
	drivers    map[uuid.UUID]*driver // nodes to which commands can be forwarded
	credits    int                   // bytes of data under way at one of them; tests make it small
	freed      bool                  // some of them are free again
	clients    map[*Client]struct{}
	volumes    map[uuid.UUID]*Volume
	stores     []*extent.Store       // of this node
	dismissed  []*extent.Store       // that end, without having been used
	remote     map[uuid.UUID][]Store // by node
	news       chan struct{}         // closed when a store has come
	reachUntil int64                 // until when stores may be about to come, CLOCK_MONOTONIC ns
	submitted  bool                  // something went to a store since kick began
	pace       *pace
	heal       *healer // nil: nobody makes replicas that are missing
	bounces    bounces
	runq       opList              // to go on with in the next turn
	held       opList              // waiting for the lease
	doors      map[*grant]struct{} // where commands wait
	ticking    bool
	backlog    []func() // control work that found the channel full
}

// New returns an Access on a reactor that is not running yet.
func New(o Options) *Access {
	if o.BounceBytes == 0 {
		o.BounceBytes = 64 << 20
	}
	if o.HoldFor == 0 {
		o.HoldFor = 10 * time.Second
	}
	a := &Access{
		reactor: o.Reactor, meta: o.Meta, log: o.Logger.Named("access"), extentBytes: o.ExtentBytes, holdFor: o.HoldFor, metaRestored: o.MetaRestored, lossTold: o.LossTold, enforce: o.Enforce, drivers: map[uuid.UUID]*driver{}, credits: peer.MaxForwarded, pace: newPace(o.Heal, o.ExtentBytes),
		work: make(chan func(), 1024), clients: map[*Client]struct{}{}, volumes: map[uuid.UUID]*Volume{}, doors: map[*grant]struct{}{},
		bounces: bounces{limit: o.BounceBytes}, remote: map[uuid.UUID][]Store{}, news: make(chan struct{}),
		reachUntil: o.Reactor.clock.Monotonic() + int64(reachFor),
	}
	a.incarnation.Store(o.Incarnation << 16)
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.ioDone = func(io *extent.IO) { r := io.User.(*request); r.op.ioDone(r) }
	a.wakeOp, a.forwarded = a.wake, a.answered
	a.reactor.addSource(a)
	a.reactor.kicks = append(a.reactor.kicks, a.kick)
	for range controlWorkers {
		a.workers.Go(a.control)
	}
	if o.Heal != nil {
		a.startHealer(*o.Heal)
	}
	a.workers.Go(a.upkeep)
	return a
}

// AddStore makes a store of this node usable, also for the volumes that are open.
func (a *Access) AddStore(ctx context.Context, s *extent.Store) error {
	return a.reactor.Do(ctx, func() {
		a.stores = append(a.stores, s)
		a.arrived(s)
	})
}

// arrived gives a store to the extents that miss it. They are sealed again before it is used: it may have been away.
func (a *Access) arrived(s Store) {
	id, _ := s.Identity()
	for _, v := range a.volumes {
		for i := range v.extents {
			e := &v.extents[i]
			for j := range e.set {
				if r := &e.set[j]; r.store == nil && r.member.Store == id {
					r.store = s
					r.handle = handleOf(s, extent.ID{Volume: v.id, Index: uint32(i)})
					if e.sealed = false; e.state == extentReady {
						e.state = extentUnsealed
					}
				}
			}
		}
		v.recount(nil)
		v.stirred = true
	}
	a.heal.arrived(id)
	close(a.news)
	a.news = make(chan struct{})
}

// SetRemote says which stores of another node are in reach now, in place of those that were. Replicas on
// those that are not any more are out of reach; what was under way there has failed, or will. Reactor.
func (a *Access) SetRemote(node uuid.UUID, stores []Store) {
	old := a.remote[node]
	a.remote[node] = stores
	for _, s := range old {
		if !slices.Contains(stores, s) {
			a.left(s)
		}
	}
	for _, s := range stores {
		if !slices.Contains(old, s) {
			a.arrived(s)
		}
	}
}

// left takes a store that is out of reach from the extents.
func (a *Access) left(s Store) {
	for _, v := range a.volumes {
		for i := range v.extents {
			e := &v.extents[i]
			for j := range e.set {
				if e.set[j].store == s {
					e.set[j].store, e.set[j].handle = nil, nil
				}
			}
			if e.joiner != nil && e.joiner.store == s {
				e.joiner.miss(errLeft)
			}
		}
		v.recount(nil)
		v.stirred = true
	}
	id, _ := s.Identity()
	a.heal.left(id, a.reactor.now())
}

// refresh makes up for what left or arrived while a control goroutine had its own copy of the set.
func (a *Access) refresh(id extent.ID, e *extentSlot) {
	for i := range e.set {
		r := &e.set[i]
		if r.store == nil {
			continue
		}
		now := a.store(r.member.Store)
		if now == r.store {
			continue
		}
		if r.store, r.handle = now, nil; now == nil {
			continue
		}
		r.handle = handleOf(now, id)
		if e.sealed = false; e.state == extentReady {
			e.state = extentUnsealed
		}
	}
}

var errLeft = errors.New("the store is out of reach")

// Dismiss closes a store that was opened and is not added; the reactor drives it until it has ended.
func (a *Access) Dismiss(ctx context.Context, s *extent.Store) error {
	if err := a.reactor.Do(ctx, func() { a.dismissed = append(a.dismissed, s) }); err != nil {
		return err
	}
	err := s.Close(ctx)
	return errors.Join(err, a.reactor.Do(context.WithoutCancel(ctx), func() {
		a.dismissed = slices.DeleteFunc(a.dismissed, func(t *extent.Store) bool { return t == s })
	}))
}

// RemoveStore forgets a store; no open volume may use it.
func (a *Access) RemoveStore(ctx context.Context, s *extent.Store) error {
	var err error
	e := a.reactor.Do(ctx, func() {
		for _, v := range a.volumes {
			if slices.Contains(v.stores, Store(s)) {
				err = fmt.Errorf("volume %s has extents on it", v.name)
				return
			}
		}
		for i, t := range a.stores {
			if t == s {
				a.stores = append(a.stores[:i:i], a.stores[i+1:]...)
				return
			}
		}
	})
	return errors.Join(e, err)
}

// Close ends the control goroutines. Clients must be closed before, the reactor
// stopped after.
func (a *Access) Close() {
	a.cancel()
	a.workers.Wait()
}

func (a *Access) control() {
	for {
		select {
		case fn := <-a.work:
			fn()
		case <-a.ctx.Done():
			return
		}
	}
}

func (a *Access) nextIncarnation() uint64 { return a.incarnation.Add(1) }

// Open returns the volume, driven here: its leases are taken and its extents found. A meta.HeldError says that
// another node drives it.
func (a *Access) Open(ctx context.Context, g Geometry) (*Volume, error) {
	v, err := a.use(ctx, g, true)
	if err != nil {
		return nil, err
	}
	return v, a.drive(ctx, v, false)
}

// Use returns the volume for hosts, whoever drives it: this node if nobody does.
func (a *Access) Use(ctx context.Context, g Geometry) (*Volume, error) { return a.use(ctx, g, false) }

// use makes a volume known here. With drive, one that is not, and that another node drives, stays unknown.
func (a *Access) use(ctx context.Context, g Geometry, drive bool) (*Volume, error) {
	a.opening.Lock()
	defer a.opening.Unlock()
	var v *Volume
	if err := a.reactor.Do(ctx, func() { v = a.volumes[g.ID] }); err != nil || v != nil {
		return v, err
	}
	v = &Volume{
		access: a, id: g.ID, stirred: true, moves: map[*move]context.CancelFunc{}, hosts: map[Host]*hostState{}, regionBlocks: extent.RegionBlocks(uint32(a.extentBytes / blockBytes)),
	}
	v.describe(g)
	v.away = &away{vol: v}
	if err := a.reactor.Do(ctx, func() { a.volumes[g.ID] = v }); err != nil {
		return nil, err
	}
	err := a.drive(ctx, v, true)
	if err == nil || !drive && meta.IsHeld(err) {
		return v, nil
	}
	return nil, errors.Join(err, a.reactor.Do(context.WithoutCancel(ctx), func() {
		if v.users == 0 {
			v.closed = true
			delete(a.volumes, g.ID)
		}
	}))
}

// noteBehind has Meta, which came from a backup, note the extents of which a store has a higher generation than it has,
// before the leases are taken: those raise it, and it would seem to have caught up.
func (a *Access) noteBehind(ctx context.Context, v *Volume) ([]uint32, error) {
	known, err := a.meta.Recorded(ctx, v.id)
	if err != nil {
		return nil, fmt.Errorf("read the generations of volume %s: %w", v.name, err)
	}
	var behind []uint32
	if err := a.reactor.Do(ctx, func() {
		for i, l := range known {
			if l.Allocated && v.newest(uint32(i)) > l.Generation {
				behind = append(behind, uint32(i))
			}
		}
	}); err != nil {
		return nil, err
	}
	return a.meta.Behind(ctx, v.id, behind)
}

// Incomplete says, of metadata that came from a backup, that a store of this node is not here: what Meta does not know may lie
// there, and is not taken for zeros. It comes before the first Open.
func (a *Access) Incomplete(ctx context.Context) error {
	return a.reactor.Do(ctx, func() { a.incomplete = true })
}

// extentsOf is how many extents a volume of size bytes has.
func (a *Access) extentsOf(size int64) int { return int((size + a.extentBytes - 1) / a.extentBytes) }

// Lookup returns the volume if it is open.
func (a *Access) Lookup(ctx context.Context, id uuid.UUID) (*Volume, error) {
	var v *Volume
	err := a.reactor.Do(ctx, func() { v = a.volumes[id] })
	return v, err
}

// CloseVolume forgets a volume that has no grants but those of other nodes, when what is still under way in it
// has ended. It is no error if the volume is not open. What it acknowledged without
// durability stays where it is, for Flush.
func (a *Access) CloseVolume(ctx context.Context, id uuid.UUID) error {
	a.opening.Lock()
	defer a.opening.Unlock()
	var v *Volume
	var ended <-chan struct{}
	if err := a.reactor.Do(ctx, func() {
		if v = a.volumes[id]; v != nil {
			a.dismiss(v)
		}
		if v != nil && v.users == 0 {
			v.closed = true // nobody gets a grant any more
			v.interrupt()
			ended = v.fenced(nil)
		}
	}); err != nil || v == nil {
		return err
	}
	if ended == nil {
		return fmt.Errorf("volume %s is in use", v.name)
	}
	v.resize.Lock() // the move of an extent has ended
	defer v.resize.Unlock()
	err := a.reactor.wait(ctx, ended)
	e := a.reactor.Do(context.WithoutCancel(ctx), func() {
		v.resizing--
		if v.closed = err == nil; v.closed {
			delete(a.volumes, id)
		}
	})
	return errors.Join(err, e)
}

// Delete removes everything the stores hold of a volume. The volume must be closed.
func (a *Access) Delete(ctx context.Context, id uuid.UUID) error {
	var stores []Store
	if err := a.reactor.Do(ctx, func() { stores = a.everywhere() }); err != nil {
		return err
	}
	for _, s := range stores {
		if err := a.ask(ctx, func(done func(error)) { s.DeleteFrom(id, 0, done) }); err != nil {
			return fmt.Errorf("delete the extents of volume %s: %w", id, err)
		}
	}
	return nil
}

// Flush makes all that was acknowledged on every store in reach durable.
func (a *Access) Flush(ctx context.Context) error {
	done := make(chan error, 1)
	if err := a.reactor.Do(ctx, func() {
		all := a.everywhere()
		left := len(all)
		if left == 0 {
			done <- nil
			return
		}
		var first error
		for _, s := range all {
			a.submit(s, &extent.IO{Op: extent.OpFlush, Durable: true, Done: func(io *extent.IO) {
				if io.Err != nil && first == nil {
					first = io.Err
				}
				if left--; left == 0 {
					done <- first
				}
			}})
		}
	}); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// store is a store in reach. Reactor.
func (a *Access) store(id uuid.UUID) Store {
	for _, s := range a.stores {
		if got, _ := s.Identity(); got == id {
			return s
		}
	}
	for _, all := range a.remote {
		for _, s := range all {
			if got, _ := s.Identity(); got == id {
				return s
			}
		}
	}
	return nil
}

// everywhere is all stores in reach. Reactor.
func (a *Access) everywhere() (out []Store) {
	for _, s := range a.stores {
		out = append(out, s)
	}
	for _, all := range a.remote {
		out = append(out, all...)
	}
	return out
}

// ask starts something on the reactor and waits for its result. Not for the reactor itself.
func (a *Access) ask(ctx context.Context, start func(done func(error))) error {
	result := make(chan error, 1)
	if err := a.reactor.Do(ctx, func() { start(func(err error) { result <- err }) }); err != nil {
		return err
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-a.reactor.done:
		return ErrStopped
	}
}

// start hands control work to the workers without ever blocking the reactor.
func (a *Access) start(fn func()) {
	select {
	case a.work <- fn:
	default:
		a.backlog = append(a.backlog, fn)
	}
}

// Shrink makes a volume smaller: no command reaches beyond size any more when it
// returns, and what was there is gone for good, also if the volume grows again. size is
// a multiple of 4096. It may be repeated after an error, also in another life.
func (a *Access) Shrink(ctx context.Context, v *Volume, size int64) error {
	unlock, err := v.lockSize(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	n := a.extentsOf(size)
	if err := v.change(ctx, func() { v.size = min(v.size, size) }); err != nil {
		return err
	}
	if tail := size % a.extentBytes; tail != 0 {
		if err := a.zeroTail(ctx, v, uint32(n-1), tail); err != nil {
			return fmt.Errorf("clear the tail of volume %s: %w", v.name, err)
		}
	}
	var stores []Store
	if err := a.reactor.Do(ctx, func() {
		if n < len(v.extents) {
			v.extents = v.extents[:n:n]
			v.recount(nil)
		}
		stores = a.everywhere()
	}); err != nil {
		return err
	}
	if err := a.meta.Free(ctx, v.id, uint32(n)); err != nil {
		return fmt.Errorf("free the extents of volume %s: %w", v.name, err)
	}
	for _, s := range stores {
		if err := a.ask(ctx, func(done func(error)) { s.DeleteFrom(v.id, uint32(n), done) }); err != nil {
			return fmt.Errorf("delete the extents of volume %s beyond %d bytes: %w", v.name, size, err)
		}
	}
	return nil
}

// zeroTail clears extent i from byte from on.
func (a *Access) zeroTail(ctx context.Context, v *Volume, i uint32, from int64) error {
	done := make(chan ring.Status, 1)
	if err := a.reactor.Do(ctx, func() {
		if int(i) >= len(v.extents) { // it is smaller already
			done <- ring.StatusOK
			return
		}
		at := int64(i) * a.extentBytes
		r := span{at + (from+blockBytes-1)&^(blockBytes-1), at + a.extentBytes}
		v.run(opZero, r, inner{done: func(s ring.Status) { done <- s }})
	}); err != nil {
		return err
	}
	select {
	case s := <-done:
		if s != ring.StatusOK {
			return fmt.Errorf("extent %d cannot be used: %v", i, s)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-a.reactor.done:
		return ErrStopped
	}
}

// mayServe says whether the Meta session's leases hold now.
func (a *Access) mayServe() bool { return a.reactor.boot() < a.meta.Deadline() }

// hold parks o until the session is renewed or the hold time is over.
func (a *Access) hold(o *op) {
	a.held.push(o)
	a.tick()
}

// tick looks after held commands, and those at doors, every 50 ms while there are any.
func (a *Access) tick() {
	if a.ticking {
		return
	}
	a.ticking = true
	time.AfterFunc(50*time.Millisecond, func() { a.reactor.Post(a.releaseHeld) })
}

func (a *Access) releaseHeld() {
	a.ticking = false
	serve := a.mayServe()
	for o := a.held.head; o != nil; {
		next := o.after
		switch {
		case serve:
			a.wake(o)
		case a.reactor.now()-o.taken > int64(a.holdFor):
			o.fail(ring.StatusRetry, 0)
			a.wake(o)
		}
		o = next
	}
	a.expireDoors()
	if a.expireAway() || a.held.n > 0 || len(a.doors) > 0 {
		a.tick()
	}
}

// wake has a parked command go on in the next turn. Nothing goes on at once: what has
// just ended may be in the middle of something, and chains of commands are long.
func (a *Access) wake(o *op) {
	o.parked.remove(o)
	a.runq.push(o)
}

// later goes on with a command by chunks in the next turn.
func (a *Access) later(o *op) { a.runq.push(o) }

// submit hands a request to a store.
func (a *Access) submit(s Store, io *extent.IO) {
	a.submitted = true
	s.Submit(io)
}

// The Access is itself a source of the reactor: the commands that were woken.

func (a *Access) poll() int {
	if a.freed {
		a.admit()
	}
	n := a.runq.n
	for range n {
		o := a.runq.head
		a.runq.remove(o)
		o.resume()
	}
	for len(a.backlog) > 0 {
		select {
		case a.work <- a.backlog[0]:
			a.backlog = a.backlog[1:]
			continue
		default:
		}
		break
	}
	return n
}
func (a *Access) publish()    {}
func (a *Access) sleep() bool { return a.runq.n == 0 && !a.freed }
func (a *Access) awake()      {}

// kick ends a turn at the stores. What a store completes may go on at one that was
// kicked before it.
func (a *Access) kick() {
	for again := true; again; again = a.submitted && len(a.stores) > 1 {
		a.submitted = false
		for _, s := range a.stores {
			s.Kick()
		}
		for _, s := range a.dismissed {
			s.Kick()
		}
	}
}
