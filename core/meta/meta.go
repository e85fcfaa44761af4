// Package meta owns the truth of a cluster: nodes, stores, tenants, volumes,
// subsystems, namespaces, hosts, Meta sessions, extent leases with generations and
// replica sets, path epochs and reservations.
//
// It is logic over a store.Store and works the same on every engine. It does not
// own data (package extent), the I/O path (package access), nor the choice of
// access points (package path); it only records what those decide, and refuses
// what would be unsafe. Nothing here is on the path of a read or an overwrite.
//
// Every mutation is one transaction, or a sequence that may be cut anywhere and
// repeated. Repeating a request that has been carried out changes nothing and
// succeeds. Hints of Watch say what to read again; they are never the truth.
package meta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/core/meta/store"
)

var (
	// ErrNotFound says that the named object does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists says that another object has that name.
	ErrExists = errors.New("exists already")
	// ErrInUse says that something uses the object; see InUseError.
	ErrInUse = errors.New("in use")
	// ErrConflict says that somebody else changed or holds it; read again.
	ErrConflict = errors.New("conflict")
	// ErrInvalid says that a field is wrong; see InvalidError.
	ErrInvalid = errors.New("invalid")
	// ErrManaged says that the configuration file sets it; see ManagedError.
	ErrManaged = errors.New("managed by the configuration file")
	// ErrSessionExpired says that the Meta session is over, and with it its leases.
	ErrSessionExpired = errors.New("Meta session expired")
	// ErrWrongCluster says that the store or data directory belongs to another cluster.
	ErrWrongCluster = errors.New("belongs to another cluster")
	// ErrLost says that a store that has held a cluster is empty.
	ErrLost = errors.New("the metadata is lost")
	// ErrNoStore says that no active store can take a new extent.
	ErrNoStore = errors.New("no extent store can take it")
	// ErrFull says that the Meta store has no space for it; nothing was changed.
	ErrFull = store.ErrFull
	// ErrNewer says that a record was written by a newer version of Mooring.
	ErrNewer = errors.New("written by a newer version of Mooring")
)

// InvalidError is an ErrInvalid with the field and what would be right.
type InvalidError struct {
	Field string
	Want  string // what would be right, and what it is
}

func (e *InvalidError) Error() string { return fmt.Sprintf("%s: %s", e.Field, e.Want) }

// Is makes it an ErrInvalid.
func (e *InvalidError) Is(target error) bool { return target == ErrInvalid }

func invalid(field, want string, args ...any) error {
	return &InvalidError{Field: field, Want: fmt.Sprintf(want, args...)}
}

// InUseError is an ErrInUse with the users.
type InUseError struct {
	What  string
	Users []string // e.g. "subsystem nqn.… namespace 1"
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("%s is in use by %s", e.What, strings.Join(e.Users, ", "))
}

// Is makes it an ErrInUse.
func (e *InUseError) Is(target error) bool { return target == ErrInUse }

// ManagedError is an ErrManaged with the place that sets the object.
type ManagedError struct {
	What string
	Managed
}

func (e *ManagedError) Error() string {
	return fmt.Sprintf("%s is set by %s; change it there and reload", e.What, e.Managed)
}

// Is makes it an ErrManaged.
func (e *ManagedError) Is(target error) bool { return target == ErrManaged }

// Managed is the place in a configuration file that sets an object.
type Managed struct {
	File string `json:"file"`
	Line int    `json:"line"`
}

func (m Managed) String() string { return fmt.Sprintf("%s:%d", m.File, m.Line) }

// Cluster is what was fixed when the cluster was made.
type Cluster struct {
	ID          uuid.UUID `json:"id"`
	ExtentBytes int64     `json:"extent_bytes"` // a power of two
	Created     time.Time `json:"created"`
}

// Options configure a Meta.
type Options struct {
	Store  store.Store // stays the caller's
	Clock  store.Clock // nil: the machine's
	Logger hclog.Logger
	// Now is the wall clock, for what people read. nil: time.Now
	Now func() time.Time
	// Used says that the store has held a cluster: an empty one has lost it, and is refused.
	Used bool
}

// Meta is safe for use by many goroutines; it keeps no state but its cluster.
type Meta struct {
	st      store.Store
	clock   store.Clock
	log     hclog.Logger
	now     func() time.Time
	cluster Cluster // immutable after Open
}

// Open returns the Meta of an initialised store, or makes the cluster want in an
// empty one. It fails with ErrWrongCluster if the store holds another cluster than
// want.ID; a zero want.ID accepts any. It fails with ErrLost if the store is empty and
// was not.
func Open(ctx context.Context, o Options, want Cluster) (*Meta, error) {
	m := &Meta{st: o.Store, clock: o.Clock, log: o.Logger, now: o.Now}
	if m.clock == nil {
		m.clock = store.SystemClock()
	}
	if m.log == nil {
		m.log = hclog.NewNullLogger()
	}
	if m.now == nil {
		m.now = time.Now
	}
	for {
		c, _, err := load[Cluster](ctx, m, keyCluster)
		if err == nil {
			if want.ID != uuid.Nil && c.ID != want.ID {
				return nil, fmt.Errorf("the Meta store holds cluster %s, not %s: %w", c.ID, want.ID, ErrWrongCluster)
			}
			m.cluster = c
			return m, nil
		}
		if !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		if o.Used {
			return nil, ErrLost
		}
		if err := m.initialise(ctx, want); err != nil && !errors.Is(err, ErrConflict) {
			return nil, err
		}
	}
}

