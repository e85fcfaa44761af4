package hostio

import (
	"fmt"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Loop drives sockets with one epoll instance. All its methods but Post and Stop belong to the goroutine
// that calls Turn or Run: the loop's goroutine.
type Loop struct {
	epfd, wakefd int
	watches      []*Watch // index is what epoll hands back; nil where free
	dirty        []*Watch // have something to send in this turn
	events       [64]unix.EpollEvent

	start    time.Time
	now      time.Duration
	tickers  int
	nextTick time.Duration

	mu      sync.Mutex
	posted  []func()
	stopped bool
	closed  bool

	running []func() // owned by the loop's goroutine; swapped with posted
}

const wakeIndex = -1

// tickEvery is how often sockets that are Tickers hear of the time.
const tickEvery = 500 * time.Millisecond

// Socket is a connection on a loop; all is called on the loop's goroutine.
type Socket interface {
	// Ready says that there is something to read, or room to write: events of epoll(7).
	Ready(events uint32)
	// Flush sends what there is to send; it is called once in a turn for sockets that asked by Watch.Want.
	Flush()
	// Close ends the connection; it must call Watch.Remove.
	Close()
}

// Ticker is a Socket that hears of the time now and then.
type Ticker interface{ Tick(now time.Duration) }

// Watch is a socket's place on a loop. Its methods are for the loop's goroutine.
type Watch struct {
	loop    *Loop
	socket  Socket
	ticker  Ticker // the same, or nil
	fd      int
	index   int
	dirty   bool // listed in loop.dirty
	blocked bool // waits for room to write
}

// NewLoop returns a loop without sockets. Close it after its last turn.
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

// Run turns until Stop, then closes the loop with every socket left on it.
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
	l.tick()
	for _, ev := range l.events[:n] {
		if ev.Fd == wakeIndex {
			l.runPosted()
			continue
		}
		if w := l.watches[ev.Fd]; w != nil {
			w.socket.Ready(ev.Events)
		}
	}
	l.flush()
	return nil
}

// Now is when the present turn found its events, on a clock that begins with the loop: cheap
// enough to stamp each of many commands with.
func (l *Loop) Now() time.Duration { return l.now }

func (l *Loop) wait(timeout time.Duration) (int, error) {
	if l.tickers > 0 && (timeout < 0 || timeout > tickEvery) {
		timeout = tickEvery
	}
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
		w := l.dirty[len(l.dirty)-1]
		l.dirty = l.dirty[:len(l.dirty)-1]
		w.dirty = false
		w.socket.Flush()
	}
}

// tick tells tickers the time, if it is time.
func (l *Loop) tick() {
	if l.tickers == 0 || l.now < l.nextTick {
		return
	}
	l.nextTick = l.now + tickEvery
	for _, w := range l.watches {
		if w != nil && w.ticker != nil {
			w.ticker.Tick(l.now)
		}
	}
}

// Add watches a socket that is non-blocking.
func (l *Loop) Add(fd int, s Socket) (*Watch, error) {
	i := len(l.watches)
	for j, o := range l.watches {
		if o == nil {
			i = j
			break
		}
	}
	if i == len(l.watches) {
		l.watches = append(l.watches, nil)
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return nil, fmt.Errorf("watch socket: %w", err)
	}
	w := &Watch{loop: l, socket: s, fd: fd, index: i}
	if t, ok := s.(Ticker); ok {
		w.ticker = t
		l.tickers++
	}
	l.watches[i] = w
	return w, nil
}

// Want has Flush called in this turn or the next, unless the socket waits for room.
func (w *Watch) Want() {
	if !w.dirty && !w.blocked {
		w.dirty = true
		w.loop.dirty = append(w.loop.dirty, w)
	}
}

// Blocked says whether the socket waits for room to write: then Ready tells when there is some.
func (w *Watch) Blocked(b bool) error {
	if w.blocked == b {
		return nil
	}
	w.blocked = b
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(w.index)}
	if b {
		ev.Events |= unix.EPOLLOUT
	}
	if err := unix.EpollCtl(w.loop.epfd, unix.EPOLL_CTL_MOD, w.fd, &ev); err != nil {
		return fmt.Errorf("watch socket: %w", err)
	}
	return nil
}

// Remove forgets the socket and closes its descriptor.
func (w *Watch) Remove() {
	w.loop.watches[w.index] = nil
	if w.ticker != nil {
		w.loop.tickers--
	}
	_ = unix.Close(w.fd)
}

// Close closes every socket left and the loop. It is idempotent.
func (l *Loop) Close() {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	l.runPosted()
	for _, w := range l.watches {
		if w != nil {
			w.socket.Close()
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
		fn() // their sockets are closed: they fail at once
	}
}
