package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/bench"
	"github.com/mooring-io/mooring/sdk/block/blocktest"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost"
	"github.com/mooring-io/mooring/sdk/nvmetcp"
	"github.com/mooring-io/mooring/sdk/ring"
)

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func pattern(n, seed int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8 + seed)
	}
	return b
}

// Data of every size crosses the whole stack unharmed, whatever was negotiated.
func TestFullStack(t *testing.T) {
	r := newRig(t, rigOptions{Options: blocktest.Options{Threads: 2}})
	for _, o := range []nvmehost.Options{
		{},
		{HeaderDigest: true, DataDigest: true},
		{DataDigest: true, Align: 128, NoSQFlow: true},
		{HeaderDigest: true, Align: 64, MaxR2T: 8, NoInCapsule: true},
		{NoSQFlow: true, MaxR2T: 2},
	} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			o.Queues = 3
			c := r.connect(o)
			if want := 8192; c.Queues() != 3 || c.InCapsule() != want && !o.NoInCapsule {
				t.Fatalf("%d queues, %d bytes in a capsule", c.Queues(), c.InCapsule())
			}
			ctx := testContext(t)
			for i, n := range []int{512, 4096, 8192, 8704, 64 << 10, 132 << 10, 1 << 20} {
				want := pattern(n, i)
				lba := nvme.LBA(i * 4096)
				if err := c.Write(ctx, 1, lba, want, i%2 == 0); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, n)
				if _, err := r.volume.ReadAt(got, int64(lba)*512); err != nil || string(got) != string(want) {
					t.Fatalf("%d bytes: the volume has other data (%v)", n, err)
				}
				clear(got)
				if err := c.Read(ctx, 1, lba, got); err != nil || string(got) != string(want) {
					t.Fatalf("read %d bytes: %v, right data %t", n, err, string(got) == string(want))
				}
				if err := c.Compare(ctx, 1, lba, want); err != nil {
					t.Fatal(err)
				}
				want[n-1] ^= 1
				if err := c.Compare(ctx, 1, lba, want); !errors.Is(err, nvme.StatusCompareFailure) {
					t.Fatalf("compare of other data: %v", err)
				}
			}
			if err := c.Flush(ctx, 1); err != nil {
				t.Fatal(err)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Many commands of mixed kinds in flight: every block that is read is the one that was written.
func TestLoadVerified(t *testing.T) {
	for _, tc := range []struct {
		name  string
		block int
		query string
		queue int
		pool  int64
	}{
		{"4 KiB", 4096, "", 2, 0},
		{"16 KiB digests", 16 << 10, "&hdgst=1&ddgst=1", 1, 0},
		{"256 KiB", 256 << 10, "", 1, 64 << 20},
		{"little memory", 64 << 10, "", 2, 2 << 20},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, rigOptions{Options: blocktest.Options{Threads: 2, PoolBytes: tc.pool}})
			res, err := bench.Run(testContext(t), bench.Config{
				URL: fmt.Sprintf("nvme-tcp://%s/%s?ns=1%s", r.address, testNQN, tc.query),
				RW:  "randrw", Mix: 40, BlockBytes: tc.block, QueueDepth: 16, Queues: tc.queue,
				Time: 300 * time.Millisecond, Verify: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			if res.Errors != 0 || res.VerifyErrors != 0 || res.Verified == 0 { // on a busy machine the time may be over first
				t.Errorf("%+v", res)
			}
			t.Logf("%.0f IOPS, %d blocks verified", res.Total.IOPS, res.Verified)
		})
	}
}

// fault is what a host must not send, and how it is answered.
type fault struct {
	name   string
	before bool // sent instead of the ICReq, not after it
	pdu    func() []byte
	fes    nvmetcp.FES // 0: the connection is closed without a TermReq
	fei    uint32
}

func edit(b []byte, at int, v ...byte) func() []byte {
	return func() []byte {
		b := slices.Clone(b)
		copy(b[at:], v)
		return b
	}
}

