package redirector

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// patience bounds what a test waits for.
const patience = time.Minute

// addresses are a redirector's, one of each kind.
var addresses = map[string]netip.Addr{"IPv4": netip.MustParseAddr("192.0.2.100"), "IPv6": netip.MustParseAddr("2001:db8::100")}

var lans atomic.Int32

// lan makes network namespaces on one bridge: namespace i has 192.0.2.i+1 and 2001:db8::i+1 at eth0.
func lan(t *testing.T, names ...string) (spaces []string) {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("network namespaces need root")
		}
		t.Skip("network namespaces need root")
	}
	number := lans.Add(1)
	space := func(name string) string {
		ns := fmt.Sprintf("redir%d-%d%s", os.Getpid(), number, name)
		ip(t, "netns", "add", ns)
		t.Cleanup(func() { ip(t, "netns", "del", ns) })
		ip(t, "-n", ns, "link", "set", "lo", "up")
		return ns
	}
	bridge := space("br")
	ip(t, "-n", bridge, "link", "add", "name", "br0", "type", "bridge")
	ip(t, "-n", bridge, "link", "set", "dev", "br0", "up")
	for i, name := range names {
		ns := space(name)
		ip(t, "-n", ns, "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", bridge)
		ip(t, "-n", bridge, "link", "set", "dev", name, "master", "br0", "up")
		ip(t, "-n", ns, "addr", "add", fmt.Sprintf("192.0.2.%d/24", i+1), "dev", "eth0")
		ip(t, "-n", ns, "addr", "add", fmt.Sprintf("2001:db8::%d/64", i+1), "dev", "eth0", "nodad")
		ip(t, "-n", ns, "link", "set", "eth0", "up")
		spaces = append(spaces, ns)
	}
	return spaces
}

func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// inside runs fn in a namespace, by a thread that ends with it.
func inside(ns string, fn func()) error {
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: no other goroutine gets this thread
		h, err := netns.GetFromName(ns)
		defer func() { failed <- err }()
		if err == nil {
			err = netns.Set(h)
			_ = h.Close()
		}
		if err == nil {
			fn()
		}
	}()
	return <-failed
}

// has says whether a namespace's interface has an address.
func has(t *testing.T, ns string, a netip.Addr) bool {
	t.Helper()
	return strings.Contains(ip(t, "-n", ns, "addr", "show", "dev", "eth0"), " "+a.String()+"/")
}

// until waits for something that is to happen.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

// meta decides between nodes as Meta does.
type meta struct {
	mu     sync.Mutex
	holder string
	left   time.Duration
	asked  int               // how often Left was called
	yield  func(node string) // nil, or called first
}

// lease is a node's.
type lease struct {
	*meta
	node string
}

func (l lease) Take(context.Context) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holder == "" {
		l.holder = l.node
	}
	if l.holder != l.node {
		return l.holder, nil
	}
	return "", nil
}

func (l lease) Yield(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holder == l.node {
		if l.yield != nil {
			l.yield(l.node)
		}
		l.holder = ""
	}
	return nil
}

func (l lease) Left() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	return l.left
}

func (m *meta) asks() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked
}

func (m *meta) set(left time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left = left
}

// node is a Holder that runs in a namespace.
type node struct {
	*Holder
	mu      sync.Mutex
	deaf    bool // nothing listens; guarded by mu
	changes int  // guarded by mu
	stop    func()
}

func start(t *testing.T, ns string, a netip.Addr, m *meta) *node {
	t.Helper()
	n := &node{}
	n.Holder = New(Options{
		Address: a, Interface: "eth0", Lease: lease{m, ns}, Logger: hclog.New(&hclog.LoggerOptions{Name: ns, Output: t.Output()}),
		Ready:   func() bool { n.mu.Lock(); defer n.mu.Unlock(); return !n.deaf },
		Changed: func() { n.mu.Lock(); defer n.mu.Unlock(); n.changes++ },
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- inside(ns, func() { n.Run(ctx) }) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(n.stop)
	return n
}

func (n *node) listens(yes bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.deaf = !yes
}

// each runs a test with an address of each kind.
func each(t *testing.T, test func(t *testing.T, a netip.Addr)) {
	for name, a := range addresses {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, a)
		})
	}
}

