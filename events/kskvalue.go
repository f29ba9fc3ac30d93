package events

import (
	"fmt"
	"slices"
	"time"

	"github.com/keytide/keytide/keystore"
)

const (
	maxSlots      = 16
	maxSlotRecord = 2 << 10 // a value has room for 16 of them, and for the envelopes
	maxEnvelopes  = 128
	maxLabel      = 64
)

// A KSKValue is a key store key's unlock slots, as ksk.<id> holds them, and what is
// sealed to servers that have not taken it yet.
type KSKValue struct {
	ID        keystore.KID
	Slots     []Slot
	Envelopes []Envelope
}

// A Slot is an unlock slot, and what people know of it.
type Slot struct {
	Record   []byte
	Region   string       // whose servers start by it; empty: any
	Label    string       // what whoever added it calls it
	Added    time.Time    // zero: when the store was made
	Replaces keystore.KID // the former key store key's slot (SlotID) that it stands in for; zero: none
}

// An Envelope is the key store key, sealed to one server's P-256 key.
type Envelope struct {
	Server string
	Box    []byte
}

// Encode packs the value. The error wraps keystore.ErrInvalid.
func (k KSKValue) Encode() ([]byte, error) {
	var p packer
	outer := p.begin()
	if slices.ContainsFunc(k.Slots, Slot.told) {
		p.array("about", len(k.Slots), maxSlots)
		for _, s := range k.Slots {
			p.about(s)
		}
	}
	p.array("envelopes", len(k.Envelopes), maxEnvelopes)
	for i, e := range k.Envelopes {
		if i > 0 && k.Envelopes[i-1].Server >= e.Server || e.Server == "" || len(e.Box) == 0 {
			return nil, invalid("key store key %s: envelopes are incomplete, or out of order", k.ID)
		}
		in := p.begin()
		p.bin("box", e.Box, maxSealed)
		p.name("server", e.Server)
		p.end(in)
	}
	p.fixed("id", k.ID[:])
	p.array("slots", len(k.Slots), maxSlots)
	for _, slot := range k.Slots {
		if len(slot.Record) == 0 || len(slot.Record) > maxSlotRecord {
			return nil, invalid("key store key %s: slot of %d bytes", k.ID, len(slot.Record))
		}
		p.b = appendBin(p.b, slot.Record)
	}
	p.end(outer)
	value, err := p.done()
	if err == nil && len(value) > MaxValueSize {
		err = invalid("key store key %s: %d bytes of slots and envelopes; at most %d are allowed", k.ID, len(value), MaxValueSize)
	}
	return value, err
}

// told reports whether there is something to say about the slot.
func (s Slot) told() bool {
	return s.Region != "" || s.Label != "" || !s.Added.IsZero() || s.Replaces != keystore.KID{}
}

func (p *packer) about(s Slot) {
	outer := p.begin()
	p.time("added", s.Added)
	p.str("label", s.Label, maxLabel)
	p.name("region", s.Region)
	p.fixed("replaces", s.Replaces[:])
	p.end(outer)
}

// DecodeKSK takes a key store key's unlock slots apart. The error wraps ErrMalformed.
func DecodeKSK(value []byte) (KSKValue, error) {
	r := valueReader(value)
	var k KSKValue
	var about []Slot
	for f := r.fields(); f.next(); {
		switch string(f.key) {
		case "about":
			about = f.about()
		case "envelopes":
			k.Envelopes = f.envelopes()
		case "id":
			f.fixed(k.ID[:])
		case "slots":
			k.Slots = make([]Slot, f.array(maxSlots))
			for i := range k.Slots {
				record := r.bin(maxSlotRecord)
				if len(record) == 0 {
					r.fail("slot is empty")
				}
				k.Slots[i].Record = append([]byte(nil), record...)
			}
		default:
			r.skip()
		}
	}
	err := r.end()
	if err == nil && about != nil && (len(about) != len(k.Slots) || !slices.ContainsFunc(about, Slot.told)) {
		err = malformed("it tells about %d slots, and has %d", len(about), len(k.Slots))
	}
	if err != nil {
		return KSKValue{}, fmt.Errorf("key store key: %w", err)
	}
	for i := range about {
		about[i].Record = k.Slots[i].Record
		k.Slots[i] = about[i]
	}
	return k, nil
}

func (f *fields) about() []Slot {
	slots := make([]Slot, f.array(maxSlots))
	for i := range slots {
		s := &slots[i]
		for in := f.r.fields(); in.next(); {
			switch string(in.key) {
			case "added":
				s.Added = in.time()
			case "label":
				s.Label = in.str(maxLabel)
			case "region":
				s.Region = in.name()
			case "replaces":
				in.fixed(s.Replaces[:])
			default:
				in.r.skip()
			}
		}
	}
	return slots
}

func (f *fields) envelopes() []Envelope {
	envelopes := make([]Envelope, f.array(maxEnvelopes))
	for i := range envelopes {
		e := &envelopes[i]
		for in := f.r.fields(); in.next(); {
			switch string(in.key) {
			case "box":
				e.Box = in.bin(maxSealed)
			case "server":
				e.Server = in.name()
			default:
				in.r.skip()
			}
		}
		if f.r.err == nil && (e.Server == "" || len(e.Box) == 0 || i > 0 && envelopes[i-1].Server >= e.Server) {
			f.r.fail("envelopes are incomplete, or out of order")
		}
	}
	return envelopes
}
