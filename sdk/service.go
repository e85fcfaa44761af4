package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/policy"
	"github.com/mooring-io/mooring/sdk/proto"
	"github.com/mooring-io/mooring/sdk/ring"
)

// Limits on what a core may ask for in StartRequest.
const (
	maxThreads = 256
	// descriptorTimeout bounds the wait for the descriptors of rings that the core
	// said it has sent.
	descriptorTimeout = 5 * time.Second
)

// Channel is how a Service reaches its core.
type Channel struct {
	// DialCore connects to the Core service with the number that StartRequest names.
	DialCore func(brokerID uint32) (*grpc.ClientConn, error)
	// Descriptors is the plugin's end of the descriptor socket; the Service owns it.
	// nil for a plugin that serves no data.
	Descriptors *net.UnixConn
	// Logger is the plugin's; nil: none.
	Logger hclog.Logger
}

// Service is the plugin's side of the control protocol. Serve makes one; only
// something that stands in for a core, such as package plugintest, needs to make its
// own.
type Service struct {
	plugin      Plugin
	data        DataPlugin // nil unless it is one
	channel     Channel
	log         hclog.Logger
	description *proto.Description
	health      *health

	arrived  chan ring.Descriptors // from the descriptor socket
	coreGone chan struct{}
	failed   chan struct{} // the plugin cannot go on
	failOnce sync.Once
	failure  error // set before failed is closed

	// calls lets one of Configure, Start, SetListeners and Stop run at a time.
	calls sync.Mutex
	phase phase // guarded by calls
	conn  *grpc.ClientConn
	env   *Env
	ends  []*block.Thread
	stop  context.CancelFunc // of the threads
	wg    sync.WaitGroup     // threads and the descriptor reader
}

type phase int

const (
	phaseNew phase = iota
	phaseStarted
	phaseStopped
)

// NewService makes a Service for p, a DataPlugin or PolicyPlugin. It owns ch's parts
// from here on, also when it fails.
func NewService(p Plugin, ch Channel) (*Service, error) {
	if ch.Logger == nil {
		ch.Logger = hclog.NewNullLogger()
	}
	s := &Service{
		plugin: p, channel: ch, log: ch.Logger,
		arrived: make(chan ring.Descriptors), coreGone: make(chan struct{}), failed: make(chan struct{}),
	}
	kind := proto.Kind_KIND_UNSPECIFIED
	if d, ok := p.(DataPlugin); ok {
		kind, s.data = proto.Kind_KIND_DATA, d
	} else if _, ok := p.(PolicyPlugin); ok {
		kind = proto.Kind_KIND_POLICY
	}
	var err error
	if kind == proto.Kind_KIND_UNSPECIFIED {
		err = fmt.Errorf("%T is neither a DataPlugin nor a PolicyPlugin", p)
	} else {
		s.description, err = p.Describe().toProto(kind)
	}
	if err != nil {
		if ch.Descriptors != nil {
			ch.Descriptors.Close()
		}
		return nil, err
	}
	s.health = newHealth(s)
	if ch.Descriptors != nil {
		s.wg.Go(s.receive)
	}
	return s, nil
}

// Register serves the plugin at r.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	proto.RegisterPluginServer(r, pluginServer{s: s})
	if s.data != nil {
		proto.RegisterDataServer(r, dataServer{s: s})
	}
	if p, ok := s.plugin.(PolicyPlugin); ok {
		policy.Register(r, p)
	}
}

// CoreGone is closed when the core has died or closed the descriptor socket.
func (s *Service) CoreGone() <-chan struct{} { return s.coreGone }

// Failed is closed when the plugin cannot go on; Failure says why then.
func (s *Service) Failed() <-chan struct{} { return s.failed }

// Failure is why Failed was closed; nil before.
func (s *Service) Failure() error {
	select {
	case <-s.failed:
		return s.failure
	default:
		return nil
	}
}

func (s *Service) fail(err error) {
	s.failOnce.Do(func() {
		s.failure = err
		close(s.failed)
	})
}

