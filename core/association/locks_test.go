package association

import (
	"sync"
	"testing"
)

// One at a time holds a key's lock, others are not in its way, and nothing is left.
func TestLocks(t *testing.T) {
	var l locks[int]
	var n [4]int
	var wg sync.WaitGroup
	for i := range 4 {
		for range 8 {
			wg.Go(func() {
				for range 1000 {
					unlock := l.lock(i)
					n[i]++
					unlock()
				}
			})
		}
	}
	wg.Wait()
	first := l.lock(1)
	l.lock(2)()
	first()
	if n != [4]int{8000, 8000, 8000, 8000} || len(l.byID) != 0 {
		t.Errorf("%v, %d keys are left", n, len(l.byID))
	}
}
