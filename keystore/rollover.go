package keystore

import (
	"slices"
	"time"
)

// A Confirmation is what one registered policy server has confirmed.
type Confirmation struct {
	Server, Region string
	Applied        N   // the newest event of the key store that it has applied, on its disk; 0 = none
	Lacking        int // agents connected to it that have not been given Applied
	// Agents says of hosts, which event of the key store all their agents that it feeds
	// have applied, by their own word; 0 = not all have said so. Silent: the server has not
	// been heard of lately, so that those agents may be fed by another by now.
	Agents map[string]N
	// Revoked are hosts that the server knows to be no more: their agents hold nothing.
	Revoked   []string
	Silent    bool
	Excluded  bool // holds nothing up until it confirms again
	Forgotten bool // gone for good
	// Stopped in order: no rollover waits for it until it is back. The end of old keys
	// and of incidents does: once it is back it feeds at once, before it knows better,
	// and its agents seal with what it had.
	Stopped bool
}

// A Rollover is a request to roll a ring over.
type Rollover struct {
	Trigger       Trigger
	Slot          time.Time      // the slot of a Scheduled rollover; otherwise zero
	Future        NewKey         // the ring's next future key
	Current       NewKey         // Fresh and Emergency: the next current key, too
	Static        NewKey         // Emergency: if set, the static key's successor
	SessionTicket NewKey         // Emergency: if set, the session ticket key's successor
	Now           time.Time      // the decider's clock; of a Scheduled rollover, the reference
	Plan          Plan           // of the ring's schedule; nil: it has none
	Force         bool           // an administrator overrides min_interval and the guard
	PastAgents    bool           // of a Scheduled rollover: the policy's MaxHold is over, and its GuardAgents hold it no more
	Servers       []Confirmation // every registered server, the decider included
}

// Rollover decides a rollover. By Manual and Scheduled, the future key becomes
// current, the current key the newest old one, and req.Future is the new future key.
//
// By Fresh, the current and the future key are new, the former current key is the
// newest old one, and the former future key is destroyed: nothing was ever sealed with
// it, so nobody is logged out, and whoever stole it can seal nothing that opens.
//
// By Emergency, both are new and every other dynamic key is destroyed, and the static
// and session ticket keys that req has successors for: all that they sealed is refused
// from then on.
//
// It is refused with a *TooSoonError within min_interval, a *HeldError until every
// server that is neither excluded nor forgotten has confirmed the ring's present
// keys, and a *FullError when there would be more than MaxOld old keys. Force
// overrides the first two; Change.Forced says whether it had to. A slot is never too
// soon, because min_interval was counted when it was committed; and nothing but a
// wrong request refuses an Emergency.
func (r Ring) Rollover(req Rollover) (Change, error) {
	if err := r.checkRequest(req); err != nil {
		return Change{}, err
	}
	c := Change{
		Kind: RolledOver, Ring: r.Name, Version: r.Version + 1, Trigger: req.Trigger,
		Made: req.made(), Missed: r.missed(req.Now, req.Plan),
	}
	last := req.Now
	if req.Trigger == Scheduled {
		last, c.Slot = req.Slot, req.Slot.UTC()
		c.Missed-- // the one that it answers
	}
	// Never back: a decider whose clock is behind would else commit a slot again that
	// was answered already.
	c.NextSlot = latest(nextSlot(r.Policy, req.Plan, last, req.Now, req.Now), r.NextSlot)
	if req.Trigger == Emergency {
		c.Destroyed = r.compromised(req)
		return decided(r, c)
	}
	for _, refusal := range r.refusals(req) {
		if !req.Force {
			return Change{}, refusal
		}
		c.Forced = true
	}
	old := r.ByRole(Old)
	c.Destroyed = r.surplus(old, req, c.Forced)
	if len(old)+1-len(c.Destroyed) > MaxOld {
		oldest := old[len(old)-1]
		return Change{}, &FullError{
			Ring: r.Name, Old: len(old), MaxSession: oldest.Session,
			Free: oldest.RetiredAt.Add(oldest.Session + RetainMargin),
		}
	}
	if req.Trigger == Fresh {
		for _, k := range r.ByRole(Future) {
			c.Destroyed = append(c.Destroyed, k.KID)
		}
	}
	return decided(r, c)
}