func (m *Meta) initialise(ctx context.Context, c Cluster) error {
	if c.ID == uuid.Nil {
		c.ID = uuid.New()
	}
	if c.ExtentBytes < 1<<16 || c.ExtentBytes&(c.ExtentBytes-1) != 0 {
		return invalid("extent size", "a power of two of at least 64 KiB; it is %d", c.ExtentBytes)
	}
	c.Created = m.now().UTC()
	var x txn
	x.create(keyCluster, c)
	x.create(keyTenant(DefaultTenant), Tenant{Name: DefaultTenant, Policy: DefaultPolicy})
	return m.commit(ctx, &x)
}

// Cluster returns what is fixed for the life of the cluster.
func (m *Meta) Cluster() Cluster { return m.cluster }

// Backup writes everything but sessions to w, as of one moment.
func (m *Meta) Backup(ctx context.Context, w io.Writer) error { return m.st.Backup(ctx, w) }

// ---------------------------------------------------------------- records

// recordVersion begins every JSON record; binary ones have their own.
const recordVersion = 1

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", v, err)) // only our own types come here
	}
	return append([]byte{recordVersion}, b...)
}

func decode(key string, b []byte, v any) error {
	if len(b) == 0 {
		return fmt.Errorf("record %s is empty", key)
	}
	if b[0] > recordVersion {
		return fmt.Errorf("record %s has version %d: %w", key, b[0], ErrNewer)
	}
	if err := json.Unmarshal(b[1:], v); err != nil {
		return fmt.Errorf("decode record %s: %w", key, err)
	}
	return nil
}

// load reads one record; a missing one is ErrNotFound.
func load[T any](ctx context.Context, m *Meta, key string) (T, store.Revision, error) {
	var v T
	kv, err := m.st.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return v, 0, ErrNotFound
	}
	if err != nil {
		return v, 0, fmt.Errorf("read %s: %w", key, err)
	}
	return v, kv.Revision, decode(key, kv.Value, &v)
}

// list reads all records under prefix in the order of their keys.
func list[T any](ctx context.Context, m *Meta, prefix string) ([]T, error) {
	var out []T
	err := m.st.Range(ctx, prefix, func(kv store.KV) error {
		var v T
		if err := decode(kv.Key, kv.Value, &v); err != nil {
			return err
		}
		out = append(out, v)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	return out, nil
}

// errStop ends a Range early.
var errStop = errors.New("stop")

// ---------------------------------------------------------------- transactions

// txn gathers one transaction.
type txn struct{ store.Txn }

// at requires the key to be at rev; 0: not to exist.
func (x *txn) at(key string, rev store.Revision) {
	for _, c := range x.If {
		if c.Key == key && c.Revision == rev {
			return
		}
	}
	x.If = append(x.If, store.Cond{Key: key, Revision: rev})
}

// create puts a record that must not exist.
func (x *txn) create(key string, v any) { x.update(key, 0, v) }

// update puts a record that must be at rev.
func (x *txn) update(key string, rev store.Revision, v any) {
	x.at(key, rev)
	x.Put = append(x.Put, store.Put{Key: key, Value: encode(v)})
}

// remove deletes a record that must be at rev.
func (x *txn) remove(key string, rev store.Revision) {
	x.at(key, rev)
	x.Delete = append(x.Delete, key)
}

func (m *Meta) commit(ctx context.Context, x *txn) error {
	_, err := m.st.Commit(ctx, x.Txn)
	switch {
	case errors.Is(err, store.ErrConflict):
		return ErrConflict
	case errors.Is(err, store.ErrSessionExpired):
		return ErrSessionExpired
	case err != nil:
		return fmt.Errorf("write to the Meta store: %w", err)
	}
	return nil
}

// maxRetries bounds how often a transaction is tried again after losing a race.
const maxRetries = 100

// A store that is unavailable, such as etcd while it elects a leader, is asked again
// after unavailablePause for as long as unavailablePatience.
const (
	unavailablePause    = 50 * time.Millisecond
	unavailablePatience = 15 * time.Second
)

// retry reads and commits until no other writer came between. fn reads, fills x
// and returns; an empty x is not committed. It is also called again when nobody knows
// whether its transaction was carried out, and then finds it as it is.
func (m *Meta) retry(ctx context.Context, fn func(x *txn) error) error {
	began := time.Now()
	for range maxRetries {
		var x txn
		if err := fn(&x); err != nil {
			return err
		}
		if len(x.Put)+len(x.Delete) == 0 {
			return nil
		}
		err := m.commit(ctx, &x)
		if errors.Is(err, store.ErrUnavailable) && time.Since(began) < unavailablePatience {
			select {
			case <-time.After(unavailablePause):
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if !errors.Is(err, ErrConflict) {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return fmt.Errorf("gave up after %d attempts: %w", maxRetries, ErrConflict)
}
