package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/proto"
)

const (
	// hangupGrace is how long a plugin may live on after it closed its descriptor
	// socket or its health stream.
	hangupGrace = time.Second
	// deathGrace is how long to wait, after a call failed, for the death that may be
	// the reason.
	deathGrace = 200 * time.Millisecond
)

// instance is one life of a plugin: its process and the channels to it. Made and
// ended by its worker's goroutine; fail may be called from anywhere.
type instance struct {
	process *process
	client  *plugin.Client
	channel *channel
	socket  *net.UnixConn

	plugin      proto.PluginClient
	data        proto.DataClient
	description *proto.Description
	config      string // the last JSON that the plugin accepted; the worker's

	attached *Instance // nil unless the DataHost knows of it
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	// serving is the Core service's server, once there is one.
	serving chan *grpc.Server

	failOnce sync.Once
	failed   chan struct{}
	failure  error // set before failed is closed

	beats chan *proto.HealthReport // from the health stream; capacity 1, the newest wins
}

// fail has the worker end this life.
func (i *instance) fail(reason error) {
	i.failOnce.Do(func() {
		i.failure = reason
		close(i.failed)
	})
}

// why says why this life has ended.
func (i *instance) why() error {
	select {
	case <-i.failed:
		return i.failure
	default:
	}
	return errors.New(i.process.exitReason())
}

// diedOf says how the process ended, if it did so by itself; "" if it lives.
func (i *instance) diedOf() string {
	if !i.process.started() {
		return ""
	}
	select {
	case <-i.process.dead:
		if !i.process.wasKilled() {
			return i.process.exitReason()
		}
	case <-time.After(deathGrace):
	}
	return ""
}

// channel is what go-plugin dispenses.
type channel struct {
	conn   *grpc.ClientConn
	broker *plugin.GRPCBroker
}

type grpcPlugin struct{ plugin.NetRPCUnsupportedPlugin }

func (grpcPlugin) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error {
	return errors.New("the core serves no plugin")
}

func (grpcPlugin) GRPCClient(_ context.Context, b *plugin.GRPCBroker, c *grpc.ClientConn) (any, error) {
	return &channel{conn: c, broker: b}, nil
}

// launch starts the process of p and connects to it. The calling goroutine is locked
// to a thread that outlives the process. When ctx ends, the launch does. After an
// error nothing is left.
func (s *Supervisor) launch(ctx context.Context, p *process) (*instance, error) {
	run, err := s.run.dir()
	if err != nil {
		return nil, err
	}
	i := &instance{
		process: p, failed: make(chan struct{}), serving: make(chan *grpc.Server, 1),
		beats: make(chan *proto.HealthReport, 1),
	}
	i.ctx, i.cancel = context.WithCancel(context.Background())
	unix := &plugin.UnixSocketConfig{TempDir: run}
	if p.user != nil {
		unix.Group = strconv.Itoa(int(p.user.gid))
	}
	i.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  sdk.Handshake,
		VersionedPlugins: map[int]plugin.PluginSet{sdk.ProtocolVersion: {sdk.PluginName: grpcPlugin{}}},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, dir string) (runner.Runner, error) {
			p.env, p.dir = cmd.Env, dir
			return p, nil
		},
		AutoMTLS:         true,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		SkipHostEnv:      true,
		StartTimeout:     s.opts.Timing.Start,
		UnixSocketConfig: unix,
		GRPCDialOptions:  sdk.DialOptions(),
		SyncStdout:       p.log, SyncStderr: p.log,
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Off}),
	})
	defer context.AfterFunc(ctx, p.kill)()
	if err := i.connect(ctx); err != nil {
		s.end(i)
		if ctx.Err() != nil {
			err = fmt.Errorf("plugin %s did not come up in time: %w", p.name, ctx.Err())
		}
		return nil, err
	}
	return i, nil
}

