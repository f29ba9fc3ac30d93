package adminapi

import (
	"time"

	"github.com/keytide/keytide/keystore"
)

// AuditEvent is one event as `audit export` prints it.
type AuditEvent struct {
	Ledger  string     `json:"ledger"` // "keys" or "hosts"
	Epoch   uint64     `json:"epoch"`
	N       keystore.N `json:"n"`
	ID      string     `json:"id"`
	Type    string     `json:"type"`
	At      time.Time  `json:"at"`
	Server  string     `json:"server"` // that wrote and signed it
	Actor   string     `json:"actor,omitempty"`
	Request string     `json:"request,omitempty"`
	Reason  string     `json:"reason,omitempty"`
	Subject string     `json:"subject,omitempty"` // the ring or trusted host that it changes
	Change  any        `json:"change,omitempty"`  // what it changes, by kids and names
	Hash    string     `json:"hash"`              // of the event's bytes, hexadecimal
	Prev    string     `json:"prev"`              // of the event before
}
