package adminapi

import (
	"time"

	"github.com/keytide/keytide/keystore"
)

// Ring is the state of one ring: what `ring show` and `replay` print.
type Ring struct {
	Name      string           `json:"name"`
	Epoch     keystore.Epoch   `json:"epoch"`
	Version   keystore.Version `json:"version"`
	Mode      string           `json:"mode"` // "dynamic" or "static"
	Keys      []Key            `json:"keys"` // current, old (newest first), future, static, session ticket
	Policy    Policy           `json:"policy"`
	LastEvent Event            `json:"last_event"`
	NextSlot  time.Time        `json:"next_slot,omitzero"` // the schedule's next rollover; absent: none
	NewMode   *NewMode         `json:"new_mode,omitempty"` // a change of mode that is under way
	Hold      *Hold            `json:"hold,omitempty"`     // of the slot that waits
	Incident  *Event           `json:"incident,omitempty"` // the emergency rollover that not everybody has confirmed
}

// Hold is the guard's, of a slot that is due.
type Hold struct {
	Slot  time.Time `json:"slot"`
	Since time.Time `json:"since"`
	By    []string  `json:"by"` // the first of the servers that held it then
}

// Key is one key of a ring, without its bytes.
type Key struct {
	Role      string    `json:"role"`
	KID       string    `json:"kid"`
	CreatedAt time.Time `json:"created_at"`
	Seals     bool      `json:"seals"`
	Pending   bool      `json:"pending,omitempty"`   // published, not yet sealed with
	RetiredAt time.Time `json:"retired_at,omitzero"` // of an old or former key: since when it only opens
}

// Event names the event that a state stands at.
type Event struct {
	N    keystore.N `json:"n"`
	ID   string     `json:"id"`
	Type string     `json:"type"`
	At   time.Time  `json:"at"`
}

// Policy is a ring's policy.
type Policy struct {
	MaxSession  string   `json:"max_session"`  // a duration
	Retain      string   `json:"retain"`       // "auto" or a number of old keys
	MinInterval string   `json:"min_interval"` // a duration
	Schedule    string   `json:"schedule"`     // "manual", "every 3h", "daily 02:30", "weekly mon@02:30", "cron 0 3 * * 1"
	TZ          string   `json:"tz"`           // IANA name of the zone of schedule and blackout
	Blackout    []string `json:"blackout"`     // windows in which no slot falls
	MaxHold     string   `json:"max_hold"`     // a duration, or "none"
	GuardAgents []string `json:"guard_agents"` // hosts whose agents rollovers wait for, too
}

// PolicyChange changes the fields of a policy that are set.
type PolicyChange struct {
	MaxSession  *string   `json:"max_session,omitempty" doc:"how long a session may live, such as 8h"`
	Retain      *string   `json:"retain,omitempty" doc:"auto, or the number of old keys to keep"`
	MinInterval *string   `json:"min_interval,omitempty" doc:"the least time between two rollovers, such as 1h"`
	Schedule    *string   `json:"schedule,omitempty" maxLength:"512" doc:"when the ring rolls over by itself: manual, every 3h, daily 02:30,14:30, weekly mon,thu@02:30 or cron 0 3 * * 1"`
	TZ          *string   `json:"tz,omitempty" maxLength:"64" doc:"IANA name of the time zone of schedule and blackout"`
	Blackout    *[]string `json:"blackout,omitempty" maxItems:"32" doc:"windows in which no slot falls, such as mon-fri@08:00-18:00"`
	MaxHold     *string   `json:"max_hold,omitempty" doc:"how long servers that have not confirmed may hold a slot, such as 24h; or none"`
	GuardAgents *[]string `json:"guard_agents,omitempty" maxItems:"32" doc:"hosts whose agents must have reported a version before the next rollover"`
}

// Rings answers the list of rings, by name.
type Rings struct {
	Rings []Ring `json:"rings"`
}

