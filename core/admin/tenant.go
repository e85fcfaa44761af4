package admin

import (
	"net/http"
	"time"

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

// Path is where one host reaches one namespace. All access points that are not named
// are inaccessible to it.
type Path struct {
	Host         string    `json:"host"`
	Subsystem    string    `json:"subsystem"`
	NSID         uint32    `json:"nsid"`
	Optimized    string    `json:"optimized"`
	NonOptimized []string  `json:"non_optimized"`
	Policy       string    `json:"policy"` // who decided; "builtin": no policy has yet; "host": its writes
	Reason       string    `json:"reason"`
	Epoch        uint64    `json:"epoch"`
	Since        time.Time `json:"since"` // that it is optimized there
}

func (s *Server) pathRoutes(m *http.ServeMux) {
	m.HandleFunc("GET /v1/tenants", answer(s.tenants))
	m.HandleFunc("POST /v1/tenants", answer(s.createTenant))
	m.HandleFunc("PATCH /v1/tenants/{name}", answer(s.setTenant))
	m.HandleFunc("DELETE /v1/tenants/{name}", answer(func(r *http.Request) (any, error) {
		return struct{}{}, s.Meta.DeleteTenant(r.Context(), r.PathValue("name"))
	}))
	m.HandleFunc("GET /v1/paths", answer(s.paths))
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

func (s *Server) paths(r *http.Request) (any, error) {
	all, err := s.Meta.Paths(r.Context())
	out := []Path{}
	for _, p := range all {
		x := Path{
			Host: p.Key.Host.Name, Subsystem: p.Key.Subsystem, NSID: uint32(p.Key.NSID), Optimized: p.Optimized, NonOptimized: p.NonOptimized,
			Policy: p.Policy, Reason: p.Reason, Epoch: uint64(p.Epoch), Since: p.Since,
		}
		if x.NonOptimized == nil {
			x.NonOptimized = []string{}
		}
		out = append(out, x)
	}
	return out, err
}
