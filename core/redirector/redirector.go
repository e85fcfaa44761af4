// Package redirector keeps an IP address on one node of the cluster, so that initiators have one
// address that answers as long as any node lives. It owns that the address is on the interface only as
// long as the node may have it, and that the network hears where it is. It does not own who may have it
// (core/meta), what listens there, nor where initiators are sent.
package redirector

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Lease is the right to have the address: of one node at a time, for as long as its Meta session lives.
type Lease interface {
	// Take takes the address for this node, unless another living one has it: that one's name is
	// returned. "" is this node.
	Take(ctx context.Context) (other string, err error)
	// Yield gives it up.
	Yield(ctx context.Context) error
	// Left is how long the node may use what it has, if nothing is renewed from now on. It does not block.
	Left() time.Duration
}

// Options configure a Holder.
type Options struct {
	Address   netip.Addr
	Interface string
	Lease     Lease
	// Ready says whether something listens at the address; a node where nothing does leaves it to others.
	Ready func() bool
	// Changed is called when the address has come or gone; it does not block.
	Changed func()
	Logger  hclog.Logger
}

const (
	// refresh is how often a node that has the address looks whether the kernel may keep it for longer. The
	// kernel counts whole seconds: of a session of 2 s there may be one only.
	refresh = 250 * time.Millisecond
	// retry is how often a node that does not have the address tries to take it.
	retry = time.Second
	// takeWithin is how long an answer of Meta is waited for: the next request may find a living node of it.
	takeWithin = time.Second
	// pause is how long a node that could not have the address leaves it to others.
	pause = 10 * time.Second
	// late is how long after its lifetime the kernel may remove the address.
	late = 250 * time.Millisecond
	// yieldWithin bounds what is said to Meta at the end. If it is not heard, others wait for the end of
	// the Meta session.
	yieldWithin = 2 * time.Second
)

// State is where the address is, as far as this node knows.
type State struct {
	Here  bool
	Other string // name of another node that has it
	Err   error  // why this node cannot have it
}

// Holder is a node's part in having the address.
type Holder struct {
	o Options

	// Of Run's goroutine.
	taken bool      // the lease is this node's
	gone  time.Time // when the kernel removes the address
	said  string    // the last trouble that was logged

	mu    sync.Mutex
	state State // written by Run's goroutine; guarded by mu
}

// New returns a Holder that does nothing before Run.
func New(o Options) *Holder { return &Holder{o: o} }

// State says where the address is.
func (h *Holder) State() State {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state
}

// Run has the address whenever it is this node's, until ctx ends; then the address is gone, and others
// may have it.
func (h *Holder) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			timer.Reset(h.turn(ctx))
		case <-ctx.Done():
			ending, cancel := context.WithTimeout(context.Background(), yieldWithin)
			defer cancel()
			h.giveUp(ending, nil)
			return
		}
	}
}

// turn has the address here for a little while more, if it is this node's, and returns when to look again.
func (h *Holder) turn(ctx context.Context) time.Duration {
	if h.State().Here && !h.here() {
		h.set(State{}) // the lease was not renewed in time
	}
	if !h.o.Ready() {
		h.giveUp(ctx, nil)
		return retry
	}
	// What is here stays this node's as long as its Meta session lives: Meta need not be asked.
	if !h.here() {
		asking, cancel := context.WithTimeout(ctx, takeWithin)
		other, err := h.o.Lease.Take(asking)
		cancel()
		if h.taken = err == nil && other == ""; !h.taken {
			h.set(State{Other: other, Err: err})
			return retry
		}
	}
	if err := h.keep(); err != nil {
		h.giveUp(ctx, err)
		return pause
	}
	return refresh
}

// here says whether the address is on the interface, as far as the kernel was told.
func (h *Holder) here() bool { return time.Now().Before(h.gone) }

