package supervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/policy"
	"github.com/mooring-io/mooring/sdk/proto"
)

// Timing is how long things may take. The zero value of each is its default.
type Timing struct {
	Start         time.Duration // from exec to serving; 30 s: on a machine where all starts at once, slow is not hung
	Stop          time.Duration // until a plugin that was asked to stop is killed; 10 s
	Health        time.Duration // between two health reports; 2 s
	HealthTimeout time.Duration // silence after which a plugin is taken for hung and killed; 10 s
	// A plugin that dies is started again at once, after a second death BackoffMin
	// later, then twice that, up to BackoffMax; 100 ms and 30 s. A life of
	// HealthyAfter without trouble starts over; 1 min.
	BackoffMin, BackoffMax, HealthyAfter time.Duration
}

func (t Timing) withDefaults() Timing {
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{
		{&t.Start, 30 * time.Second}, {&t.Stop, 10 * time.Second},
		{&t.Health, 2 * time.Second}, {&t.HealthTimeout, 10 * time.Second},
		{&t.BackoffMin, 100 * time.Millisecond}, {&t.BackoffMax, 30 * time.Second}, {&t.HealthyAfter, time.Minute},
	} {
		if *d.v == 0 {
			*d.v = d.d
		}
	}
	return t
}

// backoff is the wait before start number deaths+1, deaths in a row.
func (t Timing) backoff(deaths int) time.Duration {
	if deaths <= 1 {
		return 0
	}
	d := t.BackoffMin
	for range deaths - 2 {
		if d *= 2; d >= t.BackoffMax {
			return t.BackoffMax
		}
	}
	return d
}

// Options are what a Supervisor is made of.
type Options struct {
	Logger  hclog.Logger
	DataDir string // where the catalog lies; must exist
	// PluginDir is where built-in plugins lie; "" is the directory "plugins" beside
	// the running program.
	PluginDir string
	// RunDir is the parent of the private socket directories; "" chooses one below
	// /run for root, else below the user's runtime directory or the temporary one.
	RunDir string
	// BaseUID, plus a small number fixed per plugin, is the user that a plugin runs
	// as if the core is root; 0: DefaultBaseUID.
	BaseUID int
	// TrustBuiltIn takes built-in plugins that changed since they were registered into
	// the catalog instead of refusing them: for those who build them all the time.
	TrustBuiltIn bool
	// Host is what data plugins are attached to; without one they cannot be started.
	Host   DataHost
	Timing Timing
	// OnChange is called, one call at a time per plugin, when a plugin's State or
	// health has changed. It must not block or call the Supervisor. nil: nobody.
	OnChange func(Status)
}

// Spec says how a plugin is to be run.
type Spec struct {
	Name string
	// Config is the body of the plugin's config block; nil if it has none. Where is
	// the block's place, for what is missing in it.
	Config hcl.Body
	Where  hcl.Range
	// User is whom it runs as if the core is root: a name or number; "": its own.
	User string

	// Of data plugins.
	Threads     int   // I/O threads; 0: 1
	PoolBytes   int64 // per thread; 0: DefaultPoolBytes
	RingEntries int   // a power of two; 0: DefaultRingEntries
	Listeners   []*proto.Listener
}

// Defaults of a Spec.
const (
	DefaultPoolBytes   = 64 << 20
	DefaultRingEntries = 1024
)

// Supervisor runs plugins. Its methods can be called from any goroutine.
type Supervisor struct {
	opts    Options
	log     hclog.Logger
	catalog *catalog
	run     *runDir
	lives   atomic.Uint64 // instances so far

	mu      sync.Mutex
	closed  bool                // guarded by mu
	workers map[string]*worker  // guarded by mu
	books   map[string]*logbook // guarded by mu; they outlive workers
}

