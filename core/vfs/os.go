package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// NewOS returns the operating system's file system.
func NewOS() FS { return osFS{} }

type osFS struct{}

func (osFS) OpenFile(path string, opt OpenOptions) (File, error) {
	flags := os.O_RDWR
	if opt.ReadOnly {
		flags = os.O_RDONLY
	}
	if opt.Create {
		flags |= os.O_CREATE
	}
	var f *os.File
	err := error(syscall.EINVAL)
	direct := opt.Direct
	if direct {
		f, err = os.OpenFile(path, flags|unix.O_DIRECT, 0o600)
	}
	if errors.Is(err, syscall.EINVAL) {
		direct = false
		f, err = os.OpenFile(path, flags, 0o600)
	}
	if err != nil {
		return nil, err
	}
	of := &osFile{f: f, fd: int32(f.Fd()), direct: direct, readOnly: opt.ReadOnly}
	if err := of.prepare(path, opt.Lock); err != nil {
		_ = f.Close()
		return nil, err
	}
	return of, nil
}

func (f *osFile) prepare(path string, lock bool) error {
	if lock {
		switch err := unix.Flock(int(f.fd), unix.LOCK_EX|unix.LOCK_NB); {
		case errors.Is(err, unix.EWOULDBLOCK):
			return fmt.Errorf("%s: %w", path, ErrLocked)
		case err != nil:
			return fmt.Errorf("lock %s: %w", path, err)
		}
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.fd), &st); err != nil {
		return fmt.Errorf("statfs %s: %w", path, err)
	}
	f.inline = st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC
	if f.inline {
		f.direct = false // memory has no page cache to bypass, whatever open accepted
	}
	return nil
}

// MkdirAll implements FS. It syncs the parent even if the folder is there: its maker may have died before it did.
func (o osFS) MkdirAll(path string) error {
	path = filepath.Clean(path)
	parent := filepath.Dir(path)
	if parent == path {
		return nil
	}
	if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) {
		if err := o.MkdirAll(parent); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	if err := o.SyncDir(parent); !errors.Is(err, fs.ErrPermission) { // a folder that may be entered, not read
		return err
	}
	return nil
}

func (osFS) Remove(path string) error { return os.Remove(path) }

func (osFS) Size(path string) (int64, error) {
	st, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (osFS) SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (osFS) Free(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", path, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// osFile is a file of the operating system. fd is f's, kept so that the hot path does not ask for it.
type osFile struct {
	f        *os.File
	fd       int32
	direct   bool
	inline   bool // calls never wait for a device: the queue's goroutine makes them itself
	readOnly bool
	mapped   []byte // of an inline file that was read through the queue; the queue's goroutine only, until Close
}

func (f *osFile) ReadAt(b []byte, off int64) (int, error)  { return f.f.ReadAt(b, off) }
func (f *osFile) WriteAt(b []byte, off int64) (int, error) { return f.f.WriteAt(b, off) }
func (f *osFile) Direct() bool                             { return f.direct }
func (f *osFile) Close() error                             { return errors.Join(f.unmap(), f.f.Close()) }

func (f *osFile) Sync() error { return retryEINTR(func() error { return unix.Fdatasync(int(f.fd)) }) }

func (f *osFile) Size() (int64, error) {
	st, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (f *osFile) Allocate(off, n int64) error {
	return retryEINTR(func() error { return unix.Fallocate(int(f.fd), 0, off, n) })
}

func (f *osFile) PunchHole(off, n int64) error {
	return retryEINTR(func() error {
		return unix.Fallocate(int(f.fd), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
}

func retryEINTR(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// perform carries out op with blocking calls.
func perform(op *Op) error {
	switch op.Kind {
	case OpRead:
		_, err := op.File.ReadAt(op.Buf, op.Off)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	case OpWrite:
		_, err := op.File.WriteAt(op.Buf, op.Off)
		if err == nil && op.Durable {
			err = op.File.Sync()
		}
		return err
	case OpSync:
		return op.File.Sync()
	case OpAllocate:
		return op.File.Allocate(op.Off, op.Len)
	default:
		return fmt.Errorf("operation %d: %w", op.Kind, ErrUnsupported)
	}
}

// performInline is perform for files whose calls never wait for a device. As far as the file has been mapped it copies;
// elsewhere it makes the call without the bookkeeping of package os and of the scheduler.
func performInline(f *osFile, op *Op) error {
	end := op.Off + int64(len(op.Buf))
	switch op.Kind {
	case OpRead:
		if end > int64(len(f.mapped)) {
			if err := f.remap(); err != nil {
				return err
			}
		}
		if end > int64(len(f.mapped)) {
			return io.ErrUnexpectedEOF
		}
		return copyMapped(op.Buf, f.mapped[op.Off:end])
	case OpWrite:
		if end > int64(len(f.mapped)) || f.readOnly {
			return f.write(op.Buf, op.Off)
		}
		return copyMapped(f.mapped[op.Off:end], op.Buf)
	case OpSync:
		return nil // what the page cache of a memory file system holds is all there is
	default:
		return perform(op)
	}
}

func (f *osFile) write(b []byte, off int64) error {
	for len(b) > 0 {
		n, _, errno := unix.RawSyscall6(unix.SYS_PWRITE64, uintptr(f.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(off), 0, 0)
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return os.NewSyscallError("pwrite", errno)
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// copyMapped copies between memory and a mapping. If somebody has cut the file off, or there is no memory left for a
// hole in it, that is an error and not the end of the process.
func copyMapped(to, from []byte) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			err = os.NewSyscallError("access mapped file", unix.EFAULT)
		}
	}()
	copy(to, from)
	return nil
}

// remap maps the file as long as it is now.
func (f *osFile) remap() error {
	size, err := f.Size()
	if err == nil {
		err = f.unmap()
	}
	if err != nil || size == 0 {
		return err
	}
	prot := unix.PROT_READ
	if !f.readOnly {
		prot |= unix.PROT_WRITE
	}
	if f.mapped, err = unix.Mmap(int(f.fd), 0, int(size), prot, unix.MAP_SHARED); err != nil {
		return os.NewSyscallError("mmap", err)
	}
	return nil
}

func (f *osFile) unmap() error {
	m := f.mapped
	if f.mapped = nil; m == nil {
		return nil
	}
	return os.NewSyscallError("munmap", unix.Munmap(m))
}
