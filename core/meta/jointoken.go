package meta

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta/store"
)

// ErrBadToken says that a join token is unknown, wrong, expired or used by another node.
var ErrBadToken = errors.New("join token is not valid")

// MaxJoinTokenLife bounds how long a join token can be used.
const MaxJoinTokenLife = 24 * time.Hour

// maxJoinTokens bounds how many there are at a time.
const maxJoinTokens = 100

// joinToken is what is kept of a join token: not its secret.
type joinToken struct {
	Hash    []byte    `json:"hash"` // SHA-256 of the secret
	Expires time.Time `json:"expires"`
	UsedBy  uuid.UUID `json:"used_by"` // Nil: by nobody yet
}

// CreateJoinToken makes a one-time secret by which one node can join within life. Those
// that expired are forgotten.
func (m *Meta) CreateJoinToken(ctx context.Context, life time.Duration) (id, secret string, err error) {
	if life <= 0 || life > MaxJoinTokenLife {
		return "", "", invalid("life of a join token", "up to %v; it is %v", MaxJoinTokenLife, life)
	}
	var b [8 + 32]byte
	rand.Read(b[:])
	id, secret = hex.EncodeToString(b[:8]), hex.EncodeToString(b[8:])
	hash := sha256.Sum256([]byte(secret))
	err = m.retry(ctx, func(x *txn) error {
		n := 0
		now := m.now()
		err := m.st.Range(ctx, "jointoken/", func(kv store.KV) error {
			var t joinToken
			if err := decode(kv.Key, kv.Value, &t); err != nil {
				return err
			}
			if now.After(t.Expires) && len(x.Delete) < store.MaxOps/2 {
				x.Delete = append(x.Delete, kv.Key)
			} else if kv.Key != keyJoinToken(id) {
				n++
			}
			return nil
		})
		if err != nil {
			return err
		}
		if n >= maxJoinTokens {
			return &InUseError{What: "every join token", Users: []string{fmt.Sprintf("%d that have not expired", n)}}
		}
		x.Put = append(x.Put, store.Put{Key: keyJoinToken(id), Value: encode(joinToken{Hash: hash[:], Expires: now.Add(life).UTC()})})
		return nil
	})
	return id, secret, err
}

// UseJoinToken spends a join token for a node: no other node can use it afterwards, and
// this one can repeat a join that was cut short, until the token expires.
func (m *Meta) UseJoinToken(ctx context.Context, id, secret string, node uuid.UUID) error {
	if raw, err := hex.DecodeString(id); err != nil || len(raw) != 8 || node == uuid.Nil {
		return ErrBadToken
	}
	return m.retry(ctx, func(x *txn) error {
		t, rev, err := load[joinToken](ctx, m, keyJoinToken(id))
		if isNotFound(err) {
			return ErrBadToken
		}
		if err != nil {
			return err
		}
		hash := sha256.Sum256([]byte(secret))
		switch {
		case subtle.ConstantTimeCompare(hash[:], t.Hash) != 1:
			return ErrBadToken
		case m.now().After(t.Expires):
			return fmt.Errorf("it expired at %s: %w", t.Expires.Format(time.RFC3339), ErrBadToken)
		case t.UsedBy == node:
			return nil
		case t.UsedBy != uuid.Nil:
			return fmt.Errorf("another node has used it: %w", ErrBadToken)
		}
		t.UsedBy = node
		x.update(keyJoinToken(id), rev, t)
		return nil
	})
}
