package access

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/peer"
	"github.com/mooring-io/mooring/sdk/ring"
)

// findPause is how long the search for a volume's driver waits before it asks Meta again.
const findPause = 50 * time.Millisecond

// away is what a volume has here while another node drives it: its commands are forwarded there. docs/adr/0008-forwarding.md
// has the reasons. Owned by the reactor.
type away struct {
	vol     *Volume
	driver  meta.SessionInfo // by Meta; zero: not known
	to      *driver          // nil: there is no link to it
	taken   bool             // Meta says that we drive it, and it is being prepared
	waiting opList           // for a driver, or for its grant
	flying  int              // commands under way there
	finding bool
	refused bool // the driver says that it is not one
}

// driver is a node to which commands are forwarded, while its link holds.
type driver struct {
	node  *peer.Node
	bytes int    // of data under way there
	crowd opList // commands for which there are no credits now
}

// far is what a grant has at the node that drives its volume.
type far struct {
	to     *driver // nil: nothing
	handle peer.Handle
	epoch  uint64 // of the handle
	asking bool
}

// PeerNode is what peer.Options.Nodes is to be.
func (a *Access) PeerNode(id uuid.UUID, n *peer.Node) {
	if old := a.drivers[id]; old != nil {
		delete(a.drivers, id)
		for o := old.crowd.head; o != nil; o = old.crowd.head {
			a.wake(o)
		}
	}
	if n != nil {
		a.drivers[id] = &driver{node: n}
	}
	for _, v := range a.volumes {
		if v.away != nil && v.away.driver.Node == id {
			v.away.to = a.drivers[id]
			v.away.wake()
		}
	}
}

// forward sends o to the node that drives its volume, or parks it until that can be done.
func (w *away) forward(o *op) {
	g, d := o.grant, w.to
	switch {
	case o.port.guest != nil: // what is forwarded is not forwarded again
		o.status = peer.StatusNotDriven
		o.end()
	case g.revoked || o.port.closed:
		o.fail(ring.StatusPathLost, 0)
		o.finish()
	case w.taken || d == nil:
		w.await(o)
		w.find()
	case g.far.to != d || o.changes() && g.far.epoch != g.path.Epoch:
		w.await(o)
		w.ask(g, g.path.Epoch)
	case !w.vol.access.room(d, 1, len(o.buf)):
		d.crowd.push(o)
		w.vol.access.tick()
	default:
		w.send(o)
	}
}

func (w *away) send(o *op) {
	c := &o.command
	*c = peer.Command{
		Op: o.kind, Handle: o.grant.far.handle, Offset: uint64(o.range_.from), Length: uint64(o.range_.to - o.range_.from), Buf: o.buf,
		Done: w.vol.access.forwarded, User: o,
	}
	if o.fua {
		c.Flags = ring.FlagFUA
	}
	c.Told = o.kind == ring.OpFlush && o.grant.said.heard()
	o.away, o.driver = w, w.to
	o.pending++
	w.flying++
	w.to.bytes += len(o.buf)
	w.vol.stats.Forwarded++
	w.vol.stats.ForwardedBytes += uint64(len(o.buf))
	w.to.node.Send(c)
}

// answered ends a command that was forwarded.
func (a *Access) answered(c *peer.Command) {
	o := c.User.(*op)
	w, d := o.away, o.driver
	o.away, o.driver = nil, nil
	o.pending--
	w.flying--
	d.bytes -= len(o.buf)
	a.freed = true
	switch {
	case c.Err != nil: // it may have been carried out, or may yet be, until the driver serves our next link
		o.fail(ring.StatusRetry, 0)
		o.finish()
	case c.Status == peer.StatusNotDriven:
		if o.grant.far.to == d {
			o.grant.far.to = nil
		}
		w.refuse()
		a.later(o)
	default:
		o.fail(c.Status, int64(c.Info))
		o.finish()
	}
}

// room says whether there are credits at d for so many commands with so much data together.
func (a *Access) room(d *driver, commands, bytes int) bool {
	return d.node.Room(commands, bytes) && (d.bytes+bytes <= a.credits || d.bytes == 0 && commands == 1)
}

// admit wakes as many of each crowd as there are credits for. Some may not use theirs: then the next ones wait for the next tick.
func (a *Access) admit() {
	a.freed = false
	for _, d := range a.drivers {
		n, bytes := 1, 0
		for o := d.crowd.head; o != nil && a.room(d, n, bytes+len(o.buf)); o = d.crowd.head {
			n, bytes = n+1, bytes+len(o.buf)
			a.wake(o)
		}
	}
}

// refuse notes that the driver says that it is none.
func (w *away) refuse() {
	w.refused, w.to = true, nil
}

