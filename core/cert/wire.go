package cert

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Wire is the TCP connection under a TLS one. After the handshake it may be detached: the
// TLS code works on memory then, and whoever detached it moves the bytes.
type Wire struct {
	net.Conn
	memory atomic.Pointer[io.ReadWriter]
}

// NewWire returns c as the connection under a TLS one.
func NewWire(c net.Conn) *Wire { return &Wire{Conn: c} }

// Detach has the TLS code read from and write to rw from now on, and returns the
// non-blocking socket, which is the caller's.
func (w *Wire) Detach(rw io.ReadWriter) (fd int, err error) {
	sc, ok := w.Conn.(syscall.Conn)
	if !ok {
		return -1, errors.New("the connection has no descriptor")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return -1, err
	}
	if e := raw.Control(func(own uintptr) {
		fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0)
	}); e != nil || err != nil {
		return -1, fmt.Errorf("duplicate a socket: %w", errors.Join(e, err))
	}
	w.memory.Store(&rw)
	return fd, w.Conn.Close() // Go's poller lets go of it; the duplicate lives
}

// Read implements net.Conn.
func (w *Wire) Read(b []byte) (int, error) {
	if m := w.memory.Load(); m != nil {
		return (*m).Read(b)
	}
	return w.Conn.Read(b)
}

// Write implements net.Conn.
func (w *Wire) Write(b []byte) (int, error) {
	if m := w.memory.Load(); m != nil {
		return (*m).Write(b)
	}
	return w.Conn.Write(b)
}
