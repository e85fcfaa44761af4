package extent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/vfs"
)

// The crash tests keep a history of every change in the order of submission. The store logs in that order, so after a crash its state must
// equal that after some prefix of the history that holds everything it had promised to keep.

var testVolume = uuid.MustParse("8f2f3c1e-7b1e-4b0a-9a55-0a3a4ac8f001")

// hot are the blocks that the workload uses: both sides of the border between two map pages, and the end.
var hot = func() (b []uint32) {
	for i := range uint32(12) {
		b = append(b, pageEntries-6+i, 1024-12+i)
	}
	slices.Sort(b)
	return b
}()

// change is one write or zero of some blocks. Its data is its order and the block, so that every version is recognised.
type change struct {
	order   uint64
	ref     *modelExtent
	block   uint32
	blocks  uint32
	zero    bool
	clean   bool // says that the regions of the blocks are not dirty; no data
	durable bool
	acked   bool
}

type modelExtent struct {
	id      ID
	gen     Generation  // sealed and acknowledged
	asked   Generation  // highest asked for
	exists  bool        // creation acknowledged
	dropped bool        // deletion asked for
	gone    bool        // deletion acknowledged
	busy    bool        // a control operation is under way
	absent  []uuid.UUID // of the acknowledged seal
	since   int         // changes before it
}

// promise is what a crash at one moment must keep.
type promise struct {
	extents map[ID]modelExtent
	history int    // changes submitted so far
	floor   uint64 // every change up to this order survives a power loss
	acked   uint64 // every change up to this order survives the death of the process
}

type world struct {
	t       *testing.T
	seed    uint64
	rng     *rand.Rand
	sim     *vfs.Sim
	index   *MemoryIndex
	queue   vfs.Queue
	s       *Store
	extents map[ID]*modelExtent
	history []*change
	promise promise
	pending int
	nextID  uint32
}

func testSeed(t *testing.T) uint64 {
	seed := uint64(1)
	if v, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("SEED=%d", seed)
	return seed
}

// simOptions give a store whose data file may have the given number of segments of 64 slots, one of them for maps.
func simOptions(sim *vfs.Sim, q vfs.Queue, x *MemoryIndex, segments int64) Options {
	ticks := int64(0)
	return Options{
		FS: sim, Queue: q, Dir: "/store", ExtentSize: 1024 * BlockSize, Capacity: (16 + 2*8 + segments*64) * BlockSize,
		LogSize: 8 * BlockSize, SegmentSize: 64 * BlockSize, Index: x.Opener(), reserve: 24,
		Clock: func() int64 { ticks += 1000; return ticks },
	}
}

func newWorld(t *testing.T, seed uint64, sim *vfs.Sim, x *MemoryIndex) *world {
	w := &world{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), sim: sim, index: x, queue: sim.Queue(), extents: map[ID]*modelExtent{},
	}
	s, err := Open(context.Background(), simOptions(sim, w.queue, x, 3+int64(w.rng.IntN(2))*3))
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	w.s = s
	return w
}

func fillBlock(b []byte, order uint64, block uint32) {
	for i := 0; i < len(b); i += 8 {
		le.PutUint64(b[i:], order<<16|uint64(block))
	}
}

// readBlock returns the order of the change that wrote b, 0 for zeros.
func readBlock(b []byte, block uint32) (uint64, error) {
	v := le.Uint64(b)
	for i := 0; i < len(b); i += 8 {
		if le.Uint64(b[i:]) != v {
			return 0, errors.New("block is a mixture")
		}
	}
	if v != 0 && uint32(v&0xffff) != block {
		return 0, fmt.Errorf("block holds data of block %d", v&0xffff)
	}
	return v >> 16, nil
}

func (w *world) turn() {
	w.s.Kick()
	if err := w.queue.Turn(w.s.out > 0); err != nil {
		w.t.Fatal(err)
	}
	w.s.Kick()
}

