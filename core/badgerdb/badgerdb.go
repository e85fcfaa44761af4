// Package badgerdb opens Badger databases where the power may have been cut. It owns what Badger leaves to the file system there:
// the names of the folder and of new files, and logs that were made and never got their length. It owns no key, value or option.
package badgerdb

import (
	"errors"
	"fmt"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/ristretto/v2/z"

	"github.com/mooring-io/mooring/core/vfs"
)

// maxEmpty bounds how many empty logs one opening meets: the last two of memtables and of values, and some to spare.
const maxEmpty = 6

// Open makes the folder o.Dir if need be and opens the database in it. o.ValueDir must be the same folder.
func Open(o badger.Options) (*badger.DB, error) {
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
	return db, nil
}
