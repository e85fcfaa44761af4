package access

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/vfs"
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/ring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testExtent = 64 << 10 // bytes: most commands span several

// testTimeout ends a test that hangs, and is how long commands are held; nothing waits for it otherwise.
const testTimeout = 4 * time.Minute // a machine that is busy under the race detector takes its time

// pause is between two looks at what a test waits for: who looks all the time takes the processor from what is looked at.
const pause = time.Millisecond

// testQueue is a queue whose requests can be kept from the disk.
type testQueue struct {
	vfs.Queue
	watch bool      // the queue cannot watch doorbells itself
	shut  bool      // reactor: what is submitted is kept
	only  vfs.File  // reactor: with shut, only what goes there
	kept  []*vfs.Op // reactor
}

func (q *testQueue) Submit(op *vfs.Op) {
	if q.shut && (q.only == nil || q.only == op.File) {
		q.kept = append(q.kept, op)
		return
	}
	q.Queue.Submit(op)
}

func (q *testQueue) open() {
	q.shut, q.only = false, nil
	for _, op := range q.kept {
		q.Queue.Submit(op)
	}
	q.kept = nil
}

func (q *testQueue) WatchEventFD(fd int, fn func()) (func(), error) {
	if !q.watch {
		return q.Queue.WatchEventFD(fd, fn)
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		var b [8]byte
		for {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(stop), Events: unix.POLLIN}}
			if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) || fds[1].Revents != 0 {
				return
			}
			if fds[0].Revents != 0 {
				_, _ = unix.Read(fd, b[:])
				q.Post(fn)
			}
		}
	})
	return func() {
		_, _ = unix.Write(stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		wg.Wait()
		_ = unix.Close(stop)
	}, nil
}

// fakeMeta allocates extents on its stores by turns.
type fakeMeta struct {
	deadline atomic.Int64

	mu       sync.Mutex
	stores   []uuid.UUID
	leases   map[uuid.UUID]map[uint32]Lease
	next     extent.Generation
	behind   map[uuid.UUID][]uint32
	raise    bool         // taking leases raises their generations, as a new owner does
	allocate func() error // asked before each allocation
	confirm  func() error // what Confirm answers
	replace  func() error // asked before each ChangeSet
	answer   error        // of a ChangeSet that was carried out
	about    map[uuid.UUID]Geometry
}

func (m *fakeMeta) Deadline() int64 { return m.deadline.Load() }

func (m *fakeMeta) Leases(ctx context.Context, v uuid.UUID) ([]Lease, error) {
	m.mu.Lock()
	for i, l := range m.leases[v] {
		if m.raise && l.Allocated {
			l.Generation++
			m.leases[v][i] = l
		}
	}
	m.mu.Unlock()
	return m.Recorded(ctx, v)
}

func (m *fakeMeta) Yield(context.Context, uuid.UUID, uuid.UUID) error { return nil }

func (m *fakeMeta) Geometry(_ context.Context, v uuid.UUID) (Geometry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g, ok := m.about[v]
	if !ok {
		return g, meta.ErrNotFound
	}
	return g, nil
}

func (m *fakeMeta) Epoch(context.Context, uuid.UUID, Host) (uint64, error) { return 0, nil }

func (m *fakeMeta) Recorded(_ context.Context, v uuid.UUID) ([]Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Lease
	for i, l := range m.leases[v] {
		for int(i) >= len(out) {
			out = append(out, Lease{})
		}
		out[i] = l
	}
	return out, nil
}

func (m *fakeMeta) Lease(_ context.Context, v uuid.UUID, i uint32) (Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leases[v][i], nil
}

