package block

import "slices"

// Share is what the commands of one queue hold of the pool, and the order in which they wait for more. It belongs to the pool's
// thread.
//
// A host that keeps what it was given waits for itself, so that it cannot take all of the pool: its queues together may hold as much as is
// free, which is half of the pool. Beyond that a queue of it that holds nothing may have one command, so that a way
// that is stuck does not stop the host's other ones, as long as a quarter of the pool stays free for the others.
type Share[C comparable] struct {
	pool   *Pool
	ready  func(C, Buffer)
	host   *holder
	held   int       // bytes
	parked []wish[C] // in order
	waits  bool      // Pool.Wait has our function
}

// holder is what the shares of one host hold together.
type holder struct {
	name   string // "": of one share that nobody is known of yet
	held   int    // bytes
	parked int    // commands, in all shares
	shares []interface{ await() }
}

type wish[C comparable] struct {
	command C
	bytes   int
}

// NewShare returns a share that holds nothing. ready is called, on the thread, for each command that Take parked and Drop did not
// take back, with its buffer.
func NewShare[C comparable](pool *Pool, ready func(C, Buffer)) *Share[C] {
	s := &Share[C]{pool: pool, ready: ready, host: &holder{}}
	s.host.shares = append(s.host.shares, s)
	return s
}

// Belong says whose queue it is. Who calls it owes the share a Leave.
func (s *Share[C]) Belong(host string) {
	s.Leave()
	h := s.pool.holders[host]
	if h == nil {
		h = &holder{name: host}
		if s.pool.holders == nil {
			s.pool.holders = map[string]*holder{}
		}
		s.pool.holders[host] = h
	}
	s.move(h)
}

// Leave says that the queue is nobody's any more.
func (s *Share[C]) Leave() {
	former := s.host
	s.move(&holder{})
	if former.name != "" && len(former.shares) == 0 {
		delete(s.pool.holders, former.name)
	}
}

func (s *Share[C]) move(to *holder) {
	from := s.host
	from.held -= s.held
	s.park(-len(s.parked))
	from.shares = slices.DeleteFunc(from.shares, func(x interface{ await() }) bool { return x == s })
	to.held += s.held
	to.shares = append(to.shares, s)
	s.host = to
	s.park(len(s.parked))
	s.pool.relax()
}

// park counts n more parked commands.
func (s *Share[C]) park(n int) {
	h, p := s.host, s.pool
	before := h.parked
	switch h.parked += n; {
	case before == 0 && n > 0:
		p.pressed = append(p.pressed, h)
	case h.parked == 0 && n < 0:
		p.pressed = slices.DeleteFunc(p.pressed, func(x *holder) bool { return x == h })
	}
}

// relax has all shares with parked commands look again whether they may have more.
func (p *Pool) relax() {
	for _, h := range p.pressed {
		for _, s := range h.shares {
			s.await()
		}
	}
}

// fair says whether the queue may take n bytes more.
func (s *Share[C]) fair(n int) bool {
	size := s.pool.Size()
	free := size - s.pool.InUse()
	return s.host.held == 0 || s.host.held+n <= free || s.held == 0 && n+size/4 <= free
}

// Take returns n bytes for command, 0 < n <= MaxTransfer of the pool. False says that it is parked instead: it gets them after
// those that were parked before it.
func (s *Share[C]) Take(command C, n int) (Buffer, bool) {
	if len(s.parked) == 0 && s.fair(n) {
		if b, ok := s.pool.Alloc(n); ok {
			s.hold(b.Len())
			return b, true
		}
	}
	s.parked = append(s.parked, wish[C]{command, n})
	s.park(1)
	s.await()
	return Buffer{}, false
}

// Drop has a parked command wait no more; one that is not parked is left alone.
func (s *Share[C]) Drop(command C) {
	for i, w := range s.parked {
		if w.command == command {
			s.remove(i)
			return
		}
	}
}

// Free gives a buffer back that Take or ready gave; the core must be done with it.
func (s *Share[C]) Free(b Buffer) {
	s.hold(-b.Len())
	s.pool.Free(b)
	s.pool.relax()
}

func (s *Share[C]) hold(n int) {
	s.held += n
	s.host.held += n
}

func (s *Share[C]) remove(i int) {
	copy(s.parked[1:i+1], s.parked[:i])
	s.parked[0] = wish[C]{}
	s.parked = s.parked[1:]
	s.park(-1)
}

// await waits for memory for the first parked command.
func (s *Share[C]) await() {
	if s.waits || len(s.parked) == 0 || !s.fair(s.parked[0].bytes) {
		return
	}
	s.waits = true
	s.pool.Wait(s.parked[0].bytes, s.got)
}

func (s *Share[C]) got(b Buffer) {
	s.waits = false
	if len(s.parked) == 0 || s.parked[0].bytes != b.Len() {
		s.pool.Free(b) // who waited is gone
		s.await()
		return
	}
	command := s.parked[0].command
	s.remove(0)
	s.hold(b.Len())
	s.await()
	s.ready(command, b)
}
