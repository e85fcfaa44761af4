package portal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/mooring-io/mooring/plugins/frontend-iscsi/internal/device"
	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/block/blocktest"
	"github.com/mooring-io/mooring/sdk/iscsi"
	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/scsi"
	"github.com/mooring-io/mooring/sdk/stream"
)

const (
	testTarget    = "iqn.2026-11.com.example:target"
	guardedTarget = "iqn.2026-11.com.example:guarded"
	testInitiator = "iqn.2026-11.com.example:host"
	testVolume    = 8 << 20 // bytes
	patience      = 20 * time.Second
)

// rig is the whole stack of a plugin process on a core that is played by blocktest and stubCore.
type rig struct {
	t       testing.TB
	core    *blocktest.Core
	volume  *blocktest.Volume
	stub    *stubCore
	portal  *Portal
	address string
}

func newRig(t testing.TB, config func(*Config)) *rig {
	t.Helper()
	core, threads := blocktest.Start(t, blocktest.Options{})
	r := &rig{t: t, core: core, volume: core.AddVolume(testVolume, 512)}
	logger := hclog.NewNullLogger()
	if _, fuzz := t.(*testing.F); testing.Verbose() && !fuzz {
		logger = hclog.New(&hclog.LoggerOptions{Output: testWriter{t}, Level: hclog.Debug})
	}
	r.stub = newStubCore(r.volume.Handle())
	server := device.NewServer(device.Options{Core: r.stub, Logger: logger, Revision: "0.1"})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Run(ctx)
	}()
	cfg := DefaultConfig()
	if config != nil {
		config(&cfg)
	}
	if err := cfg.check(); err != nil {
		t.Fatal(err)
	}
	if !server.Ready(ctx) {
		t.Fatal("the server does not hear of its targets")
	}
	r.portal = New(server, threads, cfg, logger)
	st := r.portal.SetListeners(ctx, []sdk.Listener{{URL: "iscsi://127.0.0.1:0", AccessPointID: "ap"}})
	if st[0].Err != nil {
		t.Fatal(st[0].Err)
	}
	r.address = st[0].URL[len(Scheme)+3:]
	t.Cleanup(func() {
		stop, done := context.WithTimeout(context.Background(), patience)
		defer done()
		if err := r.portal.Stop(stop); err != nil {
			t.Error(err)
		}
		cancel()
		<-ended
		r.empty()
	})
	return r
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

