// Package admin is what an operator's tools speak to: an HTTP and JSON API on a
// unix socket, and Prometheus metrics.
//
// It owns the form of requests and answers (api.go), their mapping to errors, and
// the Client that the command line uses. It owns no object: everything is asked of
// Meta, the supervisor and the services below.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/core/access"
	"github.com/mooring-io/mooring/core/association"
	"github.com/mooring-io/mooring/core/config"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/path"
	"github.com/mooring-io/mooring/core/supervisor"
	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/proto"
)

// Agent is what only the agent itself can answer.
type Agent interface {
	// Info fills what is fixed for the life of the agent.
	Info(*Status)
	Stores(context.Context) ([]Store, error)
	AddStore(context.Context, StoreAdd) (Store, error)
	DrainStore(ctx context.Context, name string) error
	UndrainStore(ctx context.Context, name string) error
	RemoveStore(ctx context.Context, name string) error
	Nodes(context.Context) ([]Node, error)
	RemoveNode(ctx context.Context, name string) error
	// DrainNode has the replicas of a node leave it. It is refused where volumes would have too few without, unless forced.
	DrainNode(ctx context.Context, name string, force bool) error
	UndrainNode(ctx context.Context, name string) error
	Cluster(context.Context) (Cluster, error)
	JoinToken(ctx context.Context, life time.Duration) (string, error)
	Certificate(context.Context) (Certificate, error)
	RenewCertificate(context.Context) error
	Listeners() []Access
	Reload(context.Context) (ReloadReport, error)
	Doctor(context.Context) []Finding
	// Shrunk cuts what a volume that was made smaller still has beyond its size.
	Shrunk(ctx context.Context, v meta.Volume) error
	// Deleted removes the data of a volume that is being deleted.
	Deleted(ctx context.Context, v meta.Volume) error
	// MetaSilent is for how long the metadata has not answered, 0: it does. It takes a second at most.
	MetaSilent(context.Context) time.Duration
	// SeenVolumes are the volumes as this node last knew them, for when the metadata does not answer.
	SeenVolumes() []meta.Volume
	// Scrub reads all replicas of a volume, and repairs what is damaged or differs.
	Scrub(ctx context.Context, v meta.Volume, progress func(Scrub)) (Scrub, error)
	// Note records an event: what an operator did to which object.
	Note(kind, object, message string)
}

// Server answers requests. Made once, safe for many requests.
type Server struct {
	Agent      Agent
	Meta       *meta.Meta
	Access     *access.Access
	Hosts      *association.Service
	Paths      *path.Engine
	Supervisor *supervisor.Supervisor
	Logger     hclog.Logger

	mu   sync.Mutex
	last sample // of the status call before; guarded by mu
}

// Listen makes the unix socket, for this user alone, replacing what a dead agent left.
func Listen(path string) (net.Listener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("another agent listens at %s", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of a former agent: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for the command line: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("protect the control socket: %w", err)
	}
	return l, nil
}

