package portal

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mooring-io/mooring/sdk/iscsi"
	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/ring"
	"github.com/mooring-io/mooring/sdk/scsi"
)

// Data moves in every combination of what sessions may agree on about it, and as they have agreed.
func TestTransfers(t *testing.T) {
	r := newRig(t, nil)
	sizes := []int{512, 4096, 8192, 20 << 10, 64 << 10, 300 << 10, 1 << 20}
	for _, initialR2T := range []string{"Yes", "No"} {
		for _, immediate := range []string{"Yes", "No"} {
			for _, digest := range []string{"None", "CRC32C"} {
				for _, burst := range []string{"8192", "262144"} {
					keys := []string{
						"InitialR2T=" + initialR2T, "ImmediateData=" + immediate, "HeaderDigest=" + digest, "DataDigest=" + digest,
						"FirstBurstLength=8192", "MaxBurstLength=" + burst, "MaxOutstandingR2T=2",
					}
					h := r.login(keys...)
					if h.params.InitialR2T != (initialR2T == "Yes") || h.params.ImmediateData != (immediate == "Yes") || h.link.DataDigest != (digest != "None") {
						t.Fatalf("%v: agreed on %+v", keys, h.params)
					}
					for i, n := range sizes {
						write, read := h.roundTrip(uint64(i), n, byte(i))
						rest := n - write.unsolicitedSent
						if want := (rest + int(h.params.MaxBurst) - 1) / int(h.params.MaxBurst); write.r2ts != want {
							t.Errorf("%v: %d R2Ts for %d bytes, want %d", keys, write.r2ts, n, want)
						}
						if want := (n + 8191) / 8192; read.dataIns != want {
							t.Errorf("%v: %d Data-In for %d bytes, want %d", keys, read.dataIns, n, want)
						}
					}
					h.logout()
				}
			}
		}
	}
}

// What a command moves more or less than the initiator expected is the residual. 11.4.5
func TestResiduals(t *testing.T) {
	r := newRig(t, nil)
	h := r.login()
	for name, c := range map[string]struct {
		cdb         []byte
		out         []byte
		in          int
		over, under bool
		residual    uint32
		got         int
	}{
		"a read as expected":          {cdb(scsi.Read10, 0, 2), nil, 1024, false, false, 0, 1024},
		"a read of less":              {cdb(scsi.Read10, 0, 2), nil, 2000, false, true, 976, 1024},
		"a read of more":              {cdb(scsi.Read10, 0, 2), nil, 600, true, false, 424, 600},
		"a read without data":         {cdb(scsi.Read10, 0, 2), nil, 0, true, false, 1024, 0},
		"a write as expected":         {cdb(scsi.Write10, 0, 2), make([]byte, 1024), 0, false, false, 0, 0},
		"a write of less":             {cdb(scsi.Write10, 0, 2), make([]byte, 2048), 0, false, true, 1024, 0},
		"a write of more":             {cdb(scsi.Write10, 0, 2), make([]byte, 512), 0, true, false, 512, 0},
		"an answer that is shorter":   {[]byte{0x12, 0, 0, 0, 36, 0}, nil, 255, false, true, 219, 36},
		"no data where there is none": {make([]byte, 6), nil, 100, false, true, 100, 0},
	} {
		res := h.do(c.cdb, c.out, c.in)
		if res.status != scsi.StatusGood || res.over != c.over || res.under != c.under || res.residual != c.residual || len(res.in) != c.got {
			t.Errorf("%s: %v, %v, overflow %t, underflow %t, residual %d, %d bytes; want %+v", name, res.status, res.sense, res.over, res.under, res.residual, len(res.in), c)
		}
	}
}

