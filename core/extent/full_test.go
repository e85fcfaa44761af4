package extent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/mooring-io/mooring/core/vfs"
)

// fullIndex refuses updates as an index on a full file system does.
type fullIndex struct {
	Index
	refuse func(put []Record, remove []ID) bool // called by the indexer
}

func (x *fullIndex) Update(put []Record, remove []ID, fresh bool) error {
	if x.refuse != nil && x.refuse(put, remove) {
		return fmt.Errorf("test: %w", ErrNoSpace)
	}
	return x.Index.Update(put, remove, fresh)
}

func (x *fullIndex) open(dir string, log hclog.Logger) (Index, error) {
	var err error
	x.Index, err = OpenBadgerIndex(filepath.Join(dir, indexName), log)
	return x, err
}

// An index without room refuses the change that it has no room for, and nothing else: the store goes on, what it holds stays, and the change
// can be made later.
func TestFullIndex(t *testing.T) {
	x := &fullIndex{}
	o := small()
	o.Index = x.open
	dir := t.TempDir()
	r := newRig(t, dir, o)
	e := r.extent(1)
	data := pattern(8, 1)
	if err := r.write(e, 40, data, true); err != nil {
		t.Fatal(err)
	}
	free := func() (n int) {
		r.on(func() { n = len(r.s.areas) })
		return n
	}
	areas := free()
	refused := func(what string, refuse func([]Record, []ID) bool, fn func() error) {
		t.Helper()
		x.refuse = refuse
		if err := r.try(fn); !errors.Is(err, ErrNoSpace) {
			t.Fatalf("%s: %v, want ErrNoSpace", what, err)
		}
		x.refuse = nil
		if err := r.s.Err(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	all := func([]Record, []ID) bool { return true }
	other := ID{Volume: testVolume, Index: 2}

	refused("create", all, func() error { return r.create(other, 1) })
	if r.s.Extent(other) != nil || free() != areas {
		t.Error("a refused extent is there, or its map area is not free")
	}
	r.want(e, 40, data)
	r.do(func() error { return r.create(other, 2) })

	refused("seal", all, func() error { return r.seal(e.ID(), 5) })
	for _, g := range []Generation{1, 5} {
		io := &IO{Op: OpRead, Extent: e, Gen: g, Blocks: 1, Buf: make([]byte, BlockSize)}
		if r.run(io); !errors.Is(io.Err, ErrFenced) {
			t.Errorf("generation %d while a seal is not done: %v", g, io.Err)
		}
	}
	r.do(func() error { return r.seal(e.ID(), 5) })

	// A checkpoint between the refusal and the request must not leave out what the extent has in memory.
	more := pattern(8, 77)
	if err := r.write(e, 500, more, true); err != nil {
		t.Fatal(err)
	}
	refused("delete", func([]Record, []ID) bool {
		done := make(chan struct{})
		r.queue.Post(func() { r.s.rotate(); close(done) })
		<-done
		for busy := true; busy; {
			seen := make(chan bool)
			r.queue.Post(func() { seen <- r.s.ckpt.state != ckptIdle })
			busy = <-seen
		}
		return true
	}, func() error { return r.remove(func(done func(error)) { r.s.Delete(e.ID(), AnyGeneration, done) }) })
	r.want(e, 40, data)
	r.want(e, 500, more)
	r.audit()

	// What is deleted but for the last word of the index is gone, also after a restart.
	refused("end of delete", func(_ []Record, remove []ID) bool { return len(remove) > 0 },
		func() error { return r.remove(func(done func(error)) { r.s.Delete(other, AnyGeneration, done) }) })
	if r.s.Extent(other) != nil {
		t.Error("an extent is there after its deletion")
	}
	r.close()
	r = newRig(t, dir, o)
	if r.s.Extent(other) != nil {
		t.Error("an extent is there after its deletion and a restart")
	}
	e = r.extent(1)
	r.want(e, 40, data)
	r.want(e, 500, more)
	r.audit()
	r.close()
	if err := CheckDir(context.Background(), vfs.NewOS(), dir, nil, func(p Problem) { t.Error(p) }); err != nil {
		t.Fatal(err)
	}
}

// A segment that the file system ran full over while it was added does not keep the store from opening.
func TestOpenWithPartOfASegment(t *testing.T) {
	w := simRig(t)
	c := w.crashNow(vfs.ProcessDeath, 7)
	f, err := c.sim.OpenFile("/store/data", vfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	size += int64(w.s.geo.segment) * BlockSize / 2
	if err := errors.Join(f.Allocate(size-BlockSize, BlockSize), f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	c.sim.SetFaults(vfs.SimFaults{MaxSize: size})
	after := newWorld(t, 7, c.sim, c.index)
	if err := after.write(0, 8, true); err != nil {
		t.Error(err)
	}
	after.s.audit(func(p Problem) { t.Error(p) })
}
