package access

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/vfs"
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/ring"
)

const (
	benchVolumeBytes = 1 << 30
	benchEntries     = 256
	benchPluginRole  = "ACCESS_BENCH_PLUGIN"
)

// BenchmarkCommand runs random 4 KiB commands on a volume that fills extents on disk. In "ring" they come from a plugin
// process through its rings; in "call" a function call on the reactor's thread takes the rings' place, and all else is the
// same. cpu-ns/op is the processor time of both processes per command.
//
// BENCH_DIR is where the store goes (the folder for temporary files by default), BENCH_PAIRS how often the two sides take
// turns (once). Give -benchtime as a count, such as 200000x.
func BenchmarkCommand(b *testing.B) {
	pairs := 1
	if s := os.Getenv("BENCH_PAIRS"); s != "" {
		var err error
		if pairs, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	r := newBenchRig(b)
	for _, op := range []ring.Op{ring.OpRead, ring.OpWrite} {
		for _, depth := range []int{1, 32, 128} {
			for pair := range pairs {
				name := fmt.Sprintf("%v/qd=%d/pair=%d/", op, depth, pair+1)
				b.Run(name+"call", func(b *testing.B) { r.measure(b, &r.call, op, depth) })
				b.Run(name+"ring", func(b *testing.B) { r.measure(b, r.plugin, op, depth) })
			}
		}
	}
}

// commander brings commands to the access.
type commander interface {
	// run carries n commands out, depth at a time, and returns when all are completed.
	run(op ring.Op, depth, n int) error
	// cpu is the processor time that is the commander's alone, in nanoseconds.
	cpu() (int64, error)
	// doorbells counts those of both ends.
	doorbells() uint64
}

type benchRig struct {
	reactor *Reactor
	access  *Access
	volume  *Volume
	call    benchCaller
	plugin  *benchPlugin
}

func (r *benchRig) measure(b *testing.B, c commander, op ring.Op, depth int) {
	cpu := func() int64 {
		own, err := processCPU(0)
		if err != nil {
			b.Fatal(err)
		}
		theirs, err := c.cpu()
		if err != nil {
			b.Fatal(err)
		}
		return own + theirs
	}
	before, bells := cpu(), c.doorbells()
	b.SetBytes(blockBytes)
	b.ResetTimer()
	if err := c.run(op, depth, b.N); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(c.doorbells()-bells)/float64(b.N), "doorbells/op")
}

func newBenchRig(b *testing.B) *benchRig {
	ctx := context.Background()
	queue, err := vfs.NewQueue(vfs.QueueOptions{})
	if err != nil {
		b.Fatal(err)
	}
	r := &benchRig{reactor: NewReactor(queue, SystemClock())}
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	meta := &benchMeta{}
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Warn})
	r.access = New(Options{Reactor: r.reactor, Meta: meta, ExtentBytes: extent.DefaultExtentSize, Incarnation: 1, Logger: log})
	ended := make(chan error, 1)
	go func() { ended <- r.reactor.Run() }()
	b.Cleanup(func() {
		r.access.Close()
		r.reactor.Stop()
		if err := <-ended; err != nil {
			b.Error(err)
		}
		if err := queue.Close(); err != nil {
			b.Error(err)
		}
	})
	dir, err := os.MkdirTemp(os.Getenv("BENCH_DIR"), "access")
	must(err)
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	store, err := extent.Open(ctx, extent.Options{FS: vfs.NewOS(), Queue: queue, Dir: dir, Capacity: 4 << 30, Logger: log})
	must(err)
	meta.store, _ = store.Identity()
	must(r.access.AddStore(ctx, store))
	b.Cleanup(func() {
		if err := store.Close(ctx); err != nil {
			b.Error(err)
		}
	})
	r.volume, err = r.access.Open(ctx, Geometry{
		ID: uuid.New(), Name: "bench", Size: benchVolumeBytes, BlockSize: blockBytes, Volatile: true,
	})
	must(err)
	r.openCaller(b)
	r.openPlugin(b)
	must(r.call.fill())
	return r
}

func (r *benchRig) newClient(b *testing.B, name string) (*Client, *ring.CoreEnd, Handle) {
	ctx := context.Background()
	c, err := r.access.NewClient(ctx, name, func(err error) { b.Error(err) })
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := c.Close(ctx); err != nil {
			b.Error(err)
		}
	})
	if _, err := c.OpenRings(ctx, Rings{Threads: 1, Entries: benchEntries, PoolBytes: 64 << 20}, func(ring.Descriptors) error { return nil }); err != nil {
		b.Fatal(err)
	}
	h, err := c.Grant(ctx, r.volume, Host{}, Path{Epoch: 1}, nil)
	if err != nil {
		b.Fatal(err)
	}
	return c, c.ports[0].end, h
}