func (i *instance) connect(ctx context.Context) error {
	rpc, err := i.client.Client()
	if err != nil {
		if why := i.diedOf(); why != "" {
			return fmt.Errorf("plugin %s did not come up: %s", i.process.name, why)
		}
		return fmt.Errorf("plugin %s did not come up: %w", i.process.name, err)
	}
	raw, err := rpc.Dispense(sdk.PluginName)
	if err != nil {
		return fmt.Errorf("connect to plugin %s: %w", i.process.name, err)
	}
	i.channel = raw.(*channel)
	i.plugin, i.data = proto.NewPluginClient(i.channel.conn), proto.NewDataClient(i.channel.conn)
	if i.socket, err = i.process.descriptors(); err != nil {
		return err
	}
	i.wg.Go(i.watchSocket)
	if i.description, err = i.plugin.Describe(ctx, &proto.DescribeRequest{}); err != nil {
		return fmt.Errorf("describe plugin %s: %w", i.process.name, err)
	}
	if i.description.Name != i.process.name {
		return fmt.Errorf("the file of plugin %s says that it is %q: rename the file to that", i.process.name, i.description.Name)
	}
	return nil
}

// watchSocket waits for the plugin's end of the descriptor socket to be closed.
func (i *instance) watchSocket() {
	var b [1]byte
	n, err := i.socket.Read(b[:])
	if n > 0 {
		i.fail(errors.New("the plugin wrote to its descriptor socket"))
		return
	}
	if i.ctx.Err() != nil {
		return // closed by end
	}
	select {
	case <-i.process.dead:
	case <-i.ctx.Done():
	case <-time.After(hangupGrace):
		i.fail(fmt.Errorf("the plugin closed its descriptor socket: %v", err))
	}
}

// attach makes the instance known to host and starts the Core service for it.
// It returns the service's number for StartRequest.
func (i *instance) attach(ctx context.Context, host DataHost, id uint64) (uint32, error) {
	inst := &Instance{
		Plugin: i.process.name, ID: id, PID: i.process.pid,
		Description: i.description, Descriptors: i.socket, fail: i.fail,
	}
	core, err := host.Attach(ctx, inst)
	if err != nil {
		return 0, fmt.Errorf("attach plugin %s: %w", i.process.name, err)
	}
	i.attached = inst
	number := i.channel.broker.NextId()
	i.wg.Go(func() {
		i.channel.broker.AcceptAndServe(number, func(opts []grpc.ServerOption) *grpc.Server {
			server := grpc.NewServer(append(opts, sdk.ServerOptions()...)...)
			proto.RegisterCoreServer(server, core)
			i.serving <- server
			return server
		})
	})
	return number, nil
}

// watchHealth passes on what the plugin reports until the stream ends, which it does
// only with the plugin.
func (i *instance) watchHealth(interval time.Duration) {
	stream, err := i.plugin.Health(i.ctx, &proto.HealthRequest{IntervalMs: uint32(interval.Milliseconds())})
	for err == nil {
		var r *proto.HealthReport
		if r, err = stream.Recv(); err == nil {
			select {
			case <-i.beats: // not looked at yet
			default:
			}
			i.beats <- r
		}
	}
	if i.ctx.Err() != nil {
		return
	}
	select {
	case <-i.process.dead: // says more
	case <-i.ctx.Done():
	case <-time.After(hangupGrace):
		i.fail(fmt.Errorf("health stream: %w", err))
	}
}

// stopGently asks a plugin that serves data to finish, within ctx, and then to exit.
func (i *instance) stopGently(ctx context.Context) error {
	if i.attached != nil {
		if _, err := i.data.Stop(ctx, &proto.StopRequest{}); err != nil {
			return fmt.Errorf("stop plugin %s: %w", i.process.name, err)
		}
	}
	// Kill asks first, for two seconds, and has no deadline for the asking.
	defer context.AfterFunc(ctx, i.process.kill)()
	i.client.Kill()
	return nil
}

// end makes sure that nothing of i is left: the process is dead, its channels are
// closed and, last, the DataHost has let go of it.
func (s *Supervisor) end(i *instance) {
	i.cancel()
	i.process.kill()
	i.client.Kill()
	if i.channel != nil {
		i.channel.broker.Close()
	}
	select {
	case server := <-i.serving:
		server.Stop()
	default:
	}
	if i.socket != nil {
		_ = i.socket.SetReadDeadline(time.Unix(1, 0)) // open until Detach
	}
	i.wg.Wait()
	if i.process.started() {
		<-i.process.dead
	}
	if i.attached != nil {
		s.opts.Host.Detach(i.attached)
		i.attached = nil
	}
	if i.socket != nil {
		i.socket.Close()
	}
	i.process.close()
}
