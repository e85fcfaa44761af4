package node

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost"
)

// doAll carries out ios on queue q, all at once, and returns the first failure.
func doAll(a *agent, c *nvmehost.Controller, q int, ios []*nvmehost.IO) error {
	if err := c.DoMany(a.ctx, q, ios...); err != nil {
		return err
	}
	for _, io := range ios {
		if err := io.Status(); err != nil {
			return err
		}
	}
	return nil
}

// A controller has as many I/O queues of as many entries as the defaults say, all in use at once: every queue is filled,
// and what was written through it is read back through another.
func TestManyDeepQueues(t *testing.T) {
	const queues, entries = 128, 1024
	a := start(t, 1, "-dev", "-data-dir", t.TempDir())
	c := a.connect(0, nvmehost.Options{Queues: queues, Entries: entries})
	if c.Queues() != queues {
		t.Fatalf("%d I/O queues, want %d", c.Queues(), queues)
	}
	const each = 64 // blocks of 4 KiB per queue
	block := func(q, i int) []byte { return bytes.Repeat([]byte(fmt.Sprintf("%07d\n", q*each+i)), 512) }
	parallel := func(fn func(q int) error) {
		t.Helper()
		var wg sync.WaitGroup
		errs := make([]error, queues)
		for q := range queues {
			wg.Go(func() { errs[q] = fn(q) })
		}
		wg.Wait()
		for q, err := range errs {
			if err != nil {
				t.Fatalf("queue %d: %v", q, err)
			}
		}
	}
	lba := func(q, i int) nvme.LBA { return nvme.LBA(q*each + i) }
	parallel(func(q int) error {
		var ios []*nvmehost.IO
		for i := range each {
			ios = append(ios, &nvmehost.IO{Cmd: nvmehost.BlockCommand(nvme.IOWrite, 1, lba(q, i), 1), Data: block(q, i), Write: true})
		}
		return doAll(a, c, q, ios)
	})
	// As many commands at once as a queue holds.
	parallel(func(q int) error {
		from := (q + 1) % queues
		var ios []*nvmehost.IO
		for i := range entries - 1 {
			ios = append(ios, &nvmehost.IO{Cmd: nvmehost.BlockCommand(nvme.IORead, 1, lba(from, i%each), 1), Data: make([]byte, 4096)})
		}
		if err := doAll(a, c, q, ios); err != nil {
			return err
		}
		for i, io := range ios {
			if !bytes.Equal(io.Data, block(from, i%each)) {
				return fmt.Errorf("block %d of queue %d is not what was written", i%each, from)
			}
		}
		return nil
	})
}
