package multipath

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost"
)

// ErrNoPath is wrapped by the errors of I/O for which there was no usable way for HoldFor.
var ErrNoPath = errors.New("no usable path")

// ErrDetached is wrapped by the errors of I/O while the namespace is not attached at any access point.
var ErrDetached = errors.New("the namespace is not attached")

// Options says what to reach and how. NQN, Addresses, NSID and HostNQN are needed.
type Options struct {
	NQN       string
	Addresses []string // host:port of each access point
	NSID      nvme.NSID
	HostNQN   string
	HostID    nvme.HostID // zero: one made for the device

	HeaderDigest, DataDigest bool

	Queues     int           // I/O queues on each way; 0 is 1
	RoundRobin bool          // take turns between the ways that are equally good
	KeepAlive  time.Duration // 0 is 5 s
	HoldFor    time.Duration // how long I/O waits for a way; 0 is 1 min
	Timeout    time.Duration // after which a way that does not answer is given up; 0 is 15 s
	Retry      time.Duration // between attempts to connect, the first one comes at once; 0 is 200 ms

	// OnChange is called when a way changes, one call at a time. It must not block.
	OnChange func(Path)
}

func (o Options) withDefaults() Options {
	o.Queues = max(o.Queues, 1)
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&o.KeepAlive, 5 * time.Second}, {&o.HoldFor, time.Minute}, {&o.Timeout, 15 * time.Second}, {&o.Retry, 200 * time.Millisecond}} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	return o
}

// Path is how a way is.
type Path struct {
	Address   string
	Connected bool
	State     nvme.ANAState // valid while Connected
	Err       error         // why it is not connected
}

// String is one word and, without a connection, the reason.
func (p Path) String() string {
	if p.Connected {
		return p.Address + " " + p.State.String()
	}
	if p.Err != nil {
		return p.Address + " not connected: " + p.Err.Error()
	}
	return p.Address + " not connected"
}

func (p Path) same(o Path) bool {
	return p.Connected == o.Connected && (!p.Connected || p.State == o.State) && errors.Is(p.Err, ErrDetached) == errors.Is(o.Err, ErrDetached)
}

// Device is a namespace by all its ways. Its methods may be called by any goroutine.
type Device struct {
	o      Options
	ways   []*way
	life   context.Context // ends with Close
	stop   context.CancelFunc
	wg     sync.WaitGroup
	events sync.Mutex // one OnChange at a time

	mu      sync.Mutex
	changed chan struct{} // closed, and made anew, when a way changes; guarded by mu
	turn    int           // guarded by mu
	id      *nvme.IdentifyNamespace
}

// Open connects, and returns when one way is usable. When ctx ends before, the error says how
// each way is.
func Open(ctx context.Context, o Options) (*Device, error) {
	o = o.withDefaults()
	if len(o.Addresses) == 0 || o.HostNQN == "" || o.NSID == 0 {
		return nil, errors.New("open a multipath device: addresses, the host's NQN and a namespace are needed")
	}
	d := &Device{o: o, changed: make(chan struct{})}
	d.life, d.stop = context.WithCancel(context.Background())
	for _, a := range o.Addresses {
		w := &way{d: d, address: a, seen: Path{Address: a}, poke: make(chan struct{}, 1), broken: make(chan brokenConn, 1)}
		d.ways = append(d.ways, w)
	}
	for _, w := range d.ways {
		d.wg.Go(w.run)
	}
	for {
		_, c, changed := d.pick()
		if c != nil {
			return d, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			err := fmt.Errorf("open namespace %d of %s: %w: %w", o.NSID, o.NQN, ErrNoPath, ctx.Err())
			for _, p := range d.Paths() {
				err = fmt.Errorf("%w; %s", err, p)
			}
			d.Close()
			return nil, err
		}
	}
}

// Close drops all connections in order. I/O under way fails.
func (d *Device) Close() {
	d.stop()
	d.wg.Wait()
}

// Paths returns how the ways are, in the order of Options.Addresses.
func (d *Device) Paths() []Path {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []Path
	for _, w := range d.ways {
		out = append(out, w.seen)
	}
	return out
}

// Namespace is the Identify Namespace data as first read.
func (d *Device) Namespace() nvme.IdentifyNamespace {
	d.mu.Lock()
	defer d.mu.Unlock()
	return *d.id
}

// usable are states in which commands are sent, the better one first.
var usable = []nvme.ANAState{nvme.ANAOptimized, nvme.ANANonOptimized}

