package portal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/plugins/frontend-iscsi/internal/device"
	"github.com/mooring-io/mooring/plugins/frontend-iscsi/internal/login"
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/iscsi"
	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/stream"
)

// portalGroup is the tag of the one portal group of a target whose sessions are redirected: the same
// on all nodes, so that an I_T nexus is the same wherever it is served. 4.4.2
const portalGroup = 1

// phase is where a connection is in its life.
type phase uint8

const (
	phaseLogin   phase = iota // waits for a Login Request
	phaseWaiting              // the core was asked; the initiator has nothing to say
	phaseFull                 // full feature phase
	phaseLeaving              // logged out
)

// conn is one connection, and once it has logged in one session. Owned by its I/O thread. It
// implements stream.Handler and device.Port.
type conn struct {
	portal *Portal
	stream *stream.Conn
	log    hclog.Logger
	phase  phase
	login  *login.Machine // nil after the login

	link   iscsi.Link
	params iscsi.Params
	who    login.Result
	nexus  *device.Nexus // nil in the login phase and of a discovery session

	statSN   iscsi.SN // of the next response
	expCmdSN iscsi.SN
	maxCmdSN iscsi.SN
	urgent   int // immediate commands under way

	in      inbound
	tail    [8]byte                 // backs what follows data
	tasks   map[iscsi.TaskTag]*task // from Begin to Complete
	r2ts    []r2t                   // by TTT
	freeR2T []iscsi.TaskTag
	bulk    int // how long ago a long write came; see soon

	text     []byte        // gathered so far of a text request in several PDUs
	textOut  []byte        // what is still to be sent of the answer
	textTag  iscsi.TaskTag // of that
	logoutBy *block.Timer  // ends a session that was asked to log out
	ping     *block.Timer
	heard    bool // something came since the ping timer was set
	pinged   bool // a NOP-In waits for its answer
}

func newConn(p *Portal, s *stream.Conn) *conn {
	cfg := p.config()
	c := &conn{
		portal: p, stream: s, log: p.logger.With("peer", s.Peer(), "access_point", s.AccessPoint()), statSN: 1,
		tasks: map[iscsi.TaskTag]*task{},
	}
	c.login = login.New(login.Options{
		Wish: cfg.wish(), PortGroup: portalGroup,
		Authenticate: func(name string) (needed, ok bool) {
			t, ok := p.device.Target(name)
			return t.Authenticate, ok
		},
		Challenge: func() (byte, []byte) {
			b := make([]byte, 1+16)
			_, _ = rand.Read(b) // it does not fail
			return b[0], b[1:]
		},
	})
	return c
}

// Errors that end a connection from our side.
var (
	errProtocol     = errors.New("the initiator broke the protocol")
	errLoggedOut    = errors.New("the initiator logged out")
	errSilent       = errors.New("the initiator does not answer a ping")
	errNotMoved     = errors.New("the initiator did not log out when it was asked to")
	errHeaderDigest = errors.New("a header digest is wrong")
)

func violated(what string, args ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(what, args...))
}

// window is what every answer tells.
func (c *conn) window() iscsi.Window {
	return iscsi.Window{StatSN: c.statSN, ExpCmdSN: c.expCmdSN, MaxCmdSN: c.maxCmdSN}
}

// response is the window of an answer that has a StatSN of its own.
func (c *conn) response() iscsi.Window {
	w := c.window()
	c.statSN++
	return w
}

// send queues a PDU without data, or with data of its own that is copied.
func (c *conn) send(p interface{ Append([]byte) []byte }, data []byte) {
	b := c.stream.Space()
	start := len(b)
	b = c.link.SealHeader(p.Append(b), start)
	b = append(b, data...)
	c.stream.Put(c.link.AppendTail(b, data))
}

// loginRequest serves a PDU of the login phase, which is whole.
func (c *conn) loginRequest(h iscsi.Header, b, data []byte) {
	if h.Opcode != iscsi.OpLoginRequest {
		c.stream.Fault(violated("%s before the login", h.Opcode), false)
		return
	}
	r, _, _ := iscsi.ParseLoginRequest(b)
	c.expCmdSN = r.CmdSN
	c.maxCmdSN = r.CmdSN + iscsi.SN(c.portal.config().QueueDepth) - 1
	c.step(c.login.Take(r, data))
}

