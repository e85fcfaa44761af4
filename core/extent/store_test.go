package extent

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/mooring-io/mooring/core/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// small is a store of a few MiB with Badger, on real files.
func small() Options {
	return Options{
		ExtentSize: 1024 * BlockSize, Capacity: 24 << 20, LogSize: 256 << 10, SegmentSize: 4 << 20, reserve: 64,
		Logger: hclog.NewNullLogger(),
	}
}

func pattern(n int, first byte) []byte {
	b := make([]byte, n*BlockSize)
	for i := range b {
		b[i] = first + byte(i/BlockSize) + byte(i%251)
	}
	return b
}

func (r *rig) extent(index uint32) *Extent {
	r.tb.Helper()
	id := ID{Volume: testVolume, Index: index}
	if r.s.Extent(id) == nil {
		r.do(func() error { return r.create(id, 1) })
	}
	return r.s.Extent(id)
}

func (r *rig) write(e *Extent, block uint32, b []byte, durable bool) error {
	io := &IO{Op: OpWrite, Extent: e, Gen: e.gen, Block: block, Blocks: uint32(len(b) / BlockSize), Buf: b, Durable: durable}
	r.run(io)
	return io.Err
}

func (r *rig) read(e *Extent, block uint32, n int) ([]byte, *IO) {
	io := &IO{Op: OpRead, Extent: e, Gen: e.gen, Block: block, Blocks: uint32(n), Buf: make([]byte, n*BlockSize)}
	r.run(io)
	return io.Buf, io
}

func (r *rig) want(e *Extent, block uint32, want []byte) {
	r.tb.Helper()
	got, io := r.read(e, block, len(want)/BlockSize)
	if io.Err != nil {
		r.tb.Fatal(io.Err)
	}
	if !bytes.Equal(got, want) {
		r.tb.Fatalf("blocks %d+%d differ from what was written", block, len(want)/BlockSize)
	}
}

func (r *rig) audit() {
	r.tb.Helper()
	r.s.audit(func(p Problem) { r.tb.Error(p) })
}

// A store whose data file is lost is not taken for a new one, and the error says what is lost.
func TestDataFileLost(t *testing.T) {
	dir := t.TempDir()
	newRig(t, dir, small()).close()
	q, err := vfs.NewQueue(vfs.QueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	o := small()
	o.FS, o.Queue, o.Dir = vfs.NewOS(), q, dir
	for _, spoil := range []func(string) error{os.Remove, func(p string) error { return os.Truncate(p, 0) }} {
		if err := spoil(filepath.Join(dir, dataName)); err != nil {
			t.Fatal(err)
		}
		for range 2 { // it stays so
			if _, err := Open(context.Background(), o); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "its data file is lost") {
				t.Errorf("opened: %v", err)
			}
		}
	}
}

