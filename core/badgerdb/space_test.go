package badgerdb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system in memory of n bytes.
func smallDisk(t *testing.T, n int64) string {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("missing: root, for a small file system")
		}
		t.Skip("missing: root, for a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", n)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// filler is a file that takes all that is free.
type filler struct {
	*testing.T
	*os.File
}

func fill(t *testing.T, dir string) filler {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	fl := filler{t, f}
	fl.more()
	return fl
}

// more takes what has become free.
func (f filler) more() {
	f.Helper()
	b := make([]byte, 4096)
	for {
		if _, err := f.Write(b); errors.Is(err, unix.ENOSPC) {
			return
		} else if err != nil {
			f.Fatal(err)
		}
	}
}

func (f filler) shrink(n int64) {
	f.Helper()
	if err := f.Truncate(n); err != nil {
		f.Fatal(err)
	}
	if _, err := f.Seek(n, 0); err != nil {
		f.Fatal(err)
	}
}

func testOptions(dir string) badger.Options {
	return badger.DefaultOptions(dir).WithSyncWrites(true).WithLogger(nil).WithMetricsEnabled(false).WithBlockCacheSize(0).WithCompression(0).
		WithMemTableSize(1 << 20).WithNumMemtables(2).WithValueThreshold(64 << 10).WithValueLogFileSize(1 << 20)
}

// A model of what was committed.
type model map[string]string

func (m model) put(db *DB, d Demand, key, value string) error {
	err := db.Update(d, func(t *Txn) error { return t.Set([]byte(key), []byte(value)) })
	if err == nil {
		m[key] = value
	}
	return err
}

func (m model) compare(t *testing.T, db *DB) {
	t.Helper()
	err := db.View(func(tx *badger.Txn) error {
		for k, v := range m {
			item, err := tx.Get([]byte(k))
			if err != nil {
				return fmt.Errorf("key %s: %w", k, err)
			}
			if got, err := item.ValueCopy(nil); err != nil || string(got) != v {
				return fmt.Errorf("key %s: %d bytes, %w", k, len(got), err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A file system that is full refuses updates, and takes no process with it: not when it fills up between two updates, not when Badger turns to
// another log, closes or opens. Those with no demand go on longer, and all go on as soon as there is space.
func TestFullFileSystem(t *testing.T) {
	disk := smallDisk(t, 64<<20)
	o := testOptions(filepath.Join(disk, "db"))
	db, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	m := model{}
	value := string(make([]byte, 8<<10))
	if err := m.put(db, Demand{}, "first", value); err != nil {
		t.Fatal(err)
	}
	f := fill(t, disk)
	until := func(name string, d Demand) int {
		t.Helper()
		for i := range 1000 {
			err := m.put(db, d, fmt.Sprint(name, i), value)
			f.more()
			if errors.Is(err, ErrNoSpace) {
				return i
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		t.Fatalf("%s: never refused", name)
		return 0
	}
	if err := m.put(db, Demand{Free: 1}, "free", value); !errors.Is(err, ErrNoSpace) {
		t.Errorf("an update that needs free space got %v", err)
	}
	until("may", Demand{Log: Reserve})
	if n := until("must", Demand{}); n < Reserve/len(value)/2 {
		t.Errorf("only %d updates without a demand were made after the others were refused", n)
	}
	for range 3 { // closing and opening takes no more than was set aside
		m.compare(t, db)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		f.more()
		if db, err = Open(o); err != nil {
			t.Fatal(err)
		}
		if err := m.put(db, Demand{}, "opened", value); err != nil {
			t.Error(err)
		}
	}
	m.compare(t, db)
	// Ample space, and more than a log is written: Badger turns to another.
	f.shrink(must(f.Stat()).Size() - 36<<20)
	turns := db.space.log
	for i := range 3 << 20 / len(value) {
		if err := m.put(db, Demand{Log: Reserve}, fmt.Sprint("later", i), value); err != nil {
			t.Fatal(i, err)
		}
	}
	if db.space.log == turns {
		t.Error("Badger did not turn to another log")
	}
	m.compare(t, db)
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func must(fi os.FileInfo, _ error) os.FileInfo { return fi }

// Where the log is real to its end, updates end with it: Badger does not turn to the next without ample space.
func TestFullLog(t *testing.T) {
	disk := smallDisk(t, 32<<20)
	db, err := Open(testOptions(filepath.Join(disk, "db")))
	if err != nil {
		t.Fatal(err)
	}
	m := model{}
	value := string(make([]byte, 8<<10))
	for i := 0; db.space.used < 3*db.space.table/4; i++ {
		if err := m.put(db, Demand{Log: Reserve}, fmt.Sprint(i), value); err != nil {
			t.Fatal(err)
		}
	}
	f := fill(t, disk)
	f.shrink(must(f.Stat()).Size() - 3*step/2) // enough to begin the next log, not for the table of this one
	for i := 0; ; i++ {
		err := m.put(db, Demand{}, fmt.Sprint("full", i), value)
		if errors.Is(err, ErrNoSpace) {
			break
		}
		if err != nil || i == 1000 {
			t.Fatal(i, err)
		}
	}
	if db.space.used < db.space.table {
		t.Errorf("refused at %d bytes of %d", db.space.used, db.space.table)
	}
	m.compare(t, db)
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

// What a crash left opens on a full file system with what was set aside for it. Without that, it is said what is missing, and nothing is touched.
func TestOpenAfterCrash(t *testing.T) {
	disk := smallDisk(t, 64<<20)
	o := testOptions(filepath.Join(disk, "db"))
	db, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	m := model{}
	for i := range 64 {
		if err := m.put(db, Demand{}, fmt.Sprint(i), string(make([]byte, 8<<10))); err != nil {
			t.Fatal(err)
		}
	}
	crashed := o.WithDir(filepath.Join(disk, "crashed")).WithValueDir(filepath.Join(disk, "crashed"))
	if err := os.CopyFS(crashed.Dir, os.DirFS(o.Dir)); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(crashed.Dir, "00009.mem"), nil, 0o600); err != nil { // made for a turn that did not come
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(crashed.Dir, reserveName), filepath.Join(disk, "aside")); err != nil {
		t.Fatal(err)
	}
	fill(t, disk)
	if _, err := Open(crashed); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("opened without room: %v", err)
	}
	if err := os.Rename(filepath.Join(disk, "aside"), filepath.Join(crashed.Dir, reserveName)); err != nil {
		t.Fatal(err)
	}
	if db, err = Open(crashed); err != nil {
		t.Fatal(err)
	}
	m.compare(t, db)
	if err := m.put(db, Demand{}, "more", "1"); err != nil {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}
