package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/supervisor"
	"github.com/mooring-io/mooring/core/vfs"
)

// Info implements admin.Agent.
func (a *agent) Info(s *admin.Status) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s.Version, s.Node, s.Cluster, s.PID, s.Started = a.o.Version, a.node.Name, a.meta.Cluster().ID.String(), os.Getpid(), a.started
	s.DataDir, s.Engine, s.Uid = a.cfg.DataDir, a.queue.Engine(), os.Getuid()
	engine := "badger"
	if a.quorum != nil {
		engine = "etcd"
	}
	s.Meta = admin.MetaStatus{Engine: engine, Session: fmt.Sprint(a.session.ID()), Left: a.sessionLeft()}
}

// notes are what a user should know at start and that is no error.
func (a *agent) notes() []string {
	var out []string
	if os.Getuid() != 0 {
		out = append(out, "not root: plugins run as this user and are not isolated from the agent")
	}
	if a.queue.Engine() != "io_uring" {
		out = append(out, "the kernel does not allow io_uring here: the disk is driven by "+a.queue.Engine()+", which costs more CPU")
	}
	for _, s := range a.openedStores() {
		if !s.store.Stats().DataFileDirect {
			out = append(out, fmt.Sprintf("store %s: the file system at %s has no O_DIRECT; it works, through the page cache", s.name, s.path))
		}
	}
	return out
}

// Doctor implements admin.Agent.
func (a *agent) Doctor(ctx context.Context) []admin.Finding {
	var out []admin.Finding
	add := func(level, what, fix string) {
		out = append(out, admin.Finding{Level: level, What: what, Fix: fix})
	}
	for _, s := range a.openedStores() {
		u := s.store.Usage()
		switch err := s.store.Err(); {
		case err != nil:
			add("error", fmt.Sprintf("store %s has failed: %v", s.name, err), "look at the disk; the store is opened again at the agent's next start")
		case u.Free < u.Capacity/10:
			add("warn", fmt.Sprintf("store %s has %s left of %s", s.name, config.FormatSize(u.Free), config.FormatSize(u.Capacity)), "mooring store add NAME PATH, or discard what is not needed (fstrim at the hosts)")
		default:
			add("ok", fmt.Sprintf("store %s: %s left of %s", s.name, config.FormatSize(u.Free), config.FormatSize(u.Capacity)), "")
		}
		if _, err := os.Stat(s.path); err != nil {
			add("error", fmt.Sprintf("the folder of store %s is gone: %v", s.name, err), "while the agent runs it has the data: mooring store drain "+s.name+" saves it")
		}
		if st := s.store.Stats(); st.CorruptBlocks > 0 {
			add("error", fmt.Sprintf("store %s: %d blocks did not match their checksum", s.name, st.CorruptBlocks), "replace the disk; restore the volumes concerned from a backup")
		}
	}
	if known, _, err := a.storesAndVolumes(ctx); err == nil {
		if !slices.ContainsFunc(known, func(k meta.Store) bool { return k.State == meta.StoreActive }) {
			add("error", "no store is active: first writes to new extents are held, and hosts are told to try again", "mooring store undrain NAME, or mooring store add NAME PATH")
		}
		for _, k := range a.away(known) {
			add("error", fmt.Sprintf("store %s at %s is not open: %s; what lies on it alone is not served", k.Name, k.Path, k.Reason),
				"bring its disk back and restart the agent; if it is lost: delete the volumes concerned, then mooring store remove "+k.Name)
		}
	}
	out = append(out, a.doctorSpace()...)
	out = append(out, a.doctorVolumes(ctx)...)
	for _, p := range a.plugins.List() {
		switch {
		case p.State == supervisor.StateRefused || p.State == supervisor.StateWaiting:
			add("error", fmt.Sprintf("plugin %s is %s: %s", p.Entry.Name, p.State, p.Reason), "mooring plugin logs "+p.Entry.Name)
		case p.State == supervisor.StateRunning && !p.Healthy && p.HealthReason != "":
			add("warn", fmt.Sprintf("plugin %s: %s", p.Entry.Name, p.HealthReason), "mooring plugin logs "+p.Entry.Name)
		case p.State == supervisor.StateRunning:
			add("ok", "plugin "+p.Entry.Name+" runs", "")
		}
	}
	if a.MetaSilent(ctx) == 0 {
		out = append(out, a.doctorPolicies(ctx)...)
	}
	for _, l := range a.Listeners() {
		if l.Redirector {
			add(redirectorFinding(l))
		} else if l.State != "up" {
			add("error", fmt.Sprintf("not listening at %s: %s", l.URL, l.State), "")
		} else if up, why := a.addresses.Listener(l.URL); !up {
			add("error", fmt.Sprintf("%s cannot be reached: %s", l.URL, why), "")
		} else if !loopback(l.URL) {
			add("warn", l.URL+" is open to the network without authentication: whoever reaches it can use the volumes of every host name that he gives", "trusted networks only; a firewall, or an address that only hosts reach")
		}
	}
	for _, w := range a.clusterWarnings(ctx) {
		add("warn", w, "mooring cluster status")
	}
	if metaRestored(a.config()) {
		add("warn", "the metadata was restored from a backup: extents that it does not know are not served", "compare with mooring volume list; when all is well, remove "+restoredMark(a.config())+" and restart")
	}
	for _, n := range a.notes() {
		add("ok", n, "")
	}
	if n := a.sessionLeft(); n <= 0 {
		add("error", "the Meta session is over: nothing is served", "the node begins again by itself; if this stays, restart the agent")
	}
	if fi, err := os.Stat(a.config().Admin.Socket); err == nil && fi.Mode().Perm()&0o077 != 0 {
		add("warn", "the control socket is open to other users", "chmod 600 it")
	}
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) == nil && lim.Cur < 8192 {
		add("ok", fmt.Sprintf("at most %d files may be open; each connection takes one", lim.Cur), "raise it with ulimit -n, or LimitNOFILE in the unit")
	}
	return out
}

