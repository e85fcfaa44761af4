package portal

import (
	"github.com/mooring-io/mooring/plugins/frontend-iscsi/internal/device"
	"github.com/mooring-io/mooring/sdk/iscsi"
	"github.com/mooring-io/mooring/sdk/scsi"
	"github.com/mooring-io/mooring/sdk/stream"
)

// task is the transport's part of a command: it lives as long as the device.Task and is found in its
// User field.
type task struct {
	conn      *conn
	dev       *device.Task
	tag       iscsi.TaskTag
	lun       iscsi.LUN
	cmdSN     iscsi.SN
	immediate bool
	chunk     *stream.Chunk // immediate data lies in it
	saved     []byte        // immediate data of a parked task

	moving      bool // between Begin and Execute
	unsolicited bool // Data-Out without an R2T are to come
	next        int  // offset of the next unsolicited byte
	dataSN      iscsi.SN
	asked       int // bytes that came without being asked for, or were asked for
	r2ts        int // outstanding
	r2tSN       iscsi.SN
	dataIn      iscsi.SN // DataSN of the next Data-In
	offset      uint32   // of it
	burst       int      // bytes of its sequence that were sent
	failure     scsi.ASC // what was wrong with the data, or none
	receiving   bool     // conn.in fills its buffer
	ended       bool     // to be executed as soon as it does not
}

// order looks at the CmdSN of a PDU and says whether it is to be served. What lies outside of the
// window is ignored. 4.2.2.1
func (c *conn) order(o iscsi.Order) bool {
	if o.Immediate {
		return true
	}
	if o.CmdSN.Before(c.expCmdSN) || c.maxCmdSN.Before(o.CmdSN) {
		return false
	}
	if o.CmdSN != c.expCmdSN {
		// What is missing was lost on the only connection, and is not sent again.
		c.stream.Fault(violated("CmdSN %d, expected is %d", o.CmdSN, c.expCmdSN), false)
		return false
	}
	c.expCmdSN++
	return true
}

// completed gives the place of a non-immediate command back to the initiator.
func (c *conn) completed(immediate bool) {
	if immediate {
		c.urgent--
	} else {
		c.maxCmdSN++
	}
}

// admit begins a command whose header is at b; nil means that it is not to be carried out, and what
// data comes with it is to be thrown away.
func (c *conn) admit(b []byte) (*task, iscsi.SCSICommand) {
	cmd, _, _ := iscsi.ParseSCSICommand(b)
	if !c.order(cmd.Order) {
		return nil, cmd
	}
	if cmd.Immediate {
		c.urgent++
	}
	refuse := func(why iscsi.RejectReason) (*task, iscsi.SCSICommand) {
		c.completed(cmd.Immediate)
		c.reject(why, b)
		return nil, cmd
	}
	switch {
	case c.nexus == nil || cmd.ITT == iscsi.NoTag:
		return refuse(iscsi.RejectProtocolError)
	case c.urgent > maxUrgent:
		return refuse(iscsi.RejectTooManyImmediate)
	case c.tasks[cmd.ITT] != nil:
		return refuse(iscsi.RejectTaskInProgress)
	}
	dev := c.nexus.Get()
	t, ok := dev.User.(*task)
	if !ok {
		t = &task{conn: c, dev: dev}
		dev.User = t
	}
	c.stream.Hold()
	t.tag, t.lun, t.cmdSN, t.immediate = cmd.ITT, cmd.LUN, cmd.CmdSN, cmd.Immediate
	t.moving = true
	c.tasks[t.tag] = t
	dev.LUN, dev.CDB, dev.LongCDB = cmd.LUN, cmd.CDB, false
	dev.Reads, dev.Writes, dev.Expected = cmd.Read, cmd.Write, cmd.ExpectedLength
	t.unsolicited = cmd.Write && !cmd.Final && !c.params.InitialR2T
	t.next, t.asked = cmd.DataBytes, cmd.DataBytes
	t.checkImmediate(&cmd)
	return t, cmd
}

