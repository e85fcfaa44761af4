package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// apart says that this process has a network and mounts of its own.
const apart = "MOORING_CHAOS_APART"

// goApart runs this program again, in network and mount namespaces of its own, and returns how it ended. Nothing of
// a run is left on the machine, however it ends.
func goApart() (int, error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("chaos needs root, for network namespaces and mounts of its own")
	}
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), apart+"=1")
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	signal.Ignore(os.Interrupt) // the terminal tells the other one, too
	runtime.LockOSThread()      // whose death the other one would follow
	err := c.Run()
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode(), nil
	}
	return 0, err
}

// place is where somebody is on the run's network: a node, or the hosts.
type place struct {
	name string
	ip   net.IP
	mac  net.HardwareAddr
	ns   netns.NsHandle
	link *netlink.Handle // to the interface of the namespace
	dev  int             // its index
}

// newNetwork makes a bridge in this process's namespace, where the hosts are, and a namespace on it for each name.
// The first place is that of the hosts.
func newNetwork(names []string) ([]*place, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	if err != nil {
		return nil, err
	}
	defer func() { _ = home.Close() }() // only a descriptor
	// Mounts of a namespace that was just made still reach the one that it was made from.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("mounts of our own: %w", err)
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "chaos", HardwareAddr: mac(0)}}
	if err := netlink.LinkAdd(bridge); err != nil {
		return nil, fmt.Errorf("bridge: %w", err)
	}
	hosts := &place{name: "hosts", ns: home}
	if err := hosts.address("chaos", 0); err != nil {
		return nil, err
	}
	out := []*place{hosts}
	for i, name := range names {
		p := &place{name: name}
		if p.ns, err = netns.New(); err != nil {
			return nil, err
		}
		if err := netns.Set(home); err != nil {
			return nil, err
		}
		port := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "to-" + name, MasterIndex: bridge.Attrs().Index}, PeerName: "net", PeerNamespace: netlink.NsFd(p.ns), PeerHardwareAddr: mac(i + 1)}
		if err := errors.Join(netlink.LinkAdd(port), netlink.LinkSetUp(port)); err != nil {
			return nil, fmt.Errorf("network of %s: %w", name, err)
		}
		if err := p.address("net", i+1); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func mac(n int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, byte(n)} }

// address gives the place its address.
func (p *place) address(dev string, n int) (err error) {
	if p.link, err = netlink.NewHandleAt(p.ns); err != nil {
		return err
	}
	p.mac, p.ip = mac(n), net.IPv4(10, 77, 0, byte(n+1)).To4()
	for _, name := range []string{"lo", dev} {
		l, err := p.link.LinkByName(name)
		if err == nil {
			err = p.link.LinkSetUp(l)
		}
		if err != nil {
			return fmt.Errorf("%s of %s: %w", name, p.name, err)
		}
		p.dev = l.Attrs().Index
	}
	l, err := p.link.LinkByIndex(p.dev)
	if err != nil {
		return err
	}
	return p.link.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: p.ip, Mask: net.CIDRMask(24, 32)}})
}

// reach says whether what p sends to another place arrives there. What does not vanishes without a word.
func (p *place) reach(to *place, yes bool) error {
	at := to.mac
	if !yes {
		at = mac(0xff) // nobody's
	}
	return p.link.NeighSet(&netlink.Neigh{LinkIndex: p.dev, State: netlink.NUD_PERMANENT, IP: to.ip, HardwareAddr: at})
}

// in runs fn in the network of the place.
func (p *place) in(fn func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		return err
	}
	defer func() { _ = home.Close() }() // only a descriptor
	if err := netns.Set(p.ns); err != nil {
		return err
	}
	err = fn()
	if back := netns.Set(home); back != nil {
		return back // the thread stays locked, and ends with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}
