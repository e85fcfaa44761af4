package meta

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta/store"
)

// Durability says what an acknowledged write survives.
type Durability string

// The durabilities.
const (
	Sync     Durability = "sync"     // it is on the medium of every replica
	Volatile Durability = "volatile" // it survives the death of processes; Flush makes it Sync
)

// Limits of a volume, in bytes.
const (
	VolumeGrain    = 4096
	MinVolumeBytes = 1 << 20
	MaxVolumeBytes = 1 << 50
)

// VolumeState is the stage of a volume's life.
type VolumeState string

// The states of a volume.
const (
	VolumeActive   VolumeState = "active"
	VolumeDeleting VolumeState = "deleting" // its name is free; its extents are being removed
)

// Volume is a block device.
type Volume struct {
	ID         uuid.UUID  `json:"id"`
	Name       string     `json:"name"`
	Tenant     string     `json:"tenant"`
	Bytes      int64      `json:"bytes"`       // a multiple of VolumeGrain
	BlockBytes int        `json:"block_bytes"` // logical block, 512 or 4096; fixed
	Durability Durability `json:"durability"`
	Group      string     `json:"group,omitempty"` // namespace group within the tenant; "": none
	Replicas   int        `json:"replicas"`
	// Media is the class of the stores that new extents go to; "": any.
	Media   string      `json:"media,omitempty"`
	State   VolumeState `json:"state"`
	Created time.Time   `json:"created"`
	Managed *Managed    `json:"managed,omitempty"`
	// Trim is the size to which a shrink still has to cut what the stores hold, or
	// -1; the volume cannot grow before FinishShrink.
	Trim int64 `json:"trim"`
	// Hardening says that the volume was volatile, and that what was acknowledged then may not be
	// durable yet; until FinishHardening.
	Hardening bool `json:"hardening,omitempty"`
	// Losses counts how often unflushed writes may have been lost on all replicas.
	Losses uint64 `json:"losses,omitempty"`
	// EpochBase is above every path epoch of a former attachment.
	EpochBase PathEpoch `json:"epoch_base,omitempty"`
}

// IsVolatile says whether what was acknowledged may not be durable.
func (v Volume) IsVolatile() bool { return v.Durability == Volatile || v.Hardening }

// NGUID is the namespace's globally unique identifier, derived from the volume's ID. Base 4.5
func (v Volume) NGUID() [16]byte { return v.ID }

// EUI64 is the namespace's 64-bit identifier, derived from the volume's ID, with
// the bit set that says it is locally administered. Base 4.5
func (v Volume) EUI64() [8]byte {
	sum := sha256.Sum256(append([]byte("mooring eui-64 "), v.ID[:]...))
	out := [8]byte(sum[:8])
	out[0] = out[0]&^1 | 2
	return out
}

// Extents is how many extents of that size cover the volume.
func (v Volume) Extents(extentBytes int64) uint32 {
	return uint32((v.Bytes + extentBytes - 1) / extentBytes)
}

func (v Volume) String() string { return v.Tenant + "/" + v.Name }

// check fills defaults in and says what is wrong.
func (v *Volume) check() error {
	if v.Tenant == "" {
		v.Tenant = DefaultTenant
	}
	if v.BlockBytes == 0 {
		v.BlockBytes = 4096
	}
	if v.Durability == "" {
		v.Durability = Sync
	}
	if err := checkName("volume", v.Name); err != nil {
		return err
	}
	if err := checkName("tenant", v.Tenant); err != nil {
		return err
	}
	if err := checkVolumeBytes(v.Bytes); err != nil {
		return err
	}
	if err := checkGroup(v.Group); err != nil {
		return err
	}
	if v.BlockBytes != 512 && v.BlockBytes != 4096 {
		return invalid("block size", "512 or 4096 bytes; it is %d", v.BlockBytes)
	}
	if v.Media != "" && !slices.Contains(MediaClasses, v.Media) {
		return invalid("media", "%s; it is %q", strings.Join(MediaClasses, ", "), v.Media)
	}
	if v.Replicas < 0 || v.Replicas > MaxReplicas {
		return invalid("replicas", "1 to %d; it is %d", MaxReplicas, v.Replicas)
	}
	return checkDurability(v.Durability)
}

// differs says in what a volume is not the one that is asked for, if it is not.
func (v Volume) differs(asked Volume) string {
	switch {
	case asked.ID != uuid.Nil && asked.ID != v.ID:
		return "ID"
	case asked.Bytes != v.Bytes:
		return "size"
	case asked.BlockBytes != v.BlockBytes:
		return "block size"
	case asked.Durability != v.Durability:
		return "durability"
	case asked.Group != v.Group:
		return "namespace group"
	case asked.Media != v.Media:
		return "media class"
	case asked.Replicas != 0 && asked.Replicas != v.Replicas:
		return "number of replicas"
	}
	return ""
}

