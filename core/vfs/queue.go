package vfs

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// QueueOptions configure NewQueue.
type QueueOptions struct {
	Depth   int  // requests in flight at the operating system; 0 means 1024
	Threads bool // use worker threads even where the kernel has io_uring
}

// NewQueue returns an io_uring queue, or one with worker threads where the kernel does not allow io_uring; Engine tells which.
// On either, files of a memory file system are served by plain calls on the owner's goroutine.
func NewQueue(o QueueOptions) (Queue, error) {
	if o.Depth <= 0 {
		o.Depth = 1024
	}
	if !o.Threads {
		if q, err := newURing(o.Depth); err == nil {
			return q, nil
		}
	}
	return newThreads(min(o.Depth, maxWorkers)), nil
}

// opList is a first-in first-out list of Ops linked through Op.next.
type opList struct{ head, tail *Op }

func (l *opList) push(op *Op) {
	op.next = nil
	if l.tail == nil {
		l.head = op
	} else {
		l.tail.next = op
	}
	l.tail = op
}

func (l *opList) pop() *Op {
	op := l.head
	if op == nil {
		return nil
	}
	if l.head = op.next; l.head == nil {
		l.tail = nil
	}
	op.next = nil
	return op
}

// inbox holds functions posted by other goroutines. wake is called, outside the lock, when the owner announced that it sleeps.
type inbox struct {
	wake func()

	pending  atomic.Bool // fns is not empty; saves the owner the lock
	sleeping atomic.Bool // the owner blocks, or is about to

	mu     sync.Mutex
	fns    []func() // guarded by mu
	closed bool     // guarded by mu

	spare []func() // owner only
}

func (in *inbox) post(fn func()) {
	in.mu.Lock()
	if in.closed {
		in.mu.Unlock()
		return
	}
	in.fns = append(in.fns, fn)
	in.pending.Store(true)
	// Under the lock, so that close waits for a wake under way before the descriptor goes.
	if in.sleeping.CompareAndSwap(true, false) {
		in.wake()
	}
	in.mu.Unlock()
}

// run runs what was posted and returns how many that were.
func (in *inbox) run() int {
	if !in.pending.Load() {
		return 0
	}
	in.mu.Lock()
	fns := in.fns
	in.fns = in.spare[:0]
	in.pending.Store(false)
	in.mu.Unlock()
	for i, fn := range fns {
		fn()
		fns[i] = nil
	}
	in.spare = fns
	return len(fns)
}

func (in *inbox) close() {
	in.mu.Lock()
	in.closed, in.fns = true, nil
	in.pending.Store(false)
	in.mu.Unlock()
}

// owner locks the calling goroutine to its thread on the first call.
type owner struct{ locked bool }

func (o *owner) lock() {
	if !o.locked {
		o.locked = true
		runtime.LockOSThread()
	}
}

// inlineList completes Ops on files that never block, at the Turn after their submission.
type inlineList struct{ ops opList }

// take accepts op if its file is one of those.
func (l *inlineList) take(op *Op) bool {
	f, ok := op.File.(*osFile)
	if !ok || !f.inline {
		return false
	}
	l.ops.push(op)
	return true
}

// run performs what had been submitted when it was called; Done may submit more for the next call.
func (l *inlineList) run() int {
	ops, n := l.ops, 0
	l.ops = opList{}
	for op := ops.pop(); op != nil; op = ops.pop() {
		op.Err = performInline(op.File.(*osFile), op)
		op.Done(op)
		n++
	}
	return n
}
