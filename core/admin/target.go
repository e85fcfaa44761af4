package admin

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/mooring-io/mooring/core/meta"
)

func (s *Server) targets(r *http.Request) (any, error) {
	all, err := s.Meta.Targets(r.Context())
	if err != nil {
		return nil, err
	}
	out := []Target{}
	for _, x := range all {
		p, err := s.presentTarget(r.Context(), x)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func (s *Server) presentTarget(ctx context.Context, x meta.Target) (Target, error) {
	out := Target{
		IQN: x.IQN, Tenant: x.Tenant, Mode: string(x.Mode), AllowAnyHost: x.AllowAnyHost, Hosts: x.AllowedHosts, Managed: managed(x.Managed), LUNs: []LUN{},
	}
	if c := x.CHAP; c != nil {
		out.CHAP = &CHAP{User: c.User, Mutual: c.Mutual, MutualUser: c.MutualUser}
	}
	units, err := s.Meta.Units(ctx, x.IQN)
	if err != nil {
		return out, err
	}
	for _, u := range units {
		p, err := s.presentUnit(ctx, u)
		if err != nil {
			return out, err
		}
		out.LUNs = append(out.LUNs, p)
	}
	return out, nil
}

func (s *Server) presentUnit(ctx context.Context, u meta.Unit) (LUN, error) {
	v, err := s.Meta.Volume(ctx, u.Volume)
	if err != nil {
		return LUN{}, err
	}
	return LUN{
		Target: u.Target, LUN: uint16(u.LUN), Volume: v.Name, Size: v.Bytes, BlockSize: v.BlockBytes, UUID: v.ID.String(), VisibleTo: u.VisibleTo, Managed: managed(u.Managed),
	}, nil
}

func (s *Server) target(r *http.Request) (any, error) {
	x, err := s.Meta.Target(r.Context(), r.PathValue("iqn"))
	if err != nil {
		return nil, err
	}
	return s.presentTarget(r.Context(), x)
}

func (s *Server) createTarget(r *http.Request) (any, error) {
	in, err := read[TargetCreate](r)
	if err != nil {
		return nil, err
	}
	_, err = s.Meta.Target(r.Context(), in.IQN)
	existed := err == nil
	x, err := s.Meta.CreateTarget(r.Context(), meta.Target{IQN: in.IQN, Tenant: in.Tenant, AllowAnyHost: in.AllowAnyHost})
	if err != nil {
		return nil, err
	}
	if !existed {
		s.Agent.Note("target-created", x.IQN, "")
	}
	if err := s.Hosts.Sync(r.Context()); err != nil {
		return nil, err
	}
	out, err := s.presentTarget(r.Context(), x)
	return made{out, existed}, err
}

func (s *Server) deleteTarget(r *http.Request) (any, error) {
	iqn := r.PathValue("iqn")
	if _, err := s.Meta.Target(r.Context(), iqn); err != nil {
		return nil, err
	}
	if err := s.Meta.DeleteTarget(r.Context(), iqn); err != nil {
		return nil, err
	}
	s.Agent.Note("target-deleted", iqn, "")
	return struct{}{}, s.Hosts.Sync(r.Context())
}

// setCHAP has initiators of a target prove who they are, or no more.
func (s *Server) setCHAP(r *http.Request) (any, error) {
	in, err := read[TargetCHAP](r)
	if err != nil {
		return nil, err
	}
	iqn := r.PathValue("iqn")
	var c *meta.CHAP
	what := "initiators need not prove who they are"
	if in != (TargetCHAP{}) {
		c = &meta.CHAP{User: in.User, Mutual: in.MutualSecret != "", MutualUser: in.MutualUser}
		what = "initiators must prove who they are"
	}
	if err := s.Meta.SetTargetCHAP(r.Context(), iqn, c, meta.CHAPSecrets{Secret: []byte(in.Secret), Mutual: []byte(in.MutualSecret)}); err != nil {
		return nil, err
	}
	s.Agent.Note("target-chap", iqn, what)
	return struct{}{}, s.Hosts.Sync(r.Context())
}

func (s *Server) attachUnit(r *http.Request) (any, error) {
	in, err := read[LUNAttach](r)
	if err != nil {
		return nil, err
	}
	x, err := s.Meta.Target(r.Context(), r.PathValue("iqn"))
	if err != nil {
		return nil, err
	}
	v, err := s.Meta.FindVolume(r.Context(), x.Tenant, in.Volume)
	if err != nil {
		return nil, err
	}
	existed, err := s.attached(r.Context(), x.IQN, v)
	if err != nil {
		return nil, err
	}
	lun := -1
	if in.LUN != nil {
		lun = int(*in.LUN)
	}
	u, err := s.Meta.AttachUnit(r.Context(), x.IQN, lun, v.ID, in.VisibleTo, nil)
	if err != nil {
		return nil, err
	}
	if !existed {
		s.Agent.Note("lun-attached", u.Target, fmt.Sprintf("LUN %d is volume %s", u.LUN, v))
	}
	if err := s.Hosts.Sync(r.Context()); err != nil {
		return nil, err
	}
	out, err := s.presentUnit(r.Context(), u)
	return made{out, existed}, err
}

func (s *Server) detachUnit(r *http.Request) (any, error) {
	n, err := strconv.ParseUint(r.PathValue("lun"), 10, 14)
	if err != nil {
		return nil, fmt.Errorf("LUN %q is no number: %w", r.PathValue("lun"), errBadRequest)
	}
	iqn, lun := r.PathValue("iqn"), meta.LUN(n)
	if _, err := s.Meta.Namespace(r.Context(), iqn, lun.NSID()); err != nil {
		return nil, err
	}
	if err := s.Meta.DetachNamespace(r.Context(), iqn, lun.NSID()); err != nil {
		return nil, err
	}
	s.Agent.Note("lun-detached", iqn, fmt.Sprintf("LUN %d", lun))
	return struct{}{}, s.Hosts.Sync(r.Context())
}
