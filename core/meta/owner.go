package meta

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta/store"
)

// Ownership says which Meta session holds the leases of all extents of a volume. It
// is one record, so that taking a volume over is one transaction, whatever its size.
type Ownership struct {
	Volume  uuid.UUID `json:"volume"`
	Session SessionID `json:"session,omitempty"` // 0: nobody
	// Term grows with every change of the owner, and is part of the generation of every
	// extent of the volume.
	Term  Generation `json:"term"`
	Since time.Time  `json:"since"`

	revision store.Revision
}

// HeldError is an ErrConflict: another session owns the volume.
type HeldError struct {
	Volume uuid.UUID
	Owner  SessionInfo
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("volume %s is driven by node %s (Meta session %d)", e.Volume, e.Owner.Node, e.Owner.ID)
}

// Is makes it an ErrConflict.
func (e *HeldError) Is(target error) bool { return target == ErrConflict }

// VolumeOwner returns who owns a volume, and the session if it lives.
func (m *Meta) VolumeOwner(ctx context.Context, volume uuid.UUID) (Ownership, *SessionInfo, error) {
	o, err := m.ownership(ctx, volume)
	if err != nil || o.Session == 0 {
		return o, nil, err
	}
	info, _, err := load[SessionInfo](ctx, m, keySession(o.Session))
	if isNotFound(err) {
		return o, nil, nil
	}
	return o, &info, err
}

// Owners returns who owns, or owned last, each volume that was ever owned. The sessions may be over.
func (m *Meta) Owners(ctx context.Context) ([]Ownership, error) {
	return list[Ownership](ctx, m, "owner/")
}

func (m *Meta) ownership(ctx context.Context, volume uuid.UUID) (Ownership, error) {
	o, rev, err := load[Ownership](ctx, m, keyOwner(volume))
	if isNotFound(err) {
		return Ownership{Volume: volume}, nil
	}
	o.revision = rev
	return o, err
}

// TakeVolume makes the session the owner of a volume, or confirms that it is. It
// passes from a session that is over without more ado; one held by a live session is
// a HeldError. The new owner seals the generations that follow from Term on every
// replica before it serves.
func (m *Meta) TakeVolume(ctx context.Context, s *Session, volume uuid.UUID) (Ownership, error) {
	var out Ownership
	err := m.retry(ctx, func(x *txn) error {
		if err := s.check(ctx); err != nil {
			return err
		}
		v, vrev, err := m.activeVolume(ctx, volume)
		if err != nil {
			return err
		}
		o, owner, err := m.VolumeOwner(ctx, volume)
		if err != nil {
			return err
		}
		if out = o; o.Session == s.id {
			return nil
		}
		if owner != nil {
			return &HeldError{Volume: v.ID, Owner: *owner}
		}
		if o.Session != 0 {
			x.at(keySession(o.Session), 0)
		}
		out.Session, out.Term, out.Since = s.id, o.Term+1, m.now().UTC()
		s.require(x)
		x.at(keyVolume(volume), vrev)
		x.update(keyOwner(volume), o.revision, out)
		return nil
	})
	return out, err
}

// YieldVolume ends the session's ownership of a volume: nothing of it is under way any
// more. It passes to another live session, or with 0 to whoever takes it next. Yielding
// what the session does not own changes nothing.
func (m *Meta) YieldVolume(ctx context.Context, s *Session, volume uuid.UUID, to SessionID) error {
	return m.retry(ctx, func(x *txn) error {
		o, err := m.ownership(ctx, volume)
		if err != nil || o.Session != s.id || to == s.id {
			return err
		}
		next := o
		next.Session = 0
		if to != 0 {
			kv, err := m.st.Get(ctx, keySession(to))
			if err != nil {
				return fmt.Errorf("pass volume %s on to Meta session %d: %w", volume, to, err)
			}
			x.at(keySession(to), kv.Revision)
			next.Session, next.Term, next.Since = to, o.Term+1, m.now().UTC()
		}
		x.update(keyOwner(volume), o.revision, next)
		return nil
	})
}

func (m *Meta) activeVolume(ctx context.Context, id uuid.UUID) (Volume, store.Revision, error) {
	v, rev, err := load[Volume](ctx, m, keyVolume(id))
	if err == nil && v.State != VolumeActive {
		err = fmt.Errorf("it is being deleted: %w", ErrNotFound)
	}
	if err != nil {
		return v, rev, fmt.Errorf("volume %s: %w", id, err)
	}
	return v, rev, nil
}

// IsHeld says whether an error is that another session owns a volume.
func IsHeld(err error) bool {
	var held *HeldError
	return errors.As(err, &held)
}
