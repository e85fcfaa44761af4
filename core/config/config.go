// Package config reads a node's HCL file.
//
// It owns the file's schema, its defaults and its diagnostics. It does not own
// what the objects mean (package meta), nor the attributes inside a plugin's
// config block: those are decoded against the schema that the plugin describes
// (package supervisor).
package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/mooring-io/mooring/sdk"
)

// Config is a valid configuration. Sizes are bytes; paths are absolute.
type Config struct {
	File       string // where it was read from, as given
	DataDir    string
	PluginDir  string // "" is beside the binary
	Node       Node
	Cluster    *Cluster // nil: a node of its own
	Log        Log
	Admin      Admin
	Limits     Limits
	Stores     []Store
	Plugins    []Plugin
	Tenants    []Tenant
	Volumes    []Volume
	Hosts      []Host
	Subsystems []Subsystem
	Targets    []Target

	files map[string]*hcl.File // to show what is wrong in them
}

// Wrong is the error that others have found in the file, as Load would return it.
func (c *Config) Wrong(diags hcl.Diagnostics) error {
	return &Error{Diagnostics: diags, files: c.files}
}

// Pos is where an object stands in the file.
type Pos struct {
	File string
	Line int
}

func (p Pos) String() string { return fmt.Sprintf("%s:%d", p.File, p.Line) }

// Node says who this node is and where the others reach it.
type Node struct {
	Name string
	// Address is the node's data address, host:port, "" outside a cluster. The next three
	// ports are its agent's, its etcd member's for other members, and that for clients.
	Address string
	// Zone and Rack are the failure domains that it is in; "": not said.
	Zone string
	Rack string
}

// NodePorts is how many consecutive ports a node of a cluster has, from that of its address.
const NodePorts = 4

// Cluster says where the metadata of the cluster's nodes lives: in an etcd that the
// agents run themselves (Embed), or in one that exists.
type Cluster struct {
	Embed        bool
	Endpoints    []string // URLs
	Prefix       string   // of the keys in etcd
	CAFile       string   // to believe the endpoints by; "" is what the system believes
	CertFile     string   // with KeyFile: to be believed by the endpoints
	KeyFile      string
	Username     string // "" is without
	PasswordFile string
}

// Log says how much is logged and in which form.
type Log struct {
	Level string // trace, debug, info, warn or error
	JSON  bool
}

// Admin says where the agent listens for the CLI and for Prometheus.
type Admin struct {
	Socket  string // path of the unix socket
	Metrics string // host:port, "" is off
}

// Limits bound what waits.
type Limits struct {
	HoldFor    time.Duration // how long a command waits for the cluster before it is answered "retry"
	SessionTTL time.Duration // of the node's Meta session
	ResyncRate int64         // bytes per second that are copied from store to store
	LostAfter  time.Duration // how long a store is out of reach before its replicas are made elsewhere
}

// MinStoreBytes is the least that a store may be limited to.
const MinStoreBytes = 256 << 20

// Store is one disk's worth of extents.
type Store struct {
	Pos
	Name     string
	Path     string
	Capacity int64 // 0: grows to what the file system has
	Media    string
}

// Plugin is one plugin to run.
type Plugin struct {
	Pos
	Name        string
	Listen      []string    // URLs
	ListenAt    []hcl.Range // where each stands
	Threads     int
	PoolBytes   int64 // per thread
	RingEntries int
	User        string      // "" chooses an unprivileged one when the agent is root
	Redirector  *Redirector // nil: none
	Range       hcl.Range   // of the block, for what is missing in it
	Config      hcl.Body    // the config block, for the plugin's own schema; nil if absent
}

// Redirector is an address of the cluster that one node at a time has, where a plugin sends initiators
// to their access points.
type Redirector struct {
	URL       string     // where the plugin listens
	Address   netip.Addr // of the URL
	Interface string     // of this node
}

// Tenant owns volumes and subsystems.
type Tenant struct {
	Pos
	Name       string
	Policy     string
	Quota      int64 // bytes of its volumes together; 0: none
	MaxVolumes int   // 0: none
}

// Volume is a volume to create or update.
type Volume struct {
	Pos
	Name       string
	Tenant     string
	Size       int64
	BlockSize  int
	Durability string // "sync" or "volatile"
	Group      string // namespace group; "": none
	Replicas   int    // 0: not said
	Media      string // of the stores; "": any
}

// Host gives an NQN and an IQN, or one of them, a name.
type Host struct {
	Pos
	Name string
	NQN  string
	IQN  string
}

// Subsystem is an NVMe subsystem and the namespaces in it.
type Subsystem struct {
	Pos
	NQN          string
	Tenant       string
	Serial       string
	AllowAnyHost bool
	Hosts        []string // names of host blocks, or NQNs
	Namespaces   []Namespace
}

// Namespace attaches a volume to a subsystem.
type Namespace struct {
	Pos
	NSID      uint32
	Volume    string
	VisibleTo []string // names of host blocks, or NQNs; empty: all allowed hosts
}