// New reads the catalog, takes in built-in plugins that are new, and removes what a
// dead core left. It makes this process non-dumpable. No plugin is started.
func New(opts Options) (*Supervisor, error) {
	opts.Timing = opts.Timing.withDefaults()
	if opts.BaseUID == 0 {
		opts.BaseUID = DefaultBaseUID
	}
	if opts.Logger == nil {
		opts.Logger = hclog.NewNullLogger()
	}
	if opts.PluginDir == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find the plugin directory: %w", err)
		}
		opts.PluginDir = filepath.Join(filepath.Dir(self), "plugins")
	}
	s := &Supervisor{
		opts: opts, log: opts.Logger.Named("supervisor"),
		workers: map[string]*worker{}, books: map[string]*logbook{},
	}
	if err := hardenCore(); err != nil {
		return nil, err
	}
	var err error
	if s.catalog, err = openCatalog(opts.DataDir); err != nil {
		return nil, err
	}
	s.catalog.trust = opts.TrustBuiltIn
	if err := s.catalog.discover(opts.PluginDir); err != nil {
		return nil, err
	}
	if s.run, err = openRunDir(opts.RunDir, s.log); err != nil {
		return nil, err
	}
	return s, nil
}

// Close stops all plugins, each in order and within Timing.Stop, and returns when
// nothing of them is left. Nothing can be started afterwards.
func (s *Supervisor) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	var all []*worker
	for _, w := range s.workers {
		all = append(all, w)
	}
	s.mu.Unlock()
	for _, w := range all {
		w.stop()
	}
	for _, w := range all {
		<-w.done
	}
	if err := s.run.close(); err != nil {
		return fmt.Errorf("remove directory of plugin sockets: %w", err)
	}
	return nil
}

// Start runs a plugin from now on and returns when it serves for the first time. It
// is also under supervision after an error, which is then that of the first
// attempt: a plugin that dies is tried again, while one that must not run as it is
// (ErrChecksum, ErrUnknown, *ConfigError) waits for Restart.
func (s *Supervisor) Start(ctx context.Context, spec Spec) error {
	if spec.Threads == 0 {
		spec.Threads = 1
	}
	if spec.PoolBytes == 0 {
		spec.PoolBytes = DefaultPoolBytes
	}
	if spec.RingEntries == 0 {
		spec.RingEntries = DefaultRingEntries
	}
	s.mu.Lock()
	if s.closed || s.workers[spec.Name] != nil {
		defer s.mu.Unlock()
		if s.closed {
			return fmt.Errorf("start plugin %s: the supervisor is closed: %w", spec.Name, sdk.ErrNotReady)
		}
		return fmt.Errorf("plugin %s is in use already: %w", spec.Name, sdk.ErrInvalid)
	}
	w := newWorker(s, spec, s.book(spec.Name))
	s.workers[spec.Name] = w
	s.mu.Unlock()
	served := w.nextStart()
	go w.run()
	return w.await(ctx, served)
}

// Stop ends a plugin in order and takes it out of supervision.
func (s *Supervisor) Stop(ctx context.Context, name string) error {
	w, err := s.worker(name)
	if err != nil {
		return err
	}
	w.stop()
	select {
	case <-w.done:
	case <-ctx.Done():
		return fmt.Errorf("stop plugin %s: %w", name, ctx.Err())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.workers[name] == w {
		delete(s.workers, name)
	}
	return nil
}

// Restart ends a plugin in order and starts it anew, also one that is refused or
// waits after its death. It returns when the new life serves.
func (s *Supervisor) Restart(ctx context.Context, name string) error {
	w, err := s.worker(name)
	if err != nil {
		return err
	}
	return w.restart(ctx)
}

// SetListeners names the addresses that a data plugin is to listen on, now and after
// each restart, and returns what became of each. If the plugin is not running, the
// error wraps sdk.ErrNotReady and the addresses are in force once it is.
func (s *Supervisor) SetListeners(ctx context.Context, name string, listeners []*proto.Listener) ([]*proto.ListenerState, error) {
	w, err := s.worker(name)
	if err != nil {
		return nil, err
	}
	return w.setListeners(ctx, listeners)
}

// Reconfigure hands a plugin its config block again; changed says that it is not the one that the plugin had. While
// something in it does not hold before the next Restart, restartRequired is true. A wrong block is a
// *ConfigError and changes nothing.
func (s *Supervisor) Reconfigure(ctx context.Context, name string, config hcl.Body, where hcl.Range) (changed, restartRequired bool, err error) {
	w, err := s.worker(name)
	if err != nil {
		return false, false, err
	}
	return w.reconfigure(ctx, config, where)
}

// Policy is the policy that the plugin of that name serves, over all its lives.
// Place fails with sdk.ErrNotReady while it is not running.
func (s *Supervisor) Policy(name string) (policy.Policy, error) {
	w, err := s.worker(name)
	if err != nil {
		return nil, err
	}
	return policy.Func(w.place), nil
}

// List returns the status of all plugins, by name: those in the catalog, and those
// that were to be started and are not in it.
func (s *Supervisor) List() []Status {
	names := map[string]struct{}{}
	for _, e := range s.catalog.list() {
		names[e.Name] = struct{}{}
	}
	s.mu.Lock()
	for name := range s.workers {
		names[name] = struct{}{}
	}
	s.mu.Unlock()
	var out []Status
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if st, err := s.Status(name); err == nil {
			out = append(out, st)
		}
	}
	return out
}

