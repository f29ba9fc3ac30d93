package adminapi

import (
	"log/slog"
	"time"

	"github.com/keytide/keytide/keystore"
)

// Host is a trusted host, without its secrets.
type Host struct {
	Name         string    `json:"name"`
	Rings        []string  `json:"rings"`
	KIDs         []string  `json:"kids"` // of its shared secrets, newest first
	RegisteredAt time.Time `json:"registered_at"`
	Revoked      bool      `json:"revoked"`
	Agents       int       `json:"agents"` // of this host, connected to the server that answers
	LastEvent    Event     `json:"last_event"`

	HostGrant
	Token     string     `json:"token"`     // by which it registered itself; empty: an administrator did
	Expired   bool       `json:"expired"`   // revoked because it was not seen for too long
	LastSeen  *time.Time `json:"last_seen"` // to the day, or better by the server that answers; null: never
	Stale     bool       `json:"stale"`     // registered, and not seen for 7 days
	Rolling   bool       `json:"rolling"`   // two secrets are valid until every instance has shown the new one
	Instances int        `json:"instances"` // copies of its secret that were seen in the last 7 days
	Clones    int        `json:"clones"`    // of them, those that should not be: more than one, or one at several addresses
	CanRoll   bool       `json:"can_roll"`  // a rollover of its secret may begin now
	WhyNot    string     `json:"why_not"`   // or why not
}

// HostGrant is what a host is beside its rings.
type HostGrant struct {
	Labels    map[string]string `json:"labels,omitempty"`
	Ephemeral string            `json:"ephemeral,omitempty" doc:"a duration such as 24h: unseen for so long, the host ends; empty: never"`
	AllowRoll bool              `json:"allow_roll,omitempty" doc:"its secret may be rolled over by age"`
	Tickets   string            `json:"tickets,omitempty" enum:"none,open,seal" doc:"what it may have done with session tickets of its rings; absent: none"`
}

// Hosts answers the list of trusted hosts, by name.
type Hosts struct {
	Hosts []Host `json:"hosts"`
}

// HostShown is one trusted host with what it has been trusted with: what
// `host show` prints.
type HostShown struct {
	Host
	Secrets []HostSecret   `json:"secrets"` // valid ones, newest first; none once revoked
	Seen    []HostInstance `json:"seen"`    // its instances
	// Keys are those that its agents may know and that are not destroyed. Once it
	// is revoked, they are the keys that there were until then.
	Keys []HostKeys `json:"keys"`
	// Next are the commands that take what a revoked host knows out of use; none
	// for a host that is registered.
	Next []string `json:"next"`
}

// HostSecret is what is known of a shared secret.
type HostSecret struct {
	KID        string    `json:"kid"`
	CreatedAt  time.Time `json:"created_at"`
	Generation uint64    `json:"generation"` // counts the host's secrets
}

// HostInstance is one copy of a host's secret: each disk that holds it is one.
type HostInstance struct {
	ID         string    `json:"id"` // 16 hexadecimal digits; all zero: agents that give none
	LastSeen   time.Time `json:"last_seen"`
	Generation uint64    `json:"generation"` // of the secret that it showed last
	Keeps      bool      `json:"keeps"`      // it can keep a new secret
	Addresses  []string  `json:"addresses"`  // where it is connected from to the server that answers
}

// HostKeys are keys of one ring that a host's agents may know.
type HostKeys struct {
	Ring    string           `json:"ring"`
	Version keystore.Version `json:"version"` // of the ring, now
	Keys    []Key            `json:"keys"`
}

// RevokeHost asks for the end of a trusted host and of its secrets.
type RevokeHost struct {
	Intent
}

// Revoked answers a revocation.
type Revoked struct {
	Receipt
	Host      string     `json:"host"`
	Destroyed []string   `json:"destroyed"` // kids of its shared secrets
	Keys      []HostKeys `json:"keys"`      // as of HostShown
	Next      []string   `json:"next"`
}

// RegisterHost asks for a new trusted host.
type RegisterHost struct {
	Intent
	Name  string   `json:"name" doc:"1 to 63 lower-case letters, digits and hyphens"`
	Rings []string `json:"rings" minItems:"1" doc:"the rings that the host may have"`
	HostGrant
}

// Registered answers a registration with all that the host's agent needs. It
// holds the host's shared secret: it is written to the host file and nowhere
// else. Sending the same request again gives the same secret.
type Registered struct {
	Host    string     `json:"host"`
	Rings   []string   `json:"rings"`
	KID     string     `json:"kid"`
	N       keystore.N `json:"n"`
	ID      string     `json:"id"`
	Secret  Secret     `json:"secret"` // 32 bytes, base64url without padding
	Servers []string   `json:"servers"`
	Regions []string   `json:"regions,omitempty"` // of Servers, in their order; or none
	CA      string     `json:"ca"`                // PEM
}

// Secret is a shared secret's text on its one way to the administrator. Printing
// it shows a placeholder; JSON carries it.
type Secret string

func (Secret) String() string   { return "[shared secret]" }
func (Secret) GoString() string { return "[shared secret]" }

// LogValue keeps the secret out of JSON logs, which would marshal it.
func (Secret) LogValue() slog.Value { return slog.StringValue("[shared secret]") }