// Target is an iSCSI target and its logical units.
type Target struct {
	Pos
	IQN          string
	Tenant       string
	Mode         string // "redirect" or "alua"
	AllowAnyHost bool
	Hosts        []string // IQNs
	CHAP         *CHAP    // nil: initiators are who they say
	LUNs         []LUN
}

// CHAP is how initiators of a target prove who they are. It does not print its secrets.
type CHAP struct {
	User         string // "": the initiator's IQN
	Secret       Secret
	MutualUser   string // "": the target's IQN
	MutualSecret Secret // "": the target proves nothing
}

// Secret does not print itself.
type Secret string

// String hides the secret.
func (Secret) String() string { return "(secret)" }

// GoString hides the secret.
func (Secret) GoString() string { return "(secret)" }

// LUN attaches a volume to a target.
type LUN struct {
	Pos
	LUN       uint16
	Volume    string
	VisibleTo []string // IQNs; empty: all allowed hosts
}

// The file as gohcl sees it.
type file struct {
	DataDir    string           `hcl:"data_dir,optional"`
	PluginDir  string           `hcl:"plugin_dir,optional"`
	Node       *nodeBlock       `hcl:"node,block"`
	Cluster    *clusterBlock    `hcl:"cluster,block"`
	Log        *logBlock        `hcl:"log,block"`
	Admin      *adminBlock      `hcl:"admin,block"`
	Limits     *limitsBlock     `hcl:"limits,block"`
	Stores     []storeBlock     `hcl:"store,block"`
	Plugins    []pluginBlock    `hcl:"plugin,block"`
	Tenants    []tenantBlock    `hcl:"tenant,block"`
	Volumes    []volumeBlock    `hcl:"volume,block"`
	Hosts      []hostBlock      `hcl:"host,block"`
	Subsystems []subsystemBlock `hcl:"subsystem,block"`
	Targets    []targetBlock    `hcl:"target,block"`
}

type nodeBlock struct {
	Name    string    `hcl:"name,optional"`
	Address string    `hcl:"address,optional"`
	Zone    string    `hcl:"zone,optional"`
	Rack    string    `hcl:"rack,optional"`
	Range   hcl.Range `hcl:",def_range"`
	Body    hcl.Body  `hcl:",body"`
}

type clusterBlock struct {
	Embed        bool      `hcl:"embed,optional"`
	Endpoints    []string  `hcl:"endpoints,optional"`
	Prefix       string    `hcl:"prefix,optional"`
	CAFile       string    `hcl:"ca_file,optional"`
	CertFile     string    `hcl:"cert_file,optional"`
	KeyFile      string    `hcl:"key_file,optional"`
	Username     string    `hcl:"username,optional"`
	PasswordFile string    `hcl:"password_file,optional"`
	Range        hcl.Range `hcl:",def_range"`
	Body         hcl.Body  `hcl:",body"`
}

type logBlock struct {
	Level string    `hcl:"level,optional"`
	JSON  bool      `hcl:"json,optional"`
	Range hcl.Range `hcl:",def_range"`
	Body  hcl.Body  `hcl:",body"`
}

type adminBlock struct {
	Socket  string    `hcl:"socket,optional"`
	Metrics string    `hcl:"metrics,optional"`
	Range   hcl.Range `hcl:",def_range"`
	Body    hcl.Body  `hcl:",body"`
}

type limitsBlock struct {
	HoldFor    string    `hcl:"hold_for,optional"`
	SessionTTL string    `hcl:"session_ttl,optional"`
	ResyncRate string    `hcl:"resync_rate,optional"`
	LostAfter  string    `hcl:"lost_after,optional"`
	Range      hcl.Range `hcl:",def_range"`
	Body       hcl.Body  `hcl:",body"`
}

type storeBlock struct {
	Name     string    `hcl:"name,label"`
	Label    hcl.Range `hcl:"name,label_range"`
	Path     string    `hcl:"path,optional"`
	Capacity string    `hcl:"capacity,optional"`
	Media    string    `hcl:"media,optional"`
	Range    hcl.Range `hcl:",def_range"`
	Body     hcl.Body  `hcl:",body"`
}

type pluginBlock struct {
	Name        string           `hcl:"name,label"`
	Label       hcl.Range        `hcl:"name,label_range"`
	Listen      []string         `hcl:"listen,optional"`
	Threads     int              `hcl:"threads,optional"`
	Pool        string           `hcl:"pool,optional"`
	RingEntries int              `hcl:"ring_entries,optional"`
	User        string           `hcl:"user,optional"`
	Redirector  *redirectorBlock `hcl:"redirector,block"`
	Config      *configBlock     `hcl:"config,block"`
	Range       hcl.Range        `hcl:",def_range"`
	Body        hcl.Body         `hcl:",body"`
}

type redirectorBlock struct {
	URL       string    `hcl:"url,label"`
	Label     hcl.Range `hcl:"url,label_range"`
	Interface string    `hcl:"interface"`
	Range     hcl.Range `hcl:",def_range"`
	Body      hcl.Body  `hcl:",body"`
}

