package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/policy"
)

// The test binary is also the plugins of the tests: copies of it, named after what
// they do, are started by the supervisor.
func TestMain(m *testing.M) {
	if os.Getenv(sdk.Handshake.MagicCookieKey) != "" {
		servePlugin(filepath.Base(os.Args[0]))
	}
	os.Exit(m.Run())
}

func servePlugin(name string) {
	switch name {
	case "data", "other":
		sdk.Serve(&dataPlugin{name: name})
	case "policy", "policy-hangs", "policy-exits", "policy-panics", "policy-lies":
		sdk.Serve(policyPlugin{name})
	case "misnamed":
		sdk.Serve(&dataPlugin{name: "data"})
	case "exits":
		os.Exit(3)
	case "babbles":
		fmt.Println("hello, I am no plugin")
		select {}
	case "elsewhere": // names a socket that is not its own
		fmt.Println("1|1|unix|/run/dbus/system_bus_socket|grpc|")
		select {}
	case "silent":
		time.Sleep(time.Hour)
	}
	os.Exit(4)
}

// dataPlugin listens on TCP. A host that connects is told who and where the plugin
// is, and can have it do things by sending a line.
type dataPlugin struct {
	name string
	mode string
	env  *sdk.Env

	mu        sync.Mutex
	reason    string
	listeners map[string]net.Listener
	wg        sync.WaitGroup
}

func (p *dataPlugin) Describe() sdk.Description {
	return sdk.Description{
		Name: p.name, Version: "1.2.3", ListenSchemes: []string{"test-" + p.name},
		Schema: []sdk.Attribute{
			{Name: "mode", Type: sdk.String, Default: "", Help: "how to misbehave."},
			{Name: "patience", Type: sdk.Duration, Default: time.Second},
			{Name: "buffer", Type: sdk.Size},
		},
	}
}

func (p *dataPlugin) Configure(config []byte) error {
	var c struct {
		Mode     string
		Patience time.Duration
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return err
	}
	switch {
	case c.Mode == "wrong":
		return &sdk.AttributeError{Attribute: "mode", Message: "wrong is wrong; want right"}
	case c.Mode == "later" && p.env != nil:
		return sdk.ErrRestartRequired
	case c.Patience == 0:
		return errors.New("no patience came")
	}
	p.mode = c.Mode
	return nil
}

func (p *dataPlugin) Start(_ context.Context, env *sdk.Env) error {
	p.env = env
	switch p.mode {
	case "panic":
		panic("at the disco")
	case "refuse":
		return fmt.Errorf("no wish to start: %w", sdk.ErrBusy)
	case "hang":
		select {}
	case "orphan":
		// Something that would outlive a plugin that is killed.
		_, err := os.StartProcess("/bin/sleep", []string{"sleep", "1000"}, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.NewFile(2, "")}})
		if err != nil {
			return err
		}
	}
	env.Logger.Named("greeter").Info("started", "threads", len(env.Threads), "uid", os.Getuid())
	fmt.Println("printed to standard output")
	return nil
}

func (p *dataPlugin) SetListeners(_ context.Context, want []sdk.Listener) []sdk.ListenerState {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listeners == nil {
		p.listeners = map[string]net.Listener{}
	}
	keep := map[string]bool{}
	var out []sdk.ListenerState
	for _, w := range want {
		keep[w.URL] = true
		st := sdk.ListenerState{AccessPointID: w.AccessPointID, URL: w.URL}
		if p.listeners[w.URL] == nil {
			_, address, _ := strings.Cut(w.URL, "://")
			l, err := net.Listen("tcp", address)
			if err != nil {
				st.Err = err
				out = append(out, st)
				continue
			}
			p.listeners[w.URL] = l
			p.wg.Go(func() { p.accept(l) })
		}
		st.URL = "test://" + p.listeners[w.URL].Addr().String()
		out = append(out, st)
	}
	for url, l := range p.listeners {
		if !keep[url] {
			l.Close()
			delete(p.listeners, url)
		}
	}
	return out
}

func (p *dataPlugin) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		b := make([]byte, 100)
		n, _ := c.Read(b)
		p.obey(strings.TrimSpace(string(b[:n])))
		fmt.Fprintf(c, "%d\n", os.Getpid())
		c.Close()
	}
}

func (p *dataPlugin) obey(order string) {
	switch order {
	case "panic":
		panic("as ordered")
	case "stuck":
		p.env.Threads[0].Post(func() { select {} })
	case "fatal":
		p.env.Fatal(errors.New("as ordered"))
	case "sick":
		p.mu.Lock()
		p.reason = "caught a cold"
		p.mu.Unlock()
		p.env.HealthChanged()
	case "hangup":
		// Descriptor 3 and its duplicate, whichever that is.
		for fd := 3; fd < 64; fd++ {
			if t, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_TYPE); err == nil && t == syscall.SOCK_SEQPACKET {
				syscall.Shutdown(fd, syscall.SHUT_RDWR)
			}
		}
	}
}

func (p *dataPlugin) Health() sdk.Health {
	p.mu.Lock()
	defer p.mu.Unlock()
	return sdk.Health{Reason: p.reason, Metrics: []sdk.Metric{{Name: "answer", Value: 42}}}
}

func (p *dataPlugin) Stop(context.Context) error {
	if p.mode == "hang-stop" {
		select {}
	}
	p.SetListeners(context.Background(), nil)
	p.wg.Wait()
	return nil
}

// policyPlugin does what its name says when it is asked.
type policyPlugin struct{ name string }

func (p policyPlugin) Describe() sdk.Description { return sdk.Description{Name: p.name} }

func (policyPlugin) Configure([]byte) error { return nil }

func (p policyPlugin) Place(_ context.Context, req *policy.Request) (*policy.Response, error) {
	switch p.name {
	case "policy-hangs":
		select {}
	case "policy-exits":
		os.Exit(7)
	case "policy-panics":
		panic("of a policy")
	}
	if len(req.Hosts) == 0 {
		return nil, fmt.Errorf("no hosts: %w", sdk.ErrInvalid)
	}
	return &policy.Response{Placements: []*policy.Placement{{Namespace: req.Namespaces[0].Key, Optimized: req.AccessPoints[0].Id}}}, nil
}
