package portal

import (
	"bytes"

	"github.com/mooring-io/mooring/sdk/iscsi"
)

const (
	// wholeBytes is up to how much data a PDU is served in one piece: immediate data that may stay
	// where it was received, and all data but that of commands.
	wholeBytes = 16 << 10
	// maxPiece is how much of a PDU may lie in the receive window untaken.
	maxPiece = iscsi.HeaderSize + iscsi.MaxAHSBytes + 2*iscsi.DigestSize + wholeBytes + 4
	// bulkPDUs is for how many PDUs after one with much data little is read ahead, in the hope of
	// more data that can go straight to its place.
	bulkPDUs = 16
)

// inbound is a data segment that is coming, of a PDU whose header was served.
type inbound struct {
	active bool
	task   *task         // whose data it is; nil: it is gathered, or thrown away
	dest   []byte        // where the rest belongs; empty: it is thrown away
	heap   []byte        // where it is gathered, whole
	left   int           // bytes of data still to come
	tail   int           // bytes of padding and digest still to come
	digest uint32        // of the data so far
	out    iscsi.DataOut // the PDU, if it is one
	header iscsi.Header
	bhs    [iscsi.HeaderSize]byte // for Reject, and to serve it when it is whole
}

// Direct returns where the rest of the present data belongs. Part of stream.Handler.
func (c *conn) Direct() (to []byte, soon bool) {
	soon = len(c.r2ts) > len(c.freeR2T) || c.bulk > 0
	if in := &c.in; in.active {
		n := min(len(in.dest), in.left)
		return in.dest[:n], soon
	}
	return nil, soon
}

// Placed is part of stream.Handler.
func (c *conn) Placed(n int) { c.in.take(c.in.dest[:n], c.link.DataDigest, n) }

// take accounts for data that has come; the first placed bytes of dest were filled.
func (in *inbound) take(data []byte, digest bool, placed int) {
	if digest {
		in.digest = iscsi.UpdateDigest(in.digest, data)
	}
	in.dest = in.dest[placed:]
	in.left -= len(data)
}

// Receive works off b until the rest is not a whole PDU, or header. Part of stream.Handler.
func (c *conn) Receive(b []byte) int {
	c.heard = true
	at := 0
	for c.stream.Open() {
		rest := b[at:]
		if c.in.active {
			n, whole := c.serveData(rest)
			at += n
			if !whole {
				break
			}
			continue
		}
		if len(rest) == 0 {
			break
		}
		if c.phase == phaseWaiting || c.phase == phaseLeaving {
			c.stream.Fault(violated("a PDU while a login or logout is answered"), false)
			break
		}
		if len(rest) < iscsi.HeaderSize {
			break
		}
		h, _, _ := iscsi.ParseHeader(rest)
		head := c.link.HeaderLen(h)
		if len(rest) < head {
			break
		}
		if c.link.HeaderDigest && iscsi.ParseDigest(rest[head-iscsi.DigestSize:]) != iscsi.Digest(rest[:head-iscsi.DigestSize]) {
			c.stream.Fault(errHeaderDigest, false)
			break
		}
		if c.phase == phaseLogin && h.DataBytes > wholeBytes {
			c.stream.Fault(violated("%s with %d bytes of data", h.Opcode, h.DataBytes), false)
			break
		}
		if h.DataBytes > maxRecvData {
			c.reject(iscsi.RejectProtocolError, rest)
			c.stream.Fault(violated("%s with %d bytes of data", h.Opcode, h.DataBytes), true)
			break
		}
		n := c.servePDU(h, rest, head, at)
		if n == 0 {
			break
		}
		at += n
	}
	return at
}

