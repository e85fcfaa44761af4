// Package badgerdb opens Badger databases where the power may have been cut, and compacts them. It owns what Badger leaves to
// the file system there: the names of the folder and of new files, and logs that were made and never got their length. It owns
// no key, value or option, but for the compaction: Badger's own compactors look for work 20 times a second each, which is most of
// what an idle node did.
package badgerdb

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/ristretto/v2/z"

	"github.com/mooring-io/mooring/core/vfs"
)

// maxEmpty bounds how many empty logs one opening meets: the last two of memtables and of values, and some to spare.
const maxEmpty = 6

const (
	compactEvery  = 5 * time.Second // how often a look is taken
	compactTables = 6               // tables that are worth it; Badger merges none where there are fewer, and holds writes up at 15
)

// DB is an open database. Its compactor is a goroutine that Close ends.
type DB struct {
	*badger.DB
	stop chan struct{}
	done sync.WaitGroup
}

// Close ends the compaction and closes the database. It is called once.
func (db *DB) Close() error {
	close(db.stop)
	db.done.Wait()
	return db.DB.Close()
}

// compact merges all tables into one level whenever some have come.
func (db *DB) compact() {
	tick := time.NewTicker(compactEvery)
	defer tick.Stop()
	for {
		select {
		case <-db.stop:
			return
		case <-tick.C:
		}
		if db.crowded() {
			if err := db.Flatten(1); err != nil {
				opts := db.Opts()
				opts.Warningf("compaction: %v", err)
			}
		}
	}
}

func (db *DB) crowded() bool { return db.Levels()[0].NumTables >= compactTables }

// Open makes the folder o.Dir if need be and opens the database in it. o.ValueDir must be the same folder.
// o.NumCompactors is not used.
func Open(o badger.Options) (*DB, error) {
	o.NumCompactors = 0
	disk := vfs.NewOS()
	if err := disk.MkdirAll(o.Dir); err != nil {
		return nil, fmt.Errorf("make folder %s: %w", o.Dir, err)
	}
	db, err := badger.Open(o)
	for range maxEmpty {
		// A power cut between the making of a log and the sync of its length leaves an empty file. Badger refuses to
		// open then, but has given the file its length, so that the next attempt finds a log without entries.
		if err == nil || !strings.Contains(err.Error(), z.NewFile.Error()) { // Badger wraps it as text
			break
		}
		db, err = badger.Open(o)
	}
	if err != nil {
		return nil, err
	}
	// Badger syncs the log that it has just made, but not its name.
	if err := disk.SyncDir(o.Dir); err != nil {
		return nil, errors.Join(fmt.Errorf("sync folder %s: %w", o.Dir, err), db.Close())
	}
	d := &DB{DB: db, stop: make(chan struct{})}
	d.done.Go(d.compact)
	return d, nil
}
