package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/mooring-io/mooring/core/meta"
)

// PathEvent is one change as `mooring path watch` shows it: of a path, or of an access
// point. The first ones say what is.
type PathEvent struct {
	Time        time.Time    `json:"time"`
	Path        *Path        `json:"path,omitempty"`
	From        string       `json:"from,omitempty"` // where the path was optimized before; "": it is new, or stayed
	AccessPoint *PointChange `json:"access_point,omitempty"`
}

// PointChange is an access point that came up or went down.
type PointChange struct {
	ID     string `json:"id"`
	Up     bool   `json:"up"`
	Reason string `json:"reason,omitempty"` // why it is not up
}

// watchPaths prints changes of paths and access points as they are seen, until the
// client leaves.
func (s *Server) watchPaths(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	seen := pathsSeen{paths: map[meta.PathKey]meta.Path{}, points: map[string]meta.AccessPoint{}}
	for range s.Meta.Watch(r.Context(), meta.TopicPaths, meta.TopicAccessPoints, meta.TopicSessions) {
		news, err := seen.read(r.Context(), s.Meta)
		if err != nil {
			continue // with the next change
		}
		for _, e := range news {
			if enc.Encode(e) != nil {
				return
			}
		}
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
	}
}

// pathsSeen is what a watcher was told.
type pathsSeen struct {
	paths  map[meta.PathKey]meta.Path
	points map[string]meta.AccessPoint
}

// read returns what is news, access points first: they are why paths move.
func (p *pathsSeen) read(ctx context.Context, m *meta.Meta) ([]PathEvent, error) {
	points, err := m.AccessPoints(ctx)
	if err != nil {
		return nil, err
	}
	paths, err := m.Paths(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	var out []PathEvent
	for _, a := range points {
		if was, ok := p.points[a.ID]; !ok || was.Up != a.Up {
			out = append(out, PathEvent{Time: now, AccessPoint: &PointChange{ID: a.ID, Up: a.Up, Reason: a.Reason}})
		}
		p.points[a.ID] = a
	}
	for _, x := range paths {
		was, ok := p.paths[x.Key]
		if !ok || was.Optimized != x.Optimized {
			to := presentPath(x)
			out = append(out, PathEvent{Time: now, Path: &to, From: was.Optimized})
		}
		p.paths[x.Key] = x
	}
	return out, nil
}
