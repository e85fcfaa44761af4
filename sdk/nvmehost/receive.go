package nvmehost

import (
	"fmt"
	"io"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk/nvmetcp"
)

// receiveBytes is the size of a queue's receive buffer. Data of a C2HData longer than what is in
// the buffer goes straight to where the IO wants it.
const receiveBytes = 256 << 10

// directBytes is the least rest of a C2HData that is worth a vector of its own.
const directBytes = 8 << 10

// receiver is the incoming half of a connection. Owned by the loop's goroutine.
type receiver struct {
	buf  []byte
	r, w int // unread bytes are buf[r:w]
	iov  [2]unix.Iovec

	io     *IO          // whose data comes now, or nil between PDUs
	pdu    nvmetcp.Data // its header
	left   uint32       // bytes of data still to come
	digest uint32       // of the data so far

	offending []byte // header of the PDU in error
}

// receive reads once and serves all PDUs that are whole.
func (q *Queue) receive() error {
	v := &q.recv
	if v.buf == nil {
		v.buf = make([]byte, receiveBytes)
	}
	direct := v.vectors()
	n, _, errno := unix.RawSyscall(unix.SYS_READV, uintptr(q.fd), uintptr(unsafe.Pointer(&v.iov[0])), uintptr(len(v.iov)))
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		return nil
	case errno != 0:
		return fmt.Errorf("receive: %w", errno)
	case n == 0:
		return fmt.Errorf("receive: %w", io.ErrUnexpectedEOF)
	}
	v.arrived(int(n), direct)
	return q.serve()
}

// vectors prepares readv: the rest of the present data, if it is long, then the buffer. It
// returns the length of the former.
func (v *receiver) vectors() int {
	if v.r == v.w {
		v.r, v.w = 0, 0
	} else if len(v.buf)-v.w < len(v.buf)/4 {
		v.w = copy(v.buf, v.buf[v.r:v.w])
		v.r = 0
	}
	rest := v.buf[v.w:]
	direct := 0
	v.iov[0] = unix.Iovec{}
	if v.io != nil && v.r == v.w && v.left >= directBytes && !v.io.Discard {
		to := v.io.Data[v.io.got:][:v.left]
		v.iov[0] = unix.Iovec{Base: &to[0], Len: uint64(len(to))}
		direct = len(to)
	}
	v.iov[1] = unix.Iovec{Base: &rest[0], Len: uint64(len(rest))}
	return direct
}

func (v *receiver) arrived(n, direct int) {
	if d := min(n, direct); d > 0 {
		v.take(v.io.Data[v.io.got:][:d])
		n -= d
	}
	v.w += n
}

// take accounts for data that is where it belongs.
func (v *receiver) take(data []byte) {
	if v.pdu.Has(nvmetcp.FlagDataDigest) {
		v.digest = nvmetcp.UpdateDigest(v.digest, data)
	}
	v.io.got += uint32(len(data))
	v.left -= uint32(len(data))
}

// serve works off the buffer until the rest is no whole header.
func (q *Queue) serve() error {
	for q.err == nil {
		v := &q.recv
		if v.io != nil {
			if !q.serveData() {
				return nil
			}
			continue
		}
		b := v.buf[v.r:v.w]
		if len(b) < nvmetcp.HeaderSize {
			return nil
		}
		h, _, _ := nvmetcp.ParseHeader(b)
		v.offending = b[:min(len(b), nvmetcp.MaxHeaderSize)]
		if terr := q.in.Check(h); terr != nil {
			return terr
		}
		n := max(q.in.HeaderLen(h), int(h.PDO))
		if h.Type == nvmetcp.TypeC2HTermReq {
			n = int(h.PLEN)
		}
		if len(b) < n {
			return nil
		}
		v.offending = b[:h.HLEN]
		if q.in.HeaderLen(h) > int(h.HLEN) {
			if terr := nvmetcp.CheckHeaderDigest(b, int(h.HLEN)); terr != nil {
				return terr
			}
		}
		v.r += n
		if err := q.servePDU(h, b); err != nil {
			return err
		}
	}
	return nil
}

