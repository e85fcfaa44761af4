package transport

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/plugins/transport-rdma/internal/cm"
	"github.com/mooring-io/mooring/plugins/transport-rdma/internal/verbs"
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/nvme"
)

const (
	slotAlign = 64 // bytes
	// completionRoom bounds the sends of all connections of a domain.
	completionRoom = 32 << 10
	pollBatch      = 64
	// pollTurn bounds the completions that one turn takes, so that others have their turn.
	pollTurn = 512
)

// domain is what the connections of one thread on one device share. Owned by the thread.
type domain struct {
	worker *worker
	v      *verbs.Domain
	limits verbs.Limits
	conns  map[uint32]*conn // by number of the queue pair

	slots    []block.Buffer // what capsules come into, by index
	chunks   []block.Buffer // of the pool, that slots are parts of
	repost   []verbs.WR     // slots that go back into the shared receive queue this turn
	taken    int            // slots that commands hold
	sendRoom int            // sends that the completion queue has room for
	dirty    []*conn        // have something to post
	wc       [pollBatch]verbs.Completion
	again    bool // a poll is posted
	broken   bool // to be closed when nothing of it is in use
	closed   bool
}

var errPool = errors.New("the pool has no room for receives")

func newDomain(w *worker, id *verbs.ID) (*domain, error) {
	limits, err := id.Limits()
	if err != nil {
		return nil, err
	}
	d := &domain{worker: w, limits: limits, conns: map[uint32]*conn{}}
	cfg, pool := w.transport.fixed, w.thread.Pool()
	d.takeSlots(pool, min(cfg.SharedReceives, limits.SRQEntries), nvme.CommandSize+cfg.InCapsuleBytes)
	if len(d.slots) < minReceives/2 {
		d.freeChunks()
		return nil, errPool
	}
	d.sendRoom = min(completionRoom, limits.CQEntries-len(d.slots))
	d.v, err = verbs.NewDomain(id, verbs.DomainConfig{Memory: pool.Memory(), Receives: len(d.slots), Sends: d.sendRoom})
	if err != nil {
		d.freeChunks()
		return nil, err
	}
	for i := range d.slots {
		d.giveBack(i)
	}
	d.flush()
	if err := w.thread.Watch(d.v.FD(), unix.EPOLLIN, d.wake); err != nil {
		d.close()
		return nil, err
	}
	w.transport.log.Info("RDMA device is used", "device", limits.Device, "receives", len(d.slots), "sends", d.sendRoom, "reads", limits.ReadDepth)
	return d, nil
}

// takeSlots makes up to n slots of size bytes in at most a quarter of the pool.
func (d *domain) takeSlots(pool *block.Pool, n, size int) {
	size = (size + slotAlign - 1) / slotAlign * slotAlign
	for room := pool.Size() / 4; len(d.slots) < n; {
		bytes := min(pool.MaxTransfer(), room, (n-len(d.slots))*size)
		if bytes < size {
			return
		}
		b, ok := pool.Alloc(bytes)
		if !ok {
			return
		}
		room -= bytes
		d.chunks = append(d.chunks, b)
		for off := 0; off+size <= bytes; off += size {
			d.slots = append(d.slots, b.Slice(off, size))
		}
	}
}

func (d *domain) freeChunks() {
	for _, b := range d.chunks {
		d.worker.thread.Pool().Free(b)
	}
	d.chunks, d.slots = nil, nil
}

// giveBack puts a slot back into the shared receive queue at the end of the turn.
func (d *domain) giveBack(slot int) {
	if d.broken {
		return
	}
	size := nvme.CommandSize + d.worker.transport.fixed.InCapsuleBytes
	d.repost = append(d.repost, verbs.WR{ID: workID(workReceive, slot), Offset: d.slots[slot].Offset(), Length: uint32(size)})
}

// wake is called when there are completions.
func (d *domain) wake(uint32) {
	d.worker.transport.counters.wakes.Add(1)
	if err := d.v.Wake(); err != nil {
		d.failed(err)
		return
	}
	d.poll()
}

