package keystore

import (
	"fmt"
	"slices"
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
	if r.IsZero() != (c.Kind == Created) {
		return Ring{}, invalidf("the ring is at version %d", r.Version)
	}
	next := r
	next.Keys = append(make([]Key, 0, len(r.Keys)+len(c.Made)), r.Keys...)
	next.Last = ref
	if c.Kind != PolicySet {
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
	switch c.Kind {
	case Created:
		return r.create(c, ref)
	case PolicySet:
		if c.Policy == nil || len(c.Made) != 0 || len(c.Destroyed) != 0 {
			return invalidf("wants a policy and no keys")
		}
		r.Policy = *c.Policy
		r.allowSessions()
		return nil
	case RolledOver:
		return r.rollOver(c, ref)
	case KeysDestroyed:
		if len(c.Destroyed) == 0 || len(c.Made) != 0 {
			return invalidf("destroys %d keys and makes %d", len(c.Destroyed), len(c.Made))
		}
		return r.destroy(c.Destroyed)
	}
	return invalidf("unknown kind of change")
}

func (r *Ring) create(c Change, ref EventRef) error {
	if _, err := ParseRingName(string(c.Ring)); err != nil {
		return err
	}
	if c.Policy == nil || len(c.Destroyed) != 0 {
		return invalidf("wants a policy and destroys nothing")
	}
	r.Name, r.Mode, r.Policy, r.Created = c.Ring, ModeDynamic, *c.Policy, ref.At
	for _, k := range c.Made {
		r.Keys = append(r.Keys, k.key(c.Version))
	}
	r.allowSessions()
	return nil
}

// allowSessions notes on the keys that seal, or may still seal, how long sessions may
// live by now.
func (r *Ring) allowSessions() {
	for i := range r.Keys {
		if k := &r.Keys[i]; k.Role == Current || k.Role == Old {
			k.Session = max(k.Session, r.Policy.MaxSession)
		}
	}
}

func (r *Ring) rollOver(c Change, ref EventRef) error {
	if len(c.Made) != 1 || c.Made[0].Role != Future {
		return invalidf("makes %d keys; want one, the future key", len(c.Made))
	}
	for i := range r.Keys {
		k := &r.Keys[i]
		switch k.Role {
		case Future:
			k.Role = Current
		case Current:
			k.Role, k.Retired, k.RetiredAt = Old, ref.N, ref.At
		}
	}
	r.allowSessions()
	r.Rolled = ref.At
	r.Keys = append(r.Keys, c.Made[0].key(c.Version))
	// Stable: the former current key stands before the older ones.
	slices.SortStableFunc(r.Keys, func(a, b Key) int { return place(a.Role) - place(b.Role) })
	return r.destroy(c.Destroyed)
}

// destroy takes old keys out.
func (r *Ring) destroy(kids []KID) error {
	for _, kid := range kids {
		i := slices.IndexFunc(r.Keys, func(k Key) bool { return k.KID == kid })
		if i < 0 {
			return invalidf("key %s is not in the ring", kid)
		}
		if role := r.Keys[i].Role; role != Old {
			return invalidf("key %s is the %s key; only old keys end", kid, role)
		}
		r.Keys = slices.Delete(r.Keys, i, i+1)
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
	var count [len(places)]int
	for i := range r.Keys {
		k := &r.Keys[i]
		at := place(k.Role)
		if at == 0 {
			return invalidf("key %s has no role (%d)", k.KID, uint8(k.Role))
		}
		count[k.Role]++
		for j := range i {
			if r.Keys[j].KID == k.KID {
				return invalidf("key %s is in the ring twice", k.KID)
			}
		}
		if i == 0 {
			continue
		}
		before := &r.Keys[i-1]
		if place(before.Role) > at || before.Role == Old && k.Role == Old && before.Retired < k.Retired {
			return invalidf("the %s key %s is out of order", k.Role, k.KID)
		}
	}
	for role := range Role(len(count)) {
		if role != Old && places[role] != 0 && count[role] != 1 {
			return invalidf("would have %d %s keys; want 1", count[role], role)
		}
	}
	if count[Old] > MaxOld {
		return invalidf("would have %d old keys; at most %d are allowed", count[Old], MaxOld)
	}
	return nil
}