// empty checks that nothing is held once every connection is gone.
func (r *rig) empty() {
	r.t.Helper()
	r.eventually("memory returns", func() bool {
		u, err := r.portal.server.Usage()
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

// pdu is a PDU as it came.
type pdu struct {
	iscsi.Header
	bhs  []byte
	data []byte
}

// host is an initiator that sends what it is told to.
type host struct {
	t      testing.TB
	conn   net.Conn
	in     *bufio.Reader
	link   iscsi.Link
	params iscsi.Params
	cmdSN  iscsi.SN
	itt    iscsi.TaskTag
}

func (r *rig) dial() *host {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return newHost(r.t, conn)
}

func newHost(t testing.TB, conn net.Conn) *host {
	conn.SetDeadline(time.Now().Add(patience))
	return &host{t: t, conn: conn, in: bufio.NewReaderSize(conn, 64<<10), params: iscsi.DefaultParams(), cmdSN: 100}
}

// appender is a PDU's header.
type appender interface{ Append([]byte) []byte }

// bytes is a PDU with its data as it goes over the wire.
func (h *host) bytes(p appender, data []byte) []byte {
	b := h.link.SealHeader(p.Append(nil), 0)
	return h.link.AppendTail(append(b, data...), data)
}

func (h *host) send(p appender, data []byte) { h.raw(h.bytes(p, data)) }

func (h *host) raw(b []byte) {
	h.t.Helper()
	if _, err := h.conn.Write(b); err != nil {
		h.t.Fatal(err)
	}
}

// receive returns the next PDU; io.EOF when there is none.
func (h *host) receive() (pdu, error) {
	b := make([]byte, iscsi.HeaderSize)
	if _, err := io.ReadFull(h.in, b); err != nil {
		return pdu{}, err
	}
	hd, _, _ := iscsi.ParseHeader(b)
	rest := make([]byte, h.link.HeaderLen(hd)-len(b)+hd.DataBytes+h.link.TailLen(hd.DataBytes))
	if _, err := io.ReadFull(h.in, rest); err != nil {
		return pdu{}, err
	}
	if h.link.HeaderDigest {
		if iscsi.ParseDigest(rest) != iscsi.Digest(b) {
			h.t.Fatalf("%s with a wrong header digest", hd.Opcode)
		}
		rest = rest[iscsi.DigestSize:]
	}
	padded := hd.DataBytes + iscsi.Padding(hd.DataBytes)
	if h.link.DataDigest && hd.DataBytes > 0 && iscsi.ParseDigest(rest[padded:]) != iscsi.Digest(rest[:padded]) {
		h.t.Fatalf("%s with a wrong data digest", hd.Opcode)
	}
	return pdu{hd, b, rest[:hd.DataBytes]}, nil
}

// expect returns the next PDU, which must be of this kind.
func (h *host) expect(want iscsi.Opcode) pdu {
	h.t.Helper()
	p, err := h.receive()
	if err != nil || p.Opcode != want {
		h.t.Fatalf("got %s, %v; want %s", p.Opcode, err, want)
	}
	return p
}

// closed expects that the target ends the connection, whatever it says before.
func (h *host) closed() {
	h.t.Helper()
	for {
		if _, err := h.receive(); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, unix.ECONNRESET) {
				h.t.Fatalf("the connection does not end: %v", err)
			}
			return
		}
	}
}

// loginPDU is a login straight to the full feature phase.
func (h *host) loginPDU(pairs ...string) []byte {
	text := []byte(strings.Join(pairs, "\x00") + "\x00")
	q := iscsi.LoginRequest{Transit: true, Current: iscsi.StageOperational, Next: iscsi.StageFullFeature, ISID: iscsi.ISID{0x40}, CmdSN: h.cmdSN, DataBytes: len(text)}
	return h.bytes(&q, text)
}

var plain = []string{"InitiatorName=" + testInitiator, "TargetName=" + testTarget}

// login logs in with more keys than those of plain, and takes the first unit attention.
func (r *rig) login(keys ...string) *host {
	r.t.Helper()
	h := r.dial()
	h.login(append(append([]string{}, plain...), keys...)...)
	h.ready(scsi.ASCReset)
	return h
}

func (h *host) login(pairs ...string) {
	h.t.Helper()
	h.raw(h.loginPDU(pairs...))
	p := h.expect(iscsi.OpLoginResponse)
	resp, _, _ := iscsi.ParseLoginResponse(p.bhs)
	if resp.Status != 0 || !resp.Transit || resp.Next != iscsi.StageFullFeature || resp.TSIH == 0 {
		h.t.Fatalf("login: %+v", resp)
	}
	got, err := iscsi.ParseText(p.data)
	if err != nil {
		h.t.Fatal(err)
	}
	wish := iscsi.DefaultParams()
	wish.HeaderDigest, wish.DataDigest, wish.InitialR2T, wish.MaxBurst, wish.FirstBurst, wish.MaxOutstandingR2T = true, true, false, 16<<20-1, 16<<20-1, 8
	for _, g := range got {
		if err := h.params.Accept(&wish, g.Key, g.Value); err != nil {
			h.t.Fatal(err)
		}
	}
	h.link = iscsi.Link{HeaderDigest: h.params.HeaderDigest, DataDigest: h.params.DataDigest}
}

// order numbers the next command.
func (h *host) order() iscsi.Order {
	h.cmdSN++
	return iscsi.Order{CmdSN: h.cmdSN - 1}
}

func (h *host) tag() iscsi.TaskTag {
	h.itt++
	return h.itt
}

// result is how a command ended.
type result struct {
	status          scsi.Status
	sense           scsi.Sense
	in              []byte
	over, under     bool
	residual        uint32
	r2ts, dataIns   int
	rejects         []iscsi.RejectReason
	unsolicitedSent int
}

// command makes a SCSI command that sends out and expects in bytes.
func (h *host) command(cdb []byte, out []byte, in int) iscsi.SCSICommand {
	c := iscsi.SCSICommand{Order: h.order(), Final: true, Read: in > 0, Write: len(out) > 0, ITT: h.tag(), ExpectedLength: uint32(max(in, len(out)))}
	copy(c.CDB[:], cdb)
	return c
}

// do carries out a command as a well-behaved initiator does.
func (h *host) do(cdb []byte, out []byte, in int) result {
	h.t.Helper()
	c := h.command(cdb, out, in)
	first := min(len(out), int(h.params.FirstBurst), int(h.params.MaxBurst))
	if h.params.InitialR2T && !h.params.ImmediateData {
		first = 0
	}
	if h.params.ImmediateData {
		c.DataBytes = min(first, int(h.params.MaxRecvData))
		if h.params.InitialR2T {
			first = c.DataBytes
		}
	}
	c.Final = c.DataBytes == first
	h.send(&c, out[:c.DataBytes])
	for at, sn := c.DataBytes, iscsi.SN(0); at < first; sn++ {
		n := min(first-at, int(h.params.MaxRecvData))
		h.send(&iscsi.DataOut{ITT: c.ITT, TTT: iscsi.NoTag, DataSN: sn, Offset: uint32(at), DataBytes: n, Final: at+n == first}, out[at:at+n])
		at += n
	}
	res := h.finish(c.ITT, out)
	res.unsolicitedSent = first
	return res
}

// finish takes what comes until a command has ended.
func (h *host) finish(itt iscsi.TaskTag, out []byte) result {
	h.t.Helper()
	var res result
	for {
		p, err := h.receive()
		if err != nil {
			h.t.Fatalf("while a command is carried out: %v", err)
		}
		switch p.Opcode {
		case iscsi.OpR2T:
			q, _, _ := iscsi.ParseR2T(p.bhs)
			res.r2ts++
			h.solicited(q, out)
		case iscsi.OpDataIn:
			d, _, _ := iscsi.ParseDataIn(p.bhs)
			if int(d.Offset) != len(res.in) || int(d.DataSN) != res.dataIns || d.ITT != itt {
				h.t.Fatalf("data out of order: %+v", d)
			}
			res.dataIns++
			res.in = append(res.in, p.data...)
			if d.HasStatus {
				res.status, res.over, res.under, res.residual = scsi.Status(d.Status), d.Overflow, d.Underflow, d.Residual
				return res
			}
		case iscsi.OpSCSIResponse:
			q, _, _ := iscsi.ParseSCSIResponse(p.bhs)
			if q.ITT != itt {
				h.t.Fatalf("answer to another command: %+v", q)
			}
			res.status, res.over, res.under, res.residual = scsi.Status(q.Status), q.Overflow, q.Underflow, q.Residual
			if len(p.data) > 2 {
				if res.sense, err = scsi.ParseSense(p.data[2:]); err != nil {
					h.t.Fatal(err)
				}
			}
			return res
		case iscsi.OpReject:
			q, _, _ := iscsi.ParseReject(p.bhs)
			res.rejects = append(res.rejects, q.Reason)
		default:
			h.t.Fatalf("%s while a command is carried out", p.Opcode)
		}
	}
}

// solicited answers an R2T.
func (h *host) solicited(q iscsi.R2T, out []byte) {
	end := int(q.Offset + q.Length)
	for at, sn := int(q.Offset), iscsi.SN(0); at < end; sn++ {
		n := min(end-at, int(h.params.MaxRecvData))
		h.send(&iscsi.DataOut{LUN: q.LUN, ITT: q.ITT, TTT: q.TTT, DataSN: sn, Offset: uint32(at), DataBytes: n, Final: at+n == end}, out[at:at+n])
		at += n
	}
}

// ready expects TEST UNIT READY to end with a unit attention, or none.
func (h *host) ready(want scsi.ASC) {
	h.t.Helper()
	res := h.do(make([]byte, 6), nil, 0)
	if want == 0 && res.status != scsi.StatusGood || want != 0 && res.sense.Key != (scsi.ASCKey{Key: scsi.UnitAttention, ASC: want}) {
		h.t.Fatalf("TEST UNIT READY: %v, %v", res.status, res.sense.Key)
	}
}

func cdb(o scsi.Opcode, lba uint64, blocks uint32) []byte {
	c := scsi.Access{LBA: lba, Blocks: blocks}.CDB(o)
	return c[:]
}

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i) + byte(i>>9) + seed
	}
	return b
}