// Handler returns the API.
func (s *Server) Handler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/status", answer(s.status))
	m.HandleFunc("GET /v1/doctor", answer(func(r *http.Request) (any, error) { return s.Agent.Doctor(r.Context()), nil }))
	m.HandleFunc("POST /v1/reload", answer(func(r *http.Request) (any, error) { return s.Agent.Reload(r.Context()) }))
	m.HandleFunc("GET /v1/events", s.events)
	m.HandleFunc("GET /v1/meta/backup", s.backup)

	m.HandleFunc("GET /v1/volumes", answer(s.volumes))
	m.HandleFunc("POST /v1/volumes", answer(s.createVolume))
	m.HandleFunc("GET /v1/volumes/{name}", answer(s.volume))
	m.HandleFunc("PATCH /v1/volumes/{name}", answer(s.setVolume))
	m.HandleFunc("POST /v1/volumes/{name}/scrub", s.scrub)
	m.HandleFunc("DELETE /v1/volumes/{name}", answer(s.deleteVolume))

	m.HandleFunc("GET /v1/subsystems", answer(s.subsystems))
	m.HandleFunc("POST /v1/subsystems", answer(s.createSubsystem))
	m.HandleFunc("GET /v1/subsystems/{nqn}", answer(s.subsystem))
	m.HandleFunc("DELETE /v1/subsystems/{nqn}", answer(s.deleteSubsystem))
	m.HandleFunc("POST /v1/subsystems/{nqn}/namespaces", answer(s.attachNamespace))
	m.HandleFunc("DELETE /v1/subsystems/{nqn}/namespaces/{nsid}", answer(s.detachNamespace))
	m.HandleFunc("GET /v1/targets", answer(s.targets))
	m.HandleFunc("POST /v1/targets", answer(s.createTarget))
	m.HandleFunc("GET /v1/targets/{iqn}", answer(s.target))
	m.HandleFunc("DELETE /v1/targets/{iqn}", answer(s.deleteTarget))
	m.HandleFunc("PUT /v1/targets/{iqn}/chap", answer(s.setCHAP))
	m.HandleFunc("POST /v1/targets/{iqn}/luns", answer(s.attachUnit))
	m.HandleFunc("DELETE /v1/targets/{iqn}/luns/{lun}", answer(s.detachUnit))

	m.HandleFunc("GET /v1/hosts", answer(func(*http.Request) (any, error) { return s.sessions(), nil }))
	m.HandleFunc("POST /v1/hosts/allow", answer(s.hostRule(true)))
	m.HandleFunc("POST /v1/hosts/deny", answer(s.hostRule(false)))

	s.tenantRoutes(m)
	s.pathRoutes(m)
	s.clusterRoutes(m)

	m.HandleFunc("GET /v1/plugins", answer(func(*http.Request) (any, error) { return s.plugins(), nil }))
	m.HandleFunc("POST /v1/plugins", answer(s.addPlugin))
	m.HandleFunc("DELETE /v1/plugins/{name}", answer(s.removePlugin))
	m.HandleFunc("POST /v1/plugins/{name}/restart", answer(s.restartPlugin))
	m.HandleFunc("GET /v1/plugins/{name}/logs", answer(s.pluginLogs))

	m.HandleFunc("GET /v1/stores", answer(func(r *http.Request) (any, error) { return s.Agent.Stores(r.Context()) }))
	m.HandleFunc("POST /v1/stores", answer(s.addStore))
	m.HandleFunc("POST /v1/stores/{name}/undrain", answer(func(r *http.Request) (any, error) {
		return struct{}{}, s.Agent.UndrainStore(r.Context(), r.PathValue("name"))
	}))
	m.HandleFunc("POST /v1/stores/{name}/drain", answer(func(r *http.Request) (any, error) {
		return struct{}{}, s.Agent.DrainStore(r.Context(), r.PathValue("name"))
	}))
	m.HandleFunc("DELETE /v1/stores/{name}", answer(func(r *http.Request) (any, error) {
		return struct{}{}, s.Agent.RemoveStore(r.Context(), r.PathValue("name"))
	}))
	return m
}

// made is the answer to a request that makes an object: 201 when it did, 200 when an equal
// one existed.
type made struct {
	value   any
	existed bool
}

// answer turns a function into a handler: its value as JSON, or its error as a Problem.
func answer(fn func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
		v, err := fn(r)
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			p, code := problem(err)
			w.WriteHeader(code)
			v = p
		} else if m, ok := v.(made); ok {
			if v = m.value; !m.existed {
				w.WriteHeader(http.StatusCreated)
			}
		}
		_ = json.NewEncoder(w).Encode(v) // the client has gone: nobody to tell
	}
}

