package events

import (
	"fmt"
	"time"

	"github.com/keytide/keytide/keystore"
)

// EncodeRing packs a ring's state, as ring.<name> holds it. The error wraps
// keystore.ErrInvalid.
func EncodeRing(ring keystore.Ring) ([]byte, error) {
	var p packer
	top := p.begin()
	p.time("answered", ring.Answered)
	p.uint("changed", uint64(ring.Changed))
	p.time("created", ring.Created)
	p.bool("deleted", ring.Deleted)
	p.fixed("former", ring.Former[:])
	p.hold("hold", ring.Hold)
	p.ref("incident", ring.Incident)
	p.array("keys", len(ring.Keys), maxRingKeys)
	for _, k := range ring.Keys {
		p.ringKey(k)
	}
	p.ref("last", ring.Last)
	p.uint("mode", uint64(ring.Mode))
	p.name("name", string(ring.Name))
	p.newMode("new_mode", ring.NewMode)
	p.time("next_slot", ring.NextSlot)
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
	p.duration("overlap", k.Overlap)
	p.bool("pending", k.Pending)
	p.uint("published", uint64(k.Published))
	p.uint("retired", uint64(k.Retired))
	p.time("retired_at", k.RetiredAt)
	p.uint("role", uint64(k.Role))
	p.duration("session", k.Session)
	p.end(outer)
}

func (p *packer) hold(key string, hold keystore.Hold) {
	if hold.IsZero() {
		return
	}
	p.field(key)
	outer := p.begin()
	p.names("by", hold.By, maxHeldBy)
	p.time("since", hold.Since)
	p.time("slot", hold.Slot)
	p.end(outer)
}

func (p *packer) newMode(key string, m keystore.NewMode) {
	if m.IsZero() {
		return
	}
	p.field(key)
	outer := p.begin()
	p.uint("left", uint64(m.Left))
	p.time("left_at", m.LeftAt)
	p.uint("next", uint64(m.Next))
	p.duration("overlap", m.Overlap)
	p.uint("published", uint64(m.Published))
	p.duration("session", m.Session)
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
		case "answered":
			ring.Answered = f.time()
		case "changed":
			ring.Changed = keystore.N(f.uint(1<<64 - 1))
		case "created":
			ring.Created = f.time()
		case "deleted":
			ring.Deleted = f.bool()
		case "former":
			f.fixed(ring.Former[:])
		case "hold":
			ring.Hold = f.hold()
		case "incident":
			ring.Incident = f.ref()
		case "keys":
			ring.Keys = f.ringKeys()
		case "last":
			ring.Last = f.ref()
		case "mode":
			ring.Mode = keystore.Mode(f.uint(1<<8 - 1))
		case "name":
			ring.Name = keystore.RingName(f.name())
		case "new_mode":
			ring.NewMode = f.newMode()
		case "next_slot":
			ring.NextSlot = f.time()
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
			case "overlap":
				k.Overlap = in.duration()
			case "pending":
				k.Pending = in.bool()
			case "published":
				k.Published = keystore.N(in.uint(1<<64 - 1))
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

func (f *fields) hold() keystore.Hold {
	var hold keystore.Hold
	for in := f.open(); in.next(); {
		switch string(in.key) {
		case "by":
			hold.By = in.names(maxHeldBy)
		case "since":
			hold.Since = in.time()
		case "slot":
			hold.Slot = in.time()
		default:
			in.r.skip()
		}
	}
	if hold.IsZero() && f.r.err == nil {
		f.zero() // it is left out instead
	}
	return hold
}

func (f *fields) newMode() keystore.NewMode {
	var m keystore.NewMode
	for in := f.open(); in.next(); {
		switch string(in.key) {
		case "left":
			m.Left = keystore.N(in.uint(1<<64 - 1))
		case "left_at":
			m.LeftAt = in.time()
		case "next":
			m.Next = keystore.Mode(in.uint(1<<8 - 1))
		case "overlap":
			m.Overlap = in.duration()
		case "published":
			m.Published = keystore.N(in.uint(1<<64 - 1))
		case "session":
			m.Session = in.duration()
		default:
			in.r.skip()
		}
	}
	if m.IsZero() && f.r.err == nil {
		f.zero() // it is left out instead
	}
	return m
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
