package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

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
	Losses   uint64
	Replicas int // of each extent, as far as there are nodes for them; 0: 1
}

// Volume is an open volume. Owned by the reactor.
type Volume struct {
	access     *Access
	id         uuid.UUID
	name       string
	size       int64
	blockSize  int
	durable    bool
	hardening  bool // durable, but what was acknowledged before may not be yet
	losses     uint64
	away       *away // another node drives it; nil: it is driven here
	extents    []extentSlot
	replicated bool    // some extent has, or had, several replicas
	stores     []Store // those that hold extents of it
	missing    int     // extents of which a replica is out of reach
	order      order
	hosts      map[Host]*hostState // by protocol and name
	guard      Guard               // nil: no reservation

	regionBlocks uint32
	tending      bool // upkeep goes through the extents
	tendAt       int
	tendRegion   uint32

	users     int // grants
	inflight  int // commands
	resolving int // extents at a control goroutine
	seq       uint64
	fences    []*fence
	closed    bool
	leaving   bool   // it is being given up
	parting   opList // commands that came meanwhile
	origin    origin
	stats     VolumeStats
	troubled  int64  // when trouble was logged last, CLOCK_MONOTONIC ns
	disowned  string // why some extents are not served for good; "": all are

	moves    map[*move]context.CancelFunc // of extents to other stores, under way
	resizing int                          // Shrinks and Closes that wait for their end, or are under way

	replicas int  // that extents are to have
	asked    int  // replicas that the volume is to have at most; 0: nobody said, and none is taken away
	stirred  bool // it may have changed which extents are whole
	health   health

	driving sync.Mutex   // one look for who drives it at a time
	resize  sync.RWMutex // one Grow or Shrink at a time, and no move beside it
}

// hostState is what one host's grants of one volume share.
type hostState struct {
	epoch    uint64          // highest path epoch seen
	changing int             // commands under way that change data
	settled  <-chan struct{} // closed when those from before epoch have ended
	lossTold uint64
}

// Guard decides whether a reservation lets a command through. It is immutable: a
// change of reservation installs a new one.
type Guard interface {
	AllowsRead(Host) bool
	AllowsWrite(Host) bool
}

// resolving is who waits for an extent.
type resolving struct {
	seq  uint64
	ops  opList
	then []func(ring.Status)
}

// fence waits for what was under way when it was made.
type fence struct {
	before  uint64
	host    *hostState // not nil: only for what this host changes
	pending int
	done    chan struct{}
}

// enter takes a validated entry and starts it, or answers it at once.
func (v *Volume) enter(o *op, e *ring.Entry) {
	o.grant.inflight++
	o.fail(v.check(o, e), 0)
	v.begin(o)
}

// begin lets o in, under the path epoch of now, or has it wait: at its grant's door, or while v is given up. What
// waits there counts for nothing but its grant: no fence waits for it, and a higher epoch
// does not end it, since the host has not given it up.
func (v *Volume) begin(o *op) {
	o.fail(v.permitted(o), 0)
	if o.range_.to > v.size { // it shrank meanwhile
		o.fail(ring.StatusOutOfRange, 0)
	}
	if o.status == ring.StatusOK && o.changes() && !o.grant.open() {
		if o.port.guest == nil {
			o.grant.await(o)
			return
		}
		o.fail(ring.StatusPathLost, 0) // it has waited at its node's door, and is of a path that was left
	}
	if o.status == ring.StatusOK && v.leaving {
		v.parting.push(o)
		return
	}
	if v.away == nil {
		v.origin.count(o.port.guest)
	}
	o.begun, o.epoch = true, o.grant.path.Epoch
	o.seq = v.seq
	v.seq++
	v.inflight++
	if o.changes() {
		o.grant.state.changing++
	}
	o.proceed()
}

// check is everything that a host can get wrong.
func (v *Volume) check(o *op, e *ring.Entry) ring.Status {
	if o.kind == ring.OpFlush {
		return ring.StatusOK
	}
	mask := uint64(v.blockSize - 1)
	if e.Offset&mask != 0 || e.Length&mask != 0 || e.Length == 0 || (e.PoolLength > 0 && e.Length > maxTransfer) {
		return ring.StatusInvalidField
	}
	if e.Offset > uint64(v.size) || e.Length > uint64(v.size)-e.Offset {
		return ring.StatusOutOfRange
	}
	o.range_ = span{int64(e.Offset), int64(e.Offset + e.Length)}
	o.pos = o.range_.from
	if o.changes() {
		o.hold = o.range_.blocks()
		o.holds = o.kind == ring.OpCompareAndWrite || (o.kind != ring.OpDiscard && !o.aligned())
	}
	return ring.StatusOK
}

