package store

import (
	"time"

	"golang.org/x/sys/unix"
)

// Clock tells the time that sessions live by.
type Clock interface {
	// Boot is CLOCK_BOOTTIME in nanoseconds: it never steps and goes on while the
	// machine is suspended.
	Boot() int64
	// AfterFunc calls fn on a goroutine of its own after d. It may be late. stop
	// reports whether it kept fn from running.
	AfterFunc(d time.Duration, fn func()) (stop func() bool)
}

// SystemClock is the machine's clock.
func SystemClock() Clock { return systemClock{} }

type systemClock struct{}

func (systemClock) Boot() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("CLOCK_BOOTTIME: " + err.Error()) // every Linux has it
	}
	return ts.Nano()
}

func (systemClock) AfterFunc(d time.Duration, fn func()) func() bool {
	return time.AfterFunc(d, fn).Stop
}
