package meta_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mooring-io/mooring/core/meta"
)

func at(line int) meta.Managed { return meta.Managed{File: "config.hcl", Line: line} }

func desired() meta.Desired {
	one, two := at(1), at(2)
	host := "nqn.2026-11.io.mooring:web-1"
	return meta.Desired{
		Tenants: []meta.Tenant{{Name: "acme", Policy: "balance", Managed: &one}},
		Hosts:   []meta.Host{{Name: "web-1", NQN: host, Managed: &two}},
		Volumes: []meta.DesiredVolume{
			{Name: "db", Bytes: gib, Managed: at(3)},
			{Name: "log", Bytes: gib, Durability: meta.Volatile, BlockBytes: 512, Managed: at(4)},
		},
		Subsystems: []meta.DesiredSubsystem{{
			NQN: nqn, AllowedHosts: []string{host}, Managed: at(5),
			Namespaces: []meta.DesiredNamespace{
				{NSID: 1, Volume: "db", Managed: at(6)},
				{NSID: 7, Volume: "log", VisibleTo: []string{host}, Managed: at(7)},
			},
		}},
	}
}

func (w *world) apply(d meta.Desired) meta.Report {
	w.Helper()
	r, err := w.ApplyManaged(w.ctx, d)
	w.must(err)
	return r
}

func TestApplyManaged(t *testing.T) {
	w := newWorld(t)
	w.volume("db", gib/2) // made by hand before: it is adopted and grown
	r := w.apply(desired())
	w.must(r.Err())
	if len(r.Created) != 6 || len(r.Updated) != 1 || r.Updated[0] != "volume default/db" {
		t.Fatalf("%+v", r)
	}
	s, err := w.Subsystem(w.ctx, nqn)
	w.must(err)
	moved := desired()
	moved.Subsystems[0].Managed = at(50)
	moved.Subsystems[0].Namespaces[0].Managed = at(60)
	if r := w.apply(moved); len(r.Created)+len(r.Updated)+len(r.Refused)+len(r.Unmanaged) > 0 || r.Unchanged != 7 {
		t.Fatalf("applied twice: %+v", r)
	}
	// What hosts see of the subsystem did not change, so its generation did not.
	if again, err := w.Subsystem(w.ctx, nqn); err != nil || again.Generation != s.Generation || again.Managed.Line != 50 {
		t.Fatalf("%+v after %+v, %v", again, s, err)
	}
}

func TestManagedIsRefused(t *testing.T) {
	w := newWorld(t)
	w.must(w.apply(desired()).Err())
	v, err := w.FindVolume(w.ctx, "", "db")
	w.must(err)
	_, resize := w.ResizeVolume(w.ctx, v.ID, meta.Resize{Bytes: 2 * gib})
	_, policyErr := w.UpdateTenant(w.ctx, "acme", func(t *meta.Tenant) { t.Policy = "inherit" })
	_, durability := w.SetDurability(w.ctx, v.ID, meta.Volatile)
	for line, errs := range map[int][]error{
		1: {policyErr, w.DeleteTenant(w.ctx, "acme")},
		2: {w.DeleteHost(w.ctx, "web-1")},
		3: {resize, durability, w.DeleteVolume(w.ctx, v.ID)},
		5: {w.AllowHost(w.ctx, nqn, hostA.Name), w.SetAllowAnyHost(w.ctx, nqn, true), w.DeleteSubsystem(w.ctx, nqn)},
		6: {w.DetachNamespace(w.ctx, nqn, 1), w.SetVisibility(w.ctx, nqn, 1, []string{hostA.Name})},
	} {
		for _, err := range errs {
			var managed *meta.ManagedError
			if !errors.Is(err, meta.ErrManaged) || !errors.As(err, &managed) || managed.Managed != at(line) {
				t.Errorf("got %v, want it to name line %d", err, line)
			}
		}
	}
	// What changes nothing is not refused.
	w.must(w.AllowHost(w.ctx, nqn, "nqn.2026-11.io.mooring:web-1"))
	_, err = w.SetDurability(w.ctx, v.ID, meta.Sync)
	w.must(err)
	// Tenants that are managed are open for use again after a refused deletion.
	_, err = w.CreateVolume(w.ctx, meta.Volume{Name: "x", Tenant: "acme", Bytes: gib})
	w.must(err)
}

