package agent

import (
	"fmt"
	"time"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/meta"
)

// healing notes that replicas of a volume are being made, and that all are there again.
func (a *agent) healing(h access.Healing) {
	bytes := config.FormatSize(int64(h.Bytes))
	if !h.Ended {
		a.log.Info("replicas that are missing are being made", "volume", h.Name, "extents", h.Extents, "bytes", bytes)
		a.event(meta.Warning, "resync-began", h.Name, fmt.Sprintf("%d extents have fewer replicas than they are to have; %s are to be copied", h.Extents, bytes))
		return
	}
	took := h.Took.Round(time.Millisecond)
	a.log.Info("all replicas are there again", "volume", h.Name, "extents", h.Extents, "bytes", bytes, "took", took)
	a.event(meta.Info, "resync-ended", h.Name, fmt.Sprintf("%d extents got a replica; %s were copied in %s", h.Extents, bytes, took))
}
