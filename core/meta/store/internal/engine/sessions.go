package engine

import (
	"slices"
	"sync"
	"time"

	"github.com/mooring-io/mooring/core/meta/store"
)

// Sessions is the table of live sessions of an embedded engine.
type Sessions struct {
	clock store.Clock
	due   func() // called on a timer when a session may have expired

	mu   sync.Mutex
	live map[store.SessionID]*session
	stop func() bool
	done bool
}

type session struct {
	ttl     time.Duration
	expires int64 // Boot time
}

// NewSessions returns an empty table. due is called, on a goroutine of the clock,
// whenever Expired may have something new.
func NewSessions(c store.Clock, due func()) *Sessions {
	return &Sessions{clock: c, due: due, live: map[store.SessionID]*session{}}
}

// Add begins a session.
func (s *Sessions) Add(id store.SessionID, ttl time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live[id] = &session{ttl: ttl, expires: s.clock.Boot() + int64(ttl)}
	s.arm()
}

// KeepAlive prolongs a session, or says that it is over.
func (s *Sessions) KeepAlive(id store.SessionID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Boot()
	e := s.live[id]
	if e == nil || e.expires <= now {
		return store.ErrSessionExpired
	}
	e.expires = now + int64(e.ttl)
	return nil
}

// Live says whether keys may be bound to the session.
func (s *Sessions) Live(id store.SessionID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.live[id]
	return e != nil && e.expires > s.clock.Boot()
}

// Expired returns the sessions whose time is over and whose keys must go. They
// stay in the table until Remove.
func (s *Sessions) Expired() []store.SessionID {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Boot()
	var out []store.SessionID
	for id, e := range s.live {
		if e.expires <= now {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// Kill makes a session expire now.
func (s *Sessions) Kill(id store.SessionID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.live[id]; e != nil {
		e.expires = s.clock.Boot()
	}
}

// Remove forgets a session whose keys are gone.
func (s *Sessions) Remove(id store.SessionID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, id)
	s.arm()
}

// arm sets the timer to the earliest expiry; mu is held.
func (s *Sessions) arm() {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
	if s.done || len(s.live) == 0 {
		return
	}
	var first int64
	for _, e := range s.live {
		if first == 0 || e.expires < first {
			first = e.expires
		}
	}
	// Suspend does not advance timers; operations look at the clock themselves.
	s.stop = s.clock.AfterFunc(max(time.Duration(first-s.clock.Boot()), time.Millisecond), s.fire)
}

func (s *Sessions) fire() {
	if len(s.Expired()) > 0 {
		s.due()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arm()
}

// Close stops the timer; due is not called by timers that had not fired.
func (s *Sessions) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	s.arm()
}
