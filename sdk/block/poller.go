package block

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// eventBatch is how many ready files one turn serves.
const eventBatch = 128

// poller is an epoll instance and the callbacks of the files in it.
type poller struct {
	fd      int
	watches []*watch // by file descriptor
	serial  int32
	events  [eventBatch]unix.EpollEvent
}

// watch is one registration. Its serial, which the kernel hands back with each
// event, tells it from a former one of the same descriptor number.
type watch struct {
	serial int32
	fn     func(events uint32)
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	return &poller{fd: fd}, nil
}

func (p *poller) close() error { return unix.Close(p.fd) }

func (p *poller) add(fd int, events uint32, fn func(uint32)) error {
	p.serial++
	ev := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: p.serial}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("watch descriptor %d: %w", fd, err)
	}
	for len(p.watches) <= fd {
		p.watches = append(p.watches, nil)
	}
	p.watches[fd] = &watch{p.serial, fn}
	return nil
}

func (p *poller) modify(fd int, events uint32) error {
	if fd < 0 || fd >= len(p.watches) || p.watches[fd] == nil {
		return fmt.Errorf("watch descriptor %d: %w", fd, unix.ENOENT)
	}
	ev := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: p.watches[fd].serial}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_MOD, fd, &ev); err != nil {
		return fmt.Errorf("watch descriptor %d: %w", fd, err)
	}
	return nil
}

func (p *poller) remove(fd int) {
	if fd < 0 || fd >= len(p.watches) || p.watches[fd] == nil {
		return
	}
	p.watches[fd] = nil
	// An error means that the file is closed, and out of the set with that.
	unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, fd, nil)
}

// wait waits for events, ms milliseconds at most, for ever if negative. Only a call
// that may block tells the Go scheduler, which is the costlier part of it.
func (p *poller) wait(ms int) (int, error) {
	var n uintptr
	var errno unix.Errno
	set := uintptr(unsafe.Pointer(&p.events[0]))
	if ms == 0 {
		n, _, errno = unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.fd), set, eventBatch, 0, 0, 0)
	} else {
		n, _, errno = unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.fd), set, eventBatch, uintptr(ms), 0, 0)
	}
	if errno != 0 && !errors.Is(errno, unix.EINTR) {
		return 0, fmt.Errorf("epoll_wait: %w", errno)
	}
	if errno != 0 {
		return 0, nil
	}
	return int(n), nil
}

// dispatch calls back for the first n events.
func (p *poller) dispatch(n int) {
	for i := range n {
		ev := &p.events[i]
		if w := p.watches[ev.Fd]; w != nil && w.serial == ev.Pad {
			w.fn(ev.Events)
		}
	}
}
