package access

import (
	"context"
	"fmt"

	"github.com/mooring-io/mooring/sdk/ring"
)

// PathState is what a handle's access point is on its host's path to the volume.
type PathState uint8

// The states.
const (
	// PathOptimized serves everything.
	PathOptimized PathState = iota
	// PathStandby serves what changes nothing. What changes data waits at the door, for
	// the path to be moved here; nothing of it has begun meanwhile.
	PathStandby
	// PathInaccessible serves nothing.
	PathInaccessible
)

// Path is a handle's place on its host's path to the volume. The same epoch always comes
// with the same optimized access point, so that of all handles of a host for a volume
// those of one access point, at most, let changes of data in.
type Path struct {
	Epoch uint64
	State PathState
}

// SetPath gives a handle its place on a path that has moved. Like Grant it waits for what
// came under a lower epoch; until it returns, what changes data waits at the door. Then
// that goes on or keeps waiting, as the state says. A path of a lower epoch than the
// handle has is old news, and changes nothing.
func (c *Client) SetPath(ctx context.Context, h Handle, p Path) error {
	var older <-chan struct{}
	if err := c.access.reactor.Do(ctx, func() {
		if g := c.find(h); g != nil && g.vol != nil && p.Epoch >= g.path.Epoch {
			older = g.vol.raise(g.state, p.Epoch)
			if w := g.vol.away; w != nil {
				w.newer(g, p.Epoch)
			}
		}
	}); err != nil || older == nil {
		return err
	}
	if err := c.access.reactor.wait(ctx, older); err != nil {
		return fmt.Errorf("commands of a former path do not end: %w", err)
	}
	return c.access.reactor.Do(ctx, func() {
		if g := c.find(h); g != nil && g.vol != nil && p.Epoch >= g.path.Epoch {
			g.path = p
			g.reopen()
		}
	})
}

// Wanted says whether commands wait at a handle's door for its path to be moved there. If
// not, wanted is called anew for the next one.
func (c *Client) Wanted(ctx context.Context, h Handle) (bool, error) {
	wanted := false
	err := c.access.reactor.Do(ctx, func() {
		if g := c.find(h); g != nil {
			g.asked = g.path.State == PathStandby && g.door.n > 0
			wanted = g.asked
		}
	})
	return wanted, err
}

// open says whether g lets commands that change data in: its access point is the
// optimized one, and it was told of the last epoch of its host's path.
func (g *grant) open() bool { return g.path.State == PathOptimized && g.path.Epoch >= g.state.epoch }

// await parks o at g's door, which is not open.
func (g *grant) await(o *op) {
	a := g.client.access
	g.door.push(o)
	a.doors[g] = struct{}{}
	a.tick()
	g.ask()
}

// ask says, once, that the path is wanted at a standby.
func (g *grant) ask() {
	if g.path.State == PathStandby && g.door.n > 0 && !g.asked {
		g.asked = true
		g.wanted()
	}
}

// reopen has what waits at the door tried again, after the path was set.
func (g *grant) reopen() {
	if g.path.State == PathStandby {
		g.ask()
		return
	}
	for o := g.door.head; o != nil; o = g.door.head {
		g.client.access.wake(o)
	}
	g.asked = false
}

// expireDoors ends the waits at doors that have lasted for too long.
func (a *Access) expireDoors() {
	for g := range a.doors {
		for o := g.door.head; o != nil && a.reactor.now()-o.taken > int64(a.holdFor); o = g.door.head {
			o.fail(ring.StatusRetry, 0)
			a.wake(o)
		}
		if g.door.n == 0 {
			delete(a.doors, g)
		}
	}
}
