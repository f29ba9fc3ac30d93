package keystore

import (
	"slices"
	"time"
)

// Create decides a new ring: version 1, in dynamic mode, with its first four keys.
// The error wraps ErrInvalid or, for a policy that would log users out, is a
// *RetainError.
func Create(name RingName, p Policy, keys FirstKeys) (Change, error) {
	if _, err := ParseRingName(string(name)); err != nil {
		return Change{}, err
	}
	if err := p.Check(); err != nil {
		return Change{}, err
	}
	c := Change{Kind: Created, Ring: name, Version: 1, Policy: &p, Made: []MadeKey{
		keys.Current.made(Current), keys.Future.made(Future),
		keys.Static.made(Static), keys.SessionTicket.made(SessionTicket),
	}}
	return decided(Ring{}, c)
}

// A Confirmation is what one registered policy server has confirmed.
type Confirmation struct {
	Server, Region string
	Applied        N    // the newest event of the key store that it has applied, on its disk; 0 = none
	Excluded       bool // holds nothing up until it confirms again
	Forgotten      bool // gone for good
}

// A Rollover is a request to roll a ring over.
type Rollover struct {
	Trigger Trigger
	Slot    string         // the slot of a Scheduled rollover; otherwise empty
	Future  NewKey         // the ring's next future key
	Now     time.Time      // the decider's clock
	Force   bool           // an administrator overrides min_interval and the guard
	Servers []Confirmation // every registered server, the decider included
}

// Rollover decides a rollover: the future key becomes current, the current key the
// newest old one, and req.Future is the new future key.
//
// It is refused with a *TooSoonError within min_interval, a *HeldError until every
// server that is neither excluded nor forgotten has confirmed the ring's present
// keys, and a *FullError when there would be more than MaxOld old keys. Force
// overrides the first two; Change.Forced says whether it had to.
func (r Ring) Rollover(req Rollover) (Change, error) {
	if err := r.checkRequest(req); err != nil {
		return Change{}, err
	}
	c := Change{
		Kind: RolledOver, Ring: r.Name, Version: r.Version + 1, Trigger: req.Trigger, Slot: req.Slot,
		Made: []MadeKey{req.Future.made(Future)},
	}
	for _, refusal := range []Refusal{r.tooSoon(req.Now), r.held(req.Servers)} {
		if refusal == nil {
			continue
		}
		if !req.Force {
			return Change{}, refusal
		}
		c.Forced = true
	}
	old := r.ByRole(Old)
	c.Destroyed = r.surplus(old, req.Now, c.Forced)
	if len(old)+1-len(c.Destroyed) > MaxOld {
		oldest := old[len(old)-1]
		return Change{}, &FullError{
			Ring: r.Name, Old: len(old), MaxSession: oldest.Session,
			Free: oldest.RetiredAt.Add(oldest.Session + RetainMargin),
		}
	}
	return decided(r, c)
}

// surplus returns the old keys that end with a rollover at now, because the policy
// keeps a number of them. A key stays, and ends by age, while a session may live
// that it sealed under a longer max_session than the policy's; and so does any key
// whose sessions may live, unless the policy or the rollover was forced: it was said
// then that users would be logged out.
func (r Ring) surplus(old []Key, now time.Time, forced bool) []KID {
	keep := int(r.Policy.Retain)
	if r.Policy.Retain == RetainAuto || len(old) < keep {
		return nil
	}
	forced = forced || r.Policy.logsOut()
	var kids []KID
	for _, k := range old[keep-1:] { // the present current key is the newest of the keep
		live := now.Before(k.RetiredAt.Add(k.Session))
		if !live || forced && k.Session <= r.Policy.MaxSession {
			kids = append(kids, k.KID)
		}
	}
	return kids
}

func (r Ring) checkRequest(req Rollover) error {
	switch {
	case r.IsZero():
		return ErrNotFound
	case req.Trigger != Manual && req.Trigger != Scheduled:
		return invalidf("ring %s: rollover by %s", r.Name, req.Trigger)
	case (req.Trigger == Scheduled) != (req.Slot != ""):
		return invalidf("ring %s: %s rollover with slot %q", r.Name, req.Trigger, req.Slot)
	case req.Now.IsZero():
		return invalidf("ring %s: rollover without the time", r.Name)
	}
	return nil
}

// tooSoon returns nil when min_interval allows a rollover. A ring that has not
// rolled over yet may at once.
func (r Ring) tooSoon(now time.Time) Refusal {
	if r.Rolled.IsZero() || now.Sub(r.Rolled) >= r.Policy.MinInterval {
		return nil
	}
	return &TooSoonError{Ring: r.Name, Last: r.Rolled, Now: now, MinInterval: r.Policy.MinInterval}
}

// held returns nil when every server that counts has confirmed the ring's keys,
// and at least one counts: no confirmation at all proves nothing.
func (r Ring) held(servers []Confirmation) Refusal {
	held := &HeldError{Ring: r.Name, Version: r.Version}
	confirmed := 0
	for _, s := range servers {
		switch {
		case s.Excluded || s.Forgotten:
		case s.Applied >= r.Changed:
			confirmed++
		default:
			held.Behind = append(held.Behind, Behind{Server: s.Server, Region: s.Region, Applied: s.Applied, Needs: r.Changed})
		}
	}
	if confirmed > 0 && len(held.Behind) == 0 {
		return nil
	}
	return held
}

// SetPolicy decides a new policy. It changes neither the keys nor the version. The
// error is that of Policy.Check.
func (r Ring) SetPolicy(p Policy) (Change, error) { return r.setPolicy(p, false) }

// ForcePolicy decides as SetPolicy does, but takes a policy that may log users out.
func (r Ring) ForcePolicy(p Policy) (Change, error) { return r.setPolicy(p, true) }

func (r Ring) setPolicy(p Policy, force bool) (Change, error) {
	if r.IsZero() {
		return Change{}, ErrNotFound
	}
	c := Change{Kind: PolicySet, Ring: r.Name, Version: r.Version, Policy: &p}
	if err := p.Check(); err != nil {
		if !force || p.invalid() != nil {
			return Change{}, err
		}
		c.Forced = true
	}
	return decided(r, c)
}

// Due returns the old keys whose retention is over at now, in the ring's order.
// confirmed says when every server that is neither excluded nor forgotten had
// confirmed event n, by the caller's own count of time, and false if not all have.
//
// With RetainAuto a key is due max_session and RetainMargin after all servers
// confirmed the event that retired it: none of them has sealed with it since. If
// max_session was longer at any time since it became current, that counts. With a number only keys
// beyond that number are ever due, and not before that time either; a rollover may
// destroy them sooner.
func (r Ring) Due(now time.Time, confirmed func(N) (time.Time, bool)) []KID {
	var due []KID
	for i, k := range r.ByRole(Old) {
		if r.Policy.Retain != RetainAuto && i < int(r.Policy.Retain) {
			continue
		}
		at, ok := confirmed(k.Retired)
		if ok && k.Retired != 0 && !now.Before(at.Add(k.Session+RetainMargin)) {
			due = append(due, k.KID)
		}
	}
	return due
}

// Destroy decides the end of old keys. Keys of any other role are refused: they
// seal, or will. It does not ask whether they are due: that is Due's.
func (r Ring) Destroy(kids []KID) (Change, error) {
	if r.IsZero() {
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
