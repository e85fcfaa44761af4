package bench

import (
	"context"
	"fmt"
	"math/bits"
	"runtime"
	"time"

	"github.com/mooring-io/mooring/sdk/hostio"
)

const (
	// keepMismatches is how many mismatches are described.
	keepMismatches = 10
	// pollInterval bounds how late the end of the measurement is noticed.
	pollInterval = 20 * time.Millisecond
	// drainTimeout bounds the wait for I/Os in flight after the measurement.
	drainTimeout = 30 * time.Second
	// maxSlots bounds the memory of Verify: 16 bytes per place.
	maxSlots = 64 << 20
)

// Run measures. When ctx ends early the result is of what was done until then. With an error the
// result, if not nil, is of what was done before it.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	targets, err := cfg.targets()
	if err != nil {
		return nil, err
	}
	if cfg.Multipath || len(targets) > 1 {
		return runPaths(ctx, cfg, targets)
	}
	r := &run{cfg: cfg, errors: map[string]uint64{}, rng: random(cfg.Seed), percent: cfg.readPercent()}
	// A goroutine of its own, because it locks its thread.
	done := make(chan error, 1)
	go func() { done <- r.run(ctx, targets[0]) }()
	err = <-done
	if r.elapsed == 0 {
		return nil, err
	}
	return r.result(), err
}

// run is one measurement. Owned by the goroutine of run once that has begun.
type run struct {
	cfg    Config
	host   host
	loop   *hostio.Loop
	queues []queue

	area
	slots   []slot // by place; with Verify only
	cursor  uint64 // next place of sequential I/O
	rng     random
	percent int // of reads

	stopping bool
	active   int // I/Os in flight
	fatal    error

	reads, writes histogram
	errors        map[string]uint64
	failed        uint64
	verified      uint64
	wrong         uint64
	mismatches    []string
	elapsed       time.Duration
	cpu, own      time.Duration
	changes       []PathChange
}

// op is one of the I/Os that are kept in flight.
type op struct {
	request
	run     *run
	queue   queue
	over    func() // what comes next
	write   bool
	place   uint64
	started time.Duration
	buf     []byte
}

func (r *run) newOp(q queue) *op {
	o := &op{run: r, queue: q, buf: make([]byte, r.cfg.BlockBytes)}
	stampPlain(o.buf)
	o.request = q.prepare(o.done)
	return o
}

func (r *run) run(ctx context.Context, target Target) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	loop, err := hostio.NewLoop()
	if err != nil {
		return err
	}
	defer loop.Close()
	r.loop = loop
	told := r.cfg.OnPath
	r.cfg.OnPath = func(c PathChange) {
		if len(r.changes) < keepChanges {
			r.changes = append(r.changes, c)
		}
		if told != nil {
			told(c)
		}
	}
	if r.host, err = connectors[target.Scheme](ctx, loop, r.cfg, target); err != nil {
		return err
	}
	err = r.measure(ctx)
	if cerr := r.host.close(); err == nil {
		err = cerr
	}
	return err
}

func (r *run) measure(ctx context.Context) (err error) {
	if r.area, err = r.cfg.area(r.host.unit(), r.cfg.Verify); err != nil {
		return err
	}
	if r.cfg.Verify {
		r.slots = make([]slot, r.places)
	}
	if r.queues, err = r.host.open(ctx, r.cfg.Queues); err != nil {
		return err
	}
	if err := r.loop.Turn(0); err != nil { // sets the clock
		return err
	}
	if !r.cfg.Force && (r.percent < 100 || r.cfg.Verify) {
		if err := r.occupied(ctx); err != nil {
			return err
		}
	}
	r.cpu, r.own = -cpuOf(r.cfg.PIDs), -ownCPU()
	start := r.loop.Now()
	for range r.cfg.QueueDepth {
		for _, q := range r.queues {
			o := r.newOp(q)
			o.over = func() {
				if !r.stopping {
					r.next(o)
				}
			}
			r.next(o)
		}
	}
	err = r.turns(ctx, start)
	r.elapsed = r.loop.Now() - start
	r.cpu += cpuOf(r.cfg.PIDs)
	r.own += ownCPU()
	if err == nil {
		err = r.drain()
	}
	if err == nil && r.cfg.Verify && r.percent < 100 && ctx.Err() == nil {
		err = r.readBack(ctx)
	}
	return err
}

// turns runs the loop for the time of the measurement.
func (r *run) turns(ctx context.Context, start time.Duration) error {
	p := ticker{run: r, start: start, last: start, phase: "measure"}
	for r.loop.Now()-start < r.cfg.Time && ctx.Err() == nil {
		if err := r.loop.Turn(min(pollInterval, r.cfg.Time)); err != nil {
			return err
		}
		if r.fatal != nil {
			return r.fatal
		}
		p.tick(r.reads.count + r.writes.count)
	}
	return nil
}

// drain waits for what is in flight; it counts no more.
func (r *run) drain() error {
	r.stopping = true
	limit := r.loop.Now() + drainTimeout
	for r.active > 0 && r.fatal == nil {
		if err := r.loop.Turn(pollInterval); err != nil {
			return err
		}
		if r.loop.Now() > limit {
			return fmt.Errorf("%d I/Os were not completed within %s", r.active, drainTimeout)
		}
	}
	return r.fatal
}

// next starts o on the next place.
func (r *run) next(o *op) {
	read := r.percent == 100 || r.percent > 0 && int(r.rng.next()%100) < r.percent
	r.submit(o, read, r.choose())
}

