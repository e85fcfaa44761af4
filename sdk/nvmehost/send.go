package nvmehost

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxVectors bounds one writev.
const maxVectors = 256

// compactAt is how many bytes of headers may pile up behind a slow socket before those already
// sent are dropped from the arena.
const compactAt = 64 << 10

// segment is a run of bytes to send: of the arena if data is nil, else data, which belongs to io.
type segment struct {
	off, n int // within the arena
	data   []byte
	io     *IO
	r2t    bool // the last data of an R2T
}

// sender is the ordered queue of bytes for one socket: headers copied to an arena, payload by
// reference. Owned by the loop's goroutine.
type sender struct {
	arena []byte
	segs  []segment
	head  int // first segment not sent whole
	done  int // bytes of it already sent
	iov   [maxVectors]unix.Iovec
}

func (s *sender) empty() bool { return s.head == len(s.segs) }

// appended takes over what the caller appended to the arena from start on.
func (s *sender) appended(start int) {
	n := len(s.arena) - start
	if l := len(s.segs); l > s.head && s.segs[l-1].data == nil {
		s.segs[l-1].n += n // the arena is contiguous from one header to the next
		return
	}
	s.segs = append(s.segs, segment{off: start, n: n})
}

// payload queues data by reference; io counts it until it is sent.
func (s *sender) payload(io *IO, data []byte, endsR2T bool) {
	io.sending++
	s.segs = append(s.segs, segment{data: data, io: io, r2t: endsR2T})
}

// flush writes until all is sent or the socket is full (again true).
func (s *sender) flush(fd int) (again bool, err error) {
	for !s.empty() {
		n, want := s.vectors()
		r, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&s.iov[0])), uintptr(n))
		switch errno {
		case 0:
		case unix.EAGAIN:
			s.compact()
			return true, nil
		case unix.EINTR:
			continue
		default:
			return false, errno
		}
		s.sent(int(r))
		if int(r) < want {
			s.compact()
			return true, nil
		}
	}
	s.arena, s.segs, s.head = s.arena[:0], s.segs[:0], 0
	return false, nil
}

func (s *sender) vectors() (n, bytes int) {
	skip := s.done
	for i := s.head; i < len(s.segs) && n < maxVectors; i++ {
		b := s.bytes(i)[skip:]
		skip = 0
		s.iov[n] = unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))}
		n++
		bytes += len(b)
	}
	return n, bytes
}

func (s *sender) bytes(i int) []byte {
	if g := &s.segs[i]; g.data == nil {
		return s.arena[g.off : g.off+g.n]
	}
	return s.segs[i].data
}

func (s *sender) sent(n int) {
	n += s.done
	for s.head < len(s.segs) {
		l := len(s.bytes(s.head))
		if n < l {
			break
		}
		n -= l
		s.drop(s.head)
		s.head++
	}
	s.done = n
}

// drop ends the reference of a segment to its IO.
func (s *sender) drop(i int) {
	g := &s.segs[i]
	if g.io == nil {
		return
	}
	io := g.io
	if g.r2t {
		io.r2ts--
	}
	g.io, g.data = nil, empty
	io.sending--
	if io.sending == 0 && io.answered {
		io.finish()
	}
}

var empty = []byte{}

// compact drops what was sent, if there is much of it.
func (s *sender) compact() {
	if len(s.arena) < compactAt {
		return
	}
	s.segs = s.segs[:copy(s.segs, s.segs[s.head:])]
	s.head = 0
	base := -1
	for i := range s.segs {
		if g := &s.segs[i]; g.data == nil {
			if base < 0 {
				base = g.off
			}
			g.off -= base
		}
	}
	if base < 0 {
		base = len(s.arena)
	}
	s.arena = s.arena[:copy(s.arena, s.arena[base:])]
}

// abandon ends the references of everything that was not sent.
func (s *sender) abandon() {
	for i := s.head; i < len(s.segs); i++ {
		s.drop(i)
	}
	s.arena, s.segs, s.head, s.done = nil, nil, 0, 0
}