// Status is one of List.
func (s *Supervisor) Status(name string) (Status, error) {
	var st Status
	w, werr := s.worker(name)
	if werr == nil {
		st = w.snapshot()
	}
	e, err := s.catalog.get(name)
	if err != nil && werr != nil {
		return st, err
	}
	if err != nil {
		e.Name = name
	}
	st.Entry, st.Description = e, e.describe()
	return st, nil
}

// Logs returns what a plugin wrote after the line with number since; 0: all that is
// kept, which is the newest 2000 lines or 1 MiB.
func (s *Supervisor) Logs(name string, since uint64) ([]LogLine, error) {
	if _, err := s.Status(name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	book := s.book(name)
	s.mu.Unlock()
	return book.since(since), nil
}

// Add registers the file at path, under its own name, after running it once to ask
// who it is. A plugin of that name that runs goes on with the old file until Restart.
func (s *Supervisor) Add(ctx context.Context, path string) (Entry, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Entry{}, fmt.Errorf("add plugin: %w", err)
	}
	name := filepath.Base(path)
	if !pluginName.MatchString(name) {
		return Entry{}, fmt.Errorf("add plugin: the file name %q must be the plugin's name: lower-case letters, digits and dashes: %w", name, sdk.ErrInvalid)
	}
	sum, err := checksumOf(path)
	if err != nil {
		return Entry{}, fmt.Errorf("add plugin: %w", &FileError{err})
	}
	e := Entry{Name: name, Path: path, SHA256: sum}
	if filepath.Dir(path) == filepath.Clean(s.opts.PluginDir) {
		e.BuiltIn, e.Core = true, s.catalog.core
	}
	d, err := s.ask(ctx, e, nil)
	if err != nil {
		return Entry{}, fmt.Errorf("add plugin: %w", err)
	}
	if e, err = s.catalog.put(e); err != nil {
		return Entry{}, err
	}
	if err := s.catalog.described(name, sum, d); err != nil {
		return Entry{}, err
	}
	s.log.Info("plugin added", "plugin", name, "path", path, "sha256", sum)
	return s.catalog.get(name)
}

// Remove stops a plugin if it is in use and takes it out of the catalog. Its file
// stays.
func (s *Supervisor) Remove(ctx context.Context, name string) error {
	if _, err := s.catalog.get(name); err != nil {
		return err
	}
	if err := s.Stop(ctx, name); err != nil && !errors.Is(err, ErrUnknown) {
		return err
	}
	return s.catalog.remove(name)
}

// Describe returns who a plugin is, running its file for the answer if nobody asked
// before.
func (s *Supervisor) Describe(ctx context.Context, name string) (*proto.Description, error) {
	e, err := s.catalog.get(name)
	if err != nil {
		return nil, err
	}
	if d := e.describe(); d != nil {
		if sum, err := checksumOf(e.Path); err == nil && sum == e.SHA256 {
			return d, nil
		}
	}
	return s.ask(ctx, e, nil)
}

