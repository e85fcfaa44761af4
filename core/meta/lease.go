package meta

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta/store"
)

// Lease is the exclusive right of a volume's owner to drive one extent's range,
// allocated or not, as long as its session lives.
type Lease struct {
	Index uint32
	// Generation grows with every change of owner or set: it is the owner's Term and
	// the extent's own Changes together.
	Generation Generation
	Set        []Member // nil: not allocated; not to be changed in place
	// Tentative says that the extent was placed and never confirmed: nothing can have
	// been written to it.
	Tentative bool
}

func (o Ownership) lease(i uint32, e Extent) Lease {
	return Lease{Index: i, Generation: o.Term + e.Changes, Set: e.Set, Tentative: e.tentative()}
}

// Leases calls fn with every extent of an owner's volume that was ever allocated.
// Nobody but the owner changes them.
func (m *Meta) Leases(ctx context.Context, o Ownership, fn func(Lease) error) error {
	return m.Extents(ctx, o.Volume, func(i uint32, e Extent) error { return fn(o.lease(i, e)) })
}

// Lease returns the lease of one extent of a volume that the session owns.
func (m *Meta) Lease(ctx context.Context, s *Session, volume uuid.UUID, index uint32) (Lease, error) {
	return m.changeExtent(ctx, s, volume, index, func(*leaseEnv, uint32, *Extent) error { return nil })
}

// PlaceExtent chooses the stores of an extent that has none, for the owner of its
// volume: as many as the volume is to have replicas, or as there are. They are
// tentative: the caller makes the replicas at the next generation and calls
// ConfirmExtent before the first write. Until then everybody takes the extent for not
// allocated, so that one who dies in between leaves no extent whose replica is missing.
// An extent that was confirmed already is returned as it is. avoid are stores not to
// place it on.
func (m *Meta) PlaceExtent(ctx context.Context, s *Session, volume uuid.UUID, index uint32, avoid []uuid.UUID) (Lease, error) {
	return m.changeExtent(ctx, s, volume, index, func(env *leaseEnv, i uint32, e *Extent) error {
		if len(e.Set) > 0 && !e.tentative() {
			return nil
		}
		set, err := env.place(i, avoid)
		if err != nil {
			return err
		}
		for j := range set {
			set[j].Incarnation = 0
		}
		e.Set = set
		e.Changes++ // also if the stores are the same: replicas may be left of the former attempt
		return nil
	})
}

// ConfirmExtent says that the replicas of an extent that was placed at generation g
// exist, sealed at g+1, the generation that the extent has from then on. Confirming it
// again changes nothing. members are those that exist, at least one; nil is all.
func (m *Meta) ConfirmExtent(ctx context.Context, s *Session, volume uuid.UUID, index uint32, g Generation, members []uuid.UUID) (Lease, error) {
	return m.changeExtent(ctx, s, volume, index, func(env *leaseEnv, _ uint32, e *Extent) error {
		if env.owner.Term+e.Changes == g+1 && len(e.Set) > 0 && !e.tentative() {
			return nil // this very request was carried out before
		}
		if env.owner.Term+e.Changes != g || !e.tentative() {
			return fmt.Errorf("extent %d of volume %s is not placed tentatively at generation %d: %w", index, volume, g, ErrConflict)
		}
		var set []Member
		for _, r := range e.Set {
			if members != nil && !slices.Contains(members, r.Store) {
				continue
			}
			st, ok := env.stores[r.Store]
			if !ok {
				return fmt.Errorf("store %s: %w", r.Store, ErrNotFound)
			}
			set = append(set, Member{Store: st.ID, Incarnation: st.Incarnation})
		}
		if len(set) == 0 {
			return invalid("replica set", "at least one member")
		}
		e.Set = set
		e.Changes++
		return nil
	})
}

// FreeExtents forgets where the extents from index on lie, up to the end that the
// volume ever had. Their generations go on growing, so that replicas left behind are
// never taken for theirs. Only the volume's owner may.
func (m *Meta) FreeExtents(ctx context.Context, s *Session, volume uuid.UUID, from uint32) error {
	end := uint32(0)
	err := m.st.Range(ctx, keyExtents(volume), func(kv store.KV) error {
		c, err := chunkNumber(volume, kv.Key)
		end = (c + 1) * ChunkExtents
		return err
	})
	if err != nil || end <= from {
		return err
	}
	var all []uint32
	for i := from; i < end; i++ {
		all = append(all, i)
	}
	_, err = m.changeExtents(ctx, s, volume, all, func(_ *leaseEnv, _ int, e *Extent) error {
		if len(e.Set) > 0 {
			e.Set = nil
			e.Changes++
		}
		return nil
	})
	return err
}