// Discovery lists what the initiator may use, in as many PDUs as it takes.
func TestDiscovery(t *testing.T) {
	r := newRig(t, nil)
	targets := func(h *host, what string) (names, addresses []string) {
		t.Helper()
		text := []byte("SendTargets=" + what + "\x00")
		q := iscsi.TextRequest{Order: iscsi.Order{Immediate: true, CmdSN: h.cmdSN}, Final: true, ITT: h.tag(), TTT: iscsi.NoTag, DataBytes: len(text)}
		h.send(&q, text)
		var all []byte
		for {
			p := h.expect(iscsi.OpTextResponse)
			a, _, _ := iscsi.ParseTextResponse(p.bhs)
			if len(p.data) > int(512) {
				t.Fatalf("a PDU with %d bytes of text for an initiator that takes 512", len(p.data))
			}
			all = append(all, p.data...)
			if a.Final {
				break
			}
			h.send(&iscsi.TextRequest{Order: iscsi.Order{Immediate: true, CmdSN: h.cmdSN}, Final: true, ITT: q.ITT, TTT: a.TTT}, nil)
		}
		pairs, err := iscsi.ParseText(all)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pairs {
			switch p.Key {
			case iscsi.KeyTargetName:
				names = append(names, p.Value)
			case iscsi.KeyTargetAddress:
				addresses = append(addresses, p.Value)
			default:
				names = append(names, p.Key+"="+p.Value)
			}
		}
		return names, addresses
	}
	h := r.dial()
	h.login("InitiatorName="+testInitiator, "SessionType=Discovery", "MaxRecvDataSegmentLength=512")
	if names, at := targets(h, "All"); !slices.Equal(names, []string{guardedTarget, testTarget}) || !slices.Equal(at, []string{"192.0.2.100:3260,1", r.address + ",1"}) {
		t.Errorf("targets %v at %v", names, at)
	}
	if res := h.exchangeReject(&iscsi.SCSICommand{Order: iscsi.Order{Immediate: true, CmdSN: h.cmdSN}, Final: true, ITT: h.tag()}); res != iscsi.RejectProtocolError {
		t.Errorf("a command in a discovery session: %v", res)
	}
	h.logout()
	h = r.dial()
	h.login("InitiatorName="+testInitiator+"-2", "SessionType=Discovery", "MaxRecvDataSegmentLength=512")
	if names, _ := targets(h, "All"); len(names) != 42 {
		t.Errorf("%d targets", len(names))
	}
	if names, _ := targets(h, testTarget+"-07"); !slices.Equal(names, []string{testTarget + "-07"}) {
		t.Errorf("targets %v", names)
	}
	h.logout()
	h = r.login("MaxRecvDataSegmentLength=512")
	if names, _ := targets(h, ""); !slices.Equal(names, []string{testTarget}) {
		t.Errorf("targets %v of a normal session", names)
	}
	if names, _ := targets(h, "All"); !slices.Equal(names, []string{"SendTargets=Reject"}) {
		t.Errorf("all targets in a normal session: %v", names)
	}
	h.logout()
}

// exchangeReject sends a PDU that must be rejected, and returns the reason.
func (h *host) exchangeReject(p appender) iscsi.RejectReason {
	h.t.Helper()
	h.send(p, nil)
	in := h.expect(iscsi.OpReject)
	q, _, _ := iscsi.ParseReject(in.bhs)
	if sent := p.Append(nil); !bytes.Equal(in.data, sent[:iscsi.HeaderSize]) {
		h.t.Fatal("a reject without the header of what was rejected")
	}
	return q.Reason
}

// Who is to prove who he is does it, or stays out.
func TestCHAP(t *testing.T) {
	r := newRig(t, nil)
	try := func(secret string) iscsi.LoginResponse {
		h := r.dial()
		send := func(transit bool, pairs ...string) ([]iscsi.Pair, iscsi.LoginResponse) {
			text := []byte(strings.Join(pairs, "\x00") + "\x00")
			h.send(&iscsi.LoginRequest{Transit: transit, Next: iscsi.StageFullFeature, ISID: iscsi.ISID{0x40}, CmdSN: h.cmdSN, DataBytes: len(text)}, text)
			p := h.expect(iscsi.OpLoginResponse)
			resp, _, _ := iscsi.ParseLoginResponse(p.bhs)
			got, err := iscsi.ParseText(p.data)
			if err != nil {
				t.Fatal(err)
			}
			return got, resp
		}
		if _, resp := send(false, "InitiatorName="+testInitiator, "TargetName="+guardedTarget, "AuthMethod=CHAP"); resp.Status != 0 {
			t.Fatal(resp.Status)
		}
		got, _ := send(false, "CHAP_A=7,5")
		if len(got) != 3 || got[0] != (iscsi.Pair{Key: "CHAP_A", Value: "7"}) {
			t.Fatal(got)
		}
		id, err := iscsi.ParseNumber(got[1].Value)
		if err != nil {
			t.Fatal(err)
		}
		challenge, err := iscsi.ParseBinary(got[2].Value, 1024)
		if err != nil || len(challenge) < 16 {
			t.Fatal(got, err)
		}
		_, resp := send(true, "CHAP_N="+testInitiator, "CHAP_R="+iscsi.FormatBinary(iscsi.CHAPResponse(iscsi.CHAPSHA256, uint8(id), []byte(secret), challenge)))
		if resp.Status != 0 {
			h.closed()
		} else {
			h.ready(scsi.ASCReset)
		}
		return resp
	}
	if resp := try(secret); resp.Status != 0 || !resp.Transit {
		t.Errorf("with the secret: %+v", resp)
	}
	if resp := try(secret + "x"); resp.Status != iscsi.LoginAuthenticationError {
		t.Errorf("with another secret: %v", resp.Status)
	}
}

