package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/replication"
	"github.com/keytide/keytide/replication/wan"
)

// cutRows cut policy servers off from the core, and the core's leader from the rest, 40
// ms away from each other, and watch how they come back.
var cutRows = []Row{
	{Names: []string{"catchup_p99", "stale_noticed_max"}, Measure: measureCuts},
	{Names: []string{"catchup_1000"}, Measure: measureCatchup1000},
}

const (
	catchupGoal = time.Second     // p99, from the heal
	staleGoal   = 5 * time.Second // every run
	crowdGoal   = 3 * time.Second // a thousand at once

	cutLatency  = 40 * time.Millisecond // one way
	edges       = 10
	crowd       = 1000
	cutPatience = time.Minute
)

// cutTimes are how long the cuts last: one below and one beyond the times after which
// clients and servers give links up. Longer cuts than these are not in the default run.
var cutTimes = []time.Duration{5 * time.Second, 20 * time.Second}

// An edge is a policy server in a region of its own, without a core server.
type edge struct {
	region string
	member *replication.Member
}

// measureCuts takes each fault and each time in turn: all edges are cut off, the ring
// rolls over, and they are healed. The baseline is a NATS mirror on a leaf node that
// goes through the same cuts.
func measureCuts(ctx context.Context) ([]Result, error) {
	d, err := newDeployment(ctx, coreServers, cutLatency)
	if err != nil {
		return nil, err
	}
	defer d.close()
	running, stop := context.WithCancel(ctx)
	defer stop()
	cut, err := d.startEdges(ctx, running, edges)
	if err != nil {
		return nil, err
	}
	mirror, err := newMirror(ctx)
	if err != nil {
		return nil, err
	}
	defer mirror.close()
	var caught, noticed, mirrored []float64
	for _, lasts := range cutTimes {
		for _, fault := range []wan.Fault{wan.Reset, wan.Hold} {
			round := cutRound{d: d, edges: cut, mirror: mirror, fault: fault, lasts: lasts}
			if err := round.run(ctx); err != nil {
				return nil, fmt.Errorf("%v of %v: %w", lasts, fault, err)
			}
			caught, noticed = append(caught, round.caught...), append(noticed, round.noticed...)
			mirrored = append(mirrored, round.mirrored)
		}
	}
	leader, err := d.isolateLeader(ctx, running)
	if err != nil {
		return nil, fmt.Errorf("isolated leader: %w", err)
	}
	noticed = append(noticed, leader)
	p99, worst := percentile(caught, 99), slices.Max(noticed)
	return []Result{{
		Value: p99, Unit: "s", Baseline: slices.Max(mirrored), Ratio: p99 / slices.Max(mirrored),
		Goal: "p99 <= 1 s from the heal", Met: p99 <= catchupGoal.Seconds(), Samples: len(caught),
		Note: fmt.Sprintf("%d policy servers, cuts of %v, reset and held, core of three 40 ms apart one way, a rollover a second; median %.2f s, most %.2f s; baseline: the slowest of a NATS mirror on a leaf node after the same %d cuts",
			edges, cutTimes, median(caught), slices.Max(caught), len(mirrored)),
	}, {
		Value: worst, Unit: "s", Goal: "<= 5 s, every run", Met: worst <= staleGoal.Seconds(), Samples: len(noticed),
		Note: fmt.Sprintf("from the cut until the server says stale; median %.2f s; %.2f s at a half-open core leader cut off from the others", median(noticed), leader),
	}}, nil
}

// startEdges starts policy servers that follow the core from regions of their own.
func (d *deployment) startEdges(ctx, running context.Context, count int) ([]edge, error) {
	started := make([]edge, count)
	for i := range started {
		region := fmt.Sprintf("edge-%d", i)
		link, err := d.dial(region)
		if err != nil {
			return nil, err
		}
		m, err := d.reader(ctx, running, link, d.writer.Replica().Pin(), region)
		if err != nil {
			return nil, err
		}
		started[i] = edge{region, m}
	}
	return started, awaitAll(ctx, started, func(e edge) bool { return e.member.Freshness().State == events.Fresh })
}

// awaitAll waits until ok holds of every edge.
func awaitAll(ctx context.Context, all []edge, ok func(edge) bool) error {
	ctx, cancel := context.WithTimeout(ctx, cutPatience)
	defer cancel()
	for _, e := range all {
		if err := until(ctx, func() bool { return ok(e) }); err != nil {
			n, _ := e.member.Replica().Watch()
			return fmt.Errorf("%s: at event %d, %+v: %w", e.region, n, e.member.Freshness(), err)
		}
	}
	return nil
}

// until looks every 2 ms.
func until(ctx context.Context, ok func() bool) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// A cutRound is one cut of every edge and of the mirror.
type cutRound struct {
	d      *deployment
	edges  []edge
	mirror *mirror
	fault  wan.Fault
	lasts  time.Duration

	caught, noticed []float64 // seconds, by edge
	mirrored        float64
}

