package path

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Interface is one network interface as the kernel sees it.
type Interface struct {
	Name  string
	Up    bool // administratively up and with a carrier
	Addrs []netip.Addr
}

// Addresses knows which addresses of this machine are really there: present,
// settled, on a link that is up.
type Addresses struct {
	log     hclog.Logger
	source  source
	changes chan struct{}
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu         sync.Mutex
	interfaces []Interface
}

// source is where interfaces come from; netlink, but for tests.
type source interface {
	// list returns all interfaces as they are.
	list() ([]Interface, error)
	// subscribe returns a channel that yields whenever something may have changed,
	// and is closed when the subscription breaks or done is closed.
	subscribe(done <-chan struct{}) (<-chan struct{}, error)
	close()
}

// WatchAddresses begins to watch the addresses of this network namespace. Close ends it.
func WatchAddresses(log hclog.Logger) (*Addresses, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("watch network addresses: %w", err)
	}
	return watchAddresses(log, &kernel{handle: h, ns: netns.None()})
}

func watchAddresses(log hclog.Logger, s source) (*Addresses, error) {
	if log == nil {
		log = hclog.NewNullLogger()
	}
	a := &Addresses{log: log.Named("addresses"), source: s, changes: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	// Subscribed first, listed then: nothing that happens in between is missed.
	events, err := s.subscribe(ctx.Done())
	if err == nil {
		err = a.read()
	}
	if err != nil {
		cancel()
		if events != nil {
			for range events { //nolint:revive // until the source has ended
			}
		}
		s.close()
		return nil, fmt.Errorf("watch network addresses: %w", err)
	}
	a.running.Go(func() { a.watch(ctx, events) })
	return a, nil
}

// resubscribeAfter is the pause after a subscription broke.
const resubscribeAfter = 500 * time.Millisecond

func (a *Addresses) watch(ctx context.Context, events <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			for range events { //nolint:revive // until the source has ended
			}
			return
		case _, ok := <-events:
			if !ok {
				if events = a.resubscribe(ctx); events == nil {
					return
				}
			}
		}
		if err := a.read(); err != nil {
			a.log.Warn("network addresses could not be read; what was known stays", "error", err)
		}
	}
}

// resubscribe tries until it succeeds, or returns nil when ctx ended.
func (a *Addresses) resubscribe(ctx context.Context) <-chan struct{} {
	for {
		if ctx.Err() != nil {
			return nil
		}
		events, err := a.source.subscribe(ctx.Done())
		if err == nil {
			return events
		}
		a.log.Warn("network changes cannot be followed; trying again", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(resubscribeAfter):
		}
	}
}

// read takes a fresh list and tells if it differs.
func (a *Addresses) read() error {
	now, err := a.source.list()
	if err != nil {
		return err
	}
	a.mu.Lock()
	changed := !slices.EqualFunc(now, a.interfaces, func(x, y Interface) bool {
		return x.Name == y.Name && x.Up == y.Up && slices.Equal(x.Addrs, y.Addrs)
	})
	a.interfaces = now
	a.mu.Unlock()
	if changed {
		select {
		case a.changes <- struct{}{}:
		default:
		}
	}
	return nil
}

// Changes yields after something changed, once for many changes.
func (a *Addresses) Changes() <-chan struct{} { return a.changes }

// Close ends the watch.
func (a *Addresses) Close() {
	a.cancel()
	a.running.Wait()
	a.source.close()
}

// Listener says whether hosts can reach a listener's URL, and why not. An
// unspecified address means any.
func (a *Addresses) Listener(listener string) (up bool, reason string) {
	u, err := url.Parse(listener)
	if err != nil || u.Hostname() == "" {
		return false, fmt.Sprintf("%q has no address", listener)
	}
	host := u.Hostname()
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return true, "" // a name: who bound it knows better
	}
	return a.Up(ip)
}

// Up says whether an address of this machine can be reached, and why not.
func (a *Addresses) Up(ip netip.Addr) (up bool, reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	zone := ip.Zone()
	ip = ip.Unmap().WithZone("")
	reason = fmt.Sprintf("no interface has address %s", ip)
	if ip.IsUnspecified() {
		reason = "no interface with an address is up"
	}
	for _, i := range a.interfaces {
		if zone != "" && zone != i.Name {
			continue
		}
		for _, has := range i.Addrs {
			switch {
			case ip.IsUnspecified() && ip.Is4() && !has.Is4():
			case !ip.IsUnspecified() && !covers(has, ip):
			case i.Up:
				return true, ""
			default:
				reason = fmt.Sprintf("interface %s is down", i.Name)
			}
		}
	}
	return false, reason
}

// covers says whether an address makes ip local: the loopback network is local as a whole.
func covers(has, ip netip.Addr) bool {
	return has == ip || (has.Is4() && ip.Is4() && has.IsLoopback() && ip.IsLoopback())
}

// kernel is the source over netlink.
type kernel struct {
	handle *netlink.Handle
	ns     netns.NsHandle // to subscribe in; None: that of the process
}

func (k *kernel) close() { k.handle.Close() }

func (k *kernel) list() ([]Interface, error) {
	links, err := dump(k.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return k.handle.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	byIndex := map[int]*Interface{}
	for _, l := range links {
		at := l.Attrs()
		// Links without a notion of carrier, as loopback and dummy, are "unknown".
		up := at.Flags&net.FlagUp != 0 && (at.OperState == netlink.OperUp || at.OperState == netlink.OperUnknown)
		byIndex[at.Index] = &Interface{Name: at.Name, Up: up}
	}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		i := byIndex[a.LinkIndex]
		// An IPv6 address is not usable before it is known to be nobody else's. RFC 4862 5.4
		if !ok || i == nil || a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			continue
		}
		i.Addrs = append(i.Addrs, ip.Unmap())
	}
	var out []Interface
	for _, i := range slices.Sorted(maps.Keys(byIndex)) {
		slices.SortFunc(byIndex[i].Addrs, netip.Addr.Compare)
		out = append(out, *byIndex[i])
	}
	slices.SortFunc(out, func(a, b Interface) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// dump repeats a listing that a change interrupted.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	for range 10 {
		out, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return nil, netlink.ErrDumpInterrupted
}

func (k *kernel) subscribe(done <-chan struct{}) (<-chan struct{}, error) {
	links := make(chan netlink.LinkUpdate, 64)
	addrs := make(chan netlink.AddrUpdate, 64)
	stop := make(chan struct{}) // ends both subscriptions
	if err := netlink.LinkSubscribeAt(k.ns, links, stop); err != nil {
		close(stop)
		return nil, fmt.Errorf("subscribe to links: %w", err)
	}
	if err := netlink.AddrSubscribeAt(k.ns, addrs, stop); err != nil {
		close(stop)
		for range links { //nolint:revive // until the library's goroutine has ended
		}
		return nil, fmt.Errorf("subscribe to addresses: %w", err)
	}
	out := make(chan struct{}, 1)
	go func() { // joined by whoever receives until out is closed
		defer close(out)
		open := func() {
			select {
			case out <- struct{}{}:
			default:
			}
		}
		for alive := true; alive; {
			select {
			case <-done:
				alive = false
			case _, ok := <-links:
				alive = ok
				open()
			case _, ok := <-addrs:
				alive = ok
				open()
			}
		}
		close(stop)
		for range links { //nolint:revive // until the library's goroutine has ended
		}
		for range addrs { //nolint:revive // until the library's goroutine has ended
		}
	}()
	return out, nil
}
