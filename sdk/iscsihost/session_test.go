package iscsihost

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk/hostio"
	"github.com/mooring-io/mooring/sdk/iscsi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience   = 20 * time.Second
	testTarget = "iqn.2026-11.com.example:target"
)

// answer is what a played target says to one login request.
type answer struct {
	resp iscsi.LoginResponse
	text []string
}

// play is a target that says what it is told to, whatever it hears; then it sends more, and closes.
func play(t *testing.T, answers []answer, more []byte) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		for i, a := range answers {
			b := make([]byte, iscsi.HeaderSize)
			if _, err := io.ReadFull(c, b); err != nil {
				return
			}
			h, _, _ := iscsi.ParseHeader(b)
			if _, err := io.CopyN(io.Discard, c, int64(h.DataBytes+iscsi.Padding(h.DataBytes))); err != nil {
				return
			}
			q, _, _ := iscsi.ParseLoginRequest(b)
			text := []byte(strings.Join(a.text, "\x00"))
			if len(text) > 0 {
				text = append(text, 0)
			}
			a.resp.ITT, a.resp.StatSN, a.resp.DataBytes = q.ITT, a.resp.StatSN+iscsi.SN(i), len(text)
			a.resp.MaxCmdSN = 64
			if _, err := c.Write((iscsi.Link{}).AppendTail(append(a.resp.Append(nil), text...), text)); err != nil {
				return
			}
		}
		_, _ = c.Write(more)
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	return l.Addr().String()
}

// accept is a target that lets everybody in.
var accept = []answer{
	{iscsi.LoginResponse{Transit: true, Next: iscsi.StageOperational}, []string{"AuthMethod=None"}},
	{iscsi.LoginResponse{Transit: true, Current: iscsi.StageOperational, Next: iscsi.StageFullFeature, TSIH: 1}, nil},
}

func open(t *testing.T, address string, o Options) (*hostio.Loop, *Session, error) {
	loop, err := hostio.NewLoop()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(loop.Close)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	s, err := Open(ctx, loop, address, testTarget, o)
	return loop, s, err
}

