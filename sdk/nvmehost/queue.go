package nvmehost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk/hostio"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmetcp"
)

var (
	// ErrClosed is the error of IOs on a queue that the caller closed.
	ErrClosed = errors.New("queue pair is closed")
	// ErrDataDigest is the error of an IO whose data came with a wrong digest; the data is not
	// to be used. The connection lives on.
	ErrDataDigest = errors.New("data digest of a C2HData does not match")
)

// TermError is the error of IOs on a connection that the controller ended with a C2HTermReq.
type TermError struct{ nvmetcp.TermReq }

// Error says what the controller complained of.
func (e *TermError) Error() string {
	return fmt.Sprintf("controller ended the connection: %s, information %#x", e.FES, e.FEI)
}

// QueueConfig is what a host asks for when it opens one connection.
type QueueConfig struct {
	Address      string // host:port
	HeaderDigest bool   // ask for header digests
	DataDigest   bool   // ask for data digests
	Align        int    // alignment of the data that the host receives in bytes, 4 to 128 (HPDA); 0 is 4
	MaxR2T       int    // R2Ts that may be outstanding per command; 0 is 1
	Entries      int    // of the submission queue, at least 2; Entries-1 commands are outstanding at most
	InCapsule    int    // most bytes of in-capsule data that the controller takes
	// NoSQFlow says that the Connect will ask for no SQ flow control: only then may the
	// controller use the SUCCESS flag.
	NoSQFlow bool
}

// Queue is one queue pair on one connection. It belongs to the goroutine of its loop.
type Queue struct {
	cfg     QueueConfig
	loop    *hostio.Loop
	watch   *hostio.Watch
	fd      int
	local   string
	icresp  nvmetcp.ICResp
	out, in nvmetcp.Link
	err     error // why the queue is closed; nil while it is open

	slots       []*IO // by command identifier; nil where free
	free        []nvme.CommandID
	first, last *IO // waiting for a slot

	send hostio.Sender
	recv receiver
	sqhd uint16 // as last reported
}

// Dial opens a connection and exchanges ICReq and ICResp. It blocks; the queue then belongs to
// the goroutine of loop, on which Dial must be called.
func Dial(ctx context.Context, loop *hostio.Loop, cfg QueueConfig) (*Queue, error) {
	link, err := dial(ctx, cfg)
	if err != nil {
		return nil, err
	}
	q, err := newQueue(loop, link)
	if err != nil {
		_ = unix.Close(link.fd)
		return nil, err
	}
	return q, nil
}

// link is a connection after ICReq and ICResp that no loop owns yet.
type link struct {
	cfg   QueueConfig
	fd    int
	local string
	req   nvmetcp.ICReq
	resp  nvmetcp.ICResp
}

