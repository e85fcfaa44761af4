package meta_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/meta/store"
	"github.com/mooring-io/mooring/core/meta/store/badger"
	"github.com/mooring-io/mooring/core/meta/store/memory"
	"github.com/mooring-io/mooring/core/meta/store/storetest"
	"github.com/mooring-io/mooring/core/quorum/quorumtest"
)

func TestMain(m *testing.M) { quorumtest.VerifyTestMain(m) }

const (
	mib = int64(1) << 20
	gib = int64(1) << 30
	nqn = "nqn.2026-11.io.mooring:test"
	ttl = 6 * time.Second
)

// world is a Meta on a store, with a clock that the test moves.
type world struct {
	*testing.T
	*meta.Meta
	ctx   context.Context
	st    store.Store
	clock *storetest.Clock
	fault func(store.Txn) (bool, error)
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, ctx: context.Background(), clock: storetest.NewClock()}
	w.st = memory.New(memory.Options{Clock: w.clock, Fault: func(x store.Txn) (bool, error) {
		if w.fault != nil {
			return w.fault(x)
		}
		return false, nil
	}})
	t.Cleanup(func() { w.must(w.st.Close()) })
	w.open()
	return w
}

func (w *world) open() {
	w.Helper()
	m, err := meta.Open(w.ctx, meta.Options{Store: w.st, Clock: w.clock}, meta.Cluster{ExtentBytes: 256 * mib})
	w.must(err)
	w.Meta = m
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) is(err, want error) {
	w.Helper()
	if !errors.Is(err, want) {
		w.Fatalf("got error %v, want %v", err, want)
	}
}

func (w *world) volume(name string, bytes int64) meta.Volume {
	w.Helper()
	v, err := w.CreateVolume(w.ctx, meta.Volume{Name: name, Bytes: bytes})
	w.must(err)
	return v
}

func (w *world) subsystem() meta.Subsystem {
	w.Helper()
	s, err := w.CreateSubsystem(w.ctx, meta.Subsystem{NQN: nqn, AllowAnyHost: true})
	w.must(err)
	return s
}

func (w *world) attach(v meta.Volume) meta.Namespace {
	w.Helper()
	n, err := w.AttachNamespace(w.ctx, meta.Namespace{Subsystem: nqn, Volume: v.ID})
	w.must(err)
	return n
}

// node joins a node and begins a session for it.
func (w *world) node(name string) *meta.Session {
	w.Helper()
	n, err := w.JoinNode(w.ctx, meta.Node{ID: uuid.NewSHA1(uuid.Nil, []byte(name)), Name: name})
	w.must(err)
	return w.session(n.ID)
}

func (w *world) session(node uuid.UUID) *meta.Session {
	w.Helper()
	s, err := w.StartSession(w.ctx, meta.SessionOptions{Node: node, TTL: ttl, Margin: time.Second})
	w.must(err)
	w.Cleanup(func() { w.must(s.Close(w.ctx)) })
	return s
}

func (w *world) store(s *meta.Session, name string) meta.Store {
	w.Helper()
	st, _, err := w.StartStore(w.ctx, s, meta.StoreStart{ID: uuid.NewSHA1(s.Node(), []byte(name)), Name: name, BootID: "boot-1", Capacity: gib})
	w.must(err)
	return st
}

func TestCluster(t *testing.T) {
	w := newWorld(t)
	id := w.Cluster().ID
	again, err := meta.Open(w.ctx, meta.Options{Store: w.st}, meta.Cluster{ID: id})
	w.must(err)
	if again.Cluster() != w.Cluster() {
		t.Fatalf("opened again it is %+v, want %+v", again.Cluster(), w.Cluster())
	}
	_, err = meta.Open(w.ctx, meta.Options{Store: w.st}, meta.Cluster{ID: uuid.New()})
	w.is(err, meta.ErrWrongCluster)
}

