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
	Name   string `json:"name"`
	Policy string `json:"policy"` // name of the path policy
	// Of its volumes, however much of them is used. 0: no limit. A quota below what there is keeps
	// new volumes and growth out, nothing else.
	QuotaBytes   int64    `json:"quota_bytes,omitempty"`
	QuotaVolumes int      `json:"quota_volumes,omitempty"`
	Managed      *Managed `json:"managed,omitempty"`
	// Closing keeps new objects out while DeleteTenant looks for old ones.
	Closing bool `json:"closing,omitempty"`
}

// TenantVolumes is the sum of a tenant's volumes.
type TenantVolumes struct {
	Volumes int   `json:"volumes"`
	Bytes   int64 `json:"bytes"`
}

func (t *Tenant) check() error {
	if t.Policy == "" {
		t.Policy = DefaultPolicy
	}
	if err := checkName("tenant", t.Name); err != nil {
		return err
	}
	if t.QuotaBytes < 0 || t.QuotaVolumes < 0 {
		return invalid("quota", "not below 0, which is none; it is %d bytes and %d volumes", t.QuotaBytes, t.QuotaVolumes)
	}
	return checkName("policy", t.Policy)
}

// sameAs says whether a tenant is set as t is.
func (t Tenant) sameAs(o Tenant) bool {
	return t.Policy == o.Policy && t.QuotaBytes == o.QuotaBytes && t.QuotaVolumes == o.QuotaVolumes
}

// CreateTenant makes a tenant. If one of that name, policy and quota exists, it is returned.
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
		case !old.sameAs(t):
			return fmt.Errorf("tenant %s with another policy or quota: %w", t.Name, ErrExists)
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

// UpdateTenant changes the policy and the quotas of a tenant; fn gets a copy to change.
func (m *Meta) UpdateTenant(ctx context.Context, name string, fn func(*Tenant)) (Tenant, error) {
	return m.changeTenant(ctx, name, false, fn)
}

// setTenant updates a tenant on behalf of the configuration file.
func (m *Meta) setTenant(ctx context.Context, t Tenant) error {
	_, err := m.changeTenant(ctx, t.Name, true, func(next *Tenant) {
		next.Policy, next.QuotaBytes, next.QuotaVolumes, next.Managed, next.Closing = t.Policy, t.QuotaBytes, t.QuotaVolumes, t.Managed, false
	})
	return err
}

func (m *Meta) changeTenant(ctx context.Context, name string, apply bool, fn func(*Tenant)) (Tenant, error) {
	var out Tenant
	err := m.retry(ctx, func(x *txn) error {
		old, rev, err := load[Tenant](ctx, m, keyTenant(name))
		if err != nil {
			return fmt.Errorf("tenant %s: %w", name, err)
		}
		next := old
		fn(&next)
		if err := next.check(); err != nil {
			return err
		}
		out = next
		if same(next, old) {
			return nil
		}
		if !apply {
			if err := refuseManaged("tenant "+name, old.Managed); err != nil {
				return err
			}
		}
		x.update(keyTenant(name), rev, next)
		return nil
	})
	return out, err
}

// charge books, as part of x, what a tenant's volumes become more or, below 0, less. More is
// refused above the quota.
func (m *Meta) charge(ctx context.Context, x *txn, name string, volumes int, bytes int64) error {
	t, rev, err := load[Tenant](ctx, m, keyTenant(name))
	if err != nil {
		return fmt.Errorf("tenant %s: %w", name, err)
	}
	x.at(keyTenant(name), rev)
	has, rev, err := m.tenantVolumes(ctx, name)
	if err != nil {
		return err
	}
	if n := has.Volumes + volumes; volumes > 0 && t.QuotaVolumes > 0 && n > t.QuotaVolumes {
		return invalid("tenant", "one with room: %s has %d volumes, and its quota is %d", name, has.Volumes, t.QuotaVolumes)
	}
	if n := has.Bytes + bytes; bytes > 0 && t.QuotaBytes > 0 && n > t.QuotaBytes {
		return invalid("size", "at most %d bytes more: the volumes of tenant %s have %d bytes, and its quota is %d; it is %d more",
			max(0, t.QuotaBytes-has.Bytes), name, has.Bytes, t.QuotaBytes, bytes)
	}
	x.update(keyTenantVolumes(name), rev, TenantVolumes{has.Volumes + volumes, has.Bytes + bytes})
	return nil
}

// TenantVolumes returns the sum of a tenant's volumes.
func (m *Meta) TenantVolumes(ctx context.Context, name string) (TenantVolumes, error) {
	has, _, err := m.tenantVolumes(ctx, name)
	return has, err
}

// tenantVolumes reads the sum, or makes it where there is none: in what a version left that did not
// count. Revision 0 stands for that.
func (m *Meta) tenantVolumes(ctx context.Context, name string) (has TenantVolumes, rev store.Revision, err error) {
	if has, rev, err = load[TenantVolumes](ctx, m, keyTenantVolumes(name)); !isNotFound(err) {
		return has, rev, err
	}
	vols, err := m.Volumes(ctx)
	if err != nil {
		return has, 0, err
	}
	for _, v := range vols {
		if v.Tenant == name && v.State == VolumeActive {
			has.Volumes++
			has.Bytes += v.Bytes
		}
	}
	return has, 0, nil
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
		x.Delete = append(x.Delete, keyTenantVolumes(name)) // nobody charges a tenant that is closing
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
