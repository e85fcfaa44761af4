package association

import (
	"context"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/meta/store"
	"github.com/mooring-io/mooring/core/meta/store/memory"
	"github.com/mooring-io/mooring/core/vfs"
	"github.com/mooring-io/mooring/sdk/ring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// slowStore can keep the answer to one Get of a reservation.
type slowStore struct {
	store.Store
	mu   sync.Mutex
	read chan struct{} // closed when it was read; guarded by mu
	goOn chan struct{}
}

func (s *slowStore) Get(ctx context.Context, key string) (store.KV, error) {
	kv, err := s.Store.Get(ctx, key)
	if !strings.HasPrefix(key, "reservation/") {
		return kv, err
	}
	s.mu.Lock()
	read := s.read
	s.read = nil
	s.mu.Unlock()
	if read != nil {
		close(read)
		<-s.goOn
	}
	return kv, err
}

// noLeases is the Meta of an Access whose volumes have no extents; it is asked for nothing else.
type noLeases struct{ access.Meta }

func (noLeases) Leases(context.Context, uuid.UUID) ([]access.Lease, error) { return nil, nil }
func (noLeases) Geometry(context.Context, uuid.UUID) (access.Geometry, error) {
	return access.Geometry{}, nil
}
func (noLeases) Epoch(context.Context, uuid.UUID, access.Host) (uint64, error) { return 0, nil }
func (noLeases) Allocate(context.Context, uuid.UUID, uint32, []uuid.UUID) (access.Lease, error) {
	return access.Lease{}, meta.ErrNoStore
}
func (noLeases) Deadline() int64 { return math.MaxInt64 }

// Who puts a reservation in force while another host acquires it does not put the state from
// before in force again.
func TestReservationsInOrder(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	st := &slowStore{Store: memory.New(memory.Options{}), goOn: make(chan struct{})}
	defer func() { must(st.Close()) }()
	m, err := meta.Open(ctx, meta.Options{Store: st}, meta.Cluster{ExtentBytes: 1 << 28})
	must(err)
	_, err = m.CreateSubsystem(ctx, meta.Subsystem{NQN: "nqn.2026-11.io.mooring:test", AllowAnyHost: true})
	must(err)
	volume, err := m.CreateVolume(ctx, meta.Volume{Name: "v", Bytes: 1 << 20, BlockBytes: 4096})
	must(err)
	_, err = m.AttachNamespace(ctx, meta.Namespace{Subsystem: "nqn.2026-11.io.mooring:test", Volume: volume.ID})
	must(err)

	queue, err := vfs.NewQueue(vfs.QueueOptions{})
	must(err)
	reactor := access.NewReactor(queue, access.SystemClock())
	guards := &Guards{Meta: m}
	a := access.New(access.Options{Enforce: guards.Enforce, Reactor: reactor, Meta: noLeases{}, ExtentBytes: 1 << 28, Incarnation: 1, Logger: hclog.NewNullLogger()})
	var wg sync.WaitGroup
	wg.Go(func() { _ = reactor.Run() })
	defer func() {
		a.Close()
		reactor.Stop()
		wg.Wait()
		must(queue.Close())
	}()
	s := &Service{Options: Options{Meta: m, Access: a}, log: hclog.NewNullLogger()}
	open, err := s.open(ctx, volume)
	must(err)

	// The reservation is put in force as it is: there is none.
	read := make(chan struct{})
	st.mu.Lock()
	st.read = read
	st.mu.Unlock()
	connected := make(chan error, 1)
	go func() {
		connected <- guards.Enforce(ctx, open)
	}()
	<-read
	// Another one acquires it.
	holder := meta.HostID{Protocol: meta.NVMe, Name: "nqn.2026-11.io.mooring:holder", ID: meta.UID{1}}
	for _, q := range []meta.ReserveRequest{
		{Host: holder, Action: meta.ReserveRegister, NewKey: 1},
		{Host: holder, Action: meta.ReserveAcquire, Key: 1, Type: meta.WriteExclusive},
	} {
		if out, err := m.Reserve(ctx, volume.ID, q); err != nil || out.Result != meta.ReserveOK {
			t.Fatal(out, err)
		}
	}
	enforced := make(chan error, 1)
	go func() { enforced <- guards.Enforce(ctx, open) }()
	select { // it is answered at once, or waits for the other
	case err := <-enforced:
		enforced <- err
	case <-time.After(100 * time.Millisecond):
	}
	close(st.goOn)
	must(<-connected)
	must(<-enforced)

	other := meta.HostID{Protocol: meta.NVMe, Name: "nqn.2026-11.io.mooring:other", ID: meta.UID{2}}
	if got := write(ctx, t, a, open, other); got != ring.StatusReservationConflict {
		t.Errorf("another host's write ends with %v", got)
	}
}

// write has a host change the first block of a volume, as a plugin would.
func write(ctx context.Context, t *testing.T, a *access.Access, v *access.Volume, h access.Host) ring.Status {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	client, err := a.NewClient(ctx, "test", func(error) {})
	must(err)
	defer func() { must(client.Close(ctx)) }()
	var end *ring.PluginEnd
	_, err = client.OpenRings(ctx, access.Rings{Threads: 1, Entries: 8, PoolBytes: ring.PageBytes}, func(d ring.Descriptors) error {
		dup, err := d.Dup()
		if err == nil {
			end, err = ring.Attach(dup)
		}
		return err
	})
	must(err)
	defer func() { must(end.Close()) }()
	handle, err := client.Grant(ctx, v, h, access.Path{}, func() {})
	must(err)
	e := ring.Entry{Op: ring.OpWriteZeroes, Handle: handle.Index, HandleGeneration: handle.Generation, Length: 4096}
	ok, err := end.Submit(&e)
	must(err)
	if !ok {
		t.Fatal("no room")
	}
	end.Publish()
	var c ring.Completion
	for ctx.Err() == nil {
		ok, err := end.Take(&c)
		must(err)
		if ok {
			return c.Status
		}
	}
	t.Fatal("no answer")
	return 0
}
