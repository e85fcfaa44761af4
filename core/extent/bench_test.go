package extent

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/core/vfs"
)

// benchDir is where the benchmarks put their files: BENCH_DIR, or the folder for temporary files.
func benchDir(tb testing.TB) string {
	dir, err := os.MkdirTemp(os.Getenv("BENCH_DIR"), "extent")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// rig is a store on real files, turned by the test's own goroutine.
type rig struct {
	tb    testing.TB
	queue vfs.Queue
	s     *Store
}

func newRig(tb testing.TB, dir string, o Options) *rig {
	return newRigOn(tb, dir, o, vfs.QueueOptions{})
}

func newRigOn(tb testing.TB, dir string, o Options, qo vfs.QueueOptions) *rig {
	runtime.LockOSThread()
	q, err := vfs.NewQueue(qo)
	if err != nil {
		tb.Fatal(err)
	}
	o.FS, o.Queue, o.Dir = vfs.NewOS(), q, dir
	if o.Logger == nil {
		o.Logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Warn})
	}
	s, err := Open(context.Background(), o)
	if err != nil {
		_ = q.Close()
		tb.Fatal(err)
	}
	return &rig{tb: tb, queue: q, s: s}
}

func (r *rig) create(id ID, g Generation) error {
	return r.s.call(context.Background(), func(done func(error)) { r.s.Create(id, Seal{Gen: g}, done) })
}

func (r *rig) seal(id ID, g Generation) error {
	return r.s.call(context.Background(), func(done func(error)) {
		r.s.Seal(id, Seal{Gen: g}, func(_ Sealed, err error) { done(err) })
	})
}

func (r *rig) remove(start func(done func(error))) error {
	return r.s.call(context.Background(), start)
}

// on runs fn on the queue's goroutine.
func (r *rig) on(fn func()) {
	r.tb.Helper()
	r.do(func() error { return r.s.call(context.Background(), func(done func(error)) { fn(); done(nil) }) })
}

// do runs fn, which may block, while the queue is turned.
func (r *rig) do(fn func() error) {
	r.tb.Helper()
	if err := r.try(fn); err != nil {
		r.tb.Fatal(err)
	}
}

func (r *rig) try(fn func() error) error {
	ended, result := false, make(chan error, 1)
	go func() {
		result <- fn()
		r.queue.Post(func() { ended = true })
	}()
	for !ended {
		r.turn()
	}
	return <-result
}

func (r *rig) turn() {
	r.s.Kick()
	if err := r.queue.Turn(true); err != nil {
		r.tb.Fatal(err)
	}
	r.s.Kick()
}

func (r *rig) close() {
	r.tb.Helper()
	r.do(func() error { return r.s.Close(context.Background()) })
	if err := r.queue.Close(); err != nil {
		r.tb.Fatal(err)
	}
}

func (r *rig) run(ios ...*IO) {
	left := len(ios)
	for _, io := range ios {
		io.Done = func(*IO) { left-- }
		r.s.Submit(io)
	}
	for r.s.Kick(); left > 0; r.s.Kick() {
		if err := r.queue.Turn(true); err != nil {
			r.tb.Fatal(err)
		}
	}
}

func cpuNanos() int64 {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}

const benchExtents = 4 // of 256 MiB

func benchStore(b *testing.B) (*rig, []*Extent) {
	r := newRig(b, benchDir(b), Options{Capacity: 3 << 30})
	buf, err := vfs.AlignedBuffer(MaxWriteBlocks * BlockSize)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = vfs.FreeBuffer(buf) }()
	var extents []*Extent
	for i := range uint32(benchExtents) {
		id := ID{Volume: testVolume, Index: i}
		r.do(func() error { return r.create(id, 1) })
		e := r.s.Extent(id)
		extents = append(extents, e)
		for at := uint32(0); at < r.s.geo.blocks; at += MaxWriteBlocks {
			io := &IO{Op: OpWrite, Extent: e, Gen: 1, Block: at, Blocks: MaxWriteBlocks, Buf: buf}
			if r.run(io); io.Err != nil {
				b.Fatal(io.Err)
			}
		}
	}
	flush := &IO{Op: OpFlush}
	if r.run(flush); flush.Err != nil {
		b.Fatal(flush.Err)
	}
	return r, extents
}

