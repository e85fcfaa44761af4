package block

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk/ring"
)

// ErrCoreGone is why requests end with StatusPathLost: the core died or ended this
// plugin's rings. The plugin needs new rings, or a new life.
var ErrCoreGone = errors.New("the core is gone")

// Config is what a Thread is made of.
type Config struct {
	End         *ring.PluginEnd // owned by the Thread from NewThread on, closed by Close
	MaxTransfer int             // bytes of the largest buffer, rounded up to a power of two; 0: DefaultMaxTransfer
	Logger      hclog.Logger    // nil: none
	Lost        func(error)     // called once, on the thread, when the core is gone; may be nil
}

// Thread is an event loop on an operating system thread of its own. Unless a method
// says otherwise, it is for that thread: for callbacks, and before Run.
type Thread struct {
	end    *ring.PluginEnd
	pool   *Pool
	log    hclog.Logger
	onLost func(error)
	poller *poller

	flights []*Request // in flight, by tag
	waiting fifo       // for a tag
	ended   fifo       // Done is due without the core's help
	lost    error      // not nil: the core is gone

	rings uint // of the doorbell

	stage  Stage
	hooks  []*func()
	timers timerHeap
	now    int64 // ns, when this turn began
	spin   time.Duration

	stop   atomic.Bool
	asleep atomic.Bool // whoever posts must wake
	posted atomic.Bool // posts is not empty
	done   chan struct{}
	spare  []func() // posts' other half
	mu     sync.Mutex
	posts  []func() // guarded by mu
	wakeFD int      // guarded by mu
}

// NewThread makes a thread around the plugin's end of a ring pair. It does nothing
// before Run.
func NewThread(cfg Config) (*Thread, error) {
	if cfg.MaxTransfer == 0 {
		cfg.MaxTransfer = DefaultMaxTransfer
	}
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	t := &Thread{
		end: cfg.End, log: cfg.Logger.Named("block").With("thread", cfg.End.Thread()), onLost: cfg.Lost,
		pool:    newPool(cfg.End.Pool(), cfg.MaxTransfer),
		flights: make([]*Request, cfg.End.Entries()),
		now:     now(), spin: minSpin, wakeFD: -1, done: make(chan struct{}),
	}
	if err := t.openPoller(); err != nil {
		t.Close()
		return nil, fmt.Errorf("make I/O thread: %w", err)
	}
	return t, nil
}

func (t *Thread) openPoller() (err error) {
	if t.poller, err = newPoller(); err != nil {
		return err
	}
	if t.wakeFD, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	// Edge-triggered and never read: each write is an event.
	if err := t.poller.add(t.wakeFD, unix.EPOLLIN|unix.EPOLLET, func(uint32) {}); err != nil {
		return err
	}
	// Edge-triggered, too: it is read now and then only.
	return t.poller.add(t.end.DoorbellFD(), unix.EPOLLIN|unix.EPOLLET, t.doorbell)
}

// Pool is the thread's share of the memory that the core sees.
func (t *Thread) Pool() *Pool { return t.pool }

// Depth is how many requests can be at the core at once; more than that wait here.
func (t *Thread) Depth() int { return t.end.Entries() }

// PoolFD is the memory behind Pool, for a transport that must map or register it
// itself. It stays the thread's property. Any goroutine may ask.
func (t *Thread) PoolFD() int { return t.end.PoolFD() }

// Counters are what the thread's ring end counted. Any goroutine may ask before Close.
func (t *Thread) Counters() ring.Counters { return t.end.Counters() }

// Stage is the latency of the plugin's own part. Any goroutine may read it.
func (t *Thread) Stage() *Stage { return &t.stage }

// Now is when the present turn began, on the clock of package ring, in nanoseconds.
func (t *Thread) Now() uint64 { return uint64(t.now) }

func now() int64 { return int64(ring.Now()) }

// Run turns until Stop is called or ctx ends; it locks its goroutine to an operating
// system thread. Requests under way by then end with StatusPathLost before it
// returns; what their Done submits is dropped. It is called once.
func (t *Thread) Run(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(t.done)
	defer context.AfterFunc(ctx, t.Stop)()
	for !t.stop.Load() {
		if err := t.turn(); err != nil {
			t.settle(err)
			return err
		}
	}
	t.settle(errors.New("the I/O thread was stopped"))
	return nil
}

// settle ends what is under way when the loop has ended.
func (t *Thread) settle(err error) {
	t.onLost = nil
	t.lose(err)
	t.complete()
}

