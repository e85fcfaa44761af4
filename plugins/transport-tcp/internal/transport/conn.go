package transport

import (
	"errors"

	"github.com/mooring-io/mooring/sdk/nvmetcp"
	"github.com/mooring-io/mooring/sdk/stream"
)

// maxH2CData is the MAXH2CDATA that we offer in bytes.
const maxH2CData = 256 << 10

// conn is one connection, and with that one queue pair. Owned by its I/O thread. It implements
// stream.Handler and nvmf.Conn.
type conn struct {
	transport *Transport
	stream    *stream.Conn
	queue     frontEnd // nil before ICReq

	link     nvmetcp.Link // what the host sends
	out      nvmetcp.Link // what we send
	r2tLimit int          // R2Ts that may be outstanding per command
	in       inbound

	r2ts     []r2t // by TTAG
	freeR2T  []nvmetcp.TransferTag
	awaiting *exchange // list of those between Begin and Execute
}

// errHostTermReq ends a connection by a H2CTermReq that came before all else.
var errHostTermReq = errors.New("the host ended the connection before it began")

// initialize judges what is there of the ICReq as early as possible, and returns how much of it
// was taken.
func (c *conn) initialize(b []byte) int {
	if len(b) < nvmetcp.HeaderSize {
		return 0
	}
	h, _, _ := nvmetcp.ParseHeader(b)
	if terr := c.link.Check(h); terr != nil {
		c.refuse(terr, b)
		return 0
	}
	switch h.Type {
	case nvmetcp.TypeICReq:
	case nvmetcp.TypeH2CTermReq:
		c.stream.End(errHostTermReq, false)
		return 0
	default:
		c.refuse(nvmetcp.ErrSequence, b)
		return 0
	}
	if len(b) < nvmetcp.ICSize {
		return 0
	}
	req, _, _ := nvmetcp.ParseICReq(b)
	if terr := req.Check(); terr != nil {
		c.refuse(terr, b)
		return 0
	}
	c.begun(req)
	return nvmetcp.ICSize
}

// begun answers an ICReq and makes the queue pair.
func (c *conn) begun(req nvmetcp.ICReq) {
	cfg := c.transport.config()
	resp := nvmetcp.NewICResp()
	resp.HeaderDigest = req.HeaderDigest && cfg.HeaderDigest
	resp.DataDigest = req.DataDigest && cfg.DataDigest
	resp.MaxH2CData = maxH2CData
	c.link, c.out = nvmetcp.Links(req, resp, uint32(c.transport.made.InCapsuleBytes))
	c.r2tLimit = int(min(req.MaxR2T, r2tsPerCommand))
	c.stream.Greeted()
	c.stream.Put(resp.Append(c.stream.Space()))
	c.queue = c.transport.makeQueue(c)
}

// refuse ends the connection for what the host sent, with a C2HTermReq where one is due.
// offending is as much of the PDU's header as there is.
func (c *conn) refuse(terr *nvmetcp.TermError, offending []byte) {
	if !terr.Silent() {
		t := nvmetcp.NewTermReq(nvmetcp.Controller, terr, headerOf(offending))
		c.stream.Put(t.Append(c.stream.Space()))
	}
	c.stream.Fault(terr, !terr.Silent())
}

// headerOf cuts what follows the header, as far as the PDU itself says how long it is.
func headerOf(b []byte) []byte {
	if len(b) > 2 && int(b[2]) >= nvmetcp.HeaderSize {
		b = b[:min(len(b), int(b[2]))]
	}
	return b[:min(len(b), nvmetcp.MaxHeaderSize)]
}

// Close ends the connection at the wish of the front end. Part of nvmf.Conn.
func (c *conn) Close(reason error) { c.stream.End(reason, true) }

// Ended is part of stream.Handler.
func (c *conn) Ended(reason error) {
	c.in = inbound{}
	if c.queue != nil {
		c.queue.Gone(reason)
	}
	for c.awaiting != nil {
		ex := c.awaiting
		c.unawait(ex)
		ex.Release()
	}
	c.r2ts, c.freeR2T = nil, nil
}
