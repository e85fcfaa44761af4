package block

import "testing"

// Several shares of one pool, against a model: each serves its commands in the order in which they came, a dropped one gets nothing,
// nobody waits for ever, and in the end all memory is free.
func TestShares(t *testing.T) {
	rnd := seed(t)
	p := newPool(make([]byte, 64*PageBytes), 8*PageBytes)
	type command struct {
		n   int
		buf Buffer
	}
	shares := make([]*Share[*command], 4)
	parked := make([][]*command, len(shares)) // in order, by share
	held := make([][]*command, len(shares))
	for i := range shares {
		shares[i] = NewShare(p, func(c *command, b Buffer) {
			if len(parked[i]) == 0 || parked[i][0] != c || b.Len() != c.n {
				t.Fatalf("share %d gives %d bytes to one who is not first or wants %d", i, b.Len(), c.n)
			}
			parked[i] = parked[i][1:]
			c.buf = b
			held[i] = append(held[i], c)
		})
	}
	free := func(i int) {
		k := rnd.IntN(len(held[i]))
		c := held[i][k]
		held[i] = append(held[i][:k], held[i][k+1:]...)
		shares[i].Free(c.buf)
	}
	for range 50_000 {
		i := rnd.IntN(len(shares))
		switch x := rnd.IntN(5); {
		case x < 2:
			c := &command{n: 1 + rnd.IntN(8*PageBytes)}
			b, ok := shares[i].Take(c, c.n)
			if ok && len(parked[i]) > 0 {
				t.Fatal("one who came later is served first")
			}
			if ok {
				c.buf = b
				held[i] = append(held[i], c)
			} else {
				parked[i] = append(parked[i], c)
			}
		case x < 3 && len(parked[i]) > 0:
			k := rnd.IntN(len(parked[i]))
			shares[i].Drop(parked[i][k])
			parked[i] = append(parked[i][:k:k], parked[i][k+1:]...)
		case len(held[i]) > 0:
			free(i)
		}
		p.serve()
	}
	for {
		waiting, freed := 0, false
		for i := range shares {
			if waiting += len(parked[i]); len(held[i]) > 0 {
				free(i)
				freed = true
			}
		}
		p.serve()
		if freed {
			continue
		}
		if waiting > 0 {
			t.Fatalf("%d wait and nobody holds anything", waiting)
		}
		break
	}
	if p.InUse() != 0 {
		t.Errorf("%d bytes are in use at the end", p.InUse())
	}
}
