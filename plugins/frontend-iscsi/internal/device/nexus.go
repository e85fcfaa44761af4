package device

import (
	"context"
	"errors"
	"math/bits"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/scsi"
)

// Reasons for which a nexus ends.
var (
	ErrEnded        = errors.New("the core ended the association")
	ErrServerClosed = errors.New("the device server stops")
)

// errNotExported is why an initiator must try again that the core has let in.
var errNotExported = errors.New("the target is not exported yet")

// Port is what a SCSI transport supplies for one nexus. The device server calls it on the nexus's
// I/O thread only, possibly from within Begin, Execute, Gone or a task management function.
type Port interface {
	// Complete hands t back with its result. The transport sends it, unless t.Aborted, then calls
	// t.Release. On a connection that is gone it only releases.
	Complete(t *Task)
	// Ready says that a task which Begin had parked may go on: it has its buffer, or it is refused.
	Ready(t *Task)
	// Drop says that t was aborted while its data moves: the transport ends that as soon as it can,
	// and executes t.
	Drop(t *Task)
	// Close ends the session; the transport answers with Nexus.Gone, from within Close or later. It
	// may be called more than once.
	Close(reason error)
	// Move has the initiator leave and come back elsewhere; after the time given it is closed.
	Move(within time.Duration, reason string)
}

// NexusInfo describes a session that has logged in.
type NexusInfo struct {
	Thread        *block.Thread // the I/O thread that the session belongs to
	AccessPointID string        // of the listener that accepted it
	Peer          string        // the initiator's transport address, for events and logs
	Initiator     string        // IQN
	ISID          [6]byte
	Target        string // IQN
	Proof         uint64 // of Server.Authenticate; 0: none
	PortGroup     uint16 // target portal group tag
}

// Nexus is one I_T nexus. Owned by its I/O thread.
type Nexus struct {
	server      *Server
	port        Port
	info        NexusInfo
	thread      *block.Thread
	pool        *block.Pool
	log         hclog.Logger
	association uint64
	id          uint16 // unique among the nexuses with the target
	grants      []*proto.Grant
	view        *view
	done        func(*block.Request) // of every request; one for all, so that none is made per command

	gone     bool
	dirty    bool // commands were under way when it went
	finished bool
	closing  error // why the session is being closed

	spare *Task // free list
	held  int   // from Get to Release
	begun *Task // list of tasks from Begin to Complete

	copies      []copied                // results of copies that may be asked for
	attentions  map[scsi.LUN][]scsi.ASC // unit attentions to be reported, in order
	unreported  int                     // how many there are in all
	share       *block.Share[*Task]     // of the pool
	maxTransfer int                     // bytes of one command's data
}

// Verdict is the core's answer to Associate.
type Verdict struct {
	Result  proto.AssociateResult
	Address string // address:port to go to instead
	Err     error  // nil with ASSOCIATE_OK alone
}

// Associate asks the core for a nexus and calls fn with it, or with why there is none, on the
// session's thread. The transport owes a nexus one Gone. It reports false when the server is closed.
func (s *Server) Associate(port Port, info NexusInfo, fn func(*Nexus, Verdict)) bool {
	if !s.begin() {
		return false
	}
	req := &proto.AssociateRequest{
		Host:      &proto.HostIdentity{Protocol: proto.Protocol_PROTOCOL_ISCSI, Name: info.Initiator, HostId: info.ISID[:]},
		Subsystem: info.Target, AccessPointId: info.AccessPointID, Peer: info.Peer, ControllerId: 0xffff, Proof: info.Proof,
	}
	ok := s.call(func(ctx context.Context) {
		r, err := s.core.Associate(ctx, req)
		info.Thread.Post(func() {
			defer s.associated()
			fn(s.answered(port, info, r, err))
		})
	})
	if !ok {
		s.associated()
		s.forget()
	}
	return ok
}