func faults() []fault {
	var keepAlive nvme.Command
	keepAlive.SetOpcode(nvme.AdminKeepAlive)
	keepAlive.SetPSDT(nvme.PSDTSGL)
	plain := &nvmetcp.Link{}
	cmd := capsule(plain, keepAlive, nil)
	withData := capsule(plain, keepAlive, make([]byte, 64))
	h2c := func(d nvmetcp.Data, n int) func() []byte {
		return func() []byte {
			d.Type = nvmetcp.TypeH2CData
			return append(plain.AppendData(nil, d), make([]byte, n)...)
		}
	}
	return []fault{
		{"ICReq: version", true, edit(icreq(nil), 8, 1), nvmetcp.FESUnsupportedParameter, 8},
		{"ICReq: HPDA", true, edit(icreq(nil), 10, 32), nvmetcp.FESInvalidHeader, 10},
		{"ICReq: HLEN", true, edit(icreq(nil), 2, 127), nvmetcp.FESInvalidHeader, 2},
		{"ICReq: PLEN", true, edit(icreq(nil), 4, 129), nvmetcp.FESInvalidHeader, 4},
		{"ICReq: PLEN huge", true, edit(icreq(nil), 4, 0xff, 0xff, 0xff, 0xff), nvmetcp.FESInvalidHeader, 4},
		{"ICReq: PLEN zero", true, edit(icreq(nil), 4, 0), nvmetcp.FESInvalidHeader, 4},
		{"command before ICReq", true, func() []byte { return cmd }, nvmetcp.FESSequence, 0},
		{"TermReq before ICReq", true, func() []byte {
			return nvmetcp.NewTermReq(nvmetcp.Host, nvmetcp.ErrHLEN, nil).Append(nil)
		}, 0, 0},
		{"HTTP", true, func() []byte { return []byte("GET / HTTP/1.1\r\n\r\n") }, nvmetcp.FESInvalidHeader, 0},

		{"second ICReq", false, func() []byte { return icreq(nil) }, nvmetcp.FESSequence, 0},
		{"controller's PDU", false, edit(cmd, 0, byte(nvmetcp.TypeCapsuleResp)), nvmetcp.FESInvalidHeader, 0},
		{"unknown type", false, edit(cmd, 0, 8), nvmetcp.FESInvalidHeader, 0},
		{"unknown high type", false, edit(cmd, 0, 0xfe), nvmetcp.FESInvalidHeader, 0},
		{"header digest not negotiated", false, edit(cmd, 1, 1), nvmetcp.FESInvalidHeader, 1},
		{"data digest not negotiated", false, edit(withData, 1, 2), nvmetcp.FESInvalidHeader, 1},
		{"CapsuleCmd: HLEN", false, edit(cmd, 2, 64), nvmetcp.FESInvalidHeader, 2},
		{"CapsuleCmd: PLEN short", false, edit(cmd, 4, 71), nvmetcp.FESInvalidHeader, 4},
		{"CapsuleCmd: PLEN zero", false, edit(cmd, 4, 0), nvmetcp.FESInvalidHeader, 4},
		{"CapsuleCmd: PDO in header", false, edit(withData, 3, 68), nvmetcp.FESInvalidHeader, 3},
		{"CapsuleCmd: PDO past end", false, edit(withData, 3, 140), nvmetcp.FESInvalidHeader, 3},
		{"CapsuleCmd: PDO not aligned", false, edit(withData, 3, 74), nvmetcp.FESInvalidHeader, 3},
		{"CapsuleCmd: too much data", false, edit(withData, 4, 0, 0, 0, 0x80), nvmetcp.FESLimitExceeded, 0},
		{"H2CData without R2T", false, h2c(nvmetcp.Data{Length: 64}, 64), nvmetcp.FESInvalidHeader, 10},
		{"H2CData: HLEN", false, edit(h2c(nvmetcp.Data{Length: 64}, 64)(), 2, 20), nvmetcp.FESInvalidHeader, 2},
		{"H2CData: no data", false, edit(h2c(nvmetcp.Data{Length: 64}, 64)(), 4, 24), nvmetcp.FESInvalidHeader, 4},
		{"TermReq", false, func() []byte {
			return nvmetcp.NewTermReq(nvmetcp.Host, nvmetcp.ErrHLEN, make([]byte, 72)).Append(nil)
		}, 0, 0},
		{"TermReq too long", false, func() []byte {
			return nvmetcp.Header{Type: nvmetcp.TypeH2CTermReq, HLEN: 24, PLEN: 153}.Append(nil)
		}, 0, 0},
	}
}

