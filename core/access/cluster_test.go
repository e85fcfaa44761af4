package access

import (
	"bytes"
	"context"

	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/peer"
	"github.com/mooring-io/mooring/core/peer/peertest"
	"github.com/mooring-io/mooring/core/vfs"
	"github.com/mooring-io/mooring/sdk/block"
)

// cluster is several nodes, each with a reactor, a simulated disk and one store, a network of memory between them and one Meta.
type cluster struct {
	t      *testing.T
	ctx    context.Context
	seed   uint64
	extent int64
	meta   *clusterMeta
	nodes  []*node
	heal   *Heal // of lives that begin
}

// node is one life of a node.
type node struct {
	c       *cluster
	number  int
	id      uuid.UUID
	life    int
	sim     *vfs.Sim
	index   *extent.MemoryIndex
	queue   *testQueue
	reactor *Reactor
	clock   *skippingClock
	access  *Access
	links   *peer.Links
	store   *extent.Store
	storeID uuid.UUID
	session *session
	host    *plugin
	cables  map[int]*peertest.Cable // to other nodes
	running sync.WaitGroup
	dead    bool
}

func newCluster(t *testing.T, seed uint64, n, replicas int) *cluster {
	return newHealingCluster(t, seed, n, replicas, nil)
}

// newHealingCluster is one whose nodes make replicas that are missing.
func newHealingCluster(t *testing.T, seed uint64, n, replicas int, heal *Heal) *cluster {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	c := &cluster{t: t, ctx: ctx, seed: seed, extent: 256 << 10, meta: newClusterMeta(replicas), heal: heal}
	for i := range n {
		d := &node{c: c, number: i, id: uuid.New(), sim: vfs.NewSim(seed*100 + uint64(i)), index: extent.NewMemoryIndex()}
		c.nodes = append(c.nodes, d)
		d.start()
	}
	for i := range n {
		for j := range n {
			if i != j {
				c.connect(i, j)
			}
		}
	}
	t.Cleanup(func() {
		for _, d := range c.nodes {
			d.end()
		}
	})
	return c
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// start begins a life of the node on what its disk holds.
func (n *node) start() {
	c := n.c
	n.life++
	n.dead = false
	n.cables = map[int]*peertest.Cable{}
	n.queue = &testQueue{Queue: n.sim.Queue(), watch: true}
	n.clock = &skippingClock{Clock: SystemClock()}
	n.reactor = NewReactor(n.queue, n.clock)
	n.session = c.meta.begin(n.number, n.id)
	n.access = New(Options{
		Reactor: n.reactor, Meta: &nodeMeta{clusterMeta: c.meta, session: n.session}, ExtentBytes: c.extent, HoldFor: testTimeout,
		Incarnation: uint64(n.life), Heal: c.heal, Logger: hclog.NewNullLogger(),
	})
	n.access.reachUntil = 0
	n.links = peer.New(peer.Options{
		Regions: n.access.Regions(), Clock: SystemClock().Monotonic, Post: n.reactor.Post, Patience: testTimeout,
		Stores: n.access.PeerStores, Nodes: n.access.PeerNode, Driver: n.access, Logger: hclog.NewNullLogger(),
	})
	n.running.Go(func() {
		if err := n.reactor.Run(); err != nil {
			c.t.Error(err)
		}
	})
	c.must(n.reactor.Drive(c.ctx, n.links))
	s, err := extent.Open(c.ctx, extent.Options{
		FS: n.sim, Queue: n.queue, Dir: "/store", ExtentSize: c.extent, Capacity: 32 << 20, LogSize: 1 << 20, SegmentSize: 4 << 20,
		Index: n.index.Opener(), Logger: hclog.NewNullLogger(),
	})
	c.must(err)
	n.store = s
	var life uint64
	n.storeID, life = s.Identity()
	c.meta.started(n.number, extent.Member{Store: n.storeID, Incarnation: life})
	c.must(n.access.AddStore(c.ctx, s))
	c.must(n.reactor.Do(c.ctx, func() { n.links.AddStore(s) }))
	n.host = n.newHost()
}

// newHost is a plugin by which a host uses the node.
func (n *node) newHost() *plugin {
	r := &rig{t: n.c.t, ctx: n.c.ctx, queue: n.queue, reactor: n.reactor, access: n.access}
	p := &plugin{r: r}
	var err error
	p.client, err = n.access.NewClient(n.c.ctx, "p", func(err error) { n.c.t.Error(err) })
	n.c.must(err)
	p.thread, err = block.NewThread(block.Config{End: r.attach(p.client, 128, 16<<20), MaxTransfer: 4 << 20})
	n.c.must(err)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.thread.Run(context.Background()); err != nil {
			n.c.t.Error(err)
		}
	})
	p.stop = sync.OnceFunc(func() {
		p.thread.Stop()
		wg.Wait()
		_ = p.thread.Close() // what was under way is given up
	})
	return p
}