func (w *away) await(o *op) {
	w.waiting.push(o)
	w.vol.access.tick()
}

// wake has everything that waits tried again.
func (w *away) wake() {
	for o := w.waiting.head; o != nil; o = w.waiting.head {
		w.vol.access.wake(o)
	}
}

// ask asks the driver for a handle under an epoch of g's path. Commands of older ones end there by that.
func (w *away) ask(g *grant, epoch uint64) {
	d := w.to
	if g.far.asking || d == nil {
		return
	}
	g.far.asking = true
	wish := peer.Wish{Host: g.host, Epoch: epoch, Told: g.state.lossTold}
	d.node.Grant(w.vol.id, wish, func(h peer.Handle, err error) {
		g.far.asking = false
		switch {
		case err == nil && g.revoked:
			d.node.Revoke(h)
		case err == nil:
			g.far.release()
			g.far.to, g.far.handle, g.far.epoch = d, h, epoch
			w.wake()
		case w.to == d:
			w.refuse()
			w.find()
		}
	})
}

// release gives back the handle.
func (f *far) release() {
	if f.to != nil {
		f.to.node.Revoke(f.handle)
		f.to = nil
	}
}

// newer tells the driver of an epoch to which g's path is about to be set, if it may have commands of older ones: they end by that.
func (w *away) newer(g *grant, epoch uint64) {
	if g.state.changing > 0 {
		w.ask(g, epoch)
	}
}

// find looks who drives the volume, and takes it if nobody does.
func (w *away) find() {
	if w.finding {
		return
	}
	w.finding = true
	a, v := w.vol.access, w.vol
	a.start(func() {
		ctx, cancel := context.WithTimeout(a.ctx, a.holdFor)
		defer cancel()
		err := a.drive(ctx, v, false)
		a.reactor.Post(func() {
			if err != nil && !errors.Is(err, meta.ErrConflict) {
				v.trouble("nobody can say who drives it", err)
			}
			pause := findPause
			if v.away == nil || w.to != nil && !w.refused {
				pause = 0
			}
			if pause == 0 {
				w.found()
				return
			}
			time.AfterFunc(pause, func() { a.reactor.Post(w.found) })
		})
	})
}

// found ends a search: what waits is tried again, and searches anew where that was in vain.
func (w *away) found() {
	w.finding, w.refused = false, false
	if w.to == nil {
		w.to = w.vol.access.drivers[w.driver.Node]
	}
	if w.to != nil {
		w.vol.stats.Trouble = ""
	}
	w.wake()
}

// drivenBy notes who drives the volume, by Meta.
func (w *away) drivenBy(s meta.SessionInfo) {
	if s.ID != w.driver.ID {
		w.abandon()
	}
	w.driver, w.taken = s, false
	w.to = w.vol.access.drivers[s.Node]
}

// abandon gives up what is under way at a node that does not drive the volume any more. The next owner seals the replicas
// before it serves: nothing of this comes after.
func (w *away) abandon() {
	if d := w.vol.access.drivers[w.driver.Node]; d != nil && w.flying > 0 {
		d.node.Break(fmt.Errorf("%w: it was relieved of volume %s", peer.ErrLost, w.vol.name))
	}
}

// drive takes a volume, or finds out who has it: then the error is a meta.HeldError. A volume that is fresh was described by Meta just now.
func (a *Access) drive(ctx context.Context, v *Volume, fresh bool) error {
	v.driving.Lock()
	defer v.driving.Unlock()
	here := false
	if err := a.reactor.Do(ctx, func() { here = v.away == nil || v.closed }); err != nil || here {
		return err
	}
	var behind []uint32
	if a.metaRestored {
		var err error
		if behind, err = a.noteBehind(ctx, v); err != nil {
			return err
		}
	}
	leases, err := a.meta.Leases(ctx, v.id)
	var held *meta.HeldError
	if errors.As(err, &held) {
		return errors.Join(err, a.reactor.Do(ctx, func() { v.away.drivenBy(held.Owner) }))
	}
	if err != nil {
		return fmt.Errorf("take the leases of volume %s: %w", v.name, err)
	}
	if !fresh {
		g, err := a.meta.Geometry(ctx, v.id)
		if err != nil {
			return err
		}
		if err := a.reactor.Do(ctx, func() { v.describe(g) }); err != nil {
			return err
		}
	}
	var hosts []Host
	if err := a.reactor.Do(ctx, func() {
		v.away.abandon()
		v.away.taken, v.away.driver, v.away.to = true, meta.SessionInfo{}, nil
		v.lease(leases)
		if a.metaRestored {
			v.disown(behind)
		}
		v.recount(nil)
		for h := range v.hosts {
			hosts = append(hosts, h)
		}
	}); err != nil {
		return err
	}
	if a.enforce != nil {
		if err := a.enforce(ctx, v); err != nil {
			return fmt.Errorf("put the reservation of volume %s in force: %w", v.name, err)
		}
	}
	// What the former owner had seen of a host we have not: Meta was told before anybody served it.
	for _, h := range hosts {
		epoch, err := a.meta.Epoch(ctx, v.id, h)
		if err != nil {
			return fmt.Errorf("read the path epoch of host %s: %w", h.Name, err)
		}
		if err := a.reactor.Do(ctx, func() { v.raise(v.host(h), epoch) }); err != nil {
			return err
		}
	}
	return a.reactor.Do(ctx, func() {
		w := v.away
		v.away = nil
		v.stats.Trouble = ""
		w.wake()
		v.stirred = true
		a.heal.stir()
	})
}