// made are the keys that a rollover brings, in the order of their roles.
func (req Rollover) made() []MadeKey {
	var made []MadeKey
	if req.Trigger == Fresh || req.Trigger == Emergency {
		made = append(made, req.Current.made(Current))
	}
	made = append(made, req.Future.made(Future))
	for _, more := range []struct {
		key  NewKey
		role Role
	}{{req.Static, Static}, {req.SessionTicket, SessionTicket}} {
		if more.key != (NewKey{}) {
			made = append(made, more.key.made(more.role))
		}
	}
	return made
}

// compromised are the keys that an emergency rollover destroys.
func (r Ring) compromised(req Rollover) []KID {
	var kids []KID
	for _, k := range r.Keys {
		if k.Role == Static && req.Static == (NewKey{}) || k.Role == SessionTicket && req.SessionTicket == (NewKey{}) {
			continue
		}
		kids = append(kids, k.KID)
	}
	return kids
}

// surplus returns the old keys that end with a rollover, because the policy
// keeps a number of them. A key stays, and ends by age, while a session may live
// that it sealed under a longer max_session than the policy's; and so does any key
// whose sessions may live, unless the policy or the rollover was forced: it was said
// then that users would be logged out.
func (r Ring) surplus(old []Key, req Rollover, forced bool) []KID {
	keep := int(r.Policy.Retain)
	if r.Policy.Retain == RetainAuto || len(old) < keep {
		return nil
	}
	forced = forced || r.Policy.logsOut(req.Plan)
	var kids []KID
	for _, k := range old[keep-1:] { // the present current key is the newest of the keep
		live := req.Now.Before(k.RetiredAt.Add(k.Session))
		if !live || forced && k.Session <= r.Policy.MaxSession {
			kids = append(kids, k.KID)
		}
	}
	return kids
}

func (r Ring) checkRequest(req Rollover) error {
	none := NewKey{}
	switch {
	case !r.lives():
		return ErrNotFound
	case req.Trigger < Manual || req.Trigger > Emergency:
		return invalidf("ring %s: rollover by %s", r.Name, req.Trigger)
	case (req.Trigger == Scheduled) != !req.Slot.IsZero():
		return invalidf("ring %s: %s rollover with slot %q", r.Name, req.Trigger, SlotText(req.Slot))
	case req.Now.IsZero():
		return invalidf("ring %s: rollover without the time", r.Name)
	case req.Trigger != Emergency && (req.Static != none || req.SessionTicket != none):
		return invalidf("ring %s: %s rollover of static or session ticket keys", r.Name, req.Trigger)
	case req.Trigger <= Scheduled && req.Current != none:
		return invalidf("ring %s: %s rollover with a new current key", r.Name, req.Trigger)
	}
	if err := r.checkPlan(r.Policy, req.Plan); err != nil {
		return err
	}
	if req.Trigger == Scheduled {
		return r.checkDue(req.Slot, req.Now, req.Plan)
	}
	return nil
}

// refusals are those that force overrides.
func (r Ring) refusals(req Rollover) []Refusal {
	var refusals []Refusal
	if soon := r.tooSoon(req); soon != nil {
		refusals = append(refusals, soon)
	}
	if req.PastAgents && req.Trigger == Scheduled {
		r.Policy.GuardAgents = ""
	}
	if held := r.Held(req.Servers); held != nil {
		refusals = append(refusals, held)
	}
	return refusals
}

// tooSoon returns nil when min_interval allows a rollover. A ring that has not
// rolled over yet may at once.
func (r Ring) tooSoon(req Rollover) *TooSoonError {
	if r.Rolled.IsZero() || req.Trigger == Scheduled || req.Now.Sub(r.Rolled) >= r.Policy.MinInterval {
		return nil
	}
	return &TooSoonError{Ring: r.Name, Last: r.Rolled, Now: req.Now, MinInterval: r.Policy.MinInterval}
}

// Held is the guard. It returns nil when every server that counts has confirmed the
// ring's keys, and at least one counts: no confirmation at all proves nothing. So must
// the agents have that the policy names.
func (r Ring) Held(servers []Confirmation) *HeldError {
	behind, confirmed := unconfirmed(running(servers), r.Changed)
	agents := r.AgentsBehind(servers)
	if confirmed > 0 && len(behind) == 0 && len(agents) == 0 {
		return nil
	}
	return &HeldError{Ring: r.Name, Version: r.Version, Behind: behind, Agents: agents}
}

