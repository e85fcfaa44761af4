package device

import (
	"context"
	"encoding/hex"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/block/blocktest"
	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/scsi"
)

const (
	testTarget = "iqn.2026-11.com.example:target"
	volumeID   = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
	otherID    = "7ba7b810-9dad-11d1-80b4-00c04fd430c8"
	patience   = 20 * time.Second
)

// rig is a device server on an I/O thread whose core is played by blocktest and stubCore. LUN 0 has blocks of 512
// bytes, LUN 3 of 4096.
type rig struct {
	t      *testing.T
	core   *blocktest.Core
	thread *block.Thread
	stub   *stubCore
	server *Server
	units  map[uint32]*blocktest.Volume // by NSID
}

const rigBlocks = 4096 // of 512 bytes

func newRig(t *testing.T) *rig {
	t.Helper()
	core, threads := blocktest.Start(t, blocktest.Options{PoolBytes: 4 << 20})
	r := &rig{t: t, core: core, thread: threads[0]}
	r.units = map[uint32]*blocktest.Volume{1: core.AddVolume(rigBlocks*512, 512), 4: core.AddVolume(1<<20, 4096)}
	r.stub = &stubCore{updates: make(chan *proto.Update, 16), live: map[uint64]bool{}}
	r.server = NewServer(Options{Core: r.stub, Revision: "0.1"})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = r.server.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		if left := r.stub.associations(); left > 0 {
			t.Errorf("%d associations were not ended", left)
		}
		used := make(chan int, 1)
		r.thread.Post(func() { used <- r.thread.Pool().InUse() })
		if n := <-used; n != 0 {
			t.Errorf("%d bytes of the pool are in use at the end", n)
		}
	})
	r.export(nil)
	return r
}

// export tells the server of the target, edited.
func (r *rig) export(edit func(*proto.Target)) {
	target := &proto.Target{Iqn: testTarget, AllowAnyHost: true, Units: []*proto.Namespace{
		{Nsid: 1, VolumeId: volumeID, Nguid: unhex(strings.ReplaceAll(volumeID, "-", "")), Eui64: make([]byte, 8), SizeBytes: uint64(r.units[1].Size()), BlockBytes: 512},
		{
			Nsid: 4, VolumeId: otherID, Nguid: unhex(strings.ReplaceAll(otherID, "-", "")), Eui64: make([]byte, 8), SizeBytes: uint64(r.units[4].Size()), BlockBytes: 4096,
			Durability: proto.Durability_DURABILITY_VOLATILE,
		},
	}}
	if edit != nil {
		edit(target)
	}
	r.stub.mu.Lock()
	r.stub.grants = nil
	for _, u := range target.Units {
		h := r.units[u.Nsid].Handle()
		r.stub.grants = append(r.stub.grants, &proto.Grant{
			Nsid: u.Nsid, Handle: h.Index, HandleGeneration: h.Generation, AnaState: proto.AnaState_ANA_OPTIMIZED,
		})
	}
	grants := r.stub.grants
	ids := make([]uint64, 0, len(r.stub.live))
	for id := range r.stub.live {
		ids = append(ids, id)
	}
	r.stub.mu.Unlock()
	r.stub.updates <- &proto.Update{Update: &proto.Update_Exports{Exports: &proto.Exports{Targets: []*proto.Target{target}}}}
	for _, id := range ids {
		r.stub.updates <- &proto.Update{Update: &proto.Update_Grants{Grants: &proto.Grants{Association: id, Grants: grants}}}
	}
}

// port is the transport of one session. Its Complete and Ready run on the thread.
type port struct {
	r      *rig
	nexus  *Nexus
	closed chan error
}

// call is a command and its result.
type call struct {
	out     []byte // that the initiator has
	in      []byte // that it got
	status  scsi.Status
	sense   scsi.Sense
	total   uint64
	aborted bool
	done    chan struct{}
}

// login makes a session of an initiator; its first unit attentions are taken.
func (r *rig) login(name string) *port {
	r.t.Helper()
	p := &port{r: r, closed: make(chan error, 8)}
	for limit := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		verdict := make(chan Verdict, 1)
		r.server.Associate(p, NexusInfo{Thread: r.thread, AccessPointID: "ap", Initiator: name, ISID: [6]byte{1}, Target: testTarget, PortGroup: 1},
			func(n *Nexus, v Verdict) {
				p.nexus = n
				verdict <- v
			})
		v := <-verdict
		if v.Err == nil {
			break
		}
		if time.Now().After(limit) {
			r.t.Fatal(v.Err)
		}
	}
	r.t.Cleanup(func() {
		done := make(chan struct{})
		r.thread.Post(func() {
			p.nexus.Gone()
			close(done)
		})
		<-done
	})
	for _, lun := range []byte{0, 3} {
		p.take(lun, scsi.ASCReset)
	}
	return p
}

func (p *port) Complete(t *Task) {
	c := t.User.(*call)
	c.in = append(c.in, t.Answer...)
	if t.More {
		p.nexus.Continue(t)
		return
	}
	c.status, c.total, c.aborted = t.Status, t.Total, t.Aborted
	if len(t.Sense) > 0 {
		var err error
		if c.sense, err = scsi.ParseSense(t.Sense); err != nil {
			p.r.t.Error(err)
		}
	}
	t.Release()
	close(c.done)
}

