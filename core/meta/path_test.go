package meta_test

import (
	"math/rand"
	"slices"
	"testing"

	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/meta/store/storetest"
)

func (w *world) begin(s *meta.Session, h meta.HostID, id uint64, accessPoint string) bool {
	w.Helper()
	raised, err := w.BeginAssociation(w.ctx, s, nqn, h, meta.OpenAssociation{ID: id, AccessPoint: accessPoint})
	w.must(err)
	return raised
}

func (w *world) epoch(h meta.HostID, id meta.NSID) meta.PathEpoch {
	w.Helper()
	p, err := w.Path(w.ctx, meta.NewPathKey(h, nqn, id))
	w.must(err)
	return p.Epoch
}

func TestPathEpochs(t *testing.T) { checkPathEpochs(t, newWorld(t)) }

func checkPathEpochs(t *testing.T, w *world) {
	w.subsystem()
	v := w.volume("v", gib)
	n := w.attach(v)
	s := w.node("a")
	key := meta.NewPathKey(hostA, nqn, n.NSID)
	_, err := w.SetPath(w.ctx, 0, meta.Path{Key: key, Optimized: "x"})
	w.is(err, meta.ErrConflict) // no association yet
	if w.begin(s, hostA, 1, "x") {
		t.Fatal("the first association raised the epoch")
	}
	set := func(want error, expect meta.PathEpoch, optimized string, others ...string) meta.Path {
		t.Helper()
		p, err := w.SetPath(w.ctx, expect, meta.Path{Key: key, Optimized: optimized, NonOptimized: others})
		w.is(err, want)
		return p
	}
	first := set(nil, 0, "x", "y")
	if again := set(nil, 0, "x", "y"); again.Epoch != first.Epoch {
		t.Fatalf("the same request, repeated: epoch %d after %d", again.Epoch, first.Epoch)
	}
	if p := set(nil, first.Moves, "x", "y", "z"); p.Epoch != first.Epoch {
		t.Fatal("a change of non-optimized access points raised the epoch")
	}
	moved := set(nil, first.Moves, "y", "x")
	if moved.Epoch != first.Epoch+1 {
		t.Fatalf("a move: epoch %d after %d", moved.Epoch, first.Epoch)
	}
	set(meta.ErrConflict, first.Moves, "z")
	set(meta.ErrInvalid, moved.Moves, "z", "a", "b", "c")
	set(meta.ErrInvalid, moved.Moves, "z", "z")
	// Ends of associations.
	w.must(w.EndAssociation(w.ctx, s, nqn, hostA, 1, true))
	if w.begin(s, hostA, 2, "y") || w.epoch(hostA, 1) != moved.Epoch {
		t.Fatal("a clean end raised the epoch")
	}
	w.begin(s, hostA, 3, "x")
	for range 2 {
		w.must(w.EndAssociation(w.ctx, s, nqn, hostA, 2, false))
	}
	if w.epoch(hostA, 1) != moved.Epoch {
		t.Fatal("the epoch rose before the next association")
	}
	if !w.begin(s, hostA, 4, "y") || w.epoch(hostA, 1) != moved.Epoch+1 {
		t.Fatal("an unclean end did not raise the epoch")
	}
	if w.begin(s, hostA, 4, "y") || w.epoch(hostA, 1) != moved.Epoch+1 {
		t.Fatal("the same request, repeated, raised the epoch")
	}
	// The core dies with two associations open.
	s = w.session(s.Node())
	if !w.begin(s, hostA, 1, "y") || w.epoch(hostA, 1) != moved.Epoch+2 {
		t.Fatal("the death of a core did not raise the epoch")
	}
	if a, err := w.HostAssociations(w.ctx, nqn, hostA); err != nil || len(a.Open) != 1 {
		t.Fatalf("open: %+v, %v", a.Open, err)
	}
	if paths, err := w.HostPaths(w.ctx, nqn, hostA); err != nil || len(paths) != 1 || paths[0].Epoch != moved.Epoch+2 {
		t.Fatalf("%+v, %v", paths, err)
	}
	if paths, err := w.Paths(w.ctx); err != nil || len(paths) != 1 || paths[0].Epoch != moved.Epoch+2 {
		t.Fatalf("%+v, %v", paths, err)
	}
	// A new attachment of the volume begins above every epoch of the old.
	old := w.epoch(hostA, 1)
	w.must(w.DetachNamespace(w.ctx, nqn, n.NSID))
	_, err = w.Path(w.ctx, key)
	w.is(err, meta.ErrNotFound)
	n = w.attach(v)
	key = meta.NewPathKey(hostA, nqn, n.NSID)
	if p := set(nil, 0, "x"); p.Epoch <= old {
		t.Fatalf("attached again: epoch %d after %d", p.Epoch, old)
	}
}

func TestAssociationLimits(t *testing.T) {
	w := newWorld(t)
	_, err := w.CreateSubsystem(w.ctx, meta.Subsystem{NQN: nqn})
	w.must(err)
	s := w.node("a")
	_, err = w.BeginAssociation(w.ctx, s, nqn, hostA, meta.OpenAssociation{ID: 1})
	w.is(err, meta.ErrInvalid) // not allowed
	w.must(w.AllowHost(w.ctx, nqn, hostA.Name))
	for i := range uint64(128) {
		w.begin(s, hostA, i, "x")
	}
	_, err = w.BeginAssociation(w.ctx, s, nqn, hostA, meta.OpenAssociation{ID: 128})
	w.is(err, meta.ErrInUse)
	_, err = w.BeginAssociation(w.ctx, s, "nqn.2026-11.io.mooring:none", hostA, meta.OpenAssociation{ID: 1})
	w.is(err, meta.ErrNotFound)
}

