// Package agent wires a node: it starts Meta, the stores, the reactor, the plugins
// and the admin API in that order, applies the configuration, and stops them in the
// reverse order. It decides nothing that another package could.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/association"
	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/meta/store"
	"github.com/mooring-io/mooring/core/path"
	"github.com/mooring-io/mooring/core/peer"
	"github.com/mooring-io/mooring/core/supervisor"
	"github.com/mooring-io/mooring/core/vfs"
)

// stopTimeout bounds an orderly end: plugins finish, stores checkpoint, these within storeTimeout.
const (
	stopTimeout  = 45 * time.Second
	storeTimeout = 30 * time.Second
)

// Options are what the command line says.
type Options struct {
	Config   *config.Config // nil with Dev
	Dev      bool
	DataDir  string   // with Dev: keep the data here; "" is a temporary folder
	Listen   []string // with Dev: URLs; none is DevListen and DevListenISCSI
	LogLevel string   // overrides the file's
	// Witness runs a node that only votes in the cluster's etcd.
	Witness bool
	// TrustPlugins takes changed plugins of the plugin directory into the catalog.
	TrustPlugins bool
	Socket       string // overrides the file's control socket
	Version      string
	Stdout       io.Writer // what to type next, and "mooring: ready"
	Stderr       io.Writer // the log
}

// agent is a running node. Fields are set while it starts, in this order, and not
// changed afterwards, but for those under mu.
type agent struct {
	o       Options
	log     hclog.Logger
	started time.Time
	temp    string         // to be removed at the end
	hup     chan os.Signal // capacity 1: SIGHUP asks for a reload, also while the node starts
	id      meta.Identity

	quorum *quorumLink // nil: a node of its own

	meta    *meta.Meta
	node    meta.Node
	journal *meta.Journal
	session *meta.Session
	queue   vfs.Queue
	reactor *access.Reactor
	access  *access.Access
	links   *peer.Links                         // to and from the stores of other nodes; nil: a node of its own
	known   members                             // of the cluster
	silent  func(context.Context) time.Duration // for how long etcd has not answered; nil: the metadata is this node's own
	seen    sight
	paths   *path.Engine
	hosts   *association.Service
	guards  *association.Guards
	plugins *supervisor.Supervisor
	server  *admin.Server
	metrics string // address that Prometheus can ask; "" is none

	addresses *path.Addresses
	republish chan struct{} // capacity 1: a listener's state changed

	redirectors *redirectors

	background sync.WaitGroup
	failed     chan error // something that the node cannot live without has ended

	reloading  sync.Mutex // one reload at a time
	publishing sync.Mutex // one report of access points to Meta at a time

	mu     sync.Mutex
	cfg    *config.Config // guarded by mu: a reload replaces it
	stores []*openStore   // guarded by mu
	ending []*openStore   // guarded by mu: being closed
}

// Run runs a node until ctx ends, or until it cannot go on.
func Run(ctx context.Context, o Options) error {
	a, err := newAgent(o)
	if err != nil {
		return err
	}
	return a.run(ctx)
}

func newAgent(o Options) (*agent, error) {
	a := &agent{o: o, started: time.Now(), hup: make(chan os.Signal, 1), republish: make(chan struct{}, 1), cfg: o.Config}
	if o.Dev {
		if err := a.devConfig(); err != nil {
			return nil, err
		}
	}
	if o.Socket != "" {
		a.cfg.Admin.Socket = o.Socket
	}
	if o.LogLevel != "" {
		a.cfg.Log.Level = o.LogLevel
	}
	a.log = hclog.New(&hclog.LoggerOptions{
		Name: "mooring", Level: hclog.LevelFromString(a.cfg.Log.Level), JSONFormat: a.cfg.Log.JSON, Output: o.Stderr, IncludeLocation: false,
	})
	return a, nil
}

// errSessionLost ends a life of the node whose leases are void.
var errSessionLost = errors.New("the Meta session was lost: the node stood still for longer than limits.session_ttl")

// metaAgain is how long a node that starts waits before it asks for its metadata again.
const metaAgain = time.Second

// run lives one life after the other: a node that lost its Meta session ends
// everything in order and begins again with a new one, as after a crash. So does one
// whose metadata is out of reach while it starts. The node's etcd member outlives both.
func (a *agent) run(ctx context.Context) (err error) {
	if a.temp != "" {
		defer func() { err = errors.Join(err, os.RemoveAll(a.temp)) }()
	}
	signal.Notify(a.hup, syscall.SIGHUP)
	defer signal.Stop(a.hup)
	var outer stack
	defer func() { err = errors.Join(err, outer.run()) }()
	if err := a.takeDataDir(&outer); err != nil {
		return fmt.Errorf("take the data directory: %w", err)
	}
	if err := a.linkQuorum(ctx, &outer); err != nil {
		return fmt.Errorf("join the cluster's etcd: %w", err)
	}
	if a.o.Witness {
		return a.witness(ctx)
	}
	for {
		var undo stack
		err := a.live(ctx, &undo)
		ended := a.end(undo, stopTimeout)
		switch {
		case ctx.Err() != nil && errors.Is(err, ctx.Err()):
			return ended // it was told to stop while it started
		case ended != nil || ctx.Err() != nil:
			return errors.Join(err, ended)
		case errors.Is(err, errSessionLost), errors.Is(err, meta.ErrSessionExpired): // the one while it served, the other while it started
			a.log.Warn("the node begins again, with a new Meta session")
		case errors.Is(err, store.ErrUnavailable) && a.quorum != nil:
			a.log.Warn("the cluster's metadata is out of reach; the node waits for it", "error", err)
			if !a.waitAgain(ctx) {
				return nil
			}
		default:
			return err
		}
	}
}