// choose returns a place, with Verify one that no I/O in flight touches.
func (r *run) choose() uint64 {
	for {
		var p uint64
		if r.cfg.random() {
			p, _ = bits.Mul64(r.rng.next(), r.places)
		} else {
			p = r.cursor
			r.cursor = (r.cursor + 1) % r.places
		}
		if r.slots == nil || !r.slots[p].busy {
			return p
		}
	}
}

// random is xorshift64*. It must not be 0.
type random uint64

func (r *random) next() uint64 {
	*r ^= *r >> 12
	*r ^= *r << 25
	*r ^= *r >> 27
	return uint64(*r) * 2685821657736338717
}

func (r *run) submit(o *op, read bool, place uint64) {
	o.place, o.started, o.write = place, r.loop.Now(), !read
	data := o.buf
	if r.slots != nil {
		s := &r.slots[place]
		s.busy = true
		if !read {
			s.next++
			r.stamp(data, place, s.next)
		}
	} else if read {
		data = nil
	}
	r.active++
	o.start(o.write, place*r.perIO, int(r.perIO), data)
}

// done takes the result of o and keeps it going.
func (o *op) done(err error) {
	r := o.run
	r.active--
	if r.account(o, err); r.fatal == nil {
		o.over()
	}
}

func (r *run) account(o *op, err error) {
	if err != nil && r.fatal == nil {
		if lost := o.queue.lost(); lost != nil {
			r.fatal = lost
		} else if r.host.gone(err) {
			r.fatal = r.takenAway(err)
		}
	}
	if r.fatal != nil {
		return
	}
	if r.slots != nil {
		r.verify(o, err)
	}
	switch {
	case err != nil:
		r.failed++
		r.errors[err.Error()]++
	case r.stopping:
	case o.write:
		r.writes.add(r.loop.Now() - o.started)
	default:
		r.reads.add(r.loop.Now() - o.started)
	}
}

// verify keeps the books of a place and judges what was read.
func (r *run) verify(o *op, err error) {
	s := &r.slots[o.place]
	s.busy = false
	switch {
	case o.write && err == nil:
		s.generation, s.unsure = s.next, false
	case o.write:
		s.unsure = true
	case err == nil:
		r.verified += r.perIO
		if bad := r.check(s, o.buf, o.place); bad != nil {
			r.wrong++
			if len(r.mismatches) < keepMismatches {
				r.mismatches = append(r.mismatches, bad.Error())
			}
		}
	}
}

// readBack reads every place that was written once more.
func (r *run) readBack(ctx context.Context) error {
	p := ticker{run: r, start: r.loop.Now(), last: r.loop.Now(), phase: "read back"}
	place, done := uint64(0), uint64(0)
	step := func(o *op) {
		for place < r.places && r.slots[place].next == 0 {
			place++
		}
		if place == r.places || ctx.Err() != nil {
			return
		}
		r.submit(o, true, place)
		place++
	}
	for range r.cfg.QueueDepth {
		for _, q := range r.queues {
			o := r.newOp(q)
			o.over = func() {
				done++
				step(o)
			}
			step(o)
		}
	}
	for r.active > 0 && r.fatal == nil {
		if err := r.loop.Turn(pollInterval); err != nil {
			return err
		}
		p.tick(done)
	}
	return r.fatal
}

// stampPlain fills a buffer with something that does not compress.
func stampPlain(b []byte) {
	x := uint64(len(b))
	for i := 0; i+8 <= len(b); i += 8 {
		x += 0x9e3779b97f4a7c15
		le.PutUint64(b[i:], mixBits(x))
	}
}

// ticker reports progress.
type ticker struct {
	run         *run
	start, last time.Duration
	count       uint64
	phase       string
}

func (t *ticker) tick(count uint64) {
	r := t.run
	now := r.loop.Now()
	if r.cfg.Progress == nil || now-t.last < r.cfg.ProgressEvery {
		return
	}
	rate := float64(count-t.count) / (now - t.last).Seconds()
	t.last, t.count = now, count
	r.cfg.Progress(Progress{
		Elapsed: now - t.start, Phase: t.phase, IOPS: rate, MiBPerSecond: rate * float64(r.cfg.BlockBytes) / (1 << 20),
		Errors: r.failed, VerifyErrors: r.wrong,
	})
}

func (r *run) result() *Result {
	total := r.reads
	total.merge(&r.writes)
	res := &Result{
		URL: r.cfg.URL, RW: r.cfg.RW, Mix: r.percent, BlockBytes: r.cfg.BlockBytes,
		QueueDepth: r.cfg.QueueDepth, Queues: r.cfg.Queues, Seconds: r.elapsed.Seconds(),
		Total:  figures(&total, r.cfg.BlockBytes, r.elapsed),
		Read:   figures(&r.reads, r.cfg.BlockBytes, r.elapsed),
		Write:  figures(&r.writes, r.cfg.BlockBytes, r.elapsed),
		Errors: r.failed, ErrorCounts: r.errors,
		Verified: r.verified, VerifyErrors: r.wrong, Mismatches: r.mismatches,
		TargetCPU: max(0, r.cpu).Seconds(), HostCPU: r.own.Seconds(), PathChanges: r.changes,
	}
	if total.count > 0 {
		res.TargetPerIO = res.TargetCPU * 1e6 / float64(total.count)
	}
	return res
}