func (m *fakeMeta) Allocate(_ context.Context, v uuid.UUID, i uint32, _ []uuid.UUID) (Lease, error) {
	m.mu.Lock()
	ask := m.allocate
	m.mu.Unlock()
	if ask != nil {
		if err := ask(); err != nil {
			return Lease{}, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leases[v] == nil {
		m.leases[v] = map[uint32]Lease{}
	}
	l, ok := m.leases[v][i]
	if !ok {
		m.next += 2
		l = Lease{Generation: m.next, Set: []extent.Member{{Store: m.stores[int(i)%len(m.stores)]}}}
		m.leases[v][i] = l
	}
	return l, nil
}

func (m *fakeMeta) Confirm(_ context.Context, v uuid.UUID, i uint32, g extent.Generation, _ []uuid.UUID) ([]extent.Member, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.leases[v][i]
	if l.Generation != g || l.Allocated {
		return nil, fmt.Errorf("extent %d was confirmed at generation %d, and is %+v", i, g, l)
	}
	l.Generation, l.Allocated = g+1, true
	m.leases[v][i] = l
	if m.confirm != nil {
		return l.Set, m.confirm()
	}
	return l.Set, nil
}

func (m *fakeMeta) Refill(context.Context, uuid.UUID, uint32, []extent.Member, []uuid.UUID, []uuid.UUID) (uuid.UUID, error) {
	return uuid.Nil, meta.ErrNoStore
}

func (m *fakeMeta) Behind(_ context.Context, v uuid.UUID, found []uint32) ([]uint32, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.behind == nil {
		m.behind = map[uuid.UUID][]uint32{}
	}
	m.behind[v] = append(m.behind[v], found...)
	return slices.Clone(m.behind[v]), nil
}

func (m *fakeMeta) ChangeSet(_ context.Context, v uuid.UUID, c SetChange) (extent.Generation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.replace != nil {
		if err := m.replace(); err != nil {
			return 0, err
		}
	}
	l := m.leases[v][c.Index]
	if l.Generation != c.Generation || !l.Allocated || !slices.Equal(l.Set, c.Set) {
		return 0, fmt.Errorf("extent %d is %+v, not at generation %d: %w", c.Index, l, c.Generation, meta.ErrConflict)
	}
	l.Generation, l.Set = c.Generation+1, c.Next
	m.leases[v][c.Index] = l
	return l.Generation, m.answer
}

func (m *fakeMeta) Free(_ context.Context, v uuid.UUID, from uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.leases[v] {
		if i >= from {
			delete(m.leases[v], i)
		}
	}
	return nil
}

func (m *fakeMeta) onConfirm(fn func() error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.confirm = fn
}

func (m *fakeMeta) onReplace(fn func() error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.replace = fn
}

func (m *fakeMeta) onAllocate(fn func() error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.allocate = fn
}

// fakeClock is a clock that stands still until it is moved; nil-like zero uses the machine's.
type fakeClock struct{ ns atomic.Int64 }

func (c *fakeClock) Monotonic() int64 { return c.ns.Load() }
func (c *fakeClock) Boot() int64      { return c.ns.Load() }

type rigOptions struct {
	seed    uint64 // of the simulated disk
	real    bool   // files and the machine's queue instead
	threads bool   // with real: worker threads instead of io_uring
	stores  int    // 0: 1
	extent  int64  // bytes; 0: testExtent
	bounce  int64
	holdFor time.Duration // 0: testTimeout
	clock   Clock
}

type rig struct {
	t       testing.TB
	ctx     context.Context
	queue   *testQueue
	reactor *Reactor
	access  *Access
	meta    *fakeMeta
	stores  []*extent.Store
	sim     *vfs.Sim
}

func newRig(t testing.TB, o rigOptions) *rig {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	r := &rig{t: t, ctx: ctx, meta: &fakeMeta{leases: map[uuid.UUID]map[uint32]Lease{}}}
	r.meta.deadline.Store(math.MaxInt64)
	if o.extent == 0 {
		o.extent = testExtent
	}
	store := extent.Options{ExtentSize: o.extent, Capacity: 64 << 20, LogSize: 1 << 20, SegmentSize: 4 << 20}
	if o.real {
		q, err := vfs.NewQueue(vfs.QueueOptions{Threads: o.threads})
		r.must(err)
		r.queue = &testQueue{Queue: q}
		store.FS, store.Dir = vfs.NewOS(), t.TempDir()
	} else {
		r.sim = vfs.NewSim(o.seed)
		r.queue = &testQueue{Queue: r.sim.Queue(), watch: true}
		store.FS, store.Dir = r.sim, "/store"
	}
	if o.holdFor == 0 {
		o.holdFor = testTimeout
	}
	if o.clock == nil {
		o.clock = SystemClock()
	}
	r.reactor = NewReactor(r.queue, o.clock)
	r.access = New(Options{
		Reactor: r.reactor, Meta: r.meta, ExtentBytes: o.extent, BounceBytes: o.bounce, HoldFor: o.holdFor, Incarnation: 1,
		Logger: hclog.NewNullLogger(),
	})
	var wg sync.WaitGroup
	wg.Go(func() { r.must(r.reactor.Run()) })
	t.Cleanup(func() {
		r.access.Close()
		r.reactor.Stop()
		wg.Wait()
		r.must(r.queue.Close())
	})
	dir := store.Dir
	for i := range max(o.stores, 1) {
		store.Queue, store.Index, store.Dir = r.queue, extent.NewMemoryIndex().Opener(), fmt.Sprintf("%s/%d", dir, i)
		s, err := extent.Open(ctx, store)
		r.must(err)
		id, _ := s.Identity()
		r.meta.stores = append(r.meta.stores, id)
		r.must(r.access.AddStore(ctx, s))
		r.stores = append(r.stores, s)
		t.Cleanup(func() { r.must(s.Close(context.Background())) })
	}
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Error(err)
	}
}

// on runs fn on the reactor.
func (r *rig) on(fn func()) {
	r.t.Helper()
	r.must(r.reactor.Do(r.ctx, fn))
}

// until waits until a condition that is looked at on the reactor holds.
func (r *rig) until(what string, fn func() bool) {
	r.t.Helper()
	for ok := false; !ok; {
		r.on(func() { ok = fn() })
		if r.ctx.Err() != nil {
			r.t.Fatalf("in vain: %s", what)
		}
		if !ok {
			time.Sleep(pause)
		}
	}
}

func (r *rig) volume(size int64, blockSize int, volatile bool) *Volume {
	r.t.Helper()
	v, err := r.access.Open(r.ctx, Geometry{ID: uuid.New(), Name: "v", Size: size, BlockSize: blockSize, Volatile: volatile})
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

// settled checks that nothing is left of any command.
func (r *rig) settled(volumes ...*Volume) {
	r.t.Helper()
	a := r.access
	r.on(func() {
		for _, v := range volumes {
			if v.inflight != 0 || v.resolving != 0 || len(v.fences) != 0 || v.order.head != nil || v.order.tail != nil || v.order.holds != 0 || v.order.parked.n != 0 {
				r.t.Errorf("volume has commands left: %d under way, %d extents, %d fences, order %+v", v.inflight, v.resolving, len(v.fences), v.order)
			}
			for h, s := range v.hosts {
				if s.changing != 0 {
					r.t.Errorf("host %v has %d commands left", h, s.changing)
				}
			}
		}
		free, doors := int64(0), 0
		for g := range a.doors {
			doors += g.door.n
		}
		for c, class := range a.bounces.classes {
			free += int64(len(class)) * int64(blockBytes<<c)
		}
		if a.runq.n != 0 || a.held.n != 0 || a.bounces.waiting.n != 0 || doors != 0 || free != a.bounces.used {
			r.t.Errorf("%d commands wait for a turn, %d for the lease, %d at doors, %d for memory, of which %d of %d bytes are free",
				a.runq.n, a.held.n, doors, a.bounces.waiting.n, free, a.bounces.used)
		}
		for c := range a.clients {
			for _, g := range c.grants {
				if g.inflight != 0 {
					r.t.Errorf("a grant of %s has %d commands left", c.name, g.inflight)
				}
			}
			for _, p := range c.ports {
				seen := map[*op]bool{}
				for _, o := range p.spare {
					if seen[o] || o.parked != nil || o.active || o.pending != 0 || o.bounce != nil {
						r.t.Errorf("a recycled command is in use: %+v", o)
					}
					seen[o] = true
				}
				if p.busy != 0 && !p.closed {
					r.t.Errorf("%d commands of %s are not answered", p.busy, c.name)
				}
			}
		}
	})
}

// plugin is one life of a plugin with one I/O thread.
type plugin struct {
	r      *rig
	client *Client
	thread *block.Thread
	broken chan error
	stop   func()
}

func (r *rig) newClient(name string) (*Client, chan error) {
	r.t.Helper()
	broken := make(chan error, 1)
	c, err := r.access.NewClient(r.ctx, name, func(err error) { broken <- err })
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { r.must(c.Close(r.ctx)) })
	return c, broken
}

// attach opens a ring pair and returns the plugin's end.
func (r *rig) attach(c *Client, entries int, pool int64) *ring.PluginEnd {
	r.t.Helper()
	var end *ring.PluginEnd
	_, err := c.OpenRings(r.ctx, Rings{Threads: 1, Entries: entries, PoolBytes: pool}, func(d ring.Descriptors) error {
		d, err := d.Dup()
		if err == nil {
			end, err = ring.Attach(d)
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return end
}

func (r *rig) plugin(name string) *plugin {
	r.t.Helper()
	p := &plugin{r: r}
	p.client, p.broken = r.newClient(name)
	var err error
	p.thread, err = block.NewThread(block.Config{End: r.attach(p.client, 128, 64<<20), MaxTransfer: 16 << 20})
	if err != nil {
		r.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { r.must(p.thread.Run(context.Background())) })
	p.stop = sync.OnceFunc(func() {
		p.thread.Stop()
		wg.Wait()
		r.must(p.thread.Close())
	})
	r.t.Cleanup(p.stop)
	return p
}

func (p *plugin) grant(v *Volume, host string, epoch uint64) block.Handle {
	p.r.t.Helper()
	h, err := p.client.Grant(p.r.ctx, v, Host{Protocol: meta.NVMe, Name: host}, Path{Epoch: epoch}, nil)
	if err != nil {
		p.r.t.Fatal(err)
	}
	return block.Handle(h)
}

// flight is a request under way.
type flight struct {
	block.Request
	data  []byte // what the pool holds at the end
	sent  int64  // logical times
	ended int64
	done  chan struct{}
	then  func(*flight) // on the thread, before done
}

// logical counts submissions and completions.
var logical atomic.Int64

// send starts a request; data is what the pool shall hold, or its length.
func (p *plugin) send(f *flight, data []byte) *flight {
	f.done = make(chan struct{})
	p.thread.Post(func() {
		begin := func(b block.Buffer) {
			copy(b.Bytes(), data)
			f.Buf = b
			f.Done = func(*block.Request) {
				f.ended = logical.Add(1)
				f.data = append([]byte(nil), b.Bytes()...)
				if len(data) > 0 {
					p.thread.Pool().Free(b)
				}
				if f.then != nil {
					f.then(f)
				}
				close(f.done)
			}
			f.sent = logical.Add(1)
			p.thread.Submit(&f.Request)
		}
		if len(data) == 0 {
			begin(block.Buffer{})
			return
		}
		p.thread.Pool().Wait(len(data), begin)
	})
	return f
}

func (p *plugin) wait(f *flight) *flight {
	p.r.t.Helper()
	select {
	case <-f.done:
	case <-p.r.ctx.Done():
		p.r.t.Fatalf("%v at %d does not end", f.Op, f.Offset)
	}
	return f
}

func (p *plugin) start(op block.Op, h block.Handle, offset, length uint64, data []byte) *flight {
	return p.send(&flight{Request: block.Request{Op: op, Volume: h, Offset: offset, Length: length}}, data)
}

func (p *plugin) write(h block.Handle, offset uint64, data []byte) block.Status {
	p.r.t.Helper()
	return p.wait(p.start(block.OpWrite, h, offset, uint64(len(data)), data)).Status
}

func (p *plugin) read(h block.Handle, offset, n uint64) ([]byte, block.Status) {
	p.r.t.Helper()
	f := p.wait(p.start(block.OpRead, h, offset, n, make([]byte, n)))
	return f.data, f.Status
}

// want fails the test unless f ends with s.
func (p *plugin) want(what string, f *flight, s block.Status) {
	p.r.t.Helper()
	if p.wait(f); f.Status != s {
		p.r.t.Fatalf("%s: %v, want %v", what, f.Status, s)
	}
}
