package vfs

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// maxWorkers bounds the goroutines, and with them the OS threads, that make blocking calls for one queue.
const maxWorkers = 32

// threads is the queue for kernels that forbid io_uring: worker goroutines make blocking calls.
type threads struct {
	owner  owner
	in     inbox
	inline inlineList
	fresh  opList // submitted since the last Turn; owner only
	flying int    // with the workers; owner only
	closed bool

	signal chan struct{} // capacity 1: something happened
	wg     sync.WaitGroup

	mu      sync.Mutex
	work    sync.Cond // on mu: todo is not empty, or stop
	todo    opList    // guarded by mu
	ended   opList    // guarded by mu
	stop    bool      // guarded by mu
	workers int       // owner only
	limit   int
}

func newThreads(limit int) *threads {
	q := &threads{signal: make(chan struct{}, 1), limit: limit}
	q.work.L = &q.mu
	q.in.wake = q.ring
	return q
}

func (q *threads) Engine() string { return "threads" }

func (q *threads) ring() {
	select {
	case q.signal <- struct{}{}:
	default:
	}
}

func (q *threads) Submit(op *Op) {
	op.Err = nil
	if !q.inline.take(op) {
		q.fresh.push(op)
	}
}

func (q *threads) Turn(wait bool) error {
	if q.closed {
		return ErrClosed
	}
	q.owner.lock()
	q.dispatch()
	for {
		n := q.inline.run() + q.reap() + q.in.run()
		if n > 0 || !wait {
			q.dispatch()
			return nil
		}
		q.in.sleeping.Store(true)
		if !q.in.pending.Load() {
			<-q.signal
		}
		q.in.sleeping.Store(false)
	}
}

// dispatch hands fresh Ops to the workers.
func (q *threads) dispatch() {
	if q.fresh.head == nil {
		return
	}
	q.mu.Lock()
	for op := q.fresh.pop(); op != nil; op = q.fresh.pop() {
		q.todo.push(op)
		q.flying++
	}
	q.mu.Unlock()
	for q.workers < min(q.flying, q.limit) {
		q.workers++
		q.wg.Add(1)
		go q.worker()
	}
	q.work.Broadcast()
}

func (q *threads) worker() {
	defer q.wg.Done()
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		for q.todo.head == nil && !q.stop {
			q.work.Wait()
		}
		op := q.todo.pop()
		if op == nil {
			return
		}
		q.mu.Unlock()
		op.Err = perform(op)
		q.mu.Lock()
		q.ended.push(op)
		q.ring()
	}
}

func (q *threads) reap() int {
	if q.flying == 0 {
		return 0
	}
	q.mu.Lock()
	ended := q.ended
	q.ended = opList{}
	q.mu.Unlock()
	n := 0
	for op := ended.pop(); op != nil; op = ended.pop() {
		q.flying--
		n++
		op.Done(op)
	}
	return n
}

func (q *threads) Post(fn func()) { q.in.post(fn) }

// WatchEventFD has one goroutine poll fd; cancel joins it.
func (q *threads) WatchEventFD(fd int, fn func()) (func(), error) {
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	cancelled := false // owner only
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		watchEventFD(fd, stop, func() {
			q.Post(func() {
				if !cancelled {
					fn()
				}
			})
		})
	}()
	return func() {
		cancelled = true
		_ = signalEventFD(stop)
		wg.Wait()
		_ = unix.Close(stop)
	}, nil
}

func watchEventFD(fd, stop int, fn func()) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(stop), Events: unix.POLLIN}}
	var count [8]byte
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		if fds[1].Revents != 0 {
			return
		}
		if fds[0].Revents&unix.POLLIN != 0 {
			if n, _ := unix.Read(fd, count[:]); n == 8 {
				fn()
			}
		} else if fds[0].Revents != 0 {
			return
		}
	}
}

func signalEventFD(fd int) error {
	one := [8]byte{1}
	_, err := unix.Write(fd, one[:])
	return err
}

// Poll has a goroutine wait for fd.
func (q *threads) Poll(fd int, write bool, fn func()) error {
	if q.closed {
		return ErrClosed
	}
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}
	if write {
		fds[0].Events = unix.POLLOUT
	}
	q.wg.Go(func() {
		for {
			if _, err := unix.Poll(fds, -1); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		q.Post(fn)
	})
	return nil
}

func (q *threads) Close() error {
	if q.closed {
		return nil
	}
	q.closed = true
	q.in.close()
	q.mu.Lock()
	q.stop = true
	q.mu.Unlock()
	q.work.Broadcast()
	q.wg.Wait()
	return nil
}