// crash ends a life of the node at once; what its disk keeps is as kind says. What was asked of it is answered by nobody.
func (n *node) crash(kind vfs.Crash) {
	n.host.stop()
	n.cut()
	n.reactor.Stop()
	n.running.Wait()
	was := n.sim
	n.sim = was.CrashClone(n.c.seed+uint64(n.life), kind)
	n.index = n.index.CrashClone()
	n.bury()
	n.c.meta.end(n.session)
}

// cut breaks all connections of the node.
func (n *node) cut() {
	for _, k := range n.cables {
		k.Cut()
	}
	for _, o := range n.c.nodes {
		if k := o.cables[n.number]; k != nil {
			k.Cut()
		}
	}
}

// bury gives back what a dead life holds.
func (n *node) bury() {
	n.dead = true
	for _, p := range n.host.client.ports {
		p.unwatch()
	}
	n.access.Close()
	n.links.Close()
	done := make(chan error, 1)
	go func() { done <- n.store.Close(context.Background()) }()
	n.queue.open()
	for {
		select {
		case <-done:
			_ = n.queue.Close()
			return
		default:
			n.store.Kick()
			_ = n.queue.Turn(false)
			n.links.Poll()
		}
	}
}

// end ends a life in order.
func (n *node) end() {
	if n.dead {
		return
	}
	n.host.stop()
	n.cut()
	n.reactor.Stop()
	n.running.Wait()
	n.bury()
}

// connect has node i connect to node j.
func (c *cluster) connect(i, j int) {
	c.t.Helper()
	a, b := c.nodes[i], c.nodes[j]
	k, x, y := peertest.Connect(c.seed, a.reactor.Post, b.reactor.Post)
	a.cables[j] = k
	c.must(b.reactor.Do(c.ctx, func() { b.links.Serve(a.id, y) }))
	c.must(a.reactor.Do(c.ctx, func() { a.links.Connect(b.id, x, nil) }))
	a.until("the store of the other node is in reach", func() bool { return a.access.store(b.storeID) != nil })
}

// reconnect connects a node with all that live.
func (c *cluster) reconnect(i int) {
	for j := range c.nodes {
		if i != j && !c.nodes[j].dead {
			c.connect(i, j)
			c.connect(j, i)
		}
	}
}

func (n *node) on(fn func()) {
	n.c.t.Helper()
	n.c.must(n.reactor.Do(n.c.ctx, fn))
}

func (n *node) until(what string, fn func() bool) {
	n.c.t.Helper()
	for ok := false; !ok; {
		n.on(func() { ok = fn() })
		if n.c.ctx.Err() != nil {
			n.c.t.Fatalf("in vain: %s", what)
		}
		if !ok {
			time.Sleep(pause)
		}
	}
}

// has waits until the first block of the node's replica of an extent is of these bytes.
func (n *node) has(id extent.ID, b byte) {
	n.c.t.Helper()
	for n.blocks(id)[0] != b {
		if n.c.ctx.Err() != nil {
			n.c.t.Fatalf("in vain: the block is %d", b)
		}
		time.Sleep(pause)
	}
}

