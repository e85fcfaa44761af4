package plugintest

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/block/blocktest"
	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/ring"
)

// What a Harness exports: one subsystem, to every host but one.
const (
	Subsystem  = "nqn.2026-11.io.mooring:plugintest"
	AnyHost    = "nqn.2026-11.io.mooring:host"
	DeniedHost = "nqn.2026-11.io.mooring:denied"

	NSID         = 1       // of the namespace that is there from the start
	VolumeBytes  = 8 << 20 // size of its volume
	BlockBytes   = 512
	AccessPoints = "ap-" // access point IDs begin with it
)

const (
	threads     = 2
	ringEntries = 64
	poolBytes   = 8 << 20
	callTimeout = 10 * time.Second
)

// Harness stands in for the core of one plugin, over any number of lives. Its
// methods are for the test's goroutine.
type Harness struct {
	tb     testing.TB
	config Config
	log    hclog.Logger

	volumes *blocktest.Core
	life    *life // nil while the plugin is not running

	mu         sync.Mutex
	lives      uint64                       // guarded by mu
	ids        uint64                       // guarded by mu
	generation uint64                       // guarded by mu
	namespaces map[uint32]*blocktest.Volume // guarded by mu
	listeners  []*proto.Listener            // guarded by mu
	urls       []string                     // guarded by mu: what the plugin reported for each
}

// life is one run of the plugin.
type life struct {
	core        *core
	service     *sdk.Service
	descriptors *net.UnixConn // the core's end
	servers     []*grpc.Server
	conn        *grpc.ClientConn
	plugin      proto.PluginClient
	data        proto.DataClient
	description *proto.Description
}

// Start makes a Harness and starts the plugin in it, without listeners. The plugin
// is stopped when the test ends, if it was not before.
func Start(tb testing.TB, config Config) *Harness {
	tb.Helper()
	if err := config.check(); err != nil {
		tb.Fatal(err)
	}
	h := &Harness{
		tb: tb, config: config, volumes: blocktest.New(), namespaces: map[uint32]*blocktest.Volume{},
		log: hclog.New(&hclog.LoggerOptions{Name: "plugin", Level: hclog.Debug, Output: &logWriter{tb: tb}}),
	}
	h.AddNamespace(NSID, VolumeBytes)
	h.StartPlugin()
	tb.Cleanup(func() {
		if h.life != nil {
			h.StopPlugin()
		}
	})
	return h
}

// logWriter drops what comes when the test is over.
type logWriter struct{ tb testing.TB }

func (w *logWriter) Write(p []byte) (int, error) {
	if w.tb.Context().Err() == nil {
		w.tb.Logf("%s", p)
	}
	return len(p), nil
}

// StartPlugin begins a new life of the plugin, with rings of their own. The
// listeners of the former one are set again; URLs tells where they are now.
func (h *Harness) StartPlugin() {
	h.tb.Helper()
	if err := h.begin(); err != nil {
		h.tb.Fatalf("start the plugin: %v", err)
	}
	h.mu.Lock()
	listeners := h.listeners
	h.mu.Unlock()
	if len(listeners) > 0 {
		h.setListeners(listeners)
	}
}

func (h *Harness) begin() error {
	h.mu.Lock()
	h.lives++
	l := &life{core: &core{harness: h, incarnation: h.lives, associations: map[uint64]*proto.AssociateRequest{}}}
	h.mu.Unlock()
	theirs, err := l.connectDescriptors()
	if err != nil {
		return err
	}
	dialCore, err := l.serve(func(s *grpc.Server) { proto.RegisterCoreServer(s, l.core) })
	if err != nil {
		return err
	}
	l.service, err = sdk.NewService(h.config.New(), sdk.Channel{
		DialCore: func(uint32) (*grpc.ClientConn, error) { return dialCore() }, Descriptors: theirs, Logger: h.log,
	})
	if err != nil {
		return err
	}
	h.life = l
	dialPlugin, err := l.serve(func(s *grpc.Server) { l.service.Register(s) })
	if err != nil {
		return err
	}
	if l.conn, err = dialPlugin(); err != nil {
		return err
	}
	l.plugin, l.data = proto.NewPluginClient(l.conn), proto.NewDataClient(l.conn)
	return h.bringUp(l)
}