func dial(ctx context.Context, cfg QueueConfig) (link, error) {
	if cfg.Entries < 2 || cfg.Entries > 1<<16 {
		return link{}, fmt.Errorf("open queue pair: %d entries are not within 2 to 65536", cfg.Entries)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", cfg.Address)
	if err != nil {
		return link{}, fmt.Errorf("connect to %s: %w", cfg.Address, err)
	}
	defer func() { _ = conn.Close() }() // the duplicate lives on
	l := link{cfg: cfg, local: conn.LocalAddr().String()}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err = l.handshake(conn)
	if !stop() {
		// The deadline of the shared description does not matter once the net package let go.
		err = errors.Join(err, ctx.Err())
	}
	if err != nil {
		return link{}, fmt.Errorf("initialize connection to %s: %w", cfg.Address, err)
	}
	l.fd, err = hostio.Descriptor(conn.(*net.TCPConn))
	return l, err
}

func (l *link) handshake(conn net.Conn) error {
	l.req = nvmetcp.NewICReq()
	l.req.HeaderDigest, l.req.DataDigest = l.cfg.HeaderDigest, l.cfg.DataDigest
	l.req.Align = max(l.cfg.Align, 4)
	l.req.MaxR2T = uint64(max(l.cfg.MaxR2T, 1))
	if _, err := conn.Write(l.req.Append(nil)); err != nil {
		return fmt.Errorf("send ICReq: %w", err)
	}
	b := make([]byte, nvmetcp.MaxTermReqSize)
	if _, err := io.ReadFull(conn, b[:nvmetcp.HeaderSize]); err != nil {
		return fmt.Errorf("receive ICResp: %w", err)
	}
	h, _, _ := nvmetcp.ParseHeader(b)
	before := nvmetcp.Link{From: nvmetcp.Controller}
	if terr := before.Check(h); terr != nil {
		return terr
	}
	if _, err := io.ReadFull(conn, b[nvmetcp.HeaderSize:h.PLEN]); err != nil {
		return fmt.Errorf("receive %s: %w", h.Type, err)
	}
	switch h.Type {
	case nvmetcp.TypeICResp:
	case nvmetcp.TypeC2HTermReq:
		t, _, err := nvmetcp.ParseTermReq(b)
		return errors.Join(&TermError{t}, err)
	default:
		return nvmetcp.ErrSequence
	}
	l.resp, _, _ = nvmetcp.ParseICResp(b)
	if terr := l.resp.Check(l.req); terr != nil {
		return terr
	}
	return nil
}

func newQueue(loop *hostio.Loop, l link) (*Queue, error) {
	q := &Queue{
		cfg: l.cfg, loop: loop, fd: l.fd, local: l.local, icresp: l.resp,
		slots: make([]*IO, l.cfg.Entries-1), free: make([]nvme.CommandID, 0, l.cfg.Entries-1),
	}
	for i := l.cfg.Entries - 2; i >= 0; i-- {
		q.free = append(q.free, nvme.CommandID(i))
	}
	q.out, q.in = nvmetcp.Links(l.req, l.resp, uint32(l.cfg.InCapsule))
	var err error
	q.watch, err = loop.Add(l.fd, q)
	return q, err
}

// ICResp returns what the controller answered to the ICReq.
func (q *Queue) ICResp() nvmetcp.ICResp { return q.icresp }

// Err returns why the queue is closed, or nil while it is open.
func (q *Queue) Err() error { return q.err }

// Outstanding returns how many commands the controller has.
func (q *Queue) Outstanding() int { return len(q.slots) - len(q.free) }

// SQHead returns the submission queue head pointer as last reported.
func (q *Queue) SQHead() uint16 { return q.sqhd }

// Submit starts io, or queues it until one of the Entries-1 slots is free. On a closed queue Done
// is called before Submit returns.
func (q *Queue) Submit(io *IO) {
	io.q, io.next, io.Err = q, nil, nil
	io.got, io.r2tNext, io.r2ts, io.sending, io.answered = 0, 0, 0, 0, false
	if q.err != nil {
		io.Err = q.err
		if io.Done != nil {
			io.Done(io)
		}
		return
	}
	if len(q.free) == 0 || q.first != nil {
		if q.last == nil {
			q.first = io
		} else {
			q.last.next = io
		}
		q.last = io
		return
	}
	q.start(io)
}

func (q *Queue) submitWaiting() {
	for q.first != nil && len(q.free) > 0 && q.err == nil {
		io := q.first
		if q.first = io.next; q.first == nil {
			q.last = nil
		}
		io.next = nil
		q.start(io)
	}
}

func (q *Queue) start(io *IO) {
	io.cid = q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	q.slots[io.cid] = io
	io.Cmd.SetCID(io.cid)
	n := io.size()
	inCapsule := io.Write && n > 0 && n <= q.out.MaxInCapsule && !io.NoInCapsule
	if !io.KeepSGL {
		io.Cmd.SetPSDT(nvme.PSDTSGL)
		if inCapsule {
			io.Cmd.SetSGL1(nvme.InCapsule(0, n))
		} else {
			io.Cmd.SetSGL1(nvme.TransportSGL(n))
		}
	}
	if inCapsule {
		q.appendCapsule(io, n)
		q.appendPayload(io, io.Data, false)
		io.r2tNext = n
	} else {
		q.appendCapsule(io, 0)
	}
	q.watch.Want()
}

func (q *Queue) appendCapsule(io *IO, n uint32) {
	q.send.End(q.out.AppendCapsuleCmd(q.send.Begin(), &io.Cmd, n))
}

// appendPayload queues data and its digest.
func (q *Queue) appendPayload(io *IO, data []byte, endsR2T bool) {
	io.sending++
	q.send.Payload(io, data, endsR2T)
	if q.out.DataDigest {
		q.send.End(nvmetcp.AppendDigest(q.send.Begin(), nvmetcp.Digest(data)))
	}
}

// serveR2T queues the data that an R2T asks for, cut into H2CData of at most MAXH2CDATA.
func (q *Queue) serveR2T(io *IO, r nvmetcp.R2T) {
	io.r2tNext = r.Offset + r.Length
	io.r2ts++
	for off, end := r.Offset, r.Offset+r.Length; off < end; {
		n := min(end-off, q.icresp.MaxH2CData)
		d := nvmetcp.Data{CCCID: r.CCCID, TTAG: r.TTAG, Offset: off, Length: n}
		d.Type = nvmetcp.TypeH2CData
		if off+n == end {
			d.Flags = nvmetcp.FlagLast
		}
		q.send.End(q.out.AppendData(q.send.Begin(), d))
		q.appendPayload(io, io.Data[off:off+n], off+n == end)
		off += n
	}
	q.watch.Want()
}

// Flush is for the loop.
func (q *Queue) Flush() {
	if q.err != nil {
		return
	}
	again, err := q.send.Flush(q.fd)
	if err != nil {
		q.fail(fmt.Errorf("send: %w", err))
		return
	}
	q.setBlocked(again)
}

func (q *Queue) setBlocked(b bool) {
	if q.err != nil {
		return
	}
	if err := q.watch.Blocked(b); err != nil {
		q.fail(err)
	}
}

// Ready is for the loop: it serves the events of the socket.
func (q *Queue) Ready(events uint32) {
	if events&unix.EPOLLOUT != 0 {
		q.Flush()
	}
	if events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) != 0 && q.err == nil {
		if err := q.receive(); err != nil {
			q.peerFault(err)
		}
	}
}

