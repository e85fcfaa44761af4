package block

// Share is what the commands of one queue hold of the pool, and the order in which they wait for more. A queue whose commands hold
// its fair share waits for itself, so that no host can take all of the pool. It belongs to the pool's thread.
type Share[C comparable] struct {
	pool   *Pool
	ready  func(C, Buffer)
	held   int       // bytes
	parked []wish[C] // in order
	waits  bool      // Pool.Wait has our function
}

type wish[C comparable] struct {
	command C
	bytes   int
}

// NewShare returns a share that holds nothing. ready is called, on the thread, for each command that Take parked and Drop did not
// take back, with its buffer.
func NewShare[C comparable](pool *Pool, ready func(C, Buffer)) *Share[C] {
	return &Share[C]{pool: pool, ready: ready}
}

// Take returns n bytes for command, 0 < n <= MaxTransfer of the pool. False says that it is parked instead: it gets them after
// those that were parked before it.
func (s *Share[C]) Take(command C, n int) (Buffer, bool) {
	if len(s.parked) == 0 && s.pool.fair(s.held, n) {
		if b, ok := s.pool.Alloc(n); ok {
			s.held += b.Len()
			return b, true
		}
	}
	s.parked = append(s.parked, wish[C]{command, n})
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
	s.held -= b.Len()
	s.pool.Free(b)
	s.await()
}

func (s *Share[C]) remove(i int) {
	copy(s.parked[1:i+1], s.parked[:i])
	s.parked[0] = wish[C]{}
	s.parked = s.parked[1:]
}

// await waits for memory for the first parked command.
func (s *Share[C]) await() {
	if s.waits || len(s.parked) == 0 || !s.pool.fair(s.held, s.parked[0].bytes) {
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
	s.held += b.Len()
	s.await()
	s.ready(command, b)
}
