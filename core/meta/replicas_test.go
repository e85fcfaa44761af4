package meta_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/meta"
)

// A volume has two replicas where there are two storage nodes; a witness is none. A file may ask for what
// is not there yet, and what it does not say stays.
func TestReplicas(t *testing.T) { checkReplicas(t, newWorld(t)) }

func checkReplicas(t *testing.T, w *world) {
	replicas := func(name string) int {
		t.Helper()
		v, err := w.FindVolume(w.ctx, "", name)
		w.must(err)
		return v.Replicas
	}
	w.node("a")
	_, err := w.JoinNode(w.ctx, meta.Node{ID: uuid.New(), Name: "witness", Witness: true})
	w.must(err)
	alone := w.volume("alone", gib)
	if alone.Replicas != 1 {
		t.Errorf("one storage node and a witness: %d replicas by default", alone.Replicas)
	}
	_, err = w.SetReplicas(w.ctx, alone.ID, 2)
	w.is(err, meta.ErrInvalid)
	file := func(n int) meta.Desired {
		return meta.Desired{Volumes: []meta.DesiredVolume{{Name: "f", Bytes: gib, Replicas: n, Managed: meta.Managed{File: "f", Line: 1}}}}
	}
	apply := func(n, created, updated int) {
		t.Helper()
		r, err := w.ApplyManaged(w.ctx, file(n))
		w.must(err)
		if r.Err() != nil || len(r.Created) != created || len(r.Updated) != updated {
			t.Errorf("a file that says %d: %+v", n, r)
		}
	}
	apply(2, 1, 0)
	w.node("b")
	two := w.volume("two", gib)
	if two.Replicas != 2 || replicas("f") != 2 || replicas("alone") != 1 {
		t.Errorf("two storage nodes: %d replicas by default, %d by the file, and one volume has %d", two.Replicas, replicas("f"), replicas("alone"))
	}
	v, err := w.SetReplicas(w.ctx, alone.ID, 2)
	w.must(err)
	if v.Replicas != 2 {
		t.Errorf("set to 2 it is %d", v.Replicas)
	}
	apply(0, 0, 0)
	apply(1, 0, 1)
	if replicas("f") != 1 {
		t.Errorf("the file says 1, it is %d", replicas("f"))
	}
	f, err := w.FindVolume(w.ctx, "", "f")
	w.must(err)
	_, err = w.SetReplicas(w.ctx, f.ID, 2)
	w.is(err, meta.ErrManaged)
}

// Failure domains and media class count where extents are placed and where replicas are made anew; a node that is draining gets none.
func TestPlaceApart(t *testing.T) { checkPlaceApart(t, newWorld(t)) }

func checkPlaceApart(t *testing.T, w *world) {
	var sessions []*meta.Session
	names := map[uuid.UUID]string{} // of the stores' nodes
	nodes := map[string]uuid.UUID{}
	for _, n := range []meta.Node{{Name: "a", Zone: "x", Rack: "1"}, {Name: "b", Zone: "x", Rack: "1"}, {Name: "c", Zone: "x", Rack: "2"}, {Name: "d", Zone: "y", Rack: "1"}} {
		n.ID = uuid.New()
		nodes[n.Name] = n.ID
		got, err := w.JoinNode(w.ctx, n)
		w.must(err)
		if got.Zone != n.Zone || got.Rack != n.Rack {
			t.Errorf("%+v joined as %+v", n, got)
		}
		s := w.session(n.ID)
		sessions = append(sessions, s)
		names[w.store(s, "main").ID] = n.Name
	}
	v, err := w.CreateVolume(w.ctx, meta.Volume{Name: "v", Bytes: 100 * gib, Replicas: 3})
	w.must(err)
	w.take(sessions[0], v)
	where := func(l meta.Lease) (out string) {
		for _, m := range l.Set {
			out += names[m.Store]
		}
		return out
	}
	for i := range uint32(20) {
		if got := where(w.allocate(sessions[0], v, i)); got != "adc" {
			t.Errorf("extent %d of a volume that a drives is on %s, want a, the other zone, and the other rack", i, got)
		}
	}
	w.must(w.SetNodeDraining(w.ctx, nodes["d"], true))
	l := w.allocate(sessions[0], v, 30)
	if got := where(l); got != "acb" {
		t.Errorf("while d is draining an extent is on %s", got)
	}
	if _, err := w.Refill(w.ctx, sessions[0], v.ID, 30, l.Set, nil, nil); err == nil {
		t.Error("a draining node is given a replica")
	}
	w.must(w.SetNodeDraining(w.ctx, nodes["d"], false))
	to, err := w.Refill(w.ctx, sessions[0], v.ID, 30, l.Set[:1], nil, nil)
	w.must(err)
	if names[to] != "d" {
		t.Errorf("a replica besides that on a is made on %s, want the other zone", names[to])
	}
	fast, err := w.CreateVolume(w.ctx, meta.Volume{Name: "fast", Bytes: gib, Media: "nvme"})
	w.must(err)
	w.take(sessions[0], fast)
	_, err = w.PlaceExtent(w.ctx, sessions[0], fast.ID, 0, nil)
	w.is(err, meta.ErrNoStore)
}
