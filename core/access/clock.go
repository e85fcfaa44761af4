package access

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SystemClock is the machine's clock.
func SystemClock() Clock {
	var ts unix.Timespec
	start := time.Now()
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic("CLOCK_MONOTONIC: " + err.Error()) // every Linux has it
	}
	return systemClock{start: start, base: ts.Nano()}
}

// systemClock measures CLOCK_MONOTONIC as time since start, which Go reads without
// a system call.
type systemClock struct {
	start time.Time
	base  int64
}

func (c systemClock) Monotonic() int64 { return c.base + int64(time.Since(c.start)) }

// Boot is a system call, one that cannot block: the Go scheduler need not know of it.
func (c systemClock) Boot() int64 {
	var ts unix.Timespec
	if _, _, errno := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		panic("CLOCK_BOOTTIME: " + errno.Error())
	}
	return ts.Nano()
}
