package nvmehost

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk/hostio"
	"github.com/mooring-io/mooring/sdk/nvme"
)

// Options says how to connect. The zero value connects without digests, keep-alive and I/O
// queues, under a host NQN made for the occasion.
type Options struct {
	HostNQN      string
	HostID       nvme.HostID
	Controller   nvme.ControllerID // to ask for; 0 is nvme.DynamicControllerID
	HeaderDigest bool
	DataDigest   bool
	Align        int           // alignment of received data in bytes, 4 to 128; 0 is 4
	MaxR2T       int           // outstanding R2Ts per command; 0 is 1
	Queues       int           // I/O queue pairs on the controller's own loop; 0 leaves only the Admin queue
	Entries      int           // of each I/O queue; 0 is 128
	KeepAlive    time.Duration // KATO; 0 is none. Sent at half of it.
	NoSQFlow     bool          // ask for no SQ flow control
	// NoInCapsule never sends in-capsule data on I/O queues.
	NoInCapsule bool
	// OnEvent is called on the controller's loop with each asynchronous event. It must not block
	// and must not call blocking methods of the Controller.
	OnEvent func(nvme.AsyncEvent)
}

const (
	adminEntries   = 32
	defaultEntries = 128
	// adminInCapsule is what every NVMe/TCP controller takes on the Admin queue. TCP 3.3.1
	adminInCapsule = 8192
	// eventRequests is how many Asynchronous Event Requests are outstanding at most.
	eventRequests = 4
	// closeTimeout bounds how long Close waits for an orderly shutdown.
	closeTimeout = 5 * time.Second
)

// Controller is an association with a subsystem's controller: its Admin queue and the I/O queues
// that run on its own loop. Methods block and may be called by any goroutine. When a context ends
// before its command does, the command goes on: the buffer given with it must not be used again
// before Close.
type Controller struct {
	// Of the association, immutable after Connect.
	ID      nvme.ControllerID
	Address string
	NQN     string
	CAP     nvme.Capabilities
	// Identity is the Identify Controller data as read at Connect.
	Identity nvme.IdentifyController

	opts  Options
	loop  *hostio.Loop
	done  chan struct{} // the loop's goroutine is over
	admin *Queue
	io    []*Queue

	inCapsule int // of I/O queues, in bytes

	stopOnce sync.Once
	stop     chan struct{} // ends the keep-alive goroutine
	alive    sync.WaitGroup

	mu     sync.Mutex
	nextIO int                   // I/O queue that took the last command; guarded by mu
	shapes map[nvme.NSID]nsShape // guarded by mu
}

// Connect makes an association with the subsystem nqn at address (host:port), enables its
// controller, reads its identity and opens the I/O queues.
func Connect(ctx context.Context, address, nqn string, opts Options) (*Controller, error) {
	c, err := newController(address, nqn, opts)
	if err != nil {
		return nil, err
	}
	if err := c.connect(ctx); err != nil {
		c.Abandon()
		return nil, fmt.Errorf("connect to %s at %s: %w", nqn, address, err)
	}
	return c, nil
}

func newController(address, nqn string, opts Options) (*Controller, error) {
	if opts.HostID.IsZero() {
		_, _ = rand.Read(opts.HostID[:])
	}
	if opts.HostNQN == "" {
		opts.HostNQN = "nqn.2014-08.org.nvmexpress:uuid:" + opts.HostID.String()
	}
	if opts.Controller == 0 {
		opts.Controller = nvme.DynamicControllerID
	}
	if opts.Entries == 0 {
		opts.Entries = defaultEntries
	}
	loop, err := hostio.NewLoop()
	if err != nil {
		return nil, err
	}
	c := &Controller{
		Address: address, NQN: nqn, opts: opts, loop: loop,
		done: make(chan struct{}), stop: make(chan struct{}), shapes: map[nvme.NSID]nsShape{},
	}
	go func() {
		defer close(c.done)
		_ = loop.Run() // its queues carry the error
	}()
	return c, nil
}

