package admin

import (
	"context"
	"net/http"

	"github.com/mooring-io/mooring/core/meta"
)

// Tenant owns volumes and subsystems.
type Tenant struct {
	Name   string `json:"name"`
	Policy string `json:"policy"` // name of the path policy
	// The sum of its volumes, and what that may be; 0: no limit.
	Volumes      int    `json:"volumes"`
	Bytes        int64  `json:"bytes"`
	QuotaVolumes int    `json:"quota_volumes,omitempty"`
	QuotaBytes   int64  `json:"quota_bytes,omitempty"`
	Managed      string `json:"managed,omitempty"` // file:line of the block that sets it
}

// TenantSet asks for a tenant, or for a change of one.
type TenantSet struct {
	Name   string `json:"name,omitempty"`
	Policy string `json:"policy,omitempty"` // "": unchanged, or the default
	// Absent: unchanged, or none. 0: none.
	QuotaVolumes *int   `json:"quota_volumes,omitempty"`
	QuotaBytes   *int64 `json:"quota_bytes,omitempty"`
}

func (in TenantSet) apply(t *meta.Tenant) {
	if in.Policy != "" {
		t.Policy = in.Policy
	}
	if in.QuotaVolumes != nil {
		t.QuotaVolumes = *in.QuotaVolumes
	}
	if in.QuotaBytes != nil {
		t.QuotaBytes = *in.QuotaBytes
	}
}

func (s *Server) tenantRoutes(m *http.ServeMux) {
	m.HandleFunc("GET /v1/tenants", answer(s.tenants))
	m.HandleFunc("POST /v1/tenants", answer(s.createTenant))
	m.HandleFunc("PATCH /v1/tenants/{name}", answer(s.setTenant))
	m.HandleFunc("DELETE /v1/tenants/{name}", answer(func(r *http.Request) (any, error) {
		if _, err := s.Meta.Tenant(r.Context(), r.PathValue("name")); err != nil {
			return nil, err
		}
		return struct{}{}, s.Meta.DeleteTenant(r.Context(), r.PathValue("name"))
	}))
}

func (s *Server) presentTenant(ctx context.Context, t meta.Tenant, err error) (Tenant, error) {
	if err != nil {
		return Tenant{}, err
	}
	has, err := s.Meta.TenantVolumes(ctx, t.Name)
	return Tenant{
		Name: t.Name, Policy: t.Policy, Volumes: has.Volumes, Bytes: has.Bytes, QuotaVolumes: t.QuotaVolumes, QuotaBytes: t.QuotaBytes, Managed: managed(t.Managed),
	}, err
}

func (s *Server) tenants(r *http.Request) (any, error) {
	all, err := s.Meta.Tenants(r.Context())
	out := []Tenant{}
	for _, t := range all {
		if t.Closing {
			continue
		}
		x, err := s.presentTenant(r.Context(), t, nil)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, err
}

func (s *Server) createTenant(r *http.Request) (any, error) {
	in, err := read[TenantSet](r)
	if err != nil {
		return nil, err
	}
	t := meta.Tenant{Name: in.Name}
	in.apply(&t)
	was, err := s.Meta.Tenant(r.Context(), in.Name)
	existed := err == nil && !was.Closing
	t, err = s.Meta.CreateTenant(r.Context(), t)
	out, err := s.presentTenant(r.Context(), t, err)
	return made{out, existed}, err
}

func (s *Server) setTenant(r *http.Request) (any, error) {
	in, err := read[TenantSet](r)
	if err != nil {
		return nil, err
	}
	t, err := s.Meta.UpdateTenant(r.Context(), r.PathValue("name"), in.apply)
	return s.presentTenant(r.Context(), t, err)
}