// step does what the login wants done.
func (c *conn) step(s login.Step) {
	switch s.Kind {
	case login.Send:
		c.phase = phaseLogin
		c.sendLogin(&s)
	case login.Ask:
		c.phase = phaseWaiting
		c.authenticate(s.Question)
	case login.Admit:
		c.who = c.login.Result()
		if c.who.Discovery {
			c.step(c.login.Admitted(1))
			return
		}
		c.phase = phaseWaiting
		c.associate()
	case login.Done:
		c.begun(&s)
	case login.Refuse:
		c.log.Info("login refused", "reason", s.Err)
		c.sendLogin(&s)
		c.stream.End(s.Err, true)
	}
}

func (c *conn) sendLogin(s *login.Step) {
	s.Response.Window = c.response()
	c.send(&s.Response, s.Text)
}

// authenticate asks the core whether the initiator's answer is right.
func (c *conn) authenticate(q *login.Question) {
	req := &proto.AuthenticateRequest{
		Host:      &proto.HostIdentity{Protocol: proto.Protocol_PROTOCOL_ISCSI, Name: q.Initiator},
		Subsystem: q.Target,
		Answer: &proto.ChapProof{
			Challenge: &proto.ChapChallenge{Algorithm: uint32(q.Algorithm), Identifier: uint32(q.Identifier), Challenge: q.Challenge},
			Name:      q.Name, Response: q.Response,
		},
	}
	if q.Mutual {
		req.Challenge = &proto.ChapChallenge{Algorithm: uint32(q.Algorithm), Identifier: uint32(q.TheirIdentifier), Challenge: q.TheirChallenge}
	}
	ok := c.portal.device.Authenticate(req, func(r *proto.AuthenticateResponse, err error) {
		c.stream.Thread().Post(func() {
			switch {
			case !c.stream.Open():
			case err != nil:
				c.step(c.login.Refuse(iscsi.LoginServiceUnavailable, "", err))
			case r.GetAddress() != "":
				c.step(c.login.Refuse(iscsi.LoginMovedTemporarily, r.GetAddress(), errors.New(r.GetMessage())))
			case !r.GetOk():
				c.step(c.login.Refuse(iscsi.LoginAuthenticationError, "", errors.New(r.GetMessage())))
			default:
				c.step(c.login.Verified(r.GetProof(), r.GetName(), r.GetResponse()))
			}
		})
	})
	if !ok {
		c.step(c.login.Refuse(iscsi.LoginServiceUnavailable, "", device.ErrServerClosed))
	}
}

// associate asks the core for a session.
func (c *conn) associate() {
	c.stream.Hold()
	ok := c.portal.device.Associate(c, device.NexusInfo{
		Thread: c.stream.Thread(), AccessPointID: c.stream.AccessPoint(), Peer: c.stream.Peer(), Initiator: c.who.Initiator,
		ISID: c.who.ISID, Target: c.who.Target, Proof: c.who.Proof, PortGroup: portalGroup,
	}, c.associated)
	if !ok {
		c.stream.Unhold()
		c.step(c.login.Refuse(iscsi.LoginServiceUnavailable, "", device.ErrServerClosed))
	}
}

// associated has the core's answer.
func (c *conn) associated(n *device.Nexus, v device.Verdict) {
	defer c.stream.Unhold()
	switch {
	case n != nil && !c.stream.Open():
		n.Gone()
	case n != nil:
		c.nexus = n
		c.step(c.login.Admitted(n.ID()))
	case !c.stream.Open():
	case v.Result == proto.AssociateResult_ASSOCIATE_ELSEWHERE:
		c.step(c.login.Refuse(iscsi.LoginMovedTemporarily, v.Address, v.Err))
	default:
		c.step(c.login.Refuse(loginStatus(v.Result), "", v.Err))
	}
}

