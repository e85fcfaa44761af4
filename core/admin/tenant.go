package admin

import (
	"net/http"

	"github.com/mooring-io/mooring/core/meta"
)

// Tenant owns volumes and subsystems.
type Tenant struct {
	Name    string `json:"name"`
	Policy  string `json:"policy"`            // name of the path policy
	Managed string `json:"managed,omitempty"` // file:line of the block that sets it
}

// TenantSet asks for a tenant, or for a change of one.
type TenantSet struct {
	Name   string `json:"name,omitempty"`
	Policy string `json:"policy"`
}

func (s *Server) tenantRoutes(m *http.ServeMux) {
	m.HandleFunc("GET /v1/tenants", answer(s.tenants))
	m.HandleFunc("POST /v1/tenants", answer(s.createTenant))
	m.HandleFunc("PATCH /v1/tenants/{name}", answer(s.setTenant))
	m.HandleFunc("DELETE /v1/tenants/{name}", answer(func(r *http.Request) (any, error) {
		return struct{}{}, s.Meta.DeleteTenant(r.Context(), r.PathValue("name"))
	}))
}

func presentTenant(t meta.Tenant) Tenant {
	return Tenant{Name: t.Name, Policy: t.Policy, Managed: managed(t.Managed)}
}

func (s *Server) tenants(r *http.Request) (any, error) {
	all, err := s.Meta.Tenants(r.Context())
	out := []Tenant{}
	for _, t := range all {
		if !t.Closing {
			out = append(out, presentTenant(t))
		}
	}
	return out, err
}

func (s *Server) createTenant(r *http.Request) (any, error) {
	in, err := read[TenantSet](r)
	if err != nil {
		return nil, err
	}
	t, err := s.Meta.CreateTenant(r.Context(), meta.Tenant{Name: in.Name, Policy: in.Policy})
	return presentTenant(t), err
}

func (s *Server) setTenant(r *http.Request) (any, error) {
	in, err := read[TenantSet](r)
	if err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	if err := s.Meta.SetTenantPolicy(r.Context(), name, in.Policy); err != nil {
		return nil, err
	}
	t, err := s.Meta.Tenant(r.Context(), name)
	return presentTenant(t), err
}
