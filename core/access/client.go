package access

import (
	"context"
	"fmt"

	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/sdk/ring"
)

// Handle names a volume in ring entries, for one client and one association. A
// handle of a former grant never matches a later one.
type Handle struct{ Index, Generation uint32 }

// Client is one life of one data plugin, as Access sees it: its rings and the
// handles it was granted. Owned by the reactor; the exported methods are for other
// goroutines.
type Client struct {
	access *Access
	name   string
	log    hclog.Logger
	ports  []*port
	grants []*grant // by handle index; an entry is never removed, only replaced
	idle   []uint32 // indices to use again
	broken func(error)
	stats  ClientStats

	closing bool
	drained chan struct{} // closed when closing and nothing is under way
}

// grant is what a handle stands for.
type grant struct {
	index, generation uint32
	client            *Client
	vol               *Volume
	host              Host
	epoch             uint64
	inflight          int
	revoked           bool
	drained           []chan struct{} // closed when revoked and nothing is under way
	state             *hostState      // shared by this host's grants of the volume
}

// NewClient registers a plugin's life. broken is called once, on the reactor, if
// the plugin breaks the rules of its rings; they are dead by then.
func (a *Access) NewClient(ctx context.Context, name string, broken func(error)) (*Client, error) {
	c := &Client{access: a, name: name, log: a.log.Named("client").With("plugin", name), broken: broken}
	return c, a.reactor.Do(ctx, func() { a.clients[c] = struct{}{} })
}

// Rings describes what OpenRings makes.
type Rings struct {
	Threads   int   // ring pairs, 1 to MaxThreads
	Entries   int   // of each ring; see ring.Config
	PoolBytes int64 // data pool of each thread; see ring.Config
}

// MaxThreads is how many ring pairs one plugin may have.
const MaxThreads = 64

// OpenRings makes ring pairs and begins to serve them. The caller passes their
// descriptors to the plugin and owns the returned ends only for that.
func (c *Client) OpenRings(ctx context.Context, r Rings) ([]*ring.CoreEnd, error) {
	if r.Threads < 1 || r.Threads > MaxThreads {
		return nil, fmt.Errorf("plugin %s asked for %d I/O threads, 1 to %d are possible", c.name, r.Threads, MaxThreads)
	}
	var ends []*ring.CoreEnd
	incarnation := c.access.nextIncarnation()
	for i := range r.Threads {
		end, err := ring.Create(ring.Config{Entries: r.Entries, PoolBytes: r.PoolBytes, Incarnation: incarnation, Thread: uint32(i)})
		if err != nil {
			closeAll(ends)
			return nil, fmt.Errorf("plugin %s: %w", c.name, err)
		}
		ends = append(ends, end)
	}
	var err error
	if e := c.access.reactor.Do(ctx, func() {
		if c.closing {
			err = ErrStopped
			return
		}
		for i, end := range ends {
			if err = c.addPort(end); err != nil {
				closeAll(ends[i:]) // those before belong to the client now
				return
			}
		}
	}); e != nil {
		return nil, e
	}
	if err != nil {
		return nil, err
	}
	return ends, nil
}

func closeAll(ends []*ring.CoreEnd) {
	for _, e := range ends {
		_ = e.Close() // nothing was mapped by anybody else yet
	}
}

func (c *Client) addPort(end *ring.CoreEnd) error {
	p := newPort(c, end)
	cancel, err := c.access.reactor.queue.WatchEventFD(end.DoorbellFD(), func() {})
	if err != nil {
		return fmt.Errorf("watch the doorbell of plugin %s: %w", c.name, err)
	}
	p.unwatch = cancel
	c.ports = append(c.ports, p)
	c.access.reactor.addSource(p)
	return nil
}