// Intent is what every change carries besides what it changes.
type Intent struct {
	// Request is a ULID made once for each thing that a person wants done. A
	// server that gets it again answers with the event that it made the first
	// time: sending a request again after a lost answer is always safe.
	Request string `json:"request" minLength:"26" maxLength:"26" doc:"a ULID, the same in every retry"`
	Reason  string `json:"reason,omitempty" maxLength:"500" doc:"why, for the history"`
}

// Receipt says where a change stands in the ledger.
type Receipt struct {
	N  keystore.N `json:"n"`
	ID string     `json:"id"` // the event's ULID
	// Replicas are the servers known to hold the event on disk.
	Replicas []string `json:"replicas"`
}

// CreateRing asks for a new ring.
type CreateRing struct {
	Intent
	Name   string       `json:"name" doc:"1 to 63 lower-case letters, digits and hyphens"`
	Policy PolicyChange `json:"policy,omitzero" required:"false" doc:"what differs from the default policy"`
	Force  bool         `json:"force,omitempty" doc:"take a policy that may log users out"`
}

// SetPolicy asks for a change of a ring's policy.
type SetPolicy struct {
	Intent
	Policy PolicyChange `json:"policy"`
	Force  bool         `json:"force,omitempty" doc:"take a policy that may log users out"`
}

// RingChanged answers a change of a ring: its state after the event.
type RingChanged struct {
	Receipt
	Ring Ring `json:"ring"`
}

// Rollover asks for a rollover by an administrator. At most one of Fresh, Emergency
// and Undo may be set; without them, the future key becomes current.
type Rollover struct {
	Intent
	Force     bool     `json:"force,omitempty" doc:"roll over although the minimum interval or a server that lags would hold it"`
	Fresh     bool     `json:"fresh,omitempty" doc:"make a new current key, too, and destroy the future key"`
	Emergency bool     `json:"emergency,omitempty" doc:"make new keys and destroy all older dynamic ones at once"`
	With      []string `json:"with,omitempty" enum:"static,ticket" doc:"further keys that an emergency rollover replaces"`
	Undo      bool     `json:"undo,omitempty" doc:"make the key current again that was before the last rollover"`
}

// DeleteRing asks for the end of a ring and of all its keys.
type DeleteRing struct {
	Intent
	Force bool `json:"force,omitempty" doc:"delete it although hosts are granted it"`
}

// RingDeleted answers a deletion.
type RingDeleted struct {
	Receipt
	Ring      string           `json:"ring"`
	Version   keystore.Version `json:"version"`   // a ring of this name to come goes on from it
	Destroyed []string         `json:"destroyed"` // kids
	Hosts     []string         `json:"hosts"`     // trusted hosts that are still granted the name
}

// Slots are the times of a schedule.
type Slots struct {
	Slots []time.Time `json:"slots"`
}

// RolledOver answers a rollover.
type RolledOver struct {
	Ring     string           `json:"ring"`
	Version  keystore.Version `json:"version"`
	N        keystore.N       `json:"n"`
	ID       string           `json:"id"`
	Keys     []Key            `json:"keys"`
	Replicas []string         `json:"replicas"`
}

// Preview says what a rollover would do now.
type Preview struct {
	Ring      string           `json:"ring"`
	Version   keystore.Version `json:"version"` // that the ring would have
	Allowed   bool             `json:"allowed"`
	Refused   *Problem         `json:"refused,omitempty"` // why it would be refused
	Changes   []RoleChange     `json:"changes"`
	Destroyed []string         `json:"destroyed"`  // kids that would be destroyed at once
	Behind    []string         `json:"behind"`     // servers that have not confirmed the present version
	LoggedOut string           `json:"logged_out"` // whose sessions would end
}

// RoleChange is a key's change of role. From is empty for a new key, whose id is
// not known before it is made; To is empty for a key that is destroyed.
type RoleChange struct {
	KID  string `json:"kid,omitempty"`
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// Reach says which connected agents have a ring's state as of event N.
type Reach struct {
	Ring      string     `json:"ring"`
	N         keystore.N `json:"n"`
	Connected int        `json:"connected"`
	Lacking   []string   `json:"lacking"` // hosts of connected agents that have not got it
}