// benchMeta allocates each extent once and has no end of its leases.
type benchMeta struct{ store uuid.UUID }

func (*benchMeta) Yield(context.Context, uuid.UUID, uuid.UUID) error         { return nil }
func (m *benchMeta) Leases(context.Context, uuid.UUID) ([]Lease, error)      { return nil, nil }
func (m *benchMeta) Lease(context.Context, uuid.UUID, uint32) (Lease, error) { return Lease{}, nil }
func (m *benchMeta) set() []extent.Member                                    { return []extent.Member{{Store: m.store, Incarnation: 1}} }
func (m *benchMeta) Allocate(context.Context, uuid.UUID, uint32, []uuid.UUID) (Lease, error) {
	return Lease{Generation: 1, Set: m.set()}, nil
}
func (m *benchMeta) Confirm(context.Context, uuid.UUID, uint32, extent.Generation, []uuid.UUID) ([]extent.Member, error) {
	return m.set(), nil
}
func (m *benchMeta) ChangeSet(context.Context, uuid.UUID, SetChange) (extent.Generation, error) {
	return 0, nil
}

func (m *benchMeta) Geometry(context.Context, uuid.UUID) (Geometry, error) { return Geometry{}, nil }

func (m *benchMeta) Epoch(context.Context, uuid.UUID, Host) (uint64, error) { return 0, nil }

func (m *benchMeta) Recorded(context.Context, uuid.UUID) ([]Lease, error)          { return nil, nil }
func (m *benchMeta) Behind(context.Context, uuid.UUID, []uint32) ([]uint32, error) { return nil, nil }
func (m *benchMeta) Free(context.Context, uuid.UUID, uint32) error                 { return nil }
func (m *benchMeta) Deadline() int64                                               { return math.MaxInt64 }

// places chooses the blocks of random commands.
type places uint64

func (p *places) next() uint64 {
	*p ^= *p >> 12
	*p ^= *p << 25
	*p ^= *p >> 27
	return uint64(*p) * 2685821657736338717 >> 32 % (benchVolumeBytes / blockBytes) * blockBytes
}

// benchCaller is a source of the reactor that admits commands by a function call. Its
// port is closed: what is completed there ends without a ring. Owned by the reactor.
type benchCaller struct {
	rig    *benchRig
	port   *port
	handle Handle

	op     ring.Op
	bytes  uint32
	offset func() uint64
	depth  int
	left   int
	done   chan struct{}
}

func (r *benchRig) openCaller(b *testing.B) {
	c, _, h := r.newClient(b, "call")
	r.call = benchCaller{rig: r, handle: h}
	if err := r.reactor.Do(context.Background(), func() {
		r.call.port = c.ports[0]
		r.call.port.closed = true
		r.reactor.removeSource(r.call.port)
		r.reactor.addSource(&r.call)
		for t := range uint32(benchEntries) {
			r.call.port.free(&op{tag: t}) // a spare op's tag is free
		}
	}); err != nil {
		b.Fatal(err)
	}
}

func (c *benchCaller) poll() int {
	n := 0
	for ; c.left > 0 && c.port.busy < c.depth && n < pollBatch; n++ {
		c.left--
		tag := c.port.spare[len(c.port.spare)-1].tag
		e := ring.Entry{
			Op: c.op, Tag: tag, Handle: c.handle.Index, HandleGeneration: c.handle.Generation,
			Offset: c.offset(), Length: uint64(c.bytes), PoolOffset: uint64(tag) * uint64(c.bytes), PoolLength: c.bytes,
			Submitted: uint64(c.rig.reactor.now()),
		}
		if err := c.port.admit(&e); err != nil {
			panic(err)
		}
	}
	if c.done != nil && c.left == 0 && c.port.busy == 0 {
		close(c.done)
		c.done = nil
	}
	return n
}

func (c *benchCaller) publish()    {}
func (c *benchCaller) awake()      {}
func (c *benchCaller) sleep() bool { return c.left == 0 || c.port.busy >= c.depth }

func (c *benchCaller) start(op ring.Op, bytes uint32, depth, n int, offset func() uint64) error {
	done := make(chan struct{})
	if err := c.rig.reactor.Do(context.Background(), func() {
		c.op, c.bytes, c.depth, c.left, c.offset, c.done = op, bytes, depth, n, offset, done
	}); err != nil {
		return err
	}
	<-done
	if s := c.rig.volume.stats; s.Errors > 0 { // nothing is under way: the reactor does not touch it
		return fmt.Errorf("%d commands failed", s.Errors)
	}
	return nil
}

func (c *benchCaller) run(op ring.Op, depth, n int) error {
	p := places(1)
	return c.start(op, blockBytes, depth, n, p.next)
}

