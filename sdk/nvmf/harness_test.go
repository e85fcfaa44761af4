package nvmf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/block/blocktest"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds how long a test waits for what must happen.
const patience = 10 * time.Second

const (
	testNQN  = "nqn.2026-11.io.mooring:test"
	hostNQN  = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555"
	otherNQN = "nqn.2014-08.org.nvmexpress:uuid:99999999-2222-3333-4444-555555555555"
)

var hostID = nvme.HostID{1, 2, 3}

// fakeCore is a core that answers as it is told and remembers what it was asked.
type fakeCore struct {
	proto.CoreClient
	mu           sync.Mutex
	updates      chan *proto.Update
	next         uint64
	result       proto.AssociateResult
	grants       []*proto.Grant
	associated   []*proto.AssociateRequest
	dissociated  []*proto.DissociateRequest
	reserved     []*proto.ReserveRequest
	reserve      func(*proto.ReserveRequest) (*proto.ReserveResponse, error)
	hold         chan struct{} // Associate waits for it, if not nil
	associations []uint64
}

type fakeStream struct {
	grpc.ClientStream
	ctx     context.Context
	updates chan *proto.Update
}

func (s *fakeStream) Recv() (*proto.Update, error) {
	select {
	case u, ok := <-s.updates:
		if !ok {
			return nil, io.EOF
		}
		return u, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func (f *fakeCore) Watch(ctx context.Context, _ *proto.WatchRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[proto.Update], error) {
	return &fakeStream{ctx: ctx, updates: f.updates}, nil
}

func (f *fakeCore) Associate(_ context.Context, r *proto.AssociateRequest, _ ...grpc.CallOption) (*proto.AssociateResponse, error) {
	f.mu.Lock()
	hold := f.hold
	f.mu.Unlock()
	if hold != nil {
		<-hold
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.associated = append(f.associated, r)
	if f.result != proto.AssociateResult_ASSOCIATE_OK {
		return &proto.AssociateResponse{Result: f.result, Message: "told so"}, nil
	}
	f.next++
	f.associations = append(f.associations, f.next)
	return &proto.AssociateResponse{
		Association: f.next, ControllerId: uint32(f.next), Grants: &proto.Grants{Association: f.next, Grants: f.grants},
	}, nil
}

func (f *fakeCore) Dissociate(_ context.Context, r *proto.DissociateRequest, _ ...grpc.CallOption) (*proto.DissociateResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dissociated = append(f.dissociated, r)
	return &proto.DissociateResponse{}, nil
}

func (f *fakeCore) Reserve(_ context.Context, r *proto.ReserveRequest, _ ...grpc.CallOption) (*proto.ReserveResponse, error) {
	f.mu.Lock()
	fn := f.reserve
	f.reserved = append(f.reserved, r)
	f.mu.Unlock()
	if fn == nil {
		return &proto.ReserveResponse{}, nil
	}
	return fn(r)
}

// rig is a target with a fake core and volumes in memory.
type rig struct {
	t       testing.TB
	core    *fakeCore
	blocks  *blocktest.Core
	threads []*block.Thread
	target  *Target
	volumes map[uint32]*blocktest.Volume
	exports *proto.Exports
	cancel  context.CancelFunc
	ended   chan error
	conns   []*fakeConn
}

type rigOption func(*Options, *blocktest.Options)

func withLimits(l Limits) rigOption { return func(o *Options, _ *blocktest.Options) { o.Limits = l } }

func withPool(bytes int64) rigOption {
	return func(_ *Options, b *blocktest.Options) { b.PoolBytes = bytes }
}

func withThreads(n int) rigOption { return func(_ *Options, b *blocktest.Options) { b.Threads = n } }

// newRig starts a target that exports one subsystem with namespace 1 (4096) and 2 (512, volatile).
func newRig(t testing.TB, opts ...rigOption) *rig {
	t.Helper()
	r := &rig{t: t, core: &fakeCore{updates: make(chan *proto.Update, 16)}, volumes: map[uint32]*blocktest.Volume{}}
	o, b := Options{Core: r.core, Logger: hclog.NewNullLogger()}, blocktest.Options{}
	for _, opt := range opts {
		opt(&o, &b)
	}
	r.blocks, r.threads = blocktest.Start(t, b)
	r.target = NewTarget(o)
	r.exports = &proto.Exports{
		Subsystems: []*proto.Subsystem{{
			Nqn: testNQN, Serial: "SN1", Model: "Mooring", AllowAnyHost: true, MaxNamespaces: 16,
		}},
		AccessPoints: []*proto.AccessPoint{
			{Id: "ap1", Node: "n1", Url: "nvme-tcp://127.0.0.1:4420", Up: true, PortId: 1},
			{Id: "ap2", Node: "n2", Url: "nvme-rdma://[fd00::1]:4420", Up: true, PortId: 2},
			{Id: "ap3", Node: "n2", Url: "iscsi://127.0.0.1:3260", Up: true, PortId: 3},
			{Id: "ap4", Node: "n3", Url: "nvme-tcp://127.0.0.3:4420", Up: false, PortId: 4},
		},
	}
	r.addNamespace(1, 4096, 8<<20, proto.Durability_DURABILITY_SYNC)
	r.addNamespace(2, 512, 1<<20, proto.Durability_DURABILITY_SYNC)
	r.target.setExports(r.exports)
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.ended = cancel, make(chan error, 1)
	go func() { r.ended <- r.target.Run(ctx) }()
	t.Cleanup(r.stop)
	return r
}

// stop ends the target and looks for what it left behind.
func (r *rig) stop() {
	r.cancel()
	<-r.ended
	for _, c := range r.conns {
		c.gone()
	}
	r.eventually("queues drained", func() bool { return r.target.Queues() == 0 })
	for i, th := range r.threads {
		if n := onThread(th, func() int { return th.Pool().InUse() }); n != 0 {
			r.t.Errorf("thread %d: %d bytes of the pool leaked", i, n)
		}
	}
	for _, c := range r.conns {
		if n := onThread(c.thread, func() int { return c.q.held }); n != 0 {
			r.t.Errorf("%d commands leaked", n)
		}
	}
}

func (r *rig) sub() *proto.Subsystem { return r.exports.Subsystems[0] }

func (r *rig) addNamespace(nsid uint32, blockSize int, size int64, d proto.Durability) {
	v := r.blocks.AddVolume(size, blockSize)
	r.volumes[nsid] = v
	r.sub().Namespaces = append(r.sub().Namespaces, &proto.Namespace{
		Nsid: nsid, VolumeId: fmt.Sprintf("00000000-0000-0000-0000-%012d", nsid),
		Nguid: bytes.Repeat([]byte{byte(nsid)}, 16), Eui64: bytes.Repeat([]byte{byte(nsid)}, 8),
		SizeBytes: uint64(size), BlockBytes: uint32(blockSize), AnaGroup: nsid, Durability: d, UsedBytes: 4096,
	})
	r.core.mu.Lock()
	defer r.core.mu.Unlock()
	r.core.grants = append(slices.Clone(r.core.grants), &proto.Grant{
		Nsid: nsid, Handle: v.Handle().Index, HandleGeneration: v.Handle().Generation,
		AnaState: proto.AnaState_ANA_OPTIMIZED, AnaChangeCount: 1,
	})
}

// export sends the exports again, as changed by fn.
func (r *rig) export(fn func(s *proto.Subsystem)) {
	next := &proto.Exports{AccessPoints: r.exports.AccessPoints}
	for _, s := range r.exports.Subsystems {
		c := &proto.Subsystem{
			Nqn: s.Nqn, Serial: s.Serial, Model: s.Model, AllowAnyHost: s.AllowAnyHost, AllowedHosts: s.AllowedHosts,
			MaxNamespaces: s.MaxNamespaces, Generation: s.Generation + 1,
		}
		for _, n := range s.Namespaces {
			c.Namespaces = append(c.Namespaces, &proto.Namespace{
				Nsid: n.Nsid, VolumeId: n.VolumeId, Nguid: n.Nguid, Eui64: n.Eui64, SizeBytes: n.SizeBytes,
				BlockBytes: n.BlockBytes, AnaGroup: n.AnaGroup, Durability: n.Durability, UsedBytes: n.UsedBytes, VisibleTo: n.VisibleTo,
			})
		}
		next.Subsystems = append(next.Subsystems, c)
	}
	r.exports = next
	fn(r.sub())
	r.core.updates <- &proto.Update{Update: &proto.Update_Exports{Exports: next}}
}

// grant sends new grants to the association, as changed by fn.
func (r *rig) grant(association uint64, fn func(map[uint32]*proto.Grant)) {
	r.core.mu.Lock()
	byID := map[uint32]*proto.Grant{}
	for _, g := range r.core.grants {
		byID[g.Nsid] = &proto.Grant{
			Nsid: g.Nsid, Handle: g.Handle, HandleGeneration: g.HandleGeneration, AnaState: g.AnaState,
			AnaChangeCount: g.AnaChangeCount, PathEpoch: g.PathEpoch,
		}
	}
	fn(byID)
	r.core.grants = slices.Collect(maps.Values(byID))
	u := &proto.Grants{Association: association, Grants: r.core.grants}
	r.core.mu.Unlock()
	r.core.updates <- &proto.Update{Update: &proto.Update_Grants{Grants: u}}
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			r.t.Fatalf("never: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func onThread[T any](th *block.Thread, fn func() T) T {
	ch := make(chan T, 1)
	th.Post(func() { ch <- fn() })
	select {
	case v := <-ch:
		return v
	case <-th.Done():
		panic("the thread has ended")
	}
}

// answer is what a host gets for a command.
type answer struct {
	nvme.Completion
	data        []byte
	descriptors []nvme.SGL
}

// fakeConn is a transport in the process and the host behind it.
type fakeConn struct {
	r      *rig
	thread *block.Thread
	q      *Queue
	closed chan error // has the reason once the front end has closed the connection
	late   bool       // data comes after the capsule, not in it
	// zeroCopy makes in-capsule data lie in a buffer of the transport's own.
	zeroCopy bool

	// On the thread.
	wait    map[nvme.CommandID]chan answer
	payload map[*Command][]byte
	isGone  bool
	cid     nvme.CommandID
}

func (f *fakeConn) Complete(c *Command) {
	a := answer{Completion: c.CQE, descriptors: slices.Clone(c.Descriptors)}
	if c.SendsData() {
		a.data = bytes.Clone(c.Data.Bytes()[:c.Length])
	}
	id := c.SQE.CID()
	ch := f.wait[id]
	delete(f.wait, id)
	delete(f.payload, c)
	own, _ := c.User.(block.Buffer)
	c.User = nil
	c.Release()
	if own.Len() > 0 {
		f.thread.Pool().Free(own)
	}
	if ch != nil {
		ch <- a
	}
}

func (f *fakeConn) Ready(c *Command) { f.arrive(c) }

// arrive brings the host's data, at once or as an event of its own.
func (f *fakeConn) arrive(c *Command) {
	if c.Transfer == TransferFromHost && !c.Refused {
		if c.InCapsule == 0 && f.late {
			f.thread.Post(func() {
				if f.isGone {
					return
				}
				copy(c.Data.Bytes(), f.payload[c])
				f.q.Execute(c)
			})
			return
		}
		copy(c.Data.Bytes(), f.payload[c])
	}
	f.q.Execute(c)
}

func (f *fakeConn) Close(reason error) {
	select {
	case f.closed <- reason:
	default:
	}
	f.lose(reason)
}

// lose is a transport that loses its connection: it releases what it holds.
func (f *fakeConn) lose(reason error) {
	if f.isGone {
		return
	}
	f.isGone = true
	f.q.Gone(reason)
	for c := range f.payload {
		if c.state == commandBegun {
			own, _ := c.User.(block.Buffer)
			c.User = nil
			delete(f.payload, c)
			c.Release()
			if own.Len() > 0 {
				f.thread.Pool().Free(own)
			}
		}
	}
}

// gone loses the connection.
func (f *fakeConn) gone() {
	onThread(f.thread, func() bool { f.lose(errors.New("connection reset")); return true })
}

// dial makes a connection on a thread.
func (r *rig) dial(thread int) *fakeConn { return r.dialAt(thread, "ap1", nvme.TransportTCP) }

func (r *rig) dialAt(thread int, ap string, tr nvme.TransportType) *fakeConn {
	f := &fakeConn{
		r: r, thread: r.threads[thread], closed: make(chan error, 1),
		wait: map[nvme.CommandID]chan answer{}, payload: map[*Command][]byte{},
	}
	onThread(f.thread, func() bool {
		f.q = r.target.NewQueue(f, ConnInfo{
			Thread: f.thread, AccessPointID: ap, TransportType: tr, LocalURL: "nvme-tcp://127.0.0.1:4420",
			Peer: "test", InCapsuleData: 8192,
		})
		return true
	})
	r.conns = append(r.conns, f)
	return f
}

// post sends a command and returns where its answer will come.
func (f *fakeConn) post(cmd nvme.Command, data []byte) chan answer {
	ch := make(chan answer, 1)
	f.thread.Post(func() {
		if f.isGone {
			close(ch)
			return
		}
		f.cid++
		cmd.SetCID(f.cid)
		f.send(cmd, data, ch)
	})
	return ch
}

// send is called on the thread with a command that has its identifier.
func (f *fakeConn) send(cmd nvme.Command, data []byte, ch chan answer) {
	c := f.q.Get()
	if c == nil {
		if ch != nil {
			close(ch)
		}
		return
	}
	if ch != nil {
		f.wait[cmd.CID()] = ch
	}
	c.SQE = cmd
	if s := cmd.SGL1(); s.Is(nvme.SGLLastSegment, nvme.SGLOffset) {
		c.Segment, data = data, nil
	} else if s.Is(nvme.SGLDataBlock, nvme.SGLOffset) {
		c.InCapsule = len(data)
		if f.zeroCopy && len(data) > 0 {
			if b, ok := f.thread.Pool().Alloc(len(data)); ok {
				copy(b.Bytes(), data)
				c.Data, c.User = b, b
			}
		}
	}
	f.payload[c] = data
	f.q.Begin(c)
	if !c.Parked {
		f.arrive(c)
	}
}

func (f *fakeConn) get(ch chan answer) *answer {
	f.r.t.Helper()
	select {
	case a, ok := <-ch:
		if !ok {
			f.r.t.Fatal("the connection is gone")
		}
		return &a
	case <-time.After(patience):
		f.r.t.Fatal("no completion")
		panic("unreachable")
	}
}

// do sends a command and waits for its answer.
func (f *fakeConn) do(cmd nvme.Command, data []byte) *answer {
	f.r.t.Helper()
	return f.get(f.post(cmd, data))
}

// ok is do for a command that must succeed.
func (f *fakeConn) ok(cmd nvme.Command, data []byte) *answer {
	f.r.t.Helper()
	a := f.do(cmd, data)
	if !a.Status().OK() {
		f.r.t.Fatalf("opcode %02xh: %v", uint8(cmd.Opcode()), a.Status())
	}
	return a
}

// fails is do for a command that must end with st.
func (f *fakeConn) fails(st nvme.Status, cmd nvme.Command, data []byte) *answer {
	f.r.t.Helper()
	a := f.do(cmd, data)
	if a.Status().Code() != st.Code() {
		f.r.t.Fatalf("opcode %02xh: %v, want %v", uint8(cmd.Opcode()), a.Status(), st)
	}
	return a
}

// waitClosed waits until the front end closes the connection.
func (f *fakeConn) waitClosed(want error) {
	f.r.t.Helper()
	select {
	case err := <-f.closed:
		if !errors.Is(err, want) {
			f.r.t.Fatalf("closed with %v, want %v", err, want)
		}
	case <-time.After(patience):
		f.r.t.Fatal("not closed")
	}
}

// toHost is a command with room for n bytes.
func toHost(c nvme.Command, n int) nvme.Command {
	c.SetPSDT(nvme.PSDTSGL)
	c.SetSGL1(nvme.TransportSGL(uint32(n)))
	return c
}

// fromHost is a command whose n bytes of data the transport fetches.
func fromHost(c nvme.Command, n int) nvme.Command { return toHost(c, n) }

// inCapsule is a command with n bytes of data in its capsule.
func inCapsule(c nvme.Command, n int) nvme.Command {
	c.SetPSDT(nvme.PSDTSGL)
	c.SetSGL1(nvme.InCapsule(0, uint32(n)))
	return c
}

// connectCommand is a valid Connect; data are its parameters.
func connectCommand(qid nvme.QueueID, entries uint32, kato uint32) nvme.Connect {
	return nvme.Connect{SGL: nvme.InCapsule(0, nvme.ConnectDataSize), Queue: qid, Entries: entries, KeepAlive: kato}
}

func connectData(id nvme.ControllerID) nvme.ConnectData {
	return nvme.ConnectData{HostID: hostID, Controller: id, SubsystemNQN: testNQN, HostNQN: hostNQN}
}

// host is a connected host: an Admin queue and I/O queues.
type host struct {
	*fakeConn // Admin
	id        nvme.ControllerID
	io        []*fakeConn
}

// association is that of the host; the fake core gives both the same number.
func (h *host) association() uint64 { return uint64(h.id) }

func propertyGet(p nvme.Property) nvme.Command {
	return nvme.PropertyGet{Size: p.Size(), Offset: p}.Command()
}

func setCC(v nvme.Config) nvme.Command {
	return nvme.PropertySet{Size: 4, Offset: nvme.PropertyCC, Value: uint64(v)}.Command()
}

// connect makes a host with an enabled controller and so many I/O queues.
func (r *rig) connect(queues int) *host {
	r.t.Helper()
	return r.connectAs(connectData(nvme.DynamicControllerID), queues, 0)
}

func (r *rig) connectAs(d nvme.ConnectData, queues int, kato uint32) *host {
	r.t.Helper()
	h := &host{fakeConn: r.dial(0)}
	a := h.ok(connectCommand(0, 32, kato).Command(), d.Append(nil))
	h.id = nvme.ParseConnectResult(a.DW0()).Controller
	h.ok(setCC(nvme.MakeConfig(nvme.SelectNVM)), nil)
	if st := nvme.ControllerStatus(h.ok(propertyGet(nvme.PropertyCSTS), nil).DW0()); !st.Ready() {
		r.t.Fatalf("CSTS is %x after enabling", st)
	}
	for i := range queues {
		h.addQueue(nvme.QueueID(i+1), d)
	}
	return h
}

func (h *host) addQueue(id nvme.QueueID, d nvme.ConnectData) *fakeConn {
	h.r.t.Helper()
	c := h.r.dial(int(id) % len(h.r.threads))
	d.Controller = h.id
	c.ok(connectCommand(id, 64, 0).Command(), d.Append(nil))
	h.io = append(h.io, c)
	return c
}

// io command builders

func rw(op nvme.Opcode, nsid nvme.NSID, lba nvme.LBA, blocks nvme.BlockCount, bytes int) nvme.Command {
	var c nvme.Command
	c.SetOpcode(op)
	c.SetNSID(nsid)
	c.SetStartLBA(lba)
	c.SetBlocks(blocks)
	return toHost(c, bytes)
}

func plain(op nvme.Opcode, nsid nvme.NSID) nvme.Command {
	var c nvme.Command
	c.SetOpcode(op)
	c.SetNSID(nsid)
	c.SetPSDT(nvme.PSDTSGL)
	return c
}

func getLog(id nvme.LogID, n int) nvme.Command {
	return toHost(nvme.GetLogPage{LID: id, Length: uint64(n), NSID: nvme.BroadcastNSID}.Command(), n)
}

func identify(cns nvme.CNS, nsid nvme.NSID) nvme.Command {
	return toHost(nvme.Identify{CNS: cns, NSID: nsid}.Command(), nvme.IdentifySize)
}

func getFeature(id nvme.FeatureID, nsid nvme.NSID, sel nvme.FeatureSelect, v uint32) nvme.Command {
	return nvme.Features{Opcode: nvme.AdminGetFeatures, ID: id, NSID: nsid, Select: sel, Value: v}.Command()
}

func setFeature(id nvme.FeatureID, nsid nvme.NSID, v uint32) nvme.Command {
	return nvme.Features{Opcode: nvme.AdminSetFeatures, ID: id, NSID: nsid, Value: v}.Command()
}