// DefaultReplicas is how many replicas a volume has that asks for no number, where there are nodes for them.
const DefaultReplicas = 2

// checkReplicas says what is wrong with a number of replicas, and what 0 stands for.
func (m *Meta) checkReplicas(ctx context.Context, n int) (int, error) {
	nodes, err := m.Nodes(ctx)
	if err != nil {
		return n, err
	}
	nodes = slices.DeleteFunc(nodes, func(n Node) bool { return n.Witness })
	limit := min(max(len(nodes), 1), MaxReplicas)
	switch {
	case n == 0:
		return min(DefaultReplicas, limit), nil
	case n < 0 || n > limit && limit == 1:
		return n, invalid("replicas", "1 where there is one storage node; it is %d", n)
	case n > limit:
		return n, invalid("replicas", "1 to %d, since no two are on one node; it is %d", limit, n)
	}
	return n, nil
}

func checkGroup(g string) error {
	if g == "" {
		return nil
	}
	return checkName("namespace group", g)
}

func checkVolumeBytes(n int64) error {
	if n < MinVolumeBytes || n > MaxVolumeBytes || n%VolumeGrain != 0 {
		return invalid("size", "a multiple of 4 KiB from 1 MiB to 1 PiB; it is %d bytes", n)
	}
	return nil
}

func checkDurability(d Durability) error {
	if d != Sync && d != Volatile {
		return invalid("durability", "%q or %q; it is %q", Sync, Volatile, d)
	}
	return nil
}

// CreateVolume makes a volume. v.ID may be chosen by the caller, which makes the
// request safe to repeat; name and tenant, size, block size, durability, group and replicas
// are taken from v. If an equal one exists, it is returned; if the name is taken by another
// volume: ErrExists.
func (m *Meta) CreateVolume(ctx context.Context, v Volume) (Volume, error) {
	if err := v.check(); err != nil {
		return v, err
	}
	asked := v
	var err error
	if v.Managed == nil || v.Replicas == 0 { // a file may ask for more than there are nodes for yet
		v.Replicas, err = m.checkReplicas(ctx, v.Replicas)
	}
	if err != nil {
		return v, err
	}
	if v.ID == uuid.Nil {
		v.ID = uuid.New()
	}
	v.State, v.Trim, v.Created, v.Losses, v.EpochBase = VolumeActive, -1, m.now().UTC(), 0, 0
	out := v
	err = m.retry(ctx, func(x *txn) error {
		if err := m.openTenant(ctx, x, v.Tenant); err != nil {
			return err
		}
		id, _, err := load[uuid.UUID](ctx, m, keyVolumeName(v.Tenant, v.Name))
		if err == nil {
			if out, err = m.Volume(ctx, id); err != nil {
				return err
			}
			if other := out.differs(asked); other != "" {
				return fmt.Errorf("volume %s with another %s: %w", v, other, ErrExists)
			}
			return nil
		}
		if !isNotFound(err) {
			return err
		}
		if _, _, err := load[Volume](ctx, m, keyVolume(v.ID)); !isNotFound(err) {
			return errors.Join(fmt.Errorf("volume ID %s: %w", v.ID, ErrExists), err)
		}
		if err := m.charge(ctx, x, v.Tenant, 1, v.Bytes); err != nil {
			return err
		}
		x.Optional = true
		x.create(keyVolumeName(v.Tenant, v.Name), v.ID)
		x.create(keyVolume(v.ID), v)
		out = v
		return nil
	})
	return out, err
}

// Volume returns one volume by its ID, also while it is being deleted.
func (m *Meta) Volume(ctx context.Context, id uuid.UUID) (Volume, error) {
	v, _, err := load[Volume](ctx, m, keyVolume(id))
	if err != nil {
		return v, fmt.Errorf("volume %s: %w", id, err)
	}
	return v, nil
}

// FindVolume returns one volume by its name; an empty tenant is the default one.
func (m *Meta) FindVolume(ctx context.Context, tenant, name string) (Volume, error) {
	if tenant == "" {
		tenant = DefaultTenant
	}
	id, _, err := load[uuid.UUID](ctx, m, keyVolumeName(tenant, name))
	if err != nil {
		return Volume{}, fmt.Errorf("volume %s/%s: %w", tenant, name, err)
	}
	return m.Volume(ctx, id)
}

// Volumes returns all volumes, those being deleted included, by ID.
func (m *Meta) Volumes(ctx context.Context) ([]Volume, error) {
	return list[Volume](ctx, m, "volume/")
}

