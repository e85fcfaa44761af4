package association

import (
	"context"
	"errors"
	"time"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/path"
)

// moveRetry is how long a move that did not come off waits for its next try. Who waits for
// it is answered by Access after a bounded time.
const moveRetry = 100 * time.Millisecond

// wanted hears on the reactor that a host writes at an access point that is not the
// optimized one of a namespace.
func (s *Service) wanted(a *association, nsid meta.NSID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wants[nsid] = struct{}{}
	if !a.moving {
		a.moving = true
		s.wg.Go(func() { s.move(s.life, a) })
	}
}

// takeWants returns the namespaces that are wanted; with none, the move is over.
func (a *association) takeWants() []meta.NSID {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []meta.NSID
	for nsid := range a.wants {
		out = append(out, nsid)
	}
	clear(a.wants)
	a.moving = len(out) > 0
	return out
}

// move brings paths to a until no write waits for that any more.
func (s *Service) move(ctx context.Context, a *association) {
	said := ""
	for wants := a.takeWants(); len(wants) > 0; wants = a.takeWants() {
		pause, err := s.moveOnce(ctx, a, wants)
		if err != nil && err.Error() != said && ctx.Err() == nil {
			said = err.Error()
			s.log.Warn("a path does not move to where its host writes", "host", a.host.Name, "access_point", a.accessPoint, "error", err)
		}
		if !s.stillWanted(ctx, a, wants) {
			continue
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// moveOnce tries once, and says how long to wait before the next time.
func (s *Service) moveOnce(ctx context.Context, a *association, wants []meta.NSID) (pause time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, reconcileTimeout)
	defer cancel()
	defer s.pairs.lock(a.pair())()
	if a.hasEnded() {
		return 0, nil
	}
	pause = moveRetry
	settle := false
	var failed []error
	for _, nsid := range wants {
		_, err := s.Paths.Written(ctx, meta.NewPathKey(a.host, a.subsystem, nsid), a.accessPoint)
		var soon *path.TooSoonError
		if errors.As(err, &soon) {
			pause = max(pause, soon.After)
			continue
		}
		settle = true
		failed = append(failed, err)
	}
	if settle { // after a failure, too: the path may be elsewhere than it was thought to be
		v, err := s.read(ctx)
		if err == nil {
			err = s.settleLocked(ctx, a.pair(), v)
		}
		failed = append(failed, err)
	}
	return pause, errors.Join(failed...)
}

// stillWanted puts back what writes still wait for.
func (s *Service) stillWanted(ctx context.Context, a *association, wants []meta.NSID) bool {
	still := false
	for _, nsid := range wants {
		a.mu.Lock()
		g := a.grants[nsid]
		a.mu.Unlock()
		if g == nil {
			continue
		}
		if yes, err := a.life.client.Wanted(ctx, g.handle); err != nil || !yes {
			continue
		}
		a.mu.Lock()
		a.wants[nsid] = struct{}{}
		a.mu.Unlock()
		still = true
	}
	return still
}

func (a *association) hasEnded() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ended
}
