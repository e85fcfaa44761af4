package path

import (
	"errors"
	"net/netip"
	"runtime"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// script is a source that a test moves.
type script struct {
	mu     sync.Mutex
	now    []Interface
	events chan struct{}
	fails  int // subscriptions that fail
}

func (s *script) list() ([]Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now, nil
}

func (s *script) subscribe(done <-chan struct{}) (<-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails > 0 {
		s.fails--
		return nil, errors.New("no netlink")
	}
	events := make(chan struct{}, 1)
	s.events = events
	out := make(chan struct{})
	go func() {
		defer close(out)
		for {
			select {
			case <-done:
				return
			case _, ok := <-events:
				if !ok {
					return
				}
				out <- struct{}{}
			}
		}
	}()
	return out, nil
}

func (s *script) close() {}

func (s *script) set(i ...Interface) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = i
	s.events <- struct{}{}
}

func iface(name string, up bool, addrs ...string) Interface {
	i := Interface{Name: name, Up: up}
	for _, a := range addrs {
		i.Addrs = append(i.Addrs, netip.MustParseAddr(a))
	}
	return i
}

func TestListener(t *testing.T) {
	s := &script{now: []Interface{
		iface("eth0", true, "10.0.0.1", "fe80::1"), iface("eth1", false, "10.0.1.1", "fd00::1"), iface("lo", true, "127.0.0.1", "::1"),
	}}
	a, err := watchAddresses(nil, s)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for url, want := range map[string]string{
		"nvme-tcp://10.0.0.1:4420":        "",
		"nvme-tcp://10.0.1.1:4420":        "interface eth1 is down",
		"nvme-tcp://10.0.2.1:4420":        "no interface has address 10.0.2.1",
		"nvme-tcp://127.0.0.1:4420":       "",
		"nvme-tcp://127.0.0.2:4420":       "",
		"nvme-tcp://localhost:4420":       "",
		"nvme-tcp://[::1]:4420":           "",
		"nvme-tcp://[fd00::1]:4420":       "interface eth1 is down",
		"nvme-tcp://[fe80::1%25eth0]:442": "",
		"nvme-tcp://[fe80::1%25eth1]:442": "no interface has address fe80::1",
		"nvme-tcp://0.0.0.0:4420":         "",
		"nvme-tcp://[::]:4420":            "",
		"nvme-tcp://storage.example:4420": "",
		"nvme-tcp://":                     `"nvme-tcp://" has no address`,
	} {
		if up, reason := a.Listener(url); reason != want || up != (want == "") {
			t.Errorf("%s: %v, %q, want %q", url, up, reason, want)
		}
	}
	<-a.Changes() // from nothing to what is there
	s.set(iface("eth0", false, "10.0.0.1"))
	<-a.Changes()
	for url, want := range map[string]string{
		"nvme-tcp://10.0.0.1:4420": "interface eth0 is down",
		"nvme-tcp://0.0.0.0:4420":  "interface eth0 is down",
		"nvme-tcp://[::]:4420":     "interface eth0 is down",
	} {
		if up, reason := a.Listener(url); up || reason != want {
			t.Errorf("%s: %v, %q, want %q", url, up, reason, want)
		}
	}
	s.set()
	<-a.Changes()
	if up, reason := a.Listener("nvme-tcp://0.0.0.0:1"); up || reason != "no interface with an address is up" {
		t.Errorf("%v, %q", up, reason)
	}
}

// A subscription that breaks is made again, and nothing is missed by it.
func TestResubscribe(t *testing.T) {
	s := &script{now: []Interface{iface("eth0", true, "10.0.0.1")}}
	a, err := watchAddresses(nil, s)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	<-a.Changes()
	s.mu.Lock()
	s.fails = 1
	s.now = []Interface{iface("eth0", false, "10.0.0.1")}
	close(s.events)
	s.mu.Unlock()
	<-a.Changes()
	if up, _ := a.Listener("nvme-tcp://10.0.0.1:1"); up {
		t.Fatal("the change was missed")
	}
}

// The real thing, in a network namespace of its own.
func TestKernel(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread dies with the test's goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("a network namespace needs root: %v", err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ns, err := netns.Get()
	must(err)
	defer ns.Close()
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	must(err)
	a, err := watchAddresses(nil, &kernel{handle: h, ns: ns})
	must(err)
	defer a.Close()
	const listener = "nvme-tcp://10.77.0.1:4420"
	await := func(want string) {
		t.Helper()
		for {
			up, reason := a.Listener(listener)
			if reason == want && up == (want == "") {
				return
			}
			<-a.Changes()
		}
	}
	await("no interface has address 10.77.0.1")
	link, err := h.LinkByName("lo") // there in every namespace, and down at first
	must(err)
	addr, err := netlink.ParseAddr("10.77.0.1/32")
	must(err)
	must(h.AddrAdd(link, addr))
	await("interface lo is down")
	must(h.LinkSetUp(link))
	await("")
	must(h.LinkSetDown(link))
	await("interface lo is down")
	must(h.LinkSetUp(link))
	await("")
	must(h.AddrDel(link, addr))
	await("no interface has address 10.77.0.1")
}
