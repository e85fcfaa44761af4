package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"time"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost"
)

const (
	// keepMismatches is how many mismatches are described.
	keepMismatches = 10
	// pollInterval bounds how late the end of the measurement is noticed.
	pollInterval = 20 * time.Millisecond
	// drainTimeout bounds the wait for I/Os in flight after the measurement.
	drainTimeout = 30 * time.Second
	keepAlive    = 10 * time.Second
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
	target := targets[0]
	c, err := nvmehost.Connect(ctx, target.Address, target.NQN, nvmehost.Options{
		HostNQN: cfg.HostNQN, HeaderDigest: target.HeaderDigest, DataDigest: target.DataDigest,
		Entries: min(cfg.QueueDepth+1, 1<<16), KeepAlive: keepAlive, NoSQFlow: cfg.NoSQFlow, MaxR2T: 4,
	})
	if err != nil {
		return nil, err
	}
	r := &run{cfg: cfg, target: target, ctrl: c, errors: map[string]uint64{}, rng: random(cfg.Seed)}
	err = r.prepare(ctx)
	if err == nil {
		// A goroutine of its own, because it locks its thread.
		done := make(chan error, 1)
		go func() { done <- r.measure(ctx) }()
		err = <-done
	}
	if cerr := c.Close(); err == nil && cerr != nil {
		err = cerr
	}
	if r.elapsed == 0 {
		return nil, err
	}
	return r.result(), err
}

// run is one measurement. Owned by the goroutine of measure once that has begun.
type run struct {
	cfg    Config
	target Target
	ctrl   *nvmehost.Controller
	loop   *nvmehost.Loop
	queues []*nvmehost.Queue

	bytes   int64  // of the namespace
	block   int    // bytes of the namespace's blocks
	perIO   uint64 // blocks of one I/O
	places  uint64 // of BlockBytes
	slots   []slot // by place; with Verify only
	id      uint64 // of this run, in stamps
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
}

// op is one of the I/Os that are kept in flight.
type op struct {
	nvmehost.IO
	run     *run
	queue   *nvmehost.Queue
	place   uint64
	started time.Duration
	buf     []byte
}

func (r *run) prepare(ctx context.Context) error {
	id, err := r.ctrl.Namespace(ctx, r.target.NSID)
	if err != nil {
		return err
	}
	r.block = 1 << id.Format().DataShift
	r.bytes = int64(id.Size) * int64(r.block)
	if r.cfg.BlockBytes%r.block != 0 {
		return fmt.Errorf("block size %d is not a multiple of the namespace's %d", r.cfg.BlockBytes, r.block)
	}
	if r.cfg.Verify && r.block < 512 {
		return fmt.Errorf("verify: blocks of %d bytes are too small", r.block)
	}
	if s := r.ctrl.Identity.MaxTransferShift; s > 0 && r.cfg.BlockBytes > 4096<<(s+r.ctrl.CAP.MinPageShift) {
		return fmt.Errorf("block size %d is above the controller's limit of %d", r.cfg.BlockBytes, 4096<<(s+r.ctrl.CAP.MinPageShift))
	}
	r.perIO = uint64(r.cfg.BlockBytes / r.block)
	r.places = uint64(id.Size) / r.perIO
	if size := int64(id.Size) * int64(r.block); r.cfg.SpanBytes > size {
		return fmt.Errorf("the span of %d MiB is larger than the namespace, %d MiB", r.cfg.SpanBytes>>20, size>>20)
	}
	if r.cfg.SpanBytes > 0 {
		r.places = min(r.places, uint64(r.cfg.SpanBytes)/uint64(r.cfg.BlockBytes))
	}
	if r.places == 0 {
		return fmt.Errorf("the namespace, or the span, is smaller than one I/O of %d bytes", r.cfg.BlockBytes)
	}
	r.percent = r.cfg.readPercent()
	if r.cfg.Verify {
		if r.places > maxSlots {
			return fmt.Errorf("verify: %d places are more than %d; give a smaller span", r.places, maxSlots)
		}
		if r.places < uint64(r.cfg.QueueDepth*r.cfg.Queues) {
			return fmt.Errorf("verify: %d places are fewer than %d I/Os in flight", r.places, r.cfg.QueueDepth*r.cfg.Queues)
		}
		r.slots = make([]slot, r.places)
		var b [8]byte
		_, _ = rand.Read(b[:])
		r.id = le.Uint64(b[:])
	}
	granted, err := r.ctrl.SetQueueCount(ctx, r.cfg.Queues)
	if err != nil {
		return fmt.Errorf("ask for %d I/O queues: %w", r.cfg.Queues, err)
	}
	if granted < r.cfg.Queues {
		return fmt.Errorf("the controller grants %d I/O queues, %d were asked for", granted, r.cfg.Queues)
	}
	return nil
}

