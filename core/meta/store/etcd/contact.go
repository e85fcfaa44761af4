package etcd

import (
	"context"
	"errors"
	"sync"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mooring-io/mooring/core/meta/store"
)

// contact remembers when etcd was out of reach, so that the judge can leave others
// the time that etcd took from all.
type contact struct {
	clock store.Clock

	mu      sync.Mutex
	since   int64 // Boot time of the first request that failed; 0: etcd answers
	resumed int64 // Boot time of the first answer after that
	outage  int64 // how long it lasted, ns
}

// slow is how long a request may take, in ns, before it counts as an outage that ended
// with it: a member without a leader answers no sooner than it has one.
const slow = int64(400e6)

// contacted notes what became of a request.
func contacted[T any](c *contact, fn func() (T, error)) (T, error) {
	sent := c.clock.Boot()
	v, err := fn()
	c.note(sent, err)
	return v, err
}

func (c *contact) note(sent int64, err error) {
	now := c.clock.Boot()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil && transient(err):
		if c.since == 0 {
			c.since = sent
		}
	case err != nil: // an answer, or the caller gave up: nothing is known of etcd
	case c.since != 0:
		c.resumed, c.outage, c.since = now, now-c.since, 0
	case now-sent > slow:
		c.resumed, c.outage = now, now-sent
	}
}

// stoodStill notes that this process has just stood still for so long, in ns.
func (c *contact) stoodStill(long int64) {
	now := c.clock.Boot()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.since == 0 && now+long > c.resumed+c.outage {
		c.resumed, c.outage = now, long
	}
}

// grace is until when, in Boot time, nobody is judged for having been silent: after
// an outage, as long as it lasted, at most ttl, in ns. While it lasts, always.
func (c *contact) grace(ttl int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.since != 0 {
		return c.clock.Boot() + ttl
	}
	return c.resumed + min(c.outage, ttl)
}

// silent is for how long etcd has not answered, in ns; 0: it does.
func (c *contact) silent() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.since == 0 {
		return 0
	}
	return max(1, c.clock.Boot()-c.since)
}

var errLearner = rpctypes.Error(rpctypes.ErrGRPCNotSupportedForLearner)

// transient says whether an error is etcd's being away, changing its leader or being
// slow, so that asking again may help.
func transient(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	if errors.Is(err, context.Canceled) {
		return false
	}
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return e.Code() == codes.Unavailable || errors.Is(e, rpctypes.ErrTooManyRequests) ||
			errors.Is(e, rpctypes.ErrNotLeader) || errors.Is(e, errLearner)
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted:
		return true
	case codes.Internal: // what gRPC says of a stream that a server that ends cut off; etcd's own errors are above
		return true
	}
	return false
}
