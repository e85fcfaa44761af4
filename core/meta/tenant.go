package meta

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/mooring-io/mooring/core/meta/store"
)

// DefaultTenant owns what names no tenant. It always exists.
const DefaultTenant = "default"

// DefaultPolicy is the policy of tenants that choose none.
const DefaultPolicy = "inherit"

// Tenant owns volumes and subsystems.
type Tenant struct {
	Name    string   `json:"name"`
	Policy  string   `json:"policy"` // name of the path policy
	Managed *Managed `json:"managed,omitempty"`
	// Closing keeps new objects out while DeleteTenant looks for old ones.
	Closing bool `json:"closing,omitempty"`
}

func (t *Tenant) check() error {
	if t.Policy == "" {
		t.Policy = DefaultPolicy
	}
	if err := checkName("tenant", t.Name); err != nil {
		return err
	}
	return checkName("policy", t.Policy)
}

// CreateTenant makes a tenant. If one of that name and policy exists, it is returned.
func (m *Meta) CreateTenant(ctx context.Context, t Tenant) (Tenant, error) {
	if err := t.check(); err != nil {
		return t, err
	}
	t.Closing = false
	out := t
	err := m.retry(ctx, func(x *txn) error {
		old, rev, err := load[Tenant](ctx, m, keyTenant(t.Name))
		switch {
		case isNotFound(err) || (err == nil && old.Closing):
			x.update(keyTenant(t.Name), rev, t)
			return nil
		case err != nil:
			return err
		case old.Policy != t.Policy:
			return fmt.Errorf("tenant %s with another policy: %w", t.Name, ErrExists)
		}
		out = old
		return nil
	})
	return out, err
}

// openTenant requires, as part of x, that the tenant exists.
func (m *Meta) openTenant(ctx context.Context, x *txn, name string) error {
	t, rev, err := load[Tenant](ctx, m, keyTenant(name))
	if err == nil && t.Closing {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("tenant %s: %w", name, err)
	}
	x.at(keyTenant(name), rev)
	return nil
}

// Tenant returns one tenant.
func (m *Meta) Tenant(ctx context.Context, name string) (Tenant, error) {
	t, _, err := load[Tenant](ctx, m, keyTenant(name))
	if err != nil {
		return t, fmt.Errorf("tenant %s: %w", name, err)
	}
	return t, nil
}

// Tenants returns all tenants by name.
func (m *Meta) Tenants(ctx context.Context) ([]Tenant, error) {
	return list[Tenant](ctx, m, "tenant/")
}

// SetTenantPolicy changes the path policy of a tenant.
func (m *Meta) SetTenantPolicy(ctx context.Context, name, policy string) error {
	return m.setTenant(ctx, Tenant{Name: name, Policy: policy}, false)
}

// setTenant updates a tenant; with apply, on behalf of the configuration file.
func (m *Meta) setTenant(ctx context.Context, t Tenant, apply bool) error {
	if err := t.check(); err != nil {
		return err
	}
	return m.retry(ctx, func(x *txn) error {
		old, rev, err := load[Tenant](ctx, m, keyTenant(t.Name))
		if err != nil {
			return fmt.Errorf("tenant %s: %w", t.Name, err)
		}
		next := old
		next.Policy = t.Policy
		if apply {
			next.Managed, next.Closing = t.Managed, false
		}
		if same(next, old) {
			return nil
		}
		if !apply {
			if err := refuseManaged("tenant "+t.Name, old.Managed); err != nil {
				return err
			}
		}
		x.update(keyTenant(t.Name), rev, next)
		return nil
	})
}

// DeleteTenant removes a tenant that owns nothing. Deleting a missing one is no error.
func (m *Meta) DeleteTenant(ctx context.Context, name string) error {
	if name == DefaultTenant {
		return invalid("tenant", "any but %q, which always exists", DefaultTenant)
	}
	closing := func(on bool) error {
		return m.retry(ctx, func(x *txn) error {
			t, rev, err := load[Tenant](ctx, m, keyTenant(name))
			if isNotFound(err) || (err == nil && t.Closing == on) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := refuseManaged("tenant "+name, t.Managed); err != nil {
				return err
			}
			t.Closing = on
			x.update(keyTenant(name), rev, t)
			return nil
		})
	}
	if err := closing(true); err != nil {
		return err
	}
	users, err := m.tenantUsers(ctx, name)
	if err == nil && len(users) > 0 {
		err = &InUseError{What: "tenant " + name, Users: users}
	}
	if err != nil {
		return errors.Join(err, closing(false))
	}
	return m.retry(ctx, func(x *txn) error {
		t, rev, err := load[Tenant](ctx, m, keyTenant(name))
		if isNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if !t.Closing {
			return fmt.Errorf("tenant %s was created again: %w", name, ErrConflict)
		}
		x.remove(keyTenant(name), rev)
		return nil
	})
}

func (m *Meta) tenantUsers(ctx context.Context, name string) ([]string, error) {
	var users []string
	volume := func(name string) string { return "volume " + name }
	for _, kind := range []struct {
		prefix string
		title  func(string) string
	}{{"volname/" + name + "/", volume}, {"tenantsub/" + name + "/", exportTitle}} {
		err := m.st.Range(ctx, kind.prefix, func(kv store.KV) error {
			users = append(users, kind.title(strings.TrimPrefix(kv.Key, kind.prefix)))
			if len(users) >= maxUsers {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			return nil, err
		}
	}
	return users, nil
}

// maxUsers is how many users an InUseError names.
const maxUsers = 16