func (w *world) settle() {
	for i := 0; w.pending > 0; i++ {
		if i > 100000 {
			w.t.Fatalf("seed %d: %d requests never end", w.seed, w.pending)
		}
		w.turn()
	}
}

// step starts one random operation.
func (w *world) step() {
	switch p := w.rng.IntN(100); {
	case p < 4 || len(w.extents) == 0:
		w.create()
	case p < 6:
		w.control(func(m *modelExtent, done func(error)) {
			m.dropped = true
			w.s.delete(m.id, AnyGeneration, func(err error) { m.gone = true; done(err) })
		})
	case p < 9:
		w.control(func(m *modelExtent, done func(error)) {
			m.asked++
			seal := Seal{Gen: m.asked}
			next := m.absent
			if w.rng.IntN(3) > 0 {
				next = [][]uuid.UUID{nil, {{1}}, {{1}, {2}}}[w.rng.IntN(3)]
				seal.Absence = &Absence{Stores: next}
			}
			since := len(w.history)
			if len(next) > 0 && len(m.absent) > 0 {
				since = m.since
			}
			w.s.Seal(m.id, seal, func(_ Sealed, err error) {
				m.gen, m.absent, m.since = seal.Gen, next, since
				done(err)
			})
		})
	case p < 14:
		w.flush()
	case p < 18:
		w.clean()
	case p < 30:
		w.read()
	default:
		w.change()
	}
}

func (w *world) create() {
	if len(w.extents) >= 4 {
		return
	}
	w.nextID++
	m := &modelExtent{id: ID{Volume: testVolume, Index: w.nextID}, gen: 1, asked: 1, busy: true}
	w.extents[m.id] = m
	w.pending++
	w.s.create(m.id, Seal{Gen: 1}, func(err error) {
		w.pending--
		m.busy = false
		if errors.Is(err, ErrNoSpace) {
			delete(w.extents, m.id)
			return
		}
		w.must(err)
		m.exists = true
	})
}

func (w *world) must(err error) {
	if err != nil && w.s.failure == nil {
		w.t.Fatalf("seed %d: %v", w.seed, err)
	}
}

// pick returns a random extent that is ready for IO.
func (w *world) pick() *modelExtent {
	ids := slices.SortedFunc(maps.Keys(w.extents), func(a, b ID) int { return int(a.Index) - int(b.Index) })
	m := w.extents[ids[w.rng.IntN(len(ids))]]
	if !m.exists || m.busy || m.dropped {
		return nil
	}
	return m
}

func (w *world) control(start func(m *modelExtent, done func(error))) {
	m := w.pick()
	if m == nil {
		return
	}
	m.busy = true
	w.pending++
	start(m, func(err error) {
		w.pending--
		w.must(err)
		m.busy = false
		if m.gone {
			delete(w.extents, m.id)
		}
	})
}

func (w *world) spot() (block, blocks uint32) {
	i := w.rng.IntN(len(hot))
	block, blocks = hot[i], 1
	for blocks < 6 && i+int(blocks) < len(hot) && hot[i+int(blocks)] == block+blocks && w.rng.IntN(2) == 0 {
		blocks++
	}
	return block, blocks
}

func (w *world) change() {
	m := w.pick()
	if m == nil {
		return
	}
	c := &change{order: uint64(len(w.history) + 1), ref: m, zero: w.rng.IntN(8) == 0, durable: w.rng.IntN(3) == 0}
	c.block, c.blocks = w.spot()
	if c.zero && w.rng.IntN(3) == 0 {
		c.block, c.blocks = 0, 1024
	}
	io := &IO{Op: OpWrite, Extent: w.s.Extent(m.id), Gen: m.gen, Block: c.block, Blocks: c.blocks, Durable: c.durable}
	if c.zero {
		io.Op = OpZero
	} else {
		io.Buf = make([]byte, c.blocks*BlockSize)
		for i := range c.blocks {
			fillBlock(io.Buf[i*BlockSize:][:BlockSize], c.order, c.block+i)
		}
	}
	w.history = append(w.history, c)
	w.pending++
	io.Done = func(io *IO) {
		w.pending--
		if errors.Is(io.Err, ErrNoSpace) || errors.Is(io.Err, ErrMissing) && m.dropped {
			c.blocks = 0 // never happened
			return
		}
		w.must(io.Err)
		if io.Err != nil {
			return
		}
		c.acked = true
		w.promise.acked = max(w.promise.acked, c.order)
		if c.durable {
			w.promise.floor = max(w.promise.floor, c.order)
		}
	}
	w.s.Submit(io)
}

