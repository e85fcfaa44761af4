package access

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/core/vfs"
	"github.com/mooring-io/mooring/sdk/block"
)

// moveRig has two stores and a volume of four extents, whose first has data on store 0.
type moveRig struct {
	*rig
	v      *Volume
	p      *plugin
	h      block.Handle
	extent extent.ID
}

func newMoveRig(t *testing.T, volatile bool) *moveRig {
	r := &moveRig{rig: newRig(t, rigOptions{seed: 3, stores: 2, extent: 256 << 10})}
	r.v = r.volume(1<<20, 4096, volatile)
	r.p = r.plugin("p")
	r.h = r.p.grant(r.v, "host", 1)
	r.extent = extent.ID{Volume: r.v.id}
	if s := r.p.write(r.h, 0, fill(1, 8)); s != block.StatusOK {
		t.Fatal(s)
	}
	return r
}

// fill returns n blocks of one byte.
func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n*blockBytes) }

func (r *moveRig) move(progress func(Moved)) <-chan error {
	done := make(chan error, 1)
	go func() { done <- r.access.Move(r.ctx, r.v, 0, r.stores[1], progress) }()
	return done
}

func ignore(Moved) {}

// at checks that the first extent is on one store only, and holds want.
func (r *moveRig) at(store int, want ...[]byte) {
	r.t.Helper()
	got, s := r.p.read(r.h, 0, uint64(len(bytes.Join(want, nil))))
	if s != block.StatusOK || !bytes.Equal(got, bytes.Join(want, nil)) {
		r.t.Errorf("the extent reads %v, %d…", s, got[0])
	}
	r.on(func() {
		if e := r.v.extents[0]; e.set[0].store != Store(r.stores[store]) || e.joiner != nil {
			r.t.Errorf("the volume has the extent elsewhere: %+v", e)
		}
		for i, s := range r.stores {
			if here := s.Extent(r.extent) != nil; here != (i == store) {
				r.t.Errorf("store %d has the extent: %v", i, here)
			}
		}
	})
	r.settled(r.v)
}

func TestMove(t *testing.T) {
	t.Parallel()
	for _, volatile := range []bool{false, true} {
		r := newMoveRig(t, volatile)
		if s := r.p.write(r.h, 2*blockBytes, fill(0, 2)); s != block.StatusOK {
			t.Fatal(s)
		}
		var last Moved
		r.must(<-r.move(func(m Moved) { last = m }))
		if last != (Moved{64 << 10, 64 << 10}) {
			t.Errorf("the last progress was %+v", last)
		}
		r.at(1, fill(1, 2), fill(0, 2), fill(1, 4))
		if got := r.stores[1].Usage().Volumes[r.v.id]; got != 6*blockBytes {
			t.Errorf("the copy takes %d bytes: zeros take none", got)
		}
		r.must(<-r.move(ignore)) // it is there already
		r.must(r.access.Move(r.ctx, r.v, 3, r.stores[1], ignore))
		r.on(func() {
			if r.v.extents[3].state != extentAbsent {
				t.Error("an extent that was never written was made")
			}
		})
		r.on(func() {
			if len(r.v.stores) != 1 || r.v.stores[0] != Store(r.stores[1]) {
				t.Errorf("the volume uses %d stores", len(r.v.stores))
			}
		})
	}
}

// What is written while a region is between reading and writing comes after the copy.
func TestMoveHoldsWhatItCopies(t *testing.T) {
	t.Parallel()
	r := newMoveRig(t, false)
	first := true
	done := r.move(func(Moved) {
		if first {
			r.on(func() { r.queue.shut = true })
		}
		first = false
	})
	r.until("the copy reads", func() bool { return len(r.queue.kept) > 0 })
	w := r.p.start(block.OpWrite, r.h, 0, 4*blockBytes, fill(2, 4))
	r.until("the write has come", func() bool { return r.v.inflight > 1 })
	r.on(r.queue.open)
	r.must(<-done)
	r.p.want("write", w, block.StatusOK)
	r.at(1, fill(2, 4), fill(1, 4))
}

// What was on its way to the former store when the new one joined is part of the copy.
func TestMoveWaitsForEarlierWrites(t *testing.T) {
	t.Parallel()
	r := newMoveRig(t, false)
	r.on(func() { r.queue.shut = true })
	w := r.p.start(block.OpWrite, r.h, 32*blockBytes, 4*blockBytes, fill(2, 4))
	r.until("the write is at the disk", func() bool { return len(r.queue.kept) > 0 })
	r.on(func() { r.queue.only = r.queue.kept[0].File })
	done := r.move(ignore)
	joined := func() bool { return r.v.extents[0].joiner != nil || r.v.extents[0].set[0].store == Store(r.stores[1]) }
	r.until("the store has joined", joined)
	for range 300 { // an attempt that does not wait would come to its end
		r.on(func() {})
	}
	r.on(r.queue.open)
	r.must(<-done)
	r.p.want("write", w, block.StatusOK)
	r.at(1, fill(1, 8), fill(0, 24), fill(2, 4))
}