func (c *Controller) connect(ctx context.Context) error {
	if err := c.openAdmin(ctx); err != nil {
		return err
	}
	if err := c.enable(ctx); err != nil {
		return err
	}
	if err := c.identify(ctx); err != nil {
		return err
	}
	if c.opts.KeepAlive > 0 {
		c.alive.Add(1)
		go c.keepAlive(c.opts.KeepAlive / 2)
	}
	if c.opts.OnEvent != nil {
		c.requestEvents()
	}
	if c.opts.Queues == 0 {
		return nil
	}
	granted, err := c.SetQueueCount(ctx, c.opts.Queues)
	if err != nil {
		return fmt.Errorf("ask for %d I/O queues: %w", c.opts.Queues, err)
	}
	for i := range min(c.opts.Queues, granted) {
		q, err := c.openIO(ctx, c.loop, nvme.QueueID(i+1))
		if err != nil {
			return err
		}
		c.io = append(c.io, q)
	}
	return nil
}

func (c *Controller) config(entries, inCapsule int) QueueConfig {
	return QueueConfig{
		Address: c.Address, HeaderDigest: c.opts.HeaderDigest, DataDigest: c.opts.DataDigest,
		Align: c.opts.Align, MaxR2T: c.opts.MaxR2T, Entries: entries, InCapsule: inCapsule,
		NoSQFlow: c.opts.NoSQFlow,
	}
}

func (c *Controller) openAdmin(ctx context.Context) error {
	q, err := c.open(ctx, c.loop, c.config(adminEntries, adminInCapsule))
	if err != nil {
		return err
	}
	c.admin = q
	cmd := nvme.Connect{
		Entries: adminEntries, Attributes: c.attributes(), KeepAlive: uint32(c.opts.KeepAlive / time.Millisecond),
	}.Command()
	cqe, err := c.do(ctx, q, cmd, c.connectData(c.opts.Controller), true)
	if err != nil {
		return connectError(0, cqe, err)
	}
	c.ID = nvme.ParseConnectResult(cqe.DW0()).Controller
	return nil
}

func (c *Controller) attributes() uint8 {
	if c.opts.NoSQFlow {
		return nvme.ConnectDisableSQFlow
	}
	return 0
}

func (c *Controller) connectData(id nvme.ControllerID) []byte {
	return nvme.ConnectData{
		HostID: c.opts.HostID, Controller: id, SubsystemNQN: c.NQN, HostNQN: c.opts.HostNQN,
	}.Append(nil)
}

// ConnectError is a refused Connect.
type ConnectError struct {
	Queue  nvme.QueueID
	Status nvme.Status
	// Field is what was wrong, valid if Status is nvme.StatusConnectInvalidParameters.
	Field nvme.InvalidParameter
}

// Error says which queue was refused and why.
func (e *ConnectError) Error() string {
	if e.Status.Code() != nvme.StatusConnectInvalidParameters {
		return fmt.Sprintf("connect of queue %d refused: %s", e.Queue, e.Status)
	}
	where := "command"
	if e.Field.InData {
		where = "data"
	}
	text := fmt.Sprintf("connect of queue %d refused: invalid parameter at byte %d of the %s", e.Queue, e.Field.Offset, where)
	switch e.Field {
	case nvme.InvalidConnectSubsystem:
		text += " (there is no such subsystem, or not for this host)"
	case nvme.InvalidConnectEntries:
		text += " (the queue is longer than the target allows)"
	case nvme.InvalidConnectHost:
		text += " (the host's name)"
	}
	return text
}

// Unwrap returns the status.
func (e *ConnectError) Unwrap() error { return e.Status }

func connectError(id nvme.QueueID, cqe nvme.Completion, err error) error {
	var st nvme.Status
	if errors.As(err, &st) {
		return &ConnectError{Queue: id, Status: st, Field: nvme.ParseInvalidParameter(cqe.DW0())}
	}
	return fmt.Errorf("connect of queue %d: %w", id, err)
}

// open connects and hands the queue to loop, which another goroutine runs.
func (c *Controller) open(ctx context.Context, loop *hostio.Loop, cfg QueueConfig) (*Queue, error) {
	l, err := dial(ctx, cfg)
	if err != nil {
		return nil, err
	}
	type result struct {
		q   *Queue
		err error
	}
	res := make(chan result, 1)
	if !loop.Post(func() {
		q, err := newQueue(loop, l)
		res <- result{q, err}
	}) {
		_ = unix.Close(l.fd)
		return nil, ErrClosed
	}
	r := <-res
	if r.err != nil {
		_ = unix.Close(l.fd)
	}
	return r.q, r.err
}

