package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/policy"
	"github.com/mooring-io/mooring/sdk/proto"
)

// worker keeps one plugin running. Its goroutine, locked to a thread that lives as
// long as the plugin is in use, owns all that is not guarded by mu; others have it do
// things by do.
type worker struct {
	sup  *Supervisor
	log  hclog.Logger
	book *logbook
	name string

	ctx  context.Context // ends when the plugin is to be stopped
	stop context.CancelFunc
	done chan struct{}
	cmds chan func()

	spec       Spec
	inst       *instance // nil while there is no process
	restarting bool      // asked for by restart
	deaths     int       // in a row
	waiters    []chan error

	mu      sync.Mutex
	status  Status             // guarded by mu
	current *channel           // guarded by mu; nil unless running
	abandon context.CancelFunc // guarded by mu; ends the start that is under way
}

func newWorker(s *Supervisor, spec Spec, book *logbook) *worker {
	w := &worker{
		sup: s, log: s.log.With("plugin", spec.Name), book: book, name: spec.Name, spec: spec,
		done: make(chan struct{}), cmds: make(chan func()), abandon: func() {},
	}
	w.ctx, w.stop = context.WithCancel(context.Background())
	return w
}

// nextStart makes a channel that gets the outcome of the next start.
func (w *worker) nextStart() chan error {
	c := make(chan error, 1)
	w.waiters = append(w.waiters, c)
	return c
}

func (w *worker) await(ctx context.Context, c chan error) error {
	select {
	case err := <-c:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for plugin %s: %w", w.name, ctx.Err())
	case <-w.done:
		return w.stopped()
	}
}

func (w *worker) stopped() error {
	return fmt.Errorf("plugin %s is being stopped: %w", w.name, sdk.ErrNotReady)
}

// run is the worker's goroutine: one turn is one life of the plugin.
func (w *worker) run() {
	// Never unlocked: the thread, and what only it has, ends with the goroutine.
	runtime.LockOSThread()
	defer close(w.done)
	for w.ctx.Err() == nil {
		born := time.Now()
		err := hardenThread()
		if err == nil {
			err = w.begin()
		}
		for _, c := range w.waiters {
			c <- err
		}
		w.waiters = nil
		if err == nil {
			err = w.tend()
			w.finish(err)
		}
		w.settle(err, time.Since(born))
	}
	w.set(StateIdle, "")
}

// deadlineSkew is how much earlier than here a deadline may pass in a plugin.
const deadlineSkew = 100 * time.Millisecond

// begin starts a life and makes it serve.
func (w *worker) begin() error {
	w.restarting = false
	ctx, cancel := context.WithTimeout(w.ctx, w.sup.opts.Timing.Start)
	defer cancel()
	w.mu.Lock()
	w.abandon = cancel
	w.mu.Unlock()
	w.set(StateStarting, w.snapshot().Reason)

	e, err := w.sup.catalog.get(w.name)
	if err != nil {
		return err
	}
	i, e, err := w.sup.open(ctx, e, w.spec.User, w.book)
	if err != nil {
		return err
	}
	if err := w.equip(ctx, i, e); err != nil {
		if why := i.diedOf(); why != "" {
			err = fmt.Errorf("plugin %s %s: %w", w.name, why, err)
		}
		w.sup.end(i)
		return err
	}
	w.inst = i
	i.wg.Go(func() { i.watchHealth(w.sup.opts.Timing.Health) })
	w.mu.Lock()
	w.current = i.channel
	w.status.PID, w.status.UID = i.process.pid, os.Geteuid()
	if i.process.user != nil {
		w.status.UID = int(i.process.user.uid)
	}
	w.status.Healthy, w.status.HealthReason, w.status.RestartRequired = true, "", false
	w.mu.Unlock()
	w.set(StateRunning, w.snapshot().Reason)
	w.log.Info("plugin is running", "pid", i.process.pid, "version", i.description.Version)
	return nil
}

// equip configures a new life and attaches it to the core.
func (w *worker) equip(ctx context.Context, i *instance, e Entry) error {
	if err := w.sup.catalog.described(e.Name, e.SHA256, i.description); err != nil {
		return err
	}
	if _, err := i.configure(ctx, w.spec.Config, w.spec.Where); err != nil {
		return err
	}
	if i.description.Kind != proto.Kind_KIND_DATA {
		return nil
	}
	if w.sup.opts.Host == nil {
		return fmt.Errorf("plugin %s serves data, which nothing here can supply: %w", w.name, sdk.ErrUnsupported)
	}
	id := w.sup.lives.Add(1)
	number, err := i.attach(ctx, w.sup.opts.Host, id)
	if err != nil {
		return err
	}
	if _, err := i.data.Start(ctx, &proto.StartRequest{
		BrokerId: number, Threads: uint32(w.spec.Threads),
		PoolBytes: uint64(w.spec.PoolBytes), RingEntries: uint32(w.spec.RingEntries),
	}); err != nil {
		// At the deadline gRPC may tell of the reset stream instead, even under the deadline's code: the plugin's clock can be first.
		if at, _ := ctx.Deadline(); time.Until(at) < deadlineSkew && !strings.Contains(err.Error(), context.DeadlineExceeded.Error()) {
			err = fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
		}
		return fmt.Errorf("start plugin %s: %w", w.name, err)
	}
	w.mu.Lock()
	w.status.Incarnation = id
	w.mu.Unlock()
	return w.listen(ctx, i)
}

