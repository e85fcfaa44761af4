package nvmf

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/proto"
)

// Options are what a Target is made of.
type Options struct {
	Core   proto.CoreClient // of the core that started the plugin
	Logger hclog.Logger     // nil: none
	Limits Limits           // zero fields have defaults
	// Firmware is the revision that hosts see, at most 8 characters of ASCII; "1" if empty.
	Firmware string
}

// closeWait bounds how long Run waits for queues to drain and associations to end.
const closeWait = 2 * time.Second

// exportWait bounds how long is waited for the core to say what is exported.
const exportWait = 2 * time.Second

// Target is the NVMe-oF front end of one plugin process: subsystems, discovery, controllers.
// Its methods may be called from any goroutine, except NewQueue.
type Target struct {
	core     proto.CoreClient
	log      hclog.Logger
	limits   Limits
	firmware string
	queues   atomic.Int64 // queue pairs that are not drained

	ctx    context.Context // of calls to the core; ends with Run
	cancel context.CancelFunc
	calls  sync.WaitGroup

	mu          sync.Mutex
	closed      bool          // no new calls, no new controllers
	exports     *exports      // never nil, immutable
	exported    chan struct{} // closed and made anew when exports change
	controllers map[controllerKey]*Controller
	count       int                     // controllers, and Connects that may become one
	associated  map[uint64]*Controller  // by association
	associating int                     // calls of Associate under way
	early       map[uint64]*earlyUpdate // by association: what came before the answer of Associate
	lastID      nvme.ControllerID       // of a discovery controller
	empty       chan struct{}           // closed when closed and count is 0
}

type controllerKey struct {
	subsystem string
	id        nvme.ControllerID
}

// earlyUpdate is what the core sent of an association whose Associate has not returned yet.
type earlyUpdate struct {
	grants *proto.Grants
	end    *proto.AssociationEnd
}

// NewTarget makes a target that knows nothing yet; Run fills it.
func NewTarget(o Options) *Target {
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	if o.Firmware == "" {
		o.Firmware = "1"
	}
	t := &Target{
		core: o.Core, log: o.Logger.Named("nvmf"), limits: o.Limits.withDefaults(), firmware: o.Firmware,
		exports:     newExports(&proto.Exports{}, nil),
		exported:    make(chan struct{}),
		controllers: map[controllerKey]*Controller{},
		associated:  map[uint64]*Controller{},
		early:       map[uint64]*earlyUpdate{},
		empty:       make(chan struct{}),
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// Run keeps the target in step with the core until ctx ends or the core is gone. Then it ends
// every association and waits, for a bounded time, until their queues are drained. It is called
// once; the I/O threads must outlive it.
func (t *Target) Run(ctx context.Context) error {
	err := t.watch(ctx)
	t.close(fmt.Errorf("%w: %w", ErrTargetClosed, err))
	return err
}

// Queues is the number of queue pairs that are not drained.
func (t *Target) Queues() int { return int(t.queues.Load()) }

// Controllers is the number of controllers, discovery controllers included.
func (t *Target) Controllers() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.controllers)
}

func (t *Target) watch(ctx context.Context) error {
	stream, err := t.core.Watch(ctx, &proto.WatchRequest{})
	if err != nil {
		return fmt.Errorf("watch the core: %w", err)
	}
	for {
		u, err := stream.Recv()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("watch the core: %w", err)
		}
		t.apply(u)
	}
}

func (t *Target) apply(u *proto.Update) {
	switch u := u.GetUpdate().(type) {
	case *proto.Update_Exports:
		t.setExports(u.Exports)
	case *proto.Update_Grants:
		t.toAssociation(u.Grants.GetAssociation(),
			func(ct *Controller) { ct.setGrants(u.Grants.GetGrants()) },
			func(e *earlyUpdate) { e.grants = u.Grants })
	case *proto.Update_Reservation:
		t.toAssociation(u.Reservation.GetAssociation(),
			func(ct *Controller) { ct.reservationEvent(u.Reservation) },
			func(*earlyUpdate) {}) // a host that is not connected yet hears of nothing
	case *proto.Update_End:
		t.toAssociation(u.End.GetAssociation(),
			func(ct *Controller) { ct.end(fmt.Errorf("%w: %s", ErrEnded, u.End.GetReason())) },
			func(e *earlyUpdate) { e.end = u.End })
	}
}

// toAssociation runs fn on the thread of the association's controller, or keeps the update until
// Associate has returned it.
func (t *Target) toAssociation(id uint64, fn func(*Controller), early func(*earlyUpdate)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ct := t.associated[id]; ct != nil {
		ct.thread.Post(func() { fn(ct) })
		return
	}
	if t.associating == 0 {
		return // of a former life
	}
	e := t.early[id]
	if e == nil {
		e = &earlyUpdate{}
		t.early[id] = e
	}
	early(e)
}

func (t *Target) setExports(p *proto.Exports) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.exports = newExports(p, t.exports)
	t.exports.told = true
	close(t.exported)
	t.exported = make(chan struct{})
	for _, ct := range t.controllers {
		ct.thread.Post(ct.refresh)
	}
}

func (t *Target) currentExports() *exports {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.exports
}

// Ready returns when the core has said what is exported, so that the first host to come finds it. It
// waits exportWait at most, for the core may not know while Meta is silent; then it reports false,
// and hosts are told to try again.
func (t *Target) Ready(ctx context.Context) bool {
	return t.awaitExports(ctx, func(x *exports) bool { return x.told })
}

