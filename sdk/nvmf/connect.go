package nvmf

import (
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/proto"
)

// beginFabrics takes a Fabrics command. Base 6
func (q *Queue) beginFabrics(c *Command) {
	st := nvme.StatusInvalidOpcode.WithDNR() // no authentication yet
	switch c.SQE.FabricsType() {
	case nvme.FabricsConnect:
		st = q.beginConnect(c)
	case nvme.FabricsPropertyGet:
		st = q.beginProperty(c, executePropertyGet)
	case nvme.FabricsPropertySet:
		st = q.beginProperty(c, executePropertySet)
	case nvme.FabricsDisconnect:
		st = q.beginDisconnect(c)
	case nvme.FabricsAuthSend, nvme.FabricsAuthReceive:
	}
	if !st.OK() {
		c.refuse(st)
	}
}

func (q *Queue) beginConnect(c *Command) nvme.Status {
	switch {
	case q.state != queueNew:
		return nvme.StatusSequenceError.WithDNR() // the queue exists already, Base 6.3
	case nvme.ParseConnect(&c.SQE).RecordFormat != 0:
		return nvme.StatusConnectIncompatibleFormat.WithDNR()
	}
	c.run = executeConnect
	return q.move(c, TransferFromHost, nvme.ConnectDataSize)
}

// connecting is a Connect under way.
type connecting struct {
	c    *Command
	cmd  nvme.Connect
	data nvme.ConnectData
}

func executeConnect(c *Command) {
	q := c.q
	data, _, err := nvme.ParseConnectData(c.Data.Bytes())
	if err != nil {
		panic("nvmf: connect data shorter than it was made: " + err.Error())
	}
	n := &connecting{c: c, cmd: nvme.ParseConnect(&c.SQE), data: data}
	if bad, ok := n.invalid(q); ok {
		q.refuseConnect(c, bad)
		return
	}
	q.state = queueConnecting
	q.share.Belong(data.HostNQN)
	q.log = q.log.With("host", data.HostNQN, "nqn", data.SubsystemNQN, "queue", uint16(n.cmd.Queue))
	switch {
	case n.cmd.Queue != nvme.AdminQueue:
		q.joinController(n)
	case data.SubsystemNQN == nvme.DiscoveryNQN:
		q.connectDiscovery(n)
	default:
		q.connectAdmin(n)
	}
}

// invalid finds the first field that no controller could accept. Base 6.3, Figures 380 and 381
func (n *connecting) invalid(q *Queue) (nvme.InvalidParameter, bool) {
	id := n.data.Controller
	switch {
	case int(n.cmd.Queue) > q.target.limits.Queues:
		return nvme.InvalidConnectQueue, true
	case n.cmd.Entries < nvme.MinQueueEntries || int(n.cmd.Entries) > q.target.limits.QueueEntries:
		return nvme.InvalidConnectEntries, true
	case n.data.HostID.IsZero():
		return nvme.InvalidConnectHostID, true
	case id > nvme.MaxControllerID && id < nvme.StaticControllerID,
		id > nvme.MaxControllerID && n.cmd.Queue != nvme.AdminQueue:
		return nvme.InvalidConnectController, true
	case !nvme.ValidNQN(n.data.SubsystemNQN):
		return nvme.InvalidConnectSubsystem, true
	case !nvme.ValidNQN(n.data.HostNQN):
		return nvme.InvalidConnectHost, true
	}
	return nvme.InvalidParameter{}, false
}

func (q *Queue) refuseConnect(c *Command, bad nvme.InvalidParameter) {
	c.dw0 = bad.DW0()
	q.failConnect(c, nvme.StatusConnectInvalidParameters.WithDNR())
}

// failConnect answers a Connect; the host may try again on the same connection until the
// connect timeout.
func (q *Queue) failConnect(c *Command, st nvme.Status) {
	if q.state == queueConnecting {
		q.state = queueNew
	}
	q.complete(c, st)
}