// BenchmarkRandom measures 4 KiB random access to a full store, and the same requests straight on a file of the same size.
func BenchmarkRandom(b *testing.B) {
	// Sub-benchmarks run on goroutines of their own, but the queue belongs to one.
	work, ended := make(chan func()), make(chan struct{})
	go func() {
		defer close(ended)
		for fn := range work {
			fn()
		}
	}()
	on := func(fn func()) {
		done := make(chan struct{})
		work <- func() { defer close(done); fn() }
		<-done
	}
	var r *rig
	var extents []*Extent
	on(func() { r, extents = benchStore(b) })
	defer func() {
		on(r.close)
		close(work)
		<-ended
	}()
	for _, c := range []struct {
		name    string
		op      Op
		durable bool
	}{{"read", OpRead, false}, {"volatile", OpWrite, false}, {"durable", OpWrite, true}} {
		for _, depth := range []int{1, 32, 128} {
			b.Run(fmt.Sprintf("%s/qd%d/store", c.name, depth), func(b *testing.B) {
				on(func() { benchStoreRandom(b, r, extents, c.op, c.durable, depth) })
			})
			if !c.durable {
				b.Run(fmt.Sprintf("%s/qd%d/raw", c.name, depth), func(b *testing.B) { on(func() { benchRaw(b, r, c.op, depth) }) })
			}
		}
	}
}

func report(b *testing.B, cpu int64, start time.Time) {
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "IOPS")
	b.ReportMetric(float64(cpuNanos()-cpu)/float64(b.N)/1000, "cpu-µs/op")
}

func benchStoreRandom(b *testing.B, r *rig, extents []*Extent, op Op, durable bool, depth int) {
	mem, err := vfs.AlignedBuffer(depth * BlockSize)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = vfs.FreeBuffer(mem) }()
	rng := rand.New(rand.NewPCG(1, 2))
	sent, ended := 0, 0
	send := func(io *IO) {
		io.Extent, io.Block = extents[rng.IntN(len(extents))], rng.Uint32N(r.s.geo.blocks)
		sent++
		r.s.Submit(io)
	}
	b.ReportAllocs()
	b.ResetTimer()
	cpu, start := cpuNanos(), time.Now()
	for i := range min(depth, b.N) {
		io := &IO{Op: op, Gen: 1, Blocks: 1, Buf: mem[i*BlockSize:][:BlockSize], Durable: durable}
		io.Done = func(io *IO) {
			if io.Err != nil {
				b.Error(io.Err)
			}
			if ended++; sent < b.N {
				send(io)
			}
		}
		send(io)
	}
	r.s.Kick()
	for ended < b.N {
		if err := r.queue.Turn(true); err != nil {
			b.Fatal(err)
		}
		r.s.Kick()
	}
	report(b, cpu, start)
}

// benchRaw sends the same requests to a plain preallocated file through the same queue.
func benchRaw(b *testing.B, r *rig, op Op, depth int) {
	path := filepath.Join(r.s.o.Dir, "raw")
	f, err := r.s.o.FS.OpenFile(path, vfs.OpenOptions{Create: true, Direct: true})
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const size = benchExtents * DefaultExtentSize
	mem, err := vfs.AlignedBuffer(1 << 20)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = vfs.FreeBuffer(mem) }()
	if n, _ := f.Size(); n < size {
		for off := int64(0); off < size; off += 1 << 20 {
			if _, err := f.WriteAt(mem, off); err != nil {
				b.Fatal(err)
			}
		}
	}
	kind := vfs.OpRead
	if op == OpWrite {
		kind = vfs.OpWrite
	}
	rng := rand.New(rand.NewPCG(1, 2))
	sent, ended := 0, 0
	b.ResetTimer()
	cpu, start := cpuNanos(), time.Now()
	for i := range min(depth, b.N) {
		o := &vfs.Op{Kind: kind, File: f, Buf: mem[i*BlockSize:][:BlockSize]}
		send := func(o *vfs.Op) {
			o.Off = rng.Int64N(size/BlockSize) * BlockSize
			sent++
			r.queue.Submit(o)
		}
		o.Done = func(o *vfs.Op) {
			if ended++; sent < b.N {
				send(o)
			}
		}
		send(o)
	}
	for ended < b.N {
		if err := r.queue.Turn(true); err != nil {
			b.Fatal(err)
		}
	}
	report(b, cpu, start)
}
