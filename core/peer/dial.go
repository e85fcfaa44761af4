package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/cert"
	"github.com/mooring-io/mooring/core/vfs"
)

// Between two attempts to connect.
const (
	minRetry        = 50 * time.Millisecond
	maxRetry        = 2 * time.Second
	connectPatience = 3 * time.Second
)

// Network is how nodes reach each other: certificates, and the reactor's queue that drives the sockets.
type Network struct {
	Links *Links
	Keys  *cert.Keys
	Queue vfs.Queue
	Post  func(fn func())
}

// Accept serves the nodes whose connections come from l, which speaks cert.Peer1, until l is closed.
func (n *Network) Accept(l net.Listener) error {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := n.accepted(c); err != nil {
			n.Links.log.Debug("a connection for replicas was refused", "from", c.RemoteAddr(), "error", err)
			c.Close()
		}
	}
}

func (n *Network) accepted(c net.Conn) error {
	t, ok := c.(*tls.Conn)
	if !ok {
		return errors.New("it is not a TLS connection")
	}
	node, err := cert.Peer(t.ConnectionState())
	if err != nil {
		return err
	}
	s, err := NewStream(t, n.Queue)
	if err != nil {
		return err
	}
	n.Post(func() { n.Links.Serve(node, s) })
	return nil
}

// Dial keeps a link to a node at address until ctx ends; then the link is closed.
func (n *Network) Dial(ctx context.Context, node uuid.UUID, address string) {
	for retry := minRetry; ctx.Err() == nil; {
		began := time.Now()
		err := n.connect(ctx, node, address)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > maxRetry {
			retry = minRetry
		}
		n.Links.log.Debug("there is no link to a node", "node", node, "address", address, "error", err)
		select {
		case <-time.After(retry):
		case <-ctx.Done():
		}
		retry = min(2*retry, maxRetry)
	}
}

// connect makes one connection and returns when it broke.
func (n *Network) connect(ctx context.Context, node uuid.UUID, address string) error {
	short, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(short, "tcp", address)
	if err != nil {
		return err
	}
	c := tls.Client(cert.NewWire(raw), n.Keys.Dial(node, cert.Peer1))
	if err := c.HandshakeContext(short); err != nil {
		raw.Close()
		return fmt.Errorf("node %s: %w", node, err)
	}
	s, err := NewStream(c, n.Queue)
	if err != nil {
		raw.Close()
		return err
	}
	broken := make(chan error, 1)
	n.Post(func() {
		if ctx.Err() != nil {
			s.Close()
			return
		}
		n.Links.Connect(node, s, func(err error) { broken <- err })
	})
	select {
	case err := <-broken:
		return err
	case <-ctx.Done():
		n.Post(func() { n.Links.Disconnect(node) })
		return ctx.Err()
	}
}
