package admin

import (
	"encoding/json"
	"net/http"
	"time"
)

// Scrub says what reading all replicas of a volume has found so far. Regions are runs of 64 KiB, or 1/4096 of a larger extent.
type Scrub struct {
	Volume    string `json:"volume"`
	Extents   int    `json:"extents"`       // that were read
	Total     int    `json:"extents_total"` // that there are
	Skipped   int    `json:"extents_skipped"`
	Bytes     int64  `json:"bytes"`            // that were read, of each replica
	Corrupt   int    `json:"corrupt"`          // regions with a damaged block on a replica
	Different int    `json:"different"`        // regions in which whole replicas differ
	Repaired  int    `json:"repaired"`         // of both
	Reason    string `json:"reason,omitempty"` // why extents were skipped, or why it ended
	Ended     bool   `json:"ended"`
}

// scrubNews is how often a scrub says how far it is.
const scrubNews = 500 * time.Millisecond

// scrub reads all replicas of a volume, and streams how far it is. It ends when nobody listens any more.
func (s *Server) scrub(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	v, err := s.findVolume(r)
	enc := json.NewEncoder(w)
	var last time.Time
	var out Scrub
	if err == nil {
		out, err = s.Agent.Scrub(r.Context(), v, func(p Scrub) {
			if time.Since(last) < scrubNews {
				return
			}
			last = time.Now()
			_ = enc.Encode(p) // whoever has gone ends the request's context
			if f, ok := w.(http.Flusher); ok {
				f.Flush()
			}
		})
	}
	if err != nil && last.IsZero() {
		p, code := problem(err)
		w.WriteHeader(code)
		_ = enc.Encode(p)
		return
	}
	if out.Ended = err == nil; err != nil {
		out.Reason = err.Error()
	}
	_ = enc.Encode(out)
}
