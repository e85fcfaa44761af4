package block

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// eventBatch is how many ready files one turn serves.
const eventBatch = 128

// poller is an epoll instance and the callbacks of the files in it.
type poller struct {
	fd      int
	brief   bool     // the last wait ended within briefWait
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
	_ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, fd, nil)
}

// wait waits for events, ms milliseconds at most, for ever if negative.
//
// A wait that ends soon is cheaper if the Go scheduler does not learn of it; one that
// does not would keep it from a processor and a collection of garbage from its start.
// So the first millisecond of a wait is brief, as long as the last wait ended in it.
func (p *poller) wait(ms int) (int, error) {
	if ms == 0 {
		return p.pwait(unix.RawSyscall6, 0)
	}
	if p.brief {
		if n, err := p.pwait(unix.RawSyscall6, briefWait); n > 0 || err != nil || ms == briefWait {
			return n, err
		}
	}
	began := time.Now()
	n, err := p.pwait(unix.Syscall6, ms)
	p.brief = n > 0 && time.Since(began) < briefWait*time.Millisecond
	return n, err
}

// briefWait is how long the poller waits without telling the Go scheduler, in
// milliseconds.
const briefWait = 1

type syscall6 func(trap, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2 uintptr, err unix.Errno)

// pwait is epoll_pwait(2) by way of call.
func (p *poller) pwait(call syscall6, ms int) (int, error) {
	n, _, errno := call(unix.SYS_EPOLL_PWAIT, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])), eventBatch, uintptr(ms), 0, 0)
	switch errno {
	case 0:
		return int(n), nil
	case unix.EINTR:
		return 0, nil
	}
	return 0, fmt.Errorf("epoll_wait: %w", errno)
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