// skippingClock is the machine's clock, which jumps ahead when it is told to.
type skippingClock struct {
	Clock
	ahead atomic.Int64 // nanoseconds
}

func (c *skippingClock) Monotonic() int64 { return c.Clock.Monotonic() + c.ahead.Load() }
func (c *skippingClock) Boot() int64      { return c.Clock.Boot() + c.ahead.Load() }

// outlast waits for a command that the node may hold: as long as it does, the time for which it does that passes.
func (n *node) outlast(f *flight) *flight {
	n.c.t.Helper()
	for f.pending() {
		if n.c.ctx.Err() != nil {
			n.c.t.Fatalf("%v at %d does not end", f.Op, f.Offset)
		}
		n.clock.ahead.Add(int64(testTimeout))
		time.Sleep(pause)
	}
	return f
}

// volume opens a volume at a node, which takes it over if nobody has it.
func (n *node) volume(id uuid.UUID, size int64, volatile bool) (*Volume, block.Handle) {
	n.c.t.Helper()
	v, err := n.access.Open(n.c.ctx, Geometry{ID: id, Name: "v", Size: size, BlockSize: 4096, Volatile: volatile, Replicas: n.c.meta.replicas})
	n.c.must(err)
	return v, n.host.grant(v, "host", 1)
}

// blocks returns what a node's replica of an extent holds, by itself.
func (n *node) blocks(id extent.ID) []byte {
	n.c.t.Helper()
	buf := make([]byte, n.c.extent)
	done := make(chan error, 1)
	n.on(func() {
		e := n.store.Extent(id)
		if e == nil {
			done <- extent.ErrMissing
			return
		}
		n.access.submit(Store(n.store), &extent.IO{
			Op: extent.OpRead, Extent: e, Gen: e.Generation(), Blocks: uint32(n.c.extent / blockBytes), Buf: buf, Done: func(io *extent.IO) { done <- io.Err },
		})
	})
	n.c.must(<-done)
	return buf
}

// same checks that the members of all extents of a volume, by Meta, hold the same, byte for byte.
func (c *cluster) same(id uuid.UUID) {
	c.t.Helper()
	for i, e := range c.meta.extents(id) {
		var first []byte
		for _, m := range e.set {
			for _, n := range c.nodes {
				if n.storeID != m.Store {
					continue
				}
				got := n.blocks(extent.ID{Volume: id, Index: i})
				if first == nil {
					first = got
				}
				for b := 0; b < len(got); b += blockBytes {
					if !bytes.Equal(got[b:b+blockBytes], first[b:b+blockBytes]) {
						c.t.Errorf("extent %d, block %d: node %d has %d…, another member %d…", i, b/blockBytes, n.number, got[b], first[b])
					}
				}
			}
		}
	}
}

// set is the numbers of the nodes that have an extent.
func (c *cluster) set(id uuid.UUID, index uint32) (out []int) {
	for _, m := range c.meta.extents(id)[index].set {
		for _, n := range c.nodes {
			if n.storeID == m.Store {
				out = append(out, n.number)
			}
		}
	}
	slices.Sort(out)
	return out
}

// clusterMeta is Meta for all nodes: it checks what the real one checks.
type clusterMeta struct {
	mu       sync.Mutex
	replicas int
	stores   map[int]extent.Member // by node
	suspect  map[uuid.UUID]uint64  // members of an earlier life lack something
	owners   map[uuid.UUID]*session
	terms    map[uuid.UUID]extent.Generation
	ext      map[uuid.UUID]map[uint32]metaExtent
	gate     func(what string) error // asked first, without the lock
	changes  int                     // of sets
	begun    []*session
	about    map[uuid.UUID]Geometry
	epochs   map[Host]uint64
}

type metaExtent struct {
	changes   extent.Generation
	set       []extent.Member
	tentative bool
}