// configure decodes a config block, which where names if it is empty, and hands it to the plugin. A *ConfigError says what is wrong with it.
func (i *instance) configure(ctx context.Context, body hcl.Body, where hcl.Range) (restartRequired bool, err error) {
	json, diags := DecodeConfig(body, i.description.Schema)
	if !diags.HasErrors() {
		resp, err := i.plugin.Configure(ctx, &proto.ConfigureRequest{Json: string(json)})
		if err != nil {
			return false, fmt.Errorf("configure plugin %s: %w", i.process.name, err)
		}
		restartRequired = resp.RestartRequired
		diags = append(diags, configDiagnostics(i.process.name, body, i.description.Schema, resp.Errors)...)
	}
	if !diags.HasErrors() {
		i.config = string(json)
		return restartRequired, nil
	}
	if body == nil { // what is missing has no place of its own
		for _, d := range diags {
			d.Subject = nil
			if where.Filename != "" {
				d.Subject = &where
			}
		}
	}
	return false, &ConfigError{Plugin: i.process.name, Diagnostics: diags}
}

// listen has the plugin listen where it should.
func (w *worker) listen(ctx context.Context, i *instance) error {
	resp, err := i.data.SetListeners(ctx, &proto.SetListenersRequest{Listeners: w.spec.Listeners})
	if err != nil {
		return fmt.Errorf("set listeners of plugin %s: %w", w.name, err)
	}
	for _, st := range resp.States {
		if st.Error != "" {
			w.log.Warn("plugin cannot listen", "url", st.Url, "error", st.Error)
		}
	}
	w.mu.Lock()
	w.status.Listeners = resp.States
	w.mu.Unlock()
	return nil
}

// errAsked is why a life ended that was asked to.
var errAsked = errors.New("asked to stop")

// tend watches the running plugin and says why it must end: errAsked, or what it
// died of.
func (w *worker) tend() error {
	timing := w.sup.opts.Timing
	tick := time.NewTicker(timing.Health)
	defer tick.Stop()
	silent := time.Duration(0) // counted in ticks: while this process stood still it could hear nobody
	for {
		select {
		case <-w.inst.process.dead:
			return w.inst.why()
		case <-w.inst.failed:
			return w.inst.why()
		case r := <-w.inst.beats:
			silent = 0
			w.report(r)
		case <-tick.C:
			if silent += timing.Health; silent > timing.HealthTimeout {
				return fmt.Errorf("hung: no health report for %v", silent)
			}
		case fn := <-w.cmds:
			fn()
			if w.restarting {
				return errAsked
			}
		case <-w.ctx.Done():
			return errAsked
		}
	}
}

// report takes in what the plugin says about itself.
func (w *worker) report(r *proto.HealthReport) {
	w.mu.Lock()
	changed := w.status.Healthy != r.Healthy || w.status.HealthReason != r.Reason
	w.status.Healthy, w.status.HealthReason, w.status.Metrics = r.Healthy, r.Reason, r.Metrics
	w.mu.Unlock()
	if !changed {
		return
	}
	if r.Healthy {
		w.log.Info("plugin is healthy again")
	} else {
		w.log.Warn("plugin is not healthy", "reason", r.Reason)
	}
	w.tell()
}

// finish ends the present life, in order if it was asked to end.
func (w *worker) finish(why error) {
	if errors.Is(why, errAsked) {
		w.set(StateStopping, "")
		ctx, cancel := context.WithTimeout(context.Background(), w.sup.opts.Timing.Stop)
		if err := w.inst.stopGently(ctx); err != nil {
			w.log.Warn("plugin did not stop in order", "error", err)
		}
		cancel()
	} else {
		w.log.Error("plugin died", "reason", why.Error(), "pid", w.inst.process.pid)
	}
	w.mu.Lock()
	w.current = nil
	w.status.Healthy, w.status.HealthReason, w.status.Metrics = false, "", nil
	w.mu.Unlock()
	w.sup.end(w.inst)
	w.inst = nil
	w.mu.Lock()
	w.status.PID, w.status.UID, w.status.Incarnation = 0, 0, 0
	for _, l := range w.status.Listeners {
		l.Error = "the plugin is not running"
	}
	w.mu.Unlock()
}