func (w *world) clean() {
	m := w.pick()
	if m == nil {
		return
	}
	size := RegionBlocks(1024)
	c := &change{order: uint64(len(w.history) + 1), ref: m, clean: true, blocks: size * (1 + w.rng.Uint32N(2))}
	c.block = hot[w.rng.IntN(len(hot))] / size * size
	c.block = min(c.block, 1024-c.blocks)
	w.history = append(w.history, c)
	w.pending++
	w.s.Submit(&IO{Op: OpClean, Extent: w.s.Extent(m.id), Gen: m.gen, Block: c.block, Blocks: c.blocks, Done: func(io *IO) {
		w.pending--
		if errors.Is(io.Err, ErrMissing) && m.dropped {
			c.blocks = 0
			return
		}
		w.must(io.Err)
		if io.Err == nil {
			c.acked = true
			w.promise.acked = max(w.promise.acked, c.order)
		}
	}})
}

func (w *world) flush() {
	covers := w.promise.acked
	w.pending++
	w.s.Submit(&IO{Op: OpFlush, Done: func(io *IO) {
		w.pending--
		w.must(io.Err)
		if io.Err == nil {
			w.promise.floor = max(w.promise.floor, covers)
		}
	}})
}

func (w *world) read() {
	m := w.pick()
	if m == nil {
		return
	}
	block, blocks := w.spot()
	memory := make([]byte, (blocks+1)*BlockSize)
	io := &IO{Op: OpRead, Extent: w.s.Extent(m.id), Gen: m.gen, Block: block, Blocks: blocks, Buf: memory[8:][:blocks*BlockSize]}
	least := make([]uint64, blocks)
	for i := range blocks {
		least[i] = w.acknowledged(m, block+i)
	}
	w.pending++
	io.Done = func(io *IO) {
		w.pending--
		if errors.Is(io.Err, ErrMissing) && m.dropped {
			return
		}
		w.must(io.Err)
		if io.Err != nil {
			return
		}
		for i := range blocks {
			got, err := readBlock(io.Buf[i*BlockSize:][:BlockSize], block+i)
			w.must(err)
			if got < least[i] && !(got == 0 && least[i] > 0 && w.zeroedSince(m, block+i, least[i]-1)) {
				w.t.Fatalf("seed %d: read block %d of %s: change %d, but %d was acknowledged before", w.seed, block+i, m.id, got, least[i])
			}
			if got > 0 && w.history[got-1].durable {
				w.promise.floor = max(w.promise.floor, got)
			}
		}
	}
	w.s.Submit(io)
}

// acknowledged returns the order of the last acknowledged change of block, zeroing included.
func (w *world) acknowledged(m *modelExtent, block uint32) uint64 {
	for _, c := range slices.Backward(w.history) {
		if c.ref == m && c.acked && !c.clean && c.block <= block && block < c.block+c.blocks {
			return c.order
		}
	}
	return 0
}

// version returns the order of the last change of block up to the given order; zeroing counts as 0 only at its readers.
func (w *world) version(m *modelExtent, block uint32, upto uint64) uint64 {
	for i := int(upto) - 1; i >= 0; i-- {
		c := w.history[i]
		if c.ref == m && !c.clean && c.block <= block && block < c.block+c.blocks {
			if c.zero {
				return 0
			}
			return c.order
		}
	}
	return 0
}

