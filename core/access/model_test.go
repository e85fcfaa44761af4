package access

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/mooring-io/mooring/sdk/block"
)

// model is what may be on a volume, per logical block. Every write leaves a stamp of
// its own in each block; commands are ordered only by the intervals from submission to
// completion.
type model struct {
	blocks [][]change
	seen   [][]sight
}

// change is one write of a block.
type change struct {
	stamp       uint64
	sent, ended int64
	maybe       bool // it failed, and may have been done or not
}

// sight is a read of a block.
type sight struct {
	stamp       uint64
	sent, ended int64
}

// allowed says whether a command from sent to ended may find stamp in block b.
func (m *model) allowed(b int, stamp uint64, sent, ended int64) error {
	var w *change
	for i := range m.blocks[b] {
		if c := &m.blocks[b][i]; c.stamp == stamp && c.sent < ended && (w == nil || c.ended > w.ended) {
			w = c // the last of the zeroings
		}
	}
	if w == nil {
		return fmt.Errorf("nothing ever wrote %#x", stamp)
	}
	for _, c := range m.blocks[b] {
		if !c.maybe && c.sent > w.ended && c.ended < sent && !w.maybe {
			return fmt.Errorf("%#x was overwritten by %#x", stamp, c.stamp)
		}
	}
	if stamp == 0 {
		return nil
	}
	for _, s := range m.seen[b] {
		if s.stamp != stamp && s.stamp != 0 && w.ended < s.sent && s.ended < sent && !w.maybe {
			return fmt.Errorf("%#x was there before %#x was seen", stamp, s.stamp)
		}
	}
	return nil
}

// world is a volume, its model and who works on it.
type modelVolume struct {
	*Volume
	model
	size int
}

// step is a command and what it leaves behind where.
type step struct {
	*flight
	vol   *modelVolume
	from  int // logical blocks
	n     int
	stamp uint64
	want  []uint64 // compare
	hurt  bool     // may be aborted or lose its lease
}

func stampBlock(b []byte, stamp uint64) {
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], stamp)
	}
}

func stampOf(b []byte) (uint64, error) {
	s := binary.LittleEndian.Uint64(b)
	for i := 0; i < len(b); i += 8 {
		if got := binary.LittleEndian.Uint64(b[i:]); got != s {
			return 0, fmt.Errorf("a mixture of %#x and %#x", s, got)
		}
	}
	return s, nil
}

func TestModel(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			testModel(t, seed, rigOptions{seed: seed, stores: 1 + int(seed%2), bounce: 256 << 10})
		})
	}
	t.Run("io_uring", func(t *testing.T) { t.Parallel(); testModel(t, 100, rigOptions{real: true, stores: 2}) })
	t.Run("threads", func(t *testing.T) { t.Parallel(); testModel(t, 101, rigOptions{real: true, threads: true}) })
}

