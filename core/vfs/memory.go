package vfs

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// AlignedBuffer returns n zero bytes outside the Go heap, aligned to the page; pages cost memory when first touched.
func AlignedBuffer(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of memory: %w", n, err)
	}
	return b, nil
}

// FreeBuffer gives memory of AlignedBuffer back. b is the slice that AlignedBuffer returned, whole.
func FreeBuffer(b []byte) error {
	if err := unix.Munmap(b); err != nil {
		return fmt.Errorf("unmap %d bytes of memory: %w", len(b), err)
	}
	return nil
}

// Aligned tells whether b begins at a multiple of BlockSize in memory, as direct files require.
func Aligned(b []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%BlockSize == 0
}
