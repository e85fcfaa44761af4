package nvmehost

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/mooring-io/mooring/sdk/hostio"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmetcp"
)

// script is a controller that a test plays by hand, one PDU after the other.
type script struct {
	t       *testing.T
	conn    net.Conn
	in, out nvmetcp.Link
	req     nvmetcp.ICReq
	resp    nvmetcp.ICResp
}

// play opens a queue against a controller that answers ICReq with resp (nil: the default).
func play(t *testing.T, cfg QueueConfig, resp func(*nvmetcp.ICResp)) (*hostio.Loop, *Queue, *script) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := &script{t: t}
	accepted := make(chan error, 1)
	go func() { accepted <- s.accept(ln, resp) }()
	loop, err := hostio.NewLoop()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(loop.Close)
	cfg.Address = ln.Addr().String()
	if cfg.Entries == 0 {
		cfg.Entries = 8
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	q, err := Dial(ctx, loop, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	s.in, s.out = nvmetcp.Links(s.req, s.resp, uint32(cfg.InCapsule))
	t.Cleanup(func() { s.conn.Close() })
	return loop, q, s
}

func (s *script) accept(ln net.Listener, edit func(*nvmetcp.ICResp)) error {
	conn, err := ln.Accept()
	if err != nil {
		return err
	}
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, nvmetcp.ICSize)
	if _, err := io.ReadFull(conn, b); err != nil {
		return err
	}
	s.conn = conn
	s.req, _, _ = nvmetcp.ParseICReq(b)
	s.resp = nvmetcp.NewICResp()
	s.resp.HeaderDigest, s.resp.DataDigest = s.req.HeaderDigest, s.req.DataDigest
	if edit != nil {
		edit(&s.resp)
	}
	_, err = conn.Write(s.resp.Append(nil))
	return err
}

// receive returns the next PDU of the host, header and data, digests checked.
func (s *script) receive() (nvmetcp.Header, []byte, []byte) {
	s.t.Helper()
	b := make([]byte, nvmetcp.HeaderSize)
	if _, err := io.ReadFull(s.conn, b); err != nil {
		s.t.Fatal(err)
	}
	h, _, _ := nvmetcp.ParseHeader(b)
	if terr := s.in.Check(h); terr != nil {
		s.t.Fatal(terr)
	}
	b = append(b, make([]byte, int(h.PLEN)-len(b))...)
	if _, err := io.ReadFull(s.conn, b[nvmetcp.HeaderSize:]); err != nil {
		s.t.Fatal(err)
	}
	if s.in.HeaderLen(h) > int(h.HLEN) {
		if terr := nvmetcp.CheckHeaderDigest(b, int(h.HLEN)); terr != nil {
			s.t.Fatal(terr)
		}
	}
	n := s.in.DataLen(h)
	if n == 0 || h.Type == nvmetcp.TypeH2CTermReq {
		return h, b, nil
	}
	data := b[h.PDO:][:n]
	if s.in.DataDigest && nvmetcp.ParseDigest(b[int(h.PDO)+int(n):]) != nvmetcp.Digest(data) {
		s.t.Fatal("data digest of the host does not match")
	}
	return h, b, data
}

func (s *script) command() (nvme.Command, []byte) {
	s.t.Helper()
	h, b, data := s.receive()
	if h.Type != nvmetcp.TypeCapsuleCmd {
		s.t.Fatalf("got %s, want CapsuleCmd", h.Type)
	}
	p, _, _ := nvmetcp.ParseCapsuleCmd(b)
	return *p.Command, data
}

func (s *script) write(b []byte) {
	s.t.Helper()
	if _, err := s.conn.Write(b); err != nil {
		s.t.Fatal(err)
	}
}

func (s *script) respond(cid nvme.CommandID, st nvme.Status) {
	s.t.Helper()
	cqe := nvme.MakeCompletion(cid, 1, st)
	s.write(s.out.AppendCapsuleResp(nil, &cqe))
}