// AgentsBehind lists the hosts of the policy's GuardAgents that have not confirmed the
// ring's keys: no server knows of an agent of theirs that has, or one that counts and is
// heard of feeds one that has not. As with servers, a confirmation stands when who gave it
// is cut off: an agent never goes back. A host that is revoked has no agents to wait for.
func (r Ring) AgentsBehind(servers []Confirmation) (hosts []string) {
	for _, host := range r.Policy.Agents() {
		confirmed, lacks, revoked := false, false, false
		for _, s := range servers {
			n, known := s.Agents[host]
			revoked = revoked || slices.Contains(s.Revoked, host)
			switch {
			case !known || s.Forgotten:
			case n >= r.Changed:
				confirmed = true
			case !s.Silent && !s.Stopped && !s.Excluded:
				lacks = true
			}
		}
		if !revoked && (lacks || !confirmed) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// running leaves out the servers that ended in order: a rollover does not wait for
// them, an incident does.
func running(servers []Confirmation) []Confirmation {
	return slices.DeleteFunc(slices.Clone(servers), func(s Confirmation) bool { return s.Stopped })
}

// unconfirmed lists the servers that count and have not confirmed event n, and says
// how many have.
func unconfirmed(servers []Confirmation, n N) (behind []Behind, confirmed int) {
	for _, s := range servers {
		switch {
		case s.Excluded || s.Forgotten:
		case s.Applied >= n:
			confirmed++
		default:
			behind = append(behind, Behind{Server: s.Server, Region: s.Region, Applied: s.Applied, Needs: n})
		}
	}
	return behind, confirmed
}

// Undo decides that the key which was current before the last rollover is so again.
// The present current key becomes the newest old one, and opens what it has sealed;
// the future key stays. So a key that has sealed never becomes a future key again, and
// every server has the restored one: as its old key, or still as its current one.
// Neither slots nor min_interval count from it.
//
// It is refused with an *UndoError when there is nothing to undo: before the first
// rollover, after an undo or an emergency rollover, and once that key is destroyed.
func (r Ring) Undo() (Change, error) {
	if !r.lives() {
		return Change{}, ErrNotFound
	}
	if r.Former == (KID{}) {
		return Change{}, &UndoError{Ring: r.Name, Rolled: r.Rolled}
	}
	return decided(r, Change{Kind: Undone, Ring: r.Name, Version: r.Version + 1, Restored: r.Former})
}

// Delete decides the end of the ring and of all its keys. Sessions that they sealed
// end. While hosts are granted the ring it is refused with a *GrantedError, which
// force overrides.
func (r Ring) Delete(granted []string, force bool) (Change, error) {
	if !r.lives() {
		return Change{}, ErrNotFound
	}
	if len(granted) > 0 && !force {
		return Change{}, &GrantedError{Ring: r.Name, Hosts: granted}
	}
	c := Change{Kind: Deleted, Ring: r.Name, Version: r.Version + 1, Forced: len(granted) > 0}
	for _, k := range r.Keys {
		c.Destroyed = append(c.Destroyed, k.KID)
	}
	return decided(r, c)
}

// Unconfirmed lists the servers that have not confirmed the emergency rollover of the
// open incident, and counts the agents connected to the others that have not been given
// it.
func (r Ring) Unconfirmed(servers []Confirmation) (behind []Behind, lacking int) {
	if r.Incident.N == 0 {
		return nil, 0
	}
	behind, _ = unconfirmed(servers, r.Incident.N)
	for _, s := range servers {
		if !s.Excluded && !s.Forgotten && s.Applied >= r.Incident.N {
			lacking += s.Lacking
		}
	}
	return behind, lacking
}

// CloseIncident decides that everybody has confirmed the emergency rollover. It is
// refused with a *HeldError while that is not so.
func (r Ring) CloseIncident(servers []Confirmation) (Change, error) {
	if !r.lives() || r.Incident.N == 0 {
		return Change{}, ErrNotFound
	}
	behind, lacking := r.Unconfirmed(servers)
	if _, confirmed := unconfirmed(servers, r.Incident.N); len(behind) > 0 || lacking > 0 || confirmed == 0 {
		return Change{}, &HeldError{Ring: r.Name, Version: r.Version, Behind: behind}
	}
	return decided(r, Change{Kind: IncidentClosed, Ring: r.Name, Version: r.Version})
}
