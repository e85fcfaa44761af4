package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost"
)

// way is a host's connection by one access point.
type way struct {
	*nvmehost.Controller
	a      *agent
	events chan struct{} // capacity 1: an ANA change was reported
}

func (a *agent) way(i int) *way {
	a.t.Helper()
	w := &way{a: a, events: make(chan struct{}, 1)}
	w.Controller = a.connect(i, nvmehost.Options{Queues: 2, KeepAlive: 10 * time.Second, OnEvent: func(e nvme.AsyncEvent) {
		if e == nvme.EventANAChange {
			select {
			case w.events <- struct{}{}:
			default:
			}
		}
	}})
	if err := w.SetEvents(a.ctx, nvme.EventsANAChange); err != nil {
		a.t.Fatal(err)
	}
	return w
}

// state is what the ANA log says of namespace 1. Reading it unmasks the event.
func (w *way) state() nvme.ANAState {
	w.a.t.Helper()
	log, err := w.ANALog(w.a.ctx)
	if err != nil || len(log.Groups) != 1 {
		w.a.t.Fatalf("ANA log %+v: %v", log, err)
	}
	return log.Groups[0].State
}

// becomes waits, as a host does, for events until the ANA log shows a state.
func (w *way) becomes(want nvme.ANAState) {
	w.a.t.Helper()
	for {
		select {
		case <-w.events:
		case <-w.a.ctx.Done():
			w.a.t.Fatalf("no event tells of the path being %v here", want)
		}
		if w.state() == want {
			return
		}
	}
}

// again does as a host with two ways does: what is answered with the path being about to change is tried again.
func again(do func() error) error {
	for {
		if err := do(); !errors.Is(err, nvme.StatusANATransition) {
			return err
		}
	}
}

func (w *way) write(lba nvme.LBA, data []byte) error {
	return again(func() error { return w.Write(w.a.ctx, 1, lba, data, false) })
}

func (w *way) read(lba nvme.LBA, data []byte) error {
	return again(func() error { return w.Read(w.a.ctx, 1, lba, data) })
}

// The first write at the non-optimized access point makes it the optimized one; reads and Admin commands move nothing.
func TestWritesMoveThePath(t *testing.T) {
	a := start(t, 2, "-dev")
	first, second := a.way(0), a.way(1)
	if x, y := first.state(), second.state(); x != nvme.ANAOptimized || y != nvme.ANANonOptimized {
		t.Fatalf("the ways are %v and %v", x, y)
	}
	block := bytes.Repeat([]byte{1}, 4096)
	got := make([]byte, len(block))
	if err := first.write(0, block); err != nil {
		t.Fatal(err)
	}
	if err := second.read(0, got); err != nil || !bytes.Equal(got, block) {
		t.Fatalf("read at the other way: %v", err)
	}
	if err := errors.Join(second.Flush(a.ctx, 1), second.Verify(a.ctx, 1, 0, 1), second.Compare(a.ctx, 1, 0, block)); err != nil {
		t.Fatal(err)
	}
	if x, y := first.state(), second.state(); x != nvme.ANAOptimized || y != nvme.ANANonOptimized {
		t.Fatalf("what changes nothing moved the path: %v and %v", x, y)
	}
	for i, to := range []*way{second, first, second} {
		from := first
		if to == first {
			from = second
		}
		block = bytes.Repeat([]byte{byte(2 + i)}, 4096)
		if err := to.write(0, block); err != nil {
			t.Fatal(err)
		}
		if err := from.read(0, got); err != nil || !bytes.Equal(got, block) {
			t.Fatalf("read at the former way: %v", err)
		}
		to.becomes(nvme.ANAOptimized)
		from.becomes(nvme.ANANonOptimized)
	}
	if err := errors.Join(first.Close(), second.Close()); err != nil {
		t.Error(err)
	}
}

// A host that writes by both ways in turns, whatever their states, gets no error, sees what it has written, and gets on.
func TestWritesByTurns(t *testing.T) {
	a := start(t, 2, "-dev")
	ways := []*way{a.way(0), a.way(1)}
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(w)))
			data, got := make([]byte, 4096), make([]byte, 4096)
			for i := range 8 {
				binary.LittleEndian.PutUint64(data, uint64(w)<<32|uint64(i))
				lba := nvme.LBA(w*8 + rnd.IntN(2))
				if err := ways[i%2].write(lba, data); err != nil {
					t.Errorf("writer %d, write %d: %v", w, i, err)
					return
				}
				if err := ways[rnd.IntN(2)].read(lba, got); err != nil || !bytes.Equal(got, data) {
					t.Errorf("writer %d, read %d: %v, or stale data", w, i, err)
					return
				}
			}
		})
	}
	all.Wait()
}
