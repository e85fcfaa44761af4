package nvmehost

import (
	"fmt"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Loop drives the sockets of queues with one epoll instance. All its methods but Post and Stop
// belong to the goroutine that calls Turn or Run: the loop's goroutine.
type Loop struct {
	epfd, wakefd int
	queues       []*Queue // index is what epoll hands back; nil where free
	dirty        []*Queue // have something to send in this turn
	events       [64]unix.EpollEvent

	start time.Time
	now   time.Duration

	mu      sync.Mutex
	posted  []func()
	stopped bool
	closed  bool

	running []func() // owned by the loop's goroutine; swapped with posted
}

const wakeIndex = -1

// NewLoop returns a loop without queues. Close it after its last turn.
func NewLoop() (*Loop, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll instance: %w", err)
	}
	wakefd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(epfd)
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: wakeIndex}
	if err := unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, wakefd, &ev); err != nil {
		_ = unix.Close(epfd)
		_ = unix.Close(wakefd)
		return nil, fmt.Errorf("watch eventfd: %w", err)
	}
	return &Loop{epfd: epfd, wakefd: wakefd, start: time.Now()}, nil
}

// Post runs fn on the loop's goroutine in one of its next turns. Any goroutine may call it. It
// returns false, and never runs fn, after the loop was closed.
func (l *Loop) Post(fn func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.posted = append(l.posted, fn)
	if len(l.posted) == 1 {
		l.wake()
	}
	return true
}

// Stop makes Run return after its present turn. Any goroutine may call it.
func (l *Loop) Stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.stopped = true
		l.wake()
	}
}

// wake is called with mu held, so that the descriptor is open.
func (l *Loop) wake() {
	one := uint64(1)
	// A full counter (EAGAIN) is a wake too.
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(l.wakefd), uintptr(unsafe.Pointer(&one)), 8)
}

// Run turns until Stop, then closes the loop with every queue left on it.
func (l *Loop) Run() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var err error
	for err == nil {
		l.mu.Lock()
		stop := l.stopped
		l.mu.Unlock()
		if stop {
			break
		}
		err = l.Turn(-1)
	}
	l.Close()
	return err
}

// Turn waits up to timeout (below 0: for ever) for something to happen, serves everything that
// did, and sends what that gave rise to.
func (l *Loop) Turn(timeout time.Duration) error {
	l.flush()
	n, err := l.wait(timeout)
	if err != nil {
		return err
	}
	l.now = time.Since(l.start)
	for _, ev := range l.events[:n] {
		if ev.Fd == wakeIndex {
			l.runPosted()
			continue
		}
		if q := l.queues[ev.Fd]; q != nil {
			q.ready(ev.Events)
		}
	}
	l.flush()
	return nil
}

// Now is when the present turn found its events, on a clock that begins with the loop: cheap
// enough to stamp each of many IOs with.
func (l *Loop) Now() time.Duration { return l.now }

func (l *Loop) wait(timeout time.Duration) (int, error) {
	ms := -1
	if timeout >= 0 {
		ms = int((timeout + time.Millisecond - 1) / time.Millisecond)
	}
	n, err := unix.EpollWait(l.epfd, l.events[:], ms)
	if err == unix.EINTR {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("wait for events: %w", err)
	}
	return n, nil
}

func (l *Loop) runPosted() {
	var n [8]byte
	_, _ = unix.Read(l.wakefd, n[:])
	l.mu.Lock()
	l.running, l.posted = l.posted, l.running[:0]
	l.mu.Unlock()
	for i, fn := range l.running {
		fn()
		l.running[i] = nil
	}
}

func (l *Loop) flush() {
	for len(l.dirty) > 0 {
		q := l.dirty[len(l.dirty)-1]
		l.dirty = l.dirty[:len(l.dirty)-1]
		q.dirty = false
		q.flush()
	}
}

// add watches a queue's socket.
func (l *Loop) add(q *Queue) error {
	i := len(l.queues)
	for j, o := range l.queues {
		if o == nil {
			i = j
			break
		}
	}
	if i == len(l.queues) {
		l.queues = append(l.queues, nil)
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, q.fd, &ev); err != nil {
		return fmt.Errorf("watch socket: %w", err)
	}
	l.queues[i], q.index = q, i
	return nil
}

func (l *Loop) watch(q *Queue, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(q.index)}
	return unix.EpollCtl(l.epfd, unix.EPOLL_CTL_MOD, q.fd, &ev)
}

// remove forgets a queue; closing its socket ends the watch.
func (l *Loop) remove(q *Queue) { l.queues[q.index] = nil }

// Close closes every queue left and the loop. It is idempotent.
func (l *Loop) Close() {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	l.runPosted()
	for _, q := range l.queues {
		if q != nil {
			q.Close()
		}
	}
	l.mu.Lock()
	l.closed = true
	late := l.posted
	l.posted = nil
	_ = unix.Close(l.epfd)
	_ = unix.Close(l.wakefd)
	l.mu.Unlock()
	for _, fn := range late {
		fn() // their queues are closed: they fail at once
	}
}
