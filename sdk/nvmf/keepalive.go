package nvmf

import (
	"time"

	"github.com/mooring-io/mooring/sdk/nvme"
)

// keepAliveGranularity is KAS: timeouts are rounded up to it.
const keepAliveGranularity = nvme.KeepAliveUnit * time.Millisecond

// setKeepAlive sets the keep alive timeout, in milliseconds; 0 for none. Any command restarts
// the timer (CTRATT.TBKAS): the controller looks twice per timeout whether one came, so that it
// ends an association between one and one and a half timeouts after the last. Base 3.9
func (ct *Controller) setKeepAlive(ms uint32) {
	d := time.Duration(ms) * time.Millisecond
	ct.keepAlive = (d + keepAliveGranularity - 1) / keepAliveGranularity * keepAliveGranularity
	ct.kaMissed = 0
	if ct.keepAlive == 0 {
		ct.kaTimer.Stop()
		return
	}
	ct.kaTimer.Reset(ct.keepAlive / 2)
}

func (ct *Controller) keepAliveTick() {
	if ct.ending {
		return
	}
	ct.kaMissed++
	if ct.wasActive() {
		ct.kaMissed = 0
	}
	if ct.kaMissed >= 2 {
		ct.csts |= nvme.CSTSFatal
		ct.unclean = true // whatever the host sent since is in doubt
		ct.end(ErrKeepAlive)
		return
	}
	ct.kaTimer.Reset(ct.keepAlive / 2)
}

// wasActive reports whether a command came on any queue since it was last called.
func (ct *Controller) wasActive() bool {
	active := ct.admin.active.Swap(false)
	for _, q := range ct.queues {
		if q.active.Load() {
			q.active.Store(false)
			active = true
		}
	}
	return active
}

// watchIdle bounds how long a controller may stay disabled or shut down, and how long a
// discovery controller without keep alive may be idle.
func (ct *Controller) watchIdle() {
	switch {
	case ct.ending:
	case !ct.ready():
		ct.idleTimer.Reset(ct.target.limits.DisabledTimeout)
	case ct.kind == nvme.ControllerDiscovery && ct.keepAlive == 0:
		ct.admin.active.Store(false)
		ct.idleTimer.Reset(ct.target.limits.DiscoveryTimeout)
	default:
		ct.idleTimer.Stop()
	}
}

func (ct *Controller) idleTick() {
	if ct.ready() && (ct.keepAlive != 0 || ct.wasActive()) {
		ct.watchIdle()
		return
	}
	ct.end(ErrIdle)
}