// What the core says to a login is what the initiator hears, and a redirection leads on.
func TestLoginAnswers(t *testing.T) {
	r := newRig(t, nil)
	for result, want := range map[proto.AssociateResult]iscsi.LoginStatus{
		proto.AssociateResult_ASSOCIATE_NO_SUBSYSTEM:     iscsi.LoginNotFound,
		proto.AssociateResult_ASSOCIATE_HOST_NOT_ALLOWED: iscsi.LoginAuthorizationError,
		proto.AssociateResult_ASSOCIATE_BUSY:             iscsi.LoginOutOfResources,
		proto.AssociateResult_ASSOCIATE_NOT_READY:        iscsi.LoginServiceUnavailable,
		proto.AssociateResult_ASSOCIATE_NO_PROOF:         iscsi.LoginAuthenticationError,
		proto.AssociateResult_ASSOCIATE_ELSEWHERE:        iscsi.LoginMovedTemporarily,
	} {
		r.stub.mu.Lock()
		r.stub.answer = &proto.AssociateResponse{Result: result, Message: "so it is", Address: "192.0.2.7:3260"}
		r.stub.mu.Unlock()
		h := r.dial()
		h.raw(h.loginPDU(plain...))
		p := h.expect(iscsi.OpLoginResponse)
		resp, _, _ := iscsi.ParseLoginResponse(p.bhs)
		moved := string(p.data) == "TargetAddress=192.0.2.7:3260\x00"
		if resp.Status != want || moved != (want == iscsi.LoginMovedTemporarily) {
			t.Errorf("%v: %v, %q", result, resp.Status, p.data)
		}
		h.closed()
	}
}

// The rules of order: what is outside of the window is ignored, what is missing ends the session. 4.2.2.1
func TestCommandOrder(t *testing.T) {
	r := newRig(t, func(c *Config) { c.QueueDepth = 4 })
	h := r.login()
	late := h.command(make([]byte, 6), nil, 0)
	late.CmdSN -= 5
	h.send(&late, nil)
	early := h.command(make([]byte, 6), nil, 0)
	early.CmdSN += 40
	h.send(&early, nil)
	h.cmdSN -= 2
	h.ready(0)

	r.core.Hold()
	var tags []iscsi.TaskTag
	for range 4 {
		c := h.command(cdb(scsi.Read10, 0, 1), nil, 512)
		tags = append(tags, c.ITT)
		h.send(&c, nil)
	}
	over := h.command(cdb(scsi.Read10, 0, 1), nil, 512) // the window is closed
	h.send(&over, nil)
	h.cmdSN--
	ping := iscsi.NopOut{Order: iscsi.Order{Immediate: true, CmdSN: h.cmdSN}, ITT: h.tag(), TTT: iscsi.NoTag}
	h.send(&ping, nil)
	q, _, _ := iscsi.ParseNopIn(h.expect(iscsi.OpNopIn).bhs)
	if q.MaxCmdSN != q.ExpCmdSN-1 || q.ExpCmdSN != h.cmdSN {
		t.Errorf("with a full queue: %+v, next is %d", q.Window, h.cmdSN)
	}
	r.eventually("the commands arrive", func() bool { return r.core.Held() == 4 })
	r.core.Release()
	for range tags {
		p := h.expect(iscsi.OpDataIn)
		i := slices.Index(tags, p.ITT)
		if i < 0 {
			t.Fatalf("an answer to %d", p.ITT)
		}
		tags = slices.Delete(tags, i, i+1)
	}
	h.ready(0)

	again := h.command(cdb(scsi.Read10, 0, 1), nil, 512)
	again.CmdSN++ // one is missing
	h.send(&again, nil)
	h.closed()
	r.healthy()
}

