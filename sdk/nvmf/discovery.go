package nvmf

import (
	"bytes"
	"net/netip"
	"net/url"

	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/proto"
)

// discoveryLog is the Discovery log page of one discovery controller, made anew when the core's
// exports change.
type discoveryLog struct {
	generation uint64 // GENCTR: exports.generation when the entries last changed
	entries    []byte
	made       bool
}

// refreshDiscovery makes the log page anew and tells the host if it is another one.
func (ct *Controller) refreshDiscovery(x *exports) {
	entries := discoveryEntries(x, ct.hostNQN, ct.admin.info, ct.target.limits)
	l := &ct.logs.discovery
	changed := !bytes.Equal(entries, l.entries)
	if changed || !l.made {
		l.generation = x.generation
	}
	first := !l.made
	l.entries, l.made = entries, true
	if changed && !first && ct.csts.Ready() {
		ct.events.raise(ct, eventDiscovery)
	}
}

func logDiscovery(ct *Controller, _ nvme.GetLogPage, b []byte) ([]byte, nvme.Status) {
	l := &ct.logs.discovery
	b = nvme.DiscoveryHeader{
		Generation: l.generation, Records: uint64(len(l.entries) / nvme.DiscoveryEntrySize),
	}.Append(b)
	return append(b, l.entries...), nvme.StatusSuccess
}

// discoveryEntries lists every subsystem that the host may use at every NVMe access point of
// the cluster that is up, and this discovery service itself. Base 5.16.1.23
func discoveryEntries(x *exports, host string, info ConnInfo, limits Limits) []byte {
	var b []byte
	for _, ap := range x.accessPoints {
		e, ok := discoveryAddress(ap, info)
		if !ok || !ap.GetUp() {
			continue
		}
		e.Controller = nvme.DynamicControllerID
		e.AdminEntries = uint16(min(limits.QueueEntries, 0xffff))
		e.Requirements = nvme.SecureChannelUnspecified | nvme.SQFlowControlOptional
		if ap.GetId() == info.AccessPointID {
			self := e
			self.Subsystem, self.NQN = nvme.SubsystemDiscovery, nvme.DiscoveryNQN
			self.Flags = nvme.EntryPersistentConnection | nvme.EntryDuplicate
			b = self.Append(b)
		}
		for _, s := range x.subsystems {
			if hostAllowed(s, host) {
				e.Subsystem, e.NQN = nvme.SubsystemNVM, s.GetNqn()
				b = e.Append(b)
			}
		}
	}
	return b
}

// discoveryAddress translates an access point; false if it is none of NVMe.
func discoveryAddress(ap *proto.AccessPoint, info ConnInfo) (nvme.DiscoveryEntry, bool) {
	e := nvme.DiscoveryEntry{Port: uint16(ap.GetPortId())}
	u, err := url.Parse(ap.GetUrl())
	if err != nil {
		return e, false
	}
	switch u.Scheme {
	case "nvme-tcp":
		e.Transport, e.Security = nvme.TransportTCP, nvme.SecurityNone
	case "nvme-rdma":
		e.Transport, e.Security = nvme.TransportRDMA, rdmaConnected
		e.RDMAProvider, e.RDMAConnect = rdmaNoProvider, rdmaCM
	default:
		return e, false
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil || u.Port() == "" {
		return e, false
	}
	if addr.IsUnspecified() {
		// Listening on every address: the host can use the one that it reached.
		local, err := url.Parse(info.LocalURL)
		if err != nil || ap.GetId() != info.AccessPointID {
			return e, false
		}
		if addr, err = netip.ParseAddr(local.Hostname()); err != nil {
			return e, false
		}
	}
	addr = addr.Unmap()
	e.Family = nvme.AddressIPv6
	if addr.Is4() {
		e.Family = nvme.AddressIPv4
	}
	e.Address, e.Service = addr.String(), u.Port()
	return e, true
}

// TSAS of RDMA: reliable connected service, no provider named, RDMA connection manager.
// Base 5.16.1.23, Figure 266
const (
	rdmaConnected  = 1
	rdmaNoProvider = 1
	rdmaCM         = 1
)
