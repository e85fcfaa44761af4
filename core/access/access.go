package access

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/sdk/ring"
)

// maxTransfer is the longest data transfer of one command, in bytes.
const maxTransfer = 4 << 20

// controlWorkers is how many extents can be allocated or sealed at once.
const controlWorkers = 8

// Lease is Meta's word that this core may drive one extent.
type Lease struct {
	Allocated  bool // false: never written; the other fields mean nothing
	Generation extent.Generation
	Store      uuid.UUID // the store that holds the replica on this node
}

// Meta is what Access asks of the metadata layer. Calls may block; they are made
// on control goroutines, never on the reactor.
type Meta interface {
	// Leases takes or renews the leases of all extents of a volume for this core's
	// Meta session and returns them by extent index. It may return fewer than the
	// volume has; the rest are not allocated.
	Leases(ctx context.Context, volume uuid.UUID) ([]Lease, error)
	// Allocate places an extent on one of this node's stores, if it is not placed
	// yet, and takes its lease.
	Allocate(ctx context.Context, volume uuid.UUID, index uint32) (Lease, error)
	// Free forgets the extents from index on; their generations are never used again.
	Free(ctx context.Context, volume uuid.UUID, from uint32) error
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
	HoldFor     time.Duration // how long a command waits for a lease; 0: 10 s
	Incarnation uint64        // of this process; ring incarnations grow from it
	Logger      hclog.Logger
}

// Access serves I/O on volumes. Fields below the first blank line are owned by the
// reactor.
type Access struct {
	reactor     *Reactor
	meta        Meta
	log         hclog.Logger
	extentBytes int64
	holdFor     time.Duration
	incarnation atomic.Uint64
	work        chan func()
	workers     sync.WaitGroup
	ctx         context.Context
	cancel      context.CancelFunc
	opening     sync.Mutex // one Open or Close of a volume at a time

	ioDone  func(*extent.IO)
	clients map[*Client]struct{}
	volumes map[uuid.UUID]*Volume
	stores  []*extent.Store
	bounces bounces
	runq    []*op // to go on with in the next turn
	held    []*op // waiting for the lease
	ticking bool
	backlog []func() // control work that found the channel full
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
		reactor: o.Reactor, meta: o.Meta, log: o.Logger.Named("access"), extentBytes: o.ExtentBytes, holdFor: o.HoldFor,
		work: make(chan func(), 1024), clients: map[*Client]struct{}{}, volumes: map[uuid.UUID]*Volume{},
		bounces: bounces{limit: o.BounceBytes},
	}
	a.incarnation.Store(o.Incarnation << 16)
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.ioDone = func(io *extent.IO) { io.User.(*op).ioDone(io) }
	a.reactor.addSource(a)
	a.reactor.kicks = append(a.reactor.kicks, a.kick)
	for range controlWorkers {
		a.workers.Go(a.control)
	}
	return a
}

// AddStore makes a store of this node usable.
func (a *Access) AddStore(ctx context.Context, s *extent.Store) error {
	return a.reactor.Do(ctx, func() { a.stores = append(a.stores, s) })
}

