package main

import (
	"math"
	"testing"
)

func TestMedianOf(t *testing.T) {
	for _, c := range []struct {
		name              string
		values            []float64
		median, low, high float64
		coverage          float64
	}{
		{"one value", []float64{3}, 3, 3, 3, 0},
		{"too few for the coverage wanted", []float64{3, 1, 2}, 2, 1, 3, 0.75},
		{"an even number", []float64{4, 1, 3, 2}, 2.5, 1, 4, 0.875},
		{"nine leave one out at each end", []float64{9, 1, 8, 2, 7, 3, 6, 4, 5}, 5, 2, 8, 0.9609375},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := medianOf(c.values)
			if want := (Interval{c.median, c.low, c.high, c.coverage}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
	if got := medianOf(nil); !math.IsNaN(got.Median) {
		t.Errorf("no values: got %+v", got)
	}
}
