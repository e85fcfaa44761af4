package transport

import (
	"bufio"
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/block/blocktest"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost"
	"github.com/mooring-io/mooring/sdk/nvmetcp"
	"github.com/mooring-io/mooring/sdk/nvmf"
	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/stream"
)

const (
	testNQN    = "nqn.2026-11.io.mooring:test"
	testHost   = "nqn.2026-11.io.mooring:host"
	testVolume = 64 << 20 // bytes
	patience   = 20 * time.Second
)

// rig is the whole stack of a plugin process on a core that is played by blocktest and stubCore.
type rig struct {
	t         testing.TB
	core      *blocktest.Core
	volume    *blocktest.Volume
	threads   []*block.Thread
	stub      *stubCore
	transport *Transport
	address   string
}

type rigOptions struct {
	blocktest.Options
	config func(*Config)
	limits nvmf.Limits
}

func newRig(t testing.TB, o rigOptions) *rig {
	t.Helper()
	core, threads := blocktest.Start(t, o.Options)
	r := &rig{t: t, core: core, threads: threads, volume: core.AddVolume(testVolume, 512)}
	logger := hclog.NewNullLogger()
	if _, fuzz := t.(*testing.F); testing.Verbose() && !fuzz {
		logger = hclog.New(&hclog.LoggerOptions{Output: testWriter{t}, Level: hclog.Debug})
	}
	r.stub = newStubCore(r.volume.Handle())
	target := nvmf.NewTarget(nvmf.Options{Core: r.stub, Logger: logger, Limits: o.limits})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = target.Run(ctx)
	}()
	cfg := DefaultConfig()
	if o.config != nil {
		o.config(&cfg)
	}
	if err := cfg.check(); err != nil {
		t.Fatal(err)
	}
	if !target.Ready(ctx) {
		t.Fatal("the target does not hear of its exports")
	}
	r.transport = New(target, threads, cfg, logger)
	st := r.transport.SetListeners(ctx, []sdk.Listener{{URL: "nvme-tcp://127.0.0.1:0", AccessPointID: "ap"}})
	if st[0].Err != nil {
		t.Fatal(st[0].Err)
	}
	r.address = st[0].URL[len(Scheme)+3:]
	t.Cleanup(func() {
		stop, done := context.WithTimeout(context.Background(), patience)
		defer done()
		if err := r.transport.Stop(stop); err != nil {
			t.Error(err)
		}
		cancel()
		<-ended
		r.empty()
	})
	return r
}

// empty checks that nothing is held once every connection is gone.
func (r *rig) empty() {
	r.t.Helper()
	r.eventually("memory returns", func() bool {
		u, err := r.transport.server.Usage()
		if err != nil {
			r.t.Fatal(err)
		}
		return u == stream.Usage{}
	})
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for limit := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			r.t.Fatalf("in vain: %s", what)
		}
	}
}

// connect is a well-behaved host.
func (r *rig) connect(o nvmehost.Options) *nvmehost.Controller {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if o.HostNQN == "" {
		o.HostNQN = testHost
	}
	c, err := nvmehost.Connect(ctx, r.address, testNQN, o)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// healthy checks that a well-behaved host still gets its I/O.
func (r *rig) healthy() {
	r.t.Helper()
	c := r.connect(nvmehost.Options{Queues: 1, DataDigest: true})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	want := make([]byte, 64<<10)
	for i := range want {
		want[i] = byte(i>>9 + i)
	}
	got := make([]byte, len(want))
	if err := c.Write(ctx, 1, 128, want, false); err != nil {
		r.t.Fatal(err)
	}
	if err := c.Read(ctx, 1, 128, got); err != nil || string(got) != string(want) {
		r.t.Fatalf("read back: %v, right data %t", err, string(got) == string(want))
	}
	if err := c.Close(); err != nil {
		r.t.Fatal(err)
	}
}

// raw is a host that sends what it likes.
type raw struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
}

func (r *rig) dial() *raw {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		r.t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	r.t.Cleanup(func() { conn.Close() })
	return &raw{r.t, conn, bufio.NewReaderSize(conn, 64<<10)}
}

func (h *raw) send(b []byte) {
	h.t.Helper()
	if _, err := h.conn.Write(b); err != nil {
		h.t.Fatal(err)
	}
}

// receive returns the next PDU, whole; io.EOF when there is none.
func (h *raw) receive() (nvmetcp.Header, []byte, error) {
	b := make([]byte, nvmetcp.HeaderSize)
	if _, err := io.ReadFull(h.in, b); err != nil {
		return nvmetcp.Header{}, nil, err
	}
	hd, _, _ := nvmetcp.ParseHeader(b)
	if hd.PLEN > 2<<20 {
		h.t.Fatalf("controller sent %+v", hd)
	}
	b = append(b, make([]byte, int(hd.PLEN)-len(b))...)
	_, err := io.ReadFull(h.in, b[nvmetcp.HeaderSize:])
	return hd, b, err
}

