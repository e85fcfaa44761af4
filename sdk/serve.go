package sdk

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

const (
	// goodbye bounds what is done to end in order once the core is gone.
	goodbye = time.Second
)

// Serve runs p as the plugin of this process and does not return. It is all that a
// plugin's main function does. p is a DataPlugin or a PolicyPlugin.
//
// The process ends when the core says so, when the core dies, or when the plugin
// cannot go on; signals to end are ignored, since the core stops its plugins in
// order when it gets one. Standard output and error are redirected into the core's
// log; Env.Logger is the better way there.
func Serve(p Plugin) {
	if os.Getenv(Handshake.MagicCookieKey) != Handshake.MagicCookieValue {
		startedByHand(p)
	}
	level := hclog.LevelFromString(os.Getenv(EnvLogLevel))
	if level == hclog.NoLevel {
		level = hclog.Trace
	}
	log := hclog.New(&hclog.LoggerOptions{Output: os.Stderr, JSONFormat: true, Level: level})
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)

	descriptors, err := inheritedSocket()
	if err != nil {
		exit(log, err)
	}
	g := &grpcPlugin{broker: make(chan *plugin.GRPCBroker, 1)}
	g.service, err = NewService(p, Channel{DialCore: g.dialCore, Descriptors: descriptors, Logger: log})
	if err != nil {
		exit(log, err)
	}
	go g.service.endWithCore()
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  Handshake,
		VersionedPlugins: map[int]plugin.PluginSet{ProtocolVersion: {PluginName: g}},
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts, ServerOptions()...)...)
		},
		Logger: log,
	})
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	if err := g.service.stopData(ctx); err != nil {
		exit(log, err)
	}
	os.Exit(0)
}

// endWithCore ends the process when the core is gone or the plugin cannot go on. It
// lives as long as the process.
func (s *Service) endWithCore() {
	code := 0
	select {
	case <-s.failed:
		s.log.Error("the plugin cannot go on", "error", s.failure)
		code = 1
	case <-s.coreGone:
		s.log.Info("the core is gone")
	}
	time.AfterFunc(goodbye, func() { os.Exit(code) }) // whatever Stop does
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	if err := s.stopData(ctx); err != nil {
		s.log.Warn("the plugin did not stop in order", "error", err)
	}
	os.Exit(code)
}

func exit(log hclog.Logger, err error) {
	log.Error("the plugin cannot start", "error", err)
	os.Exit(1)
}

// startedByHand says what this program is.
func startedByHand(p Plugin) {
	d := p.Describe()
	fmt.Fprintf(os.Stderr, `This is %s %s, a plugin of Mooring; it cannot be run by hand.
Put it into the plugin directory (bin/plugins beside the mooring binary), or register it with
    mooring plugin add %s
and name it in a plugin block of the configuration.
`, d.Name, d.Version, os.Args[0])
	os.Exit(2)
}

// inheritedSocket is the descriptor socket, or nil if the core gave none.
func inheritedSocket() (*net.UnixConn, error) {
	v := os.Getenv(EnvDescriptorFD)
	if v == "" {
		return nil, nil
	}
	fd, err := strconv.Atoi(v)
	if err != nil {
		return nil, fmt.Errorf("%s=%q is not a number", EnvDescriptorFD, v)
	}
	syscall.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "descriptors")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("descriptor socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("descriptor socket is a %T", c)
	}
	return u, nil
}

// grpcPlugin is what go-plugin serves.
type grpcPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	service *Service
	broker  chan *plugin.GRPCBroker
}

// GRPCServer is called once, by plugin.Serve.
func (g *grpcPlugin) GRPCServer(b *plugin.GRPCBroker, s *grpc.Server) error {
	g.broker <- b
	g.service.Register(s)
	return nil
}

// GRPCClient is the core's half, which the core has itself.
func (g *grpcPlugin) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, ErrUnsupported
}

func (g *grpcPlugin) dialCore(id uint32) (*grpc.ClientConn, error) {
	b := <-g.broker
	g.broker <- b
	return b.DialWithOptions(id, DialOptions()...)
}
