package adminapi

import (
	"time"

	"github.com/keytide/keytide/keystore"
)

// Behind is a server that a ring's next rollover waits for.
type Behind struct {
	Server  string     `json:"server"`
	Region  string     `json:"region"`
	Applied keystore.N `json:"applied"` // what it has confirmed; 0: nothing
	Needs   keystore.N `json:"needs"`   // the event of the ring's last change of keys
	By      keystore.N `json:"by"`      // events
	// Since is when the first event was made that it has not confirmed.
	Since time.Time `json:"since,omitzero"`
}

// Cost is what leaving a server out would do, or why it is refused.
type Cost struct {
	Allowed bool     `json:"allowed"`
	Refused *Problem `json:"refused,omitempty"`
	Effects []string `json:"effects"` // sentences for a person
}

// ServerShown is one policy server, and what it costs to leave it out.
type ServerShown struct {
	Server
	Exclude Cost `json:"exclude"`
	Forget  Cost `json:"forget"`
}

// LeaveOut asks that a server be excluded, or forgotten.
type LeaveOut struct {
	Intent
	Force bool `json:"force,omitempty" doc:"although none is left that counts, or it is fresh"`
}

// LeftOut answers that a server is excluded, or forgotten.
type LeftOut struct {
	Receipt
	Server string `json:"server"`
	// HostsN is the event of the same in the policy store's ledger; 0: there was
	// nothing to do.
	HostsN keystore.N `json:"hosts_n,omitempty"`
}
