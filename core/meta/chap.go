package meta

import (
	"bytes"
	"context"
	"fmt"
)

// CHAP is how initiators of a target prove who they are, without the secrets.
type CHAP struct {
	// User is the name that an initiator must give (CHAP_N); "": its own IQN.
	User string `json:"user,omitempty"`
	// Mutual says that the target proves who it is where an initiator asks for it.
	Mutual bool `json:"mutual,omitempty"`
	// MutualUser is the name that it gives then; "": its own IQN.
	MutualUser string `json:"mutual_user,omitempty"`
}

// CHAPSecrets are the secrets that go with a CHAP. They have a record of their own, which nothing lists.
type CHAPSecrets struct {
	Secret []byte `json:"secret"`           // that initiators prove to know
	Mutual []byte `json:"mutual,omitempty"` // that the target proves to know; none without CHAP.Mutual
}

// Bounds of a secret in bytes. RFC 7143 12.1.3 asks for 96 bits at least.
const (
	MinCHAPSecret = 12
	MaxCHAPSecret = 255
)

const maxCHAPUser = 255 // bytes

func keyCHAP(iqn string) string { return "chap/" + esc(iqn) }

// CheckCHAP says what is wrong with how a target is to authenticate, without telling secrets.
func CheckCHAP(c CHAP, s CHAPSecrets) error {
	for _, one := range []struct {
		field  string
		secret []byte
		needed bool
	}{{"secret", s.Secret, true}, {"mutual secret", s.Mutual, c.Mutual}} {
		if n := len(one.secret); one.needed && (n < MinCHAPSecret || n > MaxCHAPSecret) {
			return invalid(one.field, "%d to %d bytes; it has %d", MinCHAPSecret, MaxCHAPSecret, n)
		}
	}
	switch {
	case !c.Mutual && (len(s.Mutual) > 0 || c.MutualUser != ""):
		return invalid("mutual user", "one with a secret")
	case c.Mutual && bytes.Equal(s.Secret, s.Mutual): // RFC 7143 9.2.1
		return invalid("mutual secret", "another one than the initiators'")
	case len(c.User) > maxCHAPUser || len(c.MutualUser) > maxCHAPUser:
		return invalid("user", "at most %d bytes", maxCHAPUser)
	}
	return nil
}

// SetTargetCHAP has a target ask initiators for a proof, or with nil no more. Sessions that are there stay.
func (m *Meta) SetTargetCHAP(ctx context.Context, iqn string, c *CHAP, s CHAPSecrets) error {
	return m.setCHAP(ctx, iqn, c, s, nil)
}

// setCHAP is SetTargetCHAP for the configuration file that manages the target, or nil.
func (m *Meta) setCHAP(ctx context.Context, iqn string, c *CHAP, s CHAPSecrets, by *Managed) error {
	if c != nil {
		if err := CheckCHAP(*c, s); err != nil {
			return err
		}
	}
	_, err := m.changeSubsystem(ctx, iqn, func(x *txn, t *Subsystem) error {
		if t.Target == nil {
			return fmt.Errorf("target %s: %w", iqn, ErrNotFound)
		}
		if by == nil {
			if err := refuseManaged(t.title(), t.Managed); err != nil {
				return err
			}
		}
		old, rev, err := load[CHAPSecrets](ctx, m, keyCHAP(iqn))
		if err != nil && !isNotFound(err) {
			return fmt.Errorf("secrets of target %s: %w", iqn, err)
		}
		options := *t.Target
		options.CHAP = c
		t.Target = &options
		switch {
		case c == nil && err == nil:
			x.remove(keyCHAP(iqn), rev)
		case c != nil && (err != nil || !same(old, s)):
			x.update(keyCHAP(iqn), rev, s)
		}
		return nil
	})
	return err
}

// TargetCHAP returns the secrets of a target that asks for a proof.
func (m *Meta) TargetCHAP(ctx context.Context, iqn string) (CHAPSecrets, error) {
	s, _, err := load[CHAPSecrets](ctx, m, keyCHAP(iqn))
	if err != nil {
		return CHAPSecrets{}, fmt.Errorf("secrets of target %s: %w", iqn, err)
	}
	return s, nil
}
