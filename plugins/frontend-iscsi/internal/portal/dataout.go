package portal

import (
	"github.com/mooring-io/mooring/sdk/iscsi"
	"github.com/mooring-io/mooring/sdk/scsi"
)

// r2t is an outstanding R2T; its index in conn.r2ts is its TTT.
type r2t struct {
	task      *task
	next, end int // bytes of the command's data still to come
	dataSN    iscsi.SN
}

// request asks for data as far as the initiator lets us.
func (t *task) request() {
	c := t.conn
	for t.r2ts < int(c.params.MaxOutstandingR2T) && t.asked < t.dev.Out {
		size := min(t.dev.Out-t.asked, int(c.params.MaxBurst))
		r := iscsi.R2T{
			Window: c.window(), LUN: t.lun, ITT: t.tag, TTT: c.newR2T(t, size), R2TSN: t.r2tSN, Offset: uint32(t.asked), Length: uint32(size),
		}
		t.asked += size
		t.r2ts++
		t.r2tSN++
		c.send(&r, nil)
	}
}

// newR2T enters an R2T of size bytes and returns its tag. The command window bounds how many there
// are.
func (c *conn) newR2T(t *task, size int) iscsi.TaskTag {
	e := r2t{task: t, next: t.asked, end: t.asked + size}
	if n := len(c.freeR2T); n > 0 {
		tag := c.freeR2T[n-1]
		c.freeR2T = c.freeR2T[:n-1]
		c.r2ts[tag] = e
		return tag
	}
	c.r2ts = append(c.r2ts, e)
	return iscsi.TaskTag(len(c.r2ts) - 1)
}

func (c *conn) endR2T(tag iscsi.TaskTag) {
	c.r2ts[tag].task.r2ts--
	c.r2ts[tag] = r2t{}
	c.freeR2T = append(c.freeR2T, tag)
}

// dropR2Ts ends all R2Ts of a task.
func (t *task) dropR2Ts() {
	c := t.conn
	for tag := range c.r2ts {
		if t.r2ts > 0 && c.r2ts[tag].task == t {
			c.endR2T(iscsi.TaskTag(tag))
		}
	}
}

// dataOut finds out where the data of the Data-Out in conn.in belongs. A PDU for a task that is not
// there may be on its way since before the task was aborted; its data is thrown away. One that breaks
// the order of its sequence fails its task when the sequence is over. 11.7
func (c *conn) dataOut() {
	in := &c.in
	d, _, _ := iscsi.ParseDataOut(in.bhs[:])
	in.out = d
	t := c.tasks[d.ITT]
	if t == nil || !t.moving || t.ended {
		return
	}
	if d.TTT == iscsi.NoTag {
		if !t.unsolicited {
			c.reject(iscsi.RejectProtocolError, in.bhs[:])
			return
		}
		limit := min(int(c.params.FirstBurst), int(t.dev.Expected))
		if d.DataSN != t.dataSN || int(d.Offset) != t.next || t.next+d.DataBytes > limit {
			c.wrongData(t)
		}
	} else {
		if int(d.TTT) >= len(c.r2ts) || c.r2ts[d.TTT].task != t {
			c.reject(iscsi.RejectProtocolError, in.bhs[:])
			return
		}
		e := &c.r2ts[d.TTT]
		if d.DataSN != e.dataSN || int(d.Offset) != e.next || e.next+d.DataBytes > e.end {
			c.wrongData(t)
		}
	}
	in.task = t
	t.receiving = true
	if t.failure == 0 && !t.dev.Refused && !t.dev.Parked && int(d.Offset) < t.dev.Out {
		in.dest = t.dev.Data.Bytes()[max(int(d.Offset)-t.dev.Base, 0) : t.dev.Out-t.dev.Base]
	}
	if t.dev.Parked { // unsolicited data of a task without a buffer
		t.saved = append(t.saved, make([]byte, d.DataBytes)...)
		in.dest = t.saved[len(t.saved)-d.DataBytes:]
	}
}

func (c *conn) wrongData(t *task) {
	if t.failure == 0 {
		c.reject(iscsi.RejectProtocolError, c.in.bhs[:])
		t.failure = scsi.ASCDataPhase
	}
}

// dataOutDone goes on when the data of a Data-Out has come.
func (c *conn) dataOutDone(in *inbound, corrupt bool) {
	t, d := in.task, &in.out
	if t == nil {
		return
	}
	t.receiving = false
	if corrupt {
		c.reject(iscsi.RejectDataDigest, in.bhs[:])
		if t.failure == 0 {
			t.failure = scsi.ASCDigestError
		}
	}
	if t.ended {
		t.execute()
		return
	}
	if d.TTT == iscsi.NoTag {
		t.next += d.DataBytes
		t.asked = t.next
		t.dataSN++
		t.unsolicited = !d.Final
	} else {
		e := &c.r2ts[d.TTT]
		e.next += d.DataBytes
		e.dataSN++
		if d.Final != (e.next == e.end) {
			c.wrongDataDone(t, in)
		}
		if d.Final || e.next >= e.end {
			c.endR2T(d.TTT)
		}
	}
	if !t.dev.Parked {
		if t.saved != nil {
			t.place(t.saved)
		}
		t.proceed()
	}
}

// wrongDataDone fails a task whose sequence ended too early or too late.
func (c *conn) wrongDataDone(t *task, in *inbound) {
	if t.failure == 0 {
		c.reject(iscsi.RejectProtocolError, in.bhs[:])
		t.failure = scsi.ASCDataPhase
	}
}
