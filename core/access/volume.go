package access

import (
	"context"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/sdk/ring"
)

// Host is who sends commands: the registrant of reservations and the subject of
// path epochs.
type Host = meta.HostID

// Geometry is what Access must know of a volume; it comes from Meta.
type Geometry struct {
	ID        uuid.UUID
	Name      string
	Size      int64 // bytes, a multiple of BlockSize
	BlockSize int   // logical block, 512 or 4096 bytes
	Volatile  bool  // acknowledged writes may wait in the disk's cache for a Flush
	// Losses counts the times that unflushed writes may have been lost; the next
	// Flush of each host fails when it has grown.
	Losses uint64
}

// Volume is an open volume. Owned by the reactor.
type Volume struct {
	access    *Access
	id        uuid.UUID
	name      string
	size      int64
	blockSize int
	durable   bool
	losses    uint64
	extents   []extentSlot
	order     order
	hosts     map[Host]*hostState
	guard     Guard // nil: no reservation

	users    int // grants
	inflight int
	seq      uint64
	fences   []*fence
	closed   bool
	stats    VolumeStats
}

// hostState is what one host's grants of one volume share.
type hostState struct {
	epoch    uint64 // highest path epoch seen
	lossTold uint64
}

// Guard decides whether a reservation lets a command through. It is immutable: a
// change of reservation installs a new one.
type Guard interface {
	AllowsRead(Host) bool
	AllowsWrite(Host) bool
}

// extentSlot is one extent's place in a volume.
type extentSlot struct {
	state      extentState
	store      *extent.Store
	handle     *extent.Extent
	generation extent.Generation
	waiters    []func(ring.Status)
}

type extentState uint8

const (
	extentAbsent    extentState = iota // never written: reads as zeros
	extentUnsealed                     // exists; our generation is not sealed on it yet
	extentResolving                    // a control goroutine is at it
	extentReady
)

// fence waits for the commands that were under way when it was made.
type fence struct {
	before  uint64
	pending int
	done    chan struct{}
}

// enter takes a validated entry and starts it, or answers it at once.
func (v *Volume) enter(o *op, e *ring.Entry) {
	o.seq = v.seq
	v.seq++
	v.inflight++
	o.grant.inflight++
	if s := v.check(o, e); s != ring.StatusOK {
		o.fail(s, 0)
		o.finish()
		return
	}
	v.admit(o)
}

// check is everything that a host can get wrong.
func (v *Volume) check(o *op, e *ring.Entry) ring.Status {
	if o.kind == ring.OpFlush {
		return v.permitted(o)
	}
	mask := uint64(v.blockSize - 1)
	if e.Offset&mask != 0 || e.Length&mask != 0 || e.Length == 0 {
		return ring.StatusInvalidField
	}
	if e.Offset > uint64(v.size) || e.Length > uint64(v.size)-e.Offset {
		return ring.StatusOutOfRange
	}
	o.range_ = span{int64(e.Offset), int64(e.Offset + e.Length)}
	if o.changes() {
		o.hold = o.range_.blocks()
		o.holds = o.kind == ring.OpCompareAndWrite || (o.kind != ring.OpDiscard && !o.aligned())
	}
	return v.permitted(o)
}

// permitted checks what depends on who asks: path epoch and reservation.
func (v *Volume) permitted(o *op) ring.Status {
	changes := o.changes()
	if changes && o.grant.epoch < o.grant.state.epoch {
		return ring.StatusPathLost
	}
	if v.guard == nil {
		return ring.StatusOK
	}
	if (changes && !v.guard.AllowsWrite(o.grant.host)) || (!changes && o.kind != ring.OpFlush && !v.guard.AllowsRead(o.grant.host)) ||
		(o.kind == ring.OpFlush && !v.guard.AllowsWrite(o.grant.host)) {
		return ring.StatusReservationConflict
	}
	return ring.StatusOK
}

// admit holds o while the lease is out, gives it its place in the order, and starts it.
func (v *Volume) admit(o *op) {
	if !v.access.mayServe() {
		v.access.holdForLease(o)
		return
	}
	if o.changes() && !v.order.enter(o) {
		return
	}
	o.start()
}

