package meta_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
)

const iqn = "iqn.2026-11.io.mooring:test"

func TestTarget(t *testing.T) {
	w := newWorld(t)
	initiator := "iqn.2026-11.com.example:host"
	x, err := w.CreateTarget(w.ctx, meta.Target{IQN: iqn, AllowedHosts: []string{initiator}})
	w.must(err)
	if x.Mode != meta.Redirect || x.Tenant != meta.DefaultTenant {
		t.Fatalf("defaults: %+v", x)
	}
	_, err = w.CreateTarget(w.ctx, meta.Target{IQN: iqn, AllowedHosts: []string{initiator}}) // the same request, repeated
	w.must(err)
	_, err = w.CreateTarget(w.ctx, meta.Target{IQN: iqn, Mode: meta.ALUA})
	w.is(err, meta.ErrExists)
	for _, bad := range []meta.Target{
		{IQN: "iqn.nonsense"}, {IQN: "nqn.2026-11.io.mooring:test"}, {IQN: iqn + "2", Mode: "fast"},
		{IQN: iqn + "2", AllowedHosts: []string{"nqn.2026-11.io.mooring:host"}},
	} {
		_, err := w.CreateTarget(w.ctx, bad)
		w.is(err, meta.ErrInvalid)
	}
	w.subsystem()
	targets, err := w.Targets(w.ctx)
	w.must(err)
	subsystems, err := w.Subsystems(w.ctx)
	w.must(err)
	exports, err := w.Exports(w.ctx)
	w.must(err)
	if len(targets) != 1 || targets[0].IQN != iqn || len(subsystems) != 1 || subsystems[0].NQN != nqn || len(exports) != 2 {
		t.Errorf("targets %v, subsystems %v, %d exports", targets, subsystems, len(exports))
	}
	if _, err := w.Target(w.ctx, nqn); !errors.Is(err, meta.ErrNotFound) {
		t.Errorf("a subsystem as a target: %v", err)
	}
	w.must(w.DeleteTarget(w.ctx, iqn))
	w.must(w.DeleteTarget(w.ctx, iqn))
}

// A volume is a namespace and a logical unit at once, one of each at most.
func TestUnits(t *testing.T) {
	w := newWorld(t)
	w.subsystem()
	_, err := w.CreateTarget(w.ctx, meta.Target{IQN: iqn, AllowAnyHost: true})
	w.must(err)
	a, b := w.volume("a", gib), w.volume("b", gib)
	unit, err := w.AttachUnit(w.ctx, iqn, -1, a.ID, nil, nil)
	w.must(err)
	if unit.LUN != 0 || unit.Target != iqn {
		t.Fatalf("%+v", unit)
	}
	w.attach(a)
	unit, err = w.AttachUnit(w.ctx, iqn, -1, a.ID, nil, nil) // the same request, repeated
	w.must(err)
	if unit.LUN != 0 {
		t.Fatalf("attached twice: %+v", unit)
	}
	_, err = w.AttachUnit(w.ctx, iqn, 0, b.ID, nil, nil)
	w.is(err, meta.ErrExists)
	_, err = w.AttachUnit(w.ctx, iqn, 5, a.ID, nil, nil)
	w.is(err, meta.ErrInUse)
	_, err = w.AttachUnit(w.ctx, iqn, meta.MaxNamespaces, b.ID, nil, nil)
	w.is(err, meta.ErrInvalid)
	_, err = w.AttachUnit(w.ctx, iqn, 255, b.ID, []string{"iqn.2026-11.com.example:host"}, nil)
	w.must(err)
	units, err := w.Units(w.ctx, iqn)
	w.must(err)
	if len(units) != 2 || units[0].Volume != a.ID || units[1].LUN != 255 || len(units[1].VisibleTo) != 1 {
		t.Errorf("units %+v", units)
	}
	var use *meta.InUseError
	if err := w.DeleteVolume(w.ctx, a.ID); !errors.As(err, &use) ||
		!slices.Equal(use.Users, []string{"subsystem " + nqn + " namespace 1", "target " + iqn + " LUN 0"}) {
		t.Errorf("%v, want both users named", err)
	}
	if err := w.DeleteTarget(w.ctx, iqn); !errors.As(err, &use) || !slices.Equal(use.Users, []string{"LUN 0", "LUN 255"}) {
		t.Errorf("%v, want the units named", err)
	}

	// A reservation belongs to the volume, and stays as long as it is attached anywhere.
	reserve := func(h meta.HostID, key uint64) meta.ReserveResult {
		t.Helper()
		out, err := w.Reserve(w.ctx, a.ID, meta.ReserveRequest{ID: uuid.New(), Host: h, Action: meta.ReserveRegister, NewKey: key})
		w.must(err)
		return out.Result
	}
	if reserve(hostA, 1) != meta.ReserveOK || reserve(portX, 2) != meta.ReserveOK {
		t.Fatal("no registrations")
	}
	w.must(w.DetachNamespace(w.ctx, iqn, meta.LUN(0).NSID()))
	r, err := w.Reservation(w.ctx, a.ID)
	w.must(err)
	if len(r.Registrants) != 1 || !r.Registrants[0].Host.Same(hostA) {
		t.Errorf("registrants without the target: %+v", r.Registrants)
	}
	w.must(w.DetachNamespace(w.ctx, nqn, 1))
	r, err = w.Reservation(w.ctx, a.ID)
	w.must(err)
	if len(r.Registrants) != 0 {
		t.Errorf("registrants of a volume that is attached nowhere: %+v", r.Registrants)
	}
	w.must(w.DeleteVolume(w.ctx, a.ID))
}
