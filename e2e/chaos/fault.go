package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mooring-io/mooring/e2e/forgetfs"
)

// sessionTTL is the nodes' session_ttl: who is silent for longer is taken over from.
const sessionTTL = 3 * time.Second

// faults are what is done to the nodes. One goroutine does what strikes processes and disks, another one what strikes the network.
type faults struct {
	nodes  []*node
	places []*place // the hosts', then the nodes'
	seed   uint64
	say    func(string, ...any)

	kills, stops, cuts, outages, plugins, failing, full int
}

// wait waits for a random time within bounds, or until ctx ends.
func wait(ctx context.Context, r *rand.Rand, from, to time.Duration) {
	select {
	case <-time.After(from + time.Duration(r.Int64N(int64(to-from)))):
	case <-ctx.Done():
	}
}

// run makes faults until ctx ends; then all nodes run, none stands still, and all reach each other. It fails when a node cannot be brought back.
func (f *faults) run(ctx context.Context) error {
	var wg sync.WaitGroup
	var cut error
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() {
		r := rand.New(rand.NewPCG(f.seed, 2))
		for cut == nil && ctx.Err() == nil {
			wait(ctx, r, 2*time.Second, 20*time.Second)
			if ctx.Err() == nil {
				cut = f.network(ctx, r)
			}
		}
		if cut != nil {
			cancel()
		}
	})
	r := rand.New(rand.NewPCG(f.seed, 1))
	err := f.strike(ctx, r)
	cancel()
	wg.Wait()
	if cut != nil {
		return cut
	}
	return err
}

func (f *faults) strike(ctx context.Context, r *rand.Rand) error {
	for {
		wait(ctx, r, 500*time.Millisecond, 6*time.Second)
		if ctx.Err() != nil {
			return nil
		}
		victims := r.Perm(len(f.nodes))[:1]
		if r.IntN(4) == 0 { // two at once: no majority is left meanwhile
			victims = r.Perm(len(f.nodes))[:2]
		}
		var err error
		switch r.IntN(6) {
		case 0:
			f.standstill(ctx, r, victims)
		case 1, 2:
			err = f.death(ctx, r, victims, false)
		case 3:
			if r.IntN(4) == 0 {
				victims = r.Perm(len(f.nodes))
			}
			err = f.death(ctx, r, victims, true)
		case 4:
			f.plugin(r, f.nodes[victims[0]])
		case 5:
			err = f.disk(ctx, r, victims[0])
		}
		if err != nil {
			return err
		}
	}
}

func (f *faults) names(of []int) (out string) {
	for _, v := range of {
		out += " " + f.nodes[v].name
	}
	return out
}

// standstill stops nodes, for longer than a session lives or not, and has them go on.
func (f *faults) standstill(ctx context.Context, r *rand.Rand, victims []int) {
	f.say("stand still:%s", f.names(victims))
	for _, v := range victims {
		f.nodes[v].signal(syscall.SIGSTOP)
		f.stops++
	}
	wait(ctx, r, sessionTTL/2, 3*sessionTTL)
	for _, v := range victims {
		f.nodes[v].signal(syscall.SIGCONT)
	}
	f.say("go on:%s", f.names(victims))
}

// death kills nodes, or cuts their power, and starts them again.
func (f *faults) death(ctx context.Context, r *rand.Rand, victims []int, power bool) error {
	what := "kill -9"
	if power {
		what = "power cut"
	}
	f.say("%s:%s", what, f.names(victims))
	for _, v := range victims {
		if power {
			f.nodes[v].machine.cut()
			f.outages++
		} else {
			f.kills++
		}
	}
	for _, v := range victims {
		f.nodes[v].signal(syscall.SIGKILL)
	}
	for _, v := range victims {
		if power { // which answers what a process that is to die waits for
			if err := f.nodes[v].machine.again(r.Uint64()); err != nil {
				return err
			}
		}
		<-f.nodes[v].ended
	}
	wait(ctx, r, 100*time.Millisecond, 2*sessionTTL)
	f.say("start:%s", f.names(victims))
	return f.restart(victims)
}

