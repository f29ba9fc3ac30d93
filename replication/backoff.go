package replication

import (
	"context"
	"math/rand/v2"
	"time"
)

// A backoff gives growing pauses with jitter: each is between half of the nominal
// one and the whole, and the nominal one doubles up to a most.
type backoff struct {
	rand        *rand.Rand
	first, most time.Duration
	nominal     time.Duration
}

func newBackoff(seed uint64, first, most time.Duration) *backoff {
	return &backoff{rand: rand.New(rand.NewPCG(seed, 0x6b657974696465)), first: first, most: most, nominal: first}
}

func (b *backoff) next() time.Duration {
	d := b.nominal
	b.nominal = min(2*b.nominal, b.most)
	return d/2 + time.Duration(b.rand.Int64N(int64(d/2)+1))
}

func (b *backoff) reset() { b.nominal = b.first }

// pause waits, or reports that ctx has ended.
func (b *backoff) pause(ctx context.Context) bool { return pause(ctx, b.next()) }

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
