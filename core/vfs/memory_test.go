package vfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A file on a memory file system that grows is read to its new end, and one that is cut off under its mapping is an
// error of that read.
func TestMemoryFile(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "vfs")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	q, err := NewQueue(QueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	path := filepath.Join(dir, "file")
	f, err := NewOS().OpenFile(path, OpenOptions{Create: true, Direct: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !f.(*osFile).inline {
		t.Fatal("/dev/shm is no memory file system")
	}
	do := func(kind OpKind, buf []byte, off int64) error {
		done := false
		op := &Op{Kind: kind, File: f, Buf: buf, Off: off, Done: func(*Op) { done = true }}
		q.Submit(op)
		for !done {
			if err := q.Turn(true); err != nil {
				t.Fatal(err)
			}
		}
		return op.Err
	}
	got := make([]byte, BlockSize)
	if err := do(OpRead, got, 0); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read of an empty file: %v", err)
	}
	for i := range 3 {
		want := bytes.Repeat([]byte{byte('a' + i)}, BlockSize)
		off := int64(i) * 64 * BlockSize
		if err := do(OpWrite, want, off); err != nil {
			t.Fatal(err)
		}
		if err := do(OpRead, got, off); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("read at %d: %v, % x…", off, err, got[:4])
		}
	}
	if err := unix.Ftruncate(int(f.(*osFile).fd), BlockSize); err != nil {
		t.Fatal(err)
	}
	if err := do(OpWrite, got, 128*BlockSize); err == nil {
		t.Error("write beyond the end of a file that was cut off")
	}
	if err := do(OpRead, got, 128*BlockSize); err == nil {
		t.Error("read beyond the end of a file that was cut off")
	}
	if err := do(OpRead, got, 0); err != nil || got[0] != 'a' {
		t.Errorf("read of what is left: %v, % x…", err, got[:4])
	}
}
