package adminapi

import (
	"time"

	"github.com/keytide/keytide/keystore"
)

// KeyUses answers what became of a key: where it is, or was until it was destroyed.
type KeyUses struct {
	KID  string   `json:"kid"`
	Uses []KeyUse `json:"uses"` // by ring; one, unless rings share the key
}

// KeyUse is a key's life in one ring.
type KeyUse struct {
	Ring      string           `json:"ring"`
	Deleted   bool             `json:"deleted,omitempty"` // the ring is
	Version   keystore.Version `json:"version"`           // of the ring, now
	Mode      string           `json:"mode"`              // of the ring, now
	Role      string           `json:"role"`              // now; the last one, of a key that is destroyed
	CreatedAt time.Time        `json:"created_at"`
	Seals     bool             `json:"seals"`
	Pending   bool             `json:"pending,omitempty"`
	// Reseal: an agent that opens a session sealed with it seals that anew, with
	// the key SealedWith.
	Reseal     bool   `json:"reseal"`
	SealedWith string `json:"sealed_with"` // the kid that seals the ring's sessions now
	// Opens: the key is there, and agents get it. OpensUntil is the earliest time at
	// which it may be destroyed; zero: none is set. Retention says why.
	Opens      bool      `json:"opens"`
	OpensUntil time.Time `json:"opens_until,omitzero"`
	Retention  string    `json:"retention"`
	Roles      []Tenure  `json:"roles"`               // oldest first
	Destroyed  *Event    `json:"destroyed,omitempty"` // the event that did
	Hosts      []string  `json:"hosts"`               // trusted hosts that may have the ring
	Connected  int       `json:"connected"`           // agents of the ring, connected to the server that answers
	Lacking    []string  `json:"lacking"`             // hosts of those that have not got the ring as it is now
}

// Tenure is a key's time in one role.
type Tenure struct {
	Role  string           `json:"role"`
	From  keystore.Version `json:"from"`         // the ring's version
	To    keystore.Version `json:"to,omitempty"` // the last one, inclusive; absent: to this day
	Since time.Time        `json:"since"`        // of version From
}
