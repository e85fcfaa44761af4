package nvmf

import (
	"encoding/hex"
	"slices"
	"strings"

	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/proto"
)

// exports is what hosts could reach, as the core last said. Immutable.
type exports struct {
	subsystems   []*proto.Subsystem // by NQN
	accessPoints []*proto.AccessPoint
	told         bool   // by the core; false before it said anything
	generation   uint64 // grows with every change of what discovery could show
}

func newExports(p *proto.Exports, former *exports) *exports {
	e := &exports{subsystems: slices.Clone(p.GetSubsystems()), accessPoints: slices.Clone(p.GetAccessPoints())}
	slices.SortFunc(e.subsystems, func(a, b *proto.Subsystem) int { return strings.Compare(a.GetNqn(), b.GetNqn()) })
	slices.SortFunc(e.accessPoints, func(a, b *proto.AccessPoint) int { return strings.Compare(a.GetId(), b.GetId()) })
	if former == nil {
		return e
	}
	e.generation = former.generation
	if !e.discoversLike(former) {
		e.generation++
	}
	return e
}

func (e *exports) subsystem(nqn string) *proto.Subsystem {
	i, ok := slices.BinarySearchFunc(e.subsystems, nqn, func(s *proto.Subsystem, nqn string) int {
		return strings.Compare(s.GetNqn(), nqn)
	})
	if !ok {
		return nil
	}
	return e.subsystems[i]
}

// discoversLike reports whether every host would discover the same from e and from o.
func (e *exports) discoversLike(o *exports) bool {
	return slices.EqualFunc(e.subsystems, o.subsystems, func(a, b *proto.Subsystem) bool {
		return a.GetNqn() == b.GetNqn() && a.GetAllowAnyHost() == b.GetAllowAnyHost() &&
			slices.Equal(a.GetAllowedHosts(), b.GetAllowedHosts())
	}) && slices.EqualFunc(e.accessPoints, o.accessPoints, func(a, b *proto.AccessPoint) bool {
		return a.GetId() == b.GetId() && a.GetUrl() == b.GetUrl() && a.GetUp() == b.GetUp() && a.GetPortId() == b.GetPortId()
	})
}

func hostAllowed(s *proto.Subsystem, host string) bool {
	return s.GetAllowAnyHost() || slices.Contains(s.GetAllowedHosts(), host)
}

func visibleTo(n *proto.Namespace, host string) bool {
	return len(n.GetVisibleTo()) == 0 || slices.Contains(n.GetVisibleTo(), host)
}

// view is what one controller's host has of its subsystem. I/O queues read it without locks.
// Immutable.
type view struct {
	maxNSID nvme.NSID    // NN: higher ones are invalid
	byID    []*namespace // index is the NSID; nil for an inactive one; as long as need be
	active  []*namespace // in increasing order of NSID
	sub     *proto.Subsystem
}

// namespace is one active namespace of a view. Immutable.
type namespace struct {
	id        nvme.NSID
	shift     uint8 // blocks of 2^shift bytes
	blocks    nvme.BlockCount
	handle    block.Handle
	state     nvme.ANAState
	refusal   nvme.Status // of I/O in this state, or success
	writeFUA  bool        // writes must be durable: the host does not know that there is a cache
	volatile  bool
	group     nvme.ANAGroupID
	anaChange uint64
	info      *proto.Namespace
}

// emptyView is that of a controller that has no namespaces.
var emptyView = &view{sub: &proto.Subsystem{}}

// newView joins what exists with what the core granted. writeThrough says that the host does
// not know of a volatile write cache, or has disabled it.
func newView(sub *proto.Subsystem, host string, grants []*proto.Grant, limit int, writeThrough bool) *view {
	v := &view{sub: sub, maxNSID: nvme.NSID(max(1, min(sub.GetMaxNamespaces(), uint32(limit))))}
	infos := make(map[nvme.NSID]*proto.Namespace, len(sub.GetNamespaces()))
	for _, n := range sub.GetNamespaces() {
		if visibleTo(n, host) {
			infos[nvme.NSID(n.GetNsid())] = n
		}
	}
	for _, g := range grants {
		id := nvme.NSID(g.GetNsid())
		info := infos[id]
		if info == nil || id == 0 || id > v.maxNSID {
			continue
		}
		delete(infos, id) // a second grant of the same namespace would be a mistake
		v.active = append(v.active, newNamespace(info, g, writeThrough))
	}
	slices.SortFunc(v.active, func(a, b *namespace) int { return int(int64(a.id) - int64(b.id)) })
	if n := len(v.active); n > 0 {
		v.byID = make([]*namespace, v.active[n-1].id+1)
	}
	for _, ns := range v.active {
		v.byID[ns.id] = ns
	}
	return v
}

