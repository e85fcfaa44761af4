package blocktest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/ring"
)

// Options say what to run; the zero value is one thread, 128 entries, 16 MiB of pool.
type Options struct {
	Threads     int
	Entries     int   // of each ring
	PoolBytes   int64 // of each thread
	MaxTransfer int   // see block.Config
}

// Core stands in for a core. Its methods may be called from any goroutine.
type Core struct {
	mu        sync.Mutex
	volumes   []*Volume // by handle index
	intercept func(*ring.Entry) (ring.Status, bool)
	hold      bool
	servers   []*Server
}

// New makes a core without rings, for Serve.
func New() *Core { return new(Core) }

// Start runs a core and threads on it, until the test ends. What runs on the threads
// must be at rest by then.
func Start(tb testing.TB, o Options) (*Core, []*block.Thread) {
	tb.Helper()
	c := New()
	var threads []*block.Thread
	for i := range max(o.Threads, 1) {
		th, err := c.startThread(o, uint32(i))
		if err != nil {
			tb.Fatal(err)
		}
		threads = append(threads, th)
	}
	for i, th := range threads {
		ran := make(chan error, 1)
		go func() { ran <- th.Run(context.Background()) }()
		tb.Cleanup(func() {
			th.Stop()
			if err := <-ran; err != nil {
				tb.Error(err)
			}
			c.servers[i].Stop()
			if err := th.Close(); err != nil {
				tb.Error(err)
			}
		})
	}
	return c, threads
}

func (c *Core) startThread(o Options, index uint32) (*block.Thread, error) {
	cfg := ring.Config{Entries: o.Entries, PoolBytes: o.PoolBytes, Incarnation: 1, Thread: index}
	if cfg.Entries == 0 {
		cfg.Entries = 128
	}
	if cfg.PoolBytes == 0 {
		cfg.PoolBytes = 16 << 20
	}
	end, err := ring.Create(cfg)
	if err != nil {
		return nil, err
	}
	d, err := end.Descriptors().Dup()
	if err != nil {
		return nil, err
	}
	plugin, err := ring.Attach(d)
	if err != nil {
		return nil, err
	}
	c.Serve(end)
	return block.NewThread(block.Config{End: plugin, MaxTransfer: o.MaxTransfer})
}

// AddVolume makes a volume of size bytes that takes whole blocks of blockSize bytes.
func (c *Core) AddVolume(size int64, blockSize int) *Volume {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := &Volume{core: c, blockSize: blockSize, data: make([]byte, size)}
	v.handle = block.Handle{Index: uint32(len(c.volumes)), Generation: 1}
	c.volumes = append(c.volumes, v)
	return v
}

// Intercept has fn see each command before it is carried out. If fn says true, the
// command ends with the status that it gives and does nothing else. nil takes fn out.
func (c *Core) Intercept(fn func(e *ring.Entry) (ring.Status, bool)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.intercept = fn
}

// Hold keeps commands from here on until Release, or until they are aborted.
func (c *Core) Hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold = true
}

// Release carries out what Hold kept, in the order in which it came.
func (c *Core) Release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold = false
	for _, s := range c.servers {
		s.wake()
	}
}

// Held is how many commands Hold has kept.
func (c *Core) Held() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, s := range c.servers {
		n += len(s.held)
	}
	return n
}

// Kill ends all rings at once, as the death of a core does.
func (c *Core) Kill() {
	c.mu.Lock()
	servers := c.servers
	c.mu.Unlock()
	for _, s := range servers {
		s.Stop()
	}
}

// Server serves one ring pair.
type Server struct {
	core  *Core
	end   *ring.CoreEnd
	held  []ring.Entry // guarded by core.mu
	stop  bool         // guarded by core.mu
	bell  int          // write end of the doorbell, or -1 when stopped; guarded by core.mu
	err   error
	ended chan struct{}

	// Of the goroutine, here to spare allocations.
	entry  ring.Entry
	tokens [64]byte
}

// Serve serves end, which it owns, on a goroutine of its own until Stop, or until the
// plugin breaks the ring.
func (c *Core) Serve(end *ring.CoreEnd) *Server {
	s := &Server{core: c, end: end, bell: end.Descriptors().ToCore, ended: make(chan struct{})}
	c.mu.Lock()
	c.servers = append(c.servers, s)
	c.mu.Unlock()
	go s.run()
	return s
}

// Stop ends the rings and waits until that is done. Idempotent.
func (s *Server) Stop() {
	s.core.mu.Lock()
	s.stop = true
	s.wake()
	s.core.mu.Unlock()
	<-s.ended
}

// Err is what the plugin did to end the rings, or nil. Valid after Ended.
func (s *Server) Err() error { return s.err }

// Ended is closed when the rings have ended.
func (s *Server) Ended() <-chan struct{} { return s.ended }

// wake makes the goroutine look. The caller holds the mutex.
func (s *Server) wake() {
	if s.bell >= 0 {
		_, _ = unix.Write(s.bell, make([]byte, 8)) // a full one has rung already
	}
}

func (s *Server) run() {
	defer close(s.ended)
	for s.turn() {
		if !s.end.Sleep() {
			continue
		}
		_, _ = unix.Read(s.end.DoorbellFD(), s.tokens[:]) // whatever wakes it, it looks
		s.end.Awake()
	}
	s.core.mu.Lock()
	s.bell = -1
	s.held = nil
	s.core.mu.Unlock()
	s.end.Close()
}

// turn serves all that waits; false means that the rings must end.
func (s *Server) turn() bool {
	s.core.mu.Lock()
	defer s.core.mu.Unlock()
	if s.stop {
		return false
	}
	if !s.core.hold {
		for i := range s.held {
			s.do(&s.held[i])
		}
		s.held = s.held[:0]
	}
	for {
		ok, err := s.end.Take(&s.entry)
		if err == nil && ok {
			err = s.admit(&s.entry)
		}
		if err != nil {
			s.err = err
			return false
		}
		if !ok {
			break
		}
	}
	s.end.Publish()
	return true
}

func (s *Server) admit(e *ring.Entry) error {
	switch {
	case e.Op == ring.OpAbort:
		for i := range s.held {
			if h := s.held[i]; h.Tag == e.Target {
				s.held = append(s.held[:i], s.held[i+1:]...)
				s.complete(&h, ring.StatusAborted, 0, ring.Now())
				break
			}
		}
		s.complete(e, ring.StatusOK, 0, ring.Now())
	case int64(e.Handle) >= int64(len(s.core.volumes)):
		return fmt.Errorf("volume handle %d was never granted", e.Handle)
	case s.core.hold:
		s.held = append(s.held, *e)
	default:
		s.do(e)
	}
	return nil
}

func (s *Server) do(e *ring.Entry) {
	taken := ring.Now()
	if fn := s.core.intercept; fn != nil {
		if status, yes := fn(e); yes {
			s.complete(e, status, 0, taken)
			return
		}
	}
	buf := s.end.Pool()[e.PoolOffset : e.PoolOffset+uint64(e.PoolLength)]
	status, info := s.core.volumes[e.Handle].do(e, buf)
	s.complete(e, status, info, taken)
}

func (s *Server) complete(e *ring.Entry, status ring.Status, info, taken uint64) {
	done := ring.Completion{Tag: e.Tag, Status: status, Info: info, Taken: taken, Done: ring.Now()}
	if err := s.end.Complete(&done); err != nil {
		panic("blocktest: " + err.Error())
	}
}
