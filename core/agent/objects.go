package agent

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/sdk"
)

// applyObjects creates and updates what the configuration sets, or what -dev serves.
func (a *agent) applyObjects(ctx context.Context, _ *stack) error {
	if a.o.Dev {
		return a.createDev(ctx)
	}
	r, err := a.apply(ctx, a.cfg)
	if err != nil {
		return err
	}
	for _, f := range r.Refused {
		// Data that exists is worth more than a file: serve it as it is, and say so.
		a.log.Error("a block of the configuration is not applied", "block", f.String())
	}
	return nil
}

// createDev makes the demo objects unless they exist.
func (a *agent) createDev(ctx context.Context) error {
	v, err := a.meta.FindVolume(ctx, "", devVolume)
	if err != nil {
		if v, err = a.meta.CreateVolume(ctx, meta.Volume{Name: devVolume, Bytes: devBytes}); err != nil {
			return err
		}
		if _, err := a.meta.CreateSubsystem(ctx, meta.Subsystem{NQN: DevSubsystem, AllowAnyHost: true}); err != nil {
			return err
		}
		if _, err = a.meta.AttachNamespace(ctx, meta.Namespace{Subsystem: DevSubsystem, NSID: 1, Volume: v.ID}); err != nil {
			return err
		}
	}
	if _, err = a.meta.Target(ctx, DevTarget); !errors.Is(err, meta.ErrNotFound) {
		return err
	}
	if _, err := a.meta.CreateTarget(ctx, meta.Target{IQN: DevTarget, AllowAnyHost: true}); err != nil {
		return err
	}
	_, err = a.meta.AttachUnit(ctx, DevTarget, 0, v.ID, nil, nil)
	return err
}

func (a *agent) apply(ctx context.Context, c *config.Config) (meta.Report, error) {
	r, err := a.meta.ApplyManaged(ctx, desired(c))
	if err != nil {
		return r, err
	}
	for _, s := range r.Created {
		a.event(meta.Info, "created", s, "by "+c.File)
	}
	for _, s := range r.Updated {
		a.event(meta.Info, "updated", s, "by "+c.File)
	}
	return r, nil
}

func managed(p config.Pos) meta.Managed { return meta.Managed{File: p.File, Line: p.Line} }

// desired is the file's objects as Meta takes them.
func desired(c *config.Config) meta.Desired {
	var d meta.Desired
	for _, t := range c.Tenants {
		m := managed(t.Pos)
		d.Tenants = append(d.Tenants, meta.Tenant{Name: t.Name, Policy: t.Policy, QuotaBytes: t.Quota, QuotaVolumes: t.MaxVolumes, Managed: &m})
	}
	for _, h := range c.Hosts {
		m := managed(h.Pos)
		d.Hosts = append(d.Hosts, meta.Host{Name: h.Name, NQN: h.NQN, IQN: h.IQN, Managed: &m})
	}
	for _, v := range c.Volumes {
		d.Volumes = append(d.Volumes, meta.DesiredVolume{
			Name: v.Name, Tenant: v.Tenant, Bytes: v.Size, BlockBytes: v.BlockSize, Durability: meta.Durability(v.Durability), Group: v.Group, Replicas: v.Replicas, Media: v.Media, Managed: managed(v.Pos),
		})
	}
	for _, s := range c.Subsystems {
		out := meta.DesiredSubsystem{
			NQN: s.NQN, Tenant: s.Tenant, Serial: s.Serial, AllowAnyHost: s.AllowAnyHost, AllowedHosts: s.Hosts, Managed: managed(s.Pos),
		}
		for _, n := range s.Namespaces {
			out.Namespaces = append(out.Namespaces, meta.DesiredNamespace{NSID: meta.NSID(n.NSID), Volume: n.Volume, VisibleTo: n.VisibleTo, Managed: managed(n.Pos)})
		}
		d.Subsystems = append(d.Subsystems, out)
	}
	for _, t := range c.Targets {
		d.Subsystems = append(d.Subsystems, desiredTarget(t))
	}
	return d
}

func desiredTarget(t config.Target) meta.DesiredSubsystem {
	out := meta.DesiredSubsystem{
		NQN: t.IQN, Tenant: t.Tenant, AllowAnyHost: t.AllowAnyHost, AllowedHosts: t.Hosts, Managed: managed(t.Pos),
		Target: &meta.TargetOptions{Mode: meta.TargetMode(t.Mode)},
	}
	if c := t.CHAP; c != nil {
		out.Target.CHAP = &meta.CHAP{User: c.User, Mutual: c.MutualSecret != "", MutualUser: c.MutualUser}
		out.Secrets = meta.CHAPSecrets{Secret: []byte(c.Secret), Mutual: []byte(c.MutualSecret)}
	}
	for _, n := range t.LUNs {
		out.Namespaces = append(out.Namespaces, meta.DesiredNamespace{NSID: meta.LUN(n.LUN).NSID(), Volume: n.Volume, VisibleTo: n.VisibleTo, Managed: managed(n.Pos)})
	}
	return out
}

