package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The io_uring ABI, from the kernel's include/uapi/linux/io_uring.h.
const (
	setupCQSize       = 1 << 3
	setupRDisabled    = 1 << 6
	setupSubmitAll    = 1 << 7
	setupCoopTaskrun  = 1 << 8
	setupTaskrunFlag  = 1 << 9
	setupSingleIssuer = 1 << 12
	setupDeferTaskrun = 1 << 13

	featSingleMmap = 1 << 0
	featNoDrop     = 1 << 1
	featExtArg     = 1 << 8

	enterGetEvents = 1 << 0
	enterExtArg    = 1 << 3

	registerEnableRings = 12

	offSQRing = 0
	offSQEs   = 0x10000000

	opcodeFsync       = 3
	opcodePollAdd     = 6
	opcodeAsyncCancel = 14
	opcodeFallocate   = 17
	opcodeRead        = 22
	opcodeWrite       = 23

	fsyncDatasync = 1

	sqCQOverflow = 1 << 1
	sqTaskrun    = 1 << 2
)

type sqringOffsets struct {
	head, tail, ringMask, ringEntries, flags, dropped, array, resv1 uint32
	userAddr                                                        uint64
}

type cqringOffsets struct {
	head, tail, ringMask, ringEntries, overflow, cqes, flags, resv1 uint32
	userAddr                                                        uint64
}

type uringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	resv                                                                   [3]uint32
	sqOff                                                                  sqringOffsets
	cqOff                                                                  cqringOffsets
}

type sqe struct {
	opcode, flags uint8
	ioprio        uint16
	fd            int32
	off           uint64
	addr          uint64
	len           uint32
	opFlags       uint32
	userData      uint64
	bufIndex      uint16
	personality   uint16
	fileIndex     int32
	addr3, resv   uint64
}

type cqe struct {
	userData uint64
	res      int32
	flags    uint32
}

// geteventsArg is what an enter with enterExtArg names: how long to wait.
type geteventsArg struct {
	sigmask             uint64
	sigmaskSize, minUse uint32
	timeout             *unix.Timespec
}

