//go:build cluster

package cluster

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/sdk/nvme"
	"github.com/mooring-io/mooring/sdk/nvmehost"
)

// replicated makes a volume with two replicas and its subsystem, writes to it at a node, and returns who holds the other replica.
func replicated(nodes []*node, host *nvmehost.Controller) *node {
	n := nodes[0]
	n.t.Helper()
	if err := again(func() error { return host.Write(n.ctx, 1, 0, first, false) }); err != nil {
		n.t.Fatal(err)
	}
	for _, x := range nodes[1:] {
		if s := get[[]admin.Store](x, "store", "list"); s[0].Extents == 1 {
			return x
		}
	}
	n.t.Fatal("there is no second replica")
	return nil
}

var first = bytes.Repeat([]byte{5}, 4096)

func (n *node) serveTwice() {
	n.t.Helper()
	n.do("volume", "create", "v", "-size", "1GiB", "-replicas", "2")
	n.do("subsystem", "create", nqn, "-allow-any-host")
	n.do("namespace", "attach", nqn, "-volume", "v")
}

// The death of a node that only holds a replica is no more than a pause. When it is back it is given what it missed, by itself: then the
// node that drove the volume may die, and nothing is missing.
func TestReplicaDeath(t *testing.T) {
	t.Parallel()
	nodes := form(t, "a", "b", "c")
	a := nodes[0]
	a.serveTwice()
	host := a.connect()
	holder := replicated(nodes, host)
	l := a.load(host)
	l.goesOn(100)
	l.gap.Store(0)
	holder.kill()
	until(a, "the dead node's session", state(holder.name, "down"), "node", "list")
	l.goesOn(100)
	t.Logf("the node with the second replica was killed: longest time without an answer %v", time.Duration(l.gap.Load()).Round(time.Millisecond))
	l.end()
	block := make([]byte, 4096)
	for i := range byte(100) {
		block[0] = i
		if err := again(func() error { return host.Write(a.ctx, 1, 1000+nvme.LBA(i), block, false) }); err != nil {
			t.Fatal(err)
		}
	}
	if v := get[admin.Volume](a, "volume", "show", "v"); v.Health == nil || v.Health.Reduced != 1 || v.State != "degraded" {
		t.Errorf("without the second replica: %+v, %s", v.Health, v.State)
	}
	l = a.load(host)
	began := time.Now()
	holder.start()
	v := until(a, "all replicas", func(v admin.Volume) bool { return v.Health != nil && v.Health.Joined == 1 && v.State == "online" }, "volume", "show", "v")
	t.Logf("%d bytes were copied to the node that returned, %v after its start", v.Health.Copied, time.Since(began).Round(time.Millisecond))
	if v.Health.Copied > 2<<20 {
		t.Errorf("%d bytes were copied; it missed less", v.Health.Copied)
	}
	l.goesOn(100)
	l.end()
	scrub(t, a, holder, host)
	ways := []*nvmehost.Controller{}
	for _, n := range nodes[1:] {
		ways = append(ways, n.connect())
	}
	a.kill()
	got := make([]byte, 4096)
	for i := range byte(100) {
		block[0] = i
		for ok := false; !ok; {
			for _, w := range ways {
				ctx, cancel := context.WithTimeout(holder.ctx, time.Second)
				err := w.Read(ctx, 1, 1000+nvme.LBA(i), got)
				cancel()
				if ok = err == nil; ok && !bytes.Equal(got, block) {
					t.Fatalf("block %d, which was written while its node was away, is %x", i, got[:4])
				} else if ok {
					break
				}
			}
			if holder.ctx.Err() != nil {
				t.Fatal("nobody takes over")
			}
		}
	}
}

// scrub damages a block of the replica that hosts do not read, and has it found and repaired.
func scrub(t *testing.T, a, holder *node, host *nvmehost.Controller) {
	t.Helper()
	mark := bytes.Repeat([]byte("damaged "), 512)
	if err := again(func() error { return host.Write(a.ctx, 1, 2000, mark, false) }); err != nil {
		t.Fatal(err)
	}
	if s := get[[]admin.Scrub](a, "scrub", "v"); len(s) != 1 || s[0].Extents != 1 || s[0].Corrupt+s[0].Different+s[0].Skipped != 0 || !s[0].Ended {
		t.Errorf("scrub of what is well: %+v", s)
	}
	f, err := os.OpenFile(filepath.Join(holder.dir, "data", "stores", "main", "data"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 4096)
	for at := int64(0); ; at += 4096 {
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatalf("the replica does not have the block: %v", err)
		}
		if bytes.Equal(b, mark) {
			if _, err := f.WriteAt([]byte{0}, at+100); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if s := get[[]admin.Scrub](a, "scrub", "v"); s[0].Corrupt != 1 || s[0].Repaired != 1 {
		t.Errorf("scrub of a damaged replica: %+v", s)
	}
	if s := get[[]admin.Scrub](a, "scrub"); s[0].Corrupt != 0 {
		t.Errorf("scrub of a repaired replica: %+v", s)
	}
	holder.refused("driven by node", "scrub", "v")
}

// A volume with two replicas outlives the node that drives it: another one takes over, and a host that has a way there finds
// all that was acknowledged.
func TestOwnerDeath(t *testing.T) {
	t.Parallel()
	nodes := form(t, "a", "b", "c")
	a := nodes[0]
	a.serveTwice()
	host := a.connect()
	holder := replicated(nodes, host)
	ways := map[*node]*nvmehost.Controller{}
	for _, n := range nodes[1:] {
		ways[n] = n.connect()
	}
	block := make([]byte, 4096)
	for i := range byte(200) {
		block[0] = i
		if err := again(func() error { return host.Write(a.ctx, 1, nvme.LBA(1+i), block, false) }); err != nil {
			t.Fatal(err)
		}
	}
	a.kill()
	began := time.Now()
	var there *node
	for there == nil {
		for n, w := range ways {
			// As hosts do: where it is inaccessible, or about to change, they try again, and elsewhere.
			ctx, cancel := context.WithTimeout(n.ctx, time.Second)
			err := w.Write(ctx, 1, 300, first, false)
			cancel()
			if err == nil {
				there = n
				break
			}
			if n.ctx.Err() != nil {
				t.Fatalf("no node takes over: %v\n%s", err, n.log.String())
			}
		}
	}
	t.Logf("the node that drove the volume was killed: the first write was answered by %s (the other replica is on %s) after %v", there.name, holder.name, time.Since(began).Round(time.Millisecond))
	got := make([]byte, 4096)
	for i := range byte(200) {
		block[0] = i
		if err := again(func() error { return ways[there].Read(there.ctx, 1, nvme.LBA(1+i), got) }); err != nil || !bytes.Equal(got, block) {
			t.Fatalf("block %d after the takeover: %x, %v", 1+i, got[:4], err)
		}
	}
	l := there.load(ways[there])
	l.goesOn(100)
	a.start()
	l.goesOn(100)
}
