package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/vfs"
	"github.com/mooring-io/mooring/sdk/ring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testExtent = 64 << 10 // bytes: one region

// pipe is an end of a connection in memory that its test moves by hand.
type pipe struct {
	other  *pipe
	ahead  []byte
	way    []byte
	ready  func()
	closed bool
	hold   bool // what comes is not read
	piece  int  // bytes that one Read gives at most; 0: any
}

func newPipe() (*pipe, *pipe) {
	a, b := &pipe{}, &pipe{}
	a.other, b.other = b, a
	return a, b
}

func (p *pipe) Read(b []byte) (int, error) {
	if p.closed {
		return 0, ErrLost
	}
	if p.hold {
		return 0, nil
	}
	if p.piece > 0 && len(b) > p.piece {
		b = b[:p.piece]
	}
	n := copy(b, p.way)
	p.way = p.way[n:]
	return n, nil
}
func (p *pipe) Write(b []byte) error { p.ahead = append(p.ahead, b...); return nil }
func (p *pipe) Flush() (int, error) {
	if p.closed {
		return 0, ErrLost
	}
	p.other.way = append(p.other.way, p.ahead...)
	p.ahead = p.ahead[:0]
	p.other.wake()
	return 0, nil
}
func (p *pipe) Notify(ready func()) { p.ready = ready }
func (p *pipe) Close() {
	p.closed, p.other.closed, p.ready = true, true, nil
	p.other.wake()
}

// cut is the network's doing.
func (p *pipe) cut() {
	p.closed, p.other.closed = true, true
	p.wake()
	p.other.wake()
}

func (p *pipe) wake() {
	if p.ready != nil {
		p.ready()
	}
}

// server is a node with a store.
type server struct {
	t     testing.TB
	links *Links
	queue vfs.Queue
	sim   *vfs.Sim
	store *extent.Store
	shut  bool // requests stay away from the disk
}

func options(stores func(uuid.UUID, []*Store)) Options {
	return Options{Regions: 1, Clock: func() int64 { return 0 }, Post: func(func()) {}, Stores: stores, Logger: hclog.NewNullLogger()}
}

func newServer(t testing.TB, seed uint64) *server {
	s := &server{t: t, sim: vfs.NewSim(seed), links: New(options(nil))}
	s.queue = s.sim.Queue()
	s.store = s.open("/store")
	s.links.AddStore(s.store)
	t.Cleanup(func() {
		s.shut = false
		s.links.Close()
		s.until(func() bool { return s.links.Idle() })
		s.close(s.store)
	})
	return s
}

func (s *server) open(dir string) *extent.Store {
	type result struct {
		*extent.Store
		error
	}
	done := make(chan result, 1)
	go func() {
		st, err := extent.Open(context.Background(), extent.Options{
			FS: s.sim, Queue: s.queue, Dir: dir, ExtentSize: testExtent, Capacity: 16 << 20, LogSize: 256 << 10, SegmentSize: 4 << 20,
			Index: extent.NewMemoryIndex().Opener(), Logger: hclog.NewNullLogger(),
		})
		done <- result{st, err}
	}()
	for {
		select {
		case r := <-done:
			if r.error != nil {
				s.t.Fatal(r.error)
			}
			return r.Store
		default:
			if err := s.queue.Turn(false); err != nil {
				s.t.Fatal(err)
			}
		}
	}
}

func (s *server) close(st *extent.Store) {
	done := make(chan error, 1)
	go func() { done <- st.Close(context.Background()) }()
	for {
		select {
		case err := <-done:
			if err != nil {
				s.t.Error(err)
			}
			return
		default:
			st.Kick()
			_ = s.queue.Turn(false)
		}
	}
}

// turn is one turn of the node's reactor.
func (s *server) turn() {
	s.links.Poll()
	if !s.shut {
		s.store.Kick()
		if err := s.queue.Turn(false); err != nil {
			s.t.Fatal(err)
		}
		s.store.Kick()
	}
	s.links.Publish()
}

func (s *server) until(ok func() bool) {
	for range 10000 {
		if ok() {
			return
		}
		s.turn()
	}
	panic("in vain")
}

// client is a node that uses the server's store.
type client struct {
	t      testing.TB
	s      *server
	node   uuid.UUID
	links  *Links
	stores []*Store
	broken error
	mine   *pipe
}

