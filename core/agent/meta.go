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
	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/meta/store"
	"github.com/mooring-io/mooring/core/meta/store/badger"
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
	var err error
	if a.id, err = meta.EnsureIdentity(a.cfg.DataDir); err != nil {
		return err
	}
	if a.metaStore, err = badger.Open(badger.Options{Dir: metaDir(a.cfg), Logger: a.log}); err != nil {
		return err
	}
	undo.push(a.metaStore.Close)
	a.meta, err = meta.Open(ctx, meta.Options{Store: a.metaStore, Logger: a.log.Named("meta")}, meta.Cluster{
		ID: a.id.Cluster, ExtentBytes: extent.DefaultExtentSize,
	})
	if err != nil {
		return err
	}
	if a.node, err = a.meta.JoinNode(ctx, a.id.Node, a.cfg.Node.Name); err != nil {
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
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		return a.session.Close(ctx)
	})
	return nil
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
	// An extent that was never allocated is at the owner's term.
	out := make([]access.Lease, v.Extents(l.meta.Cluster().ExtentBytes))
	for i := range out {
		out[i].Generation = extent.Generation(owner.Term)
	}
	err = l.meta.Leases(ctx, owner, func(g meta.Lease) error {
		if int(g.Index) < len(out) {
			out[g.Index] = lease(g)
		}
		return nil
	})
	return out, err
}

// Allocate implements access.Meta.
func (l leases) Allocate(ctx context.Context, volume uuid.UUID, index uint32) (access.Lease, error) {
	got, err := l.meta.PlaceExtent(ctx, l.session, volume, index, nil)
	return lease(got), err
}

// Confirm implements access.Meta.
func (l leases) Confirm(ctx context.Context, volume uuid.UUID, index uint32, g extent.Generation) error {
	got, err := l.meta.ConfirmExtent(ctx, l.session, volume, index, meta.Generation(g), nil)
	if err == nil && extent.Generation(got.Generation) != g+1 {
		err = fmt.Errorf("extent %d is at generation %d, not %d: %w", index, got.Generation, g+1, meta.ErrConflict)
	}
	return err
}

func lease(g meta.Lease) access.Lease {
	out := access.Lease{Generation: extent.Generation(g.Generation)}
	if len(g.Set) > 0 {
		out.Store, out.Allocated = g.Set[0].Store, !g.Tentative
	}
	return out
}

// Behind implements access.Meta.
func (l leases) Behind(ctx context.Context, volume uuid.UUID, found []uint32) ([]uint32, error) {
	return l.meta.Behind(ctx, volume, found)
}

// Replace implements access.Meta.
func (l leases) Replace(ctx context.Context, volume uuid.UUID, index uint32, g extent.Generation, by extent.Member) (extent.Generation, error) {
	e, err := l.meta.Extent(ctx, volume, index)
	if err != nil {
		return 0, err
	}
	if len(e.Set) != 1 {
		return 0, fmt.Errorf("extent %d has %d replicas, not one: %w", index, len(e.Set), meta.ErrConflict)
	}
	next := []meta.Member{{Store: by.Store, Incarnation: by.Incarnation}}
	change := []meta.SetChange{{Index: index, Generation: meta.Generation(g), Set: e.Set, Next: next, Joined: next}}
	got, err := l.meta.ChangeSets(ctx, l.session, volume, change)
	for err != nil && !errors.Is(err, meta.ErrConflict) && !errors.Is(err, meta.ErrSessionExpired) && ctx.Err() == nil {
		// Perhaps it was carried out: only the same request again can tell.
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
		got, err = l.meta.ChangeSets(ctx, l.session, volume, change)
	}
	if err != nil {
		return 0, err
	}
	return extent.Generation(got[0]), nil
}

// Free implements access.Meta.
func (l leases) Free(ctx context.Context, volume uuid.UUID, from uint32) error {
	return l.meta.FreeExtents(ctx, l.session, volume, from)
}

// finishLeftovers ends what a former life had begun: deletions and shrinks.
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
		if err != nil {
			return fmt.Errorf("volume %s: %w", v, err)
		}
	}
	return nil
}

// Deleted implements admin.Agent.
func (a *agent) Deleted(ctx context.Context, v meta.Volume) error {
	if err := a.access.CloseVolume(ctx, v.ID); err != nil {
		return err
	}
	if err := a.access.Delete(ctx, v.ID); err != nil {
		return err
	}
	if err := a.meta.FinishDelete(ctx, v.ID); err != nil {
		return err
	}
	a.event(meta.Info, "volume-deleted", v.String(), "")
	return nil
}

// Shrunk implements admin.Agent.
func (a *agent) Shrunk(ctx context.Context, v meta.Volume) error {
	open, err := a.access.Open(ctx, access.Geometry{
		ID: v.ID, Name: v.Name, Size: v.Bytes, BlockSize: v.BlockBytes, Volatile: v.Durability == meta.Volatile, Losses: v.Losses,
	})
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
