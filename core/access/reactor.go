package access

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/mooring-io/mooring/core/vfs"
)

// ErrStopped is answered to whoever asks a reactor that has ended.
var ErrStopped = errors.New("the reactor has stopped")

// Reactor is the one thread on which all data-path state of a core lives.
type Reactor struct {
	queue   vfs.Queue
	clock   Clock
	monoNow int64    // see now; 0: not read for this batch
	bootNow int64    // see boot
	bootAt  int64    // when bootNow was read, CLOCK_MONOTONIC ns
	sources []source // polled every turn
	kicks   []func() // run at the end of every turn that did work
	stop    atomic.Bool
	done    chan struct{}
	turns   uint64
	sleeps  uint64

	answered bool          // a command was completed since the last linger
	quiet    int64         // since when nothing comes, CLOCK_MONOTONIC ns; 0: not lingering
	spin     time.Duration // how long to linger
}

// Before it sleeps, the reactor may go on turning for a moment: a wake costs more than
// the wait if something comes at once. The time adapts to whether that pays; where
// processors are few it never does.
const (
	minSpin   = 500 * time.Nanosecond
	maxSpin   = 16 * time.Microsecond
	spinCores = 5 // processors that a machine must have
)

var maySpin = runtime.NumCPU() >= spinCores

// source is something the reactor polls: a plugin's ring.
type source interface {
	// poll does the work that waits, at most a batch, and says how much that was.
	poll() int
	// publish makes results visible to the other side and wakes it if it sleeps.
	publish()
	// sleep announces that the reactor is about to block; false means work has
	// come in the meantime.
	sleep() bool
	// awake takes the announcement back.
	awake()
}

// Clock tells the time: Monotonic is CLOCK_MONOTONIC (comparable with the
// plugins' stamps), Boot is CLOCK_BOOTTIME (leases). Both in nanoseconds.
type Clock interface {
	Monotonic() int64
	Boot() int64
}

// NewReactor returns a reactor that will drive queue. It does nothing before Run.
func NewReactor(queue vfs.Queue, clock Clock) *Reactor {
	return &Reactor{queue: queue, clock: clock, spin: minSpin, done: make(chan struct{})}
}

// Queue returns the queue that the reactor drives; stores are opened on it.
func (r *Reactor) Queue() vfs.Queue { return r.queue }

// Run turns until Stop is called or the queue fails. It locks its goroutine to an
// OS thread.
func (r *Reactor) Run() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(r.done)
	for {
		if err := r.turn(); err != nil {
			return err
		}
		if r.stop.Load() {
			return nil
		}
	}
}

// turn does one round: take what the rings hold, hand it to the stores, tell the
// plugins what is finished, and wait for the disk or a doorbell when there was
// nothing to do.
func (r *Reactor) turn() error {
	r.turns++
	work := 0
	for _, s := range r.sources {
		r.monoNow = 0 // a batch of large commands takes its time
		work += s.poll()
	}
	for _, k := range r.kicks {
		k()
	}
	for _, s := range r.sources {
		s.publish()
	}
	wait := !r.linger(work > 0) && work == 0 && r.fallAsleep()
	r.monoNow = 0
	err := r.queue.Turn(wait)
	if wait {
		r.sleeps++
		for _, s := range r.sources {
			s.awake()
		}
	}
	return err
}

// linger says whether to turn once more before sleeping although nothing may have come.
func (r *Reactor) linger(came bool) bool {
	if !maySpin {
		return false
	}
	came, r.answered = came || r.answered, false
	now := r.clock.Monotonic()
	switch {
	case came && r.quiet != 0:
		r.spin = min(2*r.spin, maxSpin)
		r.quiet = 0
	case came:
	case r.quiet == 0:
		r.quiet = now
	case now-r.quiet >= int64(r.spin):
		r.spin = max(r.spin/2, minSpin)
		r.quiet = 0
		return false
	}
	return true
}

// fallAsleep announces to every source that the reactor is about to block. If one
// of them has work by then, all announcements are taken back.
func (r *Reactor) fallAsleep() bool {
	if r.stop.Load() {
		return false
	}
	for i, s := range r.sources {
		if s.sleep() {
			continue
		}
		for _, t := range r.sources[:i+1] {
			t.awake()
		}
		return false
	}
	return true
}

// Post runs fn on the reactor soon. It is for any goroutine, and never blocks.
func (r *Reactor) Post(fn func()) { r.queue.Post(fn) }

// Do runs fn on the reactor and waits until it has run. With an error it has not
// run and never will. Not for the reactor itself.
func (r *Reactor) Do(ctx context.Context, fn func()) error {
	var claimed atomic.Bool // by whoever decides first: the reactor to run fn, or the caller to give up
	ran := make(chan struct{})
	r.queue.Post(func() {
		if claimed.CompareAndSwap(false, true) {
			fn()
			close(ran)
		}
	})
	err := r.wait(ctx, ran)
	if err != nil && !claimed.CompareAndSwap(false, true) {
		<-ran
		return nil
	}
	return err
}

// wait waits for ch to be closed.
func (r *Reactor) wait(ctx context.Context, ch <-chan struct{}) error {
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.done:
		return ErrStopped
	}
}

// Stop ends Run after the present turn and waits for it.
func (r *Reactor) Stop() {
	r.stop.Store(true)
	r.queue.Post(func() {})
	<-r.done
}

func (r *Reactor) addSource(s source) { r.sources = append(r.sources, s) }

func (r *Reactor) removeSource(s source) {
	kept := r.sources[:0:0]
	for _, t := range r.sources {
		if t != s {
			kept = append(kept, t)
		}
	}
	r.sources = kept // a new slice: turn may be walking the old one
}

// now is the time in CLOCK_MONOTONIC nanoseconds. It is read once per batch of a source
// and once per batch of completions: a reading per command is not free.
func (r *Reactor) now() int64 {
	if r.monoNow == 0 {
		r.monoNow = r.clock.Monotonic()
	}
	return r.monoNow
}

// bootFresh is how long a reading of CLOCK_BOOTTIME, which is a system call, is used. A
// machine that is suspended right after a command was judged answers it late, however
// short this is; what the lease's margin allows for is far longer.
const bootFresh = 100 * time.Microsecond

// boot is the time in CLOCK_BOOTTIME nanoseconds, at most bootFresh behind.
func (r *Reactor) boot() int64 {
	if now := r.now(); r.bootNow == 0 || now-r.bootAt >= int64(bootFresh) {
		r.bootNow, r.bootAt = r.clock.Boot(), now
	}
	return r.bootNow + r.monoNow - r.bootAt
}