// settle decides when the next life begins, and waits for it.
func (w *worker) settle(why error, lived time.Duration) {
	if w.ctx.Err() != nil || w.restarting || errors.Is(why, errAsked) {
		w.deaths = 0
		return
	}
	var config *ConfigError
	if errors.Is(why, ErrChecksum) || errors.Is(why, ErrUnknown) || errors.As(why, &config) {
		w.log.Error("plugin is refused", "reason", why.Error())
		w.set(StateRefused, why.Error())
		w.idle(nil)
		return
	}
	if lived >= w.sup.opts.Timing.HealthyAfter {
		w.deaths = 0
	}
	w.deaths++
	wait := w.sup.opts.Timing.backoff(w.deaths)
	w.mu.Lock()
	w.status.Restarts++
	w.status.NextStart = time.Now().Add(wait)
	w.mu.Unlock()
	w.set(StateWaiting, why.Error())
	if wait > 0 {
		w.log.Warn("plugin is started again later", "after", wait, "reason", why.Error())
	}
	w.idle(time.After(wait))
}

// idle serves commands without a process, until the time has come or a restart is
// asked for.
func (w *worker) idle(until <-chan time.Time) {
	for !w.restarting {
		select {
		case <-until:
			return
		case <-w.ctx.Done():
			return
		case fn := <-w.cmds:
			fn()
		}
	}
}

// do runs fn on the worker's goroutine, between other things.
func (w *worker) do(ctx context.Context, fn func() error) error {
	result := make(chan error, 1)
	select {
	case w.cmds <- func() { result <- fn() }:
	case <-ctx.Done():
		return fmt.Errorf("plugin %s is busy: %w", w.name, ctx.Err())
	case <-w.done:
		return w.stopped()
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("plugin %s does not answer: %w", w.name, ctx.Err())
	}
}

func (w *worker) restart(ctx context.Context) error {
	w.mu.Lock()
	w.abandon() // a start that hangs
	w.mu.Unlock()
	var served chan error
	if err := w.do(ctx, func() error {
		w.restarting = true
		served = w.nextStart()
		return nil
	}); err != nil {
		return err
	}
	return w.await(ctx, served)
}

func (w *worker) setListeners(ctx context.Context, listeners []*proto.Listener) ([]*proto.ListenerState, error) {
	var states []*proto.ListenerState
	err := w.do(ctx, func() error {
		w.spec.Listeners = slices.Clone(listeners)
		if w.inst == nil {
			return w.notRunning()
		}
		ctx, cancel := context.WithTimeout(ctx, w.sup.opts.Timing.Start)
		defer cancel()
		if err := w.listen(ctx, w.inst); err != nil {
			return err
		}
		states = w.snapshot().Listeners
		return nil
	})
	return states, err
}

func (w *worker) reconfigure(ctx context.Context, body hcl.Body, where hcl.Range) (changed, restartRequired bool, err error) {
	err = w.do(ctx, func() error {
		if w.inst == nil {
			w.spec.Config, w.spec.Where = body, where
			return w.notRunning()
		}
		ctx, cancel := context.WithTimeout(ctx, w.sup.opts.Timing.Start)
		defer cancel()
		former := w.inst.config
		var err error
		if restartRequired, err = w.inst.configure(ctx, body, where); err != nil {
			return err
		}
		changed = w.inst.config != former
		w.spec.Config, w.spec.Where = body, where
		w.mu.Lock()
		w.status.RestartRequired = restartRequired
		w.mu.Unlock()
		return nil
	})
	return changed, restartRequired, err
}

func (w *worker) notRunning() error {
	return fmt.Errorf("plugin %s is %s: %w", w.name, w.snapshot().State, sdk.ErrNotReady)
}

// place asks a policy plugin, whichever life it is in.
func (w *worker) place(ctx context.Context, req *policy.Request) (*policy.Response, error) {
	w.mu.Lock()
	c := w.current
	w.mu.Unlock()
	if c == nil {
		return nil, w.notRunning()
	}
	return policy.NewClient(c.conn).Place(ctx, req)
}

func (w *worker) snapshot() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := w.status
	st.Listeners = nil
	for _, l := range w.status.Listeners {
		st.Listeners = append(st.Listeners, &proto.ListenerState{AccessPointId: l.AccessPointId, Url: l.Url, Error: l.Error})
	}
	return st
}

// set changes the state. reason replaces the former one.
func (w *worker) set(state State, reason string) {
	w.mu.Lock()
	w.status.State, w.status.Reason, w.status.Since = state, reason, time.Now()
	if state != StateWaiting {
		w.status.NextStart = time.Time{}
	}
	w.mu.Unlock()
	w.tell()
}

func (w *worker) tell() {
	if w.sup.opts.OnChange == nil {
		return
	}
	st := w.snapshot()
	st.Entry.Name = w.name
	if e, err := w.sup.catalog.get(w.name); err == nil {
		st.Entry, st.Description = e, e.describe()
	}
	w.sup.opts.OnChange(st)
}