// Logins that go wrong end with a reason.
func TestWrongLogins(t *testing.T) {
	mutual := Options{CHAP: CHAP{Secret: "the initiator's", MutualSecret: "the target's"}}
	challenge := answer{iscsi.LoginResponse{}, []string{"CHAP_A=5", "CHAP_I=7", "CHAP_C=0x00112233"}}
	for name, tc := range map[string]struct {
		o       Options
		answers []answer
		want    string
	}{
		"refused":                               {Options{}, []answer{{iscsi.LoginResponse{Status: iscsi.LoginNotFound}, nil}}, "no such target"},
		"elsewhere, but where":                  {Options{}, []answer{{iscsi.LoginResponse{Status: iscsi.LoginMovedTemporarily}, nil}}, "no address"},
		"wrong status number":                   {Options{}, []answer{accept[0], {iscsi.LoginResponse{Window: iscsi.Window{StatSN: 5}, Current: 1}, nil}}, "status number"},
		"hurry":                                 {Options{}, []answer{{iscsi.LoginResponse{Transit: true, Next: iscsi.StageFullFeature}, nil}}, "by itself"},
		"more than offered":                     {Options{}, []answer{accept[0], {iscsi.LoginResponse{Transit: true, Current: 1, Next: 3}, []string{"HeaderDigest=CRC32C"}}}, "HeaderDigest=CRC32C"},
		"no proof is enough for it, not for us": {mutual, []answer{{iscsi.LoginResponse{}, []string{"AuthMethod=None"}}}, "AuthMethod"},
		"it proves nothing":                     {mutual, []answer{{iscsi.LoginResponse{}, []string{"AuthMethod=CHAP"}}, challenge, {iscsi.LoginResponse{Transit: true, Next: 1}, nil}}, "did not prove"},
		"it proves wrongly":                     {mutual, []answer{{iscsi.LoginResponse{}, []string{"AuthMethod=CHAP"}}, challenge, {iscsi.LoginResponse{Transit: true, Next: 1}, []string{"CHAP_N=it", "CHAP_R=0x00112233445566778899aabbccddeeff"}}}, "did not prove"},
		"no challenge":                          {mutual, []answer{{iscsi.LoginResponse{}, []string{"AuthMethod=CHAP"}}, {iscsi.LoginResponse{}, nil}}, "challenge"},
		"no end":                                {Options{}, append([]answer{accept[0]}, endless()...), "does not end"},
		"one secret for both":                   {Options{CHAP: CHAP{Secret: "same", MutualSecret: "same"}}, nil, "proves nothing"},
		"a name without a secret":               {Options{CHAP: CHAP{User: "me"}}, nil, "without a secret"},
	} {
		t.Run(name, func(t *testing.T) {
			address := play(t, tc.answers, nil)
			if tc.answers == nil {
				if c, err := net.Dial("tcp", address); err == nil { // so that the played target ends
					c.Close()
				}
			}
			_, _, err := open(t, address, tc.o)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

func endless() []answer {
	var out []answer
	for range 2 * maxExchanges {
		out = append(out, answer{iscsi.LoginResponse{Current: iscsi.StageOperational}, nil})
	}
	return out
}

// What breaks the protocol ends the session, and with it every command, with a reason.
func TestHostileTarget(t *testing.T) {
	w := iscsi.Window{StatSN: 2, ExpCmdSN: 1, MaxCmdSN: 64}
	pdu := func(p appender, data ...byte) []byte { return append(p.Append(nil), data...) }
	for name, tc := range map[string]struct {
		sent []byte
		want string
	}{
		"nothing known":                  {[]byte(strings.Repeat("GET / HTTP/1.1\r\n", 20)), "opcode 0x07"},
		"it closes":                      {nil, "EOF"},
		"data of nobody":                 {pdu(&iscsi.DataIn{Window: w, ITT: 9}), "wants none"},
		"data in the wrong place":        {pdu(&iscsi.DataIn{Window: w, Offset: 512}), "out of order"},
		"too much data":                  {pdu(&iscsi.DataIn{Window: w, DataBytes: 8192}), "were expected"},
		"good without data":              {pdu(&iscsi.SCSIResponse{Window: w}), "0 of 4096 bytes"},
		"response of nobody":             {pdu(&iscsi.SCSIResponse{Window: w, ITT: 77}), "not outstanding"},
		"wrong status number":            {pdu(&iscsi.SCSIResponse{Window: iscsi.Window{StatSN: 9}}), "status number"},
		"asks a reader for data":         {pdu(&iscsi.R2T{Window: w, Length: 4096}), "has none"},
		"an abort that nobody asked for": {pdu(&iscsi.TaskResponse{Window: w, ITT: abortBit}), "not asked for"},
		"a logout that nobody asked for": {pdu(&iscsi.LogoutResponse{Window: w, ITT: logoutTag}), "not asked for"},
		"reject":                         {pdu(&iscsi.Reject{Window: w, Reason: iscsi.RejectProtocolError}), "protocol error"},
		"drop":                           {pdu(&iscsi.AsyncMessage{Window: w, Event: iscsi.AsyncDropSession}), "drops"},
		"sense that is not there":        {pdu(&iscsi.SCSIResponse{Window: w, Status: 2, DataBytes: 4}, 0, 99, 0, 0), "sense data"},
		"a long PDU":                     {pdu(&iscsi.AsyncMessage{Window: w, DataBytes: maxControl + 1}), "bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			loop, s, err := open(t, play(t, accept, tc.sent), Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			io := IO{Data: make([]byte, 4096)}
			over := false
			io.Done = func(*IO) { over = true }
			s.Submit(&io)
			for limit := time.Now().Add(patience); !over; {
				if err := loop.Turn(10 * time.Millisecond); err != nil || time.Now().After(limit) {
					t.Fatalf("the command does not end: %v", err)
				}
			}
			if s.Err() == nil || !errors.Is(io.Err, s.Err()) || !strings.Contains(s.Err().Error(), tc.want) {
				t.Errorf("command: %v; session: %v", io.Err, s.Err())
			}
		})
	}
}

// FuzzReceive feeds a session whatever a target may send: it ends, or waits for more, and nothing is left of it.
func FuzzReceive(f *testing.F) {
	w := iscsi.Window{StatSN: 2, ExpCmdSN: 1, MaxCmdSN: 64}
	for _, p := range []appender{
		&iscsi.DataIn{Window: w, DataBytes: 4096, HasStatus: true, Final: true}, &iscsi.SCSIResponse{Window: w}, &iscsi.R2T{Window: w, ITT: 1, Length: 4096},
		&iscsi.NopIn{Window: w, ITT: iscsi.NoTag, TTT: 1}, &iscsi.AsyncMessage{Window: w}, &iscsi.TaskResponse{Window: w, ITT: abortBit},
		&iscsi.LogoutResponse{Window: w, ITT: logoutTag}, &iscsi.Reject{Window: w},
	} {
		f.Add(append(p.Append(nil), make([]byte, 4096)...), false)
		f.Add(p.Append(nil), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, digests bool) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[1])
		loop, err := hostio.NewLoop()
		if err != nil {
			t.Fatal(err)
		}
		defer loop.Close()
		s := &Session{loop: loop, own: iscsi.DefaultParams(), first: "127.0.0.1:1"}
		s.back, s.stop = context.WithCancel(context.Background())
		s.stop() // it never comes back
		c := connection{fd: pair[0], link: iscsi.Link{HeaderDigest: digests, DataDigest: digests}, params: iscsi.DefaultParams(), window: w, cmdSN: 1}
		if err := s.attach(c); err != nil {
			t.Fatal(err)
		}
		read, write := IO{Data: make([]byte, 4096)}, IO{Data: make([]byte, 100<<10), Write: true}
		over := 0
		read.Done = func(*IO) { over++ }
		write.Done = read.Done
		s.Submit(&read)
		s.Submit(&write)
		if _, err := unix.Write(pair[1], b[:min(len(b), 64<<10)]); err != nil && err != unix.EAGAIN {
			t.Fatal(err)
		}
		for range 4 {
			if err := loop.Turn(0); err != nil {
				t.Fatal(err)
			}
		}
		s.Close()
		if over != 2 || s.watch != nil || s.waits != nil {
			t.Fatalf("%d of 2 commands ended", over)
		}
	})
}
