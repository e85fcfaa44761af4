package badgerdb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"
)

// ErrNoSpace says that an update was refused because the file system is full; nothing was changed, and it may be made again.
var ErrNoSpace = errors.New("no space for metadata")

// Badger writes through maps of sparse files, and a store into a map that the file system has no block for ends the process. So
// the blocks of the log that it appends to are made real a step ahead of what is written: no update meets a hole. Tables, which it
// makes of a whole log, cannot be prepared: it makes their files itself. It turns from a full log to the next only when there is
// ample space; for a Close, and for an Open after a crash, a file of our own, the reserve, keeps as many blocks as the tables take.
// It is given up just then.
const (
	reserveName = "RESERVE"
	step        = 1 << 20       // by which log and reserve grow
	small       = 1 << 20       // what an opening takes besides: first pages of new files, names, the manifest
	Reserve     = step / 2      // of the log: kept for updates with no demand
	spare       = 4 << 20       // of the reserve: what others may take meanwhile
	ample       = 8 << 20       // what others may take while Badger makes tables of what is free
	sparseMay   = 32 << 20      // free space that updates need where blocks cannot be made real
	sparseMust  = sparseMay / 4 // of it, what those with no demand need
)

// How long an opening waits for the tables of the logs that a crash left, and how often it looks.
const (
	flushTimeout = 5 * time.Second
	flushPoll    = 2 * time.Millisecond
)

// Demand is what must be left for others after an update, in bytes; with none the update may use up what was set aside, as
// deletions should.
type Demand struct {
	Log  int64 // of the log's real blocks
	Free int64 // of the file system
}

// tables is how much the tables take that are made of n bytes of log.
func tables(n int64) int64 { return n + n/4 }

// space keeps the real blocks of one database. It is guarded by DB.mu.
type space struct {
	dir        string
	table      int64 // bytes of a log after which Badger turns to the next
	sparse     bool  // the file system cannot make blocks real
	privileged bool  // what is kept for the administrator is ours, too

	log    int   // number of the log that Badger appends to
	used   int64 // of it, at most
	real   int64 // of it
	held   int64 // bytes of the reserve
	turned bool  // logs below log may still be made tables of
}

func (s *space) path(name string) string { return filepath.Join(s.dir, name) }
func (s *space) logPath(n int) string    { return s.path(fmt.Sprintf("%05d.mem", n)) }

// logs returns the numbers of the logs in the folder, in order, and how much of them is real.
func (s *space) logs() (numbers []int, bytes int64, err error) {
	files, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, 0, err
	}
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), ".mem")
		n, err := strconv.Atoi(name)
		if !ok || err != nil {
			continue
		}
		numbers = append(numbers, n)
		bytes += allocated(s.path(f.Name()))
	}
	slices.Sort(numbers)
	return numbers, bytes, nil
}

// allocated is how many bytes of blocks the file has; 0 if it is not there.
func allocated(path string) int64 {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0
	}
	return st.Blocks * 512
}

// free is how many bytes this process may still allocate.
func (s *space) free() int64 {
	var st unix.Statfs_t
	if unix.Statfs(s.dir, &st) != nil {
		return 0
	}
	blocks := int64(st.Bavail)
	if s.privileged {
		// What ext4 keeps for itself is in Bfree, too: a fiftieth, and 4096 blocks at most.
		blocks = max(blocks, int64(st.Bfree)-int64(min(st.Blocks/50, 4096)))
	}
	return blocks * st.Bsize
}

// privileged tells whether this process may use what file systems keep for the administrator: it is the real one, not that of a
// user namespace.
func privileged() bool {
	ids, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && unix.Geteuid() == 0 && slices.Equal(strings.Fields(string(ids)), []string{"0", "0", "4294967295"})
}

// short is the error for somebody who needs so many bytes to be free.
func (s *space) short(need int64) error {
	return fmt.Errorf("the file system of %s has %d KiB free, and %d KiB are needed there: %w", s.dir, s.free()>>10, (need+1023)>>10, ErrNoSpace)
}

// beforeOpen makes room for what Badger writes while it opens: tables of the logs that a crash left.
func (s *space) beforeOpen() error {
	files, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		// A log that was made, and had no length when the power went, holds nothing. Badger refuses to open with it.
		if ext := filepath.Ext(f.Name()); ext == ".mem" || ext == ".vlog" {
			if fi, err := f.Info(); err == nil && fi.Size() == 0 {
				if err := os.Remove(s.path(f.Name())); err != nil {
					return err
				}
			}
		}
	}
	_, bytes, err := s.logs()
	if err != nil {
		return err
	}
	s.held = allocated(s.path(reserveName))
	return s.lend(tables(bytes) + step + small)
}

// lend has need bytes free, if it must by giving up the reserve.
func (s *space) lend(need int64) error {
	if s.free() >= need+ample {
		return nil
	}
	held := s.held
	if err := s.release(); err != nil {
		return err
	}
	if s.free() >= need {
		return nil
	}
	err := s.short(need)
	s.hold(held)
	return err
}

