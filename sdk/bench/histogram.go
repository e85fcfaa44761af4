package bench

import (
	"math/bits"
	"time"
)

// Each power of two of nanoseconds is divided into this many buckets: percentiles are exact to
// 1.6 %.
const (
	subBits    = 6
	subBuckets = 1 << subBits
)

// histogram counts latencies.
type histogram struct {
	buckets [(64 - subBits + 1) * subBuckets]uint64
	count   uint64
	sum     uint64 // ns
	max     uint64 // ns
}

func bucketOf(ns uint64) int {
	if ns < subBuckets {
		return int(ns)
	}
	shift := bits.Len64(ns) - subBits - 1
	return (shift+1)*subBuckets + int(ns>>shift) - subBuckets
}

// valueOf is the middle of a bucket in nanoseconds.
func valueOf(i int) float64 {
	if i < subBuckets {
		return float64(i)
	}
	shift := i/subBuckets - 1
	low := uint64(i%subBuckets+subBuckets) << shift
	return float64(low) + float64(uint64(1)<<shift)/2
}

func (h *histogram) add(d time.Duration) {
	ns := uint64(max(d, 0))
	h.buckets[bucketOf(ns)]++
	h.count++
	h.sum += ns
	h.max = max(h.max, ns)
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
	h.count += o.count
	h.sum += o.sum
	h.max = max(h.max, o.max)
}

// percentile returns the latency in nanoseconds below which the fraction p of all lies.
func (h *histogram) percentile(p float64) float64 {
	if h.count == 0 {
		return 0
	}
	rank := uint64(p * float64(h.count))
	for i, n := range h.buckets {
		if n > rank {
			return min(valueOf(i), float64(h.max))
		}
		rank -= n
	}
	return float64(h.max)
}

func (h *histogram) latency() Latency {
	const us = 1e3
	l := Latency{
		P50: h.percentile(0.5) / us, P99: h.percentile(0.99) / us, P999: h.percentile(0.999) / us, Max: float64(h.max) / us,
	}
	if h.count > 0 {
		l.Mean = float64(h.sum) / float64(h.count) / us
	}
	return l
}
