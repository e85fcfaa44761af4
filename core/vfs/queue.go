package vfs

// QueueOptions configure NewQueue.
type QueueOptions struct {
	Depth   int  // requests in flight at the operating system; 0 means 1024
	Threads bool // use worker threads even where the kernel has io_uring
}

// NewQueue returns an io_uring queue, or one with worker threads where the kernel does not allow io_uring; Engine tells which.
func NewQueue(o QueueOptions) (Queue, error) { panic("TODO") }

// NewOS returns the operating system's file system.
func NewOS() FS { panic("TODO") }

// AlignedBuffer returns n zero bytes outside the Go heap, aligned to the page; pages cost memory when first touched.
func AlignedBuffer(n int) ([]byte, error) { panic("TODO") }

// FreeBuffer gives memory of AlignedBuffer back.
func FreeBuffer(b []byte) error { panic("TODO") }
