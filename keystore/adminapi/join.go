package adminapi

import (
	"time"

	"github.com/keytide/keytide/keystore"
)

// Pins are the hashes of both ledgers' first events, in hexadecimal.
type Pins struct {
	Keys  string `json:"keys"`
	Hosts string `json:"hosts"`
}

// InviteServer asks that a policy server may join, once. Whoever asks makes the
// token and sends its hash: no server knows the token before it is used.
type InviteServer struct {
	Intent
	Region     string `json:"region" doc:"where the server will stand"`
	TokenHash  string `json:"token_hash" minLength:"64" maxLength:"64" doc:"hash of the token, events/SPEC.md section 3.4"`
	TTLSeconds int64  `json:"ttl_seconds" minimum:"60" maximum:"2592000" doc:"for how long the invitation can be used"`
}

// ServerInvited answers with what an invitation says beside its token.
type ServerInvited struct {
	Receipt
	Server    string         `json:"server"`
	Region    string         `json:"region"`
	ExpiresAt time.Time      `json:"expires_at"`
	Store     string         `json:"store"`
	Epoch     keystore.Epoch `json:"epoch"`
	KSK       string         `json:"ksk"` // id of the key store key
	Genesis   Pins           `json:"genesis"`
	Servers   []string       `json:"servers"` // base URLs of the admin API
	CA        string         `json:"ca"`      // PEM; empty: the system's
}

// Join is a new server's own request. It carries the invitation's token as its
// bearer token. Sent again with the same keys it gets the same answer.
type Join struct {
	Server    string `json:"server"`
	Region    string `json:"region"`
	PublicKey []byte `json:"public_key"` // Ed25519
	P256Key   []byte `json:"p256_key"`   // an uncompressed point
	Nkey      string `json:"nkey,omitempty"`
}

// JoinBus is how a server that has joined reaches the core. Its user there is its nkey.
type JoinBus struct {
	URLs []string `json:"urls,omitempty"`
	CA   string   `json:"ca,omitempty"` // PEM; empty: the system's
}

// Joined answers a join. What is secret in it only the new server can open.
type Joined struct {
	N      keystore.N `json:"n"` // of the ledger of keys
	HostsN keystore.N `json:"hosts_n"`
	KSK    []byte     `json:"ksk"`    // envelope: the newest key store key
	KSKID  string     `json:"ksk_id"` // its id
	// Others are the key store keys besides, while a rekey is under way.
	Others []JoinKSK `json:"others,omitempty"`
	CAKey  []byte    `json:"ca_key"` // envelope: the private key of the store's CA
	CA     string    `json:"ca"`     // PEM: the store's CA
	Tokens string    `json:"tokens"` // who may use the admin API: names, and hashes of tokens
	Bus    JoinBus   `json:"bus"`
}

// JoinKSK is a key store key for a server that joins.
type JoinKSK struct {
	ID       string `json:"id"`
	Envelope []byte `json:"envelope"`
}