func (r *cutRound) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.lasts+2*cutPatience)
	defer cancel()
	for _, e := range r.edges {
		if err := r.d.net.Cut(e.region, r.fault); err != nil {
			return err
		}
	}
	if err := r.mirror.link.Cut(r.fault); err != nil {
		return err
	}
	began := time.Now()
	noticed := inParallel(r.edges, func(e edge) (float64, error) {
		err := until(ctx, func() bool { return e.member.Freshness().State == events.Stale })
		return time.Since(began).Seconds(), err
	})
	for time.Since(began) < r.lasts {
		if err := errors.Join(r.d.rollover(ctx), r.mirror.put(ctx)); err != nil {
			return err
		}
		select {
		case <-time.After(min(time.Second, max(r.lasts-time.Since(began), 0))):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	want, _ := r.d.writer.Replica().Watch()
	for _, e := range r.edges {
		if err := r.d.net.Heal(e.region); err != nil {
			return err
		}
	}
	if err := r.mirror.link.Heal(); err != nil {
		return err
	}
	healed := time.Now()
	caught := inParallel(r.edges, func(e edge) (float64, error) {
		at := awaitApplied(ctx, e.member.Replica(), want)
		return at.Sub(healed).Seconds(), ctx.Err()
	})
	var err, staleErr error
	r.caught, err = caught()
	r.noticed, staleErr = noticed()
	if err := errors.Join(err, staleErr); err != nil {
		return err
	}
	if err := r.mirror.caughtUp(ctx); err != nil {
		return err
	}
	r.mirrored = time.Since(healed).Seconds()
	return awaitAll(ctx, r.edges, func(e edge) bool { return e.member.Freshness().State == events.Fresh })
}

// inParallel begins to measure every edge, and returns what waits for the figures.
func inParallel(all []edge, measure func(edge) (float64, error)) func() ([]float64, error) {
	var group sync.WaitGroup
	values, errs := make([]float64, len(all)), make([]error, len(all))
	for i, e := range all {
		group.Go(func() { values[i], errs[i] = measure(e) })
	}
	return func() ([]float64, error) {
		group.Wait()
		return values, errors.Join(errs...)
	}
}

// isolateLeader holds every link between the region of the bucket's leader and the
// others, and returns how long a policy server there, that knows no other core server,
// takes to say that it is stale.
func (d *deployment) isolateLeader(ctx, running context.Context) (float64, error) {
	const region = "eu"
	link, err := d.dial(region, region)
	if err != nil {
		return 0, err
	}
	bucket := events.BucketName(events.Keys, benchStore, 1)
	if err := d.lead(ctx, link, bucket, region); err != nil {
		return 0, err
	}
	m, err := d.reader(ctx, running, link, d.writer.Replica().Pin(), "beside-leader")
	if err != nil {
		return 0, err
	}
	beside := []edge{{region, m}}
	if err := awaitAll(ctx, beside, func(e edge) bool { return e.member.Freshness().State == events.Fresh }); err != nil {
		return 0, err
	}
	if err := d.net.Cut(region, wan.Hold); err != nil {
		return 0, err
	}
	began := time.Now()
	err = awaitAll(ctx, beside, func(e edge) bool { return e.member.Freshness().State == events.Stale })
	return time.Since(began).Seconds(), errors.Join(err, d.net.Heal(region))
}

// measureCatchup1000 resets the connections of a thousand policy servers' replicators to
// one core server at once, with rollovers that they have missed.
func measureCatchup1000(ctx context.Context) ([]Result, error) {
	d, err := newDeployment(ctx, 1, 0)
	if err != nil {
		return nil, err
	}
	defer d.close()
	running, stop := context.WithCancel(ctx)
	defer stop()
	all, err := d.startCrowd(ctx, running)
	if err != nil {
		return nil, err
	}
	if err := d.net.Cut("crowd", wan.Reset); err != nil {
		return nil, err
	}
	var want keystore.N
	for range 10 {
		if err := d.rollover(ctx); err != nil {
			return nil, err
		}
		want, _ = d.writer.Replica().Watch()
	}
	if err := d.net.Heal("crowd"); err != nil {
		return nil, err
	}
	healed := time.Now()
	seconds, err := inParallel(all, func(e edge) (float64, error) {
		at := awaitApplied(ctx, e.member.Replica(), want)
		return at.Sub(healed).Seconds(), ctx.Err()
	})()
	if err != nil {
		return nil, err
	}
	worst := slices.Max(seconds)
	return []Result{{
		Value: worst, Unit: "s", Goal: "all <= 3 s", Met: worst <= crowdGoal.Seconds(), Samples: len(seconds),
		Note: fmt.Sprintf("%d connections with TLS, each with a replica's file, in the core's own process; median %.2f s; from the heal until the last has applied what it missed", crowd, median(seconds)),
	}}, nil
}

// startCrowd starts a thousand replicators. All have joined before the first starts: each
// says of every event that it has applied it, and two thousand of those are not what is
// measured.
func (d *deployment) startCrowd(ctx, running context.Context) ([]edge, error) {
	ids := make([]replication.Identity, crowd)
	for i := range ids {
		id, err := d.joined(ctx, fmt.Sprintf("crowd-%d", i))
		if err != nil {
			return nil, err
		}
		ids[i] = id
	}
	all := make([]edge, crowd)
	for i, id := range ids {
		link, err := d.dialVia("crowd")
		if err != nil {
			return nil, err
		}
		m, err := d.follower(ctx, running, link, d.writer.Replica().Pin(), id)
		if err != nil {
			return nil, err
		}
		all[i] = edge{id.Server, m}
	}
	return all, awaitAll(ctx, all, func(e edge) bool { return e.member.Freshness().State == events.Fresh })
}
