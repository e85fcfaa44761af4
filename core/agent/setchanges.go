package agent

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
)

// setChanges commits changes of replica sets: those of a volume that come while one transaction is under way go into the next one
// together, so that thousands at once, such as when a node dies, are a few transactions.
type setChanges struct {
	commit func(ctx context.Context, volume uuid.UUID, changes []meta.SetChange) ([]meta.Generation, error)

	mu      sync.Mutex
	waiting map[uuid.UUID][]*pendingChange // by volume; a key: one is committing
}

type pendingChange struct {
	change meta.SetChange
	turn   chan struct{} // capacity 1: the change was committed or refused, or is to be committed by who waits for it
	ended  bool
	next   meta.Generation
	err    error
}

func newSetChanges(commit func(context.Context, uuid.UUID, []meta.SetChange) ([]meta.Generation, error)) *setChanges {
	return &setChanges{commit: commit, waiting: map[uuid.UUID][]*pendingChange{}}
}

// change commits one change, with others. An error that Is meta.ErrConflict is of this change.
func (s *setChanges) change(ctx context.Context, volume uuid.UUID, c meta.SetChange) (meta.Generation, error) {
	p := &pendingChange{change: c, turn: make(chan struct{}, 1)}
	s.mu.Lock()
	others, busy := s.waiting[volume]
	s.waiting[volume] = append(others, p)
	s.mu.Unlock()
	if busy {
		if <-p.turn; p.ended { // whoever commits is bounded by a context of his own
			return p.next, p.err
		}
	}
	s.mu.Lock()
	all := s.waiting[volume]
	s.waiting[volume] = nil
	s.mu.Unlock()
	s.together(ctx, volume, all)
	for _, o := range all {
		if o.ended = true; o != p {
			o.turn <- struct{}{}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if more := s.waiting[volume]; len(more) > 0 {
		more[0].turn <- struct{}{}
	} else {
		delete(s.waiting, volume)
	}
	return p.next, p.err
}

// together commits changes of one volume, and fills in what came of each.
func (s *setChanges) together(ctx context.Context, volume uuid.UUID, all []*pendingChange) {
	slices.SortFunc(all, func(a, b *pendingChange) int { return cmp.Compare(a.change.Index, b.change.Index) })
	var batch []meta.SetChange
	for i, p := range all {
		if i == 0 || p.change.Index != all[i-1].change.Index {
			batch = append(batch, p.change)
		}
	}
	if len(batch) == len(all) && len(all) > 1 {
		next, err := s.commit(ctx, volume, batch)
		if err == nil || !errors.Is(err, meta.ErrConflict) && !errors.Is(err, meta.ErrInvalid) {
			for i, p := range all {
				if p.err = err; err == nil {
					p.next = next[i]
				}
			}
			return
		}
	}
	// One of them does not hold any more: each by itself. Those that were committed are found so.
	for _, p := range all {
		next, err := s.commit(ctx, volume, []meta.SetChange{p.change})
		if p.err = err; err == nil {
			p.next = next[0]
		}
	}
}
