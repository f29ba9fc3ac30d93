package keystore

import "time"

// A ChangeKind says what a Change does. Stored: never renumber.
type ChangeKind uint8

const (
	Created       ChangeKind = 1 // the ring begins, with its first keys and policy
	PolicySet     ChangeKind = 2 // the policy changes; the keys and the version do not
	RolledOver    ChangeKind = 3 // future → current, current → old, a new future
	KeysDestroyed ChangeKind = 4 // old keys whose retention is over end
	// Reserved: 5 ring deleted, 6 key published, 7 key activated, 8 undone.
)

var changeText = textTable[ChangeKind]{what: "change", names: map[ChangeKind]string{
	Created: "created", PolicySet: "policy_set", RolledOver: "rolled_over", KeysDestroyed: "keys_destroyed",
}}

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
	// Reserved: 3 fresh, 4 emergency.
)

var triggerText = textTable[Trigger]{what: "trigger", names: map[Trigger]string{
	Manual: "manual", Scheduled: "scheduled",
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
	KID     KID       `json:"kid"`
	Role    Role      `json:"role"`
	Created time.Time `json:"created_at"` // to the millisecond, UTC
}

// A Change is one decided step of a ring. It is what an event carries: every
// server that applies the same changes in the same order has the same ring.
type Change struct {
	Kind      ChangeKind `json:"kind"`
	Ring      RingName   `json:"ring"`
	Version   Version    `json:"version"`             // the ring's version afterwards
	Made      []MadeKey  `json:"made,omitempty"`      // Created: current, future, static, session ticket; RolledOver: future
	Destroyed []KID      `json:"destroyed,omitempty"` // old keys, in the ring's order
	Policy    *Policy    `json:"policy,omitempty"`    // Created and PolicySet
	Trigger   Trigger    `json:"trigger,omitzero"`    // RolledOver
	Forced    bool       `json:"forced,omitempty"`    // an administrator overrode a refusal
	Slot      string     `json:"slot,omitempty"`      // RolledOver by Scheduled: the slot that it answers
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