// bringUp makes the calls of a plugin's start.
func (h *Harness) bringUp(l *life) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	var err error
	if l.description, err = l.plugin.Describe(ctx, &proto.DescribeRequest{}); err != nil {
		return err
	}
	settings, err := h.config.settings(l.description)
	if err != nil {
		return err
	}
	resp, err := l.plugin.Configure(ctx, &proto.ConfigureRequest{Json: settings})
	if err != nil {
		return err
	}
	if len(resp.Errors) > 0 {
		return fmt.Errorf("configure with %s: %v", settings, resp.Errors)
	}
	_, err = l.data.Start(ctx, &proto.StartRequest{Threads: threads, RingEntries: ringEntries, PoolBytes: poolBytes})
	return err
}

func (l *life) connectDescriptors() (theirs *net.UnixConn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "descriptors")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			return nil, err
		}
		conns[i] = c.(*net.UnixConn)
	}
	l.descriptors, l.core.descriptors = conns[0], conns[0]
	return conns[1], nil
}

// serve runs a gRPC server in memory and returns how to dial it.
func (l *life) serve(register func(*grpc.Server)) (dial func() (*grpc.ClientConn, error), err error) {
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer(sdk.ServerOptions()...)
	register(server)
	l.servers = append(l.servers, server)
	go func() { _ = server.Serve(listener) }() // ends with Stop
	return func() (*grpc.ClientConn, error) {
		opts := append(sdk.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
		return grpc.NewClient("passthrough:memory", opts...)
	}, nil
}

// StopPlugin ends the present life in order: what is in flight is finished.
func (h *Harness) StopPlugin() {
	h.tb.Helper()
	l := h.life
	h.life = nil
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if _, err := l.data.Stop(ctx, &proto.StopRequest{}); err != nil {
		h.tb.Fatalf("stop the plugin: %v", err)
	}
	if err := l.core.broken(); err != nil {
		h.tb.Errorf("the plugin broke its rings: %v", err)
	}
	if left := l.core.hosts(); len(left) > 0 {
		h.tb.Errorf("associations that the stopped plugin did not end: %v", left)
	}
	l.release(h.tb)
}

// KillCore lets the plugin's core die: rings, calls and the descriptor socket end at
// once. It returns when the plugin has noticed and ended.
func (h *Harness) KillCore() {
	h.tb.Helper()
	l := h.life
	h.life = nil
	l.descriptors.Close()
	l.core.end()
	for _, s := range l.servers {
		s.Stop()
	}
	select {
	case <-l.service.CoreGone():
	case <-time.After(callTimeout):
		h.tb.Fatal("the plugin did not notice that its core is gone")
	}
	l.release(h.tb)
}

func (l *life) release(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- l.service.Close(ctx) }()
	select {
	case err := <-closed:
		if err != nil {
			tb.Logf("close: %v", err) // an error is no breach when the core is dead
		}
	case <-time.After(2 * callTimeout):
		tb.Fatal("the plugin's Stop does not return")
	}
	l.conn.Close()
	for _, s := range l.servers {
		s.Stop()
	}
	l.core.end()
	l.descriptors.Close()
}

// Listen has the plugin listen at n addresses, each Config.Listen, and returns the
// URLs that it reports.
func (h *Harness) Listen(n int) []string {
	h.tb.Helper()
	var list []*proto.Listener
	for i := range n {
		list = append(list, &proto.Listener{Url: h.config.Listen, AccessPointId: fmt.Sprintf("%s%d", AccessPoints, i)})
	}
	var urls []string
	for _, st := range h.setListeners(list) {
		if st.Error != "" {
			h.tb.Fatalf("listen at %s: %s", h.config.Listen, st.Error)
		}
		urls = append(urls, st.Url)
	}
	return urls
}

func (h *Harness) setListeners(list []*proto.Listener) []*proto.ListenerState {
	h.tb.Helper()
	h.mu.Lock()
	h.listeners = list
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	resp, err := h.life.data.SetListeners(ctx, &proto.SetListenersRequest{Listeners: list})
	if err != nil {
		h.tb.Fatalf("set listeners: %v", err)
	}
	if len(resp.States) != len(list) {
		h.tb.Fatalf("set listeners: %d states for %d listeners", len(resp.States), len(list))
	}
	for i, st := range resp.States {
		if st.AccessPointId != list[i].AccessPointId {
			h.tb.Fatalf("set listeners: state %d is of %q, want %q", i, st.AccessPointId, list[i].AccessPointId)
		}
	}
	h.mu.Lock()
	h.urls = nil
	for _, st := range resp.States {
		h.urls = append(h.urls, st.Url)
	}
	h.mu.Unlock()
	h.announce()
	return resp.States
}

