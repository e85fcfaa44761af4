package access

import (
	"cmp"
	"context"

	"golang.org/x/time/rate"

	"github.com/mooring-io/mooring/core/extent"
)

// DefaultResyncRate is how many bytes per second are copied from store to store, so that hosts' I/O goes first.
const DefaultResyncRate = 128 << 20

// copiesAtOnce is how many regions a node copies at once, whatever their extents.
const copiesAtOnce = 16

// pace bounds what is copied from store to store: bytes per second, and regions at once.
type pace struct {
	limiter *rate.Limiter
	slots   chan struct{}
}

func newPace(h *Heal, extentBytes int64) *pace {
	p := &pace{limiter: rate.NewLimiter(rate.Inf, 0), slots: make(chan struct{}, copiesAtOnce)}
	if h != nil {
		region := int64(extent.RegionBlocks(uint32(extentBytes/blockBytes))) * blockBytes
		n := cmp.Or(h.Rate, DefaultResyncRate)
		p.limiter = rate.NewLimiter(rate.Limit(n), int(max(region, n/16)))
	}
	return p
}

// take waits until n bytes may be copied; give says that they were.
func (p *pace) take(ctx context.Context, n int) error {
	if err := p.limiter.WaitN(ctx, n); err != nil {
		return err
	}
	select {
	case p.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *pace) give() { <-p.slots }

// SetResyncRate changes how many bytes per second are copied from store to store.
func (a *Access) SetResyncRate(n int64) { a.pace.limiter.SetLimit(rate.Limit(n)) }