type session struct {
	node     int
	id       meta.SessionID
	by       uuid.UUID // the node
	over     bool      // guarded by clusterMeta.mu
	deadline atomic.Int64
}

func newClusterMeta(replicas int) *clusterMeta {
	return &clusterMeta{
		replicas: replicas, stores: map[int]extent.Member{}, suspect: map[uuid.UUID]uint64{}, owners: map[uuid.UUID]*session{},
		about: map[uuid.UUID]Geometry{}, epochs: map[Host]uint64{}, terms: map[uuid.UUID]extent.Generation{}, ext: map[uuid.UUID]map[uint32]metaExtent{},
	}
}

func (m *clusterMeta) begin(node int, by uuid.UUID) *session {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &session{node: node, by: by, id: meta.SessionID(len(m.begun) + 1)}
	m.begun = append(m.begun, s)
	s.deadline.Store(math.MaxInt64)
	return s
}

// end ends a session: its node has stopped serving by it, or is dead.
func (m *clusterMeta) end(s *session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.over = true
	s.deadline.Store(0)
}

func (m *clusterMeta) started(node int, s extent.Member) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stores[node] = s
}

func (m *clusterMeta) onCall(fn func(what string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gate = fn
}

func (m *clusterMeta) extents(v uuid.UUID) map[uint32]metaExtent {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[uint32]metaExtent{}
	for i, e := range m.ext[v] {
		if !e.tentative {
			out[i] = e
		}
	}
	return out
}

func (m *clusterMeta) ask(what string) error {
	m.mu.Lock()
	gate := m.gate
	m.mu.Unlock()
	if gate != nil {
		return gate(what)
	}
	return nil
}

// nodeMeta is Meta as one node's Access asks it.
type nodeMeta struct {
	*clusterMeta
	session *session
}

func (m *nodeMeta) Deadline() int64 { return m.session.deadline.Load() }

func (m *nodeMeta) Leases(_ context.Context, v uuid.UUID) ([]Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch o := m.owners[v]; {
	case m.session.over:
		return nil, meta.ErrSessionExpired
	case o == m.session:
	case o != nil && !o.over:
		return nil, &meta.HeldError{Volume: v, Owner: meta.SessionInfo{ID: o.id, Node: o.by}}
	default:
		m.owners[v] = m.session
		m.terms[v]++
	}
	return m.recorded(v), nil
}

func (m *nodeMeta) Yield(_ context.Context, v, to uuid.UUID) error {
	if err := m.ask("yield"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.owners[v] != m.session {
		return nil
	}
	if to == uuid.Nil {
		delete(m.owners, v)
		return nil
	}
	for _, s := range m.begun {
		if s.by == to && !s.over {
			m.owners[v] = s
			m.terms[v]++
			return nil
		}
	}
	return meta.ErrNotFound
}

func (m *nodeMeta) Geometry(_ context.Context, v uuid.UUID) (Geometry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.about[v], nil
}

func (m *nodeMeta) Epoch(_ context.Context, _ uuid.UUID, h Host) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.epochs[Host{Protocol: h.Protocol, Name: h.Name}], nil
}

func (m *nodeMeta) Recorded(_ context.Context, v uuid.UUID) ([]Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.recorded(v), nil
}

func (m *nodeMeta) recorded(v uuid.UUID) []Lease {
	var out []Lease
	for i, e := range m.ext[v] {
		for int(i) >= len(out) {
			out = append(out, Lease{})
		}
		out[i] = m.lease(v, e)
	}
	return out
}

func (m *clusterMeta) lease(v uuid.UUID, e metaExtent) Lease {
	l := Lease{Allocated: len(e.set) > 0 && !e.tentative, Generation: m.terms[v] + e.changes, Set: e.set}
	for _, s := range e.set {
		if s.Incarnation < m.suspect[s.Store] {
			l.Suspect = append(l.Suspect, s.Store)
		}
	}
	return l
}

// own runs fn on an extent of a volume that the session owns.
func (m *nodeMeta) own(what string, v uuid.UUID, i uint32, fn func(e *metaExtent) error) (Lease, error) {
	if err := m.ask(what); err != nil {
		return Lease{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.session.over || m.owners[v] != m.session {
		return Lease{}, fmt.Errorf("not the owner: %w", meta.ErrConflict)
	}
	if m.ext[v] == nil {
		m.ext[v] = map[uint32]metaExtent{}
	}
	e := m.ext[v][i]
	if err := fn(&e); err != nil {
		return Lease{}, err
	}
	m.ext[v][i] = e
	return m.lease(v, e), nil
}

func (m *nodeMeta) Lease(_ context.Context, v uuid.UUID, i uint32) (Lease, error) {
	return m.own("lease", v, i, func(*metaExtent) error { return nil })
}

func (m *nodeMeta) Allocate(_ context.Context, v uuid.UUID, i uint32, avoid []uuid.UUID) (Lease, error) {
	return m.own("allocate", v, i, func(e *metaExtent) error {
		if len(e.set) > 0 && !e.tentative {
			return nil
		}
		e.set, e.tentative = nil, true
		e.changes++
		for k := range len(m.stores) {
			s := m.stores[(m.session.node+k)%len(m.stores)]
			if len(e.set) < m.replicas && !slices.Contains(avoid, s.Store) {
				e.set = append(e.set, extent.Member{Store: s.Store})
			}
		}
		return nil
	})
}

func (m *nodeMeta) Confirm(_ context.Context, v uuid.UUID, i uint32, g extent.Generation, stores []uuid.UUID) ([]extent.Member, error) {
	l, err := m.own("confirm", v, i, func(e *metaExtent) error {
		if m.terms[v]+e.changes != g || !e.tentative {
			return meta.ErrConflict
		}
		e.set, e.tentative = nil, false
		e.changes++
		for _, s := range m.stores {
			if slices.Contains(stores, s.Store) {
				e.set = append(e.set, s)
			}
		}
		return nil
	})
	return l.Set, err
}

func (m *nodeMeta) ChangeSet(_ context.Context, v uuid.UUID, c SetChange) (extent.Generation, error) {
	l, err := m.own("change", v, c.Index, func(e *metaExtent) error {
		now := m.terms[v] + e.changes
		if now == c.Generation+1 && slices.Equal(e.set, c.Next) {
			return nil
		}
		if now != c.Generation || !slices.Equal(e.set, c.Set) {
			return fmt.Errorf("extent %d is at %d with %v: %w", c.Index, now, e.set, meta.ErrConflict)
		}
		kept := false
		for _, n := range c.Next {
			kept = kept || slices.Contains(c.Set, n) || slices.Contains(c.Joined, n)
		}
		if !kept {
			return meta.ErrInvalid
		}
		e.set = c.Next
		e.changes++
		m.changes++
		return nil
	})
	return l.Generation, err
}

// Refill is a store that is preferred, or any of a node that has none of the set.
func (m *nodeMeta) Refill(_ context.Context, v uuid.UUID, i uint32, set []extent.Member, prefer, avoid []uuid.UUID) (to uuid.UUID, err error) {
	_, err = m.own("refill", v, i, func(*metaExtent) error {
		for n := range len(m.stores) {
			s := m.stores[n].Store
			if slices.ContainsFunc(set, func(x extent.Member) bool { return x.Store == s }) || slices.Contains(avoid, s) {
				continue
			}
			if to == uuid.Nil || slices.Contains(prefer, s) {
				to = s
			}
		}
		if to == uuid.Nil {
			return meta.ErrNoStore
		}
		return nil
	})
	return to, err
}

func (m *nodeMeta) Free(_ context.Context, v uuid.UUID, from uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, e := range m.ext[v] {
		if i >= from {
			e.set, e.changes = nil, e.changes+1
			m.ext[v][i] = e
		}
	}
	return nil
}

func (m *nodeMeta) Behind(context.Context, uuid.UUID, []uint32) ([]uint32, error) { return nil, nil }
