//go:build cluster

package cluster

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/sdk/nvme"
)

// Three nodes become one cluster, in which each sees what another made.
func TestForm(t *testing.T) {
	t.Parallel()
	a, b, c := newNode(t, "a", embed), newNode(t, "b", embed), newNode(t, "c", embed)
	a.refused("cluster init", "agent", "-config", a.file)
	a.do("cluster", "init", "-config", a.file)
	if out := a.do("cluster", "init", "-config", a.file); !strings.Contains(out, "already") {
		t.Errorf("a second init says %q", out)
	}
	a.start()
	token := a.do("cluster", "token")
	b.refused("damaged", "cluster", "join", "-config", b.file, token[:len(token)-5])
	if note := b.join(a); !strings.Contains(note, "witness") {
		t.Errorf("two nodes have one vote, and the second one is told %q", note)
	}
	b.start()
	if s := get[admin.Cluster](b, "cluster", "status"); len(s.Warnings) == 0 || !strings.Contains(s.Warnings[0], "witness") {
		t.Errorf("status of two nodes warns of %q", s.Warnings)
	}
	a.votes(1)
	b.refused("ca.key", "cluster", "token")
	if _, bad, err := c.run("cluster", "join", "-config", c.file, token); err != nil { // the first token: b never used it
		t.Fatalf("c joins: %v\n%s", err, bad)
	}
	c.start()
	stranger := newNode(t, "d", embed)
	stranger.refused("used by another node", "cluster", "join", "-config", stranger.file, token)
	a.votes(3)
	if s := get[admin.Cluster](c, "cluster", "status"); len(s.Warnings) > 0 || len(s.Members) != 3 || s.Members[0].Quota == 0 {
		t.Errorf("status of three nodes: %+v", s)
	}
	nodes := get[[]admin.Node](b, "node", "list")
	if len(nodes) != 3 || nodes[0].State != "up" || nodes[2].Name != "c" || nodes[2].Vote != "votes" || !nodes[1].Self || nodes[0].Stores != 1 {
		t.Errorf("nodes as b lists them: %+v", nodes)
	}
	if c.do("cluster", "cert") == c.do("cluster", "cert", "-renew") {
		t.Error("the certificate was not renewed")
	}
	strangersGetNothing(t, a)

	// One truth: made on b, seen on c, changed on c, seen on a.
	b.serve("v")
	c.do("volume", "resize", "v", "2GiB")
	until(a, "the new size", func(v admin.Volume) bool { return v.Size == 2<<30 }, "volume", "show", "v")

	// The node that a host connects to first holds the data, and serves it.
	host := b.connect()
	block := bytes.Repeat([]byte{7}, 4096)
	if err := host.Write(b.ctx, 1, 0, block, false); err != nil {
		t.Fatal(err)
	}
	log, err := c.connect().ANALog(c.ctx)
	if err != nil || len(log.Groups) != 1 || log.Groups[0].State != nvme.ANAInaccessible {
		t.Errorf("at a node without the data: %+v, %v", log, err)
	}
	got := make([]byte, len(block))
	if err := host.Read(b.ctx, 1, 0, got); err != nil || !bytes.Equal(got, block) {
		t.Errorf("read back %x, %v", got[:4], err)
	}

	// All of them stop and start again, in any order.
	for _, n := range []*node{a, b, c} {
		n.stop()
	}
	for _, n := range []*node{c, a, b} {
		n.launch()
	}
	for _, n := range []*node{a, b, c} {
		n.up()
	}
	host = b.connect()
	if err := host.Read(b.ctx, 1, 0, got); err != nil || !bytes.Equal(got, block) {
		t.Errorf("read after the restart of all: %x, %v", got[:4], err)
	}
	if err := host.Close(); err != nil {
		t.Error(err)
	}
	a.do("namespace", "detach", nqn, "1")
	until(a, "deletion", func(struct{}) bool { return true }, "volume", "delete", "v")
	if u := get[[]admin.Store](b, "store", "list"); u[0].Extents != 0 {
		t.Errorf("the deleted volume still has %d extents on b", u[0].Extents)
	}
	files, err := os.ReadDir(a.dir + "/data")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if fi, err := f.Info(); err == nil && f.Name() == "cert" && fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("the keys are open to others: %v", fi.Mode())
		}
	}
}

// strangersGetNothing speaks to the ports of a node without a certificate.
func strangersGetNothing(t *testing.T, n *node) {
	t.Helper()
	first := netip.MustParseAddrPort(n.address)
	for i := uint16(1); i < 4; i++ {
		at := netip.AddrPortFrom(first.Addr(), first.Port()+i).String()
		for _, protocols := range [][]string{nil, {"h2"}, {"mooring-cluster/1"}, {"mooring-peer/1"}} {
			if err := speak(at, &tls.Config{InsecureSkipVerify: true, NextProtos: protocols}); err == nil {
				t.Errorf("a stranger that asks for %q is served at %s", protocols, at)
			}
		}
		c, err := net.DialTimeout("tcp", at, 5*time.Second)
		if err != nil {
			t.Errorf("nobody listens at %s: %v", at, err)
			continue
		}
		fmt.Fprintf(c, "GET / HTTP/1.0\r\n\r\n")
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		b := make([]byte, 256)
		if k, _ := c.Read(b); strings.Contains(string(b[:k]), "200 OK") {
			t.Errorf("without TLS, %s answers %q", at, b[:k])
		}
		c.Close()
	}
}

// speak makes a connection and reads from it: only then has the other end judged who calls.
func speak(at string, c *tls.Config) error {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", at, c)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write([]byte("GET /health HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
		return err
	}
	b := make([]byte, 1)
	if _, err := conn.Read(b); err != nil {
		return errors.New("nothing came")
	}
	return nil
}
