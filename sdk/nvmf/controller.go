package nvmf

import (
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/proto"
)

// Controller is one host's association with a subsystem, or with discovery. It is owned by the
// I/O thread of its Admin queue; what is immutable may be read anywhere.
type Controller struct {
	// Immutable once registered.
	target      *Target
	thread      *block.Thread
	kind        nvme.ControllerType
	subsystem   string // NQN
	id          nvme.ControllerID
	hostNQN     string
	hostID      nvme.HostID
	association uint64 // 0 for a discovery controller
	admin       *Queue
	log         hclog.Logger

	cc       nvme.Config
	csts     nvme.ControllerStatus
	queues   map[nvme.QueueID]*Queue // I/O queues from join to detach
	quiet    func()                  // to run when queues is empty; nil: nothing waits for that
	ending   bool
	unclean  bool // a queue went with commands under way
	lost     bool // so did one that was not asked to: the association is about to end
	adminOff bool // the Admin queue is gone and drained
	finished bool

	grants    []*proto.Grant
	view      *view
	cacheSeen bool // the host knows of a volatile write cache: VWC as it was when enabled
	events    events
	features  features
	logs      logs
	aborts    int        // Abort commands under way
	pastStats queueStats // of queues that are detached
	scratch   []byte

	keepAlive time.Duration // 0: none
	kaTimer   *block.Timer
	kaMissed  int          // half intervals without a command
	idleTimer *block.Timer // disabled controller, or discovery controller without keep alive
}

func newController(q *Queue, n *connecting, kind nvme.ControllerType) *Controller {
	t := q.target
	return &Controller{
		target: t, thread: q.thread, kind: kind, subsystem: n.data.SubsystemNQN,
		hostNQN: n.data.HostNQN, hostID: n.data.HostID, admin: q,
		queues: map[nvme.QueueID]*Queue{}, view: emptyView,
	}
}

// start begins the life of a registered controller and completes its Connect.
func (ct *Controller) start(n *connecting) {
	q := ct.admin
	ct.log = ct.target.log.With("host", ct.hostNQN, "nqn", ct.subsystem, "controller", uint16(ct.id))
	ct.kaTimer = ct.thread.After(time.Hour, ct.keepAliveTick)
	ct.kaTimer.Stop()
	ct.idleTimer = ct.thread.After(time.Hour, ct.idleTick)
	ct.idleTimer.Stop()
	ct.resetState()
	ct.setKeepAlive(n.cmd.KeepAlive)
	ct.watchIdle()
	q.ctrl, q.id, q.view = ct, nvme.AdminQueue, emptyView
	ct.log.Info("host connected", "peer", q.info.Peer, "access_point", q.info.AccessPointID, "keep_alive", ct.keepAlive.String())
	ct.refresh()
	if limit := ct.target.limits.Namespaces; int64(ct.view.sub.GetMaxNamespaces()) > int64(limit) {
		ct.log.Warn("namespaces above the limit are not shown", "max_namespaces", ct.view.sub.GetMaxNamespaces(), "limit", limit)
	}
	q.connected(n)
}

// resetState gives everything that a controller level reset resets its first value. Base 3.7.2
func (ct *Controller) resetState() {
	ct.cc, ct.csts = 0, 0
	ct.cacheSeen = false
	ct.events.reset()
	ct.features.reset(ct.target.limits)
	ct.logs.reset(ct.target.limits.ErrorEntries)
}

// property returns a property's value.
func (ct *Controller) property(p nvme.Property) (uint64, bool) {
	switch p {
	case nvme.PropertyCAP:
		return ct.capabilities().Uint64(), true
	case nvme.PropertyVS:
		return uint64(nvme.Version20), true
	case nvme.PropertyCC:
		return uint64(ct.cc), true
	case nvme.PropertyCSTS:
		return uint64(ct.csts), true
	case nvme.PropertyCRTO:
		return uint64(nvme.ReadyTimeouts{WithMedia: readyTimeout}.Uint32()), true
	case nvme.PropertyNSSR: // CAP.NSSRS is 0
	}
	return 0, false
}

// readyTimeout is how long CSTS.RDY may take to follow CC.EN, in 500 ms: queues must drain.
const readyTimeout = 60

func (ct *Controller) capabilities() nvme.Capabilities {
	c := nvme.Capabilities{
		MaxQueueEntries: uint32(ct.target.limits.QueueEntries), ContiguousQueues: true,
		ReadyTimeout: readyTimeout, CommandSets: nvme.CommandSetNVM, ReadyWithMedia: true,
	}
	if ct.kind == nvme.ControllerIO {
		c.CommandSets |= nvme.CommandSetIO
	}
	return c
}

