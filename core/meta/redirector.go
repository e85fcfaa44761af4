package meta

import (
	"context"
	"net/netip"

	"github.com/google/uuid"
)

// redirectorHold says which Meta session has a redirector's address.
type redirectorHold struct {
	Session SessionID `json:"session"`
}

// TakeRedirector takes a redirector's address for the session, unless another living one has it, and
// returns the node that has it now. It is held until YieldRedirector, or until the session is over.
func (m *Meta) TakeRedirector(ctx context.Context, s *Session, address netip.Addr) (node uuid.UUID, err error) {
	err = m.retry(ctx, func(x *txn) error {
		had, rev, err := load[redirectorHold](ctx, m, keyRedirector(address))
		if err != nil && !isNotFound(err) {
			return err
		}
		if err == nil && had.Session != s.id {
			other, _, err := load[SessionInfo](ctx, m, keySession(had.Session))
			if err == nil {
				node = other.Node
				return nil
			}
			if !isNotFound(err) {
				return err
			}
		}
		if err := s.check(ctx); err != nil {
			return err
		}
		if node = s.node; had.Session != s.id {
			s.require(x)
			x.update(keyRedirector(address), rev, redirectorHold{s.id})
		}
		return nil
	})
	if err != nil {
		return uuid.Nil, err
	}
	return node, nil
}

// YieldRedirector gives a redirector's address up, if the session has it.
func (m *Meta) YieldRedirector(ctx context.Context, s *Session, address netip.Addr) error {
	return m.retry(ctx, func(x *txn) error {
		now, rev, err := load[redirectorHold](ctx, m, keyRedirector(address))
		if isNotFound(err) || err == nil && now.Session != s.id {
			return nil
		}
		if err != nil {
			return err
		}
		x.remove(keyRedirector(address), rev)
		return nil
	})
}