// pick returns the way to take now, or none and a channel that is closed when that may have changed.
func (d *Device) pick() (*way, *nvmehost.Controller, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, state := range usable {
		for i := range d.ways {
			w := d.ways[(d.turn+i)%len(d.ways)]
			if w.ctrl == nil || w.seen.State != state {
				continue
			}
			if d.o.RoundRobin {
				d.turn = (d.turn + i + 1) % len(d.ways)
			}
			return w, w.ctrl, d.changed
		}
	}
	return nil, nil, d.changed
}

// set changes a way and wakes who waits for that.
func (d *Device) set(w *way, ctrl *nvmehost.Controller, p Path) {
	d.mu.Lock()
	news := !w.seen.same(p)
	w.ctrl, w.seen = ctrl, p
	if news {
		close(d.changed)
		d.changed = make(chan struct{})
	}
	d.mu.Unlock()
	if news && d.o.OnChange != nil && d.life.Err() == nil { // that Close drops connections is no news
		d.events.Lock()
		defer d.events.Unlock()
		d.o.OnChange(p)
	}
}

// detached says whether all access points said when they were asked last that they do not have the namespace.
func (d *Device) detached() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !slices.ContainsFunc(d.ways, func(w *way) bool { return !errors.Is(w.seen.Err, ErrDetached) })
}

// retryPause is the least time between two attempts of one command that no change of a way
// separates.
const retryPause = 5 * time.Millisecond

// do runs one command by one way after the other until it succeeds, fails for reasons of its
// own, or there was no way for HoldFor. With once it is not tried again after it was sent.
func (d *Device) do(ctx context.Context, once bool, fn func(context.Context, *nvmehost.Controller) error) error {
	var hold <-chan time.Time // runs while the command gets nowhere
	var last error
	for {
		w, c, changed := d.pick()
		if c != nil {
			err := w.try(ctx, c, fn)
			if !d.blame(w, c, err) || ctx.Err() != nil || once {
				return err
			}
			last = err
		} else if d.detached() {
			return errors.Join(ErrDetached, last)
		}
		if hold == nil {
			t := time.NewTimer(d.o.HoldFor)
			defer t.Stop()
			hold = t.C
		}
		var pause <-chan time.Time
		if c != nil {
			pause = time.After(retryPause)
		}
		select {
		case <-changed:
		case <-pause:
		case <-hold:
			return errors.Join(fmt.Errorf("%w for %s", ErrNoPath, d.o.HoldFor), last)
		case <-ctx.Done():
			return errors.Join(ctx.Err(), last)
		case <-d.life.Done():
			return nvmehost.ErrClosed
		}
	}
}

// blame says whether a failure is to be tried again, and takes what it says of the way.
func (d *Device) blame(w *way, c *nvmehost.Controller, err error) bool {
	var st nvme.Status
	switch {
	case err == nil:
		return false
	case !errors.As(err, &st): // of the transport
		w.lost(c, err)
		return true
	case st.IsPath():
		w.distrust(c, st)
		return true
	}
	return !st.DNR()
}

// Read fills data with the blocks from lba on.
func (d *Device) Read(ctx context.Context, lba nvme.LBA, data []byte) error {
	return d.do(ctx, false, func(ctx context.Context, c *nvmehost.Controller) error { return c.Read(ctx, d.o.NSID, lba, data) })
}

// Write writes data to the blocks from lba on; with fua it is durable then.
func (d *Device) Write(ctx context.Context, lba nvme.LBA, data []byte, fua bool) error {
	return d.do(ctx, false, func(ctx context.Context, c *nvmehost.Controller) error {
		return c.Write(ctx, d.o.NSID, lba, data, fua)
	})
}

// WriteOnce is Write for who has to know how often it was done: it waits for a way, but is sent once. After an error of a way it may
// have been done, or be done until a later write of this device has been acknowledged, or never be.
func (d *Device) WriteOnce(ctx context.Context, lba nvme.LBA, data []byte, fua bool) error {
	return d.do(ctx, true, func(ctx context.Context, c *nvmehost.Controller) error {
		return c.Write(ctx, d.o.NSID, lba, data, fua)
	})
}

// Flush makes what was written durable.
func (d *Device) Flush(ctx context.Context) error {
	return d.do(ctx, false, func(ctx context.Context, c *nvmehost.Controller) error { return c.Flush(ctx, d.o.NSID) })
}

// way is one access point and its connection. Its goroutine connects and watches; ctrl and seen
// are guarded by Device.mu.
type way struct {
	address string
	d       *Device
	poke    chan struct{}   // capacity 1: the ANA log is to be read again
	broken  chan brokenConn // capacity 1: a command found the connection lost
	ctrl    *nvmehost.Controller
	seen    Path
}

