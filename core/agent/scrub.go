package agent

import (
	"context"
	"fmt"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/meta"
)

// Scrub implements admin.Agent.
func (a *agent) Scrub(ctx context.Context, v meta.Volume, progress func(admin.Scrub)) (admin.Scrub, error) {
	out := admin.Scrub{Volume: v.Name}
	open, err := a.access.Open(ctx, geometry(v))
	if err != nil {
		return out, err
	}
	var all []uint32
	if err := a.meta.Extents(ctx, v.ID, func(i uint32, e meta.Extent) error {
		if len(e.Set) > 0 {
			all = append(all, i)
		}
		return nil
	}); err != nil {
		return out, err
	}
	out.Total = len(all)
	progress(out)
	var sum access.Scrubbed
	show := func(s access.Scrubbed) {
		out.Bytes, out.Corrupt, out.Different, out.Repaired = s.Bytes, s.Corrupt, s.Different, s.Repaired
	}
	for _, i := range all {
		s, err := a.access.Scrub(ctx, open, i, func(s access.Scrubbed) {
			s.Add(sum)
			show(s)
			progress(out)
		})
		sum.Add(s)
		show(sum)
		switch {
		case ctx.Err() != nil:
			return out, ctx.Err()
		case err != nil:
			out.Skipped++
			out.Reason = err.Error()
		default:
			out.Extents++
		}
	}
	severity, kind := meta.Info, "scrub-ended"
	if out.Corrupt+out.Different > 0 {
		severity = meta.Warning
	}
	a.event(severity, kind, v.Name, fmt.Sprintf("%s in %d extents were read from every replica: %d regions damaged, %d different, %d of them repaired; %d extents could not be read",
		config.FormatSize(out.Bytes), out.Extents, out.Corrupt, out.Different, out.Repaired, out.Skipped))
	return out, nil
}
