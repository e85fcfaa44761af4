package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/core/cert"
	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/vfs"
)

// machine is a node on real sockets and files, with a thread for its reactor.
type machine struct {
	t      testing.TB
	keys   *cert.Keys
	links  *Links
	queue  vfs.Queue
	store  *extent.Store
	net    *Network
	addr   string
	listen *cert.Listener
	stores map[uuid.UUID][]*Store // reactor
	stop   func()
}

func newMachine(t testing.TB, keys *cert.Keys, threads bool, disk bool) *machine {
	m := &machine{t: t, keys: keys, stores: map[uuid.UUID][]*Store{}}
	q, err := vfs.NewQueue(vfs.QueueOptions{Threads: threads})
	must(t, err)
	m.queue = q
	began := time.Now()
	m.links = New(Options{
		Regions: 1, Clock: func() int64 { return int64(time.Since(began)) }, Post: q.Post, Patience: 30 * time.Second,
		Stores: func(node uuid.UUID, all []*Store) { m.stores[node] = all }, Logger: hclog.NewNullLogger(),
	})
	m.net = &Network{Links: m.links, Keys: keys, Queue: q, Post: q.Post}
	var stopping atomic.Bool
	var loop sync.WaitGroup
	loop.Go(func() {
		for !stopping.Load() {
			n := m.links.Poll()
			if m.store != nil {
				m.store.Kick()
			}
			m.links.Publish()
			if err := q.Turn(n == 0 && m.links.Sleep()); err != nil {
				t.Error(err)
				return
			}
			if m.store != nil {
				m.store.Kick()
			}
		}
		for m.store != nil && !m.links.Idle() {
			m.store.Kick()
			_ = q.Turn(true)
		}
	})
	if disk {
		st, err := extent.Open(t.Context(), extent.Options{
			FS: vfs.NewOS(), Queue: q, Dir: t.TempDir(), ExtentSize: testExtent, Capacity: 64 << 20, LogSize: 1 << 20, SegmentSize: 8 << 20,
			Index: extent.NewMemoryIndex().Opener(), Logger: hclog.NewNullLogger(),
		})
		must(t, err)
		m.do(func() { m.store = st; m.links.AddStore(st) })
	}
	m.listen, err = cert.Listen("127.0.0.1:0", keys, nil, hclog.NewNullLogger())
	must(t, err)
	m.addr = m.listen.Addr().String()
	accept := m.listen.Serve(cert.Peer1)
	var accepting sync.WaitGroup
	accepting.Go(func() { _ = m.net.Accept(accept) })
	m.stop = sync.OnceFunc(func() {
		must(t, m.listen.Close())
		accepting.Wait()
		m.do(m.links.Close)
		if m.store != nil {
			must(t, m.store.Close(context.Background()))
		}
		stopping.Store(true)
		q.Post(func() {})
		loop.Wait()
		must(t, q.Close())
	})
	t.Cleanup(m.stop)
	return m
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func (m *machine) do(fn func()) {
	done := make(chan struct{})
	m.queue.Post(func() { fn(); close(done) })
	<-done
}

// until waits for a condition that is looked at on the reactor.
func (m *machine) until(what string, ok func() bool) {
	m.t.Helper()
	for end := time.Now().Add(60 * time.Second); ; {
		yes := false
		if m.do(func() { yes = ok() }); yes {
			return
		}
		if time.Now().After(end) {
			m.t.Fatalf("in vain: %s", what)
		}
	}
}

// ask starts something on the reactor and waits for its end.
func (m *machine) ask(start func(done func(error))) error {
	result := make(chan error, 1)
	m.queue.Post(func() { start(func(err error) { result <- err }) })
	return <-result
}

func (m *machine) dial(to *machine) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var w sync.WaitGroup
	w.Go(func() { m.net.Dial(ctx, to.keys.Node(), to.addr) })
	stop = sync.OnceFunc(func() { cancel(); w.Wait() })
	m.t.Cleanup(stop)
	m.until("a link", func() bool { return len(m.stores[to.keys.Node()]) == 1 })
	return stop
}

func keysOf(t testing.TB, n int) []*cert.Keys {
	first, err := cert.Create(t.TempDir(), uuid.New(), uuid.New(), "a", time.Now())
	must(t, err)
	all := []*cert.Keys{first}
	for len(all) < n {
		dir, node := t.TempDir(), uuid.New()
		r, err := cert.Request(dir)
		must(t, err)
		c, err := first.Authority().Sign(r, node, "b", time.Now())
		must(t, err)
		k, err := cert.Install(dir, node, first.TrustedPEM(), c, time.Now())
		must(t, err)
		all = append(all, k)
	}
	return all
}