// termReq is how a connection must end: with this C2HTermReq, or without one.
func (h *raw) termReq(fes nvmetcp.FES, fei uint32) {
	h.t.Helper()
	for {
		hd, b, err := h.receive()
		switch {
		case err != nil && fes == 0:
			return
		case err != nil:
			h.t.Fatalf("connection ended without TermReq: %v", err)
		case hd.Type != nvmetcp.TypeC2HTermReq:
			continue
		}
		p, _, err := nvmetcp.ParseTermReq(b)
		if err != nil || p.FES != fes || p.FEI != fei {
			h.t.Fatalf("got %s, FEI %d (%v); want %s, FEI %d", p.FES, p.FEI, err, fes, fei)
		}
		if _, _, err := h.receive(); err != io.EOF {
			h.t.Fatalf("after TermReq: %v", err)
		}
		return
	}
}

// Whatever breaks the rules of PDUs is answered with the right fatal error. TCP 3.5
func TestProtocolFaults(t *testing.T) {
	r := newRig(t, rigOptions{})
	for _, f := range faults() {
		t.Run(f.name, func(t *testing.T) {
			rt := *r
			rt.t = t
			h := rt.dial()
			if !f.before {
				h.send(icreq(nil))
				h.expect(nvmetcp.TypeICResp)
			}
			h.send(f.pdu())
			h.termReq(f.fes, f.fei)
		})
	}
	r.healthy()
}

// The rules of H2CData. TCP 3.3.2.2
func TestH2CDataFaults(t *testing.T) {
	r := newRig(t, rigOptions{})
	const length = 64 << 10
	for _, tc := range []struct {
		name string
		edit func(*nvmetcp.Data)
		n    int // bytes really sent
		fes  nvmetcp.FES
		fei  uint32
	}{
		{"TTAG", func(d *nvmetcp.Data) { d.TTAG++ }, length, nvmetcp.FESInvalidHeader, 10},
		{"TTAG far off", func(d *nvmetcp.Data) { d.TTAG = 0xffff }, length, nvmetcp.FESInvalidHeader, 10},
		{"CCCID", func(d *nvmetcp.Data) { d.CCCID++ }, length, nvmetcp.FESInvalidHeader, 8},
		{"offset not aligned", func(d *nvmetcp.Data) { d.Offset = 2 }, length, nvmetcp.FESInvalidHeader, 12},
		{"offset beyond", func(d *nvmetcp.Data) { d.Offset = length }, length, nvmetcp.FESOutOfRange, 0},
		{"offset later", func(d *nvmetcp.Data) { d.Offset, d.Length = 4096, 4096 }, 4096, nvmetcp.FESSequence, 0},
		{"longer than asked", func(d *nvmetcp.Data) { d.Length = length + 4 }, length + 4, nvmetcp.FESOutOfRange, 0},
		{"length lies", func(d *nvmetcp.Data) { d.Length = 4096 }, length, nvmetcp.FESInvalidHeader, 16},
		{"last too early", func(d *nvmetcp.Data) { d.Length = 4096 }, 4096, nvmetcp.FESInvalidHeader, 1},
		{"last missing", func(d *nvmetcp.Data) { d.Flags = 0 }, length, nvmetcp.FESInvalidHeader, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rt := *r
			rt.t = t
			h, ask := rt.writer(length)
			d := nvmetcp.Data{CCCID: ask.CCCID, TTAG: ask.TTAG, Length: length}
			d.Type, d.Flags = nvmetcp.TypeH2CData, nvmetcp.FlagLast
			tc.edit(&d)
			l := &nvmetcp.Link{}
			b := l.AppendData(nil, d)
			if int(d.Length) != tc.n { // PLEN tells the truth, DATAL does not
				whole := l.Header(nvmetcp.TypeH2CData, d.Flags, uint32(tc.n))
				copy(b, whole.Append(nil))
			}
			h.send(append(b, make([]byte, tc.n)...))
			h.termReq(tc.fes, tc.fei)
		})
	}
	r.healthy()
}

