package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestExampleFilesAreValid(t *testing.T) {
	for _, name := range []string{"config.hcl", "packaging/config.hcl"} {
		c, err := Load(filepath.Join("..", "..", name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(c.Plugins) == 0 || len(c.Volumes) == 0 || len(c.Subsystems) == 0 {
			t.Errorf("%s serves nothing: %+v", name, c)
		}
	}
}

func TestDefaults(t *testing.T) {
	c, err := Parse(nil, "/etc/mooring/config.hcl")
	if err != nil {
		t.Fatal(err)
	}
	if c.DataDir != "/etc/mooring/data" || c.Stores[0].Path != "/etc/mooring/data/stores/main" || c.Admin.Socket != "/etc/mooring/data/mooring.sock" {
		t.Errorf("paths are not taken from the file's folder: %+v", c)
	}
	if c.Limits.HoldFor != 10*time.Second || c.Log.Level != "info" || c.Admin.Metrics == "" {
		t.Errorf("defaults: %+v", c)
	}
}

func TestCluster(t *testing.T) {
	c, err := Parse([]byte("node {\n  name = \"a\"\n  address = \"127.0.0.1:7400\"\n}\ncluster {\n  endpoints = [\"https://a:2379\"]\n  ca_file = \"ca.pem\"\n}\n"), "/etc/mooring/config.hcl")
	if err != nil {
		t.Fatal(err)
	}
	if c.Node.Address != "127.0.0.1:7400" || c.Cluster.Embed || c.Cluster.CAFile != "/etc/mooring/ca.pem" || c.Cluster.Prefix != "mooring/" || c.Limits.SessionTTL != ClusterSessionTTL {
		t.Errorf("%+v %+v %+v", c.Node, c.Cluster, c.Limits)
	}
}

// A redirector's address is IPv4 or IPv6, beside listeners of the node's own.
func TestRedirector(t *testing.T) {
	for url, address := range map[string]string{"iscsi://192.0.2.100:3260": "192.0.2.100", "iscsi://[2001:db8:0::100]:860": "2001:db8::100"} {
		c, err := Parse(fmt.Appendf(nil, "plugin \"p\" {\n listen = [\"iscsi://192.0.2.11:3260\", \"iscsi://[::]:3261\"]\n redirector %q {\n  interface = \"eth0\"\n }\n}", url), "test.hcl")
		if err != nil {
			t.Fatal(err)
		}
		if r := c.Plugins[0].Redirector; r == nil || *r != (Redirector{URL: url, Address: netip.MustParseAddr(address), Interface: "eth0"}) {
			t.Errorf("%+v", r)
		}
	}
}

// Each wrong file must be refused with the line and with what would be right.
func TestWrongFiles(t *testing.T) {
	for name, tc := range map[string]struct{ src, line, says string }{
		"syntax":                      {"volume \"a\" {\n  size = \n}", "line 2", ""},
		"unknown block":               {"\nvolumes \"a\" {}", "line 2", "volume"},
		"unknown attribute":           {"volume \"a\" {\n size = \"1GiB\"\n sise = 1\n}", "line 3", "sise"},
		"missing size":                {"volume \"a\" {}", "line 1", "size"},
		"bad size":                    {"volume \"a\" {\n size = \"1GB\"\n}", "line 2, column 9", "10GiB"},
		"odd size":                    {"volume \"a\" {\n size = \"1000\"\n}", "line 2, column 9", "multiple of 4 KiB"},
		"block size":                  {"volume \"a\" {\n size = \"1GiB\"\n block_size = 1024\n}", "line 3, column 15", "512 or 4096"},
		"replicas":                    {"volume \"a\" {\n size = \"1GiB\"\n replicas = 0\n}", "line 3, column 13", "1 to 8"},
		"media":                       {"volume \"a\" {\n size = \"1GiB\"\n media = \"tape\"\n}", "line 3, column 10", "nvme"},
		"rack":                        {"node {\n rack = \"a b\"\n}", "line 2, column 9", "letters"},
		"durability":                  {"volume \"a\" {\n size = \"1GiB\"\n durability = \"fast\"\n}", "line 3, column 15", "volatile"},
		"name twice":                  {"volume \"a\" {\n size = \"1GiB\"\n}\nvolume \"a\" {\n size = \"1GiB\"\n}", "line 4", ":1"},
		"bad name":                    {"volume \"a b\" {\n size = \"1GiB\"\n}", "line 1", "letters"},
		"bad NQN":                     {"subsystem \"foo\" {}", "line 1, column 11", "nqn.yyyy-mm"},
		"unknown host":                {"subsystem \"nqn.2026-11.io.mooring:x\" {\n hosts = [\"db\"]\n}", "line 2, column 11", "neither a host block"},
		"bad NSID":                    {"subsystem \"nqn.2026-11.io.mooring:x\" {\n namespace \"0\" {\n  volume = \"a\"\n }\n}", "line 2, column 12", "1 to 1024"},
		"bad listen":                  {"plugin \"transport-tcp\" {\n listen = [\"127.0.0.1:4420\"]\n}", "line 2, column 12", "nvme-tcp://"},
		"port missing":                {"plugin \"transport-tcp\" {\n listen = [\"nvme-tcp://127.0.0.1\"]\n}", "line 2, column 12", "nvme-tcp://"},
		"redirector, name":            {"plugin \"p\" {\n redirector \"iscsi://a.example.com:3260\" {\n  interface = \"eth0\"\n }\n}", "line 2, column 13", "192.0.2.100"},
		"redirector, loopback":        {"plugin \"p\" {\n redirector \"iscsi://127.0.0.1:3260\" {\n  interface = \"eth0\"\n }\n}", "line 2, column 13", "192.0.2.100"},
		"redirector, link":            {"plugin \"p\" {\n redirector \"iscsi://[fe80::1]:3260\" {\n  interface = \"eth0\"\n }\n}", "line 2, column 13", "192.0.2.100"},
		"redirector, no port":         {"plugin \"p\" {\n redirector \"iscsi://192.0.2.100\" {\n  interface = \"eth0\"\n }\n}", "line 2, column 13", "192.0.2.100"},
		"redirector, NVMe":            {"plugin \"p\" {\n redirector \"nvme-tcp://192.0.2.100:4420\" {\n  interface = \"eth0\"\n }\n}", "line 2, column 13", "nothing else"},
		"redirector, interface":       {"plugin \"p\" {\n redirector \"iscsi://192.0.2.100:3260\" {\n  interface = \"lo\"\n }\n}", "line 3", "reach"},
		"redirector, no interface":    {"plugin \"p\" {\n redirector \"iscsi://192.0.2.100:3260\" {\n }\n}", "line 2", "interface"},
		"redirector, taken":           {"plugin \"p\" {\n listen = [\"iscsi://192.0.2.100:3260\"]\n redirector \"iscsi://192.0.2.100:3260\" {\n  interface = \"eth0\"\n }\n}", "line 3, column 13", "own address"},
		"redirector, everything":      {"plugin \"p\" {\n listen = [\"iscsi://0.0.0.0:3260\"]\n redirector \"iscsi://192.0.2.100:3260\" {\n  interface = \"eth0\"\n }\n}", "line 3, column 13", "own address"},
		"redirector, everything IPv6": {"plugin \"p\" {\n listen = [\"iscsi://[::]:3260\"]\n redirector \"iscsi://192.0.2.100:3260\" {\n  interface = \"eth0\"\n }\n}", "line 3, column 13", "own address"},
		"redirector twice":            {"plugin \"p\" {\n redirector \"iscsi://192.0.2.100:3260\" {\n  interface = \"eth0\"\n }\n redirector \"iscsi://192.0.2.101:3260\" {\n  interface = \"eth0\"\n }\n}", "line 5", "redirector"},
		"ring entries":                {"plugin \"p\" {\n ring_entries = 100\n}", "line 2, column 17", "power of two"},
		"resync too slow":             {"limits {\n resync_rate = \"4KiB\"\n}", "line 2, column 16", "1MiB"},
		"hold_for too long":           {"limits {\n hold_for = \"5m\"\n}", "line 2, column 13", "25s"},
		"store too small":             {"store \"a\" {\n capacity = \"1MiB\"\n}", "line 2, column 13", "256MiB"},
		"second listen":               {"plugin \"p\" {\n listen = [\"a://b:1\",\n   \"c\"]\n}", "line 3, column 4", "nvme-tcp://"},
		"label":                       {"\nvolume \"a b\" {\n size = \"1GiB\"\n}", "line 2, column 8", "letters"},
		"node address":                {"node {\n address = \"0.0.0.0:7400\"\n}", "line 2, column 12", "192.0.2.1:7400"},
		"last port":                   {"node {\n address = \"127.0.0.1:65533\"\n}", "line 2, column 12", "4 free ports"},
		"no node address":             {"\ncluster {\n embed = true\n}", "line 2", "address = "},
		"no etcd":                     {"node {\n address = \"127.0.0.1:7400\"\n}\ncluster {}", "line 4", "embed = true"},
		"two etcds":                   {"node {\n address = \"127.0.0.1:7400\"\n}\ncluster {\n embed = true\n endpoints = [\"http://a:1\"]\n}", "line 6, column 14", "embed = true"},
		"bad endpoint":                {"node {\n address = \"127.0.0.1:7400\"\n}\ncluster {\n endpoints = [\"http://a:1\", \"b:1\"]\n}", "line 5, column 29", "https://"},
		"embed with a CA":             {"node {\n address = \"127.0.0.1:7400\"\n}\ncluster {\n embed = true\n ca_file = \"x\"\n}", "line 6, column 12", "endpoints"},
		"half of a pair":              {"node {\n address = \"127.0.0.1:7400\"\n}\ncluster {\n endpoints = [\"http://a:1\"]\n username = \"x\"\n}", "line 6, column 13", "password_file"},
		"host NQN":                    {"host \"a\" {\n nqn = \"b\"\n}", "line 2, column 8", "nqn.yyyy-mm"},
		"host without name":           {"host \"a\" {}", "line 1", "iqn ="},
		"host IQN":                    {"host \"a\" {\n iqn = \"nqn.2026-11.io.mooring:x\"\n}", "line 2, column 8", "iqn.yyyy-mm"},
		"bad IQN":                     {"target \"nqn.2026-11.io.mooring:x\" {}", "line 1", "iqn.yyyy-mm"},
		"target twice":                {"target \"iqn.2026-11.io.mooring:x\" {}\ntarget \"iqn.2026-11.io.mooring:x\" {}", "line 2", ":1"},
		"target mode":                 {"target \"iqn.2026-11.io.mooring:x\" {\n mode = \"fast\"\n}", "line 2, column 9", "redirect"},
		"initiator":                   {"host \"a\" {\n nqn = \"nqn.2026-11.io.mooring:x\"\n}\ntarget \"iqn.2026-11.io.mooring:x\" {\n hosts = [\"a\"]\n}", "line 5, column 11", "no iqn"},
		"unknown initiator":           {"target \"iqn.2026-11.io.mooring:x\" {\n hosts = [\"db\"]\n}", "line 2, column 11", "an IQN"},
		"bad LUN":                     {"target \"iqn.2026-11.io.mooring:x\" {\n lun \"1024\" {\n  volume = \"a\"\n }\n}", "line 2", "0 to 1023"},
		"LUN twice":                   {"target \"iqn.2026-11.io.mooring:x\" {\n lun \"1\" {\n  volume = \"a\"\n }\n lun \"1\" {\n  volume = \"b\"\n }\n}", "line 5", "twice"},
		"no secret":                   {"target \"iqn.2026-11.io.mooring:x\" {\n chap {}\n}", "line 2", "secret_file"},
		"short secret":                {"target \"iqn.2026-11.io.mooring:x\" {\n chap {\n  secret = \"elevenbytes\"\n }\n}", "line 3", "12 to 255"},
		"secret twice":                {"target \"iqn.2026-11.io.mooring:x\" {\n chap {\n  secret = \"twelve bytes\"\n  secret_file = \"f\"\n }\n}", "line 4, column 17", "not both"},
		"no secret file":              {"target \"iqn.2026-11.io.mooring:x\" {\n chap {\n  secret_file = \"/nowhere/at/all\"\n }\n}", "line 3, column 17", "/nowhere"},
		"mutual user alone":           {"target \"iqn.2026-11.io.mooring:x\" {\n chap {\n  secret = \"twelve bytes\"\n  mutual_user = \"u\"\n }\n}", "line 4", "mutual_secret"},
		"one secret":                  {"target \"iqn.2026-11.io.mooring:x\" {\n chap {\n  secret = \"twelve bytes\"\n  mutual_secret = \"twelve bytes\"\n }\n}", "line 2", "another one"},
		"serial":                      {"subsystem \"nqn.2026-11.io.mooring:x\" {\n serial = \"123456789012345678901\"\n}", "line 2, column 11", "20 ASCII"},
		"visible_to":                  {"subsystem \"nqn.2026-11.io.mooring:x\" {\n namespace \"1\" {\n  volume = \"a\"\n  visible_to = [\"db\"]\n }\n}", "line 4, column 17", "neither a host block"},
		"metrics address":             {"admin {\n metrics = \"9464\"\n}", "line 2, column 12", "127.0.0.1:9464"},
		"log level":                   {"log {\n level = \"loud\"\n}", "line 2, column 10", "warn"},
		"wrong type":                  {"plugin \"p\" {\n threads = \"many\"\n}", "line 2", "number"},
	} {
		_, err := Parse([]byte(tc.src), "test.hcl")
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		for _, want := range []string{"test.hcl", tc.line, tc.says} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: the message lacks %q:\n%v", name, want, err)
			}
		}
	}
}

func TestSize(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "4096": 4096, "1KiB": 1024, "1.5MiB": 3 << 19, "10G": 10 << 30, "2 TiB": 2 << 40, "7B": 7} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "GiB", "-1", "1GB", "1Gib", "x", "1e30PiB"} {
		if n, err := ParseSize(s); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", s, n)
		}
	}
	for _, n := range []int64{0, 1, 512, 1024, 1 << 20, 10 << 30, 3 << 39} {
		if back, err := ParseSize(FormatSize(n)); err != nil || back != n {
			t.Errorf("%d is written %q and read back as %d, %v", n, FormatSize(n), back, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	src, err := os.ReadFile("../../config.hcl")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(src)
	f.Fuzz(func(t *testing.T, src []byte) {
		if _, err := Parse(src, "fuzz.hcl"); err != nil {
			_ = err.Error()
		}
	})
}