// connectAdmin begins an association with an NVM subsystem: the core decides whether the host
// may, and when nothing of its former one is under way any more.
func (q *Queue) connectAdmin(n *connecting) {
	t := q.target
	busy := nvme.StatusConnectControllerBusy
	if !t.reserve() {
		q.failConnect(n.c, busy)
		return
	}
	req := &proto.AssociateRequest{
		Host: &proto.HostIdentity{
			Protocol: proto.Protocol_PROTOCOL_NVME, Name: n.data.HostNQN, HostId: n.data.HostID[:],
		},
		Subsystem: n.data.SubsystemNQN, AccessPointId: q.info.AccessPointID, Peer: q.info.Peer,
		ControllerId: uint32(n.data.Controller),
	}
	ok := t.associate(req, func(r *proto.AssociateResponse, err error) {
		q.thread.Post(func() { q.associated(n, r, err) })
	})
	if !ok {
		t.unreserve()
		q.failConnect(n.c, busy)
	}
}

// associated has the core's answer.
func (q *Queue) associated(n *connecting, r *proto.AssociateResponse, err error) {
	t := q.target
	defer t.associateDone()
	if err != nil || r.GetResult() != proto.AssociateResult_ASSOCIATE_OK {
		t.unreserve()
		if err != nil {
			q.log.Info("host was not associated", "error", err)
		} else {
			q.log.Info("host was not associated", "result", r.GetResult().String(), "reason", r.GetMessage())
		}
		q.refuseAssociation(n.c, r, err)
		return
	}
	sub := t.currentExports().subsystem(n.data.SubsystemNQN)
	if q.state != queueConnecting || sub == nil {
		if sub == nil {
			q.log.Warn("subsystem is not exported yet, the host must try again")
		}
		t.dissociate(r.GetAssociation(), true)
		q.failConnect(n.c, nvme.StatusConnectControllerBusy)
		return
	}
	ct := newController(q, n, nvme.ControllerIO)
	ct.id, ct.association = nvme.ControllerID(r.GetControllerId()), r.GetAssociation()
	ct.grants = r.GetGrants().GetGrants()
	if !t.register(ct) {
		t.dissociate(ct.association, true)
		q.failConnect(n.c, nvme.StatusConnectControllerBusy)
		return
	}
	ct.start(n)
}

// refuseAssociation translates why the core said no. Base 6.3
func (q *Queue) refuseAssociation(c *Command, r *proto.AssociateResponse, err error) {
	if err != nil {
		q.failConnect(c, nvme.StatusConnectControllerBusy)
		return
	}
	switch r.GetResult() {
	case proto.AssociateResult_ASSOCIATE_NO_SUBSYSTEM:
		q.refuseConnect(c, nvme.InvalidConnectSubsystem)
	case proto.AssociateResult_ASSOCIATE_HOST_NOT_ALLOWED:
		q.failConnect(c, nvme.StatusConnectInvalidHost.WithDNR())
	case proto.AssociateResult_ASSOCIATE_BAD_CONTROLLER:
		q.refuseConnect(c, nvme.InvalidConnectController)
	case proto.AssociateResult_ASSOCIATE_OK, proto.AssociateResult_ASSOCIATE_BUSY, proto.AssociateResult_ASSOCIATE_NOT_READY:
		q.failConnect(c, nvme.StatusConnectControllerBusy)
	default:
		q.failConnect(c, nvme.StatusConnectControllerBusy)
	}
}

func (q *Queue) connectDiscovery(n *connecting) {
	t := q.target
	if n.data.Controller != nvme.DynamicControllerID {
		q.refuseConnect(n.c, nvme.InvalidConnectController)
		return
	}
	if !t.reserve() {
		q.failConnect(n.c, nvme.StatusConnectControllerBusy)
		return
	}
	ct := newController(q, n, nvme.ControllerDiscovery)
	if !t.register(ct) {
		t.unreserve()
		q.failConnect(n.c, nvme.StatusConnectControllerBusy)
		return
	}
	ct.start(n)
}

