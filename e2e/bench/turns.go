package main

import (
	"context"
	"slices"
	"time"
)

// turns says how two fast operations are measured beside each other: in many short
// rounds, product and bare in turns. A round is so short (about 50 µs) that most are
// not interrupted, and the median of the rounds drops those that are; the ratio is
// taken within each pair, so a machine that speeds up or slows down does not show.
type turns struct {
	rounds int // pairs of rounds
	ops    int // operations in a round
}

// A pair is the outcome, in nanoseconds an operation.
type pair struct {
	product, bare float64 // medians
	ratio         float64 // the median of the rounds' ratios
	samples       int     // pairs of rounds
}

func (t turns) measure(ctx context.Context, product, bare func()) (pair, error) {
	products, bares, ratios := make([]float64, 0, t.rounds), make([]float64, 0, t.rounds), make([]float64, 0, t.rounds)
	t.round(product)
	t.round(bare)
	for i := range t.rounds {
		if err := ctx.Err(); err != nil {
			return pair{}, err
		}
		var p, b float64
		if i%2 == 0 { // neither is always the one that finds the caches cold
			p, b = t.round(product), t.round(bare)
		} else {
			b, p = t.round(bare), t.round(product)
		}
		products, bares, ratios = append(products, p), append(bares, b), append(ratios, p/b)
	}
	return pair{product: median(products), bare: median(bares), ratio: median(ratios), samples: t.rounds}, nil
}

// round returns the nanoseconds that one operation took.
func (t turns) round(op func()) float64 {
	start := time.Now()
	for range t.ops {
		op()
	}
	return float64(time.Since(start).Nanoseconds()) / float64(t.ops)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	if len(sorted) == 0 {
		return 0
	}
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}