// Wrong data fails its command when the sequence is over, and only that. 11.7, 7.8
func TestWrongData(t *testing.T) {
	r := newRig(t, nil)
	for name, c := range map[string]struct {
		edit    func(sn int, d *iscsi.DataOut)
		rejects []iscsi.RejectReason
		asc     scsi.ASC
	}{
		"as it should be":             {func(int, *iscsi.DataOut) {}, nil, 0},
		"a DataSN that is left out":   {func(i int, d *iscsi.DataOut) { d.DataSN += iscsi.SN(i) }, []iscsi.RejectReason{iscsi.RejectProtocolError}, scsi.ASCDataPhase},
		"an offset that is wrong":     {func(i int, d *iscsi.DataOut) { d.Offset += uint32(i) * 512 }, []iscsi.RejectReason{iscsi.RejectProtocolError}, scsi.ASCDataPhase},
		"a final bit that is missing": {func(i int, d *iscsi.DataOut) { d.Final = false }, []iscsi.RejectReason{iscsi.RejectProtocolError}, scsi.ASCDataPhase},
		"a final bit too early":       {func(i int, d *iscsi.DataOut) { d.Final = true }, []iscsi.RejectReason{iscsi.RejectProtocolError}, scsi.ASCDataPhase},
	} {
		h := r.login("InitialR2T=Yes", "ImmediateData=No")
		data := pattern(8192, 1)
		cmd := h.command(cdb(scsi.Write10, 100, 16), data, 0)
		h.send(&cmd, nil)
		q, _, _ := iscsi.ParseR2T(h.expect(iscsi.OpR2T).bhs)
		for i := range 2 {
			d := iscsi.DataOut{ITT: q.ITT, TTT: q.TTT, DataSN: iscsi.SN(i), Offset: uint32(i) * 4096, DataBytes: 4096, Final: i == 1}
			c.edit(i, &d)
			h.send(&d, data[i*4096:][:4096])
			if d.Final && i == 0 {
				break
			}
		}
		res := h.finish(cmd.ITT, data)
		if !slices.Equal(res.rejects, c.rejects) || c.asc == 0 && res.status != scsi.StatusGood || c.asc != 0 && res.sense.Key != (scsi.ASCKey{Key: scsi.AbortedCommand, ASC: c.asc}) {
			t.Errorf("%s: rejects %v, %v, %v", name, res.rejects, res.status, res.sense.Key)
		}
		h.roundTrip(0, 4096, 5)
		h.logout()
	}
	// Data for what is not there.
	h := r.login()
	if why := h.exchangeReject(&iscsi.SCSICommand{Order: iscsi.Order{CmdSN: h.cmdSN}, Final: true, ITT: iscsi.NoTag}); why != iscsi.RejectProtocolError {
		t.Errorf("a command with the reserved tag: %v", why)
	}
	h.cmdSN++
	h.send(&iscsi.DataOut{ITT: 77, TTT: iscsi.NoTag, DataBytes: 512, Final: true}, make([]byte, 512)) // of a task that was aborted, maybe
	h.ready(0)
	cmd := h.command(cdb(scsi.Write10, 100, 16), make([]byte, 8192), 0)
	h.send(&cmd, nil)
	q, _, _ := iscsi.ParseR2T(h.expect(iscsi.OpR2T).bhs)
	if why := h.exchangeRejectData(&iscsi.DataOut{ITT: q.ITT, TTT: q.TTT + 9, DataBytes: 512, Final: true}, 512); why != iscsi.RejectProtocolError {
		t.Errorf("data for an R2T that was not sent: %v", why)
	}
	if why := h.exchangeRejectData(&iscsi.DataOut{ITT: q.ITT, TTT: iscsi.NoTag, DataBytes: 512, Final: true}, 512); why != iscsi.RejectProtocolError {
		t.Errorf("data that was not asked for: %v", why)
	}
	h.solicited(q, make([]byte, 8192))
	if res := h.finish(cmd.ITT, nil); res.status != scsi.StatusGood {
		t.Errorf("the command after that: %v", res.status)
	}
	// More immediate data than was agreed on. 13.14
	big := h.command(cdb(scsi.Write10, 0, 256), make([]byte, 128<<10), 0)
	big.DataBytes = 128 << 10
	h.send(&big, make([]byte, 128<<10))
	if res := h.finish(big.ITT, nil); res.sense.Key != (scsi.ASCKey{Key: scsi.AbortedCommand, ASC: scsi.ASCUnexpectedData}) {
		t.Errorf("too much immediate data: %v, %v", res.status, res.sense.Key)
	}
	h.logout()
}

func (h *host) exchangeRejectData(p appender, n int) iscsi.RejectReason {
	h.t.Helper()
	h.send(p, make([]byte, n))
	q, _, _ := iscsi.ParseReject(h.expect(iscsi.OpReject).bhs)
	return q.Reason
}