func (p *port) Ready(t *Task) { p.move(t) }

func (p *port) Drop(t *Task) { p.nexus.Execute(t) }

func (p *port) Close(reason error) {
	p.closed <- reason
	p.nexus.Gone()
}

func (p *port) Move(time.Duration, string) {}

// move puts the initiator's data in place.
func (p *port) move(t *Task) {
	if !t.Refused && t.Out > t.Base {
		copy(t.Data.Bytes(), t.User.(*call).out[t.Base:t.Out])
	}
	p.nexus.Execute(t)
}

// start begins a command that sends out and expects in bytes.
func (p *port) start(lun byte, cdb []byte, out []byte, in int) *call {
	c := &call{out: out, done: make(chan struct{})}
	p.r.thread.Post(func() {
		t := p.nexus.Get()
		t.User = c
		t.LUN, t.CDB = [8]byte{0, lun}, [16]byte{}
		copy(t.CDB[:], cdb)
		t.Reads, t.Writes, t.Expected = in > 0, len(out) > 0, uint32(max(in, len(out)))
		p.nexus.Begin(t)
		if !t.Parked {
			p.move(t)
		}
	})
	return c
}

func (c *call) wait(t *testing.T) *call {
	t.Helper()
	select {
	case <-c.done:
	case <-time.After(patience):
		t.Fatal("the command does not end")
	}
	return c
}

func (p *port) do(lun byte, cdb []byte, out []byte, in int) *call {
	p.r.t.Helper()
	return p.start(lun, cdb, out, in).wait(p.r.t)
}

// good is a command that must end well; it returns the data.
func (p *port) good(lun byte, cdb []byte, out []byte, in int) []byte {
	p.r.t.Helper()
	c := p.do(lun, cdb, out, in)
	if c.status != scsi.StatusGood || c.aborted {
		p.r.t.Fatalf("command % x: %v, %v", cdb, c.status, c.sense)
	}
	return c.in
}

// take expects a unit attention.
func (p *port) take(lun byte, want scsi.ASC) {
	p.r.t.Helper()
	c := p.do(lun, make([]byte, 6), nil, 0)
	if c.status != scsi.StatusCheckCondition || c.sense.Key != (scsi.ASCKey{Key: scsi.UnitAttention, ASC: want}) {
		p.r.t.Fatalf("LUN %d: %v, %v; want the unit attention %04x", lun, c.status, c.sense.Key, want)
	}
}

// cdb makes a CDB of a range of blocks.
func cdb(o scsi.Opcode, lba uint64, blocks uint32, flags byte) []byte {
	c := scsi.Access{LBA: lba, Blocks: blocks, Flags: flags}.CDB(o)
	return c[:]
}

// hexCDB makes one of hexadecimal digits.
func hexCDB(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i) + byte(i>>9) + seed
	}
	return b
}

func (r *rig) content(nsid uint32, off, n int) []byte {
	r.t.Helper()
	b := make([]byte, n)
	if _, err := r.units[nsid].ReadAt(b, int64(off)); err != nil {
		r.t.Fatal(err)
	}
	return b
}

// stubCore grants every initiator all units, and keeps a reservation that tests set.
type stubCore struct {
	proto.CoreClient
	updates chan *proto.Update

	mu      sync.Mutex
	last    uint64                  // guarded by mu
	live    map[uint64]bool         // guarded by mu
	grants  []*proto.Grant          // guarded by mu
	reserve []*proto.ReserveRequest // that came; guarded by mu
	state   *proto.ReservationState // guarded by mu
	result  proto.ReserveResult     // of changes; guarded by mu
}

func (c *stubCore) associations() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.live)
}

func (c *stubCore) Watch(ctx context.Context, _ *proto.WatchRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[proto.Update], error) {
	return &stubStream{ctx: ctx, updates: c.updates}, nil
}

func (c *stubCore) Associate(context.Context, *proto.AssociateRequest, ...grpc.CallOption) (*proto.AssociateResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	c.live[c.last] = true
	return &proto.AssociateResponse{Association: c.last, ControllerId: uint32(c.last), Grants: &proto.Grants{Association: c.last, Grants: c.grants}}, nil
}

func (c *stubCore) Dissociate(_ context.Context, r *proto.DissociateRequest, _ ...grpc.CallOption) (*proto.DissociateResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.live, r.Association)
	return &proto.DissociateResponse{}, nil
}

func (c *stubCore) Reserve(_ context.Context, r *proto.ReserveRequest, _ ...grpc.CallOption) (*proto.ReserveResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reserve = append(c.reserve, r)
	out := &proto.ReserveResponse{State: c.state}
	if r.Action != proto.ReserveAction_RESERVE_REPORT {
		out.Result = c.result
	}
	return out, nil
}

// set says what the core answers about reservations, and forgets what was asked.
func (c *stubCore) set(s *proto.ReservationState, result proto.ReserveResult) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state, c.result, c.reserve = s, result, nil
}

func (c *stubCore) asked() []*proto.ReserveRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.reserve)
}

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