// Grant gives the client a handle for a volume on behalf of one host.
func (c *Client) Grant(ctx context.Context, v *Volume, h Host, epoch uint64) (Handle, error) {
	var out Handle
	var err error
	e := c.access.reactor.Do(ctx, func() {
		if c.closing || v.closed {
			err = ErrStopped
			return
		}
		g := &grant{client: c, vol: v, host: h, state: v.host(h), epoch: epoch, generation: 1}
		g.state.epoch = max(g.state.epoch, epoch)
		if n := len(c.idle); n > 0 {
			g.index = c.idle[n-1]
			c.idle = c.idle[:n-1]
			g.generation = c.grants[g.index].generation + 1
			c.grants[g.index] = g
		} else {
			g.index = uint32(len(c.grants))
			c.grants = append(c.grants, g)
		}
		v.users++
		out = Handle{g.index, g.generation}
	})
	if e != nil {
		err = e
	}
	return out, err
}

// SetEpoch moves a handle to a new path epoch, with its host's path.
func (c *Client) SetEpoch(ctx context.Context, h Handle, epoch uint64) error {
	return c.access.reactor.Do(ctx, func() {
		if g := c.find(h); g != nil && epoch > g.epoch {
			g.epoch = epoch
			g.state.epoch = max(g.state.epoch, epoch)
		}
	})
}

// Revoke voids handles: parked commands are answered with PathLost, those at a disk
// finish, and Revoke returns when nothing of them is under way. Idempotent.
func (c *Client) Revoke(ctx context.Context, handles ...Handle) error {
	var wait []chan struct{}
	err := c.access.reactor.Do(ctx, func() {
		for _, h := range handles {
			g := c.find(h)
			if g == nil {
				continue
			}
			g.revoke()
			if g.inflight > 0 {
				ch := make(chan struct{})
				g.drained = append(g.drained, ch)
				wait = append(wait, ch)
			}
		}
	})
	if err != nil {
		return err
	}
	for _, ch := range wait {
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.access.reactor.done:
			return ErrStopped
		}
	}
	return nil
}

func (c *Client) find(h Handle) *grant {
	if int(h.Index) >= len(c.grants) || c.grants[h.Index].generation != h.Generation {
		return nil
	}
	return c.grants[h.Index]
}

// revoke voids g and answers its parked commands.
func (g *grant) revoke() {
	if g.revoked {
		return
	}
	g.revoked = true
	g.vol.users--
	for _, p := range g.client.ports {
		for _, o := range p.inflight {
			if o != nil && o.grant == g && o.park != notParked {
				o.drop(ring.StatusPathLost)
			}
		}
	}
	g.settled()
}

// settled is called when something of g has ended.
func (g *grant) settled() {
	if !g.revoked || g.inflight > 0 {
		return
	}
	for _, ch := range g.drained {
		close(ch)
	}
	g.drained = nil
	if g.generation != 0 {
		g.client.idle = append(g.client.idle, g.index)
		g.generation++ // what the plugin still holds matches nothing
		g.client.grants[g.index] = &grant{index: g.index, generation: g.generation, client: g.client, revoked: true}
		g.generation = 0
	}
}

// Close ends the client: its rings are not read any more, what is at a disk
// finishes, the rest is dropped. It returns when nothing is under way; only then
// may a successor be served.
func (c *Client) Close(ctx context.Context) error {
	err := c.access.reactor.Do(ctx, func() {
		if !c.closing {
			c.shut()
		}
	})
	if err != nil {
		return err
	}
	select {
	case <-c.drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.access.reactor.done:
		return ErrStopped
	}
}

// shut begins the end of c, on the reactor.
func (c *Client) shut() {
	c.closing = true
	c.drained = make(chan struct{})
	for _, p := range c.ports {
		p.shut()
	}
	for _, p := range c.ports {
		p.dropParked(ring.StatusAborted)
	}
	for _, g := range c.grants {
		if g.vol != nil {
			g.revoke()
		}
	}
	c.maybeDrained()
}

func (c *Client) maybeDrained() {
	if !c.closing {
		return
	}
	for _, p := range c.ports {
		if p.busy > 0 {
			return
		}
	}
	select {
	case <-c.drained:
		return
	default:
	}
	for _, p := range c.ports {
		p.release()
	}
	delete(c.access.clients, c)
	close(c.drained)
}

// fault ends a client that broke the rules of its rings.
func (c *Client) fault(err error) {
	if c.closing {
		return
	}
	c.log.Error("plugin broke its ring; the ring is closed", "error", err)
	c.shut()
	if c.broken != nil {
		c.broken(err)
	}
}