// A wrong header digest ends the connection, a wrong data digest what it was for. 7.8
func TestDigests(t *testing.T) {
	r := newRig(t, nil)
	digests := []string{"HeaderDigest=CRC32C", "DataDigest=CRC32C"}
	for _, n := range []int{512, 64 << 10} { // whole in the receive window, or not
		h := r.login(append(digests, "FirstBurstLength=262144")...)
		cmd := h.command(cdb(scsi.Write10, 0, uint32(n/512)), make([]byte, n), 0)
		cmd.DataBytes = n
		b := h.bytes(&cmd, pattern(n, 1))
		b[len(b)-9] ^= 1 // the last data byte but some
		h.raw(b)
		if res := h.finish(cmd.ITT, nil); res.sense.Key != (scsi.ASCKey{Key: scsi.AbortedCommand, ASC: scsi.ASCDigestError}) {
			t.Errorf("%d bytes of damaged immediate data: %v, %v", n, res.status, res.sense.Key)
		}
		h.roundTrip(0, n, 2)
		ping := iscsi.NopOut{Order: iscsi.Order{Immediate: true, CmdSN: h.cmdSN}, ITT: h.tag(), TTT: iscsi.NoTag, DataBytes: 100}
		b = h.bytes(&ping, make([]byte, 100))
		b[len(b)-1] ^= 1
		h.raw(b)
		if q, _, _ := iscsi.ParseReject(h.expect(iscsi.OpReject).bhs); q.Reason != iscsi.RejectDataDigest {
			t.Errorf("a damaged ping: %v", q.Reason)
		}
		b = h.bytes(&iscsi.NopOut{Order: iscsi.Order{Immediate: true, CmdSN: h.cmdSN}, ITT: h.tag(), TTT: iscsi.NoTag}, nil)
		b[20] ^= 1
		h.raw(b)
		h.closed()
	}
	h := r.login(append(digests, "InitialR2T=Yes", "ImmediateData=No")...)
	cmd := h.command(cdb(scsi.Write10, 0, 2), make([]byte, 1024), 0)
	h.send(&cmd, nil)
	q, _, _ := iscsi.ParseR2T(h.expect(iscsi.OpR2T).bhs)
	b := h.bytes(&iscsi.DataOut{ITT: q.ITT, TTT: q.TTT, DataBytes: 1024, Final: true}, make([]byte, 1024))
	b[len(b)-1] ^= 1
	h.raw(b)
	res := h.finish(cmd.ITT, nil)
	if !slices.Equal(res.rejects, []iscsi.RejectReason{iscsi.RejectDataDigest}) || res.sense.Key.ASC != scsi.ASCDigestError {
		t.Errorf("damaged data: %v, %v", res.rejects, res.sense.Key)
	}
	h.logout()
}

// Pings are answered with what they bring, and an initiator that answers none is gone. 11.18, 11.19
func TestPings(t *testing.T) {
	r := newRig(t, func(c *Config) { c.PingInterval = minTimeout })
	h := r.login("MaxRecvDataSegmentLength=512")
	data := pattern(1000, 1)
	var got pdu
	h.send(&iscsi.NopOut{Order: h.order(), ITT: h.tag(), TTT: iscsi.NoTag, DataBytes: len(data)}, data)
	for {
		got = h.expect(iscsi.OpNopIn)
		q, _, _ := iscsi.ParseNopIn(got.bhs)
		if got.ITT != iscsi.NoTag {
			if q.TTT != iscsi.NoTag || got.ITT != h.itt || !bytes.Equal(got.data, data[:512]) {
				t.Errorf("answer %+v with %d bytes", q, len(got.data))
			}
			break
		}
	}
	for range 3 { // an initiator that answers stays
		q, _, _ := iscsi.ParseNopIn(h.expect(iscsi.OpNopIn).bhs)
		h.send(&iscsi.NopOut{Order: iscsi.Order{Immediate: true, CmdSN: h.cmdSN}, ITT: iscsi.NoTag, TTT: q.TTT}, nil)
	}
	h.closed()
	r.eventually("the core hears of the end", func() bool {
		r.stub.mu.Lock()
		defer r.stub.mu.Unlock()
		return len(r.stub.ended) == 1
	})
}

