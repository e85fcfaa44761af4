package access

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/peer"
	"github.com/mooring-io/mooring/sdk/ring"
)

// guest is the connection of a node that forwards commands: a client whose port is fed by a link in place of a ring.
type guest struct {
	access *Access
	node   uuid.UUID
	caller *peer.Caller
	client *Client
	port   *port
}

// maxGuestGrants is how many handles a node may have here at a time.
const maxGuestGrants = 1 << 16

var errTooMany = errors.New("the node has too many handles")

// Guest implements peer.Driver.
func (a *Access) Guest(node uuid.UUID, caller *peer.Caller) peer.Guest {
	c := &Client{access: a, name: "node " + node.String(), log: a.log.Named("client").With("node", node)}
	g := &guest{access: a, node: node, caller: caller, client: c}
	g.port = &port{client: c, access: a, guest: g, inflight: make([]*op, peer.MaxCommands)}
	c.ports = append(c.ports, g.port)
	a.clients[c] = struct{}{}
	return g
}

// Command implements peer.Guest.
func (g *guest) Command(e *ring.Entry, told bool, buf []byte) error {
	p := g.port
	if e.Op == ring.OpAbort {
		if t := p.inflight[e.Target]; t != nil && t.parked != nil {
			t.drop(ring.StatusAborted)
		}
		return nil
	}
	if p.inflight[e.Tag] != nil {
		return fmt.Errorf("tag %d is in use", e.Tag)
	}
	return p.begin(e, buf, told)
}

// Revoke implements peer.Guest.
func (g *guest) Revoke(h peer.Handle) {
	if x := g.client.find(Handle(h)); x != nil && x.vol != nil {
		x.revoke()
	}
}

// Grant implements peer.Guest.
func (g *guest) Grant(tag uint32, volume uuid.UUID, w peer.Wish) {
	a := g.access
	if len(g.client.grants)-len(g.client.idle) >= maxGuestGrants {
		g.caller.Granted(tag, peer.Handle{}, errTooMany)
		return
	}
	a.workers.Go(func() { // not a control worker: what it waits for may need one
		ctx, cancel := context.WithTimeout(a.ctx, a.holdFor)
		defer cancel()
		h, err := g.grant(ctx, volume, w)
		a.reactor.Post(func() { g.caller.Granted(tag, peer.Handle(h), err) })
	})
}

func (g *guest) grant(ctx context.Context, volume uuid.UUID, w peer.Wish) (Handle, error) {
	v, err := g.access.driven(ctx, volume)
	if err != nil {
		return Handle{}, err
	}
	// An owner remembers what it has seen, but not what its predecessor has: Meta was told of an epoch before anybody served it.
	epoch, err := g.access.meta.Epoch(ctx, volume, w.Host)
	if err != nil {
		return Handle{}, err
	}
	if err := g.access.reactor.Do(ctx, func() {
		s := v.host(w.Host)
		s.lossTold = max(s.lossTold, w.Told)
		v.raise(s, epoch)
	}); err != nil {
		return Handle{}, err
	}
	return g.client.Grant(ctx, v, w.Host, Path{Epoch: w.Epoch, State: PathOptimized}, nil)
}

// Refresh implements peer.Guest.
func (g *guest) Refresh(tag uint32, volume uuid.UUID) {
	a := g.access
	a.workers.Go(func() {
		ctx, cancel := context.WithTimeout(a.ctx, a.holdFor)
		defer cancel()
		v, err := a.driven(ctx, volume)
		if err == nil && a.enforce != nil {
			err = a.enforce(ctx, v)
		}
		a.reactor.Post(func() { g.caller.Refreshed(tag, err) })
	})
}

// dismiss voids the grants of a volume that other nodes have, if there are no others: they ask again if they still need it.
func (a *Access) dismiss(v *Volume) {
	var theirs []*grant
	for c := range a.clients {
		for _, g := range c.grants {
			if g.vol == v && !g.revoked && c.ports != nil && c.ports[0].guest != nil {
				theirs = append(theirs, g)
			}
		}
	}
	if len(theirs) < v.users {
		return
	}
	for _, g := range theirs {
		g.revoke()
	}
}

// Close implements peer.Guest.
func (g *guest) Close() {
	if !g.client.closing {
		g.client.shut()
	}
}

// answer ends a command of the other node's.
func (g *guest) answer(o *op) {
	var data []byte
	if o.kind == ring.OpRead && o.status == ring.StatusOK {
		data = o.buf
	}
	if o.status == ring.StatusOutOfRange { // its node has looked, too: one of the two does not know of a change of size yet
		o.status = ring.StatusRetry
	}
	g.caller.Answer(o.tag, o.status, o.info, o.buf, data)
}

// driven returns a volume that this node drives; it takes one that nobody drives.
func (a *Access) driven(ctx context.Context, id uuid.UUID) (*Volume, error) {
	v, err := a.Lookup(ctx, id)
	if err != nil {
		return nil, err
	}
	if v == nil {
		g, err := a.meta.Geometry(ctx, id)
		if err != nil {
			return nil, err
		}
		if v, err = a.Use(ctx, g); err != nil {
			return nil, err
		}
	}
	here, _, err := v.Driven(ctx)
	if err == nil && !here {
		if err = a.drive(ctx, v, false); meta.IsHeld(err) {
			err = peer.ErrNotDriven
		}
	}
	return v, err
}

var _ peer.Driver = (*Access)(nil)