func TestCheckNQN(t *testing.T) {
	long := "nqn.2026-11.io.mooring:" + string(bytes.Repeat([]byte("x"), 200))
	for s, ok := range map[string]bool{
		"nqn.2026-11.io.mooring:dev":                                           true,
		"nqn.2026-11.io.mooring":                                               true,
		"nqn.2014-08.org.nvmexpress.discovery":                                 true,
		"nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6": true,
		"nqn.2014-08.org.nvmexpress:uuid:f81d4fae":                             false,
		"nqn.2026-11.io.mooring:größe":                                         true,
		"nqn.2026-11.io.mooring:a/b":                                           true,
		"nqn.2026-13.io.mooring:dev":                                           false,
		"nqn.26-11.io.mooring:dev":                                             false,
		"nqn.2026-11.:dev":                                                     false,
		"nqn.2026-11.io..mooring":                                              false,
		"nqn.2026-11.io.mooring:":                                              false,
		"iqn.2026-11.io.mooring:dev":                                           false,
		"nqn.2026-11.io.mooring:a\nb":                                          false,
		"nqn.2026-11.io.mooring:\xff":                                          false,
		"":                                                                     false,
		long:                                                                   true,
		long + "x":                                                             false,
	} {
		if err := meta.CheckNQN("nqn", s); (err == nil) != ok {
			t.Errorf("%q (%d bytes): %v", s, len(s), err)
		}
	}
}

func TestVolumeLife(t *testing.T) { checkVolumeLife(t, newWorld(t)) }

func checkVolumeLife(t *testing.T, w *world) {
	v := w.volume("db", gib)
	if v.Tenant != "default" || v.BlockBytes != 4096 || v.Durability != meta.Sync || v.Replicas != 1 || v.State != meta.VolumeActive {
		t.Fatalf("defaults: %+v", v)
	}
	if v.EUI64() == [8]byte{} || v.EUI64()[0]&3 != 2 || v.NGUID() != [16]byte(v.ID) {
		t.Fatalf("identifiers: %x %x", v.EUI64(), v.NGUID())
	}
	_, err := w.CreateVolume(w.ctx, meta.Volume{Name: "db", Bytes: 2 * gib})
	w.is(err, meta.ErrExists)
	_, err = w.CreateVolume(w.ctx, meta.Volume{ID: uuid.New(), Name: "db", Bytes: gib})
	w.is(err, meta.ErrExists)
	equal, err := w.CreateVolume(w.ctx, meta.Volume{Name: "db", Bytes: gib})
	w.must(err)
	if equal.ID != v.ID {
		t.Fatalf("got volume %s, want %s", equal.ID, v.ID)
	}
	again, err := w.CreateVolume(w.ctx, meta.Volume{ID: v.ID, Name: "db", Bytes: gib})
	w.must(err) // the same request, repeated
	if again.ID != v.ID {
		t.Fatalf("got volume %s, want %s", again.ID, v.ID)
	}
	found, err := w.FindVolume(w.ctx, "", "db")
	w.must(err)
	if found.ID != v.ID {
		t.Fatalf("found %s", found.ID)
	}
	w.must(w.DeleteVolume(w.ctx, v.ID))
	w.must(w.DeleteVolume(w.ctx, v.ID))
	_, err = w.FindVolume(w.ctx, "", "db")
	w.is(err, meta.ErrNotFound)
	w.volume("db", gib) // the name is free at once
	_, err = w.ResizeVolume(w.ctx, v.ID, meta.Resize{Bytes: 2 * gib})
	w.is(err, meta.ErrNotFound)
	w.must(w.FinishDelete(w.ctx, v.ID))
	w.must(w.FinishDelete(w.ctx, v.ID))
	_, err = w.Volume(w.ctx, v.ID)
	w.is(err, meta.ErrNotFound)
}

func TestVolumeFields(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		field string
		v     meta.Volume
	}{
		{"volume", meta.Volume{Name: "a/b", Bytes: gib}},
		{"volume", meta.Volume{Name: "", Bytes: gib}},
		{"size", meta.Volume{Name: "a", Bytes: mib - 4096}},
		{"size", meta.Volume{Name: "a", Bytes: gib + 512}},
		{"size", meta.Volume{Name: "a", Bytes: meta.MaxVolumeBytes + 4096}},
		{"size", meta.Volume{Name: "a", Bytes: -gib}},
		{"block size", meta.Volume{Name: "a", Bytes: gib, BlockBytes: 1024}},
		{"durability", meta.Volume{Name: "a", Bytes: gib, Durability: "maybe"}},
		{"replicas", meta.Volume{Name: "a", Bytes: gib, Replicas: 2}},
	} {
		_, err := w.CreateVolume(w.ctx, c.v)
		var inv *meta.InvalidError
		if !errors.As(err, &inv) || inv.Field != c.field || !errors.Is(err, meta.ErrInvalid) {
			t.Errorf("%+v: got %v, want an invalid %s", c.v, err, c.field)
		}
	}
	_, err := w.CreateVolume(w.ctx, meta.Volume{Name: "a", Tenant: "nobody", Bytes: gib})
	w.is(err, meta.ErrNotFound)
}