// ioQueue makes an I/O queue of 16 entries.
func (r *rig) ioQueue(edit func(*nvmetcp.ICReq), attributes uint8) *raw {
	r.t.Helper()
	c := r.connect(nvmehost.Options{})
	r.t.Cleanup(c.Abandon)
	if _, err := c.SetQueueCount(testContext(r.t), 1); err != nil {
		r.t.Fatal(err)
	}
	h := r.dial()
	data := nvme.ConnectData{Controller: c.ID, SubsystemNQN: testNQN, HostNQN: testHost, HostID: c.HostID()}.Append(nil)
	cmd := nvme.Connect{
		CID: 1, Queue: 1, Entries: 16, Attributes: attributes, SGL: nvme.InCapsule(0, uint32(len(data))),
	}.Command()
	h.send(append(icreq(edit), capsule(&nvmetcp.Link{}, cmd, data)...))
	h.expect(nvmetcp.TypeICResp)
	if st := h.completion().Status(); !st.OK() {
		r.t.Fatal(st)
	}
	return h
}

// writeCommand writes n bytes at the beginning of the namespace, by R2T.
func writeCommand(cid nvme.CommandID, n int) nvme.Command {
	w := nvmehost.BlockCommand(nvme.IOWrite, 1, 0, nvme.BlockCount(n/512))
	w.SetCID(cid)
	w.SetPSDT(nvme.PSDTSGL)
	w.SetSGL1(nvme.TransportSGL(uint32(n)))
	return w
}

// writer makes an I/O queue and a write of n bytes that waits for its data.
func (r *rig) writer(n int) (*raw, nvmetcp.R2T) {
	r.t.Helper()
	h := r.ioQueue(nil, 0)
	h.send(capsule(&nvmetcp.Link{}, writeCommand(5, n), nil))
	ask, _, _ := nvmetcp.ParseR2T(h.expect(nvmetcp.TypeR2T))
	if ask.CCCID != 5 || ask.Offset != 0 || int(ask.Length) != n {
		r.t.Fatalf("R2T %+v", ask)
	}
	return h, ask
}

// answer is the data that an R2T asks for.
func answer(ask nvmetcp.R2T, data []byte) (b []byte) {
	l := &nvmetcp.Link{}
	for off, end := ask.Offset, ask.Offset+ask.Length; off < end; {
		n := min(maxH2CData, end-off)
		d := nvmetcp.Data{CCCID: ask.CCCID, TTAG: ask.TTAG, Offset: off, Length: n}
		d.Type = nvmetcp.TypeH2CData
		if off+n == end {
			d.Flags = nvmetcp.FlagLast
		}
		b = append(l.AppendData(b, d), data[off:off+n]...)
		off += n
	}
	return b
}

// As many R2Ts are outstanding as the host takes, and they may be answered in any order between
// each other. TCP 3.3.2.2
func TestSeveralR2Ts(t *testing.T) {
	const length = 1 << 20
	for _, tc := range []struct{ maxR2T, outstanding int }{{1, 1}, {2, 2}, {1 << 32, r2tsPerCommand}} {
		t.Run(fmt.Sprint(tc.maxR2T), func(t *testing.T) {
			r := newRig(t, rigOptions{})
			h := r.ioQueue(func(q *nvmetcp.ICReq) { q.MaxR2T = uint64(tc.maxR2T) }, 0)
			l := &nvmetcp.Link{}
			h.send(capsule(l, writeCommand(5, length), nil))
			want := pattern(length, tc.maxR2T)
			var open []nvmetcp.R2T
			for asked, sent := 0, 0; sent < length; {
				for len(open) < tc.outstanding && asked < length {
					ask, _, _ := nvmetcp.ParseR2T(h.expect(nvmetcp.TypeR2T))
					if int(ask.Offset) != asked || ask.CCCID != 5 {
						t.Fatalf("after %d bytes: %+v", asked, ask)
					}
					open = append(open, ask)
					asked += int(ask.Length)
				}
				ask := open[len(open)-1] // the youngest first
				open = open[:len(open)-1]
				h.send(answer(ask, want))
				sent += int(ask.Length)
			}
			if st := h.completion().Status(); !st.OK() {
				t.Fatal(st)
			}
			got := make([]byte, length)
			if _, err := r.volume.ReadAt(got, 0); err != nil || string(got) != string(want) {
				t.Errorf("the volume has other data (%v)", err)
			}
		})
	}
}

