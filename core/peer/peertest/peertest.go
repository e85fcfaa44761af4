// Package peertest is a network of memory between the Links of one process, for simulations: it delivers bytes in pieces of any size,
// keeps them back or loses the connection when it is told to. It does not own what the bytes mean.
package peertest

import (
	"io"
	"math/rand/v2"
	"sync"

	"github.com/mooring-io/mooring/core/peer"
)

// Cable is a connection between two nodes.
type Cable struct {
	mu   sync.Mutex
	rng  *rand.Rand
	held bool // what is sent stays on the way
	cut  bool
	ends [2]end
}

// end is one end of a Cable.
type end struct {
	cable *Cable
	other int
	post  func(func())
	ready func()
	ahead []byte // written, not flushed
	way   []byte // flushed by the other end, not read
}

// Connect returns a new connection: its ends, for reactors that run what is posted to them.
func Connect(seed uint64, a, b func(fn func())) (*Cable, peer.Stream, peer.Stream) {
	c := &Cable{rng: rand.New(rand.NewPCG(seed, 99))}
	for i, post := range []func(func()){a, b} {
		c.ends[i] = end{cable: c, other: 1 - i, post: post}
	}
	return c, &c.ends[0], &c.ends[1]
}

// Hold keeps what is on the way, and all that is sent from now on, until Release.
func (c *Cable) Hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = true
}

// Release delivers what was kept.
func (c *Cable) Release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = false
	c.wake()
}

// Held is how many bytes are kept on the way to the second end, or the first.
func (c *Cable) Held(first bool) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if first {
		return len(c.ends[0].way)
	}
	return len(c.ends[1].way)
}

// Cut ends the connection; what is on the way is lost.
func (c *Cable) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end()
}

func (c *Cable) end() {
	c.cut, c.held = true, false
	c.wake()
}

func (c *Cable) wake() {
	for i := range c.ends {
		if e := &c.ends[i]; e.ready != nil {
			e.post(e.ready)
		}
	}
}

// Read implements peer.Stream.
func (e *end) Read(b []byte) (int, error) {
	c := e.cable
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.cut:
		return 0, io.EOF
	case c.held || len(e.way) == 0 || len(b) == 0:
		return 0, nil
	}
	n := min(len(b), len(e.way))
	if n > 1 && c.rng.IntN(2) == 0 {
		n = 1 + c.rng.IntN(n)
	}
	copy(b, e.way[:n])
	e.way = e.way[n:]
	return n, nil
}

// Write implements peer.Stream.
func (e *end) Write(b []byte) error {
	e.ahead = append(e.ahead, b...)
	return nil
}

// Flush implements peer.Stream.
func (e *end) Flush() (int, error) {
	c := e.cable
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return 0, io.ErrClosedPipe
	}
	o := &c.ends[e.other]
	o.way = append(o.way, e.ahead...)
	e.ahead = e.ahead[:0]
	if o.ready != nil && len(o.way) > 0 && !c.held {
		o.post(o.ready)
	}
	return 0, nil
}

// Notify implements peer.Stream.
func (e *end) Notify(ready func()) {
	e.cable.mu.Lock()
	defer e.cable.mu.Unlock()
	e.ready = ready
}

// Close implements peer.Stream.
func (e *end) Close() {
	c := e.cable
	c.mu.Lock()
	defer c.mu.Unlock()
	e.ready = nil
	if !c.cut {
		c.end()
	}
}
