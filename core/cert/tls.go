package cert

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"

	"github.com/google/uuid"
)

// Protocol is what a connection between nodes is for; TLS negotiates it (ALPN).
type Protocol string

// The protocols of a node's port.
const (
	Peer1    Protocol = "mooring-peer/1"    // replicas and forwarded commands
	Cluster1 Protocol = "mooring-cluster/1" // requests of one agent to another
	Join1    Protocol = "mooring-join/1"    // of a node that has no certificate yet
)

// Dial is the configuration for a connection to a node: it fails unless the other end
// proves to be that very node, and shows it who calls. Make one for each connection:
// it believes the CAs of its making. In TLS 1.3 the caller's handshake ends before the
// other end has judged the caller: a refusal comes with the first read.
func (k *Keys) Dial(node uuid.UUID, p Protocol) *tls.Config {
	return k.dial(Name(node), p)
}

// DialMember is like Dial, to any node of the cluster.
func (k *Keys) DialMember(p Protocol) *tls.Config { return k.dial(Member, p) }

func (k *Keys) dial(name string, p Protocol) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: name,
		RootCAs:    k.current.Load().pool,
		NextProtos: []string{string(p)},
		// Few large records: blocks are long, and nobody waits for the first kilobyte.
		DynamicRecordSizingDisabled: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &k.current.Load().own, nil
		},
	}
}

// DialUnnamed is like DialMember without a protocol, for a client that sets a server name
// of its own: what is verified is that the other end is a node of the cluster.
func (k *Keys) DialUnnamed() *tls.Config {
	c := k.dial("", "")
	roots := c.RootCAs
	c.NextProtos = nil
	c.InsecureSkipVerify = true //nolint:gosec // VerifyConnection does it
	c.VerifyConnection = func(s tls.ConnectionState) error {
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{
			Roots: roots, DNSName: Member, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		})
		return err
	}
	return c
}

// Serve is the configuration for connections from nodes of the cluster: without a
// certificate of its CA the handshake fails. admit, if not nil, is asked whether the
// node is still a member, and its error ends the handshake. Peer tells who it is.
func (k *Keys) Serve(admit func(node uuid.UUID) error, protocols ...Protocol) *tls.Config {
	next := make([]string, len(protocols))
	for i, p := range protocols {
		next[i] = string(p)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			now := k.current.Load()
			return &tls.Config{
				MinVersion:   tls.VersionTLS13,
				NextProtos:   next,
				Certificates: []tls.Certificate{now.own},
				ClientAuth:   tls.RequireAndVerifyClientCert,
				ClientCAs:    now.pool,
				VerifyConnection: func(c tls.ConnectionState) error {
					node, err := Peer(c)
					if err == nil && admit != nil {
						err = admit(node)
					}
					return err
				},
				SessionTicketsDisabled:      true,
				DynamicRecordSizingDisabled: true,
			}, nil
		},
	}
}

// DialAuthority is the configuration for a connection to a node that is known by the
// fingerprint of its CA alone, by a node that has no certificate yet. Only what is
// sent after the handshake is safe from others.
func DialAuthority(fingerprint string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{string(Join1)},
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it
		VerifyConnection: func(c tls.ConnectionState) error {
			for _, ca := range c.PeerCertificates[1:] {
				if Fingerprint(ca) != fingerprint {
					continue
				}
				_, err := c.PeerCertificates[0].Verify(x509.VerifyOptions{
					Roots: pool([]*x509.Certificate{ca}), DNSName: Member, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
				})
				return err
			}
			return fmt.Errorf("the other end does not belong to the CA with fingerprint %.16s…: %w", fingerprint, ErrStranger)
		},
	}
}
