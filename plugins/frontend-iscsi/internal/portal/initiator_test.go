package portal

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/mooring-io/mooring/sdk/hostio"
	"github.com/mooring-io/mooring/sdk/iscsi"
	"github.com/mooring-io/mooring/sdk/iscsihost"
	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/scsi"
)

// initiator opens a session of our own initiator that has heard of the unit's reset.
func (r *rig) initiator(o iscsihost.Options) (*hostio.Loop, *iscsihost.Session) {
	r.t.Helper()
	loop, err := hostio.NewLoop()
	if err != nil {
		r.t.Fatal(err)
	}
	s, err := iscsihost.Open(r.t.Context(), loop, r.address, testTarget, o)
	if err != nil {
		loop.Close()
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		s.Close()
		loop.Close()
	})
	r.news(s)
	return loop, s
}

// news takes the unit attention that a new nexus has.
func (r *rig) news(s *iscsihost.Session) {
	r.t.Helper()
	var st *iscsihost.StatusError
	if err := s.Do(r.t.Context(), &iscsihost.IO{}); !errors.As(err, &st) || st.Sense.Key.Key != scsi.UnitAttention {
		r.t.Fatalf("the first command of a nexus: %v", err)
	}
}

// writeAndRead writes n bytes and reads them back.
func (r *rig) writeAndRead(s *iscsihost.Session, n int, seed byte) {
	r.t.Helper()
	data := pattern(n, seed)
	a := scsi.Access{LBA: 8, Blocks: uint32(n / 512)}
	if err := s.Do(r.t.Context(), &iscsihost.IO{CDB: a.CDB(scsi.Write16), Data: data, Write: true}); err != nil {
		r.t.Fatal(err)
	}
	got := make([]byte, n)
	if err := s.Do(r.t.Context(), &iscsihost.IO{CDB: a.CDB(scsi.Read16), Data: got}); err != nil || !bytes.Equal(got, data) {
		r.t.Fatalf("read: %v, right data %t", err, bytes.Equal(got, data))
	}
}

// Data goes both ways under every way to send it that can be negotiated.
func TestInitiatorParameters(t *testing.T) {
	r := newRig(t, nil)
	for i := range 16 {
		_, s := r.initiator(iscsihost.Options{HeaderDigest: i&1 != 0, DataDigest: i&2 != 0, Tune: func(p *iscsi.Params) {
			p.InitialR2T, p.ImmediateData = i&4 != 0, i&8 != 0
			p.FirstBurst, p.MaxBurst, p.MaxRecvData = 8<<10, 16<<10, 4096
		}})
		if p := s.Params(); p.HeaderDigest != (i&1 != 0) || p.InitialR2T != (i&4 != 0) || p.ImmediateData != (i&8 != 0) || p.MaxBurst != 16<<10 {
			t.Fatalf("negotiated: %+v", p)
		}
		r.writeAndRead(s, 200<<10, byte(i))
		if err := s.Logout(); err != nil {
			t.Fatal(err)
		}
	}
}

// A command that asks for fewer bytes than there is room for has a residual, and one with a wrong field has sense data.
func TestInitiatorResidual(t *testing.T) {
	r := newRig(t, nil)
	_, s := r.initiator(iscsihost.Options{})
	io := iscsihost.IO{CDB: scsi.Access{Blocks: 2}.CDB(scsi.Read16), Data: make([]byte, 4096)}
	if err := s.Do(t.Context(), &io); err != nil || io.Residual != 3072 {
		t.Errorf("too much room: %v, residual %d", err, io.Residual)
	}
	io = iscsihost.IO{CDB: scsi.Access{Blocks: 8}.CDB(scsi.Read16), Data: make([]byte, 512)}
	if err := s.Do(t.Context(), &io); err != nil || io.Residual != -3584 {
		t.Errorf("too little room: %v, residual %d", err, io.Residual)
	}
	io = iscsihost.IO{CDB: scsi.Access{LBA: testVolume, Blocks: 1}.CDB(scsi.Read16), Data: make([]byte, 512)}
	var st *iscsihost.StatusError
	if err := s.Do(t.Context(), &io); !errors.As(err, &st) || st.Sense.Key.ASC != scsi.ASCLBAOutOfRange {
		t.Errorf("beyond the end: %v", err)
	}
}

// A task that is not answered in time is aborted, and the session goes on.
func TestInitiatorAborts(t *testing.T) {
	r := newRig(t, nil)
	_, s := r.initiator(iscsihost.Options{Timeout: 10 * time.Millisecond})
	r.core.Hold()
	err := s.Do(t.Context(), &iscsihost.IO{CDB: scsi.Access{Blocks: 1}.CDB(scsi.Read16), Data: make([]byte, 512)})
	if !errors.Is(err, iscsihost.ErrTimeout) || s.Err() != nil {
		t.Fatalf("%v; session: %v", err, s.Err())
	}
	r.core.Release()
}

// An initiator follows a redirection to where it is served.
func TestInitiatorRedirected(t *testing.T) {
	first, second := newRig(t, nil), newRig(t, nil)
	first.stub.mu.Lock()
	first.stub.answer = &proto.AssociateResponse{Result: proto.AssociateResult_ASSOCIATE_ELSEWHERE, Address: second.address}
	first.stub.mu.Unlock()
	_, s := first.initiator(iscsihost.Options{})
	if s.Address() != second.address {
		t.Errorf("it is at %s, was sent from %s to %s", s.Address(), first.address, second.address)
	}
	first.writeAndRead(s, 4096, 1)
}

// An initiator that is asked to log out ends what is under way, logs in where it began, is sent on from there, and what
// was submitted meanwhile is carried out.
func TestInitiatorMoves(t *testing.T) {
	first, second := newRig(t, nil), newRig(t, nil)
	moved := ""
	loop, s := first.initiator(iscsihost.Options{OnMove: func(from, to string) { moved = from + " " + to }})
	done := false
	first.core.Hold()
	before := iscsihost.IO{CDB: scsi.Access{Blocks: 1}.CDB(scsi.Read16), Data: make([]byte, 512), Done: func(*iscsihost.IO) { done = true }}
	s.Submit(&before)
	first.turnUntil(loop, func() bool { return first.core.Held() == 1 })
	first.stub.mu.Lock()
	first.stub.answer = &proto.AssociateResponse{Result: proto.AssociateResult_ASSOCIATE_ELSEWHERE, Address: second.address}
	first.stub.mu.Unlock()
	first.stub.updates <- &proto.Update{Update: &proto.Update_Move{Move: &proto.AssociationMove{Association: 1, Seconds: 10, Reason: "drain"}}}
	first.turnUntil(loop, s.Leaving)
	if done {
		t.Error("a command that the core holds has ended")
	}
	after := iscsihost.IO{}
	over := false
	after.Done = func(*iscsihost.IO) { over = true }
	s.Submit(&after) // hears the news of the second nexus
	first.core.Release()
	first.turnUntil(loop, func() bool { return over })
	var st *iscsihost.StatusError
	if !done || before.Result() != nil || moved != first.address+" "+second.address || !errors.As(after.Result(), &st) || st.Sense.Key.Key != scsi.UnitAttention {
		t.Errorf("before the move: %t, %v; moved %q; after it: %v", done, before.Result(), moved, after.Result())
	}
	second.writeAndRead(s, 4096, 1)
}

func (r *rig) turnUntil(loop *hostio.Loop, done func() bool) {
	r.t.Helper()
	r.eventually("the loop gets there", func() bool {
		if err := loop.Turn(time.Millisecond); err != nil {
			r.t.Fatal(err)
		}
		return done()
	})
}
