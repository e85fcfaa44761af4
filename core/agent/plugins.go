package agent

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/supervisor"
	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/proto"
)

// startPlugins runs the configured plugins. One that does not start is tried again
// by the supervisor; a node where nothing listens at all is not started.
func (a *agent) startPlugins(ctx context.Context, undo *stack) error {
	if a.o.Dev {
		if err := a.devPlugins(ctx); err != nil {
			return err
		}
	}
	var errs []error
	for _, p := range a.cfg.Plugins {
		if err := a.startPlugin(ctx, p); err != nil {
			a.log.Error("plugin does not start", "plugin", p.Name, "error", err)
			errs = append(errs, fmt.Errorf("plugin %s: %w", p.Name, err))
		}
	}
	undo.push(a.redirectors.close)
	a.redirectors.set(a.cfg.Plugins)
	if err := a.publishOnce(ctx); err != nil {
		return fmt.Errorf("publish the access points: %w", err)
	}
	life, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { a.publish(life) })
	wg.Go(func() { a.paths.Run(life) })
	undo.push(func() error { stop(); wg.Wait(); return nil })
	up := 0
	for _, l := range a.Listeners() {
		if l.Redirector {
			continue // who has it is decided later
		}
		if l.State == "up" {
			up++
		} else {
			errs = append(errs, fmt.Errorf("%s: %s%s", l.URL, l.State, listenHint(l.State)))
		}
	}
	if up == 0 && len(errs) > 0 {
		return errors.Join(errs...)
	}
	return nil
}

// listenHint says what to do about an address that a plugin could not take; the
// error is text by then.
func listenHint(state string) string {
	switch {
	case strings.Contains(state, unix.EADDRINUSE.Error()):
		return "; another program has the port (ss -ltnp names it): stop it, or listen at another one"
	case strings.Contains(state, unix.EADDRNOTAVAIL.Error()):
		return "; this machine has no such address (ip address lists those it has)"
	}
	return ""
}

// devPlugins finds a plugin for each -listen URL.
func (a *agent) devPlugins(ctx context.Context) error {
	for _, l := range a.o.Listen {
		u, err := url.Parse(l)
		if err != nil {
			return err
		}
		name, err := a.plugins.ForScheme(ctx, u.Scheme)
		if err != nil {
			return fmt.Errorf("-listen %s: %w (%w)", l, err, sdk.ErrInvalid)
		}
		i := slices.IndexFunc(a.cfg.Plugins, func(p config.Plugin) bool { return p.Name == name })
		if i < 0 {
			i = len(a.cfg.Plugins)
			a.cfg.Plugins = append(a.cfg.Plugins, config.Plugin{Name: name})
		}
		if !slices.Contains(a.cfg.Plugins[i].Listen, l) {
			a.cfg.Plugins[i].Listen = append(a.cfg.Plugins[i].Listen, l)
		}
	}
	return nil
}

// startAnew starts a plugin whose block is new. A policy may run already, without one.
func (a *agent) startAnew(ctx context.Context, p config.Plugin) error {
	if err := a.plugins.Stop(ctx, p.Name); err != nil && !errors.Is(err, supervisor.ErrUnknown) {
		return err
	}
	return a.startPlugin(ctx, p)
}

func (a *agent) startPlugin(ctx context.Context, p config.Plugin) error {
	return a.plugins.Start(ctx, supervisor.Spec{
		Name: p.Name, Config: p.Config, Where: p.Range, User: p.User, Threads: p.Threads, PoolBytes: p.PoolBytes,
		RingEntries: p.RingEntries, Listeners: a.listenersOf(p),
	})
}

// accessPoint names the access point of a listener; a URL keeps its name for life.
func (a *agent) accessPoint(listen string) string { return a.node.Name + "/" + listen }

// listenURLs are all addresses where a plugin listens.
func listenURLs(p config.Plugin) []string {
	if p.Redirector == nil {
		return p.Listen
	}
	return append(slices.Clone(p.Listen), p.Redirector.URL)
}