// Stop makes Run return after the turn that it is in. Any goroutine may call it.
func (t *Thread) Stop() {
	t.stop.Store(true)
	t.wake()
}

// Done is closed when Run has returned.
func (t *Thread) Done() <-chan struct{} { return t.done }

// Close releases what the thread holds, its ring end and the pool's memory
// included, once Run has returned or if it was never called.
func (t *Thread) Close() error {
	var errs []error
	if t.poller != nil {
		errs = append(errs, t.poller.close())
	}
	t.mu.Lock()
	if t.wakeFD >= 0 {
		errs = append(errs, unix.Close(t.wakeFD))
		t.wakeFD = -1
	}
	t.mu.Unlock()
	return errors.Join(append(errs, t.end.Close())...)
}

// Watch calls fn on the thread with the epoll events that fd has, until Unwatch.
// events are those of epoll_ctl(2), level-triggered unless they say otherwise. fd
// stays the caller's.
func (t *Thread) Watch(fd int, events uint32, fn func(events uint32)) error {
	return t.poller.add(fd, events, fn)
}

// Modify changes the events that a watched fd is waited for.
func (t *Thread) Modify(fd int, events uint32) error { return t.poller.modify(fd, events) }

// Unwatch ends Watch; fn is not called any more. Call it before fd is closed.
func (t *Thread) Unwatch(fd int) { t.poller.remove(fd) }

// OnTurn calls fn at the end of every turn, before submissions go out, until cancel
// is called: the place to send in one piece what a turn has gathered.
func (t *Thread) OnTurn(fn func()) (cancel func()) {
	hook := &fn
	t.hooks = append(t.hooks, hook)
	return func() {
		for i, h := range t.hooks {
			if h == hook {
				// A new slice, since a hook may cancel while they are run.
				t.hooks = append(append([]*func(){}, t.hooks[:i]...), t.hooks[i+1:]...)
				return
			}
		}
	}
}

// Post runs fn on the thread soon, in order with other posted functions. Any
// goroutine may call it; it never blocks. After Run has returned fn is dropped.
func (t *Thread) Post(fn func()) {
	t.mu.Lock()
	t.posts = append(t.posts, fn)
	t.mu.Unlock()
	t.posted.Store(true)
	if t.asleep.Swap(false) {
		t.wake()
	}
}

func (t *Thread) wake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wakeFD < 0 {
		return
	}
	one := uint64(1)
	unix.RawSyscall(unix.SYS_WRITE, uintptr(t.wakeFD), uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one))
}

// Submit sends r to the core at the end of this turn, or as soon as fewer than
// Depth requests are there, in the order of Submit. It never fails: what cannot
// be sent ends with a status, StatusInvalidField if r contradicts itself.
func (t *Thread) Submit(r *Request) {
	if r.state != idle {
		panic("block: request submitted twice")
	}
	r.Status, r.Info, r.Times = StatusOK, 0, Times{}
	switch {
	case t.lost != nil:
		t.finish(r, StatusPathLost)
	case !t.waiting.empty() || !t.send(r):
		r.state = waiting
		t.waiting.push(r)
	}
}

// Abort asks for an early end of r, which then ends with StatusAborted; or, if it was
// too late, as it would have. Done tells in either case.
func (t *Thread) Abort(r *Request) {
	switch r.state {
	case waiting:
		t.waiting.remove(r)
		t.finish(r, StatusAborted)
	case inFlight:
		a := &Request{Op: ring.OpAbort, state: waiting, target: r, targetSerial: r.serial}
		t.waiting.pushFront(a)
	case idle, ended: // nothing is left to abort
	}
}

// send puts r into the ring; false means that there is no room.
func (t *Thread) send(r *Request) bool {
	e := ring.Entry{
		Op: r.Op, Flags: r.Flags, Handle: r.Volume.Index, HandleGeneration: r.Volume.Generation,
		Offset: r.Offset, Length: r.Length, PoolOffset: r.Buf.offset, PoolLength: uint32(len(r.Buf.mem)),
	}
	if r.target != nil {
		if r.target.state != inFlight || r.target.serial != r.targetSerial {
			return true // it ended meanwhile
		}
		e.Target = r.target.tag
	}
	ok, err := t.end.Submit(&e)
	if err != nil {
		t.log.Error("request contradicts itself", "error", err)
		t.finish(r, StatusInvalidField)
		return true
	}
	if ok {
		r.state, r.tag = inFlight, e.Tag
		r.serial++
		t.flights[e.Tag] = r
	}
	return ok
}