func (r *run) measure(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	loop, err := nvmehost.NewLoop()
	if err != nil {
		return err
	}
	defer loop.Close()
	r.loop = loop
	for i := range r.cfg.Queues {
		q, err := r.ctrl.OpenQueue(ctx, loop, nvme.QueueID(i+1))
		if err != nil {
			return err
		}
		r.queues = append(r.queues, q)
	}
	if err := loop.Turn(0); err != nil { // sets the clock
		return err
	}
	if !r.cfg.Force && (r.percent < 100 || r.cfg.Verify) {
		if err := r.occupied(ctx); err != nil {
			return err
		}
	}
	r.cpu, r.own = -cpuOf(r.cfg.PIDs), -ownCPU()
	start := loop.Now()
	for range r.cfg.QueueDepth {
		for _, q := range r.queues {
			o := &op{run: r, queue: q, buf: make([]byte, r.cfg.BlockBytes)}
			stampPlain(o.buf)
			o.Done = func(*nvmehost.IO) { o.done() }
			r.next(o)
		}
	}
	err = r.turns(ctx, start)
	r.elapsed = loop.Now() - start
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
	o.place, o.started = place, r.loop.Now()
	o.Write, o.Data, o.Discard, o.Expect = !read, o.buf, false, 0
	if read && r.slots == nil {
		o.Data, o.Discard, o.Expect = nil, true, len(o.buf)
	}
	opcode := nvme.IORead
	if !read {
		opcode = nvme.IOWrite
	}
	if r.slots != nil {
		s := &r.slots[place]
		s.busy = true
		if !read {
			s.next++
			offset := place * uint64(r.cfg.BlockBytes)
			for i := 0; i < len(o.buf); i += r.block {
				stamp(o.buf[i:i+r.block], offset+uint64(i), uint64(s.next), r.id)
			}
		}
	}
	o.Cmd = nvmehost.BlockCommand(opcode, r.target.NSID, nvme.LBA(place*r.perIO), nvme.BlockCount(r.perIO))
	r.active++
	o.queue.Submit(&o.IO)
}

// done takes the result of o and keeps it going.
func (o *op) done() {
	r := o.run
	r.active--
	if r.account(o); r.stopping || r.fatal != nil {
		return
	}
	r.next(o)
}

func (r *run) account(o *op) {
	err := o.Status()
	if o.Err != nil && !errors.Is(o.Err, nvmehost.ErrDataDigest) {
		if r.fatal == nil {
			r.fatal = o.Err // the connection is gone
		}
		return
	}
	if r.slots != nil {
		r.verify(o, err)
	}
	switch {
	case takenAway(err):
		if r.fatal == nil {
			r.fatal = gone(r.target.NSID, err)
		}
	case err != nil:
		r.failed++
		r.errors[err.Error()]++
	case r.stopping:
	case o.Write:
		r.writes.add(r.loop.Now() - o.started)
	default:
		r.reads.add(r.loop.Now() - o.started)
	}
}

// takenAway says whether a status says that the namespace is not active: of commands as ours, these two say nothing else. Base 3.2.1
func takenAway(err error) bool {
	return errors.Is(err, nvme.StatusInvalidField) || errors.Is(err, nvme.StatusInvalidNamespace)
}

// gone is the end of a run whose namespace was taken away: it does not come back by trying.
func gone(id nvme.NSID, err error) error {
	return fmt.Errorf("namespace %d is not there any more; it was detached, or is not shown to this host: %w", id, err)
}

// verify keeps the books of a place and judges what was read.
func (r *run) verify(o *op, err error) {
	s := &r.slots[o.place]
	s.busy = false
	switch {
	case o.Write && err == nil:
		s.generation, s.unsure = s.next, false
	case o.Write:
		s.unsure = true
	case err == nil:
		r.verified += r.perIO
		if bad := s.checkRead(o.buf, o.place*uint64(r.cfg.BlockBytes), r.block, r.id); bad != nil {
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
			o := &op{run: r, queue: q, buf: make([]byte, r.cfg.BlockBytes)}
			o.Done = func(*nvmehost.IO) {
				r.active--
				done++
				if r.account(o); r.fatal == nil {
					step(o)
				}
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
		TargetCPU: max(0, r.cpu).Seconds(), HostCPU: r.own.Seconds(),
	}
	if total.count > 0 {
		res.TargetPerIO = res.TargetCPU * 1e6 / float64(total.count)
	}
	return res
}