// problem is the one place where errors become answers.
func problem(err error) (Problem, int) {
	p := Problem{Error: err.Error()}
	var users *meta.InUseError
	if errors.As(err, &users) {
		p.Users = users.Users
	}
	for _, k := range []struct {
		kind string
		code int
		errs []error
	}{
		{KindInvalid, http.StatusBadRequest, []error{meta.ErrInvalid, sdk.ErrInvalid, errBadRequest}},
		{KindNotFound, http.StatusNotFound, []error{meta.ErrNotFound, supervisor.ErrUnknown}},
		{KindManaged, http.StatusConflict, []error{meta.ErrManaged}},
		{KindInUse, http.StatusConflict, []error{meta.ErrInUse}},
		{KindExists, http.StatusConflict, []error{meta.ErrExists}},
		{KindConflict, http.StatusConflict, []error{meta.ErrConflict}},
		{KindFull, http.StatusInsufficientStorage, []error{meta.ErrFull}},
	} {
		for _, e := range k.errs {
			if errors.Is(err, e) {
				p.Kind = k.kind
				return p, k.code
			}
		}
	}
	p.Kind = KindInternal
	return p, http.StatusInternalServerError
}

var errBadRequest = errors.New("bad request")

func read[T any](r *http.Request) (T, error) {
	var v T
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, fmt.Errorf("read the request: %w: %w", errBadRequest, err)
	}
	return v, nil
}

// ---------------------------------------------------------------- volumes

func (s *Server) findVolume(r *http.Request) (meta.Volume, error) {
	return s.Meta.FindVolume(r.Context(), r.URL.Query().Get("tenant"), r.PathValue("name"))
}

func (s *Server) volumes(r *http.Request) (any, error) {
	vs, err := s.Meta.Volumes(r.Context())
	if err != nil {
		return nil, err
	}
	return s.present(r.Context(), vs)
}

// present shows volumes with what the stores and the reactor know of them.
func (s *Server) present(ctx context.Context, vs []meta.Volume) ([]Volume, error) {
	return s.show(ctx, vs, s.Meta.VolumeUsers)
}

// noUsers are a volume's while nobody can tell.
func noUsers(context.Context, uuid.UUID) ([]string, error) { return []string{}, nil }

func (s *Server) show(ctx context.Context, vs []meta.Volume, usersOf func(context.Context, uuid.UUID) ([]string, error)) ([]Volume, error) {
	stats, err := s.Access.Stats(ctx)
	if err != nil {
		return nil, err
	}
	used := s.Hosts.Options.Used()
	out := []Volume{}
	for _, v := range vs {
		if v.State == meta.VolumeDeleting {
			continue
		}
		users, err := usersOf(ctx, v.ID)
		if err != nil {
			return nil, err
		}
		o := Volume{
			Name: v.Name, ID: v.ID.String(), Tenant: v.Tenant, Size: v.Bytes, Used: used[v.ID], BlockSize: v.BlockBytes,
			Durability: string(v.Durability), Replicas: v.Replicas, Media: v.Media, Group: v.Group, Created: v.Created, Managed: managed(v.Managed), Users: users, State: "online",
		}
		for i := range stats.Volumes {
			if st := &stats.Volumes[i]; st.Volume == v.ID {
				o.ReadOps, o.WriteOps = st.Reads, st.Writes
				if !st.Away {
					o.Health = &Health{
						Reduced: st.Health.Reduced, Away: st.Health.Away, Left: st.Health.Left, Copied: st.Copied, Joined: st.Joined, Reason: st.Health.Reason,
					}
				}
				switch {
				case st.Trouble != "":
					o.State = st.Trouble
				case st.Health.Reduced+st.Health.Away > 0:
					o.State = "degraded"
				}
			}
		}
		out = append(out, o)
	}
	return out, nil
}

func managed(m *meta.Managed) string {
	if m == nil {
		return ""
	}
	return m.String()
}

