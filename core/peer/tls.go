package peer

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/core/cert"
	"github.com/mooring-io/mooring/core/vfs"
)

// readChunk is how much is read from a socket at a time, and writeChunk how much plaintext is encrypted at a time.
const (
	readChunk  = 256 << 10
	writeChunk = 1 << 20
)

// tlsStream is a TLS connection that the reactor drives: its socket is polled by the reactor's queue, the TLS code works on memory.
type tlsStream struct {
	tls      *tls.Conn
	queue    vfs.Queue
	fd       int // -1: closed
	notify   func()
	reading  bool // a poll for data is posted
	writing  bool // a poll for room is posted
	closed   bool
	in       []byte // from the socket; in[inAt:] is not decrypted yet
	inAt     int
	buf      []byte // memory of in
	plain    []byte // to be encrypted by the next Flush
	out      []byte // encrypted; out[outAt:] is not sent yet
	outAt    int
	received error // the end of the socket
}

// NewStream detaches a TLS connection, whose handshake is done and whose wire is a cert.Wire, from Go's poller and has queue, which is
// the reactor's, drive it. Any goroutine may call it; the result is the reactor's.
func NewStream(c *tls.Conn, queue vfs.Queue) (Stream, error) {
	w, ok := c.NetConn().(*cert.Wire)
	if !ok {
		return nil, errors.New("the connection cannot be detached")
	}
	s := &tlsStream{tls: c, queue: queue, buf: make([]byte, readChunk)}
	fd, err := w.Detach(s.memory())
	if err != nil {
		return nil, err
	}
	s.fd = fd
	return s, nil
}

// errAgain is what the TLS code hears when there is nothing to read now; being temporary, it ends nothing.
type errAgain struct{}

func (errAgain) Error() string   { return "nothing has come" }
func (errAgain) Timeout() bool   { return true }
func (errAgain) Temporary() bool { return true }

// memory is the stream as the TLS code sees it.
func (s *tlsStream) memory() io.ReadWriter { return tlsMemory{s} }

type tlsMemory struct{ s *tlsStream }

func (m tlsMemory) Read(b []byte) (int, error) {
	s := m.s
	if s.inAt == len(s.in) && !s.fill() {
		if s.received != nil {
			return 0, s.received
		}
		return 0, errAgain{}
	}
	n := copy(b, s.in[s.inAt:])
	s.inAt += n
	return n, nil
}

func (m tlsMemory) Write(b []byte) (int, error) {
	m.s.out = append(m.s.out, b...)
	return len(b), nil
}

// fill reads from the socket; without data it has the queue wait for some.
func (s *tlsStream) fill() bool {
	if s.reading || s.received != nil || s.fd < 0 {
		return false
	}
	for {
		n, err := unix.Read(s.fd, s.buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			s.reading = true
			if err := s.queue.Poll(s.fd, false, func() { s.reading = false; s.polled() }); err != nil {
				s.received, s.reading = err, false
			}
			return false
		case err != nil:
			s.received = fmt.Errorf("receive: %w", err)
			return false
		case n == 0:
			s.received = io.EOF
			return false
		}
		s.in, s.inAt = s.buf[:n], 0
		return true
	}
}

func (s *tlsStream) polled() {
	if s.closed {
		s.release()
		return
	}
	if s.notify != nil {
		s.notify()
	}
}

// Read implements Stream.
func (s *tlsStream) Read(b []byte) (int, error) {
	n, err := s.tls.Read(b)
	if errors.As(err, new(errAgain)) {
		err = nil
	}
	return n, err
}

// Write implements Stream.
func (s *tlsStream) Write(b []byte) error {
	s.plain = append(s.plain, b...)
	if len(s.plain) < writeChunk {
		return nil
	}
	return s.encrypt()
}

func (s *tlsStream) encrypt() error {
	if len(s.plain) == 0 {
		return nil
	}
	_, err := s.tls.Write(s.plain)
	s.plain = s.plain[:0]
	return err
}

// Flush implements Stream.
func (s *tlsStream) Flush() (int, error) {
	if err := s.encrypt(); err != nil {
		return 0, err
	}
	for s.outAt < len(s.out) && !s.writing && s.fd >= 0 {
		n, err := unix.SendmsgN(s.fd, s.out[s.outAt:], nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			s.writing = true
			if err := s.queue.Poll(s.fd, true, func() { s.writing = false; s.polled() }); err != nil {
				s.writing = false
				return 0, err
			}
		case err != nil:
			return 0, fmt.Errorf("send: %w", err)
		default:
			s.outAt += n
		}
	}
	if s.outAt == len(s.out) {
		s.out, s.outAt = s.out[:0], 0
		if cap(s.out) > 4*writeChunk {
			s.out = nil
		}
	}
	return len(s.out) - s.outAt, nil
}

// Notify implements Stream.
func (s *tlsStream) Notify(ready func()) { s.notify = ready }

// Close implements Stream. The socket goes when the queue does not wait for it any more.
func (s *tlsStream) Close() {
	if s.closed {
		return
	}
	s.closed = true
	_ = unix.Shutdown(s.fd, unix.SHUT_RDWR) // fails when the other end is gone, too
	s.release()
}

func (s *tlsStream) release() {
	if s.reading || s.writing || s.fd < 0 {
		return
	}
	_ = unix.Close(s.fd)
	s.fd = -1
}
