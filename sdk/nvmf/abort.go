package nvmf

import (
	"github.com/mooring-io/mooring/sdk/nvme"
)

// executeAbort ends another command early if it can. Base 5.1
func executeAbort(c *Command) {
	ct := c.q.ctrl
	if ct.aborts >= ct.target.limits.Aborts {
		c.q.complete(c, nvme.StatusAbortLimitExceeded.WithDNR())
		return
	}
	a := nvme.ParseAbort(&c.SQE)
	q := ct.queues[a.Queue]
	if a.Queue == nvme.AdminQueue {
		q = ct.admin
	}
	c.dw0 = nvme.AbortNotDone
	if q == nil {
		completeOK(c)
		return
	}
	ct.aborts++
	done := func(aborted bool) {
		ct.aborts--
		if aborted {
			c.dw0 = nvme.AbortDone
		}
		completeOK(c)
	}
	if q == ct.admin {
		q.abortCommand(c, a.CID, done)
		return
	}
	q.thread.Post(func() {
		q.abortCommand(nil, a.CID, func(aborted bool) { ct.thread.Post(func() { done(aborted) }) })
	})
}

// abortCommand aborts the command with this identifier, unless it is self, and calls done once
// with whether that was achieved within the limit of time.
func (q *Queue) abortCommand(self *Command, cid nvme.CommandID, done func(aborted bool)) {
	c := q.begun
	for c != nil && (!c.ownCID || c.SQE.CID() != cid) {
		c = c.next
	}
	if c == nil || c == self || c.waiter != nil {
		done(false)
		return
	}
	answered := false
	answer := func(aborted bool) {
		if !answered {
			answered = true
			done(aborted)
		}
	}
	timer := q.thread.After(q.target.limits.AbortWait, func() { answer(false) })
	c.waiter = func(st nvme.Status) {
		timer.Stop()
		answer(st.Code() == nvme.StatusAbortRequested)
	}
	q.abort(c)
}

// abort asks for the end of a command, which then completes with Command Abort Requested if it
// was not too late.
func (q *Queue) abort(c *Command) {
	switch {
	case c.Parked:
		q.unpark(c)
		q.drop(c, nvme.StatusAbortRequested)
		c.refuse(nvme.StatusAbortRequested)
		q.conn.Ready(c)
	case c.state == commandBegun, c.state == commandFused:
		q.drop(c, nvme.StatusAbortRequested)
	case q.id == nvme.AdminQueue && q.ctrl.events.remove(c):
		q.complete(c, nvme.StatusAbortRequested)
	default:
		q.hasten(c)
	}
}

// hasten asks the core for an early end of a running command.
func (q *Queue) hasten(c *Command) {
	if c.submitted && !c.asked {
		c.asked = true
		q.thread.Abort(&c.req)
	}
}