// changeVolume updates one volume; fn gets a copy to change. cli says that the
// change is not made for the configuration file.
func (m *Meta) changeVolume(ctx context.Context, id uuid.UUID, cli bool, fn func(x *txn, v *Volume) error) (Volume, error) {
	var out Volume
	err := m.retry(ctx, func(x *txn) error {
		old, rev, err := load[Volume](ctx, m, keyVolume(id))
		if err != nil {
			return fmt.Errorf("volume %s: %w", id, err)
		}
		if old.State != VolumeActive {
			return fmt.Errorf("volume %s is being deleted: %w", old, ErrNotFound)
		}
		next := old
		if err := fn(x, &next); err != nil {
			return err
		}
		out = next
		if same(next, old) {
			x.Txn = store.Txn{}
			return nil
		}
		if cli && next.Bytes >= old.Bytes { // no file shrinks a volume: that is for the CLI alone
			if err := refuseManaged("volume "+old.String(), old.Managed); err != nil {
				return err
			}
		}
		if next.Bytes != old.Bytes {
			if err := m.charge(ctx, x, next.Tenant, 0, next.Bytes-old.Bytes); err != nil {
				return err
			}
		}
		x.update(keyVolume(id), rev, next)
		return nil
	})
	return out, err
}

// Resize says how a volume's size may change.
type Resize struct {
	Bytes  int64
	Shrink bool // allow a smaller size: what lies beyond it is lost
	Force  bool // shrink although hosts may use the volume
}

// ResizeVolume changes the size. After a shrink Trim is set: whoever serves the
// volume cuts it and calls FinishShrink, until then it cannot grow.
func (m *Meta) ResizeVolume(ctx context.Context, id uuid.UUID, r Resize) (Volume, error) {
	return m.resizeVolume(ctx, id, r, true)
}

func (m *Meta) resizeVolume(ctx context.Context, id uuid.UUID, r Resize, cli bool) (Volume, error) {
	if err := checkVolumeBytes(r.Bytes); err != nil {
		return Volume{}, err
	}
	return m.changeVolume(ctx, id, cli, func(x *txn, v *Volume) error { return m.resize(ctx, x, v, r) })
}

func (m *Meta) resize(ctx context.Context, x *txn, v *Volume, r Resize) error {
	switch {
	case r.Bytes > v.Bytes && v.Trim >= 0:
		return fmt.Errorf("volume %s is still being shrunk: %w", v, ErrConflict)
	case r.Bytes < v.Bytes && !r.Shrink:
		return invalid("size", "at least the present %d bytes, unless shrinking is asked for, which destroys what lies beyond; it is %d", v.Bytes, r.Bytes)
	case r.Bytes < v.Bytes:
		at, rev, err := load[Attachments](ctx, m, keyAttached(v.ID))
		if err != nil && !isNotFound(err) {
			return err
		}
		if err == nil && !r.Force {
			return &InUseError{What: "volume " + v.String(), Users: at.users()}
		}
		x.at(keyAttached(v.ID), rev)
		v.Trim = r.Bytes
	}
	v.Bytes = r.Bytes
	return nil
}

// FinishShrink says that nothing beyond size exists any more on any store.
func (m *Meta) FinishShrink(ctx context.Context, id uuid.UUID, size int64) error {
	_, err := m.changeVolume(ctx, id, false, func(_ *txn, v *Volume) error {
		if v.Trim == size {
			v.Trim = -1
		}
		return nil
	})
	return err
}

// SetDurability changes what an acknowledged write survives.
func (m *Meta) SetDurability(ctx context.Context, id uuid.UUID, d Durability) (Volume, error) {
	if err := checkDurability(d); err != nil {
		return Volume{}, err
	}
	return m.changeVolume(ctx, id, true, func(_ *txn, v *Volume) error { v.setDurability(d); return nil })
}

func (v *Volume) setDurability(d Durability) {
	v.Hardening = d == Sync && (v.Hardening || v.Durability == Volatile)
	v.Durability = d
}

// FinishHardening says that everything acknowledged on a volume is durable, which was volatile before.
func (m *Meta) FinishHardening(ctx context.Context, id uuid.UUID) error {
	_, err := m.changeVolume(ctx, id, false, func(_ *txn, v *Volume) error {
		v.Hardening = v.Hardening && v.Durability != Sync
		return nil
	})
	return err
}

// SetReplicas changes how many replicas a volume is to have; the owner brings its extents
// to it.
func (m *Meta) SetReplicas(ctx context.Context, id uuid.UUID, n int) (Volume, error) {
	n, err := m.checkReplicas(ctx, n)
	if err != nil {
		return Volume{}, err
	}
	return m.changeVolume(ctx, id, true, func(_ *txn, v *Volume) error { v.Replicas = n; return nil })
}

