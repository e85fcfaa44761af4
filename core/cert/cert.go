// Package cert owns how nodes know each other: the cluster's certificate authority
// (CA), a node's key and certificate in its data directory, and the TLS
// configurations in which both ends verify the cluster and the node.
//
// It does not own who is a member (package meta), nor any connection. What a
// certificate proves is a node's ID, in a DNS name made of it; addresses are not in
// it, so that a node may change its own.
package cert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Lifetimes.
const (
	// AuthorityLife is how long a cluster's CA is valid.
	AuthorityLife = 20 * 365 * 24 * time.Hour
	// NodeLife is how long a node's certificate is valid.
	NodeLife = 365 * 24 * time.Hour
	// RenewBefore is how long before its end a certificate is due for renewal.
	RenewBefore = NodeLife / 3
	// backdate is how far clocks of nodes may be apart.
	backdate = time.Hour
)

// domain is reserved for names that are not in the public DNS.
const domain = ".mooring.internal"

// Member is the name, common to all nodes, that every node's certificate carries
// beside its own: it says "a node of this cluster", for protocols that can verify
// one fixed name only.
const Member = "node" + domain

// Name is the DNS name that a node's certificate proves.
func Name(node uuid.UUID) string { return node.String() + domain }

// ErrStranger says that the other end is not the node, or no node of the cluster.
var ErrStranger = errors.New("not a node of this cluster")

// Peer is the node at the other end of a connection that a configuration of this
// package has verified.
func Peer(c tls.ConnectionState) (uuid.UUID, error) {
	if len(c.VerifiedChains) == 0 {
		return uuid.Nil, fmt.Errorf("its certificate was not verified: %w", ErrStranger)
	}
	return nodeOf(c.PeerCertificates[0])
}

// nodeOf returns the node that a certificate names.
func nodeOf(c *x509.Certificate) (uuid.UUID, error) {
	for _, n := range c.DNSNames {
		if id, ok := strings.CutSuffix(n, domain); ok {
			if u, err := uuid.Parse(id); err == nil && u.String() == id && u != uuid.Nil {
				return u, nil
			}
		}
	}
	return uuid.Nil, fmt.Errorf("its certificate names no node: %w", ErrStranger)
}

// Fingerprint names a CA's certificate: SHA-256, in hexadecimal.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func serial() (*big.Int, error) { return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) }

// Authority signs certificates. It is immutable.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// newAuthority makes a CA for a cluster.
func newAuthority(cluster uuid.UUID, now time.Time) (*Authority, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	n, err := serial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{Organization: []string{"Mooring"}, CommonName: "cluster " + cluster.String()},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(AuthorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{cert: c, key: key}, nil
}

// Certificate is the CA's own.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// Sign makes a certificate, as PEM, for the key of a certificate request. The request
// has proved that its sender has the key; node and name are what the caller knows of
// the sender, and nothing else in the request is believed.
func (a *Authority) Sign(request []byte, node uuid.UUID, name string, now time.Time) ([]byte, error) {
	b, _ := pem.Decode(request)
	if b == nil || b.Type != pemRequest {
		return nil, errors.New("no certificate request in PEM")
	}
	r, err := x509.ParseCertificateRequest(b.Bytes)
	if err == nil {
		err = r.CheckSignature()
	}
	if err != nil {
		return nil, fmt.Errorf("read the certificate request: %w", err)
	}
	return a.sign(r.PublicKey, node, name, now)
}

func (a *Authority) sign(key crypto.PublicKey, node uuid.UUID, name string, now time.Time) ([]byte, error) {
	n, err := serial()
	if err != nil {
		return nil, err
	}
	end := now.Add(NodeLife)
	if end.After(a.cert.NotAfter) {
		end = a.cert.NotAfter
	}
	t := &x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{Organization: a.cert.Subject.Organization, CommonName: name},
		NotBefore: now.Add(-backdate), NotAfter: end,
		DNSNames: []string{Name(node), Member}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of node %s: %w", name, err)
	}
	return encodeCert(der), nil
}

// The types of PEM blocks.
const (
	pemCert    = "CERTIFICATE"
	pemKey     = "PRIVATE KEY"
	pemRequest = "CERTIFICATE REQUEST"
)

func encodeCert(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: der}) }

func encodeKey(k *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

// newRequest makes a certificate request for a key.
func newRequest(k *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: der}), nil
}

func parseCerts(b []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != pemCert {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate in it")
	}
	return out, nil
}

func parseKey(b []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != pemKey {
		return nil, errors.New("no private key in it")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", k)
	}
	return s, nil
}