// permitted checks what depends on who asks: grant, path epoch and reservation.
func (v *Volume) permitted(o *op) ring.Status {
	if o.grant == nil { // our own
		return ring.StatusOK
	}
	changes := o.changes()
	if o.grant.revoked || o.grant.path.State == PathInaccessible || (o.begun && changes && o.epoch < o.grant.state.epoch) {
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

// left is called when o has ended.
func (v *Volume) left(o *op) {
	if o.begun {
		v.inflight--
		var host *hostState
		if o.changes() && o.grant != nil {
			host = o.grant.state
			host.changing--
		}
		v.passFences(o.seq, host)
	}
	if o.grant == nil {
		return
	}
	o.grant.inflight--
	o.grant.settled()
}

// passFences is called when what began as seq has ended; host changed data by it, or is nil.
func (v *Volume) passFences(seq uint64, host *hostState) {
	for i := 0; i < len(v.fences); {
		f := v.fences[i]
		if seq < f.before && (f.host == nil || f.host == host) {
			if f.pending--; f.pending == 0 {
				close(f.done)
				v.fences = append(v.fences[:i], v.fences[i+1:]...)
				continue
			}
		}
		i++
	}
}

// fenced returns a channel that is closed when everything now under way has ended; of
// one host, if it is not nil, everything that changes data.
func (v *Volume) fenced(host *hostState) <-chan struct{} {
	f := &fence{before: v.seq, host: host, pending: v.inflight + v.resolving, done: make(chan struct{})}
	if host != nil {
		f.pending = host.changing
	}
	if f.pending == 0 {
		close(f.done)
	} else {
		v.fences = append(v.fences, f)
	}
	return f.done
}

// raise makes epoch the lowest under which a host may change data, drops its parked
// commands of lower ones, and returns a channel that is closed when those at the stores
// have ended.
func (v *Volume) raise(h *hostState, epoch uint64) <-chan struct{} {
	if epoch <= h.epoch {
		return h.settled
	}
	h.epoch = epoch
	if h.changing > 0 {
		for c := range v.access.clients {
			for _, p := range c.ports {
				for _, o := range p.inflight {
					if o != nil && o.parked != nil && o.begun && o.grant.state == h && v.permitted(o) == ring.StatusPathLost {
						o.drop(ring.StatusPathLost)
					}
				}
			}
		}
	}
	h.settled = v.fenced(h)
	return h.settled
}

// resolved ends what resolve began: extent i is as next says, if that is ready.
func (v *Volume) resolved(i uint32, next extentSlot, status ring.Status) {
	e := &v.extents[i]
	r := e.resolving
	gone, joiner, levels, short := e.gone, e.joiner, e.levels, e.short
	*e = next
	e.joiner, e.levels, e.short, e.resolving = joiner, levels, short, nil
	for _, id := range gone { // failed meanwhile, or not out of the set yet
		if e.has(id) && e.state != extentAbsent {
			e.gone = append(e.gone, id)
		}
	}
	v.access.refresh(extent.ID{Volume: v.id, Index: i}, e)
	if e.state == extentReady {
		v.access.attach(extent.ID{Volume: v.id, Index: i}, e.set)
		v.replicated = v.replicated || len(e.set) > 1
		v.stats.Trouble = ""
	}
	if e.state != extentAbsent && (len(e.set) < v.replicas || len(e.absent) > 0) {
		v.stirred = true
		v.access.heal.stir()
	}
	v.recount(e)
	for o := r.ops.head; o != nil; o = r.ops.head {
		o.fail(status, 0)
		v.access.wake(o)
	}
	for _, then := range r.then {
		then(status)
	}
	v.resolving--
	v.passFences(r.seq, nil)
}

// recount looks which stores v needs, after slots were given or lost a store; only of
// one extent, if that is not nil.
func (v *Volume) recount(one *extentSlot) {
	if one != nil {
		v.count(one)
		return
	}
	v.stores, v.missing = nil, 0
	for i := range v.extents {
		v.extents[i].short = false
		v.count(&v.extents[i])
	}
}

func (v *Volume) count(e *extentSlot) {
	if e.short {
		v.missing--
	}
	e.short = e.disowned
	for i := range e.set {
		s := e.set[i].store
		if s == nil {
			e.short = true
		} else if !slices.Contains(v.stores, s) {
			v.stores = append(v.stores, s)
		}
	}
	if e.short {
		v.missing++
	}
}

// trouble notes why something of v cannot be served. It is logged when it changes, but for
// what is said of many extents only so often.
func (v *Volume) trouble(what string, err error) {
	text := what + ": " + err.Error()
	if v.stats.Trouble == text {
		return
	}
	v.stats.Trouble = text
	if now := v.access.reactor.now(); v.troubled == 0 || now-v.troubled >= int64(troubleInterval) {
		v.troubled = now
		v.access.log.Error("volume cannot be served whole", "volume", v.name, "trouble", text)
	}
}

// troubleInterval is the least time between two lines of the log about one volume.
const troubleInterval = time.Second

// newest is the highest generation that a store here has of extent i; 0: none has it.
func (v *Volume) newest(i uint32) (g extent.Generation) {
	for _, s := range v.access.stores {
		if e := s.Extent(extent.ID{Volume: v.id, Index: i}); e != nil {
			g = max(g, e.Generation())
		}
	}
	return g
}

// disown takes extents out of service: those that Meta is behind of, and all that a store
// has, or that a store that is not here may have, and Meta does not know.
func (v *Volume) disown(behind []uint32) {
	first, n := -1, 0
	for i := range v.extents {
		e := &v.extents[i]
		_, listed := slices.BinarySearch(behind, uint32(i))
		if e.disowned || !listed && (e.state != extentAbsent || v.newest(uint32(i)) == 0 && !v.access.incomplete) {
			continue
		}
		*e = extentSlot{state: extentUnsealed, disowned: true, short: e.short}
		if n++; first < 0 {
			first = i
		}
	}
	if n > 0 {
		v.disowned = fmt.Sprintf("%d extents cannot be used, the first of them is %d: %v", n, first, errMetaBehind)
		v.access.log.Error("volume cannot be served whole", "volume", v.name, "trouble", v.disowned)
	}
}

var errMetaBehind = errors.New("the metadata, restored from a backup, is older than the data on the stores, or one of them is not here")

// mayHaveLost says, to each Flush of a host until it has heard of it, that unflushed writes may be gone. It has when the same
// association flushes again after its plugin took the completion of a Flush that failed: an association that ended before that may
// never have got it, and the next one is told again. Likewise a core that dies before it has recorded it. A Flush fails once
// too often then. The other way round a Flush could succeed though its host never heard of the loss.
func (v *Volume) mayHaveLost(o *op) bool {
	g := o.grant
	if g.state.lossTold >= v.losses {
		return false
	}
	if g.said.losses < v.losses || !g.said.heard() && !o.told {
		return true
	}
	g.state.lossTold = v.losses
	if tell := v.access.lossTold; tell != nil {
		id, host, losses := v.id, g.host, v.losses
		v.access.start(func() { tell(id, host, losses) })
	}
	return false
}

// Told says which losses a host has been told of, in this life of the core or before;
// its next Flush fails only for later ones.
func (v *Volume) Told(ctx context.Context, h Host, losses uint64) error {
	return v.access.reactor.Do(ctx, func() {
		s := v.host(h)
		s.lossTold = max(s.lossTold, losses)
	})
}

// host is what is known of a host by its name: a machine that comes back with another
// host identifier is the same one, and must not meet what it sent before.
func (v *Volume) host(h Host) *hostState {
	h.ID = meta.UID{}
	s := v.hosts[h]
	if s == nil {
		s = &hostState{settled: v.fenced(&hostState{})}
		v.hosts[h] = s
	}
	return s
}

// Grow makes the volume larger. A volume is made smaller by Access.Shrink.
func (v *Volume) Grow(ctx context.Context, size int64) error {
	have := false
	if err := v.access.reactor.Do(ctx, func() { have = size <= v.size }); err != nil || have {
		return err // no move has to end for that
	}
	unlock, err := v.lockSize(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return v.access.reactor.Do(ctx, func() {
		if n := v.access.extentsOf(size); v.away == nil && n > len(v.extents) {
			v.extents = append(v.extents, make([]extentSlot, n-len(v.extents))...)
			if v.access.metaRestored { // the backup may be from before it was as large
				v.disown(nil)
				v.recount(nil)
			}
		}
		v.size = max(v.size, size)
	})
}

// SetGuard installs a reservation's rule, or takes it away with nil, and returns when
// every command admitted under the former one has ended; those that were parked are
// judged again by the new one. Where another node drives the volume, it is that one that looks into Meta, and installs what is there.
func (v *Volume) SetGuard(ctx context.Context, g Guard) error {
	if here, err := v.refresh(ctx); err != nil || !here {
		return err
	}
	var done <-chan struct{}
	if err := v.access.reactor.Do(ctx, func() {
		if v.guard = g; v.away == nil { // else nothing was admitted here
			done = v.fenced(nil)
		}
	}); err != nil || done == nil {
		return err
	}
	return v.access.reactor.wait(ctx, done)
}

// change runs fn on the reactor and waits until all that was under way before has ended.
func (v *Volume) change(ctx context.Context, fn func()) error {
	var done <-chan struct{}
	if err := v.access.reactor.Do(ctx, func() {
		fn()
		done = v.fenced(nil)
	}); err != nil {
		return err
	}
	return v.access.reactor.wait(ctx, done)
}
