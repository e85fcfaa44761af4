package vfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// eachQueue runs fn with every engine on a disk folder and on a memory folder.
func eachQueue(t *testing.T, fn func(t *testing.T, q Queue, dir string)) {
	for _, threads := range []bool{false, true} {
		for _, base := range []string{"", "/dev/shm"} {
			q, err := NewQueue(QueueOptions{Depth: 16, Threads: threads})
			if err != nil {
				t.Fatal(err)
			}
			name := q.Engine() + map[string]string{"": "/disk", "/dev/shm": "/memory"}[base]
			t.Run(name, func(t *testing.T) {
				dir, err := os.MkdirTemp(base, "vfs")
				if err != nil {
					t.Skip(err)
				}
				t.Cleanup(func() { _ = os.RemoveAll(dir) })
				fn(t, q, dir)
			})
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func openTest(t *testing.T, dir string) File {
	t.Helper()
	f, err := NewOS().OpenFile(filepath.Join(dir, "f"), OpenOptions{Create: true, Direct: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func buffer(t *testing.T, n int) []byte {
	t.Helper()
	b, err := AlignedBuffer(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = FreeBuffer(b) })
	return b
}

func turnUntil(t *testing.T, q Queue, done func() bool) {
	t.Helper()
	for !done() {
		if err := q.Turn(true); err != nil {
			t.Fatal(err)
		}
	}
}

func TestQueueWritesReadBack(t *testing.T) {
	eachQueue(t, func(t *testing.T, q Queue, dir string) {
		const blocks = 100 // more than the queue's depth
		f, mem := openTest(t, dir), buffer(t, 2*blocks*BlockSize)
		ops, left := make([]Op, blocks+1), blocks+1
		done := func(op *Op) {
			if op.Err != nil {
				t.Error(op.Err)
			}
			left--
		}
		ops[blocks] = Op{Kind: OpAllocate, File: f, Len: blocks * BlockSize, Done: done}
		q.Submit(&ops[blocks])
		for i := range blocks {
			b := mem[i*BlockSize:][:BlockSize]
			copy(b, bytes.Repeat([]byte{byte(i + 1)}, BlockSize))
			ops[i] = Op{Kind: OpWrite, File: f, Off: int64(i) * BlockSize, Buf: b, Done: done}
			q.Submit(&ops[i])
		}
		turnUntil(t, q, func() bool { return left == 0 })
		left = 2
		sync := Op{Kind: OpSync, File: f, Done: done}
		q.Submit(&sync)
		read := Op{Kind: OpRead, File: f, Buf: mem[blocks*BlockSize:], Done: done}
		q.Submit(&read)
		turnUntil(t, q, func() bool { return left == 0 })
		if !bytes.Equal(mem[:blocks*BlockSize], mem[blocks*BlockSize:]) {
			t.Fatal("read differs from what was written")
		}
	})
}

func TestQueueReadPastEndFails(t *testing.T) {
	eachQueue(t, func(t *testing.T, q Queue, dir string) {
		f, done := openTest(t, dir), false
		op := Op{Kind: OpRead, File: f, Off: 1 << 20, Buf: buffer(t, BlockSize), Done: func(*Op) { done = true }}
		q.Submit(&op)
		turnUntil(t, q, func() bool { return done })
		if !errors.Is(op.Err, io.ErrUnexpectedEOF) {
			t.Fatalf("error %v, want unexpected EOF", op.Err)
		}
	})
}

func TestQueueDoneMaySubmitAgain(t *testing.T) {
	eachQueue(t, func(t *testing.T, q Queue, dir string) {
		f, n := openTest(t, dir), 0
		op := Op{Kind: OpWrite, File: f, Buf: buffer(t, BlockSize)}
		op.Done = func(op *Op) {
			if n++; n < 20 {
				q.Submit(op)
			}
		}
		q.Submit(&op)
		turnUntil(t, q, func() bool { return n == 20 })
	})
}

func TestQueuePostWakes(t *testing.T) {
	eachQueue(t, func(t *testing.T, q Queue, _ string) {
		n, ended := 0, make(chan struct{})
		go func() {
			defer close(ended)
			for range 100 {
				ran := make(chan struct{})
				q.Post(func() { n++; close(ran) })
				<-ran
			}
		}()
		turnUntil(t, q, func() bool { return n == 100 })
		<-ended
	})
}

func TestQueueWatchesEventFD(t *testing.T) {
	for _, flags := range []int{0, unix.EFD_NONBLOCK} {
		eachQueue(t, func(t *testing.T, q Queue, _ string) {
			fd, err := unix.Eventfd(0, flags)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			fired := 0
			cancel, err := q.WatchEventFD(fd, func() { fired++ })
			if err != nil {
				t.Fatal(err)
			}
			for i := 1; i <= 3; i++ {
				if err := signalEventFD(fd); err != nil {
					t.Fatal(err)
				}
				turnUntil(t, q, func() bool { return fired == i })
			}
			cancel()
			_ = signalEventFD(fd)
			q.Post(func() {})
			if err := q.Turn(true); err != nil || fired != 3 {
				t.Fatalf("fired %d times, error %v", fired, err)
			}
		})
	}
}

func TestLockExcludesSecondOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	fs := NewOS()
	f, err := fs.OpenFile(path, OpenOptions{Create: true, Lock: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fs.OpenFile(path, OpenOptions{Lock: true}); !errors.Is(err, ErrLocked) {
		t.Fatalf("second open: %v, want ErrLocked", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	g, err := fs.OpenFile(path, OpenOptions{Lock: true})
	if err != nil {
		t.Fatal(err)
	}
	_ = g.Close()
}

func TestQueueSteadyStateDoesNotAllocate(t *testing.T) {
	q, err := NewQueue(QueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	f, left := openTest(t, t.TempDir()), 0
	op := Op{Kind: OpWrite, File: f, Buf: buffer(t, BlockSize), Done: func(*Op) { left-- }}
	if n := testing.AllocsPerRun(50, func() {
		left = 1
		q.Submit(&op)
		turnUntil(t, q, func() bool { return left == 0 })
	}); n > 0 {
		t.Fatalf("%v allocations per request", n)
	}
}
