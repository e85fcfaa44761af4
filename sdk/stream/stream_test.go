package stream_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/block/blocktest"
	"github.com/mooring-io/mooring/sdk/stream"
)

const (
	patience = 20 * time.Second
	small    = 8 << 10 // bytes of payload that a message may have to be shown in one piece
)

// echo is a protocol for tests: a message is a length, 4 bytes, and as many bytes of payload; the
// answer is the same message. Small payload is kept where it was received, large payload goes to a
// buffer. A length of all ones is a fault, the others above maxEcho are left to the stream.
type echo struct {
	conn   *stream.Conn
	holds  *[]*message // where answers are kept back, if not nil
	in     *message    // whose payload is coming
	got    int
	placed *atomic.Int64
	ended  chan error
}

const maxEcho = 1 << 20

var errEcho = errors.New("a length of all ones")

// message is payload until it is sent.
type message struct {
	echo  *echo
	data  []byte
	buf   block.Buffer
	chunk *stream.Chunk
}

func (m *message) Release() {
	if m.chunk != nil {
		m.chunk.Release()
	} else if m.buf.Len() > 0 {
		m.echo.conn.Thread().Pool().Free(m.buf)
	}
	m.echo.conn.Unhold()
}

func (m *message) answer() {
	c := m.echo.conn
	c.Put(binary.LittleEndian.AppendUint32(c.Space(), uint32(len(m.data))))
	c.PutPayload(m.data, m)
}

func (e *echo) Receive(b []byte) int {
	at := 0
	for e.conn.Open() {
		rest := b[at:]
		if e.in != nil {
			n := copy(e.in.data[e.got:], rest)
			at += n
			if !e.more(n) {
				return at
			}
			continue
		}
		if len(rest) < 4 {
			return at
		}
		n := int(binary.LittleEndian.Uint32(rest))
		switch {
		case n == 0xffff_ffff:
			e.conn.Fault(errEcho, true)
			return at
		case n > maxEcho, n <= small && len(rest) < 4+n:
			return at
		}
		e.conn.Greeted()
		e.conn.Established()
		e.conn.Hold()
		m := &message{echo: e}
		at += 4
		if n > small {
			buf, ok := e.conn.Thread().Pool().Alloc(n)
			if !ok {
				panic("the test's pool is too small")
			}
			m.buf, m.data = buf, buf.Bytes()
			e.in, e.got = m, 0
			continue
		}
		if buf, k, ok := e.conn.Keep(at, n); ok {
			m.chunk, m.data = k, buf.Bytes()
		} else {
			m.data = bytes.Clone(rest[4 : 4+n])
		}
		at += n
		e.whole(m)
	}
	return at
}

func (e *echo) more(n int) bool {
	if e.got += n; e.got < len(e.in.data) {
		return n > 0
	}
	m := e.in
	e.in = nil
	e.whole(m)
	return true
}

func (e *echo) whole(m *message) {
	if e.holds != nil {
		*e.holds = append(*e.holds, m)
		return
	}
	m.answer()
}

func (e *echo) Direct() ([]byte, bool) {
	if e.in == nil {
		return nil, false
	}
	return e.in.data[e.got:], true
}

func (e *echo) Placed(n int) {
	e.placed.Add(int64(n))
	e.got += n
}

func (e *echo) Ended(reason error) {
	if m := e.in; m != nil {
		e.in = nil
		m.Release()
	}
	e.ended <- reason
}

type rig struct {
	*testing.T
	server  *stream.Server
	threads []*block.Thread
	address string
	holds   *[]*message
	placed  atomic.Int64
	ended   chan error
	made    chan *stream.Conn // every connection
}

func newRig(t *testing.T, o blocktest.Options, limits stream.Limits, hold bool) *rig {
	t.Helper()
	r := &rig{T: t, ended: make(chan error, 1000), made: make(chan *stream.Conn, 1000)}
	if hold {
		r.holds = new([]*message)
	}
	_, r.threads = blocktest.Start(t, o)
	r.server = stream.NewServer(stream.Config{
		Scheme: "echo", Port: 7, Threads: r.threads, Piece: 4 + small, Limits: limits, Logger: hclog.NewNullLogger(),
		New: func(c *stream.Conn) stream.Handler {
			r.made <- c
			return &echo{conn: c, holds: r.holds, placed: &r.placed, ended: r.ended}
		},
	})
	st := r.server.SetListeners(t.Context(), []sdk.Listener{{URL: "echo://127.0.0.1:0", AccessPointID: "ap"}})
	if st[0].Err != nil {
		t.Fatal(st[0].Err)
	}
	r.address = strings.TrimPrefix(st[0].URL, "echo://")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := r.server.Stop(ctx); err != nil {
			t.Error(err)
		}
		r.eventually("everything returns", func() bool { u, err := r.server.Usage(); return err == nil && u == stream.Usage{} })
	})
	return r
}

