package meta

import (
	"bytes"
	"errors"
	"math/rand"
	"testing"

	"github.com/google/uuid"
)

// randomChunk is like a volume's that was moved about among n pairs of stores.
func randomChunk(rnd *rand.Rand, stores []uuid.UUID, replicas int) *chunk {
	c := new(chunk)
	var sets [][]Member
	for range 4 {
		var set []Member
		for _, i := range rnd.Perm(len(stores))[:replicas] {
			set = append(set, Member{Store: stores[i], Incarnation: uint64(1 + rnd.Intn(1000))})
		}
		sets = append(sets, set)
	}
	for i := range c {
		if rnd.Intn(20) == 0 {
			continue // never touched
		}
		c[i].Changes = Generation(1 + rnd.Intn(1<<20))
		if rnd.Intn(20) != 0 {
			c[i].Set = sets[rnd.Intn(len(sets))]
		}
	}
	return c
}

func manyStores(n int) []uuid.UUID {
	out := make([]uuid.UUID, n)
	for i := range out {
		out[i] = uuid.New()
	}
	return out
}

func TestChunkRoundTrip(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	stores := manyStores(50)
	for range 200 {
		c := randomChunk(rnd, stores, 1+rnd.Intn(3))
		b := c.append(nil)
		back, err := parseChunk(b)
		if err != nil {
			t.Fatal(err)
		}
		for i := range c {
			if !c[i].equal(back[i]) {
				t.Fatalf("extent %d: %+v became %+v", i, c[i], back[i])
			}
		}
		if !bytes.Equal(back.append(nil), b) {
			t.Fatal("packing is not stable")
		}
	}
}

func TestChunkPrefixes(t *testing.T) {
	b := randomChunk(rand.New(rand.NewSource(2)), manyStores(9), 2).append(nil)
	for i := range b {
		if _, err := parseChunk(b[:i]); err == nil {
			t.Fatalf("the first %d of %d bytes were accepted", i, len(b))
		}
	}
	if _, err := parseChunk(append(b, 0)); !errors.Is(err, errChunk) {
		t.Fatalf("a byte too many: %v", err)
	}
	b[0] = chunkVersion + 1
	if _, err := parseChunk(b); !errors.Is(err, ErrNewer) {
		t.Fatalf("a newer version: %v", err)
	}
}

// Version 1 had owners of single extents; what they were does not matter any more.
func TestChunkVersion1(t *testing.T) {
	id := uuid.New()
	b := append([]byte{1, 2, 7, 9, 1, 1}, id[:]...) // owners 7 and 9; one set of one member
	b = append(b, 5)                                // in its life 5
	b = append(b, 2, 1, 1, 11)                      // two extents: owner 7, the set, generation 11
	b = append(b, 0xfe, 1, 0, 0, 0)                 // 254 that were never leased
	c, err := parseChunk(b)
	if err != nil {
		t.Fatal(err)
	}
	want := Extent{Changes: 11, Set: []Member{{Store: id, Incarnation: 5}}}
	if !c[0].equal(want) || !c[1].equal(want) || !c[2].equal(Extent{}) {
		t.Fatalf("%+v %+v %+v", c[0], c[1], c[2])
	}
}

func FuzzChunk(f *testing.F) {
	rnd := rand.New(rand.NewSource(3))
	f.Add(new(chunk).append(nil))
	f.Add(randomChunk(rnd, manyStores(5), 2).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseChunk(b)
		if err != nil {
			return
		}
		again, err := parseChunk(c.append(nil))
		if err != nil {
			t.Fatal(err)
		}
		for i := range c {
			if !c[i].equal(again[i]) {
				t.Fatalf("extent %d: %+v became %+v", i, c[i], again[i])
			}
		}
	})
}

// 1 PiB of fully allocated, well-mixed volumes with three replicas takes far less
// than the 1 GiB that a cluster store may have.
func TestChunkSize(t *testing.T) {
	const chunks = (1 << 50) / (256 << 20) / ChunkExtents
	rnd := rand.New(rand.NewSource(4))
	stores := manyStores(300)
	const sample = 200
	bytes := 0
	for range sample {
		c := randomChunk(rnd, stores, 3)
		bytes += len(c.append(nil)) + len(keyChunk(stores[0], 0))
	}
	total := bytes / sample * chunks
	t.Logf("1 PiB: %d keys of %d bytes, %d MiB", chunks, bytes/sample, total>>20)
	if total > 128<<20 {
		t.Fatalf("1 PiB takes %d MiB", total>>20)
	}
}