// roundTrip writes and reads back.
func (h *host) roundTrip(lba uint64, n int, seed byte) (write, read result) {
	h.t.Helper()
	data := pattern(n, seed)
	write = h.do(cdb(scsi.Write16, lba, uint32(n/512)), data, 0)
	read = h.do(cdb(scsi.Read16, lba, uint32(n/512)), nil, n)
	if write.status != scsi.StatusGood || read.status != scsi.StatusGood || string(read.in) != string(data) {
		h.t.Fatalf("write %v %v, read %v %v, right data %t", write.status, write.sense, read.status, read.sense, string(read.in) == string(data))
	}
	return write, read
}

// healthy checks that a well-behaved initiator is served.
func (r *rig) healthy() {
	r.t.Helper()
	h := r.login("HeaderDigest=CRC32C", "DataDigest=CRC32C")
	h.roundTrip(8, 64<<10, 3)
	h.logout()
}

func (h *host) logout() {
	h.t.Helper()
	h.send(&iscsi.LogoutRequest{Order: iscsi.Order{Immediate: true, CmdSN: h.cmdSN}, ITT: h.tag()}, nil)
	p := h.expect(iscsi.OpLogoutResponse)
	if q, _, _ := iscsi.ParseLogoutResponse(p.bhs); q.Result != iscsi.LogoutClosed {
		h.t.Fatalf("logout: %v", q.Result)
	}
	h.closed()
}

