package cluster

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/core/cert"
	"github.com/mooring-io/mooring/core/meta"
)

// Bounds of a join.
const (
	maxJoinBody  = 64 << 10 // bytes, of request and answer
	joinPatience = 30 * time.Second
)

// Application is what a node says of itself when it joins.
type Application struct {
	Node    uuid.UUID `json:"node"`
	Name    string    `json:"name"`
	Address string    `json:"address"` // its data address, host:port
	Embed   bool      `json:"embed"`   // it means to find the metadata in the agents' own etcd
	Witness bool      `json:"witness,omitempty"`
	Request []byte    `json:"request"` // certificate request, PEM
}

// application is an Application with what makes it believed.
type application struct {
	Application
	Token  string `json:"token"`
	Secret string `json:"secret"`
}

// Admission is what a node gets when it joins.
type Admission struct {
	Cluster uuid.UUID `json:"cluster"`
	Trusted []byte    `json:"trusted"` // the CAs to believe, PEM
	Own     []byte    `json:"own"`     // its certificate, PEM
	// Peers are the members of the embedded etcd, peer addresses by name. The node has one
	// if its own address is among them.
	Peers map[string]string `json:"peers,omitempty"`
	Note  string            `json:"note,omitempty"` // for the operator
}

// Work is what a node asks another one to do.
type Work string

// What there is to do.
const (
	Deleted Work = "deleted" // remove what is left of a volume on this node's stores
	Shrunk  Work = "shrunk"  // cut what is left beyond a volume's end
)

// Door is what a Doorman needs from its node.
type Door interface {
	// Register makes a node known before it gets its certificate, and fills Peers and Note.
	// It may be called again for a node that it has registered.
	Register(context.Context, Application) (Admission, error)
	// Carry does this node's part of what a volume that is being deleted, or that was made
	// smaller, leaves to do.
	Carry(ctx context.Context, volume uuid.UUID, what Work) error
}

// Doorman admits nodes. It is safe for use by many goroutines.
type Doorman struct {
	Keys   *cert.Keys // of a node that has the CA's key
	Meta   *meta.Meta
	Door   Door
	Logger hclog.Logger
	Now    func() time.Time
}

// ForStrangers serves those who join, on connections of cert.Join1, by Serve(HTTP(listener)).
func (d *Doorman) ForStrangers() *http.Server {
	m := http.NewServeMux()
	m.HandleFunc("POST /v1/join", d.join)
	return d.server(m)
}

// ForNodes serves nodes of the cluster, on connections of cert.Cluster1.
func (d *Doorman) ForNodes() *http.Server {
	m := http.NewServeMux()
	m.HandleFunc("POST /v1/renew", d.renew)
	m.HandleFunc("POST /v1/volumes/{id}/{what}", d.carry)
	return d.server(m)
}

func (d *Doorman) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadTimeout: joinPatience, WriteTimeout: joinPatience, MaxHeaderBytes: maxJoinBody,
		ErrorLog:    d.Logger.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
		ConnContext: withPeer,
	}
}

// HTTP is a listener whose connections net/http serves as HTTP 1.1, whatever protocol
// TLS negotiated.
func HTTP(l net.Listener) net.Listener { return httpListener{l} }

type httpListener struct{ net.Listener }

// Accept hides that the connection is TLS: net/http closes those of protocols that it
// does not know.
func (l httpListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return plain{c}, nil
}

// plain is a connection whose being TLS is hidden.
type plain struct{ net.Conn }

// peerKey is where withPeer puts the node at the other end.
type peerKey struct{}

// withPeer notes which node a connection has proved to come from, if any.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	p, ok := c.(plain)
	if !ok {
		return ctx
	}
	t, ok := p.Conn.(*tls.Conn)
	if !ok {
		return ctx
	}
	if id, err := cert.Peer(t.ConnectionState()); err == nil {
		ctx = context.WithValue(ctx, peerKey{}, id)
	}
	return ctx
}

func (d *Doorman) join(w http.ResponseWriter, r *http.Request) {
	var in application
	if err := json.NewDecoder(io.LimitReader(r.Body, maxJoinBody)).Decode(&in); err != nil {
		http.Error(w, "the request is not understood", http.StatusBadRequest)
		return
	}
	a, err := d.admit(r.Context(), in)
	switch {
	case errors.Is(err, meta.ErrBadToken):
		// A stranger learns no more than that.
		d.Logger.Warn("a node was not admitted", "from", r.RemoteAddr, "node", in.Node, "error", err)
		http.Error(w, "the join token is not valid: it is unknown, expired or was used by another node; make a new one with: mooring cluster token", http.StatusForbidden)
	case err != nil:
		d.Logger.Error("a node could not be admitted", "from", r.RemoteAddr, "name", in.Name, "error", err)
		http.Error(w, err.Error(), http.StatusConflict)
	default:
		d.Logger.Info("a node was admitted", "from", r.RemoteAddr, "name", in.Name, "node", in.Node)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a) // if it is lost, the node asks again
	}
}

func (d *Doorman) admit(ctx context.Context, in application) (Admission, error) {
	ca := d.Keys.Authority()
	if ca == nil {
		return Admission{}, errors.New("this node does not have the key of the cluster's CA (ca.key)")
	}
	if err := d.Meta.UseJoinToken(ctx, in.Token, in.Secret, in.Node); err != nil {
		return Admission{}, err
	}
	out, err := d.Door.Register(ctx, in.Application)
	if err != nil {
		return Admission{}, err
	}
	out.Cluster, out.Trusted = d.Meta.Cluster().ID, d.Keys.TrustedPEM()
	out.Own, err = ca.Sign(in.Request, in.Node, in.Name, d.Now())
	return out, err
}

// Join applies for admission with a token, and puts the certificate that it gets into
// the folder dir. It can be repeated until it succeeds, and then again.
func Join(ctx context.Context, dir string, t Token, a Application, now time.Time) (Admission, error) {
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	var err error
	if a.Request, err = cert.Request(dir); err != nil {
		return Admission{}, err
	}
	out, err := apply(ctx, t, a)
	if err != nil {
		return Admission{}, err
	}
	if out.Cluster != t.Cluster {
		return Admission{}, fmt.Errorf("the node at %s belongs to cluster %s, not to %s as the token says", t.Address, out.Cluster, t.Cluster)
	}
	_, err = cert.Install(dir, a.Node, out.Trusted, out.Own, now)
	return out, err
}

func apply(ctx context.Context, t Token, a Application) (Admission, error) {
	body, err := json.Marshal(application{a, t.ID, t.Secret})
	if err != nil {
		return Admission{}, err
	}
	var out Admission
	err = post(ctx, t.Address, cert.DialAuthority(t.Fingerprint), "/v1/join", body, &out)
	return out, err
}
