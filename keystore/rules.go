package keystore

import (
	"fmt"
	"slices"
	"time"
)

// A Creation is a request for a new ring.
type Creation struct {
	Name   RingName
	Policy Policy
	Keys   FirstKeys
	Now    time.Time // the decider's clock; wanted with a schedule
	Plan   Plan      // of the policy's schedule; nil: it has none
	Force  bool      // take a policy that may log users out
}

// Create decides a new ring without a schedule whose name was never used before: see
// Ring.Create.
func Create(name RingName, p Policy, keys FirstKeys) (Change, error) {
	return Ring{}.Create(Creation{Name: name, Policy: p, Keys: keys})
}

// Create decides a new ring: in dynamic mode, with its first four keys, at version 1,
// or at the one after those that a deleted ring of its name had. The error wraps
// ErrInvalid or ErrExists, or is a Refusal of the policy.
func (r Ring) Create(req Creation) (Change, error) {
	if _, err := ParseRingName(string(req.Name)); err != nil {
		return Change{}, err
	}
	if r.lives() {
		return Change{}, fmt.Errorf("ring %s: %w", req.Name, ErrExists)
	}
	if err := r.checkPlan(req.Policy, req.Plan); err != nil {
		return Change{}, err
	}
	forced := false
	if err := req.Policy.Check(req.Plan); err != nil {
		refusal, ok := err.(Refusal)
		if !req.Force || !ok || !refusal.Forceable() {
			return Change{}, err
		}
		forced = true
	}
	c := Change{Kind: Created, Forced: forced, Ring: req.Name, Version: r.Version + 1, Policy: &req.Policy, Made: []MadeKey{
		req.Keys.Current.made(Current), req.Keys.Future.made(Future),
		req.Keys.Static.made(Static), req.Keys.SessionTicket.made(SessionTicket),
	}, NextSlot: nextSlot(req.Policy, req.Plan, req.Now, req.Now, time.Time{})}
	return decided(r, c)
}

// A PolicyRequest asks for another policy.
type PolicyRequest struct {
	Policy Policy
	Now    time.Time // the decider's clock; wanted with a schedule
	Plan   Plan      // of the policy's schedule; nil: it has none
	Force  bool      // take a policy that may log users out
}

// SetPolicy decides a new policy. It changes neither the keys nor the version. The
// error is that of Policy.Check; force overrides what a Refusal says is forceable.
//
// A slot that is due, or to come, stays while the schedule does, unless min_interval
// now forbids it: another version of the time zones' data must not move it.
func (r Ring) SetPolicy(req PolicyRequest) (Change, error) {
	if !r.lives() {
		return Change{}, ErrNotFound
	}
	if err := r.checkPlan(req.Policy, req.Plan); err != nil {
		return Change{}, err
	}
	c := Change{Kind: PolicySet, Ring: r.Name, Version: r.Version, Policy: &req.Policy}
	if err := req.Policy.Check(req.Plan); err != nil {
		refusal, ok := err.(Refusal)
		if !req.Force || !ok || !refusal.Forceable() {
			return Change{}, err
		}
		c.Forced = true
	}
	if keeps := req.Policy.sameSchedule(r.Policy) && !r.NextSlot.IsZero(); !keeps {
		c.NextSlot = nextSlot(req.Policy, req.Plan, req.Now, latest(req.Now, r.Answered), r.Rolled)
	} else if c.NextSlot = r.NextSlot; !r.Rolled.IsZero() && r.NextSlot.Before(r.Rolled.Add(req.Policy.MinInterval-SlotSlack)) {
		c.NextSlot = nextSlot(req.Policy, req.Plan, r.NextSlot, r.NextSlot, r.Rolled)
	}
	return decided(r, c)
}

// Due returns the old and former keys whose retention is over at now, in the ring's order.
// confirmed says when every server that is neither excluded nor forgotten had
// confirmed event n, by the caller's own count of time, and false if not all have.
//
// With RetainAuto a key is due max_session and RetainMargin after all servers
// confirmed the event that retired it: none of them has sealed with it since. If
// max_session was longer at any time since it became current, that counts. With a number only keys
// beyond that number are ever due, and not before that time either; a rollover may
// destroy them sooner. A former static or session ticket key is due when its overlap and
// RetainMargin are over, counted alike.
func (r Ring) Due(now time.Time, confirmed func(N) (time.Time, bool)) []KID {
	var due []KID
	old := 0
	for _, k := range r.Keys {
		if k.Role == Old {
			if old++; r.Policy.Retain != RetainAuto && old <= int(r.Policy.Retain) {
				continue
			}
		}
		at, ok := confirmed(k.Retired)
		if ok && k.Retired != 0 && !now.Before(at.Add(k.Session+RetainMargin)) {
			due = append(due, k.KID)
		}
	}
	return due
}

// Destroy decides the end of old and former keys. Any other key is refused: it
// seals, or will. It does not ask whether they are due: that is Due's.
func (r Ring) Destroy(kids []KID) (Change, error) {
	if !r.lives() {
		return Change{}, ErrNotFound
	}
	c := Change{Kind: KeysDestroyed, Ring: r.Name, Version: r.Version + 1}
	for _, k := range r.Keys {
		if slices.Contains(kids, k.KID) {
			c.Destroyed = append(c.Destroyed, k.KID)
		}
	}
	if len(c.Destroyed) != len(kids) {
		return Change{}, invalidf("ring %s: destroy %v: not all of them are keys of the ring, once each", r.Name, kids)
	}
	return decided(r, c)
}

// decided checks that c fits r, so that no rule hands out a change that every
// server would then refuse to apply.
func decided(r Ring, c Change) (Change, error) {
	if _, err := r.Apply(c, EventRef{N: r.Last.N + 1}); err != nil {
		return Change{}, err
	}
	return c, nil
}