// doctorVolumes looks for what the volumes are promised and do not have: space, and replicas that are far enough from each other.
func (a *agent) doctorVolumes(ctx context.Context) (out []admin.Finding) {
	vols, err := a.meta.Volumes(ctx)
	if err != nil {
		return nil // what is wrong with the metadata is said elsewhere
	}
	stores, err := a.meta.Stores(ctx)
	if err != nil {
		return nil
	}
	var promised, capacity int64
	for _, s := range stores {
		if s.State != meta.StoreFailed {
			capacity += s.Capacity
		}
	}
	type kind struct {
		replicas int
		media    string
	}
	alike := map[kind][]string{}
	for _, v := range vols {
		if v.State != meta.VolumeActive {
			continue
		}
		promised += v.Bytes * int64(v.Replicas)
		k := kind{v.Replicas, v.Media}
		alike[k] = append(alike[k], v.String())
	}
	if promised > capacity && capacity > 0 {
		out = append(out, admin.Finding{
			Level: "warn", What: fmt.Sprintf("volumes of %s together, all replicas counted, are promised to hosts, and the stores can hold %s: thin volumes may fill the stores before they are full", config.FormatSize(promised), config.FormatSize(capacity)),
			Fix: "watch FREE in mooring store list; add stores in time, or set quotas: mooring tenant set",
		})
	}
	for _, k := range slices.SortedFunc(maps.Keys(alike), func(x, y kind) int {
		return cmp.Or(cmp.Compare(x.replicas, y.replicas), cmp.Compare(x.media, y.media))
	}) {
		s, err := a.meta.Spread(ctx, k.replicas, k.media)
		if err != nil {
			return out
		}
		if why := near(k.replicas, s); why != "" {
			out = append(out, admin.Finding{
				Level: "warn", What: fmt.Sprintf("%s: %d replicas are asked for, and %s", some(alike[k]), k.replicas, why),
				Fix: "more nodes, or active stores of their media class on others; or mooring volume set NAME -replicas",
			})
		}
	}
	return out
}

// near says why n replicas are not as far from each other as they should be, if they are not.
func near(n int, s meta.Spread) string {
	switch {
	case s.Nodes < n:
		return fmt.Sprintf("%d nodes have active stores for them", s.Nodes)
	case n > 1 && s.HasZones && s.Zones == 1:
		return "all are in one zone"
	case n > 1 && s.HasRacks && s.Racks == 1:
		return "all are in one rack"
	}
	return ""
}

func redirectorFinding(l admin.Access) (level, what, fix string) {
	what = "the redirector " + l.URL + ": "
	switch {
	case l.State == "up":
		return "ok", what + "this node has the address", ""
	case l.Other != "":
		return "ok", what + l.State, ""
	}
	return "error", what + l.State, ""
}

// some names the first of many.
func some(names []string) string {
	const few = 3
	if len(names) <= few {
		return "volume " + strings.Join(names, ", ")
	}
	return fmt.Sprintf("volume %s and %d others", strings.Join(names[:few], ", "), len(names)-few)
}

// lowSpace is how many bytes of free space in a file system are few for the metadata in it.
const lowSpace = 32 << 20

// doctorSpace looks at the file systems that metadata and stores are on.
func (a *agent) doctorSpace() (out []admin.Finding) {
	dirs := []string{metaDir(a.config())}
	for _, s := range a.openedStores() {
		dirs = append(dirs, s.path)
	}
	seen := map[uint64]bool{}
	for _, dir := range dirs {
		var st unix.Stat_t
		free, err := vfs.NewOS().Free(dir)
		if err != nil || unix.Stat(dir, &st) != nil || seen[st.Dev] || free >= lowSpace {
			continue
		}
		seen[st.Dev] = true
		out = append(out, admin.Finding{
			Level: "error", What: fmt.Sprintf("the file system of %s has %s left: new volumes and extents are refused there", dir, config.FormatSize(free)),
			Fix: "free space there; nothing has to be started again",
		})
	}
	return out
}

// sessionLeft is how long the Meta session holds unless it is kept alive.
func (a *agent) sessionLeft() time.Duration {
	return time.Duration(a.session.Deadline() - access.SystemClock().Boot())
}

// config is what is in force now; a reload replaces it.
func (a *agent) config() *config.Config {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cfg
}
