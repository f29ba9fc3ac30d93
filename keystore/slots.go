package keystore

import "time"

const (
	catchUp       = 24 * time.Hour
	catchUpMargin = time.Hour // beyond max_hold, for excluding who holds it
	// SlotSlack is by how much a slot may come before min_interval has passed since the
	// last rollover: an hourly slot is answered a moment after it came, and the next one
	// is due an hour after the slot, not after the answer.
	SlotSlack = time.Minute

	maxHeldBy = 64 // servers that a hold names
)

// CatchUp is how long a slot that is due may be answered: for a day, or an hour more
// than max_hold where that is longer. One that nobody answered by then, because every
// server was down or the guard held it, is skipped, and the ring waits for the next: a
// rollover that was meant for a night should not come in the middle of another day.
func (p Policy) CatchUp() time.Duration {
	if p.MaxHold == 0 {
		return catchUp
	}
	return max(catchUp, p.MaxHold+catchUpMargin)
}

// A Plan is a compiled schedule; package schedule makes one. It is pure.
type Plan interface {
	// Next returns the first slot after a time; false: there is none any more. Where the
	// schedule counts elapsed time, it counts from after.
	Next(after time.Time) (time.Time, bool)
	// Following returns the first slot after now where last was one, and was answered
	// however late.
	Following(last, now time.Time) (time.Time, bool)
	// Shortest returns the shortest time that there ever is between two slots.
	Shortest() time.Duration
}

// SlotText is a slot as people and programs read it.
func SlotText(slot time.Time) string {
	if slot.IsZero() {
		return ""
	}
	return slot.UTC().Format(time.RFC3339)
}

// SlotID is the request id of what answers a ring's slot: however many servers try,
// and whatever became of their earlier tries, one event does.
func SlotID(ring RingName, slot time.Time) string { return string(ring) + "/" + SlotText(slot) }

// nextSlot is the first slot after now, last having been one or the moment from which
// to count, that min_interval allows after a rollover; zero where there is no schedule.
func nextSlot(p Policy, plan Plan, last, now, rolled time.Time) time.Time {
	if plan == nil {
		return time.Time{}
	}
	slot, ok := plan.Following(last, now)
	for ok && !rolled.IsZero() && slot.Before(rolled.Add(p.MinInterval-SlotSlack)) {
		slot, ok = plan.Next(slot)
	}
	if !ok {
		return time.Time{}
	}
	return slot.UTC().Truncate(time.Millisecond)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// A DueSlot is a committed slot whose time has come.
type DueSlot struct {
	Slot time.Time
	// Newest is the newest slot by now: others may have come since, and collapse into
	// one rollover.
	Newest time.Time
	// Missed counts those other slots; what came before that of CatchUp counts as one.
	Missed int
	// Expired: Newest is older than the policy's CatchUp. It is skipped, not answered.
	Expired bool
}

// DueSlot returns the ring's slot that is due at now, if one is.
func (r Ring) DueSlot(now time.Time, plan Plan) (DueSlot, bool) {
	if !r.lives() || plan == nil || r.NextSlot.IsZero() || now.Before(r.NextSlot) {
		return DueSlot{}, false
	}
	due := DueSlot{Slot: r.NextSlot, Newest: r.NextSlot}
	window := now.Add(-r.Policy.CatchUp())
	slot, ok := plan.Next(r.NextSlot)
	if r.NextSlot.Before(window) {
		slot, ok = plan.Following(r.NextSlot, window)
	}
	for ; ok && !slot.After(now); slot, ok = plan.Next(slot) {
		due.Newest = slot
		due.Missed++
	}
	due.Expired = due.Newest.Before(window)
	return due, true
}

// missed counts the slots that are due at now: a rollover takes the place of all.
func (r Ring) missed(now time.Time, plan Plan) int {
	due, ok := r.DueSlot(now, plan)
	if !ok {
		return 0
	}
	return due.Missed + 1
}

func (r Ring) checkPlan(p Policy, plan Plan) error {
	if p.scheduled() != (plan != nil) {
		return invalidf("ring %s: a decision with a plan %t, with a schedule %t", r.Name, plan != nil, p.scheduled())
	}
	return nil
}

// checkDue checks that a slot is the ring's, is due, and is not to be skipped.
func (r Ring) checkDue(slot, now time.Time, plan Plan) error {
	due, ok := r.DueSlot(now, plan)
	switch {
	case !ok || !due.Slot.Equal(slot):
		return invalidf("ring %s: slot %s is not due at %s", r.Name, SlotText(slot), SlotText(now))
	case due.Expired:
		return invalidf("ring %s: slot %s is more than %v old", r.Name, SlotText(slot), r.Policy.CatchUp())
	}
	return nil
}

// SkipSlot decides to give a slot up that is due and older than the policy's CatchUp.
func (r Ring) SkipSlot(slot, now time.Time, plan Plan) (Change, error) {
	if !r.lives() {
		return Change{}, ErrNotFound
	}
	due, ok := r.DueSlot(now, plan)
	if !ok || !due.Slot.Equal(slot) || !due.Expired {
		return Change{}, invalidf("ring %s: slot %s is not to be skipped at %s", r.Name, SlotText(slot), SlotText(now))
	}
	return decided(r, Change{
		Kind: SlotSkipped, Ring: r.Name, Version: r.Version, Slot: slot.UTC(), Missed: due.Missed,
		NextSlot: nextSlot(r.Policy, plan, slot, now, r.Rolled),
	})
}

// HoldSlot decides to note that the guard holds a slot that is due. The error wraps
// ErrInvalid where it does not, or where that is noted already.
func (r Ring) HoldSlot(slot, now time.Time, plan Plan, servers []Confirmation) (Change, error) {
	if !r.lives() {
		return Change{}, ErrNotFound
	}
	if err := r.checkDue(slot, now, plan); err != nil {
		return Change{}, err
	}
	if r.Held(servers) == nil {
		return Change{}, invalidf("ring %s: nothing holds slot %s", r.Name, SlotText(slot))
	}
	c := Change{Kind: RolloverHeld, Ring: r.Name, Version: r.Version, Slot: slot.UTC()}
	behind, _ := unconfirmed(running(servers), r.Changed)
	for _, b := range behind {
		c.HeldBy = append(c.HeldBy, b.Server)
	}
	c.HeldBy = append(c.HeldBy, r.AgentsBehind(servers)...)
	c.HeldBy = c.HeldBy[:min(len(c.HeldBy), maxHeldBy)]
	return decided(r, c)
}

// Holds reports whether the hold that is noted lasts: its slot still waits, and the
// guard holds it.
func (r Ring) Holds(servers []Confirmation) bool {
	return !r.Hold.IsZero() && r.Hold.Slot.Equal(r.NextSlot) && r.Held(servers) != nil
}

// EndHold decides to note that a hold has ended: everybody has confirmed, or the slot
// waits no more, because it was skipped, another rollover took its place, or the
// schedule has changed.
func (r Ring) EndHold(servers []Confirmation) (Change, error) {
	if !r.lives() || r.Hold.IsZero() {
		return Change{}, ErrNotFound
	}
	if r.Holds(servers) {
		return Change{}, invalidf("ring %s: slot %s is held", r.Name, SlotText(r.Hold.Slot))
	}
	return decided(r, Change{Kind: HoldEnded, Ring: r.Name, Version: r.Version, Slot: r.Hold.Slot})
}
