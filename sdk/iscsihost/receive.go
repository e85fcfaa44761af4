package iscsihost

import (
	"errors"
	"fmt"
	"io"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk/iscsi"
	"github.com/mooring-io/mooring/sdk/scsi"
)

// receiveBytes is the size of a session's receive buffer. Data of a Data-In longer than what is in the
// buffer goes straight to where the IO wants it.
const receiveBytes = 256 << 10

// directBytes is the least rest of a Data-In that is worth a vector of its own.
const directBytes = 8 << 10

// maxControl is the most data that a PDU other than Data-In may have; they are served whole.
const maxControl = 64 << 10

// receiver is the incoming half of a connection.
type receiver struct {
	buf  []byte
	r, w int // unread bytes are buf[r:w]
	iov  [2]unix.Iovec

	io     *IO          // whose data comes now, or nil between PDUs
	pdu    iscsi.DataIn // its header
	left   uint32       // bytes of data still to come
	digest uint32       // of the data so far
}

// receive reads once and serves all PDUs that are whole.
func (s *Session) receive() error {
	v := &s.recv
	if v.buf == nil {
		v.buf = make([]byte, receiveBytes)
	}
	direct := v.vectors()
	n, _, errno := unix.RawSyscall(unix.SYS_READV, uintptr(s.conn.fd), uintptr(unsafe.Pointer(&v.iov[0])), uintptr(len(v.iov)))
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		return nil
	case errno != 0:
		return fmt.Errorf("receive: %w", errno)
	case n == 0 && s.loggedOut:
		s.left() // the target closed before its answer could be read; the end is the same
		return nil
	case n == 0:
		return fmt.Errorf("receive: %w", io.ErrUnexpectedEOF)
	}
	s.arrived(int(n), direct)
	return s.serve()
}

