package access

import (
	"context"
	"errors"
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

	faulty  bool // it broke the rules of its rings, and is about to be shut
	closing bool
	drained chan struct{} // closed when closing and nothing is under way
}

// grant is what a handle stands for.
type grant struct {
	index, generation uint32
	client            *Client
	vol               *Volume
	host              Host
	state             *hostState // shared by this host's grants of the volume
	inflight          int
	revoked           bool
	drained           []chan struct{} // closed when revoked and nothing is under way
	said              said            // of the first Flush that failed for what the volume lost
	far               far             // where another node drives the volume

	path   Path
	door   opList // what changes data and may not begin here now
	asked  bool   // wanted was called
	wanted func() // see Grant
}

// said is where the completion went that tells a host of a volume's losses.
type said struct {
	losses uint64 // 0: nothing was said
	port   *port
	at     uint64 // the port's completions up to this one
}

// heard says whether the plugin has taken that completion.
func (s *said) heard() bool {
	if s.losses == 0 || s.port.closed || s.port.end == nil {
		return false
	}
	n, err := s.port.end.Consumed()
	return err == nil && n >= s.at
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

// OpenRings makes ring pairs, gives each one's descriptors to pass, which is to bring
// them to the plugin, and then begins to serve them. The descriptors are not pass's to
// keep. Access serves nothing before the last was passed, so that no end can be closed,
// and its descriptors be those of another file, while they are on their way.
func (c *Client) OpenRings(ctx context.Context, r Rings, pass func(ring.Descriptors) error) (incarnation uint64, err error) {
	if r.Threads < 1 || r.Threads > MaxThreads {
		return 0, fmt.Errorf("plugin %s asked for %d I/O threads, 1 to %d are possible", c.name, r.Threads, MaxThreads)
	}
	var ends []*ring.CoreEnd
	defer func() {
		for _, e := range ends { // none, or those that nobody serves
			err = errors.Join(err, e.Close())
		}
	}()
	incarnation = c.access.nextIncarnation()
	for i := range r.Threads {
		end, err := ring.Create(ring.Config{Entries: r.Entries, PoolBytes: r.PoolBytes, Incarnation: incarnation, Thread: uint32(i)})
		if err != nil {
			return 0, fmt.Errorf("plugin %s: %w", c.name, err)
		}
		ends = append(ends, end)
		if err := pass(end.Descriptors()); err != nil {
			return 0, fmt.Errorf("pass rings to plugin %s: %w", c.name, err)
		}
	}
	var refused error
	err = c.access.reactor.Do(ctx, func() {
		switch {
		case c.closing:
			refused = ErrStopped
		case len(c.ports)+len(ends) > MaxThreads:
			refused = fmt.Errorf("plugin %s asked for more than %d I/O threads in all", c.name, MaxThreads)
		}
		for refused == nil && len(ends) > 0 {
			if refused = c.addPort(ends[0]); refused == nil {
				ends = ends[1:]
			}
		}
	})
	return incarnation, errors.Join(err, refused)
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

// Grant gives the client a handle for a volume on behalf of one host, whose path is p. It
// returns when everything that changes data and came from that host under a lower path
// epoch has ended; what of it was parked is answered with PathLost. wanted is called on the
// reactor, and must not block, when commands begin to wait for the path to be moved to a
// standby; see Wanted.
func (c *Client) Grant(ctx context.Context, v *Volume, h Host, p Path, wanted func()) (Handle, error) {
	var g *grant
	var older <-chan struct{}
	if err := c.access.reactor.Do(ctx, func() {
		if c.closing || c.faulty || v.closed {
			return
		}
		g = &grant{client: c, vol: v, host: h, state: v.host(h), path: p, wanted: wanted, generation: 1}
		older = v.raise(g.state, p.Epoch)
		if v.away != nil {
			v.away.newer(g, p.Epoch)
		}
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
	}); err != nil {
		return Handle{}, err
	}
	if g == nil {
		return Handle{}, ErrStopped
	}
	out := Handle{g.index, g.generation}
	if err := c.access.reactor.wait(ctx, older); err != nil {
		c.access.reactor.Post(g.revoke)
		return Handle{}, fmt.Errorf("commands of a former path do not end: %w", err)
	}
	return out, nil
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
		if err := c.access.reactor.wait(ctx, ch); err != nil {
			return err
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
	g.far.release()
	for _, p := range g.client.ports {
		for _, o := range p.inflight {
			if o != nil && o.grant == g && o.parked != nil {
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
	c := g.client
	if c.grants[g.index] != g {
		return
	}
	// What the plugin still holds matches nothing, now and later.
	c.grants[g.index] = &grant{index: g.index, generation: g.generation + 1, client: c, revoked: true}
	if g.generation < maxGeneration {
		c.idle = append(c.idle, g.index)
	}
}

// maxGeneration is after how many grants an index is not used again.
const maxGeneration = 1 << 31

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
	return c.access.reactor.wait(ctx, c.drained)
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
	// Last, since it runs what the queue has to tell meanwhile.
	for _, p := range c.ports {
		if p.unwatch != nil {
			p.unwatch()
			p.unwatch = nil
		}
	}
	c.maybeDrained()
}

func (c *Client) maybeDrained() {
	if !c.closing {
		return
	}
	for _, p := range c.ports {
		if p.busy > 0 || p.unwatch != nil {
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

// fault ends a client that broke the rules of its rings. It is shut in a moment, not
// here, in the middle of whatever found the fault.
func (c *Client) fault(err error) {
	if c.closing || c.faulty {
		return
	}
	c.faulty = true
	c.log.Error("plugin broke its ring; the ring is closed", "error", err)
	c.access.reactor.Post(func() {
		if c.closing {
			return
		}
		c.shut()
		if c.broken != nil {
			c.broken(err)
		}
	})
}
