package association

import (
	"context"
	"fmt"
	"net/url"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/sdk/proto"
)

// view is what Meta says of everything that hosts can reach, read as one.
type view struct {
	subsystems map[string]*subsystem
	order      []string // NQNs
}

type subsystem struct {
	meta.Subsystem
	namespaces []namespace
}

type namespace struct {
	meta.Namespace
	volume meta.Volume
}

// read reads the view. A namespace whose volume vanishes meanwhile is left out; a
// hint about it is on its way.
func (s *Service) read(ctx context.Context) (*view, error) {
	subs, err := s.Meta.Exports(ctx)
	if err != nil {
		return nil, err
	}
	spaces, err := s.Meta.AllNamespaces(ctx)
	if err != nil {
		return nil, err
	}
	vols, err := s.Meta.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	byID := map[uuid.UUID]meta.Volume{}
	for _, v := range vols {
		byID[v.ID] = v
	}
	out := &view{subsystems: map[string]*subsystem{}}
	for _, x := range subs {
		out.subsystems[x.NQN] = &subsystem{Subsystem: x}
		out.order = append(out.order, x.NQN)
	}
	for _, n := range spaces {
		x, v := out.subsystems[n.Subsystem], byID[n.Volume]
		if x != nil && v.State == meta.VolumeActive {
			x.namespaces = append(x.namespaces, namespace{n, v})
		}
	}
	return out, nil
}

// exportsNow is what data plugins are told.
func (s *Service) exportsNow(ctx context.Context) (*proto.Exports, error) {
	v, err := s.read(ctx)
	if err != nil {
		return nil, fmt.Errorf("read what is exported: %w", err)
	}
	points, err := s.Meta.AccessPoints(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the access points: %w", err)
	}
	used := s.Used()
	volatile, err := s.Access.Volatile(ctx)
	if err != nil {
		return nil, err
	}
	out := &proto.Exports{}
	redirector := "" // that discovery names: this node's, or else any
	for _, p := range points {
		if p.Redirector {
			if u, err := url.Parse(p.URL); err == nil && (redirector == "" || p.Node == s.Node.ID) {
				redirector = u.Host
			}
			continue
		}
		out.AccessPoints = append(out.AccessPoints, &proto.AccessPoint{Id: p.ID, Node: p.Node.String(), Url: p.URL, Up: p.Up, PortId: uint32(p.PortID)})
	}
	for _, nqn := range v.order {
		x := v.subsystems[nqn]
		if x.Target != nil {
			t := exportTarget(x, used, volatile)
			if x.Redirects() {
				t.Address = redirector
			}
			out.Targets = append(out.Targets, t)
			continue
		}
		p := &proto.Subsystem{
			Nqn: x.NQN, Serial: x.Serial, Model: x.Model, AllowAnyHost: x.AllowAnyHost, AllowedHosts: x.AllowedHosts,
			MaxNamespaces: x.Subsystem.Namespaces, Generation: x.Generation,
		}
		for _, n := range x.namespaces {
			p.Namespaces = append(p.Namespaces, exportNamespace(n, used[n.volume.ID], volatile[n.volume.ID]))
		}
		out.Subsystems = append(out.Subsystems, p)
	}
	return out, nil
}

func exportTarget(x *subsystem, used map[uuid.UUID]int64, volatile map[uuid.UUID]bool) *proto.Target {
	t := &proto.Target{Authenticate: x.Target.CHAP != nil, Iqn: x.NQN, AllowAnyHost: x.AllowAnyHost, AllowedHosts: x.AllowedHosts, Generation: x.Generation}
	if x.Target.Mode == meta.ALUA {
		t.Mode = proto.TargetMode_TARGET_ALUA
	}
	for _, n := range x.namespaces {
		t.Units = append(t.Units, exportNamespace(n, used[n.volume.ID], volatile[n.volume.ID]))
	}
	return t
}

// exportNamespace tells of a namespace or LUN. volatile is what is in force, which follows Meta.
func exportNamespace(n namespace, used int64, volatile bool) *proto.Namespace {
	nguid, eui := n.volume.NGUID(), n.volume.EUI64()
	d := proto.Durability_DURABILITY_SYNC
	if volatile || n.volume.IsVolatile() {
		d = proto.Durability_DURABILITY_VOLATILE
	}
	return &proto.Namespace{
		Nsid: uint32(n.NSID), VolumeId: n.volume.ID.String(), Nguid: nguid[:], Eui64: eui[:], SizeBytes: uint64(n.volume.Bytes),
		BlockBytes: uint32(n.volume.BlockBytes), AnaGroup: n.ANAGroup, Durability: d, UsedBytes: uint64(used), VisibleTo: n.VisibleTo,
	}
}
