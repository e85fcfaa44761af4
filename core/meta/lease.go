package meta

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta/store"
)

// Lease is the exclusive right of a session to drive one extent's range of a
// volume, allocated or not, as long as the session lives.
type Lease struct {
	Index      uint32
	Generation Generation
	Set        []Member // nil: not allocated; not to be changed in place
}

// HeldError is an ErrConflict: another session drives the extent.
type HeldError struct {
	Volume uuid.UUID
	Index  uint32
	Owner  SessionInfo
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("extent %d of volume %s is driven by node %s (Meta session %d)", e.Index, e.Volume, e.Owner.Node, e.Owner.ID)
}

// Is makes it an ErrConflict.
func (e *HeldError) Is(target error) bool { return target == ErrConflict }

// Acquire says which leases are wanted.
type Acquire struct {
	Volume   uuid.UUID
	From     uint32 // first extent
	Count    uint32
	Allocate bool        // place those that are not allocated
	Avoid    []uuid.UUID // stores not to allocate on
	// Tentative places extents with members of incarnation 0: the caller makes the
	// replicas at the next generation and calls ConfirmExtent before the first write.
	// Until then a new owner takes the extent for not allocated, so that a caller that
	// dies in between leaves no extent whose replica is missing.
	Tentative bool
}

// AcquireExtents takes leases for the session, or confirms those it has. Ownership
// passes from a session that is over without more ado; one held by a live session
// is a HeldError, and then the leases before it may have been taken. A change of
// owner or set raises the generation in the same transaction; the new owner seals it
// on every member before it serves. The only member of a set is named by its present
// incarnation: nobody else holds the data.
func (m *Meta) AcquireExtents(ctx context.Context, s *Session, a Acquire) ([]Lease, error) {
	out := make([]Lease, 0, a.Count)
	err := m.changeExtents(ctx, s, a.Volume, a.From, a.Count, func(env *leaseEnv, i uint32, e *Extent) error {
		if e.Owner != s.id {
			if err := env.takeOver(ctx, i, e.Owner); err != nil {
				return err
			}
			e.Owner = s.id
			if e.tentative() {
				e.Set = nil
			}
		}
		if len(e.Set) == 0 && a.Allocate {
			set, err := env.place(i, a.Avoid)
			if err != nil {
				return err
			}
			if a.Tentative {
				for j := range set {
					set[j].Incarnation = 0
				}
			}
			e.Set = set
		}
		if len(e.Set) == 1 && !e.tentative() {
			if st, ok := env.stores[e.Set[0].Store]; ok && st.Node == s.node && st.Incarnation != e.Set[0].Incarnation {
				e.Set = []Member{{Store: st.ID, Incarnation: st.Incarnation}}
			}
		}
		return nil
	}, func(i uint32, e Extent) {
		out = append(out, Lease{Index: i, Generation: e.Generation, Set: e.Set})
	})
	return out, err
}

// ConfirmExtent says that the replicas of an extent that was placed tentatively at
// generation g exist, sealed at g+1, the generation that the extent has from then on.
// Confirming it again changes nothing.
func (m *Meta) ConfirmExtent(ctx context.Context, s *Session, volume uuid.UUID, index uint32, g Generation) (Lease, error) {
	var out Lease
	err := m.changeExtents(ctx, s, volume, index, 1, func(env *leaseEnv, _ uint32, e *Extent) error {
		if e.Owner == s.id && e.Generation == g+1 && len(e.Set) > 0 && !e.tentative() {
			return nil // this very request was carried out before
		}
		if e.Owner != s.id || e.Generation != g || !e.tentative() {
			return fmt.Errorf("extent %d of volume %s is not placed tentatively at generation %d: %w", index, volume, g, ErrConflict)
		}
		set := slices.Clone(e.Set)
		for i := range set {
			st, ok := env.stores[set[i].Store]
			if !ok {
				return fmt.Errorf("store %s: %w", set[i].Store, ErrNotFound)
			}
			set[i].Incarnation = st.Incarnation
		}
		e.Set = set
		return nil
	}, func(i uint32, e Extent) { out = Lease{Index: i, Generation: e.Generation, Set: e.Set} })
	return out, err
}

// ReleaseExtents gives up leases of the session; those it does not hold are left alone.
func (m *Meta) ReleaseExtents(ctx context.Context, s *Session, volume uuid.UUID, from, count uint32) error {
	return m.changeExtents(ctx, s, volume, from, count, func(_ *leaseEnv, _ uint32, e *Extent) error {
		if e.Owner == s.id {
			e.Owner = 0
		}
		return nil
	}, nil)
}

