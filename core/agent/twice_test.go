package agent

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/meta"
)

// Making what exists already changes nothing and is no error, and the agent says which it was. What
// differs from what exists is refused.
func TestTwice(t *testing.T) {
	n := startNode(t, t.TempDir(), "")
	disk := filepath.Join(t.TempDir(), "disk")
	const iqn, host = "iqn.2026-11.io.mooring:test", "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
	for _, c := range []struct {
		path string
		in   any
		// other is refused once in was done.
		other any
	}{
		{"/v1/tenants", map[string]any{"name": "acme", "policy": "balance"}, map[string]any{"name": "acme", "policy": "inherit"}},
		{"/v1/volumes", admin.VolumeCreate{Name: "v", Size: 1 << 30}, admin.VolumeCreate{Name: "v", Size: 2 << 30}},
		{"/v1/volumes", admin.VolumeCreate{Name: "w", Size: 1 << 30, Group: "g"}, admin.VolumeCreate{Name: "w", Size: 1 << 30}},
		{"/v1/subsystems", admin.SubsystemCreate{NQN: testNQN}, admin.SubsystemCreate{NQN: testNQN, Serial: "other"}},
		{"/v1/subsystems/" + testNQN + "/namespaces", admin.NamespaceAttach{Volume: "v"}, admin.NamespaceAttach{Volume: "v", VisibleTo: []string{host}}},
		{"/v1/hosts/allow", admin.HostRule{Subsystem: testNQN, Host: host}, nil},
		{"/v1/hosts/allow", admin.HostRule{Subsystem: testNQN, Host: host, NSID: 1}, nil},
		{"/v1/hosts/deny", admin.HostRule{Subsystem: testNQN, Host: host}, nil},
		{"/v1/targets", admin.TargetCreate{IQN: iqn}, admin.TargetCreate{IQN: iqn, AllowAnyHost: true}},
		{"/v1/targets/" + iqn + "/luns", admin.LUNAttach{Volume: "v"}, nil},
		{"/v1/stores", admin.StoreAdd{Name: "disk", Path: disk}, admin.StoreAdd{Name: "disk", Path: disk + "2"}},
	} {
		for _, want := range []bool{false, true} {
			if existed, err := n.client.Create(n.ctx, c.path, c.in, nil); err != nil || existed != want {
				t.Errorf("%s %+v: existed %v, %v; want %v", c.path, c.in, existed, err, want)
			}
		}
		if c.other != nil {
			n.do("POST", c.path, c.other, nil, "exists")
		}
	}
	// Also when hosts were allowed since.
	n.do("POST", "/v1/hosts/allow", admin.HostRule{Subsystem: testNQN, Host: host}, nil)
	if existed, err := n.client.Create(n.ctx, "/v1/subsystems", admin.SubsystemCreate{NQN: testNQN}, nil); err != nil || !existed {
		t.Errorf("the subsystem again: existed %v, %v", existed, err)
	}
	// What is in the way is named as its user does.
	n.do("POST", "/v1/subsystems/"+testNQN+"/namespaces", admin.NamespaceAttach{Volume: "w", NSID: 1}, nil, "exists", "volume default/v")
	created := 0
	if err := admin.Stream(n.ctx, n.client, "GET", "/v1/events", func(e admin.Event) error {
		if e.Kind == "volume-created" || e.Kind == "subsystem-created" || e.Kind == "host-allowed" {
			created++
		}
		return nil
	}); err != nil || created != 6 {
		t.Errorf("%d events, %v; want 6: two volumes, a subsystem, a host three times", created, err)
	}
}

// doctor says when volumes are promised more than there is: space, or nodes for replicas.
func TestDoctorVolumes(t *testing.T) {
	n := startNode(t, t.TempDir(), "")
	says := func(text string) bool {
		var fs []admin.Finding
		n.do("GET", "/v1/doctor", nil, &fs)
		return slices.ContainsFunc(fs, func(f admin.Finding) bool { return f.Level == "warn" && strings.Contains(f.What, text) })
	}
	n.do("POST", "/v1/volumes", admin.VolumeCreate{Name: "fits", Size: 1 << 20}, nil)
	if says("promised") || says("replicas are asked for") {
		t.Error("a volume that fits is complained of")
	}
	n.do("POST", "/v1/volumes", admin.VolumeCreate{Name: "large", Size: 1 << 40}, nil)
	n.do("POST", "/v1/volumes", admin.VolumeCreate{Name: "fast", Size: 1 << 20, Media: "nvme"}, nil)
	if !says("promised") || !says("default/fast: 1 replicas are asked for, and 0 nodes") {
		t.Error("1 TiB in a store of 512 MiB, or a media class that is not there, is not worth a word")
	}
}

func TestNear(t *testing.T) {
	for _, c := range []struct {
		n    int
		s    meta.Spread
		want string
	}{
		{1, meta.Spread{Nodes: 1, Racks: 1, Zones: 1}, ""},
		{2, meta.Spread{Nodes: 1, Racks: 1, Zones: 1}, "1 nodes"},
		{2, meta.Spread{Nodes: 2, Racks: 1, Zones: 1}, ""}, // nobody named any
		{2, meta.Spread{Nodes: 2, Racks: 1, Zones: 1, HasRacks: true}, "one rack"},
		{2, meta.Spread{Nodes: 2, Racks: 2, Zones: 1, HasRacks: true}, ""},
		{2, meta.Spread{Nodes: 2, Racks: 2, Zones: 1, HasZones: true}, "one zone"},
		{3, meta.Spread{Nodes: 3, Racks: 3, Zones: 2, HasZones: true, HasRacks: true}, ""},
	} {
		if got := near(c.n, c.s); got == "" != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%d replicas over %+v: %q, want %q", c.n, c.s, got, c.want)
		}
	}
}

// The file and the command line have one rule for the size of a volume.
func TestVolumeSizes(t *testing.T) {
	n := startNode(t, t.TempDir(), "")
	for i, c := range []struct {
		size int64
		ok   bool
	}{
		{0, false}, {4096, false}, {1<<20 - 4096, false}, {1 << 20, true}, {1<<20 + 4096, true}, {1<<20 + 512, false}, {1<<50 - 4096, true}, {1 << 50, true}, {1<<50 + 4096, false},
	} {
		_, err := config.Parse(fmt.Appendf(nil, "volume \"v\" {\n  size = %q\n}\n", fmt.Sprint(c.size)), "node.hcl")
		if (err == nil) != c.ok {
			t.Errorf("a file with a volume of %d bytes: %v", c.size, err)
		}
		err = n.client.Do(n.ctx, "POST", "/v1/volumes", admin.VolumeCreate{Name: fmt.Sprint("v", i), Size: c.size}, nil)
		if (err == nil) != c.ok {
			t.Errorf("a volume of %d bytes: %v", c.size, err)
		}
	}
}