// peerFault ends the connection for what the controller did, with an H2CTermReq where one is due.
func (q *Queue) peerFault(err error) {
	var terr *nvmetcp.TermError
	if errors.As(err, &terr) && !terr.Silent() && q.err == nil {
		q.send.End(nvmetcp.NewTermReq(nvmetcp.Host, terr, q.recv.offending).Append(q.send.Begin()))
		_, _ = q.send.Flush(q.fd) // as far as it goes: the connection ends anyway
	}
	q.fail(err)
}

// fail closes the queue: every IO comes back with err.
func (q *Queue) fail(err error) {
	if q.err != nil {
		return
	}
	q.err = err
	q.watch.Remove()
	q.send.Abandon()
	q.recv = receiver{}
	for _, io := range q.slots {
		if io != nil {
			io.Err = err
			io.finish()
		}
	}
	for io := q.first; io != nil; io = q.first {
		if q.first = io.next; q.first == nil {
			q.last = nil
		}
		io.next, io.Err = nil, err
		if io.Done != nil {
			io.Done(io)
		}
	}
}

// Close drops the connection. IOs that are not done yet come back with ErrClosed.
func (q *Queue) Close() { q.fail(ErrClosed) }

// release frees the slot of io.
func (q *Queue) release(io *IO) {
	if int(io.cid) < len(q.slots) && q.slots[io.cid] == io {
		q.slots[io.cid] = nil
		q.free = append(q.free, io.cid)
	}
}
