package transport

import (
	"errors"
	"testing"
	"testing/fstest"

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
	sys := fstest.MapFS{}
	for name, text := range map[string]string{
		"mlx5_0/node_type": "1: CA", "mlx5_0/ports/1/link_layer": "Ethernet", "mlx5_0/ports/1/state": "4: ACTIVE",
		"mlx5_0/ports/1/gids/0": "fe80:0000:0000:0000:0000:0000:0000:0001", "mlx5_0/ports/1/gid_attrs/types/0": "RoCE v2", "mlx5_0/ports/1/gid_attrs/ndevs/0": "eth0",
		"mlx5_0/ports/1/gids/1": "0000:0000:0000:0000:0000:ffff:0a00:0001", "mlx5_0/ports/1/gid_attrs/types/1": "RoCE v2", "mlx5_0/ports/1/gid_attrs/ndevs/1": "eth0",
		"mlx5_1/node_type": "1: CA", "mlx5_1/ports/1/link_layer": "Ethernet", "mlx5_1/ports/1/state": "4: ACTIVE",
	} {
		sys["class/infiniband/"+name] = &fstest.MapFile{Data: []byte(text + "\n")}
	}
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
		{"nvme-rdma://mlx5_0:4420", "10.0.0.1:4420"},
		{"nvme-rdma://mlx5_0", "10.0.0.1:4420"},
		{"nvme-rdma://mlx5_1:4420", ""}, // has no address
		{"nvme-rdma://mlx5_2:4420", ""}, // is not there
	} {
		got, err := parseURL(c.url, sys)
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
