package meta

import "sync"

// ControllerIDs gives out the controller IDs of one node. They are not stored:
// controllers live no longer than the core. An ID given back is used again as late
// as possible.
type ControllerIDs struct {
	first, last uint16

	mu   sync.Mutex
	subs map[string]*controllerSet
}

type controllerSet struct {
	used map[uint16]bool
	next uint16
}

// NewControllerIDs returns the IDs of a node, none of them in use.
func NewControllerIDs(n Node) *ControllerIDs {
	first, last := n.Controllers()
	return &ControllerIDs{first: first, last: last, subs: map[string]*controllerSet{}}
}

// Take returns a free ID in a subsystem, or false if all are in use.
func (c *ControllerIDs) Take(nqn string) (uint16, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.set(nqn)
	for range int(c.last-c.first) + 1 {
		id := s.next
		if s.next++; s.next > c.last {
			s.next = c.first
		}
		if !s.used[id] {
			s.used[id] = true
			return id, true
		}
	}
	return 0, false
}

// Claim takes one certain ID, or says that it is in use or not of this node.
func (c *ControllerIDs) Claim(nqn string, id uint16) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.set(nqn)
	if id < c.first || id > c.last || s.used[id] {
		return false
	}
	s.used[id] = true
	return true
}

// Give gives an ID back. Idempotent.
func (c *ControllerIDs) Give(nqn string, id uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.set(nqn).used, id)
}

func (c *ControllerIDs) set(nqn string) *controllerSet {
	s := c.subs[nqn]
	if s == nil {
		s = &controllerSet{used: map[uint16]bool{}, next: c.first}
		c.subs[nqn] = s
	}
	return s
}
