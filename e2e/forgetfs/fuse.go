package forgetfs

import (
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// valid is how long the kernel may trust what it was told: nothing changes but through it.
const valid = time.Hour

// wire answers the kernel's requests from a Disk. Handles of open files are not needed: requests name the inode.
type wire struct {
	fuse.RawFileSystem
	d *Disk
}

func (w *wire) String() string { return "forgetfs" }

func (w *wire) attr(i *inode, out *fuse.Attr) {
	out.Ino, out.Mode, out.Nlink, out.Blksize = i.number, i.mode, 1, pageSize
	out.Uid, out.Gid = i.uid, i.gid
	if !i.isDir() {
		out.Size = uint64(i.live.size)
		out.Blocks = uint64(len(i.live.pages)) * pageSize / sectorSize
	}
	out.SetTimes(&i.mtime, &i.mtime, &i.mtime)
}

// entry answers with a name; the kernel holds one more reference to i afterwards.
func (w *wire) entry(i *inode, out *fuse.EntryOut) {
	i.lookups++
	out.NodeId, out.Generation = i.number, 1
	out.SetEntryTimeout(valid)
	out.SetAttrTimeout(valid)
	w.attr(i, &out.Attr)
}

func (w *wire) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	i := w.d.inodes[h.NodeId].entries[name]
	if i == nil {
		return fuse.ENOENT
	}
	w.entry(i, out)
	return fuse.OK
}

func (w *wire) Forget(number, lookups uint64) {
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	i := w.d.inodes[number]
	if i == nil || number == rootNumber {
		return
	}
	if i.lookups -= min(lookups, i.lookups); i.lookups == 0 && !i.linked {
		i.live = newContent() // nobody can read it; a power cut may bring the rest back
	}
}

func (w *wire) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	out.SetTimeout(valid)
	w.attr(w.d.inodes[in.NodeId], &out.Attr)
	return fuse.OK
}

func (w *wire) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if !w.d.change() {
		return fuse.EIO
	}
	defer w.d.mu.Unlock()
	i := w.d.inodes[in.NodeId]
	if mode, ok := in.GetMode(); ok {
		i.mode = i.mode&syscall.S_IFMT | mode&0o7777
	}
	if uid, ok := in.GetUID(); ok {
		i.uid = uid
	}
	if gid, ok := in.GetGID(); ok {
		i.gid = gid
	}
	if mtime, ok := in.GetMTime(); ok {
		i.mtime = mtime
	}
	if size, ok := in.GetSize(); ok {
		w.d.reshape(i, change{kind: resize, off: int64(size)})
	}
	out.SetTimeout(valid)
	w.attr(i, &out.Attr)
	return fuse.OK
}

// make makes a file or folder; d.mu is held.
func (w *wire) make(h *fuse.InHeader, name string, mode uint32, out *fuse.EntryOut) (*inode, fuse.Status) {
	dir := w.d.inodes[h.NodeId]
	if dir.entries[name] != nil {
		return nil, fuse.Status(syscall.EEXIST)
	}
	i := w.d.create(dir, name, mode, h.Uid, h.Gid)
	w.entry(i, out)
	return i, fuse.OK
}

func (w *wire) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	if !w.d.change() {
		return fuse.EIO
	}
	defer w.d.mu.Unlock()
	if in.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return fuse.EPERM
	}
	_, st := w.make(&in.InHeader, name, in.Mode, out)
	return st
}

func (w *wire) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	if !w.d.change() {
		return fuse.EIO
	}
	defer w.d.mu.Unlock()
	_, st := w.make(&in.InHeader, name, syscall.S_IFDIR|in.Mode&0o7777, out)
	return st
}

func (w *wire) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	if !w.d.change() {
		return fuse.EIO
	}
	defer w.d.mu.Unlock()
	_, st := w.make(&in.InHeader, name, syscall.S_IFREG|in.Mode&0o7777, &out.EntryOut)
	out.OpenFlags = openFlags(in.Flags)
	return st
}

// openFlags keeps the page cache out of files that are open with O_DIRECT: then O_DSYNC arrives with each write, and no sync of
// the file is made of it.
func openFlags(flags uint32) uint32 {
	if flags&unix.O_DIRECT != 0 {
		return fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES
	}
	return fuse.FOPEN_KEEP_CACHE
}

func (w *wire) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&unix.O_TRUNC != 0 {
		if !w.d.change() {
			return fuse.EIO
		}
		w.d.reshape(w.d.inodes[in.NodeId], change{kind: resize})
		w.d.mu.Unlock()
	}
	out.OpenFlags = openFlags(in.Flags)
	return fuse.OK
}

