package storetest

import (
	"slices"
	"sync"
	"time"
)

// Clock is a store.Clock that a test moves by hand.
type Clock struct {
	mu     sync.Mutex
	now    int64
	timers []*timer
}

type timer struct {
	at int64
	fn func()
}

// NewClock returns a clock that stands at one second after boot.
func NewClock() *Clock { return &Clock{now: int64(time.Second)} }

// Boot is store.Clock.Boot.
func (c *Clock) Boot() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// AfterFunc is store.Clock.AfterFunc; fn runs inside Advance.
func (c *Clock) AfterFunc(d time.Duration, fn func()) func() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &timer{at: c.now + int64(d), fn: fn}
	c.timers = append(c.timers, t)
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		i := slices.Index(c.timers, t)
		if i >= 0 {
			c.timers = slices.Delete(c.timers, i, i+1)
		}
		return i >= 0
	}
}

// Timers is how many timers are set.
func (c *Clock) Timers() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.timers)
}

// Advance moves the clock by d and runs the timers that are due, in order of time.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	end := c.now + int64(d)
	for {
		next := -1
		for i, t := range c.timers {
			if t.at <= end && (next < 0 || t.at < c.timers[next].at) {
				next = i
			}
		}
		if next < 0 {
			break
		}
		t := c.timers[next]
		c.timers = slices.Delete(c.timers, next, next+1)
		c.now = max(c.now, t.at)
		c.mu.Unlock()
		t.fn()
		c.mu.Lock()
	}
	c.now = end
	c.mu.Unlock()
}

// Suspend moves the clock without running timers, as a suspended machine does.
func (c *Clock) Suspend(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now += int64(d)
}
