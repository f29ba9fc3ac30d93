package adminapi

import "time"

// CreateHostToken asks for a registration token. The token itself stays with whoever
// asks: the server gets its public key.
type CreateHostToken struct {
	Intent
	Token     string   `json:"token" doc:"its id, 16 hexadecimal digits"`
	PublicKey []byte   `json:"public_key" minLength:"44" maxLength:"44" doc:"Ed25519, base64"`
	Rings     []string `json:"rings" minItems:"1" doc:"the rings of the hosts that it registers"`
	HostGrant
	Addresses []string `json:"addresses,omitempty" doc:"from which it may be used, such as 10.0.0.0/8; none: from anywhere"`
	Uses      uint64   `json:"uses" minimum:"1" doc:"how many hosts it may register"`
	Expires   string   `json:"expires" doc:"for how long it is valid, such as 1h"`
}

// HostToken is a registration token, without what would let anybody use it.
type HostToken struct {
	Token string   `json:"token"`
	State string   `json:"state"` // valid, used up, expired or revoked
	Rings []string `json:"rings"`
	HostGrant
	Addresses []string  `json:"addresses"`
	Uses      uint64    `json:"uses"`
	Used      uint64    `json:"used"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
	LastEvent Event     `json:"last_event"`
}

// HostTokens answers the list of registration tokens, oldest first.
type HostTokens struct {
	Tokens []HostToken `json:"tokens"`
}

// HostTokenChanged answers a change of a registration token.
type HostTokenChanged struct {
	Receipt
	HostToken
}
