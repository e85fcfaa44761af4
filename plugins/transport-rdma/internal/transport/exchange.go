package transport

import (
	"fmt"

	"github.com/mooring-io/mooring/plugins/transport-rdma/internal/verbs"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmf"
)

// workKind tells in a completion what it is the end of.
type workKind uint8

const (
	workReceive workKind = iota // index is that of a slot; of all others, of an exchange
	workSend
	workWrite
	workRead
)

func workID(k workKind, index int) uint64 { return uint64(k)<<32 | uint64(uint32(index)) }

func workOf(id uint64) (workKind, int) { return workKind(id >> 32), int(uint32(id)) }

// exchange is the transport's part of a command: it lives as long as the nvmf.Command and is
// found in its User field.
type exchange struct {
	conn   *conn
	cmd    *nvmf.Command
	index  int // in conn.exchanges
	slot   int // that the data lies in; -1: it lies elsewhere
	saved  []byte
	posted int // sends or RDMA READs that have not come back
	writes int // RDMA WRITEs that its send follows
	reads  int // descriptors that an RDMA READ was posted for
	read   int // bytes of them

	awaiting   bool
	prev, next *exchange // in conn.awaiting
}

// receive takes a capsule of n bytes that came into a slot.
func (c *conn) receive(slot, n int) {
	d := c.domain
	if n < nvme.CommandSize {
		d.giveBack(slot)
		c.fault(errShortCapsule)
		return
	}
	cmd := c.queue.Get()
	if cmd == nil {
		d.giveBack(slot)
		return
	}
	ex, ok := cmd.User.(*exchange)
	if !ok {
		ex = &exchange{conn: c, cmd: cmd, index: len(c.exchanges)}
		if ex.index >= 2*c.entries {
			cmd.Release()
			d.giveBack(slot)
			c.fault(errTooManyHeld)
			return
		}
		cmd.User = ex
		c.exchanges = append(c.exchanges, ex)
	}
	c.worker.held++
	ex.slot = slot
	b := d.slots[slot]
	copy(cmd.SQE[:], b.Bytes())
	if cmd.SQE.SGL1().Is(nvme.SGLLastSegment, nvme.SGLOffset) {
		cmd.Segment = b.Bytes()[nvme.CommandSize:n]
	} else {
		cmd.InCapsule = n - nvme.CommandSize
	}
	keep := cmd.InCapsule > 0 && c.slots < c.fairSlots()
	if keep {
		cmd.Data = b.Slice(nvme.CommandSize, cmd.InCapsule)
	}
	c.slots++
	d.taken++
	if cmd.InCapsule == 0 {
		ex.freeSlot() // it is posted again at the end of the turn: Begin still finds a segment there
	}
	c.queue.Begin(cmd)
	switch {
	case c.state != stateOpen:
		ex.Release()
	case cmd.Parked:
		if cmd.InCapsule > 0 && !keep {
			ex.saved = append([]byte(nil), b.Bytes()[nvme.CommandSize:n]...)
			c.worker.transport.counters.copied.Add(uint64(cmd.InCapsule))
			ex.freeSlot()
		}
		c.await(ex)
	default:
		if cmd.InCapsule > 0 && !keep {
			ex.saved = b.Bytes()[nvme.CommandSize:n]
		}
		ex.proceed()
	}
}

// fairSlots is how many slots the commands of one connection may hold before their data is moved
// out of them, so that no host can take all: a quarter.
func (c *conn) fairSlots() int { return len(c.domain.slots) / 4 }

// proceed goes on after Begin: gets the data of the host, if there is any, then executes.
func (ex *exchange) proceed() {
	c, cmd := ex.conn, ex.cmd
	saved := ex.saved
	ex.saved = nil
	switch {
	case cmd.Refused || cmd.Transfer != nvmf.TransferFromHost || cmd.Length == 0:
	case cmd.InCapsule > 0:
		if saved != nil {
			n := copy(cmd.Data.Bytes(), saved)
			c.worker.transport.counters.copied.Add(uint64(n))
			ex.freeSlot()
		}
		c.queue.Execute(cmd)
		return
	default:
		if len(c.waitRead) > 0 || !ex.postReads() {
			c.waitRead = append(c.waitRead, ex)
		}
		return
	}
	ex.freeSlot()
	c.queue.Execute(cmd)
}

// nextReads goes on fetching for those that had to wait, in the order in which they came.
func (c *conn) nextReads() {
	for c.state == stateOpen && len(c.waitRead) > 0 && c.waitRead[0].postReads() {
		c.waitRead = c.waitRead[:copy(c.waitRead, c.waitRead[1:])]
	}
}