func (s *Server) presentOne(ctx context.Context, v meta.Volume, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	out, err := s.present(ctx, []meta.Volume{v})
	if err != nil || len(out) == 0 {
		return nil, errors.Join(err, meta.ErrNotFound)
	}
	_, by, err := s.Meta.VolumeOwner(ctx, v.ID)
	if err != nil || by == nil {
		return out[0], err
	}
	n, err := s.Meta.Node(ctx, by.Node)
	out[0].Driver = n.Name
	return out[0], err
}

func (s *Server) volume(r *http.Request) (any, error) {
	v, err := s.findVolume(r)
	return s.presentOne(r.Context(), v, err)
}

func (s *Server) createVolume(r *http.Request) (any, error) {
	in, err := read[VolumeCreate](r)
	if err != nil {
		return nil, err
	}
	_, err = s.Meta.FindVolume(r.Context(), in.Tenant, in.Name)
	existed := err == nil
	v, err := s.Meta.CreateVolume(r.Context(), meta.Volume{
		Name: in.Name, Tenant: in.Tenant, Bytes: in.Size, BlockBytes: in.BlockSize, Durability: meta.Durability(in.Durability), Replicas: in.Replicas, Group: in.Group, Media: in.Media,
	})
	if err == nil && !existed {
		s.Agent.Note("volume-created", v.String(), config.FormatSize(v.Bytes))
	}
	out, err := s.presentOne(r.Context(), v, err)
	return made{out, existed}, err
}

func (s *Server) setVolume(r *http.Request) (any, error) {
	in, err := read[VolumeSet](r)
	if err != nil {
		return nil, err
	}
	v, err := s.findVolume(r)
	if err != nil {
		return nil, err
	}
	if in.Group != nil {
		if v, err = s.Meta.SetGroup(r.Context(), v.ID, *in.Group); err != nil {
			return nil, err
		}
		s.Agent.Note("volume-grouped", v.String(), v.Group)
	}
	if in.Durability != "" {
		if v, err = s.Meta.SetDurability(r.Context(), v.ID, meta.Durability(in.Durability)); err != nil {
			return nil, err
		}
		s.Agent.Note("volume-durability", v.String(), in.Durability)
	}
	if in.Replicas != 0 {
		if v, err = s.Meta.SetReplicas(r.Context(), v.ID, in.Replicas); err != nil {
			return nil, err
		}
		s.Agent.Note("volume-replicas", v.String(), fmt.Sprint(in.Replicas))
	}
	if in.Size != 0 {
		if v, err = s.resizeVolume(r.Context(), v, in); err != nil {
			return nil, err
		}
	}
	return s.presentOne(r.Context(), v, s.Hosts.Sync(r.Context()))
}

func (s *Server) resizeVolume(ctx context.Context, v meta.Volume, in VolumeSet) (meta.Volume, error) {
	if in.Size < v.Bytes && !in.Force {
		return v, &meta.InvalidError{Field: "size", Want: fmt.Sprintf("at least the present %s, unless -force is given, which destroys what lies beyond the new end; it is %s", config.FormatSize(v.Bytes), config.FormatSize(in.Size))}
	}
	v, err := s.Meta.ResizeVolume(ctx, v.ID, meta.Resize{Bytes: in.Size, Shrink: in.Force, Force: in.Force})
	if err != nil {
		return v, err
	}
	s.Agent.Note("volume-resized", v.String(), config.FormatSize(v.Bytes))
	if v.Trim >= 0 {
		err = s.Agent.Shrunk(ctx, v)
	}
	return v, err
}

func (s *Server) deleteVolume(r *http.Request) (any, error) {
	v, err := s.findVolume(r)
	if err != nil {
		return nil, err
	}
	if err := s.Meta.DeleteVolume(r.Context(), v.ID); err != nil {
		return nil, err
	}
	return struct{}{}, s.Agent.Deleted(r.Context(), v)
}

// ---------------------------------------------------------------- subsystems

