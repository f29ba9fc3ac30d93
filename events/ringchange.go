package events

import (
	"fmt"
	"time"

	"github.com/keytide/keytide/keystore"
)

const (
	maxMade = 8
	maxSlot = 64
)

var ringTypes = map[keystore.ChangeKind]Type{
	keystore.Created: TypeRingCreated, keystore.PolicySet: TypeRingPolicySet,
	keystore.RolledOver: TypeRollover, keystore.KeysDestroyed: TypeKeysDestroyed,
}

func ringKind(t Type) keystore.ChangeKind {
	switch t {
	case TypeRingCreated:
		return keystore.Created
	case TypeRingPolicySet:
		return keystore.PolicySet
	case TypeRollover:
		return keystore.RolledOver
	case TypeKeysDestroyed:
		return keystore.KeysDestroyed
	}
	return 0
}

// EncodeRingChange packs a ring's change as the payload of an event, and returns the
// event's type. The error wraps keystore.ErrInvalid.
func EncodeRingChange(c keystore.Change) (Type, []byte, error) {
	t, ok := ringTypes[c.Kind]
	if !ok {
		return 0, nil, invalid("ring %s: no event for a change of kind %d", c.Ring, uint8(c.Kind))
	}
	var p packer
	top := p.begin()
	p.kids("destroyed", c.Destroyed, keystore.MaxOld)
	p.bool("forced", c.Forced)
	p.array("made", len(c.Made), maxMade)
	for _, k := range c.Made {
		made := p.begin()
		p.time("created", k.Created)
		p.fixed("kid", k.KID[:])
		p.uint("role", uint64(k.Role))
		p.end(made)
	}
	if c.Policy != nil {
		p.policy("policy", *c.Policy)
	}
	p.name("ring", string(c.Ring))
	p.str("slot", c.Slot, maxSlot)
	p.uint("trigger", uint64(c.Trigger))
	p.uint("version", uint64(c.Version))
	p.end(top)
	payload, err := p.done()
	if err != nil {
		return 0, nil, fmt.Errorf("ring %s: %w", c.Ring, err)
	}
	return t, payload, nil
}

func (p *packer) policy(key string, policy keystore.Policy) {
	if policy.Retain < 0 {
		p.fail("retain: %d", int(policy.Retain))
		return
	}
	p.field(key)
	outer := p.begin()
	p.duration("max_session", policy.MaxSession)
	p.duration("min_interval", policy.MinInterval)
	p.uint("retain", uint64(policy.Retain))
	p.end(outer)
}

// DecodeRingChange takes the payload of an event of this type apart. The error wraps
// ErrMalformed, or is an *UnknownTypeError.
func DecodeRingChange(t Type, payload []byte) (keystore.Change, error) {
	c := keystore.Change{Kind: ringKind(t)}
	if c.Kind == 0 {
		return keystore.Change{}, &UnknownTypeError{Type: t}
	}
	r := reader{b: payload}
	for f := r.fields(); f.next(); {
		switch string(f.key) {
		case "destroyed":
			c.Destroyed = f.kids(keystore.MaxOld)
		case "forced":
			c.Forced = f.bool()
		case "made":
			c.Made = f.made()
		case "policy":
			policy := f.policy()
			c.Policy = &policy
		case "ring":
			c.Ring = keystore.RingName(f.name())
		case "slot":
			c.Slot = f.str(maxSlot)
		case "trigger":
			c.Trigger = keystore.Trigger(f.uint(1<<8 - 1))
		case "version":
			c.Version = keystore.Version(f.uint(1<<64 - 1))
		default:
			r.skip()
		}
	}
	if err := r.end(); err != nil {
		return keystore.Change{}, fmt.Errorf("%s: %w", t, err)
	}
	if c.Ring == "" {
		return keystore.Change{}, malformed("%s: no ring", t)
	}
	return c, nil
}

func (f *fields) made() []keystore.MadeKey {
	n := f.array(maxMade)
	made := make([]keystore.MadeKey, n)
	for i := range made {
		k := &made[i]
		for in := f.r.fields(); in.next(); {
			switch string(in.key) {
			case "created":
				k.Created = in.time()
			case "kid":
				in.fixed(k.KID[:])
			case "role":
				k.Role = keystore.Role(in.uint(1<<8 - 1))
			default:
				in.r.skip()
			}
		}
	}
	return made
}

// maxRetain bounds what a policy may hold; its rules are keystore's.
const maxRetain = 1 << 16