// plugin kills a node's transport.
func (f *faults) plugin(r *rand.Rand, n *node) {
	for _, pid := range n.children() {
		if r.IntN(2) == 0 {
			f.say("kill -9 of a plugin: %s", n.name)
			_ = syscall.Kill(pid, syscall.SIGKILL)
			f.plugins++
		}
	}
}

// disk has the disk of a node's store fail its syncs, or be full, for a while. A store that failed stays so until its node was restarted.
func (f *faults) disk(ctx context.Context, r *rand.Rand, victim int) error {
	n := f.nodes[victim]
	fault, what := forgetfs.Fault{Syncs: true}, "fails its syncs"
	if r.IntN(2) == 0 {
		fault, what = forgetfs.Fault{Full: true}, "is full"
	}
	f.say("the disk of a store %s: %s", what, n.name)
	if fault.Full {
		f.full++
	} else {
		f.failing++
	}
	n.machine.disks[1].Fail(fault)
	wait(ctx, r, sessionTTL/2, 2*sessionTTL)
	n.machine.disks[1].Fail(forgetfs.Fault{})
	f.say("the disk is well, restart: %s", n.name)
	n.kill()
	return f.restart([]int{victim})
}

// network cuts some ways for a while: of a place to all others, of pairs, in one direction or both; those of the hosts, too.
func (f *faults) network(ctx context.Context, r *rand.Rand) error {
	type way struct{ from, to *place }
	var ways []way
	shape := ""
	switch r.IntN(3) {
	case 0: // one place, from all nodes
		p := f.places[r.IntN(len(f.places))]
		shape = p.name + " from all"
		for _, q := range f.places {
			if q != p {
				ways = append(ways, way{p, q}, way{q, p})
			}
		}
	case 1: // one place hears nobody, or nobody hears it
		p := f.places[1+r.IntN(len(f.places)-1)]
		deaf := r.IntN(2) == 0
		shape = p.name + " is not heard"
		if deaf {
			shape = p.name + " hears nothing"
		}
		for _, q := range f.places {
			if w := (way{p, q}); q != p && deaf {
				ways = append(ways, way{q, p})
			} else if q != p {
				ways = append(ways, w)
			}
		}
	case 2: // ways at random
		for _, p := range f.places {
			for _, q := range f.places {
				if p != q && r.IntN(3) == 0 {
					ways = append(ways, way{p, q})
					shape += " " + p.name + ">" + q.name
				}
			}
		}
	}
	f.cuts++
	f.say("cut: %s", strings.TrimSpace(shape))
	for _, w := range ways {
		if err := w.from.reach(w.to, false); err != nil {
			return fmt.Errorf("cut %s from %s: %w", w.from.name, w.to.name, err)
		}
	}
	wait(ctx, r, sessionTTL/2, 4*sessionTTL)
	for _, w := range ways {
		if err := w.from.reach(w.to, true); err != nil {
			return fmt.Errorf("join %s and %s: %w", w.from.name, w.to.name, err)
		}
	}
	f.say("no cut")
	return nil
}

// restartPatience is how long a node may take to be ready again, with all others running.
const restartPatience = 90 * time.Second

func (f *faults) restart(victims []int) error {
	ctx, cancel := context.WithTimeout(context.Background(), restartPatience)
	defer cancel()
	errs := make([]error, len(f.nodes))
	var wg sync.WaitGroup
	for _, v := range victims {
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

// children are the processes of the node's plugins.
func (n *node) children() (out []int) {
	if !n.runs() {
		return nil
	}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", n.cmd.Process.Pid))
	for _, list := range lists {
		b, _ := os.ReadFile(list) // the thread may have ended
		for _, field := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(field); err == nil {
				out = append(out, pid)
			}
		}
	}
	return out
}