// TestEveryAddress: 0.0.0.0 is every address of IPv4 alone, [::] of both kinds.
func TestEveryAddress(t *testing.T) {
	type listens struct {
		listen string
		has6   bool
	}
	cases := []listens{{"0.0.0.0", false}}
	if l, err := net.Listen("tcp6", "[::1]:0"); err == nil { // else this machine has no IPv6
		l.Close()
		cases = append(cases, listens{"[::]", true})
	}
	r := newRig(t, blocktest.Options{}, normal, false)
	for _, tc := range cases {
		st := r.server.SetListeners(t.Context(), []sdk.Listener{{URL: "echo://" + tc.listen + ":0", AccessPointID: "all"}})
		if st[0].Err != nil {
			t.Fatal(st[0].Err)
		}
		_, port, err := net.SplitHostPort(strings.TrimPrefix(st[0].URL, "echo://"))
		if err != nil {
			t.Fatal(err)
		}
		for address, want := range map[string]bool{"127.0.0.1": true, "::1": tc.has6} {
			c, err := net.Dial("tcp", net.JoinHostPort(address, port))
			if (err == nil) != want {
				t.Errorf("listening at %s: connect to %s: %v", tc.listen, address, err)
			}
			if err == nil {
				c.Close()
			}
		}
	}
}

var normal = stream.Limits{Connections: 100, Greeting: patience}

func (r *rig) eventually(what string, ok func() bool) {
	r.Helper()
	for limit := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			r.Fatalf("in vain: %s", what)
		}
	}
}

func (r *rig) dial() net.Conn {
	r.Helper()
	c, err := net.Dial("tcp", r.address)
	if err != nil {
		r.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	r.Cleanup(func() { c.Close() })
	return c
}

// frame is a message of n bytes that differ from one mark to the next.
func frame(n int, mark byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(n))
	for i := range n {
		b = append(b, byte(i)^byte(i>>8)^mark)
	}
	return b
}

func (r *rig) expect(c net.Conn, want []byte) {
	r.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		r.Fatalf("the echo of %d bytes: %v, the same %t", len(want), err, bytes.Equal(got, want))
	}
}

// An address that may come and go is listened at while it is not there.
func TestFloating(t *testing.T) {
	r := newRig(t, blocktest.Options{}, normal, false)
	addresses := []string{"192.0.2.100"}                     // RFC 5737: no machine's
	if l, err := net.Listen("tcp6", "[::1]:0"); err == nil { // else this machine has no IPv6
		l.Close()
		addresses = append(addresses, "[2001:db8::100]") // RFC 3849
	}
	for _, address := range addresses {
		for _, floating := range []bool{false, true} {
			st := r.server.SetListeners(t.Context(), []sdk.Listener{{URL: "echo://" + address + ":0", AccessPointID: "r", Floating: floating}})
			if len(st) != 1 || (st[0].Err == nil) != floating {
				t.Errorf("%s, floating %t: %+v", address, floating, st)
			}
		}
	}
}

// Messages of every size come back whole, however they are cut and whoever else sends meanwhile.
func TestEcho(t *testing.T) {
	for _, pool := range []int64{16 << 20, 1 << 20} { // the latter has no room for a window
		r := newRig(t, blocktest.Options{Threads: 2, PoolBytes: pool, MaxTransfer: 128 << 10}, normal, false)
		conns := []net.Conn{r.dial(), r.dial(), r.dial(), r.dial()}
		for i, n := range []int{0, 1, 3, 127, 128, 200, 4096, small, small + 1, 20_000, 100_000} {
			for _, cut := range []int{1 << 20, 4096, 1000} {
				whole := bytes.Repeat(frame(n, byte(i)), 3)
				for rest := whole; len(rest) > 0; {
					k := min(cut, len(rest))
					for _, c := range conns {
						if _, err := c.Write(rest[:k]); err != nil {
							t.Fatal(err)
						}
					}
					rest = rest[k:]
				}
				for _, c := range conns {
					r.expect(c, whole)
				}
			}
		}
	}
}