// Without SQ flow control a success is told by the last data. TCP 3.3.2.3
func TestSuccessOptimization(t *testing.T) {
	r := newRig(t, rigOptions{})
	for _, attributes := range []uint8{0, nvme.ConnectDisableSQFlow} {
		h := r.ioQueue(nil, attributes)
		c := nvmehost.BlockCommand(nvme.IORead, 1, 0, 8)
		c.SetPSDT(nvme.PSDTSGL)
		c.SetSGL1(nvme.TransportSGL(4096))
		h.send(capsule(&nvmetcp.Link{}, c, nil))
		d, _, _ := nvmetcp.ParseData(h.expect(nvmetcp.TypeC2HData))
		if !d.Has(nvmetcp.FlagLast) || d.Has(nvmetcp.FlagSuccess) != (attributes != 0) {
			t.Errorf("attributes %d: flags %x", attributes, d.Flags)
		}
		if attributes == 0 {
			h.completion()
		}
	}
}

// A wrong header digest is fatal and reported as received; a wrong data digest fails the command.
func TestDigestErrors(t *testing.T) {
	r := newRig(t, rigOptions{})
	digests := func(q *nvmetcp.ICReq) { q.HeaderDigest, q.DataDigest = true, true }
	l := &nvmetcp.Link{HeaderDigest: true, DataDigest: true}
	t.Run("header", func(t *testing.T) {
		h := r.dial()
		b := connectCapsule(l)
		b[nvmetcp.CapsuleCmdSize] ^= 0xff
		h.send(append(icreq(digests), b...))
		h.expect(nvmetcp.TypeICResp)
		h.termReq(nvmetcp.FESHeaderDigest, nvmetcp.ParseDigest(b[nvmetcp.CapsuleCmdSize:]))
	})
	t.Run("data", func(t *testing.T) {
		h := r.dial()
		b := connectCapsule(l)
		b[len(b)-1] ^= 0xff
		h.send(append(icreq(digests), b...))
		h.expect(nvmetcp.TypeICResp)
		if st := h.completion().Status(); st.Code() != nvme.StatusTransientTransportError {
			t.Fatalf("got %s", st)
		}
		h.send(connectCapsule(l)) // the connection lives on
		if st := h.completion().Status(); !st.OK() {
			t.Fatalf("got %s", st)
		}
	})
}

// conversation is what a host sends that connects, and then enables its controller and identifies
// it; what comes after the Connect may be sent when it was answered.
func conversation() (connect, rest []byte) {
	l := &nvmetcp.Link{}
	connect = append(icreq(nil), connectCapsule(l)...)
	cc := nvme.PropertySet{CID: 2, Size: 4, Offset: nvme.PropertyCC, Value: uint64(nvme.MakeConfig(nvme.SelectNVM))}
	rest = capsule(l, cc.Command(), nil)
	id := nvme.Identify{CNS: nvme.CNSController}.Command()
	id.SetCID(3)
	id.SetSGL1(nvme.TransportSGL(nvme.IdentifySize))
	return connect, append(rest, capsule(l, id, nil)...)
}

// A conversation that breaks off at any byte leaves nothing behind.
func TestEveryPrefix(t *testing.T) {
	r := newRig(t, rigOptions{})
	connect, rest := conversation()
	for n := range connect {
		h := r.dial()
		h.send(connect[:n])
		h.conn.Close()
	}
	for n := range rest {
		h := r.dial()
		h.send(connect)
		h.expect(nvmetcp.TypeICResp)
		h.completion()
		h.send(rest[:n])
		h.conn.Close()
	}
	r.empty()
	r.healthy()
}

// Where the stream is cut into segments makes no difference.
func TestByteByByte(t *testing.T) {
	r := newRig(t, rigOptions{})
	connect, rest := conversation()
	one, other := r.dial(), r.dial() // two at a time take turns with the window
	both := func(b []byte) {
		for i := range b {
			one.send(b[i : i+1])
			other.send(b[i : i+1])
		}
	}
	both(connect)
	for _, h := range []*raw{one, other} {
		h.expect(nvmetcp.TypeICResp)
		if st := h.completion().Status(); !st.OK() {
			t.Fatal(st)
		}
	}
	both(rest)
	for _, h := range []*raw{one, other} {
		if c := h.completion(); c.CID() != 2 || !c.Status().OK() {
			t.Fatalf("command %d: %s", c.CID(), c.Status())
		}
		b := h.expect(nvmetcp.TypeC2HData)
		id, _, err := nvme.ParseIdentifyController(b[nvmetcp.DataSize:])
		if err != nil || id.SubsystemNQN != testNQN {
			t.Fatalf("identify: %q, %v", id.SubsystemNQN, err)
		}
		h.completion()
	}
}

