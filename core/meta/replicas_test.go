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