// An attempt that fails leaves everything where it was, and nothing behind.
func TestMoveFails(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	t.Run("another changed the set", func(t *testing.T) {
		r := newMoveRig(t, false)
		r.meta.onReplace(func() error { return meta.ErrConflict })
		if err := <-r.move(ignore); !errors.Is(err, meta.ErrConflict) {
			t.Fatal(err)
		}
		r.at(0, fill(1, 8))
		r.meta.onReplace(nil)
		r.must(<-r.move(ignore))
		r.at(1, fill(1, 8))
	})
	for _, changed := range []bool{false, true} {
		t.Run(fmt.Sprintf("nobody knows whether the set changed, %v", changed), func(t *testing.T) {
			r := newMoveRig(t, false)
			if changed {
				r.meta.answer = boom
			} else {
				r.meta.onReplace(func() error { return boom })
			}
			if err := <-r.move(ignore); !errors.Is(err, boom) {
				t.Fatal(err)
			}
			// Either store may be the right one: both keep what they have, and Meta is asked.
			r.on(func() {
				for i, s := range r.stores {
					if s.Extent(r.extent) == nil {
						t.Errorf("store %d gave its replica up", i)
					}
				}
			})
			r.meta.onReplace(nil)
			r.meta.answer = nil
			if s := r.p.write(r.h, 0, fill(4, 1)); s != block.StatusOK {
				t.Errorf("write: %v", s)
			}
			if got, s := r.p.read(r.h, 0, 2*blockBytes); s != block.StatusOK || !bytes.Equal(got, append(fill(4, 1), fill(1, 1)...)) {
				t.Errorf("read: %v", s)
			}
			r.on(func() {
				if s := r.v.extents[0].set[0].store; (s == Store(r.stores[1])) != changed {
					t.Error("the extent is not where Meta says")
				}
			})
		})
	}
	t.Run("the new store misses a write", func(t *testing.T) {
		r := newMoveRig(t, false)
		first := true
		err := <-r.move(func(Moved) {
			if first {
				r.on(func() { r.v.extents[0].joiner.failed = boom })
			}
			first = false
		})
		if !errors.Is(err, boom) {
			t.Fatal(err)
		}
		r.at(0, fill(1, 8))
	})
	t.Run("a block is damaged", func(t *testing.T) {
		r := newMoveRig(t, false)
		size, err := r.sim.Size("/store/0/data")
		r.must(err)
		for at := int64(0); at < size; at += blockBytes { // nobody knows where the blocks are
			b := make([]byte, blockBytes)
			f, err := r.sim.OpenFile("/store/0/data", vfs.OpenOptions{ReadOnly: true})
			r.must(err)
			_, _ = f.ReadAt(b, at)
			if bytes.Equal(b, fill(1, 1)) {
				r.sim.Corrupt("/store/0/data", at, 1)
				break
			}
		}
		if err := <-r.move(ignore); err == nil {
			t.Fatal("a damaged block was copied")
		}
		if _, s := r.p.read(r.h, blockBytes, blockBytes); s != block.StatusOK {
			t.Fatalf("read of another block: %v", s)
		}
		r.on(func() {
			if r.stores[1].Extent(r.extent) != nil || r.v.extents[0].set[0].store != Store(r.stores[0]) {
				t.Error("the extent is not where it was")
			}
		})
	})
}

// A volume that is shrunk or closed does not wait for the move of an extent.
func TestMoveGivesWay(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"shrink", "close", "end"} {
		t.Run(what, func(t *testing.T) {
			r := newMoveRig(t, false)
			r.p.stop()
			r.must(r.p.client.Revoke(r.ctx, Handle(r.h)))
			ctx, cancel := context.WithCancel(r.ctx)
			defer cancel()
			asked := make(chan struct{})
			first, started, done := true, make(chan struct{}), make(chan error, 1)
			go func() {
				done <- r.access.Move(ctx, r.v, 0, r.stores[1], func(Moved) {
					if first {
						r.on(func() {
							r.queue.shut = true
							for m, end := range r.v.moves {
								r.v.moves[m] = func() { end(); close(asked) }
							}
						})
						close(started)
					}
					first = false
				})
			}()
			<-started
			r.until("the copy reads", func() bool { return len(r.queue.kept) > 0 })
			ended := make(chan error, 1)
			switch what {
			case "shrink":
				go func() { ended <- r.access.Shrink(r.ctx, r.v, 512<<10) }()
			case "close":
				go func() { ended <- r.access.CloseVolume(r.ctx, r.v.id) }()
			default:
				cancel()
				close(asked)
				ended <- nil
			}
			select {
			case <-asked:
			case <-r.ctx.Done():
				t.Fatal("it is not asked to end")
			}
			r.on(r.queue.open)
			if err := <-done; err == nil {
				t.Error("it went on to its end")
			}
			r.must(<-ended)
			r.on(func() {
				if r.stores[1].Extent(r.extent) != nil {
					t.Error("an attempt that was ended leaves its replica behind")
				}
			})
		})
	}
}

// What an attempt in another life left on the new store is not believed.
func TestMoveStartsAfresh(t *testing.T) {
	t.Parallel()
	r := newMoveRig(t, false)
	var g extent.Generation
	r.on(func() { g = r.v.extents[0].generation })
	stale := func(done func(error)) {
		r.stores[1].Create(r.extent, extent.Seal{Gen: g}, func(err error) {
			if err != nil {
				done(fmt.Errorf("make a stale replica: %w", err))
				return
			}
			io := &extent.IO{Op: extent.OpWrite, Extent: r.stores[1].Extent(r.extent), Gen: g, Block: 20, Blocks: 1, Buf: fill(9, 1)}
			io.Done = func(io *extent.IO) { done(io.Err) }
			r.access.submit(r.stores[1], io)
		})
	}
	r.must(r.access.ask(r.ctx, stale))
	r.must(<-r.move(ignore))
	r.at(1, fill(1, 8), fill(0, 24))
}
