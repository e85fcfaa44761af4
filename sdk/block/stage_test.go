package block

import "testing"

func TestStageBuckets(t *testing.T) {
	for ns := uint64(1); ns < 1<<40; ns += ns/2 + 1 {
		var s Stage
		s.add(ns)
		b, sum := s.Read()
		if sum != ns {
			t.Fatalf("sum is %d, want %d", sum, ns)
		}
		for i, n := range b {
			if n == 0 {
				continue
			}
			if i < StageBuckets-1 && ns >= StageBound(i) || i > 0 && ns < StageBound(i-1) {
				t.Errorf("%d ns is in bucket %d, which ends at %d", ns, i, StageBound(i))
			}
		}
	}
}