func TestResize(t *testing.T) { checkResize(t, newWorld(t)) }

func checkResize(t *testing.T, w *world) {
	v := w.volume("db", gib)
	resize := func(want error, r meta.Resize) meta.Volume {
		t.Helper()
		v, err := w.ResizeVolume(w.ctx, v.ID, r)
		w.is(err, want)
		return v
	}
	resize(nil, meta.Resize{Bytes: 2 * gib})
	resize(meta.ErrInvalid, meta.Resize{Bytes: gib})
	resize(meta.ErrInvalid, meta.Resize{Bytes: gib + 1})
	if v := resize(nil, meta.Resize{Bytes: gib, Shrink: true}); v.Trim != gib || v.Bytes != gib {
		t.Fatalf("after shrinking: %+v", v)
	}
	resize(meta.ErrConflict, meta.Resize{Bytes: 3 * gib}) // what lies beyond must be gone first
	resize(nil, meta.Resize{Bytes: 512 * mib, Shrink: true})
	w.must(w.FinishShrink(w.ctx, v.ID, gib)) // of the former shrink: says nothing about this one
	resize(meta.ErrConflict, meta.Resize{Bytes: 3 * gib})
	w.must(w.FinishShrink(w.ctx, v.ID, 512*mib))
	resize(nil, meta.Resize{Bytes: 3 * gib})
	w.subsystem()
	w.attach(v)
	resize(meta.ErrInUse, meta.Resize{Bytes: gib, Shrink: true})
	resize(nil, meta.Resize{Bytes: gib, Shrink: true, Force: true})
}

func TestTenants(t *testing.T) {
	w := newWorld(t)
	_, err := w.CreateTenant(w.ctx, meta.Tenant{Name: "acme"})
	w.must(err)
	_, err = w.CreateTenant(w.ctx, meta.Tenant{Name: "acme"})
	w.must(err)
	_, err = w.CreateTenant(w.ctx, meta.Tenant{Name: "acme", Policy: "balance"})
	w.is(err, meta.ErrExists)
	_, err = w.UpdateTenant(w.ctx, "acme", func(t *meta.Tenant) { t.Policy = "balance" })
	w.must(err)
	v, err := w.CreateVolume(w.ctx, meta.Volume{Name: "db", Tenant: "acme", Bytes: gib})
	w.must(err)
	w.volume("db", gib) // the same name for another tenant
	err = w.DeleteTenant(w.ctx, "acme")
	var use *meta.InUseError
	if !errors.As(err, &use) || len(use.Users) != 1 || use.Users[0] != "volume db" {
		t.Fatalf("got %v, want the volume named", err)
	}
	w.must(w.DeleteVolume(w.ctx, v.ID))
	w.must(w.DeleteTenant(w.ctx, "acme"))
	w.must(w.DeleteTenant(w.ctx, "acme"))
	_, err = w.CreateVolume(w.ctx, meta.Volume{Name: "db", Tenant: "acme", Bytes: gib})
	w.is(err, meta.ErrNotFound)
	w.is(w.DeleteTenant(w.ctx, meta.DefaultTenant), meta.ErrInvalid)
}

