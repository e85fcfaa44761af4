package meta_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/mooring-io/mooring/core/meta"
)

// The volumes of a tenant stay within its quotas, whoever makes them and at whatever time, and what is freed
// can be used again. A quota below what there is takes nothing away.
func TestQuota(t *testing.T) {
	w := newWorld(t)
	_, err := w.CreateTenant(w.ctx, meta.Tenant{Name: "acme", QuotaBytes: 4 * gib, QuotaVolumes: 3})
	w.must(err)
	make1 := func(name string, bytes int64) (meta.Volume, error) {
		return w.CreateVolume(w.ctx, meta.Volume{Name: name, Tenant: "acme", Bytes: bytes})
	}
	refused := func(err error, text string) {
		t.Helper()
		var invalid *meta.InvalidError
		if !errors.As(err, &invalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want a refusal that says %q", err, text)
		}
	}
	has := func(volumes int, bytes int64) {
		t.Helper()
		if got, err := w.TenantVolumes(w.ctx, "acme"); err != nil || got != (meta.TenantVolumes{Volumes: volumes, Bytes: bytes}) {
			t.Errorf("%+v, %v; want %d volumes of %d bytes", got, err, volumes, bytes)
		}
	}
	_, err = make1("big", 5*gib)
	refused(err, "at most 4294967296 bytes more")
	a, err := make1("a", 3*gib)
	w.must(err)
	has(1, 3*gib)
	_, err = make1("b", 2*gib)
	refused(err, "its quota is 4294967296")
	_, err = w.ResizeVolume(w.ctx, a.ID, meta.Resize{Bytes: 5 * gib})
	refused(err, "its quota is 4294967296")
	_, err = w.ResizeVolume(w.ctx, a.ID, meta.Resize{Bytes: gib, Shrink: true})
	w.must(err)
	has(1, gib)
	w.must(w.DeleteVolume(w.ctx, a.ID))
	w.must(w.DeleteVolume(w.ctx, a.ID))
	has(0, 0)

	// All at once: exactly as many as fit.
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for _, name := range []string{"p", "q", "r", "s", "t", "u"} {
		wg.Go(func() {
			_, err := make1(name, gib)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made++
			} else if invalid := new(meta.InvalidError); !errors.As(err, &invalid) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made != 3 {
		t.Errorf("%d volumes were made, the quota is 3", made)
	}
	has(3, 3*gib)

	_, err = w.UpdateTenant(w.ctx, "acme", func(t *meta.Tenant) { t.QuotaBytes, t.QuotaVolumes = gib, 0 })
	w.must(err)
	has(3, 3*gib)
	_, err = make1("more", gib)
	refused(err, "at most 0 bytes more")
	_, err = w.UpdateTenant(w.ctx, "acme", func(t *meta.Tenant) { t.QuotaBytes = -1 })
	refused(err, "quota")
	w.volume("db", gib) // the default tenant has none
}

// A volume that stops being volatile is taken for volatile until what it acknowledged is durable.
func TestHardening(t *testing.T) {
	w := newWorld(t)
	v, err := w.CreateVolume(w.ctx, meta.Volume{Name: "v", Bytes: gib, Durability: meta.Volatile})
	w.must(err)
	set := func(d meta.Durability, volatile bool) {
		t.Helper()
		got, err := w.SetDurability(w.ctx, v.ID, d)
		w.must(err)
		if got.IsVolatile() != volatile || got.Durability != d {
			t.Errorf("%+v", got)
		}
	}
	set(meta.Volatile, true)
	set(meta.Sync, true)
	set(meta.Sync, true)
	w.must(w.FinishHardening(w.ctx, v.ID))
	set(meta.Sync, false)
	set(meta.Volatile, true)
	w.must(w.FinishHardening(w.ctx, v.ID)) // of a time before: it is volatile
	set(meta.Volatile, true)
}
