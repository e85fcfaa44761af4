package cluster_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/mooring-io/mooring/core/cert"
	"github.com/mooring-io/mooring/core/cluster"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/meta/store/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTokens(t *testing.T) {
	want := cluster.Token{Cluster: uuid.New(), Address: "192.0.2.1:7401", Fingerprint: strings.Repeat("a", 64), ID: "0011", Secret: "s"}
	if got, err := cluster.ParseToken(" " + want.String() + "\n"); err != nil || got != want {
		t.Fatalf("%+v, %v", got, err)
	}
	text := want.String()
	for i := range text {
		if _, err := cluster.ParseToken(text[:i]); err == nil {
			t.Fatalf("the first %d bytes are a token", i)
		}
	}
}

// door is a node that admits others.
type door struct {
	keys       *cert.Keys
	meta       *meta.Meta
	address    string
	registered []string
	refuse     error
}

func newDoor(t *testing.T) *door {
	st := memory.New(memory.Options{})
	m, err := meta.Open(t.Context(), meta.Options{Store: st}, meta.Cluster{ExtentBytes: 1 << 28})
	if err != nil {
		t.Fatal(err)
	}
	d := &door{meta: m}
	if d.keys, err = cert.Create(t.TempDir(), m.Cluster().ID, uuid.New(), "a", time.Now()); err != nil {
		t.Fatal(err)
	}
	l, err := cert.Listen("127.0.0.1:0", d.keys, nil, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	d.address = l.Addr().String()
	s := (&cluster.Doorman{
		Keys: d.keys, Meta: m, Logger: hclog.NewNullLogger(), Now: time.Now,
		Door: d,
	}).ForStrangers()
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(cluster.HTTP(l.Serve(cert.Join1))) }()
	t.Cleanup(func() { s.Close(); l.Close(); <-done; st.Close() })
	return d
}

func (d *door) Register(_ context.Context, a cluster.Application) (cluster.Admission, error) {
	d.registered = append(d.registered, a.Name)
	return cluster.Admission{Peers: map[string]string{"a": "127.0.0.1:1"}}, d.refuse
}

func (d *door) Carry(context.Context, uuid.UUID, cluster.Work) error { return errors.ErrUnsupported }

func (d *door) token(t *testing.T) cluster.Token {
	id, secret, err := d.meta.CreateJoinToken(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return cluster.Token{Cluster: d.meta.Cluster().ID, Address: d.address, Fingerprint: cert.Fingerprint(d.keys.Trusted()[0]), ID: id, Secret: secret}
}

func TestJoin(t *testing.T) {
	d := newDoor(t)
	token, dir := d.token(t), t.TempDir()
	b := cluster.Application{Node: uuid.New(), Name: "b", Address: "127.0.0.1:7400"}
	d.refuse = errors.New("a node named b exists already")
	if _, err := cluster.Join(t.Context(), dir, token, b, time.Now()); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Fatalf("a refusal is passed on: %v", err)
	}
	d.refuse = nil
	for range 2 { // the second is one whose first answer was lost
		got, err := cluster.Join(t.Context(), dir, token, b, time.Now())
		if err != nil || got.Cluster != d.meta.Cluster().ID || len(got.Peers) != 1 {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	k, err := cert.Open(dir)
	if err != nil || k.Node() != b.Node || k.Authority() != nil {
		t.Fatalf("the node that joined: %v", err)
	}
	n := len(d.registered)
	other := b
	other.Node, other.Name = uuid.New(), "c"
	wrong := d.token(t)
	wrong.Secret = strings.Repeat("0", len(wrong.Secret))
	misled := d.token(t)
	misled.Cluster = uuid.New()
	foreign := d.token(t)
	foreign.Fingerprint = cert.Fingerprint(newDoor(t).keys.Trusted()[0])
	for what, c := range map[string]cluster.Token{"a token that another node used": token, "a wrong secret": wrong, "another CA's fingerprint": foreign, "another cluster": misled} {
		dir := t.TempDir()
		if _, err := cluster.Join(t.Context(), dir, c, other, time.Now()); err == nil {
			t.Errorf("%s was good enough", what)
		}
		if _, err := cert.Open(dir); err == nil {
			t.Errorf("%s: keys were installed", what)
		}
	}
	if len(d.registered) != n+1 { // the last one is no stranger, but was misled
		t.Errorf("a stranger was registered: %v", d.registered[n:])
	}
}