var (
	_ [24]byte  = [unsafe.Sizeof(geteventsArg{})]byte{}
	_ [120]byte = [unsafe.Sizeof(uringParams{})]byte{}
	_ [64]byte  = [unsafe.Sizeof(sqe{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(cqe{})]byte{}
)

// uring is a Queue on one io_uring. Each request in flight has a slot whose index is its user data; slot 0 is not
// used, so that user data 0 marks requests whose result nobody awaits.
type uring struct {
	owner  owner
	in     inbox
	inline inlineList
	fresh  opList // submitted, no slot yet

	fd       int
	disabled bool // made without an owner; the first Turn makes its thread the only submitter
	ring     []byte
	sqeMem   []byte
	sqes     []sqe
	sqHead   *uint32
	sqTail   *uint32
	sqFlags  *uint32
	tail     uint32 // next submission entry to fill
	sqMask   uint32
	toSubmit uint32
	cqHead   *uint32
	cqTail   *uint32
	cqMask   uint32
	cqes     []cqe

	slots []flight
	free  []uint32

	// A wait that ends soon is cheaper if the Go scheduler does not learn of it; one that does not would keep it from a
	// processor and a collection of garbage from its start. So a wait is brief, as long as the last one was.
	brief    bool // the last wait ended within briefWait
	canBrief bool // the kernel takes a timeout
	timeout  unix.Timespec
	arg      geteventsArg

	wakeFD  int
	wake    *watch
	watches map[*watch]struct{}
	parked  int // watches without a request in flight
	polls   []pollRequest
	broken  error
	closed  bool
}

// flight is a request at the kernel: an Op, an eventfd watch or a poll.
type flight struct {
	op    *Op
	watch *watch
	poll  func()
}

// pollRequest is a poll that waits for a submission entry.
type pollRequest struct {
	fd    int
	write bool
	fn    func()
}

// briefWait is how long the queue waits without telling the Go scheduler.
const briefWait = time.Millisecond

// watch is an eventfd on which a read, or a poll where it is non-blocking, is always posted.
type watch struct {
	fd     int
	fn     func() // nil once cancelled
	slot   uint32 // of the request in flight; 0 = none
	poll   bool
	count  *[8]byte
	parked bool // waits for a submission entry
}

func newURing(depth int) (_ *uring, err error) {
	depth = min(max(depth, 8), 4096)
	entries := uint32(1)
	for int(entries) < depth {
		entries <<= 1
	}
	q := &uring{fd: -1, wakeFD: -1, watches: map[*watch]struct{}{}}
	defer func() {
		if err != nil {
			q.release()
		}
	}()
	var p uringParams
	for _, flags := range []uint32{
		setupSubmitAll | setupTaskrunFlag | setupSingleIssuer | setupDeferTaskrun | setupRDisabled, // Linux 6.1
		setupSubmitAll | setupTaskrunFlag | setupCoopTaskrun,                                       // Linux 5.19
		0,
	} {
		p = uringParams{flags: flags | setupCQSize, cqEntries: 4 * entries}
		if q.fd, err = uringSetup(entries, &p); !errors.Is(err, unix.EINVAL) {
			q.disabled = flags&setupRDisabled != 0
			break
		}
	}
	if err != nil {
		return nil, os.NewSyscallError("io_uring_setup", err)
	}
	if p.features&featSingleMmap == 0 || p.features&featNoDrop == 0 {
		return nil, fmt.Errorf("io_uring of this kernel is too old: %w", ErrUnsupported)
	}
	if err := q.mapRings(&p); err != nil {
		return nil, err
	}
	q.canBrief = p.features&featExtArg != 0
	q.timeout = unix.NsecToTimespec(int64(briefWait))
	q.arg.timeout = &q.timeout
	q.slots = make([]flight, entries+1)
	for i := entries; i > 0; i-- {
		q.free = append(q.free, i)
	}
	if q.wakeFD, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	q.in.wake = func() { _ = signalEventFD(q.wakeFD) }
	q.wake = q.watch(q.wakeFD, func() {})
	return q, nil
}

func (q *uring) mapRings(p *uringParams) (err error) {
	size := max(int(p.sqOff.array)+int(p.sqEntries)*4, int(p.cqOff.cqes)+int(p.cqEntries)*int(unsafe.Sizeof(cqe{})))
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	if q.ring, err = unix.Mmap(q.fd, offSQRing, size, prot, flags); err != nil {
		return fmt.Errorf("map io_uring: %w", err)
	}
	if q.sqeMem, err = unix.Mmap(q.fd, offSQEs, int(p.sqEntries)*int(unsafe.Sizeof(sqe{})), prot, flags); err != nil {
		return fmt.Errorf("map io_uring entries: %w", err)
	}
	word := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&q.ring[off])) }
	q.sqes = unsafe.Slice((*sqe)(unsafe.Pointer(&q.sqeMem[0])), p.sqEntries)
	q.cqes = unsafe.Slice((*cqe)(unsafe.Pointer(&q.ring[p.cqOff.cqes])), p.cqEntries)
	q.sqHead, q.sqTail, q.sqFlags = word(p.sqOff.head), word(p.sqOff.tail), word(p.sqOff.flags)
	q.cqHead, q.cqTail = word(p.cqOff.head), word(p.cqOff.tail)
	q.sqMask, q.cqMask = *word(p.sqOff.ringMask), *word(p.cqOff.ringMask)
	for i := range p.sqEntries {
		*word(p.sqOff.array + 4*i) = i
	}
	return nil
}

func uringSetup(entries uint32, p *uringParams) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(p)), 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

func (q *uring) Engine() string { return "io_uring" }

func (q *uring) Submit(op *Op) {
	op.Err, op.done = nil, 0
	if !q.inline.take(op) {
		q.fresh.push(op)
	}
}

// prepare returns a cleared submission entry and its slot, or nil when all are taken.
func (q *uring) prepare(f flight) (*sqe, uint32) {
	if len(q.free) == 0 || q.toSubmit == uint32(len(q.sqes)) {
		return nil, 0
	}
	slot := q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	q.slots[slot] = f
	e := &q.sqes[q.tail&q.sqMask]
	*e = sqe{userData: uint64(slot)}
	q.tail++
	q.toSubmit++
	return e, slot
}

