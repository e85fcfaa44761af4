package meta_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
)

func TestBehind(t *testing.T) {
	w := newWorld(t)
	v, err := w.CreateVolume(w.ctx, meta.Volume{Name: "v", Bytes: 1 << 40})
	w.must(err)
	note := func(found []uint32, want []uint32) {
		t.Helper()
		got, err := w.Behind(w.ctx, v.ID, found)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("%d extents are behind, want %d: %v", len(got), len(want), err)
		}
	}
	note(nil, nil)
	note([]uint32{7, 3, 4}, []uint32{3, 4, 7})
	note(nil, []uint32{3, 4, 7})
	note([]uint32{5, 4}, []uint32{3, 4, 5, 7})
	var scattered, all []uint32
	for i := range uint32(20_000) {
		if i%2 == 1 {
			scattered = append(scattered, i)
		}
		if i > 0 {
			all = append(all, i)
		}
	}
	if _, err := w.Behind(w.ctx, v.ID, scattered); err != nil {
		t.Fatal(err)
	}
	note(nil, all) // too many to be told apart
	if _, err := w.Behind(w.ctx, uuid.New(), []uint32{1}); !errors.Is(err, meta.ErrNotFound) {
		t.Errorf("a volume that is not there: %v", err)
	}
}