// listenersOf names a plugin's access points.
func (a *agent) listenersOf(p config.Plugin) []*proto.Listener {
	var out []*proto.Listener
	for _, l := range p.Listen {
		out = append(out, &proto.Listener{Url: l, AccessPointId: a.accessPoint(l)})
	}
	if r := p.Redirector; r != nil {
		out = append(out, &proto.Listener{Url: r.URL, AccessPointId: a.accessPoint(r.URL), Floating: true})
	}
	return out
}

// pluginChanged hears of every change of a plugin's state; it only notes it.
func (a *agent) pluginChanged(s supervisor.Status) {
	if s.State == supervisor.StateWaiting || s.State == supervisor.StateRefused {
		a.event(meta.Warning, "plugin-"+s.State.String(), s.Entry.Name, s.Reason)
	}
	if d := s.Description; s.State == supervisor.StateRunning && d.GetKind() == proto.Kind_KIND_POLICY {
		a.paths.Nudge()
	}
	if s.State == supervisor.StateRunning && s.Restarts > 0 {
		a.event(meta.Info, "plugin-running", s.Entry.Name, fmt.Sprintf("pid %d, restart %d", s.PID, s.Restarts))
	}
	a.listenersChanged()
}

// listenersChanged has the node's access points published anew.
func (a *agent) listenersChanged() {
	select {
	case a.republish <- struct{}{}:
	default:
	}
}

// Listeners implements admin.Agent.
func (a *agent) Listeners() []admin.Access {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := []admin.Access{}
	for _, p := range a.cfg.Plugins {
		st, err := a.plugins.Status(p.Name)
		for _, l := range listenURLs(p) {
			x := admin.Access{ID: a.accessPoint(l), Plugin: p.Name, URL: l, Redirector: p.Redirector != nil && p.Redirector.URL == l, State: "plugin " + st.State.String()}
			if err != nil {
				x.State = err.Error()
			}
			for _, s := range st.Listeners {
				if s.AccessPointId != x.ID || st.State != supervisor.StateRunning {
					continue
				}
				if s.Error != "" {
					x.State = s.Error
				} else {
					x.State, x.URL = "up", s.Url
				}
				if x.Redirector && x.State == "up" {
					x.State, x.Other = a.redirectors.state(p.Name)
				}
			}
			out = append(out, x)
		}
	}
	return out
}

// publish tells Meta this node's access points, again whenever a plugin or an
// address changes. It ends with ctx.
func (a *agent) publish(ctx context.Context) {
	for {
		select {
		case <-a.republish:
		case <-a.addresses.Changes():
		case <-ctx.Done():
			return
		}
		if err := a.publishOnce(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("access points could not be published", "error", err)
		}
	}
}

// publishOnce is serialized, so that the last one says how it is.
func (a *agent) publishOnce(ctx context.Context) error {
	a.publishing.Lock()
	defer a.publishing.Unlock()
	var points []meta.AccessPoint
	for _, l := range a.Listeners() {
		p := meta.AccessPoint{ID: l.ID, URL: l.URL, Up: l.State == "up", Redirector: l.Redirector}
		if !p.Up {
			p.Reason = l.State
		} else {
			p.Up, p.Reason = a.addresses.Listener(l.URL)
		}
		points = append(points, p)
	}
	_, err := a.meta.PublishAccessPoints(ctx, a.session, points)
	return err
}

