package block

import (
	"math/bits"
	"sync/atomic"
)

// StageBuckets is how many buckets a Stage has.
const StageBuckets = 24

const firstStageBits = 10 // the first bucket ends at 1024 ns

// Stage counts how long commands spent in the plugin itself: from their arrival to
// the core's answer, less the time that the core had them. The thread writes it, any
// goroutine may read.
type Stage struct {
	buckets [StageBuckets]atomic.Uint64
	sum     atomic.Uint64
}

// StageBound is the upper bound of bucket i in nanoseconds; the last has none.
func StageBound(i int) uint64 { return 1 << (firstStageBits + i) }

func (s *Stage) add(ns uint64) {
	i := max(bits.Len64(ns)-firstStageBits, 0)
	s.buckets[min(i, StageBuckets-1)].Add(1)
	s.sum.Add(ns)
}

// Read returns the counts by bucket and the sum in nanoseconds.
func (s *Stage) Read() (buckets [StageBuckets]uint64, sum uint64) {
	for i := range s.buckets {
		buckets[i] = s.buckets[i].Load()
	}
	return buckets, s.sum.Load()
}
