package badgerdb

import (
	"fmt"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

// Tables that pile up are merged, and all that was written last is still there.
func TestCompact(t *testing.T) {
	o := badger.DefaultOptions(t.TempDir()).WithLogger(nil).
		WithMemTableSize(1 << 20).WithNumMemtables(2).WithValueThreshold(1 << 10).WithValueLogFileSize(1 << 20)
	db, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	value := func(round int) string { return fmt.Sprint(round, string(make([]byte, 500))) }
	const keys = 500
	round := 0
	for ; !db.crowded(); round++ {
		if round == 1000 {
			t.Fatal("tables never pile up")
		}
		for from := 0; from < keys; from += keys / 5 {
			if err := db.Update(Demand{}, func(tx *Txn) error {
				for k := from; k < from+keys/5; k++ {
					if err := tx.Set(fmt.Append(nil, k), []byte(value(round))); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := db.db.Flatten(1); err != nil {
		t.Fatal(err)
	}
	if db.crowded() {
		t.Errorf("%d tables are left in level 0", db.db.Levels()[0].NumTables)
	}
	err = db.View(func(tx *badger.Txn) error {
		for k := range keys {
			item, err := tx.Get(fmt.Append(nil, k))
			if err != nil {
				return err
			}
			if err := item.Value(func(v []byte) error {
				if string(v) != value(round-1) {
					t.Errorf("key %d has another value than the last", k)
				}
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}