// RemoveStore forgets a store; no open volume may use it.
func (a *Access) RemoveStore(ctx context.Context, s *extent.Store) error {
	var err error
	e := a.reactor.Do(ctx, func() {
		for _, v := range a.volumes {
			if v.uses(s) {
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

// Open returns the volume, opening it at its first use: its leases are taken and
// its extents found.
func (a *Access) Open(ctx context.Context, g Geometry) (*Volume, error) {
	a.opening.Lock()
	defer a.opening.Unlock()
	var v *Volume
	if err := a.reactor.Do(ctx, func() { v = a.volumes[g.ID] }); err != nil || v != nil {
		return v, err
	}
	leases, err := a.meta.Leases(ctx, g.ID)
	if err != nil {
		return nil, fmt.Errorf("take the leases of volume %s: %w", g.Name, err)
	}
	v = &Volume{
		access: a, id: g.ID, name: g.Name, size: g.Size, blockSize: g.BlockSize, durable: !g.Volatile, losses: g.Losses,
		extents: make([]extentSlot, (g.Size+a.extentBytes-1)/a.extentBytes), hosts: map[Host]*hostState{},
	}
	e := a.reactor.Do(ctx, func() {
		for i, l := range leases {
			if l.Allocated && i < len(v.extents) {
				v.extents[i] = extentSlot{state: extentUnsealed, generation: l.Generation, store: a.store(l.Store)}
			}
		}
		a.volumes[g.ID] = v
	})
	return v, e
}

// Lookup returns the volume if it is open.
func (a *Access) Lookup(ctx context.Context, id uuid.UUID) (*Volume, error) {
	var v *Volume
	err := a.reactor.Do(ctx, func() { v = a.volumes[id] })
	return v, err
}

// CloseVolume forgets an open volume that nobody uses any more, after what it
// acknowledged has been made durable. It is no error if the volume is not open.
func (a *Access) CloseVolume(ctx context.Context, id uuid.UUID) error {
	a.opening.Lock()
	defer a.opening.Unlock()
	var err error
	if e := a.reactor.Do(ctx, func() {
		v := a.volumes[id]
		switch {
		case v == nil:
		case v.users > 0 || v.inflight > 0:
			err = fmt.Errorf("volume %s is in use", v.name)
		default:
			v.closed = true
			delete(a.volumes, id)
		}
	}); e != nil {
		return e
	}
	return err
}

// Delete removes everything the stores hold of a volume. The volume must be closed.
func (a *Access) Delete(ctx context.Context, id uuid.UUID) error {
	var stores []*extent.Store
	if err := a.reactor.Do(ctx, func() { stores = append(stores, a.stores...) }); err != nil {
		return err
	}
	for _, s := range stores {
		if err := s.DeleteVolume(ctx, id); err != nil {
			return fmt.Errorf("delete the extents of volume %s: %w", id, err)
		}
	}
	return nil
}

// Flush makes all that was acknowledged on every store durable.
func (a *Access) Flush(ctx context.Context) error {
	done := make(chan error, 1)
	if err := a.reactor.Do(ctx, func() {
		left := len(a.stores)
		if left == 0 {
			done <- nil
			return
		}
		var first error
		for _, s := range a.stores {
			s.Submit(&extent.IO{Op: extent.OpFlush, Durable: true, Done: func(io *extent.IO) {
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

func (a *Access) store(id uuid.UUID) *extent.Store {
	for _, s := range a.stores {
		if got, _ := s.Identity(); got == id {
			return s
		}
	}
	return nil
}

// resolve allocates or seals an extent on a control goroutine.
func (a *Access) resolve(v *Volume, i uint32, allocate bool) {
	id := extent.ID{Volume: v.id, Index: i}
	was := v.extents[i]
	was.waiters = nil
	a.start(func() {
		store, generation := was.store, was.generation
		err := func() error {
			if !allocate {
				if store == nil {
					return errors.New("its store is not here")
				}
				return store.Seal(a.ctx, id, generation)
			}
			l, err := a.meta.Allocate(a.ctx, id.Volume, id.Index)
			if err != nil {
				return err
			}
			generation = l.Generation
			if err := a.reactor.Do(a.ctx, func() { store = a.store(l.Store) }); err != nil {
				return err
			}
			if store == nil {
				return errors.New("its store is not here")
			}
			return store.Create(a.ctx, id, generation)
		}()
		a.reactor.Post(func() {
			if err == nil {
				if h := store.Extent(id); h != nil {
					v.resolved(i, extentSlot{state: extentReady, store: store, handle: h, generation: generation}, ring.StatusOK)
					return
				}
				err = extent.ErrMissing
			}
			status := ring.StatusPathLost
			if errors.Is(err, extent.ErrNoSpace) || errors.Is(err, meta.ErrNoStore) {
				status = ring.StatusNoSpace
			}
			a.log.Error("extent cannot be used", "volume", v.name, "extent", i, "error", err)
			v.resolved(i, was, status)
		})
	})
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
// returns, and what was there is gone for good, also if the volume grows again.
func (a *Access) Shrink(ctx context.Context, v *Volume, size int64) error {
	n := (size + a.extentBytes - 1) / a.extentBytes
	var beyond []extentSlot
	if err := v.change(ctx, func() {
		v.size = size
		beyond = append(beyond, v.extents[n:]...)
	}); err != nil {
		return err
	}
	if tail := size % a.extentBytes; tail != 0 {
		if err := a.zeroTail(ctx, v, size/a.extentBytes, tail); err != nil {
			return fmt.Errorf("clear the tail of volume %s: %w", v.name, err)
		}
	}
	if err := a.reactor.Do(ctx, func() { v.extents = v.extents[:n:n] }); err != nil {
		return err
	}
	if err := a.meta.Free(ctx, v.id, uint32(n)); err != nil {
		return fmt.Errorf("free the extents of volume %s: %w", v.name, err)
	}
	for i, e := range beyond {
		if e.store == nil {
			continue
		}
		id := extent.ID{Volume: v.id, Index: uint32(n) + uint32(i)}
		if err := e.store.Delete(ctx, id); err != nil && !errors.Is(err, extent.ErrMissing) {
			return fmt.Errorf("delete extent %v: %w", id, err)
		}
	}
	return nil
}

// zeroTail clears extent i from byte from on.
func (a *Access) zeroTail(ctx context.Context, v *Volume, i, from int64) error {
	done := make(chan error, 1)
	zero := func(s ring.Status) {
		if s != ring.StatusOK {
			done <- fmt.Errorf("extent %d cannot be used: %v", i, s)
			return
		}
		e := &v.extents[i]
		block := uint32((from + blockBytes - 1) / blockBytes)
		e.store.Submit(&extent.IO{
			Op: extent.OpZero, Extent: e.handle, Gen: e.generation, Block: block,
			Blocks: uint32(a.extentBytes/blockBytes) - block, Durable: true,
			Done: func(io *extent.IO) { done <- io.Err },
		})
	}
	if err := a.reactor.Do(ctx, func() {
		switch v.extents[i].state {
		case extentAbsent:
			done <- nil
		case extentReady:
			zero(ring.StatusOK)
		default:
			v.resolve(uint32(i), zero)
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

// mayServe says whether the Meta session's leases hold now.
func (a *Access) mayServe() bool { return a.reactor.boot() < a.meta.Deadline() }

// holdForLease parks o until the session is renewed or the hold time is over.
func (a *Access) holdForLease(o *op) {
	o.park = parkedLease
	a.held = append(a.held, o)
	a.tick()
}

// tick looks after held commands every 50 ms while there are any.
func (a *Access) tick() {
	if a.ticking {
		return
	}
	a.ticking = true
	time.AfterFunc(50*time.Millisecond, func() { a.reactor.Post(a.releaseHeld) })
}

func (a *Access) releaseHeld() {
	a.ticking = false
	held := a.held
	a.held = nil
	for _, o := range held {
		switch {
		case o.dead:
			o.recycle()
		case a.mayServe():
			o.park = notParked
			o.vol.admit(o)
		case a.reactor.now()-o.taken > int64(a.holdFor):
			o.park = notParked
			o.fail(ring.StatusRetry, 0)
			o.finish()
		default:
			a.held = append(a.held, o)
		}
	}
	if len(a.held) > 0 {
		a.tick()
	}
}

// storeTrouble notes that a store refused a command for a reason that is not the
// host's, and has the extent looked at again at its next use.
func (a *Access) storeTrouble(o *op, io *extent.IO) {
	a.log.Warn("a store refused a command", "volume", o.vol.name, "error", io.Err)
}

// later goes on with a chunked command in the next turn.
func (a *Access) later(o *op) { a.runq = append(a.runq, o) }

// The Access is itself a source of the reactor: the commands that go on by chunks.

func (a *Access) poll() int {
	q := a.runq
	a.runq = nil
	for _, o := range q {
		o.nextChunk()
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
	return len(q)
}
func (a *Access) publish()    {}
func (a *Access) sleep() bool { return len(a.runq) == 0 }
func (a *Access) awake()      {}

func (a *Access) kick() {
	for _, s := range a.stores {
		s.Kick()
	}
}
