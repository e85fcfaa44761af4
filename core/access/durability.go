package access

import (
	"context"

	"github.com/google/uuid"
)

// SetDurability changes what an acknowledged write survives, of writes that begin from now on. A volume
// that was volatile and is not any more has all that was acknowledged before durable when it returns; until
// then a host's Flush still flushes.
func (v *Volume) SetDurability(ctx context.Context, volatile bool) error {
	if err := v.change(ctx, func() { v.hardening, v.durable = !volatile && (v.hardening || !v.durable), !volatile }); err != nil {
		return err
	}
	return v.Harden(ctx)
}

// Harden finishes a SetDurability that could not make durable what was acknowledged.
func (v *Volume) Harden(ctx context.Context) error {
	var hardening bool
	if err := v.access.reactor.Do(ctx, func() { hardening = v.hardening }); err != nil || !hardening {
		return err
	}
	if err := v.access.Flush(ctx); err != nil {
		return err
	}
	return v.access.reactor.Do(ctx, func() { v.hardening = false })
}

// Volatile returns the open volumes of which an acknowledged write may not be durable.
func (a *Access) Volatile(ctx context.Context) (map[uuid.UUID]bool, error) {
	out := map[uuid.UUID]bool{}
	err := a.reactor.Do(ctx, func() {
		for id, v := range a.volumes {
			if !v.durable || v.hardening {
				out[id] = true
			}
		}
	})
	return out, err
}