// Payload that a handler has a place for goes there without a stop in the window.
func TestDirect(t *testing.T) {
	r := newRig(t, blocktest.Options{PoolBytes: 16 << 20, MaxTransfer: maxEcho}, normal, false)
	c := r.dial()
	const n = 8
	for i := range n {
		f := frame(maxEcho, byte(i))
		go func() { _, _ = c.Write(f) }() // either the echo or the deadline comes
		r.expect(c, f)
	}
	if placed := r.placed.Load(); placed < n*maxEcho*3/4 {
		t.Errorf("%d of %d bytes went straight to their place", placed, n*maxEcho)
	}
}

// What is kept stays as it was while more comes.
func TestKeep(t *testing.T) {
	r := newRig(t, blocktest.Options{PoolBytes: 64 << 20}, normal, true)
	c := r.dial()
	const n = 500
	for i := range n {
		if _, err := c.Write(frame(4096, byte(i))); err != nil {
			t.Fatal(err)
		}
	}
	r.eventually("all are held", func() bool { u, err := r.server.Usage(); return err == nil && u.Held == n })
	r.threads[0].Post(func() {
		for _, m := range *r.holds {
			m.answer()
		}
		*r.holds = nil
	})
	for i := range n {
		r.expect(c, frame(4096, byte(i)))
	}
}

// Stop waits for what is held.
func TestStopWaits(t *testing.T) {
	r := newRig(t, blocktest.Options{}, normal, true)
	c := r.dial()
	if _, err := c.Write(frame(10, 0)); err != nil {
		t.Fatal(err)
	}
	r.eventually("it is held", func() bool { u, _ := r.server.Usage(); return u.Held == 1 })
	stopped := make(chan error, 1)
	go func() { stopped <- r.server.Stop(context.Background()) }()
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a connection that was stopped: %v", err)
	}
	select {
	case err := <-stopped:
		t.Fatalf("Stop returned %v before what was held came back", err)
	default:
	}
	r.threads[0].Post(func() { (*r.holds)[0].answer() }) // goes nowhere, and is released
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestEnds(t *testing.T) {
	limits := stream.Limits{Connections: 4, Greeting: 50 * time.Millisecond}
	for _, x := range []struct {
		name string
		send []byte
		want string // of the reason
	}{
		{"a peer that says nothing", nil, "too long to begin"},
		{"a fault", binary.LittleEndian.AppendUint32(nil, 0xffff_ffff), "all ones"},
		{"a message without end", make([]byte, 0), "longer than any"},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := newRig(t, blocktest.Options{}, limits, false)
			c := r.dial()
			if x.want == "longer than any" {
				x.send = append(frame(1, 0), binary.LittleEndian.AppendUint32(nil, maxEcho+1)...)
				x.send = append(x.send, make([]byte, 2*small)...)
			}
			if _, err := c.Write(x.send); err != nil {
				t.Fatal(err)
			}
			if reason := <-r.ended; !strings.Contains(reason.Error(), x.want) {
				t.Errorf("ended with %v, want %q", reason, x.want)
			}
			_, _ = io.Copy(io.Discard, c)
		})
	}
	t.Run("closed by the peer", func(t *testing.T) {
		r := newRig(t, blocktest.Options{}, normal, false)
		r.dial().Close()
		if reason := <-r.ended; !errors.Is(reason, stream.ErrClosedByPeer) {
			t.Error(reason)
		}
	})
}

// A peer that reads nothing does not keep memory for ever.
func TestStall(t *testing.T) {
	limits := normal
	limits.Stall = 500 * time.Millisecond
	r := newRig(t, blocktest.Options{PoolBytes: 64 << 20}, limits, false)
	_, sent := r.flood(frame(maxEcho, 1))
	if reason := <-r.ended; !strings.Contains(reason.Error(), "reads nothing") {
		t.Errorf("ended with %v", reason)
	}
	<-sent
	r.eventually("memory returns", func() bool { u, err := r.server.Usage(); return err == nil && u.PoolBytes == 0 })
}