func (c *Controller) openIO(ctx context.Context, loop *hostio.Loop, id nvme.QueueID) (*Queue, error) {
	q, err := c.open(ctx, loop, c.config(c.opts.Entries, c.inCapsule))
	if err != nil {
		return nil, err
	}
	cqe, err := c.do(ctx, q, c.ioConnect(id), c.connectData(c.ID), true)
	if err != nil {
		err = connectError(id, cqe, err)
		q.loop.Post(q.Close)
		return nil, err
	}
	return q, nil
}

func (c *Controller) ioConnect(id nvme.QueueID) nvme.Command {
	return nvme.Connect{Queue: id, Entries: uint32(c.opts.Entries), Attributes: c.attributes()}.Command()
}

// OpenQueue opens I/O queue id on a loop that the calling goroutine turns itself. The queue ends
// with that loop, not with the Controller.
func (c *Controller) OpenQueue(ctx context.Context, loop *hostio.Loop, id nvme.QueueID) (*Queue, error) {
	q, err := Dial(ctx, loop, c.config(c.opts.Entries, c.inCapsule))
	if err != nil {
		return nil, err
	}
	io := IO{Cmd: c.ioConnect(id), Data: c.connectData(c.ID), Write: true}
	over := false
	io.Done = func(*IO) { over = true }
	q.Submit(&io)
	for !over && err == nil {
		if err = ctx.Err(); err == nil {
			err = loop.Turn(10 * time.Millisecond)
		}
	}
	if err == nil {
		err = io.Status()
	}
	if err != nil {
		q.Close()
		return nil, connectError(id, io.CQE, err)
	}
	return q, nil
}

// enable sets CC.EN and waits for CSTS.RDY. Base 3.5.1
func (c *Controller) enable(ctx context.Context) error {
	v, err := c.Property(ctx, nvme.PropertyCAP)
	if err != nil {
		return err
	}
	c.CAP = nvme.ParseCapabilities(v)
	set := nvme.SelectNVM
	switch {
	case c.CAP.CommandSets&nvme.CommandSetIO != 0:
		set = nvme.SelectAll
	case c.CAP.CommandSets&nvme.CommandSetNVM == 0:
		set = nvme.SelectAdminOnly
	}
	if err := c.SetProperty(ctx, nvme.PropertyCC, uint64(nvme.MakeConfig(set))); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, max(time.Second, time.Duration(c.CAP.ReadyTimeout)*500*time.Millisecond))
	defer cancel()
	return c.waitStatus(ctx, "ready", nvme.ControllerStatus.Ready)
}

func (c *Controller) waitStatus(ctx context.Context, what string, ok func(nvme.ControllerStatus) bool) error {
	for {
		v, err := c.Property(ctx, nvme.PropertyCSTS)
		if err != nil {
			return err
		}
		st := nvme.ControllerStatus(v)
		if ok(st) {
			return nil
		}
		if st.Fatal() {
			return fmt.Errorf("wait until controller is %s: it reports a fatal status", what)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until controller is %s: %w", what, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (c *Controller) identify(ctx context.Context) error {
	b, err := c.Identify(ctx, nvme.CNSController, 0)
	if err != nil {
		return err
	}
	c.Identity, _, err = nvme.ParseIdentifyController(b)
	if err != nil {
		return err
	}
	// IOCCSZ is in units of 16 bytes and counts the command too. Base 5.17.2.1
	if n := int(c.Identity.CommandCapsule) * 16; n > nvme.CommandSize && !c.opts.NoInCapsule {
		c.inCapsule = n - nvme.CommandSize
	}
	return nil
}

func (c *Controller) keepAlive(every time.Duration) {
	defer c.alive.Done()
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-t.C:
			var cmd nvme.Command
			cmd.SetOpcode(nvme.AdminKeepAlive)
			// Posted, not waited for: a controller that does not answer fails other commands too.
			c.loop.Post(func() { c.admin.Submit(&IO{Cmd: cmd}) })
		}
	}
}