// Task management is answered when what it is about has ended, and its task is not answered. 11.5
func TestTaskManagement(t *testing.T) {
	r := newRig(t, nil)
	h, other := r.login(), r.login()
	ask := func(f iscsi.TaskFunction, edit func(*iscsi.TaskRequest)) iscsi.TaskResult {
		t.Helper()
		q := iscsi.TaskRequest{Order: iscsi.Order{Immediate: true, CmdSN: h.cmdSN}, Function: f, ITT: h.tag(), RefTag: iscsi.NoTag}
		if edit != nil {
			edit(&q)
		}
		h.send(&q, nil)
		a, _, _ := iscsi.ParseTaskResponse(h.expect(iscsi.OpTaskResponse).bhs)
		if a.ITT != q.ITT {
			t.Fatalf("%+v", a)
		}
		return a.Result
	}
	r.core.Hold()
	read := h.command(cdb(scsi.Read10, 0, 1), nil, 512)
	h.send(&read, nil)
	write := h.command(cdb(scsi.Write10, 0, 256), make([]byte, 128<<10), 0)
	h.send(&write, nil)
	h.expect(iscsi.OpR2T) // and no data follows
	r.eventually("the read arrives", func() bool { return r.core.Held() == 1 })
	for _, tag := range []iscsi.TaskTag{read.ITT, write.ITT} {
		if res := ask(iscsi.AbortTask, func(q *iscsi.TaskRequest) { q.RefTag = tag }); res != iscsi.TaskComplete {
			t.Errorf("abort of a task: %v", res)
		}
	}
	r.core.Release()
	if res := ask(iscsi.AbortTask, func(q *iscsi.TaskRequest) { q.RefTag = read.ITT }); res != iscsi.TaskDoesNotExist {
		t.Errorf("abort of a task that is over: %v", res)
	}
	for f, want := range map[iscsi.TaskFunction]iscsi.TaskResult{
		iscsi.AbortTaskSet: iscsi.TaskComplete, iscsi.ClearTaskSet: iscsi.TaskComplete, iscsi.TaskReassign: iscsi.TaskNoReassign,
		iscsi.ClearACA: iscsi.TaskNotSupported, 99: iscsi.TaskRejected,
	} {
		if res := ask(f, nil); res != want {
			t.Errorf("%v: %v, want %v", f, res, want)
		}
	}
	for _, f := range []iscsi.TaskFunction{iscsi.AbortTaskSet, iscsi.ClearTaskSet, iscsi.LogicalReset} {
		if res := ask(f, func(q *iscsi.TaskRequest) { q.LUN[1] = 9 }); res != iscsi.TaskNoLUN {
			t.Errorf("%v of a unit that is not there: %v", f, res)
		}
	}
	h.ready(0)
	for f, asc := range map[iscsi.TaskFunction]scsi.ASC{
		iscsi.LogicalReset: scsi.ASCUnitReset, iscsi.TargetWarmReset: scsi.ASCBusReset, iscsi.TargetColdReset: scsi.ASCPowerOn,
	} {
		if res := ask(f, nil); res != iscsi.TaskComplete {
			t.Errorf("%v: %v", f, res)
		}
		h.ready(asc)
		other.ready(asc)
		h.ready(0)
		other.ready(0)
	}
	h.logout()
	other.logout()
}

// What we do not offer is rejected, and the session goes on.
func TestNotOffered(t *testing.T) {
	r := newRig(t, nil)
	h := r.login()
	raw := func(opcode byte) iscsi.RejectReason {
		t.Helper()
		return h.exchangeReject(header(opcode))
	}
	if why := raw(0x40 | byte(iscsi.OpSNACK)); why != iscsi.RejectSNACK {
		t.Errorf("SNACK: %v", why)
	}
	if why := raw(0x40 | 0x1c); why != iscsi.RejectNotSupported {
		t.Errorf("a vendor's opcode: %v", why)
	}
	for reason, want := range map[iscsi.LogoutReason]iscsi.LogoutResult{iscsi.LogoutConnection: iscsi.LogoutNoCID, iscsi.LogoutRecovery: iscsi.LogoutNoRecovery} {
		h.send(&iscsi.LogoutRequest{Order: h.order(), Reason: reason, CID: 9, ITT: h.tag()}, nil)
		if q, _, _ := iscsi.ParseLogoutResponse(h.expect(iscsi.OpLogoutResponse).bhs); q.Result != want {
			t.Errorf("logout with reason %d: %v, want %v", reason, q.Result, want)
		}
	}
	text := []byte("X-com.example.z=1\x00MaxBurstLength=512\x00MaxRecvDataSegmentLength=1024\x00")
	h.send(&iscsi.TextRequest{Order: h.order(), Final: true, ITT: h.tag(), TTT: iscsi.NoTag, DataBytes: len(text)}, text)
	if p := h.expect(iscsi.OpTextResponse); string(p.data) != "X-com.example.z=NotUnderstood\x00MaxBurstLength=Reject\x00" {
		t.Errorf("text: %q", p.data)
	}
	if _, read := h.roundTrip(0, 4096, 1); read.dataIns != 4 {
		t.Errorf("%d Data-In for 4096 bytes with segments of 1024", read.dataIns)
	}
	h.raw(h.loginPDU(plain...))
	h.expect(iscsi.OpReject)
	h.closed()
	r.healthy()
}

// header is a PDU of which only the opcode is known.
type header byte

func (o header) Append(b []byte) []byte {
	return append(b, append([]byte{byte(o), 0x80}, make([]byte, iscsi.HeaderSize-2)...)...)
}