func (s *Server) subsystems(r *http.Request) (any, error) {
	all, err := s.Meta.Subsystems(r.Context())
	if err != nil {
		return nil, err
	}
	out := []Subsystem{}
	for _, x := range all {
		p, err := s.presentSubsystem(r.Context(), x)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func (s *Server) presentSubsystem(ctx context.Context, x meta.Subsystem) (Subsystem, error) {
	out := Subsystem{
		NQN: x.NQN, Tenant: x.Tenant, Serial: x.Serial, AllowAnyHost: x.AllowAnyHost, Hosts: x.AllowedHosts, Managed: managed(x.Managed), Namespaces: []Namespace{},
	}
	ns, err := s.Meta.Namespaces(ctx, x.NQN)
	if err != nil {
		return out, err
	}
	for _, n := range ns {
		p, err := s.presentNamespace(ctx, n)
		if err != nil {
			return out, err
		}
		out.Namespaces = append(out.Namespaces, p)
	}
	return out, nil
}

func (s *Server) presentNamespace(ctx context.Context, n meta.Namespace) (Namespace, error) {
	v, err := s.Meta.Volume(ctx, n.Volume)
	if err != nil {
		return Namespace{}, err
	}
	return Namespace{
		Subsystem: n.Subsystem, NSID: uint32(n.NSID), Volume: v.Name, Size: v.Bytes, BlockSize: v.BlockBytes, ANAGroup: uint32(n.ANAGroup),
		NGUID: uuid.UUID(v.NGUID()).String(), UUID: v.ID.String(), VisibleTo: n.VisibleTo, Managed: managed(n.Managed),
	}, nil
}

func (s *Server) subsystem(r *http.Request) (any, error) {
	x, err := s.Meta.Subsystem(r.Context(), r.PathValue("nqn"))
	if err == nil && x.Target != nil {
		err = fmt.Errorf("%s is a target, and there is no subsystem of that name: %w", x.NQN, meta.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return s.presentSubsystem(r.Context(), x)
}

func (s *Server) createSubsystem(r *http.Request) (any, error) {
	in, err := read[SubsystemCreate](r)
	if err != nil {
		return nil, err
	}
	_, err = s.Meta.Subsystem(r.Context(), in.NQN)
	existed := err == nil
	x, err := s.Meta.CreateSubsystem(r.Context(), meta.Subsystem{NQN: in.NQN, Tenant: in.Tenant, Serial: in.Serial, AllowAnyHost: in.AllowAnyHost})
	if err != nil {
		return nil, err
	}
	if !existed {
		s.Agent.Note("subsystem-created", x.NQN, "")
	}
	if err := s.Hosts.Sync(r.Context()); err != nil {
		return nil, err
	}
	out, err := s.presentSubsystem(r.Context(), x)
	return made{out, existed}, err
}

func (s *Server) deleteSubsystem(r *http.Request) (any, error) {
	nqn := r.PathValue("nqn")
	if _, err := s.Meta.Subsystem(r.Context(), nqn); err != nil {
		return nil, err
	}
	if err := s.Meta.DeleteSubsystem(r.Context(), nqn); err != nil {
		return nil, err
	}
	s.Agent.Note("subsystem-deleted", nqn, "")
	return struct{}{}, s.Hosts.Sync(r.Context())
}

func (s *Server) attachNamespace(r *http.Request) (any, error) {
	in, err := read[NamespaceAttach](r)
	if err != nil {
		return nil, err
	}
	v, err := s.Meta.FindVolume(r.Context(), r.URL.Query().Get("tenant"), in.Volume)
	if err != nil {
		return nil, err
	}
	existed, err := s.attached(r.Context(), r.PathValue("nqn"), v)
	if err != nil {
		return nil, err
	}
	n, err := s.Meta.AttachNamespace(r.Context(), meta.Namespace{
		Subsystem: r.PathValue("nqn"), NSID: meta.NSID(in.NSID), Volume: v.ID, VisibleTo: in.VisibleTo,
	})
	if err != nil {
		return nil, err
	}
	if !existed {
		s.Agent.Note("namespace-attached", n.Subsystem, fmt.Sprintf("namespace %d is volume %s", n.NSID, v))
	}
	if err := s.Hosts.Sync(r.Context()); err != nil {
		return nil, err
	}
	out, err := s.presentNamespace(r.Context(), n)
	return made{out, existed}, err
}

// attached says whether a subsystem or target has a volume.
func (s *Server) attached(ctx context.Context, name string, v meta.Volume) (bool, error) {
	all, err := s.Meta.Namespaces(ctx, name)
	return slices.ContainsFunc(all, func(n meta.Namespace) bool { return n.Volume == v.ID }), err
}

func (s *Server) detachNamespace(r *http.Request) (any, error) {
	id, err := strconv.ParseUint(r.PathValue("nsid"), 10, 32)
	if err != nil {
		return nil, fmt.Errorf("NSID %q is no number: %w", r.PathValue("nsid"), errBadRequest)
	}
	if _, err := s.Meta.Namespace(r.Context(), r.PathValue("nqn"), meta.NSID(id)); err != nil {
		return nil, err
	}
	if err := s.Meta.DetachNamespace(r.Context(), r.PathValue("nqn"), meta.NSID(id)); err != nil {
		return nil, err
	}
	s.Agent.Note("namespace-detached", r.PathValue("nqn"), fmt.Sprintf("namespace %d", id))
	return struct{}{}, s.Hosts.Sync(r.Context())
}

// ---------------------------------------------------------------- hosts

func (s *Server) sessions() []Session {
	out := []Session{}
	for _, x := range s.Hosts.Sessions() {
		out = append(out, Session{
			Host: x.Host.Name, Subsystem: x.Subsystem, AccessPoint: x.AccessPoint, Peer: x.Peer, ControllerID: x.ControllerID, Since: x.Since,
		})
	}
	return out
}

func (s *Server) hostRule(allow bool) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		in, err := read[HostRule](r)
		if err != nil {
			return nil, err
		}
		before, err := s.Meta.Subsystem(r.Context(), in.Subsystem)
		if err != nil {
			return nil, err
		}
		if err := s.applyHostRule(r.Context(), in, allow); err != nil {
			return nil, err
		}
		after, err := s.Meta.Subsystem(r.Context(), in.Subsystem)
		if err != nil {
			return nil, err
		}
		if after.Generation == before.Generation {
			return made{in, true}, nil // it was so already
		}
		kind, what := "host-denied", in.Host
		if allow {
			kind = "host-allowed"
		}
		if in.NSID != 0 {
			what += fmt.Sprintf(", namespace %d", in.NSID)
		}
		s.Agent.Note(kind, in.Subsystem, what)
		return made{in, false}, s.Hosts.Sync(r.Context())
	}
}

func (s *Server) applyHostRule(ctx context.Context, in HostRule, allow bool) error {
	if in.Host == AnyHost && in.NSID == 0 {
		return s.Meta.SetAllowAnyHost(ctx, in.Subsystem, allow)
	}
	host, err := s.Meta.ResolveHost(ctx, meta.ProtocolOf(in.Subsystem), in.Host)
	switch {
	case err != nil:
		return err
	case in.NSID != 0:
		return s.setVisible(ctx, in.Subsystem, meta.NSID(in.NSID), host, allow)
	case allow:
		return s.Meta.AllowHost(ctx, in.Subsystem, host)
	}
	x, err := s.Meta.Subsystem(ctx, in.Subsystem)
	if err != nil {
		return err
	}
	if x.AllowAnyHost {
		return fmt.Errorf("%s lets any host connect; deny \"any\" first, which leaves those that are allowed by name: %w", x.NQN, meta.ErrConflict)
	}
	return s.Meta.DenyHost(ctx, in.Subsystem, host)
}

// setVisible adds a host to those who see a namespace, or removes it. A namespace
// without a list is seen by every allowed host, so the first host that is added
// hides it from the others, and the last one cannot be removed.
func (s *Server) setVisible(ctx context.Context, nqn string, id meta.NSID, host string, on bool) error {
	n, err := s.Meta.Namespace(ctx, nqn, id)
	if err != nil {
		return err
	}
	hosts := slices.DeleteFunc(slices.Clone(n.VisibleTo), func(h string) bool { return h == host })
	if on {
		hosts = append(hosts, host)
	} else if len(hosts) == 0 {
		return &meta.InvalidError{Field: "host", Want: "one of several that see the namespace; without any it would be seen by every allowed host: detach the namespace instead"}
	}
	return s.Meta.SetVisibility(ctx, nqn, id, hosts)
}

// ---------------------------------------------------------------- plugins

func (s *Server) plugins() []Plugin {
	out := []Plugin{}
	for _, p := range s.Supervisor.List() {
		out = append(out, presentPlugin(p))
	}
	return out
}

func presentPlugin(p supervisor.Status) Plugin {
	out := Plugin{
		Name: p.Entry.Name, Path: p.Entry.Path, SHA256: p.Entry.SHA256, State: p.State.String(), Reason: p.Reason,
		PID: p.PID, UID: p.UID, Restarts: int(p.Restarts), Since: p.Since,
	}
	if d := p.Description; d != nil {
		out.Kind, out.Version = kindName(d.Kind), d.Version
	}
	if out.Reason == "" && p.State == supervisor.StateRunning && !p.Healthy {
		out.Reason = p.HealthReason
	}
	return out
}

func kindName(k proto.Kind) string {
	switch k {
	case proto.Kind_KIND_DATA:
		return "data"
	case proto.Kind_KIND_POLICY:
		return "policy"
	default:
		return "unknown"
	}
}

func (s *Server) addPlugin(r *http.Request) (any, error) {
	in, err := read[PluginAdd](r)
	if err != nil {
		return nil, err
	}
	was, err := s.Supervisor.Status(filepath.Base(in.Path))
	known := err == nil
	e, err := s.Supervisor.Add(r.Context(), in.Path)
	if err != nil {
		return nil, err
	}
	st, err := s.Supervisor.Status(e.Name)
	return made{presentPlugin(st), known && was.Entry.Path == e.Path && was.Entry.SHA256 == e.SHA256}, err
}

func (s *Server) removePlugin(r *http.Request) (any, error) {
	name := r.PathValue("name")
	if st, err := s.Supervisor.Status(name); err == nil && st.State != supervisor.StateIdle {
		return nil, &meta.InUseError{What: "plugin " + name, Users: []string{"the running configuration; take its block out and reload first"}}
	}
	return struct{}{}, s.Supervisor.Remove(r.Context(), name)
}

func (s *Server) restartPlugin(r *http.Request) (any, error) {
	name := r.PathValue("name")
	if err := s.Supervisor.Restart(r.Context(), name); err != nil {
		return nil, err
	}
	s.Agent.Note("plugin-restarted", name, "asked for")
	return struct{}{}, nil
}

func (s *Server) pluginLogs(r *http.Request) (any, error) {
	lines, err := s.Supervisor.Logs(r.PathValue("name"), 0)
	if err != nil {
		return nil, err
	}
	out := []string{}
	for _, l := range lines {
		out = append(out, fmt.Sprintf("%s [%s] %s", l.Time.Format("2006-01-02T15:04:05.000Z07:00"), strings.ToUpper(l.Level), l.Text))
	}
	return out, nil
}

func (s *Server) addStore(r *http.Request) (any, error) {
	in, err := read[StoreAdd](r)
	if err != nil {
		return nil, err
	}
	if !filepath.IsAbs(in.Path) {
		return nil, &meta.InvalidError{Field: "path", Want: fmt.Sprintf("the absolute path of a folder; it is %q", in.Path)}
	}
	before, err := s.Agent.Stores(r.Context())
	if err != nil {
		return nil, err
	}
	out, err := s.Agent.AddStore(r.Context(), in)
	return made{out, slices.ContainsFunc(before, func(b Store) bool { return b.ID == out.ID })}, err
}

// ---------------------------------------------------------------- streams

// backup streams Meta's backup; a failure half-way cuts the stream short, which the
// reader finds by its closing checksum.
func (s *Server) backup(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := s.Meta.Backup(r.Context(), w); err != nil {
		s.Logger.Error("backup failed", "error", err)
		panic(http.ErrAbortHandler)
	}
}

// events prints the journal, and goes on with ?follow=1.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	last := map[uuid.UUID]uint64{} // sequence numbers are each node's own
	changed := s.Meta.Watch(r.Context(), meta.TopicEvents)
	for {
		list, err := s.Meta.Events(r.Context(), 0)
		if err != nil {
			return
		}
		for _, e := range list {
			if e.Seq <= last[e.Node] {
				continue
			}
			last[e.Node] = e.Seq
			if enc.Encode(Event{Node: e.Node.String(), Seq: e.Seq, Time: e.Time, Severity: string(e.Severity), Kind: e.Kind, Object: e.Object, Text: e.Message}) != nil {
				return
			}
		}
		if r.URL.Query().Get("follow") == "" {
			return
		}
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
		if _, ok := <-changed; !ok {
			return
		}
	}
}

// ---------------------------------------------------------------- status

// sample is what rates are computed from.
type sample struct {
	at                                   time.Time
	reads, writes, readBytes, writeBytes uint64
}

func (s *Server) status(r *http.Request) (any, error) {
	ctx := r.Context()
	st := Status{Volumes: []Volume{}, Stores: []Store{}, Warnings: []string{}}
	s.Agent.Info(&st)
	st.Meta.Silent = s.Agent.MetaSilent(ctx)
	vs, users, err := s.Agent.SeenVolumes(), noUsers, error(nil)
	if st.Meta.Silent == 0 {
		users = s.Meta.VolumeUsers
		if vs, err = s.Meta.Volumes(ctx); err != nil {
			return nil, err
		}
	}
	if st.Volumes, err = s.show(ctx, vs, users); err != nil {
		return nil, err
	}
	if st.Stores, err = s.Agent.Stores(ctx); err != nil {
		return nil, err
	}
	st.Plugins, st.Access, st.Hosts = s.plugins(), s.Agent.Listeners(), s.sessions()
	if st.Rates, err = s.rates(ctx); err != nil {
		return nil, err
	}
	for _, f := range s.Agent.Doctor(ctx) {
		if f.Level != "ok" {
			st.Warnings = append(st.Warnings, f.What)
		}
	}
	return st, nil
}

func (s *Server) sample(ctx context.Context) (sample, error) {
	out := sample{at: time.Now()}
	stats, err := s.Access.Stats(ctx)
	for _, v := range stats.Volumes {
		out.reads += v.Reads
		out.writes += v.Writes
		out.readBytes += v.ReadBytes
		out.writeBytes += v.WriteBytes
	}
	return out, err
}

// rates compares with the former status call, if that was within some seconds.
func (s *Server) rates(ctx context.Context) (Rates, error) {
	now, err := s.sample(ctx)
	if err != nil {
		return Rates{}, err
	}
	s.mu.Lock()
	last := s.last
	s.last = now
	s.mu.Unlock()
	if d := now.at.Sub(last.at); d > 5*time.Second || d < 200*time.Millisecond {
		last = now
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return Rates{}, ctx.Err()
		}
		if now, err = s.sample(ctx); err != nil {
			return Rates{}, err
		}
	}
	d := now.at.Sub(last.at).Seconds()
	per := func(a, b uint64) float64 { return float64(a-min(a, b)) / d }
	return Rates{per(now.reads, last.reads), per(now.writes, last.writes), per(now.readBytes, last.readBytes), per(now.writeBytes, last.writeBytes)}, nil
}
