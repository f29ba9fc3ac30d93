package keystore

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Apply carries c out, as event ref, and returns the ring afterwards; for Created,
// r is the zero Ring. It never changes r, nor anything that r points to.
//
// Apply does not judge again what a rule decided: rules may grow stricter, and
// history must still replay. It refuses what no rule decides: a version out of
// turn, a kid that is there already, a key that is not there, the end of a key that
// seals. The error wraps ErrInvalid.
func (r Ring) Apply(c Change, ref EventRef) (Ring, error) {
	next, err := r.apply(c, ref)
	if err == nil {
		err = next.check()
	}
	if err != nil {
		return Ring{}, fmt.Errorf("ring %s: version %d: %s: %w", c.Ring, c.Version, c.Kind, err)
	}
	return next, nil
}

func (r Ring) apply(c Change, ref EventRef) (Ring, error) {
	if ref.N <= r.Last.N {
		return Ring{}, invalidf("event %d is not after event %d", ref.N, r.Last.N)
	}
	if !r.IsZero() && c.Ring != r.Name {
		return Ring{}, invalidf("is for another ring than %s", r.Name)
	}
	if r.lives() == (c.Kind == Created) {
		return Ring{}, invalidf("the ring is at version %d, deleted %t", r.Version, r.Deleted)
	}
	next := r
	next.Keys = append(make([]Key, 0, len(r.Keys)+len(c.Made)), r.Keys...)
	next.Last = ref
	if c.Kind.changesKeys() {
		next.Version++
		next.Changed = ref.N
	}
	if c.Version != next.Version {
		return Ring{}, invalidf("want version %d next", next.Version)
	}
	for _, k := range c.Made {
		if err := k.check(); err != nil {
			return Ring{}, err
		}
		if _, ok := r.Key(k.KID); ok {
			return Ring{}, invalidf("key %s is in the ring already", k.KID)
		}
	}
	return next, next.carryOut(c, ref)
}

// carryOut changes r, which is the caller's own copy.
func (r *Ring) carryOut(c Change, ref EventRef) error {
	if err := c.checkShape(); err != nil {
		return err
	}
	switch c.Kind {
	case Created:
		return r.create(c, ref)
	case PolicySet:
		r.lengthen(c.Policy.MaxSession)
		r.Policy, r.NextSlot = *c.Policy, c.NextSlot
		r.allowSessions()
	case RolledOver:
		return r.rollOver(c, ref)
	case KeysDestroyed:
		return r.destroyRetired(c.Destroyed)
	case Deleted:
		return r.delete(c)
	case Undone:
		return r.undo(c, ref)
	case KeyPublished:
		return r.publish(c, ref)
	case KeyActivated:
		return r.activate(c, ref)
	case ModeSet:
		return r.setMode(c, ref)
	case RolloverHeld:
		if !c.Slot.Equal(r.NextSlot) || c.Slot.Equal(r.Hold.Slot) {
			return invalidf("slot %s is not the next one, or is held already", SlotText(c.Slot))
		}
		r.Hold = Hold{Slot: c.Slot, Since: ref.At, By: c.HeldBy}
	case HoldEnded:
		if !c.Slot.Equal(r.Hold.Slot) {
			return invalidf("slot %s is not held", SlotText(c.Slot))
		}
		r.Hold = Hold{}
	case IncidentClosed:
		if r.Incident.N == 0 {
			return invalidf("no incident is open")
		}
		r.Incident = EventRef{}
	case SlotSkipped:
		if !c.Slot.Equal(r.NextSlot) {
			return invalidf("slot %s is not the next one", SlotText(c.Slot))
		}
		r.NextSlot, r.Answered = c.NextSlot, c.Slot
	}
	return nil
}

