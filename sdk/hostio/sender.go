package hostio

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxVectors bounds one writev.
const maxVectors = 256

// compactAt is how many bytes of headers may pile up behind a slow socket before those already
// sent are dropped from the arena.
const compactAt = 64 << 10

// Owner is whose payload is sent by reference.
type Owner interface {
	// Sent says that one of its runs of bytes is not referred to any more; last is what Payload was told.
	Sent(last bool)
}

// segment is a run of bytes to send: of the arena if data is nil, else data, which belongs to owner.
type segment struct {
	off, n int // within the arena
	data   []byte
	owner  Owner
	last   bool
}

// Sender is the ordered queue of bytes for one socket: headers copied to an arena, payload by
// reference. Owned by the loop's goroutine. The zero value is empty.
type Sender struct {
	arena []byte
	segs  []segment
	head  int // first segment not sent whole
	done  int // bytes of it already sent
	iov   [maxVectors]unix.Iovec
}

func (s *Sender) empty() bool { return s.head == len(s.segs) }

// Begin returns where a header is to be appended, which End then takes over.
func (s *Sender) Begin() []byte { return s.arena }

// End takes over what was appended to what Begin returned.
func (s *Sender) End(b []byte) {
	start := len(s.arena)
	s.arena = b
	n := len(b) - start
	if n == 0 {
		return
	}
	if l := len(s.segs); l > s.head && s.segs[l-1].data == nil {
		s.segs[l-1].n += n // the arena is contiguous from one header to the next
		return
	}
	s.segs = append(s.segs, segment{off: start, n: n})
}

// Payload queues data by reference; the owner hears when it is sent, or abandoned.
func (s *Sender) Payload(o Owner, data []byte, last bool) {
	s.segs = append(s.segs, segment{data: data, owner: o, last: last})
}

// Flush writes until all is sent or the socket is full (again true).
func (s *Sender) Flush(fd int) (again bool, err error) {
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

func (s *Sender) vectors() (n, bytes int) {
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

func (s *Sender) bytes(i int) []byte {
	if g := &s.segs[i]; g.data == nil {
		return s.arena[g.off : g.off+g.n]
	}
	return s.segs[i].data
}

func (s *Sender) sent(n int) {
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

// drop ends the reference of a segment to its owner.
func (s *Sender) drop(i int) {
	g := &s.segs[i]
	if g.owner == nil {
		return
	}
	o := g.owner
	g.owner, g.data = nil, empty
	o.Sent(g.last)
}

var empty = []byte{}

// compact drops what was sent, if there is much of it.
func (s *Sender) compact() {
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

// Abandon ends the references of everything that was not sent.
func (s *Sender) Abandon() {
	for i := s.head; i < len(s.segs); i++ {
		s.drop(i)
	}
	s.arena, s.segs, s.head, s.done = nil, nil, 0, 0
}
