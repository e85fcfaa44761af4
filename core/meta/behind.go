package meta

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// extentRange is a run of extents of a volume.
type extentRange struct {
	From  uint32 `json:"from"`
	Count uint32 `json:"count"`
}

// maxBehindRanges bounds the record of a volume; what does not fit becomes one range over
// all of it, which is the safe side.
const maxBehindRanges = 4096

// Behind adds to the extents of a volume of which replicas know a higher generation than
// Meta, which came from an old backup, and returns all that were ever found. A generation
// that Meta gives out later does not make Meta right again: they stay until recovered.
func (m *Meta) Behind(ctx context.Context, volume uuid.UUID, found []uint32) ([]uint32, error) {
	var all []uint32
	err := m.retry(ctx, func(x *txn) error {
		old, rev, err := load[[]extentRange](ctx, m, keyBehind(volume))
		if err != nil && !isNotFound(err) {
			return err
		}
		all = slices.Clone(found)
		for _, r := range old {
			for i := range r.Count {
				all = append(all, r.From+i)
			}
		}
		slices.Sort(all)
		all = slices.Compact(all)
		next := rangesOf(all)
		if slices.Equal(next, old) {
			return nil
		}
		_, vrev, err := load[Volume](ctx, m, keyVolume(volume))
		if err != nil {
			return err
		}
		x.at(keyVolume(volume), vrev)
		x.update(keyBehind(volume), rev, next)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("note the extents of volume %s that are newer than the metadata: %w", volume, err)
	}
	return all, nil
}

// rangesOf packs sorted indices.
func rangesOf(indices []uint32) []extentRange {
	var out []extentRange
	for _, i := range indices {
		if n := len(out); n > 0 && out[n-1].From+out[n-1].Count == i {
			out[n-1].Count++
		} else {
			out = append(out, extentRange{i, 1})
		}
	}
	if n := len(out); n > maxBehindRanges {
		last := out[n-1]
		out = []extentRange{{out[0].From, last.From + last.Count - out[0].From}}
	}
	return out
}
