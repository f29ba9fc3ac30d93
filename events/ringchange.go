package events

import (
	"fmt"

	"github.com/keytide/keytide/keystore"
)

const (
	maxMade     = 20
	maxRule     = 512
	maxTZ       = 64
	maxBlackout = 2048
	maxMissed   = 1 << 20
	maxHeldBy   = 64

	maxGuardAgents = 2112 // 32 names of 64 bytes, and what is between them
)

var ringTypes = map[keystore.ChangeKind]Type{
	keystore.Created: TypeRingCreated, keystore.PolicySet: TypeRingPolicySet,
	keystore.RolledOver: TypeRollover, keystore.KeysDestroyed: TypeKeysDestroyed,
	keystore.Deleted: TypeRingDeleted, keystore.Undone: TypeRolloverUndone,
	keystore.RolloverHeld: TypeRolloverHeld, keystore.HoldEnded: TypeHoldEnded,
	keystore.IncidentClosed: TypeIncidentClosed, keystore.SlotSkipped: TypeSlotSkipped,
	keystore.KeyPublished: TypeKeyPublished, keystore.KeyActivated: TypeKeyActivated, keystore.ModeSet: TypeModeSet,
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
	case TypeRingDeleted:
		return keystore.Deleted
	case TypeRolloverUndone:
		return keystore.Undone
	case TypeRolloverHeld:
		return keystore.RolloverHeld
	case TypeHoldEnded:
		return keystore.HoldEnded
	case TypeIncidentClosed:
		return keystore.IncidentClosed
	case TypeSlotSkipped:
		return keystore.SlotSkipped
	case TypeKeyPublished:
		return keystore.KeyPublished
	case TypeKeyActivated:
		return keystore.KeyActivated
	case TypeModeSet:
		return keystore.ModeSet
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
	p.kids("activated", c.Activated, maxRingKeys)
	p.kids("destroyed", c.Destroyed, maxRingKeys)
	p.bool("forced", c.Forced)
	p.names("held_by", c.HeldBy, maxHeldBy)
	p.array("made", len(c.Made), maxMade)
	for _, k := range c.Made {
		made := p.begin()
		p.time("created", k.Created)
		p.fixed("kid", k.KID[:])
		p.bool("open_only", k.OpenOnly)
		p.uint("role", uint64(k.Role))
		p.end(made)
	}
	p.number("missed", c.Missed, maxMissed)
	p.uint("mode", uint64(c.Mode))
	p.time("next_slot", c.NextSlot)
	p.duration("overlap", c.Overlap)
	if c.Policy != nil {
		p.policy("policy", *c.Policy)
	}
	p.fixed("restored", c.Restored[:])
	p.name("ring", string(c.Ring))
	p.time("slot", c.Slot)
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
	p.str("blackout", policy.Schedule.Blackout, maxBlackout)
	p.str("guard_agents", policy.GuardAgents, maxGuardAgents)
	p.duration("max_hold", policy.MaxHold)
	p.duration("max_session", policy.MaxSession)
	p.duration("min_interval", policy.MinInterval)
	p.uint("retain", uint64(policy.Retain))
	p.str("schedule", policy.Schedule.Rule, maxRule)
	p.str("tz", policy.Schedule.TZ, maxTZ)
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
		case "activated":
			c.Activated = f.kids(maxRingKeys)
		case "destroyed":
			c.Destroyed = f.kids(maxRingKeys)
		case "forced":
			c.Forced = f.bool()
		case "held_by":
			c.HeldBy = f.names(maxHeldBy)
		case "made":
			c.Made = f.made()
		case "missed":
			c.Missed = int(f.uint(maxMissed))
		case "mode":
			c.Mode = keystore.Mode(f.uint(1<<8 - 1))
		case "next_slot":
			c.NextSlot = f.time()
		case "overlap":
			c.Overlap = f.duration()
		case "policy":
			policy := f.policy()
			c.Policy = &policy
		case "restored":
			f.fixed(c.Restored[:])
		case "ring":
			c.Ring = keystore.RingName(f.name())
		case "slot":
			c.Slot = f.time()
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
			case "open_only":
				k.OpenOnly = in.bool()
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
		case "blackout":
			p.Schedule.Blackout = in.str(maxBlackout)
		case "guard_agents":
			p.GuardAgents = in.str(maxGuardAgents)
		case "max_hold":
			p.MaxHold = in.duration()
		case "max_session":
			p.MaxSession = in.duration()
		case "min_interval":
			p.MinInterval = in.duration()
		case "retain":
			p.Retain = keystore.Retain(in.uint(maxRetain))
		case "schedule":
			p.Schedule.Rule = in.str(maxRule)
		case "tz":
			p.Schedule.TZ = in.str(maxTZ)
		default:
			in.r.skip()
		}
	}
	return p
}