// maxUrgent is how many immediate commands a session may have under way.
const maxUrgent = 32

// checkImmediate finds immediate data that should not be there. 11.3.4, 13.11, 13.14
func (t *task) checkImmediate(cmd *iscsi.SCSICommand) {
	n, p := cmd.DataBytes, &t.conn.params
	switch {
	case n == 0 && (cmd.Final || !p.InitialR2T):
	case n == 0, !p.ImmediateData, !cmd.Write, n > int(p.FirstBurst), n > int(cmd.ExpectedLength):
		t.failure = scsi.ASCUnexpectedData
	}
}

// command serves a command whose immediate data, if it has any, is whole; off is where it lies in what
// Receive was called with, or negative.
func (c *conn) command(b, data []byte, off int, corrupt bool) {
	t, _ := c.admit(b)
	if t == nil {
		return
	}
	if corrupt {
		t.failure = scsi.ASCDigestError
	}
	if len(data) > 0 && off >= 0 {
		if buf, k, ok := c.stream.Keep(off, len(data)); ok {
			t.chunk, t.dev.Data = k, buf
		}
	}
	kept := t.dev.Data
	c.nexus.Begin(t.dev)
	if t.dev.Parked {
		if len(data) > 0 {
			t.saved = append([]byte(nil), data...)
		}
		return
	}
	if kept.Len() > 0 && t.dev.Data.Len() > 0 && &kept.Bytes()[0] == &t.dev.Data.Bytes()[0] {
		t.proceed() // it is in place
		return
	}
	t.place(data)
	t.proceed()
}

// commandLong begins a command with more immediate data than is served in one piece: conn.in takes it.
func (c *conn) commandLong(b []byte) {
	t, _ := c.admit(b)
	if t == nil {
		return
	}
	c.nexus.Begin(t.dev)
	c.in.task = t
	t.receiving = true
	switch {
	case t.dev.Refused:
	case t.dev.Parked:
		t.saved = make([]byte, c.in.left)
		c.in.dest = t.saved
	default:
		c.in.dest = t.dev.Data.Bytes()[:t.dev.Out]
	}
}

// commandLongDone goes on when the immediate data has come.
func (c *conn) commandLongDone(in *inbound, corrupt bool) {
	t := in.task
	if t == nil {
		return
	}
	t.receiving = false
	if corrupt {
		t.failure = scsi.ASCDigestError
	}
	switch {
	case t.ended:
		t.execute()
		return
	case t.dev.Parked:
		return
	}
	t.place(t.saved)
	t.proceed()
}

// place copies what came before there was a place for it to where the command wants it.
func (t *task) place(data []byte) {
	t.saved = nil
	if !t.dev.Refused && t.dev.Out > 0 {
		copy(t.dev.Data.Bytes()[:t.dev.Out], data)
	}
}

// Ready is called when a parked task may go on. Part of device.Port.
func (c *conn) Ready(dev *device.Task) {
	t := dev.User.(*task)
	if !c.stream.Open() {
		return // it is released, or will be by Ended
	}
	t.moving = true
	if !t.receiving { // into saved: who receives goes on
		if t.saved != nil {
			t.place(t.saved)
		}
		t.proceed()
	}
}

// proceed waits for what unsolicited data there is, asks for the rest, and then has the task executed.
func (t *task) proceed() {
	c := t.conn
	switch {
	case !c.stream.Open(), t.receiving, t.unsolicited, t.r2ts > 0:
		return
	case t.dev.Refused, t.failure != 0, t.ended, t.asked >= t.dev.Out:
		t.execute()
	default:
		t.request()
	}
}

// execute hands the task over to the device server.
func (t *task) execute() {
	t.moving = false
	n := t.conn.nexus
	if t.failure != 0 && !t.dev.Refused {
		n.Fail(t.dev, scsi.ASCKey{Key: scsi.AbortedCommand, ASC: t.failure})
		return
	}
	n.Execute(t.dev)
}

