// Package host defines trusted hosts: who may receive which rings, known by a name
// and a shared secret.
//
// Like keystore it is pure: a rule (Register, Host.Revoke) decides and returns a
// Change, or refuses; Host.Apply carries a Change out. It never sees a secret's
// bytes, only their id.
package host

import (
	"fmt"
	"slices"
	"time"

	"github.com/keytide/keytide/keystore"
)

// MaxRings is the most rings that one host may be granted.
const MaxRings = 64

// A Secret is what is known of a shared secret, without its bytes.
type Secret struct {
	KID        keystore.KID `json:"kid"`        // derived from the secret, as a key's is
	Created    time.Time    `json:"created_at"` // to the millisecond, UTC
	Generation uint64       `json:"generation"` // counts the host's secrets; 1 is the first
}

// A Host is a trusted host. It is a value: Apply returns a new one. The zero Host is
// a host that was never registered.
type Host struct {
	Name       string              `json:"name"`
	Rings      []keystore.RingName `json:"rings"`         // what it is granted; sorted
	Secrets    []Secret            `json:"secrets"`       // valid ones, newest first; none once revoked
	Generation uint64              `json:"generation"`    // of the newest secret that there ever was
	Registered time.Time           `json:"registered_at"` // the last registration
	Revoked    bool                `json:"revoked"`       // it gets nothing any more
	Last       keystore.EventRef   `json:"last_event"`    // the event of the last change
}

// IsZero reports whether the host was never registered.
func (h Host) IsZero() bool { return h.Name == "" }

// Secret returns the valid secret with this id.
func (h Host) Secret(kid keystore.KID) (Secret, bool) {
	i := slices.IndexFunc(h.Secrets, func(s Secret) bool { return s.KID == kid })
	if i < 0 {
		return Secret{}, false
	}
	return h.Secrets[i], true
}

// Granted reports whether the host may receive the ring.
func (h Host) Granted(ring keystore.RingName) bool {
	return !h.Revoked && slices.Contains(h.Rings, ring)
}

// A ChangeKind says what a Change does. Stored: never renumber.
type ChangeKind uint8

const (
	Registered ChangeKind = 1 // the host begins, or begins again after it was revoked
	Revoked    ChangeKind = 2 // the host ends; its secrets are destroyed
)

func (k ChangeKind) String() string {
	switch k {
	case Registered:
		return "registered"
	case Revoked:
		return "revoked"
	}
	return fmt.Sprintf("change(%d)", uint8(k))
}

// A Change is one decided step of a host: what an event carries.
type Change struct {
	Kind      ChangeKind          `json:"kind"`
	Host      string              `json:"host"`
	Rings     []keystore.RingName `json:"rings,omitempty"`     // Registered: sorted
	Secret    Secret              `json:"secret,omitzero"`     // Registered: the first secret
	Destroyed []keystore.KID      `json:"destroyed,omitempty"` // Revoked: every secret
}

// Register decides a host's registration. h is the host of that name as it stands:
// the zero Host, or a revoked one, whose secrets' generations go on. It refuses one
// that is registered already with keystore.ErrExists; other errors wrap
// keystore.ErrInvalid.
func (h Host) Register(name string, rings []keystore.RingName, secret keystore.NewKey) (Change, error) {
	rings = slices.Clone(rings)
	slices.Sort(rings)
	c := Change{Kind: Registered, Host: name, Rings: rings, Secret: Secret{
		KID: secret.KID, Created: secret.Created.UTC().Truncate(time.Millisecond), Generation: h.Generation + 1,
	}}
	return decided(h, c)
}

// Register decides the registration of a host that never was.
func Register(name string, rings []keystore.RingName, secret keystore.NewKey) (Change, error) {
	return Host{}.Register(name, rings, secret)
}

// Revoke decides the end of a host and of all its secrets. The error is
// keystore.ErrNotFound for a host that is not registered, or is revoked already.
func (h Host) Revoke() (Change, error) {
	if h.IsZero() || h.Revoked {
		return Change{}, fmt.Errorf("host %s: %w", h.Name, keystore.ErrNotFound)
	}
	c := Change{Kind: Revoked, Host: h.Name}
	for _, s := range h.Secrets {
		c.Destroyed = append(c.Destroyed, s.KID)
	}
	return decided(h, c)
}

// decided checks that c fits h.
func decided(h Host, c Change) (Change, error) {
	if _, err := h.Apply(c, keystore.EventRef{N: h.Last.N + 1}); err != nil {
		return Change{}, err
	}
	return c, nil
}
