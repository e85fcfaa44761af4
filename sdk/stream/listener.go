package stream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mooring-io/mooring/sdk"
)

// acceptBatch is how many connections one turn accepts.
const acceptBatch = 64

// listener is a listening socket. Its socket belongs to the first thread.
type listener struct {
	server      *Server
	accessPoint string
	asked       string // URL as given
	url         string // URL with the port that was bound
	fd          int
	spare       int       // descriptor to give up when there is none left; -1: it has been taken
	said        time.Time // when the log was last told that there is none; of the first thread
	closed      atomic.Bool
}

// open binds an address and begins to accept on the first thread.
func (s *Server) open(ctx context.Context, l sdk.Listener) (*listener, error) {
	address, err := s.parseURL(l.URL)
	if err != nil {
		return nil, err
	}
	fd, bound, err := listen(ctx, address, l.Floating)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", l.URL, err)
	}
	nl := &listener{
		server: s, accessPoint: l.AccessPointID, asked: l.URL, url: s.scheme + "://" + bound, fd: fd, spare: spareFD(),
	}
	th := s.workers[0].thread
	werr, err := onThread(th, func() error { return th.Watch(fd, unix.EPOLLIN, nl.accept) })
	if err = errors.Join(err, werr); err != nil {
		_ = unix.Close(fd)
		_ = unix.Close(nl.spare) // if there is one
		return nil, fmt.Errorf("listen on %s: %w", l.URL, err)
	}
	return nl, nil
}

// parseURL returns host:port of a listener's URL.
func (s *Server) parseURL(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", fmt.Errorf("parse listener URL: %w", err)
	}
	if u.Scheme != s.scheme || u.Host == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.User != nil {
		return "", fmt.Errorf("listener URL %q is not of the form %s://ADDRESS:PORT", text, s.scheme)
	}
	port := u.Port()
	if port == "" {
		port = strconv.Itoa(s.port)
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// listen binds with the net package, and takes the descriptor out of its hands. 0.0.0.0 is every
// IPv4 address, [::] every address of both kinds.
func listen(ctx context.Context, address string, floating bool) (fd int, bound string, err error) {
	network := "tcp"
	if ap, err := netip.ParseAddrPort(address); err == nil && ap.Addr().Is4() {
		network = "tcp4" // "tcp" would take 0.0.0.0 for [::]
	}
	var lc net.ListenConfig
	if floating {
		lc.Control = func(_, _ string, c syscall.RawConn) error {
			var err error
			cerr := c.Control(func(u uintptr) {
				if network == "tcp4" {
					err = unix.SetsockoptInt(int(u), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
				} else {
					err = unix.SetsockoptInt(int(u), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
				}
			})
			return errors.Join(cerr, err)
		}
	}
	ln, err := lc.Listen(ctx, network, address)
	if err != nil {
		return -1, "", err
	}
	defer func() { _ = ln.Close() }() // the duplicate lives on
	raw, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		return -1, "", err
	}
	cerr := raw.Control(func(u uintptr) { fd, err = unix.FcntlInt(u, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(cerr, err); err != nil {
		return -1, "", err
	}
	return fd, ln.Addr().String(), nil
}

// spareFD reserves a descriptor; -1 if there is none.
func spareFD() int {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}

// accept is called on the first thread when the socket is readable.
func (l *listener) accept(uint32) {
	s := l.server
	for i := range acceptBatch {
		full := int(s.connections.Load()) >= s.limits.Load().Connections
		if full && i > 0 {
			return // those of this turn may yet take the place of half-open ones
		}
		fd, sa, err := unix.Accept4(l.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case err == nil && full:
			s.counters.refused.Add(1)
			_ = unix.Close(fd)
		case err == nil:
			_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
			local := l.url
			if own, err := unix.Getsockname(fd); err == nil {
				local = s.scheme + "://" + addressOf(own)
			}
			l.assign(fd, addressOf(sa), local)
		case err == unix.EMFILE || err == unix.ENFILE:
			l.shed()
			return
		case err == unix.EINTR || err == unix.ECONNABORTED:
		case err == unix.EAGAIN:
			return
		default:
			s.logger.Warn("cannot accept a connection", "url", l.url, "error", err)
			return
		}
	}
}

const (
	shedSay   = 10 * time.Second       // between two lines in the log
	shedPause = 100 * time.Millisecond // without a descriptor to give up
)

// shed refuses a connection for which there is no descriptor, lest the socket stays readable. If
// the spare is gone too, nothing is accepted for a while.
func (l *listener) shed() {
	l.server.counters.refused.Add(1)
	if now := time.Now(); now.Sub(l.said) >= shedSay {
		l.said = now
		l.server.logger.Warn("connections are refused: the process has no file descriptor left", "url", l.url)
	}
	if l.spare >= 0 {
		_ = unix.Close(l.spare)
		if fd, _, err := unix.Accept4(l.fd, unix.SOCK_CLOEXEC); err == nil {
			_ = unix.Close(fd)
		}
	}
	if l.spare = spareFD(); l.spare >= 0 {
		return
	}
	th := l.server.workers[0].thread
	th.Unwatch(l.fd)
	th.After(shedPause, func() {
		if l.closed.Load() {
			return
		}
		if err := th.Watch(l.fd, unix.EPOLLIN, l.accept); err != nil {
			l.server.logger.Error("no connections are accepted any more", "url", l.url, "error", err)
		}
	})
}

// assign gives a connection to the thread that has the fewest.
func (l *listener) assign(fd int, peer, local string) {
	s := l.server
	w := s.workers[0]
	for i := range s.workers { // begin behind the last one, so that equals take turns
		o := s.workers[(s.next+1+i)%len(s.workers)]
		if i == 0 || o.load.Load() < w.load.Load() {
			w = o
		}
	}
	for i := range s.workers {
		if s.workers[i] == w {
			s.next = i
		}
	}
	s.counters.accepted.Add(1)
	s.connections.Add(1)
	w.load.Add(1)
	w.thread.Post(func() { w.adopt(fd, l, peer, local) })
}

func addressOf(sa unix.Sockaddr) string {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port)).String()
	}
	return "unknown"
}

// closeListener ends a listener and the connections that came in by it.
func (s *Server) closeListener(l *listener) {
	l.closed.Store(true)
	th := s.workers[0].thread
	_, _ = onThread(th, func() error {
		th.Unwatch(l.fd)
		return nil
	})
	_ = unix.Close(l.fd)
	_ = unix.Close(l.spare) // if there is one
	for _, w := range s.workers {
		w.thread.Post(func() { w.endListener(l) })
	}
}