// FreeExtents forgets where the extents from index on lie, up to the end that the
// volume ever had, and takes their leases. Their generations go on growing, so that
// replicas left behind are never taken for theirs.
func (m *Meta) FreeExtents(ctx context.Context, s *Session, volume uuid.UUID, from uint32) error {
	end := uint32(0)
	err := m.st.Range(ctx, keyExtents(volume), func(kv store.KV) error {
		var c uint32
		if _, err := fmt.Sscanf(kv.Key[len(keyExtents(volume)):], "%08x", &c); err != nil {
			return fmt.Errorf("key %s: %w", kv.Key, err)
		}
		end = (c + 1) * ChunkExtents
		return nil
	})
	if err != nil || end <= from {
		return err
	}
	return m.changeExtents(ctx, s, volume, from, end-from, func(env *leaseEnv, i uint32, e *Extent) error {
		if len(e.Set) == 0 {
			return nil
		}
		if e.Owner != s.id {
			if err := env.takeOver(ctx, i, e.Owner); err != nil {
				return err
			}
			e.Owner = s.id
		}
		e.Set = nil
		return nil
	}, nil)
}

// SetChange is a change of one extent's replica set by its owner.
type SetChange struct {
	Volume     uuid.UUID
	Index      uint32
	Generation Generation // as the owner knows it
	Set        []Member   // as the owner knows it
	Next       []Member
	// Joined are the members of Next that were copied and flushed, and hold all
	// acknowledged data as those of Set do.
	Joined []Member
	// Force allows a set without any present member: data may be lost.
	Force bool
}

// ChangeSet commits a new replica set and returns the new generation. It fails with
// ErrConflict unless the session owns the extent at exactly that generation and set.
func (m *Meta) ChangeSet(ctx context.Context, s *Session, c SetChange) (Generation, error) {
	if len(c.Next) == 0 || len(c.Next) > maxReplicas {
		return 0, invalid("replica set", "1 to %d members; there are %d", maxReplicas, len(c.Next))
	}
	kept := false
	for i, n := range c.Next {
		kept = kept || slices.Contains(c.Set, n) || slices.Contains(c.Joined, n)
		if slices.ContainsFunc(c.Next[:i], func(o Member) bool { return o.Store == n.Store }) {
			return 0, invalid("replica set", "different stores; %s is there twice", n.Store)
		}
	}
	if !kept && !c.Force {
		return 0, invalid("replica set", "one that keeps a member with all acknowledged data, or force")
	}
	var out Generation
	err := m.changeExtents(ctx, s, c.Volume, c.Index, 1, func(env *leaseEnv, _ uint32, e *Extent) error {
		if e.Owner == s.id && e.Generation == c.Generation+1 && slices.Equal(e.Set, c.Next) {
			return nil // this very request was carried out before
		}
		if e.Owner != s.id || e.Generation != c.Generation || !slices.Equal(e.Set, c.Set) {
			return fmt.Errorf("extent %d of volume %s is at generation %d with another owner or set: %w", c.Index, c.Volume, e.Generation, ErrConflict)
		}
		nodes := map[uuid.UUID]bool{}
		for _, n := range c.Next {
			st, ok := env.stores[n.Store]
			if !ok {
				return fmt.Errorf("store %s: %w", n.Store, ErrNotFound)
			}
			if nodes[st.Node] {
				return invalid("replica set", "stores of different nodes; %s has two", st.Node)
			}
			nodes[st.Node] = true
		}
		e.Set = slices.Clone(c.Next)
		return nil
	}, func(_ uint32, e Extent) { out = e.Generation })
	return out, err
}

// Extents calls fn with every extent of a volume that was ever leased or allocated.
func (m *Meta) Extents(ctx context.Context, volume uuid.UUID, fn func(index uint32, e Extent) error) error {
	return m.st.Range(ctx, keyExtents(volume), func(kv store.KV) error {
		var n uint32
		if _, err := fmt.Sscanf(kv.Key[len(keyExtents(volume)):], "%08x", &n); err != nil {
			return fmt.Errorf("key %s: %w", kv.Key, err)
		}
		c, err := parseChunk(kv.Value)
		if err != nil {
			return fmt.Errorf("key %s: %w", kv.Key, err)
		}
		for i, e := range c {
			if e.Generation == 0 {
				continue
			}
			if err := fn(n*ChunkExtents+uint32(i), e); err != nil {
				return err
			}
		}
		return nil
	})
}

