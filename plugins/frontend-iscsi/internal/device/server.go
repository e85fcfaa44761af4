package device

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/sdk/proto"
)

// closeWait bounds how long Run waits for tasks to drain and associations to end.
const closeWait = 2 * time.Second

// exportWait bounds how long Ready waits for the core to say what is exported.
const exportWait = 2 * time.Second

// Options are what a Server is made of.
type Options struct {
	Core   proto.CoreClient // of the core that started the plugin
	Logger hclog.Logger     // nil: none
	// Revision is the product revision that initiators see, at most 4 characters.
	Revision string
}

// Server is the device server of one plugin process. Its methods may be called from any goroutine.
type Server struct {
	core     proto.CoreClient
	log      hclog.Logger
	revision string

	ctx    context.Context // of calls to the core; ends with Run
	cancel context.CancelFunc
	calls  sync.WaitGroup

	mu          sync.Mutex
	closed      bool                    // no new nexuses
	exports     *exports                // never nil, immutable; guarded by mu
	nexuses     map[uint64]*Nexus       // by association; guarded by mu
	count       int                     // nexuses, and associations that may become one; guarded by mu
	associating int                     // calls of Associate under way; guarded by mu
	early       map[uint64]*earlyUpdate // by association: what came before the answer of Associate; guarded by mu
	units       map[string]*sharedUnit  // by volume; guarded by mu
	told        chan struct{}           // closed when the core has said what is exported
	empty       chan struct{}           // closed when closed and count is 0
	passed      uint64                  // number of the last reservation event that was passed on; guarded by mu
	passing     chan struct{}           // closed and made anew when passed grows; guarded by mu
}

// earlyUpdate is what the core sent of an association whose Associate has not returned yet.
type earlyUpdate struct {
	grants *proto.Grants
	end    *proto.AssociationEnd
	move   *proto.AssociationMove
}

// exports is what initiators could reach, as the core last said. Immutable.
type exports struct {
	targets      map[string]*proto.Target
	accessPoints []*proto.AccessPoint
}

// NewServer makes a server that knows nothing yet; Run fills it.
func NewServer(o Options) *Server {
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	s := &Server{
		core: o.Core, log: o.Logger.Named("scsi"), revision: o.Revision, exports: &exports{},
		nexuses: map[uint64]*Nexus{}, early: map[uint64]*earlyUpdate{}, units: map[string]*sharedUnit{}, empty: make(chan struct{}),
		told: make(chan struct{}), passing: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Run keeps the server in step with the core until ctx ends or the core is gone. Then it ends every
// nexus and waits, for a bounded time, until their tasks are drained. It is called once; the I/O
// threads must outlive it.
func (s *Server) Run(ctx context.Context) error {
	err := s.watch(ctx)
	s.close(fmt.Errorf("%w: %w", ErrServerClosed, err))
	return err
}

// Ready returns when the core has said what is exported, so that the first initiator to come finds
// its target. It waits exportWait at most, for the core may not know while Meta is silent; then it
// reports false.
func (s *Server) Ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, exportWait)
	defer cancel()
	select {
	case <-s.told:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *Server) watch(ctx context.Context) error {
	stream, err := s.core.Watch(ctx, &proto.WatchRequest{})
	if err != nil {
		return fmt.Errorf("watch the core: %w", err)
	}
	for {
		u, err := stream.Recv()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("watch the core: %w", err)
		}
		s.apply(u)
	}
}

func (s *Server) apply(up *proto.Update) {
	switch u := up.GetUpdate().(type) {
	case *proto.Update_Exports:
		s.setExports(u.Exports)
	case *proto.Update_Grants:
		s.toNexus(u.Grants.GetAssociation(),
			func(n *Nexus) { n.setGrants(u.Grants.GetGrants()) },
			func(e *earlyUpdate) { e.grants = u.Grants })
	case *proto.Update_Reservation:
		s.toNexus(u.Reservation.GetAssociation(),
			func(n *Nexus) { n.reservationEvent(u.Reservation) },
			func(*earlyUpdate) {}) // a nexus that is not there yet hears of nothing
		s.mu.Lock()
		s.passed = up.GetNumber()
		close(s.passing)
		s.passing = make(chan struct{})
		s.mu.Unlock()
	case *proto.Update_End:
		s.toNexus(u.End.GetAssociation(),
			func(n *Nexus) { n.close(fmt.Errorf("%w: %s", ErrEnded, u.End.GetReason())) },
			func(e *earlyUpdate) { e.end = u.End })
	case *proto.Update_Move:
		s.toNexus(u.Move.GetAssociation(),
			func(n *Nexus) { n.move(u.Move) },
			func(e *earlyUpdate) { e.move = u.Move })
	}
}