// keep lets the kernel keep the address for as long as the lease holds.
func (h *Holder) keep() error {
	if h.o.Lease.Left() <= 0 {
		return h.drop()
	}
	link, err := netlink.LinkByName(h.o.Interface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", h.o.Interface, err)
	}
	at := link.Attrs()
	// Links without a notion of carrier are "unknown".
	if at.Flags&net.FlagUp == 0 || at.OperState != netlink.OperUp && at.OperState != netlink.OperUnknown {
		return fmt.Errorf("interface %s is down", at.Name)
	}
	was := h.here()
	if !was {
		if err := foreign(at, h.o.Address); err != nil {
			return explain(err)
		}
	}
	now := time.Now()
	seconds := (h.o.Lease.Left() - late) / time.Second
	gone := now.Add(seconds * time.Second)
	if seconds < 1 || was && !gone.After(h.gone) {
		return nil // until the lease is renewed
	}
	if err := netlink.AddrReplace(link, entry(h.o.Address, int(seconds))); err != nil {
		return explain(fmt.Errorf("add %s to interface %s: %w", h.o.Address, at.Name, err))
	}
	h.gone = gone
	if was {
		return nil
	}
	h.set(State{Here: true})
	h.o.Logger.Info("the redirector's address is here", "address", h.o.Address, "interface", at.Name)
	if err := announce(at, h.o.Address); err != nil {
		h.o.Logger.Warn("the network was not told; hosts find out when their neighbour entry is stale", "address", h.o.Address, "error", err)
	}
	return nil
}

// entry is the address as it is added: alone in its network, so that no route comes and goes with it, and
// deprecated from the beginning, so that the node opens no connections from it. That is also what tells it
// from addresses of others (left).
func entry(ip netip.Addr, seconds int) *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}, ValidLft: seconds}
	if ip.Is6() {
		a.Flags = unix.IFA_F_NODAD // foreign has looked, and does not take as long
	}
	return a
}

// left says whether an address is one that a Holder added.
func left(a netlink.Addr) bool {
	ones, bits := a.Mask.Size()
	return ones == bits && a.Flags&unix.IFA_F_PERMANENT == 0 && a.Flags&unix.IFA_F_DEPRECATED != 0
}

// entries returns what the node has of an address, on all interfaces.
func entries(ip netip.Addr) ([]netlink.Addr, error) {
	family := netlink.FAMILY_V4
	if ip.Is6() {
		family = netlink.FAMILY_V6
	}
	for range 10 {
		all, err := netlink.AddrList(nil, family)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue // by a change
		}
		var out []netlink.Addr
		for _, a := range all {
			if has, _ := netip.AddrFromSlice(a.IP); has.Unmap() == ip {
				out = append(out, a)
			}
		}
		return out, err
	}
	return nil, netlink.ErrDumpInterrupted
}

// foreign says who else has the address: this node, by other means, or another machine of the network.
func foreign(at *netlink.LinkAttrs, ip netip.Addr) error {
	have, err := entries(ip)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range have {
		if a.LinkIndex != at.Index || !left(a) {
			return fmt.Errorf("%s is an address of this node already: a redirector's is one that no machine has of its own", ip)
		}
	}
	switch mac, err := probe(at, ip); {
	case err != nil:
		return err
	case mac != nil:
		return fmt.Errorf("%s is in use on the network of interface %s, by the machine with hardware address %s", ip, at.Name, mac)
	}
	return nil
}

// explain says what to do about a missing capability.
func explain(err error) error {
	if errors.Is(err, unix.EPERM) {
		return errors.New("the agent may not change addresses: run it as root, or give it the capabilities CAP_NET_ADMIN and CAP_NET_RAW")
	}
	return err
}

// Remove removes an address that a Holder of a former life of this node left: it is for others to have as
// soon as the Meta session of that life is over.
func Remove(ip netip.Addr) error {
	have, err := entries(ip)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range have {
		if !left(a) {
			continue
		}
		link, err := netlink.LinkByIndex(a.LinkIndex)
		if err == nil {
			err = netlink.AddrDel(link, &a)
		}
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove %s: %w", ip, err)
		}
	}
	return nil
}

// giveUp removes the address, then lets others have it.
func (h *Holder) giveUp(ctx context.Context, why error) {
	err := h.drop()
	if err == nil && h.taken {
		err = h.o.Lease.Yield(ctx)
		h.taken = err != nil
	}
	h.set(State{Err: errors.Join(why, err)})
}

// drop removes the address. One that cannot be removed goes when its lifetime is over.
func (h *Holder) drop() error {
	if !h.here() {
		return nil
	}
	if err := Remove(h.o.Address); err != nil {
		return err
	}
	h.gone = time.Time{}
	return nil
}

// set says how it is now, and tells a new trouble once.
func (h *Holder) set(s State) {
	h.mu.Lock()
	was := h.state
	h.state = s
	h.mu.Unlock()
	text := ""
	if s.Err != nil {
		text = s.Err.Error()
	}
	if text != "" && text != h.said {
		h.o.Logger.Warn("this node cannot have the redirector's address", "address", h.o.Address, "interface", h.o.Interface, "error", s.Err)
	}
	h.said = text
	if was.Here != s.Here {
		h.o.Changed()
	}
}