// Extent returns one extent of a volume; one that was never leased is the zero value.
func (m *Meta) Extent(ctx context.Context, volume uuid.UUID, index uint32) (Extent, error) {
	c, _, err := m.loadChunk(ctx, keyChunk(volume, index/ChunkExtents))
	if err != nil {
		return Extent{}, err
	}
	return c[index%ChunkExtents], nil
}

// leaseEnv is what the decisions about extents need to know beside them.
type leaseEnv struct {
	m      *Meta
	x      *txn
	volume Volume
	node   uuid.UUID
	stores map[uuid.UUID]Store
}

// takeOver requires, as part of the transaction, that the session is over.
func (env *leaseEnv) takeOver(ctx context.Context, index uint32, owner SessionID) error {
	if owner == 0 {
		return nil
	}
	info, _, err := load[SessionInfo](ctx, env.m, keySession(owner))
	if err == nil {
		return &HeldError{Volume: env.volume.ID, Index: index, Owner: info}
	}
	if !isNotFound(err) {
		return err
	}
	env.x.at(keySession(owner), 0)
	return nil
}

// Bounds of one transaction over extents: what fits with room to spare.
const (
	chunksPerTxn = 48
	bytesPerTxn  = store.MaxBytes / 2
)

// changeExtents runs fn over a range of extents, raises the generation of those it
// changed, commits, and then calls done with each. A range that does not fit one
// transaction takes several.
func (m *Meta) changeExtents(ctx context.Context, s *Session, volume uuid.UUID, from, count uint32,
	fn func(env *leaseEnv, i uint32, e *Extent) error, done func(i uint32, e Extent),
) error {
	if uint64(from)+uint64(count) > 1<<32 {
		return invalid("extents", "a range below 2^32; it is %d from %d", count, from)
	}
	stores, err := m.Stores(ctx)
	if err != nil {
		return err
	}
	byID := make(map[uuid.UUID]Store, len(stores))
	for _, st := range stores {
		byID[st.ID] = st
	}
	for count > 0 {
		var n uint32
		var extents []Extent
		err := m.retry(ctx, func(x *txn) error {
			if err := s.check(ctx); err != nil {
				return err
			}
			v, vrev, err := load[Volume](ctx, m, keyVolume(volume))
			if err == nil && v.State != VolumeActive {
				err = fmt.Errorf("it is being deleted: %w", ErrNotFound)
			}
			if err != nil {
				return fmt.Errorf("volume %s: %w", volume, err)
			}
			s.require(x)
			x.at(keyVolume(volume), vrev)
			env := &leaseEnv{m: m, x: x, volume: v, node: s.node, stores: byID}
			n, extents, err = env.changeChunks(ctx, from, count, fn)
			return err
		})
		if err != nil {
			return err
		}
		if done != nil {
			for i, e := range extents {
				done(from+uint32(i), e)
			}
		}
		from += n
		count -= n
	}
	return nil
}

// changeChunks does as many chunks of the range as fit and returns how many extents
// they cover, and these.
func (env *leaseEnv) changeChunks(ctx context.Context, from, count uint32, fn func(*leaseEnv, uint32, *Extent) error) (uint32, []Extent, error) {
	var done uint32
	var extents []Extent
	for chunks := 0; done < count && chunks < chunksPerTxn && len(env.x.If) < store.MaxOps/2 && env.x.Size() < bytesPerTxn; chunks++ {
		first := from + done
		key := keyChunk(env.volume.ID, first/ChunkExtents)
		c, rev, err := env.m.loadChunk(ctx, key)
		if err != nil {
			return 0, nil, err
		}
		changed := false
		for ; done < count && (from+done)/ChunkExtents == first/ChunkExtents; done++ {
			e := &c[(from+done)%ChunkExtents]
			old := *e
			if err := fn(env, from+done, e); err != nil {
				return 0, nil, err
			}
			if !e.equal(old) {
				e.Generation++
				changed = true
			}
			extents = append(extents, *e)
		}
		if changed {
			env.x.at(key, rev)
			env.x.Put = append(env.x.Put, store.Put{Key: key, Value: c.append(nil)})
		}
	}
	return done, extents, nil
}

func (m *Meta) loadChunk(ctx context.Context, key string) (*chunk, store.Revision, error) {
	kv, err := m.st.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return new(chunk), 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", key, err)
	}
	c, err := parseChunk(kv.Value)
	if err != nil {
		return nil, 0, fmt.Errorf("key %s: %w", key, err)
	}
	return c, kv.Revision, nil
}