// Drop ends the moving of a task's data. What still comes for it finds no task. Part of device.Port.
func (c *conn) Drop(dev *device.Task) {
	t := dev.User.(*task)
	t.ended, t.unsolicited = true, false
	t.dropR2Ts()
	if !t.receiving {
		t.execute()
	}
}

// Complete sends the result of a task. Part of device.Port.
func (c *conn) Complete(dev *device.Task) {
	t := dev.User.(*task)
	if dev.More {
		t.sendData()
		return
	}
	delete(c.tasks, t.tag)
	c.completed(t.immediate)
	if dev.Aborted || !c.stream.Open() {
		t.Release()
		return
	}
	if len(dev.Answer) > 0 {
		t.sendData()
		return
	}
	r := iscsi.SCSIResponse{Window: c.response(), Status: uint8(dev.Status), ITT: t.tag, ExpDataSN: t.r2tSN}
	r.Overflow, r.Underflow, r.Residual = t.residual()
	if len(dev.Sense) == 0 {
		c.send(&r, nil)
	} else {
		var b [2 + 64]byte
		sense := append(append(b[:0], 0, byte(len(dev.Sense))), dev.Sense...)
		r.DataBytes = len(sense)
		c.send(&r, sense)
	}
	t.Release()
}

// residual compares what the initiator expected to move with what the command would. 11.4.5
func (t *task) residual() (over, under bool, n uint32) {
	expected, total := uint64(t.dev.Expected), t.dev.Total
	if !t.dev.Reads && !t.dev.Writes {
		expected = 0
	}
	if t.dev.Status != scsi.StatusGood && t.dev.Reads {
		total = 0
	}
	switch {
	case total > expected:
		return true, false, uint32(min(total-expected, 0xffff_ffff))
	case total < expected && (t.dev.Status == scsi.StatusGood || t.dev.Reads):
		return false, true, uint32(expected - total)
	}
	return false, false, 0
}

// sendData sends the task's answer, or a part of it; the last PDU of all has its status.
func (t *task) sendData() {
	c, dev := t.conn, t.dev
	data := dev.Answer
	for {
		n := min(len(data), int(c.params.MaxRecvData), int(c.params.MaxBurst)-t.burst)
		end := n == len(data)
		t.burst += n
		d := iscsi.DataIn{
			Window: c.window(), ITT: t.tag, DataSN: t.dataIn, Offset: t.offset, DataBytes: n,
			Final: end && !dev.More || t.burst == int(c.params.MaxBurst),
		}
		d.StatSN = 0
		if end && !dev.More {
			d.Window = c.response()
			d.HasStatus, d.Status = true, uint8(dev.Status)
			d.Overflow, d.Underflow, d.Residual = t.residual()
		}
		if d.Final {
			t.burst = 0
		}
		t.dataIn++
		t.offset += uint32(n)
		b := c.stream.Space()
		start := len(b)
		c.stream.Put(c.link.SealHeader(d.Append(b), start))
		tail := c.link.AppendTail(c.tail[:0], data[:n]) // before the data may be released
		switch {
		case !end:
			c.stream.PutPayload(data[:n], nil)
		case dev.More:
			c.stream.PutPayload(data[:n], (*parted)(t))
		default:
			c.stream.PutPayload(data[:n], t)
		}
		if len(tail) > 0 {
			c.stream.Put(append(c.stream.Space(), tail...))
		}
		if end {
			return
		}
		data = data[n:]
	}
}

// parted is a task of whose answer a part is being sent.
type parted task

// Release goes on with the next part. Part of stream.Releaser.
func (p *parted) Release() { p.conn.nexus.Continue(p.dev) }

// Release gives the task back, and then its memory. Part of stream.Releaser.
func (t *task) Release() {
	k, c := t.chunk, t.conn
	*t = task{conn: c, dev: t.dev}
	t.dev.Release()
	if k != nil {
		k.Release()
	}
	c.stream.Unhold()
}
