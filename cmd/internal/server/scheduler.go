package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

const (
	schedulerIdle  = time.Minute      // between two looks at a clock that may have been set
	schedulerRetry = time.Second      // while a slot that is due is not answered, or an incident is open
	schedulerLimit = 15 * time.Second // of one change

	schedulerAtOnce = 16 // rings that are tended at a time
)

// A scheduler answers the slots of rings that are due, and writes down when the guard
// holds one, when that ends, and when everybody has confirmed an emergency rollover.
//
// Each server that makes keys runs one. They do not agree on who is to act: each
// compares its clock with the slot that the ring's last event committed, and sends an
// event whose request id is the slot's. Events are decided on the newest state, so the
// first one moves the ring on, and the others find that. A server that cannot prove
// that it is up to date, or whose clock is off, starts nothing.
type scheduler struct {
	service *service
	log     *slog.Logger
	retry   time.Duration // schedulerRetry; longer in tests that live through days

	mu     sync.Mutex // guards faults
	faults map[keystore.RingName]fault
}

func newScheduler(s *service, log *slog.Logger) *scheduler {
	return &scheduler{service: s, log: log, retry: schedulerRetry, faults: make(map[keystore.RingName]fault)}
}

// run goes round until ctx ends: at each event, when a slot is due, and each minute.
func (s *scheduler) run(ctx context.Context) error {
	for {
		_, changed := s.service.keys.Replica().Watch()
		timer := time.NewTimer(s.round(ctx))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-changed:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// round looks at every ring and returns when to look again.
func (s *scheduler) round(ctx context.Context) time.Duration {
	var rings []keystore.Ring
	s.service.keys.Replica().Read(func(state *events.State) { rings = state.Rings() })
	now, clock := s.service.reference()
	wait := schedulerIdle
	var wanting []keystore.Ring
	for _, ring := range rings {
		due := !ring.NextSlot.IsZero() && !now.Before(ring.NextSlot)
		switch {
		case due || !ring.Hold.IsZero() || ring.Incident.N != 0:
			wanting = append(wanting, ring)
			wait = s.retry
		case !ring.NextSlot.IsZero():
			wait = min(wait, ring.NextSlot.Sub(now))
		}
	}
	// The server's own state says that it is not fresh, or that its clock is off.
	if clock && s.service.keys.Freshness().State == events.Fresh {
		s.tendAll(ctx, wanting, now)
	}
	return wait
}

// tendAll tends rings, some at a time: a change is acknowledged once it is in another
// region, and many rings may have the same slot.
func (s *scheduler) tendAll(ctx context.Context, rings []keystore.Ring, now time.Time) {
	faults := make([]error, len(rings))
	var g errgroup.Group
	g.SetLimit(schedulerAtOnce)
	for i, ring := range rings {
		g.Go(func() error {
			err := s.tend(ctx, ring, now)
			// One that has moved on is seen to in the next round, at once.
			if ctx.Err() == nil && !errors.Is(err, events.ErrConflict) && !errors.Is(err, keystore.ErrNotFound) {
				faults[i] = err
			}
			return nil
		})
	}
	g.Wait()
	failing := make(map[keystore.RingName]error)
	for i, err := range faults {
		if err != nil {
			failing[rings[i].Name] = err
		}
	}
	s.note(failing)
}

// note keeps what a person should look at, each with the time since when, and logs what
// is new.
func (s *scheduler) note(faults map[keystore.RingName]error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, err := range faults {
		old, ok := s.faults[name]
		if !ok {
			old.since = now()
		}
		if !ok || old.err.Error() != err.Error() {
			s.log.Error("scheduled rollover failed; trying again", "ring", string(name), "err", err)
		}
		s.faults[name] = fault{err, old.since}
	}
	for name := range s.faults {
		if faults[name] == nil {
			delete(s.faults, name)
		}
	}
}

// failing returns why a ring's slot is not answered, if it is not for an error.
func (s *scheduler) failing(name keystore.RingName) (fault, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.faults[name]
	return f, ok
}

// tend does the next thing that a ring wants, if it wants any. Each is an event, at
// which the round begins anew.
func (s *scheduler) tend(ctx context.Context, ring keystore.Ring, now time.Time) error {
	servers := s.service.confirmations()
	if !ring.Hold.IsZero() && !ring.Holds(servers) {
		return s.commit(ctx, ring, fmt.Sprintf("hold-ended/%s/%d", keystore.SlotID(ring.Name, ring.Hold.Slot), ring.Last.N),
			"the guard holds the slot no more", func(r keystore.Ring, servers []keystore.Confirmation) (keystore.Change, error) {
				return r.EndHold(servers)
			})
	}
	if ring.Incident.N != 0 {
		if _, err := ring.CloseIncident(servers); err == nil {
			return s.commit(ctx, ring, fmt.Sprintf("incident-closed/%s/%d", ring.Name, ring.Incident.N),
				"everybody has confirmed the emergency rollover", keystore.Ring.CloseIncident)
		}
	}
	plan, err := s.service.plans.of(ring.Policy)
	if err != nil {
		return err
	}
	due, ok := ring.DueSlot(now, plan)
	switch {
	case !ok:
		return nil
	case due.Expired:
		return s.commit(ctx, ring, "skip/"+keystore.SlotID(ring.Name, due.Slot), fmt.Sprintf("nobody answered the slot for %v", ring.Policy.CatchUp()),
			func(r keystore.Ring, _ []keystore.Confirmation) (keystore.Change, error) {
				return r.SkipSlot(due.Slot, now, plan)
			})
	case ring.Held(servers) == nil:
		return s.answer(ctx, ring, due, now, plan)
	case ring.Hold.IsZero():
		return s.commit(ctx, ring, fmt.Sprintf("held/%s/%d", keystore.SlotID(ring.Name, due.Slot), ring.Last.N),
			"servers, or agents that are waited for, have not confirmed the version before", func(r keystore.Ring, servers []keystore.Confirmation) (keystore.Change, error) {
				return r.HoldSlot(due.Slot, now, plan, servers)
			})
	case pastHold(ring, now) && len(late(ring, servers)) == 0: // agents alone hold it
		return s.answer(ctx, ring, due, now, plan)
	case pastHold(ring, now):
		return s.exclude(ctx, ring, servers)
	}
	return nil
}

// exclude leaves the servers out that have held a slot for as long as the policy lets
// them. Each counts again by itself once it confirms.
func (s *scheduler) exclude(ctx context.Context, ring keystore.Ring, servers []keystore.Confirmation) error {
	ctx, cancel := context.WithTimeout(ctx, schedulerLimit)
	defer cancel()
	var faults []error
	for _, c := range late(ring, servers) {
		_, err := s.service.leaveOut(ctx, "keytide", adminapi.LeaveOut{Intent: adminapi.Intent{
			Request: fmt.Sprintf("max-hold/%s/%d", c.Server, ring.Last.N),
			Reason:  fmt.Sprintf("it held the rollover of ring %s for max_hold %v", ring.Name, ring.Policy.MaxHold),
		}}, events.ServerChange{Type: events.TypeServerExcluded, ID: c.Server, Cause: events.ByMaxHold})
		if !errors.Is(err, keystore.ErrExists) {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// pastHold reports whether a slot has been held for as long as the policy lets it.
func pastHold(ring keystore.Ring, now time.Time) bool {
	return ring.Policy.MaxHold > 0 && !ring.Hold.IsZero() && now.Sub(ring.Hold.Since) >= ring.Policy.MaxHold
}

// answer rolls a ring over for its slot.
func (s *scheduler) answer(ctx context.Context, ring keystore.Ring, due keystore.DueSlot, now time.Time, plan keystore.Plan) error {
	keys, made := material(now.UTC().Truncate(time.Millisecond), 1)
	past, reason := pastHold(ring, now), "scheduled"
	if past {
		reason = fmt.Sprintf("scheduled; it was held for max_hold %v", ring.Policy.MaxHold)
	}
	return s.order(ctx, ring, order{
		actor: "keytide", ring: ring.Name, made: made,
		intent: adminapi.Intent{Request: keystore.SlotID(ring.Name, due.Slot), Reason: reason},
	}, func(r keystore.Ring, servers []keystore.Confirmation) (keystore.Change, error) {
		return r.Rollover(keystore.Rollover{
			Trigger: keystore.Scheduled, Slot: due.Slot, Future: keys[0], Now: now, Plan: plan, Servers: servers, PastAgents: past,
		})
	})
}

type decision func(keystore.Ring, []keystore.Confirmation) (keystore.Change, error)

func (s *scheduler) commit(ctx context.Context, ring keystore.Ring, request, reason string, decide decision) error {
	return s.order(ctx, ring, order{
		actor: "keytide", ring: ring.Name, intent: adminapi.Intent{Request: request, Reason: reason},
	}, decide)
}

// order commits what is decided on the ring as this round saw it; if it has moved on
// since, the next round sees to that.
func (s *scheduler) order(ctx context.Context, ring keystore.Ring, o order, decide decision) error {
	ctx, cancel := context.WithTimeout(ctx, schedulerLimit)
	defer cancel()
	confirmed := s.service.confirmer()
	o.decide = func(state *events.State) (keystore.Change, error) {
		newest, err := ringOf(state, ring.Name)
		if err == nil && newest.Last.N != ring.Last.N {
			err = fmt.Errorf("ring %s: %w: it has changed since", ring.Name, events.ErrConflict)
		}
		if err != nil {
			return keystore.Change{}, err
		}
		return decide(newest, confirmed(state))
	}
	_, _, err := s.service.commitRing(ctx, o)
	return err
}
