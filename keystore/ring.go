package keystore

import (
	"slices"
	"time"
)

// MaxOld is the most old keys that a ring may hold. An agent tries a foreign
// token under each of them, and a ring travels whole to every agent.
const MaxOld = 64

// An EventRef names the event that made a state.
type EventRef struct {
	N    N         `json:"n"`
	ID   string    `json:"id"`   // a ULID
	Type string    `json:"type"` // the event type's word
	At   time.Time `json:"at"`
}

// A Key is what is known of one key of a ring, without its bytes.
type Key struct {
	KID        KID       `json:"kid"`
	Role       Role      `json:"role"`
	Created    time.Time `json:"created_at"`          // to the millisecond, UTC
	Generation Version   `json:"generation"`          // the ring version that made it; never changes
	Pending    bool      `json:"pending,omitempty"`   // published; opens, but must not be sealed with yet
	Published  N         `json:"published,omitempty"` // of a pending key: the event that published it
	Retired    N         `json:"retired,omitempty"`   // the event that took it out of sealing; 0 = none did
	RetiredAt  time.Time `json:"retired_at,omitzero"` // that event's time
	// Session is the longest max_session since the key became current: as long may live
	// what it sealed, whatever the policy says by now. A late agent seals with a retired
	// key, too. Of static keys only what they sealed in static mode counts; of a static
	// or session ticket key that is retired it is the overlap.
	Session time.Duration `json:"-"`
	// Overlap, of a pending key, is for how long the one that it takes the place of will
	// still open.
	Overlap time.Duration `json:"-"`
}

// A Ring is the keys that one group of agents shares, at one version. It is a
// value: Apply returns a new one and never changes its receiver. The zero Ring is
// the ring before its creation.
type Ring struct {
	Name    RingName  `json:"name"`
	Version Version   `json:"version"`
	Mode    Mode      `json:"mode"`
	Policy  Policy    `json:"policy"`
	Keys    []Key     `json:"keys"`              // current, old (newest first), future, static, session ticket; of the last two the one that seals, former ones (newest first), the pending one
	NewMode NewMode   `json:"new_mode,omitzero"` // a change between the modes that is under way
	Created time.Time `json:"created_at"`
	Rolled  time.Time `json:"rolled_at,omitzero"` // the last rollover; zero = none yet
	Changed N         `json:"changed"`            // the event of the last change of Keys; what servers confirm
	Last    EventRef  `json:"last_event"`         // the event of the last change of anything
	// Former is the key that an undo makes current again: the one that was before the
	// last rollover, while it is held. Zero: there is nothing to undo.
	Former KID `json:"former,omitzero"`
	// NextSlot is the schedule's next slot, as the last event that had to do with it
	// committed it. Servers compare their clocks with it and compute none of their own.
	NextSlot time.Time `json:"next_slot,omitzero"`
	// Answered is the newest slot that was answered or skipped. None at or before it is
	// committed again, whatever the schedule and the decider's clock.
	Answered time.Time `json:"answered,omitzero"`
	Hold     Hold      `json:"hold,omitzero"`     // of the slot that waits; zero: none does
	Incident EventRef  `json:"incident,omitzero"` // the emergency rollover that not everybody has confirmed; zero: none
	// Deleted: the ring has ended. What is left is its name and version, so that a ring
	// of this name to come goes on counting: no agent takes it for an older state.
	Deleted bool `json:"deleted,omitempty"`
}

// A Hold is the guard's, of a slot that is due.
type Hold struct {
	Slot  time.Time `json:"slot"`
	Since time.Time `json:"since"` // the time of the event
	By    []string  `json:"by"`    // the first of the servers that held it then
}

// IsZero reports whether nothing is held.
func (h Hold) IsZero() bool { return h.Slot.IsZero() }

// IsZero reports whether there never was such a ring.
func (r Ring) IsZero() bool { return r.Version == 0 }

// lives reports whether the ring is there: it was created and is not deleted.
func (r Ring) lives() bool { return r.Version != 0 && !r.Deleted }

// Key returns the key with this id, whatever its role.
func (r Ring) Key(kid KID) (Key, bool) {
	i := slices.IndexFunc(r.Keys, func(k Key) bool { return k.KID == kid })
	if i < 0 {
		return Key{}, false
	}
	return r.Keys[i], true
}

// ByRole returns the keys of one role, old keys newest first.
func (r Ring) ByRole(role Role) []Key {
	var keys []Key
	for _, k := range r.Keys {
		if k.Role == role {
			keys = append(keys, k)
		}
	}
	return keys
}

// Seals returns the one key that new sessions are sealed with: the current key in
// dynamic mode, the static key in static mode, and never a pending one.
func (r Ring) Seals() (Key, bool) {
	want := Current
	if r.Mode == ModeStatic {
		want = Static
	}
	for _, k := range r.Keys {
		if k.Role == want && k.seals() {
			return k, true
		}
	}
	return Key{}, false
}

// Agent returns the keys that agents get: all but the session ticket key, the
// sealing key first, then current, old (newest first), future, static.
func (r Ring) Agent() []Key {
	sealing, ok := r.Seals()
	keys := make([]Key, 0, len(r.Keys))
	if ok {
		keys = append(keys, sealing)
	}
	for _, k := range r.Keys {
		if k.Role != SessionTicket && !(ok && k.KID == sealing.KID) {
			keys = append(keys, k)
		}
	}
	return keys
}

// KeySet joins the ring's keys with their material, as an agent holds them.
// material is asked for each key's bytes; bytes that do not derive the key's id
// are refused, so that a wrong key is never used. The error wraps ErrInvalid, or
// what material returned.
func (r Ring) KeySet(epoch Epoch, material func(KID) (Material, error)) (*KeySet, error) {
	set := &KeySet{Ring: r.Name, Epoch: epoch, Version: r.Version, Mode: r.Mode, OpensStatic: r.OpensStatic()}
	sealing, ok := r.Seals()
	if !ok {
		return nil, invalidf("ring %s: version %d has no key to seal with", r.Name, r.Version)
	}
	for _, k := range r.Agent() {
		m, err := material(k.KID)
		if err != nil {
			return nil, err
		}
		if got := m.KID(); got != k.KID {
			return nil, invalidf("ring %s: the bytes of key %s are those of another key, %s", r.Name, k.KID, got)
		}
		set.Keys = append(set.Keys, SetKey{
			KID: k.KID, Role: k.Role, Created: k.Created, Pending: k.Pending, Retired: k.Role == Static && k.Retired != 0,
			Seals: k.KID == sealing.KID, Material: m,
		})
	}
	return set, nil
}