// checkShape checks that a change has what its kind wants, and nothing that would
// change what its kind does not.
func (c *Change) checkShape() error {
	policy, made, destroyed, slot, restored := false, false, false, false, false
	switch c.Kind {
	case Created:
		policy, made = true, true
	case PolicySet:
		policy = true
	case RolledOver:
		made, destroyed, slot = true, len(c.Destroyed) > 0, c.Trigger == Scheduled
	case KeysDestroyed, Deleted:
		destroyed = true
	case Undone:
		restored = true
	case RolloverHeld, HoldEnded, SlotSkipped:
		slot = true
	case KeyPublished:
		made = true
	case IncidentClosed, KeyActivated, ModeSet:
	default:
		return invalidf("unknown kind of change")
	}
	for _, part := range []struct {
		name       string
		want, have bool
	}{
		{"a policy", policy, c.Policy != nil}, {"new keys", made, len(c.Made) > 0},
		{"destroyed keys", destroyed, len(c.Destroyed) > 0}, {"a slot", slot, !c.Slot.IsZero()},
		{"a restored key", restored, c.Restored != KID{}},
		{"activated keys", c.Kind == KeyActivated && len(c.Activated) > 0, len(c.Activated) > 0},
		{"a mode", c.Kind == ModeSet || c.Kind == KeyActivated && c.Mode != 0, c.Mode != 0},
	} {
		if part.want != part.have {
			return invalidf("has %s: %t; want %t", part.name, part.have, part.want)
		}
	}
	return nil
}

func (r *Ring) create(c Change, ref EventRef) error {
	if _, err := ParseRingName(string(c.Ring)); err != nil {
		return err
	}
	*r = Ring{
		Name: c.Ring, Version: r.Version, Mode: ModeDynamic, Policy: *c.Policy, Created: ref.At,
		Changed: r.Changed, Last: ref, NextSlot: c.NextSlot,
	}
	for _, k := range c.Made {
		r.Keys = append(r.Keys, k.key(c.Version))
	}
	r.allowSessions()
	return nil
}

// delete leaves the ring's name and version.
func (r *Ring) delete(c Change) error {
	if err := r.destroy(c.Destroyed, Current, Old, Future, Static, SessionTicket); err != nil {
		return err
	}
	*r = Ring{Name: r.Name, Version: r.Version, Created: r.Created, Changed: r.Changed, Last: r.Last, Keys: r.Keys, Deleted: true}
	return nil
}

// allowSessions notes on the keys that seal, or may still seal, how long sessions may
// live by now.
func (r *Ring) allowSessions() {
	for i := range r.Keys {
		k := &r.Keys[i]
		seals := k.Role == Current || k.Role == Old ||
			k.Role == SessionTicket && k.seals() || k.Role == Static && r.Mode == ModeStatic && k.seals()
		if seals {
			k.Session = max(k.Session, r.Policy.MaxSession)
		}
	}
}

func (r *Ring) rollOver(c Change, ref EventRef) error {
	roles, ends, err := c.rolls()
	if err != nil {
		return err
	}
	if len(c.Made) < len(roles) {
		return invalidf("makes %d keys; want %d", len(c.Made), len(roles))
	}
	for i, k := range c.Made {
		if i < len(roles) && k.Role != roles[i] || i >= len(roles) && (c.Trigger != Emergency || k.Role != Static && k.Role != SessionTicket) {
			return invalidf("makes a %s key in place %d", k.Role, i+1)
		}
	}
	former := r.ByRole(Current)
	if c.Trigger == Emergency { // before roles change: all of them end
		if err := r.destroy(c.Destroyed, ends...); err != nil {
			return err
		}
	}
	for i := range r.Keys {
		switch k := &r.Keys[i]; {
		case k.Role == Future && (c.Trigger == Manual || c.Trigger == Scheduled):
			k.Role = Current
		case k.Role == Current:
			k.Role, k.Retired, k.RetiredAt = Old, ref.N, ref.At
		}
	}
	r.Former, r.Incident = KID{}, openIncident(r.Incident, c, ref)
	if c.Trigger != Emergency {
		r.Former = former[0].KID
		if err := r.destroy(c.Destroyed, ends...); err != nil {
			return err
		}
	}
	for _, k := range c.Made {
		r.Keys = append(r.Keys, k.key(c.Version))
	}
	r.Rolled, r.NextSlot = ref.At, c.NextSlot
	if c.Trigger == Scheduled {
		r.Answered = c.Slot
	}
	r.order()
	r.allowSessions()
	return nil
}

// rolls returns the roles of the keys that every rollover by this trigger makes, and
// those of the keys that it may destroy.
func (c *Change) rolls() (made, destroyed []Role, err error) {
	switch c.Trigger {
	case Manual, Scheduled:
		return []Role{Future}, []Role{Old}, nil
	case Fresh:
		return []Role{Current, Future}, []Role{Old, Future}, nil
	case Emergency:
		return []Role{Current, Future}, []Role{Current, Old, Future, Static, SessionTicket}, nil
	}
	return nil, nil, invalidf("is a rollover by %s", c.Trigger)
}

