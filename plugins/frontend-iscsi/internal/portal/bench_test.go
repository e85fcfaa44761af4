package portal

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/mooring-io/mooring/sdk/bench"
	"github.com/mooring-io/mooring/sdk/iscsihost"
)

func (r *rig) url(query string) string {
	return "iscsi://" + r.address + "/" + testTarget + "?" + query
}

// Our own initiator, many commands of mixed kinds in flight: every block that is read is the one that was written.
func TestBenchVerified(t *testing.T) {
	for _, tc := range []struct {
		name   string
		block  int
		query  string
		queues int
	}{
		{"4 KiB", 4096, "lun=0", 2},
		{"16 KiB digests", 16 << 10, "hdgst=1&ddgst=1", 1},
		{"256 KiB", 256 << 10, "ddgst=1", 1}, // several Data-In, and solicited data
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, nil)
			res, err := bench.Run(t.Context(), bench.Config{
				URL: r.url(tc.query), RW: "randrw", Mix: 40, BlockBytes: tc.block, QueueDepth: 8, Queues: tc.queues,
				Time: 300 * time.Millisecond, Verify: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			if res.Errors != 0 || res.VerifyErrors != 0 || res.Verified == 0 {
				t.Errorf("errors %d %v, verified %d, wrong %d %v", res.Errors, res.ErrorCounts, res.Verified, res.VerifyErrors, res.Mismatches)
			}
		})
	}
}

// A depth that the target does not take is said with the flag and its range, and nothing is measured.
func TestBenchRange(t *testing.T) {
	r := newRig(t, nil)
	res, err := bench.Run(t.Context(), bench.Config{URL: r.url("lun=0"), QueueDepth: 5000})
	var out *bench.RangeError
	if res != nil || !errors.As(err, &out) || err.Error() != "-qd 5000 is out of range: it must be from 1 to 256, which is the most that the target takes on one queue" {
		t.Errorf("%v, %v", res, err)
	}
}

// The initiator proves who it is, and is refused without the right proof.
func TestBenchCHAP(t *testing.T) {
	r := newRig(t, nil)
	run := func(c iscsihost.CHAP) error {
		_, err := bench.Run(context.Background(), bench.Config{
			URL: strings.Replace(r.url("lun=0"), testTarget, guardedTarget, 1), Host: testInitiator, CHAP: c, Time: 20 * time.Millisecond,
		})
		return err
	}
	if err := run(iscsihost.CHAP{Secret: secret}); err != nil {
		t.Error(err)
	}
	for _, c := range []iscsihost.CHAP{{}, {Secret: "another of 16 bytes"}, {Secret: secret, User: "somebody"}} {
		var refused *iscsihost.LoginError
		if err := run(c); !errors.As(err, &refused) {
			t.Errorf("%q: %v", c.User, err)
		}
	}
}
