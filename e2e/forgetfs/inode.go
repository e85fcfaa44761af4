package forgetfs

import (
	"maps"
	"math"
	"math/rand/v2"
	"time"
)

const always = math.MaxUint64 // after every change

// inode is a file or a folder. It is guarded by its disk's mutex.
type inode struct {
	number  uint64
	mode    uint32 // type and permissions
	uid     uint32
	gid     uint32
	mtime   time.Time
	linked  bool   // has a name, or is the root
	lookups uint64 // by the kernel
	changed uint64 // the last change in the journal that this inode needs

	// Of a folder: its names now, and as the journal has made them durable.
	entries, kept map[string]*inode
	names         []naming // changes of names that are not durable, in order

	// Of a file.
	live    content  // as read
	durable content  // what was synced
	pending []change // since then, in order
}

// naming is one change of names in a folder: an unlink, a create, or both at once.
type naming struct {
	seq  uint64
	sets map[string]*inode // nil removes the name
}

func (n naming) apply(names map[string]*inode) {
	for name, to := range n.sets {
		if to == nil {
			delete(names, name)
		} else {
			names[name] = to
		}
	}
}

// change is one change of a file that is not durable.
type change struct {
	kind changeKind
	seq  uint64 // in the journal; not of writes
	off  int64  // bytes; with resize the new size
	n    int64  // bytes, of a punch
	data []byte // of a write
}

type changeKind uint8

const (
	write  changeKind = iota
	resize            // may cut the file
	extend            // never does
	punch
)

// apply makes a change of size or space in c.
func (g change) apply(c *content) {
	switch g.kind {
	case write:
		c.writeAt(g.data, g.off)
	case resize:
		c.truncate(g.off)
	case extend:
		c.size = max(c.size, g.off)
	case punch:
		c.zero(g.off, g.n)
	}
}

// over takes from an older write what g has made of its range since.
func (g change) over(older *change) {
	end := older.off + int64(len(older.data))
	switch g.kind {
	case write:
		from, to := max(g.off, older.off), min(g.off+int64(len(g.data)), end)
		if from < to {
			copy(older.data[from-older.off:to-older.off], g.data[from-g.off:])
		}
	case resize:
		older.data = older.data[:max(0, min(g.off, end)-older.off)]
	case punch:
		from, to := max(g.off, older.off), min(g.off+g.n, end)
		if from < to {
			clear(older.data[from-older.off : to-older.off])
		}
	case extend: // takes nothing
	}
}

func (i *inode) isDir() bool { return i.entries != nil }

// settle makes names and sizes durable up to the change seq.
func (i *inode) settle(seq uint64) {
	done := 0
	for done < len(i.names) && i.names[done].seq <= seq {
		i.names[done].apply(i.kept)
		done++
	}
	i.names = i.names[done:]
	left := i.pending[:0]
	for _, g := range i.pending {
		if g.kind == write || g.seq > seq {
			left = append(left, g)
			continue
		}
		g.apply(&i.durable)
		for k := range left {
			if left[k].kind == write {
				g.over(&left[k])
			}
		}
	}
	clear(i.pending[len(left):])
	i.pending = left
}

// sync makes the data durable, too.
func (i *inode) sync() {
	for _, g := range i.pending {
		g.apply(&i.durable)
	}
	i.pending = nil
	i.settle(always)
}

// writeThrough makes one write durable and nothing else but the size that it needs.
func (i *inode) writeThrough(data []byte, off int64) {
	i.settle(always)
	g := change{kind: write, off: off, data: data}
	g.apply(&i.durable)
	for k := range i.pending {
		g.over(&i.pending[k])
	}
}

// lose makes what a power cut leaves out of i: the journal up to seq, and of the unsynced writes what the seed keeps.
func (i *inode) lose(seq uint64, random *rand.Rand, keep keeping) {
	i.settle(seq)
	bound := int64(math.MaxInt64)
	for _, g := range i.pending {
		switch {
		case g.kind == resize:
			bound = min(bound, g.off) // not durable: what was written beyond it since lay in space that the journal does not know
		case g.kind == write:
			g.data = g.data[:max(0, min(int64(len(g.data)), bound-g.off))]
			keep.write(&i.durable, g, random)
		}
	}
	i.pending = nil
}

// keeping says how much of what was not synced a power cut leaves: shares between 0 and 1.
type keeping struct{ whole, torn, sector float64 }

// write keeps g whole, in part or not at all.
func (k keeping) write(c *content, g change, random *rand.Rand) {
	switch p := random.Float64(); {
	case p < k.whole:
		g.apply(c)
		return
	case p >= k.whole+k.torn:
		return
	}
	for at, end := g.off, g.off+int64(len(g.data)); at < end; {
		next := min(at-at%sectorSize+sectorSize, end)
		if random.Float64() < k.sector {
			c.writeAt(g.data[at-g.off:next-g.off], at)
		}
		at = next
	}
}

// afterwards returns i as the machine finds it when power is back, and all below it.
func (i *inode) afterwards(found map[uint64]*inode) *inode {
	if n := found[i.number]; n != nil {
		return n
	}
	n := &inode{number: i.number, mode: i.mode, uid: i.uid, gid: i.gid, mtime: i.mtime, linked: true}
	found[n.number] = n
	if !i.isDir() {
		n.durable, n.live = i.durable, i.durable.clone()
		return n
	}
	n.entries = make(map[string]*inode, len(i.kept))
	for name, child := range i.kept {
		n.entries[name] = child.afterwards(found)
	}
	n.kept = maps.Clone(n.entries)
	return n
}