// vectors prepares readv: the rest of the present data, if it is long, then the buffer. It
// returns the length of the former.
func (v *receiver) vectors() int {
	if v.r == v.w {
		v.r, v.w = 0, 0
	} else if len(v.buf)-v.w < len(v.buf)/2 {
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

func (s *Session) arrived(n, direct int) {
	v := &s.recv
	if d := min(n, direct); d > 0 {
		s.take(v.io.Data[v.io.got:][:d])
		n -= d
	}
	v.w += n
}

// take accounts for data that is where it belongs.
func (s *Session) take(data []byte) {
	v := &s.recv
	if s.conn.link.DataDigest {
		v.digest = iscsi.UpdateDigest(v.digest, data)
	}
	v.io.got += uint32(len(data))
	v.left -= uint32(len(data))
}

// serve works off the buffer until the rest is no whole PDU.
func (s *Session) serve() error {
	for s.watch != nil {
		v := &s.recv
		if v.io != nil {
			if more, err := s.serveData(); !more || err != nil {
				return err
			}
			continue
		}
		b := v.buf[v.r:v.w]
		if len(b) < iscsi.HeaderSize {
			return nil
		}
		h, _, _ := iscsi.ParseHeader(b)
		n, segments := s.conn.link.HeaderLen(h), iscsi.HeaderSize+h.AHSBytes
		if len(b) < n {
			return nil
		}
		if s.conn.link.HeaderDigest && iscsi.ParseDigest(b[segments:]) != iscsi.Digest(b[:segments]) {
			return fmt.Errorf("a %s with a wrong header digest", h.Opcode)
		}
		if h.Opcode == iscsi.OpDataIn {
			v.r += n
			if err := s.dataIn(b); err != nil {
				return err
			}
			continue
		}
		if h.DataBytes > maxControl {
			return fmt.Errorf("a %s with %d bytes", h.Opcode, h.DataBytes)
		}
		padded := h.DataBytes + iscsi.Padding(h.DataBytes)
		whole := n + h.DataBytes + s.conn.link.TailLen(h.DataBytes)
		if len(b) < whole {
			return nil
		}
		if s.conn.link.DataDigest && h.DataBytes > 0 && iscsi.ParseDigest(b[n+padded:]) != iscsi.Digest(b[n:n+padded]) {
			return fmt.Errorf("a %s with a wrong data digest", h.Opcode)
		}
		v.r += whole
		if err := s.servePDU(h, b, b[n:n+h.DataBytes]); err != nil {
			return err
		}
	}
	return nil
}

// status takes the numbers of a PDU that has a status number of its own. 4.2.2.2
func (s *Session) status(w iscsi.Window) error {
	if w.StatSN != s.conn.window.StatSN {
		return fmt.Errorf("status number %d came, %d was expected", w.StatSN, s.conn.window.StatSN)
	}
	s.conn.window.StatSN++
	s.open(w)
	return nil
}

// open takes the command window of a PDU, unless an older one. 4.2.2.1
func (s *Session) open(w iscsi.Window) {
	now := &s.conn.window
	if !w.MaxCmdSN.Before(w.ExpCmdSN-1) && now.MaxCmdSN.Before(w.MaxCmdSN) {
		now.MaxCmdSN = w.MaxCmdSN
	}
}

func (s *Session) servePDU(h iscsi.Header, b, data []byte) error {
	switch h.Opcode {
	case iscsi.OpSCSIResponse:
		return s.response(b, data)
	case iscsi.OpR2T:
		return s.r2t(b)
	case iscsi.OpNopIn:
		return s.nopIn(b)
	case iscsi.OpAsyncMessage:
		return s.async(b)
	case iscsi.OpTaskResponse:
		return s.taskResponse(b)
	case iscsi.OpLogoutResponse:
		r, _, _ := iscsi.ParseLogoutResponse(b)
		switch {
		case !s.loggedOut || r.ITT != logoutTag:
			return errors.New("the target answered a logout that was not asked for")
		case r.Result != iscsi.LogoutClosed:
			return fmt.Errorf("the target refused the logout: result %d", r.Result)
		}
		s.left()
		return nil
	case iscsi.OpReject:
		r, _, _ := iscsi.ParseReject(b)
		return fmt.Errorf("the target rejected a PDU: %s", r.Reason)
	}
	return fmt.Errorf("the target sent a %s", h.Opcode)
}

// task returns the command with this tag that still awaits its answer, or nil.
func (s *Session) task(t iscsi.TaskTag) *IO {
	if int(t) >= len(s.tasks) || s.tasks[t] == nil || s.tasks[t].answered {
		return nil
	}
	return s.tasks[t]
}

// dataIn begins with the data of a command that reads. 11.7
func (s *Session) dataIn(b []byte) error {
	d, _, _ := iscsi.ParseDataIn(b)
	io := s.task(d.ITT)
	switch {
	case io == nil || io.Write:
		return fmt.Errorf("data for task %#x, which wants none", uint32(d.ITT))
	case d.DataSN != io.dataSN || d.Offset != io.got:
		return fmt.Errorf("data out of order: number %d at %d, expected was %d at %d", d.DataSN, d.Offset, io.dataSN, io.got)
	case uint64(io.got)+uint64(d.DataBytes) > uint64(io.size()):
		return fmt.Errorf("data up to %d, %d were expected", uint64(io.got)+uint64(d.DataBytes), io.size())
	case d.DataBytes > int(s.own.MaxRecvData):
		return fmt.Errorf("a Data-In with %d bytes, %d are taken", d.DataBytes, s.own.MaxRecvData)
	}
	if d.HasStatus {
		if err := s.status(d.Window); err != nil {
			return err
		}
	} else {
		s.open(d.Window)
	}
	io.dataSN++
	s.recv.io, s.recv.pdu, s.recv.left, s.recv.digest = io, d, uint32(d.DataBytes), 0
	return nil
}

// serveData takes what is there of the present Data-In; false means that more must come first.
func (s *Session) serveData() (bool, error) {
	v := &s.recv
	b := v.buf[v.r:v.w]
	if v.left > 0 {
		n := min(len(b), int(v.left))
		if n == 0 {
			return false, nil
		}
		if !v.io.Discard {
			copy(v.io.Data[v.io.got:], b[:n])
		}
		s.take(b[:n])
		v.r += n
		return true, nil
	}
	tail := s.conn.link.TailLen(v.pdu.DataBytes)
	if len(b) < tail {
		return false, nil
	}
	if pad := iscsi.Padding(v.pdu.DataBytes); s.conn.link.DataDigest && tail > 0 && iscsi.ParseDigest(b[pad:]) != iscsi.UpdateDigest(v.digest, b[:pad]) {
		v.io.Err = ErrDataDigest
	}
	v.r += tail
	io, d := v.io, &v.pdu
	v.io = nil
	if !d.HasStatus {
		s.next() // the window may have opened
		return true, nil
	}
	io.Status, io.Residual = scsi.Status(d.Status), residual(d.Overflow, d.Underflow, d.Residual)
	return true, s.complete(io)
}

// response takes the status of a command. 11.4
func (s *Session) response(b, data []byte) error {
	r, _, _ := iscsi.ParseSCSIResponse(b)
	io := s.task(r.ITT)
	if io == nil {
		return fmt.Errorf("a response to task %#x, which is not outstanding", uint32(r.ITT))
	}
	if err := s.status(r.Window); err != nil {
		return err
	}
	io.Status, io.Residual = scsi.Status(r.Status), residual(r.Overflow, r.Underflow, r.Residual)
	if r.Response != iscsi.ResponseCompleted {
		io.Err = ErrTargetFailure
	} else if err := io.takeSense(data); err != nil {
		return err
	}
	return s.complete(io)
}

// complete ends a command whose status is there. Of a good one, all data must have come that should.
func (s *Session) complete(io *IO) error {
	if io.Err == nil && io.Status == scsi.StatusGood && !io.Write && int64(io.got) != int64(io.size())-max(io.Residual, 0) {
		return fmt.Errorf("a command ended well after %d of %d bytes, with a residual of %d", io.got, io.size(), io.Residual)
	}
	io.answer()
	return nil
}

// r2t sends the data that is asked for. 11.8
func (s *Session) r2t(b []byte) error {
	r, _, _ := iscsi.ParseR2T(b)
	s.open(r.Window)
	io := s.task(r.ITT)
	end := uint64(r.Offset) + uint64(r.Length)
	switch {
	case io == nil || !io.Write:
		return fmt.Errorf("a request for data of task %#x, which has none", uint32(r.ITT))
	case r.TTT == iscsi.NoTag || r.R2TSN != io.dataSN || r.Offset != io.asked || r.Length == 0:
		return fmt.Errorf("a request for data out of order: number %d at %d, expected was %d at %d", r.R2TSN, r.Offset, io.dataSN, io.asked)
	case end > uint64(io.size()) || r.Length > s.conn.params.MaxBurst:
		return fmt.Errorf("a request for %d bytes at %d of %d", r.Length, r.Offset, io.size())
	case io.r2ts >= s.conn.params.MaxOutstandingR2T:
		return fmt.Errorf("more than %d requests for data at once", s.conn.params.MaxOutstandingR2T)
	}
	io.dataSN++
	io.r2ts++
	io.asked = uint32(end)
	s.dataOut(io, r.TTT, r.Offset, io.asked, true)
	s.watch.Want()
	s.next()
	return nil
}

// nopIn answers a ping. 11.19
func (s *Session) nopIn(b []byte) error {
	n, _, _ := iscsi.ParseNopIn(b)
	if n.ITT != iscsi.NoTag {
		return errors.New("the target answered a ping that was not sent")
	}
	s.open(n.Window)
	if n.TTT != iscsi.NoTag {
		s.control(&iscsi.NopOut{Order: s.immediate(), LUN: n.LUN, ITT: iscsi.NoTag, TTT: n.TTT})
	}
	s.next()
	return nil
}

// async hears what the target tells. 11.9
func (s *Session) async(b []byte) error {
	a, _, _ := iscsi.ParseAsyncMessage(b)
	if err := s.status(a.Window); err != nil {
		return err
	}
	switch a.Event {
	case iscsi.AsyncLogout:
		s.leaving = true
	case iscsi.AsyncDropConnection, iscsi.AsyncDropSession:
		return errors.New("the target drops the session")
	}
	s.next()
	return nil
}

// taskResponse is the answer to an abort: the task has ended, unless its own response came before. 11.6
func (s *Session) taskResponse(b []byte) error {
	r, _, _ := iscsi.ParseTaskResponse(b)
	if err := s.status(r.Window); err != nil {
		return err
	}
	tag := r.ITT &^ abortBit
	if r.ITT == tag || int(tag) >= len(s.tasks) {
		return errors.New("the target answered a task management function that was not asked for")
	}
	if r.Result != iscsi.TaskComplete && r.Result != iscsi.TaskDoesNotExist {
		return fmt.Errorf("the target did not abort a task: result %d", r.Result)
	}
	switch io := s.tasks[tag]; {
	case io == parked: // its own response came before
		s.tasks[tag] = nil
		s.free = append(s.free, tag)
	case io == nil || io.aborted == 0:
		return errors.New("the target answered an abort that was not asked for")
	default:
		io.aborted = 0
		if !io.answered {
			io.Err = ErrTimeout
			io.answer()
		}
	}
	s.next()
	return nil
}
