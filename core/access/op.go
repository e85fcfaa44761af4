package access

import (
	"bytes"
	"errors"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/peer"
	"github.com/mooring-io/mooring/sdk/ring"
)

const (
	blockBytes = 4096
	// maxChunk is the most that a long Verify or an unaligned long command moves at
	// a time, in bytes, so that one command cannot hold the memory of many.
	maxChunk = 1 << 20
)

// maxWrite is the most that one write to an extent store carries, in bytes.
const maxWrite = extent.MaxWriteBlocks * blockBytes

// op is one command that a plugin put into its ring, from the moment its entry was
// validated until its completion is written. It is at a store, or parked in exactly
// one list, or (only while the reactor works on it) neither. Ops are recycled by
// their port.
type op struct {
	port  *port
	grant *grant
	vol   *Volume

	tag    uint32
	kind   ring.Op
	fua    bool
	range_ span   // bytes of the volume, as the host named them
	buf    []byte // pool memory; the plugin may change it at any time

	submitted, taken int64 // CLOCK_MONOTONIC ns
	disk             int64 // ns spent at disks

	command peer.Command // when it is forwarded
	away    *away        // it is under way there
	driver  *driver      // and at that node

	// Ordering; see order.
	prev, next *op
	holds      bool // reads before it writes
	shared     bool // only reads, where there are several replicas
	hold       span // the blocks it changes, or shares
	active     bool
	begun      bool // it was let in, and counts for the volume
	seq        uint64
	epoch      uint64 // path epoch under which it began

	// Where it waits: at its grant's door, behind another command, for an extent, for bounce
	// memory, for the lease, or for the next turn; nil: it does not wait, or waits for a store.
	parked        *opList
	before, after *op

	want    int   // bytes of bounce memory it waits for
	pos     int64 // where a command by chunks goes on
	inner   *inner
	pending int  // requests at the stores, and what else it waits for
	writing bool // the second half of a read-modify-write
	failed  bool // a request has failed, and it is not settled what follows
	again   bool // to be started anew
	tries   uint8
	status  ring.Status
	info    uint64
	bounce  []byte
	told    bool // Flush: the host has heard of the one that failed last; of another node's host
	sent    int  // requests of the present step
	reqs    [2]request
	more    []*request // when two are too few; kept
}

// request is what an op asks of one replica.
type request struct {
	extent.IO
	op     *op
	index  uint32    // of the extent
	store  uuid.UUID // of the replica
	of     uint8     // members that the set had; 0: the store joins
	asked  uint8     // reads: members that were asked, a bit for each by its place in the set
	joiner *joiner
}

// changes says whether the command changes data.
func (o *op) changes() bool {
	switch o.kind {
	case ring.OpWrite, ring.OpWriteZeroes, ring.OpDiscard, ring.OpCompareAndWrite, opCopy, opLevel, opZero, opClean, opScrub:
		return true
	case ring.OpRead, ring.OpFlush, ring.OpCompare, ring.OpVerify:
	}
	return false
}

// reads says whether it reads what it returns or writes again.
func (o *op) reads() bool {
	return o.holds || o.kind == ring.OpRead || o.kind == ring.OpCompare || o.kind == ring.OpVerify
}

func (o *op) aligned() bool { return (o.range_.from|o.range_.to)&(blockBytes-1) == 0 }

// fail records the first failure; later ones do not hide it.
func (o *op) fail(s ring.Status, info int64) {
	if o.status == ring.StatusOK {
		o.status, o.info = s, uint64(info)
	}
}

// resume starts o, or goes on with it where it was parked, if it still may: path epoch,
// reservation and lease are looked at here, not only when it entered.
func (o *op) resume() {
	v := o.vol
	if !o.begun {
		v.begin(o)
		return
	}
	o.fail(v.permitted(o), 0)
	if o.grant != nil && o.range_.to > v.size { // it shrank while another node drove it
		o.fail(ring.StatusOutOfRange, 0)
	}
	o.proceed()
}