// Reserved bytes and flags are ignored. TCP 3.6
func TestReservedFields(t *testing.T) {
	r := newRig(t, rigOptions{})
	h := r.dial()
	ic := icreq(nil)
	ic[1] = 0xff // flags
	ic[3] = 0xff // PDO
	ic[11] |= 0xfc
	for i := 16; i < len(ic); i++ {
		ic[i] = 0xff
	}
	c := connectCapsule(&nvmetcp.Link{})
	c[1] = 0xfc // flags other than the digests'
	h.send(append(ic, c...))
	h.expect(nvmetcp.TypeICResp)
	if st := h.completion().Status(); !st.OK() {
		t.Fatal(st)
	}
}

// Connections that never get anywhere give way to those that do.
func TestHalfOpenFlood(t *testing.T) {
	r := newRig(t, rigOptions{config: func(c *Config) { c.MaxConnections, c.HandshakeTimeout = 20, 500*time.Millisecond }})
	var flood []*raw
	for i := range 200 {
		h := r.dial()
		if i%2 == 0 {
			h.send(icreq(nil)[:i%128])
		}
		flood = append(flood, h)
	}
	r.healthy() // all the while
	for _, h := range flood {
		if _, err := io.ReadAll(h.conn); err != nil && !errors.Is(err, net.ErrClosed) {
			var reset *net.OpError
			if !errors.As(err, &reset) || reset.Timeout() {
				t.Fatal(err)
			}
		}
	}
	r.empty()
}

// More connections than allowed are refused; those that are there go on.
func TestMaxConnections(t *testing.T) {
	r := newRig(t, rigOptions{config: func(c *Config) { c.MaxConnections = 4 }})
	c := r.connect(nvmehost.Options{Queues: 3})
	h := r.dial()
	if _, err := h.conn.Read(make([]byte, 1)); err == nil {
		t.Error("a fifth connection was served")
	}
	if err := c.Read(testContext(t), 1, 0, make([]byte, 512)); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	r.empty()
	r.healthy()
}

// A host that reads nothing costs bounded memory, and gets everything when it reads at last.
func TestSlowHost(t *testing.T) {
	r := newRig(t, rigOptions{Options: blocktest.Options{PoolBytes: 8 << 20}})
	h, ask := r.writer(4096)
	l := &nvmetcp.Link{}
	h.send(answer(ask, make([]byte, ask.Length)))
	h.completion()
	var cmds []byte
	const reads = 15
	for i := range reads {
		c := nvmehost.BlockCommand(nvme.IORead, 1, 0, 2048)
		c.SetCID(nvme.CommandID(100 + i))
		c.SetPSDT(nvme.PSDTSGL)
		c.SetSGL1(nvme.TransportSGL(1 << 20))
		cmds = append(cmds, capsule(l, c, nil)...)
	}
	h.send(cmds)
	r.healthy() // others are served meanwhile
	for range reads {
		h.expect(nvmetcp.TypeC2HData)
		if st := h.completion().Status(); !st.OK() {
			t.Fatal(st)
		}
	}
}

// A host that sends commands for ever and reads no response is not read any more after a while.
func TestHostThatNeverReads(t *testing.T) {
	r := newRig(t, rigOptions{})
	h := r.admin()
	get := nvme.PropertyGet{Size: 4, Offset: nvme.PropertyCSTS}.Command()
	var b []byte
	for range 256 {
		b = append(b, capsule(&nvmetcp.Link{}, get, nil)...)
	}
	sent := 0
	for {
		// The deadline only ends a write that is stuck for good.
		h.conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := h.conn.Write(b)
		sent += n
		if err != nil {
			break
		}
		if sent > 1<<30 {
			t.Fatal("everything is taken")
		}
	}
	if u, err := r.transport.server.Usage(); err != nil || u.HeaderBytes > 1<<20 {
		t.Errorf("%d bytes wait (%v)", u.HeaderBytes, err)
	}
	r.healthy()
	for range sent / nvmetcp.CapsuleCmdSize {
		h.completion()
	}
}