func TestSubsystem(t *testing.T) {
	w := newWorld(t)
	s := w.subsystem()
	if s.Serial == "" || len(s.Serial) > 20 || s.Model != "Mooring" || s.Namespaces != meta.MaxNamespaces {
		t.Fatalf("defaults: %+v", s)
	}
	w.subsystem() // the same request, repeated
	_, err := w.CreateSubsystem(w.ctx, meta.Subsystem{NQN: nqn, Serial: "other"})
	w.is(err, meta.ErrExists)
	for _, bad := range []meta.Subsystem{
		{NQN: "nonsense"},
		{NQN: meta.DiscoveryNQN},
		{NQN: nqn + "2", Serial: "123456789012345678901"},
		{NQN: nqn + "2", Serial: " leading"},
		{NQN: nqn + "2", Model: "größe"},
		{NQN: nqn + "2", Namespaces: meta.MaxNamespaces + 1},
		{NQN: nqn + "2", AllowedHosts: []string{"me"}},
	} {
		_, err := w.CreateSubsystem(w.ctx, bad)
		w.is(err, meta.ErrInvalid)
	}
	host := "nqn.2026-11.io.mooring:host"
	generation := func() uint64 { s, err := w.Subsystem(w.ctx, nqn); w.must(err); return s.Generation }
	before := generation()
	w.must(w.AllowHost(w.ctx, nqn, host))
	w.must(w.AllowHost(w.ctx, nqn, host))
	if g := generation(); g != before+1 {
		t.Fatalf("generation %d after one change, was %d", g, before)
	}
	w.must(w.SetAllowAnyHost(w.ctx, nqn, false))
	s, err = w.Subsystem(w.ctx, nqn)
	w.must(err)
	if !s.Allows(host) || s.Allows(host+"2") {
		t.Fatalf("allows %+v", s.AllowedHosts)
	}
	w.must(w.DenyHost(w.ctx, nqn, host))
	w.must(w.DenyHost(w.ctx, nqn, host))
	n := w.attach(w.volume("a", gib))
	err = w.DeleteSubsystem(w.ctx, nqn)
	var use *meta.InUseError
	if !errors.As(err, &use) || use.Users[0] != "namespace 1" {
		t.Fatalf("got %v, want the namespace named", err)
	}
	w.must(w.DetachNamespace(w.ctx, nqn, n.NSID))
	w.must(w.DeleteSubsystem(w.ctx, nqn))
	w.must(w.DeleteSubsystem(w.ctx, nqn))
}

func TestNamespaces(t *testing.T) { checkNamespaces(t, newWorld(t)) }

func checkNamespaces(t *testing.T, w *world) {
	_, err := w.CreateSubsystem(w.ctx, meta.Subsystem{NQN: nqn, AllowAnyHost: true, Namespaces: 4})
	w.must(err)
	a, b := w.volume("a", gib), w.volume("b", gib)
	if n := w.attach(a); n.NSID != 1 || n.ANAGroup != 1 {
		t.Fatalf("first namespace: %+v", n)
	}
	if n := w.attach(a); n.NSID != 1 { // the same request, repeated
		t.Fatalf("attached twice: %+v", n)
	}
	err = w.DeleteVolume(w.ctx, a.ID)
	var use *meta.InUseError
	if !errors.As(err, &use) || use.Users[0] != "subsystem "+nqn+" namespace 1" {
		t.Fatalf("got %v, want the namespace named", err)
	}
	// A free NSID is used again as late as possible.
	for want := meta.NSID(2); want < 9; want++ {
		n := w.attach(b)
		if expect := (want-2)%3 + 2; n.NSID != expect {
			t.Fatalf("got namespace %d, want %d", n.NSID, expect)
		}
		w.must(w.DetachNamespace(w.ctx, nqn, n.NSID))
		w.must(w.DetachNamespace(w.ctx, nqn, n.NSID))
	}
	_, err = w.AttachNamespace(w.ctx, meta.Namespace{Subsystem: nqn, NSID: 1, Volume: b.ID})
	w.is(err, meta.ErrExists)
	_, err = w.AttachNamespace(w.ctx, meta.Namespace{Subsystem: nqn, NSID: 5, Volume: b.ID})
	w.is(err, meta.ErrInvalid)
	_, err = w.AttachNamespace(w.ctx, meta.Namespace{Subsystem: nqn, NSID: 2, Volume: a.ID})
	w.is(err, meta.ErrInUse)
	_, err = w.CreateTenant(w.ctx, meta.Tenant{Name: "acme"})
	w.must(err)
	foreign, err := w.CreateVolume(w.ctx, meta.Volume{Name: "f", Tenant: "acme", Bytes: gib})
	w.must(err)
	_, err = w.AttachNamespace(w.ctx, meta.Namespace{Subsystem: nqn, Volume: foreign.ID})
	w.is(err, meta.ErrInvalid)
	host := "nqn.2026-11.io.mooring:host"
	w.must(w.SetVisibility(w.ctx, nqn, 1, []string{host, host}))
	n, err := w.Namespace(w.ctx, nqn, 1)
	w.must(err)
	if !n.VisibleHost(host) || n.VisibleHost(host+"2") || len(n.VisibleTo) != 1 {
		t.Fatalf("visible to %q", n.VisibleTo)
	}
	for _, name := range []string{"c", "d", "e"} {
		w.attach(w.volume(name, gib))
	}
	_, err = w.AttachNamespace(w.ctx, meta.Namespace{Subsystem: nqn, Volume: b.ID})
	w.is(err, meta.ErrInUse)
}

