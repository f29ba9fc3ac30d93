package adminapi

import (
	"time"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/fips"
)

// Status is the state of a key store as one policy server sees it.
type Status struct {
	Store   string         `json:"store"`
	Server  string         `json:"server"` // that answers
	Epoch   keystore.Epoch `json:"epoch"`
	N       keystore.N     `json:"n"`
	Servers []Server       `json:"servers"`
	Rings   []RingStatus   `json:"rings"`
	Alarms  []Alarm        `json:"alarms,omitempty"`
	// Rekey is set while one is under way, or servers still hold the former key store key.
	Rekey *Rekey      `json:"rekey,omitempty"`
	FIPS  fips.Module `json:"fips"` // of the server that answers
	Core  Core        `json:"core"` // as the server that answers has it
}

// Core is where the ledgers are.
type Core struct {
	Kind      string `json:"kind"`    // alone: in the policy server; member: of a core; remote: elsewhere
	Servers   int    `json:"servers"` // how many it has, as far as the configuration says
	Connected string `json:"connected,omitempty"`
	Leads     bool   `json:"leads,omitempty"` // of a member: its own core server leads the ledger of keys
	// Durability is unverified where nobody has said that the core's servers keep what
	// they acknowledge.
	Durability string `json:"durability"`
	Why        string `json:"why,omitempty"` // of what is not well
}

// Server is one policy server.
type Server struct {
	ID            string     `json:"id"`
	Region        string     `json:"region"`
	State         string     `json:"state"` // fresh, stale, forked, halted, stopped
	N             keystore.N `json:"n"`     // of the key store's ledger, applied there
	AgeMS         int64      `json:"age_ms"`
	ClockOffsetMS int64      `json:"clock_offset_ms"`
	Agents        int        `json:"agents"`
	AgentsBehind  int        `json:"agents_behind"`
	Why           string     `json:"why,omitempty"`      // of a state other than fresh
	Excluded      bool       `json:"excluded,omitempty"` // rollovers do not wait for it
	// Fingerprint names the key with which the server signs events and exports.
	Fingerprint string `json:"fingerprint,omitempty"`
}

// RingStatus is one ring in the status.
type RingStatus struct {
	Name    string           `json:"name"`
	Version keystore.Version `json:"version"`
	// HeldBy are the servers that hold up the next rollover: those that have not
	// confirmed the present version; and after them, as host/NAME, the hosts whose agents
	// have not and are waited for (guard_agents).
	HeldBy   []string  `json:"held_by"`
	Behind   []Behind  `json:"behind,omitempty"`   // the same servers: by how much, and since when
	NextSlot time.Time `json:"next_slot,omitzero"` // the schedule's next rollover
	Hold     *Hold     `json:"hold,omitempty"`     // of the slot that waits
	Incident *Incident `json:"incident,omitempty"` // open; absent: none
}

// Incident is an emergency rollover that not everybody has confirmed.
type Incident struct {
	Event
	Servers []string `json:"servers"` // that have not confirmed it
	// Agents are the hosts of agents connected to the server that answers which have
	// not been given it; AgentsElsewhere counts those of other servers that have.
	Agents          []string `json:"agents"`
	AgentsElsewhere int      `json:"agents_elsewhere"`
}

// Alarm is something that a person should look at: what is wrong, or has been
// within the last day.
type Alarm struct {
	Ledger string    `json:"ledger"` // keys, hosts, feed (what agents are given) or core (its certificates)
	Kind   string    `json:"kind"`
	Key    string    `json:"key,omitempty"` // the KV key that it is about, if one
	Text   string    `json:"text"`
	Since  time.Time `json:"since"`
	Ended  time.Time `json:"ended,omitzero"` // zero: it stands
}
