package adminapi

import (
	"time"

	"github.com/keytide/keytide/keystore"
)

// Rekey is where the store stands with its key store keys.
type Rekey struct {
	KSK    string `json:"ksk"`              // new material is sealed under it
	Next   string `json:"next,omitempty"`   // published; servers take it
	Former string `json:"former,omitempty"` // what is left is sealed under it
	// Phase is none, taking (servers take the next key store key), wrapping (material is
	// sealed anew), or erasing (the rekey has ended, and excluded servers lack the new
	// key store key: they hold the former).
	Phase string     `json:"phase"`
	Begun *Event     `json:"begun,omitempty"`
	Ended keystore.N `json:"ended,omitempty"` // the event by which the newest rekey ended

	Total int `json:"total"` // material to seal anew, in both ledgers
	Left  int `json:"left"`  // of it

	Waits    []string     `json:"waits"`    // servers that have not taken the newest key store key
	Slots    []UnlockSlot `json:"slots"`    // of the former key store key, which the next has none for
	Excluded []string     `json:"excluded"` // excluded servers that have not taken it either
	Trouble  string       `json:"trouble,omitempty"`
}

// BeginRekey asks for a new key store key.
type BeginRekey struct {
	Intent
}

// RekeyBegun answers it.
type RekeyBegun struct {
	Receipt
	Rekey
}

// UnlockSlot is one slot by which a key store key opens.
type UnlockSlot struct {
	ID      string    `json:"id"`
	KSK     string    `json:"ksk"`
	Kind    string    `json:"kind"` // argon2id, pbkdf2-sha512, file or kms
	KMS     string    `json:"kms,omitempty"`
	Region  string    `json:"region"` // empty: any
	Label   string    `json:"label"`
	AddedAt time.Time `json:"added_at,omitzero"` // zero: when the store was made
}

// UnlockSlots are the slots of every key store key that lives.
type UnlockSlots struct {
	KSK   string       `json:"ksk"` // the newest
	Slots []UnlockSlot `json:"slots"`
}

// AddSlot asks for an unlock slot of the newest key store key: a prepared one, or one
// of a key at a key management service. The unlock key itself is not sent.
type AddSlot struct {
	Intent
	Head     string `json:"head,omitempty" doc:"the slot before its box, base64url"`
	KEK      Secret `json:"kek,omitempty" doc:"the slot's wrapping key, base64url"`
	KMS      string `json:"kms,omitempty" doc:"or the URL of a key, which the server asks to encrypt"`
	Region   string `json:"region,omitempty" doc:"whose servers start by it; empty: any"`
	Label    string `json:"label,omitempty" maxLength:"64"`
	Replaces string `json:"replaces,omitempty" doc:"the former key store key's slot that it stands in for, during a rekey"`
}

// SlotAdded answers it.
type SlotAdded struct {
	Receipt
	Slot UnlockSlot `json:"slot"`
}

// RemoveSlot asks that a slot be removed.
type RemoveSlot struct {
	Intent
}

// SlotRemoved answers it.
type SlotRemoved struct {
	Receipt
	Slot UnlockSlot `json:"slot"`
}