// One that reads slowly gets everything: what it has taken counts, although the socket does not ask for more yet.
func TestSlowReader(t *testing.T) {
	limits := normal
	limits.Stall = time.Hour // the test itself says when it is over
	r := newRig(t, blocktest.Options{PoolBytes: 64 << 20}, limits, false)
	message := frame(maxEcho, 1)
	c, sent := r.flood(message)
	conn := <-r.made
	on := func(fn func()) {
		done := make(chan struct{})
		conn.Thread().Post(func() { fn(); close(done) })
		<-done
	}
	var socket, peer, nowSocket, nowPeer uint64
	full := false
	r.eventually("the socket is full", func() bool { on(func() { _, _, full = conn.Look() }); return full })
	want := bytes.Repeat(message, flooded)
	seen := false
	for rest := want; !seen; {
		on(func() { conn.Watch(); socket, peer, _ = conn.Look() })
		for nowPeer = 0; nowPeer <= peer; on(func() { _, nowPeer, _ = conn.Look() }) {
			if len(rest) < 32<<10 {
				t.Fatal("the socket asks for more each time")
			}
			r.expect(c, rest[:32<<10])
			rest = rest[32<<10:]
		}
		on(func() {
			if nowSocket, _, full = conn.Look(); nowSocket == socket && full {
				conn.Tick()
				seen = true
			}
		})
		want = rest
	}
	r.expect(c, want)
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// flooded is how often a flood sends its message: more than the sockets take.
const flooded = 24

// flood sends messages without reading what comes back.
func (r *rig) flood(message []byte) (net.Conn, <-chan error) {
	r.Helper()
	c := r.dial()
	if err := c.(*net.TCPConn).SetReadBuffer(512 << 10); err != nil {
		r.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		for range flooded {
			if _, err := c.Write(message); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	return c, sent
}

// Strangers make room for others, those who were served do not.
func TestEviction(t *testing.T) {
	r := newRig(t, blocktest.Options{}, stream.Limits{Connections: 8, Greeting: patience}, false)
	served := r.dial()
	for range 20 {
		r.dial()
		if _, err := served.Write(frame(100, 1)); err != nil {
			t.Fatal(err)
		}
		r.expect(served, frame(100, 1))
	}
	late := r.dial()
	if _, err := late.Write(frame(100, 2)); err != nil {
		t.Fatal(err)
	}
	r.expect(late, frame(100, 2))
}

// Where no descriptor is left, not even the spare one, nothing is accepted for a while; the threads do
// not spin on it, those who are connected are served, and strangers are when there are descriptors again.
func TestNoDescriptors(t *testing.T) {
	r := newRig(t, blocktest.Options{}, normal, false)
	served := r.dial()
	if _, err := served.Write(frame(100, 0)); err != nil {
		t.Fatal(err)
	}
	r.expect(served, frame(100, 0))
	late, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := os.NewFile(uintptr(late), "late")
	defer conn.Close()
	to := netip.MustParseAddrPort(r.address)
	refused := func() float64 {
		for _, m := range r.server.Metrics() {
			if m.Name == "connections_refused_total" {
				return m.Value
			}
		}
		t.Fatal("there is no connections_refused_total")
		return 0
	}
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	restore := sync.OnceFunc(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Error(err)
		}
	})
	defer restore()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(late, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
		t.Fatal(err)
	}
	r.eventually("the stranger is seen", func() bool { return refused() > 0 })
	for i := range 100 { // each some turns of the thread
		if _, err := served.Write(frame(100, byte(i))); err != nil {
			t.Fatal(err)
		}
		r.expect(served, frame(100, byte(i)))
	}
	if n := refused(); n > 20 {
		t.Errorf("the thread tried %v times", n)
	}
	restore()
	if _, err := conn.Write(frame(100, 1)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(frame(100, 1)))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, frame(100, 1)) {
		t.Errorf("the stranger is not served: %v", err)
	}
}

func TestConnectionsAreSpread(t *testing.T) {
	r := newRig(t, blocktest.Options{Threads: 4}, normal, false)
	seen := map[*block.Thread]int{}
	for range 8 {
		r.dial()
		seen[(<-r.made).Thread()]++
	}
	for _, th := range r.threads {
		if seen[th] != 2 {
			t.Errorf("a thread has %d of 8 connections", seen[th])
		}
	}
}