// loginStatus translates why the core said no. 11.13.5
func loginStatus(r proto.AssociateResult) iscsi.LoginStatus {
	switch r {
	case proto.AssociateResult_ASSOCIATE_NO_SUBSYSTEM:
		return iscsi.LoginNotFound
	case proto.AssociateResult_ASSOCIATE_HOST_NOT_ALLOWED:
		return iscsi.LoginAuthorizationError
	case proto.AssociateResult_ASSOCIATE_NO_PROOF:
		return iscsi.LoginAuthenticationError
	case proto.AssociateResult_ASSOCIATE_BUSY:
		return iscsi.LoginOutOfResources
	default:
		return iscsi.LoginServiceUnavailable
	}
}

// begun begins the full feature phase. Digests are for what comes after the last answer. 13.1
func (c *conn) begun(s *login.Step) {
	c.phase, c.params = phaseFull, c.who.Params
	c.login = nil
	c.sendLogin(s)
	c.link = iscsi.Link{HeaderDigest: c.params.HeaderDigest, DataDigest: c.params.DataDigest}
	c.params.FirstBurst = min(c.params.FirstBurst, c.params.MaxBurst)
	c.stream.Greeted()
	c.portal.sessions.Add(1)
	if !c.who.Discovery {
		c.stream.Established()
	}
	c.log = c.log.With("initiator", c.who.Initiator, "target", c.who.Target)
	c.log.Info("initiator logged in", "isid", c.who.ISID.String(), "header_digest", c.link.HeaderDigest, "data_digest", c.link.DataDigest)
	if d := c.portal.config().PingInterval; d > 0 {
		c.ping = c.stream.Thread().After(d, c.pingTick)
	}
}

// Close ends the session at the wish of the device server. Part of device.Port.
func (c *conn) Close(reason error) {
	if c.phase == phaseFull && c.stream.Open() {
		c.send(&iscsi.AsyncMessage{Window: c.response(), Event: iscsi.AsyncDropSession}, nil)
	}
	c.stream.End(reason, true)
}

// Move asks the initiator to log out; when it comes back it is told where to go. Part of device.Port.
func (c *conn) Move(within time.Duration, reason string) {
	if c.phase != phaseFull || !c.stream.Open() || c.logoutBy != nil {
		return
	}
	c.log.Info("initiator is asked to log in anew", "reason", reason, "within", within)
	seconds := min(max(int(within/time.Second), 1), 0xffff)
	c.send(&iscsi.AsyncMessage{Window: c.response(), Event: iscsi.AsyncLogout, Parameter3: uint16(seconds)}, nil)
	c.logoutBy = c.stream.Thread().After(time.Duration(seconds)*time.Second, func() { c.Close(errNotMoved) })
}

// pingTick looks whether the initiator is still there.
func (c *conn) pingTick() {
	d := c.portal.config().PingInterval
	switch {
	case d == 0:
		return
	case c.heard:
		c.heard, c.pinged = false, false
	case c.pinged:
		c.stream.End(errSilent, false)
		return
	default:
		c.pinged = true
		// The tag is ours alone: nothing but the answer to a ping has it. 11.19
		c.send(&iscsi.NopIn{Window: c.window(), ITT: iscsi.NoTag, TTT: pingTag}, nil)
	}
	c.ping.Reset(d)
}

// pingTag is the TTT of our pings; those of R2Ts are lower.
const pingTag iscsi.TaskTag = 0x8000_0000

// Ended is part of stream.Handler.
func (c *conn) Ended(error) {
	if c.phase == phaseFull || c.phase == phaseLeaving {
		c.portal.sessions.Add(-1)
	}
	for _, t := range []*block.Timer{c.ping, c.logoutBy} {
		if t != nil {
			t.Stop()
		}
	}
	c.in = inbound{}
	if c.nexus != nil {
		c.nexus.Gone()
	}
	for tag, t := range c.tasks { // those whose data was moving
		if t.moving {
			delete(c.tasks, tag)
			t.Release()
		}
	}
	c.r2ts, c.freeR2T, c.text, c.textOut = nil, nil, nil, nil
}
