package main

import (
	"math"
	"slices"
)

// Interval is a median with what is known about it.
type Interval struct {
	Median   float64 `json:"median"`
	Low      float64 `json:"low"`
	High     float64 `json:"high"`
	Coverage float64 `json:"coverage"` // probability that the true median lies within Low and High
}

// wantCoverage is the coverage that an Interval has, unless there are too few values.
const wantCoverage = 0.95

// medianOf returns the median of values and the narrowest interval of two of them, as far from the ends on both sides,
// that covers the true median with at least wantCoverage; with too few values, the lowest and the highest. It assumes
// nothing about their distribution.
func medianOf(values []float64) Interval {
	n := len(values)
	if n == 0 {
		return Interval{Median: math.NaN(), Low: math.NaN(), High: math.NaN()}
	}
	v := slices.Clone(values)
	slices.Sort(v)
	k := 0 // values left out at each end
	for 2*(k+1) < n && coverage(n, k+1) >= wantCoverage {
		k++
	}
	return Interval{Median: (v[(n-1)/2] + v[n/2]) / 2, Low: v[k], High: v[n-1-k], Coverage: coverage(n, k)}
}

// coverage is the probability that the true median lies within the (k+1)-th lowest and the (k+1)-th highest of n values:
// neither k or fewer of them are below it, nor k or fewer above.
func coverage(n, k int) float64 {
	tail, choose := 0.0, 1.0
	for i := 0; i <= k; i++ {
		tail += choose
		choose = choose * float64(n-i) / float64(i+1)
	}
	return 1 - 2*tail/math.Pow(2, float64(n))
}

func medianBy[T any](all []T, value func(T) float64) float64 {
	var v []float64
	for _, x := range all {
		v = append(v, value(x))
	}
	return medianOf(v).Median
}