// The core may end a session, and have one move.
func TestCoreEndsSession(t *testing.T) {
	r := newRig(t, nil)
	h := r.login()
	r.stub.updates <- &proto.Update{Update: &proto.Update_Move{Move: &proto.AssociationMove{Association: 1, Seconds: 10, Reason: "drain"}}}
	if a, _, _ := iscsi.ParseAsyncMessage(h.expect(iscsi.OpAsyncMessage).bhs); a.Event != iscsi.AsyncLogout || a.Parameter3 != 10 {
		t.Errorf("%+v", a)
	}
	h.ready(0)
	h.logout()
	h = r.login()
	r.stub.updates <- &proto.Update{Update: &proto.Update_End{End: &proto.AssociationEnd{Association: 2, Reason: "not allowed any more"}}}
	if a, _, _ := iscsi.ParseAsyncMessage(h.expect(iscsi.OpAsyncMessage).bhs); a.Event != iscsi.AsyncDropSession {
		t.Errorf("%+v", a)
	}
	h.closed()
	h = r.login()
	r.stub.updates <- &proto.Update{Update: &proto.Update_Move{Move: &proto.AssociationMove{Association: 3, Seconds: 1, Reason: "drain"}}}
	h.expect(iscsi.OpAsyncMessage)
	h.expect(iscsi.OpAsyncMessage) // it does not go by itself
	h.closed()
}

// hostile is what initiators may send that breaks the protocol, after a login or before.
func hostile() map[string]struct {
	before bool
	bytes  []byte
} {
	l := iscsi.Link{}
	pad := func(p appender, n int) []byte { return append(l.SealHeader(p.Append(nil), 0), make([]byte, n)...) }
	login := iscsi.LoginRequest{Transit: true, Current: iscsi.StageOperational, Next: iscsi.StageFullFeature, DataBytes: 1 << 20}
	command := iscsi.SCSICommand{Order: iscsi.Order{CmdSN: 101}, Final: true, ITT: 50}
	return map[string]struct {
		before bool
		bytes  []byte
	}{
		"nothing known":                {true, []byte(strings.Repeat("GET / HTTP/1.1\r\n", 20))},
		"zeros":                        {true, make([]byte, 4096)},
		"a command before the login":   {true, pad(&command, 0)},
		"a login with a lot of text":   {true, pad(&login, 1<<20)},
		"a PDU that is too long":       {false, pad(&iscsi.NopOut{Order: iscsi.Order{Immediate: true}, ITT: 1, DataBytes: 16<<20 - 1}, 4096)},
		"a command from the future":    {false, pad(&iscsi.SCSICommand{Order: iscsi.Order{CmdSN: 110}, ITT: 1, Final: true}, 0)},
		"a PDU of a target":            {false, pad(header(0x21), 4096)},
		"many immediate commands":      {false, bytes.Repeat(pad(&iscsi.SCSICommand{Order: iscsi.Order{Immediate: true, CmdSN: 101}, ITT: 7, Final: true, Write: true, ExpectedLength: 1 << 30}, 0), 100)},
		"data for nothing, much of it": {false, bytes.Repeat(pad(&iscsi.DataOut{ITT: 9, TTT: 3, DataBytes: 4096}, 4096), 50)},
		"text without an end":          {false, bytes.Repeat(pad(&iscsi.TextRequest{Order: iscsi.Order{Immediate: true, CmdSN: 101}, Continue: true, ITT: 3, TTT: iscsi.NoTag, DataBytes: 8192}, 8192), 200)},
	}
}

// Nobody who breaks the protocol disturbs another session, or takes memory that does not come back.
func TestHostileInitiators(t *testing.T) {
	r := newRig(t, func(c *Config) { c.LoginTimeout = 2 * time.Second })
	witness := r.login()
	for name, x := range hostile() {
		h := r.dial()
		b := x.bytes
		if !x.before {
			b = append(h.loginPDU(plain...), b...)
		}
		r.feed(b, 1<<20)
		r.feed(b, 13)
		if t.Failed() {
			t.Fatal(name)
		}
		h.conn.Close()
		witness.roundTrip(64, 8192, 1)
	}
	slow := r.dial() // says nothing
	slow.closed()
	witness.logout()
	r.healthy()
}

// A connection that ends after any byte of a login and a write leaves nothing, and nothing else is written.
func TestEveryPrefix(t *testing.T) {
	r := newRig(t, nil)
	h := newHost(t, r.dial().conn)
	var b []byte
	b = append(b, h.loginPDU(append(slices.Clone(plain), "InitialR2T=No", "HeaderDigest=CRC32C", "DataDigest=CRC32C")...)...)
	h.link = iscsi.Link{HeaderDigest: true, DataDigest: true}
	for range 2 { // the first takes the unit attention
		c := h.command(cdb(scsi.Write10, 0, 1), make([]byte, 512), 0)
		c.Final, c.DataBytes = false, 256
		b = append(b, h.bytes(&c, pattern(256, 1))...)
		b = append(b, h.bytes(&iscsi.DataOut{ITT: c.ITT, TTT: iscsi.NoTag, Offset: 256, DataBytes: 256, Final: true}, pattern(256, 1))...)
	}
	for n := range len(b) {
		r.feed(b[:n], 1<<20)
		got := make([]byte, 512)
		if _, err := r.volume.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, make([]byte, 512)) {
			t.Fatalf("after %d of %d bytes there is something on the volume", n, len(b))
		}
	}
	r.healthy()
}