func TestStoreKeepsDataAcrossOpens(t *testing.T) {
	for _, base := range []string{"", "/dev/shm"} {
		dir, err := os.MkdirTemp(base, "extent")
		if err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		r := newRig(t, dir, small())
		e := r.extent(7)
		if err := errors.Join(r.write(e, 500, pattern(10, 1), true), r.write(e, 3, pattern(2, 9), false)); err != nil {
			t.Fatal(err)
		}
		zero := &IO{Op: OpZero, Extent: e, Gen: 1, Block: 502, Blocks: 3}
		if r.run(zero); zero.Err != nil {
			t.Fatal(zero.Err)
		}
		id, life := r.s.Identity()
		r.do(func() error { return r.seal(e.ID(), 5) })
		r.audit()
		r.close()

		r = newRig(t, dir, small())
		id2, life2 := r.s.Identity()
		if id != id2 || life2 != life+1 {
			t.Fatalf("identity %s/%d became %s/%d", id, life, id2, life2)
		}
		e = r.extent(7)
		want := pattern(10, 1)
		clear(want[2*BlockSize : 5*BlockSize])
		r.want(e, 500, want)
		r.want(e, 3, pattern(2, 9))
		r.want(e, 800, make([]byte, 4*BlockSize))
		if e.Generation() != 5 {
			t.Fatalf("generation %d, want 5", e.Generation())
		}
		if u := r.s.Usage(); u.Volumes[testVolume] != 9*BlockSize || u.Extents != 1 {
			t.Fatalf("usage %+v", u)
		}
		r.do(func() error {
			return r.s.Check(context.Background(), func(p Problem) { t.Error(p) })
		})
		r.audit()
		r.close()
		if err := CheckDir(context.Background(), vfs.NewOS(), dir, nil, func(p Problem) { t.Error(p) }); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFence(t *testing.T) {
	r := newRig(t, t.TempDir(), small())
	defer r.close()
	e := r.extent(1)
	r.do(func() error { return r.seal(e.ID(), 3) })
	for _, g := range []Generation{0, 1, 2, 4} {
		io := &IO{Op: OpRead, Extent: e, Gen: g, Blocks: 1, Buf: make([]byte, BlockSize)}
		if r.run(io); !errors.Is(io.Err, ErrFenced) {
			t.Errorf("generation %d: %v, want ErrFenced", g, io.Err)
		}
	}
	for _, c := range []struct {
		what string
		want error
		do   func() error
	}{
		{"seal lower", ErrFenced, func() error { return r.seal(e.ID(), 2) }},
		{"seal same", nil, func() error { return r.seal(e.ID(), 3) }},
		{"seal missing", ErrMissing, func() error { return r.seal(ID{Index: 9}, 2) }},
		{"create same", nil, func() error { return r.create(e.ID(), 3) }},
		{"create other", ErrFenced, func() error { return r.create(e.ID(), 4) }},
		{"delete by a former owner", ErrFenced, func() error { return r.remove(func(done func(error)) { r.s.Delete(e.ID(), 2, done) }) }},
		{"delete", nil, func() error { return r.remove(func(done func(error)) { r.s.DeleteFrom(testVolume, 0, done) }) }},
		{"delete again", nil, func() error { return r.remove(func(done func(error)) { r.s.Delete(e.ID(), AnyGeneration, done) }) }},
	} {
		if err := r.try(c.do); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
	if r.s.Extent(e.ID()) != nil {
		t.Error("deleted extent is still there")
	}
	if err := r.write(e, 0, pattern(1, 1), false); !errors.Is(err, ErrMissing) {
		t.Errorf("write to deleted extent: %v, want ErrMissing", err)
	}
	r.audit()
}

func TestInvalidRequests(t *testing.T) {
	r := newRig(t, t.TempDir(), small())
	defer r.close()
	e := r.extent(1)
	buf := make([]byte, BlockSize)
	for _, io := range []*IO{
		{Op: OpRead, Block: 1024, Blocks: 1, Buf: buf},
		{Op: OpRead, Block: ^uint32(0), Blocks: 1, Buf: buf},
		{Op: OpRead, Blocks: 0},
		{Op: OpWrite, Blocks: 2, Buf: buf},
		{Op: OpWrite, Blocks: MaxWriteBlocks + 1, Buf: make([]byte, (MaxWriteBlocks+1)*BlockSize)},
		{Op: OpZero, Block: 1000, Blocks: 25},
		{Op: 9, Blocks: 1, Buf: buf},
	} {
		io.Extent, io.Gen = e, 1
		if r.run(io); !errors.Is(io.Err, ErrInvalid) {
			t.Errorf("%+v: %v, want ErrInvalid", io.Op, io.Err)
		}
	}
}

func TestSecondOpenIsLockedOut(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, small())
	defer r.close()
	o := small()
	o.FS, o.Queue, o.Dir = vfs.NewOS(), r.queue, dir
	if _, err := Open(context.Background(), o); !errors.Is(err, ErrLocked) {
		t.Fatalf("second open: %v, want ErrLocked", err)
	}
}

func TestStoreOnWorkerThreads(t *testing.T) {
	dir := t.TempDir()
	for round := range byte(2) {
		r := newRigOn(t, dir, small(), vfs.QueueOptions{Threads: true})
		e := r.extent(1)
		if round > 0 {
			r.want(e, 100, pattern(20, 0))
		}
		for i := range uint32(50) {
			if err := r.write(e, 100+i*4%200, pattern(20, round), i%2 == 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.write(e, 100, pattern(20, round), false); err != nil {
			t.Fatal(err)
		}
		r.audit()
		r.close()
	}
}

// A full store refuses new blocks, and overwrites and frees go on.
func TestFullStore(t *testing.T) {
	r := newRig(t, t.TempDir(), small())
	defer r.close()
	var err error
	var last *Extent
	n := 0
	for i := uint32(0); err == nil; i++ {
		id := ID{Volume: testVolume, Index: i}
		if err = r.try(func() error { return r.create(id, 1) }); err != nil {
			break
		}
		last = r.s.Extent(id)
		for b := uint32(0); b < 1024 && err == nil; b += 64 {
			if err = r.write(last, b, pattern(64, byte(i)), false); err == nil {
				n += 64
			}
		}
	}
	if !errors.Is(err, ErrNoSpace) || n < 3000 {
		t.Fatalf("after %d blocks: %v, want ErrNoSpace", n, err)
	}
	for i := range 200 {
		if err := r.write(r.extent(0), uint32(i%16)*64, pattern(64, byte(i)), i%7 == 0); err != nil {
			t.Fatalf("overwrite of a full store: %v", err)
		}
	}
	r.audit()
	zero := &IO{Op: OpZero, Extent: r.extent(0), Gen: 1, Blocks: 1024, Durable: true}
	if r.run(zero); zero.Err != nil {
		t.Fatal(zero.Err)
	}
	if err := r.write(r.extent(0), 0, pattern(64, 1), true); err != nil {
		t.Fatalf("write after discard: %v", err)
	}
	r.audit()
}

func TestRebuildIndex(t *testing.T) {
	dir, ctx := t.TempDir(), context.Background()
	r := newRig(t, dir, small())
	for i := range uint32(3) {
		if err := r.write(r.extent(i), 10, pattern(3, byte(i)), true); err != nil {
			t.Fatal(err)
		}
	}
	r.do(func() error { return r.seal(ID{testVolume, 2}, 8) })
	r.do(func() error {
		return r.remove(func(done func(error)) { r.s.Delete(ID{testVolume, 1}, AnyGeneration, done) })
	})
	r.close()
	if err := os.RemoveAll(filepath.Join(dir, indexName)); err != nil {
		t.Fatal(err)
	}
	o := small()
	o.FS, o.Queue, o.Dir = vfs.NewOS(), vfs.NewSim(1).Queue(), dir
	if _, err := Open(ctx, o); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("open without the index: %v, want ErrCorrupt", err)
	}
	if err := RebuildIndex(ctx, vfs.NewOS(), dir, nil); err != nil {
		t.Fatal(err)
	}
	r = newRig(t, dir, small())
	defer r.close()
	if r.s.Extent(ID{testVolume, 1}) != nil {
		t.Error("a deleted extent came back")
	}
	r.want(r.extent(0), 10, pattern(3, 0))
	r.want(r.extent(2), 10, pattern(3, 2))
	if g := r.extent(2).Generation(); g != 8 {
		t.Errorf("generation %d, want 8", g)
	}
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	r := newRig(t, t.TempDir(), small())
	defer r.close()
	e := r.extent(0)
	mem, err := vfs.AlignedBuffer(4 * BlockSize)
	if err != nil {
		t.Fatal(err)
	}
	left := 0
	ios := []*IO{
		{Op: OpWrite, Block: 1, Blocks: 2, Buf: mem[:2*BlockSize]},
		{Op: OpWrite, Block: 7, Blocks: 1, Buf: mem[:BlockSize], Durable: true},
		{Op: OpRead, Block: 1, Blocks: 2, Buf: mem[2*BlockSize:]},
		{Op: OpFlush},
	}
	for _, io := range ios {
		io.Extent, io.Gen, io.Done = e, 1, func(*IO) { left-- }
	}
	round := func() {
		for _, io := range ios {
			left++
			r.s.Submit(io)
		}
		for r.s.Kick(); left > 0; r.s.Kick() {
			_ = r.queue.Turn(true)
		}
	}
	for range 300 {
		round()
	}
	if n := testing.AllocsPerRun(300, round); n >= 1 {
		t.Fatalf("%v allocations per round of %d requests", n, len(ios))
	}
}

// simRig is a store on a simulated disk with one extent whose first blocks are written and durable.
func simRig(t *testing.T) *world {
	w := newWorld(t, 7, vfs.NewSim(7), NewMemoryIndex())
	for w.s.Extent(ID{testVolume, 1}) == nil {
		if len(w.extents) == 0 {
			w.create()
		}
		w.turn()
	}
	w.write(0, 8, true)
	return w
}

func (w *world) write(block, n uint32, durable bool) error {
	b := make([]byte, n*BlockSize)
	for i := range n {
		fillBlock(b[i*BlockSize:][:BlockSize], 1, block+i)
	}
	io := &IO{Op: OpWrite, Extent: w.s.Extent(ID{testVolume, 1}), Gen: 1, Block: block, Blocks: n, Buf: b, Durable: durable}
	return w.do(io)
}

func (w *world) do(io *IO) error {
	ended := false
	io.Done = func(*IO) { ended = true }
	w.s.Submit(io)
	for !ended {
		w.turn()
	}
	return io.Err
}

// Damage to any block, and to any single page of metadata, is found: never returned as data.
func TestDamageIsReported(t *testing.T) {
	w := simRig(t)
	e := w.s.Extent(ID{testVolume, 1})
	for block := range uint32(8) {
		w.sim.Corrupt("/store/data", int64(e.entries[block].slot)*BlockSize+100, 1)
		io := &IO{Op: OpRead, Extent: e, Gen: 1, Blocks: 8, Buf: make([]byte, 8*BlockSize)}
		if err := w.do(io); !errors.Is(err, ErrCorrupt) || io.BadBlock != block {
			t.Fatalf("read: %v at block %d, want ErrCorrupt at %d", err, io.BadBlock, block)
		}
		w.sim.Corrupt("/store/data", int64(e.entries[block].slot)*BlockSize+100, 1)
	}
	// A reading that is wrong once is repeated.
	once := true
	w.sim.SetFaults(vfs.SimFaults{OnRead: func(_ string, _ int64, b []byte) error {
		if once {
			b[0] ^= 1
		}
		once = false
		return nil
	}})
	if err := w.do(&IO{Op: OpRead, Extent: e, Gen: 1, Blocks: 8, Buf: make([]byte, 8*BlockSize)}); err != nil {
		t.Fatal(err)
	}
	w.sim.SetFaults(vfs.SimFaults{})

	// Any one page of metadata may be lost.
	slots := []uint32{0, 1}
	for page := -1; page < int(w.s.geo.pages); page++ {
		slots = append(slots, w.s.geo.pageSlot(e.area, 0, page), w.s.geo.pageSlot(e.area, 1, page))
	}
	for _, slot := range slots {
		c := w.crashNow(vfs.ProcessDeath, 1)
		c.sim.Corrupt("/store/data", int64(slot)*BlockSize+60, 1)
		r := newWorld(t, 7, c.sim, c.index)
		if err := r.do(&IO{Op: OpRead, Extent: r.s.Extent(e.id), Gen: 1, Blocks: 8, Buf: make([]byte, 8*BlockSize)}); err != nil {
			t.Fatalf("slot %d damaged: %v", slot, err)
		}
	}
	// Without its header page an extent has data, but nobody knows what of it replicas have in common.
	c := w.crashNow(vfs.ProcessDeath, 1)
	for half := range uint32(2) {
		c.sim.Corrupt("/store/data", int64(w.s.geo.pageSlot(e.area, half, -1))*BlockSize+60, 1)
	}
	headless := newWorld(t, 7, c.sim, c.index).s.Extent(e.id)
	if n := headless.replica.dirty.Count(); headless.gen != 1 || n != 64 {
		t.Fatalf("generation %d, %d dirty regions of an extent whose header page is lost", headless.gen, n)
	}
	// Both copies lost: the blocks are reported, and can be written again.
	c = w.crashNow(vfs.ProcessDeath, 1)
	settled := newWorld(t, 7, c.sim, c.index) // checkpoints, so that no log can help
	c = settled.crashNow(vfs.ProcessDeath, 1)
	c.sim.Corrupt("/store/data", int64(w.s.geo.pageSlot(e.area, 0, 0))*BlockSize, BlockSize)
	c.sim.Corrupt("/store/data", int64(w.s.geo.pageSlot(e.area, 1, 0))*BlockSize, BlockSize)
	r := newWorld(t, 7, c.sim, c.index)
	re := r.s.Extent(e.id)
	if err := r.do(&IO{Op: OpRead, Extent: re, Gen: 1, Blocks: 8, Buf: make([]byte, 8*BlockSize)}); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("read of a lost map page: %v, want ErrCorrupt", err)
	}
	if err := r.write(0, 8, true); err != nil {
		t.Fatal(err)
	}
	if err := r.do(&IO{Op: OpRead, Extent: re, Gen: 1, Blocks: 8, Buf: make([]byte, 8*BlockSize)}); err != nil {
		t.Fatal(err)
	}
	r.s.audit(func(p Problem) { t.Error(p) })
}

// After a failed sync or write nothing is acknowledged any more, and everything still ends.
func TestFailedDiskEndsTheStore(t *testing.T) {
	for n := 1; n < 12; n++ {
		for _, f := range []vfs.SimFaults{{FailSyncs: n}, {FailWrites: n}} {
			w := simRig(t)
			e := w.s.Extent(ID{testVolume, 1})
			w.sim.SetFaults(f)
			left := 0
			for i := range 40 {
				left++
				b := make([]byte, BlockSize)
				w.s.Submit(&IO{
					Op: OpWrite, Extent: e, Gen: 1, Block: uint32(i), Blocks: 1, Buf: b, Durable: i%2 == 0,
					Done: func(*IO) { left-- },
				})
				if i%5 == 0 {
					w.turn()
				}
			}
			var sealed error
			left++
			w.s.Seal(e.id, Seal{Gen: 2}, func(_ Sealed, err error) { left--; sealed = err })
			for left > 0 {
				w.turn()
			}
			if w.s.failure == nil {
				continue // fewer requests than n
			}
			if err := w.write(0, 1, false); !errors.Is(err, ErrStoreFailed) {
				t.Fatalf("write after failure: %v, want ErrStoreFailed", err)
			}
			if err := w.do(&IO{Op: OpFlush}); !errors.Is(err, ErrStoreFailed) {
				t.Fatalf("flush after failure: %v, want ErrStoreFailed", err)
			}
			if w.s.Err() == nil || sealed != nil && !errors.Is(sealed, ErrStoreFailed) {
				t.Fatalf("state %v, seal %v", w.s.Err(), sealed)
			}
		}
	}
}

// A file system without space refuses new blocks only, and is asked again later.
func TestFileSystemWithoutSpace(t *testing.T) {
	w := simRig(t)
	size, _ := w.sim.Size("/store/data")
	w.sim.SetFaults(vfs.SimFaults{MaxSize: size})
	var err error
	block := uint32(8)
	for ; err == nil && block < 1016; block += 8 {
		err = w.write(block, 8, false)
	}
	if !errors.Is(err, ErrNoSpace) {
		t.Fatalf("write: %v, want ErrNoSpace", err)
	}
	for range 50 {
		if err := w.write(0, 8, false); err != nil {
			t.Fatalf("overwrite: %v", err)
		}
	}
	w.s.audit(func(p Problem) { t.Error(p) })
}

// Slots that a read is looking at are not reused until it ends.
func TestSlotsOutliveTheirReaders(t *testing.T) {
	w := simRig(t)
	e := w.s.Extent(ID{testVolume, 1})
	slot := e.entries[0].slot
	epoch := w.s.epoch
	w.s.readers[epoch&1]++ // a read that never ends
	for range 100 {
		if err := w.write(0, 8, true); err != nil {
			t.Fatal(err)
		}
		if w.s.slots.isFree(slot) || e.entries[0].slot == slot {
			t.Fatal("slot was freed under a reader")
		}
		if w.s.slots.free < 24 {
			break
		}
	}
	w.s.readers[epoch&1]--
	for range 4 {
		if err := w.write(0, 1, true); err != nil {
			t.Fatal(err)
		}
	}
	if w.s.freed.slots > 24 {
		t.Fatalf("%d slots still wait after the reader ended", w.s.freed.slots)
	}
}
