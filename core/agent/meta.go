package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/cluster"
	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/meta/store"
	"github.com/mooring-io/mooring/core/meta/store/badger"
	"github.com/mooring-io/mooring/core/meta/store/etcd"
	"github.com/mooring-io/mooring/core/vfs"
)

// restoredMark is the file that says that the metadata came from a backup.
func restoredMark(c *config.Config) string { return filepath.Join(c.DataDir, "meta-restored") }

func metaRestored(c *config.Config) bool {
	_, err := os.Stat(restoredMark(c))
	return err == nil
}

func metaDir(c *config.Config) string { return filepath.Join(c.DataDir, "meta") }

// openMeta opens the metadata and begins this node's Meta session.
func (a *agent) openMeta(ctx context.Context, undo *stack) error {
	st, err := a.openMetaStore(ctx)
	if err != nil {
		return err
	}
	undo.push(st.Close)
	used := a.usedStore()
	a.meta, err = meta.Open(ctx, meta.Options{Store: st, Logger: a.log.Named("meta"), Used: used != ""}, meta.Cluster{
		ID: a.id.Cluster, ExtentBytes: extent.DefaultExtentSize,
	})
	if errors.Is(err, meta.ErrLost) {
		return fmt.Errorf("%w: %s is empty, but the store in %s has been in use. Move %[2]s away and restore a backup of it (mooring meta restore); to begin anew without what the store holds, move both away", err, metaDir(a.cfg), used)
	}
	if err != nil {
		return err
	}
	if a.quorum != nil {
		if _, err := a.meta.Node(ctx, a.id.Node); errors.Is(err, meta.ErrNotFound) {
			return fmt.Errorf("this node was removed from cluster %s; to join again, it begins with an empty data directory", a.id.Cluster)
		}
	}
	if a.node, err = a.meta.JoinNode(ctx, meta.Node{ID: a.id.Node, Name: a.cfg.Node.Name, Address: a.cfg.Node.Address, Zone: a.cfg.Node.Zone, Rack: a.cfg.Node.Rack}); err != nil {
		return err
	}
	if a.journal, err = a.meta.OpenJournal(ctx, a.node.ID); err != nil {
		return err
	}
	undo.push(func() error { a.journal.Close(); return nil })
	if a.session, err = a.meta.StartSession(ctx, meta.SessionOptions{Node: a.node.ID, TTL: a.cfg.Limits.SessionTTL}); err != nil {
		return err
	}
	undo.push(func() error {
		return a.toldMeta("the end of the Meta session", a.session.Close)
	})
	return nil
}

// usedStore is the folder of an extent store that this node, being on its own, has used already; "" if there is none.
// Stores are made after the metadata, so that where one is, there was a cluster.
func (a *agent) usedStore() string {
	if a.quorum != nil {
		return ""
	}
	for _, s := range a.cfg.Stores {
		if extent.Exists(s.Path) {
			return s.Path
		}
	}
	return ""
}

// openMetaStore opens the store that the metadata lives in.
func (a *agent) openMetaStore(ctx context.Context) (store.Store, error) {
	if a.quorum != nil {
		st, err := etcd.Open(ctx, etcd.Options{Client: a.quorum.client, Prefix: a.quorum.prefix, Logger: a.log})
		if err != nil {
			return nil, err
		}
		a.silent = st.Silent
		return st, nil
	}
	return badger.Open(badger.Options{Dir: metaDir(a.cfg), Logger: a.log})
}

// farewell is how long a node of a cluster that stops tries to tell the metadata so.
const farewell = 4 * time.Second

