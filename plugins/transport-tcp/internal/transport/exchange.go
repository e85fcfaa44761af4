package transport

import (
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmetcp"
	"github.com/mooring-io/mooring/sdk/nvmf"
	"github.com/mooring-io/mooring/sdk/stream"
)

const (
	// r2tBytes is what one R2T asks for if the host takes several per command.
	r2tBytes = 128 << 10
	// r2tsPerCommand bounds the outstanding R2Ts of one command, whatever the host takes.
	r2tsPerCommand = 4
	// r2tsPerConnection is above what commands get one R2T each instead of several.
	r2tsPerConnection = 4096
)

// frontEnd is what a connection needs of an nvmf.Queue.
type frontEnd interface {
	Get() *nvmf.Command
	Begin(*nvmf.Command)
	Execute(*nvmf.Command)
	// Fail completes a command between Begin and Execute with a status, instead of Execute.
	Fail(*nvmf.Command, nvme.Status)
	FlowControlDisabled() bool
	Gone(error)
}

// exchange is the transport's part of a command: it lives as long as the nvmf.Command and is
// found in its User field.
type exchange struct {
	conn  *conn
	cmd   *nvmf.Command
	chunk *stream.Chunk // the data lies in it, nil if it lies elsewhere
	saved []byte        // in-capsule data of a parked command

	asked    int  // bytes asked for by R2T
	got      int  // bytes received by H2CData
	r2ts     int  // outstanding
	corrupt  bool // a data digest was wrong
	awaiting bool // in the conn's list of those between Begin and Execute

	prev, next *exchange // in that list
}

// r2t is an outstanding R2T; its index in conn.r2ts is its TTAG.
type r2t struct {
	ex        *exchange
	next, end int // bytes of the command's data still to come
}

// command takes a CapsuleCmd. Its in-capsule data begins at offset off of what Receive was called
// with.
func (c *conn) command(b []byte, h nvmetcp.Header, data []byte, off int) {
	cmd := c.queue.Get()
	if cmd == nil {
		return
	}
	ex, ok := cmd.User.(*exchange)
	if !ok {
		ex = &exchange{cmd: cmd, conn: c}
		cmd.User = ex
	}
	c.stream.Hold()
	p, _, _ := nvmetcp.ParseCapsuleCmd(b)
	cmd.SQE = *p.Command
	cmd.InCapsule = len(data)
	if len(data) > 0 {
		if h.Has(nvmetcp.FlagDataDigest) {
			ex.corrupt = nvmetcp.Digest(data) != nvmetcp.ParseDigest(b[int(h.PDO)+len(data):])
		}
		if buf, k, ok := c.stream.Keep(off, len(data)); ok {
			ex.chunk, cmd.Data = k, buf
		}
	}
	c.queue.Begin(cmd)
	if !c.stream.Open() {
		ex.Release()
		return
	}
	if cmd.Parked {
		c.await(ex)
		if len(data) > 0 && ex.chunk == nil {
			ex.saved = append([]byte(nil), data...)
		}
		return
	}
	ex.proceed(data)
}

// Ready is called when a parked command may go on. Part of nvmf.Conn.
func (c *conn) Ready(cmd *nvmf.Command) {
	ex := cmd.User.(*exchange)
	if !c.stream.Open() {
		return // it is released, or will be by Ended
	}
	saved := ex.saved
	ex.saved = nil
	c.unawait(ex)
	ex.proceed(saved)
}

// proceed goes on after Begin: gets the data of the host, if there is any, then executes. data is
// what came in the capsule; it is in place already if ex has a chunk.
func (ex *exchange) proceed(data []byte) {
	c, cmd := ex.conn, ex.cmd
	switch {
	case cmd.Refused || cmd.Transfer != nvmf.TransferFromHost:
	case ex.corrupt:
		c.queue.Fail(cmd, nvme.StatusTransientTransportError)
		return
	case cmd.InCapsule > 0:
		if ex.chunk == nil {
			copy(cmd.Data.Bytes(), data)
		}
	case cmd.Length%4 != 0: // no R2T can ask for that. TCP 3.6.2.9
		c.queue.Fail(cmd, nvme.StatusInvalidSGLLength.WithDNR())
		return
	default:
		c.await(ex)
		ex.request()
		return
	}
	c.queue.Execute(cmd)
}

