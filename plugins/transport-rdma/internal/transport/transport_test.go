package transport

import (
	"errors"
	"testing"

	"github.com/mooring-io/mooring/sdk"
)

func TestConfig(t *testing.T) {
	if _, err := ParseConfig(nil); err != nil {
		t.Fatalf("defaults: %v", err)
	}
	for _, c := range []struct{ name, text, attribute string }{
		{"too few receives", `{"shared_receives": 63}`, "shared_receives"},
		{"fewest receives", `{"shared_receives": 64}`, ""},
		{"no data in capsules", `{"in_capsule_bytes": 0}`, ""},
		{"data not a multiple of 16", `{"in_capsule_bytes": 4100}`, "in_capsule_bytes"},
		{"too much data", `{"in_capsule_bytes": 65552}`, "in_capsule_bytes"},
		{"queue too deep", `{"queue_depth": 8193}`, "queue_depth"},
		{"no queue", `{"max_io_queues": 0}`, "max_io_queues"},
		{"one connection", `{"max_connections": 1}`, "max_connections"},
	} {
		_, err := ParseConfig([]byte(c.text))
		var a *sdk.AttributeError
		switch {
		case c.attribute == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.attribute != "" && (!errors.As(err, &a) || a.Attribute != c.attribute):
			t.Errorf("%s: %v, want a complaint about %s", c.name, err, c.attribute)
		}
	}
}

func TestURL(t *testing.T) {
	for _, c := range []struct{ url, want string }{
		{"nvme-rdma://192.0.2.1:4421", "192.0.2.1:4421"},
		{"nvme-rdma://192.0.2.1", "192.0.2.1:4420"},
		{"nvme-rdma://[fd00::1]:4420", "[fd00::1]:4420"},
		{"nvme-rdma://[fe80::1%25eth0]:4420", "[fe80::1%eth0]:4420"},
		{"nvme-rdma://192.0.2.1:4420/", "192.0.2.1:4420"},
		{"nvme-rdma://192.0.2.1:4420/x", ""},
		{"nvme-rdma://192.0.2.1:65536", ""},
		{"nvme-tcp://192.0.2.1:4420", ""},
		{"nvme-rdma://:4420", ""},
		{"nvme-rdma://192.0.2.1:4420?q=1", ""},
	} {
		got, err := parseURL(c.url)
		if (err == nil) != (c.want != "") || err == nil && got.String() != c.want {
			t.Errorf("%s: %v, %v; want %q", c.url, got, err, c.want)
		}
	}
}

func TestWorkID(t *testing.T) {
	for _, k := range []workKind{workReceive, workSend, workWrite, workRead} {
		for _, i := range []int{0, 1, 1<<31 - 1} {
			if gk, gi := workOf(workID(k, i)); gk != k || gi != i {
				t.Errorf("%d, %d became %d, %d", k, i, gk, gi)
			}
		}
	}
}
