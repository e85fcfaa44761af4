package bench

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/mooring-io/mooring/sdk/hostio"
)

// host is a connection to the unit that is loaded, whatever the protocol. Its methods, and those of what
// it returns, are for the goroutine of the loop that it was connected on.
type host interface {
	unit() unit
	// open returns n queues, each of which takes as many commands as Config.QueueDepth.
	open(ctx context.Context, n int) ([]queue, error)
	// gone says that an I/O's error means that the unit was taken away: it does not come back by trying.
	gone(err error) bool
	close() error
}

// queue is a connection that takes I/O.
type queue interface {
	// prepare returns an I/O that calls done, on the loop's goroutine, whenever it is over.
	prepare(done func(error)) request
	// lost is why nothing goes any more; nil while it does.
	lost() error
}

// request is an I/O that can be started again once it is over.
type request interface {
	// start reads or writes blocks from lba on. A read without data is checked and thrown away.
	start(write bool, lba uint64, blocks int, data []byte)
}

// connectors make hosts, by the scheme of the URL.
var connectors = map[string]func(context.Context, *hostio.Loop, Config, Target) (host, error){
	SchemeNVMe:  connectNVMe,
	SchemeISCSI: connectISCSI,
}

// unit is a namespace or a logical unit.
type unit struct {
	name     string // such as "namespace 1"
	bytes    int64
	block    int // bytes
	maxIO    int // bytes; 0 is no limit
	maxDepth int // commands in flight on one queue; 0 is no limit
}

// area is where I/O goes: to places of BlockBytes each.
type area struct {
	unit
	perIO  uint64 // blocks of one I/O
	places uint64
	id     uint64 // of this run, in stamps
}

// area lays the places out. own says that each I/O in flight has a place of its own.
func (c Config) area(u unit, own bool) (area, error) {
	inFlight := uint64(c.QueueDepth * c.Queues)
	a := area{unit: u, perIO: uint64(c.BlockBytes / u.block), places: uint64(u.bytes) / uint64(c.BlockBytes)}
	if c.SpanBytes > 0 {
		a.places = min(a.places, uint64(c.SpanBytes)/uint64(c.BlockBytes))
	}
	switch {
	case c.BlockBytes%u.block != 0:
		return a, &RangeError{"bs", c.BlockBytes, fmt.Sprintf("a multiple of the block size of %s, %d bytes", u.name, u.block)}
	case u.maxIO > 0 && c.BlockBytes > u.maxIO:
		return a, &RangeError{"bs", c.BlockBytes, fmt.Sprintf("from %d to %d bytes, which is the most that the target takes at once", u.block, u.maxIO)}
	case u.maxDepth > 0 && c.QueueDepth > u.maxDepth:
		return a, &RangeError{"qd", c.QueueDepth, fmt.Sprintf("from 1 to %d, which is the most that the target takes on one queue", u.maxDepth)}
	case c.SpanBytes > u.bytes:
		return a, fmt.Errorf("the span of %d MiB is larger than %s, %d MiB", c.SpanBytes>>20, u.name, u.bytes>>20)
	case a.places == 0:
		return a, fmt.Errorf("%s, or the span, is smaller than one I/O of %d bytes", u.name, c.BlockBytes)
	case own && a.places < inFlight:
		return a, fmt.Errorf("%s, or the span, has %d places, fewer than %d I/Os in flight", u.name, a.places, inFlight)
	case c.Verify && u.block < 512:
		return a, fmt.Errorf("verify: blocks of %d bytes are too small", u.block)
	case c.Verify && a.places > maxSlots:
		return a, fmt.Errorf("verify: %d places are more than %d; give a smaller span", a.places, maxSlots)
	}
	var b [8]byte
	_, _ = rand.Read(b[:])
	a.id = le.Uint64(b[:])
	return a, nil
}

// stamp fills a place's data, of a write of this generation.
func (a *area) stamp(data []byte, place uint64, generation uint32) {
	offset := place * uint64(len(data))
	for i := 0; i < len(data); i += a.block {
		stamp(data[i:i+a.block], offset+uint64(i), uint64(generation), a.id)
	}
}

// check judges what was read of a place.
func (a *area) check(s *slot, data []byte, place uint64) error {
	return s.checkRead(data, place*uint64(len(data)), a.block, a.id)
}

// takenAway is the end of a run whose unit was taken away.
func (a *area) takenAway(err error) error {
	return fmt.Errorf("%s is not there any more; it was detached, or is not shown to this host: %w", a.name, err)
}

// RangeError is a value of the configuration that the target does not take.
type RangeError struct {
	Flag  string // of mooring bench
	Value int
	Range string // what is possible
}

func (e *RangeError) Error() string {
	return fmt.Sprintf("-%s %d is out of range: it must be %s", e.Flag, e.Value, e.Range)
}
