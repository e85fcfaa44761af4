package bench

import (
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

func TestParseURL(t *testing.T) {
	got, err := ParseURL("nvme-tcp://127.0.0.1:4420/nqn.2026-11.io.mooring:dev?ns=3&ddgst=1")
	want := Target{Scheme: SchemeNVMe, Address: "127.0.0.1:4420", Name: "nqn.2026-11.io.mooring:dev", Unit: 3, DataDigest: true}
	if err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := ParseURL("nvme-tcp://[::1]/nqn.x"); err != nil || got.Address != "[::1]:4420" || got.Unit != 1 {
		t.Errorf("defaults: %+v, %v", got, err)
	}
	if got, err := ParseURL("iscsi://192.0.2.1/iqn.x?hdgst=1"); err != nil || got != (Target{Scheme: SchemeISCSI, Address: "192.0.2.1:3260", Name: "iqn.x", HeaderDigest: true}) {
		t.Errorf("iSCSI: %+v, %v", got, err)
	}
	for _, bad := range []string{
		"", "http://a/b", "nvme-tcp:///nqn", "nvme-tcp://a", "nvme-tcp://a/", "nvme-tcp://a/n?ns=0",
		"nvme-tcp://a/n?ns=x", "nvme-tcp://a/n?ns=4294967295", "nvme-tcp://a/n?nsid=1", "nvme-tcp://a:b/n",
		"nvme-tcp://a/n?lun=1", "iscsi://a/n?ns=1", "iscsi://a/n?lun=16384", "iscsi://user:secret@a/n",
	} {
		if _, err := ParseURL(bad); err == nil || !strings.Contains(err.Error(), "looks like") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestConfigCheck(t *testing.T) {
	if err := (Config{}).withDefaults().check(); err != nil {
		t.Error(err)
	}
	for _, bad := range []Config{
		{RW: "erase"}, {Mix: 101}, {BlockBytes: 128 << 20}, {BlockBytes: 1000}, {QueueDepth: -1}, {Queues: 1 << 16}, {Time: -time.Second},
	} {
		if bad.withDefaults().check() == nil {
			t.Errorf("%+v passes", bad)
		}
	}
}

// Values that a target does not take are said with their flag and their range.
func TestRange(t *testing.T) {
	u := unit{name: "namespace 1", bytes: 1 << 30, block: 4096, maxIO: 1 << 20, maxDepth: 1023}
	for flag, c := range map[string]Config{
		"bs 3145728 is out of range: it must be from 4096 to 1048576 bytes":              {BlockBytes: 3 << 20},
		"bs 512 is out of range: it must be a multiple of the block size of namespace 1": {BlockBytes: 512},
		"qd 5000 is out of range: it must be from 1 to 1023":                             {QueueDepth: 5000},
	} {
		if _, err := c.withDefaults().area(u, false); err == nil || !strings.HasPrefix(err.Error(), "-"+flag) {
			t.Errorf("%s: %v", flag, err)
		}
	}
	a, err := Config{SpanBytes: 1 << 20}.withDefaults().area(u, true)
	if err != nil || a.places != 256 || a.perIO != 1 {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := (Config{SpanBytes: 64 << 10}).withDefaults().area(u, true); err == nil {
		t.Error("32 I/Os in flight on 16 places")
	}
}

// Percentiles are exact to the width of a bucket, everywhere on the scale.
func TestHistogram(t *testing.T) {
	var h histogram
	const n = 100_000
	for i := 1; i <= n; i++ {
		h.add(time.Duration(i) * 37 * time.Nanosecond)
	}
	for _, p := range []float64{0.01, 0.5, 0.99, 0.999} {
		want := p * n * 37
		if got := h.percentile(p); math.Abs(got-want) > want/subBuckets+37 {
			t.Errorf("p%g: got %g, want %g", 100*p, got, want)
		}
	}
	l := h.latency()
	if l.Max != n*37/1e3 || math.Abs(l.Mean-(n+1)/2.0*37/1e3) > 1e-6 {
		t.Errorf("got %+v", l)
	}
	var all histogram
	all.add(math.MaxInt64)
	all.add(0)
	all.merge(&h)
	if all.count != n+2 || all.percentile(0) != 0 || all.percentile(1) != math.MaxInt64 {
		t.Errorf("count %d, first %g, last %g", all.count, all.percentile(0), all.percentile(1))
	}
	for i := range len(all.buckets) {
		if v := valueOf(i); v < math.MaxInt64 && bucketOf(uint64(v)) != i {
			t.Fatalf("bucket %d holds %g, which belongs to %d", i, v, bucketOf(uint64(v)))
		}
	}
}

func TestVerify(t *testing.T) {
	const block, offset, run = 512, 8192, 77
	filled := func(off, generation, run uint64) []byte {
		b := make([]byte, 2*block)
		stamp(b[:block], off, generation, run)
		stamp(b[block:], off+block, generation, run)
		return b
	}
	damaged := filled(offset, 2, run)
	damaged[700] ^= 1
	torn := append(filled(offset, 2, run)[:block:block], filled(offset, 1, run)[block:]...)
	written := slot{generation: 2, next: 2}
	failed := slot{generation: 2, next: 4, unsure: true}
	for _, tc := range []struct {
		name string
		slot slot
		data []byte
		ok   bool
	}{
		{"what was written", written, filled(offset, 2, run), true},
		{"an older generation", written, filled(offset, 1, run), false},
		{"a generation never written", written, filled(offset, 3, run), false},
		{"half of each", written, torn, false},
		{"another place's", written, filled(offset+4096, 2, run), false},
		{"a damaged block", written, damaged, false},
		{"zeros", written, make([]byte, 2*block), false},
		{"an earlier run's", written, filled(offset, 2, run+1), false},
		{"zeros, never written", slot{}, make([]byte, 2*block), true},
		{"an earlier run's, never written", slot{}, filled(offset, 9, run+1), true},
		{"another place's, never written", slot{}, filled(offset+512, 9, run+1), false},
		{"ours, never written", slot{}, filled(offset, 1, run), false},
		{"before the failed write", failed, filled(offset, 2, run), true},
		{"after the failed write", failed, filled(offset, 4, run), true},
		{"long before the failed write", failed, filled(offset, 1, run), false},
		{"zeros, first write failed", slot{next: 1, unsure: true}, make([]byte, 2*block), true},
		{"first write failed, but is there", slot{next: 1, unsure: true}, filled(offset, 1, run), true},
	} {
		if err := tc.slot.checkRead(tc.data, offset, block, run); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestCPU(t *testing.T) {
	for begin := ownCPU(); ownCPU()-begin < 50*time.Millisecond; {
	}
	if cpu := cpuOf([]int{os.Getpid(), 1 << 30}); cpu < 30*time.Millisecond {
		t.Errorf("own process: %s", cpu)
	}
}

func TestResultJSON(t *testing.T) {
	r := run{cfg: Config{BlockBytes: 4096, RW: "randread"}, elapsed: time.Second}
	r.reads.add(time.Millisecond)
	b, err := json.Marshal(r.result())
	if err != nil || !strings.Contains(string(b), `"iops":1,`) || !strings.Contains(string(b), `"p99_9":`) {
		t.Errorf("%s, %v", b, err)
	}
}