// proceed goes on with o, which is permitted or has failed.
func (o *op) proceed() {
	v := o.vol
	switch {
	case o.status != ring.StatusOK:
		o.finish()
	case !v.access.mayServe():
		v.access.hold(o)
	case v.away != nil:
		v.away.forward(o)
	case !o.active && !v.prepared(o):
	case !o.active && (o.changes() || o.shared) && !v.order.enter(o):
	case o.writing && o.kind == ring.OpWriteZeroes:
		o.transfer(extent.OpWrite, o.chunk().blocks(), o.bounce)
	case o.writing && o.inner != nil && o.kind != opClean:
		o.writeInner()
	case o.writing && o.kind != opClean:
		o.transfer(extent.OpWrite, o.range_.blocks(), o.bounce)
	default:
		o.start()
	}
}

// start runs o from its first step, or a command by chunks from its next chunk.
func (o *op) start() {
	switch o.kind {
	case ring.OpRead:
		if o.aligned() {
			o.transfer(extent.OpRead, o.range_, o.buf)
			return
		}
		o.readIntoBounce(o.range_)
	case ring.OpWrite:
		switch {
		case !o.aligned():
			o.readIntoBounce(o.range_)
		case o.port.guest != nil || !o.vol.fansOut(o.range_): // another node's host has its data in our memory already
			o.transfer(extent.OpWrite, o.range_, o.buf)
		case o.takeBounce(len(o.buf)):
			// Several stores copy it, and the plugin must not make them differ.
			copy(o.bounce, o.buf)
			o.writing = true
			o.transfer(extent.OpWrite, o.range_, o.bounce)
		}
	case ring.OpCompare, ring.OpCompareAndWrite, opCopy, opLevel:
		o.readIntoBounce(o.range_)
	case ring.OpVerify, ring.OpWriteZeroes, ring.OpDiscard:
		o.nextChunk()
	case ring.OpFlush:
		o.flush()
	case opZero:
		o.transfer(extent.OpZero, o.range_, nil)
	case opClean:
		o.startClean()
	case opScrub:
		o.startScrub()
	}
}

// readIntoBounce reads the whole blocks under r into core memory.
func (o *op) readIntoBounce(r span) {
	w := r.blocks()
	if !o.takeBounce(int(w.to - w.from)) {
		return
	}
	o.transfer(extent.OpRead, w, o.bounce)
}

// takeBounce gives o core memory, or parks it until some is free.
func (o *op) takeBounce(n int) bool {
	if len(o.bounce) == n {
		return true
	}
	b := &o.vol.access.bounces
	if b.waiting.n == 0 {
		if got, ok := b.take(n); ok {
			o.bounce = got
			return true
		}
	}
	o.want = n
	b.waiting.push(o)
	return false
}

// transfer moves the blocks of r, which is block-aligned, between mem and the
// extents under it. It parks o when an extent is not ready, and starts over then.
func (o *op) transfer(kind extent.Op, r span, mem []byte) {
	v := o.vol
	size := v.access.extentBytes
	for at := r.from; at < r.to; at = (at/size + 1) * size {
		if !v.ready(o, at/size, kind) {
			return
		}
	}
	o.pending++ // kept until all are submitted
	o.sent = 0
	for at := r.from; at < r.to; {
		end := min((at/size+1)*size, r.to)
		if kind == extent.OpWrite {
			end = min(end, at+maxWrite)
		}
		e := &v.extents[at/size]
		var part []byte
		if mem != nil {
			part = mem[at-r.from : end-r.from]
		}
		if e.state == extentAbsent {
			if kind == extent.OpRead {
				clear(part)
			}
			at = end
			continue
		}
		io := extent.IO{
			Op: kind, ID: extent.ID{Volume: v.id, Index: uint32(at / size)}, Gen: e.generation,
			Block: uint32(at % size / blockBytes), Blocks: uint32((end - at) / blockBytes), Buf: part,
		}
		if kind == extent.OpRead {
			o.ask(e, e.nearest(0), &io)
		} else {
			io.Durable = v.durable || o.fua
			if e.marks != nil {
				e.marks.wrote(v.regionBlocks, io.Block, io.Blocks)
			}
			for i := range e.set {
				o.ask(e, i, &io)
			}
			o.alsoTo(e, &io)
		}
		at = end
	}
	if o.pending--; o.pending == 0 {
		o.step()
	}
}

// request is the next one of o's present step.
func (o *op) request() *request {
	n := o.sent
	o.sent++
	if n < len(o.reqs) {
		return &o.reqs[n]
	}
	if n -= len(o.reqs); n == len(o.more) {
		o.more = append(o.more, new(request))
	}
	return o.more[n]
}

