package iscsihost

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk/hostio"
	"github.com/mooring-io/mooring/sdk/iscsi"
)

const (
	// logoutTag is a task tag that no SCSI command has, and abortBit marks those of aborts.
	logoutTag iscsi.TaskTag = 0x4000_0000
	abortBit  iscsi.TaskTag = 0x8000_0000
	// returnTimeout bounds how long a session that was asked to leave tries to come back, and
	// returnPause is between two tries.
	returnTimeout = 30 * time.Second
	returnPause   = 100 * time.Millisecond
	// closeTimeout bounds how long Close waits for an orderly logout.
	closeTimeout = 2 * time.Second
)

// Options say how to log in. The zero value asks for no digests, proves nothing and waits for ever.
type Options struct {
	Initiator    string // iSCSI name; "" is one made for the occasion
	HeaderDigest bool
	DataDigest   bool
	CHAP         CHAP
	Timeout      time.Duration // after which a task is aborted, and, if that is not answered either, the connection ended; 0 is never
	// Tune changes what is offered, before a login; nil changes nothing.
	Tune func(*iscsi.Params)
	// OnMove is called on the loop's goroutine when the target has had the session log in elsewhere.
	OnMove func(from, to string)
}

func (o *Options) wish() iscsi.Params {
	p := iscsi.DefaultParams()
	p.HeaderDigest, p.DataDigest = o.HeaderDigest, o.DataDigest
	p.InitialR2T, p.ImmediateData = false, true
	p.MaxRecvData, p.FirstBurst, p.MaxBurst, p.MaxOutstandingR2T = 256<<10, 256<<10, 16<<20-512, 4
	p.Time2Wait, p.Time2Retain = 0, 0
	if o.Tune != nil {
		o.Tune(&p)
	}
	return p
}

// NewName makes the iSCSI name of an initiator that exists for an occasion.
func NewName() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return "iqn.2026-11.io.mooring:host-" + hex.EncodeToString(b[:])
}

// Session is a session with a target, on one connection. It belongs to the goroutine of its loop.
type Session struct {
	o      Options
	loop   *hostio.Loop
	first  string // address where the session began, and is to come back to
	target string

	conn  connection
	watch *hostio.Watch // nil between two logins
	own   iscsi.Params  // what we declared
	send  hostio.Sender
	recv  receiver
	err   error // why the session is over; nil while it lives

	tasks           []*IO // by task tag; nil where free
	free            []iscsi.TaskTag
	waits, waitLast *IO // for room in the command window, or for the session to be back

	leaving   bool // the target asked to log out
	loggedOut bool // the logout was sent
	closing   bool // the caller asked for it

	stop    context.CancelFunc // of what comes back
	back    context.Context
	dialing chan struct{} // closed when nothing dials; nil if nothing ever did
}