// SetGroup puts a volume into a namespace group of its tenant, or, with "", into none.
func (m *Meta) SetGroup(ctx context.Context, id uuid.UUID, group string) (Volume, error) {
	if err := checkGroup(group); err != nil {
		return Volume{}, err
	}
	return m.changeVolume(ctx, id, true, func(_ *txn, v *Volume) error { v.Group = group; return nil })
}

// RecordLoss notes that unflushed writes of a volume may be gone on all replicas.
func (m *Meta) RecordLoss(ctx context.Context, id uuid.UUID) error {
	_, err := m.changeVolume(ctx, id, false, func(_ *txn, v *Volume) error { v.Losses++; return nil })
	return err
}

// LossTold returns how many of a volume's losses a host has been told of. A host that
// is seen for the first time has lost nothing before: it knows all that there were.
func (m *Meta) LossTold(ctx context.Context, id uuid.UUID, h HostID) (uint64, error) {
	told, _, err := load[uint64](ctx, m, keyTold(id, h))
	if !isNotFound(err) {
		return told, err
	}
	v, err := m.Volume(ctx, id)
	if err != nil {
		return 0, err
	}
	return v.Losses, m.SetLossTold(ctx, id, h, v.Losses)
}

// SetLossTold records that a host has been told of a volume's losses, up to that count.
func (m *Meta) SetLossTold(ctx context.Context, id uuid.UUID, h HostID, losses uint64) error {
	return m.retry(ctx, func(x *txn) error {
		old, rev, err := load[uint64](ctx, m, keyTold(id, h))
		if err != nil && !isNotFound(err) {
			return err
		}
		if rev == 0 || old < losses {
			x.update(keyTold(id, h), rev, losses)
		}
		return nil
	})
}

// VolumeUsers says what uses a volume.
func (m *Meta) VolumeUsers(ctx context.Context, id uuid.UUID) ([]string, error) {
	at, _, err := load[Attachments](ctx, m, keyAttached(id))
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return at.users(), nil
}

// DeleteVolume begins the deletion of a volume that nothing uses: its name is free
// at once, its data lives until FinishDelete. Deleting a missing one is no error.
func (m *Meta) DeleteVolume(ctx context.Context, id uuid.UUID) error {
	return m.retry(ctx, func(x *txn) error {
		v, rev, err := load[Volume](ctx, m, keyVolume(id))
		if isNotFound(err) || (err == nil && v.State == VolumeDeleting) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := refuseManaged("volume "+v.String(), v.Managed); err != nil {
			return err
		}
		at, _, err := load[Attachments](ctx, m, keyAttached(id))
		if err == nil {
			return &InUseError{What: "volume " + v.String(), Users: at.users()}
		}
		if !isNotFound(err) {
			return err
		}
		kv, err := m.st.Get(ctx, keyVolumeName(v.Tenant, v.Name))
		if err != nil {
			return fmt.Errorf("read the name of volume %s: %w", v, err)
		}
		if err := m.charge(ctx, x, v.Tenant, -1, -v.Bytes); err != nil {
			return err
		}
		v.State = VolumeDeleting
		x.at(keyAttached(id), 0)
		x.remove(keyVolumeName(v.Tenant, v.Name), kv.Revision)
		x.update(keyVolume(id), rev, v)
		return nil
	})
}

// FinishDelete forgets a volume being deleted, after the stores removed its
// extents. Calling it again is no error.
func (m *Meta) FinishDelete(ctx context.Context, id uuid.UUID) error {
	return m.retry(ctx, func(x *txn) error {
		v, rev, err := load[Volume](ctx, m, keyVolume(id))
		if isNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if v.State != VolumeDeleting {
			return fmt.Errorf("volume %s is not being deleted: %w", v, ErrConflict)
		}
		var keys []string
		for _, prefix := range []string{keyExtents(id), keyToldAll(id)} {
			if err := m.st.Range(ctx, prefix, func(kv store.KV) error { keys = append(keys, kv.Key); return nil }); err != nil {
				return err
			}
		}
		for part := range slices.Chunk(keys, store.MaxOps) {
			forget := func(x *txn) error { x.Delete = part; return nil }
			if err := m.retry(ctx, forget); err != nil {
				return fmt.Errorf("forget the extents of volume %s: %w", v, err)
			}
		}
		x.remove(keyVolume(id), rev)
		x.Delete = append(x.Delete, keyReservation(id), keyBehind(id), keyOwner(id))
		return nil
	})
}

func isNotFound(err error) bool { return errors.Is(err, ErrNotFound) }