func openIncident(open EventRef, c Change, ref EventRef) EventRef {
	if c.Trigger == Emergency {
		return ref
	}
	return open
}

// undo exchanges the current key for the one that it took the place of.
func (r *Ring) undo(c Change, ref EventRef) error {
	if c.Restored != r.Former {
		return invalidf("key %s was not current before the last rollover", c.Restored)
	}
	for i := range r.Keys {
		switch k := &r.Keys[i]; {
		case k.Role == Current:
			k.Role, k.Retired, k.RetiredAt = Old, ref.N, ref.At
		case k.KID == c.Restored:
			k.Role, k.Retired, k.RetiredAt = Current, 0, time.Time{}
		}
	}
	r.Former = KID{}
	r.order()
	return nil
}

// order puts the keys where their roles stand: old keys with the newest first.
func (r *Ring) order() {
	slices.SortStableFunc(r.Keys, func(a, b Key) int {
		return cmp.Or(place(a.Role)-place(b.Role), a.stands()-b.stands(), cmp.Compare(b.Retired, a.Retired))
	})
}

// destroyRetired takes keys out that nothing is sealed with any more.
func (r *Ring) destroyRetired(kids []KID) error {
	for _, kid := range kids {
		if k, ok := r.Key(kid); ok && k.Role != Old && k.Retired == 0 {
			return invalidf("key %s is the %s key; only old and former keys end", kid, k.Role)
		}
	}
	return r.destroy(kids, Old, Static, SessionTicket)
}

// destroy takes keys of these roles out.
func (r *Ring) destroy(kids []KID, roles ...Role) error {
	for _, kid := range kids {
		i := slices.IndexFunc(r.Keys, func(k Key) bool { return k.KID == kid })
		if i < 0 {
			return invalidf("key %s is not in the ring", kid)
		}
		if role := r.Keys[i].Role; !slices.Contains(roles, role) {
			return invalidf("key %s is the %s key; this ends only keys with roles of %v", kid, role, roles)
		}
		r.Keys = slices.Delete(r.Keys, i, i+1)
		if kid == r.Former {
			r.Former = KID{}
		}
	}
	return nil
}

// places is where a role stands in Ring.Keys; 0 is for what is no role.
var places = [...]int{Current: 1, Old: 2, Future: 3, Static: 4, SessionTicket: 5}

func place(r Role) int {
	if int(r) < len(places) {
		return places[r]
	}
	return 0
}

// check reports what is wrong with the ring as a whole: one key of each role but
// old, unique kids, the order of Keys. Every event of a history comes through here,
// so it makes nothing: a ring's few keys are compared with each other.
func (r Ring) check() error {
	var count, pending [len(places)]int
	for i := range r.Keys {
		k := &r.Keys[i]
		at := place(k.Role)
		if at == 0 {
			return invalidf("key %s has no role (%d)", k.KID, uint8(k.Role))
		}
		switch {
		case k.Role != Static && k.Role != SessionTicket || k.seals():
			count[k.Role]++
		case k.Pending:
			pending[k.Role]++
		}
		for j := range i {
			if r.Keys[j].KID == k.KID {
				return invalidf("key %s is in the ring twice", k.KID)
			}
		}
		if i == 0 {
			continue
		}
		before := &r.Keys[i-1]
		if cmp.Or(place(before.Role)-at, before.stands()-k.stands(), cmp.Compare(k.Retired, before.Retired)) > 0 {
			return invalidf("the %s key %s is out of order", k.Role, k.KID)
		}
	}
	if r.Deleted {
		if len(r.Keys) > 0 {
			return invalidf("would leave %d keys of a deleted ring", len(r.Keys))
		}
		return nil
	}
	for role := range Role(len(count)) {
		if role != Old && places[role] != 0 && count[role] != 1 {
			return invalidf("would have %d %s keys; want 1", count[role], role)
		}
	}
	for role, n := range pending {
		if n > 1 {
			return invalidf("would have %d pending %s keys; at most 1 is allowed", n, Role(role))
		}
	}
	if count[Old] > MaxOld {
		return invalidf("would have %d old keys; at most %d are allowed", count[Old], MaxOld)
	}
	return nil
}