// URLs are the addresses that the plugin listens on, as it reported them.
func (h *Harness) URLs() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.urls...)
}

// Volumes are the memory behind the rings: what goes wrong there can be arranged
// with it.
func (h *Harness) Volumes() *blocktest.Core { return h.volumes }

// Volume is the volume of a namespace.
func (h *Harness) Volume(nsid uint32) *blocktest.Volume {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.namespaces[nsid]
}

// AddNamespace adds a namespace and tells the plugin.
func (h *Harness) AddNamespace(nsid uint32, size int64) {
	v := h.volumes.AddVolume(size, BlockBytes)
	h.mu.Lock()
	h.namespaces[nsid] = v
	h.generation++
	h.mu.Unlock()
	h.announce()
}

// RemoveNamespace takes a namespace away and tells the plugin; its handles are void.
func (h *Harness) RemoveNamespace(nsid uint32) {
	h.mu.Lock()
	h.namespaces[nsid].Revoke()
	delete(h.namespaces, nsid)
	h.generation++
	h.mu.Unlock()
	h.announce()
}

// EndAssociations tells the plugin to end all associations.
func (h *Harness) EndAssociations(reason string) {
	for _, id := range h.life.core.ids() {
		h.life.core.tell(&proto.Update{Update: &proto.Update_End{End: &proto.AssociationEnd{Association: id, Reason: reason}}})
	}
}

// Hosts are the names of the hosts that are associated now.
func (h *Harness) Hosts() []string { return h.life.core.hosts() }

// Counters sum up what crossed the rings of the present life.
func (h *Harness) Counters() ring.Counters { return h.life.core.counters() }

// Broken says how the plugin broke its rings, or nil.
func (h *Harness) Broken() error { return h.life.core.broken() }

// Connect connects a host to the namespace NSID, or fails the test.
func (h *Harness) Connect(url string) Host {
	h.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	host, err := h.config.Connect(ctx, Target{URL: url, Subsystem: Subsystem, NSID: NSID, Host: AnyHost})
	if err != nil {
		h.tb.Fatalf("connect to %s: %v", url, err)
	}
	return host
}

// announce tells the plugin what is exported and granted.
func (h *Harness) announce() {
	if h.life == nil {
		return
	}
	h.life.core.tell(h.exports())
	for _, id := range h.life.core.ids() {
		h.life.core.tell(&proto.Update{Update: &proto.Update_Grants{Grants: h.grants(id)}})
	}
}

// exports is the whole present state.
func (h *Harness) exports() *proto.Update {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &proto.Subsystem{
		Nqn: Subsystem, Serial: "PLUGINTEST", Model: "Mooring plugintest", AllowAnyHost: true,
		MaxNamespaces: 32, Generation: h.generation,
	}
	for nsid, v := range h.namespaces {
		id := [16]byte{0: 0x0a, 15: byte(nsid)}
		s.Namespaces = append(s.Namespaces, &proto.Namespace{
			Nsid: nsid, VolumeId: fmt.Sprintf("0a000000-0000-4000-8000-%012x", nsid), Nguid: id[:], Eui64: id[8:],
			SizeBytes: uint64(v.Size()), BlockBytes: BlockBytes, AnaGroup: nsid, UsedBytes: uint64(v.Size()),
		})
	}
	e := &proto.Exports{Subsystems: []*proto.Subsystem{s}}
	for i, url := range h.urls {
		e.AccessPoints = append(e.AccessPoints, &proto.AccessPoint{
			Id: h.listeners[i].AccessPointId, Node: "node", Url: url, Up: true, PortId: uint32(i + 1),
		})
	}
	return &proto.Update{Update: &proto.Update_Exports{Exports: e}}
}

func (h *Harness) grants(association uint64) *proto.Grants {
	h.mu.Lock()
	defer h.mu.Unlock()
	g := &proto.Grants{Association: association}
	for nsid, v := range h.namespaces {
		g.Grants = append(g.Grants, &proto.Grant{
			Nsid: nsid, Handle: v.Handle().Index, HandleGeneration: v.Handle().Generation,
			AnaState: proto.AnaState_ANA_OPTIMIZED, AnaChangeCount: 1, PathEpoch: 1,
		})
	}
	return g
}

func (h *Harness) listensAt(accessPoint string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.listeners {
		if l.AccessPointId == accessPoint {
			return true
		}
	}
	return false
}

func (h *Harness) nextID() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ids++
	return h.ids
}