// servePDU serves a PDU that begins at b, which is at offset at of what Receive was called with; head
// is the length of its header. It returns how much of it was taken; 0 means that more must come.
func (c *conn) servePDU(h iscsi.Header, b []byte, head, at int) int {
	if c.bulk > 0 {
		c.bulk--
	}
	if h.DataBytes > wholeBytes {
		c.bulk = bulkPDUs
	}
	switch {
	case c.phase == phaseFull && h.Opcode == iscsi.OpDataOut:
		c.begin(h, b)
		c.dataOut()
		return head
	case c.phase == phaseFull && h.Opcode == iscsi.OpSCSICommand && h.DataBytes > wholeBytes:
		c.begin(h, b)
		c.commandLong(b)
		return head
	case h.DataBytes > wholeBytes:
		c.begin(h, b)
		c.in.heap = make([]byte, h.DataBytes)
		c.in.dest = c.in.heap
		return head
	}
	whole := head + h.DataBytes + c.link.TailLen(h.DataBytes)
	if len(b) < whole {
		return 0
	}
	data := b[head : head+h.DataBytes]
	corrupt := c.link.DataDigest && len(data) > 0 &&
		iscsi.ParseDigest(b[whole-iscsi.DigestSize:]) != iscsi.Digest(b[head:whole-iscsi.DigestSize])
	c.serve(h, b, data, at+head, corrupt)
	return whole
}

// serve serves a PDU whose data is whole; off is where it begins in what Receive was called with, or
// negative if it lies elsewhere.
func (c *conn) serve(h iscsi.Header, b, data []byte, off int, corrupt bool) {
	if c.phase == phaseLogin {
		c.loginRequest(h, b, data)
		return
	}
	if corrupt && h.Opcode != iscsi.OpSCSICommand {
		c.reject(iscsi.RejectDataDigest, b) // and that is all. 7.8
		return
	}
	switch h.Opcode {
	case iscsi.OpSCSICommand:
		c.command(b, data, off, corrupt)
	case iscsi.OpNopOut:
		c.nopOut(b, data)
	case iscsi.OpTaskRequest:
		c.taskRequest(b)
	case iscsi.OpTextRequest:
		c.textRequest(b, data)
	case iscsi.OpLogoutRequest:
		c.logoutRequest(b)
	case iscsi.OpSNACK:
		c.reject(iscsi.RejectSNACK, b) // error recovery level 0 has none
	case iscsi.OpLoginRequest:
		c.reject(iscsi.RejectProtocolError, b)
		c.stream.Fault(violated("a login in the full feature phase"), true)
	default:
		c.reject(iscsi.RejectNotSupported, b)
	}
}

// begin begins to take the data of the PDU at b, which is thrown away unless the caller says where it
// belongs.
func (c *conn) begin(h iscsi.Header, b []byte) {
	c.in = inbound{active: true, left: h.DataBytes, tail: c.link.TailLen(h.DataBytes), header: h}
	copy(c.in.bhs[:], b)
}

// serveData takes what b has of the present data and what follows it; false means that more must come
// first.
func (c *conn) serveData(b []byte) (int, bool) {
	in := &c.in
	if in.left > 0 {
		n := min(in.left, len(b))
		in.take(b[:n], c.link.DataDigest, copy(in.dest, b[:n]))
		return n, n > 0
	}
	if len(b) < in.tail {
		return 0, false
	}
	corrupt := false
	if c.link.DataDigest && in.tail > 0 {
		pad := in.tail - iscsi.DigestSize
		corrupt = iscsi.ParseDigest(b[pad:]) != iscsi.UpdateDigest(in.digest, b[:pad])
	}
	done := *in
	*in = inbound{}
	switch {
	case done.header.Opcode == iscsi.OpDataOut:
		c.dataOutDone(&done, corrupt)
	case done.header.Opcode == iscsi.OpSCSICommand && done.heap == nil:
		c.commandLongDone(&done, corrupt)
	default:
		c.serve(done.header, bytes.Clone(done.bhs[:]), done.heap, -1, corrupt)
	}
	return done.tail, true
}

// reject answers a PDU that was not taken, with its header. 11.17
func (c *conn) reject(reason iscsi.RejectReason, b []byte) {
	c.portal.rejects.Add(1)
	c.log.Debug("PDU rejected", "reason", reason, "opcode", iscsi.Opcode(b[0]&0x3f))
	c.send(&iscsi.Reject{Window: c.response(), Reason: reason, DataBytes: iscsi.HeaderSize}, b[:iscsi.HeaderSize])
}
