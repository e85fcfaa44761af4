package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"syscall"
)

// SectorSize is what a simulated disk writes without tearing, in bytes.
const SectorSize = 512

// Sim is a file system on a simulated disk with a volatile cache. The order in which queued requests complete, and what a
// crash leaves of them, follow from the seed alone as long as one goroutine uses it. Its methods may be called from any goroutine.
type Sim struct {
	// OnEvent, when set, runs at every point where a request is about to take effect, or just has. It may call CrashClone.
	OnEvent func()

	mu    sync.Mutex
	rng   *rand.Rand           // guarded by mu
	files map[string]*simInode // guarded by mu
	fault SimFaults            // guarded by mu
	queue []*simQueue          // guarded by mu
}

// SimFaults are the errors that a Sim injects. The zero value injects none.
type SimFaults struct {
	FailSyncs  int   // when n > 0, the n-th sync from now and all later ones fail
	FailWrites int   // when n > 0, the n-th write from now and all later ones fail
	MaxSize    int64 // when positive, no file grows beyond this many bytes (ENOSPC)
	// OnRead may change what a read returns; off is where buf begins.
	OnRead func(path string, off int64, buf []byte) error
}

// Crash is the kind of death that CrashClone simulates.
type Crash uint8

const (
	// PowerLoss keeps what was synced and, of every other sector, any version written since.
	PowerLoss Crash = iota
	// ProcessDeath keeps every write that had completed and a share of those in flight.
	ProcessDeath
)

type simInode struct {
	data     content // what reads see
	stable   content // what a power loss leaves
	unsynced []simWrite
	wrote    uint64 // writes so far
	locked   bool
	named    bool // its name survives a power loss
}

type simWrite struct {
	seq  uint64
	off  int64
	data []byte // nil: only the length of the file grew to off
	dead []bool // sectors that a later write has replaced on the medium; nil = none
}

func (w *simWrite) isDead(sector int) bool { return w.dead != nil && w.dead[sector] }

// bury marks the sectors of w within [from, to) bytes as replaced.
func (w *simWrite) bury(from, to int64) {
	for at := 0; at < len(w.data); at += SectorSize {
		if off := w.off + int64(at); off >= from && off < to {
			if w.dead == nil {
				w.dead = make([]bool, (len(w.data)+SectorSize-1)/SectorSize)
			}
			w.dead[at/SectorSize] = true
		}
	}
}

// NewSim returns an empty simulated disk.
func NewSim(seed uint64) *Sim {
	return &Sim{rng: rand.New(rand.NewPCG(seed, 0)), files: map[string]*simInode{}}
}

// SetFaults replaces the errors to inject.
func (s *Sim) SetFaults(f SimFaults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Corrupt inverts n bytes of a file at off, on the medium.
func (s *Sim) Corrupt(name string, off int64, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[name]
	f.data.invert(off, n)
	f.stable.invert(off, n)
}

// CrashClone returns the disk as a restart would find it if the machine or process died now. The original goes on.
func (s *Sim) CrashClone(seed uint64, kind Crash) *Sim {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := NewSim(seed)
	for name, f := range s.files {
		if !f.named && kind == PowerLoss && c.rng.IntN(2) == 0 {
			continue
		}
		n := &simInode{named: true}
		if kind == ProcessDeath {
			n.data = f.data.clone()
		} else {
			n.data = f.stable.clone()
			n.lose(c.rng, f.unsynced)
		}
		for _, q := range s.queue {
			for _, op := range q.flying {
				if op.Kind == OpWrite && op.File.(*simFile).inode == f {
					n.lose(c.rng, []simWrite{{off: op.Off, data: op.Buf}})
				}
			}
		}
		n.stable = n.data.clone()
		c.files[name] = n
	}
	return c
}

// lose applies a random share of writes, torn at sectors.
func (n *simInode) lose(rng *rand.Rand, writes []simWrite) {
	keep := [...]float64{0, 0.1, 0.5, 0.9, 1}[rng.IntN(5)]
	for _, w := range writes {
		p := keep
		if rng.IntN(4) == 0 {
			p = float64(rng.IntN(2)) // this one whole or not at all
		}
		if w.data == nil && rng.Float64() < p {
			n.data.grow(w.off)
		}
		for at := 0; at < len(w.data); at += SectorSize {
			if rng.Float64() < p && !w.isDead(at/SectorSize) {
				end := min(at+SectorSize, len(w.data))
				n.data.write(w.data[at:end], w.off+int64(at))
			}
		}
	}
}

func (s *Sim) event() {
	if s.OnEvent != nil {
		s.OnEvent()
	}
}

// OpenFile implements FS. Every file claims to be direct, so that alignment is checked.
func (s *Sim) OpenFile(name string, opt OpenOptions) (File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.files[name]
	if n == nil {
		if !opt.Create {
			return nil, fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
		}
		n = &simInode{}
		s.files[name] = n
	}
	if opt.Lock {
		if n.locked {
			return nil, fmt.Errorf("%s: %w", name, ErrLocked)
		}
		n.locked = true
	}
	return &simFile{sim: s, name: name, inode: n, direct: opt.Direct, lock: opt.Lock}, nil
}

// MkdirAll implements FS; folders need no making here.
func (s *Sim) MkdirAll(string) error { return nil }

// Remove implements FS.
func (s *Sim) Remove(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files[name] == nil {
		return fmt.Errorf("remove %s: %w", name, fs.ErrNotExist)
	}
	delete(s.files, name)
	return nil
}

// Size implements FS.
func (s *Sim) Size(name string) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.files[name]
	if n == nil {
		return 0, fmt.Errorf("stat %s: %w", name, fs.ErrNotExist)
	}
	return n.data.size, nil
}

