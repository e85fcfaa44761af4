package block

import "testing"

func TestFIFORemove(t *testing.T) {
	for n := 1; n <= 3; n++ {
		for out := range n {
			var f fifo
			rs := make([]Request, n)
			for i := range rs {
				f.push(&rs[i])
			}
			f.remove(&rs[out])
			extra := &Request{}
			f.push(extra)
			for i := range rs {
				if i != out && f.pop() != &rs[i] {
					t.Fatalf("%d of %d removed: wrong order", out, n)
				}
			}
			if f.pop() != extra || !f.empty() {
				t.Fatalf("%d of %d removed: tail lost", out, n)
			}
		}
	}
}