// expect returns the next PDU, which must be of this type.
func (h *raw) expect(want nvmetcp.Type) []byte {
	h.t.Helper()
	hd, b, err := h.receive()
	if err != nil || hd.Type != want {
		h.t.Fatalf("got %s, %v; want %s", hd.Type, err, want)
	}
	return b
}

// completion returns the next completion.
func (h *raw) completion() *nvme.Completion {
	h.t.Helper()
	p, _, _ := nvmetcp.ParseCapsuleResp(h.expect(nvmetcp.TypeCapsuleResp))
	return p.Completion
}

// icreq is a plain ICReq.
func icreq(edit func(*nvmetcp.ICReq)) []byte {
	r := nvmetcp.NewICReq()
	if edit != nil {
		edit(&r)
	}
	return r.Append(nil)
}

// capsule is a CapsuleCmd with in-capsule data.
func capsule(l *nvmetcp.Link, cmd nvme.Command, data []byte) []byte {
	b := l.AppendCapsuleCmd(nil, &cmd, uint32(len(data)))
	b = append(b, data...)
	if l.DataDigest && len(data) > 0 {
		b = nvmetcp.AppendDigest(b, nvmetcp.Digest(data))
	}
	return b
}

// connectCapsule is the Connect of an Admin queue.
func connectCapsule(l *nvmetcp.Link) []byte {
	data := nvme.ConnectData{
		HostID: nvme.HostID{1}, Controller: nvme.DynamicControllerID, SubsystemNQN: testNQN, HostNQN: testHost,
	}.Append(nil)
	cmd := nvme.Connect{CID: 1, Entries: 32, SGL: nvme.InCapsule(0, uint32(len(data)))}.Command()
	return capsule(l, cmd, data)
}

// admin makes an Admin queue.
func (r *rig) admin() *raw {
	h := r.dial()
	h.send(append(icreq(nil), connectCapsule(&nvmetcp.Link{})...))
	h.expect(nvmetcp.TypeICResp)
	if st := h.completion().Status(); !st.OK() {
		r.t.Fatal(st)
	}
	return h
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

// stubCore grants every host namespace 1.
type stubCore struct {
	proto.CoreClient
	handle  block.Handle
	last    atomic.Uint64
	changes atomic.Uint64
	state   atomic.Int32 // proto.AnaState of new grants
	updates chan *proto.Update
}

func newStubCore(h block.Handle) *stubCore {
	c := &stubCore{handle: h, updates: make(chan *proto.Update, 8)}
	c.state.Store(int32(proto.AnaState_ANA_OPTIMIZED))
	c.export(testVolume)
	return c
}

// export tells the plugin of the subsystem, with a volume of size bytes.
func (c *stubCore) export(size uint64) {
	c.updates <- &proto.Update{Update: &proto.Update_Exports{Exports: &proto.Exports{
		Subsystems: []*proto.Subsystem{{
			Nqn: testNQN, Serial: "1", Model: "Mooring", AllowAnyHost: true, MaxNamespaces: 16, Generation: 1,
			Namespaces: []*proto.Namespace{{
				Nsid: 1, VolumeId: "6ba7b810-9dad-11d1-80b4-00c04fd430c8", Nguid: make([]byte, 16), Eui64: make([]byte, 8),
				SizeBytes: size, BlockBytes: 512, AnaGroup: 1,
			}},
		}},
		AccessPoints: []*proto.AccessPoint{{Id: "ap", Node: "n", Url: "nvme-tcp://127.0.0.1:4420", Up: true, PortId: 1}},
	}}}
}

func (c *stubCore) Watch(ctx context.Context, _ *proto.WatchRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[proto.Update], error) {
	return &stubStream{ctx: ctx, updates: c.updates}, nil
}

func (c *stubCore) Associate(context.Context, *proto.AssociateRequest, ...grpc.CallOption) (*proto.AssociateResponse, error) {
	id := c.last.Add(1)
	return &proto.AssociateResponse{
		Association: id, ControllerId: uint32(id % 0xffef),
		Grants: c.grants(id),
	}, nil
}

func (c *stubCore) grants(association uint64) *proto.Grants {
	return &proto.Grants{Association: association, Grants: []*proto.Grant{{
		Nsid: 1, Handle: c.handle.Index, HandleGeneration: c.handle.Generation, AnaState: proto.AnaState(c.state.Load()), AnaChangeCount: c.changes.Add(1),
	}}}
}

// setState gives namespace 1 another ANA state for the hosts that are connected and those to come.
func (c *stubCore) setState(s proto.AnaState) {
	c.state.Store(int32(s))
	for id := uint64(1); id <= c.last.Load(); id++ {
		c.updates <- &proto.Update{Update: &proto.Update_Grants{Grants: c.grants(id)}}
	}
}

func (c *stubCore) Dissociate(context.Context, *proto.DissociateRequest, ...grpc.CallOption) (*proto.DissociateResponse, error) {
	return &proto.DissociateResponse{}, nil
}

// stubStream is the answer to Watch.
type stubStream struct {
	grpc.ClientStream
	ctx     context.Context
	updates chan *proto.Update
}

func (s *stubStream) Recv() (*proto.Update, error) {
	select {
	case u := <-s.updates:
		return u, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}