// SyncDir implements FS.
func (s *Sim) SyncDir(dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, n := range s.files {
		if path.Dir(name) == path.Clean(dir) {
			n.named = true
		}
	}
	return nil
}

// Free implements FS.
func (s *Sim) Free(string) (int64, error) { return 1 << 40, nil }

type simFile struct {
	sim    *Sim
	name   string
	inode  *simInode
	direct bool
	lock   bool
	closed bool
}

func (f *simFile) Direct() bool { return f.direct }

func (f *simFile) Size() (int64, error) { return f.sim.Size(f.name) }

func (f *simFile) Close() error {
	f.sim.mu.Lock()
	defer f.sim.mu.Unlock()
	if f.closed {
		return ErrClosed
	}
	f.closed = true
	if f.lock {
		f.inode.locked = false
	}
	return nil
}

func (f *simFile) ReadAt(b []byte, off int64) (int, error) {
	f.sim.mu.Lock()
	defer f.sim.mu.Unlock()
	if off >= f.inode.data.size {
		return 0, io.EOF
	}
	n := f.inode.data.read(b, off)
	if f.sim.fault.OnRead != nil {
		if err := f.sim.fault.OnRead(f.name, off, b[:n]); err != nil {
			return 0, err
		}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *simFile) WriteAt(b []byte, off int64) (int, error) {
	f.sim.event()
	err := f.write(b, off)
	f.sim.event()
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

func (f *simFile) write(b []byte, off int64) error {
	if f.direct && (off%BlockSize != 0 || len(b)%BlockSize != 0) {
		return syscall.EINVAL
	}
	s := f.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	if countDown(&s.fault.FailWrites) {
		return syscall.EIO
	}
	if s.fault.MaxSize > 0 && off+int64(len(b)) > s.fault.MaxSize {
		return syscall.ENOSPC
	}
	n := f.inode
	n.data.write(b, off)
	n.wrote++
	n.unsynced = append(n.unsynced, simWrite{seq: n.wrote, off: off, data: slices.Clone(b)})
	return nil
}

// countDown tells whether a fault is due; once due it stays so.
func countDown(n *int) bool {
	if *n == 0 {
		return false
	}
	if *n > 1 {
		*n--
		return false
	}
	return true
}

func (f *simFile) Sync() error {
	f.sim.event()
	err := f.syncTo(f.mark())
	f.sim.event()
	return err
}

// mark returns the number of the last write that a sync beginning now covers.
func (f *simFile) mark() uint64 {
	f.sim.mu.Lock()
	defer f.sim.mu.Unlock()
	return f.inode.wrote
}

func (f *simFile) syncTo(mark uint64) error {
	s, n := f.sim, f.inode
	s.mu.Lock()
	defer s.mu.Unlock()
	if countDown(&s.fault.FailSyncs) {
		return syscall.EIO
	}
	rest := n.unsynced[:0]
	for _, w := range n.unsynced {
		if w.seq > mark {
			rest = append(rest, w)
			continue
		}
		n.stable.grow(w.off + int64(len(w.data)))
		for at := 0; at < len(w.data); at += SectorSize {
			if !w.isDead(at / SectorSize) {
				n.stable.write(w.data[at:min(at+SectorSize, len(w.data))], w.off+int64(at))
			}
		}
	}
	n.unsynced = rest
	return nil
}

// harden makes the last write durable, and no other.
func (f *simFile) harden() error {
	s, n := f.sim, f.inode
	s.mu.Lock()
	defer s.mu.Unlock()
	if countDown(&s.fault.FailSyncs) {
		return syscall.EIO
	}
	last := len(n.unsynced) - 1
	w := n.unsynced[last]
	n.stable.write(w.data, w.off)
	n.unsynced = n.unsynced[:last]
	for i := range n.unsynced {
		n.unsynced[i].bury(w.off, w.off+int64(len(w.data)))
	}
	return nil
}

func (f *simFile) Allocate(off, size int64) error {
	f.sim.event()
	s, n := f.sim, f.inode
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault.MaxSize > 0 && off+size > s.fault.MaxSize {
		return syscall.ENOSPC
	}
	n.data.grow(off + size)
	n.wrote++
	n.unsynced = append(n.unsynced, simWrite{seq: n.wrote, off: off + size})
	return nil
}

func (f *simFile) PunchHole(off, size int64) error {
	end := min(off+size, f.inode.data.size)
	if off >= end {
		return nil
	}
	return f.write(make([]byte, end-off), off)
}

// Queue returns a queue on the simulated disk.
func (s *Sim) Queue() Queue {
	q := &simQueue{sim: s, signal: make(chan struct{}, 1)}
	q.in.wake = func() {
		select {
		case q.signal <- struct{}{}:
		default:
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, q)
	return q
}

type simQueue struct {
	sim    *Sim
	in     inbox
	signal chan struct{}
	fresh  opList
	flying []*Op // in the order of submission
	closed bool
}

func (q *simQueue) Engine() string { return "simulated" }

func (q *simQueue) Submit(op *Op) {
	op.Err = nil
	q.fresh.push(op)
}

// Turn completes a random choice of what is in flight, in random order.
func (q *simQueue) Turn(wait bool) error {
	if q.closed {
		return ErrClosed
	}
	q.launch()
	if wait && len(q.flying) == 0 && !q.in.pending.Load() {
		q.in.sleeping.Store(true)
		if !q.in.pending.Load() {
			<-q.signal
		}
		q.in.sleeping.Store(false)
	}
	if n := len(q.flying); n > 0 {
		rng := q.sim.rng
		count := 1 + rng.IntN(n)
		if !wait && rng.IntN(4) == 0 {
			count = 0
		}
		for range count {
			q.complete(rng.IntN(len(q.flying)))
		}
	}
	q.in.run()
	return nil
}

func (q *simQueue) launch() {
	q.sim.mu.Lock()
	defer q.sim.mu.Unlock()
	for op := q.fresh.pop(); op != nil; op = q.fresh.pop() {
		if op.Kind == OpSync {
			op.done = int(op.File.(*simFile).inode.wrote)
		}
		q.flying = append(q.flying, op)
	}
}

// complete ends the i-th request in flight.
func (q *simQueue) complete(i int) {
	op := q.flying[i]
	f := op.File.(*simFile)
	q.sim.event()
	switch op.Kind {
	case OpRead:
		if f.direct && !Aligned(op.Buf) {
			op.Err = syscall.EINVAL
			break
		}
		op.Err = perform(op)
	case OpWrite:
		if f.direct && !Aligned(op.Buf) {
			op.Err = syscall.EINVAL
			break
		}
		op.Err = f.write(op.Buf, op.Off)
		if op.Err == nil && op.Durable {
			op.Err = f.harden()
		}
	case OpSync:
		op.Err = f.syncTo(uint64(op.done))
	case OpAllocate:
		op.Err = f.Allocate(op.Off, op.Len)
	}
	q.sim.mu.Lock()
	q.flying = slices.Delete(q.flying, i, i+1)
	q.sim.mu.Unlock()
	q.sim.event()
	op.Done(op)
}

func (q *simQueue) Post(fn func()) { q.in.post(fn) }

func (q *simQueue) WatchEventFD(int, func()) (func(), error) {
	return nil, fmt.Errorf("eventfd on a simulated queue: %w", ErrUnsupported)
}

func (q *simQueue) Poll(int, bool, func()) error {
	return fmt.Errorf("poll on a simulated queue: %w", ErrUnsupported)
}

func (q *simQueue) Close() error {
	q.closed = true
	q.in.close()
	return nil
}
