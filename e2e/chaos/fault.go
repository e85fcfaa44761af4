package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"
)

// sessionTTL is the nodes' session_ttl: who is silent for longer is taken over from.
const sessionTTL = 3 * time.Second

// faults are what is done to the nodes. One goroutine does them.
type faults struct {
	nodes []*node
	rand  *rand.Rand
	say   func(string, ...any)

	kills, stops, restarts int
}

// wait waits for a random time within bounds, or until ctx ends.
func (f *faults) wait(ctx context.Context, from, to time.Duration) {
	select {
	case <-time.After(from + time.Duration(f.rand.Int64N(int64(to-from)))):
	case <-ctx.Done():
	}
}

// run makes faults until ctx ends; then all nodes run, and none stands still. It fails when a node cannot be brought back.
func (f *faults) run(ctx context.Context) error {
	for {
		f.wait(ctx, 500*time.Millisecond, 6*time.Second)
		if ctx.Err() != nil {
			return nil
		}
		victims := f.rand.Perm(len(f.nodes))[:1]
		if f.rand.IntN(4) == 0 { // two at once: no majority is left meanwhile
			victims = f.rand.Perm(len(f.nodes))[:2]
		}
		if err := f.hit(ctx, victims, f.rand.IntN(3)); err != nil {
			return err
		}
	}
}

// hit does one fault to some nodes, and undoes it after a while.
func (f *faults) hit(ctx context.Context, victims []int, kind int) error {
	names := ""
	for _, v := range victims {
		names += " " + f.nodes[v].name
	}
	if kind == 0 {
		f.say("stand still:%s", names)
		for _, v := range victims {
			f.nodes[v].signal(syscall.SIGSTOP)
			f.stops++
		}
		f.wait(ctx, sessionTTL/2, 3*sessionTTL)
		for _, v := range victims {
			f.nodes[v].signal(syscall.SIGCONT)
		}
		f.say("go on:%s", names)
		return nil
	}
	f.say("kill -9:%s", names)
	for _, v := range victims {
		f.nodes[v].kill()
		f.kills++
	}
	f.wait(ctx, 100*time.Millisecond, 2*sessionTTL)
	f.say("start:%s", names)
	return f.restart(victims)
}

// restartPatience is how long a node may take to be ready again, with all others running.
const restartPatience = 90 * time.Second

func (f *faults) restart(victims []int) error {
	ctx, cancel := context.WithTimeout(context.Background(), restartPatience)
	defer cancel()
	errs := make([]error, len(f.nodes))
	var wg sync.WaitGroup
	for _, v := range victims {
		f.restarts++
		wg.Go(func() { errs[v] = f.nodes[v].start(ctx) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return fmt.Errorf("after its death: %w", err)
		}
	}
	return nil
}
