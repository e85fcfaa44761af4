package cert

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
)

// Bounds of a Listener.
const (
	handshakePatience = 5 * time.Second
	maxHandshakes     = 128 // at a time; further connections wait in the kernel
)

// Listener is a node's port for other nodes: it hands each connection, verified, to
// the protocol that the caller asked for. Only Join1 is open to strangers, and only
// once it is served.
type Listener struct {
	inner net.Listener
	keys  *Keys
	admit func(uuid.UUID) error
	log   hclog.Logger
	done  chan struct{} // closed by Close
	slots chan struct{}
	wait  sync.WaitGroup

	mu     sync.Mutex
	served map[Protocol]*protocolListener
	shakes map[net.Conn]struct{} // in their handshake
	closed bool
}

// Listen opens a node's port. admit, if not nil, says whether a node is a member; its
// error ends the connection.
func Listen(address string, k *Keys, admit func(uuid.UUID) error, log hclog.Logger) (*Listener, error) {
	inner, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for other nodes: %w", err)
	}
	l := &Listener{
		inner: inner, keys: k, admit: admit, log: log, done: make(chan struct{}), slots: make(chan struct{}, maxHandshakes),
		served: map[Protocol]*protocolListener{}, shakes: map[net.Conn]struct{}{},
	}
	l.wait.Go(l.accept)
	return l, nil
}

// Addr is where it listens.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// Serve begins to accept connections for a protocol; they come from the Accept of
// what it returns, as *tls.Conn after the handshake. Closing that ends the protocol.
func (l *Listener) Serve(p Protocol) net.Listener {
	s := &protocolListener{l: l, p: p, conns: make(chan net.Conn), done: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.served[p] = s
	return s
}

// Close ends the port: handshakes under way, and Accept of every protocol.
// Connections that were accepted stay their owners'.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	close(l.done)
	for c := range l.shakes {
		c.Close()
	}
	l.mu.Unlock()
	err := l.inner.Close()
	l.wait.Wait()
	return err
}

func (l *Listener) accept() {
	for {
		select {
		case l.slots <- struct{}{}:
		case <-l.done:
			return
		}
		c, err := l.inner.Accept()
		switch {
		case err == nil:
			l.wait.Go(func() {
				defer func() { <-l.slots }()
				l.handshake(c)
			})
			continue
		case errors.Is(err, net.ErrClosed):
			return
		}
		<-l.slots
		l.log.Warn("a connection from another node was not accepted", "error", err)
		select { // such as too many open files: not in a tight loop
		case <-time.After(100 * time.Millisecond):
		case <-l.done:
			return
		}
	}
}

// handshake brings one connection to its protocol.
func (l *Listener) handshake(raw net.Conn) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		raw.Close()
		return
	}
	l.shakes[raw] = struct{}{}
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), handshakePatience)
	c := tls.Server(NewWire(raw), &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: l.config})
	err := c.HandshakeContext(ctx)
	cancel()
	l.mu.Lock()
	delete(l.shakes, raw)
	s := l.served[Protocol(c.ConnectionState().NegotiatedProtocol)]
	l.mu.Unlock()
	if err == nil && s == nil {
		err = errors.New("it asks for no protocol")
	}
	if err != nil {
		l.log.Debug("a connection to the nodes' port was refused", "from", raw.RemoteAddr(), "error", err)
		raw.Close()
		return
	}
	if !s.offer(c) {
		c.Close()
	}
}

// config chooses what a caller must prove, by what it asks for.
func (l *Listener) config(h *tls.ClientHelloInfo) (*tls.Config, error) {
	l.mu.Lock()
	var served []Protocol
	for p := range l.served {
		served = append(served, p)
	}
	l.mu.Unlock()
	if slices.Equal(h.SupportedProtos, []string{string(Join1)}) && slices.Contains(served, Join1) {
		return &tls.Config{
			MinVersion: tls.VersionTLS13, NextProtos: h.SupportedProtos, SessionTicketsDisabled: true,
			Certificates: []tls.Certificate{l.keys.chain()},
		}, nil
	}
	served = slices.DeleteFunc(served, func(p Protocol) bool { return p == Join1 })
	return l.keys.Serve(l.admit, served...).GetConfigForClient(h)
}

// protocolListener is one protocol's share of a Listener.
type protocolListener struct {
	l     *Listener
	p     Protocol
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

// offer gives a connection to whoever accepts next, unless nobody does in time.
func (s *protocolListener) offer(c net.Conn) bool {
	late := time.NewTimer(handshakePatience)
	defer late.Stop()
	select {
	case s.conns <- c:
		return true
	case <-s.done:
	case <-s.l.done:
	case <-late.C:
	}
	return false
}

// Accept implements net.Listener.
func (s *protocolListener) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.done:
	case <-s.l.done:
	}
	return nil, net.ErrClosed
}

// Close implements net.Listener.
func (s *protocolListener) Close() error {
	s.once.Do(func() {
		close(s.done)
		s.l.mu.Lock()
		defer s.l.mu.Unlock()
		if s.l.served[s.p] == s {
			delete(s.l.served, s.p)
		}
	})
	return nil
}

// Addr implements net.Listener.
func (s *protocolListener) Addr() net.Addr { return s.l.Addr() }
