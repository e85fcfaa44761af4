package cert

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/vfs"
)

// The files of a folder of keys. All have mode 0600.
const (
	authorityFile    = "ca.crt" // the CAs that are believed
	authorityKeyFile = "ca.key" // only where nodes are admitted
	nodeFile         = "node.pem"
	pendingFile      = "node-pending.pem" // a key whose certificate has been asked for
)

// Keys is a node's folder of keys, as read last. It is safe for use by many
// goroutines; what Dial and Serve return keeps up with Reload.
type Keys struct {
	dir     string
	current atomic.Pointer[keys]
}

// keys is what the folder holds; immutable.
type keys struct {
	node      uuid.UUID
	own       tls.Certificate
	trusted   []*x509.Certificate
	pool      *x509.CertPool
	authority *Authority // nil: this node admits nobody
}

// Open reads a folder of keys; fs.ErrNotExist if the node has none.
func Open(dir string) (*Keys, error) {
	k := &Keys{dir: dir}
	return k, k.Reload()
}

// Reload reads the folder again, such as after a renewal by another process.
func (k *Keys) Reload() error {
	n, err := load(k.dir)
	if err != nil {
		return fmt.Errorf("read the node's keys in %s: %w", k.dir, err)
	}
	k.current.Store(n)
	return nil
}

func load(dir string) (*keys, error) {
	b, err := os.ReadFile(filepath.Join(dir, nodeFile))
	if err != nil {
		return nil, err
	}
	n := &keys{}
	if n.own, err = tls.X509KeyPair(b, b); err != nil {
		return nil, fmt.Errorf("%s: %w", nodeFile, err)
	}
	if n.node, err = nodeOf(n.own.Leaf); err != nil {
		return nil, fmt.Errorf("%s: %w", nodeFile, err)
	}
	if n.trusted, err = loadTrusted(dir); err != nil {
		return nil, err
	}
	n.pool = pool(n.trusted)
	n.authority, err = LoadAuthority(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return n, nil
}

func loadTrusted(dir string) ([]*x509.Certificate, error) {
	b, err := os.ReadFile(filepath.Join(dir, authorityFile))
	if err != nil {
		return nil, err
	}
	all, err := parseCerts(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", authorityFile, err)
	}
	return all, nil
}

func pool(all []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range all {
		p.AddCert(c)
	}
	return p
}

// LoadAuthority reads the CA's key of a folder; fs.ErrNotExist if it is not there.
func LoadAuthority(dir string) (*Authority, error) {
	b, err := os.ReadFile(filepath.Join(dir, authorityKeyFile))
	if err != nil {
		return nil, err
	}
	key, err := parseKey(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", authorityKeyFile, err)
	}
	all, err := loadTrusted(dir)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if pub, ok := c.PublicKey.(*ecdsa.PublicKey); ok && pub.Equal(key.Public()) {
			return &Authority{cert: c, key: key}, nil
		}
	}
	return nil, fmt.Errorf("%s belongs to none of the certificates in %s", authorityKeyFile, authorityFile)
}

// Create makes a cluster's CA and this node's certificate in a folder. What a call
// before, cut short, has made already is kept.
func Create(dir string, cluster, node uuid.UUID, name string, now time.Time) (*Keys, error) {
	a, err := LoadAuthority(dir)
	if errors.Is(err, fs.ErrNotExist) {
		a, err = createAuthority(dir, cluster, now)
	}
	if err != nil {
		return nil, fmt.Errorf("make the cluster's CA: %w", err)
	}
	if k, err := Open(dir); err == nil && k.Node() == node {
		return k, nil
	}
	r, err := Request(dir)
	if err != nil {
		return nil, err
	}
	c, err := a.Sign(r, node, name, now)
	if err != nil {
		return nil, err
	}
	return Install(dir, node, encodeCert(a.cert.Raw), c, now)
}

func createAuthority(dir string, cluster uuid.UUID, now time.Time) (*Authority, error) {
	a, err := newAuthority(cluster, now)
	if err != nil {
		return nil, err
	}
	key, err := encodeKey(a.key.(*ecdsa.PrivateKey))
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// The certificate first: a key without it would be taken for damaged.
	if err := vfs.ReplaceFile(filepath.Join(dir, authorityFile), encodeCert(a.cert.Raw), 0o600); err != nil {
		return nil, err
	}
	return a, vfs.ReplaceFile(filepath.Join(dir, authorityKeyFile), key, 0o600)
}