// world makes what decides, and checks that an address is gone from a node before others may have it.
func world(t *testing.T, a netip.Addr) *meta {
	return &meta{left: 2700 * time.Millisecond, yield: func(node string) {
		if has(t, node, a) {
			t.Errorf("node %s gives the address up while it has it", node)
		}
	}}
}

// The address is at one node; it leaves a node where nothing listens, and one that ends, before another has it.
func TestTurns(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a netip.Addr) {
		spaces := lan(t, "a", "b")
		m := world(t, a)
		first := start(t, spaces[0], a, m)
		until(t, "the address's coming", func() bool { return first.State().Here })
		second := start(t, spaces[1], a, m)
		until(t, "hearing of the other", func() bool { return second.State() == State{Other: spaces[0]} })
		if !has(t, spaces[0], a) || has(t, spaces[1], a) {
			t.Error("the address is not at the node that says so")
		}
		if out := ip(t, "-n", spaces[0], "addr", "show", "dev", "eth0"); !strings.Contains(out, "deprecated") {
			t.Errorf("the node may open connections from the address:\n%s", out)
		}
		first.listens(false)
		until(t, "the move from a node where nothing listens", func() bool { return second.State().Here && !first.State().Here })
		if has(t, spaces[0], a) || !has(t, spaces[1], a) {
			t.Error("the address is not at the node that says so")
		}
		first.listens(true)
		second.stop()
		if has(t, spaces[1], a) {
			t.Error("a node that ended has the address")
		}
		until(t, "the move from a node that ended", func() bool { return first.State().Here })
		first.mu.Lock()
		defer first.mu.Unlock()
		if first.changes < 3 { // came, went, came
			t.Errorf("told of %d changes", first.changes)
		}
	})
}

// What nobody can keep alive is gone before the lease is over, and comes again with it.
func TestLeaseEnds(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a netip.Addr) {
		spaces := lan(t, "a")
		m := world(t, a)
		n := start(t, spaces[0], a, m)
		until(t, "the address's coming", func() bool { return n.State().Here })
		m.set(0)
		until(t, "its going", func() bool { return !n.State().Here && !has(t, spaces[0], a) })
		m.set(200 * time.Millisecond) // less than the kernel can count
		n.listens(false)
		until(t, "leaving it to others", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.holder == "" })
		n.listens(true)
		until(t, "taking it again", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.holder != "" })
		asked := m.asks()
		until(t, "considering it twice", func() bool { return m.asks() >= asked+4 })
		if has(t, spaces[0], a) {
			t.Error("the address is there for longer than the lease")
		}
		m.set(2700 * time.Millisecond)
		until(t, "its coming again", func() bool { return n.State().Here && has(t, spaces[0], a) })
	})
}

// An address that another machine of the network has, or this one by other means, is left alone.
func TestForeign(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a netip.Addr) {
		spaces := lan(t, "a", "other")
		bits := fmt.Sprint(a, "/", a.BitLen())
		refused := func(says string) *node {
			t.Helper()
			n := start(t, spaces[0], a, &meta{left: time.Minute})
			until(t, "a refusal", func() bool { return n.State().Err != nil })
			if err := n.State().Err; !strings.Contains(err.Error(), says) {
				t.Errorf("%v; not %q", err, says)
			}
			return n
		}
		ip(t, "-n", spaces[1], "addr", "add", bits, "dev", "eth0")
		if a.Is6() { // it answers once it knows that the address is its own
			until(t, "the other's address", func() bool {
				return !strings.Contains(ip(t, "-n", spaces[1], "addr", "show", "dev", "eth0"), "tentative")
			})
		}
		mac := strings.TrimSpace(strings.Split(ip(t, "-n", spaces[1], "link", "show", "dev", "eth0"), "link/ether ")[1])[:17]
		refused("in use on the network of interface eth0, by the machine with hardware address " + mac).stop()
		if has(t, spaces[0], a) {
			t.Error("the address is at two machines")
		}
		ip(t, "-n", spaces[1], "addr", "del", bits, "dev", "eth0")
		ip(t, "-n", spaces[0], "addr", "add", bits, "dev", "eth0")
		refused("an address of this node already").stop()
		var err error
		if nerr := inside(spaces[0], func() { err = Remove(a) }); err != nil || nerr != nil {
			t.Fatal(err, nerr)
		}
		if !has(t, spaces[0], a) {
			t.Error("an address of the node's own was removed")
		}
		ip(t, "-n", spaces[0], "addr", "del", bits, "dev", "eth0")
		ip(t, "-n", spaces[0], "link", "set", "eth0", "down")
		refused("eth0 is down")
	})
}

