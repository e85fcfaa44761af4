package association

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/meta/store"
	"github.com/mooring-io/mooring/core/meta/store/memory"
	"github.com/mooring-io/mooring/core/path"
	"github.com/mooring-io/mooring/core/supervisor"
	"github.com/mooring-io/mooring/core/vfs"
	"github.com/mooring-io/mooring/sdk/proto"
)

const (
	nqn     = "nqn.2026-11.io.mooring:test"
	hostNQN = "nqn.2026-11.io.mooring:host"
)

// world is a Service over Meta in memory, with access points a and b.
type world struct {
	*testing.T
	*Service
	ctx context.Context

	mu    sync.Mutex
	fault func(store.Txn) error // guarded by mu: what a commit fails with
}

func newWorld(t *testing.T) *world {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	w := &world{T: t, ctx: ctx}
	st := memory.New(memory.Options{Fault: func(x store.Txn) (bool, error) {
		w.mu.Lock()
		fault := w.fault
		w.mu.Unlock()
		if fault == nil {
			return true, nil
		}
		return false, fault(x)
	}})
	t.Cleanup(func() { w.must(st.Close()) })
	m, err := meta.Open(ctx, meta.Options{Store: st}, meta.Cluster{ExtentBytes: 1 << 28})
	w.must(err)
	node, err := m.JoinNode(ctx, meta.Node{ID: uuid.New(), Name: "n"})
	w.must(err)
	journal, err := m.OpenJournal(ctx, node.ID)
	w.must(err)
	t.Cleanup(journal.Close)
	session, err := m.StartSession(ctx, meta.SessionOptions{Node: node.ID, TTL: time.Minute})
	w.must(err)
	t.Cleanup(func() { w.must(session.Close(context.Background())) })
	_, err = m.PublishAccessPoints(ctx, session, []meta.AccessPoint{
		{ID: "a", URL: "nvme-tcp://192.0.2.1:4420", Up: true}, {ID: "b", URL: "nvme-tcp://192.0.2.2:4420", Up: true},
	})
	w.must(err)
	_, err = m.CreateSubsystem(ctx, meta.Subsystem{NQN: nqn, AllowAnyHost: true})
	w.must(err)
	for _, name := range []string{"one", "two"} {
		v, err := m.CreateVolume(ctx, meta.Volume{Name: name, Bytes: 1 << 30})
		w.must(err)
		_, err = m.AttachNamespace(ctx, meta.Namespace{Subsystem: nqn, Volume: v.ID})
		w.must(err)
	}
	queue, err := vfs.NewQueue(vfs.QueueOptions{})
	w.must(err)
	reactor := access.NewReactor(queue, access.SystemClock())
	guards := &Guards{Meta: m}
	acc := access.New(access.Options{Enforce: guards.Enforce, Reactor: reactor, Meta: noLeases{}, ExtentBytes: 1 << 28, Incarnation: 1, Logger: hclog.NewNullLogger()})
	var wg sync.WaitGroup
	wg.Go(func() { w.must(reactor.Run()) })
	t.Cleanup(func() { acc.Close(); reactor.Stop(); wg.Wait(); w.must(queue.Close()) })
	engine := path.NewEngine(path.Options{Meta: m, MoveInterval: time.Millisecond})
	life, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { engine.Run(life) })
	t.Cleanup(func() { stop(); running.Wait() })
	w.Service = New(Options{
		Meta: m, Session: session, Node: node, Paths: engine, Access: acc,
		Used: func() map[uuid.UUID]int64 { return nil }, Journal: journal, Guards: guards, Logger: hclog.NewNullLogger(),
	})
	t.Cleanup(w.Close)
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Error(err)
	}
}

// failing has commits fail until it is called with nil.
func (w *world) failing(fault func(store.Txn) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = fault
}

// plugin is one life of a plugin and what it was told.
type plugin struct {
	w    *world
	inst *supervisor.Instance
	core proto.CoreServer
	dead func()

	mu     sync.Mutex
	grants map[uint64]*proto.Grants              // last, by association; guarded by mu
	ends   []uint64                              // guarded by mu
	told   map[uint64]proto.ReservationEventType // last, by association; guarded by mu
	moves  map[uint64]*proto.AssociationMove     // last, by association; guarded by mu
}

type stream struct {
	grpc.ServerStream
	ctx context.Context
	p   *plugin
}

func (s stream) Context() context.Context { return s.ctx }

func (s stream) Send(u *proto.Update) error {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if g := u.GetGrants(); g != nil {
		s.p.grants[g.Association] = g
	}
	if r := u.GetReservation(); r != nil {
		s.p.told[r.Association] = r.Type
	}
	if m := u.GetMove(); m != nil {
		s.p.moves[m.Association] = m
	}
	if e := u.GetEnd(); e != nil {
		s.p.ends = append(s.p.ends, e.Association)
	}
	return nil
}

