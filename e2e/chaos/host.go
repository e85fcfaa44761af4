package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost/multipath"
)

// The blocks that are used: groups of neighbours, each group in an extent of its own, so that commands meet in the same
// regions, and extents are taken over one by one.
const (
	blockBytes  = 4096
	extents     = 4
	perExtent   = 12
	blocks      = extents * perExtent
	extentBytes = 256 << 20
	workers     = 2 // of each host: commands that it has under way
)

func lba(block int) nvme.LBA {
	return nvme.LBA(block/perExtent*(extentBytes/blockBytes) + block%perExtent)
}

// host is one host: a device by all its ways, and workers that write and read single blocks.
type host struct {
	number  int
	device  *multipath.Device
	history *history
}

// patience is how long a host waits for one command; holdFor how long it waits for a way.
const (
	patience = 40 * time.Second
	holdFor  = 30 * time.Second
)

func openHost(ctx context.Context, number int, addresses []string, h *history) (*host, error) {
	d, err := multipath.Open(ctx, multipath.Options{
		NQN: nqn, Addresses: addresses, NSID: 1,
		HostNQN: fmt.Sprintf("nqn.2014-08.org.example:chaos%d", number), HostID: nvme.HostID{14: 1, 15: byte(number)},
		KeepAlive: 2 * time.Second, Timeout: 8 * time.Second, HoldFor: holdFor,
	})
	if err != nil {
		return nil, fmt.Errorf("host %d: %w", number, err)
	}
	return &host{number: number, device: d, history: h}, nil
}

// run uses the device until ctx ends; what is under way then is waited for.
func (h *host) run(ctx context.Context, seed uint64) error {
	var wg sync.WaitGroup
	errs := make([]error, workers)
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(h.number*workers+w)))
			for ctx.Err() == nil && errs[w] == nil {
				errs[w] = h.one(r.IntN(blocks), r.IntN(2) == 0)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// one writes or reads a block. An error of the way is an unknown outcome; the error that it returns is
// of the content of the block: that is no value.
func (h *host) one(block int, write bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b := make([]byte, blockBytes) // a command that is given up may still use it
	a := command{block: block, write: write}
	if write {
		a.value = h.history.unique()
		fill(b, a.value)
		sent := h.history.now()
		h.history.add(h.number, a, sent, h.device.WriteOnce(ctx, lba(block), b, false))
		return nil
	}
	sent := h.history.now()
	err := h.device.Read(ctx, lba(block), b)
	if err == nil {
		var whole bool
		if a.value, whole = parse(b); !whole {
			return fmt.Errorf("host %d: block %d is a mixture of values", h.number, block)
		}
	}
	h.history.add(h.number, a, sent, err)
	return nil
}

// fill makes a block of a value, all of it.
func fill(b []byte, v value) {
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], uint64(v))
	}
}

// parse reads a block that fill made, or zeros; whole says that it is one.
func parse(b []byte) (v value, whole bool) {
	v = value(binary.LittleEndian.Uint64(b))
	for i := 8; i < len(b); i += 8 {
		if value(binary.LittleEndian.Uint64(b[i:])) != v {
			return v, false
		}
	}
	return v, true
}

// readAll reads every block once, each until it is answered or ctx ends.
func (h *host) readAll(ctx context.Context) error {
	for b := range blocks {
		for {
			h.history.mu.Lock()
			before := h.history.read
			h.history.mu.Unlock()
			if err := h.one(b, false); err != nil {
				return err
			}
			h.history.mu.Lock()
			answered := h.history.read > before
			h.history.mu.Unlock()
			if answered {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("host %d: block %d cannot be read: %w", h.number, b, ctx.Err())
			}
		}
	}
	return nil
}
