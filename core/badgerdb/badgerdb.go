// Package badgerdb opens Badger databases where the power may be cut and the file system may fill up, and compacts them. It owns
// what Badger leaves to the file system there: the names of the folder and of new files, logs that were made and never got their
// length, and the blocks behind what Badger writes through memory maps. It owns no key, value or option, but for the compaction:
// Badger's own compactors look for work 20 times a second each, which is most of what an idle node did.
package badgerdb

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/mooring-io/mooring/core/vfs"
)

const (
	compactEvery  = 5 * time.Second // how often a look is taken
	compactTables = 6               // tables that are worth it; Badger merges none where there are fewer, and holds writes up at 15
)

// closeTimeout bounds a Close: Badger tries for ever to write where it cannot. Tests shorten it.
var closeTimeout = 15 * time.Second

// ErrAbandoned says that a database could not be closed in order. What was committed lies in its log, if its folder still exists.
var ErrAbandoned = errors.New("abandoned")

// DB is an open database. Its compactor is a goroutine that Close ends.
type DB struct {
	db     *badger.DB
	folder os.FileInfo // as it was when it was opened; immutable
	stop   chan struct{}
	done   sync.WaitGroup

	mu    sync.Mutex // one update at a time
	space space      // guarded by mu
}

// Open makes the folder o.Dir if need be and opens the database in it. o.ValueDir must be the same folder, and values be below
// o.ValueThreshold. o.NumCompactors is not used. ErrNoSpace says that there is no room to open it, ErrDamaged that a
// table ends in nonsense.
func Open(o badger.Options) (*DB, error) {
	o.NumCompactors = 0
	disk := vfs.NewOS()
	if err := disk.MkdirAll(o.Dir); err != nil {
		return nil, fmt.Errorf("make folder %s: %w", o.Dir, err)
	}
	d := &DB{space: space{dir: o.Dir, table: o.MemTableSize, privileged: privileged()}, stop: make(chan struct{})}
	var err error
	if d.folder, err = os.Stat(o.Dir); err != nil {
		return nil, err
	}
	if err := d.space.beforeOpen(); err != nil {
		return nil, err
	}
	if err := checkTables(o.Dir); err != nil {
		return nil, err
	}
	if d.db, err = badger.Open(o); err != nil {
		return nil, err
	}
	if err := d.space.afterOpen(); err != nil {
		return nil, errors.Join(err, d.db.Close())
	}
	// Badger syncs the log that it has just made, but not its name.
	if err := disk.SyncDir(o.Dir); err != nil {
		return nil, errors.Join(fmt.Errorf("sync folder %s: %w", o.Dir, err), d.db.Close())
	}
	d.done.Go(d.run)
	return d, nil
}

// View is badger.DB.View.
func (db *DB) View(fn func(*badger.Txn) error) error { return db.db.View(fn) }

// RunValueLogGC is badger.DB.RunValueLogGC.
func (db *DB) RunValueLogGC(ratio float64) error { return db.db.RunValueLogGC(ratio) }

// Begin begins an update, which ends with Commit or Discard.
func (db *DB) Begin() *Txn { return &Txn{Txn: db.db.NewTransaction(true), bytes: commitBytes} }

// Commit makes an update durable. After ErrNoSpace nothing was changed; after any other error it is unknown what was.
func (db *DB) Commit(t *Txn, d Demand) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if err := db.space.admit(t.bytes, d); err != nil {
		t.Discard()
		if here := db.here(); here != nil {
			return here
		}
		return err
	}
	defer db.space.settle(t.bytes)
	return t.Txn.Commit()
}

// Update runs fn in an update and commits it.
func (db *DB) Update(d Demand, fn func(*Txn) error) error {
	t := db.Begin()
	if err := fn(t); err != nil {
		t.Discard()
		return err
	}
	return db.Commit(t, d)
}

// here says whether the folder is not there any more.
func (db *DB) here() error {
	if now, err := os.Stat(db.space.dir); err != nil || !os.SameFile(db.folder, now) {
		return fmt.Errorf("the folder %s is gone", db.space.dir)
	}
	return nil
}

// Close ends the compaction and closes the database, or leaves it as a crash would: with ErrAbandoned if that is more than its folder
// bears, without an error if only the room is missing for what the next opening can do as well. It is called once.
func (db *DB) Close() error {
	close(db.stop)
	db.done.Wait()
	db.mu.Lock()
	defer db.mu.Unlock()
	if err := db.here(); err != nil {
		return fmt.Errorf("%w: %w", ErrAbandoned, err)
	}
	if err := db.space.beforeClose(); err != nil {
		o := db.db.Opts()
		o.Warningf("left as it is, since it cannot be closed in order: %v", err)
		return nil
	}
	closed := make(chan error, 1)
	go func() { closed <- db.db.Close() }() // not joined if it never ends; so does the process that closes its databases
	select {
	case err := <-closed:
		db.space.afterClose()
		return err
	case <-time.After(closeTimeout):
		return fmt.Errorf("%w: %s was not closed within %v", ErrAbandoned, db.space.dir, closeTimeout)
	}
}

// run provides room ahead of need, and merges all tables into one level whenever some have come.
func (db *DB) run() {
	tick := time.NewTicker(compactEvery)
	defer tick.Stop()
	for {
		select {
		case <-db.stop:
			return
		case <-tick.C:
		}
		db.mu.Lock()
		db.space.provide(step)
		db.mu.Unlock()
		if db.crowded() && db.space.free() > db.tables()+ample {
			if err := db.db.Flatten(1); err != nil {
				opts := db.db.Opts()
				opts.Warningf("compaction: %v", err)
			}
		}
	}
}

func (db *DB) crowded() bool { return db.db.Levels()[0].NumTables >= compactTables }

// tables is how many bytes the tables have.
func (db *DB) tables() (bytes int64) {
	for _, l := range db.db.Levels() {
		bytes += l.Size
	}
	return bytes
}