// receive takes ring descriptors from the socket until the core is gone.
func (s *Service) receive() {
	defer close(s.coreGone)
	for {
		d, err := ring.Receive(s.channel.Descriptors)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				s.log.Error("descriptor socket", "error", err)
			}
			return
		}
		select {
		case s.arrived <- d:
		case <-time.After(descriptorTimeout):
			s.log.Warn("rings came that nobody waits for", "incarnation", d.Incarnation)
			d.Close()
		}
	}
}

// start is Data.Start.
func (s *Service) start(ctx context.Context, req *proto.StartRequest) error {
	s.calls.Lock()
	defer s.calls.Unlock()
	if s.phase != phaseNew {
		return fmt.Errorf("start: the plugin was started before: %w", ErrNotReady)
	}
	if req.Threads == 0 || req.Threads > maxThreads {
		return fmt.Errorf("start: %d threads, want 1 to %d: %w", req.Threads, maxThreads, ErrInvalid)
	}
	s.phase = phaseStopped // unless all goes well
	if err := s.connect(ctx, req); err != nil {
		s.release()
		return err
	}
	if err := s.data.Start(ctx, s.env); err != nil {
		s.release()
		return fmt.Errorf("start: %w", err)
	}
	s.phase = phaseStarted
	return nil
}

// connect dials the core, opens the rings and runs the threads.
func (s *Service) connect(ctx context.Context, req *proto.StartRequest) error {
	conn, err := s.channel.DialCore(req.BrokerId)
	if err != nil {
		return fmt.Errorf("dial the core: %w", err)
	}
	s.conn = conn
	core := proto.NewCoreClient(conn)
	resp, err := core.OpenRings(ctx, &proto.OpenRingsRequest{
		Threads: req.Threads, RingEntries: req.RingEntries, PoolBytes: req.PoolBytes,
	})
	if err != nil {
		return fmt.Errorf("open rings: %w", err)
	}
	for i := range req.Threads {
		t, err := s.openThread(ctx, resp.Incarnation, i)
		if err != nil {
			return fmt.Errorf("open the rings of thread %d: %w", i, err)
		}
		s.ends = append(s.ends, t)
	}
	s.env = &Env{
		Core: core, Threads: s.ends, Logger: s.log, Incarnation: resp.Incarnation,
		changed: s.health.wake, fatal: s.fail,
	}
	// An I/O thread that waits holds a processor of the scheduler's for some
	// microseconds: with one for all, everything else would stand still meanwhile.
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), len(s.ends)+1))
	run, stop := context.WithCancel(context.Background())
	s.stop = stop
	for i, t := range s.ends {
		s.wg.Go(func() {
			if err := t.Run(run); err != nil {
				s.fail(fmt.Errorf("I/O thread %d: %w", i, err))
			}
		})
	}
	s.health.watch(s.ends)
	return nil
}

// openThread makes I/O thread number i of the descriptors that come next.
func (s *Service) openThread(ctx context.Context, incarnation uint64, i uint32) (*block.Thread, error) {
	ctx, cancel := context.WithTimeout(ctx, descriptorTimeout)
	defer cancel()
	var d ring.Descriptors
	select {
	case d = <-s.arrived:
	case <-s.coreGone:
		return nil, fmt.Errorf("descriptor socket: %w", ErrGone)
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for descriptors: %w", ctx.Err())
	}
	if d.Incarnation != incarnation || d.Thread != i {
		defer d.Close()
		return nil, fmt.Errorf("rings of incarnation %d, thread %d came, want %d, %d", d.Incarnation, d.Thread, incarnation, i)
	}
	end, err := ring.Attach(d)
	if err != nil {
		return nil, err
	}
	return block.NewThread(block.Config{End: end, Logger: s.log, Lost: s.lost})
}

