//go:build cluster

package cluster

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/mooring-io/mooring/core/admin"
)

// A node on its own grows into a cluster with its volumes, whenever cluster init is killed: before the cut-over it is on
// its own as before, after it in the cluster, and the same command goes on to the end.
func TestGrow(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "")
	n.start()
	n.serve("v")
	block := bytes.Repeat([]byte{9}, 4096)
	host := n.connect()
	if err := host.Write(n.ctx, 1, 3, block, false); err != nil {
		t.Fatal(err)
	}
	if err := host.Close(); err != nil {
		t.Fatal(err)
	}
	n.stop()
	n.refused("cluster block", "cluster", "init", "-config", n.file)
	data := filepath.Join(n.dir, "data")
	before := filepath.Join(n.dir, "before")
	restore := func() {
		t.Helper()
		if err := os.RemoveAll(data); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cp", "-a", "--sparse=always", before, data).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if err := os.Rename(data, before); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		got := make([]byte, len(block))
		c := n.connect()
		if err := c.Read(n.ctx, 1, 3, got); err != nil || !bytes.Equal(got, block) {
			t.Fatalf("%s: read %x, %v", when, got[:4], err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for steps := 0; ; steps++ {
		restore()
		n.write(embed)
		whole, last := n.killedInit(steps)
		n.write("")
		n.launch()
		select {
		case <-n.ready: // as before
			check("on its own after " + last)
			n.stop()
		case <-n.ended: // it is in the cluster
			if n.err == nil {
				t.Fatalf("an agent without a cluster block ended well after %s", last)
			}
			n.err = nil
			t.Logf("killed after %q: in the cluster", last)
		}
		n.write(embed)
		n.do("cluster", "init", "-config", n.file)
		if _, err := os.Stat(filepath.Join(data, "meta")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the former metadata is still in place: %v", err)
		}
		n.start()
		check("in the cluster, init killed after " + last)
		if v := get[admin.Volume](n, "volume", "show", "v"); v.Size != 1<<30 {
			t.Errorf("the volume is %+v", v)
		}
		if whole {
			if steps < 6 {
				t.Errorf("only %d steps", steps)
			}
			break
		}
		n.stop()
	}
	// It is a cluster like any other.
	b := newNode(t, "b", embed)
	b.join(n)
	b.start()
	if v := get[admin.Volume](b, "volume", "show", "v"); v.Size != 1<<30 {
		t.Errorf("the volume on the second node: %+v", v)
	}
	// An empty directory joins, and nothing else.
	c := newNode(t, "c", "")
	c.start()
	c.stop()
	c.write(embed)
	c.refused("empty", "cluster", "join", "-config", c.file, n.do("cluster", "token"))
}

// killedInit runs cluster init and kills it as soon as it has begun so many steps, and says whether it came to its end before.
func (n *node) killedInit(steps int) (whole bool, last string) {
	n.t.Helper()
	cmd := exec.CommandContext(n.ctx, filepath.Join(programs, "mooring"), "cluster", "init", "-config", n.file)
	out, err := cmd.StderrPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	last = "nothing"
	if steps == 0 {
		_ = cmd.Process.Kill()
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		last = lines.Text()
		if steps--; steps == 0 {
			_ = cmd.Process.Kill()
		}
	}
	err = cmd.Wait()
	if steps > 0 && err != nil {
		n.t.Fatalf("init: %v, at last %s", err, last)
	}
	return err == nil, last
}