// feed hands the portal a connection on which an initiator sends b, cut into segments of cut bytes, and nothing more.
// It returns when the portal has closed it.
func (r *rig) feed(b []byte, cut int) {
	r.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := unix.SetNonblock(pair[0], true); err != nil {
		r.t.Fatal(err)
	}
	f := os.NewFile(uintptr(pair[1]), "initiator")
	conn, err := net.FileConn(f)
	if err != nil {
		r.t.Fatal(err)
	}
	f.Close()
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if err := r.portal.server.Adopt(pair[0], "ap", "fuzz"); err != nil {
		r.t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, conn)
		read <- err
	}()
	for len(b) > 0 {
		n := min(cut, len(b))
		if _, err := conn.Write(b[:n]); err != nil {
			break // the portal has had enough
		}
		b = b[n:]
	}
	_ = conn.(*net.UnixConn).CloseWrite()
	if err := <-read; err != nil {
		if n, ok := err.(net.Error); ok && n.Timeout() {
			r.t.Fatal("the portal did not close the connection")
		}
	}
}

// secret is what initiators of guardedTarget prove to know.
const secret = "a secret of 16 bytes"

// stubCore grants every initiator LUN 0, those of guardedTarget with a proof only.
type stubCore struct {
	proto.CoreClient
	handle  block.Handle
	updates chan *proto.Update

	mu     sync.Mutex
	last   uint64
	ended  []*proto.DissociateRequest // guarded by mu
	answer *proto.AssociateResponse   // instead of a grant; guarded by mu
}

func newStubCore(h block.Handle) *stubCore {
	c := &stubCore{handle: h, updates: make(chan *proto.Update, 8)}
	x := &proto.Exports{}
	for _, name := range []string{testTarget, guardedTarget} {
		x.Targets = append(x.Targets, &proto.Target{Iqn: name, AllowAnyHost: true, Authenticate: name == guardedTarget, Units: []*proto.Namespace{{
			Nsid: 1, VolumeId: "6ba7b810-9dad-11d1-80b4-00c04fd430c8", Nguid: make([]byte, 16), Eui64: make([]byte, 8), SizeBytes: testVolume, BlockBytes: 512,
		}}})
	}
	x.Targets[1].Address = "192.0.2.100:3260" // for discovery; a redirector's
	for i := range 40 {                       // for discovery
		x.Targets = append(x.Targets, &proto.Target{Iqn: fmt.Sprintf("%s-%02d", testTarget, i), AllowedHosts: []string{testInitiator + "-2"}})
	}
	c.updates <- &proto.Update{Update: &proto.Update_Exports{Exports: x}}
	return c
}

func (c *stubCore) Watch(ctx context.Context, _ *proto.WatchRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[proto.Update], error) {
	return &stubStream{ctx: ctx, updates: c.updates}, nil
}

func (c *stubCore) Authenticate(_ context.Context, r *proto.AuthenticateRequest, _ ...grpc.CallOption) (*proto.AuthenticateResponse, error) {
	a, ch := r.Answer, r.Answer.GetChallenge()
	right := iscsi.CHAPResponse(iscsi.CHAPAlgorithm(ch.Algorithm), uint8(ch.Identifier), []byte(secret), ch.Challenge)
	if !iscsi.CHAPEqual(right, a.Response) || a.Name != testInitiator || r.Subsystem != guardedTarget {
		return &proto.AuthenticateResponse{Message: "the secret is another"}, nil
	}
	return &proto.AuthenticateResponse{Ok: true, Proof: 42}, nil
}

func (c *stubCore) Associate(_ context.Context, r *proto.AssociateRequest, _ ...grpc.CallOption) (*proto.AssociateResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answer != nil {
		return c.answer, nil
	}
	if r.Subsystem == guardedTarget && r.Proof != 42 {
		return &proto.AssociateResponse{Result: proto.AssociateResult_ASSOCIATE_NO_PROOF, Message: "no proof"}, nil
	}
	c.last++
	return &proto.AssociateResponse{
		Association: c.last, ControllerId: uint32(c.last % 0xffef),
		Grants: &proto.Grants{Association: c.last, Grants: []*proto.Grant{{
			Nsid: 1, Handle: c.handle.Index, HandleGeneration: c.handle.Generation, AnaState: proto.AnaState_ANA_OPTIMIZED,
		}}},
	}, nil
}

func (c *stubCore) Dissociate(_ context.Context, r *proto.DissociateRequest, _ ...grpc.CallOption) (*proto.DissociateResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = append(c.ended, r)
	return &proto.DissociateResponse{}, nil
}

func (c *stubCore) Reserve(context.Context, *proto.ReserveRequest, ...grpc.CallOption) (*proto.ReserveResponse, error) {
	return &proto.ReserveResponse{State: &proto.ReservationState{}}, nil
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
