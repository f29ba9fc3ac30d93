package events

import (
	"fmt"

	"github.com/keytide/keytide/keystore"
)

// A KSKChange is the payload of an event of the key store key. Fields that are not
// said to be of its type are zero.
type KSKChange struct {
	Type Type
	KSK  keystore.KID // of every type: the key store key that it is about
	// Added and Removed are the ids of the unlock slots (SlotID) that slots_set, or the
	// server that takes a key store key, adds to ksk.<KSK> or removes from it.
	Added   []keystore.KID
	Removed []keystore.KID
}

// Encode packs the payload. The error wraps keystore.ErrInvalid.
func (c KSKChange) Encode() ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Type, err)
	}
	var p packer
	top := p.begin()
	p.kids("added", c.Added, maxSlots)
	p.fixed("ksk", c.KSK[:])
	p.kids("removed", c.Removed, maxSlots)
	p.end(top)
	payload, err := p.done()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Type, err)
	}
	return payload, nil
}

// DecodeKSKChange takes the payload of an event of this type apart. The error wraps
// ErrMalformed, or is an *UnknownTypeError.
func DecodeKSKChange(t Type, payload []byte) (KSKChange, error) {
	if !t.ofKSK() {
		return KSKChange{}, &UnknownTypeError{Type: t}
	}
	c := KSKChange{Type: t}
	r := reader{b: payload}
	for f := r.fields(); f.next(); {
		switch string(f.key) {
		case "added":
			c.Added = f.kids(maxSlots)
		case "ksk":
			f.fixed(c.KSK[:])
		case "removed":
			c.Removed = f.kids(maxSlots)
		default:
			r.skip()
		}
	}
	if err := r.end(); err != nil {
		return KSKChange{}, fmt.Errorf("%s: %w", t, err)
	}
	if err := c.check(); err != nil {
		return KSKChange{}, malformed("%s: %w", t, err)
	}
	return c, nil
}

func (c KSKChange) check() error {
	switch {
	case !c.Type.ofKSK():
		return invalid("%s is no change of the key store key", c.Type)
	case c.KSK == keystore.KID{}:
		return invalid("ksk is missing")
	case len(c.Removed) > 0 && c.Type != TypeSlotsSet:
		return invalid("removed is not of this type")
	case len(c.Added) > 0 && c.Type != TypeSlotsSet && c.Type != TypeKSKTaken && c.Type != TypeRekeyBegun:
		return invalid("added is not of this type")
	case c.Type == TypeSlotsSet && len(c.Added)+len(c.Removed) == 0:
		return invalid("no slot is added or removed")
	}
	return nil
}
