package meta

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta/store"
)

// StoreState says whether an extent store takes part.
type StoreState string

// The states of an extent store.
const (
	StoreActive   StoreState = "active"
	StoreDraining StoreState = "draining" // serves what it has, takes nothing new
	StoreFailed   StoreState = "failed"   // a write or sync failed; serves nothing
)

// Store is an extent store: a disk's worth of extents on a node.
type Store struct {
	ID       uuid.UUID  `json:"id"`
	Node     uuid.UUID  `json:"node"`
	Name     string     `json:"name"` // unique on its node
	Path     string     `json:"path"`
	Media    string     `json:"media"`    // class, e.g. "ssd"
	Capacity int64      `json:"capacity"` // bytes; the weight in placing new extents
	State    StoreState `json:"state"`
	Reason   string     `json:"reason,omitempty"` // why it is not active
	// Incarnation is the number of the store's present life; it grows at every start.
	Incarnation uint64    `json:"incarnation"`
	Session     SessionID `json:"session,omitempty"` // in which it began
	BootID      string    `json:"boot_id"`           // of the machine at its last start
	Clean       bool      `json:"clean"`             // its last life ended with all it acknowledged on the medium
	Started     time.Time `json:"started"`
	// Lost is the first life after one that may have lost unflushed writes, Broken the
	// first after one in which a write or sync failed; 0: there was none.
	Lost   uint64 `json:"lost,omitempty"`
	Broken uint64 `json:"broken,omitempty"`
}

// Vouches says whether the store has all that was acknowledged of a volume to which it
// is a member of an extent's set, as far as is known.
func (s Store) Vouches(m Member, volatile bool) bool {
	return m.Incarnation >= s.Broken && (!volatile || m.Incarnation >= s.Lost)
}

// StoreStart tells Meta that a store begins a life.
type StoreStart struct {
	ID uuid.UUID
	// Incarnation is the store's own durable count of its lives; 0: Meta counts them.
	// One lower than Meta knows is refused: that disk is an older copy of the store.
	Incarnation uint64

	Name     string
	Path     string
	Media    string
	Capacity int64
	BootID   string // /proc/sys/kernel/random/boot_id
}

// StartStore makes a store of the session's node known and begins its next
// incarnation. If the machine lost power since an unclean end, the volatile volumes
// with extents on it may have lost unflushed writes: each such volume counts a loss,
// and they are returned.
func (m *Meta) StartStore(ctx context.Context, s *Session, o StoreStart) (Store, []Volume, error) {
	if err := checkName("store", o.Name); err != nil {
		return Store{}, nil, err
	}
	if o.ID == uuid.Nil || o.BootID == "" {
		return Store{}, nil, invalid("store", "an identity and the machine's boot ID")
	}
	prior, _, err := load[Store](ctx, m, keyStore(o.ID))
	if err != nil && !isNotFound(err) {
		return Store{}, nil, err
	}
	var lost []Volume
	if err == nil && !prior.Clean && prior.BootID != o.BootID && (o.Incarnation == 0 || o.Incarnation > prior.Incarnation) {
		// Before the store's record says that all is well: a crash in between counts a
		// loss twice, which is harmless, and never not at all.
		if lost, err = m.recordLosses(ctx, o.ID); err != nil {
			return Store{}, nil, err
		}
	}
	var out Store
	err = m.retry(ctx, func(x *txn) error {
		if err := s.check(ctx); err != nil {
			return err
		}
		old, rev, err := load[Store](ctx, m, keyStore(o.ID))
		if err != nil && !isNotFound(err) {
			return err
		}
		if err == nil && old.Node != s.node {
			return fmt.Errorf("store %s belongs to node %s: %w", o.ID, old.Node, ErrExists)
		}
		life := cmp.Or(o.Incarnation, old.Incarnation+1)
		if life < old.Incarnation || (life == old.Incarnation && old.Session != s.id) { // the same one in the same session is this request, repeated
			return fmt.Errorf("store %s is in its life %d, but Meta knows life %d; its disk is an older copy: %w", o.Name, life, old.Incarnation, ErrConflict)
		}
		out = Store{
			ID: o.ID, Node: s.node, Name: o.Name, Path: o.Path, Media: o.Media, Capacity: o.Capacity, State: StoreActive,
			Incarnation: life, Session: s.id, BootID: o.BootID, Started: m.now().UTC(),
		}
		if old.State == StoreDraining {
			out.State, out.Reason = old.State, old.Reason
		}
		out.Lost, out.Broken = old.Lost, old.Broken
		if life > old.Incarnation && err == nil {
			if !old.Clean && old.BootID != o.BootID {
				out.Lost = life
			}
			if old.State == StoreFailed {
				out.Broken = life
			}
		}
		s.require(x)
		x.update(keyStore(o.ID), rev, out)
		return nil
	})
	return out, lost, err
}