func TestRemovedBlocksStay(t *testing.T) {
	w := newWorld(t)
	w.must(w.apply(desired()).Err())
	r := w.apply(meta.Desired{})
	w.must(r.Err())
	if len(r.Unmanaged) != 7 {
		t.Fatalf("%+v", r)
	}
	if again := w.apply(meta.Desired{}); len(again.Unmanaged) != 0 {
		t.Fatalf("applied twice: %+v", again)
	}
	v, err := w.FindVolume(w.ctx, "", "db")
	w.must(err)
	if v.Managed != nil {
		t.Fatalf("%+v", v)
	}
	w.must(w.DetachNamespace(w.ctx, nqn, 1))
	w.must(w.DeleteVolume(w.ctx, v.ID))
}

func TestApplyRefusals(t *testing.T) {
	for _, c := range []struct {
		what, want string
		line       int
		change     func(d *meta.Desired)
	}{
		{"volume default/db", "never destroys data", 3, func(d *meta.Desired) { d.Volumes[0].Bytes = gib / 2 }},
		{"volume default/db", "fixed", 3, func(d *meta.Desired) { d.Volumes[0].BlockBytes = 512 }},
		{"volume default/db", "multiple", 3, func(d *meta.Desired) { d.Volumes[0].Bytes = 7 }},
		{"subsystem " + nqn, "serial", 5, func(d *meta.Desired) { d.Subsystems[0].Serial = "other" }},
		{"subsystem " + nqn + " namespace 1", "not found", 6, func(d *meta.Desired) { d.Subsystems[0].Namespaces[0].Volume = "none" }},
		{"subsystem " + nqn + " namespace 1", "detach it first", 6, func(d *meta.Desired) {
			d.Subsystems[0].Namespaces[0].Volume = "spare"
			d.Volumes = append(d.Volumes, meta.DesiredVolume{Name: "spare", Bytes: gib, Managed: at(9)})
		}},
		{"tenant a b", "letters", 1, func(d *meta.Desired) { d.Tenants[0].Name = "a b" }},
	} {
		w := newWorld(t)
		w.must(w.apply(desired()).Err())
		d := desired()
		c.change(&d)
		r := w.apply(d)
		i := slices.IndexFunc(r.Refused, func(f meta.Refusal) bool { return f.What == c.what })
		if len(r.Refused) != 1 || i < 0 || r.Refused[i].Line != c.line || !strings.Contains(r.Err().Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.what, r.Refused, c.want)
		}
	}
}

// Cut at any transaction, applying again ends in the same state.
func TestApplyIsResumable(t *testing.T) {
	cut := errors.New("cut")
	for n := 0; ; n++ {
		w := newWorld(t)
		left := n
		w.fault = faultAfter(&left, cut)
		_, err := w.ApplyManaged(w.ctx, desired())
		w.fault = nil
		if err != nil {
			w.is(err, cut)
		}
		w.must(w.apply(desired()).Err())
		if r := w.apply(desired()); r.Unchanged != 7 {
			t.Fatalf("cut at transaction %d: %+v", n, r)
		}
		if left > 0 { // it was never cut
			if n < 7 {
				t.Fatalf("only %d transactions", n)
			}
			return
		}
	}
}

func TestIdentity(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := meta.LoadIdentity(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	id, err := meta.EnsureIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := meta.EnsureIdentity(dir); err != nil || again != id {
		t.Fatalf("%+v after %+v, %v", again, id, err)
	}
	if id.Version != 1 {
		t.Fatalf("a node on its own has version %d, which older programs know", id.Version)
	}
	id.Place = meta.InCluster
	if err := meta.SaveIdentity(dir, id); err != nil {
		t.Fatal(err)
	}
	id.Version = 2 // which older programs refuse
	if again, err := meta.EnsureIdentity(dir); err != nil || again != id {
		t.Fatalf("%+v after %+v, %v", again, id, err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Fatalf("%d files, %v", len(left), err)
	}
	for content, want := range map[string]error{`{"version":3}`: meta.ErrNewer, `{"version":1}`: nil, `{`: nil} {
		if err := os.WriteFile(filepath.Join(dir, left[0].Name()), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := meta.EnsureIdentity(dir); err == nil || (want != nil && !errors.Is(err, want)) {
			t.Errorf("%s: %v", content, err)
		}
	}
}