type configBlock struct {
	Body hcl.Body `hcl:",remain"`
}

type tenantBlock struct {
	Name       string    `hcl:"name,label"`
	Label      hcl.Range `hcl:"name,label_range"`
	Policy     string    `hcl:"policy,optional"`
	Quota      string    `hcl:"quota,optional"`
	MaxVolumes int       `hcl:"max_volumes,optional"`
	Range      hcl.Range `hcl:",def_range"`
	Body       hcl.Body  `hcl:",body"`
}

type volumeBlock struct {
	Name       string    `hcl:"name,label"`
	Label      hcl.Range `hcl:"name,label_range"`
	Tenant     string    `hcl:"tenant,optional"`
	Size       string    `hcl:"size"`
	BlockSize  int       `hcl:"block_size,optional"`
	Durability string    `hcl:"durability,optional"`
	Group      string    `hcl:"group,optional"`
	Replicas   *int      `hcl:"replicas"`
	Media      string    `hcl:"media,optional"`
	Range      hcl.Range `hcl:",def_range"`
	Body       hcl.Body  `hcl:",body"`
}

type hostBlock struct {
	Name  string    `hcl:"name,label"`
	Label hcl.Range `hcl:"name,label_range"`
	NQN   string    `hcl:"nqn,optional"`
	IQN   string    `hcl:"iqn,optional"`
	Range hcl.Range `hcl:",def_range"`
	Body  hcl.Body  `hcl:",body"`
}

type subsystemBlock struct {
	NQN          string           `hcl:"nqn,label"`
	Label        hcl.Range        `hcl:"nqn,label_range"`
	Tenant       string           `hcl:"tenant,optional"`
	Serial       string           `hcl:"serial,optional"`
	AllowAnyHost bool             `hcl:"allow_any_host,optional"`
	Hosts        []string         `hcl:"hosts,optional"`
	Namespaces   []namespaceBlock `hcl:"namespace,block"`
	Range        hcl.Range        `hcl:",def_range"`
	Body         hcl.Body         `hcl:",body"`
}

type namespaceBlock struct {
	ID        string    `hcl:"id,label"`
	Label     hcl.Range `hcl:"id,label_range"`
	Volume    string    `hcl:"volume"`
	VisibleTo []string  `hcl:"visible_to,optional"`
	Range     hcl.Range `hcl:",def_range"`
	Body      hcl.Body  `hcl:",body"`
}

type targetBlock struct {
	IQN          string     `hcl:"iqn,label"`
	Label        hcl.Range  `hcl:"iqn,label_range"`
	Tenant       string     `hcl:"tenant,optional"`
	Mode         string     `hcl:"mode,optional"`
	AllowAnyHost bool       `hcl:"allow_any_host,optional"`
	Hosts        []string   `hcl:"hosts,optional"`
	CHAP         *chapBlock `hcl:"chap,block"`
	LUNs         []lunBlock `hcl:"lun,block"`
	Range        hcl.Range  `hcl:",def_range"`
	Body         hcl.Body   `hcl:",body"`
}

type chapBlock struct {
	User             string    `hcl:"user,optional"`
	Secret           string    `hcl:"secret,optional"`
	SecretFile       string    `hcl:"secret_file,optional"`
	MutualUser       string    `hcl:"mutual_user,optional"`
	MutualSecret     string    `hcl:"mutual_secret,optional"`
	MutualSecretFile string    `hcl:"mutual_secret_file,optional"`
	Range            hcl.Range `hcl:",def_range"`
	Body             hcl.Body  `hcl:",body"`
}

type lunBlock struct {
	LUN       string    `hcl:"lun,label"`
	Label     hcl.Range `hcl:"lun,label_range"`
	Volume    string    `hcl:"volume"`
	VisibleTo []string  `hcl:"visible_to,optional"`
	Range     hcl.Range `hcl:",def_range"`
	Body      hcl.Body  `hcl:",body"`
}

// Error is a file that cannot be used, with everything that is wrong in it.
type Error struct {
	Diagnostics hcl.Diagnostics
	files       map[string]*hcl.File
	cause       error // it could not be read
}

// Is makes it an sdk.ErrInvalid.
func (e *Error) Is(target error) bool { return target == sdk.ErrInvalid }

func (e *Error) Unwrap() error { return e.cause }

// Error prints each diagnostic with its file, line and column, and points at the offending source.
func (e *Error) Error() string {
	if e.cause != nil {
		return e.cause.Error()
	}
	var b strings.Builder
	for i, d := range e.Diagnostics {
		if i > 0 {
			b.WriteString("\n\n")
		}
		e.print(&b, d)
	}
	return b.String()
}

// secretRule finds secrets in a line, which is not printed with them.
var secretRule = regexp.MustCompile(`(secret\s*=\s*)"[^"]*"?`)

