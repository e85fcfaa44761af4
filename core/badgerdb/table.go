package badgerdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
)

// ErrDamaged says that a file of the database is not what Badger wrote.
var ErrDamaged = errors.New("the database is damaged")

// checkTables finds what Badger would make worse. It removes tables that its MANIFEST does not name, which all do not where the
// MANIFEST is lost or cut off at its beginning. And where a table ends in nonsense, it panics.
func checkTables(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(names) == 0 {
		return err
	}
	if err := checkManifest(dir, names); err != nil {
		return err
	}
	for _, name := range names {
		if err := checkTable(name); err != nil {
			return err
		}
	}
	return nil
}

// checkManifest refuses a MANIFEST that names none of the tables, but where a crash may have left it so: with the first table
// just written, the log that it was made of is there still.
func checkManifest(dir string, tables []string) error {
	name := filepath.Join(dir, badger.ManifestFilename)
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s is lost, and %s is there", ErrDamaged, name, tables[0])
	}
	if err != nil {
		return err
	}
	defer f.Close()
	m, _, err := badger.ReplayManifestFile(f, 0, badger.DefaultOptions(dir))
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, name, err)
	}
	logs, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil {
		return err
	}
	if len(m.Tables) == 0 && m.Creations == 0 && len(logs) == 0 {
		return fmt.Errorf("%w: %s is cut off: it names no table, and %s is there", ErrDamaged, name, tables[0])
	}
	return nil
}

// checkTable looks at how a table ends. Badger compares checksums, but only after it has believed the two lengths that stand
// there. From the end backwards: length of the checksum, checksum, length of the index, index; lengths are 4 bytes each, big-endian.
func checkTable(name string) error {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	rest := info.Size()
	for _, what := range []string{"checksum", "index"} {
		var b [4]byte
		if rest -= int64(len(b)); rest < 0 {
			return fmt.Errorf("%w: %s is too short", ErrDamaged, name)
		}
		if _, err := f.ReadAt(b[:], rest); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(b[:])
		if n > math.MaxInt32 || int64(n) > rest {
			return fmt.Errorf("%w: %s: its %s would be %d bytes long", ErrDamaged, name, what, n)
		}
		rest -= int64(n)
	}
	return nil
}