func newClient(s *server) *client {
	c := &client{t: s.t, s: s, node: uuid.New()}
	c.links = New(options(func(_ uuid.UUID, all []*Store) { c.stores = all }))
	return c
}

func (c *client) connect() {
	a, b := newPipe()
	c.mine, c.broken = a, nil
	c.links.Connect(c.node, a, func(err error) { c.broken = err })
	c.s.links.Serve(c.node, b)
}

func (c *client) turn() {
	c.links.Poll()
	c.links.Publish()
	c.s.turn()
}

func (c *client) until(ok func() bool) {
	for range 10000 {
		if ok() {
			return
		}
		c.turn()
	}
	panic("in vain")
}

func (c *client) store() *Store {
	c.until(func() bool { return len(c.stores) == 1 })
	return c.stores[0]
}

func (c *client) do(io *extent.IO) error {
	c.until(c.start(io))
	return io.Err
}

func (c *client) start(io *extent.IO) func() bool {
	done := false
	io.Done = func(*extent.IO) { done = true }
	c.store().Submit(io)
	return func() bool { return done }
}

func (c *client) ask(start func(done func(error))) error {
	c.t.Helper()
	ended, err := false, error(nil)
	start(func(e error) { ended, err = true, e })
	c.until(func() bool { return ended })
	return err
}

var one = extent.ID{Volume: idA, Index: 4}

func block(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n*dataBytes) }

func wr(g extent.Generation, b byte) *extent.IO {
	return &extent.IO{Op: extent.OpWrite, ID: one, Gen: g, Block: 2, Blocks: 3, Buf: block(b, 3), Durable: true}
}

func rd(g extent.Generation) *extent.IO {
	return &extent.IO{Op: extent.OpRead, ID: one, Gen: g, Blocks: 16, Buf: make([]byte, 16*dataBytes)}
}

