// Package rdma finds what on a machine keeps NVMe over RoCE v2 from working or makes it slow, and says how
// to mend it. It looks only, at files and through netlink: it opens no device, and serves nothing.
package rdma

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/sdk/roce"
)

// Scheme is that of the listeners concerned.
const Scheme = "nvme-rdma"

// Unlimited is a MemLock without a limit.
const Unlimited = math.MaxUint64

// Machine is what Examine looks at.
type Machine struct {
	Sys        fs.FS                             // /sys
	Dev        fs.FS                             // /dev
	PFC        func(iface string) (uint8, error) // as the function PFC
	Interfaces []Interface                       // of the network
	Listeners  []string                          // URLs; those of other schemes do not matter
	Pool       int64                             // bytes that the plugin locks for each device; 0: not known
	MemLock    uint64                            // bytes that a process may lock
	MemLockOf  string                            // whose limit that is
}

// Interface is a network interface.
type Interface struct {
	Name     string
	Loopback bool
	Addrs    []netip.Addr
}

// MTUs in bytes. A path MTU is one of 256, 512, 1024, 2048 and 4096; beside it a packet carries up to
// roceHeaders, by which the kernel's drivers choose it (iboe_get_mtu of linux/rdma/ib_addr.h).
const (
	bestPathMTU = 4096
	roceHeaders = 96
)

// examination gathers findings.
type examination struct {
	Machine
	devices []roce.Device
	out     []admin.Finding
}

func (x *examination) add(level, fix, what string, args ...any) {
	x.out = append(x.out, admin.Finding{Level: level, What: fmt.Sprintf(what, args...), Fix: fix})
}

// Examine returns what it finds, in the order in which it is to be mended.
func (m Machine) Examine() ([]admin.Finding, error) {
	devices, err := roce.Devices(m.Sys)
	if err != nil {
		return nil, err
	}
	x := &examination{Machine: m, devices: devices}
	if len(devices) == 0 {
		x.noDevice()
	}
	for _, d := range devices {
		for _, p := range d.Ports {
			x.port(d, p)
		}
	}
	x.files()
	x.memLock()
	for _, l := range m.Listeners {
		x.listener(l)
	}
	return x.out, nil
}

func (x *examination) noDevice() {
	x.add("error", "with an RDMA card: load its driver (lspci -k names it; mlx5_ib, bnxt_re, irdma …). Without one, for trying things, make a soft one: "+x.softDevice(""),
		"this machine has no RDMA device")
}

// softDevice is the command that makes one on an interface; empty: any that has an address.
func (x *examination) softDevice(iface string) string {
	for _, i := range x.Interfaces {
		if iface == "" && !i.Loopback && len(i.Addrs) > 0 {
			iface = i.Name
		}
	}
	if iface == "" {
		iface = "INTERFACE"
	}
	return "modprobe rdma_rxe && rdma link add rxe0 type rxe netdev " + iface
}

// port looks at one port: what is not served, or does not work, is not looked at further.
func (x *examination) port(d roce.Device, p roce.Port) {
	name := fmt.Sprintf("%s port %d", d.Name, p.Number)
	iface := p.Interface()
	switch {
	case d.IWARP:
		x.add("warn", "a card that can do both: set it to RoCE v2 (irdma: modprobe irdma roce_ena=1, or devlink dev param set DEVICE name enable_roce value true cmode driverinit)",
			"%s speaks iWARP, which is not served: RoCE v2 is", name)
		return
	case p.LinkLayer != "Ethernet":
		x.add("warn", "a card that can do both: mlxconfig -d PCI_ADDRESS set LINK_TYPE_P"+strconv.Itoa(p.Number)+"=2 makes it Ethernet after a restart",
			"the link of %s is %s, which is not served: RoCE v2 over Ethernet is", name, p.LinkLayer)
		return
	case p.State != "ACTIVE":
		x.add("error", "ip link set "+orWord(iface, d.Parent)+" up, and look at the cable (ethtool "+orWord(iface, d.Parent)+")", "%s is %s, not ACTIVE", name, p.State)
		return
	}
	if !x.gids(d, p, name) {
		return
	}
	x.mtu(p, name)
	if d.Parent != "" {
		x.add("warn", "fine for trying things; for speed, a card that does RoCE v2", "%s is made by software on %s: the processor does what a card would do", d.Name, d.Parent)
	} else {
		x.congestion(p, name)
	}
	x.losses(d, p, name)
}

func orWord(a, b string) string {
	if a == "" {
		a = b
	}
	if a == "" {
		return "INTERFACE"
	}
	return a
}

