//go:build e2e

package forgetfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mounted shows a disk for the length of a test.
func mounted(t *testing.T, d *Disk) (*Mount, string) {
	t.Helper()
	if missing := Missing(); len(missing) > 0 {
		text := "missing: " + strings.Join(missing, ", ")
		if os.Getenv("CI") == "true" {
			t.Fatal(text)
		}
		t.Skip(text)
	}
	dir := t.TempDir()
	m, err := d.Mount(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { must(t, m.Unmount()) })
	return m, dir
}

// powerLoss cuts the power and returns the folder that shows what is left.
func powerLoss(t *testing.T, d *Disk, m *Mount, seed uint64) (*Disk, string) {
	t.Helper()
	d.Cut()
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
	after := d.Survivor(seed)
	_, dir := mounted(t, after)
	return after, dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestMountKeepsWhatWasSynced(t *testing.T) {
	d := NewDisk(Options{})
	m, dir := mounted(t, d)
	must(t, os.Mkdir(filepath.Join(dir, "a"), 0o700))
	f, err := os.Create(filepath.Join(dir, "a", "synced"))
	must(t, err)
	_, err = f.WriteString("there")
	must(t, errors.Join(err, f.Sync()))
	_, err = f.WriteString(", and more")
	must(t, errors.Join(err, f.Close(), os.Rename(f.Name(), f.Name()+"2"), os.WriteFile(filepath.Join(dir, "new"), []byte("x"), 0o600)))
	seed := uint64(0)
	for !forgets(seed) {
		seed++
	}
	_, dir = powerLoss(t, d, m, seed)
	b, err := os.ReadFile(filepath.Join(dir, "a", "synced"))
	if err != nil {
		b, err = os.ReadFile(filepath.Join(dir, "a", "synced2"))
	}
	if err != nil || string(b) != "there" {
		t.Errorf("found %q, %v", b, err)
	}
}

// forgets tells whether the seed keeps nothing of what was not synced.
func forgets(seed uint64) bool {
	d := NewDisk(Options{})
	f := d.file(d.inodes[rootNumber], "f")
	d.sync(f)
	d.write(f, make([]byte, 64*pageSize), 0, false)
	d.Cut()
	return d.Survivor(seed).inodes[rootNumber].entries["f"].live.size == 0
}

// A direct file's RWF_DSYNC makes one write durable, not the file.
func TestMountDurableWrite(t *testing.T) {
	d := NewDisk(Options{})
	m, dir := mounted(t, d)
	fd, err := unix.Open(filepath.Join(dir, "f"), unix.O_RDWR|unix.O_CREAT|unix.O_DIRECT|unix.O_CLOEXEC, 0o600)
	must(t, err)
	page, err := unix.Mmap(-1, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	must(t, err)
	copy(page, fill(1, pageSize))
	_, err = unix.Pwrite(fd, page, pageSize)
	must(t, err)
	_, err = unix.Pwritev2(fd, [][]byte{page}, 0, unix.RWF_DSYNC)
	must(t, errors.Join(err, unix.Close(fd), unix.Munmap(page)))
	if all, syncs := d.Changes(); all != 3 || syncs != 1 {
		t.Errorf("%d changes, %d of them durable", all, syncs)
	}
	seed := uint64(0)
	for !forgets(seed) {
		seed++
	}
	_, dir = powerLoss(t, d, m, seed)
	b, err := os.ReadFile(filepath.Join(dir, "f"))
	if err != nil || !bytes.Equal(b, fill(1, pageSize)) {
		t.Errorf("found %d bytes, %v", len(b), err)
	}
}

// TestMountMapped changes a file in mapped memory, in a process of its own: page faults in the process that answers them can end
// in a deadlock.
func TestMountMapped(t *testing.T) {
	if path := os.Getenv("FORGETFS_MAP"); path != "" {
		changeMapped(t, path)
		return
	}
	d := NewDisk(Options{})
	m, dir := mounted(t, d)
	path := filepath.Join(dir, "f")
	must(t, os.WriteFile(path, make([]byte, 4*pageSize), 0o600))
	c := exec.Command(os.Args[0], "-test.run=^TestMountMapped$")
	c.Env = append(os.Environ(), "FORGETFS_MAP="+path)
	in, err := c.StdinPipe()
	must(t, err)
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	_, err = fmt.Fscanln(out, new(string))
	must(t, err)
	before, _ := d.Changes()
	must(t, m.WriteBack())
	// The kernel starts the writes and may return before the last of them has arrived.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if after, _ := d.Changes(); after > before {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("what is mapped was not written back")
		}
	}
	must(t, in.Close())
	_ = c.Wait() // it ends as the power does
	d.Cut()
	must(t, m.Unmount())
	if b := text(d.Survivor(1).inodes[rootNumber].entries["f"]); b[0] != 7 {
		t.Error("what was synced by msync is not there")
	}
}

// changeMapped changes a page and syncs it, changes another and waits for its end.
func changeMapped(t *testing.T, path string) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	b, err := unix.Mmap(int(f.Fd()), 0, 4*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	b[0] = 7
	must(t, unix.Msync(b, unix.MS_SYNC))
	b[2*pageSize] = 8
	fmt.Println("mapped")
	_, _ = os.Stdin.Read(make([]byte, 1))
	must(t, unix.Kill(os.Getpid(), unix.SIGKILL))
}