// configure takes a new value of CC. Base 3.1.3.5
func (ct *Controller) configure(v nvme.Config) {
	old := ct.cc
	ct.cc = v
	switch {
	case v.Shutdown() != nvme.ShutdownNone && old.Shutdown() == nvme.ShutdownNone:
		ct.shutdown()
	case !v.Enable() && old.Enable():
		ct.disable()
	case v.Enable() && !old.Enable():
		ct.enable()
	}
}

// enable makes the controller ready, or fatal if CC asks for what does not exist. Base 3.5.1
func (ct *Controller) enable() {
	if ct.quiet != nil {
		return // a reset is under way; it looks at CC when it is over
	}
	if !ct.configValid() {
		ct.log.Warn("host enabled the controller with a configuration that it does not support", "cc", uint32(ct.cc))
		ct.csts |= nvme.CSTSFatal
		return
	}
	ct.cacheSeen = ct.view.volatile()
	ct.csts = nvme.CSTSReady
	ct.refresh()
	ct.watchIdle()
	ct.log.Debug("controller enabled")
}

func (ct *Controller) configValid() bool {
	cc := ct.cc
	if cc.PageShift() != 0 || cc.Arbitration() != 0 {
		return false
	}
	switch cc.CommandSet() {
	case nvme.SelectNVM:
	case nvme.SelectAll:
		if ct.kind != nvme.ControllerIO {
			return false
		}
	case nvme.SelectAdminOnly:
		if ct.kind == nvme.ControllerIO {
			return false
		}
	default:
		return false
	}
	return ct.kind != nvme.ControllerIO || cc.SQEntryShift() == nvme.SQEntrySizes&0xf && cc.CQEntryShift() == nvme.CQEntrySizes&0xf
}

// disable is a controller reset: I/O queues go, the Admin queue stays. Base 3.7.2
func (ct *Controller) disable() {
	ct.log.Debug("controller reset by its host")
	ct.events.abort(ct)
	ct.closeQueues(ErrReset, func() {
		cc := ct.cc
		ct.resetState()
		ct.cc, ct.lost = cc, false
		ct.refresh()
		ct.watchIdle()
		if cc.Enable() { // it was set again meanwhile
			ct.enable()
		}
	})
}

// shutdown ends I/O so that nothing is lost when the host goes away. Base 3.6.2
func (ct *Controller) shutdown() {
	ct.log.Debug("controller shut down by its host")
	ct.csts = ct.csts.WithShutdown(nvme.CSTSShutdownOccurring)
	ct.events.abort(ct)
	ct.closeQueues(ErrReset, func() {
		ct.csts = ct.csts.WithShutdown(nvme.CSTSShutdownComplete)
		ct.watchIdle()
		if !ct.cc.Enable() && ct.csts.Ready() {
			ct.disable()
		}
	})
}

// closeQueues closes all I/O queues and runs then when they are drained.
func (ct *Controller) closeQueues(reason error, then func()) {
	ct.quiet = then
	for _, q := range ct.queues {
		q.thread.Post(func() { q.close(reason) })
	}
	ct.checkQuiet()
}

func (ct *Controller) checkQuiet() {
	if ct.quiet == nil || len(ct.queues) > 0 {
		return
	}
	then := ct.quiet
	ct.quiet = nil
	then()
}

// ready reports whether commands other than Fabrics commands are allowed.
func (ct *Controller) ready() bool {
	return ct.csts.Ready() && ct.csts&nvme.CSTSShutdownMask == 0 && ct.quiet == nil && !ct.ending
}

// join lets an I/O queue join the controller, if it may. It answers on the queue's thread.
func (ct *Controller) join(q *Queue, n *connecting) {
	bad, st := ct.admit(n)
	if st.OK() {
		ct.queues[n.cmd.Queue] = q
	}
	v := ct.view
	q.thread.Post(func() { q.joined(n, ct, v, bad, st) })
}

func (ct *Controller) admit(n *connecting) (nvme.InvalidParameter, nvme.Status) {
	invalid := nvme.StatusConnectInvalidParameters.WithDNR()
	switch {
	case ct.ending:
		return nvme.InvalidConnectController, invalid
	case !ct.ready():
		return nvme.InvalidParameter{}, nvme.StatusSequenceError.WithDNR()
	case ct.lost:
		return nvme.InvalidParameter{}, nvme.StatusConnectControllerBusy
	case int(n.cmd.Queue) > ct.features.queues:
		return nvme.InvalidConnectQueue, invalid
	case ct.queues[n.cmd.Queue] != nil:
		return nvme.InvalidParameter{}, nvme.StatusSequenceError.WithDNR() // exists, Base 6.3
	}
	return nvme.InvalidParameter{}, nvme.StatusSuccess
}