func testModel(t *testing.T, seed uint64, o rigOptions) {
	const depth = 24
	steps := 1200
	if o.real {
		steps = 600 // the machine's disk takes its time
	}
	r := newRig(t, o)
	rng := rand.New(rand.NewPCG(seed, 7))
	var vols []*modelVolume
	for i, bs := range []int{512, 4096} {
		size := 9*testExtent + 8192
		v := &modelVolume{Volume: r.volume(int64(size), bs, i == 1), size: size / bs}
		v.model = model{blocks: make([][]change, v.size), seen: make([][]sight, v.size)}
		for b := range v.blocks {
			v.blocks[b] = []change{{}}
		}
		vols = append(vols, v)
	}
	type worker struct {
		*plugin
		handles []block.Handle
		flying  []*step
	}
	var workers []*worker
	for i := range 2 {
		w := &worker{plugin: r.plugin(fmt.Sprint("p", i))}
		for _, v := range vols {
			w.handles = append(w.handles, w.grant(v.Volume, fmt.Sprint("host", i), 1))
		}
		workers = append(workers, w)
	}
	next := uint64(0)
	outage := false
	begin := func(w *worker) {
		i := rng.IntN(2)
		v := vols[i]
		s := &step{vol: v}
		// Most commands go to a few places, so that they meet.
		s.from = rng.IntN(v.size)
		if rng.IntN(3) > 0 {
			s.from = min(rng.IntN(3)*testExtent/v.blockSize+rng.IntN(12), v.size-1)
		}
		longest := 4
		switch rng.IntN(8) {
		case 0:
			longest = 3 * testExtent / v.blockSize
		case 1:
			longest = 64
		}
		s.n = 1 + rng.IntN(min(longest, v.size-s.from))
		next++
		s.stamp = next << 16
		bs := v.blockSize
		op := []block.Op{
			block.OpRead, block.OpRead, block.OpRead, block.OpWrite, block.OpWrite, block.OpWrite, block.OpFlush, block.OpWriteZeroes,
			block.OpDiscard, block.OpCompare, block.OpCompareAndWrite, block.OpCompareAndWrite, block.OpVerify,
		}[rng.IntN(13)]
		q := block.Request{Op: op, Volume: w.handles[i], Offset: uint64(s.from * bs), Length: uint64(s.n * bs)}
		var data []byte
		switch op {
		case block.OpWriteZeroes, block.OpDiscard, block.OpVerify: // without data
		case block.OpFlush:
			q.Offset, q.Length, s.n = 0, 0, 0
		case block.OpRead:
			data = make([]byte, s.n*bs)
		case block.OpWrite:
			data = make([]byte, s.n*bs)
			for b := range s.n {
				stampBlock(data[b*bs:][:bs], s.stamp+uint64(b))
			}
		case block.OpCompare, block.OpCompareAndWrite:
			// What was seen last is likely to be there.
			for b := range s.n {
				want := uint64(0)
				if seen := v.seen[s.from+b]; len(seen) > 0 {
					want = seen[len(seen)-1].stamp
				}
				if c := v.blocks[s.from+b]; rng.IntN(2) == 0 {
					want = c[len(c)-1].stamp
				}
				s.want = append(s.want, want)
				data = append(data, make([]byte, bs)...)
				stampBlock(data[b*bs:], want)
			}
			if op == block.OpCompareAndWrite {
				for b := range s.n {
					data = append(data, make([]byte, bs)...)
					stampBlock(data[(s.n+b)*bs:], s.stamp+uint64(b))
				}
			}
		}
		if op != block.OpRead && op != block.OpFlush && op != block.OpVerify && rng.IntN(3) == 0 {
			q.Flags |= block.FUA
		}
		s.hurt = outage
		s.flight = w.send(&flight{Request: q}, data)
		if rng.IntN(16) == 0 {
			s.hurt = true
			f := s.flight
			w.thread.Post(func() { w.thread.Abort(&f.Request) })
		}
		w.flying = append(w.flying, s)
	}
	// judge checks a command that has ended against what was under way beside it.
	judge := func(s *step, all []*step) {
		v, bs := s.vol, s.vol.blockSize
		ok := s.Status == block.StatusOK
		if !ok && s.Status != block.StatusCompareFailed && !(s.hurt && (s.Status == block.StatusAborted || s.Status == block.StatusRetry)) {
			t.Fatalf("%v of %d blocks at %d: %v", s.Op, s.n, s.from, s.Status)
		}
		if !ok {
			if s.Op == block.OpCompareAndWrite || s.Op == block.OpCompare {
				if s.Status == block.StatusCompareFailed && s.Info%uint64(bs) != 0 {
					t.Fatalf("compare failed at %d", s.Info)
				}
			}
			return
		}
		for b := range s.n {
			var stamp uint64
			switch s.Op {
			case block.OpRead:
				var err error
				if stamp, err = stampOf(s.data[b*bs:][:bs]); err != nil {
					t.Fatalf("block %d: %v", s.from+b, err)
				}
			case block.OpCompare, block.OpCompareAndWrite:
				stamp = s.want[b]
			default:
				continue
			}
			if err := v.allowed(s.from+b, stamp, s.sent, s.ended); err != nil {
				t.Fatalf("%v of block %d (%d bytes) of %d..: %v", s.Op, s.from+b, bs, s.from, err)
			}
			v.seen[s.from+b] = append(v.seen[s.from+b], sight{stamp, s.sent, s.ended})
		}
	}
	// note enters what a command has changed, or may have.
	note := func(s *step) {
		maybe := s.Status != block.StatusOK
		if s.Status == block.StatusCompareFailed {
			return
		}
		for b := range s.n {
			c := change{sent: s.sent, ended: s.ended, maybe: maybe}
			switch s.Op {
			case block.OpWrite, block.OpCompareAndWrite:
				c.stamp = s.stamp + uint64(b)
			case block.OpWriteZeroes:
			case block.OpDiscard:
				first, last := (s.from*s.vol.blockSize+blockBytes-1)/blockBytes, (s.from+s.n)*s.vol.blockSize/blockBytes
				if at := (s.from + b) * s.vol.blockSize / blockBytes; at < first || at >= last {
					continue
				}
			default:
				continue
			}
			s.vol.blocks[s.from+b] = append(s.vol.blocks[s.from+b], c)
		}
	}
	// All the time extents move from store to store.
	moves, moved := context.WithCancel(r.ctx)
	var moving sync.WaitGroup
	done := map[string]int{}
	if len(r.stores) > 1 {
		moving.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 8))
			for moves.Err() == nil {
				v := vols[rng.IntN(2)]
				i, to := rng.Uint32N(uint32(len(v.extents))), r.stores[rng.IntN(2)]
				copied := int64(0)
				err := r.access.Move(moves, v.Volume, i, to, func(m Moved) { copied = m.Copied })
				switch {
				case err != nil && o.seed%2 != 0 && moves.Err() == nil:
					t.Errorf("move extent %d: %v", i, err)
				case err != nil:
					done["failed"]++
				case copied > 0:
					done["moved"]++
				}
			}
		})
	}
	// Commands go out in rounds: within one, anything may happen in any order.
	for ended := 0; ended < steps; {
		outage = o.seed%2 == 0 && rng.IntN(12) == 0
		n := 1 + rng.IntN(depth)
		from := rng.IntN(n)
		for i := range n {
			if outage && i == from {
				r.meta.deadline.Store(0)
			}
			for _, w := range workers {
				begin(w)
			}
		}
		r.meta.deadline.Store(math.MaxInt64)
		var all []*step
		for _, w := range workers {
			for _, s := range w.flying {
				w.wait(s.flight)
				all = append(all, s)
			}
			w.flying = nil
		}
		for _, s := range all {
			note(s)
		}
		for _, s := range all {
			judge(s, all)
		}
		ended += len(all)
	}
	moved()
	moving.Wait()
	if t.Log(done); len(r.stores) > 1 && done["moved"] == 0 {
		t.Error("no extent has moved")
	}
	w := workers[0]
	for i, v := range vols {
		for from := 0; from < v.size; from += 64 {
			n := min(64, v.size-from)
			s := &step{vol: v, from: from, n: n}
			s.flight = w.wait(w.start(block.OpRead, w.handles[i], uint64(from*v.blockSize), uint64(n*v.blockSize), make([]byte, n*v.blockSize)))
			judge(s, nil)
		}
	}
	r.settled(vols[0].Volume, vols[1].Volume)
}