// TestRequests: a store at the end of a link does what a store of this node does.
func TestRequests(t *testing.T) {
	for _, piece := range []int{0, 1, 61, 4099} {
		s := newServer(t, 1)
		c := newClient(s)
		c.connect()
		c.mine.piece, c.mine.other.piece = piece, piece
		st := c.store()
		if id, life := s.store.Identity(); st.id != id || st.life != life {
			t.Fatalf("it is %s/%d", st.id, st.life)
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		set := []extent.Member{{Store: idA, Incarnation: 1}, {Store: st.id, Incarnation: st.life}}
		must(c.ask(func(done func(error)) { st.Create(one, extent.Seal{Gen: 5, Set: set}, done) }))
		must(c.do(wr(5, 7)))
		must(c.do(&extent.IO{Op: extent.OpZero, ID: one, Gen: 5, Block: 3, Blocks: 1}))
		must(c.do(&extent.IO{Op: extent.OpFlush, Durable: true}))
		r := rd(5)
		must(c.do(r))
		want := append(append(append(block(0, 2), block(7, 1)...), block(0, 1)...), append(block(7, 1), block(0, 11)...)...)
		if !bytes.Equal(r.Buf, want) {
			t.Error("what was read is not what was written")
		}
		if err := c.do(rd(4)); !errors.Is(err, extent.ErrFenced) {
			t.Errorf("a lower generation: %v", err)
		}
		if err := c.do(&extent.IO{Op: extent.OpRead, ID: extent.ID{Volume: idB}, Gen: 5, Blocks: 1, Buf: make([]byte, dataBytes)}); !errors.Is(err, extent.ErrMissing) {
			t.Errorf("a missing extent: %v", err)
		}
		var was extent.Sealed
		must(c.ask(func(done func(error)) {
			st.Seal(one, extent.Seal{Gen: 6, Set: set[1:], Absence: &extent.Absence{Stores: []uuid.UUID{idA}}}, func(w extent.Sealed, err error) { was = w; done(err) })
		}))
		if was.Gen != 5 || len(was.Set) != 2 || was.Dirty.Count() != 1 || len(was.Absent) != 0 {
			t.Errorf("sealed when it was %+v", was)
		}
		if err := c.ask(func(done func(error)) {
			st.Seal(one, extent.Seal{Gen: 5}, func(_ extent.Sealed, err error) { done(err) })
		}); !errors.Is(err, extent.ErrFenced) {
			t.Errorf("sealed backwards: %v", err)
		}
		must(c.ask(func(done func(error)) {
			st.Mapped(one, func(m extent.Regions, err error) {
				if err == nil && m.Count() != 1 {
					err = fmt.Errorf("%d regions have data", m.Count())
				}
				done(err)
			})
		}))
		must(c.do(&extent.IO{Op: extent.OpClean, ID: one, Gen: 6, Block: 0, Blocks: 16, Durable: true}))
		must(c.ask(func(done func(error)) { st.Delete(one, extent.AnyGeneration, done) }))
		if s.store.Extent(one) != nil {
			t.Error("the extent is there still")
		}
		for i := range uint32(3 * deleteSome) {
			must(c.ask(func(done func(error)) { st.Create(extent.ID{Volume: idA, Index: i}, extent.Seal{Gen: 1}, done) }))
		}
		must(c.ask(func(done func(error)) { st.DeleteFrom(idA, 5, done) }))
		if n := len(s.store.IDs()); n != 5 {
			t.Errorf("%d extents are left, not 5", n)
		}
		if !s.links.Idle() || len(c.links.ended) > 0 {
			t.Error("something is left under way")
		}
	}
}

// TestCorruptBlock: which block is bad comes through.
func TestCorruptBlock(t *testing.T) {
	s := newServer(t, 2)
	c := newClient(s)
	c.connect()
	st := c.store()
	if err := errors.Join(c.ask(func(done func(error)) { st.Create(one, extent.Seal{Gen: 1}, done) }), c.do(wr(1, 9))); err != nil {
		t.Fatal(err)
	}
	s.sim.SetFaults(vfs.SimFaults{OnRead: func(_ string, _ int64, b []byte) error {
		for at := 0; at+dataBytes <= len(b); at += dataBytes {
			if b[at] == 9 {
				b[at+17] ^= 1
			}
		}
		return nil
	}})
	r := rd(1)
	if err := c.do(r); !errors.Is(err, extent.ErrCorrupt) || r.BadBlock != 2 {
		t.Errorf("%v, block %d", err, r.BadBlock)
	}
	s.sim.SetFaults(vfs.SimFaults{})
	if err := c.do(rd(1)); err != nil {
		t.Errorf("the link does not go on: %v", err)
	}
}

// TestBrokenLink: what was under way is lost, once, and nothing is sent again.
func TestBrokenLink(t *testing.T) {
	s := newServer(t, 3)
	c := newClient(s)
	c.connect()
	old := c.store()
	if err := c.ask(func(done func(error)) { old.Create(one, extent.Seal{Gen: 1}, done) }); err != nil {
		t.Fatal(err)
	}
	s.shut = true
	w, seal := wr(1, 1), error(nil)
	ended := c.start(w)
	old.Seal(one, extent.Seal{Gen: 2}, func(_ extent.Sealed, err error) { seal = err })
	c.until(func() bool { return !s.links.Idle() })
	c.mine.cut()
	c.until(ended)
	if !errors.Is(w.Err, ErrLost) || !errors.Is(seal, ErrLost) || !errors.Is(c.broken, ErrLost) || len(c.stores) != 0 {
		t.Errorf("write %v, seal %v, link %v, %d stores", w.Err, seal, c.broken, len(c.stores))
	}
	late := wr(1, 2)
	done := false
	late.Done = func(*extent.IO) { done = true }
	if old.Submit(late); done {
		t.Error("done inside Submit")
	}
	c.until(func() bool { return done })
	if !errors.Is(late.Err, ErrLost) {
		t.Errorf("a request to a broken link: %v", late.Err)
	}
	// The new connection is not served before the write of the old one has ended.
	c.connect()
	for range 20 {
		c.turn()
	}
	if len(c.stores) != 0 || s.links.Idle() {
		t.Fatal("the new connection is served while the former one's write is under way")
	}
	c.connect() // and another one: both wait
	for range 20 {
		c.turn()
	}
	if len(c.stores) != 0 {
		t.Fatal("the third connection is served while the first one's write is under way")
	}
	s.shut = false
	r := rd(2) // the seal came through
	if err := c.do(r); err != nil || r.Buf[2*dataBytes] != 1 {
		t.Errorf("%v, %d", err, r.Buf[2*dataBytes])
	}
}

// TestPatience: a node that does not answer is given up.
func TestPatience(t *testing.T) {
	s := newServer(t, 4)
	c := newClient(s)
	now := int64(0)
	c.links.o.Clock = func() int64 { return now }
	c.connect()
	st := c.store()
	s.shut = true
	create, lost := error(nil), false
	st.Create(one, extent.Seal{Gen: 1}, func(err error) { create, lost = err, true })
	for range 5 {
		c.turn()
	}
	now = controlFactor * int64(DefaultPatience)
	if !c.links.expire() || lost {
		t.Fatal("given up too early")
	}
	now++
	c.links.expire()
	if !lost || !errors.Is(create, ErrLost) || c.links.expire() {
		t.Errorf("create %v", create)
	}
	if !errors.Is(c.broken, ErrLost) {
		t.Errorf("the link: %v", c.broken)
	}
}

// TestMemoryIsBounded: a node that asks for much waits; another one does not.
func TestMemoryIsBounded(t *testing.T) {
	s := newServer(t, 5)
	s.links.memory = 1 << 20
	greedy, modest := newClient(s), newClient(s)
	greedy.connect()
	modest.connect()
	g, m := greedy.store(), modest.store()
	if err := greedy.ask(func(done func(error)) { g.Create(one, extent.Seal{Gen: 1}, done) }); err != nil {
		t.Fatal(err)
	}
	if err := greedy.do(wr(1, 3)); err != nil {
		t.Fatal(err)
	}
	s.shut = true
	done := 0
	const many = 3 * (1 << 20) / (16 * dataBytes)
	for range many {
		io := rd(1)
		io.Done = func(io *extent.IO) {
			if io.Err != nil {
				t.Error(io.Err)
			}
			done++
		}
		g.Submit(io)
	}
	most := 0
	for range 300 {
		greedy.turn()
		for _, from := range s.links.from {
			most = max(most, from.bytes)
		}
	}
	if most < s.links.memory || most > s.links.memory+maxReadBlocks*dataBytes {
		t.Errorf("its requests hold %d bytes", most)
	}
	s.shut = false
	r := rd(1)
	modest.stores = []*Store{m}
	if err := modest.do(r); err != nil {
		t.Error(err)
	}
	greedy.until(func() bool { return done == many })
}

// TestStoresComeAndGo: a node that gives up a store says so, and one that adds one.
func TestStoresComeAndGo(t *testing.T) {
	s := newServer(t, 6)
	c := newClient(s)
	c.connect()
	first := c.store()
	s.links.RemoveStore(s.store)
	io := rd(1)
	if err := c.do(io); !errors.Is(err, ErrLost) { // it was on its way when the store went
		t.Errorf("%v", err)
	}
	c.until(func() bool { return len(c.stores) == 0 && first.gone })
	io.Done = func(*extent.IO) {}
	if first.Submit(io); !errors.Is(io.Err, ErrLost) {
		t.Error("a store that is gone takes requests")
	}
	c.links.Poll()
	s.links.AddStore(s.store)
	if again := c.store(); again == first || again.number == first.number {
		t.Error("the same number again")
	}
}

// TestHostile: whatever a node sends that is no part of the protocol ends its connection and disturbs no other.
func TestHostile(t *testing.T) {
	s := newServer(t, 7)
	good := newClient(s)
	good.connect()
	st := good.store()
	if err := good.ask(func(done func(error)) { st.Create(one, extent.Seal{Gen: 1}, done) }); err != nil {
		t.Fatal(err)
	}
	hello := (&header{kind: kindHello, block: version}).append(nil)
	frame := func(h header, payload ...byte) []byte {
		h.length = uint32(len(payload))
		return append(append(bytes.Clone(hello), h.append(nil)...), payload...)
	}
	for name, b := range map[string][]byte{
		"garbage":             bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 8),
		"another version":     (&header{kind: kindHello, block: version + 1}).append(nil),
		"no hello":            (&header{kind: kindFlush, store: 1}).append(nil),
		"hello twice":         frame(header{kind: kindHello, block: version}),
		"a reply":             frame(header{kind: kindReply}),
		"stores":              frame(header{kind: kindStores}),
		"a seal of nothing":   frame(header{kind: kindSeal, store: 1, id: one, gen: 2}),
		"a seal of too much":  frame(header{kind: kindSeal, store: 1, id: one, gen: 2}, le.AppendUint32(nil, 1<<30)...),
		"a create with waste": frame(header{kind: kindCreate, store: 1, id: one, gen: 2}, make([]byte, 9)...),
	} {
		a, e := newPipe()
		s.links.Serve(uuid.New(), e)
		_ = a.Write(b)
		_, _ = a.Flush()
		good.until(func() bool { return a.closed })
		if err := good.do(wr(1, 5)); err != nil {
			t.Errorf("%s: another node's write: %v", name, err)
		}
	}
	if !s.links.Idle() {
		t.Error("something of them is under way")
	}
	// What is wrong in a request, but no breach of the protocol, is answered.
	for name, c := range map[string]struct {
		want error
		io   *extent.IO
	}{
		"beyond the extent":  {extent.ErrInvalid, &extent.IO{Op: extent.OpZero, ID: one, Gen: 1, Block: 15, Blocks: 2}},
		"half a region":      {extent.ErrInvalid, &extent.IO{Op: extent.OpClean, ID: one, Gen: 1, Block: 1, Blocks: 2}},
		"another extent":     {extent.ErrMissing, &extent.IO{Op: extent.OpZero, ID: extent.ID{Volume: idB}, Gen: 1, Blocks: 2}},
		"a generation ahead": {extent.ErrFenced, wr(2, 1)},
	} {
		if err := good.do(c.io); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A server that misbehaves loses its link, and what was asked of it.
	for name, answer := range map[string][]byte{
		"reply to nothing":   (&header{kind: kindReply, tag: 77}).append(nil),
		"tag 0":              (&header{kind: kindReply}).append(nil),
		"a request":          (&header{kind: kindFlush}).append(nil),
		"data for a write":   append((&header{kind: kindReply, tag: 1, length: 4}).append(nil), 1, 2, 3, 4),
		"stores in pieces":   append((&header{kind: kindStores, length: 5}).append(nil), 1, 2, 3, 4, 5),
		"too long a control": append((&header{kind: kindReply, tag: 1, length: maxControl + 1}).append(nil), make([]byte, 100)...),
	} {
		var stores []*Store
		var broken error
		l := New(options(func(_ uuid.UUID, all []*Store) { stores = all }))
		a, e := newPipe()
		l.Connect(uuid.New(), a, func(err error) { broken = err })
		_ = e.Write(append(bytes.Clone(hello), append((&header{kind: kindStores, length: storeEntry}).append(nil), appendStores(nil, []announced{{idA, 1, 1}})...)...))
		_, _ = e.Flush()
		l.Poll()
		if len(stores) != 1 {
			t.Fatal("no store")
		}
		w := wr(1, 1)
		ended := 0
		w.Done = func(*extent.IO) { ended++ }
		stores[0].Submit(w)
		_ = e.Write(answer)
		_, _ = e.Flush()
		for range 3 {
			l.Poll()
		}
		if !errors.Is(broken, errFrame) || ended != 1 || !errors.Is(w.Err, ErrLost) {
			t.Errorf("%s: link %v, write ended %d times with %v", name, broken, ended, w.Err)
		}
	}
}

// TestRandomHistory: whatever breaks when, each request ends once, and what was acknowledged is there.
func TestRandomHistory(t *testing.T) {
	for seed := range uint64(20) {
		s := newServer(t, seed)
		rng := rand.New(rand.NewPCG(seed, 1))
		c := newClient(s)
		c.connect()
		st := c.store()
		if err := c.ask(func(done func(error)) { st.Create(one, extent.Seal{Gen: 1}, done) }); err != nil {
			t.Fatal(err)
		}
		sent, acked, ended, asked := byte(0), byte(0), 0, 0
		c.mine.piece, c.mine.other.piece = 1+rng.IntN(9000), 1+rng.IntN(9000)
		for range 400 {
			switch n := rng.IntN(20); {
			case n == 0:
				c.mine.cut()
			case n == 1 && c.broken != nil:
				c.connect()
			case n < 8 && len(c.stores) > 0 && sent < 250:
				sent++
				asked++
				w, number := wr(1, sent), sent
				w.Done = func(io *extent.IO) {
					ended++
					switch {
					case io.Err == nil && number < acked:
						t.Errorf("write %d ended after %d", number, acked)
					case io.Err == nil:
						acked = number
					case !errors.Is(io.Err, ErrLost):
						t.Error(io.Err)
					}
				}
				c.stores[0].Submit(w)
			case n == 8 && len(c.stores) > 0:
				asked++
				least, r := acked, rd(1)
				r.Done = func(io *extent.IO) {
					ended++
					if got := io.Buf[2*dataBytes]; io.Err == nil && (got < least || got > sent) {
						t.Errorf("read %d; acknowledged was %d", got, least)
					}
				}
				c.stores[0].Submit(r)
			default:
				c.turn()
			}
		}
		c.until(func() bool {
			if c.broken != nil {
				c.connect()
			}
			return ended == asked && len(c.stores) == 1 && !c.mine.closed
		})
		r := rd(1)
		if err := c.do(r); err != nil || r.Buf[2*dataBytes] < acked {
			t.Errorf("seed %d: %v, %d is there, %d was acknowledged", seed, err, r.Buf[2*dataBytes], acked)
		}
		if !s.links.Idle() || c.links.expire() {
			t.Errorf("seed %d: something is left", seed)
		}
	}
}

// FuzzService: no bytes that a node may send do anything but end its connection.
func FuzzService(f *testing.F) {
	hello := (&header{kind: kindHello, block: version}).append(nil)
	f.Add(hello)
	for _, h := range headers() {
		h.store, h.id = 1, one
		if h.kind == kindStores || h.kind == kindReply {
			h.length = 0
		}
		b := append(bytes.Clone(hello), h.append(nil)...)
		if w := someSeal(); h.kind == kindCreate || h.kind == kindSeal {
			p := appendSeal(nil, &w)
			h.length = uint32(len(p))
			b = append(append(bytes.Clone(hello), h.append(nil)...), p...)
		} else {
			b = append(b, make([]byte, h.length)...)
		}
		f.Add(b)
	}
	for _, h := range commands() {
		f.Add(append(append(bytes.Clone(hello), h.append(nil)...), make([]byte, h.length)...))
	}
	s := newServer(f, 1)
	k := &keeper{}
	s.links.o.Driver = k
	c := newClient(s)
	c.connect()
	st := c.store()
	_ = c.ask(func(done func(error)) { st.Create(one, extent.Seal{Gen: 1}, done) })
	f.Fuzz(func(t *testing.T, b []byte) {
		a, e := newPipe()
		s.links.Serve(uuid.New(), e)
		_ = a.Write(b)
		_, _ = a.Flush()
		for range 4 {
			s.turn()
		}
		a.Close()
		for _, g := range k.guests {
			for len(g.under) > 0 {
				g.answer(0, ring.StatusAborted)
			}
		}
		k.guests = nil
		s.until(func() bool { return s.links.Idle() })
		if err := c.do(&extent.IO{Op: extent.OpFlush, Durable: true}); err != nil {
			t.Fatal(err)
		}
		// What parses is encoded again as it was.
		if len(b) >= headerBytes {
			var h header
			if h.parse(b) == nil {
				if again := h.append(nil); !bytes.Equal(again, b[:headerBytes]) {
					t.Fatalf("% x became % x", b[:headerBytes], again)
				}
			}
		}
		if w, err := parseSeal(b, 1); err == nil && !bytes.Equal(appendSeal(nil, &w), b) {
			t.Fatal("a seal is encoded otherwise")
		}
		if w, err := parseSealed(b); err == nil && !bytes.Equal(appendSealed(nil, &w), b) {
			t.Fatal("a sealed state is encoded otherwise")
		}
		if w, err := parseWish(b); err == nil && !bytes.Equal(appendWish(nil, &w), b) {
			t.Fatal("a wish is encoded otherwise")
		}
		if w, err := parseStores(b); err == nil && !bytes.Equal(appendStores(nil, w), b) {
			t.Fatal("stores are encoded otherwise")
		}
	})
}