// nth is one of the requests that were sent in the present step.
func (o *op) nth(i int) *request {
	if i < len(o.reqs) {
		return &o.reqs[i]
	}
	return o.more[i-len(o.reqs)]
}

// ask sends a request to the i-th member of an extent's set.
func (o *op) ask(e *extentSlot, i int, io *extent.IO) {
	r := o.request()
	r.op, r.index, r.store, r.of, r.asked, r.joiner = o, io.ID.Index, e.set[i].member.Store, uint8(len(e.set)), 1<<i, nil
	o.send(&e.set[i], r, io)
}

func (o *op) send(to *replica, r *request, io *extent.IO) {
	r.IO = *io
	r.Extent, r.Done, r.User = to.handle, o.vol.access.ioDone, r
	o.pending++
	o.vol.access.submit(to.store, &r.IO)
}

// ioDone is the completion of one request at a store.
func (o *op) ioDone(r *request) {
	o.disk = max(o.disk, r.DiskNanos)
	switch {
	case r.joiner != nil:
		r.joiner.ended(r.Err)
	case r.Err != nil:
		o.failed = true
	}
	if o.pending--; o.pending == 0 {
		o.step()
	}
}

// step goes on after everything that was submitted is back.
func (o *op) step() {
	if o.kind == opScrub && o.sent > 0 {
		o.failed = false
		o.scrubbed()
		return
	}
	if o.failed && !o.settle() {
		return
	}
	if o.status != ring.StatusOK {
		o.finish()
		return
	}
	if o.again {
		o.again = false
		o.vol.access.later(o)
		return
	}
	switch o.kind {
	case ring.OpRead:
		if o.bounce != nil {
			copy(o.buf, o.inBounce(o.range_))
		}
		o.finish()
	case ring.OpWrite:
		if o.bounce == nil || o.writing {
			o.finish()
			return
		}
		o.rewrite(o.range_, o.buf)
	case ring.OpCompare:
		o.compare(o.buf)
		o.finish()
	case ring.OpCompareAndWrite:
		if o.writing {
			o.finish()
			return
		}
		n := len(o.buf) / 2
		if !o.compare(o.buf[:n]) {
			o.finish()
			return
		}
		o.rewrite(o.range_, o.buf[n:])
	case opClean:
		if o.pos == o.range_.to {
			o.finish()
			return
		}
		o.startClean()
	case opCopy, opLevel:
		if o.writing {
			o.finish()
			return
		}
		o.writing = true
		o.writeInner()
	case ring.OpVerify, ring.OpWriteZeroes, ring.OpDiscard:
		o.chunkDone()
	default:
		o.finish()
	}
}

// inBounce is the part of the bounce memory that holds r; the bounce memory begins
// at the block in which r begins.
func (o *op) inBounce(r span) []byte {
	from := r.from & (blockBytes - 1)
	return o.bounce[from : from+r.to-r.from]
}

// rewrite lays data over what was read and writes the blocks back; a nil data is zeros.
func (o *op) rewrite(r span, data []byte) {
	if data != nil {
		copy(o.inBounce(r), data)
	} else {
		clear(o.inBounce(r))
	}
	if !o.vol.access.mayServe() {
		o.fail(ring.StatusRetry, 0)
		o.finish()
		return
	}
	o.writing = true
	o.transfer(extent.OpWrite, r.blocks(), o.bounce)
}

// compare says whether the volume holds want, and if not names the first logical
// block that differs. The plugin may change want while it is looked at.
func (o *op) compare(want []byte) bool {
	have := o.inBounce(o.range_)
	if bytes.Equal(have, want) {
		return true
	}
	i := 0
	for i < len(have) && have[i] == want[i] {
		i++
	}
	if i == len(have) {
		return true
	}
	at := o.range_.from + int64(i)
	o.fail(ring.StatusCompareFailed, at-at%int64(o.vol.blockSize))
	return false
}

// nextChunk does the next part of a command that may be longer than memory or an
// extent: Verify, WriteZeroes, Discard.
func (o *op) nextChunk() {
	if o.pos >= o.range_.to {
		o.finish()
		return
	}
	switch c := o.chunk(); o.kind {
	case ring.OpVerify:
		o.readIntoBounce(c)
	case ring.OpWriteZeroes:
		if (c.from|c.to)&(blockBytes-1) != 0 {
			o.readIntoBounce(c)
			return
		}
		o.transfer(extent.OpZero, c, nil)
	case ring.OpDiscard:
		if (c.from|c.to)&(blockBytes-1) != 0 {
			o.pos = c.to // parts of blocks are not deallocated
			o.vol.access.later(o)
			return
		}
		o.transfer(extent.OpZero, c, nil)
	case ring.OpRead, ring.OpWrite, ring.OpFlush, ring.OpCompare, ring.OpCompareAndWrite: // done in one
	}
}

