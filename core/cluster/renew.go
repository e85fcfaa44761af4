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

	"github.com/mooring-io/mooring/core/cert"
)

// renewal is a node's request for a new certificate; which node it is, its present one
// has proved.
type renewal struct {
	Name    string `json:"name"`
	Request []byte `json:"request"` // PEM
}

func (d *Doorman) renew(w http.ResponseWriter, r *http.Request) {
	node, ok := r.Context().Value(peerKey{}).(uuid.UUID)
	var in renewal
	if err := json.NewDecoder(io.LimitReader(r.Body, maxJoinBody)).Decode(&in); err != nil || !ok {
		http.Error(w, "the request is not understood", http.StatusBadRequest)
		return
	}
	ca := d.Keys.Authority()
	if ca == nil {
		http.Error(w, "it does not have the key of the cluster's CA (ca.key)", http.StatusConflict)
		return
	}
	own, err := ca.Sign(in.Request, node, in.Name, d.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	d.Logger.Info("a node's certificate was renewed", "node", node, "name", in.Name)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(Admission{Trusted: d.Keys.TrustedPEM(), Own: own}) // if it is lost, the node asks again
}

// Renew has the node by, whose agent is at address, sign a new certificate for this one,
// whose keys are in the folder dir, and takes it into use.
func Renew(ctx context.Context, dir string, k *cert.Keys, by uuid.UUID, address string, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	request, err := cert.Request(dir)
	if err != nil {
		return err
	}
	body, err := json.Marshal(renewal{k.Certificate().Subject.CommonName, request})
	if err != nil {
		return err
	}
	var out Admission
	if err := post(ctx, address, k.Dial(by, cert.Cluster1), "/v1/renew", body, &out); err != nil {
		return err
	}
	if _, err := cert.Install(dir, k.Node(), out.Trusted, out.Own, now); err != nil {
		return err
	}
	return k.Reload()
}

// post sends a request to an agent and reads its answer.
func post(ctx context.Context, address string, c *tls.Config, path string, body []byte, out any) error {
	transport := &http.Transport{DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		d := tls.Dialer{Config: c}
		return d.DialContext(ctx, network, address)
	}}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+address+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return fmt.Errorf("ask the node at %s: %w", address, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxJoinBody))
	if err != nil {
		return fmt.Errorf("read the answer of the node at %s: %w", address, err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the node at %s refuses: %w", address, errors.New(string(bytes.TrimSpace(b))))
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("read the answer of the node at %s: %w", address, err)
	}
	return nil
}