// waitAgain waits before the next attempt to start, and says whether to make it. The
// service manager is told that the start goes on.
func (a *agent) waitAgain(ctx context.Context) bool {
	_, _ = daemon.SdNotify(false, "EXTEND_TIMEOUT_USEC=60000000") // nothing to do without systemd
	select {
	case <-time.After(metaAgain):
		return true
	case <-ctx.Done():
		return false
	}
}

// end undoes everything, or gives up when timeout has passed: the process ends then, as in a crash.
func (a *agent) end(undo stack, timeout time.Duration) error {
	ended := make(chan error, 1)
	go func() { ended <- undo.run() }() // outlives the agent only as long as the process
	select {
	case err := <-ended:
		return err
	case <-time.After(timeout):
	}
	what := "the node"
	a.mu.Lock()
	for _, s := range a.ending {
		what += ", store " + s.name + " at " + s.path
	}
	a.mu.Unlock()
	return fmt.Errorf("not ended in order within %v, and abandoned: %s", timeout, what)
}

// live is one life, from start until something ends it.
func (a *agent) live(ctx context.Context, undo *stack) error {
	a.failed = make(chan error, 4) // of this life alone: those of a former one have been joined
	if err := a.start(ctx, undo); err != nil {
		return err
	}
	a.ready()
	return a.wait(ctx)
}

// stack is what is to be undone, last first.
type stack []func() error

func (s *stack) push(fn func() error) { *s = append(*s, fn) }

func (s stack) run() error {
	var errs []error
	for i := len(s) - 1; i >= 0; i-- {
		errs = append(errs, s[i]())
	}
	return errors.Join(errs...)
}

// start brings everything up, in the order of the arrows; what is up when it fails
// is on the stack.
func (a *agent) start(ctx context.Context, undo *stack) error {
	for _, step := range []struct {
		what string
		fn   func(context.Context, *stack) error
	}{
		{"remove what a former life left on the network", a.removeRedirectors},
		{"open the metadata", a.openMeta},
		{"start the reactor", a.startReactor},
		{"make the links to other nodes", a.startLinks},
		{"open the stores", a.openStores},
		{"reach the stores of other nodes", a.startPeers},
		{"finish what was left", a.finishLeftovers},
		{"apply the configuration", a.applyObjects},
		{"start the services", a.startServices},
		{"listen for other nodes", a.startDoor},
		{"start the admin API", a.startAdmin},
		{"start the plugins", a.startPlugins},
	} {
		if err := step.fn(ctx, undo); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// takeDataDir makes the data directory this process's own.
func (a *agent) takeDataDir(undo *stack) error {
	f, err := lockDataDir(a.cfg.DataDir)
	if err != nil {
		return err
	}
	undo.push(f.Close)
	return nil
}

// lockDataDir makes a data directory this process's own until the file is closed.
func lockDataDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another agent uses %s; stop it first, or name another data directory", dir)
	}
	return f, nil
}

func (a *agent) startReactor(_ context.Context, undo *stack) error {
	var err error
	if a.queue, err = vfs.NewQueue(vfs.QueueOptions{}); err != nil {
		return fmt.Errorf("the disk queue: %w", err)
	}
	a.reactor = access.NewReactor(a.queue, access.SystemClock())
	a.guards = &association.Guards{Meta: a.meta}
	a.access = access.New(access.Options{
		Reactor: a.reactor, Meta: newLeases(a.meta, a.session), ExtentBytes: a.meta.Cluster().ExtentBytes, HoldFor: a.cfg.Limits.HoldFor,
		Incarnation: uint64(time.Now().UnixMilli()), MetaRestored: metaRestored(a.cfg), LossTold: a.lossTold, Enforce: a.guards.Enforce, Logger: a.log,
		Heal: &access.Heal{Rate: a.cfg.Limits.ResyncRate, LostAfter: a.cfg.Limits.LostAfter, Told: a.healing},
	})
	// A reactor that waits holds a processor of the scheduler's for some microseconds:
	// with one for all, everything else would stand still meanwhile.
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), 2))
	a.background.Go(func() {
		if err := a.reactor.Run(); err != nil {
			a.fail(fmt.Errorf("the reactor ended: %w", err))
		}
	})
	undo.push(func() error {
		a.access.Close()
		a.reactor.Stop()
		a.background.Wait()
		return a.queue.Close()
	})
	return nil
}