// fill writes the whole volume.
func (c *benchCaller) fill() error {
	const chunk = 256 << 10
	at := uint64(0)
	return c.start(ring.OpWrite, chunk, 16, benchVolumeBytes/chunk, func() uint64 {
		at += chunk
		return at - chunk
	})
}

func (c *benchCaller) cpu() (int64, error) { return 0, nil }
func (c *benchCaller) doorbells() uint64   { return 0 }

// benchPlugin is this binary again, as a plugin.
type benchPlugin struct {
	cmd     *exec.Cmd
	rig     *benchRig
	end     *ring.CoreEnd
	handle  Handle
	orders  *json.Encoder
	reports *json.Decoder
}

// benchOrder is what the plugin is told to do.
type benchOrder struct {
	Handle   Handle
	Op       ring.Op
	Depth, N int
}

// benchReport is its answer.
type benchReport struct {
	Failed    int
	Doorbells uint64
}

func (r *benchRig) openPlugin(b *testing.B) {
	_, end, h := r.newClient(b, "ring")
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	ours, err := benchConn(pair[0])
	if err != nil {
		b.Fatal(err)
	}
	defer ours.Close()
	theirs := os.NewFile(uintptr(pair[1]), "rings")
	defer theirs.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^TestBenchPlugin$")
	cmd.Env = append(os.Environ(), benchPluginRole+"=1")
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	if err := ring.Send(ours, end.Descriptors()); err != nil {
		b.Fatal(err)
	}
	r.plugin = &benchPlugin{cmd: cmd, rig: r, end: end, handle: h, orders: json.NewEncoder(in), reports: json.NewDecoder(bufio.NewReader(out))}
}

func (p *benchPlugin) run(op ring.Op, depth, n int) error {
	_, err := p.order(benchOrder{Handle: p.handle, Op: op, Depth: depth, N: n})
	return err
}

func (p *benchPlugin) order(o benchOrder) (benchReport, error) {
	var r benchReport
	if err := p.orders.Encode(o); err != nil {
		return r, err
	}
	if err := p.reports.Decode(&r); err != nil {
		return r, err
	}
	if r.Failed > 0 {
		return r, fmt.Errorf("%d commands failed", r.Failed)
	}
	return r, nil
}

func (p *benchPlugin) cpu() (int64, error) { return processCPU(p.cmd.Process.Pid) }

func (p *benchPlugin) doorbells() uint64 {
	return p.end.Counters().Doorbells + p.end.PluginCounters().Doorbells
}

// TestBenchPlugin is the plugin's process.
func TestBenchPlugin(t *testing.T) {
	if os.Getenv(benchPluginRole) == "" {
		t.Skip("the plugin of BenchmarkCommand")
	}
	conn, err := benchConn(3)
	if err != nil {
		t.Fatal(err)
	}
	d, err := ring.Receive(conn)
	if err != nil {
		t.Fatal(err)
	}
	end, err := ring.Attach(d)
	if err != nil {
		t.Fatal(err)
	}
	th, err := block.NewThread(block.Config{End: end})
	if err != nil {
		t.Fatal(err)
	}
	go th.Run(context.Background())
	orders, reports := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o benchOrder
		if err := orders.Decode(&o); err != nil {
			break // the benchmark has ended
		}
		r := o.carryOut(th)
		if err := reports.Encode(r); err != nil {
			t.Fatal(err)
		}
	}
	th.Stop()
	<-th.Done()
	os.Exit(0) // without a word on standard output
}

func (o benchOrder) carryOut(th *block.Thread) benchReport {
	var report benchReport
	finished := make(chan struct{})
	th.Post(func() {
		p := places(1)
		left, under := o.N, 0
		var bufs []block.Buffer
		next := func(r *block.Request) {
			if left > 0 {
				left--
				under++
				r.Offset = p.next()
				th.Submit(r)
			} else if under == 0 {
				for _, b := range bufs {
					th.Pool().Free(b)
				}
				close(finished)
			}
		}
		for range min(o.Depth, o.N) {
			buf, _ := th.Pool().Alloc(blockBytes)
			bufs = append(bufs, buf)
			next(&block.Request{
				Op: o.Op, Volume: block.Handle(o.Handle), Length: blockBytes, Buf: buf,
				Done: func(r *block.Request) {
					under--
					if r.Status != block.StatusOK {
						report.Failed++
					}
					next(r)
				},
			})
		}
	})
	<-finished
	return report
}

// processCPU is the processor time of a process in nanoseconds, 0 for this one.
func processCPU(pid int) (int64, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(int32(^pid<<3|2), &ts) // clock_getcpuclockid(3)
	return ts.Nano(), err
}

func benchConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "rings")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

func (m *benchMeta) Refill(context.Context, uuid.UUID, uint32, []extent.Member, []uuid.UUID, []uuid.UUID) (uuid.UUID, error) {
	return uuid.Nil, errLeft
}