// gids looks at how the port is reached, and says whether it is.
func (x *examination) gids(d roce.Device, p roce.Port, name string) bool {
	iface := orWord(p.Interface(), d.Parent)
	addrs := roce.Device{Ports: []roce.Port{p}}.Addrs()
	if len(addrs) == 0 {
		if slices.ContainsFunc(p.GIDs, func(g roce.GID) bool { return g.Type == roce.RoCEv1 }) {
			x.add("error", "a newer driver or firmware; RoCE v2 needs a card that can do it (ConnectX-3: modprobe mlx4_core roce_mode=2)",
				"%s has RoCE v1 GIDs only: RoCE v2 is what is served", name)
		} else {
			x.add("error", "ip addr add ADDRESS/PREFIX dev "+iface, "%s has no GID, since %s has no address", name, iface)
		}
		return false
	}
	if addrs[0].IsLinkLocalUnicast() {
		x.add("warn", "ip addr add ADDRESS/PREFIX dev "+iface, "%s is reached by link-local addresses only: %v", name, addrs)
	} else {
		x.add("ok", "", "%s is reached over RoCE v2 at %s", name, join(addrs))
	}
	mode, err := fs.ReadFile(x.Sys, path.Join("kernel/config/rdma_cm", d.Name, "ports", strconv.Itoa(p.Number), "default_roce_mode"))
	if err == nil && strings.TrimSpace(string(mode)) == string(roce.RoCEv1) {
		x.add("error", fmt.Sprintf("cma_roce_mode -d %s -p %d -m 2 (package rdmacm-utils)", d.Name, p.Number),
			"connections of %s go by RoCE v1 unless told otherwise, and those are refused", name)
	}
	return true
}

func join(addrs []netip.Addr) string {
	text := make([]string, len(addrs))
	for i, a := range addrs {
		text[i] = a.String()
	}
	return strings.Join(text, ", ")
}

// pathMTU is the largest that an interface's MTU leaves room for, or 0.
func pathMTU(mtu int) int {
	for m := bestPathMTU; m >= 256; m /= 2 {
		if mtu-roceHeaders >= m {
			return m
		}
	}
	return 0
}

func (x *examination) mtu(p roce.Port, name string) {
	iface := p.Interface()
	mtu, ok := x.number(path.Join("class/net", iface, "mtu"))
	if !ok {
		return
	}
	switch m := pathMTU(int(mtu)); {
	case m < bestPathMTU:
		x.add("warn", fmt.Sprintf("ip link set %s mtu 9000, at all hosts and switches alike (at least %d)", iface, bestPathMTU+roceHeaders),
			"%s moves %d bytes per packet at most, since the MTU of %s is %d: up to %d bytes fit a packet of RoCE", name, m, iface, mtu, bestPathMTU)
	default:
		x.add("ok", "", "%s moves %d bytes per packet (MTU of %s: %d)", name, m, iface, mtu)
	}
}

// congestion looks for signs that the network keeps packets from being lost, or answers when it fills.
func (x *examination) congestion(p roce.Port, name string) {
	iface := p.Interface()
	pfc, err := x.PFC(iface)
	ecn, known := x.ecn(iface)
	signs := fmt.Sprintf("mlnx_qos -i %s --pfc 0,0,0,1,0,0,0,0 or dcb pfc set dev %s prio-pfc 3:on, and the same at the switch; ECN on mlx5: echo 1 to /sys/class/net/%s/ecn/roce_np/enable/3 and …/roce_rp/enable/3",
		iface, iface, iface)
	switch {
	case err != nil && !errors.Is(err, ErrNoDCB):
		x.add("warn", "", "whether the network below %s is lossless cannot be told: %v", name, err)
	case pfc != 0 || ecn:
		what := []string{}
		if pfc != 0 {
			what = append(what, "priority flow control for priorities "+bits(pfc))
		}
		if ecn {
			what = append(what, "congestion notification (ECN)")
		}
		x.add("ok", "", "%s has %s; the switches' side cannot be seen from here", iface, strings.Join(what, " and "))
	case err != nil && !known:
		x.add("warn", "see the card's manual for PFC (IEEE 802.1Qbb) and ECN, and set the switches alike", "%s shows neither PFC nor ECN: its driver does not tell", iface)
	default:
		x.add("warn", signs, "%s has neither PFC nor ECN: when the network is full packets are lost, and RoCE recovers from that slowly", iface)
	}
}

// ecn is what mlx5 shows; known is false elsewhere.
func (x *examination) ecn(iface string) (on, known bool) {
	for _, side := range []string{"roce_np", "roce_rp"} {
		dir := path.Join("class/net", iface, "ecn", side, "enable")
		entries, err := fs.ReadDir(x.Sys, dir)
		known = known || err == nil
		for _, e := range entries {
			n, _ := x.number(path.Join(dir, e.Name()))
			on = on || n != 0
		}
	}
	return on, known
}

func bits(b uint8) string {
	var out []string
	for i := range 8 {
		if b&(1<<i) != 0 {
			out = append(out, strconv.Itoa(i))
		}
	}
	return strings.Join(out, ", ")
}

