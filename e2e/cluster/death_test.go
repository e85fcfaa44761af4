//go:build cluster

package cluster

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/quorum/quorumtest"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost"
)

// load is one host that writes and reads back all the time.
type load struct {
	n      *node
	from   nvme.LBA     // of the 64 blocks that it uses
	done   atomic.Int64 // commands that were answered well
	gap    atomic.Int64 // the longest time between two of them, ns
	stop   chan struct{}
	ended  sync.WaitGroup
	failed error // valid once it has ended
}

func (n *node) load(c *nvmehost.Controller) *load { return n.loadAt(c, 0) }

func (n *node) loadAt(c *nvmehost.Controller, from nvme.LBA) *load { return n.loadOn(oneWay{c}, from) }

// blocks are a namespace, as a host has it.
type blocks interface {
	Read(ctx context.Context, lba nvme.LBA, data []byte) error
	Write(ctx context.Context, lba nvme.LBA, data []byte, fua bool) error
}

// oneWay is namespace 1 of a controller.
type oneWay struct{ *nvmehost.Controller }

func (w oneWay) Read(ctx context.Context, lba nvme.LBA, data []byte) error {
	return w.Controller.Read(ctx, 1, lba, data)
}

func (w oneWay) Write(ctx context.Context, lba nvme.LBA, data []byte, fua bool) error {
	return w.Controller.Write(ctx, 1, lba, data, fua)
}

func (n *node) loadOn(b blocks, from nvme.LBA) *load {
	l := &load{n: n, from: from, stop: make(chan struct{})}
	l.ended.Go(func() { l.failed = l.run(b) })
	n.t.Cleanup(l.end)
	return l
}

func (l *load) run(b blocks) error {
	block, got := make([]byte, 4096), make([]byte, 4096)
	last := time.Now()
	for i := uint64(1); ; i++ {
		select {
		case <-l.stop:
			return nil
		default:
		}
		binary.LittleEndian.PutUint64(block, i)
		lba := l.from + nvme.LBA(i%64)
		if err := again(func() error { return b.Write(l.n.ctx, lba, block, false) }); err != nil {
			return fmt.Errorf("write %d: %w", i, err)
		}
		if err := again(func() error { return b.Read(l.n.ctx, lba, got) }); err != nil || !bytes.Equal(got, block) {
			return fmt.Errorf("read back of write %d: %x, %w", i, got[:8], err)
		}
		now := time.Now()
		l.gap.Store(max(l.gap.Load(), int64(now.Sub(last))))
		last = now
		l.done.Add(1)
	}
}

// again does as hosts do: what is answered with the path being about to change, such as a command that was under way
// when the lease ended, is tried again.
func again(do func() error) error {
	for {
		if err := do(); !errors.Is(err, nvme.StatusANATransition) {
			return err
		}
	}
}