// Connecting and leaving very often leaves nothing behind.
func TestTenThousandConnects(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 1000
	}
	r := newRig(t, rigOptions{})
	r.healthy()
	r.empty()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	connect, _ := conversation()
	for i := range n {
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		// Abortive, so that no thousands of sockets wait for the end of TIME-WAIT.
		conn.(*net.TCPConn).SetLinger(0)
		switch i % 4 {
		case 0:
			_, _ = conn.Write(connect[:i%len(connect)])
		case 1:
			_, _ = conn.Write(connect)
		case 2:
			_, _ = conn.Write(connect[:nvmetcp.ICSize])
			_, _ = io.ReadFull(conn, make([]byte, nvmetcp.ICSize))
		}
		conn.Close()
	}
	r.healthy()
	r.empty()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
}

// The discovery service lists the subsystem with this transport.
func TestDiscovery(t *testing.T) {
	r := newRig(t, rigOptions{})
	entries, err := nvmehost.Discover(testContext(t), r.address, nvmehost.Options{HostNQN: testHost})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(entries, func(e nvme.DiscoveryEntry) bool {
		return e.NQN == testNQN && e.Transport == nvme.TransportTCP && e.Address == "127.0.0.1" && e.Service == "4420"
	}) {
		t.Errorf("entries %+v", entries)
	}
}

// A resize reaches the host by an event.
func TestEvents(t *testing.T) {
	r := newRig(t, rigOptions{})
	events := make(chan nvme.AsyncEvent, 8)
	c := r.connect(nvmehost.Options{OnEvent: func(e nvme.AsyncEvent) { events <- e }})
	defer c.Abandon()
	ctx := testContext(t)
	if err := c.SetEvents(ctx, nvme.EventsNamespaceChange); err != nil {
		t.Fatal(err)
	}
	for i := uint64(2); i <= 3; i++ {
		r.stub.export(i * testVolume)
		select {
		case e := <-events:
			if e != nvme.EventNSAttribute {
				t.Fatalf("event %+v", e)
			}
		case <-ctx.Done():
			t.Fatal("no event")
		}
		b, err := c.LogPage(ctx, nvme.GetLogPage{LID: nvme.LogChangedNamespaces}, nvme.IdentifySize) // unmasks the next one
		if err != nil || b[0] != 1 {
			t.Fatalf("changed namespaces: %v, %v", b[:8], err)
		}
		if id, err := c.Namespace(ctx, 1); err != nil || uint64(id.Size) != i*testVolume/512 {
			t.Fatalf("%d blocks, %v", id.Size, err)
		}
	}
	log, err := c.ANALog(ctx)
	if err != nil || len(log.Groups) != 1 || log.Groups[0].State != nvme.ANAOptimized {
		t.Errorf("ANA log %+v, %v", log, err)
	}
}

// An aborted command comes back as such, while it is still at the core.
func TestAbort(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.connect(nvmehost.Options{Queues: 1})
	defer c.Abandon()
	ctx := testContext(t)
	if err := c.Read(ctx, 1, 0, make([]byte, 512)); err != nil { // learns the block size
		t.Fatal(err)
	}
	r.core.Hold()
	errs := make(chan error, 1)
	go func() { errs <- c.Read(ctx, 1, 0, make([]byte, 4096)) }()
	r.eventually("the command is at the core", func() bool { return r.core.Held() == 1 })
	// The host takes the lowest free command identifier first.
	if done, err := c.Abort(ctx, 1, 0); err != nil || !done {
		t.Errorf("abort: %t, %v", done, err)
	}
	if err := <-errs; !errors.Is(err, nvme.StatusAbortRequested) {
		t.Errorf("read: %v", err)
	}
}

// A host that keeps alive stays; one that falls silent is disconnected.
func TestKeepAlive(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.connect(nvmehost.Options{KeepAlive: 400 * time.Millisecond})
	defer c.Abandon()
	l := &nvmetcp.Link{}
	h := r.dial()
	data := nvme.ConnectData{
		HostID: nvme.HostID{2}, Controller: nvme.DynamicControllerID, SubsystemNQN: testNQN, HostNQN: testHost + "2",
	}.Append(nil)
	cmd := nvme.Connect{CID: 1, Entries: 32, KeepAlive: 400, SGL: nvme.InCapsule(0, uint32(len(data)))}.Command()
	h.send(append(icreq(nil), capsule(l, cmd, data)...))
	h.expect(nvmetcp.TypeICResp)
	if st := h.completion().Status(); !st.OK() {
		t.Fatal(st)
	}
	h.send(capsule(l, nvme.PropertySet{
		CID: 2, Size: 4, Offset: nvme.PropertyCC, Value: uint64(nvme.MakeConfig(nvme.SelectNVM)),
	}.Command(), nil))
	h.completion()
	if _, _, err := h.receive(); err != io.EOF {
		t.Errorf("the silent host: %v", err)
	}
	if _, err := c.Property(testContext(t), nvme.PropertyCSTS); err != nil {
		t.Errorf("the host that keeps alive: %v", err)
	}
}

