package transport

import (
	"fmt"

	"github.com/mooring-io/mooring/sdk/nvmetcp"
)

// inbound is an H2CData whose data is coming.
type inbound struct {
	ex     *exchange // nil between PDUs
	tag    nvmetcp.TransferTag
	pdu    nvmetcp.Data
	left   int    // bytes still to come
	digest uint32 // of those that came
}

// Direct returns where the rest of the present H2CData belongs. Part of stream.Handler.
func (c *conn) Direct() (to []byte, soon bool) {
	if c.in.ex != nil {
		to = c.in.place()
	}
	return to, len(c.r2ts) > len(c.freeR2T)
}

// Placed is part of stream.Handler.
func (c *conn) Placed(n int) { c.in.take(c.in.place()[:n]) }

// place is where the data still to come belongs.
func (in *inbound) place() []byte {
	end := int(in.pdu.Offset) + int(in.pdu.Length)
	return in.ex.cmd.Data.Bytes()[end-in.left : end]
}

// Receive works off b until the rest is not a whole PDU. Part of stream.Handler.
func (c *conn) Receive(b []byte) int {
	at := 0
	if c.queue == nil {
		if at = c.initialize(b); c.queue == nil {
			return at
		}
	}
	for c.stream.Open() {
		rest := b[at:]
		if c.in.ex != nil {
			n, whole := c.serveData(rest)
			at += n
			if !whole {
				break
			}
			continue
		}
		if len(rest) < nvmetcp.HeaderSize {
			break
		}
		h, _, _ := nvmetcp.ParseHeader(rest)
		if terr := c.link.Check(h); terr != nil {
			c.refuse(terr, rest)
			break
		}
		n := c.wants(h)
		if len(rest) < n {
			break
		}
		if c.link.HeaderLen(h) > int(h.HLEN) {
			if terr := nvmetcp.CheckHeaderDigest(rest, int(h.HLEN)); terr != nil {
				c.refuse(terr, rest[:h.HLEN])
				break
			}
		}
		c.servePDU(h, rest[:n], at)
		at += n
	}
	return at
}

// wants is how many bytes of a PDU must be there before it is served: all of it, but for the data
// of an H2CData.
func (c *conn) wants(h nvmetcp.Header) int {
	if h.Type == nvmetcp.TypeH2CData {
		return int(h.PDO)
	}
	return int(h.PLEN) // bounded by Check
}

// servePDU serves a PDU that begins at offset at of what Receive was called with.
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
			c.stream.End(err, false)
			return
		}
		c.stream.End(fmt.Errorf("the host ended the connection: %s, information %#x", t.FES, t.FEI), false)
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
func (c *conn) serveData(b []byte) (int, bool) {
	in := &c.in
	if in.left > 0 {
		n := copy(in.place(), b)
		in.take(b[:n])
		return n, n > 0
	}
	n := 0
	if c.link.DataDigest {
		if len(b) < nvmetcp.DigestSize {
			return 0, false
		}
		if nvmetcp.ParseDigest(b) != in.digest {
			in.ex.corrupt = true
		}
		n = nvmetcp.DigestSize
	}
	ex, tag, length := in.ex, in.tag, int(in.pdu.Length)
	*in = inbound{}
	ex.received(tag, length)
	return n, true
}

// take accounts for data that is in place.
func (in *inbound) take(data []byte) {
	if in.pdu.Has(nvmetcp.FlagDataDigest) {
		in.digest = nvmetcp.UpdateDigest(in.digest, data)
	}
	in.left -= len(data)
}