// The configuration's bounds are kept.
func TestConfig(t *testing.T) {
	if c, err := ParseConfig([]byte(`{"queue_depth": 8, "data_digest": false}`)); err != nil || c.QueueDepth != 8 || c.DataDigest || !c.HeaderDigest {
		t.Errorf("%+v, %v", c, err)
	}
	for _, bad := range []string{`{"queue_depth": 1}`, `{"queue_depth": 5000}`, `{"max_connections": 1}`, `{"login_timeout": 1}`, `{"ping_interval": 1}`, `[]`} {
		if c, err := ParseConfig([]byte(bad)); err == nil {
			t.Errorf("%s is %+v", bad, c)
		}
	}
	r := newRig(t, func(c *Config) { c.DataDigest = false })
	h := r.login("DataDigest=CRC32C,None", "HeaderDigest=CRC32C,None")
	if h.link.DataDigest || !h.link.HeaderDigest {
		t.Errorf("agreed on %+v", h.link)
	}
	h.logout()
}

// A command that the core does not answer is not waited for when the initiator has left.
func TestLeavesWithCommands(t *testing.T) {
	r := newRig(t, nil)
	h := r.login()
	r.core.Intercept(func(*ring.Entry) (ring.Status, bool) { return 0, false })
	r.core.Hold()
	for range 8 {
		c := h.command(cdb(scsi.Read10, 0, 8), nil, 4096)
		h.send(&c, nil)
	}
	r.eventually("the commands arrive", func() bool { return r.core.Held() == 8 })
	h.conn.Close()
	r.eventually("the core hears of the end", func() bool {
		r.stub.mu.Lock()
		defer r.stub.mu.Unlock()
		return len(r.stub.ended) == 1 && !r.stub.ended[0].Clean
	})
	r.core.Release()
	r.healthy()
}

// FuzzConnection sends anything to a connection, before and after a login, with and without digests. Nothing may crash,
// hang or be left behind.
func FuzzConnection(f *testing.F) {
	for _, x := range hostile() {
		short := x.bytes[:min(len(x.bytes), 256)] // long ones take the fuzzer minutes to make smaller
		f.Add(byte(0), short)
		f.Add(byte(1), short)
	}
	h := &host{t: f, cmdSN: 100}
	for _, digests := range []bool{false, true} {
		h.link = iscsi.Link{HeaderDigest: digests, DataDigest: digests}
		kind := byte(1)
		if digests {
			kind = 3
		}
		h.cmdSN = 100
		write := h.command(cdb(scsi.Write10, 0, 1), make([]byte, 512), 0)
		write.DataBytes = 512
		read := h.command(cdb(scsi.Read16, 0, 64), nil, 32<<10)
		b := append(h.bytes(&write, make([]byte, 512)), h.bytes(&read, nil)...)
		f.Add(kind, append(h.bytes(&iscsi.NopOut{Order: iscsi.Order{Immediate: true, CmdSN: 100}, ITT: 4, DataBytes: 8}, make([]byte, 8)), b...))
		f.Add(kind|4, append(b, h.bytes(&iscsi.TaskRequest{Order: iscsi.Order{Immediate: true, CmdSN: 102}, Function: iscsi.LogicalReset, ITT: 9}, nil)...))
		f.Add(kind, h.bytes(&iscsi.LogoutRequest{Order: iscsi.Order{Immediate: true, CmdSN: 100}, ITT: 4}, nil))
	}
	if b, err := hex.DecodeString("438700000000004f400000000000000000000005000000000000006400000000"); err == nil {
		f.Add(byte(0), b)
	}
	r := newRig(f, nil)
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		rt := *r
		rt.t = t
		h := &host{t: t, cmdSN: 100}
		var all []byte
		if kind&1 != 0 {
			keys := slices.Clone(plain)
			if kind&2 != 0 {
				keys = append(keys, "HeaderDigest=CRC32C", "DataDigest=CRC32C")
			}
			all = h.loginPDU(append(keys, fmt.Sprintf("InitialR2T=%s", map[bool]string{true: "Yes", false: "No"}[kind&4 != 0]))...)
		}
		cut := 1 << 20
		if kind&8 != 0 {
			cut = 1 + int(kind>>4)*7
		}
		rt.feed(append(all, b...), cut)
		rt.empty()
	})
}
