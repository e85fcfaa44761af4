package cluster

import (
	"bytes"
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
}

// Doorman admits nodes. It is safe for use by many goroutines.
type Doorman struct {
	Keys *cert.Keys // of a node that has the CA's key
	Meta *meta.Meta
	// Register makes the node known before it gets its certificate. It may be called
	// again for a node that it has registered.
	Register func(context.Context, Application) error
	Logger   hclog.Logger
	Now      func() time.Time
}

// Server serves the exchange to connections of cert.Join1, by Serve(HTTP(listener)).
func (d *Doorman) Server() *http.Server {
	return &http.Server{
		Handler: d.handler(), ReadTimeout: joinPatience, WriteTimeout: joinPatience, MaxHeaderBytes: maxJoinBody,
		ErrorLog: d.Logger.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
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
	return struct{ net.Conn }{c}, nil
}

func (d *Doorman) handler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("POST /v1/join", func(w http.ResponseWriter, r *http.Request) {
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
	})
	return m
}

func (d *Doorman) admit(ctx context.Context, in application) (Admission, error) {
	ca := d.Keys.Authority()
	if ca == nil {
		return Admission{}, errors.New("this node does not have the key of the cluster's CA (ca.key)")
	}
	if err := d.Meta.UseJoinToken(ctx, in.Token, in.Secret, in.Node); err != nil {
		return Admission{}, err
	}
	if err := d.Register(ctx, in.Application); err != nil {
		return Admission{}, err
	}
	own, err := ca.Sign(in.Request, in.Node, in.Name, d.Now())
	if err != nil {
		return Admission{}, err
	}
	return Admission{Cluster: d.Meta.Cluster().ID, Trusted: d.Keys.TrustedPEM(), Own: own}, nil
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
	_, err = cert.Install(dir, a.Node, out.Trusted, out.Own, now)
	return out, err
}

func apply(ctx context.Context, t Token, a Application) (Admission, error) {
	body, err := json.Marshal(application{a, t.ID, t.Secret})
	if err != nil {
		return Admission{}, err
	}
	transport := &http.Transport{DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		d := tls.Dialer{Config: cert.DialAuthority(t.Fingerprint)}
		return d.DialContext(ctx, network, t.Address)
	}}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+t.Address+"/v1/join", bytes.NewReader(body))
	if err != nil {
		return Admission{}, err
	}
	res, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return Admission{}, fmt.Errorf("ask the node at %s for admission: %w", t.Address, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxJoinBody))
	if err != nil {
		return Admission{}, fmt.Errorf("read the admission: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return Admission{}, fmt.Errorf("the node at %s refuses: %s", t.Address, bytes.TrimSpace(b))
	}
	var out Admission
	if err := json.Unmarshal(b, &out); err != nil {
		return Admission{}, fmt.Errorf("read the admission: %w", err)
	}
	return out, nil
}
