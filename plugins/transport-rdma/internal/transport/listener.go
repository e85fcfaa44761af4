package transport

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/mooring-io/mooring/plugins/transport-rdma/internal/cm"
	"github.com/mooring-io/mooring/plugins/transport-rdma/internal/verbs"
	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/roce"
)

// listener is one address that hosts connect to. Its ID belongs to the first thread.
type listener struct {
	transport   *Transport
	accessPoint string
	asked       string // URL as given
	url         string // URL with the port that was bound
	id          *verbs.ID
	closed      atomic.Bool
}

func (t *Transport) open(l sdk.Listener) (*listener, error) {
	at, err := parseURL(l.URL, os.DirFS("/sys"))
	if err != nil {
		return nil, err
	}
	w := t.workers[0]
	nl := &listener{transport: t, accessPoint: l.AccessPointID, asked: l.URL}
	nl.id, err = onThread(w.thread, func() (*verbs.ID, error) {
		id, err := w.channel.Listen(at)
		if err != nil {
			return nil, err
		}
		if err := suitable(id); err != nil {
			id.Close()
			return nil, err
		}
		id.User = nl
		nl.url = Scheme + "://" + id.Local().String()
		return id, nil
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", l.URL, err)
	}
	return nl, nil
}

// parseURL returns the address and port that a listener's URL names, or whose device it names.
func parseURL(text string, sys fs.FS) (netip.AddrPort, error) {
	u, err := url.Parse(text)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("parse listener URL: %w", err)
	}
	if u.Hostname() == "" || u.Scheme != Scheme || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.User != nil {
		return netip.AddrPort{}, fmt.Errorf("listener URL %q is not of the form %s://ADDRESS:PORT or %s://DEVICE:PORT", text, Scheme, Scheme)
	}
	port := uint64(cm.Port)
	if u.Port() != "" {
		if port, err = strconv.ParseUint(u.Port(), 10, 16); err != nil {
			return netip.AddrPort{}, fmt.Errorf("listener URL %q: port: %w", text, err)
		}
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		if addr, err = addressOf(u.Hostname(), sys); err != nil {
			return netip.AddrPort{}, fmt.Errorf("listener URL %q: %w", text, err)
		}
	}
	return netip.AddrPortFrom(addr, uint16(port)), nil
}

// addressOf is where hosts reach an RDMA device: the first of its addresses, which is not one of a link
// alone if there is another.
func addressOf(device string, sys fs.FS) (netip.Addr, error) {
	all, err := roce.Devices(sys)
	if err != nil {
		return netip.Addr{}, err
	}
	var names []string
	for _, d := range all {
		if d.Name != device {
			names = append(names, d.Name)
			continue
		}
		if addrs := d.Addrs(); len(addrs) > 0 {
			return addrs[0], nil
		}
		return netip.Addr{}, fmt.Errorf("RDMA device %s has no address for RoCE v2 (mooring doctor rdma says why)", device)
	}
	return netip.Addr{}, fmt.Errorf("%q is neither an address nor an RDMA device; devices here: %s", device, cmp.Or(strings.Join(names, ", "), "none"))
}

// What is refused by name.
var (
	errIWARP      = errors.New("the device speaks iWARP; RoCE v2 is what is served")
	errInfiniBand = errors.New("the port is InfiniBand; RoCE v2 over Ethernet is what is served")
	errRoCEv1     = errors.New("the address goes by a RoCE v1 GID; only RoCE v2 is served (cma_roce_mode of rdma-core sets the default)")
	errNoDevice   = errors.New("no RDMA device has this address (rdma link lists devices and their network interfaces)")
)

// suitable looks at the device that an ID is bound to, if it is bound to one.
func suitable(id *verbs.ID) error {
	if id.Device() == 0 {
		if a := id.Local().Addr(); !a.IsUnspecified() {
			return errNoDevice
		}
		return nil
	}
	link, err := id.Link()
	switch {
	case err != nil:
		return err
	case link.IWARP:
		return errIWARP
	case !link.Ethernet:
		return errInfiniBand
	}
	return nil
}

// suitableConnection looks at what a connection that was asked for would go by.
func suitableConnection(id *verbs.ID) error {
	if err := suitable(id); err != nil {
		return err
	}
	gid, err := id.GIDType()
	if err != nil {
		return err
	}
	if gid != verbs.GIDTypeRoCEv2 {
		return errRoCEv1
	}
	return nil
}

// request is called on the first thread when a host wants a connection.
func (l *listener) request(e verbs.Event) {
	w := l.transport.assign()
	l.transport.connections.Add(1)
	w.load.Add(1)
	w.thread.Post(func() { w.adopt(l, e) })
}

// assign chooses the worker that has the fewest connections.
func (t *Transport) assign() *worker {
	best := t.next
	for i := range t.workers { // begin behind the last one, so that equals take turns
		n := (t.next + 1 + i) % len(t.workers)
		if i == 0 || t.workers[n].load.Load() < t.workers[best].load.Load() {
			best = n
		}
	}
	t.next = best
	return t.workers[best]
}

// close ends a listener and the connections that came in by it.
func (l *listener) close() {
	l.closed.Store(true)
	_, _ = onThread(l.transport.workers[0].thread, func() (struct{}, error) {
		if l.id != nil {
			l.id.Close()
			l.id = nil
		}
		return struct{}{}, nil
	})
	for _, w := range l.transport.workers {
		w.thread.Post(func() { w.endListener(l) })
	}
}

// deviceGone is called on the first thread when the device of the listener is removed.
func (l *listener) deviceGone() {
	l.transport.log.Warn("RDMA device of a listener is removed", "url", l.url)
	if l.id != nil {
		l.id.Close()
		l.id = nil
	}
}