func (f *fields) policy() keystore.Policy {
	var p keystore.Policy
	for in := f.r.fields(); in.next(); {
		switch string(in.key) {
		case "max_session":
			p.MaxSession = in.duration()
		case "min_interval":
			p.MinInterval = in.duration()
		case "retain":
			p.Retain = keystore.Retain(in.uint(maxRetain))
		default:
			in.r.skip()
		}
	}
	return p
}

// EncodeRing packs a ring's state, as ring.<name> holds it. The error wraps
// keystore.ErrInvalid.
func EncodeRing(ring keystore.Ring) ([]byte, error) {
	var p packer
	top := p.begin()
	p.uint("changed", uint64(ring.Changed))
	p.time("created", ring.Created)
	p.array("keys", len(ring.Keys), maxRingKeys)
	for _, k := range ring.Keys {
		p.ringKey(k)
	}
	p.ref("last", ring.Last)
	p.uint("mode", uint64(ring.Mode))
	p.name("name", string(ring.Name))
	p.policy("policy", ring.Policy)
	p.time("rolled", ring.Rolled)
	p.uint("version", uint64(ring.Version))
	p.end(top)
	return p.done()
}

const (
	maxRingKeys = 96
	maxTypeWord = 64
	ulidLength  = 26
)

func (p *packer) ringKey(k keystore.Key) {
	outer := p.begin()
	p.time("created", k.Created)
	p.uint("generation", uint64(k.Generation))
	p.fixed("kid", k.KID[:])
	p.bool("pending", k.Pending)
	p.uint("retired", uint64(k.Retired))
	p.time("retired_at", k.RetiredAt)
	p.uint("role", uint64(k.Role))
	p.duration("session", k.Session)
	p.end(outer)
}

func (p *packer) ref(key string, ref keystore.EventRef) {
	if ref == (keystore.EventRef{}) {
		return
	}
	p.field(key)
	outer := p.begin()
	p.time("at", ref.At)
	p.str("id", ref.ID, ulidLength)
	p.uint("n", uint64(ref.N))
	p.str("type", ref.Type, maxTypeWord)
	p.end(outer)
}

// DecodeRing takes a ring's state apart. The error wraps ErrMalformed.
func DecodeRing(value []byte) (keystore.Ring, error) {
	r := valueReader(value)
	var ring keystore.Ring
	hasPolicy := false
	for f := r.fields(); f.next(); {
		switch string(f.key) {
		case "changed":
			ring.Changed = keystore.N(f.uint(1<<64 - 1))
		case "created":
			ring.Created = f.time()
		case "keys":
			ring.Keys = f.ringKeys()
		case "last":
			ring.Last = f.ref()
		case "mode":
			ring.Mode = keystore.Mode(f.uint(1<<8 - 1))
		case "name":
			ring.Name = keystore.RingName(f.name())
		case "policy":
			ring.Policy, hasPolicy = f.policy(), true
		case "rolled":
			ring.Rolled = f.time()
		case "version":
			ring.Version = keystore.Version(f.uint(1<<64 - 1))
		default:
			r.skip()
		}
	}
	if err := r.end(); err != nil {
		return keystore.Ring{}, fmt.Errorf("ring: %w", err)
	}
	if !hasPolicy {
		return keystore.Ring{}, malformed("ring: no policy") // it is packed even when it is empty
	}
	return ring, nil
}

func (f *fields) ringKeys() []keystore.Key {
	keys := make([]keystore.Key, f.array(maxRingKeys))
	for i := range keys {
		k := &keys[i]
		for in := f.r.fields(); in.next(); {
			switch string(in.key) {
			case "created":
				k.Created = in.time()
			case "generation":
				k.Generation = keystore.Version(in.uint(1<<64 - 1))
			case "kid":
				in.fixed(k.KID[:])
			case "pending":
				k.Pending = in.bool()
			case "retired":
				k.Retired = keystore.N(in.uint(1<<64 - 1))
			case "retired_at":
				k.RetiredAt = in.time()
			case "role":
				k.Role = keystore.Role(in.uint(1<<8 - 1))
			case "session":
				k.Session = in.duration()
			default:
				in.r.skip()
			}
		}
	}
	return keys
}

func (f *fields) ref() keystore.EventRef {
	ref := keystore.EventRef{At: time.Time{}}
	for in := f.open(); in.next(); {
		switch string(in.key) {
		case "at":
			ref.At = in.time()
		case "id":
			ref.ID = in.str(ulidLength)
		case "n":
			ref.N = keystore.N(in.uint(1<<64 - 1))
		case "type":
			ref.Type = in.str(maxTypeWord)
		default:
			in.r.skip()
		}
	}
	return ref
}