// c2h returns a C2HData of data at off.
func (s *script) c2h(cid nvme.CommandID, off int, data []byte, flags nvmetcp.Flags) []byte {
	d := nvmetcp.Data{CCCID: cid, Offset: uint32(off), Length: uint32(len(data))}
	d.Type, d.Flags = nvmetcp.TypeC2HData, flags
	b := append(s.out.AppendData(nil, d), data...)
	if s.out.DataDigest {
		b = nvmetcp.AppendDigest(b, nvmetcp.Digest(data))
	}
	return b
}

func (s *script) r2t(r nvmetcp.R2T) { s.write(s.out.AppendR2T(nil, r)) }

// spin turns the loop until done.
func spin(t *testing.T, loop *hostio.Loop, done func() bool) {
	t.Helper()
	for limit := time.Now().Add(10 * time.Second); !done(); {
		if time.Now().After(limit) {
			t.Fatal("nothing happened")
		}
		if err := loop.Turn(time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
}

func start(t *testing.T, loop *hostio.Loop, q *Queue, io *IO) (done *bool) {
	t.Helper()
	done = new(bool)
	io.Done = func(*IO) { *done = true }
	q.Submit(io)
	if err := loop.Turn(0); err != nil {
		t.Fatal(err)
	}
	return done
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// digests runs a test with and without digests, and with an odd alignment.
func digests(t *testing.T, fn func(t *testing.T, cfg QueueConfig)) {
	t.Run("plain", func(t *testing.T) { fn(t, QueueConfig{}) })
	t.Run("digests", func(t *testing.T) { fn(t, QueueConfig{HeaderDigest: true, DataDigest: true}) })
	t.Run("aligned", func(t *testing.T) { fn(t, QueueConfig{HeaderDigest: true, Align: 128}) })
}

func TestRead(t *testing.T) {
	digests(t, func(t *testing.T, cfg QueueConfig) {
		loop, q, s := play(t, cfg, nil)
		want := pattern(200 << 10)
		got := IO{Data: make([]byte, len(want))}
		done := start(t, loop, q, &got)
		cmd, _ := s.command()
		if sgl := cmd.SGL1(); sgl != nvme.TransportSGL(uint32(len(want))) {
			t.Fatalf("SGL is %+v", sgl)
		}
		go func() {
			half := len(want) / 2
			s.write(s.c2h(cmd.CID(), 0, want[:half], 0))
			s.write(s.c2h(cmd.CID(), half, want[half:], nvmetcp.FlagLast))
			s.respond(cmd.CID(), nvme.StatusSuccess)
		}()
		spin(t, loop, func() bool { return *done })
		if err := got.Status(); err != nil || string(got.Data) != string(want) {
			t.Fatalf("read: %v, right data %t", err, string(got.Data) == string(want))
		}
		if q.SQHead() != 1 || q.Outstanding() != 0 {
			t.Errorf("SQHD %d, %d outstanding", q.SQHead(), q.Outstanding())
		}
	})
}

func TestWriteInCapsule(t *testing.T) {
	digests(t, func(t *testing.T, cfg QueueConfig) {
		cfg.InCapsule = 8192
		loop, q, s := play(t, cfg, func(r *nvmetcp.ICResp) { r.Align = max(cfg.Align, 4) })
		want := pattern(8192)
		done := start(t, loop, q, &IO{Data: want, Write: true})
		cmd, data := s.command()
		if cmd.SGL1() != nvme.InCapsule(0, 8192) || string(data) != string(want) {
			t.Fatalf("SGL %+v, right data %t", cmd.SGL1(), string(data) == string(want))
		}
		s.respond(cmd.CID(), nvme.StatusSuccess)
		spin(t, loop, func() bool { return *done })
	})
}

// H2CData are cut to MAXH2CDATA, and only the last of each R2T says so. TCP 3.3.2.2
func TestWriteByR2T(t *testing.T) {
	digests(t, func(t *testing.T, cfg QueueConfig) {
		cfg.MaxR2T = 2
		loop, q, s := play(t, cfg, func(r *nvmetcp.ICResp) { r.MaxH2CData = 8192 })
		want := pattern(40 << 10)
		w := &IO{Data: want, Write: true}
		done := start(t, loop, q, w)
		cmd, _ := s.command()
		s.r2t(nvmetcp.R2T{CCCID: cmd.CID(), TTAG: 7, Offset: 0, Length: 20 << 10})
		s.r2t(nvmetcp.R2T{CCCID: cmd.CID(), TTAG: 9, Offset: 20 << 10, Length: 20 << 10})
		got := make([]byte, len(want))
		received := make(chan struct{})
		go func() {
			defer close(received)
			for n := 0; n < len(want); {
				h, b, data := s.receive()
				d, _, _ := nvmetcp.ParseData(b)
				tag, end := nvmetcp.TransferTag(7), 20<<10
				if n >= end {
					tag, end = 9, 40<<10
				}
				if h.Type != nvmetcp.TypeH2CData || d.TTAG != tag || len(data) > 8192 ||
					h.Has(nvmetcp.FlagLast) != (n+len(data) == end) || int(d.Offset) != n {
					t.Errorf("at %d of %d: %+v", n, end, d)
				}
				n += copy(got[d.Offset:], data)
			}
			s.respond(cmd.CID(), nvme.StatusSuccess)
		}()
		spin(t, loop, func() bool { return *done })
		<-received
		if w.Status() != nil || string(got) != string(want) {
			t.Fatalf("write: %v, right data %t", w.Status(), string(got) == string(want))
		}
	})
}

// SUCCESS stands for the response, but only without SQ flow control. TCP 3.3.2.3
func TestSuccessFlag(t *testing.T) {
	for _, noFlow := range []bool{true, false} {
		loop, q, s := play(t, QueueConfig{NoSQFlow: noFlow}, nil)
		r := &IO{Data: make([]byte, 512)}
		done := start(t, loop, q, r)
		cmd, _ := s.command()
		s.write(s.c2h(cmd.CID(), 0, pattern(512), nvmetcp.FlagLast|nvmetcp.FlagSuccess))
		spin(t, loop, func() bool { return *done })
		if (r.Status() == nil) != noFlow {
			t.Errorf("without flow control %t: %v", noFlow, r.Status())
		}
	}
}

// A wrong data digest fails the command alone.
func TestDataDigest(t *testing.T) {
	loop, q, s := play(t, QueueConfig{DataDigest: true}, nil)
	r := &IO{Data: make([]byte, 512)}
	done := start(t, loop, q, r)
	cmd, _ := s.command()
	b := s.c2h(cmd.CID(), 0, pattern(512), nvmetcp.FlagLast)
	b[len(b)-1] ^= 1
	s.write(b)
	s.respond(cmd.CID(), nvme.StatusSuccess)
	spin(t, loop, func() bool { return *done })
	if !errors.Is(r.Status(), ErrDataDigest) || q.Err() != nil {
		t.Errorf("command: %v, queue: %v", r.Status(), q.Err())
	}
}

// What a controller must not send ends the connection with the right H2CTermReq. TCP 3.5
func TestControllerFaults(t *testing.T) {
	read := func(s *script, cid nvme.CommandID, d nvmetcp.Data, n int) []byte {
		d.CCCID, d.Type = cid, nvmetcp.TypeC2HData
		return append(s.out.AppendData(nil, d), make([]byte, n)...)
	}
	for _, tc := range []struct {
		name  string
		write bool
		send  func(s *script, cid nvme.CommandID) []byte
		fes   nvmetcp.FES // 0: no TermReq
	}{
		{"host PDU", false, func(s *script, cid nvme.CommandID) []byte {
			return nvmetcp.NewICReq().Append(nil)
		}, nvmetcp.FESInvalidHeader},
		{"second ICResp", false, func(s *script, cid nvme.CommandID) []byte {
			return nvmetcp.NewICResp().Append(nil)
		}, nvmetcp.FESSequence},
		{"unknown type", false, func(s *script, cid nvme.CommandID) []byte {
			return nvmetcp.Header{Type: 0x55, HLEN: 24, PLEN: 24}.Append(nil)
		}, nvmetcp.FESInvalidHeader},
		{"data for no command", false, func(s *script, cid nvme.CommandID) []byte {
			return read(s, cid+1, nvmetcp.Data{Length: 512}, 512)
		}, nvmetcp.FESInvalidHeader},
		{"data of a write", true, func(s *script, cid nvme.CommandID) []byte {
			return read(s, cid, nvmetcp.Data{Length: 512}, 512)
		}, nvmetcp.FESInvalidHeader},
		{"data out of range", false, func(s *script, cid nvme.CommandID) []byte {
			return read(s, cid, nvmetcp.Data{Length: 65536}, 65536)
		}, nvmetcp.FESOutOfRange},
		{"data out of order", false, func(s *script, cid nvme.CommandID) []byte {
			return read(s, cid, nvmetcp.Data{Offset: 512, Length: 512}, 512)
		}, nvmetcp.FESSequence},
		{"R2T of a read", false, func(s *script, cid nvme.CommandID) []byte {
			return s.out.AppendR2T(nil, nvmetcp.R2T{CCCID: cid, Length: 512})
		}, nvmetcp.FESInvalidHeader},
		{"R2T out of range", true, func(s *script, cid nvme.CommandID) []byte {
			return s.out.AppendR2T(nil, nvmetcp.R2T{CCCID: cid, Length: 1 << 20})
		}, nvmetcp.FESOutOfRange},
		{"R2T out of order", true, func(s *script, cid nvme.CommandID) []byte {
			return s.out.AppendR2T(nil, nvmetcp.R2T{CCCID: cid, Offset: 4, Length: 512})
		}, nvmetcp.FESSequence},
		{"R2Ts above the limit", true, func(s *script, cid nvme.CommandID) []byte {
			b := s.out.AppendR2T(nil, nvmetcp.R2T{CCCID: cid, Length: 512})
			return s.out.AppendR2T(b, nvmetcp.R2T{CCCID: cid, Offset: 512, Length: 512})
		}, nvmetcp.FESLimitExceeded},
		{"response to no command", false, func(s *script, cid nvme.CommandID) []byte {
			cqe := nvme.MakeCompletion(cid+1, 0, 0)
			return s.out.AppendCapsuleResp(nil, &cqe)
		}, nvmetcp.FESSequence},
		{"success without the data", false, func(s *script, cid nvme.CommandID) []byte {
			cqe := nvme.MakeCompletion(cid, 0, 0)
			return s.out.AppendCapsuleResp(nil, &cqe)
		}, nvmetcp.FESSequence},
		{"TermReq", false, func(s *script, cid nvme.CommandID) []byte {
			return nvmetcp.NewTermReq(nvmetcp.Controller, nvmetcp.ErrHLEN, make([]byte, 24)).Append(nil)
		}, 0},
		{"end of file", false, func(s *script, cid nvme.CommandID) []byte { return nil }, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			loop, q, s := play(t, QueueConfig{}, nil)
			w := &IO{Data: make([]byte, 4096), Write: tc.write}
			done := start(t, loop, q, w)
			cmd, _ := s.command()
			if b := tc.send(s, cmd.CID()); b != nil {
				s.write(b)
			} else {
				s.conn.(*net.TCPConn).CloseWrite()
			}
			spin(t, loop, func() bool { return *done })
			if w.Status() == nil || q.Err() == nil {
				t.Fatalf("command: %v, queue: %v", w.Status(), q.Err())
			}
			if tc.fes == 0 {
				return
			}
			h, b, _ := s.receive()
			for h.Type == nvmetcp.TypeH2CData {
				h, b, _ = s.receive()
			}
			if p, _, err := nvmetcp.ParseTermReq(b); err != nil || h.Type != nvmetcp.TypeH2CTermReq || p.FES != tc.fes {
				t.Errorf("got %s %+v (%v), want status %s; queue: %v", h.Type, p, err, tc.fes, q.Err())
			}
		})
	}
}

// A wrong header digest is fatal.
func TestHeaderDigest(t *testing.T) {
	loop, q, s := play(t, QueueConfig{HeaderDigest: true}, nil)
	w := &IO{}
	done := start(t, loop, q, w)
	cmd, _ := s.command()
	cqe := nvme.MakeCompletion(cmd.CID(), 0, 0)
	b := s.out.AppendCapsuleResp(nil, &cqe)
	b[9] ^= 0x80
	s.write(b)
	spin(t, loop, func() bool { return *done })
	_, p, _ := s.receive()
	if r, _, _ := nvmetcp.ParseTermReq(p); r.FES != nvmetcp.FESHeaderDigest || q.Err() == nil {
		t.Errorf("got %+v, queue: %v", r, q.Err())
	}
}

// An answer that breaks off at any byte fails the command cleanly.
func TestEveryPrefix(t *testing.T) {
	for n := 0; ; n++ {
		loop, q, s := play(t, QueueConfig{HeaderDigest: true, DataDigest: true}, nil)
		r := &IO{Data: make([]byte, 64)}
		done := start(t, loop, q, r)
		cmd, _ := s.command()
		cqe := nvme.MakeCompletion(cmd.CID(), 0, 0)
		b := s.out.AppendCapsuleResp(s.c2h(cmd.CID(), 0, pattern(64), nvmetcp.FlagLast), &cqe)
		if n == len(b) {
			return
		}
		s.write(b[:n])
		s.conn.(*net.TCPConn).CloseWrite()
		spin(t, loop, func() bool { return *done })
		if !errors.Is(r.Err, io.ErrUnexpectedEOF) {
			t.Fatalf("after %d bytes: %v", n, r.Err)
		}
		loop.Close()
		s.conn.Close()
	}
}

// More commands than entries wait, in order; closing the queue ends all.
func TestMoreThanEntries(t *testing.T) {
	loop, q, s := play(t, QueueConfig{Entries: 4}, nil)
	var order []int
	ios := make([]IO, 10)
	for i := range ios {
		ios[i].Cmd.SetCDW10(uint32(i))
		ios[i].Done = func(*IO) { order = append(order, i) }
		q.Submit(&ios[i])
	}
	if q.Outstanding() != 3 {
		t.Fatalf("%d outstanding", q.Outstanding())
	}
	for i := range 5 {
		if err := loop.Turn(0); err != nil {
			t.Fatal(err)
		}
		cmd, _ := s.command()
		if int(cmd.CDW10()) != i {
			t.Fatalf("command %d came as number %d", cmd.CDW10(), i)
		}
		s.respond(cmd.CID(), 0)
		spin(t, loop, func() bool { return len(order) == i+1 })
	}
	q.Close()
	if len(order) != 10 || !errors.Is(ios[9].Err, ErrClosed) || ios[4].Err != nil {
		t.Errorf("order %v, last %v", order, ios[9].Err)
	}
}

// A refused ICReq and an ICResp that breaks the rules fail Dial.
func TestHandshakeFaults(t *testing.T) {
	for name, answer := range map[string][]byte{
		"TermReq":        nvmetcp.NewTermReq(nvmetcp.Controller, nvmetcp.ErrPFV, make([]byte, 128)).Append(nil),
		"version":        func() []byte { r := nvmetcp.NewICResp(); r.Version = 1; return r.Append(nil) }(),
		"digest":         func() []byte { r := nvmetcp.NewICResp(); r.DataDigest = true; return r.Append(nil) }(),
		"MAXH2CDATA":     func() []byte { r := nvmetcp.NewICResp(); r.MaxH2CData = 1022; return r.Append(nil) }(),
		"wrong PDU":      nvmetcp.Header{Type: nvmetcp.TypeR2T, HLEN: 24, PLEN: 24}.Append(nil),
		"half ICResp":    nvmetcp.NewICResp().Append(nil)[:64],
		"length lies":    nvmetcp.Header{Type: nvmetcp.TypeICResp, HLEN: 128, PLEN: 1 << 30}.Append(nil),
		"nothing at all": nil,
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go func() {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				_, _ = io.ReadFull(conn, make([]byte, nvmetcp.ICSize))
				_, _ = conn.Write(answer)
			}()
			loop, err := hostio.NewLoop()
			if err != nil {
				t.Fatal(err)
			}
			defer loop.Close()
			if _, err := Dial(context.Background(), loop, QueueConfig{Address: ln.Addr().String(), Entries: 2}); err == nil {
				t.Error("no error")
			}
		})
	}
	t.Run("silence", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			conn, err := ln.Accept()
			if err == nil {
				_, _ = io.ReadFull(conn, make([]byte, nvmetcp.ICSize))
				cancel()
			}
		}()
		loop, err := hostio.NewLoop()
		if err != nil {
			t.Fatal(err)
		}
		defer loop.Close()
		if _, err := Dial(ctx, loop, QueueConfig{Address: ln.Addr().String(), Entries: 2}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}
