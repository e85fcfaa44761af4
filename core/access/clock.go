package access

import (
	"time"

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

func (c systemClock) Boot() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("CLOCK_BOOTTIME: " + err.Error())
	}
	return ts.Nano()
}