// Open logs in to target at address (host:port). It blocks, and must be called on loop's goroutine.
func Open(ctx context.Context, loop *hostio.Loop, address, target string, o Options) (*Session, error) {
	if o.Initiator == "" {
		o.Initiator = NewName()
	}
	if err := errors.Join(iscsi.CheckName(o.Initiator), iscsi.CheckName(target), o.CHAP.Check()); err != nil {
		return nil, err
	}
	s := &Session{o: o, loop: loop, first: address, target: target}
	s.own = o.wish()
	s.back, s.stop = context.WithCancel(context.Background())
	c, err := dial(ctx, address, target, &s.o)
	if err == nil {
		err = s.attach(c)
	}
	if err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// attach goes on with a connection that has logged in.
func (s *Session) attach(c connection) error {
	w, err := s.loop.Add(c.fd, s)
	if err != nil {
		_ = unix.Close(c.fd)
		return err
	}
	s.conn, s.watch, s.recv = c, w, receiver{}
	s.leaving, s.loggedOut = false, false
	return nil
}

// Address is where the session is.
func (s *Session) Address() string { return s.conn.at }

// Params is what was negotiated; MaxRecvData is the target's.
func (s *Session) Params() iscsi.Params { return s.conn.params }

// Window is how many commands the target takes at once, at present.
func (s *Session) Window() int {
	return max(0, int(int32(s.conn.window.MaxCmdSN-s.conn.cmdSN))+1) + s.Outstanding()
}

// Outstanding is how many commands the target has.
func (s *Session) Outstanding() int { return len(s.tasks) - len(s.free) }

// Leaving says whether the target has asked for a logout, and the session has not yet logged in again.
func (s *Session) Leaving() bool { return s.err == nil && (s.leaving || s.watch == nil) }

// Err is why the session is over, or nil while it lives.
func (s *Session) Err() error { return s.err }

// Submit starts io, or queues it until the target has room for it. On a session that is over Done is
// called before Submit returns.
func (s *Session) Submit(io *IO) {
	io.session, io.next = s, nil
	io.Err, io.Status, io.Residual = nil, 0, 0
	io.got, io.dataSN, io.asked, io.r2ts, io.sending, io.answered, io.aborted = 0, 0, 0, 0, 0, false, 0
	switch {
	case s.err != nil:
		io.Err = s.err
		if io.Done != nil {
			io.Done(io)
		}
	case s.waits != nil || !s.room():
		if s.waits == nil {
			s.waits = io
		} else {
			s.waitLast.next = io
		}
		s.waitLast = io
	default:
		s.start(io)
	}
}

// Do carries out a command, turning the loop until it is over.
func (s *Session) Do(ctx context.Context, io *IO) error {
	over := false
	io.Done = func(*IO) { over = true }
	s.Submit(io)
	for !over {
		if err := errors.Join(ctx.Err(), s.loop.Turn(10*time.Millisecond)); err != nil {
			return err
		}
	}
	return io.Result()
}

// room says whether a command may be sent. 4.2.2.1
func (s *Session) room() bool {
	return s.watch != nil && !s.leaving && !s.conn.window.MaxCmdSN.Before(s.conn.cmdSN)
}

// next starts what waits, and logs out when the last task before that has ended.
func (s *Session) next() {
	for s.waits != nil && s.err == nil && s.room() {
		io := s.waits
		s.waits, io.next = io.next, nil
		s.start(io)
	}
	if s.leaving && !s.loggedOut && s.err == nil && s.Outstanding() == 0 {
		s.logout()
	}
}

func (s *Session) order() iscsi.Order {
	return iscsi.Order{CmdSN: s.conn.cmdSN, ExpStatSN: s.conn.window.StatSN}
}

func (s *Session) immediate() iscsi.Order {
	o := s.order()
	o.Immediate = true
	return o
}

// start sends a command, with as much of its data as may go unasked. 11.3
func (s *Session) start(io *IO) {
	if n := len(s.free); n > 0 {
		io.itt = s.free[n-1]
		s.free = s.free[:n-1]
	} else {
		io.itt = iscsi.TaskTag(len(s.tasks))
		s.tasks = append(s.tasks, nil)
	}
	s.tasks[io.itt] = io
	io.cmdSN, io.started = s.conn.cmdSN, s.loop.Now()
	p := &s.conn.params
	c := iscsi.SCSICommand{
		Order: s.order(), Final: true, Write: io.Write, Read: !io.Write && io.size() > 0, Attribute: iscsi.TaskSimple,
		LUN: iscsi.LUN(io.LUN.Field()), ITT: io.itt, ExpectedLength: io.size(), CDB: io.CDB,
	}
	s.conn.cmdSN++
	var unasked uint32
	if io.Write {
		unasked = min(io.size(), p.FirstBurst, p.MaxBurst)
		if p.ImmediateData {
			c.DataBytes = int(min(unasked, p.MaxRecvData))
		}
		if p.InitialR2T {
			unasked = uint32(c.DataBytes)
		}
		c.Final = unasked == uint32(c.DataBytes)
	}
	b := s.send.Begin()
	start := len(b)
	s.send.End(s.conn.link.SealHeader(c.Append(b), start))
	s.payload(io, io.Data[:c.DataBytes], false)
	s.dataOut(io, iscsi.NoTag, uint32(c.DataBytes), unasked, false)
	io.asked = unasked
	s.watch.Want()
}

// payload sends data and what follows it.
func (s *Session) payload(io *IO, data []byte, endsR2T bool) {
	if len(data) == 0 {
		return
	}
	io.sending++
	s.send.Payload(io, data, endsR2T)
	s.send.End(s.conn.link.AppendTail(s.send.Begin(), data))
}

// dataOut sends a sequence of Data-Out: bytes from to end. 11.7
func (s *Session) dataOut(io *IO, ttt iscsi.TaskTag, from, end uint32, endsR2T bool) {
	for sn := iscsi.SN(0); from < end; sn++ {
		n := min(end-from, s.conn.params.MaxRecvData)
		d := iscsi.DataOut{
			Final: from+n == end, LUN: iscsi.LUN(io.LUN.Field()), ITT: io.itt, TTT: ttt, ExpStatSN: s.conn.window.StatSN,
			DataSN: sn, Offset: from, DataBytes: int(n),
		}
		b := s.send.Begin()
		start := len(b)
		s.send.End(s.conn.link.SealHeader(d.Append(b), start))
		s.payload(io, io.Data[from:from+n], endsR2T && d.Final)
		from += n
	}
}

// appender is a PDU's header.
type appender interface{ Append([]byte) []byte }

// control sends a PDU without data.
func (s *Session) control(p appender) {
	b := s.send.Begin()
	start := len(b)
	s.send.End(s.conn.link.SealHeader(p.Append(b), start))
	s.watch.Want()
}

// Flush is for the loop.
func (s *Session) Flush() {
	if s.watch == nil {
		return
	}
	again, err := s.send.Flush(s.conn.fd)
	if err == nil {
		err = s.watch.Blocked(again)
	}
	if err != nil {
		s.fail(fmt.Errorf("send: %w", err))
	}
}

// Ready is for the loop: it serves the events of the socket.
func (s *Session) Ready(events uint32) {
	if events&unix.EPOLLOUT != 0 {
		s.Flush()
	}
	if events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) != 0 && s.watch != nil {
		if err := s.receive(); err != nil {
			s.fail(err)
		}
	}
}

