package extent

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/vfs"
)

func TestRegions(t *testing.T) {
	for _, c := range []struct{ blocks, size uint32 }{{16, 16}, {1024, 16}, {65536, 16}, {131072, 32}} {
		if got := RegionBlocks(c.blocks); got != c.size {
			t.Errorf("%d blocks: regions of %d, want %d", c.blocks, got, c.size)
		}
	}
	r := NewRegions(130)
	if !r.Add(62, 66) || r.Add(63, 65) || !r.Add(129, 130) || r.Count() != 5 {
		t.Fatalf("added: %b", r)
	}
	if first, end, ok := r.Run(0); first != 62 || end != 66 || !ok {
		t.Fatalf("first run [%d, %d) %v", first, end, ok)
	}
	if first, end, ok := r.Run(66); first != 129 || end != 130 || !ok {
		t.Fatalf("second run [%d, %d) %v", first, end, ok)
	}
	if _, _, ok := r.Run(130); ok {
		t.Fatal("a third run")
	}
	if r.Has(66, 129) || !r.Has(60, 63) || !r.Remove(62, 130) || r.Remove(0, 130) || r.Count() != 0 {
		t.Fatalf("removed: %b", r)
	}
}

// seals asks for a seal and returns what the replica knew.
func (r *rig) seals(id ID, w Seal) (was Sealed, err error) {
	err = r.try(func() error {
		return r.s.call(context.Background(), func(done func(error)) {
			r.s.Seal(id, w, func(s Sealed, err error) { was = s; done(err) })
		})
	})
	return was, err
}

// A replica keeps over restarts, and tells its next owner, which set it was in, what is dirty, and what absent stores miss.
func TestReplicaRemembers(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, small())
	e := r.extent(1)
	a, b := Member{uuid.UUID{1}, 7}, Member{uuid.UUID{2}, 9}
	region := func(n uint32) uint32 { return n * RegionBlocks(1024) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	clean := func(gen Generation, block, blocks uint32) error {
		io := &IO{Op: OpClean, Extent: e, Gen: gen, Block: block, Blocks: blocks}
		r.run(io)
		return io.Err
	}
	regions := func(s Regions) (out []uint32) {
		for n, ok := s.Next(0); ok; n, ok = s.Next(n + 1) {
			out = append(out, n)
		}
		return out
	}
	expect := func(w Seal, set []Member, absent []uuid.UUID, dirty, behind []uint32) {
		t.Helper()
		was, err := r.seals(e.ID(), w)
		must(err)
		if !slices.Equal(was.Set, set) || !slices.Equal(was.Absent, absent) || !slices.Equal(regions(was.Dirty), dirty) || !slices.Equal(regions(was.Behind), behind) {
			t.Fatalf("the seal found set %v, absent %v, dirty %v, behind %v", was.Set, was.Absent, regions(was.Dirty), regions(was.Behind))
		}
	}
	reopen := func() {
		r.close()
		r = newRig(t, dir, small())
		e = r.extent(1)
	}
	must(errors.Join(r.write(e, region(2), pattern(1, 1), true), r.write(e, region(5)-1, pattern(2, 1), false)))
	expect(Seal{Gen: 3, Set: []Member{a, b}}, nil, nil, []uint32{2, 4, 5}, nil)
	must(clean(3, region(4), region(2)))
	if err := clean(2, region(2), region(1)); !errors.Is(err, ErrFenced) {
		t.Fatalf("clean at a lower generation: %v", err)
	}
	if err := clean(3, region(2), 1); !errors.Is(err, ErrInvalid) {
		t.Fatalf("clean of a part of a region: %v", err)
	}
	reopen()
	expect(Seal{Gen: 4, Set: []Member{a}, Absence: &Absence{Stores: []uuid.UUID{b.Store}}}, []Member{a, b}, nil, []uint32{2}, nil)
	zero := &IO{Op: OpZero, Extent: e, Gen: 4, Block: region(60), Blocks: region(2)}
	r.run(zero)
	must(errors.Join(zero.Err, clean(4, 0, 1024)))
	reopen()
	// An owner that does not know who is absent leaves it as it is.
	expect(Seal{Gen: 5, Set: []Member{a}}, []Member{a}, []uuid.UUID{b.Store}, nil, []uint32{2, 60, 61})
	must(r.write(e, region(9), pattern(1, 1), true))
	expect(Seal{Gen: 6, Set: []Member{a, b}, Absence: &Absence{}}, []Member{a}, []uuid.UUID{b.Store}, []uint32{9}, []uint32{2, 9, 60, 61})
	must(r.write(e, region(9), pattern(1, 1), true))
	expect(Seal{Gen: 7, Set: []Member{a, b}}, []Member{a, b}, nil, []uint32{9}, nil)
	r.on(func() {
		if _, _, mapped := r.s.Marks(e); !slices.Equal(regions(mapped), []uint32{2, 4, 5, 9}) {
			t.Errorf("data in regions %v", regions(mapped))
		}
	})
	_, err := r.seals(e.ID(), Seal{Gen: 8, Set: make([]Member, MaxMembers+1)})
	if !errors.Is(err, ErrInvalid) {
		t.Fatalf("a set that is too large: %v", err)
	}
	r.audit()
	r.close()
}

// A store of version 1, left by a killed process, opens with its data.
func TestVersion1(t *testing.T) {
	f, err := os.Open("testdata/v1-data.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "data"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	index := NewMemoryIndex()
	if err := RebuildIndex(context.Background(), vfs.NewOS(), dir, index.Opener()); err != nil {
		t.Fatal(err)
	}
	for range 2 { // as version 1, and as what the first opening made of it
		o := small()
		o.Index, o.ClusterID, o.Capacity = index.Opener(), uuid.MustParse("8f2f3c1e-7b1e-4b0a-9a55-0a3a4ac8f0ff"), 0
		r := newRig(t, dir, o)
		e := r.extent(3)
		if e.Generation() != 7 {
			t.Fatalf("generation %d", e.Generation())
		}
		for i := range uint32(20) {
			want := make([]byte, BlockSize)
			fillBlock(want, uint64(i+21), i*50)
			r.want(e, i*50, want)
		}
		r.audit()
		r.close()
		for slot := range 2 {
			b, err := os.ReadFile(filepath.Join(dir, "data"))
			if err != nil {
				t.Fatal(err)
			}
			if v := le.Uint32(b[slot*BlockSize+8:]); v != formatVersion {
				t.Fatalf("superblock %d has version %d", slot, v)
			}
		}
	}
}