func (w *world) plugin() *plugin {
	w.Helper()
	p := &plugin{w: w, inst: &supervisor.Instance{Plugin: "p"}, grants: map[uint64]*proto.Grants{}, told: map[uint64]proto.ReservationEventType{}, moves: map[uint64]*proto.AssociationMove{}}
	var err error
	if p.core, err = w.Attach(w.ctx, p.inst); err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	var wg sync.WaitGroup
	wg.Go(func() { w.must(p.core.Watch(nil, stream{ctx: ctx, p: p})) })
	p.dead = sync.OnceFunc(func() { cancel(); wg.Wait(); w.Detach(p.inst) })
	w.Cleanup(p.dead)
	return p
}

// associate begins an association and returns it with the epoch of namespace 1.
func (p *plugin) associate(at string, id byte) (uint64, uint64) {
	p.w.Helper()
	r, err := p.core.Associate(p.w.ctx, &proto.AssociateRequest{
		Host:      &proto.HostIdentity{Protocol: proto.Protocol_PROTOCOL_NVME, Name: hostNQN, HostId: append(make([]byte, 15), id)},
		Subsystem: nqn, AccessPointId: at, ControllerId: 0xFFFF,
	})
	if err != nil || r.Result != proto.AssociateResult_ASSOCIATE_OK || len(r.Grants.Grants) == 0 {
		p.w.Fatalf("associate: %+v, %v", r, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.grants[r.Association] == nil { // nothing newer yet
		p.grants[r.Association] = r.Grants
	}
	return r.Association, r.Grants.Grants[0].PathEpoch
}

func (p *plugin) dissociate(id uint64, clean bool) error {
	_, err := p.core.Dissociate(p.w.ctx, &proto.DissociateRequest{Association: id, Clean: clean})
	return err
}

// until waits until ok holds for what the plugin was told.
func (p *plugin) until(what string, ok func() bool) {
	p.w.Helper()
	for {
		p.mu.Lock()
		good := ok()
		p.mu.Unlock()
		if good {
			return
		}
		select {
		case <-p.w.ctx.Done():
			p.w.Fatalf("in vain: %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}

// shows waits until an association's namespaces are shown so, by NSID.
func (p *plugin) shows(id uint64, want ...proto.AnaState) {
	p.w.Helper()
	p.until("the grants are told", func() bool {
		var got []proto.AnaState
		for _, g := range p.grants[id].GetGrants() {
			got = append(got, g.AnaState)
		}
		return slices.Equal(got, want)
	})
}

func (p *plugin) ended(id uint64) {
	p.w.Helper()
	p.until("the end is told", func() bool { return slices.Contains(p.ends, id) })
}

// The epoch grows with each association after one that did not end with all its commands
// finished, and with no other.
func TestEpochs(t *testing.T) {
	w := newWorld(t)
	p := w.plugin()
	id, first := p.associate("a", 1)
	epoch := first
	next := func(why string, raised bool) {
		t.Helper()
		var got uint64
		if id, got = p.associate("a", 1); raised && got <= epoch || !raised && got != epoch {
			t.Errorf("%s: epoch %d after %d", why, got, epoch)
		}
		epoch = got
	}
	w.must(p.dissociate(id, true))
	w.must(p.dissociate(id, false)) // twice changes nothing
	next("a clean end", false)
	w.must(p.dissociate(id, false))
	next("a lost connection", true)
	former := id
	next("reinstatement", true)
	p.ended(former)
	p.dead()
	p = w.plugin()
	next("the plugin's death", true)

	// Another association of the host is told the epoch that its writes need.
	other, _ := p.associate("b", 1)
	w.must(p.dissociate(id, false))
	next("a lost connection beside another", true)
	p.until("the other association has the epoch", func() bool {
		g := p.grants[other].GetGrants()
		return len(g) == 2 && g[0].PathEpoch >= epoch
	})
}

// A host that comes back with another host identifier is the one that it was.
func TestHostIsItsName(t *testing.T) {
	w := newWorld(t)
	p := w.plugin()
	former, epoch := p.associate("a", 1)
	_, after := p.associate("a", 2)
	if after <= epoch {
		t.Errorf("epoch %d after %d", after, epoch)
	}
	p.ended(former)
	if n := len(w.Sessions()); n != 1 {
		t.Errorf("%d associations are left", n)
	}
}

// What Meta could not be told of an end is told later, and before the next association.
func TestEndThatMetaMissed(t *testing.T) {
	w := newWorld(t)
	p := w.plugin()
	id, epoch := p.associate("a", 1)
	down := errors.New("no majority")
	w.failing(func(store.Txn) error { return down })
	if err := p.dissociate(id, false); !errors.Is(err, down) {
		t.Errorf("ended with %v", err)
	}
	w.failing(nil)
	id, after := p.associate("a", 1)
	if after <= epoch {
		t.Errorf("epoch %d after an unclean end that Meta had missed, and %d before", after, epoch)
	}
	w.failing(func(store.Txn) error { return down })
	if err := p.dissociate(id, true); !errors.Is(err, down) {
		t.Errorf("ended with %v", err)
	}
	w.failing(nil)
	w.must(w.Sync(w.ctx))
	a, err := w.Meta.HostAssociations(w.ctx, nqn, meta.HostID{Protocol: meta.NVMe, Name: hostNQN})
	if err != nil || len(a.Open) != 0 {
		t.Errorf("Meta takes %d associations for open: %v", len(a.Open), err)
	}
}

// Visibility, allow lists and detaching reach the host's association.
func TestVisibility(t *testing.T) {
	const opt = proto.AnaState_ANA_OPTIMIZED
	w := newWorld(t)
	p := w.plugin()
	id, _ := p.associate("a", 1)
	p.shows(id, opt, opt)
	w.must(w.Meta.SetVisibility(w.ctx, nqn, 1, []string{"nqn.2026-11.io.mooring:other"}))
	p.until("one namespace is left", func() bool {
		g := p.grants[id].GetGrants()
		return len(g) == 1 && g[0].Nsid == 2
	})
	w.must(w.Meta.SetVisibility(w.ctx, nqn, 1, nil))
	p.shows(id, opt, opt)
	w.must(w.Meta.DetachNamespace(w.ctx, nqn, 2))
	p.shows(id, opt)
	w.must(w.Meta.SetAllowAnyHost(w.ctx, nqn, false))
	p.ended(id)
	for i := range 100 { // as hosts do, again and again; some make up names
		name := hostNQN
		if i > 10 {
			name += fmt.Sprint(i)
		}
		r, err := p.core.Associate(w.ctx, &proto.AssociateRequest{
			Host:      &proto.HostIdentity{Protocol: proto.Protocol_PROTOCOL_NVME, Name: name, HostId: make([]byte, 16)},
			Subsystem: nqn, AccessPointId: "a",
		})
		if err != nil || r.Result != proto.AssociateResult_ASSOCIATE_HOST_NOT_ALLOWED {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	w.Journal.Record(meta.Event{Kind: "last"})
	var told []string
	p.until("the events are written", func() bool {
		events, err := w.Meta.Events(w.ctx, 0)
		w.must(err)
		told = nil
		for _, e := range events {
			if e.Kind == "host-refused" {
				told = append(told, e.Object)
			}
		}
		return events[len(events)-1].Kind == "last"
	})
	if len(told) != refusalNames || told[0] != hostNQN || slices.Contains(told[1:], hostNQN) {
		t.Errorf("told of refusals: %q", told)
	}
}

// A path moves where a write wants it, and when the host leaves its access point.
func TestPathMoves(t *testing.T) {
	const opt, non = proto.AnaState_ANA_OPTIMIZED, proto.AnaState_ANA_NON_OPTIMIZED
	w := newWorld(t)
	p, q := w.plugin(), w.plugin() // of one access point each
	a, _ := p.associate("a", 1)
	b, _ := q.associate("b", 1)
	p.shows(a, opt, opt)
	q.shows(b, non, non)
	at, err := w.lookup(q.core.(*life), b)
	w.must(err)
	w.wanted(at, 2)
	p.shows(a, opt, non)
	q.shows(b, non, opt)
	p.dead()
	q.shows(b, opt, opt)
}

// A reservation command of an association that has ended changes nothing.
func TestReserveAfterTheEnd(t *testing.T) {
	w := newWorld(t)
	p := w.plugin()
	id, _ := p.associate("a", 1)
	a, err := w.lookup(p.core.(*life), id)
	w.must(err)
	unlock := w.pairs.lock(a.pair()) // as its end does
	result := make(chan *proto.ReserveResponse)
	go func() {
		r, err := p.core.Reserve(w.ctx, &proto.ReserveRequest{Association: id, Nsid: 1, Action: proto.ReserveAction_RESERVE_REGISTER, NewKey: 1})
		w.must(err)
		result <- r
	}()
	w.must(w.endLocked(w.ctx, a, false, ""))
	unlock()
	if r := <-result; r.Result != proto.ReserveResult_RESERVE_RETRY {
		t.Errorf("%+v", r)
	}
}
