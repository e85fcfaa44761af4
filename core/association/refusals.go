package association

import (
	"maps"
	"sync"
	"time"

	"github.com/mooring-io/mooring/core/meta"
)

// refusalQuiet is how long a refused host is not told of again in the events, and
// refusalNames how many are told of in that time: hosts try again every few seconds, and whoever makes
// up names must not push everything else out of the journal.
const (
	refusalQuiet = time.Minute
	refusalNames = 8
)

// refusals tells the events of hosts that are not allowed.
type refusals struct {
	mu   sync.Mutex
	told map[string]time.Time // by host and subsystem; guarded by mu
}

// note tells that a host is not allowed.
func (r *refusals) note(j *meta.Journal, host, subsystem, peer string) {
	r.tell(j, host, subsystem, "host-refused", "from "+peer+" at "+subsystem+", which does not allow it: mooring host allow "+subsystem+" "+host)
}

func (r *refusals) tell(j *meta.Journal, host, subsystem, kind, message string) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.told, func(_ string, at time.Time) bool { return now.Sub(at) >= refusalQuiet })
	key := host + " " + subsystem
	if _, known := r.told[key]; known || len(r.told) == refusalNames {
		return
	}
	if r.told == nil {
		r.told = map[string]time.Time{}
	}
	r.told[key] = now
	j.Record(meta.Event{Severity: meta.Warning, Kind: kind, Object: host, Message: message})
}