func (a *agent) startServices(ctx context.Context, undo *stack) error {
	var err error
	if a.addresses, err = path.WatchAddresses(a.log.Named("path")); err != nil {
		return err
	}
	undo.push(func() error { a.addresses.Close(); return nil })
	a.paths = path.NewEngine(path.Options{Meta: a.meta, Node: a.node.ID, Policy: a.policy, Logger: a.log.Named("path")})
	a.hosts = association.New(association.Options{
		Meta: a.meta, Session: a.session, Node: a.node, Paths: a.paths, Access: a.access, Used: a.used, Journal: a.journal, Guards: a.guards, Logger: a.log,
	})
	undo.push(func() error { a.hosts.Close(); return nil })
	a.plugins, err = supervisor.New(supervisor.Options{
		Logger: a.log, DataDir: a.cfg.DataDir, PluginDir: a.cfg.PluginDir, Host: a.hosts, OnChange: a.pluginChanged,
		TrustBuiltIn: a.o.Dev || a.o.TrustPlugins,
	})
	if err != nil {
		return err
	}
	undo.push(a.plugins.Close)
	a.redirectors = newRedirectors(a)
	draining, stop := context.WithCancel(context.Background())
	var drainer sync.WaitGroup
	drainer.Go(func() { a.drainer(draining) })
	if a.quorum != nil {
		drainer.Go(func() { a.evacuator(draining) })
		drainer.Go(func() { a.care(draining) })
	}
	undo.push(func() error { stop(); drainer.Wait(); return nil })
	return nil
}

func (a *agent) startAdmin(_ context.Context, undo *stack) error {
	a.server = &admin.Server{
		Agent: a, Meta: a.meta, Access: a.access, Hosts: a.hosts, Paths: a.paths, Supervisor: a.plugins, Logger: a.log.Named("admin"),
	}
	l, err := admin.Listen(a.cfg.Admin.Socket)
	if err != nil {
		return err
	}
	a.serve(l, a.server.Handler(), undo)
	if a.cfg.Admin.Metrics == "" {
		return nil
	}
	m, err := net.Listen("tcp", a.cfg.Admin.Metrics)
	if err != nil {
		return fmt.Errorf("the metrics address: %w; name another one in admin.metrics, or \"off\"", err)
	}
	a.metrics = m.Addr().String()
	a.serve(m, a.server.Metrics(), undo)
	return nil
}

// serve runs an HTTP server until the agent ends.
func (a *agent) serve(l net.Listener, h http.Handler, undo *stack) {
	a.serveBy(l, &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ErrorLog: a.log.Named("http").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug})}, undo)
}

func (a *agent) serveBy(l net.Listener, s *http.Server, undo *stack) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			a.fail(fmt.Errorf("the server at %s ended: %w", l.Addr(), err))
		}
	}()
	undo.push(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		err := s.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = s.Close() // streams that somebody follows
		}
		<-done
		return err
	})
}

func (a *agent) fail(err error) {
	select {
	case a.failed <- err:
	default:
	}
}

// ready says that hosts can connect.
func (a *agent) ready() {
	a.greet()
	fmt.Fprintln(a.o.Stdout, "mooring: ready")
	a.notifyReady()
	a.event(meta.Info, "node-started", a.node.Name, "version "+a.o.Version)
}

func (a *agent) notifyReady() {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		a.log.Warn("systemd was not told", "error", err)
	}
}

// wait serves until it is time to end. SIGHUP reloads.
func (a *agent) wait(ctx context.Context) error {
	watch, cancel := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { a.watchSession(watch) })
	defer func() { cancel(); watcher.Wait() }()
	for {
		select {
		case <-a.hup:
			if _, err := a.Reload(ctx); err != nil {
				a.log.Error("reload failed; the former configuration is in force", "error", err)
			}
		case err := <-a.failed:
			a.log.Error("the node cannot go on", "error", err)
			return err
		case <-ctx.Done():
			_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping) // nothing to do without systemd
			a.log.Info("stopping")
			return nil
		}
	}
}

// setLevel changes how much is logged, here and in all named loggers.
func (a *agent) setLevel(level string) { a.log.SetLevel(hclog.LevelFromString(level)) }

// offer is a subsystem or a target as it is printed at start.
type offer struct {
	protocol meta.Protocol
	name     string    // NQN or IQN
	first    meta.NSID // its first namespace, or unit; 0: it has none
	anyHost  bool
}

func (a *agent) offers() []offer {
	all, err := a.meta.Exports(context.Background())
	if err != nil {
		return nil
	}
	var out []offer
	for _, s := range all {
		o := offer{protocol: s.Protocol(), name: s.NQN, anyHost: s.AllowAnyHost}
		if ns, err := a.meta.Namespaces(context.Background(), s.NQN); err == nil && len(ns) > 0 {
			o.first = ns[0].NSID
		}
		out = append(out, o)
	}
	return out
}