// A connection that is lost with commands at the core leaves nothing when they come back.
func TestLostWithCommandsUnderWay(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.connect(nvmehost.Options{Queues: 1})
	ctx := testContext(t)
	if err := c.Read(ctx, 1, 0, make([]byte, 512)); err != nil { // learns the block size
		t.Fatal(err)
	}
	r.core.Hold()
	errs := make(chan error, 8)
	for i := range cap(errs) {
		go func() {
			if i%2 == 0 {
				errs <- c.Read(ctx, 1, 0, make([]byte, 4096))
			} else {
				errs <- c.Write(ctx, 1, 0, make([]byte, 64<<10), false)
			}
		}()
	}
	r.eventually("all commands are at the core", func() bool { return r.core.Held() == cap(errs) })
	c.Abandon()
	for range cap(errs) {
		if err := <-errs; err == nil {
			t.Error("a command of a lost connection succeeded")
		}
	}
	r.core.Release()
	r.empty()
	r.healthy()
}

// What the core says reaches the host.
func TestErrorsReachTheHost(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.connect(nvmehost.Options{Queues: 1, DataDigest: true})
	defer c.Abandon()
	ctx := testContext(t)
	r.core.Intercept(func(e *ring.Entry) (ring.Status, bool) { return ring.StatusMediaError, e.Op == ring.OpRead })
	if err := c.Read(ctx, 1, 0, make([]byte, 4096)); !errors.Is(err, nvme.StatusUnrecoveredReadError) {
		t.Errorf("read: %v", err)
	}
	if err := c.Write(ctx, 1, 0, make([]byte, 4096), false); err != nil {
		t.Errorf("write: %v", err)
	}
}

// Listeners are level-triggered: what is not named any more is closed with its connections.
func TestSetListeners(t *testing.T) {
	r := newRig(t, rigOptions{})
	ctx := testContext(t)
	old := r.address
	h := r.admin()
	same := r.transport.SetListeners(ctx, []sdk.Listener{
		{URL: "nvme-tcp://127.0.0.1:0", AccessPointID: "ap"},
		{URL: "nvme-tcp://127.0.0.1:0", AccessPointID: "other"},
		{URL: "nvme-tcp://192.0.2.1:4420", AccessPointID: "elsewhere"},
		{URL: "iscsi://127.0.0.1:0", AccessPointID: "iscsi"},
	})
	if same[0].Err != nil || same[0].URL != "nvme-tcp://"+old || same[1].Err != nil || same[2].Err == nil || same[3].Err == nil {
		t.Fatalf("states %+v", same)
	}
	r.address = same[1].URL[len(Scheme)+3:]
	r.transport.SetListeners(ctx, []sdk.Listener{{URL: "nvme-tcp://127.0.0.1:0", AccessPointID: "other"}})
	if _, _, err := h.receive(); err != io.EOF {
		t.Errorf("connection of a closed listener: %v", err)
	}
	if conn, err := net.Dial("tcp", old); err == nil {
		conn.Close()
		t.Error("a closed listener accepts")
	}
}

func TestParseConfig(t *testing.T) {
	if c, err := ParseConfig([]byte(`{"max_connections": 10, "handshake_timeout": 1000000000}`)); err != nil ||
		c.MaxConnections != 10 || c.HandshakeTimeout != time.Second || !c.DataDigest {
		t.Errorf("%+v, %v", c, err)
	}
	for _, bad := range []string{`{"in_capsule_bytes": 4096}`, `{"max_connections": 0}`, `{"queue_depth": 1}`, `{"handshake_timeout": 5}`} {
		var a *sdk.AttributeError
		if _, err := ParseConfig([]byte(bad)); !errors.As(err, &a) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
