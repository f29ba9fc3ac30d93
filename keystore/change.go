package keystore

import "time"

// A ChangeKind says what a Change does. Stored: never renumber.
type ChangeKind uint8

const (
	Created        ChangeKind = 1  // the ring begins, with its first keys and policy
	PolicySet      ChangeKind = 2  // the policy changes; the keys and the version do not
	RolledOver     ChangeKind = 3  // future → current, current → old, a new future
	KeysDestroyed  ChangeKind = 4  // old keys whose retention is over end
	Deleted        ChangeKind = 5  // the ring ends, with all its keys
	KeyPublished   ChangeKind = 6  // static or session ticket keys are there, pending: not sealed with yet
	KeyActivated   ChangeKind = 7  // what was published is sealed with
	Undone         ChangeKind = 8  // the key that was current before the last rollover is so again
	RolloverHeld   ChangeKind = 9  // a slot that is due waits for servers that have not confirmed
	HoldEnded      ChangeKind = 10 // it waits no more
	IncidentClosed ChangeKind = 11 // everybody has confirmed an emergency rollover
	SlotSkipped    ChangeKind = 12 // a slot that nobody could answer in time is given up
	ModeSet        ChangeKind = 13 // a mode is published or taken back, or the overlap of static mode ends
)

var changeText = textTable[ChangeKind]{what: "change", names: map[ChangeKind]string{
	Created: "created", PolicySet: "policy_set", RolledOver: "rolled_over", KeysDestroyed: "keys_destroyed",
	Deleted: "deleted", Undone: "undone", RolloverHeld: "rollover_held", HoldEnded: "hold_ended",
	IncidentClosed: "incident_closed", SlotSkipped: "slot_skipped",
	KeyPublished: "key_published", KeyActivated: "key_activated", ModeSet: "mode_set",
}}

// changesKeys reports whether the ring's version counts this kind of change.
func (k ChangeKind) changesKeys() bool {
	switch k {
	case Created, RolledOver, KeysDestroyed, Deleted, Undone, KeyPublished, KeyActivated, ModeSet:
		return true
	}
	return false
}

func (k ChangeKind) String() string               { return changeText.name(k) }
func (k ChangeKind) MarshalText() ([]byte, error) { return changeText.marshal(k) }
func (k *ChangeKind) UnmarshalText(b []byte) (err error) {
	*k, err = changeText.parse(string(b))
	return err
}

// A Trigger says what set a rollover off. Stored: never renumber.
type Trigger uint8

const (
	Manual    Trigger = 1 // an administrator
	Scheduled Trigger = 2 // the slot of a schedule
	Fresh     Trigger = 3 // an administrator, who wants neither current nor future key to seal again
	Emergency Trigger = 4 // an administrator, who wants every older dynamic key gone at once
)

var triggerText = textTable[Trigger]{what: "trigger", names: map[Trigger]string{
	Manual: "manual", Scheduled: "scheduled", Fresh: "fresh", Emergency: "emergency",
}}

func (t Trigger) String() string               { return triggerText.name(t) }
func (t Trigger) MarshalText() ([]byte, error) { return triggerText.marshal(t) }
func (t *Trigger) UnmarshalText(b []byte) (err error) {
	*t, err = triggerText.parse(string(b))
	return err
}

// A NewKey is a key that a caller has just made: its id, and when.
type NewKey struct {
	KID     KID
	Created time.Time
}

// FirstKeys are the keys that a ring begins with.
type FirstKeys struct {
	Current, Future, Static, SessionTicket NewKey
}

// A MadeKey is a key that a Change brings into the ring, in its first role.
type MadeKey struct {
	KID      KID       `json:"kid"`
	Role     Role      `json:"role"`
	Created  time.Time `json:"created_at"`          // to the millisecond, UTC
	OpenOnly bool      `json:"open_only,omitempty"` // KeyPublished: it never seals here
}

// A Change is one decided step of a ring. It is what an event carries: every
// server that applies the same changes in the same order has the same ring.
type Change struct {
	Kind      ChangeKind `json:"kind"`
	Ring      RingName   `json:"ring"`
	Version   Version    `json:"version"`             // the ring's version afterwards
	Made      []MadeKey  `json:"made,omitempty"`      // Created: current, future, static, session ticket; RolledOver: those that the trigger makes, in that order
	Destroyed []KID      `json:"destroyed,omitempty"` // in the ring's order
	Restored  KID        `json:"restored,omitzero"`   // Undone: the key that is current again
	Policy    *Policy    `json:"policy,omitempty"`    // Created and PolicySet
	Trigger   Trigger    `json:"trigger,omitzero"`    // RolledOver
	Forced    bool       `json:"forced,omitempty"`    // an administrator overrode a refusal
	Slot      time.Time  `json:"slot,omitzero"`       // RolledOver by Scheduled, RolloverHeld, HoldEnded, SlotSkipped: the slot that it is about
	// NextSlot is the first slot that is still to be answered afterwards; zero: the
	// ring has no schedule. Created, PolicySet, RolledOver and SlotSkipped commit it.
	NextSlot  time.Time `json:"next_slot,omitzero"`
	Missed    int       `json:"missed,omitempty"`    // RolledOver and SlotSkipped: slots that came due and get no rollover of their own
	HeldBy    []string  `json:"held_by,omitempty"`   // RolloverHeld: the first of the servers, and after them of the hosts, that hold it
	Activated []KID     `json:"activated,omitempty"` // KeyActivated: pending keys, in the ring's order
	Mode      Mode      `json:"mode,omitzero"`       // ModeSet; KeyActivated: if the next mode begins
	// Overlap is for how long what KeyPublished or ModeSet take the place of still opens.
	Overlap time.Duration `json:"-"`
}

// made normalizes a new key: times are stored to the millisecond, in UTC, so that
// a Change reads back from the ledger exactly as it was decided.
func (k NewKey) made(role Role) MadeKey {
	return MadeKey{KID: k.KID, Role: role, Created: k.Created.UTC().Truncate(time.Millisecond)}
}

func (k MadeKey) key(v Version) Key {
	return Key{KID: k.KID, Role: k.Role, Created: k.Created, Generation: v}
}

func (k MadeKey) check() error {
	if k.KID == (KID{}) {
		return invalidf("the %s key has no kid", k.Role)
	}
	if k.Created.IsZero() {
		return invalidf("the %s key %s has no creation time", k.Role, k.KID)
	}
	return nil
}
