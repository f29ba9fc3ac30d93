// Package host defines trusted hosts: who may receive which rings, known by a name
// and a shared secret.
//
// Like keystore it is pure: a rule (Register, Host.Revoke) decides and returns a
// Change, or refuses; Host.Apply carries a Change out. It never sees a secret's
// bytes, only their id.
package host

import (
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/ticket"
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

	Grant
	Token        keystore.KID `json:"token"`        // by which it registered itself; zero: an administrator did
	Registration Registration `json:"registration"` // of that; a retry of it is known by it
	Expired      bool         `json:"expired"`      // revoked because nobody saw it for too long
	Instances    []Instance   `json:"instances"`    // that have been seen, by id
	Crowded      bool         `json:"crowded"`      // it has had more instances than are kept count of
}

// A Grant is what a host is beside its rings, as an administrator or a token says.
type Grant struct {
	Labels    []Label       `json:"labels,omitempty"`     // sorted by key
	Ephemeral time.Duration `json:"ephemeral,omitempty"`  // unseen for so long, it ends; 0: never
	AllowRoll bool          `json:"allow_roll,omitempty"` // its secret may be rolled over by age
	Tickets   ticket.Right  `json:"tickets,omitempty"`    // to session tickets of its rings
}

// A Registration is the SHA-256 of the id that an agent chose for its registration.
type Registration [32]byte

// MarshalText gives 64 hexadecimal digits.
func (r Registration) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(r[:])), nil }

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
	Expired    ChangeKind = 3 // the same, because an ephemeral host was not seen
	Seen       ChangeKind = 4 // instances of the host were seen
	Offered    ChangeKind = 5 // a second secret is valid beside the first
	Retired    ChangeKind = 6 // the first of two secrets is destroyed
)

var kindWords = [...]string{
	Registered: "registered", Revoked: "revoked", Expired: "expired", Seen: "seen", Offered: "offered", Retired: "retired",
}

func (k ChangeKind) String() string {
	if int(k) < len(kindWords) && k > 0 {
		return kindWords[k]
	}
	return fmt.Sprintf("change(%d)", uint8(k))
}

// A Change is one decided step of a host: what an event carries.
type Change struct {
	Kind      ChangeKind          `json:"kind"`
	Host      string              `json:"host"`
	Rings     []keystore.RingName `json:"rings,omitempty"`     // Registered: sorted
	Secret    Secret              `json:"secret,omitzero"`     // Registered: the first secret; Offered: the second
	Destroyed []keystore.KID      `json:"destroyed,omitempty"` // Revoked, Expired: every secret; Retired: the former

	Grant
	Token        keystore.KID `json:"token,omitzero"`        // Registered
	Registration Registration `json:"registration,omitzero"` // Registered by a token
	Instances    []Instance   `json:"instances,omitempty"`   // Seen, Retired: as they were seen
	Crowded      bool         `json:"crowded,omitempty"`     // Seen: there are more of them
}

// Register decides a host's registration. h is the host of that name as it stands:
// the zero Host, or a revoked one, whose secrets' generations go on. It refuses one
// that is registered already with keystore.ErrExists; other errors wrap
// keystore.ErrInvalid.
func (h Host) Register(name string, rings []keystore.RingName, secret keystore.NewKey, grant Grant) (Change, error) {
	rings = slices.Clone(rings)
	slices.Sort(rings)
	grant.Labels = sortedLabels(grant.Labels)
	return decided(h, Change{Kind: Registered, Host: name, Rings: rings, Secret: h.next(secret), Grant: grant})
}

// next is what is known of the secret that follows those there were.
func (h Host) next(secret keystore.NewKey) Secret {
	return Secret{KID: secret.KID, Created: secret.Created.UTC().Truncate(time.Millisecond), Generation: h.Generation + 1}
}

// Revoke decides the end of a host and of all its secrets. The error is
// keystore.ErrNotFound for a host that is not registered, or is revoked already.
func (h Host) Revoke() (Change, error) {
	if h.IsZero() || h.Revoked {
		return Change{}, fmt.Errorf("host %s: %w", h.Name, keystore.ErrNotFound)
	}
	return decided(h, Change{Kind: Revoked, Host: h.Name, Destroyed: h.kids()})
}

func (h Host) kids() []keystore.KID {
	kids := make([]keystore.KID, len(h.Secrets))
	for i, s := range h.Secrets {
		kids[i] = s.KID
	}
	return kids
}

// decided checks that c fits h.
func decided(h Host, c Change) (Change, error) {
	if _, err := h.Apply(c, keystore.EventRef{N: h.Last.N + 1}); err != nil {
		return Change{}, err
	}
	return c, nil
}