// goesOn waits for so many more answers.
func (l *load) goesOn(more int64) {
	l.n.t.Helper()
	ended := make(chan struct{})
	go func() { l.ended.Wait(); close(ended) }()
	for want := l.done.Load() + more; l.done.Load() < want; {
		select {
		case <-ended:
			l.n.t.Fatalf("the host's load ended: %v\n%s", l.failed, l.n.log.String())
		case <-l.n.ctx.Done():
			l.n.t.Fatalf("the host's I/O does not go on\n%s", l.n.log.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// held waits until nothing was answered for a second.
func (l *load) held() {
	l.n.t.Helper()
	for quiet, last := time.Now(), int64(-1); time.Since(quiet) < time.Second; time.Sleep(50 * time.Millisecond) {
		if now := l.done.Load(); now != last {
			quiet, last = time.Now(), now
		}
		if l.n.ctx.Err() != nil {
			l.n.t.Fatal("I/O goes on without leases")
		}
	}
}

func (l *load) end() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.ended.Wait()
	if l.failed != nil {
		l.n.t.Errorf("the host saw an error: %v", l.failed)
	}
}

// leader is the node whose member of etcd leads.
func leader(nodes []*node) *node {
	nodes[0].t.Helper()
	s := until(nodes[0], "a leader", func(c admin.Cluster) bool { return name(c) != "" }, "cluster", "status")
	for _, n := range nodes {
		if n.name == name(s) {
			return n
		}
	}
	nodes[0].t.Fatalf("%+v", s)
	return nil
}

func name(c admin.Cluster) string {
	for _, m := range c.Members {
		if m.Leads {
			return m.Name
		}
	}
	return ""
}

func state(node, want string) func([]admin.Node) bool {
	return func(all []admin.Node) bool {
		for _, n := range all {
			if n.Name == node {
				return n.State == want
			}
		}
		return false
	}
}

// The node that leads etcd is killed: the metadata goes on, and so does the I/O of the others.
func TestNodeDeath(t *testing.T) {
	t.Parallel()
	nodes := form(t, "a", "b", "c")
	dead := leader(nodes)
	var alive []*node
	for _, n := range nodes {
		if n != dead {
			alive = append(alive, n)
		}
	}
	x, y := alive[0], alive[1]
	x.serve("v")
	l := x.load(x.connect())
	l.goesOn(100)
	session := get[admin.Status](x, "status").Meta.Session

	l.gap.Store(0)
	began := time.Now()
	dead.kill()
	until(y, "a change of the metadata", func(admin.Volume) bool { return true }, "volume", "create", "w", "-size", "1GiB")
	changed := time.Since(began)
	until(x, "the dead node's session", state(dead.name, "down"), "node", "list")
	t.Logf("the leader of etcd was killed: metadata changed after %v, its Meta session was over after %v, longest time without an answer to a host of another node %v",
		changed.Round(time.Millisecond), time.Since(began).Round(time.Millisecond), time.Duration(l.gap.Load()).Round(time.Millisecond))
	l.goesOn(100)

	dead.start()
	until(y, "its return", state(dead.name, "up"), "node", "list")
	y.votes(3)
	if got := get[admin.Volume](dead, "volume", "show", "w"); got.Size != 1<<30 {
		t.Errorf("what was made meanwhile, on the node that returned: %+v", got)
	}
	l.goesOn(100)
	if now := get[admin.Status](x, "status").Meta.Session; now != session {
		t.Errorf("a living node lost its Meta session: %s after %s", now, session)
	}
}

// away is how long etcd is away: longer than a Meta session. MOORING_AWAY=1m for the whole of it.
func away(t *testing.T) time.Duration {
	text := os.Getenv("MOORING_AWAY")
	if text == "" {
		return 6 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const patient = "limits {\n  hold_for = \"25s\"\n}\n"

// An etcd that others run goes away and comes back: I/O goes on as long as leases are valid, is held then, and goes on
// by itself, with the same Meta session and without an error at the host.
func TestEtcdAway(t *testing.T) {
	t.Parallel()
	e := quorumtest.Start(t, 1)
	config := fmt.Sprintf("cluster {\n  endpoints = [%q]\n}\n%s", e.Endpoints()[0], patient)
	a, b := newNode(t, "a", config), newNode(t, "b", config)
	a.do("cluster", "init", "-config", a.file)
	a.start()
	b.join(a)
	b.start()
	if s := get[admin.Cluster](b, "cluster", "status"); s.Embed || len(s.Members) != 1 || !s.Members[0].Leads {
		t.Errorf("status of a cluster on others' etcd: %+v", s)
	}
	a.serve("v")
	l := a.load(a.connect())
	l.goesOn(100)
	session := get[admin.Status](a, "status").Meta.Session

	e.Stop(0)
	l.goesOn(100) // the leases are still valid
	l.held()
	d := away(t)
	time.Sleep(d) // not to wait for something, but because it is the outage
	began := time.Now()
	e.Restart(0)
	l.goesOn(100)
	t.Logf("etcd was away for %v and more; I/O went on %v after its return", d, time.Since(began).Round(time.Millisecond))
	if now := get[admin.Status](a, "status").Meta.Session; now != session {
		t.Errorf("another Meta session, %s after %s", now, session)
	}
	for _, n := range []*node{a, b} {
		until(n, "both nodes", func(all []admin.Node) bool { return state("a", "up")(all) && state("b", "up")(all) }, "node", "list")
	}
	// The prefix is taken: another cluster does not come into it.
	stranger := newNode(t, "x", config)
	stranger.refused("another cluster", "cluster", "init", "-config", stranger.file)
}

// seesSilence asks a node without etcd how things are: it says what it knows, and that etcd does not answer.
func (n *node) seesSilence() {
	n.t.Helper()
	s, err := try[admin.Status](n, "status")
	if s.Meta.Silent == 0 || len(s.Volumes) != 1 || len(s.Stores) != 1 || s.Stores[0].State != "active" {
		n.t.Errorf("status without etcd: silent for %v, volumes %+v, stores %+v, %v", s.Meta.Silent, s.Volumes, s.Stores, err)
	}
	nodes, err := try[[]admin.Node](n, "node", "list")
	if len(nodes) != 3 || nodes[0].Silent == 0 || nodes[0].State != "up" {
		n.t.Errorf("node list without etcd: %+v, %v", nodes, err)
	}
	n.refused("has not answered", "node", "list")
	c, err := try[admin.Cluster](n, "cluster", "status")
	if len(c.Members) != 3 || c.Members[0].Name != "a" || !strings.Contains(strings.Join(c.Warnings, "; "), "has not answered") {
		n.t.Errorf("cluster status without etcd: %+v, %v", c, err)
	}
}

// Two of three nodes stand still together, so that the third one is without etcd, and then go on: nobody is judged for it.
func TestStandstill(t *testing.T) {
	t.Parallel()
	nodes := formWith(t, embed+"\n"+patient, "a", "b", "c")
	a, b, c := nodes[0], nodes[1], nodes[2]
	a.serve("v")
	l := a.load(a.connect())
	l.goesOn(100)
	session := get[admin.Status](a, "status").Meta.Session
	b.signal(syscall.SIGSTOP)
	c.signal(syscall.SIGSTOP)
	l.held()
	a.seesSilence()
	time.Sleep(away(t)) // it is the outage
	b.signal(syscall.SIGCONT)
	c.signal(syscall.SIGCONT)
	l.goesOn(100)
	if now := get[admin.Status](a, "status").Meta.Session; now != session {
		t.Errorf("another Meta session, %s after %s", now, session)
	}
}