func TestHosts(t *testing.T) {
	w := newWorld(t)
	h := meta.Host{Name: "web-1", NQN: "nqn.2026-11.io.mooring:web-1"}
	for range 2 {
		_, err := w.CreateHost(w.ctx, h)
		w.must(err)
	}
	_, err := w.CreateHost(w.ctx, meta.Host{Name: "web-1", NQN: nqn})
	w.is(err, meta.ErrExists)
	for _, s := range []string{"web-1", h.NQN} {
		got, err := w.ResolveHost(w.ctx, meta.NVMe, s)
		w.must(err)
		if got != h.NQN {
			t.Fatalf("%q is %q", s, got)
		}
	}
	_, err = w.ResolveHost(w.ctx, meta.NVMe, "web-2")
	w.is(err, meta.ErrNotFound)
	_, err = w.ResolveHost(w.ctx, meta.NVMe, "nqn:")
	w.is(err, meta.ErrInvalid)
	w.must(w.DeleteHost(w.ctx, "web-1"))
	w.must(w.DeleteHost(w.ctx, "web-1"))
}

func TestNodes(t *testing.T) {
	w := newWorld(t)
	a, err := w.JoinNode(w.ctx, meta.Node{ID: uuid.New(), Name: "a"})
	w.must(err)
	b, err := w.JoinNode(w.ctx, meta.Node{ID: uuid.New(), Name: "b"})
	w.must(err)
	if a.Slot == b.Slot {
		t.Fatal("two nodes share a slot")
	}
	_, err = w.JoinNode(w.ctx, meta.Node{ID: uuid.New(), Name: "a"})
	w.is(err, meta.ErrExists)
	renamed, err := w.JoinNode(w.ctx, meta.Node{ID: a.ID, Name: "c"})
	w.must(err)
	if renamed.Slot != a.Slot {
		t.Fatalf("renamed from %+v to %+v", a, renamed)
	}
	_, err = w.JoinNode(w.ctx, meta.Node{ID: uuid.New(), Name: "a"})
	w.must(err)
	for i := 3; i < meta.MaxNodes; i++ {
		n, err := w.JoinNode(w.ctx, meta.Node{ID: uuid.New(), Name: fmt.Sprintf("n%d", i)})
		w.must(err)
		if first, last := n.Controllers(); first < 1 || last > 0xffef || last < first {
			t.Fatalf("node in slot %d has controllers %d to %d", n.Slot, first, last)
		}
	}
	_, err = w.JoinNode(w.ctx, meta.Node{ID: uuid.New(), Name: "too-many"})
	w.is(err, meta.ErrInvalid)
}

func TestControllerIDs(t *testing.T) {
	ids := meta.NewControllerIDs(meta.Node{Slot: 1})
	seen := map[uint16]bool{}
	for range meta.ControllersPerNode {
		id, ok := ids.Take(nqn)
		if !ok || seen[id] || id < 1+meta.ControllersPerNode || id > 2*meta.ControllersPerNode {
			t.Fatalf("got %d, %v", id, ok)
		}
		seen[id] = true
	}
	if _, ok := ids.Take(nqn); ok {
		t.Fatal("more IDs than there are")
	}
	if _, ok := ids.Take(nqn + "2"); !ok {
		t.Fatal("subsystems share IDs")
	}
	ids.Give(nqn, 3000)
	if ids.Claim(nqn, 2999) || !ids.Claim(nqn, 3000) || ids.Claim(nqn, 1) {
		t.Fatal("claims are wrong")
	}
	ids.Give(nqn, 2500)
	if id, ok := ids.Take(nqn); !ok || id != 2500 {
		t.Fatalf("got %d, %v", id, ok)
	}
}

func TestWatch(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(w.ctx)
	hints := w.Watch(ctx, meta.TopicVolumes, meta.TopicHosts)
	if all := <-hints; len(all) != 2 {
		t.Fatalf("first hint: %q", all)
	}
	w.subsystem()
	w.volume("a", gib)
	if got := <-hints; len(got) != 1 || got[0] != meta.TopicVolumes {
		t.Fatalf("got %q, want volumes", got)
	}
	cancel()
	for range hints { //nolint:revive // until it is closed
	}
}