// answered makes a nexus of the core's answer. It is called on the thread.
func (s *Server) answered(port Port, info NexusInfo, r *proto.AssociateResponse, err error) (*Nexus, Verdict) {
	if err != nil {
		s.forget()
		return nil, Verdict{Result: proto.AssociateResult_ASSOCIATE_NOT_READY, Err: err}
	}
	if r.GetResult() != proto.AssociateResult_ASSOCIATE_OK {
		s.forget()
		return nil, Verdict{r.GetResult(), r.GetAddress(), errors.New(r.GetMessage())}
	}
	n := newNexus(s, port, info, r)
	retry := Verdict{Result: proto.AssociateResult_ASSOCIATE_NOT_READY, Err: ErrServerClosed}
	if s.currentExports().targets[info.Target] == nil {
		retry.Err = errNotExported
	} else if s.register(n) {
		retry.Err = nil
	}
	if retry.Err != nil {
		s.dissociate(r.GetAssociation(), true)
		return nil, retry
	}
	n.share.Belong(info.Initiator)
	n.refresh()
	return n, Verdict{Result: proto.AssociateResult_ASSOCIATE_OK}
}

func newNexus(s *Server, port Port, info NexusInfo, r *proto.AssociateResponse) *Nexus {
	n := &Nexus{
		server: s, port: port, info: info, thread: info.Thread, pool: info.Thread.Pool(), association: r.GetAssociation(),
		id: uint16(r.GetControllerId()), grants: r.GetGrants().GetGrants(), view: emptyView, attentions: map[scsi.LUN][]scsi.ASC{},
		log: s.log.With("initiator", info.Initiator, "target", info.Target, "session", r.GetControllerId()),
	}
	n.done = func(r *block.Request) { r.User.(*Task).requestDone() }
	n.share = block.NewShare(n.pool, n.memoryReady)
	n.maxTransfer = min(maxTransferBytes, n.pool.MaxTransfer(), 1<<(bits.Len(uint(n.pool.Size()))-1))
	return n
}

// maxTransferBytes is the most that one command moves.
const maxTransferBytes = 1 << 20

// ID is unique among the nexuses with the target, from 1.
func (n *Nexus) ID() uint16 { return n.id }

// Get returns a task to be filled with what the initiator sent.
func (n *Nexus) Get() *Task {
	t := n.spare
	if t == nil {
		t = &Task{nexus: n}
		t.req.User, t.req.Done = t, n.done
	} else {
		n.spare, t.next = t.next, nil
	}
	t.state = taskHeld
	n.held++
	return t
}

func (n *Nexus) recycle(t *Task) {
	t.reset()
	t.state = taskFree
	t.next, n.spare = n.spare, t
	n.held--
	n.checkFinished()
}

func (n *Nexus) link(t *Task) {
	t.prev, t.next = nil, n.begun
	if n.begun != nil {
		n.begun.prev = t
	}
	n.begun = t
}

func (n *Nexus) unlink(t *Task) {
	if t.prev == nil {
		n.begun = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next != nil {
		t.next.prev = t.prev
	}
	t.prev, t.next = nil, nil
}

// close asks the transport to end the session. Gone follows.
func (n *Nexus) close(reason error) {
	if n.gone {
		return
	}
	if n.closing == nil {
		n.closing = reason
	}
	n.port.Close(reason)
}

func (n *Nexus) move(m *proto.AssociationMove) {
	if !n.gone {
		n.port.Move(time.Duration(m.GetSeconds())*time.Second, m.GetReason())
	}
}

// Gone says that the session has ended: no command arrives any more and no answer leaves. What is
// under way comes back by Port.Complete, to be released; when all is released, the association ends.
// Idempotent.
func (n *Nexus) Gone() {
	if n.gone {
		return
	}
	n.gone, n.dirty = true, n.held > 0
	n.server.unregister(n)
	for t := n.begun; t != nil; t = t.next {
		t.hasten()
	}
	n.checkFinished()
}

// checkFinished ends the association when the nexus is gone and nothing is left of it.
func (n *Nexus) checkFinished() {
	if !n.gone || n.held > 0 || n.finished {
		return
	}
	n.finished = true
	n.share.Leave()
	for _, u := range n.view.units {
		if u != nil {
			u.shared.leave(n)
		}
	}
	n.server.dissociate(n.association, !n.dirty)
}