// joinController connects an I/O queue to its controller, on the controller's thread.
func (q *Queue) joinController(n *connecting) {
	ct := q.target.find(n.data.SubsystemNQN, n.data.Controller)
	switch {
	case n.data.SubsystemNQN == nvme.DiscoveryNQN:
		q.refuseConnect(n.c, nvme.InvalidConnectQueue) // it has no I/O queues
	case ct == nil || ct.admin.info.AccessPointID != q.info.AccessPointID:
		q.refuseConnect(n.c, nvme.InvalidConnectController) // what was granted is for one access point
	case ct.hostNQN != n.data.HostNQN:
		q.refuseConnect(n.c, nvme.InvalidConnectHost)
	case ct.hostID != n.data.HostID:
		q.refuseConnect(n.c, nvme.InvalidConnectHostID)
	default:
		ct.thread.Post(func() { ct.join(q, n) })
	}
}

// joined has the controller's answer to an I/O queue. The controller has the queue in its list
// if st is success.
func (q *Queue) joined(n *connecting, ct *Controller, v *view, bad nvme.InvalidParameter, st nvme.Status) {
	if !st.OK() {
		if st.Code() == nvme.StatusConnectInvalidParameters {
			n.c.dw0 = bad.DW0()
		}
		q.failConnect(n.c, st)
		return
	}
	q.ctrl, q.view, q.id = ct, v, n.cmd.Queue
	q.connected(n)
}

// connected completes a Connect that succeeded.
func (q *Queue) connected(n *connecting) {
	if q.state == queueConnecting {
		q.state = queueLive
		q.ticking = true
		q.timer.Reset(q.target.limits.DataTimeout / 2)
	}
	q.log = q.ctrl.log.With("queue", uint16(q.id), "peer", q.info.Peer)
	q.entries = int(n.cmd.Entries)
	n.c.dw0 = nvme.ConnectResult{Controller: q.ctrl.id}.DW0()
	q.noFlow = n.cmd.Attributes&nvme.ConnectDisableSQFlow != 0
	q.complete(n.c, nvme.StatusSuccess)
}

// beginDisconnect deletes an I/O queue once its other commands are complete. Base 6.5
func (q *Queue) beginDisconnect(c *Command) nvme.Status {
	switch {
	case nvme.ParseDisconnect(&c.SQE).RecordFormat != 0:
		return nvme.StatusConnectIncompatibleFormat.WithDNR()
	case q.state != queueLive:
		return nvme.StatusSequenceError.WithDNR()
	case q.id == nvme.AdminQueue:
		return nvme.StatusDisconnectInvalidQueueType.WithDNR()
	}
	c.run = executeDisconnect
	return nvme.StatusSuccess
}

func executeDisconnect(c *Command) {
	q := c.q
	if q.state == queueLive {
		q.state = queueLeaving
	}
	q.leaving = c
	if f := q.fused; f != nil {
		q.fused = nil
		f.fail(nvme.StatusAbortMissingFused)
	}
	q.checkLeaving()
}

// leave answers the Disconnect, when it is the last command, and closes.
func (q *Queue) leave() {
	c := q.leaving
	q.leaving = nil
	q.complete(c, nvme.StatusSuccess)
	q.close(ErrDisconnected)
}

// beginProperty admits a Property Get or Set: on the Admin queue alone. Base 6.4 and 6.6
func (q *Queue) beginProperty(c *Command, run func(*Command)) nvme.Status {
	switch {
	case q.state != queueLive:
		return nvme.StatusSequenceError.WithDNR()
	case q.id != nvme.AdminQueue:
		return nvme.StatusInvalidField.WithDNR()
	}
	c.run = run
	return nvme.StatusSuccess
}

func executePropertyGet(c *Command) {
	g := nvme.ParsePropertyGet(&c.SQE)
	v, ok := c.q.ctrl.property(g.Offset)
	if !ok || g.Size != g.Offset.Size() {
		c.q.complete(c, nvme.StatusInvalidField.WithDNR())
		return
	}
	c.dw0, c.dw1 = uint32(v), uint32(v>>32)
	completeOK(c)
}

func executePropertySet(c *Command) {
	s := nvme.ParsePropertySet(&c.SQE)
	if s.Offset != nvme.PropertyCC || s.Size != s.Offset.Size() {
		c.q.complete(c, nvme.StatusInvalidField.WithDNR())
		return
	}
	c.q.ctrl.configure(nvme.Config(s.Value))
	completeOK(c)
}