// request asks for data as far as the host lets us.
func (ex *exchange) request() {
	c := ex.conn
	n := c.r2tLimit
	if len(c.r2ts)-len(c.freeR2T) >= r2tsPerConnection {
		n = 1
	}
	for ex.r2ts < n && ex.asked < ex.cmd.Length {
		size := ex.cmd.Length - ex.asked
		if c.r2tLimit > 1 {
			size = min(size, r2tBytes)
		}
		r := nvmetcp.R2T{
			CCCID: ex.cmd.SQE.CID(), TTAG: c.newR2T(ex, size),
			Offset: uint32(ex.asked), Length: uint32(size),
		}
		ex.asked += size
		ex.r2ts++
		c.stream.Put(c.out.AppendR2T(c.stream.Space(), r))
	}
}

// newR2T enters an R2T of size bytes and returns its tag. maxQueueDepth bounds the commands of a
// queue and r2tsPerConnection what is above one for each, so that a tag is free.
func (c *conn) newR2T(ex *exchange, size int) nvmetcp.TransferTag {
	e := r2t{ex: ex, next: ex.asked, end: ex.asked + size}
	if n := len(c.freeR2T); n > 0 {
		tag := c.freeR2T[n-1]
		c.freeR2T = c.freeR2T[:n-1]
		c.r2ts[tag] = e
		return tag
	}
	c.r2ts = append(c.r2ts, e)
	return nvmetcp.TransferTag(len(c.r2ts) - 1)
}

// received takes note of an H2CData that came whole.
func (ex *exchange) received(tag nvmetcp.TransferTag, n int) {
	c := ex.conn
	e := &c.r2ts[tag]
	e.next += n
	ex.got += n
	if e.next < e.end {
		return
	}
	*e = r2t{}
	c.freeR2T = append(c.freeR2T, tag)
	ex.r2ts--
	if ex.got < ex.cmd.Length {
		ex.request()
		return
	}
	c.unawait(ex)
	if ex.corrupt {
		c.queue.Fail(ex.cmd, nvme.StatusTransientTransportError)
		return
	}
	c.queue.Execute(ex.cmd)
}

// Complete sends the result of a command. Part of nvmf.Conn.
func (c *conn) Complete(cmd *nvmf.Command) {
	ex := cmd.User.(*exchange)
	if !c.stream.Open() {
		ex.Release()
		return
	}
	if cmd.Status().OK() {
		c.stream.Established() // the first success is that of a Connect
	}
	if !cmd.SendsData() {
		c.respond(&cmd.CQE)
		ex.Release()
		return
	}
	d := nvmetcp.Data{CCCID: cmd.SQE.CID(), Length: uint32(cmd.Length)}
	d.Type, d.Flags = nvmetcp.TypeC2HData, nvmetcp.FlagLast
	// Without flow control SQHD means nothing, and a result of zero need not be told. TCP 3.3.2.3
	omit := cmd.CQE.Result64() == 0 && cmd.Status() == nvme.StatusSuccess && c.queue.FlowControlDisabled()
	if omit {
		d.Flags |= nvmetcp.FlagSuccess
	}
	c.stream.Put(c.out.AppendData(c.stream.Space(), d))
	data := cmd.Data.Bytes()[:cmd.Length]
	c.stream.PutPayload(data, ex)
	if c.out.DataDigest {
		c.stream.Put(nvmetcp.AppendDigest(c.stream.Space(), nvmetcp.Digest(data)))
	}
	if !omit {
		c.respond(&cmd.CQE)
	}
}

func (c *conn) respond(cqe *nvme.Completion) {
	c.stream.Put(c.out.AppendCapsuleResp(c.stream.Space(), cqe))
}

// Release gives the command back, and then its memory. Part of stream.Releaser.
func (ex *exchange) Release() {
	k := ex.chunk
	ex.chunk, ex.saved = nil, nil
	ex.asked, ex.got, ex.r2ts, ex.corrupt = 0, 0, 0, false
	ex.cmd.Release()
	if k != nil {
		k.Release()
	}
	ex.conn.stream.Unhold()
}

func (c *conn) await(ex *exchange) {
	if ex.awaiting {
		return
	}
	ex.awaiting = true
	ex.prev, ex.next = nil, c.awaiting
	if c.awaiting != nil {
		c.awaiting.prev = ex
	}
	c.awaiting = ex
}

func (c *conn) unawait(ex *exchange) {
	if !ex.awaiting {
		return
	}
	ex.awaiting = false
	if ex.prev != nil {
		ex.prev.next = ex.next
	} else {
		c.awaiting = ex.next
	}
	if ex.next != nil {
		ex.next.prev = ex.prev
	}
	ex.prev, ex.next = nil, nil
}