func (c *Controller) requestEvents() {
	for range min(eventRequests, int(c.Identity.AsyncEventLimit)) {
		io := &IO{}
		io.Cmd.SetOpcode(nvme.AdminAsyncEventRequest)
		io.Done = func(io *IO) {
			if io.Status() != nil {
				return // queue closed, or the controller takes no more of them
			}
			c.opts.OnEvent(nvme.ParseAsyncEvent(io.CQE.DW0()))
			c.admin.Submit(io)
		}
		c.loop.Post(func() { c.admin.Submit(io) })
	}
}

// Queues returns how many I/O queues the controller's own loop has.
func (c *Controller) Queues() int { return len(c.io) }

// InCapsule returns how many bytes of data a command capsule of an I/O queue may carry.
func (c *Controller) InCapsule() int { return c.inCapsule }

// Admin runs one command on the Admin queue. data may be nil; write says which way it goes.
func (c *Controller) Admin(ctx context.Context, cmd nvme.Command, data []byte, write bool) (nvme.Completion, error) {
	return c.do(ctx, c.admin, cmd, data, write)
}

// IO runs one command on I/O queue i, counted from 0. data may be nil.
func (c *Controller) IO(ctx context.Context, i int, cmd nvme.Command, data []byte, write bool) (nvme.Completion, error) {
	if i < 0 || i >= len(c.io) {
		return nvme.Completion{}, fmt.Errorf("I/O queue %d of %d: not open", i, len(c.io))
	}
	return c.do(ctx, c.io[i], cmd, data, write)
}

func (c *Controller) do(ctx context.Context, q *Queue, cmd nvme.Command, data []byte, write bool) (nvme.Completion, error) {
	io := &IO{Cmd: cmd, Data: data, Write: write}
	err := c.Do(ctx, q, io)
	if err != nil && err == ctx.Err() {
		return nvme.Completion{}, err // io may still change
	}
	return io.CQE, err
}

// Do submits io on a queue of the controller's own loop and waits. It takes io.Done for itself.
func (c *Controller) Do(ctx context.Context, q *Queue, io *IO) error {
	done := make(chan struct{})
	io.Done = func(*IO) { close(done) }
	if !q.loop.Post(func() { q.Submit(io) }) {
		return ErrClosed
	}
	select {
	case <-done:
		return io.Status()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// DoMany submits ios in order on I/O queue i, in one turn, and waits for all of them. Each has
// its own result; the error is of the context or a closed loop only.
func (c *Controller) DoMany(ctx context.Context, i int, ios ...*IO) error {
	q := c.admin
	if i >= 0 {
		q = c.io[i]
	}
	done := make(chan struct{})
	left := len(ios)
	for _, io := range ios {
		io.Done = func(*IO) {
			if left--; left == 0 { // on the loop's goroutine, each
				close(done)
			}
		}
	}
	if !q.loop.Post(func() {
		for _, io := range ios {
			q.Submit(io)
		}
	}) {
		return ErrClosed
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// CloseQueue drops the connection of I/O queue i.
func (c *Controller) CloseQueue(i int) { c.loop.Post(c.io[i].Close) }

// Done is closed when the controller's loop is over: after Close or Abandon.
func (c *Controller) Done() <-chan struct{} { return c.done }

// Close shuts the controller down in order and drops the connections. It returns what went wrong
// with the shutdown; the connections are gone in any case.
func (c *Controller) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := c.shutdown(ctx)
	c.Abandon()
	return err
}

func (c *Controller) shutdown(ctx context.Context) error {
	v, err := c.Property(ctx, nvme.PropertyCC)
	if err != nil {
		return fmt.Errorf("shut down controller: %w", err)
	}
	cc := nvme.Config(v).WithShutdown(nvme.ShutdownNormal)
	if err := c.SetProperty(ctx, nvme.PropertyCC, uint64(cc)); err != nil {
		return fmt.Errorf("shut down controller: %w", err)
	}
	return c.waitStatus(ctx, "shut down", nvme.ControllerStatus.ShutdownComplete)
}

// Abandon drops the connections at once, as a host that loses power does.
func (c *Controller) Abandon() {
	c.stopOnce.Do(func() { close(c.stop) })
	c.alive.Wait()
	c.loop.Stop()
	<-c.done
}

// HostID returns the identifier under which the host connected.
func (c *Controller) HostID() nvme.HostID { return c.opts.HostID }
