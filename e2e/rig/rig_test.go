package rig

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// readCpio lists an archive's entries as "mode name content".
func readCpio(t *testing.T, archive []byte) []string {
	t.Helper()
	const headerSize = 110
	var entries []string
	pos := 0
	align := func() { pos = (pos + cpioAlign - 1) / cpioAlign * cpioAlign }
	field := func(i int) int {
		n, err := strconv.ParseUint(string(archive[pos+6+8*i:][:8]), 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		return int(n)
	}
	for {
		if magic := string(archive[pos:][:6]); magic != "070701" {
			t.Fatalf("magic %q at %d", magic, pos)
		}
		mode, size, nameSize := field(1), field(6), field(11)
		pos += headerSize
		name := strings.TrimRight(string(archive[pos:][:nameSize]), "\x00")
		pos += nameSize
		align()
		body := string(archive[pos:][:size])
		pos += size
		align()
		if name == cpioTrailer {
			return entries
		}
		entries = append(entries, strings.TrimSpace(strconv.FormatInt(int64(mode), 8)+" "+name+" "+body))
	}
}

func TestCpio(t *testing.T) {
	var archive bytes.Buffer
	c := newCpioWriter(&archive)
	c.text("/etc/passwd", 0o644, "root")
	c.symlink("bin", "usr/bin")
	c.text("etc/group", 0o600, "odd")
	c.text("etc/passwd", 0o644, "a second of the same name")
	c.dir("etc")
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	want := []string{"40755 etc", "100644 etc/passwd root", "120777 bin usr/bin", "100600 etc/group odd"}
	if got := readCpio(t, archive.Bytes()); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if archive.Len()%cpioBlock != 0 {
		t.Errorf("%d bytes: another archive cannot follow", archive.Len())
	}
}

func TestCpioFailsOnAShortFile(t *testing.T) {
	c := newCpioWriter(io.Discard)
	c.file("a", 0o644, 10, strings.NewReader("short"))
	if err := c.close(); err == nil {
		t.Error("a file that is shorter than announced is accepted")
	}
}

func TestComplaint(t *testing.T) {
	for line, want := range map[string]bool{
		"[   12.3] WARNING: CPU: 0 PID: 1 at fs/inode.c:1":            true,
		"[    0.100000] BUG: unable to handle page fault":             true,
		"text [    9.1] Kernel panic - not syncing":                   true,
		"[  300.1] INFO: task fio blocked for more than 120 seconds.": true,
		"WARNING: a program says so":                                  false,
		"[    1.0] nvme nvme0: creating 2 I/O queues.":                false,
		"[    1.0] AMD-Vi: not available - This is not a bug":         false,
	} {
		if complaint.MatchString(line) != want {
			t.Errorf("%q: want %v", line, want)
		}
	}
}

func TestReadLines(t *testing.T) {
	for partial, want := range map[bool][]string{true: {"a", "b", "cut"}, false: {"a", "b"}} {
		var got []string
		readLines(strings.NewReader("a\r\nb\ncut"), func(line string) { got = append(got, line) }, partial)
		if !slices.Equal(got, want) {
			t.Errorf("partial %v: got %q, want %q", partial, got, want)
		}
	}
}

func TestUnpackKernelRefuses(t *testing.T) {
	for name, image := range map[string][]byte{
		"nothing": nil,
		"short":   make([]byte, minKernel-1),
		"zeros":   make([]byte, 1<<20),
	} {
		if _, err := unpackKernel(image); err == nil {
			t.Errorf("%s is taken for a kernel", name)
		}
	}
}

func TestMissingNamesAProgram(t *testing.T) {
	if got := Missing(Image{Programs: []string{"no-such-program"}}); !slices.Contains(got, "no-such-program") {
		t.Errorf("got %q", got)
	}
}

func TestFingerprintChangesWithAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	key := func(text string) string {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := fingerprint(kernel{}, []source{{guest: "a", host: path}})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if key("one") == key("three") {
		t.Error("a changed file gives the same image")
	}
}

// TestComplaints: of the kernel's warnings one is harmless, and only behind the line that says which it is.
func TestComplaints(t *testing.T) {
	const (
		about   = "[  244.785841] workqueue: WQ_MEM_RECLAIM iscsi_ctrl_0:7:__iscsi_unbind_session [scsi_transport_iscsi] is flushing !WQ_MEM_RECLAIM pm:pm_runtime_work"
		other   = "[  244.785841] workqueue: WQ_MEM_RECLAIM nvme-wq:nvme_scan_work [nvme_core] is flushing !WQ_MEM_RECLAIM events:cache_clean"
		warning = "[  244.786693] WARNING: CPU: 1 PID: 25 at kernel/workqueue.c:2635 check_flush_dependency.part.0+0xb4/0x100"
		bug     = "[  245.000000] BUG: unable to handle page fault for address: 0000000000000010"
	)
	for _, tc := range []struct {
		lines []string
		found int
	}{
		{[]string{about, warning}, 0}, {[]string{other, warning}, 1}, {[]string{warning}, 1}, {[]string{about, "[  1.0] x", warning}, 1},
		{[]string{about, bug}, 1}, {[]string{about, warning, warning}, 1},
	} {
		var c complaints
		for _, line := range tc.lines {
			c.read(line)
		}
		if len(c.found) != tc.found {
			t.Errorf("%q: found %q", tc.lines, c.found)
		}
	}
}
