package access

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// A volume follows its commands: when for followFor nearly all have come from one other node, that one drives it from then on.
// Hosts at two nodes do not have it move to and fro, since neither node sends nearly all; nor do the few reads by which a host looks
// after its other paths hold it back. One that nobody uses for so long, and that is whole, is driven by nobody.
const (
	followFor = 10 * time.Second
	followMin = 64 // commands in that time; for fewer it is not worth it
	followOf  = 16 // at most one of so many comes from elsewhere
)

// yieldFor is how long a volume's commands may wait while it is given up.
const yieldFor = 5 * time.Second

// origin is which node has the majority of a volume's commands since a moment.
type origin struct {
	since int64  // CLOCK_MONOTONIC ns
	seq   uint64 // the volume's then
	from  *guest // nil: this node
	total int    // commands
	ahead int    // of them, at most how many more came from there than from elsewhere
}

func (f *origin) count(g *guest) {
	f.total++
	switch {
	case g == f.from:
		f.ahead++
	case f.ahead == 0:
		f.from, f.ahead = g, 1
	default:
		f.ahead--
	}
}

// leader says whether v is to be given up, and for which node; uuid.Nil: for none. It is asked often, and looks back every followFor.
func (v *Volume) leader(now int64) (to uuid.UUID, yes bool) {
	f := &v.origin
	if now-f.since < int64(followFor) {
		return uuid.Nil, false
	}
	if elsewhere := (f.total - f.ahead) / 2; f.from != nil && !f.from.client.closing && f.total >= followMin && elsewhere*followOf <= f.total {
		to, yes = f.from.node, true
	} else if len(v.access.drivers) > 0 && f.since > 0 { // there are other nodes
		yes = v.users == 0 && v.seq == f.seq && len(v.moves) == 0 && !v.stirred && !v.tending && v.health.Health == Health{}
	}
	*f = origin{since: now, seq: v.seq}
	return to, yes
}

// follow gives volumes up that are to follow their commands, or that nobody uses. Reactor.
func (a *Access) follow() {
	for _, v := range a.volumes {
		if v.away != nil || v.closed || v.leaving {
			continue
		}
		to, yes := v.leader(a.reactor.now())
		if !yes {
			continue
		}
		a.workers.Go(func() { // not a control worker: what it waits for may need one
			err := a.Yield(a.ctx, v, to)
			switch {
			case err != nil && a.ctx.Err() == nil:
				a.log.Warn("a volume is not given up", "volume", v.name, "for", to, "error", err)
			case err == nil && to != uuid.Nil:
				a.log.Info("a volume follows its hosts to another node", "volume", v.name, "node", to)
			}
		})
	}
}

// Yield gives up driving a volume, for a node that has a Meta session; uuid.Nil: for whoever needs it next. Commands that come meanwhile
// wait until those that are under way have ended and Meta has been told; then they are forwarded. After an error the volume is
// driven on, or, if nobody knows what Meta has noted, by whom Meta says. It changes nothing if the volume is not driven here.
func (a *Access) Yield(ctx context.Context, v *Volume, to uuid.UUID) error {
	v.driving.Lock()
	defer v.driving.Unlock()
	unlock, err := v.lockSize(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(ctx, yieldFor)
	defer cancel()
	begun, refused := false, error(nil)
	if err := a.reactor.Do(ctx, func() {
		if v.hardening {
			refused = fmt.Errorf("give up volume %s: what it acknowledged as volatile is being made durable", v.name)
		}
		v.leaving = v.away == nil && !v.closed && refused == nil
		begun = v.leaving
	}); err != nil || !begun {
		return errors.Join(err, refused)
	}
	defer a.reactor.Post(v.stay) // whoever waited asks Meta who drives it
	if err := a.quiesce(ctx, v); err != nil {
		return fmt.Errorf("give up volume %s: what is under way does not end: %w", v.name, err)
	}
	if err := a.meta.Yield(ctx, v.id, to); err != nil {
		return fmt.Errorf("give up volume %s: %w", v.name, err)
	}
	return nil
}

// quiesce waits until nothing of v is under way, and takes its extents from it in the same turn.
func (a *Access) quiesce(ctx context.Context, v *Volume) error {
	for {
		var ended <-chan struct{}
		if err := a.reactor.Do(ctx, func() {
			if v.inflight+v.resolving > 0 {
				ended = v.fenced(nil)
				return
			}
			v.away = &away{vol: v, taken: true}
			v.extents, v.stores, v.missing, v.guard = nil, nil, 0, nil
			v.disowned, v.stats.Trouble, v.health, v.stirred = "", "", health{}, true
		}); err != nil || ended == nil {
			return err
		}
		if err := a.reactor.wait(ctx, ended); err != nil {
			return err
		}
	}
}

// stay ends the giving up of v, whether it succeeded or not: what waited goes on, here or to who drives it now. Reactor.
func (v *Volume) stay() {
	v.leaving = false
	if v.away != nil {
		v.away.taken = false
	}
	for o := v.parting.head; o != nil; o = v.parting.head {
		v.access.wake(o)
	}
}
