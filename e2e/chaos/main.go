package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/mooring-io/mooring/core/admin"
)

func main() {
	o := options{out: os.Stdout}
	flag.DurationVar(&o.time, "time", 2*time.Minute, "for how long faults are made")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "of what is done; processes and networks have their own timing, so a run is never quite repeated")
	flag.StringVar(&o.dir, "dir", "", "keep data and logs in this new folder; \"\" is a temporary one, which is kept when it did not hold")
	flag.IntVar(&o.hosts, "hosts", 3, "that use the volume")
	flag.Parse()
	if os.Getenv(apart) == "" {
		code, err := goApart()
		if err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
		}
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		stop()
		os.Exit(1)
	}
}

// options are of one run.
type options struct {
	time  time.Duration
	seed  uint64
	dir   string
	hosts int
	out   io.Writer
}

// wholePatience is how long the cluster may take to be whole, and every block to be readable, when there are no more faults.
const wholePatience = 2 * time.Minute

// run makes a run, and prints as its last line what was done and whether it held. The error says why it did not.
func run(ctx context.Context, o options) (err error) {
	began := time.Now()
	say := func(text string, args ...any) {
		fmt.Fprintf(o.out, "%8.3fs %s\n", time.Since(began).Seconds(), fmt.Sprintf(text, args...))
	}
	dir := o.dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "mooring-chaos-"); err != nil {
			return err
		}
	}
	// The plugins have users of their own, and must reach their programs.
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o755)); err != nil {
		return err
	}
	h := newHistory()
	f := &faults{seed: o.seed, say: say}
	err = f.chaos(ctx, o, dir, h)
	verdict := "held"
	if err != nil {
		verdict = fmt.Sprintf("DID NOT HOLD (logs in %s): %v", dir, err)
	} else if o.dir == "" {
		err = os.RemoveAll(dir)
	}
	fmt.Fprintf(o.out, "chaos: seed %d, %v, %d hosts on %d blocks: %d writes acknowledged, %d reads, %d writes of unknown outcome, %d reads without answer; "+
		"%d kill -9, %d of plugins, %d power cuts, %d standstills, %d cuts of the network, %d disks failed, %d were full: %s\n",
		o.seed, o.time, o.hosts, blocks, h.written, h.read, h.unknown, h.unread, f.kills, f.plugins, f.outages, f.stops, f.cuts, f.failing, f.full, verdict)
	return err
}

// chaos forms a cluster, has hosts use it while it is maltreated, and judges what they saw.
func (f *faults) chaos(ctx context.Context, o options, dir string, h *history) (err error) {
	f.say("build")
	programs := filepath.Join(dir, "programs")
	if err := build(ctx, programs); err != nil {
		return err
	}
	if f.places, err = newNetwork([]string{"a", "b", "c"}); err != nil {
		return err
	}
	for _, p := range f.places[1:] {
		n, err := newNode(dir, programs, p)
		if err != nil {
			return err
		}
		defer n.log.Close()
		defer func() {
			n.kill()
			err = errors.Join(err, n.machine.close())
		}()
		f.nodes = append(f.nodes, n)
	}
	f.say("form a cluster")
	starting, cancel := context.WithTimeout(ctx, wholePatience)
	defer cancel()
	if err := form(starting, f.nodes); err != nil {
		return err
	}
	var addresses []string
	for _, n := range f.nodes {
		addresses = append(addresses, n.nvme)
	}
	var hosts []*host
	for i := range o.hosts {
		x, err := openHost(starting, i+1, addresses, h)
		if err != nil {
			return err
		}
		defer x.device.Close()
		hosts = append(hosts, x)
	}
	f.say("%d hosts begin", o.hosts)
	if err := f.maltreat(ctx, o, hosts); err != nil {
		return err
	}
	return f.look(ctx, hosts, h)
}

// maltreat makes faults for the time of the run, while the hosts use the device.
func (f *faults) maltreat(ctx context.Context, o options, hosts []*host) error {
	using, enough := context.WithCancel(ctx)
	var wg sync.WaitGroup
	errs := make([]error, len(hosts))
	for i, x := range hosts {
		wg.Go(func() {
			if errs[i] = x.run(using, o.seed); errs[i] != nil {
				enough() // no need to go on
			}
		})
	}
	hurting, cancel := context.WithTimeout(using, o.time)
	err := f.run(hurting)
	cancel()
	f.say("no more faults")
	enough()
	wg.Wait()
	return errors.Join(append(errs, err)...)
}

// look waits until the cluster is whole, reads every block by every host, ends the nodes in order, and judges.
func (f *faults) look(ctx context.Context, hosts []*host, h *history) error {
	ctx, cancel := context.WithTimeout(ctx, wholePatience)
	defer cancel()
	if err := settle(ctx, f.nodes); err != nil {
		return err
	}
	f.say("read everything")
	var errs []error
	for _, x := range hosts {
		errs = append(errs, x.readAll(ctx))
		x.device.Close()
	}
	f.say("compare the replicas")
	errs = append(errs, f.scrub(ctx))
	var wg sync.WaitGroup
	ends := make([]error, len(f.nodes))
	for i, n := range f.nodes {
		wg.Go(func() { ends[i] = n.stop() })
	}
	wg.Wait()
	errs = append(errs, ends...)
	f.say("judge")
	wrong, undecided := h.judge(blocks)
	for _, w := range wrong {
		errs = append(errs, errors.New("not what one disk does: "+w))
	}
	if len(undecided) > 0 {
		errs = append(errs, fmt.Errorf("could not be judged in time: %q", undecided))
	}
	return errors.Join(errs...)
}

// scrub has the node that drives the volume compare its replicas, and fails if they differ.
func (f *faults) scrub(ctx context.Context) error {
	for {
		var errs []error
		for _, n := range f.nodes {
			out, err := n.run(ctx, "scrub", "v", "-o", "json")
			if err != nil { // another node drives it
				errs = append(errs, err)
				continue
			}
			var all []admin.Scrub
			if err := json.Unmarshal([]byte(out), &all); err != nil {
				return fmt.Errorf("scrub: %w\n%s", err, out)
			}
			if len(all) != 1 || all[0].Extents == 0 || all[0].Different+all[0].Corrupt > 0 {
				return fmt.Errorf("not all replicas were compared, or they differ: %s", out)
			}
			if all[0].Skipped == 0 {
				return nil
			}
			errs = append(errs, fmt.Errorf("%d extents could not be compared: %s", all[0].Skipped, all[0].Reason))
		}
		select {
		case <-ctx.Done():
			return errors.Join(append(errs, ctx.Err())...)
		case <-time.After(time.Second): // they are being made whole
		}
	}
}
