package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost/multipath"
)

// keepChanges is how many changes of ways a result has.
const keepChanges = 10_000

// openTimeout bounds the wait for the first usable way.
const openTimeout = 30 * time.Second

// pathsRun is a measurement over all ways of a namespace: as many workers as I/Os are to be in
// flight, each with places of its own. It gives up some rate for a host that goes on.
type pathsRun struct {
	cfg Config
	dev *multipath.Device
	area
	percent int
	opened  time.Time
	start   time.Time // of the measurement

	done, failed, wrong atomic.Uint64

	mu      sync.Mutex
	gone    error        // the namespace was taken away; guarded by mu
	ended   time.Time    // the measurement; zero while it runs; guarded by mu
	changes []PathChange // guarded by mu
	sum     pathWorker   // of the workers that have ended; guarded by mu
}

// pathWorker keeps one I/O in flight, on the places that are number modulo count.
type pathWorker struct {
	run           *pathsRun
	number, count uint64
	buf           []byte
	rng           random
	cursor        uint64
	slots         []slot // of its places; with Verify only

	reads, writes histogram
	errors        map[string]uint64
	verified      uint64
	mismatches    []string
}

func runPaths(ctx context.Context, cfg Config, targets []Target) (*Result, error) {
	r := &pathsRun{cfg: cfg, percent: cfg.readPercent(), opened: time.Now()}
	r.sum.errors = map[string]uint64{}
	o := multipath.Options{
		NQN: targets[0].Name, NSID: targets[0].NSID(), HostNQN: cfg.Host, Queues: cfg.Queues, RoundRobin: cfg.RoundRobin, Timeout: cfg.Timeout,
		HeaderDigest: targets[0].HeaderDigest, DataDigest: targets[0].DataDigest, OnChange: r.changed,
	}
	_, _ = rand.Read(o.HostID[:])
	if o.HostNQN == "" {
		o.HostNQN = "nqn.2014-08.org.nvmexpress:uuid:" + o.HostID.String()
	}
	for _, t := range targets {
		o.Addresses = append(o.Addresses, t.Address)
	}
	opening, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	var err error
	if r.dev, err = multipath.Open(opening, o); err != nil {
		return nil, err
	}
	defer r.dev.Close()
	if err := r.prepare(ctx, targets); err != nil {
		return nil, err
	}
	cpu, own := -cpuOf(cfg.PIDs), -ownCPU()
	r.work(ctx)
	res := r.result()
	res.TargetCPU, res.HostCPU = max(0, cpu+cpuOf(cfg.PIDs)).Seconds(), (own + ownCPU()).Seconds()
	if res.Total.IOs > 0 {
		res.TargetPerIO = res.TargetCPU * 1e6 / float64(res.Total.IOs)
	}
	return res, r.gone // the workers have ended
}

func (r *pathsRun) prepare(ctx context.Context, targets []Target) error {
	var err error
	if r.area, err = r.cfg.area(namespaceUnit(targets[0].NSID(), r.dev.Namespace()), true); err != nil {
		return err
	}
	if r.cfg.Force || r.percent == 100 && !r.cfg.Verify {
		return nil
	}
	return occupied(r.bytes, func(at int64, b []byte) error { return r.dev.Read(ctx, nvme.LBA(at/int64(r.block)), b) })
}

func (r *pathsRun) changed(p multipath.Path) {
	c := PathChange{Elapsed: time.Since(r.opened), Path: p.String()}
	r.mu.Lock()
	if len(r.changes) < keepChanges {
		r.changes = append(r.changes, c)
	}
	r.mu.Unlock()
	if r.cfg.OnPath != nil {
		r.cfg.OnPath(c)
	}
}

// work runs the workers for the time of the measurement, and has them read back.
func (r *pathsRun) work(ctx context.Context) {
	n := r.cfg.QueueDepth * r.cfg.Queues
	r.start = time.Now()
	measure, cancel := context.WithTimeout(ctx, r.cfg.Time)
	defer cancel()
	var measuring, all sync.WaitGroup
	measuring.Add(n)
	for i := range n {
		w := &pathWorker{
			run: r, number: uint64(i), count: uint64(n), buf: make([]byte, r.cfg.BlockBytes), rng: random(mixBits(r.cfg.Seed+uint64(i)) | 1), errors: map[string]uint64{},
		}
		all.Go(func() {
			w.measure(ctx, measure)
			measuring.Done()
			measuring.Wait()
			w.readBack(ctx)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.sum.add(w)
		})
	}
	over := make(chan struct{})
	go func() { // ends with the workers
		measuring.Wait()
		r.mu.Lock()
		r.ended = time.Now()
		r.mu.Unlock()
		all.Wait()
		close(over)
	}()
	r.report(over)
}

