package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
)

// Changes that come while one is being committed are one transaction; one that does not hold fails alone.
func TestSetChangesGoTogether(t *testing.T) {
	const wrong = 40
	first, goOn := make(chan struct{}), make(chan struct{})
	var calls []int
	s := newSetChanges(func(_ context.Context, _ uuid.UUID, all []meta.SetChange) (out []meta.Generation, err error) {
		if calls = append(calls, len(all)); len(calls) == 1 {
			close(first)
			<-goOn
		}
		for _, c := range all {
			if c.Index == wrong {
				return nil, fmt.Errorf("extent %d: %w", c.Index, meta.ErrConflict)
			}
			out = append(out, c.Generation+1)
		}
		return out, nil
	})
	v := uuid.New()
	var all sync.WaitGroup
	change := func(i uint32) {
		all.Go(func() {
			next, err := s.change(t.Context(), v, meta.SetChange{Index: i, Generation: meta.Generation(i)})
			if (i == wrong) != errors.Is(err, meta.ErrConflict) || err == nil && next != meta.Generation(i)+1 {
				t.Errorf("extent %d: %d, %v", i, next, err)
			}
		})
	}
	count := func(n int) {
		for {
			s.mu.Lock()
			got := len(s.waiting[v])
			s.mu.Unlock()
			if got == n {
				return
			}
		}
	}
	change(0)
	<-first
	for i := uint32(1); i <= 30; i++ {
		change(i)
	}
	count(30)
	close(goOn)
	all.Wait()
	if len(calls) != 2 || calls[1] != 30 {
		t.Errorf("transactions of %v changes, want 1 and 30", calls)
	}
	first, goOn, calls = make(chan struct{}), make(chan struct{}), nil
	change(31)
	<-first
	for i := uint32(32); i <= 50; i++ {
		change(i)
	}
	count(19)
	close(goOn)
	all.Wait()
	if len(s.waiting) != 0 {
		t.Error("somebody waits")
	}
}
