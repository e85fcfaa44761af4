package supervisor

import (
	"time"

	"github.com/mooring-io/mooring/sdk/proto"
)

// State is where a plugin stands.
type State int

const (
	StateIdle     State = iota // in the catalog, not in use
	StateStarting              // its process is being started, configured and attached
	StateRunning               // serving
	StateStopping              // asked to finish
	StateWaiting               // died; started again at Status.NextStart
	StateRefused               // not to be run as it is; Status.Reason says what to do
)

var stateNames = [...]string{"idle", "starting", "running", "stopping", "waiting", "refused"}

func (s State) String() string { return stateNames[s] }

// MarshalText makes it a word in JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Status is how a plugin is. The slices are not to be changed.
type Status struct {
	Entry       Entry
	Description *proto.Description // nil until the file was first run

	State  State
	Since  time.Time // of State; zero for StateIdle
	Reason string    // why it is not running, or how its last life ended

	// Of the running process; zero without one.
	PID         int
	UID         int    // user; the core's if it is not root
	Incarnation uint64 // Instance.ID

	Restarts  uint64    // lives that ended without being asked to
	NextStart time.Time // in StateWaiting

	// Healthy is what the plugin says; false while it is not running. HealthReason
	// says why not, Metrics are the newest.
	Healthy      bool
	HealthReason string
	Metrics      []*proto.Metric

	Listeners []*proto.ListenerState // of the last SetListeners
	// RestartRequired: a changed configuration applies after a restart.
	RestartRequired bool
}