func newNamespace(info *proto.Namespace, g *proto.Grant, writeThrough bool) *namespace {
	ns := &namespace{
		id: nvme.NSID(info.GetNsid()), shift: 9, info: info,
		handle:    block.Handle{Index: g.GetHandle(), Generation: g.GetHandleGeneration()},
		volatile:  info.GetDurability() == proto.Durability_DURABILITY_VOLATILE,
		group:     nvme.ANAGroupID(info.GetAnaGroup()),
		anaChange: g.GetAnaChangeCount(),
		state:     anaState(g.GetAnaState()),
	}
	if info.GetBlockBytes() == 4096 {
		ns.shift = 12
	}
	ns.blocks = nvme.BlockCount(info.GetSizeBytes() >> ns.shift)
	ns.writeFUA = ns.volatile && writeThrough
	ns.refusal = ns.state.Status()
	return ns
}

func anaState(s proto.AnaState) nvme.ANAState {
	switch s {
	case proto.AnaState_ANA_OPTIMIZED:
		return nvme.ANAOptimized
	case proto.AnaState_ANA_NON_OPTIMIZED:
		return nvme.ANANonOptimized
	case proto.AnaState_ANA_INACCESSIBLE:
		return nvme.ANAInaccessible
	case proto.AnaState_ANA_PERSISTENT_LOSS:
		return nvme.ANAPersistentLoss
	case proto.AnaState_ANA_CHANGE, proto.AnaState_ANA_UNSPECIFIED:
	}
	return nvme.ANAChange
}

// find returns an active namespace, or why there is none. Base 3.2.1
func (v *view) find(id nvme.NSID) (*namespace, nvme.Status) {
	if int(id) < len(v.byID) && v.byID[id] != nil {
		return v.byID[id], nvme.StatusSuccess
	}
	if id == 0 || id > v.maxNSID {
		return nil, nvme.StatusInvalidNamespace.WithDNR()
	}
	return nil, nvme.StatusInvalidField.WithDNR() // inactive
}

// volatile reports whether any namespace of the subsystem has a volatile write cache, seen by
// this host or not.
func (v *view) volatile() bool {
	return slices.ContainsFunc(v.sub.GetNamespaces(), func(n *proto.Namespace) bool {
		return n.GetDurability() == proto.Durability_DURABILITY_VOLATILE
	})
}

// allocated lists the NSIDs that exist in the subsystem, in increasing order.
func (v *view) allocated() []nvme.NSID {
	var list []nvme.NSID
	for _, n := range v.sub.GetNamespaces() {
		if id := nvme.NSID(n.GetNsid()); id != 0 && id <= v.maxNSID {
			list = append(list, id)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// difference is what a host must hear of when one view replaces another.
type difference struct {
	attributes []nvme.NSID // attached, detached or changed; increasing
	ana        bool        // the state of a group changed
	anaLog     bool        // the ANA log page changed in any way
	io         bool        // I/O queues need the new view
}

// since compares v with a former view.
func (v *view) since(old *view) difference {
	var d difference
	i, j := 0, 0
	for i < len(old.active) || j < len(v.active) {
		switch {
		case j == len(v.active) || i < len(old.active) && old.active[i].id < v.active[j].id:
			d.add(old.active[i].id)
			i++
		case i == len(old.active) || v.active[j].id < old.active[i].id:
			d.add(v.active[j].id)
			j++
		default:
			d.compare(old.active[i], v.active[j])
			i++
			j++
		}
	}
	return d
}

func (d *difference) add(id nvme.NSID) {
	d.attributes = append(d.attributes, id)
	d.anaLog, d.io = true, true
}

func (d *difference) compare(a, b *namespace) {
	if a.shift != b.shift || a.blocks != b.blocks || a.volatile != b.volatile || a.group != b.group ||
		!slices.Equal(a.info.GetNguid(), b.info.GetNguid()) || !slices.Equal(a.info.GetEui64(), b.info.GetEui64()) ||
		a.info.GetVolumeId() != b.info.GetVolumeId() {
		d.attributes = append(d.attributes, b.id)
		d.io = true
	}
	if a.state != b.state {
		d.ana, d.io = true, true
	}
	if a.state != b.state || a.anaChange != b.anaChange || a.group != b.group {
		d.anaLog = true
	}
	if a.handle != b.handle || a.writeFUA != b.writeFUA {
		d.io = true
	}
}

// uuid returns the volume's UUID, or zero if it is not one.
func (ns *namespace) uuid() (id [16]byte) {
	b, err := hex.DecodeString(strings.ReplaceAll(ns.info.GetVolumeId(), "-", ""))
	if err == nil && len(b) == len(id) {
		copy(id[:], b)
	}
	return id
}
