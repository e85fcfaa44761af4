package admin

import "net/http"

// clusterRoutes are about the node's cluster.
func (s *Server) clusterRoutes(m *http.ServeMux) {
	m.HandleFunc("GET /v1/nodes", answer(func(r *http.Request) (any, error) { return s.Agent.Nodes(r.Context()) }))
	m.HandleFunc("DELETE /v1/nodes/{name}", answer(func(r *http.Request) (any, error) {
		return struct{}{}, s.Agent.RemoveNode(r.Context(), r.PathValue("name"))
	}))
	m.HandleFunc("POST /v1/nodes/{name}/drain", answer(func(r *http.Request) (any, error) {
		in, err := read[NodeDrainAsk](r)
		if err != nil {
			return nil, err
		}
		return struct{}{}, s.Agent.DrainNode(r.Context(), r.PathValue("name"), in.Force)
	}))
	m.HandleFunc("POST /v1/nodes/{name}/undrain", answer(func(r *http.Request) (any, error) {
		return struct{}{}, s.Agent.UndrainNode(r.Context(), r.PathValue("name"))
	}))
	m.HandleFunc("GET /v1/cluster", answer(func(r *http.Request) (any, error) { return s.Agent.Cluster(r.Context()) }))
	m.HandleFunc("GET /v1/cluster/certificate", answer(func(r *http.Request) (any, error) { return s.Agent.Certificate(r.Context()) }))
	m.HandleFunc("POST /v1/cluster/certificate", answer(func(r *http.Request) (any, error) {
		if err := s.Agent.RenewCertificate(r.Context()); err != nil {
			return nil, err
		}
		return s.Agent.Certificate(r.Context())
	}))
	m.HandleFunc("POST /v1/cluster/tokens", answer(func(r *http.Request) (any, error) {
		in, err := read[TokenCreate](r)
		if err != nil {
			return nil, err
		}
		t, err := s.Agent.JoinToken(r.Context(), in.Life)
		return Token{t}, err
	}))
}
