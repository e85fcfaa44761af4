// Package store is the small transactional store under Meta.
//
// It owns the contract: keys with revisions, compare-and-commit transactions,
// hints about changes, sessions whose keys vanish with them, and a backup stream.
// It does not own what the keys mean (package meta). Engines live in folders
// below; package storetest holds the one suite that all of them pass.
//
// The contract is what etcd can keep: a transaction is bounded in operations and
// bytes, a watch is a hint, a session may end at any time, and a Commit that
// fails with anything but the named errors may or may not have happened.
package store

import (
	"context"
	"errors"
	"io"
	"time"
)

// Limits of one transaction, below what etcd takes by default (128 operations,
// 1.5 MiB per request).
const (
	MaxOps   = 128       // conditions, and apart from them puts and deletes together
	MaxBytes = 512 << 10 // keys and values of one transaction
	MaxKey   = 1024      // bytes of a key
)

var (
	// ErrNotFound says that the key does not exist.
	ErrNotFound = errors.New("key not found")
	// ErrConflict says that a condition of a transaction did not hold; nothing was changed.
	ErrConflict = errors.New("transaction conflict")
	// ErrSessionExpired says that the session is over; nothing was changed.
	ErrSessionExpired = errors.New("session expired")
	// ErrInvalid says that a transaction breaks a limit or names a key twice: a bug of the caller.
	ErrInvalid = errors.New("invalid transaction")
	// ErrNotEmpty says that Restore found keys in the store.
	ErrNotEmpty = errors.New("store is not empty")
	// ErrBadBackup says that a backup stream is damaged, cut short or of an unknown version.
	ErrBadBackup = errors.New("bad backup")
	// ErrLocked says that another process has the store open.
	ErrLocked = errors.New("store is in use by another process")
	// ErrFailed says that the medium failed; only opening the store again can help.
	ErrFailed = errors.New("store has failed")
	// ErrUnavailable says that the store was out of reach, or without a majority; whether a
	// Commit that ends with it was carried out is unknown. It may be tried again.
	ErrUnavailable = errors.New("Meta store is unavailable")
	// ErrFull says that the store takes no more writes until it has space again; nothing was changed.
	ErrFull = errors.New("Meta store is full")
	// ErrClosed says that the store is closed or closing.
	ErrClosed = errors.New("store is closed")
)

// Revision is the number of the transaction that last wrote a key. It grows with
// every transaction of a store's life; 0 stands for a key that does not exist.
// It is not kept by Backup and Restore: a revision must not outlive its store.
type Revision uint64

// SessionID names a session of one store; 0 is none.
type SessionID uint64

// KV is one key as of a revision. The caller owns Value.
type KV struct {
	Key      string
	Value    []byte
	Revision Revision
	Session  SessionID // the session it vanishes with, or 0
}

// Cond is met while the key is at exactly this revision; 0: while it does not exist.
type Cond struct {
	Key      string
	Revision Revision
}

// Put writes a key. The engine does not keep Value.
type Put struct {
	Key     string
	Value   []byte
	Session SessionID // the key vanishes when this session ends; 0: it stays
}

// Txn changes all its keys at once if all conditions hold. A key may be put or
// deleted once. Deleting a key that does not exist is no error.
type Txn struct {
	If     []Cond
	Put    []Put
	Delete []string
	// Optional transactions get ErrFull while there is still space for the others: what
	// makes something new gives way to what keeps a node going and what frees space.
	Optional bool
}

// Hint says that something changed. Hints are merged and may be repeated or
// spurious, but after a change one always comes: re-read before acting.
type Hint struct {
	// Keys that may have changed. Empty: any under the prefix.
	Keys []string
}

// Store is a transactional store. All methods may be called at once. Reads see
// every commit that returned before they began (on one node's store or on all).
type Store interface {
	// Get returns the key or ErrNotFound.
	Get(ctx context.Context, key string) (KV, error)
	// Range calls fn with every key that begins with prefix, in the order of the
	// keys' bytes, all as of one revision. An error of fn ends it and is returned.
	// fn may call the store, but sees later revisions then.
	Range(ctx context.Context, prefix string, fn func(KV) error) error
	// Commit applies a transaction and returns its revision. ErrConflict,
	// ErrSessionExpired, ErrFull and ErrInvalid mean that nothing was changed; after any
	// other error the outcome is unknown, and only reading tells.
	Commit(ctx context.Context, t Txn) (Revision, error)
	// Watch returns a channel of hints about keys under prefix. The first hint, with
	// no keys, is there at once. The channel is closed when ctx or the store ends.
	Watch(ctx context.Context, prefix string) <-chan Hint
	// NewSession begins a session that ends ttl after it was last kept alive.
	NewSession(ctx context.Context, ttl time.Duration) (Session, error)
	// Backup writes all keys as of one revision, but for those of sessions.
	Backup(ctx context.Context, w io.Writer) error
	// Restore fills an empty store from a backup. If it fails half-way the store
	// refuses to be used and must be discarded.
	Restore(ctx context.Context, r io.Reader) error
	// Close ends the store's goroutines and releases it. Sessions are not ended:
	// their keys vanish by TTL, or when an embedded store is opened again.
	Close() error
}

// Session is a promise to be alive. Nothing keeps it alive by itself.
type Session interface {
	ID() SessionID
	// TTL is what the store granted; it may be more than was asked for.
	TTL() time.Duration
	// KeepAlive prolongs the session to TTL from some moment after the call began,
	// or fails with ErrSessionExpired once it is over.
	KeepAlive(ctx context.Context) error
	// End ends the session and removes its keys in one transaction. Idempotent.
	End(ctx context.Context) error
}

// Size is how many bytes of a transaction count against MaxBytes.
func (t Txn) Size() int {
	n := 0
	for _, c := range t.If {
		n += len(c.Key)
	}
	for _, p := range t.Put {
		n += len(p.Key) + len(p.Value)
	}
	for _, k := range t.Delete {
		n += len(k)
	}
	return n
}
