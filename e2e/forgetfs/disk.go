package forgetfs

import (
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	rootNumber   = 1
	defaultBytes = 1 << 30
)

// Options describe a new Disk.
type Options struct {
	Bytes  int64 // that the file system claims to have; 0 is 1 GiB. It is not enforced.
	Strict bool  // names and sizes as POSIX promises them, not as ext4 keeps them
}

// Disk is a file system's files, what of them is durable, and whether it has power. It is safe for concurrent use.
type Disk struct {
	bytes  int64
	strict bool

	mu      sync.Mutex
	inodes  map[uint64]*inode // by number
	next    uint64            // inode number
	seq     uint64            // the last change in the journal
	durable uint64            // the journal is durable up to here
	fault   Fault
	changes int64 // requests that changed something
	syncs   int64 // of them, syncs and durable writes
	cutAt   int64 // the change at which power goes; 0 is none
	cut     bool
	down    chan struct{} // closed at the cut
	resume  chan struct{} // closed when what waits is to be answered
}

// NewDisk returns an empty disk.
func NewDisk(o Options) *Disk {
	if o.Bytes == 0 {
		o.Bytes = defaultBytes
	}
	root := &inode{number: rootNumber, mode: syscall.S_IFDIR | 0o755, mtime: time.Now(), linked: true}
	root.entries, root.kept = map[string]*inode{}, map[string]*inode{}
	return newDisk(o, map[uint64]*inode{rootNumber: root}, rootNumber+1)
}

func newDisk(o Options, inodes map[uint64]*inode, next uint64) *Disk {
	return &Disk{
		bytes: o.Bytes, strict: o.Strict, inodes: inodes, next: next, down: make(chan struct{}), resume: make(chan struct{}),
	}
}

// CutAt arms the power cut: the n-th change from now on, counted from 1, is the first that is lost. It returns a channel that is
// closed when power goes.
func (d *Disk) CutAt(n int64) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cutAt = d.changes + n
	return d.down
}

// Cut cuts the power now.
func (d *Disk) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fall()
}

func (d *Disk) fall() {
	if !d.cut {
		d.cut = true
		close(d.down)
	}
}

// Fault is what is wrong with a disk that has power.
type Fault struct {
	Syncs bool // syncs and durable writes fail with EIO; what they should have made durable is as after a write
	Full  bool // what needs a page of its own fails with ENOSPC
}

// Fail has the disk fail so from now on; the zero Fault is none.
func (d *Disk) Fail(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

// lacks says whether a write needs pages that a full disk does not have. d.mu is held.
func (d *Disk) lacks(i *inode, off, n int64) bool {
	if !d.fault.Full {
		return false
	}
	for p := off / pageSize; p*pageSize < off+n; p++ {
		if i.live.pages[p] == nil {
			return true
		}
	}
	return false
}

// IsCut tells whether power is gone.
func (d *Disk) IsCut() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cut
}

// Changes returns how many requests have changed something so far, and how many of them were syncs or durable writes.
func (d *Disk) Changes() (all, syncs int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changes, d.syncs
}

// change begins a request that changes something; d.mu is held if it returns true. It returns false for one that came after the
// cut, as soon as its process need not be kept from the answer any more.
func (d *Disk) change() bool {
	d.mu.Lock()
	if d.changes++; d.changes == d.cutAt {
		d.fall()
	}
	if !d.cut {
		return true
	}
	d.mu.Unlock()
	<-d.resume
	return false
}

// release answers what waits since the cut.
func (d *Disk) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-d.resume:
	default:
		close(d.resume)
	}
}

// touch enters a change of i in the journal and returns its number.
func (d *Disk) touch(i *inode) uint64 {
	d.seq++
	i.changed = d.seq
	i.mtime = time.Now()
	return d.seq
}

// commit makes the journal durable up to seq.
func (d *Disk) commit(seq uint64) {
	if d.strict || seq <= d.durable {
		return
	}
	d.durable = seq
	for _, i := range d.inodes {
		i.settle(seq)
	}
}

// sync makes i durable.
func (d *Disk) sync(i *inode) {
	d.syncs++
	i.sync()
	d.commit(i.changed)
}

// name changes names in a folder.
func (d *Disk) name(dir *inode, sets map[string]*inode) {
	n := naming{seq: d.touch(dir), sets: sets}
	for name, to := range sets {
		if old := dir.entries[name]; old != nil && old != to {
			old.linked = false
		}
		if to != nil {
			to.linked = true
			to.changed = n.seq
		}
	}
	for _, to := range sets {
		if to != nil {
			to.linked = true // a rename names it twice
		}
	}
	n.apply(dir.entries)
	dir.names = append(dir.names, n)
}

func (d *Disk) create(dir *inode, name string, mode, uid, gid uint32) *inode {
	i := &inode{number: d.next, mode: mode, uid: uid, gid: gid, mtime: time.Now()}
	d.next++
	d.inodes[i.number] = i
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		i.entries, i.kept = map[string]*inode{}, map[string]*inode{}
	} else {
		i.live, i.durable = newContent(), newContent()
	}
	d.name(dir, map[string]*inode{name: i})
	return i
}

// write writes data, which it copies. With durable it is on the medium when write returns.
func (d *Disk) write(i *inode, data []byte, off int64, durable bool) {
	if off+int64(len(data)) > i.live.size {
		d.touch(i)
	}
	i.live.writeAt(data, off)
	if durable {
		d.syncs++
		i.writeThrough(data, off)
		d.commit(i.changed)
		return
	}
	i.pending = append(i.pending, change{kind: write, off: off, data: slices.Clone(data)})
}

// reshape changes a file's size or space.
func (d *Disk) reshape(i *inode, g change) {
	g.seq = d.touch(i)
	g.apply(&i.live)
	i.pending = append(i.pending, g)
}

// used returns the bytes in use.
func (d *Disk) used() int64 {
	n := int64(0)
	for _, i := range d.inodes {
		n += int64(len(i.live.pages)) * pageSize
	}
	return n
}

// Survivor returns the disk as the machine finds it after the power cut; what was not durable is kept or not by the seed. It is
// called once, after the cut.
func (d *Disk) Survivor(seed uint64) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.cut {
		panic("forgetfs: Survivor of a disk that has power")
	}
	random := rand.New(rand.NewPCG(seed, 0xf0a6e7f5))
	moods := []keeping{{}, {whole: 1}, {whole: .5}, {whole: .3, torn: .5, sector: .5}, {torn: 1, sector: .5}, {whole: .9, torn: .1, sector: .9}}
	keep := moods[random.IntN(len(moods))]
	reach := d.durable + random.Uint64N(d.seq-d.durable+1)
	numbers := make([]uint64, 0, len(d.inodes))
	for n := range d.inodes {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers) // the order of a map would make each run another
	for _, n := range numbers {
		if d.strict {
			reach = random.Uint64N(d.seq + 1)
		}
		d.inodes[n].lose(reach, random, keep)
	}
	found := map[uint64]*inode{}
	d.inodes[rootNumber].afterwards(found)
	return newDisk(Options{Bytes: d.bytes, Strict: d.strict}, found, d.next)
}