// postReads fetches the data of the host, an RDMA READ for each descriptor, as far as the connection may have
// them under way. It says whether that was all of it.
func (ex *exchange) postReads() bool {
	c, cmd := ex.conn, ex.cmd
	for c.reads < c.readLimit && ex.read < cmd.Length {
		d := cmd.Descriptors[ex.reads]
		ex.reads++
		n := min(int(d.Length), cmd.Length-ex.read)
		if n == 0 {
			continue
		}
		c.reads++
		ex.posted++
		c.out = append(c.out, verbs.WR{
			ID: workID(workRead, ex.index), Op: verbs.RDMARead, Flags: verbs.Signaled,
			Offset: cmd.Data.Offset() + uint64(ex.read), Length: uint32(n), Remote: d.Address, Key: d.Key,
		})
		ex.read += n
		c.want()
	}
	return ex.read == cmd.Length
}

// postWrites posts the data of a command that has some for the host, an RDMA WRITE for each descriptor.
func (ex *exchange) postWrites() {
	c, cmd := ex.conn, ex.cmd
	written := 0
	for _, d := range cmd.Descriptors {
		n := min(int(d.Length), cmd.Length-written)
		if n == 0 {
			continue
		}
		c.out = append(c.out, verbs.WR{
			ID: workID(workWrite, ex.index), Op: verbs.RDMAWrite,
			Offset: cmd.Data.Offset() + uint64(written), Length: uint32(n), Remote: d.Address, Key: d.Key,
		})
		ex.writes++
		written += n
	}
}

// invalidates is the key that the host wants to be invalid once the command is done. One send can do that for one
// key: if several descriptors ask for it, for that of the last one.
func (ex *exchange) invalidates() (key uint32, ok bool) {
	for _, d := range ex.cmd.Descriptors {
		if d.Subtype == nvme.SGLInvalidateKey {
			key, ok = d.Key, true
		}
	}
	return key, ok && ex.cmd.Transfer != nvmf.TransferNone
}

// done takes the completion of a work request.
func (c *conn) done(kind workKind, i int, st verbs.WCStatus) {
	ex := c.exchanges[i]
	c.completed++
	switch kind {
	case workReceive:
	case workWrite: // it failed: those that do not are silent
		c.broken(ex, "RDMA WRITE", st)
	case workSend:
		c.posted--
		c.room += 1 + ex.writes
		ex.posted--
		c.broken(ex, "send", st)
		ex.writes = 0
		ex.Release()
	case workRead:
		c.broken(ex, "RDMA READ", st) // while it still counts: end leaves the command to us
		c.posted--
		c.room++
		c.reads--
		ex.posted--
		switch {
		case ex.posted > 0:
		case c.state != stateOpen:
			ex.Release()
		case ex.read == ex.cmd.Length:
			c.queue.Execute(ex.cmd)
		}
		c.nextReads()
	}
	if len(c.out) > 0 {
		c.want()
	}
	c.checkFlushed()
}

// broken ends the connection for a work request that failed.
func (c *conn) broken(ex *exchange, what string, st verbs.WCStatus) {
	if st == verbs.WCSuccess {
		return
	}
	err := fmt.Errorf("%s for command %d: %s", what, ex.cmd.SQE.CID(), st)
	if st == verbs.WCFlushed {
		c.end(err, false)
		return
	}
	c.fault(err)
}

// Release gives the command back, and then its memory. The device must be done with it.
func (ex *exchange) Release() {
	ex.saved, ex.writes, ex.posted, ex.reads, ex.read = nil, 0, 0, 0, 0
	ex.cmd.Release()
	ex.freeSlot()
	ex.conn.worker.held--
	ex.conn.worker.checkIdle()
}

// freeSlot gives the slot back when nothing in it is needed any more.
func (ex *exchange) freeSlot() {
	if ex.slot < 0 {
		return
	}
	ex.conn.slots--
	d, slot := ex.conn.domain, ex.slot
	ex.slot = -1
	d.taken--
	d.giveBack(slot)
	d.checkBroken()
}

func (c *conn) await(ex *exchange) {
	ex.awaiting = true
	ex.prev, ex.next = nil, c.awaiting
	if c.awaiting != nil {
		c.awaiting.prev = ex
	}
	c.awaiting = ex
}

func (c *conn) unawait(ex *exchange) {
	if !ex.awaiting {
		return
	}
	ex.awaiting = false
	if ex.prev != nil {
		ex.prev.next = ex.next
	} else {
		c.awaiting = ex.next
	}
	if ex.next != nil {
		ex.next.prev = ex.prev
	}
	ex.prev, ex.next = nil, nil
}
