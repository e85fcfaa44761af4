package forgetfs

import (
	"bytes"
	"maps"
	"slices"
	"syscall"
	"testing"
)

func (d *Disk) file(dir *inode, name string) *inode {
	return d.create(dir, name, syscall.S_IFREG|0o600, 0, 0)
}

func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

// survivors cuts the power of a disk that build fills, with many seeds, and hands what is left to see.
func survivors(t *testing.T, strict bool, build func(d *Disk, root *inode), see func(root *inode)) {
	t.Helper()
	for seed := range uint64(200) {
		d := NewDisk(Options{Strict: strict})
		build(d, d.inodes[rootNumber])
		d.Cut()
		see(d.Survivor(seed).inodes[rootNumber])
	}
}

func text(i *inode) []byte {
	b := make([]byte, i.live.size)
	i.live.readAt(b, 0)
	return b
}

func TestSyncedSurvives(t *testing.T) {
	for _, strict := range []bool{false, true} {
		survivors(t, strict, func(d *Disk, root *inode) {
			f := d.file(root, "f")
			d.write(f, fill(1, 10000), 3, false)
			d.sync(f)
			d.sync(root)
		}, func(root *inode) {
			f := root.entries["f"]
			if f == nil || !bytes.Equal(text(f), append(make([]byte, 3), fill(1, 10000)...)) {
				t.Fatal("a synced file is not there")
			}
		})
	}
}

// Of what was not synced everything may be there, nothing, or a torn part, in whole sectors.
func TestUnsyncedIsTorn(t *testing.T) {
	const sectors = 8
	var all, none, torn int
	survivors(t, false, func(d *Disk, root *inode) {
		f := d.file(root, "f")
		d.write(f, fill(1, sectors*sectorSize), 0, false)
		d.sync(f)
		d.write(f, fill(2, sectors*sectorSize), 0, false)
	}, func(root *inode) {
		b, fresh := text(root.entries["f"]), 0
		for s := range sectors {
			sector := b[s*sectorSize:][:sectorSize]
			switch {
			case bytes.Equal(sector, fill(2, sectorSize)):
				fresh++
			case !bytes.Equal(sector, fill(1, sectorSize)):
				t.Fatal("a sector is a mixture")
			}
		}
		switch fresh {
		case 0:
			none++
		case sectors:
			all++
		default:
			torn++
		}
	})
	if all == 0 || none == 0 || torn == 0 {
		t.Fatalf("%d times all, %d times nothing, %d times torn", all, none, torn)
	}
}

// A durable write is there, over older ones that are not synced and under later ones, and says nothing of its neighbours.
func TestDurableWrite(t *testing.T) {
	neighbours := map[byte]bool{}
	survivors(t, false, func(d *Disk, root *inode) {
		f := d.file(root, "f")
		d.write(f, fill(1, 4*sectorSize), 0, false)
		d.write(f, fill(2, sectorSize), sectorSize, true)
	}, func(root *inode) {
		b := text(root.entries["f"])
		if !bytes.Equal(b[sectorSize:][:sectorSize], fill(2, sectorSize)) {
			t.Fatal("a durable write is not there")
		}
		neighbours[b[0]] = true
	})
	if len(neighbours) != 2 {
		t.Fatal("the write before it is always or never there")
	}
}

func TestNames(t *testing.T) {
	build := func(d *Disk, root *inode) {
		d.file(root, "before")
		f := d.file(root, "f")
		d.sync(f)
		d.name(root, map[string]*inode{"f": nil, "g": f})
		d.file(root, "after")
	}
	found := func(strict bool) map[string]bool {
		out := map[string]bool{}
		survivors(t, strict, build, func(root *inode) {
			names := ""
			for _, n := range slices.Sorted(maps.Keys(root.entries)) {
				names += n + " "
			}
			out[names] = true
		})
		return out
	}
	want := map[string]bool{"before f ": true, "before g ": true, "after before g ": true}
	if got := found(false); !maps.Equal(got, want) {
		t.Errorf("a synced file brings its name, and those before it: %v", got)
	}
	want[""], want["before "] = true, true
	if got := found(true); !maps.Equal(got, want) {
		t.Errorf("names are durable with their folder: %v", got)
	}
}

// What replaces a file whole, synced and then renamed, is old or new at any moment.
func TestReplace(t *testing.T) {
	found := map[byte]bool{}
	survivors(t, true, func(d *Disk, root *inode) {
		f := d.file(root, "f")
		d.write(f, fill(1, 100), 0, false)
		d.sync(f)
		d.sync(root)
		g := d.file(root, "tmp")
		d.write(g, fill(2, 100), 0, false)
		d.sync(g)
		d.name(root, map[string]*inode{"tmp": nil, "f": g})
	}, func(root *inode) {
		b := text(root.entries["f"])
		if len(b) != 100 || !bytes.Equal(b, fill(b[0], 100)) {
			t.Fatalf("a mixture: % x", b)
		}
		found[b[0]] = true
	})
	if len(found) != 2 {
		t.Fatalf("found %v", found)
	}
}

// A cut file does not show again, in part, what lay beyond; nor does what was written there after.
func TestTruncate(t *testing.T) {
	sizes := map[int]bool{}
	survivors(t, false, func(d *Disk, root *inode) {
		f := d.file(root, "f")
		d.write(f, fill(1, 4*pageSize), 0, false)
		d.sync(f)
		d.reshape(f, change{kind: resize, off: 100})
		d.write(f, fill(2, pageSize), pageSize, false)
	}, func(root *inode) {
		b := text(root.entries["f"])
		sizes[len(b)] = true
		switch {
		case len(b) == 4*pageSize && !bytes.Equal(b, fill(1, 4*pageSize)):
			t.Fatal("data of a size that was lost is there")
		case len(b) < 4*pageSize && !bytes.Equal(b[100:min(len(b), pageSize)], make([]byte, min(len(b), pageSize)-100)):
			t.Fatal("what was cut off shows again")
		}
	})
	if !sizes[100] || !sizes[4*pageSize] || !sizes[2*pageSize] {
		t.Fatalf("sizes found: %v", sizes)
	}
}

func TestCutAt(t *testing.T) {
	d := NewDisk(Options{})
	down := d.CutAt(2)
	if !d.change() {
		t.Fatal("the first change came too late")
	}
	d.mu.Unlock()
	answered := make(chan bool)
	go func() { answered <- d.change() }()
	<-down
	if !d.IsCut() {
		t.Fatal("there is power")
	}
	select {
	case <-answered:
		t.Fatal("a change is answered without power")
	default:
	}
	d.release()
	if <-answered {
		t.Fatal("the second change was made")
	}
}