// start fills a submission entry for op, which may have been carried out in part before.
func (q *uring) start(op *Op) bool {
	f, ok := op.File.(*osFile)
	if !ok {
		panic("vfs: an Op on an io_uring queue names a file of another file system")
	}
	e, _ := q.prepare(flight{op: op})
	if e == nil {
		return false
	}
	e.fd = f.fd
	switch op.Kind {
	case OpRead, OpWrite:
		e.opcode = opcodeRead
		if op.Kind == OpWrite {
			e.opcode = opcodeWrite
			if op.Durable {
				e.opFlags = unix.RWF_DSYNC
			}
		}
		rest := op.Buf[op.done:]
		e.off = uint64(op.Off) + uint64(op.done)
		e.addr = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(rest))))
		e.len = uint32(min(len(rest), 1<<30))
	case OpSync:
		e.opcode, e.opFlags = opcodeFsync, fsyncDatasync
	case OpAllocate:
		e.opcode, e.off, e.addr = opcodeFallocate, uint64(op.Off), uint64(op.Len)
	default:
		panic("vfs: unknown operation")
	}
	return true
}

// fill moves fresh Ops into the submission ring as far as there is room.
func (q *uring) fill() {
	for op := q.fresh.head; op != nil && q.start(op); op = q.fresh.head {
		q.popStarted()
	}
	for len(q.polls) > 0 {
		p := q.polls[len(q.polls)-1]
		e, _ := q.prepare(flight{poll: p.fn})
		if e == nil {
			return
		}
		e.fd, e.opcode, e.opFlags = int32(p.fd), opcodePollAdd, unix.POLLIN|unix.POLLRDHUP
		if p.write {
			e.opFlags = unix.POLLOUT
		}
		q.polls = q.polls[:len(q.polls)-1]
	}
}

func (q *uring) Poll(fd int, write bool, fn func()) error {
	if q.closed {
		return ErrClosed
	}
	q.polls = append(q.polls, pollRequest{fd, write, fn})
	return nil
}

// popStarted drops the head of fresh without touching the links of an Op that is in flight now.
func (q *uring) popStarted() {
	if q.fresh.head = q.fresh.head.next; q.fresh.head == nil {
		q.fresh.tail = nil
	}
}

func (q *uring) Turn(wait bool) error {
	if q.closed {
		return ErrClosed
	}
	q.owner.lock()
	if q.disabled {
		if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(q.fd), registerEnableRings, 0, 0, 0, 0); errno != 0 {
			q.broken = os.NewSyscallError("io_uring_register", errno)
		}
		q.disabled = false
	}
	for q.broken == nil {
		q.fill()
		q.rewatch()
		if n := q.inline.run() + q.in.run(); n > 0 {
			wait = false
		}
		q.fill()
		sleep := wait && atomic.LoadUint32(q.cqTail) == *q.cqHead
		if sleep {
			q.in.sleeping.Store(true)
			sleep = !q.in.pending.Load()
		}
		q.enter(sleep)
		q.in.sleeping.Store(false)
		n := q.reap()
		n += q.in.run()
		if n > 0 || !wait {
			break
		}
	}
	return q.broken
}

// enter submits what is filled in and, with sleep, blocks until there is a completion.
func (q *uring) enter(sleep bool) {
	flags := uintptr(0)
	if sleep || atomic.LoadUint32(q.sqFlags)&(sqCQOverflow|sqTaskrun) != 0 {
		flags = enterGetEvents
	}
	if q.toSubmit == 0 && flags == 0 {
		return
	}
	atomic.StoreUint32(q.sqTail, q.tail)
	if !sleep {
		n, _, errno := unix.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(q.fd), uintptr(q.toSubmit), 0, flags, 0, 0)
		q.entered(n, errno)
		return
	}
	if q.brief && q.canBrief {
		n, _, errno := unix.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(q.fd), uintptr(q.toSubmit), 1, flags|enterExtArg,
			uintptr(unsafe.Pointer(&q.arg)), unsafe.Sizeof(q.arg))
		if q.entered(n, errno); errno != unix.ETIME {
			return
		}
	}
	began := time.Now()
	n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(q.fd), uintptr(q.toSubmit), 1, flags, 0, 0)
	q.entered(n, errno)
	q.brief = time.Since(began) < briefWait
}

// entered takes note of what io_uring_enter answered.
func (q *uring) entered(n uintptr, errno unix.Errno) {
	switch errno {
	case 0:
		q.toSubmit -= uint32(n)
	case unix.EINTR, unix.EAGAIN, unix.EBUSY, unix.ETIME: // try again next time round, after reaping
	default:
		q.broken = os.NewSyscallError("io_uring_enter", errno)
	}
}

