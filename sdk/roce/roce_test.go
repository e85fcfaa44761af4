package roce

import (
	"io/fs"
	"net/netip"
	"reflect"
	"testing"
	"testing/fstest"
)

func files(of map[string]string) fs.FS {
	m := fstest.MapFS{}
	for name, text := range of {
		m[name] = &fstest.MapFile{Data: []byte(text + "\n")}
	}
	return m
}

// The files are as rdma_rxe of Linux 6.1 has them.
func TestDevices(t *testing.T) {
	const p = "class/infiniband/rxe0/ports/1/"
	got, err := Devices(files(map[string]string{
		"class/infiniband/rxe0/node_type": "1: CA",
		"class/infiniband/rxe0/parent":    "roce0",
		p + "link_layer":                  "Ethernet",
		p + "state":                       "4: ACTIVE",
		p + "gids/0":                      "fe80:0000:0000:0000:7c5f:b1ff:fe0c:0a1e",
		p + "gids/1":                      "0000:0000:0000:0000:0000:ffff:0a63:0001",
		p + "gids/2":                      "0000:0000:0000:0000:0000:0000:0000:0000",
		p + "gids/10":                     "fd00:0000:0000:0000:0000:0000:0000:0001",
		p + "gids/9":                      "0000:0000:0000:0000:0000:ffff:0a63:0002",
		p + "gid_attrs/types/0":           "RoCE v2",
		p + "gid_attrs/types/1":           "RoCE v2",
		p + "gid_attrs/types/9":           "IB/RoCE v1",
		p + "gid_attrs/types/10":          "RoCE v2",
		p + "gid_attrs/ndevs/0":           "roce0",
		p + "gid_attrs/ndevs/1":           "roce0",
		p + "gid_attrs/ndevs/9":           "roce0",
		p + "gid_attrs/ndevs/10":          "roce0.7",
	}))
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr
	want := []Device{{Name: "rxe0", Parent: "roce0", Ports: []Port{{
		Number: 1, LinkLayer: "Ethernet", State: "ACTIVE", GIDs: []GID{
			{0, addr("fe80::7c5f:b1ff:fe0c:a1e"), RoCEv2, "roce0"},
			{1, addr("10.99.0.1"), RoCEv2, "roce0"},
			{9, addr("10.99.0.2"), RoCEv1, "roce0"},
			{10, addr("fd00::1"), RoCEv2, "roce0.7"},
		},
	}}}}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v\nwant %+v", got, want)
	}
	addrs := []netip.Addr{addr("10.99.0.1"), addr("fd00::1"), addr("fe80::7c5f:b1ff:fe0c:a1e%roce0")}
	if got := got[0].Addrs(); !reflect.DeepEqual(got, addrs) {
		t.Errorf("addresses %v, want %v", got, addrs)
	}
}

func TestNoDevices(t *testing.T) {
	if got, err := Devices(fstest.MapFS{}); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

// What RoCE v2 does not reach has no addresses.
func TestOtherLinks(t *testing.T) {
	for _, c := range []struct {
		name string
		d    Device
	}{
		{"iWARP", Device{IWARP: true, Ports: []Port{{LinkLayer: "Ethernet", GIDs: []GID{{Addr: netip.MustParseAddr("10.0.0.1"), Type: RoCEv2}}}}}},
		{"InfiniBand", Device{Ports: []Port{{LinkLayer: "InfiniBand", GIDs: []GID{{Addr: netip.MustParseAddr("fd00::1"), Type: RoCEv2}}}}}},
		{"RoCE v1", Device{Ports: []Port{{LinkLayer: "Ethernet", GIDs: []GID{{Addr: netip.MustParseAddr("10.0.0.1"), Type: RoCEv1}}}}}},
	} {
		if got := c.d.Addrs(); len(got) != 0 {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