// lease gives v its extents.
func (v *Volume) lease(leases []Lease) {
	v.extents = make([]extentSlot, v.access.extentsOf(v.size))
	for i, l := range leases {
		if l.Allocated && i < len(v.extents) {
			v.extents[i] = l.slot()
			v.access.attach(extent.ID{Volume: v.id, Index: uint32(i)}, v.extents[i].set)
			v.replicated = v.replicated || len(l.Set) > 1
		}
	}
}

// describe has v be as Meta says. It is not driven here yet.
func (v *Volume) describe(g Geometry) {
	v.name, v.size, v.blockSize, v.durable, v.losses = g.Name, g.Size, g.BlockSize, !g.Volatile, g.Losses
	v.replicas, v.asked = max(g.Replicas, 1), g.Replicas
}

// ID is the volume's.
func (v *Volume) ID() uuid.UUID { return v.id }

// Driven says whether v is driven here, and if not, by which node: uuid.Nil if that is not known.
func (v *Volume) Driven(ctx context.Context) (here bool, by uuid.UUID, err error) {
	err = v.access.reactor.Do(ctx, func() {
		if here = v.away == nil; !here {
			by = v.away.driver.Node
		}
	})
	return here, by, err
}

// Follow has a volume that another node drives be as large, and as durable, as Meta says; if it is driven here, it changes nothing.
func (v *Volume) Follow(ctx context.Context, size int64, volatile bool) error {
	return v.access.reactor.Do(ctx, func() {
		if v.away != nil && !v.away.taken {
			v.size, v.durable = size, !volatile
		}
	})
}

// Relieved looks after the drivers of volumes, since a Meta session may have ended.
func (a *Access) Relieved(ctx context.Context) error {
	return a.reactor.Do(ctx, func() {
		for _, v := range a.volumes {
			if w := v.away; w != nil && w.flying+w.waiting.n > 0 {
				w.find()
			}
		}
	})
}

// refresh has the driver of a volume put in force what Meta says of its reservation. It returns at once if it is driven here.
func (v *Volume) refresh(ctx context.Context) (here bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, v.access.holdFor)
	defer cancel()
	for {
		ended := make(chan error, 1)
		if err := v.access.reactor.Do(ctx, func() {
			w := v.away
			switch {
			case w == nil || w.taken:
				here = true
				ended <- nil
			case w.to == nil:
				w.find()
				ended <- peer.ErrLost
			default:
				w.to.node.Refresh(v.id, func(err error) { ended <- err })
			}
		}); err != nil {
			return false, err
		}
		select {
		case err = <-ended:
		case <-ctx.Done():
			return false, ctx.Err()
		}
		if err == nil || here {
			return here, nil
		}
		if errors.Is(err, peer.ErrNotDriven) {
			if err := v.access.reactor.Do(ctx, func() {
				if v.away != nil {
					v.away.find()
				}
			}); err != nil {
				return false, err
			}
		}
		select {
		case <-time.After(findPause):
		case <-ctx.Done():
			return false, fmt.Errorf("the node that drives volume %s: %w", v.name, err)
		}
	}
}

// expireAway ends the waits for drivers that have lasted for too long, and says whether there are others.
func (a *Access) expireAway() (some bool) {
	for _, v := range a.volumes {
		if v.away != nil {
			some = a.expire(&v.away.waiting) || some
		}
	}
	for _, d := range a.drivers {
		some = a.expire(&d.crowd) || some
	}
	a.admit()
	return some
}

func (a *Access) expire(l *opList) bool {
	for o := l.head; o != nil; {
		next := o.after
		if a.reactor.now()-o.taken > int64(a.holdFor) {
			o.fail(ring.StatusRetry, 0)
			a.wake(o)
		}
		o = next
	}
	return l.n > 0
}
