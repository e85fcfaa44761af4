// Package vfs is the seam between the extent store and the operating system: files, and one queue on which
// reads, writes and syncs complete asynchronously. It owns io_uring, the worker threads that stand in for it, and the
// simulated disk on which power is cut in tests. It does not own any layout, checksum or retry above one request.
package vfs

import (
	"errors"
	"io"
)

var (
	// ErrLocked says that another open file, of this process or of another, holds the lock.
	ErrLocked = errors.New("file is locked by another process")
	// ErrClosed is the result of an operation on a closed queue or file.
	ErrClosed = errors.New("closed")
	// ErrUnsupported says that this file system or queue cannot do what was asked.
	ErrUnsupported = errors.New("not supported")
)

// BlockSize is the alignment, in bytes, of offsets, lengths and memory on direct files.
const BlockSize = 4096

// OpenOptions say how a file is opened.
type OpenOptions struct {
	Create   bool // create it when absent
	ReadOnly bool
	Direct   bool // bypass the page cache; where the file system refuses, the file opens without and File.Direct says so
	Lock     bool // hold an exclusive lock for as long as this very open file lives; ErrLocked when it is taken
}

// FS is a file system. Its methods may block and may be called from any goroutine.
type FS interface {
	OpenFile(path string, opt OpenOptions) (File, error)
	// MkdirAll makes a folder and those above it, as far as they are not there, with durable names.
	MkdirAll(path string) error
	Remove(path string) error
	// Size returns the length in bytes of the file at path; the error is fs.ErrNotExist when there is none.
	Size(path string) (int64, error)
	// SyncDir makes created and removed names of the folder durable.
	SyncDir(path string) error
	// Free returns the bytes that an unprivileged user may still allocate on the file system of path.
	Free(path string) (int64, error)
}

// File is an open file. Its methods block and may be called from any goroutine; what goes through a Queue does not block.
type File interface {
	io.ReaderAt
	io.WriterAt
	// Sync makes data, and the metadata needed to read it back, durable (fdatasync).
	Sync() error
	Size() (int64, error)
	// Allocate reserves space for [off, off+n) bytes and extends the file to hold it.
	Allocate(off, n int64) error
	// PunchHole gives the space of [off, off+n) bytes back; it then reads as zeros.
	PunchHole(off, n int64) error
	// Direct tells whether the file bypasses the page cache, so that BlockSize alignment is required.
	Direct() bool
	Close() error
}

// OpKind is what an Op does.
type OpKind uint8

// The kinds of Op.
const (
	OpRead     OpKind = iota // fills Buf from Off; a read past the end of the file ends with io.ErrUnexpectedEOF
	OpWrite                  // writes Buf at Off
	OpSync                   // fdatasync: covers every write that had completed when it was submitted
	OpAllocate               // File.Allocate(Off, Len)
)

// An Op is one request. The caller owns and reuses it; between Submit and Done it belongs to the queue, Buf included.
type Op struct {
	Kind OpKind
	File File
	Off  int64  // bytes
	Len  int64  // bytes, OpAllocate only
	Buf  []byte // OpRead, OpWrite
	// Durable, with OpWrite, ends the Op only when what it wrote, and the metadata needed to read it back, is on the medium.
	Durable bool
	// Done runs on the queue's goroutine inside Turn. It may submit further Ops, this one included.
	Done func(*Op)
	User any // the caller's own

	Err error // result; nil means that all of Buf was transferred

	done int // bytes transferred so far
	next *Op
}

// A Queue carries requests to files and other goroutines' words to its owner. One goroutine, the owner, calls every
// method but Post; it stays locked to its OS thread from its first Turn on.
type Queue interface {
	// Submit queues op; it goes out at the next Turn. It never runs Done itself.
	Submit(op *Op)
	// Turn sends what was queued, runs Done of what has completed and then posted functions. With wait it blocks until there is
	// something to run. An error means that the queue itself is broken or closed.
	Turn(wait bool) error
	// Post makes fn run on the owner's goroutine at its next Turn and wakes it. Any goroutine may call it. What is posted after
	// Close never runs.
	Post(fn func())
	// WatchEventFD runs fn on the owner's goroutine whenever the eventfd fd is signalled, and resets its count. The
	// caller keeps fd open until cancel has returned; fn does not run after that.
	WatchEventFD(fd int, fn func()) (cancel func(), err error)
	// Poll runs fn once on the owner's goroutine when fd can be read, or with write be written, or has an error or its end. The
	// caller keeps fd open until then: shutting a socket down ends the wait.
	Poll(fd int, write bool, fn func()) error
	// Engine names what drives the queue, for status: "io_uring", "threads" or "simulated".
	Engine() string
	// Close releases the queue. No Op may be in flight.
	Close() error
}
