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
		if i < 3 {
			shares[i].Belong([]string{"a", "a", "b"}[i])
		}
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

// A host that never feeds its writes, on queues that come one after the other, leaves a quarter of the pool to another host; and a queue of
// it that holds nothing gets a command as long as more than that is free.
func TestStalledHost(t *testing.T) {
	const size = 128 << 10
	p := newPool(make([]byte, 64<<20), DefaultMaxTransfer)
	var all []*Share[int]
	queue := func(host string) *Share[int] {
		s := NewShare(p, func(int, Buffer) {})
		s.Belong(host)
		all = append(all, s)
		return s
	}
	for range 2 {
		s := queue("stalled")
		for c := range 300 {
			s.Take(c, size)
		}
		p.serve()
	}
	if used := p.InUse(); used < p.Size()/2 || used > p.Size()/2+size {
		t.Errorf("it holds %d of %d bytes on two queues", used, p.Size())
	}
	if _, ok := queue("stalled").Take(0, size); !ok {
		t.Error("its other ways are stopped, too")
	}
	for range 300 {
		s := queue("stalled")
		s.Take(0, size)
		s.Take(1, size)
		p.serve()
	}
	if free := p.Size() - p.InUse(); free < p.Size()/4 {
		t.Errorf("it left %d of %d bytes", free, p.Size())
	}
	victim := queue("other")
	for c := range 8 {
		if _, ok := victim.Take(c, 1<<20); !ok {
			t.Errorf("another host got %d MiB", c)
			break
		}
	}
	for _, s := range all {
		s.Leave()
	}
	if len(p.holders) != 0 || len(p.pressed) != len(all)-2 {
		t.Errorf("%d hosts are known at the end, %d of %d queues are pressed", len(p.holders), len(p.pressed), len(all))
	}
}

// What waits because its host holds much goes on when others give memory back, not only when the host does.
func TestFairAgain(t *testing.T) {
	p := newPool(make([]byte, 64*PageBytes), 32*PageBytes)
	got := 0
	queue := func(host string) *Share[int] {
		s := NewShare(p, func(int, Buffer) { got++ })
		s.Belong(host)
		return s
	}
	take := func(s *Share[int], pages int) (bufs []Buffer) {
		for range pages {
			b, ok := s.Take(0, PageBytes)
			if !ok {
				t.Fatal("nothing to be had")
			}
			bufs = append(bufs, b)
		}
		return bufs
	}
	take(queue("a"), 24) // and keeps it
	b := queue("b")
	held := take(b, 20)
	late := queue("a")
	if _, ok := late.Take(1, 8*PageBytes); ok {
		t.Fatal("a quarter of the pool was to stay free")
	}
	p.serve()
	for _, x := range held {
		b.Free(x)
	}
	p.serve()
	if got != 1 {
		t.Error("it waits for its own host")
	}
}