// Tick is for the loop: it aborts what takes too long. 11.5.1
func (s *Session) Tick(now time.Duration) {
	if s.o.Timeout == 0 {
		return
	}
	for _, io := range s.tasks {
		switch {
		case s.watch == nil:
			return
		case io == nil || io.answered || now-max(io.started, io.aborted) < s.o.Timeout:
		case io.aborted > 0:
			s.fail(fmt.Errorf("the abort of a task was not answered within %s", s.o.Timeout))
			return
		default:
			io.aborted = max(now, 1)
			s.control(&iscsi.TaskRequest{
				Order: s.immediate(), Function: iscsi.AbortTask, LUN: iscsi.LUN(io.LUN.Field()), ITT: io.itt | abortBit, RefTag: io.itt, RefCmdSN: io.cmdSN,
			})
		}
	}
}

// logout ends the connection in order.
func (s *Session) logout() {
	s.loggedOut = true
	s.control(&iscsi.LogoutRequest{Order: s.immediate(), Reason: iscsi.LogoutSession, ITT: logoutTag})
}

// left is the end of a connection that was logged out. Unless the caller closes the session, it logs in
// again where it began: who sent it away says where to.
func (s *Session) left() {
	from := s.conn.at
	s.detach()
	if s.closing {
		s.fail(ErrClosed)
		return
	}
	s.dialing = make(chan struct{})
	go func() { // joined by Close; ends with s.back
		defer close(s.dialing)
		c, err := s.comeBack()
		posted := s.loop.Post(func() {
			switch {
			case err != nil:
				s.fail(fmt.Errorf("the target asked for a logout, and the login after it failed: %w", err))
			case s.err != nil:
				_ = unix.Close(c.fd)
			default:
				if err := s.attach(c); err != nil {
					s.fail(err)
					return
				}
				if s.o.OnMove != nil {
					s.o.OnMove(from, c.at)
				}
				s.next()
			}
		})
		if !posted && err == nil {
			_ = unix.Close(c.fd)
		}
	}()
}

func (s *Session) comeBack() (connection, error) {
	ctx, cancel := context.WithTimeout(s.back, returnTimeout)
	defer cancel()
	for {
		c, err := dial(ctx, s.first, s.target, &s.o)
		if err == nil {
			return c, nil
		}
		pause := time.NewTimer(returnPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return c, err
		}
	}
}

// detach ends the connection, not the session.
func (s *Session) detach() {
	if s.watch != nil {
		s.watch.Remove()
		s.watch = nil
	}
	s.send.Abandon()
	s.recv = receiver{}
}

// fail ends the session: every IO comes back with err.
func (s *Session) fail(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	s.stop()
	s.detach()
	for _, io := range s.tasks {
		if io != nil && io != parked {
			io.Err = err
			io.finish()
		}
	}
	for io := s.waits; io != nil; io = s.waits {
		s.waits, io.next, io.Err = io.next, nil, err
		if io.Done != nil {
			io.Done(io)
		}
	}
}

// Close ends the session; IOs that are not done yet come back with ErrClosed.
func (s *Session) Close() {
	s.fail(ErrClosed)
	if s.dialing != nil {
		<-s.dialing
	}
}

// Logout ends a session without tasks in order, as far as the target answers in time, and closes it.
func (s *Session) Logout() error {
	s.closing = true
	var err error
	if s.watch != nil && !s.loggedOut {
		s.logout()
	}
	for limit := time.Now().Add(closeTimeout); s.watch != nil && err == nil; {
		if err = s.loop.Turn(10 * time.Millisecond); err == nil && time.Now().After(limit) {
			err = fmt.Errorf("the logout was not answered within %s", closeTimeout)
		}
	}
	if s.err != nil && !errors.Is(s.err, ErrClosed) {
		err = s.err
	}
	s.Close()
	return err
}

// release frees the tag of io, unless an abort of that tag is still to be answered.
func (s *Session) release(io *IO) {
	if io.aborted > 0 {
		s.tasks[io.itt] = parked
		return
	}
	s.tasks[io.itt] = nil
	s.free = append(s.free, io.itt)
}

// parked stands where the tag of a task whose abort is still to be answered was.
var parked = &IO{answered: true}
