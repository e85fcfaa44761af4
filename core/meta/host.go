package meta

import (
	"context"
	"encoding/hex"
	"fmt"
	"reflect"
)

// Protocol is how a host speaks to us.
type Protocol string

// The protocols.
const (
	NVMe  Protocol = "nvme"
	ISCSI Protocol = "iscsi"
)

// HostID is who sends commands: the subject of paths and the registrant of
// reservations. It is comparable, but use Same to tell registrants apart.
type HostID struct {
	Protocol Protocol `json:"protocol"`
	Name     string   `json:"name"`             // NQN or IQN
	ID       UID      `json:"host_id,omitzero"` // NVMe host identifier; or the ISID of an iSCSI session, then zeros
}

// UID is a 128-bit identifier, hexadecimal in JSON.
type UID [16]byte

// MarshalText is encoding.TextMarshaler.
func (u UID) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(u[:])), nil }

// UnmarshalText is encoding.TextUnmarshaler.
func (u *UID) UnmarshalText(b []byte) error {
	if len(b) != 32 {
		return fmt.Errorf("an identifier has 32 hexadecimal digits, not %d", len(b))
	}
	_, err := hex.Decode(u[:], b)
	return err
}

// Same says whether two identities are one registrant: NVMe hosts by their host
// identifier, whatever NQN they use (Base 8.19), iSCSI initiator ports by name and ISID
// (RFC 7143 4.4.2), others by name.
func (h HostID) Same(o HostID) bool {
	if h.Protocol != o.Protocol {
		return false
	}
	if h.Protocol != ISCSI && (h.ID != (UID{}) || o.ID != (UID{})) {
		return h.ID == o.ID
	}
	return h.Name == o.Name && h.ID == o.ID
}

// key names the host in paths and associations, where its name counts.
func (h HostID) key() string { return string(h.Protocol) + ":" + esc(h.Name) }

func (h HostID) String() string { return h.Name }

// Host gives a host's NQN and IQN, or one of them, a name that people use.
type Host struct {
	Name    string   `json:"name"`
	NQN     string   `json:"nqn,omitempty"`
	IQN     string   `json:"iqn,omitempty"`
	Managed *Managed `json:"managed,omitempty"`
}

func (h Host) check() error {
	if err := checkName("host", h.Name); err != nil {
		return err
	}
	if h.NQN == "" && h.IQN == "" {
		return invalid("host", "an NQN or an IQN")
	}
	if h.NQN != "" {
		if err := CheckNQN("nqn", h.NQN); err != nil {
			return err
		}
	}
	if h.IQN != "" {
		return CheckIQN("iqn", h.IQN)
	}
	return nil
}

// CreateHost names a host. An equal one that exists is returned.
func (m *Meta) CreateHost(ctx context.Context, h Host) (Host, error) {
	if err := h.check(); err != nil {
		return h, err
	}
	return h, m.retry(ctx, func(x *txn) error {
		old, _, err := load[Host](ctx, m, keyHost(h.Name))
		switch {
		case isNotFound(err):
			x.create(keyHost(h.Name), h)
			return nil
		case err != nil:
			return err
		case old.NQN != h.NQN || old.IQN != h.IQN:
			return fmt.Errorf("host %s is %s %s: %w", h.Name, old.NQN, old.IQN, ErrExists)
		}
		h = old
		return nil
	})
}

// Host returns one host by its name.
func (m *Meta) Host(ctx context.Context, name string) (Host, error) {
	h, _, err := load[Host](ctx, m, keyHost(name))
	if err != nil {
		return h, fmt.Errorf("host %s: %w", name, err)
	}
	return h, nil
}

// Hosts returns all named hosts by name.
func (m *Meta) Hosts(ctx context.Context) ([]Host, error) { return list[Host](ctx, m, "host/") }

// ResolveHost turns a host's name into what it is called in a protocol. What is such a name already stays.
func (m *Meta) ResolveHost(ctx context.Context, p Protocol, name string) (string, error) {
	if checkHostName(p, "", name) == nil {
		return name, nil
	}
	what := "NQN"
	if p == ISCSI {
		what = "IQN"
	}
	if checkName("", name) != nil {
		return "", invalid("host", "the name of a host or an %s; it is %q", what, name)
	}
	h, err := m.Host(ctx, name)
	if err != nil {
		return "", err
	}
	own := h.NQN
	if p == ISCSI {
		own = h.IQN
	}
	if own == "" {
		return "", invalid("host", "one with an %s; host %s has none", what, name)
	}
	return own, nil
}

// DeleteHost removes the name; allow lists keep the NQN. Deleting a missing one is no error.
func (m *Meta) DeleteHost(ctx context.Context, name string) error {
	return m.retry(ctx, func(x *txn) error {
		h, rev, err := load[Host](ctx, m, keyHost(name))
		if isNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := refuseManaged("host "+name, h.Managed); err != nil {
			return err
		}
		x.remove(keyHost(name), rev)
		return nil
	})
}

// applyHost creates or updates a host for the configuration file.
func (m *Meta) applyHost(ctx context.Context, h Host) error {
	if err := h.check(); err != nil {
		return err
	}
	return m.retry(ctx, func(x *txn) error {
		old, rev, err := load[Host](ctx, m, keyHost(h.Name))
		if err != nil && !isNotFound(err) {
			return err
		}
		if !same(old, h) {
			x.update(keyHost(h.Name), rev, h)
		}
		return nil
	})
}

// same says whether two records are equal.
func same[T any](a, b T) bool { return reflect.DeepEqual(a, b) }

func refuseManaged(what string, by *Managed) error {
	if by == nil {
		return nil
	}
	return &ManagedError{What: what, Managed: *by}
}