// awaitExports waits until ok holds of the exports; it reports false if ctx ended first, or exportWait.
func (t *Target) awaitExports(ctx context.Context, ok func(*exports) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, exportWait)
	defer cancel()
	for {
		t.mu.Lock()
		now, changed := t.exports, t.exported
		t.mu.Unlock()
		if ok(now) {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// call runs fn in a goroutine that Run joins; fn's context ends with Run. It reports false, and
// does nothing, when the target is closed.
func (t *Target) call(fn func(ctx context.Context)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return false
	}
	t.calls.Add(1)
	go func() {
		defer t.calls.Done()
		fn(t.ctx)
	}()
	return true
}

// reserve counts a controller that is about to be made; false if there are too many.
func (t *Target) reserve() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.count >= t.limits.Controllers {
		return false
	}
	t.count++
	return true
}

// unreserve takes a controller, or the chance of one, out of the count.
func (t *Target) unreserve() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count--
	t.checkEmpty()
}

func (t *Target) checkEmpty() {
	if t.closed && t.count == 0 {
		select {
		case <-t.empty:
		default:
			close(t.empty)
		}
	}
}

// associate asks the core for an association and calls fn with the answer, once the subsystem is
// exported, on the goroutine of the call. It reports false when the target is closed.
func (t *Target) associate(req *proto.AssociateRequest, fn func(*proto.AssociateResponse, error)) bool {
	t.mu.Lock()
	t.associating++
	t.mu.Unlock()
	ok := t.call(func(ctx context.Context) {
		r, err := t.core.Associate(ctx, req)
		if err == nil && r.GetResult() == proto.AssociateResult_ASSOCIATE_OK {
			// The answer may overtake the exports that it is about, when the subsystem was just made.
			t.awaitExports(ctx, func(x *exports) bool { return x.subsystem(req.GetSubsystem()) != nil })
		}
		fn(r, err)
	})
	if !ok {
		t.associateDone()
	}
	return ok
}

// associateDone ends what associate began, when the controller is registered or will not be.
func (t *Target) associateDone() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.associating--
	if t.associating == 0 {
		clear(t.early)
	}
}

// register makes a controller known and applies what came early for it. It reports false if the
// target is closed or the identifier is taken.
func (t *Target) register(ct *Controller) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	if ct.kind == nvme.ControllerDiscovery && !t.giveID(ct) {
		return false
	}
	key := controllerKey{ct.subsystem, ct.id}
	if t.controllers[key] != nil {
		return false
	}
	t.controllers[key] = ct
	if ct.kind == nvme.ControllerDiscovery {
		return true
	}
	t.associated[ct.association] = ct
	if e := t.early[ct.association]; e != nil {
		delete(t.early, ct.association)
		if e.grants != nil {
			ct.grants = e.grants.GetGrants()
		}
		if e.end != nil {
			ct.thread.Post(func() { ct.end(fmt.Errorf("%w: %s", ErrEnded, e.end.GetReason())) })
		}
	}
	return true
}

// giveID gives a discovery controller the next free identifier.
func (t *Target) giveID(ct *Controller) bool {
	for range nvme.MaxControllerID {
		t.lastID = t.lastID%nvme.MaxControllerID + 1
		if t.controllers[controllerKey{ct.subsystem, t.lastID}] == nil {
			ct.id = t.lastID
			return true
		}
	}
	return false
}

// unregister makes a controller unknown: no queue can join it any more.
func (t *Target) unregister(ct *Controller) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := controllerKey{ct.subsystem, ct.id}
	if t.controllers[key] == ct {
		delete(t.controllers, key)
		delete(t.associated, ct.association)
	}
}

func (t *Target) find(subsystem string, id nvme.ControllerID) *Controller {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.controllers[controllerKey{subsystem, id}]
}

// controllersOf lists the controllers of a subsystem whose host is one that keep accepts, from
// an identifier on.
func (t *Target) controllersOf(subsystem string, from nvme.ControllerID, keep func(host string) bool) nvme.ControllerList {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list nvme.ControllerList
	for key, ct := range t.controllers {
		if key.subsystem == subsystem && key.id >= from && keep(ct.hostNQN) {
			list = append(list, key.id)
		}
	}
	slices.Sort(list)
	return list
}

// dissociate tells the core that an association has ended and everything of it is drained.
func (t *Target) dissociate(association uint64, clean bool) {
	ok := t.call(func(ctx context.Context) {
		defer t.unreserve()
		req := &proto.DissociateRequest{Association: association, Clean: clean}
		if _, err := t.core.Dissociate(ctx, req); err != nil && ctx.Err() == nil {
			t.log.Warn("association did not end in order", "association", association, "error", err)
		}
	})
	if !ok {
		t.unreserve()
	}
}

func (t *Target) close(reason error) {
	t.mu.Lock()
	t.closed = true
	for _, ct := range t.controllers {
		ct.thread.Post(func() { ct.end(reason) })
	}
	t.checkEmpty()
	t.mu.Unlock()
	timeout := time.NewTimer(closeWait)
	defer timeout.Stop()
	select {
	case <-t.empty:
	case <-timeout.C:
		t.log.Warn("queues did not drain in time", "queues", t.Queues())
	}
	t.mu.Lock()
	t.cancel()
	t.mu.Unlock()
	t.calls.Wait()
}