func (w *world) zeroedSince(m *modelExtent, block uint32, from uint64) bool {
	for _, c := range w.history[from:] {
		if c.ref == m && c.zero && c.block <= block && block < c.block+c.blocks {
			return true
		}
	}
	return false
}

// crash is a moment at which power was cut or the process died, with what must have survived.
type crash struct {
	sim     *vfs.Sim
	index   *MemoryIndex
	kind    vfs.Crash
	seed    uint64
	promise promise
}

func (w *world) crashNow(kind vfs.Crash, seed uint64) crash {
	p := w.promise
	p.history = len(w.history)
	p.extents = map[ID]modelExtent{}
	for id, m := range w.extents {
		p.extents[id] = *m
	}
	return crash{sim: w.sim.CrashClone(seed, kind), index: w.index.CrashClone(), kind: kind, seed: seed, promise: p}
}

// verify opens what the crash left and compares it with the history. It returns the reopened store and the prefix that it holds.
func (w *world) verify(c crash) (*world, uint64) {
	r := newWorld(w.t, c.seed, c.sim, c.index)
	low, high := c.promise.floor, uint64(c.promise.history)
	if c.kind == vfs.ProcessDeath {
		low = max(low, c.promise.acked)
	}
	say := func(format string, a ...any) {
		w.t.Fatalf("world %d, crash %d kind %d: %s", w.seed, c.seed, c.kind, fmt.Sprintf(format, a...))
	}
	for id, m := range c.promise.extents {
		e := r.s.Extent(id)
		switch {
		case e == nil && m.exists && !m.dropped:
			say("extent %s is missing", id)
		case e != nil && m.gone:
			say("extent %s came back", id)
		case e == nil:
			continue
		case e.gen < m.gen || e.gen > m.asked:
			say("extent %s has generation %d, sealed was %d", id, e.gen, m.gen)
		}
		if m.dropped {
			continue
		}
		live := w.extents[id]
		for _, block := range hot {
			buf := make([]byte, BlockSize)
			io := &IO{Op: OpRead, Extent: e, Gen: e.gen, Block: block, Blocks: 1, Buf: buf, Done: func(*IO) { r.pending-- }}
			r.pending++
			r.s.Submit(io)
			r.settle()
			if io.Err != nil {
				say("read block %d of %s: %v", block, id, io.Err)
			}
			got, err := readBlock(buf, block)
			if err != nil {
				say("block %d of %s: %v", block, id, err)
			}
			if live == nil {
				continue // deleted after this crash: its changes are no longer told apart
			}
			from, to := w.interval(live, block, got, low, uint64(c.promise.history))
			if from > to {
				say("block %d of %s holds change %d, promised was the state of %d or later", block, id, got, low)
			}
			if got != 0 || from == to {
				low, high = max(low, from), min(high, to)
			}
			if low > high {
				say("block %d of %s: change %d belongs to no common moment [%d, %d]", block, id, got, low, high)
			}
		}
	}
	for id, m := range c.promise.extents {
		if e := r.s.Extent(id); e != nil && w.extents[id] != nil {
			if err := w.marks(e, &m, w.extents[id], low, c.promise.history); err != nil {
				say("extent %s: %v", id, err)
			}
		}
	}
	r.s.audit(func(p Problem) { say("%s", p) })
	return r, low
}