// queueGone is called on the queue's thread when its connection is gone.
func (ct *Controller) queueGone(q *Queue, left bool) {
	busy := q.held > 0 && !left
	if q.id == nvme.AdminQueue {
		ct.events.abort(ct)
		ct.end(ErrAdminLost)
		return
	}
	ct.thread.Post(func() { ct.queueLost(q, busy) })
}

// queueLost hears that an I/O queue is gone. If commands were under way then, their outcome is
// unknown to the host, so that the association must end before anything may be sent again; but
// not at once, since hosts that shut down close their I/O queues first and need the Admin queue.
func (ct *Controller) queueLost(q *Queue, busy bool) {
	if !busy {
		return
	}
	ct.unclean = true
	if ct.ending || ct.lost || ct.quiet != nil {
		return
	}
	ct.lost = true
	ct.log.Info("I/O queue lost with commands under way", "queue", uint16(q.id))
	ct.thread.After(ct.target.limits.LossGrace, func() {
		if ct.lost {
			ct.end(ErrQueueLost)
		}
	})
}

// detach hears that a queue is gone and drained, and what it has counted.
func (ct *Controller) detach(q *Queue, stats queueStats) {
	if q == ct.admin {
		ct.adminOff = true
	} else if ct.queues[q.id] == q {
		delete(ct.queues, q.id)
		ct.pastStats.add(stats)
	}
	ct.checkQuiet()
	ct.checkFinished()
}

// end closes all queues; the association ends when they are drained. Idempotent.
func (ct *Controller) end(reason error) {
	if ct.ending {
		return
	}
	ct.ending = true
	ct.log.Info("host disconnected", "reason", reason)
	ct.target.unregister(ct)
	ct.kaTimer.Stop()
	ct.idleTimer.Stop()
	ct.events.abort(ct)
	for _, q := range ct.queues {
		q.thread.Post(func() { q.close(reason) })
	}
	ct.admin.close(reason)
	ct.checkFinished()
}

func (ct *Controller) checkFinished() {
	if ct.finished || !ct.ending || !ct.adminOff || len(ct.queues) > 0 {
		return
	}
	ct.finished = true
	if ct.kind == nvme.ControllerDiscovery {
		ct.target.unreserve()
		return
	}
	ct.target.dissociate(ct.association, !ct.unclean)
}

// setGrants takes what the host may use from now on.
func (ct *Controller) setGrants(grants []*proto.Grant) {
	ct.grants = grants
	ct.refresh()
}

// refresh makes the view anew from exports and grants and tells queues and host of what changed.
func (ct *Controller) refresh() {
	if ct.finished {
		return
	}
	x := ct.target.currentExports()
	if ct.kind == nvme.ControllerDiscovery {
		ct.refreshDiscovery(x)
		return
	}
	sub := x.subsystem(ct.subsystem)
	if sub == nil {
		sub = &proto.Subsystem{Nqn: ct.subsystem, MaxNamespaces: uint32(ct.view.maxNSID)}
	}
	old := ct.view
	v := newView(sub, ct.hostNQN, ct.grants, ct.target.limits.Namespaces, !ct.cacheSeen || !ct.features.writeCache)
	d := v.since(old)
	ct.view = v
	if d.io {
		for _, q := range ct.queues {
			q.thread.Post(func() { q.view = v })
		}
	}
	if d.anaLog {
		ct.logs.anaChanges++
	}
	if ct.csts.Ready() {
		ct.report(d)
	}
}

// report tells the host of a change by asynchronous events. A namespace that comes or goes is
// not an ANA change. Base 8.1.3
func (ct *Controller) report(d difference) {
	if len(d.attributes) > 0 {
		ct.logs.changed.add(d.attributes)
		ct.events.raise(ct, eventNamespace)
	}
	if d.ana {
		ct.events.raise(ct, eventANA)
	}
}

// onQueues runs fn on the thread of every I/O queue that is connected, and then done on the
// controller's.
func (ct *Controller) onQueues(fn func(*Queue), done func()) {
	left := len(ct.queues)
	if left == 0 {
		done()
		return
	}
	for _, q := range ct.queues {
		q.thread.Post(func() {
			fn(q)
			ct.thread.Post(func() {
				if left--; left == 0 {
					done()
				}
			})
		})
	}
}