// Try runs the file of a plugin for as long as it takes to hand it a config block, and returns who it is. A *ConfigError says
// what is wrong with the block; where is the place of one that is not there.
func (s *Supervisor) Try(ctx context.Context, name string, config hcl.Body, where hcl.Range) (*proto.Description, error) {
	e, err := s.catalog.get(name)
	if err != nil {
		return nil, err
	}
	return s.ask(ctx, e, func(ctx context.Context, i *instance) error {
		_, err := i.configure(ctx, config, where)
		return err
	})
}

// ForScheme returns the plugin that serves URLs with that scheme.
func (s *Supervisor) ForScheme(ctx context.Context, scheme string) (string, error) {
	var known []string
	var errs []error
	for _, e := range s.catalog.list() {
		d, err := s.Describe(ctx, e.Name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, has := range d.ListenSchemes {
			if has == scheme {
				return e.Name, nil
			}
			known = append(known, has)
		}
	}
	if errs != nil {
		return "", fmt.Errorf("no plugin serves %s://: %w; some cannot be asked: %w", scheme, ErrUnknown, errors.Join(errs...))
	}
	return "", fmt.Errorf("no plugin serves %s://: %w; there are: %s", scheme, ErrUnknown, strings.Join(known, ", "))
}

// ask runs the file of e just long enough to say who it is, and for what more is to be asked. Its description comes with the error of more.
func (s *Supervisor) ask(ctx context.Context, e Entry, more func(context.Context, *instance) error) (*proto.Description, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timing.Start)
	defer cancel()
	type answer struct {
		d   *proto.Description
		err error
	}
	done := make(chan answer, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, after the process.
		runtime.LockOSThread()
		d, err := s.askHere(ctx, e, more)
		done <- answer{d, err}
	}()
	a := <-done
	return a.d, a.err
}

func (s *Supervisor) askHere(ctx context.Context, e Entry, more func(context.Context, *instance) error) (*proto.Description, error) {
	if err := hardenThread(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	book := s.book(e.Name)
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return nil, fmt.Errorf("the supervisor is closed: %w", sdk.ErrNotReady)
	}
	i, e, err := s.open(ctx, e, "", book)
	if err != nil {
		return nil, err
	}
	defer s.end(i)
	var asked error
	if more != nil {
		asked = more(ctx, i)
	}
	stop, cancel := context.WithTimeout(ctx, s.opts.Timing.Stop)
	defer cancel()
	if err := i.stopGently(stop); err != nil {
		s.log.Debug("plugin did not stop", "plugin", e.Name, "error", err)
	}
	return i.description, errors.Join(asked, s.catalog.described(e.Name, e.SHA256, i.description))
}

// open verifies the file of e and launches it. The calling goroutine is locked to
// its thread for good.
func (s *Supervisor) open(ctx context.Context, e Entry, userName string, book *logbook) (*instance, Entry, error) {
	u, err := chooseUser(userName, s.opts.BaseUID, e.Slot)
	if err != nil {
		return nil, e, fmt.Errorf("plugin %s: %w", e.Name, err)
	}
	sum := e.SHA256
	file, e, err := s.catalog.verify(e)
	if err != nil {
		return nil, e, err
	}
	if sum != e.SHA256 {
		s.log.Info("plugin was upgraded together with the core", "plugin", e.Name, "sha256", e.SHA256)
	}
	book.begin()
	i, err := s.launch(ctx, newProcess(e.Name, e.Path, file, u, book))
	return i, e, err
}

func (s *Supervisor) worker(name string) (*worker, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.workers[name]; w != nil {
		return w, nil
	}
	return nil, fmt.Errorf("plugin %q is not in use: %w", name, ErrUnknown)
}

// book is called with mu held.
func (s *Supervisor) book(name string) *logbook {
	b := s.books[name]
	if b == nil {
		b = newLogbook(s.opts.Logger.Named("plugin." + name))
		s.books[name] = b
	}
	return b
}
