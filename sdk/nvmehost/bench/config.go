package bench

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmetcp"
)

// Scheme is the URL scheme of a target.
const Scheme = "nvme-tcp"

// Modes are the values of Config.RW.
var Modes = []string{"randread", "randwrite", "randrw", "read", "write", "rw"}

// Config says what to measure. Zero fields take the defaults in parentheses.
type Config struct {
	URL        string        // nvme-tcp://ADDRESS:PORT/NQN?ns=1, and hdgst=1, ddgst=1 for digests
	More       []string      // other ways to the same namespace
	RW         string        // one of Modes ("randread")
	Mix        int           // percent of reads in randrw and rw (50)
	BlockBytes int           // of one I/O; a multiple of the namespace's block (4096)
	QueueDepth int           // I/Os in flight on each queue (32)
	Queues     int           // I/O queue pairs (1)
	Time       time.Duration // of the measurement (10 s)
	SpanBytes  int64         // only this much of the namespace's beginning is used (all)
	Verify     bool          // write a pattern, check what is read, read back all that was written
	Seed       uint64        // of offsets and patterns (1)
	Force      bool          // write also over what looks like a file system or a partition table; else *OccupiedError
	HostNQN    string        // (one made for the run)
	NoSQFlow   bool          // ask for no SQ flow control

	// Multipath goes on when connections are lost or ANA states change, as a host with native
	// multipath does (package multipath). It is implied by several URLs.
	Multipath  bool
	RoundRobin bool             // take turns between equally good ways
	Timeout    time.Duration    // after which a way that does not answer is given up (15 s)
	OnPath     func(PathChange) // called when a way changes

	// PIDs are the target's processes; their CPU time is measured.
	PIDs []int
	// Progress is called each ProgressEvery (1 s) while the measurement runs, on its thread.
	Progress      func(Progress)
	ProgressEvery time.Duration
}

// Progress is how a run goes.
type Progress struct {
	Elapsed      time.Duration `json:"elapsed_ns"`
	Phase        string        `json:"phase"` // "measure", or "read back" with Verify
	IOPS         float64       `json:"iops"`  // since the last one
	MiBPerSecond float64       `json:"mib_per_s"`
	Errors       uint64        `json:"errors"`
	VerifyErrors uint64        `json:"verify_errors"`
}

// PathChange is a way that changed.
type PathChange struct {
	Elapsed time.Duration `json:"elapsed_ns"` // since the run began, with the opening of the ways
	Path    string        `json:"path"`       // its address and how it is now
}

// Target is what a URL names.
type Target struct {
	Address      string // host:port
	NQN          string
	NSID         nvme.NSID
	HeaderDigest bool
	DataDigest   bool
}

// ParseURL decodes the URL of a target.
func ParseURL(s string) (Target, error) {
	bad := func(why string) (Target, error) {
		return Target{}, fmt.Errorf("target %q: %s; a target looks like %s://127.0.0.1:4420/NQN?ns=1", s, why, Scheme)
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return bad(err.Error())
	case u.Scheme != Scheme:
		return bad("the scheme is not " + Scheme)
	case u.Hostname() == "":
		return bad("the address is missing")
	case len(u.Path) < 2:
		return bad("the subsystem's NQN is missing")
	}
	t := Target{NQN: u.Path[1:], NSID: 1}
	port := u.Port()
	if port == "" {
		port = strconv.Itoa(nvmetcp.Port)
	}
	t.Address = net.JoinHostPort(u.Hostname(), port)
	for k, v := range u.Query() {
		switch k {
		case "ns":
			n, err := strconv.ParseUint(v[0], 10, 32)
			if err != nil || n == 0 || nvme.NSID(n) == nvme.BroadcastNSID {
				return bad("ns is not a namespace number")
			}
			t.NSID = nvme.NSID(n)
		case "hdgst":
			t.HeaderDigest = v[0] != "0"
		case "ddgst":
			t.DataDigest = v[0] != "0"
		default:
			return bad("parameter " + k + " is unknown (ns, hdgst, ddgst)")
		}
	}
	return t, nil
}

func (c Config) withDefaults() Config {
	if c.RW == "" {
		c.RW = "randread"
	}
	if c.Mix == 0 {
		c.Mix = 50
	}
	if c.BlockBytes == 0 {
		c.BlockBytes = 4096
	}
	if c.QueueDepth == 0 {
		c.QueueDepth = 32
	}
	if c.Queues == 0 {
		c.Queues = 1
	}
	if c.Time == 0 {
		c.Time = 10 * time.Second
	}
	if c.Seed == 0 {
		c.Seed = 1
	}
	if c.ProgressEvery == 0 {
		c.ProgressEvery = time.Second
	}
	return c
}

// targets parses the URLs, which must name one namespace.
func (c Config) targets() ([]Target, error) {
	var out []Target
	for _, u := range append([]string{c.URL}, c.More...) {
		t, err := ParseURL(u)
		if err != nil {
			return nil, err
		}
		if len(out) > 0 && (t.NQN != out[0].NQN || t.NSID != out[0].NSID) {
			return nil, fmt.Errorf("%s and %s are not the same namespace", c.URL, u)
		}
		out = append(out, t)
	}
	return out, nil
}

func (c Config) check() error {
	switch {
	case !slices.Contains(Modes, c.RW):
		return fmt.Errorf("rw %q is none of %v", c.RW, Modes)
	case c.Mix < 0 || c.Mix > 100:
		return fmt.Errorf("mix %d is not a percentage", c.Mix)
	case c.BlockBytes < 512 || c.BlockBytes%512 != 0:
		return fmt.Errorf("block size %d is not a multiple of 512", c.BlockBytes)
	case c.QueueDepth < 1 || c.QueueDepth > 65_535:
		return fmt.Errorf("queue depth %d is not within 1 to 65535", c.QueueDepth)
	case c.Queues < 1 || c.Queues > 65_535:
		return fmt.Errorf("%d queues are not within 1 to 65535", c.Queues)
	case c.Time < 0:
		return fmt.Errorf("time %s is negative", c.Time)
	}
	return nil
}

func (c Config) random() bool { return c.RW == "randread" || c.RW == "randwrite" || c.RW == "randrw" }

// readPercent is how many of a hundred I/Os read.
func (c Config) readPercent() int {
	switch c.RW {
	case "randread", "read":
		return 100
	case "randwrite", "write":
		return 0
	}
	return c.Mix
}