type brokenConn struct {
	ctrl *nvmehost.Controller
	err  error
}

func (w *way) run() {
	d := w.d
	for wait := time.Duration(0); ; wait = d.o.Retry {
		select {
		case <-time.After(wait):
		case <-d.life.Done():
			return
		}
		c, err := w.connect()
		if err == nil {
			err = w.watch(c)
			d.set(w, nil, Path{Address: w.address, Err: err})
			w.end(c)
			continue
		}
		d.set(w, nil, Path{Address: w.address, Err: err})
	}
}

// end drops a connection, in order if the device is being closed.
func (w *way) end(c *nvmehost.Controller) {
	if w.d.life.Err() != nil {
		_ = c.Close() // it may be gone
		return
	}
	c.Abandon()
}

func (w *way) connect() (*nvmehost.Controller, error) {
	d := w.d
	ctx, cancel := context.WithTimeout(d.life, d.o.Timeout)
	defer cancel()
	c, err := nvmehost.Connect(ctx, w.address, d.o.NQN, nvmehost.Options{
		HostNQN: d.o.HostNQN, HostID: d.o.HostID, HeaderDigest: d.o.HeaderDigest, DataDigest: d.o.DataDigest,
		Queues: d.o.Queues, KeepAlive: d.o.KeepAlive,
	})
	if err != nil {
		return nil, err
	}
	id, err := c.Namespace(ctx, d.o.NSID)
	if err == nil {
		err = c.SetEvents(ctx, nvme.EventsANAChange)
	}
	if err != nil {
		c.Abandon()
		return nil, err
	}
	d.mu.Lock()
	if d.id == nil {
		d.id = &id
	}
	d.mu.Unlock()
	return c, nil
}

// watch keeps a connected way's state true until the connection is lost, and says why it was.
func (w *way) watch(c *nvmehost.Controller) error {
	ctx, cancel := context.WithCancel(w.d.life)
	select { // what is left of the connection before
	case <-w.broken:
	default:
	}
	events := make(chan error) // nil is an event; the watcher of events ends with ctx
	var listener sync.WaitGroup
	listener.Go(func() {
		for {
			var cmd nvme.Command
			cmd.SetOpcode(nvme.AdminAsyncEventRequest)
			_, err := c.Admin(ctx, cmd, nil, false)
			select {
			case events <- err:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	})
	defer listener.Wait()
	defer cancel()
	for {
		if err := w.readState(ctx, c); err != nil {
			return err
		}
		select {
		case err := <-events:
			if err != nil {
				return err
			}
		case <-w.poke:
		case b := <-w.broken:
			if b.ctrl == c {
				return b.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// readState reads the ANA log and takes over what it says of the namespace.
func (w *way) readState(ctx context.Context, c *nvmehost.Controller) error {
	ctx, cancel := context.WithTimeout(ctx, w.d.o.Timeout)
	defer cancel()
	log, err := c.ANALog(ctx)
	if err != nil {
		return err
	}
	for _, g := range log.Groups {
		if slices.Contains(g.NSIDs, w.d.o.NSID) {
			w.d.set(w, c, Path{Address: w.address, Connected: true, State: g.State})
			return nil
		}
	}
	return fmt.Errorf("namespace %d: %w there", w.d.o.NSID, ErrDetached)
}

// try runs fn, and gives the way up if it does not answer in time.
func (w *way) try(ctx context.Context, c *nvmehost.Controller, fn func(context.Context, *nvmehost.Controller) error) error {
	guard := time.AfterFunc(w.d.o.Timeout, c.Abandon) // has everything on it answered
	defer guard.Stop()
	return fn(ctx, c)
}

// lost takes a way whose connection failed out of use.
func (w *way) lost(c *nvmehost.Controller, err error) {
	w.forget(c, Path{Err: err})
	select {
	case w.broken <- brokenConn{c, err}:
	default: // said already
	}
}

// distrust takes a way out of use until its log was read again.
func (w *way) distrust(c *nvmehost.Controller, st nvme.Status) {
	state := nvme.ANAChange
	if st.Code() == nvme.StatusANAInaccessible {
		state = nvme.ANAInaccessible
	}
	w.forget(c, Path{Connected: true, State: state})
	select {
	case w.poke <- struct{}{}:
	default:
	}
}

// forget changes the way unless it has another connection by now.
func (w *way) forget(c *nvmehost.Controller, p Path) {
	w.d.mu.Lock()
	p.Address = w.address
	mine := w.ctrl == c
	w.d.mu.Unlock()
	if !mine {
		return
	}
	if !p.Connected {
		c = nil
	}
	w.d.set(w, c, p)
}
