package block

import (
	"runtime"
	"time"
)

// Before it sleeps, a thread with requests at the core may spin for their
// completions: a wake costs more than the wait if they come at once. The time adapts
// to whether that pays; where processors are few it never does.
const (
	minSpin   = 500 * time.Nanosecond
	maxSpin   = 16 * time.Microsecond
	spinCores = 5 // processors that a machine must have
)

var maySpin = runtime.NumCPU() >= spinCores

func (t *Thread) spinForCompletion() {
	if !maySpin || t.lost != nil || t.end.InFlight() == 0 {
		return
	}
	for end := now() + int64(t.spin); now() < end; {
		if t.end.Ready() {
			t.spin = min(2*t.spin, maxSpin)
			return
		}
	}
	t.spin = max(t.spin/2, minSpin)
}