func (e *Error) print(b *strings.Builder, d *hcl.Diagnostic) {
	if d.Subject == nil {
		fmt.Fprintf(b, "%s\n%s", d.Summary, d.Detail)
		return
	}
	at := *d.Subject
	fmt.Fprintf(b, "%s line %d, column %d: %s\n", at.Filename, at.Start.Line, at.Start.Column, d.Summary)
	if f := e.files[at.Filename]; f != nil {
		lines := strings.Split(string(f.Bytes), "\n")
		if n := at.Start.Line - 1; n < len(lines) {
			source := strings.ReplaceAll(strings.TrimRight(lines[n], "\r"), "\t", " ") // a tab is one column
			width := 1
			if at.End.Line == at.Start.Line && at.End.Column > at.Start.Column {
				width = at.End.Column - at.Start.Column
			}
			if hidden := secretRule.ReplaceAllString(source, `$1"***"`); hidden != source {
				fmt.Fprintf(b, "  %s\n", hidden)
			} else {
				fmt.Fprintf(b, "  %s\n  %s%s\n", source, strings.Repeat(" ", at.Start.Column-1), strings.Repeat("^", width))
			}
		}
	}
	b.WriteString(d.Detail)
}

// Load reads and checks a file. An error is an *Error.
func Load(path string) (*Config, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, &Error{cause: fmt.Errorf("read the configuration: %w", err)}
	}
	return Parse(src, path)
}

// Doubts is what a valid file relies on that is not in it: it may be there all the same, and only a
// running node knows. Each names the file and the line.
func (c *Config) Doubts() []string {
	var out []string
	doubt := func(at Pos, format string, args ...any) {
		out = append(out, fmt.Sprintf("%s: "+format, append([]any{at}, args...)...))
	}
	volumes := map[[2]string]struct{}{}
	for _, v := range c.Volumes {
		volumes[[2]string{v.Tenant, v.Name}] = struct{}{}
	}
	tenants := map[string]struct{}{"default": {}}
	for _, t := range c.Tenants {
		tenants[t.Name] = struct{}{}
	}
	for _, v := range c.Volumes {
		if _, ok := tenants[v.Tenant]; !ok {
			doubt(v.Pos, "tenant %q of volume %s has no block here; it must exist", v.Tenant, v.Name)
		}
	}
	for _, s := range c.Subsystems {
		if _, ok := tenants[s.Tenant]; !ok {
			doubt(s.Pos, "tenant %q of subsystem %s has no block here; it must exist", s.Tenant, s.NQN)
		}
		for _, n := range s.Namespaces {
			if _, ok := volumes[[2]string{s.Tenant, n.Volume}]; !ok {
				doubt(n.Pos, "volume %q of tenant %s has no block here; namespace %d is attached only if it exists", n.Volume, s.Tenant, n.NSID)
			}
		}
	}
	for _, t := range c.Targets {
		if _, ok := tenants[t.Tenant]; !ok {
			doubt(t.Pos, "tenant %q of target %s has no block here; it must exist", t.Tenant, t.IQN)
		}
		for _, n := range t.LUNs {
			if _, ok := volumes[[2]string{t.Tenant, n.Volume}]; !ok {
				doubt(n.Pos, "volume %q of tenant %s has no block here; LUN %d is attached only if it exists", n.Volume, t.Tenant, n.LUN)
			}
		}
	}
	dir := c.PluginDir
	if dir == "" {
		if exe, err := os.Executable(); err == nil {
			dir = filepath.Join(filepath.Dir(exe), "plugins")
		}
	}
	for _, p := range c.Plugins {
		if _, err := os.Stat(filepath.Join(dir, p.Name)); err != nil {
			doubt(p.Pos, "there is no plugin %s in %s; it runs only if it was added with: mooring plugin add FILE", p.Name, dir)
		}
	}
	return out
}

// Parse checks the content of a file; path is used in messages and relative paths
// in it are taken from its folder.
func Parse(src []byte, path string) (*Config, error) {
	p := hclparse.NewParser()
	f, diags := p.ParseHCL(src, path)
	fail := func() error { return &Error{Diagnostics: diags, files: p.Files()} }
	if diags.HasErrors() {
		return nil, fail()
	}
	var in file
	diags = append(diags, gohcl.DecodeBody(f.Body, nil, &in)...)
	if diags.HasErrors() {
		return nil, fail()
	}
	r := reader{base: filepath.Dir(path)}
	c := r.config(&in)
	c.File, c.files = path, p.Files()
	if diags = append(diags, r.diags...); diags.HasErrors() {
		return nil, fail()
	}
	return c, nil
}

// reader turns the decoded file into a Config and gathers what is wrong with it.
type reader struct {
	base  string
	diags hcl.Diagnostics
}

func (r *reader) wrong(at hcl.Range, summary, right string, args ...any) {
	r.diags = append(r.diags, &hcl.Diagnostic{
		Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(right, args...), Subject: &at,
	})
}