// Without the capability the node says so.
func TestNotAllowed(t *testing.T) {
	t.Parallel()
	spaces := lan(t, "a")
	h := New(Options{Address: addresses["IPv4"], Interface: "eth0", Lease: lease{&meta{left: time.Minute}, "a"}, Ready: func() bool { return true }, Logger: hclog.NewNullLogger()})
	if err := inside(spaces[0], func() {
		none := [2]unix.CapUserData{}
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
			t.Error(err)
		}
		h.turn(context.Background())
	}); err != nil {
		t.Fatal(err)
	}
	if s := h.State(); s.Here || s.Err == nil || !strings.Contains(s.Err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("%+v", s)
	}
}

const holdEnv = "MOORING_TEST_HOLD"

// TestMain runs as a node, too, that has an address and answers there with a name.
func TestMain(m *testing.M) {
	name, address, ok := strings.Cut(os.Getenv(holdEnv), " ")
	if !ok {
		os.Exit(m.Run())
	}
	l, err := net.Listen("tcp", "[::]:3260")
	if err == nil {
		go func() {
			for c, err := l.Accept(); err == nil; c, err = l.Accept() {
				_, _ = io.WriteString(c, name)
				_ = c.Close()
			}
		}()
		New(Options{
			Address: netip.MustParseAddr(address), Interface: "eth0", Lease: lease{&meta{left: 3900 * time.Millisecond}, name},
			Ready: func() bool { return true }, Changed: func() {}, Logger: hclog.Default(),
		}).Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// hold runs a node as a process.
func hold(t *testing.T, ns string, a netip.Addr) *exec.Cmd {
	t.Helper()
	c := exec.Command("ip", "netns", "exec", ns, os.Args[0])
	c.Env = append(os.Environ(), holdEnv+"="+ns+" "+a.String())
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return c
}

// A holder that is killed leaves the address to the kernel, which removes it when its lifetime is over, and nothing with it. Another
// node takes it and says so, and who had the former one in its neighbour table reaches the new one.
func TestHolderDies(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a netip.Addr) {
		spaces := lan(t, "a", "b", "host")
		answers := func(want string) {
			t.Helper()
			until(t, want+"'s answer", func() bool {
				var got []byte
				err := inside(spaces[2], func() {
					c, err := net.DialTimeout("tcp", netip.AddrPortFrom(a, 3260).String(), time.Second)
					if err == nil {
						_ = c.SetDeadline(time.Now().Add(time.Second))
						got, _ = io.ReadAll(c)
						_ = c.Close()
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				return string(got) == want
			})
		}
		routes := func() string {
			return ip(t, "-n", spaces[0], "-4", "route") + ip(t, "-n", spaces[0], "-6", "route", "show", "dev", "eth0", "2001:db8::/64")
		}
		before := routes()
		for _, kind := range []string{"ipv4", "ipv6"} { // the host does not find out by itself
			ip(t, "netns", "exec", spaces[2], "sysctl", "-q", "-w", "net."+kind+".neigh.eth0.base_reachable_time_ms=3600000")
		}
		first := hold(t, spaces[0], a)
		answers(spaces[0])
		_ = first.Process.Kill()
		_ = first.Wait()
		until(t, "the end of a dead holder's address", func() bool { return !has(t, spaces[0], a) })
		if now := routes(); now != before {
			t.Errorf("routes to the node's own network before:\n%s\nand after:\n%s", before, now)
		}
		hold(t, spaces[1], a)
		answers(spaces[1])
	})
}

// A node that begins again removes what its former life left, at once.
func TestLeftover(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a netip.Addr) {
		spaces := lan(t, "a")
		first := hold(t, spaces[0], a)
		until(t, "the address's coming", func() bool { return has(t, spaces[0], a) })
		_ = first.Process.Signal(unix.SIGSTOP) // as good as dead, but that the address is there for sure
		if !has(t, spaces[0], a) {
			t.Fatal("the address is gone")
		}
		var err error
		if nerr := inside(spaces[0], func() { err = Remove(a) }); err != nil || nerr != nil {
			t.Fatal(err, nerr)
		}
		if has(t, spaces[0], a) {
			t.Error("the address is there")
		}
	})
}
