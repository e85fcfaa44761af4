package rdma

import (
	"io/fs"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/mooring-io/mooring/core/admin"
)

// machine is one with a card that does RoCE v2, on which all is well. A case changes what it is about.
type machine struct {
	sys, dev   map[string]string
	pfc        uint8
	pfcErr     error
	interfaces []Interface
	listeners  []string
	memLock    uint64
}

const card = "class/infiniband/mlx5_0/"

func well() *machine {
	return &machine{
		sys: map[string]string{
			card + "node_type":                          "1: CA",
			card + "ports/1/link_layer":                 "Ethernet",
			card + "ports/1/state":                      "4: ACTIVE",
			card + "ports/1/gids/0":                     "0000:0000:0000:0000:0000:ffff:0a00:0001",
			card + "ports/1/gids/1":                     "0000:0000:0000:0000:0000:ffff:0a00:0001",
			card + "ports/1/gids/2":                     "0000:0000:0000:0000:0000:0000:0000:0000",
			card + "ports/1/gid_attrs/types/0":          "IB/RoCE v1",
			card + "ports/1/gid_attrs/types/1":          "RoCE v2",
			card + "ports/1/gid_attrs/ndevs/0":          "eth0",
			card + "ports/1/gid_attrs/ndevs/1":          "eth0",
			card + "ports/1/hw_counters/np_cnp_sent":    "17",
			card + "ports/1/hw_counters/packet_seq_err": "0",
			"class/net/eth0/mtu":                        "9000",
			"class/net/eth0/ecn/roce_np/enable/3":       "1",
		},
		dev: map[string]string{"infiniband/rdma_cm": "", "infiniband/uverbs0": ""},
		pfc: 1 << 3,
		interfaces: []Interface{
			{Name: "lo", Loopback: true, Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}},
			{Name: "eth0", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
			{Name: "eth1", Addrs: []netip.Addr{netip.MustParseAddr("10.0.1.1")}},
		},
		listeners: []string{"nvme-rdma://10.0.0.1:4420", "nvme-tcp://192.0.2.1:4420"},
		memLock:   Unlimited,
	}
}

func tree(of map[string]string) fs.FS {
	m := fstest.MapFS{}
	for name, text := range of {
		m[name] = &fstest.MapFile{Data: []byte(text + "\n")}
	}
	return m
}