// marks checks the regions of an extent after a crash at which n changes had begun and the state after change low, or a later one, was left.
// A header page may know of changes that were lost behind it.
func (w *world) marks(e *Extent, m, live *modelExtent, low uint64, n int) error {
	for region := range uint32(64) {
		first := region * RegionBlocks(1024)
		dirty, behind, unsure := false, false, false
		for i, c := range w.history[:n] {
			if c.ref != live || c.blocks == 0 || c.block >= first+RegionBlocks(1024) || c.block+c.blocks <= first {
				continue
			}
			if c.order > low {
				unsure = unsure || dirty == c.clean
				continue
			}
			dirty = !c.clean
			behind = behind || !c.clean && i >= m.since
		}
		if got := e.replica.dirty.Has(region, region+1); got != dirty && !unsure {
			return fmt.Errorf("region %d is dirty: %v, want %v", region, got, dirty)
		}
		if m.gen == m.asked && len(m.absent) > 0 && behind && !e.replica.behind.Has(region, region+1) {
			return fmt.Errorf("it is not noted that absent stores miss region %d", region)
		}
	}
	if m.gen == m.asked && !slices.Equal(e.replica.absent, m.absent) {
		return fmt.Errorf("absent are %v, want %v", e.replica.absent, m.absent)
	}
	return nil
}

// interval returns the prefixes of the history, from low on, after which block holds change got.
func (w *world) interval(m *modelExtent, block uint32, got, low, n uint64) (from, to uint64) {
	from, to = 1, 0
	open := w.version(m, block, low) == got
	if open {
		from, to = low, n
	}
	for i := low; i < n; i++ {
		c := w.history[i]
		if c.ref != m || c.clean || block < c.block || block >= c.block+c.blocks {
			continue
		}
		is := c.order
		if c.zero {
			is = 0
		}
		switch {
		case is == got && from > to:
			from, to, open = c.order, n, true
		case is != got && open:
			to, open = c.order-1, false
			if got == 0 {
				return from, n // zeroed more than once: any of them may be it
			}
		}
	}
	return from, to
}

// TestCrash cuts power, and kills the process, at seeded points of random histories.
func TestCrash(t *testing.T) {
	seed := testSeed(t)
	worlds, perWorld := 100, 40
	if testing.Short() || raceEnabled {
		worlds = 15
	}
	points := 0
	for i := range uint64(worlds) {
		w := newWorld(t, seed*1000+i, vfs.NewSim(seed*1000+i), NewMemoryIndex())
		if w.rng.IntN(2) == 0 {
			points += w.run(600, perWorld)
		} else {
			points += w.run(200, perWorld)
		}
	}
	if t.Logf("%d crash points", points); points < 10*worlds {
		t.Errorf("%d crash points in %d worlds are too few to say anything", points, worlds)
	}
}

func (w *world) run(steps, crashes int) int {
	var kept []crash
	picks := rand.New(rand.NewPCG(w.seed, 2))
	w.sim.OnEvent = func() {
		if picks.IntN(steps*4/crashes) == 0 && len(kept) < 3*crashes {
			kept = append(kept, w.crashNow(vfs.Crash(picks.IntN(2)), picks.Uint64()))
		}
	}
	burst := 1 + w.rng.IntN(12)
	for range steps {
		w.step()
		if w.rng.IntN(burst) == 0 {
			w.turn()
		}
	}
	w.settle()
	w.sim.OnEvent = nil
	w.s.audit(func(p Problem) { w.t.Fatalf("world %d: %s", w.seed, p) })
	n := 0
	for _, c := range kept {
		n++
		// Now and then the machine dies again while it recovers.
		if picks.IntN(4) == 0 {
			again, k := c, picks.IntN(30)
			c.sim.OnEvent = func() {
				if k--; k == 0 {
					again.sim, again.index = c.sim.CrashClone(c.seed+1, vfs.PowerLoss), c.index.CrashClone()
				}
			}
			r, _ := w.verify(c)
			c.sim.OnEvent = nil
			r.discard()
			if again.sim != c.sim {
				n++
				r, _ = w.verify(again)
				r.discard()
			}
			continue
		}
		r, _ := w.verify(c)
		r.discard()
	}
	w.discard()
	return n
}

func (w *world) discard() {
	for w.s.out > 0 {
		w.turn()
	}
	_ = w.s.freeMemory()
}
