package hostio

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Descriptor returns a non-blocking descriptor of conn that is the caller's and survives conn's Close.
func Descriptor(conn *net.TCPConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, derr := -1, error(nil)
	err = raw.Control(func(u uintptr) { fd, derr = unix.FcntlInt(u, syscall.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, derr); err != nil {
		return -1, fmt.Errorf("duplicate socket: %w", err)
	}
	if err = errors.Join(unix.SetNonblock(fd, true), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("set socket options: %w", err)
	}
	return fd, nil
}
