package adminapi

import (
	"time"

	"github.com/keytide/keytide/keystore"
)

// History is a ring's events, oldest first.
type History struct {
	Ring   string         `json:"ring"`
	Events []HistoryEvent `json:"events"`
}

// HistoryEvent is one event that changed a ring.
type HistoryEvent struct {
	N       keystore.N       `json:"n"`
	ID      string           `json:"id"`
	Type    string           `json:"type"`
	At      time.Time        `json:"at"`
	Version keystore.Version `json:"version"` // of the ring afterwards
	Server  string           `json:"server"`
	Actor   string           `json:"actor"`
	Reason  string           `json:"reason"`
	Made    []Made           `json:"made,omitempty"`
	Gone    []string         `json:"destroyed,omitempty"` // kids
	Trigger string           `json:"trigger,omitempty"`
	Forced  bool             `json:"forced,omitempty"`
	// Restored is the kid that an undo made current again.
	Restored string    `json:"restored,omitempty"`
	Slot     time.Time `json:"slot,omitzero"`      // that was answered, held or skipped
	NextSlot time.Time `json:"next_slot,omitzero"` // that the event committed
	Missed   int       `json:"missed,omitempty"`   // slots that get no rollover of their own
	HeldBy   []string  `json:"held_by,omitempty"`
	// Activated are the kids that seal from this event on; Mode the mode that it published,
	// or that begins with it.
	Activated []string `json:"activated,omitempty"`
	Mode      string   `json:"mode,omitempty"`
}

// Made is a key that an event made.
type Made struct {
	Role string `json:"role"`
	KID  string `json:"kid"`
}

// Verification is what recomputing a key store's whole chain found: of every
// event, its place, its hash and its signature, and of every value its hash.
type Verification struct {
	OK       bool                `json:"ok"` // of both ledgers
	Events   keystore.N          `json:"events"`
	Head     string              `json:"head"`      // hash of the last good event, hexadecimal
	FirstBad *keystore.N         `json:"first_bad"` // null when there is none
	Why      string              `json:"why,omitempty"`
	Hosts    *LedgerVerification `json:"hosts,omitempty"` // the policy store's ledger
}

// LedgerVerification is the same for one further ledger.
type LedgerVerification struct {
	OK       bool        `json:"ok"`
	Events   keystore.N  `json:"events"`
	Head     string      `json:"head"`
	FirstBad *keystore.N `json:"first_bad"`
	Why      string      `json:"why,omitempty"`
}