// passedOn waits until the reservation events up to a number are on their way to the nexuses.
func (s *Server) passedOn(ctx context.Context, number uint64) {
	for {
		s.mu.Lock()
		there, more := s.passed >= number, s.passing
		s.mu.Unlock()
		if there {
			return
		}
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

// toNexus runs fn on the thread of the association's nexus, or keeps the update until Associate has
// returned it.
func (s *Server) toNexus(id uint64, fn func(*Nexus), early func(*earlyUpdate)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nexuses[id]; n != nil {
		n.thread.Post(func() { fn(n) })
		return
	}
	if s.associating == 0 {
		return // of a former life
	}
	e := s.early[id]
	if e == nil {
		e = &earlyUpdate{}
		s.early[id] = e
	}
	early(e)
}

func (s *Server) setExports(p *proto.Exports) {
	x := &exports{targets: map[string]*proto.Target{}, accessPoints: p.GetAccessPoints()}
	volumes := map[string]bool{}
	for _, t := range p.GetTargets() {
		x.targets[t.GetIqn()] = t
		for _, u := range t.GetUnits() {
			volumes[u.GetVolumeId()] = true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exports = x
	select {
	case <-s.told:
	default:
		close(s.told)
	}
	maps.DeleteFunc(s.units, func(volume string, _ *sharedUnit) bool { return !volumes[volume] })
	for _, n := range s.nexuses {
		n.thread.Post(n.refresh)
	}
}

func (s *Server) currentExports() *exports {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exports
}

// Target is what the transport must know of a target before there is a nexus.
type Target struct {
	Name         string
	Authenticate bool   // sessions need a proof
	Address      string // address:port that discovery is to name; "": where it was asked
}

// Target returns a target by its name, if it is one that this initiator may use.
func (s *Server) Target(name string) (Target, bool) {
	t := s.currentExports().targets[name]
	if t == nil {
		return Target{}, false
	}
	return Target{t.GetIqn(), t.GetAuthenticate(), t.GetAddress()}, true
}

// Targets lists the targets that an initiator may use, by name.
func (s *Server) Targets(initiator string) []Target {
	var out []Target
	for _, t := range s.currentExports().targets {
		if t.GetAllowAnyHost() || slices.Contains(t.GetAllowedHosts(), initiator) {
			out = append(out, Target{t.GetIqn(), t.GetAuthenticate(), t.GetAddress()})
		}
	}
	slices.SortFunc(out, func(a, b Target) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// call runs fn in a goroutine that Run joins; fn's context ends with Run. It reports false, and
// does nothing, when the server is closed.
func (s *Server) call(fn func(ctx context.Context)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.calls.Add(1)
	go func() {
		defer s.calls.Done()
		fn(s.ctx)
	}()
	return true
}

// Authenticate asks the core to judge an initiator's answer and calls fn with its verdict, on a
// goroutine of the server. It reports false when the server is closed.
func (s *Server) Authenticate(req *proto.AuthenticateRequest, fn func(*proto.AuthenticateResponse, error)) bool {
	return s.call(func(ctx context.Context) { fn(s.core.Authenticate(ctx, req)) })
}

// begin counts a nexus that is about to be made; false when the server is closed.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.count++
	s.associating++
	return true
}

// associated ends what begin began, when the nexus is registered or will not be.
func (s *Server) associated() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.associating--; s.associating == 0 {
		clear(s.early)
	}
}

// forget takes a nexus, or the chance of one, out of the count.
func (s *Server) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count--
	s.checkEmpty()
}

func (s *Server) checkEmpty() {
	if s.closed && s.count == 0 {
		select {
		case <-s.empty:
		default:
			close(s.empty)
		}
	}
}

// register makes a nexus known and applies what came early for it. It reports false if the server
// is closed.
func (s *Server) register(n *Nexus) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.nexuses[n.association] = n
	e := s.early[n.association]
	if e == nil {
		return true
	}
	delete(s.early, n.association)
	if e.grants != nil {
		n.grants = e.grants.GetGrants()
	}
	if e.move != nil {
		n.thread.Post(func() { n.move(e.move) })
	}
	if e.end != nil {
		n.thread.Post(func() { n.close(fmt.Errorf("%w: %s", ErrEnded, e.end.GetReason())) })
	}
	return true
}

// unregister makes a nexus unknown.
func (s *Server) unregister(n *Nexus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.nexuses, n.association)
}

// dissociate tells the core that an association has ended and everything of it is drained.
func (s *Server) dissociate(association uint64, clean bool) {
	ok := s.call(func(ctx context.Context) {
		defer s.forget()
		req := &proto.DissociateRequest{Association: association, Clean: clean}
		if _, err := s.core.Dissociate(ctx, req); err != nil && ctx.Err() == nil {
			s.log.Warn("association did not end in order", "association", association, "error", err)
		}
	})
	if !ok {
		s.forget()
	}
}

func (s *Server) close(reason error) {
	s.mu.Lock()
	s.closed = true
	for _, n := range s.nexuses {
		n.thread.Post(func() { n.close(reason) })
	}
	s.checkEmpty()
	s.mu.Unlock()
	timeout := time.NewTimer(closeWait)
	defer timeout.Stop()
	select {
	case <-s.empty:
	case <-timeout.C:
		s.log.Warn("tasks did not drain in time")
	}
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	s.calls.Wait()
}