// TestNetwork: over real sockets, encrypted, with either queue; large data both ways at once, and a link that breaks is made again.
func TestNetwork(t *testing.T) {
	for _, threads := range []bool{false, true} {
		t.Run(fmt.Sprintf("threads=%v", threads), func(t *testing.T) {
			keys := keysOf(t, 2)
			a, b := newMachine(t, keys[0], threads, false), newMachine(t, keys[1], threads, true)
			a.dial(b)
			store := func() *Store { return a.stores[keys[1].Node()][0] }
			must(t, a.ask(func(done func(error)) { store().Create(one, extent.Seal{Gen: 1}, done) }))
			data := make([]byte, 16*dataBytes)
			for i := range data {
				data[i] = byte(i * 7 >> 3)
			}
			must(t, a.ask(func(done func(error)) {
				store().Submit(&extent.IO{Op: extent.OpWrite, ID: one, Gen: 1, Blocks: 16, Buf: data, Done: func(io *extent.IO) { done(io.Err) }})
			}))
			must(t, a.ask(func(done func(error)) {
				left := 400
				for i := range left {
					io := &extent.IO{Op: extent.OpWrite, ID: one, Gen: 1, Blocks: 16, Buf: data}
					if i%2 == 1 {
						io.Op, io.Buf = extent.OpRead, make([]byte, len(data))
					}
					io.Done = func(io *extent.IO) {
						if io.Err == nil && !bytes.Equal(io.Buf, data) {
							io.Err = errors.New("other data was read")
						}
						must(t, io.Err)
						if left--; left == 0 {
							done(nil)
						}
					}
					store().Submit(io)
				}
			}))
			// The other end breaks it; the dialler makes it anew.
			var old *Store
			a.do(func() { old = store() })
			b.do(func() { b.links.from[keys[0].Node()].fail(ErrLost) })
			a.until("another link", func() bool { s := a.stores[keys[1].Node()]; return len(s) == 1 && s[0] != old })
			r := rd(1)
			must(t, a.ask(func(done func(error)) {
				r.Done = func(io *extent.IO) { done(io.Err) }
				store().Submit(r)
			}))
			if !bytes.Equal(r.Buf, data) {
				t.Error("the data is not there")
			}
		})
	}
}

// TestStrangers: without a certificate of the cluster nobody gets a byte, and a caller does not talk to another node than it meant.
func TestStrangers(t *testing.T) {
	keys, others := keysOf(t, 2), keysOf(t, 1)
	a, b := newMachine(t, keys[0], false, false), newMachine(t, keys[1], false, true)
	reach := func(c *tls.Config) error {
		raw, err := net.Dial("tcp", b.addr)
		must(t, err)
		defer raw.Close()
		s := tls.Client(raw, c)
		if err := s.Handshake(); err != nil {
			return err
		}
		_, err = s.Read(make([]byte, 1))
		return err
	}
	for name, c := range map[string]*tls.Config{
		"another cluster's":  others[0].Dial(b.keys.Node(), cert.Peer1),
		"no certificate":     {InsecureSkipVerify: true, NextProtos: []string{string(cert.Peer1)}, MinVersion: tls.VersionTLS13},
		"another node meant": keys[0].Dial(keys[0].Node(), cert.Peer1),
		"no such protocol":   keys[0].Dial(b.keys.Node(), "mooring-peer/0"),
	} {
		if err := reach(c); err == nil {
			t.Errorf("%s: served", name)
		}
	}
	if err := reach(keys[0].Dial(b.keys.Node(), cert.Peer1)); err != nil {
		t.Errorf("the right one: %v", err)
	}
	if err := a.net.connect(t.Context(), uuid.New(), b.addr); err == nil {
		t.Error("connected to a node that it did not mean")
	}
	// Garbage inside a good connection ends that connection.
	raw, err := net.Dial("tcp", b.addr)
	must(t, err)
	s := tls.Client(raw, keys[0].Dial(b.keys.Node(), cert.Peer1))
	_, err = s.Write(bytes.Repeat([]byte("garbage!"), 100))
	must(t, err)
	must(t, raw.SetDeadline(time.Now().Add(60*time.Second)))
	for err == nil {
		_, err = s.Read(make([]byte, 512))
	}
	if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		t.Error("garbage is listened to")
	}
	raw.Close()
}

// BenchmarkLink is what a 4 KiB request to another node costs, both ends together.
func BenchmarkLink(b *testing.B) {
	for _, depth := range []int{1, 4, 32} {
		for name, op := range map[string]extent.Op{"write": extent.OpWrite, "read": extent.OpRead} {
			b.Run(fmt.Sprintf("%s/QD%d", name, depth), func(b *testing.B) {
				keys := keysOf(b, 2)
				x, y := newMachine(b, keys[0], false, false), newMachine(b, keys[1], false, true)
				stop := x.dial(y)
				must(b, x.ask(func(done func(error)) { x.stores[keys[1].Node()][0].Create(one, extent.Seal{Gen: 1}, done) }))
				b.ResetTimer()
				must(b, x.ask(func(done func(error)) {
					st := x.stores[keys[1].Node()][0]
					sent, left := 0, b.N
					for i := range min(depth, b.N) {
						io := &extent.IO{Op: op, ID: one, Gen: 1, Block: uint32(i % 16), Blocks: 1, Buf: make([]byte, dataBytes)}
						sent++
						io.Done = func(io *extent.IO) {
							if left--; left == 0 {
								done(io.Err)
							}
							if sent < b.N {
								sent++
								st.Submit(io)
							}
						}
						st.Submit(io)
					}
				}))
				b.StopTimer()
				stop()
				x.stop()
				y.stop()
			})
		}
	}
}