// at is where an attribute's value stands, or where its block begins if it is not there. index
// names an element of a list.
func at(block hcl.Range, body hcl.Body, name string, index ...int) hcl.Range {
	syntax, ok := body.(*hclsyntax.Body)
	if !ok || syntax.Attributes[name] == nil {
		return block
	}
	value := syntax.Attributes[name].Expr
	if list, ok := value.(*hclsyntax.TupleConsExpr); ok && len(index) > 0 && index[0] < len(list.Exprs) {
		value = list.Exprs[index[0]]
	}
	return value.Range()
}

func (r *reader) path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	abs, err := filepath.Abs(filepath.Join(r.base, p))
	if err != nil {
		return p
	}
	return abs
}

func pos(at hcl.Range) Pos { return Pos{at.Filename, at.Start.Line} }

func (r *reader) size(at hcl.Range, field, v string, def int64) int64 {
	if v == "" {
		return def
	}
	n, err := ParseSize(v)
	if err != nil {
		r.wrong(at, "Invalid "+field, "%s: %v", field, err)
		return def
	}
	return n
}

func (r *reader) duration(at hcl.Range, field, v string, def, lowest, highest time.Duration) time.Duration {
	if v == "" {
		return def
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < lowest || d > highest {
		r.wrong(at, "Invalid "+field, "%s must be a duration from %v to %v, such as %q; it is %q.", field, lowest, highest, def.String(), v)
	}
	return d
}

func oneOf[T comparable](v T, all ...T) bool {
	for _, a := range all {
		if a == v {
			return true
		}
	}
	return false
}

func (r *reader) config(in *file) *Config {
	c := &Config{DataDir: r.path(orDefault(in.DataDir, "data")), PluginDir: r.path(in.PluginDir)}
	r.general(in, c)
	r.stores(in, c)
	r.plugins(in, c)
	r.volumes(in, c)
	r.hosts(in, c)
	r.subsystems(in, c)
	r.targets(in, c)
	return c
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

func (r *reader) general(in *file, c *Config) {
	c.Node.Name = hostname()
	if in.Node != nil && in.Node.Name != "" {
		c.Node.Name = in.Node.Name
	}
	if n := in.Node; n != nil {
		c.Node.Zone, c.Node.Rack = n.Zone, n.Rack
		for _, l := range []struct{ name, value string }{{"zone", n.Zone}, {"rack", n.Rack}} {
			if l.value != "" && !ValidName(l.value) {
				r.wrong(at(n.Range, n.Body, l.name), "Invalid name", "The name of a %s has 1 to 63 letters, digits, '.', '_' or '-'; it is %q.", l.name, l.value)
			}
		}
	}
	r.cluster(in, c)
	c.Log = Log{Level: "info"}
	if l := in.Log; l != nil {
		c.Log = Log{Level: orDefault(l.Level, "info"), JSON: l.JSON}
		if !oneOf(c.Log.Level, "trace", "debug", "info", "warn", "error") {
			r.wrong(at(l.Range, l.Body, "level"), "Invalid log level", "level must be trace, debug, info, warn or error; it is %q.", l.Level)
		}
	}
	c.Admin = Admin{Socket: filepath.Join(c.DataDir, "mooring.sock"), Metrics: "127.0.0.1:9464"}
	if a := in.Admin; a != nil {
		if a.Socket != "" {
			c.Admin.Socket = r.path(a.Socket)
		}
		if a.Metrics != "" {
			c.Admin.Metrics = a.Metrics
		}
		if c.Admin.Metrics == "off" {
			c.Admin.Metrics = ""
		} else if _, err := netip.ParseAddrPort(c.Admin.Metrics); err != nil {
			r.wrong(at(a.Range, a.Body, "metrics"), "Invalid metrics address", "metrics must be an address and port such as \"127.0.0.1:9464\", or \"off\"; it is %q.", a.Metrics)
		}
	}
	c.Limits = Limits{HoldFor: 10 * time.Second, SessionTTL: 30 * time.Second, ResyncRate: 128 << 20, LostAfter: 10 * time.Minute}
	if c.Cluster != nil {
		c.Limits.SessionTTL = ClusterSessionTTL // others wait for it when the node dies
	}
	if l := in.Limits; l != nil {
		c.Limits.HoldFor = r.duration(at(l.Range, l.Body, "hold_for"), "hold_for", l.HoldFor, c.Limits.HoldFor, time.Second, 25*time.Second)
		c.Limits.SessionTTL = r.duration(at(l.Range, l.Body, "session_ttl"), "session_ttl", l.SessionTTL, c.Limits.SessionTTL, 2*time.Second, time.Minute)
		c.Limits.LostAfter = r.duration(at(l.Range, l.Body, "lost_after"), "lost_after", l.LostAfter, c.Limits.LostAfter, time.Second, 30*24*time.Hour)
		where := at(l.Range, l.Body, "resync_rate")
		if c.Limits.ResyncRate = r.size(where, "resync_rate", l.ResyncRate, c.Limits.ResyncRate); c.Limits.ResyncRate < 1<<20 {
			r.wrong(where, "Too slow", "resync_rate must be at least \"1MiB\", per second; it is %q.", l.ResyncRate)
		}
	}
}

// ClusterSessionTTL is the default of session_ttl in a cluster.
const ClusterSessionTTL = 3 * time.Second

// cluster reads the cluster block and the address that a node of a cluster needs.
func (r *reader) cluster(in *file, c *Config) {
	if n := in.Node; n != nil && n.Address != "" {
		c.Node.Address = n.Address
		if a, err := netip.ParseAddrPort(n.Address); err != nil || a.Addr().IsUnspecified() || a.Port() == 0 || int(a.Port())+NodePorts > 1<<16 {
			r.wrong(at(n.Range, n.Body, "address"), "Invalid node address",
				"address must be an address of this machine that the other nodes reach, and the first of %d free ports in a row, such as \"192.0.2.1:7400\"; it is %q.", NodePorts, n.Address)
		}
	}
	b := in.Cluster
	if b == nil {
		return
	}
	c.Cluster = &Cluster{
		Embed: b.Embed, Endpoints: b.Endpoints, Prefix: orDefault(b.Prefix, "mooring/"),
		CAFile: r.path(b.CAFile), CertFile: r.path(b.CertFile), KeyFile: r.path(b.KeyFile), Username: b.Username, PasswordFile: r.path(b.PasswordFile),
	}
	if c.Node.Address == "" {
		r.wrong(b.Range, "Node address missing", "A node of a cluster says where the others reach it: node { address = \"192.0.2.1:7400\" }.")
	}
	if b.Embed == (len(b.Endpoints) > 0) {
		r.wrong(at(b.Range, b.Body, "endpoints"), "Where is etcd?", "Either embed = true, so that the agents run etcd themselves, or endpoints = [\"https://192.0.2.7:2379\", ...] of an etcd that exists.")
	}
	for i, e := range b.Endpoints {
		if u, err := url.Parse(e); err != nil || !oneOf(u.Scheme, "http", "https") || u.Hostname() == "" || u.Port() == "" {
			r.wrong(at(b.Range, b.Body, "endpoints", i), "Invalid endpoint", "endpoints are URLs with a port, such as \"https://192.0.2.7:2379\"; this one is %q.", e)
		}
	}
	for _, name := range []string{"ca_file", "cert_file", "key_file", "username", "password_file"} {
		if where := at(b.Range, b.Body, name); b.Embed && where != b.Range {
			r.wrong(where, "Not for an embedded etcd", "%s goes with endpoints; the nodes of a cluster that embeds etcd know each other by certificates of their own.", name)
		}
	}
	for _, p := range [][4]string{{"cert_file", b.CertFile, "key_file", b.KeyFile}, {"username", b.Username, "password_file", b.PasswordFile}} {
		if (p[1] == "") != (p[3] == "") {
			there := p[0]
			if p[1] == "" {
				there = p[2]
			}
			r.wrong(at(b.Range, b.Body, there), "Half of a pair", "%s goes with %s.", p[0], p[2])
		}
	}
}

func (r *reader) stores(in *file, c *Config) {
	names := names{r: r, kind: "store"}
	for _, s := range in.Stores {
		names.add(s.Name, s.Label)
		st := Store{
			Pos: pos(s.Range), Name: s.Name, Path: r.path(orDefault(s.Path, filepath.Join(c.DataDir, "stores", s.Name))),
			Capacity: r.size(at(s.Range, s.Body, "capacity"), "capacity", s.Capacity, 0), Media: orDefault(s.Media, "ssd"),
		}
		if st.Capacity != 0 && st.Capacity < MinStoreBytes {
			r.wrong(at(s.Range, s.Body, "capacity"), "Store too small", "capacity must be at least \"256MiB\"; it is %q.", s.Capacity)
		}
		if !oneOf(st.Media, "nvme", "ssd", "hdd") {
			r.wrong(at(s.Range, s.Body, "media"), "Invalid media class", "media must be nvme, ssd or hdd; it is %q.", s.Media)
		}
		c.Stores = append(c.Stores, st)
	}
	if len(in.Stores) == 0 {
		c.Stores = []Store{{Name: "main", Path: filepath.Join(c.DataDir, "stores", "main"), Media: "ssd"}}
	}
}

func (r *reader) plugins(in *file, c *Config) {
	names := names{r: r, kind: "plugin"}
	for _, p := range in.Plugins {
		names.add(p.Name, p.Label)
		out := Plugin{
			Pos: pos(p.Range), Name: p.Name, Listen: p.Listen, Threads: orDefault(p.Threads, 1),
			PoolBytes: r.size(at(p.Range, p.Body, "pool"), "pool", p.Pool, 64<<20), RingEntries: orDefault(p.RingEntries, 4096), User: p.User, Range: p.Range,
		}
		for i, l := range p.Listen {
			out.ListenAt = append(out.ListenAt, at(p.Range, p.Body, "listen", i))
			if err := CheckListen(l); err != nil {
				r.wrong(at(p.Range, p.Body, "listen", i), "Invalid listen URL", "listen: %v.", err)
			}
		}
		if out.Threads < 1 || out.Threads > 64 {
			r.wrong(at(p.Range, p.Body, "threads"), "Invalid number of threads", "threads must be from 1 to 64; it is %d.", p.Threads)
		}
		if out.RingEntries < 64 || out.RingEntries > 1<<16 || out.RingEntries&(out.RingEntries-1) != 0 {
			r.wrong(at(p.Range, p.Body, "ring_entries"), "Invalid ring_entries", "ring_entries must be a power of two from 64 to 65536; it is %d.", p.RingEntries)
		}
		if out.PoolBytes < 4<<20 || out.PoolBytes > 4<<30 {
			r.wrong(at(p.Range, p.Body, "pool"), "Invalid pool", "pool must be from \"4MiB\" to \"4GiB\"; it is %q.", p.Pool)
		}
		if p.Config != nil {
			out.Config = p.Config.Body
		}
		if p.Redirector != nil {
			out.Redirector = r.redirector(p.Redirector, p.Listen)
		}
		c.Plugins = append(c.Plugins, out)
	}
}

// redirector reads a redirector block of a plugin that listens at these URLs, too.
func (r *reader) redirector(b *redirectorBlock, listen []string) *Redirector {
	out := &Redirector{URL: b.URL, Interface: b.Interface}
	if b.Interface == "" || b.Interface == "lo" {
		r.wrong(at(b.Range, b.Body, "interface"), "Invalid interface", "interface must name a network interface of this node that initiators reach.")
	}
	u, err := url.Parse(b.URL)
	if err != nil || u.Scheme != "iscsi" {
		r.wrong(b.Label, "Invalid redirector", "The label must be a URL with an IP address of its own, such as \"iscsi://192.0.2.100:3260\": logins of iSCSI can be sent on, and nothing else.")
		return out
	}
	own, err := netip.ParseAddrPort(u.Host)
	if err != nil || own.Port() == 0 || !own.Addr().IsGlobalUnicast() || own.Addr().Is4In6() || own.Addr().Zone() != "" {
		r.wrong(b.Label, "Invalid redirector", "The label must be a URL with an IP address of its own, such as \"iscsi://192.0.2.100:3260\"; it is %q.", b.URL)
		return out
	}
	out.Address = own.Addr()
	for _, l := range listen {
		u, err := url.Parse(l)
		if err != nil {
			continue // said elsewhere
		}
		has, err := netip.ParseAddrPort(u.Host)
		if err != nil {
			continue
		}
		everything := has.Addr().IsUnspecified() && has.Port() == own.Port() && (has.Addr().Is6() || own.Addr().Is4())
		if everything || has.Addr() == own.Addr() {
			r.wrong(b.Label, "Redirector not apart", "The plugin listens at %q, which takes the redirector's address: name the node's own address in listen, and one that no node has of its own here.", l)
		}
	}
	return out
}

// CheckListen says what is wrong with an address to listen at.
func CheckListen(l string) error {
	if u, err := url.Parse(l); err != nil || u.Scheme == "" || u.Hostname() == "" || u.Port() == "" {
		return fmt.Errorf("%q is no URL such as \"nvme-tcp://127.0.0.1:4420\"", l)
	}
	return nil
}

// MaxReplicas is how many replicas a volume may have.
const MaxReplicas = 8

// What a volume may measure, in bytes; package meta has the same rule.
const (
	volumeGrain    = 4096
	minVolumeBytes = 1 << 20
	maxVolumeBytes = 1 << 50
)

func (r *reader) volumes(in *file, c *Config) {
	tenants := names{r: r, kind: "tenant"}
	for _, t := range in.Tenants {
		tenants.add(t.Name, t.Label)
		if t.MaxVolumes < 0 {
			r.wrong(at(t.Range, t.Body, "max_volumes"), "Invalid quota", "max_volumes must be a number from 1, or 0 for no limit; it is %d.", t.MaxVolumes)
		}
		c.Tenants = append(c.Tenants, Tenant{
			Pos: pos(t.Range), Name: t.Name, Policy: orDefault(t.Policy, "inherit"), Quota: r.size(at(t.Range, t.Body, "quota"), "quota", t.Quota, 0), MaxVolumes: t.MaxVolumes,
		})
	}
	names := names{r: r, kind: "volume"}
	for _, v := range in.Volumes {
		names.add(v.Name, v.Label)
		wrong := len(r.diags)
		out := Volume{
			Pos: pos(v.Range), Name: v.Name, Tenant: orDefault(v.Tenant, "default"), Size: r.size(at(v.Range, v.Body, "size"), "size", v.Size, 0),
			BlockSize: orDefault(v.BlockSize, 4096), Durability: orDefault(v.Durability, "sync"),
		}
		if len(r.diags) == wrong && (out.Size < minVolumeBytes || out.Size > maxVolumeBytes || out.Size%volumeGrain != 0) {
			r.wrong(at(v.Range, v.Body, "size"), "Invalid volume size", "size must be a multiple of 4 KiB from 1 MiB to 1 PiB, such as \"10GiB\"; it is %q.", v.Size)
		}
		if !oneOf(out.BlockSize, 512, 4096) {
			r.wrong(at(v.Range, v.Body, "block_size"), "Invalid block size", "block_size must be 512 or 4096; it is %d.", v.BlockSize)
		}
		if out.Group = v.Group; v.Group != "" && !ValidName(v.Group) {
			r.wrong(at(v.Range, v.Body, "group"), "Invalid name", "The name of a namespace group has 1 to 63 letters, digits, '.', '_' or '-'; it is %q.", v.Group)
		}
		if out.Media = v.Media; !oneOf(v.Media, "", "nvme", "ssd", "hdd") {
			r.wrong(at(v.Range, v.Body, "media"), "Invalid media class", "media must be nvme, ssd or hdd; it is %q.", v.Media)
		}
		if v.Replicas != nil {
			if out.Replicas = *v.Replicas; out.Replicas < 1 || out.Replicas > MaxReplicas {
				r.wrong(at(v.Range, v.Body, "replicas"), "Invalid number of replicas", "replicas must be from 1 to %d; it is %d.", MaxReplicas, out.Replicas)
			}
		}
		if !oneOf(out.Durability, "sync", "volatile") {
			r.wrong(at(v.Range, v.Body, "durability"), "Invalid durability", "durability must be \"sync\" or \"volatile\"; it is %q.", v.Durability)
		}
		c.Volumes = append(c.Volumes, out)
	}
}

func (r *reader) subsystems(in *file, c *Config) {
	nqns := hostNames{r, map[string]string{}, "NQN", ValidNQN}
	for _, h := range c.Hosts {
		nqns.byName[h.Name] = h.NQN
	}
	resolve := nqns.resolve
	names := names{r: r, kind: "subsystem"}
	for _, s := range in.Subsystems {
		names.add(s.NQN, s.Label)
		if !ValidNQN(s.NQN) {
			r.wrong(s.Label, "Invalid NQN", "%s", nqnHelp(s.NQN))
		}
		if len(s.Serial) > 20 {
			r.wrong(at(s.Range, s.Body, "serial"), "Serial too long", "serial has at most 20 ASCII characters; it has %d.", len(s.Serial))
		}
		out := Subsystem{
			Pos: pos(s.Range), NQN: s.NQN, Tenant: orDefault(s.Tenant, "default"), Serial: s.Serial,
			AllowAnyHost: s.AllowAnyHost, Hosts: resolve(s.Range, s.Body, "hosts", s.Hosts),
		}
		seen := map[uint32]bool{}
		for _, n := range s.Namespaces {
			var id uint32
			if _, err := fmt.Sscanf(n.ID, "%d", &id); err != nil || id < 1 || id > 1024 || fmt.Sprint(id) != n.ID {
				r.wrong(n.Label, "Invalid namespace ID", "A namespace is named by its NSID, from 1 to 1024; it is %q.", n.ID)
			}
			if seen[id] {
				r.wrong(n.Label, "Namespace ID used twice", "NSID %d is used twice in %s.", id, s.NQN)
			}
			seen[id] = true
			out.Namespaces = append(out.Namespaces, Namespace{
				Pos: pos(n.Range), NSID: id, Volume: n.Volume, VisibleTo: resolve(n.Range, n.Body, "visible_to", n.VisibleTo),
			})
		}
		c.Subsystems = append(c.Subsystems, out)
	}
}

// names refuses names that are malformed or used twice.
type names struct {
	r    *reader
	kind string
	seen map[string]hcl.Range
}

var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// ValidName says whether s can name an object.
func ValidName(s string) bool { return nameRule.MatchString(s) }

func (n *names) add(name string, at hcl.Range) {
	if n.seen == nil {
		n.seen = map[string]hcl.Range{}
	}
	if n.kind != "subsystem" && n.kind != "target" && !ValidName(name) {
		n.r.wrong(at, "Invalid name", "The name of a %s has 1 to 63 letters, digits, '.', '_' or '-'; it is %q.", n.kind, name)
	}
	if first, ok := n.seen[name]; ok {
		n.r.wrong(at, "Name used twice", "There is already a %s %q at %s:%d.", n.kind, name, first.Filename, first.Start.Line)
	}
	n.seen[name] = at
}

var nqnRule = regexp.MustCompile(`^nqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[A-Za-z0-9][A-Za-z0-9.-]*(:.+)?$`)

// ValidNQN says whether s is an NVMe qualified name (NVM Express Base 2.0, 4.5).
func ValidNQN(s string) bool { return len(s) <= 223 && nqnRule.MatchString(s) }

func nqnHelp(s string) string {
	return fmt.Sprintf("An NQN is \"nqn.yyyy-mm.reverse.domain:name\", at most 223 bytes; it is %q.", s)
}

func hostname() string {
	h, err := os.Hostname()
	if err != nil || !ValidName(h) {
		return "node-1"
	}
	return h
}
