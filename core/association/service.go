// Package association owns who is connected: for every data plugin, the
// associations of hosts with subsystems, and the volume handles that each of them
// was granted. It serves the Core service to data plugins and tells them, level
// by level, what exists and what their hosts may use.
//
// It does not move blocks (package access), decide paths (package path) or keep
// what must outlive the process (package meta).
package association

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/path"
	"github.com/mooring-io/mooring/core/supervisor"
	"github.com/mooring-io/mooring/sdk/proto"
)

// drainTimeout bounds how long the end of an association waits for its commands at
// the disk. A disk that does not answer for so long has failed.
const drainTimeout = 2 * time.Minute

// Options configure a Service.
type Options struct {
	Meta    *meta.Meta
	Session *meta.Session
	Node    meta.Node
	Paths   *path.Engine
	Access  *access.Access
	Used    func() map[uuid.UUID]int64 // bytes on disk, by volume
	Journal *meta.Journal
	Guards  *Guards // as Access uses them
	Logger  hclog.Logger
}

// Service is the supervisor's DataHost.
type Service struct {
	Options
	log hclog.Logger
	ids *meta.ControllerIDs

	refusals refusals

	pairs locks[pair] // one beginning, end, or change of paths of a pair at a time

	mu      sync.Mutex
	lives   map[*life]struct{}
	assocs  map[uint64]*association
	lastID  uint64
	unended []unended
	portals []string // address:port of iSCSI portals of other nodes that are up; guarded by mu

	poke   chan chan struct{} // to the reconciler; the channel inside is closed when it has run
	nudged chan struct{}      // capacity 1: to the reconciler
	done   chan struct{}
	life   context.Context // ends with Close
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

// pair is a host, by protocol and name, and a subsystem: beginnings and ends of its
// associations, and changes of its paths, run one at a time.
type pair struct {
	host      access.Host
	subsystem string
}

func pairOf(h access.Host, nqn string) pair {
	return pair{access.Host{Protocol: h.Protocol, Name: h.Name}, nqn}
}

// New starts a Service.
func New(o Options) *Service {
	s := &Service{
		Options: o, log: o.Logger.Named("association"), lives: map[*life]struct{}{}, assocs: map[uint64]*association{},
		ids: meta.NewControllerIDs(o.Node), poke: make(chan chan struct{}), nudged: make(chan struct{}, 1), done: make(chan struct{}),
	}
	s.life, s.stop = context.WithCancel(context.Background())
	s.wg.Go(func() { s.reconcile(s.life) })
	return s
}

// Close ends the reconciler and what moves paths. Plugins must have been detached.
func (s *Service) Close() {
	s.stop()
	s.wg.Wait()
}

// Attach begins a life of a data plugin.
func (s *Service) Attach(ctx context.Context, inst *supervisor.Instance) (proto.CoreServer, error) {
	client, err := s.Access.NewClient(ctx, inst.Plugin, inst.Fail)
	if err != nil {
		return nil, err
	}
	l := &life{service: s, inst: inst, client: client, changed: make(chan struct{}, 1), grants: map[*association]struct{}{}}
	l.exports = true
	s.mu.Lock()
	s.lives[l] = struct{}{}
	s.mu.Unlock()
	return l, nil
}

// Detach ends a life whose process is dead: its associations end uncleanly, and
// what it had in flight is finished or dropped when Detach returns.
func (s *Service) Detach(inst *supervisor.Instance) {
	s.mu.Lock()
	var l *life
	for x := range s.lives {
		if x.inst == inst {
			l = x
		}
	}
	var ended []*association
	for _, a := range s.assocs {
		if a.life == l {
			ended = append(ended, a)
		}
	}
	delete(s.lives, l)
	s.mu.Unlock()
	if l == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	// First the rings: nothing new enters, and what is parked is dropped.
	if err := l.client.Close(ctx); err != nil {
		s.log.Error("commands of a dead plugin do not end", "plugin", inst.Plugin, "error", err)
	}
	for _, a := range ended {
		if err := s.end(ctx, a, false, "its plugin died"); err != nil {
			s.log.Error("association does not end", "host", a.host.Name, "error", err)
		}
	}
}

// Sync returns when everything that Meta said before the call has reached the
// volumes and is on its way to the plugins.
func (s *Service) Sync(ctx context.Context) error {
	ran := make(chan struct{})
	select {
	case s.poke <- ran:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.done:
		return access.ErrStopped
	}
	select {
	case <-ran:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Session is a host that is connected.
type Session struct {
	Host         access.Host
	Subsystem    string
	AccessPoint  string
	Plugin       string
	Peer         string
	ControllerID uint32
	Since        time.Time
}

// Sessions lists who is connected.
func (s *Service) Sessions() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Session
	for _, a := range s.assocs {
		out = append(out, Session{a.host, a.subsystem, a.accessPoint, a.life.inst.Plugin, a.peer, uint32(a.controller), a.since})
	}
	return out
}

func (s *Service) lookup(l *life, id uint64) (*association, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.assocs[id]
	if a == nil || a.life != l {
		return nil, fmt.Errorf("association %d is not one of this plugin's", id)
	}
	return a, nil
}