// chunk is the part of the command at pos that can be done at once: the rest of a
// block that the range cuts, or whole blocks within one extent.
func (o *op) chunk() span {
	rest := span{o.pos, o.range_.to}
	if o.kind == ring.OpVerify {
		return span{rest.from, min(rest.to, (rest.from+maxChunk)&^(blockBytes-1))}
	}
	if rest.from&(blockBytes-1) != 0 || rest.to-rest.from < blockBytes {
		return span{rest.from, min(rest.to, rest.blocks().from+blockBytes)}
	}
	size := o.vol.access.extentBytes
	return span{rest.from, min(rest.to&^(blockBytes-1), (rest.from/size+1)*size)}
}

func (o *op) chunkDone() {
	c := o.chunk()
	if o.kind == ring.OpWriteZeroes && o.bounce != nil && !o.writing {
		o.rewrite(c, nil)
		return
	}
	o.releaseBounce()
	o.writing = false
	if o.pos = c.to; o.pos >= o.range_.to {
		o.finish()
		return
	}
	o.vol.access.later(o)
}

// flush makes everything acknowledged on the volume durable. Under sync durability
// it already is.
func (o *op) flush() {
	v := o.vol
	if v.durable && !v.hardening {
		o.finish()
		return
	}
	switch {
	case v.mayHaveLost(o):
		o.fail(ring.StatusWriteLost, 0)
		o.finish()
		return
	case (v.missing > 0 || o.tries > 0) && !v.reachable(o): // nobody can say what waits for a flush there
		return
	}
	o.pending++
	o.sent = 0
	for _, s := range v.stores {
		r := o.request()
		r.op, r.of, r.joiner = o, 1, nil
		r.store, _ = s.Identity()
		o.send(&replica{store: s}, r, &extent.IO{Op: extent.OpFlush, Durable: true})
	}
	if o.pending--; o.pending == 0 {
		o.step()
	}
}

func (o *op) releaseBounce() {
	if o.bounce != nil {
		o.vol.access.bounces.give(o.vol.access, o.bounce)
		o.bounce = nil
	}
}

// finish ends o: it answers the plugin, unless the plugin is gone.
func (o *op) finish() {
	if (o.status == ring.StatusOK || o.status == ring.StatusCompareFailed) && !o.vol.access.mayServe() {
		// The lease ran out while the command was under way: what it did or saw cannot
		// be vouched for any more (a new owner may already have answered others).
		o.status, o.info = ring.StatusRetry, 0
	}
	o.end()
}

// drop answers a parked op, which does not go on.
func (o *op) drop(s ring.Status) {
	o.parked.remove(o)
	o.fail(s, 0)
	o.end()
}

func (o *op) end() {
	v := o.vol
	o.releaseBounce()
	if o.inner == nil {
		v.account(o)
	}
	if o.changes() || o.shared {
		v.order.leave(o, v.access.wakeOp)
	}
	v.left(o)
	if o.inner != nil {
		o.inner.done(o.status)
		return
	}
	o.port.complete(o)
	o.port.free(o)
}

// statusOf translates what a store said. A failure of ours (lease, fence, dead
// store) is path-related, so that hosts try again or elsewhere; only damaged data
// is a media error, and only a full store is a capacity error.
func (a *Access) statusOf(o *op, r *request) (ring.Status, int64) {
	switch {
	case errors.Is(r.Err, extent.ErrCorrupt):
		return ring.StatusMediaError, max(int64(r.index)*a.extentBytes+int64(r.BadBlock)*blockBytes, o.range_.from)
	case errors.Is(r.Err, extent.ErrNoSpace):
		return ring.StatusNoSpace, 0
	case errors.Is(r.Err, extent.ErrInvalid):
		a.log.Error("a store calls our request wrong", "volume", o.vol.name, "error", r.Err)
		return ring.StatusInternal, 0
	default:
		o.vol.trouble("a store refuses commands", r.Err)
		return ring.StatusPathLost, 0
	}
}
