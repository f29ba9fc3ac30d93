package adminapi

import (
	"time"

	"github.com/keytide/keytide/keystore"
)

// PublishKey asks for a new static or session ticket key. It opens at once, and seals
// once every policy server has confirmed it.
type PublishKey struct {
	Intent
	Role string `json:"role" enum:"static,session_ticket"`
	// K is the key, if it was entered: 32 bytes in base64url. Without it the server
	// makes one.
	K       Secret  `json:"k,omitempty" maxLength:"43" doc:"the entered key, 32 bytes in base64url; without it the server makes one"`
	Overlap *string `json:"overlap,omitempty" doc:"for how long the former key still opens, such as 720h"`
	Force   bool    `json:"force,omitempty" doc:"take an overlap that may log users out"`
}

// KeyPublished answers with the ring after the event, and the key.
type KeyPublished struct {
	Receipt
	KID  string `json:"kid"`
	Ring Ring   `json:"ring"`
}

// SetMode asks for a ring's other mode. Agents open what it seals with at once; it
// seals so once every policy server has confirmed it.
type SetMode struct {
	Intent
	Mode    string  `json:"mode" enum:"dynamic,static"`
	Overlap *string `json:"overlap,omitempty" doc:"for how long static keys still open sessions once static mode is left; if absent, max_session"`
	Force   bool    `json:"force,omitempty" doc:"take an overlap that may log users out"`
}

// NewMode is a change between a ring's modes that is under way.
type NewMode struct {
	Next string `json:"next,omitempty"` // published, not sealed with yet
	// OpensStaticUntil is the earliest time at which static keys stop to open sessions
	// after static mode; absent: there is no overlap.
	OpensStaticUntil time.Time `json:"opens_static_until,omitzero"`
}

// Export asks for a bundle of a ring's keys: for a passphrase, or for a recipient.
type Export struct {
	What       []string `json:"what" minItems:"1" enum:"static,ticket" doc:"the keys to export"`
	OpenOnly   bool     `json:"open_only,omitempty" doc:"whoever imports them must not seal with them"`
	Passphrase Secret   `json:"passphrase,omitempty" maxLength:"1024" doc:"close the bundle with it"`
	Recipient  string   `json:"recipient,omitempty" maxLength:"4096" doc:"or close it for this public key, a JWK"`
	Reason     string   `json:"reason,omitempty" maxLength:"500" doc:"why, for the server's log"`
}

// Exported answers with the bundle.
type Exported struct {
	Bundle    string       `json:"bundle"`
	From      string       `json:"from"`                // fingerprint of the server's key, which signed it
	Recipient string       `json:"recipient,omitempty"` // fingerprint of the recipient's key
	Store     string       `json:"store"`
	Ring      string       `json:"ring"`
	Keys      []BundledKey `json:"keys"`
}

// BundledKey is a key of a bundle, without its bytes.
type BundledKey struct {
	Role      string    `json:"role"`
	KID       string    `json:"kid"`
	CreatedAt time.Time `json:"created_at"`
	OpenOnly  bool      `json:"open_only"`
	Result    string    `json:"result,omitempty"` // of an import: "published", "opens" (open only), "already" there
}

// Import asks a server to take over the keys of a bundle. Signed is its signed part,
// which holds the keys.
type Import struct {
	Intent
	Signed   Secret   `json:"signed" maxLength:"49152" doc:"the signed part of the bundle, a compact JWS"`
	From     []string `json:"from,omitempty" doc:"fingerprints of which one must have signed it"`
	OpenOnly bool     `json:"open_only,omitempty" doc:"take all keys as ones that only open"`
	Overlap  *string  `json:"overlap,omitempty" doc:"for how long former keys, and those that only open, still open"`
	Force    bool     `json:"force,omitempty" doc:"take an overlap that may log users out"`
	DryRun   bool     `json:"dry_run,omitempty" doc:"say what would happen, and change nothing"`
}

// Imported answers an import. N and ID are absent when nothing was changed.
type Imported struct {
	N        keystore.N       `json:"n,omitempty"`
	ID       string           `json:"id,omitempty"`
	Replicas []string         `json:"replicas,omitempty"`
	Ring     string           `json:"ring"`
	Version  keystore.Version `json:"version"` // of the ring afterwards, or now
	From     string           `json:"from"`    // fingerprint of the key that signed the bundle
	Checked  bool             `json:"checked"` // it was compared with one that was given
	Store    string           `json:"store"`   // where the bundle comes from, by its own word
	FromRing string           `json:"from_ring"`
	Keys     []BundledKey     `json:"keys"`
}