// toldMeta has fn tell the metadata what a node that stops leaves. In a cluster it may be
// out of reach, since others stop too; they find out by themselves then.
func (a *agent) toldMeta(what string, fn func(context.Context) error) error {
	patience := stopTimeout
	if a.quorum != nil {
		patience = farewell
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := fn(ctx)
	if a.quorum != nil && (errors.Is(err, store.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)) {
		a.log.Warn("the metadata could not be told; it is out of reach", "what", what, "error", err)
		return nil
	}
	return err
}

// watchSession ends this life of the node when its Meta session is over: its leases
// are void, and a new life takes new ones.
func (a *agent) watchSession(ctx context.Context) {
	select {
	case <-a.session.Lost():
		a.fail(errSessionLost)
	case <-ctx.Done():
	}
}

// leases is Meta as Access asks it.
type leases struct {
	meta    *meta.Meta
	session *meta.Session
	changes *setChanges
}

func newLeases(m *meta.Meta, s *meta.Session) leases {
	l := leases{meta: m, session: s}
	l.changes = newSetChanges(l.changeSets)
	return l
}

// Deadline implements access.Meta.
func (l leases) Deadline() int64 { return l.session.Deadline() }

// Leases implements access.Meta.
func (l leases) Leases(ctx context.Context, volume uuid.UUID) ([]access.Lease, error) {
	v, err := l.meta.Volume(ctx, volume)
	if err != nil {
		return nil, err
	}
	owner, err := l.meta.TakeVolume(ctx, l.session, volume)
	if err != nil {
		return nil, err
	}
	return l.of(ctx, v, owner)
}

// Yield implements access.Meta.
func (l leases) Yield(ctx context.Context, volume, node uuid.UUID) error {
	if node == uuid.Nil {
		return l.meta.YieldVolume(ctx, l.session, volume, 0)
	}
	sessions, err := l.meta.Sessions(ctx)
	if err != nil {
		return err
	}
	for _, s := range sessions {
		if s.Node == node {
			return l.meta.YieldVolume(ctx, l.session, volume, s.ID)
		}
	}
	return fmt.Errorf("node %s has no Meta session: %w", node, meta.ErrNotFound)
}

// Geometry implements access.Meta.
func (l leases) Geometry(ctx context.Context, volume uuid.UUID) (access.Geometry, error) {
	v, err := l.meta.Volume(ctx, volume)
	return geometry(v), err
}

// geometry says it as Access does.
func geometry(v meta.Volume) access.Geometry {
	return access.Geometry{ID: v.ID, Name: v.Name, Size: v.Bytes, BlockSize: v.BlockBytes, Volatile: v.IsVolatile(), Losses: v.Losses, Replicas: v.Replicas}
}

// Epoch implements access.Meta.
func (l leases) Epoch(ctx context.Context, volume uuid.UUID, h access.Host) (uint64, error) {
	e, err := l.meta.VolumeEpoch(ctx, volume, h)
	return uint64(e), err
}

// Recorded implements access.Meta.
func (l leases) Recorded(ctx context.Context, volume uuid.UUID) ([]access.Lease, error) {
	v, err := l.meta.Volume(ctx, volume)
	if err != nil {
		return nil, err
	}
	owner, _, err := l.meta.VolumeOwner(ctx, volume)
	if err != nil {
		return nil, err
	}
	return l.of(ctx, v, owner)
}

// of lists the leases of a volume that belong to an owner.
func (l leases) of(ctx context.Context, v meta.Volume, owner meta.Ownership) ([]access.Lease, error) {
	stores, err := l.stores(ctx)
	if err != nil {
		return nil, err
	}
	// An extent that was never allocated is at the owner's term.
	out := make([]access.Lease, v.Extents(l.meta.Cluster().ExtentBytes))
	for i := range out {
		out[i].Generation = extent.Generation(owner.Term)
	}
	err = l.meta.Leases(ctx, owner, func(g meta.Lease) error {
		if int(g.Index) < len(out) {
			out[g.Index] = lease(g, v, stores)
		}
		return nil
	})
	return out, err
}

// Lease implements access.Meta.
func (l leases) Lease(ctx context.Context, volume uuid.UUID, index uint32) (access.Lease, error) {
	v, err := l.meta.Volume(ctx, volume)
	if err != nil {
		return access.Lease{}, err
	}
	stores, err := l.stores(ctx)
	if err != nil {
		return access.Lease{}, err
	}
	got, err := l.meta.Lease(ctx, l.session, volume, index)
	return lease(got, v, stores), err
}

func (l leases) stores(ctx context.Context) (map[uuid.UUID]meta.Store, error) {
	all, err := l.meta.Stores(ctx)
	out := make(map[uuid.UUID]meta.Store, len(all))
	for _, s := range all {
		out[s.ID] = s
	}
	return out, err
}

// Allocate implements access.Meta.
func (l leases) Allocate(ctx context.Context, volume uuid.UUID, index uint32, avoid []uuid.UUID) (access.Lease, error) {
	got, err := l.meta.PlaceExtent(ctx, l.session, volume, index, avoid)
	return lease(got, meta.Volume{}, nil), err
}

// Confirm implements access.Meta.
func (l leases) Confirm(ctx context.Context, volume uuid.UUID, index uint32, g extent.Generation, stores []uuid.UUID) ([]extent.Member, error) {
	got, err := l.meta.ConfirmExtent(ctx, l.session, volume, index, meta.Generation(g), stores)
	if err == nil && extent.Generation(got.Generation) != g+1 {
		err = fmt.Errorf("extent %d is at generation %d, not %d: %w", index, got.Generation, g+1, meta.ErrConflict)
	}
	return lease(got, meta.Volume{}, nil).Set, err
}

// Refill implements access.Meta.
func (l leases) Refill(ctx context.Context, volume uuid.UUID, index uint32, set []extent.Member, prefer, avoid []uuid.UUID) (uuid.UUID, error) {
	return l.meta.Refill(ctx, l.session, volume, index, metaMembers(set), prefer, avoid)
}

// lease says it as Access does. Without stores no member is suspect.
func lease(g meta.Lease, v meta.Volume, stores map[uuid.UUID]meta.Store) access.Lease {
	out := access.Lease{Generation: extent.Generation(g.Generation), Allocated: len(g.Set) > 0 && !g.Tentative}
	for _, m := range g.Set {
		out.Set = append(out.Set, extent.Member(m))
		if s, ok := stores[m.Store]; ok && !s.Vouches(m, v.IsVolatile()) {
			out.Suspect = append(out.Suspect, m.Store)
		}
	}
	return out
}

// Behind implements access.Meta.
func (l leases) Behind(ctx context.Context, volume uuid.UUID, found []uint32) ([]uint32, error) {
	return l.meta.Behind(ctx, volume, found)
}

// ChangeSet implements access.Meta.
func (l leases) ChangeSet(ctx context.Context, volume uuid.UUID, c access.SetChange) (extent.Generation, error) {
	g, err := l.changes.change(ctx, volume, meta.SetChange{
		Index: c.Index, Generation: meta.Generation(c.Generation), Set: metaMembers(c.Set), Next: metaMembers(c.Next), Joined: metaMembers(c.Joined),
	})
	return extent.Generation(g), err
}

// changeSets commits changes of one volume, in ascending order.
func (l leases) changeSets(ctx context.Context, volume uuid.UUID, change []meta.SetChange) ([]meta.Generation, error) {
	got, err := l.meta.ChangeSets(ctx, l.session, volume, change)
	for err != nil && !errors.Is(err, meta.ErrConflict) && !errors.Is(err, meta.ErrInvalid) && !errors.Is(err, meta.ErrSessionExpired) && ctx.Err() == nil {
		// Perhaps it was carried out: only the same request again can tell.
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
		got, err = l.meta.ChangeSets(ctx, l.session, volume, change)
	}
	return got, err
}

func metaMembers(all []extent.Member) (out []meta.Member) {
	for _, m := range all {
		out = append(out, meta.Member(m))
	}
	return out
}

// Free implements access.Meta.
func (l leases) Free(ctx context.Context, volume uuid.UUID, from uint32) error {
	return l.meta.FreeExtents(ctx, l.session, volume, from)
}

// finishLeftovers ends what a former life had begun: deletions and shrinks. In a cluster
// another node may be at it, or be down; the last one that starts ends it.
func (a *agent) finishLeftovers(ctx context.Context, _ *stack) error {
	vols, err := a.meta.Volumes(ctx)
	if err != nil {
		return err
	}
	for _, v := range vols {
		switch {
		case v.State == meta.VolumeDeleting:
			err = a.Deleted(ctx, v)
		case v.Trim >= 0:
			err = a.Shrunk(ctx, v)
		}
		if err != nil && a.quorum != nil {
			a.log.Warn("what a volume left to do is not done yet; the nodes that hold it do it", "volume", v.String(), "error", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("volume %s: %w", v, err)
		}
	}
	return nil
}

// Deleted implements admin.Agent.
func (a *agent) Deleted(ctx context.Context, v meta.Volume) error {
	if err := a.clear(ctx, v.ID); err != nil {
		return err
	}
	if err := a.elsewhere(ctx, v, cluster.Deleted); err != nil {
		return fmt.Errorf("volume %s is being deleted, and is gone when its nodes have removed what they hold of it: %w", v, err)
	}
	if err := a.meta.FinishDelete(ctx, v.ID); err != nil {
		return err
	}
	a.event(meta.Info, "volume-deleted", v.String(), "")
	return nil
}

// clear removes what this node's stores hold of a volume that is being deleted.
func (a *agent) clear(ctx context.Context, volume uuid.UUID) error {
	if err := a.access.CloseVolume(ctx, volume); err != nil {
		return err
	}
	return a.access.Delete(ctx, volume)
}

// elsewhere has the other nodes that hold extents of a volume do their part.
func (a *agent) elsewhere(ctx context.Context, v meta.Volume, what cluster.Work) error {
	if a.quorum == nil {
		return nil
	}
	stores, err := a.meta.Stores(ctx)
	if err != nil {
		return err
	}
	on := map[uuid.UUID]uuid.UUID{}
	for _, s := range stores {
		on[s.ID] = s.Node
	}
	holders := map[uuid.UUID]bool{}
	if err := a.meta.Extents(ctx, v.ID, func(_ uint32, e meta.Extent) error {
		for _, m := range e.Set {
			if n := on[m.Store]; n != uuid.Nil && n != a.node.ID {
				holders[n] = true
			}
		}
		return nil
	}); err != nil {
		return err
	}
	var failed []error
	for id := range holders {
		n, err := a.meta.Node(ctx, id)
		if err != nil {
			return err
		}
		at, err := cluster.AgentAddress(n.Address)
		if err == nil {
			err = cluster.Carry(ctx, a.quorum.keys, n.ID, at, v.ID, what)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("node %s: %w", n.Name, err))
		}
	}
	return errors.Join(failed...)
}

// Carry implements cluster.Door.
func (a *agent) Carry(ctx context.Context, volume uuid.UUID, what cluster.Work) error {
	v, err := a.meta.Volume(ctx, volume)
	if errors.Is(err, meta.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	switch {
	case what == cluster.Deleted && v.State == meta.VolumeDeleting:
		return a.clear(ctx, v.ID)
	case what == cluster.Shrunk && v.Trim >= 0:
		return a.cut(ctx, v)
	}
	return nil
}

// Shrunk implements admin.Agent.
func (a *agent) Shrunk(ctx context.Context, v meta.Volume) error {
	err := a.cut(ctx, v)
	if errors.Is(err, meta.ErrConflict) { // another node drives it
		err = a.elsewhere(ctx, v, cluster.Shrunk)
	}
	return err
}

// cut removes what a volume that was made smaller has beyond its end.
func (a *agent) cut(ctx context.Context, v meta.Volume) error {
	open, err := a.access.Open(ctx, geometry(v))
	if err != nil {
		return err
	}
	if err := a.access.Shrink(ctx, open, v.Trim); err != nil {
		return err
	}
	return a.meta.FinishShrink(ctx, v.ID, v.Trim)
}

func (a *agent) event(s meta.Severity, kind, object, message string) {
	a.journal.Record(meta.Event{Severity: s, Kind: kind, Object: object, Message: message})
}

// Note implements admin.Agent.
func (a *agent) Note(kind, object, message string) { a.event(meta.Info, kind, object, message) }

// lossTold records that a host's Flush has failed for what a volume lost. If that
// cannot be written, the host is told again in another life: better than never.
func (a *agent) lossTold(volume uuid.UUID, h access.Host, losses uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := a.meta.SetLossTold(ctx, volume, h, losses); err != nil {
		a.log.Warn("it is not recorded that a host knows of lost writes", "host", h.Name, "volume", volume, "error", err)
	}
}

// RestoreMeta fills the empty metadata store of a stopped node from a backup.
func RestoreMeta(ctx context.Context, c *config.Config, file string) (err error) {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if id, err := meta.LoadIdentity(c.DataDir); err == nil && id.Place != meta.Alone {
		return errors.New("this node's metadata lives in its cluster's etcd, which is restored as etcd is (docs/operations.md)")
	}
	if _, err := os.Stat(metaDir(c)); err == nil {
		return fmt.Errorf("%s exists: a backup is restored into an empty store only; move it away first", metaDir(c))
	}
	marked := metaRestored(c) // by an earlier restore, which goes on holding
	// Before anything of it can be used, and so that no loss of power takes it back.
	if err := vfs.ReplaceFile(restoredMark(c), []byte("restored from "+file+"\n"), 0o600); err != nil {
		return err
	}
	st, err := badger.Open(badger.Options{Dir: metaDir(c)})
	if err != nil {
		return err
	}
	err = errors.Join(st.Restore(ctx, f), st.Close())
	if err != nil {
		// The mark goes after what it marks, so that no half of a backup is taken for a whole store.
		undo := os.RemoveAll(metaDir(c))
		if undo == nil && !marked {
			undo = os.Remove(restoredMark(c))
		}
		return errors.Join(fmt.Errorf("restore %s: %w", file, err), undo)
	}
	return nil
}

// StoreDirs are the folders of all stores of a stopped node: those that its file names, and
// those that were added by hand.
func StoreDirs(ctx context.Context, c *config.Config) (dirs []string, err error) {
	for _, s := range c.Stores {
		dirs = append(dirs, s.Path)
	}
	if _, err := os.Stat(metaDir(c)); errors.Is(err, os.ErrNotExist) {
		return dirs, nil // it has never run
	}
	id, err := meta.EnsureIdentity(c.DataDir)
	if err != nil {
		return nil, err
	}
	st, err := badger.Open(badger.Options{Dir: metaDir(c)})
	if errors.Is(err, store.ErrLocked) {
		return nil, fmt.Errorf("the agent is running; stop it first: %w", err)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	m, err := meta.Open(ctx, meta.Options{Store: st, Logger: hclog.NewNullLogger()}, meta.Cluster{ID: id.Cluster, ExtentBytes: extent.DefaultExtentSize})
	if err != nil {
		return nil, err
	}
	known, err := m.Stores(ctx)
	for _, s := range known {
		if s.Node == id.Node && s.Path != "" && !slices.Contains(dirs, s.Path) {
			dirs = append(dirs, s.Path)
		}
	}
	return dirs, err
}