// A namespace with more paths than fit one transaction is detached all the same.
func TestDetachManyPaths(t *testing.T) {
	w := newWorld(t)
	w.subsystem()
	n := w.attach(w.volume("v", gib))
	s := w.node("a")
	for i := range 130 {
		h := meta.HostID{Protocol: meta.NVMe, Name: hostA.Name + string(rune('A'+i)), ID: meta.UID{byte(i), 1}}
		w.begin(s, h, uint64(i), "x")
		_, err := w.SetPath(w.ctx, 0, meta.Path{Key: meta.NewPathKey(h, nqn, n.NSID), Optimized: "x"})
		w.must(err)
	}
	w.must(w.DetachNamespace(w.ctx, nqn, n.NSID))
	if paths, err := w.Paths(w.ctx); err != nil || len(paths) != 0 {
		t.Fatalf("%d paths are left, %v", len(paths), err)
	}
	_, err := w.Namespace(w.ctx, nqn, n.NSID)
	w.is(err, meta.ErrNotFound)
}

// Whatever happens to a volume's paths, attachments and a host's associations, the
// epoch of a host on the volume never falls, grows with each move of the optimized
// access point, and with each association after an unclean end.
func TestEpochProperties(t *testing.T) {
	w := newWorld(t)
	rnd := rand.New(rand.NewSource(storetest.Seed(t)))
	w.subsystem()
	v := w.volume("v", gib)
	n := w.attach(v)
	s := w.node("a")
	var highest meta.PathEpoch
	optimized := ""
	unclean := false
	open := map[uint64]bool{}
	id := uint64(0)
	for range 600 {
		mustGrow := false
		switch rnd.Intn(9) {
		case 0, 1:
			id++
			mustGrow = unclean && optimized != ""
			if raised := w.begin(s, hostA, id, "x"); raised != unclean {
				t.Fatalf("raised %v, want %v", raised, unclean)
			}
			open[id], unclean = true, false
		case 2:
			for i := range open {
				clean := rnd.Intn(2) == 0
				w.must(w.EndAssociation(w.ctx, s, nqn, hostA, i, clean))
				unclean = unclean || !clean
				delete(open, i)
				break
			}
		case 3: // the core restarts
			s = w.session(s.Node())
			unclean = unclean || len(open) > 0
			clear(open)
		case 4:
			w.must(w.DetachNamespace(w.ctx, nqn, n.NSID))
			n = w.attach(v)
			optimized = ""
		default:
			if id == 0 {
				continue
			}
			key := meta.NewPathKey(hostA, nqn, n.NSID)
			p, err := w.Path(w.ctx, key)
			if optimized == "" {
				w.is(err, meta.ErrNotFound)
			} else {
				w.must(err)
			}
			to := []string{"x", "y", "z"}[rnd.Intn(3)]
			mustGrow = to != optimized
			_, err = w.SetPath(w.ctx, p.Moves, meta.Path{Key: key, Optimized: to})
			w.must(err)
			optimized = to
		}
		if optimized == "" {
			continue
		}
		if e := w.epoch(hostA, n.NSID); e < highest || (mustGrow && e == highest) {
			t.Fatalf("epoch %d after %d", e, highest)
		} else {
			highest = e
		}
	}
}

func TestAccessPoints(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a"), w.node("b")
	publish := func(s *meta.Session, urls ...string) []meta.AccessPoint {
		t.Helper()
		var want []meta.AccessPoint
		for _, u := range urls {
			want = append(want, meta.AccessPoint{ID: s.Node().String()[:4] + u, URL: u, Up: true})
		}
		out, err := w.PublishAccessPoints(w.ctx, s, want)
		w.must(err)
		return out
	}
	first := publish(a, "nvme-tcp://10.0.0.1:4420", "nvme-tcp://10.0.1.1:4420")
	second := publish(b, "nvme-tcp://10.0.0.2:4420")
	ports := []uint16{first[0].PortID, first[1].PortID, second[0].PortID}
	slices.Sort(ports)
	if len(slices.Compact(ports)) != 3 || ports[0] == 0 {
		t.Fatalf("port IDs %v", ports)
	}
	again := publish(a, "nvme-tcp://10.0.2.1:4420", "nvme-tcp://10.0.1.1:4420")
	if again[1].PortID != first[1].PortID || again[0].PortID == first[1].PortID {
		t.Fatalf("port IDs %d and %d after %d", again[0].PortID, again[1].PortID, first[1].PortID)
	}
	_, err := w.PublishAccessPoints(w.ctx, b, again)
	w.is(err, meta.ErrExists)
	w.must(b.Close(w.ctx))
	all, err := w.AccessPoints(w.ctx)
	w.must(err)
	up := 0
	for _, p := range all {
		if p.Up != (p.Node == a.Node()) || (!p.Up && p.Reason == "") {
			t.Fatalf("%+v", p)
		}
		if p.Up {
			up++
		}
	}
	if len(all) != 3 || up != 2 {
		t.Fatalf("%d access points, %d up", len(all), up)
	}
}