// poll takes completions until there are none, or for as long as a turn may last.
func (d *domain) poll() {
	d.again = false
	for total := 0; total < pollTurn && !d.closed; {
		n, err := d.v.Poll(d.wc[:])
		if err != nil {
			d.failed(err)
			return
		}
		for i := range n {
			d.completed(&d.wc[i])
		}
		d.worker.transport.counters.completions.Add(uint64(n))
		if n < len(d.wc) {
			return // armed before: what comes now wakes us
		}
		total += n
	}
	if !d.again {
		d.again = true
		d.worker.thread.Post(d.poll)
	}
}

func (d *domain) completed(wc *verbs.Completion) {
	kind, i := workOf(wc.ID)
	c := d.conns[wc.QP]
	if kind == workReceive {
		if c == nil || c.state != stateOpen || wc.Status != verbs.WCSuccess {
			d.giveBack(i)
			if c != nil && wc.Status != verbs.WCSuccess && wc.Status != verbs.WCFlushed {
				c.fault(fmt.Errorf("receive: %s", wc.Status)) // a capsule that is too long, for instance
			}
			return
		}
		c.receive(i, int(wc.Bytes))
		return
	}
	if c != nil {
		c.done(kind, i, wc.Status)
	}
}

// flush posts what the turn gave rise to.
func (d *domain) flush() {
	for i := 0; i < len(d.dirty); i++ { // may grow meanwhile
		c := d.dirty[i]
		d.dirty[i] = nil
		c.dirty = false
		c.flush()
	}
	d.dirty = d.dirty[:0]
	if len(d.repost) == 0 || d.broken {
		return
	}
	d.worker.transport.counters.posts.Add(1)
	if _, err := d.v.Receive(d.repost); err != nil {
		d.failed(err)
	}
	d.repost = d.repost[:0]
}

// failed ends the use of a device that cannot be used any more.
func (d *domain) failed(err error) {
	if d.broken {
		return
	}
	d.broken = true
	d.worker.transport.log.Error("RDMA device is given up", "device", d.limits.Device, "connections", len(d.conns), "error", err)
	for dev, o := range d.worker.domains {
		if o == d {
			delete(d.worker.domains, dev) // who connects by it from now on finds it as it is then
		}
	}
	for _, c := range d.conns {
		c.end(err, false)
	}
	d.checkBroken()
}

func (d *domain) checkBroken() {
	if d.broken && !d.closed && len(d.conns) == 0 && d.taken == 0 {
		d.close()
	}
}

// newConn makes the connection that a host asked for, with its queue pair.
func (d *domain) newConn(l *listener, id *verbs.ID, req cm.Request, reads int) (*conn, error) {
	sends := min(2*req.Entries+minSends, maxSends, d.limits.QPEntries)
	if sends > d.sendRoom {
		return nil, fmt.Errorf("device %s has no room for the completions of %d sends more", d.limits.Device, sends)
	}
	c := &conn{
		worker: d.worker, domain: d, listener: l, id: id, entries: req.Entries,
		local: Scheme + "://" + id.Local().String(), peer: id.Peer().String(),
		sends: sends, room: sends, readLimit: min(reads, d.limits.ReadDepth, maxReadDepth),
	}
	var ok bool
	if c.responses, ok = d.worker.thread.Pool().Alloc(2 * req.Entries * nvme.CompletionSize); !ok {
		return nil, errPool
	}
	inline, err := id.CreateQP(d.v, sends, nvme.CompletionSize)
	if err != nil {
		d.worker.thread.Pool().Free(c.responses)
		return nil, err
	}
	c.inline = inline >= nvme.CompletionSize
	c.qp = id.QP()
	id.User = c
	d.sendRoom -= sends
	d.conns[c.qp] = c
	d.worker.conns[c] = struct{}{}
	c.queue = d.worker.transport.makeQueue(c)
	return c, nil
}

// close gives the domain up when it has no connections.
func (d *domain) close() {
	d.closed = true
	d.worker.thread.Unwatch(d.v.FD())
	if err := d.v.Close(); err != nil {
		d.worker.transport.log.Warn("device", "device", d.limits.Device, "error", err)
	}
	d.freeChunks()
}
