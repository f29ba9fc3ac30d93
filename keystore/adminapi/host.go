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
}

// Hosts answers the list of trusted hosts, by name.
type Hosts struct {
	Hosts []Host `json:"hosts"`
}

// RegisterHost asks for a new trusted host.
type RegisterHost struct {
	Intent
	Name  string   `json:"name" doc:"1 to 63 lower-case letters, digits and hyphens"`
	Rings []string `json:"rings" minItems:"1" doc:"the rings that the host may have"`
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
	CA      string     `json:"ca"` // PEM
}

// Secret is a shared secret's text on its one way to the administrator. Printing
// it shows a placeholder; JSON carries it.
type Secret string

func (Secret) String() string   { return "[shared secret]" }
func (Secret) GoString() string { return "[shared secret]" }

// LogValue keeps the secret out of JSON logs, which would marshal it.
func (Secret) LogValue() slog.Value { return slog.StringValue("[shared secret]") }