// recordLosses counts a loss for every volatile volume with an extent on the store.
func (m *Meta) recordLosses(ctx context.Context, id uuid.UUID) ([]Volume, error) {
	volumes, err := m.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	var lost []Volume
	for _, v := range volumes {
		if !v.IsVolatile() || v.State != VolumeActive {
			continue
		}
		n, err := m.countExtents(ctx, v.ID, id, 1)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			if err := m.RecordLoss(ctx, v.ID); err != nil && !isNotFound(err) {
				return nil, err
			}
			lost = append(lost, v)
		}
	}
	return lost, nil
}

// countExtents counts the extents of a volume that lie on a store, up to limit.
func (m *Meta) countExtents(ctx context.Context, volume, id uuid.UUID, limit int) (int, error) {
	n := 0
	err := m.Extents(ctx, volume, func(_ uint32, e Extent) error {
		if slices.ContainsFunc(e.Set, func(r Member) bool { return r.Store == id }) {
			if n++; n >= limit {
				return errStop
			}
		}
		return nil
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return n, err
}

// StopStore says that a store's life ended with all it acknowledged on the medium.
func (m *Meta) StopStore(ctx context.Context, id uuid.UUID, incarnation uint64) error {
	return m.changeStore(ctx, id, func(s *Store) error {
		if s.Incarnation == incarnation && s.State != StoreFailed {
			s.Clean = true
		}
		return nil
	})
}

// SetStoreState changes a store's state. A failed store becomes active again only
// by its next start.
func (m *Meta) SetStoreState(ctx context.Context, id uuid.UUID, state StoreState, reason string) error {
	return m.changeStore(ctx, id, func(s *Store) error {
		switch {
		case state != StoreActive && state != StoreDraining && state != StoreFailed:
			return invalid("state", "active, draining or failed; it is %q", state)
		case s.State == StoreFailed && state == StoreActive:
			return fmt.Errorf("store %s has failed and must be started again first: %w", s.Name, ErrConflict)
		}
		s.State, s.Reason = state, reason
		if state == StoreActive {
			s.Reason = ""
		}
		return nil
	})
}

func (m *Meta) changeStore(ctx context.Context, id uuid.UUID, fn func(*Store) error) error {
	return m.retry(ctx, func(x *txn) error {
		old, rev, err := load[Store](ctx, m, keyStore(id))
		if err != nil {
			return fmt.Errorf("store %s: %w", id, err)
		}
		next := old
		if err := fn(&next); err != nil {
			return err
		}
		if !same(next, old) {
			x.update(keyStore(id), rev, next)
		}
		return nil
	})
}

// RemoveStore forgets a store that is not active and holds no extent. Removing a
// missing one is no error.
func (m *Meta) RemoveStore(ctx context.Context, id uuid.UUID) error {
	return m.retry(ctx, func(x *txn) error {
		s, rev, err := load[Store](ctx, m, keyStore(id))
		if isNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if s.State == StoreActive {
			return fmt.Errorf("store %s is active; drain it first: %w", s.Name, ErrConflict)
		}
		use, err := m.StoreUse(ctx)
		if err != nil {
			return err
		}
		if n := use[id]; n > 0 {
			return &InUseError{What: "store " + s.Name, Users: []string{fmt.Sprintf("%d extents", n)}}
		}
		x.remove(keyStore(id), rev)
		return nil
	})
}

// StoreUse counts the extents on each store; it reads all extents.
func (m *Meta) StoreUse(ctx context.Context) (map[uuid.UUID]int, error) {
	use := map[uuid.UUID]int{}
	err := m.st.Range(ctx, "extent/", func(kv store.KV) error {
		c, err := parseChunk(kv.Value)
		if err != nil {
			return fmt.Errorf("key %s: %w", kv.Key, err)
		}
		for _, e := range c {
			for _, r := range e.Set {
				use[r.Store]++
			}
		}
		return nil
	})
	return use, err
}

// ExtentStore returns one store.
func (m *Meta) ExtentStore(ctx context.Context, id uuid.UUID) (Store, error) {
	s, _, err := load[Store](ctx, m, keyStore(id))
	if err != nil {
		return s, fmt.Errorf("store %s: %w", id, err)
	}
	return s, nil
}

// Stores returns all extent stores by ID.
func (m *Meta) Stores(ctx context.Context) ([]Store, error) { return list[Store](ctx, m, "store/") }

// place chooses where a new extent goes: its replicas on different nodes that are
// alive and as far apart as they can be (spread), one on the owner's if possible, elsewhere by weighted rendezvous hashing, so
// that it depends on nothing but the nodes, their stores and the extent. Where there are too few
// nodes it is fewer replicas; the rest is made up for when there are more.
func (env *leaseEnv) place(index uint32, avoid []uuid.UUID) ([]Member, error) {
	var set []Member
	for _, s := range spread(env.ranked(index, avoid), env.nodes, env.volume.Replicas) {
		set = append(set, Member{Store: s.ID, Incarnation: s.Incarnation})
	}
	if len(set) == 0 {
		return nil, fmt.Errorf("extent %d of volume %s: no active store is there for it: %w", index, env.volume, ErrNoStore)
	}
	return set, nil
}

// ranked is the stores that take new replicas, the best for an extent first.
func (env *leaseEnv) ranked(index uint32, avoid []uuid.UUID) []Store {
	candidates := make([]Store, 0, len(env.stores))
	for _, s := range env.stores {
		if env.takes(s) && !slices.Contains(avoid, s.ID) {
			candidates = append(candidates, s)
		}
	}
	score := func(s Store) float64 {
		h := fnv.New64a()
		h.Write(s.ID[:])
		h.Write(env.volume.ID[:])
		h.Write(binary.LittleEndian.AppendUint32(nil, index))
		u := (float64(mix(h.Sum64())>>11) + 0.5) / (1 << 53) // 0 < u < 1
		return -float64(max(s.Capacity, 1)) / math.Log(u)
	}
	slices.SortFunc(candidates, func(a, b Store) int {
		if la, lb := a.Node == env.node, b.Node == env.node; la != lb {
			if la {
				return -1
			}
			return 1
		}
		if sa, sb := score(a), score(b); sa != sb {
			if sa > sb {
				return -1
			}
			return 1
		}
		return strings.Compare(a.ID.String(), b.ID.String())
	})
	return candidates
}

// Refill chooses a store for one more replica of an extent of a volume that the session owns: one of prefer if it takes any, else as new
// extents are placed, on a node without a member of the set and as far from those as can be; never one to avoid. ErrNoStore: there is none now.
func (m *Meta) Refill(ctx context.Context, s *Session, volume uuid.UUID, index uint32, set []Member, prefer, avoid []uuid.UUID) (uuid.UUID, error) {
	env, err := m.leaseEnv(ctx, s, volume, new(txn))
	if err != nil {
		return uuid.Nil, err
	}
	return env.refill(index, set, prefer, avoid)
}

func (env *leaseEnv) refill(index uint32, set []Member, prefer, avoid []uuid.UUID) (uuid.UUID, error) {
	d := newDomains(env.nodes)
	for _, r := range set {
		d.add(env.stores[r.Store].Node)
	}
	ranked := env.ranked(index, avoid)
	for _, s := range ranked {
		if slices.Contains(prefer, s.ID) && !d.used[s.Node] {
			return s.ID, nil
		}
	}
	to := d.next(ranked)
	if to == nil {
		return uuid.Nil, fmt.Errorf("extent %d of volume %s: %w", index, env.volume, ErrNoStore)
	}
	return to.ID, nil
}

// mix spreads a weak hash over all its bits (the finaliser of SplitMix64).
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
