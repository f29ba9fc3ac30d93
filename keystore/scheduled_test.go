package keystore_test

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keytide/keytide/keystore"
)

// toSlot lets time pass until the next slot is due, or a while longer.
func (w *world) toSlot(rt *rapid.T) {
	wait := max(w.head().NextSlot.Sub(w.now), 0)
	w.passTime(wait + time.Duration(rapid.Int64Range(0, int64(3*time.Hour)).Draw(rt, "late")))
}

// tend does what a policy server's scheduler does: the next thing that the ring wants.
// Whatever has happened before, what it decides on is accepted.
func (w *world) tend(rt *rapid.T) {
	r := w.head()
	var servers []keystore.Confirmation
	for _, s := range w.sites {
		servers = append(servers, keystore.Confirmation{Server: "ps", Applied: s.applied})
	}
	due, ok := r.DueSlot(w.now, w.plan)
	var c keystore.Change
	var err error
	switch {
	case !r.Hold.IsZero() && !r.Holds(servers):
		c, err = r.EndHold(servers)
	case !ok:
		return
	case due.Expired:
		c, err = r.SkipSlot(due.Slot, w.now, w.plan)
	case r.Held(servers) == nil:
		c, err = r.Rollover(keystore.Rollover{
			Trigger: keystore.Scheduled, Slot: due.Slot, Future: w.key(), Now: w.now, Plan: w.plan, Servers: servers,
		})
	case r.Hold.IsZero():
		c, err = r.HoldSlot(due.Slot, w.now, w.plan, servers)
	default:
		return
	}
	if _, full := errors.AsType[*keystore.FullError](err); full {
		return
	}
	if err != nil {
		rt.Fatalf("the scheduler's step on %+v: %v", r, err)
	}
	if c.Kind == keystore.RolledOver {
		w.noAgentLagsByTwo()
	}
	w.commit(c)
	if next := w.head().NextSlot; c.Kind == keystore.RolledOver && !next.After(w.now) {
		rt.Fatalf("after the rollover at %v the next slot is %v", w.now, next)
	}
}

// TestContinuityOfASchedule is the promise for a ring that rolls over by itself while
// servers lag and administrators roll over, undo, and change its policy.
func TestContinuityOfASchedule(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		gap := time.Duration(rapid.SampledFrom([]int{1, 3, 24, 168}).Draw(rt, "gap hours")) * time.Hour
		p := scheduled(t, gap)
		p.MaxSession = time.Duration(rapid.IntRange(1, 600).Draw(rt, "session minutes")) * time.Minute
		w := newWorld(rt, t, keystore.Policy{MaxSession: p.MaxSession, MinInterval: p.MinInterval}, rapid.IntRange(1, 3).Draw(rt, "sites"))
		w.plan = every(gap)
		c, err := w.head().SetPolicy(keystore.PolicyRequest{Policy: p, Plan: w.plan, Now: w.now})
		if err != nil {
			rt.Fatal(err)
		}
		w.commit(c)
		actions := w.actions()
		actions["set policy"] = w.setPolicy
		actions["emergency"] = w.rollover(keystore.Emergency)
		actions["slot"], actions["scheduler"] = w.toSlot, w.tend
		rt.Repeat(actions)
	})
}