func TestEvents(t *testing.T) {
	w := newWorld(t)
	node := uuid.New()
	for round := range 2 {
		j, err := w.OpenJournal(w.ctx, node)
		w.must(err)
		for i := range 100 {
			j.Record(meta.Event{Kind: "test", Object: fmt.Sprint(round), Message: fmt.Sprint(i), Time: time.Unix(int64(round*100+i), 0)})
		}
		j.Close()
	}
	all, err := w.Events(w.ctx, 0)
	w.must(err)
	if len(all) != 200 {
		t.Fatalf("got %d events", len(all))
	}
	for i, e := range all {
		if e.Seq != uint64(i+1) || e.Message != fmt.Sprint(i%100) || e.Node != node {
			t.Fatalf("event %d: %+v", i, e)
		}
	}
	last, err := w.Events(w.ctx, 3)
	w.must(err)
	if len(last) != 3 || last[2].Seq != 200 {
		t.Fatalf("the last three: %+v", last)
	}
}

func TestJournalIsBounded(t *testing.T) {
	w := newWorld(t)
	node := uuid.New()
	for batch := range 6 {
		j, err := w.OpenJournal(w.ctx, node)
		w.must(err)
		for i := range 500 {
			j.Record(meta.Event{Kind: "test", Message: fmt.Sprint(batch*500 + i)})
		}
		j.Close()
	}
	all, err := w.Events(w.ctx, 0)
	w.must(err)
	if n := len(all); n != meta.JournalEvents || all[n-1].Message != "2999" {
		t.Fatalf("%d events are kept, the last is %q", n, all[n-1].Message)
	}
}

// The whole life of a volume on the engine that ships.
func TestOnBadger(t *testing.T) {
	dir := t.TempDir()
	ctx := t.Context()
	node := uuid.New()
	var cluster, volume uuid.UUID
	var generation meta.Generation
	for life := range 3 {
		st, err := badger.Open(badger.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		m, err := meta.Open(ctx, meta.Options{Store: st}, meta.Cluster{ID: cluster, ExtentBytes: mib})
		if err != nil {
			t.Fatal(err)
		}
		w := &world{T: t, Meta: m, ctx: ctx}
		cluster = m.Cluster().ID
		_, err = m.JoinNode(ctx, meta.Node{ID: node, Name: "a"})
		w.must(err)
		s, err := m.StartSession(ctx, meta.SessionOptions{Node: node, TTL: ttl})
		w.must(err)
		w.store(s, "main")
		if life == 0 {
			volume = w.volume("db", 100*mib).ID
		}
		v, err := m.Volume(ctx, volume)
		w.must(err)
		w.take(s, v)
		got := w.allocate(s, v, 7)
		if got.Generation <= generation || got.Set[0].Incarnation != 1 {
			t.Fatalf("life %d: %+v after generation %d", life, got, generation)
		}
		generation = got.Generation
		if life == 1 { // an orderly end; the others just stop
			w.must(s.Close(ctx))
		} else {
			defer s.Close(ctx)
		}
		w.must(st.Close())
	}
}

// faultAfter lets *left transactions through; the next ones are applied, but their
// answer is err.
func faultAfter(left *int, err error) func(store.Txn) (bool, error) {
	return func(store.Txn) (bool, error) {
		if *left > 0 {
			*left--
			return false, nil
		}
		return true, err
	}
}

// TestUnknownOutcomes: a store that is unavailable now and then, after it did what it was
// asked or before, changes nothing about what requests do.
func TestUnknownOutcomes(t *testing.T) {
	for name, fn := range map[string]func(*testing.T, *world){
		"volumes": checkVolumeLife, "namespaces": checkNamespaces, "paths": checkPathEpochs, "owners": checkOwners, "extents": checkExtents, "sets": checkChangeSets,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			n := 0
			w.fault = func(store.Txn) (bool, error) {
				if n++; n%2 == 1 {
					return n%4 == 1, fmt.Errorf("no leader: %w", store.ErrUnavailable)
				}
				return false, nil
			}
			fn(t, w)
			t.Logf("%d transactions were sent", n)
		})
	}
}
