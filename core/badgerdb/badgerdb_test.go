package badgerdb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// A power cut may leave logs that were made and never got their length.
func TestOpenWithEmptyLogs(t *testing.T) {
	o := badger.DefaultOptions(filepath.Join(t.TempDir(), "a", "b")).WithSyncWrites(true).WithLogger(nil).
		WithMemTableSize(1 << 20).WithValueThreshold(1 << 10).WithValueLogFileSize(1 << 20)
	db, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	key, value := []byte("key"), []byte("value")
	if err := db.Update(Demand{}, func(tx *Txn) error { return tx.Set(key, value) }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"00007.mem", "00008.mem", "000009.vlog"} {
		if err := os.WriteFile(filepath.Join(o.Dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if db, err = Open(o); err != nil {
			t.Fatal(err)
		}
		err := db.View(func(tx *badger.Txn) error {
			item, err := tx.Get(key)
			if err != nil {
				return err
			}
			return item.Value(func(v []byte) error {
				if string(v) != string(value) {
					t.Errorf("found %q", v)
				}
				return nil
			})
		})
		if err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A table that ends in anything else than what Badger wrote is an error that names it, never a panic.
func TestDamagedTable(t *testing.T) {
	o := badger.DefaultOptions(t.TempDir()).WithSyncWrites(true).WithLogger(nil).
		WithMemTableSize(1 << 20).WithValueThreshold(1 << 10).WithValueLogFileSize(1 << 20)
	db, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(Demand{}, func(tx *Txn) error { return tx.Set([]byte("key"), []byte("value")) }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(o.Dir, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("tables %v, %v", tables, err)
	}
	whole, err := os.ReadFile(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	refused := func(b []byte, why string) {
		t.Helper()
		if err := os.WriteFile(tables[0], b, 0o600); err != nil {
			t.Fatal(err)
		}
		if db, err := Open(o); err == nil {
			t.Errorf("%s: opened", why)
			_ = db.Close()
		} else if !strings.Contains(err.Error(), filepath.Base(tables[0])) {
			t.Errorf("%s: %v does not name the table", why, err)
		}
	}
	for n := range whole {
		refused(whole[:n], fmt.Sprintf("cut to %d bytes", n))
	}
	for i := range min(24, len(whole)) {
		for _, bit := range []byte{0x01, 0x10, 0x80} {
			b := slices.Clone(whole)
			b[len(b)-1-i] ^= bit
			refused(b, fmt.Sprintf("bit %#x of byte %d from the end", bit, i))
		}
	}
	if err := os.WriteFile(tables[0], whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if db, err = Open(o); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// A database that cannot be closed in order is abandoned, in time: one whose folder is gone, or is another, and one whose tables
// cannot be written.
func TestAbandon(t *testing.T) {
	closeTimeout = 100 * time.Millisecond
	t.Cleanup(func() { closeTimeout = 15 * time.Second })
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"gone": func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		},
		"another": func(t *testing.T, dir string) {
			if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
				t.Fatal(err)
			}
		},
		"stuck": func(t *testing.T, dir string) {
			for i := range 100 { // Badger makes files of these names, and does not expect them
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%06d.sst", i)), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t.TempDir())
			db, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			if err := (model{}).put(db, Demand{}, "key", "value"); err != nil {
				t.Fatal(err)
			}
			spoil(t, o.Dir)
			if err := db.Close(); !errors.Is(err, ErrAbandoned) {
				t.Errorf("closed with %v", err)
			}
		})
	}
}