// report tells of the progress until over is closed.
func (r *pathsRun) report(over <-chan struct{}) {
	t := time.NewTicker(r.cfg.ProgressEvery)
	defer t.Stop()
	last, count := r.start, uint64(0)
	for {
		select {
		case <-over:
			return
		case now := <-t.C:
			if r.cfg.Progress == nil {
				continue
			}
			n := r.done.Load()
			rate := float64(n-count) / now.Sub(last).Seconds()
			last, count = now, n
			r.mu.Lock()
			phase := "measure"
			if !r.ended.IsZero() {
				phase = "read back"
			}
			r.mu.Unlock()
			r.cfg.Progress(Progress{
				Elapsed: now.Sub(r.start), Phase: phase, IOPS: rate, MiBPerSecond: rate * float64(r.cfg.BlockBytes) / (1 << 20),
				Errors: r.failed.Load(), VerifyErrors: r.wrong.Load(),
			})
		}
	}
}

func (w *pathWorker) measure(ctx, measure context.Context) {
	r := w.run
	mine := (r.places - w.number + w.count - 1) / w.count
	if r.cfg.Verify {
		w.slots = make([]slot, mine)
	} else {
		stampPlain(w.buf)
	}
	for measure.Err() == nil && !r.isGone() {
		own := w.cursor
		if r.cfg.random() {
			own, _ = bits.Mul64(w.rng.next(), mine)
		} else {
			w.cursor = (w.cursor + 1) % mine
		}
		read := r.percent == 100 || r.percent > 0 && int(w.rng.next()%100) < r.percent
		began := time.Now()
		if err := w.io(ctx, own, read); err != nil {
			continue
		}
		if read {
			w.reads.add(time.Since(began))
		} else {
			w.writes.add(time.Since(began))
		}
	}
}

// io reads or writes the worker's own-th place. It goes on after the measurement has ended.
func (w *pathWorker) io(ctx context.Context, own uint64, read bool) error {
	r := w.run
	place := own*w.count + w.number
	lba := nvme.LBA(place * r.perIO)
	var s *slot
	if w.slots != nil {
		s = &w.slots[own]
	}
	var err error
	if read {
		err = r.dev.Read(ctx, lba, w.buf)
	} else {
		if s != nil {
			s.next++
			r.stamp(w.buf, place, s.next)
		}
		err = r.dev.Write(ctx, lba, w.buf, false)
	}
	switch {
	case err != nil:
		if s != nil && !read {
			s.unsure = true
		}
		if namespaceGone(err) || errors.Is(err, multipath.ErrDetached) {
			r.mu.Lock()
			r.gone = r.takenAway(err)
			r.mu.Unlock()
		} else if !errors.Is(err, context.Canceled) {
			r.failed.Add(1)
			w.errors[err.Error()]++
		}
		// The command may still be under way in a connection that nobody waits for.
		w.buf = make([]byte, len(w.buf))
		return err
	case s != nil && !read:
		s.generation, s.unsure = s.next, false
	case s != nil:
		w.verified += r.perIO
		if bad := r.check(s, w.buf, place); bad != nil {
			r.wrong.Add(1)
			if len(w.mismatches) < keepMismatches {
				w.mismatches = append(w.mismatches, bad.Error())
			}
		}
	}
	r.done.Add(1)
	return nil
}

func (r *pathsRun) isGone() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gone != nil
}

// readBack reads every place that the worker wrote once more.
func (w *pathWorker) readBack(ctx context.Context) {
	for own := range w.slots {
		if ctx.Err() != nil || w.run.isGone() {
			return
		}
		if w.slots[own].next > 0 {
			_ = w.io(ctx, uint64(own), true) // it is counted
		}
	}
}

func (w *pathWorker) add(o *pathWorker) {
	w.reads.merge(&o.reads)
	w.writes.merge(&o.writes)
	w.verified += o.verified
	for k, n := range o.errors {
		w.errors[k] += n
	}
	w.mismatches = append(w.mismatches, o.mismatches[:min(len(o.mismatches), keepMismatches-len(w.mismatches))]...)
}

func (r *pathsRun) result() *Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	elapsed := r.ended.Sub(r.start)
	total := r.sum.reads
	total.merge(&r.sum.writes)
	return &Result{
		URL: r.cfg.URL, RW: r.cfg.RW, Mix: r.percent, BlockBytes: r.cfg.BlockBytes, QueueDepth: r.cfg.QueueDepth, Queues: r.cfg.Queues,
		Seconds: elapsed.Seconds(),
		Total:   figures(&total, r.cfg.BlockBytes, elapsed),
		Read:    figures(&r.sum.reads, r.cfg.BlockBytes, elapsed),
		Write:   figures(&r.sum.writes, r.cfg.BlockBytes, elapsed),
		Errors:  r.failed.Load(), ErrorCounts: r.sum.errors,
		Verified: r.sum.verified, VerifyErrors: r.wrong.Load(), Mismatches: r.sum.mismatches, PathChanges: r.changes,
	}
}