func (m *machine) examine(t *testing.T) []admin.Finding {
	t.Helper()
	found, err := Machine{
		Sys: tree(m.sys), Dev: tree(m.dev), Interfaces: m.interfaces, Listeners: m.listeners, Pool: 64 << 20, MemLock: m.memLock, MemLockOf: "the agent",
		PFC: func(iface string) (uint8, error) {
			if iface != "eth0" {
				t.Errorf("asked for the PFC of %q", iface)
			}
			return m.pfc, m.pfcErr
		},
	}.Examine()
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestAllIsWell(t *testing.T) {
	found := well().examine(t)
	if len(found) == 0 {
		t.Error("nothing is said")
	}
	for _, f := range found {
		if f.Level != "ok" || f.Fix != "" {
			t.Errorf("%+v", f)
		}
	}
}

// Each case breaks one thing; what is said names it, and the command that mends it.
func TestFindings(t *testing.T) {
	set := func(name, text string) func(*machine) { return func(m *machine) { m.sys[name] = text } }
	without := func(prefix string) func(*machine) {
		return func(m *machine) {
			for name := range m.sys {
				if strings.HasPrefix(name, prefix) {
					delete(m.sys, name)
				}
			}
		}
	}
	both := func(all ...func(*machine)) func(*machine) {
		return func(m *machine) {
			for _, f := range all {
				f(m)
			}
		}
	}
	lossy := both(without("class/net/eth0/ecn"), func(m *machine) { m.pfc = 0 })
	for _, c := range []struct {
		name             string
		broken           func(*machine)
		level, what, fix string
	}{
		{"no device", without(card), "error", "no RDMA device", "modprobe rdma_rxe && rdma link add rxe0 type rxe netdev eth0"},
		{"a listener, and no device", without(card), "error", "nvme-rdma://10.0.0.1:4420", "as said above"},
		{"iWARP", set(card+"node_type", "4: RNIC"), "warn", "iWARP", "devlink dev param set"},
		{"InfiniBand", set(card+"ports/1/link_layer", "InfiniBand"), "warn", "is InfiniBand", "LINK_TYPE_P1=2"},
		{"a link that is down", set(card+"ports/1/state", "1: DOWN"), "error", "is DOWN", "ip link set eth0 up"},
		{"RoCE v1 GIDs only", set(card+"ports/1/gid_attrs/types/1", "IB/RoCE v1"), "error", "RoCE v1 GIDs only", "roce_mode=2"},
		{"no address", both(without(card+"ports/1/gids"), set(card+"parent", "eth0")), "error", "no GID", "ip addr add ADDRESS/PREFIX dev eth0"},
		{"link-local addresses only", set(card+"ports/1/gids/1", "fe80:0000:0000:0000:0000:0000:0000:0001"), "warn", "link-local addresses only: [fe80::1%eth0]", "ip addr add"},
		{"RoCE v1 unless told otherwise", set("kernel/config/rdma_cm/mlx5_0/ports/1/default_roce_mode", "IB/RoCE v1"), "error", "go by RoCE v1", "cma_roce_mode -d mlx5_0 -p 1 -m 2"},
		{"MTU of Ethernet", set("class/net/eth0/mtu", "1500"), "warn", "1024 bytes per packet", "ip link set eth0 mtu 9000"},
		{"MTU a byte too small", set("class/net/eth0/mtu", "4191"), "warn", "2048 bytes per packet", "at least 4192"},
		{"MTU just enough", set("class/net/eth0/mtu", "4192"), "ok", "4096 bytes per packet", ""},
		{"soft device", set(card+"parent", "eth0"), "warn", "made by software on eth0", ""},
		{"neither PFC nor ECN", lossy, "warn", "neither PFC nor ECN", "--pfc 0,0,0,1"},
		{"ECN alone", func(m *machine) { m.pfc = 0 }, "ok", "ECN", ""},
		{"PFC alone", without("class/net/eth0/ecn"), "ok", "priorities 3", ""},
		{"a driver that tells nothing", both(lossy, func(m *machine) { m.pfcErr = ErrNoDCB }), "warn", "does not tell", "manual"},
		{"lost packets", set(card+"ports/1/hw_counters/packet_seq_err", "12"), "warn", "packet_seq_err 12", "rdma statistic show link mlx5_0/1"},
		{"no connection manager", func(m *machine) { delete(m.dev, "infiniband/rdma_cm") }, "error", "rdma_cm", "modprobe rdma_ucm"},
		{"no verbs", func(m *machine) { delete(m.dev, "infiniband/uverbs0") }, "error", "uverbs", "modprobe ib_uverbs"},
		{"locked memory below the pool", func(m *machine) { m.memLock = 8 << 20 }, "error", "the agent may lock 8MiB, less than the plugin's pool of 64MiB", "LimitMEMLOCK=infinity"},
		{"little locked memory", func(m *machine) { m.memLock = 64 << 20 }, "warn", "may lock 64MiB", "ulimit -l unlimited"},
		{"address of an interface without a device", func(m *machine) { m.listeners = []string{"nvme-rdma://10.0.1.1:4420"} }, "error", "10.0.1.1", "netdev eth1"},
		{"address of loopback", func(m *machine) { m.listeners = []string{"nvme-rdma://127.0.0.1:4420"} }, "error", "127.0.0.1", "a device has: 10.0.0.1"},
		{"address of nobody", func(m *machine) { m.listeners = []string{"nvme-rdma://10.9.9.9:4420"} }, "error", "10.9.9.9", "a device has: 10.0.0.1"},
		{"every address", func(m *machine) { m.listeners = []string{"nvme-rdma://0.0.0.0:4420"} }, "ok", "0.0.0.0", ""},
		{"neither address nor device", func(m *machine) { m.listeners = []string{"nvme-rdma://node-1:4420"} }, "error", "node-1", "nvme-rdma://10.0.0.1:4420"},
		{"a device", func(m *machine) { m.listeners = []string{"nvme-rdma://mlx5_0:4420"} }, "ok", "means 10.0.0.1", ""},
		{"a device that is not reached", both(set(card+"node_type", "4: RNIC"), func(m *machine) { m.listeners = []string{"nvme-rdma://mlx5_0:4420"} }), "error", "not reached over RoCE v2", "said of the device"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := well()
			c.broken(m)
			found := m.examine(t)
			for _, f := range found {
				if f.Level == c.level && strings.Contains(f.What, c.what) && strings.Contains(f.Fix, c.fix) {
					return
				}
			}
			t.Errorf("no %q with %q and %q in %+v", c.level, c.what, c.fix, found)
		})
	}
}

// Bytes as the kernel of a card with PFC for priorities 3 and 4 answers: struct dcbmsg, then IFNAME and IEEE.
func TestParsePFC(t *testing.T) {
	pfc := append([]byte{8, 0x18, 0, 0}, make([]byte, 4+8*16)...)
	attr := func(typ byte, body []byte) []byte {
		b := append([]byte{byte(4 + len(body)), byte((4 + len(body)) >> 8), typ, 0}, body...)
		return append(b, make([]byte, (4-len(b)%4)%4)...)
	}
	msg := append([]byte{0, 21, 0, 0}, attr(dcbIfname, []byte("eth0\x00"))...)
	msg = append(msg, attr(dcbIEEE, append(attr(1, make([]byte, 8)), attr(dcbIEEEPFC, pfc)...))...)
	if got, err := parsePFC(msg); err != nil || got != 0x18 {
		t.Errorf("%#x, %v", got, err)
	}
	for n := range msg {
		if got, err := parsePFC(msg[:n]); err == nil {
			t.Errorf("%d bytes were taken for %#x", n, got)
		}
	}
}

// Loopback has none; the kernel is asked for real.
func TestPFCOfLoopback(t *testing.T) {
	if got, err := PFC("lo"); err == nil {
		t.Errorf("loopback has PFC %#x", got)
	}
}
