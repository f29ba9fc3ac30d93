package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/replication"
)

// rolloverRows compare a rollover with the bare atomic batch that it writes: as many
// messages of the same sizes, in a bucket of the same settings on the same server,
// which fsyncs every write.
var rolloverRows = []Row{
	{Names: []string{"commit"}, Measure: measureCommit},
	{Names: []string{"propagate_p50", "propagate_p99"}, Measure: measurePropagate},
}

const (
	commitGoal       = 1.3
	propagateP50Goal = 1.3
	propagateP99Goal = 2.0

	coreServers    = 3
	rolloverWarmup = 20
	rolloverRounds = 400
	rolloverRest   = 20 * time.Millisecond
)

// measureCommit times a rollover from the command to its acknowledgement: decided,
// signed, committed by the core and fsynced in the writer's replica. The bare
// operation ends with the core's answer.
func measureCommit(ctx context.Context) ([]Result, error) {
	d, err := newDeployment(ctx, coreServers, 0)
	if err != nil {
		return nil, err
	}
	defer d.close()
	var product, bare, answered []float64
	err = d.alternate(ctx, rolloverRounds, func() error {
		began := time.Now()
		if err := d.rollover(ctx); err != nil {
			return err
		}
		product = append(product, micros(time.Since(began)))
		answered = append(answered, micros(d.link.answered.Sub(began)))
		return nil
	}, func() error {
		began := time.Now()
		if _, err := d.bare.publish(ctx); err != nil {
			return err
		}
		bare = append(bare, micros(time.Since(began)))
		return nil
	})
	if err != nil {
		return nil, err
	}
	r := compare(median(product), median(bare), commitGoal)
	r.Samples = len(product)
	r.Note = fmt.Sprintf("core of three servers; batch of %d messages; median; until the core's answer alone %.0f µs (ratio %.2f), p99 %.0f µs against %.0f µs",
		d.bare.size(), median(answered), median(answered)/median(bare), percentile(product, 99), percentile(bare, 99))
	return []Result{r}, nil
}

// measurePropagate times from the publishing of a rollover's batch until another
// policy server's replica shows the new state to its readers, against the bare
// batch's publishing until a pull consumer has its last message.
func measurePropagate(ctx context.Context) ([]Result, error) {
	d, err := newDeployment(ctx, coreServers, 0)
	if err != nil {
		return nil, err
	}
	defer d.close()
	var product, bare []float64
	err = d.alternate(ctx, rolloverRounds, func() error {
		applied := make(chan time.Time, 1)
		n, _ := d.writer.Replica().Watch()
		next := n + 1
		go func() { applied <- awaitApplied(ctx, d.other.Replica(), next) }()
		if err := d.rollover(ctx); err != nil {
			return err
		}
		at := <-applied
		if at.IsZero() {
			return fmt.Errorf("event %d was not applied: %w", next, ctx.Err())
		}
		product = append(product, micros(at.Sub(d.link.sent)))
		return nil
	}, func() error {
		began := time.Now()
		last, err := d.bare.publish(ctx)
		if err != nil {
			return err
		}
		seen, err := d.bare.seen(ctx, last)
		bare = append(bare, micros(seen.Sub(began)))
		return err
	})
	if err != nil {
		return nil, err
	}
	p50 := compare(median(product), median(bare), propagateP50Goal)
	p99 := compare(percentile(product, 99), percentile(bare, 99), propagateP99Goal)
	p50.Samples, p99.Samples = len(product), len(product)
	p50.Note = fmt.Sprintf("core of three servers, batch of %d messages, second replica at another server of the core, all in one process", d.bare.size())
	p99.Note = p50.Note
	return []Result{p50, p99}, nil
}

// alternate runs product and bare in turns, after some of each that do not count.
func (d *deployment) alternate(ctx context.Context, rounds int, product, bare func() error) error {
	for range rolloverWarmup {
		if err := d.rollover(ctx); err != nil {
			return err
		}
		last, err := d.bare.publish(ctx)
		if err != nil {
			return err
		}
		if _, err := d.bare.seen(ctx, last); err != nil {
			return err
		}
	}
	for i := range rounds {
		first, second := product, bare
		if i%2 == 1 {
			first, second = bare, product
		}
		for _, op := range []func() error{first, second} {
			if err := errors.Join(ctx.Err(), op()); err != nil {
				return err
			}
			d.rest(ctx)
		}
	}
	return nil
}

// rest lets what an operation leaves to be done end, so that it does not count as the
// next one's: both replicas' fsyncs and the servers' records.
func (d *deployment) rest(ctx context.Context) {
	n, _ := d.writer.Replica().Watch()
	for _, m := range []*replication.Member{d.writer, d.other} {
		for {
			durable, changed := m.Replica().Durable()
			if durable >= n {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
	select {
	case <-time.After(rolloverRest):
	case <-ctx.Done():
	}
}

// awaitApplied returns when the replica shows event n, or the zero time if ctx ends.
func awaitApplied(ctx context.Context, replica interface {
	Watch() (keystore.N, <-chan struct{})
}, n keystore.N) time.Time {
	for {
		have, changed := replica.Watch()
		if have >= n {
			return time.Now()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return time.Time{}
		}
	}
}

func compare(value, baseline, goal float64) Result {
	ratio := value / baseline
	return Result{
		Value: value, Unit: "µs", Baseline: baseline, Ratio: ratio,
		Goal: fmt.Sprintf("ratio <= %.1f", goal), Met: ratio <= goal,
	}
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// percentile returns the p-th percentile, by the nearest rank.
func percentile(values []float64, p int) float64 {
	sorted := slices.Sorted(slices.Values(values))
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)*p+99)/100-1]
}