// reap runs the completions that are there now and returns how many meant something to the owner.
func (q *uring) reap() int {
	n, tail := 0, atomic.LoadUint32(q.cqTail)
	// The head is read anew each time: what runs here may reap, too (unwatch does).
	for head := *q.cqHead; int32(tail-head) > 0; head = *q.cqHead {
		c := q.cqes[head&q.cqMask]
		atomic.StoreUint32(q.cqHead, head+1)
		if c.userData == 0 {
			continue
		}
		slot := uint32(c.userData)
		f := q.slots[slot]
		q.slots[slot] = flight{}
		q.free = append(q.free, slot)
		if f.watch != nil {
			n += q.watchEnded(f.watch, c.res)
		} else if f.poll != nil {
			n++
			f.poll()
		} else if q.opEnded(f.op, c.res) {
			n++
			f.op.Done(f.op)
		}
	}
	return n
}

// opEnded records a completion and tells whether op is finished; what was transferred in part goes out again.
func (q *uring) opEnded(op *Op, res int32) bool {
	switch {
	case res == -int32(unix.EINTR) || res == -int32(unix.EAGAIN):
		q.fresh.push(op)
		return false
	case res < 0:
		op.Err = unix.Errno(-res)
	case op.Kind == OpRead || op.Kind == OpWrite:
		op.done += int(res)
		if op.done < len(op.Buf) && res > 0 {
			q.fresh.push(op)
			return false
		}
		if op.done < len(op.Buf) {
			op.Err = io.ErrUnexpectedEOF
		}
	}
	return true
}

func (q *uring) Post(fn func()) { q.in.post(fn) }

func (q *uring) watch(fd int, fn func()) *watch {
	w := &watch{fd: fd, fn: fn, count: new([8]byte), parked: true}
	q.watches[w] = struct{}{}
	q.parked++
	return w
}

// rewatch posts the reads of watches that have none in flight.
func (q *uring) rewatch() {
	if q.parked == 0 {
		return
	}
	for w := range q.watches {
		if w.parked {
			q.parked--
			q.arm(w)
		}
	}
}

func (q *uring) arm(w *watch) {
	e, slot := q.prepare(flight{watch: w})
	if w.parked = e == nil; w.parked {
		q.parked++
		return
	}
	w.slot = slot
	e.fd = int32(w.fd)
	if w.poll {
		e.opcode, e.opFlags = opcodePollAdd, unix.POLLIN
		return
	}
	e.opcode, e.off = opcodeRead, ^uint64(0)
	e.addr, e.len = uint64(uintptr(unsafe.Pointer(w.count))), 8
}

func (q *uring) watchEnded(w *watch, res int32) int {
	w.slot = 0
	if w.fn == nil {
		return 0
	}
	switch {
	case res == -int32(unix.EAGAIN) && !w.poll:
		w.poll = true // the descriptor is non-blocking
	case res < 0 && res != -int32(unix.EINTR):
		return 0 // the descriptor cannot be watched any more: its owner learns of that in its own way
	}
	fired := res > 0
	if fired && w.poll {
		n, _ := unix.Read(w.fd, w.count[:])
		fired = n == 8
	}
	q.arm(w)
	if !fired {
		return 0
	}
	w.fn()
	return 1
}

func (q *uring) WatchEventFD(fd int, fn func()) (func(), error) {
	if q.closed {
		return nil, ErrClosed
	}
	w := q.watch(fd, fn)
	return func() { q.unwatch(w) }, nil
}

// unwatch waits until the kernel no longer holds the request of w.
func (q *uring) unwatch(w *watch) {
	w.fn = nil
	if w.parked {
		w.parked = false
		q.parked--
	}
	delete(q.watches, w)
	if q.closed || w.slot == 0 || q.disabled {
		return
	}
	for asked := false; w.slot != 0 && q.broken == nil; {
		if !asked {
			if e, slot := q.prepare(flight{}); e != nil {
				e.opcode, e.addr, e.userData = opcodeAsyncCancel, uint64(w.slot), 0
				q.slots[slot] = flight{}
				q.free = append(q.free, slot)
				asked = true
			}
		}
		q.enter(asked && atomic.LoadUint32(q.cqTail) == *q.cqHead)
		q.reap()
	}
}

func (q *uring) Close() error {
	if q.closed {
		return nil
	}
	q.closed = true
	q.in.close()
	q.release()
	return nil
}

func (q *uring) release() {
	for _, fd := range []int{q.fd, q.wakeFD} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	for _, m := range [][]byte{q.ring, q.sqeMem} {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
}
