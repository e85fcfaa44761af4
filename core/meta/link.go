package meta

import (
	"context"
	"fmt"
	"time"
)

// WholeTarget stands for a target as a whole where paths name a unit: its path is the link of a host
// with a target whose sessions are redirected. All its sessions go to the optimized access point, and
// the paths of the units follow.
const WholeTarget NSID = 0

// linkPromise is how long the place of a host that was sent to an access point is kept for it to log
// in there. Nodes judge it by their wall clocks: if these differ, loads are less even for a while.
const linkPromise = 30 * time.Second

// Redirects says whether every session goes to the one access point that its link names.
func (s Subsystem) Redirects() bool { return s.Target != nil && s.Target.Mode == Redirect }

// Promised says whether a link was made so short a time ago that its host may still be on its way.
func (m *Meta) Promised(p Path) bool { return m.now().Sub(p.Asked) < linkPromise }

// LinkTurn numbers the decisions on links in the cluster. It is read before what a decision is made from.
func (m *Meta) LinkTurn(ctx context.Context) (uint64, error) {
	return m.nextLinkTurn(ctx, &txn{})
}

// nextLinkTurn adds to x that decisions on links that are being made elsewhere be made anew, and
// returns the present turn.
func (m *Meta) nextLinkTurn(ctx context.Context, x *txn) (uint64, error) {
	n, rev, err := load[uint64](ctx, m, keyCounter("links"))
	if err != nil && !isNotFound(err) {
		return 0, err
	}
	x.update(keyCounter("links"), rev, n+1)
	return n, nil
}

// SetLink commits a link that was decided on for a host that logs in: ErrConflict if since turn
// another link was decided on, or this one changed.
func (m *Meta) SetLink(ctx context.Context, turn uint64, expect PathEpoch, want Path) (Path, error) {
	want.Key = NewPathKey(want.Key.Host, want.Key.Subsystem, WholeTarget)
	want.Asked = m.now().UTC()
	err := m.retry(ctx, func(x *txn) error {
		now, err := m.nextLinkTurn(ctx, x)
		if err != nil {
			return err
		}
		if now != turn {
			return fmt.Errorf("another link was decided on meanwhile: %w", ErrConflict)
		}
		want, err = m.setLink(ctx, x, PathChange{Expect: expect, Path: want})
		return err
	})
	return want, err
}

// setLink adds a link to a transaction.
func (m *Meta) setLink(ctx context.Context, x *txn, c PathChange) (Path, error) {
	want := c.Path
	sub, srev, err := load[Subsystem](ctx, m, keySubsystem(want.Key.Subsystem))
	if err != nil {
		return want, fmt.Errorf("%s: %w", want.Key, err)
	}
	if !sub.Redirects() {
		return want, fmt.Errorf("%s does not redirect: %w", sub.title(), ErrNotFound)
	}
	old, rev, err := load[Path](ctx, m, keyPath(want.Key))
	if err != nil && !isNotFound(err) {
		return want, err
	}
	if old.Moves != c.Expect {
		return want, fmt.Errorf("link of %s moved meanwhile: %w", want.Key, ErrConflict)
	}
	want.Moves, want.Since = old.Moves, old.Since
	if old.Optimized != want.Optimized {
		want.Moves, want.Since = old.Moves+1, m.now().UTC()
	}
	if want.Asked.IsZero() {
		want.Asked = old.Asked
	}
	want.Epoch = want.Moves
	x.at(keySubsystem(want.Key.Subsystem), srev)
	x.update(keyPath(want.Key), rev, want)
	return want, nil
}

// ForgetLinks removes links that are as they were read: those of hosts without a session. One that
// changed meanwhile stays.
func (m *Meta) ForgetLinks(ctx context.Context, links []Path) error {
	for _, l := range links {
		err := m.retry(ctx, func(x *txn) error {
			now, rev, err := load[Path](ctx, m, keyPath(l.Key))
			if isNotFound(err) {
				return nil
			}
			if err != nil {
				return err
			}
			if now.Moves == l.Moves && now.Asked.Equal(l.Asked) {
				x.remove(keyPath(l.Key), rev)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
