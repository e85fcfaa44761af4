// Package quorumtest runs real etcd clusters, of the kind that agents embed, for tests.
package quorumtest

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/mooring-io/mooring/core/quorum"
)

// VerifyTestMain runs a package's tests and fails them if they leave goroutines behind. What it overlooks are the HTTP connections
// between etcd's members, for whose last ones a member that stops does not wait: nothing of ours speaks HTTP where members run in tests.
func VerifyTestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("net/http.(*conn).serve"), goleak.IgnoreAnyFunction("net/http.(*connReader).backgroundRead"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

// Cluster is an embedded etcd cluster on loopback, without TLS.
type Cluster struct {
	t       testing.TB
	options []quorum.MemberOptions
	members []*quorum.Member // nil: stopped
}

// Start runs a cluster of n members until the test ends.
func Start(t testing.TB, n int) *Cluster {
	t.Helper()
	for try := 1; ; try++ {
		c, err := start(t, n)
		if err == nil {
			return c
		}
		// Somebody took a port that was free a moment ago.
		if try == 5 || !strings.Contains(err.Error(), "address already in use") {
			t.Fatal(err)
		}
	}
}

func start(t testing.TB, n int) (*Cluster, error) {
	c := &Cluster{t: t, options: make([]quorum.MemberOptions, n), members: make([]*quorum.Member, n)}
	initial := map[string]string{}
	dir := t.TempDir()
	for i := range n {
		name := fmt.Sprintf("m%d", i)
		initial[name] = freeAddress(t)
		c.options[i] = quorum.MemberOptions{
			Dir: filepath.Join(dir, name), Name: name, Peer: initial[name], Client: freeAddress(t), Initial: initial, Logger: hclog.NewNullLogger(),
		}
	}
	for i := range n {
		m, err := quorum.StartMember(c.options[i])
		if err != nil {
			for j := range i {
				c.Stop(j)
			}
			return nil, err
		}
		c.members[i] = m
	}
	t.Cleanup(func() {
		for i := range n {
			c.Stop(i)
		}
	})
	c.wait()
	return c, nil
}

func freeAddress(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// wait returns when all members that run serve.
func (c *Cluster) wait() {
	c.t.Helper()
	for _, m := range c.members {
		if m == nil {
			continue
		}
		select {
		case <-m.Ready():
		case <-m.Done():
			c.t.Fatal(m.Err())
		case <-time.After(time.Minute):
			c.t.Fatal("an etcd member does not come up")
		}
	}
}

// Endpoints are the client URLs of all members.
func (c *Cluster) Endpoints() []string {
	var out []string
	for _, o := range c.options {
		out = append(out, "http://"+o.Client)
	}
	return out
}

// Client returns a client of all members, until the test ends.
func (c *Cluster) Client() *clientv3.Client {
	c.t.Helper()
	cl, err := quorum.Connect(quorum.ClientOptions{Endpoints: c.Endpoints(), Logger: hclog.NewNullLogger()})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { cl.Close() })
	return cl
}

// Stop ends a member in order; its data stays.
func (c *Cluster) Stop(i int) {
	c.t.Helper()
	if m := c.members[i]; m != nil {
		c.members[i] = nil
		if err := m.Close(); err != nil {
			c.t.Error(err)
		}
	}
}

// Restart runs a member that was stopped; it is not waited for.
func (c *Cluster) Restart(i int) {
	c.t.Helper()
	m, err := quorum.StartMember(c.options[i])
	if err != nil {
		c.t.Fatal(err)
	}
	c.members[i] = m
}

// Leader is the member that leads, or -1.
func (c *Cluster) Leader() int {
	for i, m := range c.members {
		if m != nil && m.Leads() {
			return i
		}
	}
	return -1
}

// Member is a member that runs.
func (c *Cluster) Member(i int) *quorum.Member { return c.members[i] }
