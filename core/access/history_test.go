package access

import (
	"fmt"
	"math/rand/v2"

	"testing"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/vfs"
	"github.com/mooring-io/mooring/sdk/block"
)

// TestReplicatedHistory: three nodes, two or three replicas, hosts that read and write at the present owner while links break and come back,
// owners change, nodes die with or without their power and return, and members are brought back. Whatever happens, a
// read returns what a linear history of the block allows, every acknowledged write is there, and in the end all members hold the same.
func TestReplicatedHistory(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			h := newHistory(t, seed)
			rounds := 40
			if testing.Short() {
				rounds = 15
			}
			h.run(rounds)
			h.settle()
		})
	}
}

type history struct {
	*cluster
	rng     *rand.Rand
	id      uuid.UUID
	size    int // blocks
	model   model
	owner   *node
	vol     *Volume
	handle  block.Handle
	stamp   uint64
	flying  []*step
	did     map[string]int
	unknown int
}

func newHistory(t *testing.T, seed uint64) *history {
	h := &history{cluster: newCluster(t, seed, 3, 2+int(seed%2)), rng: rand.New(rand.NewPCG(seed, 3)), id: uuid.New(), size: 3*64 + 16, did: map[string]int{}}
	h.model = model{blocks: make([][]change, h.size), seen: make([][]sight, h.size)}
	for b := range h.model.blocks {
		h.model.blocks[b] = []change{{}}
	}
	h.take(h.nodes[0])
	return h
}

// take has a node take the volume over.
func (h *history) take(n *node) {
	h.t.Helper()
	h.owner = n
	h.vol, h.handle = n.volume(h.id, int64(h.size*blockBytes), false)
}

// begin starts a random command.
func (h *history) begin() {
	s := &step{vol: &modelVolume{}, from: h.rng.IntN(h.size)}
	if h.rng.IntN(3) > 0 {
		s.from = h.rng.IntN(3) * 64 // most meet
	}
	s.n = 1 + h.rng.IntN(min(6, h.size-s.from))
	h.stamp++
	s.stamp = h.stamp << 16
	op := []block.Op{block.OpRead, block.OpRead, block.OpWrite, block.OpWrite, block.OpWriteZeroes, block.OpCompareAndWrite}[h.rng.IntN(6)]
	q := block.Request{Op: op, Volume: h.handle, Offset: uint64(s.from * blockBytes), Length: uint64(s.n * blockBytes)}
	var data []byte
	stamps := func(of func(b int) uint64) {
		for b := range s.n {
			data = append(data, make([]byte, blockBytes)...)
			stampBlock(data[len(data)-blockBytes:], of(b))
		}
	}
	switch op {
	case block.OpRead:
		data = make([]byte, s.n*blockBytes)
	case block.OpCompareAndWrite:
		stamps(func(b int) uint64 {
			c := h.model.blocks[s.from+b]
			s.want = append(s.want, c[len(c)-1].stamp)
			return s.want[b]
		})
		stamps(func(b int) uint64 { return s.stamp + uint64(b) })
	case block.OpWrite:
		stamps(func(b int) uint64 { return s.stamp + uint64(b) })
	default:
	}
	s.flight = h.owner.host.send(&flight{Request: q}, data)
	h.flying = append(h.flying, s)
}

// collect takes what has ended; with dead, what has not is given up.
func (h *history) collect(dead bool) {
	var all []*step
	for _, s := range h.flying {
		switch {
		case dead:
		case h.over():
			h.owner.outlast(s.flight)
		default:
			h.owner.host.wait(s.flight)
		}
		if s.pending() {
			h.unknown++
			s.Status, s.sent, s.ended = block.StatusAborted, s.sentAt(), 1<<62
		}
		all = append(all, s)
	}
	h.flying = nil
	for _, s := range all { // first what may be there
		if s.Op == block.OpRead || s.Status == block.StatusCompareFailed {
			continue
		}
		for b := range s.n {
			c := change{sent: s.sent, ended: s.ended, maybe: s.Status != block.StatusOK}
			if s.Op != block.OpWriteZeroes {
				c.stamp = s.stamp + uint64(b)
			}
			if c.maybe {
				c.ended = 1 << 62 // it may be done at any time until all is settled
			}
			h.model.blocks[s.from+b] = append(h.model.blocks[s.from+b], c)
		}
	}
	for _, s := range all {
		if s.Status != block.StatusOK {
			h.did[s.Status.String()]++
			continue
		}
		h.did["ok"]++
		for b := range s.n {
			var stamp uint64
			switch s.Op {
			case block.OpRead:
				var err error
				if stamp, err = stampOf(s.data[b*blockBytes:][:blockBytes]); err != nil {
					h.t.Fatalf("block %d: %v", s.from+b, err)
				}
			case block.OpCompareAndWrite:
				stamp = s.want[b]
			default:
				continue
			}
			if err := h.model.allowed(s.from+b, stamp, s.sent, s.ended); err != nil {
				h.t.Fatalf("%v of block %d at node %d: %v", s.Op, s.from+b, h.owner.number, err)
			}
			h.model.seen[s.from+b] = append(h.model.seen[s.from+b], sight{stamp, s.sent, s.ended})
		}
	}
}

