package ring

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// newMemory makes a memfd of size bytes that can neither shrink nor grow.
func newMemory(name string, size int64) (int, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // MFD_NOEXEC_SEAL came with Linux 6.3
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return -1, fmt.Errorf("memfd_create: %w", err)
	}
	if err := unix.Ftruncate(fd, size); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("ftruncate: %w", err)
	}
	if err := seal(fd, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func seal(fd, seals int) error {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("seal memory: %w", err)
	}
	return nil
}

// sizeOf is the size of the memory behind fd in bytes.
func sizeOf(fd int) (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("fstat: %w", err)
	}
	return st.Size, nil
}

func mapMemory(fd int, size int64, prot int) ([]byte, error) {
	b, err := unix.Mmap(fd, 0, int(size), prot, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap %d bytes: %w", size, err)
	}
	return b, nil
}

// A doorbell is a pipe, not an eventfd: the two ends have descriptions of their
// own, so that a plugin can neither make the core's write block nor take its
// wake-ups away, and the reader sees the writer's death as end of file.

// writeDoorbell wakes the reader. A full pipe wakes it already.
func writeDoorbell(fd int) {
	token := uint64(1)
	unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&token)), unsafe.Sizeof(token))
}

// drainDoorbell empties the pipe as far as one read goes; false means that the
// writer is gone.
func drainDoorbell(fd int) bool {
	var tokens [32]uint64
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&tokens)), unsafe.Sizeof(tokens))
	return n > 0 || errno != 0
}

// Now is CLOCK_MONOTONIC in nanoseconds, the clock of every time in the rings. It
// is one clock for all processes of a machine.
func Now() uint64 { return clock.monotonic + uint64(time.Since(clock.start)) }

// clock ties Go's monotonic reading, which needs no system call but has a zero of
// its own, to CLOCK_MONOTONIC.
var clock = tieClock()

type tie struct {
	start     time.Time
	monotonic uint64
}

// tieClock reads both several times and keeps the pair that lay closest together.
func tieClock() (best tie) {
	gap := time.Duration(1<<63 - 1)
	for range 8 {
		start := time.Now()
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			panic("CLOCK_MONOTONIC cannot be read: " + err.Error())
		}
		if d := time.Since(start); d < gap {
			gap, best = d, tie{start, uint64(ts.Nano())}
		}
	}
	return best
}
