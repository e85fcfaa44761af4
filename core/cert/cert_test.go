package cert_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/mooring-io/mooring/core/cert"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster makes the keys of a cluster's nodes; the first one has the CA.
func cluster(t *testing.T, nodes int) []*cert.Keys {
	t.Helper()
	first, err := cert.Create(t.TempDir(), uuid.New(), uuid.New(), "a", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	out := []*cert.Keys{first}
	for len(out) < nodes {
		out = append(out, join(t, first, time.Now()))
	}
	return out
}

func join(t *testing.T, first *cert.Keys, now time.Time) *cert.Keys {
	t.Helper()
	dir, node := t.TempDir(), uuid.New()
	r, err := cert.Request(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := first.Authority().Sign(r, node, "b", now)
	if err != nil {
		t.Fatal(err)
	}
	k, err := cert.Install(dir, node, first.TrustedPEM(), c, now)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// exchange connects by the two configurations and returns who the server saw, and
// what went wrong at either end.
func exchange(t *testing.T, client, server *tls.Config) (uuid.UUID, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var seen uuid.UUID
	served := make(chan error, 1)
	go func() {
		raw, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer raw.Close()
		c := tls.Server(raw, server)
		if err = c.Handshake(); err == nil {
			if seen, err = cert.Peer(c.ConnectionState()); err == nil {
				_, err = c.Write([]byte("hello"))
			}
		}
		served <- err
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(raw, client)
	b, err := io.ReadAll(io.LimitReader(c, 5))
	if err == nil && string(b) != "hello" {
		err = fmt.Errorf("read %q", b)
	}
	c.Close()
	return seen, errors.Join(err, <-served)
}

func TestBothEndsAreVerified(t *testing.T) {
	n := cluster(t, 2)
	a, b := n[0], n[1]
	serve := b.Serve(nil, cert.Peer1)
	seen, err := exchange(t, a.Dial(b.Node(), cert.Peer1), serve)
	if err != nil || seen != a.Node() {
		t.Fatalf("saw %s, %v; want %s", seen, err, a.Node())
	}
	if _, err := exchange(t, a.DialMember(cert.Peer1), serve); err != nil {
		t.Fatal(err)
	}
	if _, err := exchange(t, a.DialUnnamed(), b.Serve(nil)); err != nil {
		t.Fatal(err)
	}
	foreign := cluster(t, 1)[0]
	expired, err := cert.Create(t.TempDir(), uuid.New(), uuid.New(), "a", time.Now().Add(-2*cert.NodeLife))
	if err != nil {
		t.Fatal(err)
	}
	nobody := a.Dial(b.Node(), cert.Peer1)
	nobody.GetClientCertificate = nil
	for what, c := range map[string][2]*tls.Config{
		"another node answers":             {a.Dial(uuid.New(), cert.Peer1), serve},
		"a node of another cluster calls":  {foreign.Dial(b.Node(), cert.Peer1), serve},
		"a node of another cluster serves": {a.DialMember(cert.Peer1), foreign.Serve(nil, cert.Peer1)},
		"a caller without a certificate":   {nobody, serve},
		"a stranger that is not named":     {a.DialUnnamed(), foreign.Serve(nil)},
		"another protocol":                 {a.Dial(b.Node(), cert.Cluster1), serve},
		"a node that is no member any more": {
			a.Dial(b.Node(), cert.Peer1), b.Serve(func(id uuid.UUID) error {
				if id == a.Node() {
					return cert.ErrStranger
				}
				return nil
			}, cert.Peer1),
		},
		"an expired certificate": {expired.Dial(expired.Node(), cert.Peer1), expired.Serve(nil, cert.Peer1)},
	} {
		t.Run(what, func(t *testing.T) {
			if _, err := exchange(t, c[0], c[1]); err == nil {
				t.Fatal("the connection was made")
			}
		})
	}
}

func TestRenewalIsTakenUp(t *testing.T) {
	n := cluster(t, 2)
	a, b := n[0], n[1]
	if b.Due(time.Now()) || !b.Due(time.Now().Add(cert.NodeLife-cert.RenewBefore+time.Hour)) {
		t.Fatal("a certificate is due for renewal a third of its life before its end")
	}
	serve := b.Serve(nil, cert.Peer1)
	_, own, _ := b.Files()
	dir := filepath.Dir(own)
	former := b.Certificate().SerialNumber
	r, err := cert.Request(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.Authority().Sign(r, b.Node(), "b", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Install(dir, b.Node(), a.TrustedPEM(), c, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := b.Reload(); err != nil {
		t.Fatal(err)
	}
	client := a.Dial(b.Node(), cert.Peer1)
	client.VerifyConnection = func(s tls.ConnectionState) error {
		if s.PeerCertificates[0].SerialNumber.Cmp(former) == 0 {
			return errors.New("the former certificate is still shown")
		}
		return nil
	}
	if _, err := exchange(t, client, serve); err != nil {
		t.Fatal(err)
	}
}

// TestCreateMayBeCut removes, of what Create makes, every tail, and calls it again.
func TestCreateMayBeCut(t *testing.T) {
	id, node := uuid.New(), uuid.New()
	for _, missing := range [][]string{{}, {"node.pem"}, {"node.pem", "ca.key"}, {"node.pem", "ca.key", "ca.crt"}} {
		dir := t.TempDir()
		first, err := cert.Create(dir, id, node, "a", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range missing {
			if err := os.Remove(filepath.Join(dir, f)); err != nil {
				t.Fatal(err)
			}
		}
		k, err := cert.Create(dir, id, node, "a", time.Now())
		if err != nil {
			t.Fatalf("without %v: %v", missing, err)
		}
		if len(missing) < 2 && !bytes.Equal(first.TrustedPEM(), k.TrustedPEM()) {
			t.Fatalf("without %v: another CA was made", missing)
		}
		if _, err := exchange(t, k.Dial(node, cert.Peer1), k.Serve(nil, cert.Peer1)); err != nil {
			t.Fatalf("without %v: %v", missing, err)
		}
		all, err := os.ReadDir(dir)
		if err != nil || len(all) != 3 {
			t.Fatalf("%d files, %v", len(all), err)
		}
		for _, e := range all {
			if fi, err := e.Info(); err != nil || fi.Mode().Perm() != 0o600 {
				t.Fatalf("%s has mode %v, %v", e.Name(), fi.Mode(), err)
			}
		}
	}
}

func TestInstallChecks(t *testing.T) {
	n := cluster(t, 2)
	a, node := n[0], uuid.New()
	if _, err := cert.Open(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("an empty folder: %v", err)
	}
	if n[1].Authority() != nil {
		t.Fatal("a node that joined has the CA's key")
	}
	dir := t.TempDir()
	r, err := cert.Request(dir)
	if err != nil {
		t.Fatal(err)
	}
	good, err := a.Authority().Sign(r, node, "c", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	wrong, _ := a.Authority().Sign(r, uuid.New(), "c", time.Now())
	elsewhere, _ := cert.Request(t.TempDir())
	stolen, _ := a.Authority().Sign(elsewhere, node, "c", time.Now())
	for what, c := range map[string][2][]byte{
		"another node's":     {a.TrustedPEM(), wrong},
		"another CA's":       {cluster(t, 1)[0].TrustedPEM(), good},
		"another key's":      {a.TrustedPEM(), stolen},
		"no certificate":     {a.TrustedPEM(), []byte("x")},
		"nothing to believe": {nil, good},
	} {
		if _, err := cert.Install(dir, node, c[0], c[1], time.Now()); err == nil {
			t.Errorf("%s certificate was installed", what)
		}
	}
	if _, err := a.Authority().Sign([]byte("nonsense"), node, "c", time.Now()); err == nil {
		t.Error("nonsense was signed")
	}
	if _, err := cert.Install(dir, node, a.TrustedPEM(), good, time.Now()); err != nil {
		t.Fatal(err)
	}
}

func TestListener(t *testing.T) {
	n := cluster(t, 2)
	a, b := n[0], n[1]
	l, err := cert.Listen("127.0.0.1:0", a, nil, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := func(c *tls.Config) error {
		conn, err := tls.Dial("tcp", l.Addr().String(), c)
		if err != nil {
			return err
		}
		defer conn.Close()
		text, err := io.ReadAll(conn)
		if err == nil && len(text) == 0 {
			return io.ErrUnexpectedEOF
		}
		if err == nil && string(text) != c.NextProtos[0] {
			return fmt.Errorf("served as %q", text)
		}
		return err
	}
	serve := func(p cert.Protocol) net.Listener {
		s := l.Serve(p)
		go func() {
			for {
				c, err := s.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(c, c.(*tls.Conn).ConnectionState().NegotiatedProtocol)
				c.Close()
			}
		}()
		return s
	}
	fingerprint := cert.Fingerprint(a.Trusted()[0])
	if dial(b.Dial(a.Node(), cert.Peer1)) == nil || dial(cert.DialAuthority(fingerprint)) == nil {
		t.Fatal("a protocol that is not served was")
	}
	serve(cert.Peer1)
	cluster1 := serve(cert.Cluster1)
	for _, p := range []cert.Protocol{cert.Peer1, cert.Cluster1} {
		if err := dial(b.Dial(a.Node(), p)); err != nil {
			t.Fatal(p, err)
		}
	}
	if dial(cert.DialAuthority(fingerprint)) == nil {
		t.Fatal("a stranger got in before joining was served")
	}
	serve(cert.Join1)
	if err := dial(cert.DialAuthority(fingerprint)); err != nil {
		t.Fatal(err)
	}
	if dial(cert.DialAuthority(cert.Fingerprint(cluster(t, 1)[0].Trusted()[0]))) == nil {
		t.Fatal("a stranger believed another CA's node")
	}
	both := cert.DialAuthority(fingerprint)
	both.NextProtos = []string{string(cert.Join1), string(cert.Peer1)}
	if dial(both) == nil {
		t.Fatal("a stranger got in by asking for two protocols")
	}
	cluster1.Close()
	if dial(b.Dial(a.Node(), cert.Cluster1)) == nil {
		t.Fatal("a protocol that ended is served")
	}
	if err := dial(b.Dial(a.Node(), cert.Peer1)); err != nil {
		t.Fatal(err)
	}
	// A caller that says nothing does not keep Close waiting.
	silent, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
