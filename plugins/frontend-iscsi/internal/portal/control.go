package portal

import (
	"fmt"
	"strings"

	"github.com/mooring-io/mooring/sdk/iscsi"
)

// nopOut answers a ping, or takes the answer to ours. 11.18
func (c *conn) nopOut(b, data []byte) {
	n, _, _ := iscsi.ParseNopOut(b)
	if !c.order(n.Order) {
		return
	}
	if !n.Immediate {
		c.maxCmdSN++
	}
	if n.ITT == iscsi.NoTag {
		return // an answer: that something came is noted
	}
	data = data[:min(len(data), int(c.params.MaxRecvData))]
	c.send(&iscsi.NopIn{Window: c.response(), LUN: n.LUN, ITT: n.ITT, TTT: iscsi.NoTag, DataBytes: len(data)}, data)
}

// logoutRequest ends the session. 11.14
func (c *conn) logoutRequest(b []byte) {
	l, _, _ := iscsi.ParseLogoutRequest(b)
	if !c.order(l.Order) {
		return
	}
	result := iscsi.LogoutClosed
	switch {
	case l.Reason == iscsi.LogoutConnection && l.CID != c.who.CID:
		result = iscsi.LogoutNoCID
	case l.Reason > iscsi.LogoutConnection:
		result = iscsi.LogoutNoRecovery
	}
	if result != iscsi.LogoutClosed {
		if !l.Immediate {
			c.maxCmdSN++
		}
		c.send(&iscsi.LogoutResponse{Window: c.response(), Result: result, ITT: l.ITT}, nil)
		return
	}
	c.phase = phaseLeaving
	c.send(&iscsi.LogoutResponse{Window: c.response(), Result: result, ITT: l.ITT}, nil)
	c.stream.End(errLoggedOut, true)
}

// textRequest answers SendTargets and what else may be asked in the full feature phase. 11.10
func (c *conn) textRequest(b, data []byte) {
	r, _, _ := iscsi.ParseTextRequest(b)
	if !c.order(r.Order) {
		return
	}
	if !r.Immediate {
		c.maxCmdSN++
	}
	switch {
	case r.ITT == iscsi.NoTag || r.Final && r.Continue, len(c.text)+len(data) > maxText:
		c.text, c.textOut = nil, nil
		c.reject(iscsi.RejectProtocolError, b)
		return
	case r.TTT != iscsi.NoTag && r.TTT != c.textTag: // of a negotiation that is over
		c.reject(iscsi.RejectInvalidPDUField, b)
		return
	case r.TTT != iscsi.NoTag && len(c.textOut) > 0 && len(data) == 0:
		c.sendText(&r)
		return
	}
	c.text = append(c.text, data...)
	if r.Continue {
		c.textTag = nextTag(c.textTag)
		c.send(&iscsi.TextResponse{Window: c.response(), ITT: r.ITT, TTT: c.textTag}, nil)
		return
	}
	pairs, err := iscsi.ParseText(c.text)
	c.text, c.textOut = nil, nil
	if err != nil {
		c.reject(iscsi.RejectProtocolError, b)
		return
	}
	for _, p := range pairs {
		c.answerText(p)
	}
	c.sendText(&r)
}

// maxText is the most text that a request or an answer may have in all.
const maxText = 1 << 20

// nextTag makes a TTT for a text that goes on.
func nextTag(t iscsi.TaskTag) iscsi.TaskTag { return (t+1)&0x7fff_ffff | 0x4000_0000 }

func (c *conn) say(key, value string) { c.textOut = iscsi.AppendPair(c.textOut, key, value) }

// answerText answers one key. Only the length of data segments may be changed in the full feature
// phase. 13
func (c *conn) answerText(p iscsi.Pair) {
	switch {
	case p.Key == iscsi.KeySendTargets:
		c.sendTargets(p.Value)
	case p.Key == iscsi.KeyMaxRecvDataSegmentLength:
		w := c.portal.config().wish()
		if a := c.params.Answer(&w, c.who.Discovery, p.Key, p.Value); a != "" {
			c.say(p.Key, a)
		}
	case iscsi.Operational(p.Key):
		c.say(p.Key, iscsi.AnswerReject)
	default:
		c.say(p.Key, iscsi.AnswerNotUnderstood)
	}
}

// sendTargets lists targets with the address where the initiator may log in: All in a discovery
// session, else its own. Appendix C
func (c *conn) sendTargets(which string) {
	if which == "All" && !c.who.Discovery {
		c.say(iscsi.KeySendTargets, iscsi.AnswerReject)
		return
	}
	if which == "" {
		which = c.who.Target
	}
	here := strings.TrimPrefix(c.stream.LocalURL(), Scheme+"://")
	for _, t := range c.portal.device.Targets(c.who.Initiator) {
		if which != "All" && which != t.Name || len(c.textOut) > maxText-1024 {
			continue
		}
		c.say(iscsi.KeyTargetName, t.Name)
		address := t.Address
		if address == "" {
			address = here
		}
		c.say(iscsi.KeyTargetAddress, fmt.Sprintf("%s,%d", address, portalGroup))
	}
}

// sendText sends as much of the answer as a PDU may have.
func (c *conn) sendText(r *iscsi.TextRequest) {
	n := min(len(c.textOut), int(c.params.MaxRecvData))
	a := iscsi.TextResponse{Window: c.response(), Final: n == len(c.textOut), ITT: r.ITT, TTT: iscsi.NoTag, DataBytes: n}
	if !a.Final {
		c.textTag = nextTag(c.textTag)
		a.Continue, a.TTT = true, c.textTag
	}
	c.send(&a, c.textOut[:n])
	c.textOut = c.textOut[n:]
}

// taskRequest carries a task management function out; the answer leaves when all that it is about
// has ended. 11.5
func (c *conn) taskRequest(b []byte) {
	r, _, _ := iscsi.ParseTaskRequest(b)
	if c.nexus == nil || r.ITT == iscsi.NoTag {
		c.reject(iscsi.RejectProtocolError, b)
		return
	}
	if !c.order(r.Order) {
		return
	}
	if !r.Immediate {
		c.maxCmdSN++
	}
	c.log.Info("task management", "function", r.Function, "tag", r.RefTag)
	c.stream.Hold()
	answer := func(result iscsi.TaskResult) {
		if c.stream.Open() {
			c.send(&iscsi.TaskResponse{Window: c.response(), Result: result, ITT: r.ITT}, nil)
		}
		c.stream.Unhold()
	}
	done := func() { answer(iscsi.TaskComplete) }
	unit := func(ok bool) {
		if !ok {
			answer(iscsi.TaskNoLUN)
		}
	}
	switch r.Function {
	case iscsi.AbortTask:
		t := c.tasks[r.RefTag]
		if t == nil || t.lun != r.LUN {
			answer(iscsi.TaskDoesNotExist)
			return
		}
		c.nexus.AbortTask(t.dev, done)
	case iscsi.AbortTaskSet:
		unit(c.nexus.AbortTaskSet(r.LUN, done))
	case iscsi.ClearTaskSet:
		unit(c.nexus.ClearTaskSet(r.LUN, done))
	case iscsi.LogicalReset:
		unit(c.nexus.ResetUnit(r.LUN, done))
	case iscsi.TargetWarmReset:
		c.nexus.ResetTarget(false, done)
	case iscsi.TargetColdReset:
		c.nexus.ResetTarget(true, done)
	case iscsi.TaskReassign:
		answer(iscsi.TaskNoReassign)
	case iscsi.ClearACA:
		answer(iscsi.TaskNotSupported)
	default:
		answer(iscsi.TaskRejected)
	}
}