// Request makes a new key for this node, which waits for its certificate, and
// returns the certificate request. A key that waits already is used again.
func Request(dir string) ([]byte, error) {
	path := filepath.Join(dir, pendingFile)
	b, err := os.ReadFile(path)
	if err == nil {
		if s, err := parseKey(b); err == nil {
			if k, ok := s.(*ecdsa.PrivateKey); ok {
				return newRequest(k)
			}
		}
	}
	k, err := newKey()
	if err != nil {
		return nil, err
	}
	if b, err = encodeKey(k); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the node's keys: %w", err)
	}
	if err := vfs.ReplaceFile(path, b, 0o600); err != nil {
		return nil, fmt.Errorf("write the node's key: %w", err)
	}
	return newRequest(k)
}

// Install puts the certificate for the key that waits in place, with the CAs to
// believe, both as PEM, after checking that they fit each other and the node.
func Install(dir string, node uuid.UUID, trusted, own []byte, now time.Time) (*Keys, error) {
	key, err := os.ReadFile(filepath.Join(dir, pendingFile))
	if err != nil {
		return nil, fmt.Errorf("read the node's key: %w", err)
	}
	if err := check(node, trusted, own, key, now); err != nil {
		return nil, fmt.Errorf("the certificate that was received: %w", err)
	}
	if err := vfs.ReplaceFile(filepath.Join(dir, authorityFile), trusted, 0o600); err != nil {
		return nil, fmt.Errorf("write the cluster's CA: %w", err)
	}
	if err := vfs.ReplaceFile(filepath.Join(dir, nodeFile), append(own, key...), 0o600); err != nil {
		return nil, fmt.Errorf("write the node's certificate: %w", err)
	}
	if err := os.Remove(filepath.Join(dir, pendingFile)); err != nil {
		return nil, err
	}
	return Open(dir)
}

func check(node uuid.UUID, trusted, own, key []byte, now time.Time) error {
	all, err := parseCerts(trusted)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(own, key)
	if err != nil {
		return err
	}
	if got, err := nodeOf(pair.Leaf); err != nil || got != node {
		return fmt.Errorf("it is for node %s, not %s: %w", got, node, ErrStranger)
	}
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: pool(all), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

// Node is whose keys they are.
func (k *Keys) Node() uuid.UUID { return k.current.Load().node }

// Certificate is the node's own.
func (k *Keys) Certificate() *x509.Certificate { return k.current.Load().own.Leaf }

// Trusted are the CAs that are believed.
func (k *Keys) Trusted() []*x509.Certificate { return k.current.Load().trusted }

// TrustedPEM is the same in PEM, for a node that joins.
func (k *Keys) TrustedPEM() []byte {
	var out []byte
	for _, c := range k.current.Load().trusted {
		out = append(out, encodeCert(c.Raw)...)
	}
	return out
}

// chain is the node's certificate followed by its CA's, for a caller that knows no
// more than the fingerprint of the CA.
func (k *Keys) chain() tls.Certificate {
	n := k.current.Load()
	out := n.own
	out.Certificate = slices.Clone(out.Certificate)
	for _, c := range n.trusted {
		if n.own.Leaf.CheckSignatureFrom(c) == nil {
			out.Certificate = append(out.Certificate, c.Raw)
		}
	}
	return out
}

// Authority is the cluster's CA, or nil if this node does not have its key.
func (k *Keys) Authority() *Authority { return k.current.Load().authority }

// Due says whether the node's certificate should be renewed.
func (k *Keys) Due(now time.Time) bool {
	return now.After(k.Certificate().NotAfter.Add(-RenewBefore))
}

// Files are the paths of the CAs to believe and of the node's certificate and key,
// for programs that read them themselves; the last two may be one file.
func (k *Keys) Files() (trusted, own, key string) {
	own = filepath.Join(k.dir, nodeFile)
	return filepath.Join(k.dir, authorityFile), own, own
}
