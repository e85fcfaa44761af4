package access

import (
	"fmt"

	"github.com/mooring-io/mooring/core/peer"
	"github.com/mooring-io/mooring/sdk/ring"
)

// pollBatch is how many entries one turn takes from one ring, so that a busy plugin
// cannot keep the reactor from the others.
const pollBatch = 256

// pollBytes is how many bytes of data one turn takes from one ring, for the same reason.
const pollBytes = 8 << 20

// port is where commands of a client come in and are answered: the core's end of one ring pair, or the connection of a node that
// forwards them.
type port struct {
	client   *Client
	access   *Access
	guest    *guest        // nil: it is a ring
	end      *ring.CoreEnd // nil: it is a guest
	pool     []byte
	inflight []*op // by tag; the plugin may use tags 0 to len-1
	spare    []*op
	busy     int // commands taken and not yet answered
	closed   bool
	news     bool   // something was taken or completed since publish
	unwatch  func() // nil: the doorbell is not watched any more
}

func newPort(c *Client, end *ring.CoreEnd) *port {
	return &port{client: c, access: c.access, end: end, pool: end.Pool(), inflight: make([]*op, end.Entries())}
}

func (p *port) poll() int {
	var e ring.Entry
	n := 0
	for bytes := 0; n < pollBatch && bytes < pollBytes && !p.closed && !p.client.faulty; n++ {
		ok, err := p.end.Take(&e)
		if err != nil {
			p.client.fault(err)
			break
		}
		if !ok {
			break
		}
		if err := p.admit(&e); err != nil {
			p.client.fault(err)
			break
		}
		bytes += int(e.PoolLength)
	}
	p.news = p.news || n > 0
	return n
}

// admit validates a copied entry, which has passed the ring's own checks, against
// the core's tables and starts it. An error means that the plugin broke the ABI;
// what a host may cause is a status.
func (p *port) admit(e *ring.Entry) error {
	if e.Op == ring.OpAbort {
		p.abort(e)
		return nil
	}
	return p.begin(e, p.pool[e.PoolOffset:e.PoolOffset+uint64(e.PoolLength)], false)
}

// begin starts a command with its data in buf.
func (p *port) begin(e *ring.Entry, buf []byte, told bool) error {
	if int(e.Handle) >= len(p.client.grants) {
		return fmt.Errorf("volume handle %d was never granted", e.Handle)
	}
	o := p.take()
	g := p.client.grants[e.Handle]
	now := p.access.reactor.now()
	*o = op{
		more: o.more,
		port: p, grant: g, vol: g.vol, tag: e.Tag, kind: e.Op, fua: e.Flags&ring.FlagFUA != 0,
		buf: buf, told: told,
		submitted: now, taken: now,
	}
	if p.guest == nil && e.Submitted < uint64(now) {
		o.submitted = int64(e.Submitted)
	}
	p.inflight[e.Tag] = o
	p.busy++
	if g.revoked || g.generation != e.HandleGeneration {
		// Not the plugin's fault: the grant ended while the entry was on its way.
		o.grant, o.vol = nil, nil
		if o.status = ring.StatusPathLost; p.guest != nil {
			o.status = peer.StatusNotDriven // not begun: its node asks again who drives the volume
		}
		p.complete(o)
		p.free(o)
		return nil
	}
	g.vol.enter(o, e)
	return nil
}

// abort ends the command that e names if it has not reached a disk. The abort
// itself always succeeds; whether it was in time shows in the command's status.
func (p *port) abort(e *ring.Entry) {
	switch t := p.inflight[e.Target]; {
	case t == nil:
	case t.parked != nil:
		t.drop(ring.StatusAborted)
	case t.driver != nil:
		t.driver.node.Abort(&t.command)
	}
	now := uint64(p.access.reactor.now())
	p.put(ring.Completion{Tag: e.Tag, Taken: now, Done: now})
}

// complete answers o. The tag is free from now on.
func (p *port) complete(o *op) {
	p.inflight[o.tag] = nil
	p.busy--
	if p.guest != nil {
		if g := o.grant; o.status == ring.StatusWriteLost && g.said.losses < g.vol.losses {
			g.said = said{losses: g.vol.losses, port: p}
		}
		p.guest.answer(o)
		p.client.maybeDrained()
		return
	}
	if p.closed {
		p.client.maybeDrained()
		return
	}
	p.put(ring.Completion{
		Tag: o.tag, Status: o.status, Info: o.info,
		Taken: uint64(o.taken), Done: uint64(p.access.reactor.now()), Disk: uint64(o.disk),
	})
	if g := o.grant; o.status == ring.StatusWriteLost && g.vol.away != nil {
		g.said = said{losses: 1, port: p, at: p.end.Completed()} // which losses, the driver knows
	} else if o.status == ring.StatusWriteLost && (g.said.losses < g.vol.losses || g.said.port.closed) {
		g.said = said{losses: g.vol.losses, port: p, at: p.end.Completed()}
	}
}

func (p *port) put(c ring.Completion) {
	p.news, p.access.reactor.answered = true, true
	if err := p.end.Complete(&c); err != nil {
		p.client.fault(err)
	}
}

func (p *port) publish() {
	if p.news && !p.closed {
		p.news = false
		p.end.Publish()
	}
}

func (p *port) sleep() bool {
	if p.closed {
		return true
	}
	return !p.news && p.end.Sleep()
}

func (p *port) awake() {
	if !p.closed {
		p.end.Awake()
	}
}

// shut stops reading the ring.
func (p *port) shut() {
	p.closed = true
	if p.guest == nil {
		p.access.reactor.removeSource(p)
	}
}

// dropParked answers what has not reached a disk.
func (p *port) dropParked(s ring.Status) {
	for _, o := range p.inflight {
		if o != nil && o.parked != nil {
			o.drop(s)
		}
	}
}

// release gives the memory back; no disk writes to it any more.
func (p *port) release() {
	if p.end == nil {
		return
	}
	if err := p.end.Close(); err != nil {
		p.client.log.Warn("ring memory was not given back whole", "error", err)
	}
}

func (p *port) take() *op {
	if n := len(p.spare); n > 0 {
		o := p.spare[n-1]
		p.spare = p.spare[:n-1]
		return o
	}
	return new(op)
}

func (p *port) free(o *op) { p.spare = append(p.spare, o) }