// lost is called on a thread when its rings have ended.
func (s *Service) lost(err error) {
	if errors.Is(err, block.ErrCoreGone) || errors.Is(err, ring.ErrBroken) {
		s.fail(fmt.Errorf("rings: %w", err))
	}
}

func (s *Service) setListeners(ctx context.Context, req *proto.SetListenersRequest) (*proto.SetListenersResponse, error) {
	s.calls.Lock()
	defer s.calls.Unlock()
	if s.phase != phaseStarted {
		return nil, fmt.Errorf("set listeners: the plugin is not started: %w", ErrNotReady)
	}
	listeners := make([]Listener, len(req.Listeners))
	for i, l := range req.Listeners {
		listeners[i] = Listener{URL: l.Url, AccessPointID: l.AccessPointId, Floating: l.Floating}
	}
	resp := &proto.SetListenersResponse{}
	for _, st := range s.data.SetListeners(ctx, listeners) {
		p := &proto.ListenerState{AccessPointId: st.AccessPointID, Url: st.URL}
		if st.Err != nil {
			p.Error = st.Err.Error()
		}
		resp.States = append(resp.States, p)
	}
	return resp, nil
}

func (s *Service) configure(req *proto.ConfigureRequest) *proto.ConfigureResponse {
	s.calls.Lock()
	defer s.calls.Unlock()
	err := s.plugin.Configure([]byte(req.Json))
	switch {
	case err == nil:
		return &proto.ConfigureResponse{}
	case errors.Is(err, ErrRestartRequired):
		return &proto.ConfigureResponse{RestartRequired: true}
	}
	return &proto.ConfigureResponse{Errors: attributeErrors(err)}
}

// stopData is Data.Stop. Idempotent.
func (s *Service) stopData(ctx context.Context) error {
	s.calls.Lock()
	defer s.calls.Unlock()
	if s.phase != phaseStarted {
		return nil
	}
	s.phase = phaseStopped
	err := s.data.Stop(ctx)
	s.release()
	if err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}

// release ends the threads and the connection to the core, in whatever state they
// are.
func (s *Service) release() {
	s.health.watch(nil)
	if s.stop != nil {
		s.stop()
	}
	for _, t := range s.ends {
		if s.stop != nil { // they run
			<-t.Done()
		}
		if err := t.Close(); err != nil {
			s.log.Warn("close I/O thread", "error", err)
		}
	}
	s.ends = nil
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// Close stops the plugin if it runs, within ctx as far as the plugin obeys it, and
// releases everything. No call may be under way or follow.
func (s *Service) Close(ctx context.Context) error {
	err := s.stopData(ctx)
	s.health.close()
	if s.channel.Descriptors != nil {
		s.channel.Descriptors.Close()
	}
	s.wg.Wait()
	return err
}

// pluginServer and dataServer are the gRPC faces of a Service.
type pluginServer struct {
	proto.UnimplementedPluginServer
	s *Service
}

func (p pluginServer) Describe(context.Context, *proto.DescribeRequest) (*proto.Description, error) {
	return p.s.description, nil
}

func (p pluginServer) Configure(_ context.Context, req *proto.ConfigureRequest) (*proto.ConfigureResponse, error) {
	return p.s.configure(req), nil
}

func (p pluginServer) Health(req *proto.HealthRequest, stream grpc.ServerStreamingServer[proto.HealthReport]) error {
	return p.s.health.stream(req, stream)
}

type dataServer struct {
	proto.UnimplementedDataServer
	s *Service
}

func (d dataServer) Start(ctx context.Context, req *proto.StartRequest) (*proto.StartResponse, error) {
	return &proto.StartResponse{}, d.s.start(ctx, req)
}

func (d dataServer) SetListeners(ctx context.Context, req *proto.SetListenersRequest) (*proto.SetListenersResponse, error) {
	return d.s.setListeners(ctx, req)
}

func (d dataServer) Stop(ctx context.Context, _ *proto.StopRequest) (*proto.StopResponse, error) {
	return &proto.StopResponse{}, d.s.stopData(ctx)
}