func (q *Queue) servePDU(h nvmetcp.Header, b []byte) error {
	switch h.Type {
	case nvmetcp.TypeCapsuleResp:
		return q.serveResponse(b)
	case nvmetcp.TypeC2HData:
		d, _, _ := nvmetcp.ParseData(b)
		io := q.lookup(int(d.CCCID))
		if io == nil || io.Write {
			return nvmetcp.ErrCCCID
		}
		if terr := q.in.CheckData(d, nvmetcp.Expect{Next: uint64(io.got), End: uint64(io.size())}); terr != nil {
			return terr
		}
		if d.Has(nvmetcp.FlagSuccess) && !q.cfg.NoSQFlow {
			return nvmetcp.ErrSuccessFlag
		}
		q.recv.io, q.recv.pdu, q.recv.left, q.recv.digest = io, d, d.Length, 0
	case nvmetcp.TypeR2T:
		r, _, _ := nvmetcp.ParseR2T(b)
		io := q.lookup(int(r.CCCID))
		if io == nil || !io.Write {
			return nvmetcp.ErrCCCID
		}
		if terr := r.Check(nvmetcp.Expect{Next: uint64(io.r2tNext), End: uint64(io.size())}); terr != nil {
			return terr
		}
		if io.r2ts >= max(q.cfg.MaxR2T, 1) {
			return nvmetcp.ErrR2TLimit
		}
		q.serveR2T(io, r)
	case nvmetcp.TypeC2HTermReq:
		t, _, err := nvmetcp.ParseTermReq(b)
		if err != nil {
			return err
		}
		t.Offending = append([]byte(nil), t.Offending...)
		return &TermError{t}
	default:
		return nvmetcp.ErrSequence
	}
	return nil
}

// lookup returns the command with this identifier that still awaits its answer, or nil.
func (q *Queue) lookup(cid int) *IO {
	if cid >= len(q.slots) || q.slots[cid] == nil || q.slots[cid].answered {
		return nil
	}
	return q.slots[cid]
}

func (q *Queue) serveResponse(b []byte) error {
	p, _, _ := nvmetcp.ParseCapsuleResp(b)
	io := q.lookup(int(p.Completion.CID()))
	if io == nil {
		return fmt.Errorf("controller completed command %d, which is not outstanding: %w",
			p.Completion.CID(), nvmetcp.ErrSequence)
	}
	if p.Completion.Status().OK() && !io.Write && io.got != io.size() {
		return fmt.Errorf("controller completed command %d after %d of %d bytes: %w",
			io.cid, io.got, io.size(), nvmetcp.ErrSequence)
	}
	q.sqhd = p.Completion.SQHD()
	io.answer(p.Completion)
	return nil
}

// serveData takes what is there of the present C2HData; false means that more must come first.
func (q *Queue) serveData() bool {
	v := &q.recv
	b := v.buf[v.r:v.w]
	if v.left > 0 {
		n := min(len(b), int(v.left))
		if n == 0 {
			return false
		}
		if !v.io.Discard {
			copy(v.io.Data[v.io.got:], b[:n])
		}
		v.take(b[:n])
		v.r += n
		return true
	}
	if v.pdu.Has(nvmetcp.FlagDataDigest) {
		if len(b) < nvmetcp.DigestSize {
			return false
		}
		if nvmetcp.ParseDigest(b) != v.digest {
			v.io.Err = ErrDataDigest
		}
		v.r += nvmetcp.DigestSize
	}
	io := v.io
	v.io = nil
	if v.pdu.Has(nvmetcp.FlagSuccess) {
		// The completion is all zeros but for the identifier. TCP 3.3.2.3
		io.CQE = successOf(io)
		io.answered = true
		io.finish()
	}
	return true
}