func (w *wire) Read(_ <-chan struct{}, in *fuse.ReadIn, b []byte) (fuse.ReadResult, fuse.Status) {
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	n := w.d.inodes[in.NodeId].live.readAt(b, int64(in.Offset))
	return fuse.ReadResultData(b[:n]), fuse.OK
}

func (w *wire) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if !w.d.change() {
		return 0, fuse.EIO
	}
	defer w.d.mu.Unlock()
	i, durable := w.d.inodes[in.NodeId], in.Flags&unix.O_DSYNC != 0
	if w.d.lacks(i, int64(in.Offset), int64(len(data))) {
		return 0, fuse.Status(syscall.ENOSPC)
	}
	w.d.write(i, data, int64(in.Offset), durable && !w.d.fault.Syncs)
	if durable && w.d.fault.Syncs {
		return 0, fuse.EIO
	}
	return uint32(len(data)), fuse.OK
}

func (w *wire) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	if !w.d.change() {
		return fuse.EIO
	}
	defer w.d.mu.Unlock()
	i := w.d.inodes[in.NodeId]
	off, n := int64(in.Offset), int64(in.Length)
	switch in.Mode {
	case 0:
		if w.d.fault.Full {
			return fuse.Status(syscall.ENOSPC)
		}
		w.d.reshape(i, change{kind: extend, off: off + n})
	case unix.FALLOC_FL_KEEP_SIZE:
	case unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE:
		w.d.reshape(i, change{kind: punch, off: off, n: n})
	default:
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	return fuse.OK
}

func (w *wire) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if !w.d.change() {
		return fuse.EIO
	}
	defer w.d.mu.Unlock()
	if w.d.fault.Syncs {
		return fuse.EIO
	}
	w.d.sync(w.d.inodes[in.NodeId])
	return fuse.OK
}

func (w *wire) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return w.Fsync(cancel, in)
}

// Flush comes with every close, which makes nothing durable.
func (w *wire) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

func (w *wire) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.OK }

func (w *wire) remove(h *fuse.InHeader, name string, folder bool) fuse.Status {
	if !w.d.change() {
		return fuse.EIO
	}
	defer w.d.mu.Unlock()
	dir := w.d.inodes[h.NodeId]
	switch i := dir.entries[name]; {
	case i == nil:
		return fuse.ENOENT
	case i.isDir() != folder:
		return fuse.Status(syscall.ENOTDIR)
	case len(i.entries) > 0:
		return fuse.Status(syscall.ENOTEMPTY)
	}
	w.d.name(dir, map[string]*inode{name: nil})
	return fuse.OK
}

func (w *wire) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return w.remove(h, name, false)
}

func (w *wire) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return w.remove(h, name, true)
}

func (w *wire) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	if !w.d.change() {
		return fuse.EIO
	}
	defer w.d.mu.Unlock()
	dir := w.d.inodes[in.NodeId]
	i, old := dir.entries[from], dir.entries[to]
	switch {
	case in.Newdir != in.NodeId:
		return fuse.Status(syscall.EXDEV)
	case in.Flags&^unix.RENAME_NOREPLACE != 0:
		return fuse.EINVAL
	case i == nil:
		return fuse.ENOENT
	case old != nil && in.Flags != 0:
		return fuse.Status(syscall.EEXIST)
	case old != nil && (old.isDir() || i.isDir()):
		return fuse.Status(syscall.ENOTEMPTY)
	case from != to:
		w.d.name(dir, map[string]*inode{from: nil, to: i})
	}
	return fuse.OK
}

func (w *wire) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.OK }

// ReadDir lists the names after the in.Offset-th. A folder that changes meanwhile may show a name twice or not, as POSIX allows.
func (w *wire) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	dir := w.d.inodes[in.NodeId]
	names := make([]string, 0, len(dir.entries))
	for name := range dir.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	for k := int(in.Offset); k < len(names); k++ {
		i := dir.entries[names[k]]
		if !out.AddDirEntry(fuse.DirEntry{Name: names[k], Mode: i.mode, Ino: i.number, Off: uint64(k + 1)}) {
			break
		}
	}
	return fuse.OK
}

func (w *wire) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	out.Bsize, out.Frsize, out.NameLen = pageSize, pageSize, 255
	out.Blocks = uint64(w.d.bytes / pageSize)
	out.Bfree = uint64(max(0, w.d.bytes-w.d.used()) / pageSize)
	out.Bavail = out.Bfree
	out.Files, out.Ffree = 1<<20, 1<<20
	return fuse.OK
}
