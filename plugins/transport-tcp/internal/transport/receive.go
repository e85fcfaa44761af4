package transport

import (
	"errors"
	"fmt"
	"io"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk/nvmetcp"
)

const (
	// receiveBudget is how many bytes one connection may receive in one turn, so that others get
	// theirs.
	receiveBudget = 512 << 10
	// aheadBytes is how much is read besides H2CData that goes straight to its command, or while
	// such data is expected: what is read into the window must be copied.
	aheadBytes = 16 << 10
	// directBytes is the least rest of an H2CData that is worth a vector of its own.
	directBytes = 4 << 10
)

// inbound is an H2CData whose data is coming.
type inbound struct {
	ex     *exchange // nil between PDUs
	tag    nvmetcp.TransferTag
	pdu    nvmetcp.Data
	left   int    // bytes still to come
	digest uint32 // of those that came
}

// errClosedByHost is the reason of an orderly end.
var errClosedByHost = errors.New("the host closed the connection")

// receive reads what the socket has, within the budget, and serves it.
func (c *conn) receive() {
	for budget := receiveBudget; budget > 0 && c.state == stateReady && !c.paused; {
		window := c.worker.window.prepare(c)
		direct := c.direct()
		if direct != nil || len(c.r2ts) > len(c.freeR2T) {
			window = window[:min(len(window), aheadBytes)]
		}
		n, err := c.readv(direct, window)
		if err != nil {
			c.worker.window.settle(c)
			if err != unix.EAGAIN {
				c.lost(err)
			}
			return
		}
		c.arrived(n, len(direct))
		if n < len(direct)+len(window) {
			return
		}
		budget -= n
	}
}

// direct returns where the rest of the present H2CData belongs, if it is long and not in the
// window already.
func (c *conn) direct() []byte {
	if c.in.ex == nil || c.in.left < directBytes || c.read < c.worker.window.fill {
		return nil
	}
	return c.in.place()
}

// place is where the data still to come belongs.
func (in *inbound) place() []byte {
	end := int(in.pdu.Offset) + int(in.pdu.Length)
	return in.ex.cmd.Data.Bytes()[end-in.left : end]
}

// readv fills direct, then window.
func (c *conn) readv(direct, window []byte) (int, error) {
	iov := &c.worker.iov
	first := 1
	if len(direct) > 0 {
		first = 0
		iov[0] = unix.Iovec{Base: &direct[0], Len: uint64(len(direct))}
	}
	iov[1] = unix.Iovec{Base: &window[0], Len: uint64(len(window))}
	n, _, errno := unix.RawSyscall(unix.SYS_READV, uintptr(c.fd), uintptr(unsafe.Pointer(&iov[first])), uintptr(2-first))
	switch {
	case errno == unix.EINTR:
		return 0, unix.EAGAIN // the socket is still readable: the next turn tries again
	case errno != 0:
		return 0, errno
	case n == 0:
		return 0, io.EOF
	}
	return int(n), nil
}

// arrived serves n bytes, of which the first went to where direct was.
func (c *conn) arrived(n, direct int) {
	if d := min(n, direct); d > 0 {
		c.in.take(c.in.place()[:d])
		n -= d
	}
	w := &c.worker.window
	w.fill += n
	c.serve()
	if c.state == stateReady {
		w.settle(c)
	} else {
		w.forget(c)
		w.settleNone()
	}
}

// serve works off what is in the window until the rest is not a whole PDU.
func (c *conn) serve() {
	w := &c.worker.window
	for c.state == stateReady {
		b := w.mem[c.read:w.fill]
		if c.in.ex != nil {
			if !c.serveData(b) {
				return
			}
			continue
		}
		if len(b) < nvmetcp.HeaderSize {
			return
		}
		h, _, _ := nvmetcp.ParseHeader(b)
		if terr := c.link.Check(h); terr != nil {
			c.refuse(terr, b)
			return
		}
		n := c.wants(h)
		if len(b) < n {
			return
		}
		if c.link.HeaderLen(h) > int(h.HLEN) {
			if terr := nvmetcp.CheckHeaderDigest(b, int(h.HLEN)); terr != nil {
				c.refuse(terr, b[:h.HLEN])
				return
			}
		}
		at := c.read
		c.read += n
		c.servePDU(h, b[:n], at)
	}
}

// wants is how many bytes of a PDU must be in the window before it is served: all of it, but for
// the data of an H2CData.
func (c *conn) wants(h nvmetcp.Header) int {
	if h.Type == nvmetcp.TypeH2CData {
		return int(h.PDO)
	}
	return int(h.PLEN) // bounded by Check
}

// servePDU serves a PDU that begins at mem[at] of the window.
func (c *conn) servePDU(h nvmetcp.Header, b []byte, at int) {
	switch h.Type {
	case nvmetcp.TypeCapsuleCmd:
		n := int(c.link.DataLen(h))
		var data []byte
		if n > 0 {
			data = b[h.PDO:][:n]
		}
		c.command(b, h, data, at+int(h.PDO))
	case nvmetcp.TypeH2CData:
		d, _, _ := nvmetcp.ParseData(b)
		if terr := c.begin(d); terr != nil {
			c.refuse(terr, b[:h.HLEN])
		}
	case nvmetcp.TypeH2CTermReq:
		t, _, err := nvmetcp.ParseTermReq(b)
		if err != nil {
			c.lost(err)
			return
		}
		c.lost(fmt.Errorf("the host ended the connection: %s, information %#x", t.FES, t.FEI))
	default: // a second ICReq
		c.refuse(nvmetcp.ErrSequence, b[:h.HLEN])
	}
}

// begin checks an H2CData against the R2T that it answers.
func (c *conn) begin(d nvmetcp.Data) *nvmetcp.TermError {
	if int(d.TTAG) >= len(c.r2ts) || c.r2ts[d.TTAG].ex == nil {
		return nvmetcp.ErrTTAG
	}
	e := &c.r2ts[d.TTAG]
	if e.ex.cmd.SQE.CID() != d.CCCID {
		return nvmetcp.ErrCCCID
	}
	expect := nvmetcp.Expect{Next: uint64(e.next), End: uint64(e.end), Max: maxH2CData}
	if terr := c.link.CheckData(d, expect); terr != nil {
		return terr
	}
	c.in = inbound{ex: e.ex, tag: d.TTAG, pdu: d, left: int(d.Length)}
	return nil
}

// serveData takes what b has of the present H2CData; false means that more must come first.
func (c *conn) serveData(b []byte) bool {
	in := &c.in
	if in.left > 0 {
		n := copy(in.place(), b)
		if n == 0 {
			return false
		}
		c.read += n
		in.take(b[:n])
		return true
	}
	if c.link.DataDigest {
		if len(b) < nvmetcp.DigestSize {
			return false
		}
		if nvmetcp.ParseDigest(b) != in.digest {
			in.ex.corrupt = true
		}
		c.read += nvmetcp.DigestSize
	}
	ex, tag, n := in.ex, in.tag, int(in.pdu.Length)
	*in = inbound{}
	ex.received(tag, n)
	return true
}

// take accounts for data that is in place.
func (in *inbound) take(data []byte) {
	if in.pdu.Has(nvmetcp.FlagDataDigest) {
		in.digest = nvmetcp.UpdateDigest(in.digest, data)
	}
	in.left -= len(data)
}