// lossCounters are those of the drivers' that grow when packets are lost: mlx5 and rxe.
var lossCounters = []string{"out_of_sequence", "packet_seq_err", "local_ack_timeout_err", "roce_slow_restart", "out_of_seq_request", "rcvd_seq_err", "retry_exceeded_err"}

func (x *examination) losses(d roce.Device, p roce.Port, name string) {
	var grown []string
	for _, c := range lossCounters {
		if n, ok := x.number(path.Join("class/infiniband", d.Name, "ports", strconv.Itoa(p.Number), "hw_counters", c)); ok && n > 0 {
			grown = append(grown, fmt.Sprintf("%s %d", c, n))
		}
	}
	if grown != nil {
		x.add("warn", fmt.Sprintf("rdma statistic show link %s/%d shows whether they grow; if so, look at PFC, ECN and the MTU along the way", d.Name, p.Number),
			"%s has lost packets since it came up: %s", name, strings.Join(grown, ", "))
	}
}

// files looks for what programs open.
func (x *examination) files() {
	if len(x.devices) == 0 {
		return // they come with the devices
	}
	if _, err := fs.Stat(x.Dev, "infiniband/rdma_cm"); err != nil {
		x.add("error", "modprobe rdma_ucm", "/dev/infiniband/rdma_cm is not there: no program can connect")
	}
	if found, _ := fs.Glob(x.Dev, "infiniband/uverbs*"); len(found) == 0 { // the pattern is well-formed
		x.add("error", "modprobe ib_uverbs", "/dev/infiniband/uverbs* are not there: no program can use the devices")
	}
}

func (x *examination) memLock() {
	if x.MemLock >= Unlimited {
		return
	}
	const fix = "LimitMEMLOCK=infinity in the agent's unit, or ulimit -l unlimited before it starts; an agent that runs as root raises it itself"
	limit, need := config.FormatSize(int64(min(x.MemLock, math.MaxInt64))), uint64(max(x.Pool, 0))
	switch {
	case need > x.MemLock:
		x.add("error", fix, "%s may lock %s, less than the plugin's pool of %s", x.MemLockOf, limit, config.FormatSize(x.Pool))
	case x.MemLock/8 < need || need == 0:
		x.add("warn", fix, "%s may lock %s of memory; a plugin locks its pool once for each I/O thread and device", x.MemLockOf, limit)
	}
}

// listener looks whether a device has the address of a listener.
func (x *examination) listener(text string) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != Scheme {
		return
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		x.named(text, u.Hostname())
		return
	}
	var have []netip.Addr
	for _, d := range x.devices {
		have = append(have, d.Addrs()...)
	}
	switch {
	case slices.Contains(have, addr), addr.IsUnspecified() && len(have) > 0:
		x.add("ok", "", "an RDMA device has the address of %s", text)
	case len(x.devices) == 0:
		x.add("error", "make a device as said above", "no RDMA device has the address of %s", text)
	default:
		x.add("error", x.noAddress(addr, have), "no RDMA device has the address of %s", text)
	}
}

// named looks at a listener that names a device.
func (x *examination) named(text, device string) {
	i := slices.IndexFunc(x.devices, func(d roce.Device) bool { return d.Name == device })
	switch {
	case i < 0:
		x.add("error", "name a device (rdma link lists them) or an address, such as "+x.example(), "%s names neither an address nor an RDMA device that is here", text)
	case len(x.devices[i].Addrs()) == 0:
		x.add("error", "see what is said of the device", "%s names a device that is not reached over RoCE v2", text)
	default:
		x.add("ok", "", "%s means %s", text, x.devices[i].Addrs()[0])
	}
}

func (x *examination) noAddress(addr netip.Addr, have []netip.Addr) string {
	others := ""
	if len(have) > 0 {
		others = "listen at one that a device has: " + join(have)
	}
	for _, i := range x.Interfaces {
		if !slices.Contains(i.Addrs, addr.WithZone("")) {
			continue
		}
		if i.Loopback {
			break
		}
		fix := fmt.Sprintf("%s has it: give that interface a device (%s)", i.Name, x.softDevice(i.Name))
		if others != "" {
			fix += ", or " + others
		}
		return fix
	}
	if others == "" {
		return "give it to the network interface of a device: ip addr add"
	}
	return others
}

func (x *examination) example() string {
	for _, d := range x.devices {
		if a := d.Addrs(); len(a) > 0 {
			return Scheme + "://" + netip.AddrPortFrom(a[0], 4420).String()
		}
	}
	return Scheme + "://192.0.2.1:4420"
}

// number reads a file that has one.
func (x *examination) number(name string) (uint64, bool) {
	b, err := fs.ReadFile(x.Sys, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil
}
