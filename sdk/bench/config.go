package bench

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/mooring-io/mooring/sdk/iscsi"
	"github.com/mooring-io/mooring/sdk/iscsihost"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmetcp"
	"github.com/mooring-io/mooring/sdk/scsi"
)

// The schemes of URLs.
const (
	SchemeNVMe  = "nvme-tcp"
	SchemeISCSI = "iscsi"
)

// maxBlockBytes bounds what the I/Os in flight take of memory.
const maxBlockBytes = 64 << 20

// Modes are the values of Config.RW.
var Modes = []string{"randread", "randwrite", "randrw", "read", "write", "rw"}

// Config says what to measure. Zero fields take the defaults in parentheses.
type Config struct {
	URL        string        // nvme-tcp://ADDRESS:PORT/NQN?ns=1 or iscsi://ADDRESS:PORT/IQN?lun=0, and hdgst=1, ddgst=1 for digests
	More       []string      // other ways to the same namespace; NVMe only
	RW         string        // one of Modes ("randread")
	Mix        int           // percent of reads in randrw and rw (50)
	BlockBytes int           // of one I/O; a multiple of the unit's block (4096)
	QueueDepth int           // I/Os in flight on each queue (32)
	Queues     int           // I/O queue pairs, or sessions (1)
	Time       time.Duration // of the measurement (10 s)
	SpanBytes  int64         // only this much of the unit's beginning is used (all)
	Verify     bool          // write a pattern, check what is read, read back all that was written
	Seed       uint64        // of offsets and patterns (1)
	Force      bool          // write also over what looks like a file system or a partition table; else *OccupiedError
	Host       string        // NQN or iSCSI name of the host (one made for the run)
	NoSQFlow   bool          // NVMe: ask for no SQ flow control
	CHAP       iscsihost.CHAP

	// Multipath goes on when connections are lost or ANA states change, as a host with native
	// multipath does (package multipath). It is implied by several URLs.
	Multipath  bool
	RoundRobin bool             // take turns between equally good ways
	Timeout    time.Duration    // after which a way that does not answer is given up, or an iSCSI task is aborted (15 s)
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
	Scheme       string
	Address      string // host:port
	Name         string // NQN or IQN
	Unit         uint32 // number of the namespace or the logical unit
	HeaderDigest bool
	DataDigest   bool
}

// NSID is Unit of an NVMe target.
func (t Target) NSID() nvme.NSID { return nvme.NSID(t.Unit) }

// ParseURL decodes the URL of a target.
func ParseURL(s string) (Target, error) {
	bad := func(why string) (Target, error) {
		return Target{}, fmt.Errorf("target %q: %s; a target looks like %s://127.0.0.1:4420/NQN?ns=1 or %s://127.0.0.1:3260/IQN?lun=0", s, why, SchemeNVMe, SchemeISCSI)
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return bad(err.Error())
	case connectors[u.Scheme] == nil:
		return bad("the scheme is neither " + SchemeNVMe + " nor " + SchemeISCSI)
	case u.User != nil:
		return bad("a name and a secret do not belong into it, where everybody sees them")
	case u.Hostname() == "":
		return bad("the address is missing")
	case len(u.Path) < 2:
		return bad("the name of the subsystem or the target is missing")
	}
	t := Target{Scheme: u.Scheme, Name: u.Path[1:], Unit: 1}
	number, port, valid := "ns", nvmetcp.Port, func(n uint64) bool { return n > 0 && nvme.NSID(n) != nvme.BroadcastNSID }
	if t.Scheme == SchemeISCSI {
		t.Unit = 0
		number, port, valid = "lun", iscsi.Port, func(n uint64) bool { return n <= uint64(scsi.MaxLUN) }
	}
	t.Address = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), strconv.Itoa(port)))
	for k, v := range u.Query() {
		switch k {
		case number:
			n, err := strconv.ParseUint(v[0], 10, 32)
			if err != nil || !valid(n) {
				return bad(k + " is not the number of a unit")
			}
			t.Unit = uint32(n)
		case "hdgst":
			t.HeaderDigest = v[0] != "0"
		case "ddgst":
			t.DataDigest = v[0] != "0"
		default:
			return bad("parameter " + k + " is unknown (" + number + ", hdgst, ddgst)")
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
	if c.Timeout == 0 {
		c.Timeout = 15 * time.Second
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
		if len(out) > 0 && (t.Scheme != out[0].Scheme || t.Name != out[0].Name || t.Unit != out[0].Unit) {
			return nil, fmt.Errorf("%s and %s are not the same namespace", c.URL, u)
		}
		out = append(out, t)
	}
	if out[0].Scheme == SchemeISCSI && (c.Multipath || len(out) > 1) {
		return nil, errors.New("several ways, or -multipath, are for nvme-tcp; an iSCSI host follows the redirects of one portal")
	}
	return out, nil
}

func (c Config) check() error {
	switch {
	case !slices.Contains(Modes, c.RW):
		return fmt.Errorf("rw %q is none of %v", c.RW, Modes)
	case c.Mix < 0 || c.Mix > 100:
		return &RangeError{"mix", c.Mix, "a percentage"}
	case c.BlockBytes < 512 || c.BlockBytes > maxBlockBytes || c.BlockBytes%512 != 0:
		return &RangeError{"bs", c.BlockBytes, "a multiple of 512 bytes, up to 64 MiB"}
	case c.QueueDepth < 1 || c.QueueDepth > 65_535:
		return &RangeError{"qd", c.QueueDepth, "from 1 to 65535"}
	case c.Queues < 1 || c.Queues > 65_535:
		return &RangeError{"queues", c.Queues, "from 1 to 65535"}
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
