package device

import (
	"context"

	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/scsi"
)

// Task management functions. SAM-5 7. Each calls done on the nexus's thread when everything that it
// is about has ended. Aborted tasks come back by Port.Complete before that.

// AbortTask ends one task. done is called when it has ended, aborted or not.
func (n *Nexus) AbortTask(t *Task, done func()) {
	if t.state == taskFinished || t.state == taskFree {
		done()
		return
	}
	t.waiters = append(t.waiters, done)
	n.drop(t)
}

// drop asks for the end of a task wherever it is.
func (n *Nexus) drop(t *Task) {
	t.hasten()
	switch {
	case t.Parked:
		n.unpark(t)
		n.port.Ready(t)
	case t.state == taskBegun:
		n.port.Drop(t)
	}
}

// AbortTaskSet ends the tasks of this nexus on a unit. It reports false if there is no such unit.
func (n *Nexus) AbortTaskSet(lun [8]byte, done func()) bool {
	u := n.view.find(lun)
	if u == nil {
		return false
	}
	n.abort(func(t *Task) bool { return t.unit != nil && t.unit.lun == u.lun }, done)
	return true
}

// abort ends the tasks that which says and then calls done.
func (n *Nexus) abort(which func(*Task) bool, done func()) {
	left := 1
	one := func() {
		if left--; left == 0 {
			done()
		}
	}
	var list []*Task
	for t := n.begun; t != nil; t = t.next {
		if which(t) {
			list = append(list, t)
		}
	}
	for _, t := range list {
		left++
		t.waiters = append(t.waiters, one)
	}
	for _, t := range list {
		if t.state != taskFinished && t.state != taskFree {
			n.drop(t)
		}
	}
	one()
}

// ClearTaskSet ends the tasks of all nexuses on a unit, and tells the others so. It reports false if
// there is no such unit.
func (n *Nexus) ClearTaskSet(lun [8]byte, done func()) bool {
	u := n.view.find(lun)
	if u == nil {
		return false
	}
	n.everywhere(u.shared, func(o *Nexus, l scsi.LUN, done func()) {
		aborted := false
		o.abort(func(t *Task) bool {
			hit := t.unit != nil && t.unit.lun == l
			aborted = aborted || hit
			return hit
		}, done)
		if aborted && o != n {
			o.attend(l, scsi.ASCCommandsCleared)
		}
	}, done)
	return true
}

// ResetUnit ends the tasks of all nexuses on a unit and its RESERVE (6), gives its modes their
// defaults, and raises a unit attention for everybody. It reports false if there is no such unit.
func (n *Nexus) ResetUnit(lun [8]byte, done func()) bool {
	u := n.view.find(lun)
	if u == nil {
		return false
	}
	n.reset(u, scsi.ASCUnitReset, done)
	return true
}

// ResetTarget resets every unit of the target, as after power on if it is cold.
func (n *Nexus) ResetTarget(cold bool, done func()) {
	asc := scsi.ASCBusReset
	if cold {
		asc = scsi.ASCPowerOn
	}
	left := 1
	one := func() {
		if left--; left == 0 {
			done()
		}
	}
	for _, l := range n.view.luns {
		left++
		n.reset(n.view.units[l], asc, one)
	}
	one()
}

func (n *Nexus) reset(u *unit, asc scsi.ASC, done func()) {
	u.shared.mu.Lock()
	u.shared.modes = modes{writeCache: u.volatile}
	u.shared.mu.Unlock()
	n.everywhere(u.shared, func(o *Nexus, l scsi.LUN, done func()) {
		o.refresh()
		o.attend(l, asc) // before anybody can hear that the reset is done
		o.abort(func(t *Task) bool { return t.unit != nil && t.unit.lun == l }, done)
	}, func() { n.releaseUnit(u, done) })
}

// releaseUnit ends a RESERVE (6), whoever has it.
func (n *Nexus) releaseUnit(u *unit, done func()) {
	req := &proto.ReserveRequest{Association: n.association, Nsid: uint32(u.lun) + 1, Action: proto.ReserveAction_RESERVE_RESET_UNIT}
	ok := n.server.call(func(ctx context.Context) {
		if _, err := n.server.core.Reserve(ctx, req); err != nil && ctx.Err() == nil {
			n.log.Warn("the core did not end the reservation of a unit that was reset", "lun", u.lun, "error", err)
		}
		n.thread.Post(done)
	})
	if !ok {
		done()
	}
}

// everywhere runs fn for every nexus that has a unit, each on its own thread, and then done on n's.
func (n *Nexus) everywhere(u *sharedUnit, fn func(o *Nexus, l scsi.LUN, done func()), done func()) {
	left := 0 // counted on n's thread alone, which we are on
	left = u.each(func(o *Nexus, l scsi.LUN) {
		fn(o, l, func() {
			n.thread.Post(func() {
				if left--; left == 0 {
					done()
				}
			})
		})
	})
	if left == 0 {
		done()
	}
}
