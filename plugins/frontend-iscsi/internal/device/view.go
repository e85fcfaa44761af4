package device

import (
	"encoding/hex"
	"slices"
	"strings"
	"sync"

	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/scsi"
)

// view is what one nexus has of its target. Immutable.
type view struct {
	target *proto.Target
	units  []*unit // by LUN; nil where there is none
	luns   []scsi.LUN
}

var emptyView = &view{target: &proto.Target{}}

// unit is one logical unit of a view. Immutable.
type unit struct {
	lun     scsi.LUN
	shift   uint8 // blocks of 2^shift bytes
	blocks  uint64
	handle  block.Handle
	info    *proto.Namespace
	shared  *sharedUnit
	refusal scsi.ASC // why the medium is not accessible here, or none
	alua    bool
	state   proto.AnaState

	volatile    bool // acknowledged writes may wait for a flush
	durable     bool // writes must not: the initiators have turned the cache off
	protected   bool // software write protect
	descriptors bool // sense data in the descriptor format
}

// find returns the unit that a field names, or nil.
func (v *view) find(field [8]byte) *unit {
	l, ok := scsi.ParseLUN(field)
	if !ok || int(l) >= len(v.units) {
		return nil
	}
	return v.units[l]
}

// newView joins what exists with what the core granted.
func (s *Server) newView(n *Nexus) *view {
	target := s.currentExports().targets[n.info.Target]
	if target == nil {
		return emptyView
	}
	v := &view{target: target}
	infos := map[uint32]*proto.Namespace{}
	for _, u := range target.GetUnits() {
		if who := u.GetVisibleTo(); len(who) == 0 || slices.Contains(who, n.info.Initiator) {
			infos[u.GetNsid()] = u
		}
	}
	for _, g := range n.grants {
		info := infos[g.GetNsid()]
		if info == nil || g.GetNsid() == 0 || g.GetNsid()-1 > uint32(scsi.MaxLUN) {
			continue
		}
		u := s.newUnit(n, info, g, target.GetMode())
		for len(v.units) <= int(u.lun) {
			v.units = append(v.units, nil)
		}
		v.units[u.lun] = u
	}
	for _, u := range v.units {
		if u != nil {
			v.luns = append(v.luns, u.lun)
		}
	}
	return v
}

func (s *Server) newUnit(n *Nexus, info *proto.Namespace, g *proto.Grant, mode proto.TargetMode) *unit {
	u := &unit{
		lun: scsi.LUN(info.GetNsid() - 1), shift: 9, info: info, state: g.GetAnaState(), alua: mode == proto.TargetMode_TARGET_ALUA,
		handle:   block.Handle{Index: g.GetHandle(), Generation: g.GetHandleGeneration()},
		volatile: info.GetDurability() == proto.Durability_DURABILITY_VOLATILE,
	}
	if info.GetBlockBytes() == 4096 {
		u.shift = 12
	}
	u.blocks = info.GetSizeBytes() >> u.shift
	u.shared = s.sharedUnit(info.GetVolumeId(), u.volatile)
	m := u.shared.join(n, u.lun)
	u.durable, u.protected, u.descriptors = u.volatile && !m.writeCache, m.writeProtect, m.descriptorSense
	switch u.state {
	case proto.AnaState_ANA_CHANGE, proto.AnaState_ANA_UNSPECIFIED:
		u.refusal = scsi.ASCAsymmetricTransition
	case proto.AnaState_ANA_INACCESSIBLE, proto.AnaState_ANA_PERSISTENT_LOSS:
		if u.alua { // without, all I/O of an initiator goes here, and on from here
			u.refusal = scsi.ASCUnavailable
		}
	case proto.AnaState_ANA_OPTIMIZED, proto.AnaState_ANA_NON_OPTIMIZED:
	}
	return u
}

// id is the volume's identifier of 16 bytes; zero if there is none.
func (u *unit) id() (id [16]byte) {
	b, err := hex.DecodeString(strings.ReplaceAll(u.info.GetVolumeId(), "-", ""))
	if err == nil && len(b) == len(id) {
		copy(id[:], b)
	}
	return id
}

// setGrants takes what the initiator may use from now on.
func (n *Nexus) setGrants(grants []*proto.Grant) {
	n.grants = grants
	n.refresh()
}

// refresh makes the view anew and raises unit attentions for what changed.
func (n *Nexus) refresh() {
	if n.finished {
		return
	}
	old := n.view
	n.view = n.server.newView(n)
	if old == emptyView {
		for _, l := range n.view.luns {
			n.attend(l, scsi.ASCReset)
		}
		return
	}
	for _, u := range old.units {
		if u != nil && (int(u.lun) >= len(n.view.units) || n.view.units[u.lun] == nil) {
			u.shared.leave(n)
		}
	}
	if !slices.Equal(old.luns, n.view.luns) {
		n.lunsChanged(old)
	}
	for _, l := range n.view.luns {
		if int(l) < len(old.units) && old.units[l] != nil {
			n.unitChanged(old.units[l], n.view.units[l])
		}
	}
}

// lunsChanged tells of units that came or went, on every one that stays. SPC-4 6.33
func (n *Nexus) lunsChanged(old *view) {
	for _, l := range n.view.luns {
		if int(l) < len(old.units) && old.units[l] != nil {
			n.attend(l, scsi.ASCReportedLUNsChanged)
		} else {
			n.attend(l, scsi.ASCReset)
		}
	}
	for l := range n.attentions {
		if !slices.Contains(n.view.luns, l) {
			n.unreported -= len(n.attentions[l])
			delete(n.attentions, l)
		}
	}
}

func (n *Nexus) unitChanged(a, b *unit) {
	switch {
	case a.info.GetVolumeId() != b.info.GetVolumeId():
		n.attend(b.lun, scsi.ASCReset)
		n.attend(b.lun, scsi.ASCInquiryDataChanged)
	case a.blocks != b.blocks:
		n.attend(b.lun, scsi.ASCCapacityChanged)
	}
	if a.alua && a.state != b.state {
		n.attend(b.lun, scsi.ASCAsymmetricStateChanged)
	}
}

// sharedUnit is what all nexuses of this process share of a volume.
type sharedUnit struct {
	mu      sync.Mutex
	modes   modes               // guarded by mu
	nexuses map[*Nexus]scsi.LUN // guarded by mu
}

// sharedUnit returns the one of a volume.
func (s *Server) sharedUnit(volume string, volatile bool) *sharedUnit {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.units[volume]
	if u == nil {
		u = &sharedUnit{modes: modes{writeCache: volatile}, nexuses: map[*Nexus]scsi.LUN{}}
		s.units[volume] = u
	}
	return u
}

// join says that a nexus has the unit, and returns its present modes.
func (u *sharedUnit) join(n *Nexus, l scsi.LUN) modes {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.nexuses[n] = l
	return u.modes
}

func (u *sharedUnit) leave(n *Nexus) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.nexuses, n)
}

// each runs fn on the thread of every nexus that has the unit, with what it calls it, and returns
// how many there are.
func (u *sharedUnit) each(fn func(*Nexus, scsi.LUN)) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	for n, l := range u.nexuses {
		n.thread.Post(func() { fn(n, l) })
	}
	return len(u.nexuses)
}
