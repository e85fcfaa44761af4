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
	cmd.InCapsule = n - nvme.CommandSize
	keep := cmd.InCapsule > 0 && c.slots < c.fairSlots()
	if keep {
		cmd.Data = b.Slice(nvme.CommandSize, cmd.InCapsule)
	}
	c.slots++
	d.taken++
	if cmd.InCapsule == 0 {
		ex.freeSlot()
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
	case cmd.Refused || cmd.Transfer != nvmf.TransferFromHost:
	case cmd.InCapsule > 0:
		if saved != nil {
			n := copy(cmd.Data.Bytes(), saved)
			c.worker.transport.counters.copied.Add(uint64(n))
			ex.freeSlot()
		}
		c.queue.Execute(cmd)
		return
	default:
		if c.reads >= c.readLimit {
			c.waitRead = append(c.waitRead, ex)
			return
		}
		ex.read()
		return
	}
	ex.freeSlot()
	c.queue.Execute(cmd)
}

// read fetches the data of the host.
func (ex *exchange) read() {
	c, cmd := ex.conn, ex.cmd
	sgl := cmd.SQE.SGL1()
	c.reads++
	ex.posted++
	c.out = append(c.out, verbs.WR{
		ID: workID(workRead, ex.index), Op: verbs.RDMARead, Flags: verbs.Signaled,
		Offset: cmd.Data.Offset(), Length: uint32(cmd.Length), Remote: sgl.Address, Key: sgl.Key,
	})
	c.want()
}

// nextRead lets one more of those go that wait for their turn.
func (c *conn) nextRead() {
	if c.state == stateOpen && len(c.waitRead) > 0 && c.reads < c.readLimit {
		ex := c.waitRead[0]
		c.waitRead = c.waitRead[1:]
		ex.read()
	}
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
		c.posted--
		c.room++
		c.reads--
		ex.posted--
		c.broken(ex, "RDMA READ", st)
		if c.state != stateOpen || st != verbs.WCSuccess {
			ex.Release()
			break
		}
		c.queue.Execute(ex.cmd)
		c.nextRead()
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
	ex.saved, ex.writes, ex.posted = nil, 0, 0
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