// afterOpen makes the blocks of the new log real.
func (s *space) afterOpen() error {
	numbers, _, err := s.logs()
	if err != nil {
		return err
	}
	s.log = numbers[len(numbers)-1]
	s.turned = true
	err = s.allocate(s.logPath(s.log), 0, step, unix.FALLOC_FL_KEEP_SIZE)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		s.sparse = true
	case err != nil:
		return err
	default:
		s.real = step
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err == nil && (st.Type == unix.BTRFS_SUPER_MAGIC) {
		s.sparse = true // every write goes to new blocks
	}
	for end := time.Now().Add(flushTimeout); s.flushing() && time.Now().Before(end); {
		time.Sleep(flushPoll) // Badger tells nobody; the reserve is to be back before others take its blocks
	}
	s.provide(step)
	return nil
}

// allocate makes [off, off+n) of the file real.
func (s *space) allocate(path string, off, n int64, mode uint32) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Fallocate(int(f.Fd()), mode, off, n)
	}
	if err != nil {
		err = fmt.Errorf("allocate %d KiB for %s: %w", n>>10, path, err)
	}
	return errors.Join(err, f.Close())
}

// release gives the reserve up.
func (s *space) release() error {
	s.held = 0
	if err := os.Remove(s.path(reserveName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// hold makes the reserve as large as n at least, or as large as it can be.
func (s *space) hold(n int64) bool {
	if s.held >= n {
		return true
	}
	path := s.path(reserveName)
	if s.allocate(path, 0, n, 0) == nil {
		s.held = n
		return true
	}
	if some := (allocated(path) + s.free()) &^ (small/16 - 1); some > s.held && some < n && s.allocate(path, 0, some, 0) == nil {
		s.held = some
	}
	return false
}

// wanted is the reserve for a log of n bytes: what an opening after a crash takes, and some to spare.
func wanted(n int64) int64 { return tables(n) + step + small + spare }

// flushing tells whether Badger still makes a table of a former log.
func (s *space) flushing() bool {
	if s.turned {
		numbers, _, err := s.logs()
		s.turned = err != nil || slices.ContainsFunc(numbers, func(n int) bool { return n < s.log })
	}
	return s.turned
}

// provide makes the log real for n bytes beyond what is used, if it can, the reserve for its tables first.
func (s *space) provide(n int64) {
	if s.sparse {
		return
	}
	target := min(s.used+n, tables(s.table))
	target = max(s.real, (target+step-1)/step*step)
	if s.flushing() {
		if target > s.real && s.free() < tables(s.table)+target {
			return // the table comes first
		}
	} else if !s.hold(wanted(target)) {
		return
	}
	if target > s.real && s.allocate(s.logPath(s.log), s.real, target-s.real, unix.FALLOC_FL_KEEP_SIZE) == nil {
		s.real = target
	}
}

// admit makes room for an update that takes at most n bytes of log. settle must follow the update.
func (s *space) admit(n int64, d Demand) error {
	if d.Free > 0 && s.free() < d.Free {
		return s.short(d.Free)
	}
	if s.sparse {
		need := int64(sparseMust)
		if d.Log > 0 {
			need = sparseMay
		}
		if s.free() < need {
			return s.short(need)
		}
		return nil
	}
	if s.used >= s.table {
		if err := s.prepareTurn(); err != nil {
			return err
		}
	}
	all := tables(s.table) // Badger appends no more to one log
	if ahead := n + Reserve + step/4; min(all, s.used+ahead) > s.real {
		s.provide(ahead)
	}
	if want := min(all, s.used+n+d.Log); want > s.real {
		return s.short(want - s.real + tables(want-s.real))
	}
	return nil
}

// prepareTurn makes room for a table of the whole log and for the next log, since the next update may be the one at which Badger
// turns to it.
func (s *space) prepareTurn() error {
	need := tables(min(s.used, tables(s.table))) + step + ample
	if s.flushing() {
		need *= 2 // of two logs
	}
	if s.free() < need {
		return s.short(need)
	}
	// A log without a length is one that Badger has not begun; when it does, the blocks beyond its end are real already.
	if err := s.allocate(s.logPath(s.log+1), 0, step, unix.FALLOC_FL_KEEP_SIZE); err != nil {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return nil
}

// settle finds out whether Badger turned to the next log with an update of n bytes.
func (s *space) settle(n int64) {
	if s.sparse {
		return
	}
	if s.used >= s.table {
		if fi, err := os.Stat(s.logPath(s.log + 1)); err == nil && fi.Size() > 0 {
			s.log++
			s.used, s.real, s.turned = 0, step, true
		}
	}
	s.used += n
}

// beforeClose makes room for the table that a Close makes of the log.
func (s *space) beforeClose() error { return s.lend(tables(min(s.used, tables(s.table))) + small) }

// afterClose keeps room for the next opening.
func (s *space) afterClose() {
	if fi, err := os.Stat(s.logPath(s.log + 1)); err == nil && fi.Size() == 0 {
		_ = os.Remove(s.logPath(s.log + 1)) // the next opening removes it otherwise
	}
	if !s.sparse {
		s.hold(wanted(step))
	}
}

// Txn is a transaction that knows how much of the log it takes.
type Txn struct {
	*badger.Txn
	bytes int64
}

// Bounds of what Badger keeps beside key and value: in the log header, timestamp and checksum, in memory a node of its skip list.
const (
	entryBytes  = 160
	commitBytes = 128
)

// Set is badger.Txn.Set.
func (t *Txn) Set(key, value []byte) error {
	t.bytes += int64(len(key)+len(value)) + entryBytes
	return t.Txn.Set(key, value)
}

// Delete is badger.Txn.Delete.
func (t *Txn) Delete(key []byte) error {
	t.bytes += int64(len(key)) + entryBytes
	return t.Txn.Delete(key)
}
