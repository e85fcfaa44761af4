package block

import (
	"container/heap"
	"time"
)

// Timer calls a function on its Thread once the time has come. It is coarse: late
// by up to a millisecond, and by whatever the turn before it takes.
type Timer struct {
	thread *Thread
	fn     func()
	at     int64 // ns on the thread's clock
	index  int   // in the heap, or -1
}

// After makes a timer that calls fn on the thread in d. On the thread only.
func (t *Thread) After(d time.Duration, fn func()) *Timer {
	tm := &Timer{thread: t, fn: fn, index: -1}
	tm.Reset(d)
	return tm
}

// Reset sets the timer to d from now, whether it is due, stopped or over.
func (tm *Timer) Reset(d time.Duration) {
	tm.at = tm.thread.now + int64(d)
	if tm.index >= 0 {
		heap.Fix(&tm.thread.timers, tm.index)
		return
	}
	heap.Push(&tm.thread.timers, tm)
}

// Stop prevents the call; false means that it was over already.
func (tm *Timer) Stop() bool {
	if tm.index < 0 {
		return false
	}
	heap.Remove(&tm.thread.timers, tm.index)
	return true
}

// timerHeap has the earliest timer first.
type timerHeap []*Timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *timerHeap) Push(x any) {
	tm := x.(*Timer)
	tm.index = len(*h)
	*h = append(*h, tm)
}

func (h *timerHeap) Pop() any {
	old := *h
	tm := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	tm.index = -1
	return tm
}

// expire calls the timers that are due. A timer that is set to no delay in its own
// call waits for the next turn.
func (t *Thread) expire() {
	for n := len(t.timers); n > 0 && len(t.timers) > 0 && t.timers[0].at <= t.now; n-- {
		tm := heap.Pop(&t.timers).(*Timer)
		tm.fn()
	}
}

// timeout is how long the thread may block, in milliseconds, rounded up; -1 for ever.
func (t *Thread) timeout() int {
	if len(t.timers) == 0 {
		return -1
	}
	ns := t.timers[0].at - now()
	return int(min(max(0, (ns+999_999)/1_000_000), 1<<30))
}
