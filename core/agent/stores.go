package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/vfs"
)

// openStore is an extent store that this node has open.
type openStore struct {
	name  string
	path  string
	media string
	life  uint64 // Meta's incarnation
	store *extent.Store
	drain *admin.StoreDrain // guarded by agent.mu; nil: it is not draining
}

// openStores opens the configured stores and those that were added by hand.
func (a *agent) openStores(ctx context.Context, undo *stack) error {
	undo.push(a.closeStores)
	list := slices.Clone(a.cfg.Stores)
	known, err := a.meta.Stores(ctx)
	if err != nil {
		return err
	}
	for _, s := range known {
		if s.Node == a.node.ID && s.Path != "" && !slices.ContainsFunc(list, func(c config.Store) bool { return c.Name == s.Name }) {
			list = append(list, config.Store{Name: s.Name, Path: s.Path, Media: s.Media})
		}
	}
	reasons := map[string]error{} // by name
	for _, c := range list {
		err := a.openKnown(ctx, c, metaRestored(a.cfg) || slices.ContainsFunc(known, func(k meta.Store) bool { return k.Node == a.node.ID && k.Name == c.Name && k.Path == c.Path }))
		if errors.Is(err, errStoreAway) {
			reasons[c.Name] = err
			continue
		}
		if errors.Is(err, extent.ErrCorrupt) {
			return fmt.Errorf("store %s: %w; look at it with: mooring check -store %s (and -rebuild-meta if its index is lost)", c.Name, err, c.Path)
		}
		if err != nil {
			return fmt.Errorf("store %s: %w", c.Name, err)
		}
	}
	if metaRestored(a.cfg) && (len(reasons) > 0 || len(a.away(known)) > 0) {
		if err := a.access.Incomplete(ctx); err != nil {
			return err
		}
	}
	return a.missStores(ctx, known, reasons)
}

// errStoreAway says that a store cannot be reached, and that the node does without it.
var errStoreAway = errors.New("not there")

// openKnown opens a store; one that had a life already is not made anew where its folder was, and the node comes up without it
// when its medium is not there or does not answer.
func (a *agent) openKnown(ctx context.Context, c config.Store, known bool) error {
	if !known {
		return a.openStore(ctx, c)
	}
	if _, err := os.Stat(c.Path); err != nil {
		return fmt.Errorf("%w: %w", errStoreAway, err)
	}
	err := a.openStore(ctx, c)
	if errors.Is(err, syscall.EIO) || errors.Is(err, extent.ErrNoSpace) {
		return fmt.Errorf("%w: %w", errStoreAway, err)
	}
	return err
}

// missStores takes the stores of this node out of placement that are not there any
// more, such as those of a disk that was formatted anew.
func (a *agent) missStores(ctx context.Context, known []meta.Store, reasons map[string]error) error {
	for _, k := range known {
		here := slices.ContainsFunc(a.openedStores(), func(o *openStore) bool {
			id, _ := o.store.Identity()
			return id == k.ID
		})
		if k.Node != a.node.ID || here {
			continue
		}
		reason := "another store is at its path"
		if err := reasons[k.Name]; err != nil {
			reason = err.Error()
		}
		a.log.Error("a store that this node had is not here; what lies on it alone cannot be served", "store", k.Name, "id", k.ID, "path", k.Path, "error", reason)
		a.event(meta.Warning, "store-missing", k.Name, reason)
		if err := a.meta.SetStoreState(ctx, k.ID, meta.StoreFailed, reason); err != nil {
			return err
		}
	}
	return nil
}

func (a *agent) openStore(ctx context.Context, c config.Store) error {
	s, err := extent.Open(ctx, extent.Options{
		FS: vfs.NewOS(), Queue: a.queue, Dir: c.Path, ClusterID: a.meta.Cluster().ID, ExtentSize: a.meta.Cluster().ExtentBytes,
		Capacity: c.Capacity, Logger: a.log.Named("store").With("store", c.Name),
	})
	if err != nil {
		return err
	}
	id, life := s.Identity()
	st, lost, err := a.meta.StartStore(ctx, a.session, meta.StoreStart{
		ID: id, Incarnation: life, Name: c.Name, Path: c.Path, Media: c.Media, Capacity: s.Usage().Capacity, BootID: bootID(),
	})
	if err == nil {
		err = a.access.AddStore(ctx, s)
	}
	if err == nil {
		err = a.lend(ctx, s)
	}
	if err != nil {
		a.log.Error("a store is not taken", "store", c.Name, "path", c.Path, "error", err)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		defer cancel()
		return errors.Join(err, a.access.Dismiss(ctx, s))
	}
	for _, v := range lost {
		a.log.Warn("the machine lost power: unflushed writes of a volatile volume may be lost; the next flush of each host fails", "volume", v.String())
		a.event(meta.Warning, "writes-lost", v.String(), "the machine lost power; unflushed writes may be lost")
	}
	a.mu.Lock()
	a.stores = append(a.stores, &openStore{name: c.Name, path: c.Path, media: c.Media, life: st.Incarnation, store: s})
	a.mu.Unlock()
	if !s.Stats().DataFileDirect {
		a.log.Info("the file system has no O_DIRECT; the page cache is used", "store", c.Name, "path", c.Path)
	}
	return nil
}