// left is called when o has been answered.
func (v *Volume) left(o *op) {
	v.inflight--
	for i := 0; i < len(v.fences); {
		f := v.fences[i]
		if o.seq < f.before {
			if f.pending--; f.pending == 0 {
				close(f.done)
				v.fences = append(v.fences[:i], v.fences[i+1:]...)
				continue
			}
		}
		i++
	}
	o.grant.inflight--
	o.grant.settled()
}

// fenced returns a channel that is closed when everything now under way has ended.
func (v *Volume) fenced() <-chan struct{} {
	f := &fence{before: v.seq, pending: v.inflight, done: make(chan struct{})}
	if f.pending == 0 {
		close(f.done)
	} else {
		v.fences = append(v.fences, f)
	}
	return f.done
}

// ready says whether extent i can be used for kind now; if not, o is parked and
// resumed when it can.
func (v *Volume) ready(o *op, i int64, kind extent.Op) bool {
	e := &v.extents[i]
	if e.state == extentReady || (e.state == extentAbsent && kind != extent.OpWrite) {
		return true
	}
	o.park = parkedExtent
	v.resolve(uint32(i), func(s ring.Status) {
		if o.dead {
			o.recycle()
			return
		}
		o.park = notParked
		if s != ring.StatusOK {
			o.fail(s, o.range_.from)
			o.finish()
			return
		}
		o.resume()
	})
	return false
}

// resolve makes extent i usable, allocating it if need be, and calls then on the reactor.
func (v *Volume) resolve(i uint32, then func(ring.Status)) {
	e := &v.extents[i]
	if e.state != extentResolving {
		v.access.resolve(v, i, e.state == extentAbsent)
		e.state = extentResolving
	}
	e.waiters = append(e.waiters, then)
}

// resolved ends extentResolving and resumes who waited.
func (v *Volume) resolved(i uint32, slot extentSlot, s ring.Status) {
	if int(i) >= len(v.extents) { // shrunk meanwhile: nobody waits, a fence saw to it
		return
	}
	waiters := v.extents[i].waiters
	v.extents[i] = slot
	for _, w := range waiters {
		w(s)
	}
}

// resume goes on with an op that was parked inside its execution.
func (o *op) resume() {
	switch {
	case o.writing && o.kind == ring.OpWriteZeroes:
		o.transfer(extent.OpWrite, o.chunk().blocks(), o.bounce)
	case o.writing:
		o.transfer(extent.OpWrite, o.range_.blocks(), o.bounce)
	case o.kind == ring.OpVerify || o.kind == ring.OpWriteZeroes || o.kind == ring.OpDiscard:
		o.nextChunk()
	default:
		o.start()
	}
}

// uses says whether any extent of v lies on s.
func (v *Volume) uses(s *extent.Store) bool {
	for i := range v.extents {
		if v.extents[i].store == s {
			return true
		}
	}
	return false
}

// mayHaveLost says, once per host and loss, that unflushed writes may be gone.
func (v *Volume) mayHaveLost(g *grant) bool {
	if g.state.lossTold >= v.losses {
		return false
	}
	g.state.lossTold = v.losses
	return true
}

func (v *Volume) host(h Host) *hostState {
	s := v.hosts[h]
	if s == nil {
		s = &hostState{}
		v.hosts[h] = s
	}
	return s
}

// Grow makes the volume larger. A volume is made smaller by Access.Shrink.
func (v *Volume) Grow(ctx context.Context, size int64) error {
	return v.access.reactor.Do(ctx, func() {
		n := int((size + v.access.extentBytes - 1) / v.access.extentBytes)
		for len(v.extents) < n {
			v.extents = append(v.extents, extentSlot{})
		}
		v.size = max(v.size, size)
	})
}

// SetGuard installs a reservation's rule, or takes it away with nil, and returns
// when every command admitted under the former one has ended.
func (v *Volume) SetGuard(ctx context.Context, g Guard) error {
	return v.change(ctx, func() { v.guard = g })
}

// change runs fn on the reactor and waits until all that was under way before has ended.
func (v *Volume) change(ctx context.Context, fn func()) error {
	var done <-chan struct{}
	if err := v.access.reactor.Do(ctx, func() {
		fn()
		done = v.fenced()
	}); err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-v.access.reactor.done:
		return ErrStopped
	}
}