// SetChange is a change of one extent's replica set by its owner.
type SetChange struct {
	Index      uint32
	Generation Generation // as the owner knows it
	Set        []Member   // as the owner knows it
	Next       []Member
	// Joined are the members of Next that were copied and flushed, and hold all
	// acknowledged data as those of Set do.
	Joined []Member
	// Force allows a set without any member that holds all acknowledged data.
	Force bool
}

// check says what is wrong with a change in itself.
func (c *SetChange) check() error {
	if len(c.Next) == 0 || len(c.Next) > MaxReplicas {
		return invalid("replica set", "1 to %d members; there are %d", MaxReplicas, len(c.Next))
	}
	kept := false
	for i, n := range c.Next {
		kept = kept || slices.Contains(c.Set, n) || slices.Contains(c.Joined, n)
		if slices.ContainsFunc(c.Next[:i], func(o Member) bool { return o.Store == n.Store }) {
			return invalid("replica set", "different stores; %s is there twice", n.Store)
		}
	}
	if !kept && !c.Force {
		return invalid("replica set", "one that keeps a member with all acknowledged data, or force")
	}
	return nil
}

// ChangeSets commits new replica sets of extents of one volume, in ascending order, and
// returns their new generations. It fails with ErrConflict unless the session owns the
// volume and each extent is at exactly that generation and set. After an error some may
// have been changed; repeating the request is safe.
func (m *Meta) ChangeSets(ctx context.Context, s *Session, volume uuid.UUID, changes []SetChange) ([]Generation, error) {
	var indices []uint32
	for i := range changes {
		if err := changes[i].check(); err != nil {
			return nil, fmt.Errorf("extent %d: %w", changes[i].Index, err)
		}
		indices = append(indices, changes[i].Index)
	}
	leases, err := m.changeExtents(ctx, s, volume, indices, func(env *leaseEnv, i int, e *Extent) error {
		c := &changes[i]
		now := env.owner.Term + e.Changes
		if now == c.Generation+1 && slices.Equal(e.Set, c.Next) {
			return nil // this very request was carried out before
		}
		if now != c.Generation || !slices.Equal(e.Set, c.Set) {
			return fmt.Errorf("extent %d of volume %s is at generation %d with set %v: %w", c.Index, volume, now, e.Set, ErrConflict)
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
		e.Changes++
		return nil
	})
	out := make([]Generation, len(leases))
	for i, l := range leases {
		out[i] = l.Generation
	}
	return out, err
}

// Extents calls fn with every extent of a volume that was ever allocated.
func (m *Meta) Extents(ctx context.Context, volume uuid.UUID, fn func(index uint32, e Extent) error) error {
	return m.st.Range(ctx, keyExtents(volume), func(kv store.KV) error {
		n, err := chunkNumber(volume, kv.Key)
		if err != nil {
			return err
		}
		c, err := parseChunk(kv.Value)
		if err != nil {
			return fmt.Errorf("key %s: %w", kv.Key, err)
		}
		for i, e := range c {
			if e.Changes == 0 {
				continue
			}
			if err := fn(n*ChunkExtents+uint32(i), e); err != nil {
				return err
			}
		}
		return nil
	})
}

// Extent returns one extent of a volume; one that was never allocated is the zero value.
func (m *Meta) Extent(ctx context.Context, volume uuid.UUID, index uint32) (Extent, error) {
	c, _, err := m.loadChunk(ctx, keyChunk(volume, index/ChunkExtents))
	if err != nil {
		return Extent{}, err
	}
	return c[index%ChunkExtents], nil
}

func chunkNumber(volume uuid.UUID, key string) (n uint32, err error) {
	if _, err := fmt.Sscanf(key[len(keyExtents(volume)):], "%08x", &n); err != nil {
		return 0, fmt.Errorf("key %s: %w", key, err)
	}
	return n, nil
}

// leaseEnv is what the decisions about extents need to know beside them.
type leaseEnv struct {
	volume Volume
	owner  Ownership
	node   uuid.UUID // of the owner
	stores map[uuid.UUID]Store
	nodes  map[uuid.UUID]Node
	alive  map[uuid.UUID]bool // nodes with a live session
}

// Bounds of one transaction over extents: what fits with room to spare.
const (
	chunksPerTxn = 48
	bytesPerTxn  = store.MaxBytes / 2
)

func (m *Meta) changeExtent(ctx context.Context, s *Session, volume uuid.UUID, index uint32, fn func(env *leaseEnv, i uint32, e *Extent) error) (Lease, error) {
	out, err := m.changeExtents(ctx, s, volume, []uint32{index}, func(env *leaseEnv, _ int, e *Extent) error { return fn(env, index, e) })
	if err != nil {
		return Lease{}, err
	}
	return out[0], nil
}

// changeExtents runs fn over extents of a volume that the session owns, in ascending
// order, commits, and returns what they are then. Many take several transactions; after
// an error it returns those that were committed.
func (m *Meta) changeExtents(ctx context.Context, s *Session, volume uuid.UUID, indices []uint32, fn func(env *leaseEnv, i int, e *Extent) error) ([]Lease, error) {
	for i := 1; i < len(indices); i++ {
		if indices[i] <= indices[i-1] {
			return nil, invalid("extents", "ascending order; %d is behind %d", indices[i], indices[i-1])
		}
	}
	var out []Lease
	for len(out) < len(indices) {
		var done []Lease
		err := m.retry(ctx, func(x *txn) error {
			env, err := m.leaseEnv(ctx, s, volume, x)
			if err != nil {
				return err
			}
			done, err = m.changeChunks(ctx, env, x, indices[len(out):], func(i int, e *Extent) error { return fn(env, len(out)+i, e) })
			return err
		})
		if err != nil {
			return out, err
		}
		out = append(out, done...)
	}
	return out, nil
}

// leaseEnv reads what the transaction depends on, and makes it depend on it.
func (m *Meta) leaseEnv(ctx context.Context, s *Session, volume uuid.UUID, x *txn) (*leaseEnv, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	v, vrev, err := m.activeVolume(ctx, volume)
	if err != nil {
		return nil, err
	}
	owner, err := m.ownership(ctx, volume)
	if err != nil {
		return nil, err
	}
	if owner.Session != s.id {
		return nil, fmt.Errorf("volume %s is not driven by Meta session %d: %w", v, s.id, ErrConflict)
	}
	s.require(x)
	x.at(keyVolume(volume), vrev)
	x.at(keyOwner(volume), owner.revision)
	env := &leaseEnv{volume: v, owner: owner, node: s.node, stores: map[uuid.UUID]Store{}, alive: map[uuid.UUID]bool{}}
	stores, err := m.Stores(ctx)
	if err != nil {
		return nil, err
	}
	for _, st := range stores {
		env.stores[st.ID] = st
	}
	if env.nodes, err = m.nodesByID(ctx); err != nil {
		return nil, err
	}
	sessions, err := m.Sessions(ctx)
	for _, i := range sessions {
		env.alive[i.Node] = true
	}
	return env, err
}

// changeChunks does as many extents as fit into one transaction and returns what they
// are then.
func (m *Meta) changeChunks(ctx context.Context, env *leaseEnv, x *txn, indices []uint32, fn func(i int, e *Extent) error) ([]Lease, error) {
	var out []Lease
	for chunks := 0; len(out) < len(indices) && chunks < chunksPerTxn && x.Size() < bytesPerTxn; chunks++ {
		number := indices[len(out)] / ChunkExtents
		key := keyChunk(env.volume.ID, number)
		c, rev, err := m.loadChunk(ctx, key)
		if err != nil {
			return nil, err
		}
		changed := false
		for len(out) < len(indices) && indices[len(out)]/ChunkExtents == number {
			i := indices[len(out)]
			e := &c[i%ChunkExtents]
			old := *e
			if err := fn(len(out), e); err != nil {
				return nil, err
			}
			changed = changed || !e.equal(old)
			out = append(out, env.owner.lease(i, *e))
		}
		if changed {
			x.at(key, rev)
			x.Put = append(x.Put, store.Put{Key: key, Value: c.append(nil)})
		}
	}
	return out, nil
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
