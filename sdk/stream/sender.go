package stream

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxVectors bounds one writev.
	maxVectors = 512
	// compactAt is how many bytes of headers may pile up behind a slow socket before those that
	// are sent are dropped from the arena.
	compactAt = 32 << 10
	// keepArena is the largest arena that an idle connection keeps, in bytes.
	keepArena = 16 << 10
)

// Releaser is told when payload was sent, or will not be.
type Releaser interface{ Release() }

// segment is a run of bytes to send: of the arena if data is nil, else payload.
type segment struct {
	off, n int // within the arena
	data   []byte
	sent   Releaser // nil: nobody
}

// sender is the ordered output of one connection. Owned by its I/O thread.
type sender struct {
	arena []byte
	segs  []segment
	head  int    // first segment not sent whole
	done  int    // bytes of it already sent
	taken uint64 // bytes that the socket has taken in all
}

func (s *sender) empty() bool { return s.head == len(s.segs) }

// backlog is how many bytes of headers wait, roughly: those sent but not yet dropped count.
func (s *sender) backlog() int { return len(s.arena) }

// appended takes over what the caller appended to the arena from start on.
func (s *sender) appended(start int) {
	n := len(s.arena) - start
	if l := len(s.segs); l > s.head && s.segs[l-1].data == nil {
		s.segs[l-1].n += n // the arena is contiguous from one header to the next
		return
	}
	s.segs = append(s.segs, segment{off: start, n: n})
}

// payload queues data by reference.
func (s *sender) payload(data []byte, sent Releaser) {
	if data == nil {
		data = noBytes
	}
	s.segs = append(s.segs, segment{data: data, sent: sent})
}

// flush writes until all is sent, or the socket is full (again true). iov is scratch space.
func (s *sender) flush(fd int, iov *[maxVectors]unix.Iovec) (again bool, err error) {
	for !s.empty() {
		n, want := s.vectors(iov)
		r, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(n))
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
	s.segs, s.head = s.segs[:0], 0
	if cap(s.arena) > keepArena {
		s.arena, s.segs = nil, nil
	}
	s.arena = s.arena[:0]
	return false, nil
}

func (s *sender) vectors(iov *[maxVectors]unix.Iovec) (n, bytes int) {
	skip := s.done
	for i := s.head; i < len(s.segs) && n < maxVectors; i++ {
		b := s.bytes(i)[skip:]
		skip = 0
		iov[n] = unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))}
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

// sent accounts for n bytes more. Segments sent whole are told so.
func (s *sender) sent(n int) {
	s.taken += uint64(n)
	n += s.done
	for s.head < len(s.segs) {
		l := len(s.bytes(s.head))
		if n < l {
			break
		}
		n -= l
		s.head++
		s.drop(s.head - 1)
	}
	s.done = n
}

func (s *sender) drop(i int) {
	if s.segs[i].data == nil {
		return
	}
	sent := s.segs[i].sent
	s.segs[i] = segment{data: noBytes}
	if sent != nil {
		sent.Release()
	}
}

var noBytes = []byte{}

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

// abandon forgets everything that was not sent.
func (s *sender) abandon() {
	for s.head < len(s.segs) {
		s.head++
		s.drop(s.head - 1)
	}
	*s = sender{}
}