// Reload implements admin.Agent: it reads the file again and applies what can be
// applied while the node serves. A wrong file changes nothing.
func (a *agent) Reload(ctx context.Context) (admin.ReloadReport, error) {
	r := admin.ReloadReport{Applied: []string{}, NotApplied: []string{}, Unmanaged: []string{}}
	a.reloading.Lock()
	defer a.reloading.Unlock()
	a.mu.Lock()
	old := a.cfg
	a.mu.Unlock()
	if a.o.Dev {
		return r, fmt.Errorf("a node started with -dev has no configuration file to read again: %w", sdk.ErrInvalid)
	}
	c, err := config.Load(old.File)
	if err != nil {
		return r, err
	}
	if a.o.Socket != "" {
		c.Admin.Socket = a.o.Socket
	}
	report, err := a.apply(ctx, c)
	if err != nil {
		return r, err
	}
	r.Unchanged = report.Unchanged
	for _, s := range report.Created {
		r.Applied = append(r.Applied, s+" created")
	}
	for _, s := range report.Updated {
		r.Applied = append(r.Applied, s+" updated")
	}
	r.Unmanaged = append(r.Unmanaged, report.Unmanaged...)
	for _, f := range report.Refused {
		r.NotApplied = append(r.NotApplied, f.String())
	}
	a.reloadPlugins(ctx, old, c, &r)
	a.redirectors.set(c.Plugins)
	a.reloadRest(ctx, old, c, &r)
	a.mu.Lock()
	a.cfg = c
	a.mu.Unlock()
	// What was published while plugins changed was of the former file.
	if err := a.publishOnce(ctx); err != nil {
		r.NotApplied = append(r.NotApplied, fmt.Sprintf("hosts are not told of changed listeners yet: %v", err))
	}
	for _, s := range r.NotApplied {
		a.log.Warn("not applied by the reload", "what", s)
	}
	a.log.Info("configuration read again", "applied", len(r.Applied), "not_applied", len(r.NotApplied))
	return r, a.hosts.Sync(ctx)
}

// reloadRest says which settings wait for the next start, and opens new stores.
func (a *agent) reloadRest(ctx context.Context, old, c *config.Config, r *admin.ReloadReport) {
	for _, x := range []struct {
		name     string
		was, now any
	}{
		{"data_dir", old.DataDir, c.DataDir}, {"plugin_dir", old.PluginDir, c.PluginDir}, {"node", old.Node, c.Node}, {"cluster", old.Cluster, c.Cluster},
		{"admin", old.Admin, c.Admin}, {"limits", old.Limits, c.Limits}, {"log.json", old.Log.JSON, c.Log.JSON},
	} {
		if !reflect.DeepEqual(x.was, x.now) {
			r.NotApplied = append(r.NotApplied, x.name+" is taken over at the next start")
		}
	}
	// Until then they are what they were, and the next reload says so again.
	c.DataDir, c.PluginDir, c.Node, c.Cluster, c.Admin, c.Limits, c.Log.JSON = old.DataDir, old.PluginDir, old.Node, old.Cluster, old.Admin, old.Limits, old.Log.JSON
	if a.o.LogLevel != "" {
		c.Log.Level = old.Log.Level
	}
	if old.Log.Level != c.Log.Level {
		a.setLevel(c.Log.Level)
		r.Applied = append(r.Applied, "log.level is "+c.Log.Level)
	}
	a.reloadStores(ctx, old, c, r)
}

// reloadStores opens new stores. Those that are open stay as they are until the next start.
func (a *agent) reloadStores(ctx context.Context, old, c *config.Config, r *admin.ReloadReport) {
	for i := range c.Stores {
		s := &c.Stores[i]
		had, _, err := a.findStore(s.Name)
		switch {
		case err != nil:
			if err := a.openStore(ctx, *s); err != nil {
				r.NotApplied = append(r.NotApplied, fmt.Sprintf("%s: store %s: %v", s.Pos, s.Name, err))
			} else {
				r.Applied = append(r.Applied, "store "+s.Name+" opened")
			}
		case had.path != s.Path:
			r.NotApplied = append(r.NotApplied, fmt.Sprintf("%s: store %s is at %s; its path does not change", s.Pos, s.Name, had.path))
			s.Path = had.path
		}
		if o := slices.IndexFunc(old.Stores, func(o config.Store) bool { return o.Name == s.Name }); o >= 0 && err == nil {
			if was := old.Stores[o]; was.Capacity != s.Capacity || was.Media != s.Media {
				r.NotApplied = append(r.NotApplied, fmt.Sprintf("%s: capacity and media of store %s are taken over at the next start", s.Pos, s.Name))
				s.Capacity, s.Media = was.Capacity, was.Media
			}
		}
	}
	for _, o := range old.Stores {
		if !slices.ContainsFunc(c.Stores, func(s config.Store) bool { return s.Name == o.Name }) {
			r.Unmanaged = append(r.Unmanaged, "store "+o.Name)
		}
	}
}
