package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

const (
	retentionPeriod = 10 * time.Second // between two rounds
	retentionSave   = time.Minute      // of counted age may be lost by a crash
)

// A retention destroys old and former keys whose retention is over, and ends the
// overlap of static mode, each by an event.
//
// An old key's age is counted from the moment at which every server has confirmed
// the event that retired it, and only in rounds in which this server was fresh: it
// is time that passed while beacons came, by a clock that does not jump. A clock
// that is set forward ends no session. What was counted is noted beside the
// replica; a crash loses a minute of it at most, and the key then lives longer.
type retention struct {
	service *service
	log     *slog.Logger
	ages    map[keystore.N]time.Duration // by the event that retired the key
	saved   map[keystore.N]time.Duration
	last    time.Time // the round before; with a monotonic reading

	period, save time.Duration // retentionPeriod and retentionSave; longer in tests that live through months
}

func newRetention(s *service, log *slog.Logger) *retention {
	return &retention{
		service: s, log: log, period: retentionPeriod, save: retentionSave,
		ages: make(map[keystore.N]time.Duration), saved: make(map[keystore.N]time.Duration),
	}
}

// run goes round until ctx ends. A round that fails is logged, and the next one
// tries again.
func (r *retention) run(ctx context.Context) error {
	ticker := time.NewTicker(r.period)
	defer ticker.Stop()
	for {
		if err := r.round(ctx, time.Now()); err != nil && ctx.Err() == nil {
			r.log.Error("old keys are not destroyed; trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (r *retention) round(ctx context.Context, at time.Time) error {
	elapsed := time.Duration(0)
	if !r.last.IsZero() {
		// A machine that slept counts no more than the rounds that it made.
		elapsed = min(max(at.Sub(r.last), 0), 2*r.period)
	}
	r.last = at
	if r.service.keys.Freshness().State != events.Fresh {
		return nil
	}
	var rings []keystore.Ring
	r.service.keys.Replica().Read(func(state *events.State) { rings = state.Rings() })
	if err := r.count(rings, elapsed); err != nil {
		return err
	}
	var faults []error
	for _, ring := range rings {
		confirmed := func(n keystore.N) (time.Time, bool) {
			age, ok := r.ages[n]
			return at.Add(-age), ok
		}
		if due := ring.Due(at, confirmed); len(due) > 0 {
			faults = append(faults, r.destroy(ctx, ring, due))
		} else if _, err := ring.EndOverlap(at, confirmed); err == nil {
			faults = append(faults, r.endOverlap(ctx, ring, at, confirmed))
		}
	}
	return errors.Join(faults...)
}

// count adds the time since the last round to the age of whatever all servers have
// stopped to seal with.
func (r *retention) count(rings []keystore.Ring, elapsed time.Duration) error {
	all := keystore.N(1<<64 - 1)
	for _, c := range r.service.confirmations() {
		if !c.Excluded && !c.Forgotten {
			all = min(all, c.Applied)
		}
	}
	live := make(map[keystore.N]bool)
	var faults []error
	for _, ring := range rings {
		for _, n := range ring.Retirements() {
			if n > all || live[n] {
				continue
			}
			live[n] = true
			faults = append(faults, r.older(n, elapsed))
		}
	}
	for n := range r.ages {
		if !live[n] {
			delete(r.ages, n)
			delete(r.saved, n)
		}
	}
	return errors.Join(faults...)
}

// older counts one age on. Ages are noted as times after 1970.
func (r *retention) older(n keystore.N, elapsed time.Duration) error {
	mark := fmt.Sprintf("retention %d", n)
	age, ok := r.ages[n]
	if !ok {
		if at := r.service.keys.Replica().Mark(mark); !at.IsZero() {
			age = at.Sub(time.Unix(0, 0))
		}
		r.ages[n], r.saved[n] = age, age
		return nil
	}
	r.ages[n] = age + elapsed
	if r.ages[n]-r.saved[n] < r.save {
		return nil
	}
	r.saved[n] = r.ages[n]
	return r.service.keys.Replica().SetMark(mark, time.Unix(0, 0).Add(r.ages[n]))
}

// destroy ends keys. The request id comes from the ring's version, so servers that
// do so at once make one event.
func (r *retention) destroy(ctx context.Context, ring keystore.Ring, due []keystore.KID) error {
	return r.commit(ctx, ring, "retention is over", func(newest keystore.Ring) (keystore.Change, error) { return newest.Destroy(due) })
}

// endOverlap has static keys open no sessions any more.
func (r *retention) endOverlap(ctx context.Context, ring keystore.Ring, at time.Time, confirmed func(keystore.N) (time.Time, bool)) error {
	return r.commit(ctx, ring, "the overlap of static mode is over", func(newest keystore.Ring) (keystore.Change, error) {
		return newest.EndOverlap(at, confirmed)
	})
}

func (r *retention) commit(ctx context.Context, ring keystore.Ring, why string, decide func(keystore.Ring) (keystore.Change, error)) error {
	_, _, err := r.service.commitRing(ctx, order{
		actor: "keytide", ring: ring.Name,
		intent: adminapi.Intent{Request: fmt.Sprintf("retention/%s/%d", ring.Name, ring.Version), Reason: why},
		decide: func(state *events.State) (keystore.Change, error) {
			newest, err := ringOf(state, ring.Name)
			if err == nil && newest.Version != ring.Version {
				err = fmt.Errorf("ring %s: %w: it has changed since", ring.Name, events.ErrConflict)
			}
			if err != nil {
				return keystore.Change{}, err
			}
			return decide(newest)
		},
	})
	return err
}