// reloadPlugins applies changed plugin blocks.
func (a *agent) reloadPlugins(ctx context.Context, old, c *config.Config, r *admin.ReloadReport) {
	for n := range c.Plugins {
		p := &c.Plugins[n]
		i := slices.IndexFunc(old.Plugins, func(o config.Plugin) bool { return o.Name == p.Name })
		// One that could not be started before, or died, is tried again.
		st, err := a.plugins.Status(p.Name)
		if i < 0 || err != nil || st.State != supervisor.StateRunning {
			if err := a.startAnew(ctx, *p); err != nil {
				r.NotApplied = append(r.NotApplied, fmt.Sprintf("%s: plugin %s: %v", p.Pos, p.Name, err))
			} else {
				r.Applied = append(r.Applied, "plugin "+p.Name+" started")
				if st, err := a.plugins.Status(p.Name); err == nil {
					notListening(p, st.Listeners, nil, r)
				}
			}
			continue
		}
		a.reloadPlugin(ctx, old.Plugins[i], p, st, r)
	}
	for _, o := range old.Plugins {
		if slices.ContainsFunc(c.Plugins, func(p config.Plugin) bool { return p.Name == o.Name }) {
			continue
		}
		if err := a.plugins.Stop(ctx, o.Name); err != nil {
			r.NotApplied = append(r.NotApplied, fmt.Sprintf("plugin %s: %v", o.Name, err))
		} else {
			r.Applied = append(r.Applied, "plugin "+o.Name+" stopped")
		}
	}
}

// notListening reports the listeners of a plugin that are not up, besides err, and whether there is anything to report.
func notListening(p *config.Plugin, states []*proto.ListenerState, err error, r *admin.ReloadReport) bool {
	for _, s := range states {
		if s.Error != "" {
			err = errors.Join(err, errors.New(s.Error+listenHint(s.Error)))
		}
	}
	if err != nil {
		r.NotApplied = append(r.NotApplied, fmt.Sprintf("%s: plugin %s: %v", p.Pos, p.Name, err))
	}
	return err != nil
}

// reloadPlugin changes a running plugin to what p says, and p to what runs where that has to wait.
func (a *agent) reloadPlugin(ctx context.Context, old config.Plugin, p *config.Plugin, st supervisor.Status, r *admin.ReloadReport) {
	if !reflect.DeepEqual(old.Redirector, p.Redirector) {
		r.Applied = append(r.Applied, "redirector of plugin "+p.Name)
	}
	if !a.listensAt(st, listenURLs(*p)) {
		states, err := a.plugins.SetListeners(ctx, p.Name, a.listenersOf(*p))
		if !notListening(p, states, err, r) {
			r.Applied = append(r.Applied, "plugin "+p.Name+" listens as the file says")
		}
	}
	if old.Threads != p.Threads || old.PoolBytes != p.PoolBytes || old.RingEntries != p.RingEntries || old.User != p.User {
		r.NotApplied = append(r.NotApplied, fmt.Sprintf("%s: threads, pool, ring_entries and user of plugin %s are taken over at the agent's next start", p.Pos, p.Name))
		p.Threads, p.PoolBytes, p.RingEntries, p.User = old.Threads, old.PoolBytes, old.RingEntries, old.User
	}
	changed, restart, err := a.plugins.Reconfigure(ctx, p.Name, p.Config, p.Range)
	a.paths.Nudge() // it may be a policy
	switch {
	case err != nil:
		r.NotApplied = append(r.NotApplied, fmt.Sprintf("%s: plugin %s: %v", p.Pos, p.Name, err))
	case restart:
		r.NotApplied = append(r.NotApplied, fmt.Sprintf("%s: the config of plugin %s is taken over by: mooring plugin restart %s", p.Pos, p.Name, p.Name))
	case changed:
		r.Applied = append(r.Applied, "config of plugin "+p.Name)
	}
}

// listensAt says whether a plugin listens at exactly these URLs, each of them with success.
func (a *agent) listensAt(st supervisor.Status, urls []string) bool {
	return len(st.Listeners) == len(urls) && !slices.ContainsFunc(st.Listeners, func(s *proto.ListenerState) bool {
		return s.Error != "" || !slices.ContainsFunc(urls, func(u string) bool { return s.AccessPointId == a.accessPoint(u) })
	})
}