// sentAt is when a command that never ended was sent, or later.
func (f *flight) sentAt() int64 { return logical.Load() - 1<<20 }

func (h *history) run(rounds int) {
	for range rounds {
		for range 1 + h.rng.IntN(16) {
			h.begin()
		}
		dead := false
		switch h.rng.IntN(10) {
		case 0: // a link breaks
			i, j := h.rng.IntN(3), h.rng.IntN(3)
			if k := h.nodes[i].cables[j]; k != nil {
				k.Cut()
				h.did["cut"]++
			}
		case 1: // the owner dies
			dead = true
			h.kill(h.owner)
		case 2: // another node dies
			if n := h.nodes[h.rng.IntN(3)]; n != h.owner && !n.dead {
				h.kill(n)
			}
		case 3: // the owner is cut off from Meta
			h.meta.end(h.owner.session)
			h.did["expired"]++
		}
		h.collect(dead)
		h.mend()
		switch h.rng.IntN(4) {
		case 0:
			h.rejoin()
		case 1:
			h.compare()
		}
	}
}

func (h *history) kill(n *node) {
	kind := []vfs.Crash{vfs.ProcessDeath, vfs.PowerLoss}[h.rng.IntN(2)]
	n.crash(kind)
	h.did[fmt.Sprintf("crash %d", kind)]++
}

// mend brings back what is gone: nodes, links, an owner.
func (h *history) mend() {
	h.t.Helper()
	gone := h.owner.dead
	for i, n := range h.nodes {
		if n.dead && (h.rng.IntN(2) == 0 || gone) {
			n.start()
			for j := range h.nodes {
				if i != j && !h.nodes[j].dead {
					h.connect(i, j)
					h.connect(j, i)
				}
			}
		}
	}
	over := h.over()
	for i, n := range h.nodes {
		for j := range h.nodes {
			if i == j || n.dead || h.nodes[j].dead {
				continue
			}
			missing := false
			n.on(func() { missing = n.access.store(h.nodes[j].storeID) == nil })
			if missing && (over || h.rng.IntN(2) == 0) {
				h.connect(i, j)
			}
		}
	}
	if !over && !gone {
		return
	}
	if !gone { // it begins anew
		h.owner.crash(vfs.ProcessDeath)
		h.owner.start()
		h.reconnect(h.owner.number)
	}
	for {
		n := h.nodes[h.rng.IntN(3)]
		if !n.dead {
			h.take(n)
			h.did["taken"]++
			return
		}
	}
}

// over says whether the owner's session has ended.
func (h *history) over() bool {
	h.meta.mu.Lock()
	defer h.meta.mu.Unlock()
	return h.owner.session.over
}

// rejoin makes every store in reach a member where one is missing.
func (h *history) rejoin() {
	for i, e := range h.meta.extents(h.id) {
		for _, n := range h.nodes {
			here := false
			for _, m := range e.set {
				here = here || m.Store == n.storeID
			}
			if here || n.dead || len(e.set) >= h.meta.replicas {
				continue
			}
			var moved Moved
			if err := h.owner.access.Join(h.ctx, h.vol, i, n.storeID, uuid.Nil, func(m Moved) { moved = m }); err != nil {
				h.did["join failed"]++
				continue
			}
			h.did["joined"]++
			if moved.Total > 0 && moved.Total < h.extent {
				h.did["joined by part"]++
			}
			break
		}
	}
}

// compare checks that members hold the same, if all of them can be asked.
func (h *history) compare() {
	for _, n := range h.nodes {
		if n.dead {
			return
		}
	}
	h.touch()
	h.same(h.id)
	h.did["compared"]++
}

// touch reads everything at the owner, so that what members differ in is made equal.
func (h *history) touch() {
	for at := 0; at < h.size; at += 16 {
		s := &step{from: at, n: 16}
		s.flight = h.owner.host.start(block.OpRead, h.handle, uint64(at*blockBytes), 16*blockBytes, make([]byte, 16*blockBytes))
		h.flying = append(h.flying, s)
	}
	h.collect(false)
}

// settle brings all nodes back and looks at everything.
func (h *history) settle() {
	h.t.Helper()
	for i, n := range h.nodes {
		if n.dead {
			n.start()
			h.reconnect(i)
			for j := range h.nodes {
				if j != i {
					h.connect(j, i)
				}
			}
		}
	}
	for i := range h.nodes {
		for j := range h.nodes {
			if i != j {
				h.connect(i, j)
			}
		}
	}
	h.touch()
	for range 4 {
		h.rejoin()
	}
	h.touch()
	for i, e := range h.meta.extents(h.id) {
		if len(e.set) != h.meta.replicas {
			h.t.Errorf("extent %d has %d replicas in the end", i, len(e.set))
		}
	}
	h.same(h.id)
	h.meta.mu.Lock()
	h.did["changes of sets"] = h.meta.changes
	h.meta.mu.Unlock()
	h.did["unknown"] = h.unknown
	h.t.Log(h.did)
}