// finish ends r without the core; Done follows in the next complete.
func (t *Thread) finish(r *Request, s Status) {
	if r.Done == nil { // an abort of our own
		r.state = idle
		return
	}
	r.state, r.Status = ended, s
	t.ended.push(r)
}

// turn is one round of the loop.
func (t *Thread) turn() error {
	n, err := t.wait()
	if err != nil {
		return err
	}
	t.now = now()
	t.poller.dispatch(n)
	t.complete()
	t.runPosts()
	t.expire()
	t.pool.serve()
	for _, h := range t.hooks {
		(*h)()
	}
	t.flush()
	return nil
}

// wait waits for events, if there is nothing to do without them. It announces sleep
// even if files are likely to be ready: to ask first would cost a system call per
// turn, which is more than the few doorbells that it saves.
func (t *Thread) wait() (int, error) {
	if !t.ended.empty() || t.pool.servable() {
		return t.poller.wait(0)
	}
	t.spinForCompletion()
	t.asleep.Store(true)
	if t.posted.Load() || t.stop.Load() || t.lost == nil && !t.end.Sleep() {
		t.asleep.Store(false)
		return t.poller.wait(0)
	}
	n, err := t.poller.wait(t.timeout())
	t.asleep.Store(false)
	t.end.Awake()
	return n, err
}

// complete calls Done for what the core has completed, and for what ended without
// it.
func (t *Thread) complete() {
	var c ring.Completion
	for t.lost == nil {
		ok, err := t.end.Take(&c)
		if err != nil {
			t.lose(err)
			break
		}
		if !ok {
			break
		}
		r := t.flights[c.Tag]
		t.flights[c.Tag] = nil
		r.state = idle
		r.Status, r.Info, r.Times = c.Status, c.Info, Times{Taken: c.Taken, Done: c.Done, Disk: c.Disk}
		if r.Arrived != 0 {
			// Both clocks are read once per turn or batch: the difference may be off by one.
			t.stage.add(uint64(max(t.now-int64(r.Arrived)-int64(c.Done-c.Taken), 0)))
		}
		if r.Done != nil {
			r.Done(r)
		}
	}
	for last := t.ended.tail; !t.ended.empty(); {
		r := t.ended.pop()
		r.state = idle
		r.Done(r)
		if r == last {
			break // what Done has ended again waits for the next turn
		}
	}
}

// flush sends what waited for room, then shows the core all that was submitted.
func (t *Thread) flush() {
	if t.lost != nil {
		return
	}
	for !t.waiting.empty() && t.end.Room() > 0 {
		t.send(t.waiting.pop())
	}
	t.end.Publish()
}

// doorbell is called when the core has rung, or is gone.
func (t *Thread) doorbell(events uint32) {
	gone := events&(unix.EPOLLHUP|unix.EPOLLERR) != 0
	if t.rings++; !gone && t.rings%ringsPerDrain != 0 {
		return
	}
	alive := t.end.Drain()
	for gone && alive { // what it rang before it went is read first
		alive = t.end.Drain()
	}
	if !alive {
		// What it has completed before counts.
		t.complete()
		t.lose(ErrCoreGone)
	}
}

// ringsPerDrain is after how many rings the doorbell is emptied: as many as one read
// takes, and far fewer than fill it.
const ringsPerDrain = 32

// Lose ends the use of the rings, for instance because the descriptor socket was
// closed: every request under way and to come ends with StatusPathLost. The thread
// goes on, so that connections can be closed in order.
func (t *Thread) Lose(err error) { t.Post(func() { t.lose(err) }) }

func (t *Thread) lose(err error) {
	if t.lost != nil {
		return
	}
	t.lost = err
	t.poller.remove(t.end.DoorbellFD())
	for tag, r := range t.flights {
		if r != nil {
			t.flights[tag] = nil
			t.finish(r, StatusPathLost)
		}
	}
	for !t.waiting.empty() {
		t.finish(t.waiting.pop(), StatusPathLost)
	}
	if t.onLost != nil {
		t.onLost(err)
	}
}

func (t *Thread) runPosts() {
	if !t.posted.Load() {
		return
	}
	t.mu.Lock()
	t.posted.Store(false)
	t.posts, t.spare = t.spare[:0], t.posts
	t.mu.Unlock()
	for i, fn := range t.spare {
		t.spare[i] = nil
		fn()
	}
}