func (a *agent) closeStores() error {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	a.mu.Lock()
	stores := a.stores
	a.stores, a.ending = nil, slices.Clone(stores)
	a.mu.Unlock()
	errs := make([]error, len(stores))
	var all sync.WaitGroup
	for i, s := range stores {
		all.Go(func() {
			id, _ := s.store.Identity()
			err := s.store.Close(ctx)
			if err != nil {
				err = fmt.Errorf("store %s was abandoned: %w", s.name, err)
			} else {
				err = a.toldMeta("the orderly end of store "+s.name, func(ctx context.Context) error { return a.meta.StopStore(ctx, id, s.life) })
			}
			errs[i] = err
			a.mu.Lock()
			a.ending = slices.DeleteFunc(a.ending, func(o *openStore) bool { return o == s })
			a.mu.Unlock()
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// bootID names this boot of the machine: what was not flushed before another one is gone.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

func (a *agent) openedStores() []*openStore {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.stores)
}

// used is how many bytes each volume has on this node's disks.
func (a *agent) used() map[uuid.UUID]int64 {
	out := map[uuid.UUID]int64{}
	for _, s := range a.openedStores() {
		for v, n := range s.store.Usage().Volumes {
			out[v] += n
		}
	}
	return out
}

// Stores implements admin.Agent.
func (a *agent) Stores(ctx context.Context) ([]admin.Store, error) {
	known, vols, err := a.storesAndVolumes(ctx)
	if err != nil {
		return nil, err
	}
	var promised int64
	for _, v := range vols {
		promised += v.Bytes
	}
	out := []admin.Store{}
	for _, s := range a.openedStores() {
		id, life := s.store.Identity()
		u := s.store.Usage()
		o := admin.Store{
			Name: s.name, ID: id.String(), Path: s.path, Media: s.media, State: "active", Incarnation: life,
			Capacity: u.Capacity, Allocated: u.Allocated, Used: u.Used, Free: u.Free, Promised: promised, Extents: u.Extents,
			Direct: s.store.Stats().DataFileDirect,
		}
		for _, k := range known {
			if k.ID == id {
				o.State = string(k.State)
			}
		}
		a.mu.Lock()
		if o.State == string(meta.StoreDraining) && s.drain != nil {
			d := *s.drain
			o.Drain = &d
		}
		a.mu.Unlock()
		if err := s.store.Err(); err != nil {
			o.State = "failed: " + err.Error()
		}
		out = append(out, o)
	}
	for _, k := range a.away(known) {
		out = append(out, admin.Store{
			Name: k.Name, ID: k.ID.String(), Path: k.Path, Media: k.Media, State: "failed: " + k.Reason, Incarnation: k.Incarnation, Capacity: k.Capacity,
		})
	}
	return out, nil
}

// away are the stores of this node, of those that Meta knows, that are not open.
func (a *agent) away(known []meta.Store) []meta.Store {
	open := map[uuid.UUID]bool{}
	for _, s := range a.openedStores() {
		id, _ := s.store.Identity()
		open[id] = true
	}
	return slices.DeleteFunc(slices.Clone(known), func(k meta.Store) bool { return k.Node != a.node.ID || open[k.ID] })
}

func (a *agent) findStore(name string) (*openStore, uuid.UUID, error) {
	for _, s := range a.openedStores() {
		if s.name == name {
			id, _ := s.store.Identity()
			return s, id, nil
		}
	}
	return nil, uuid.Nil, fmt.Errorf("store %s: %w", name, meta.ErrNotFound)
}

// AddStore implements admin.Agent.
func (a *agent) AddStore(ctx context.Context, in admin.StoreAdd) (admin.Store, error) {
	switch {
	case !config.ValidName(in.Name):
		return admin.Store{}, &meta.InvalidError{Field: "name", Want: fmt.Sprintf("1 to 63 letters, digits, '.', '_' or '-'; it is %q", in.Name)}
	case !filepath.IsAbs(in.Path):
		return admin.Store{}, &meta.InvalidError{Field: "path", Want: fmt.Sprintf("an absolute path; it is %q", in.Path)}
	case in.Capacity != 0 && in.Capacity < config.MinStoreBytes:
		return admin.Store{}, &meta.InvalidError{Field: "capacity", Want: fmt.Sprintf("at least %s; it is %s", config.FormatSize(config.MinStoreBytes), config.FormatSize(in.Capacity))}
	case !slices.Contains([]string{"", "nvme", "ssd", "hdd"}, in.Media):
		return admin.Store{}, &meta.InvalidError{Field: "media", Want: fmt.Sprintf("nvme, ssd or hdd; it is %q", in.Media)}
	}
	if in.Media == "" {
		in.Media = "ssd"
	}
	s, _, err := a.findStore(in.Name)
	switch {
	case err == nil && s.path != in.Path:
		return admin.Store{}, fmt.Errorf("store %s at %s: %w", in.Name, s.path, meta.ErrExists)
	case err == nil && s.media != in.Media:
		return admin.Store{}, fmt.Errorf("store %s with media class %s: %w", in.Name, s.media, meta.ErrExists)
	case err != nil:
		if err := a.storeFolder(in.Path); err != nil {
			return admin.Store{}, err
		}
		if err := a.openStore(ctx, config.Store{Name: in.Name, Path: in.Path, Capacity: in.Capacity, Media: in.Media}); err != nil {
			return admin.Store{}, err
		}
		a.event(meta.Info, "store-added", in.Name, in.Path)
	}
	all, err := a.Stores(ctx)
	if i := slices.IndexFunc(all, func(s admin.Store) bool { return s.Name == in.Name }); i >= 0 {
		return all[i], nil
	}
	return admin.Store{}, err
}

// storeFolder says why a folder cannot become a store's, if it cannot.
func (a *agent) storeFolder(path string) error {
	path = filepath.Clean(path)
	for _, s := range a.openedStores() {
		switch {
		case filepath.Clean(s.path) == path:
			return fmt.Errorf("store %s at that path: %w", s.name, meta.ErrExists)
		case within(path, s.path), within(s.path, path):
			return &meta.InvalidError{Field: "path", Want: fmt.Sprintf("a folder of its own; store %s is at %s", s.name, s.path)}
		}
	}
	if within(a.cfg.DataDir, path) {
		return &meta.InvalidError{Field: "path", Want: fmt.Sprintf("a folder of its own; the metadata is in %s", a.cfg.DataDir)}
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return &meta.InvalidError{Field: "path", Want: fmt.Sprintf("a folder that is there or can be made: %v", err)}
	}
	return nil
}

// within says whether a path is a folder or lies in it.
func within(path, folder string) bool {
	rel, err := filepath.Rel(folder, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// DrainStore implements admin.Agent.
func (a *agent) DrainStore(ctx context.Context, name string) error {
	_, id, err := a.findStore(name)
	if err != nil {
		return err
	}
	if err := a.meta.SetStoreState(ctx, id, meta.StoreDraining, "drained by the operator"); err != nil {
		return err
	}
	a.event(meta.Info, "store-draining", name, "it gets no new extents, and those that it has are moved to other stores")
	return nil
}

// UndrainStore implements admin.Agent. The extents that were moved already stay where they are.
func (a *agent) UndrainStore(ctx context.Context, name string) error {
	s, id, err := a.findStore(name)
	if err != nil {
		return err
	}
	if err := s.store.Err(); err != nil {
		return fmt.Errorf("store %s: %w: %w", name, meta.ErrConflict, err)
	}
	if err := a.meta.SetStoreState(ctx, id, meta.StoreActive, ""); err != nil {
		return err
	}
	a.event(meta.Info, "store-undrained", name, "it takes new extents again")
	return nil
}

// RemoveStore implements admin.Agent. A store that holds extents stays.
func (a *agent) RemoveStore(ctx context.Context, name string) error {
	s, id, err := a.findStore(name)
	if errors.Is(err, meta.ErrNotFound) {
		return a.removeAway(ctx, name, err)
	}
	if err != nil {
		return err
	}
	a.mu.Lock()
	i := slices.IndexFunc(a.cfg.Stores, func(c config.Store) bool { return c.Name == name })
	var by *meta.Managed
	if i >= 0 && a.cfg.Stores[i].Line > 0 {
		by = &meta.Managed{File: a.cfg.Stores[i].File, Line: a.cfg.Stores[i].Line}
	}
	a.mu.Unlock()
	if by != nil {
		return &meta.ManagedError{What: "store " + name, Managed: *by}
	}
	u := s.store.Usage()
	if u.Extents > 0 {
		return &meta.InUseError{What: "store " + name, Users: []string{fmt.Sprintf("%d extents; empty it with: mooring store drain %s", u.Extents, name)}}
	}
	if err := a.unlend(ctx, s.store); err != nil {
		return err
	}
	if err := a.meta.RemoveStore(ctx, id); err != nil {
		return err
	}
	// The reactor drives a store to its end, so it is closed before the reactor forgets it.
	if err := s.store.Close(ctx); err != nil {
		return err
	}
	if err := a.access.RemoveStore(ctx, s.store); err != nil {
		return err
	}
	a.mu.Lock()
	a.stores = slices.DeleteFunc(a.stores, func(o *openStore) bool { return o == s })
	a.mu.Unlock()
	a.event(meta.Info, "store-removed", name, "")
	return nil
}

// removeAway forgets a store that is not open, by its name, or by its ID if another has its name.
func (a *agent) removeAway(ctx context.Context, name string, otherwise error) error {
	known, err := a.meta.Stores(ctx)
	if err != nil {
		return err
	}
	for _, k := range a.away(known) {
		if k.Name == name || k.ID.String() == name {
			if err := a.meta.RemoveStore(ctx, k.ID); err != nil {
				return err
			}
			a.event(meta.Info, "store-removed", k.Name, "it was not there")
			return nil
		}
	}
	return otherwise
}
