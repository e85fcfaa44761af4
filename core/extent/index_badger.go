package extent

import (
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/core/badgerdb"
)

// The keys and values of the Badger index: 'e', volume, big-endian index -> version, state, ref, area, generation, checksum;
// and "store" -> the ID of the store that it belongs to.
const (
	badgerPrefix    = 'e'
	badgerKeySize   = 1 + 16 + 4
	badgerVersion   = 1
	badgerValueSize = 24
)

type badgerIndex struct{ db *badgerdb.DB }

// OpenBadgerIndex opens or creates the index in the folder dir.
func OpenBadgerIndex(dir string, log hclog.Logger) (Index, error) {
	o := badger.DefaultOptions(dir).
		WithSyncWrites(true).WithLogger(badgerLog{log}).WithMetricsEnabled(false).
		WithMemTableSize(8 << 20).WithNumMemtables(2).WithCompression(options.None).WithBlockCacheSize(0).
		WithValueThreshold(1 << 10).WithValueLogFileSize(16 << 20).WithDetectConflicts(false)
	db, err := badgerdb.Open(o)
	if errors.Is(err, badgerdb.ErrNoSpace) {
		return nil, fmt.Errorf("open index: %w: %w", ErrNoSpace, err)
	}
	if errors.Is(err, badgerdb.ErrDamaged) {
		return nil, fmt.Errorf("open index: %w: %w", ErrCorrupt, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open index %s: %w", dir, err)
	}
	return &badgerIndex{db: db}, nil
}

func badgerKey(id ID) []byte {
	k := append(make([]byte, 0, badgerKeySize), badgerPrefix)
	k = append(k, id.Volume[:]...)
	return append(k, byte(id.Index>>24), byte(id.Index>>16), byte(id.Index>>8), byte(id.Index))
}

func badgerValue(key []byte, r Record) []byte {
	v := make([]byte, badgerValueSize)
	v[0], v[1] = badgerVersion, byte(r.State)
	le.PutUint32(v[4:], r.Ref)
	le.PutUint32(v[8:], r.Area)
	le.PutUint64(v[12:], uint64(r.Gen))
	le.PutUint32(v[20:], crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, v[:20]))
	return v
}

func parseBadger(key, v []byte) (Record, error) {
	if len(key) != badgerKeySize || len(v) != badgerValueSize || v[0] != badgerVersion ||
		le.Uint32(v[20:]) != crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, v[:20]) {
		return Record{}, fmt.Errorf("index record %x: %w", key, ErrCorrupt)
	}
	id := ID{Volume: uuid.UUID(key[1:17]), Index: uint32(key[17])<<24 | uint32(key[18])<<16 | uint32(key[19])<<8 | uint32(key[20])}
	return Record{ID: id, State: State(v[1]), Ref: le.Uint32(v[4:]), Area: le.Uint32(v[8:]), Gen: Generation(le.Uint64(v[12:]))}, nil
}

func (x *badgerIndex) Load(fn func(Record) error) error {
	return x.db.View(func(tx *badger.Txn) error {
		it := tx.NewIterator(badger.IteratorOptions{Prefix: []byte{badgerPrefix}, PrefetchValues: true, PrefetchSize: 128})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			item := it.Item()
			if err := item.Value(func(v []byte) error {
				r, err := parseBadger(item.Key(), v)
				if err != nil {
					return err
				}
				return fn(r)
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

func (x *badgerIndex) Update(put []Record, remove []ID, fresh bool) error {
	d := badgerdb.Demand{}
	if fresh {
		d.Log = badgerdb.Reserve
	}
	err := x.db.Update(d, func(tx *badgerdb.Txn) error {
		for _, r := range put {
			k := badgerKey(r.ID)
			if err := tx.Set(k, badgerValue(k, r)); err != nil {
				return err
			}
		}
		for _, id := range remove {
			if err := tx.Delete(badgerKey(id)); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, badgerdb.ErrNoSpace) {
		return fmt.Errorf("update index: %w: %w", ErrNoSpace, err)
	}
	if err != nil {
		return fmt.Errorf("update index: %w", err)
	}
	return nil
}

var badgerOwnerKey = []byte("store")

func (x *badgerIndex) Owner() (owner uuid.UUID, err error) {
	err = x.db.View(func(tx *badger.Txn) error {
		item, err := tx.Get(badgerOwnerKey)
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return item.Value(func(v []byte) error {
			owner, err = uuid.FromBytes(v)
			return err
		})
	})
	if err != nil {
		return uuid.Nil, fmt.Errorf("read the owner of the index: %w", err)
	}
	return owner, nil
}

func (x *badgerIndex) Bind(store uuid.UUID) error {
	err := x.db.Update(badgerdb.Demand{}, func(tx *badgerdb.Txn) error { return tx.Set(badgerOwnerKey, store[:]) })
	if err != nil {
		return fmt.Errorf("bind index: %w", err)
	}
	return nil
}

func (x *badgerIndex) Close() error {
	if err := x.db.Close(); err != nil && !errors.Is(err, badger.ErrDBClosed) {
		return fmt.Errorf("close index: %w", err)
	}
	return nil
}

// badgerLog carries Badger's own log into ours, one level lower: its info is our debug.
type badgerLog struct{ log hclog.Logger }

func (l badgerLog) say(level hclog.Level, format string, a []any) {
	if l.log.GetLevel() <= level {
		l.log.Log(level, "badger", "message", strings.TrimSpace(fmt.Sprintf(format, a...)))
	}
}

func (l badgerLog) Errorf(f string, a ...any)   { l.say(hclog.Error, f, a) }
func (l badgerLog) Warningf(f string, a ...any) { l.say(hclog.Warn, f, a) }
func (l badgerLog) Infof(f string, a ...any)    { l.say(hclog.Debug, f, a) }
func (l badgerLog) Debugf(f string, a ...any)   { l.say(hclog.Trace, f, a) }
