package events

import (
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/keytide/keytide/keystore"
)

// A Cause is why a server is excluded. Stored: never renumber.
type Cause uint8

const (
	ByAdministrator Cause = 1 // the event's actor and reason say who and why
	ByMaxHold       Cause = 2 // it has held a rollover up for the policy's max_hold
)

func (c Cause) String() string {
	switch c {
	case ByAdministrator:
		return "administrator"
	case ByMaxHold:
		return "max_hold"
	}
	return fmt.Sprintf("cause(%d)", uint8(c))
}

// A ServerChange is the payload of an event that changes who is a member, or who
// counts. Fields that are not said to be of its type are zero.
type ServerChange struct {
	Type      Type
	ID        string            // of every type
	Region    string            // invited, joined
	Token     Hash              // invited: the hash of the token, see TokenHash
	Expires   time.Time         // invited
	PublicKey ed25519.PublicKey // joined
	P256Key   []byte            // joined: an uncompressed point
	Nkey      string            // joined: its user at the core, if it has one there
	MAC       [32]byte          // joined
	Cause     Cause             // excluded
	Forced    bool              // excluded, forgotten: although none is left that counts
}

const (
	tokenContext = "keytide invitation token 1\x00"
	p256KeySize  = 65
	maxNkey      = 64
)

// TokenHash returns what an invitation keeps of its token.
func TokenHash(token string) Hash { return HashOf([]byte(tokenContext + token)) }

// Encode packs the payload. The error wraps keystore.ErrInvalid.
func (c ServerChange) Encode() ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%s %s: %w", c.Type, c.ID, err)
	}
	var p packer
	top := p.begin()
	p.uint("cause", uint64(c.Cause))
	p.time("expires", c.Expires)
	p.bool("forced", c.Forced)
	p.name("id", c.ID)
	p.fixed("mac", c.MAC[:])
	p.str("nkey", c.Nkey, maxNkey)
	p.bin("p256_key", c.P256Key, p256KeySize)
	p.fixed("public_key", c.PublicKey)
	p.name("region", c.Region)
	p.fixed("token", c.Token[:])
	p.end(top)
	payload, err := p.done()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", c.Type, c.ID, err)
	}
	return payload, nil
}

// DecodeServerChange takes the payload of an event of this type apart. The error
// wraps ErrMalformed, or is an *UnknownTypeError.
func DecodeServerChange(t Type, payload []byte) (ServerChange, error) {
	if !t.ofServers() {
		return ServerChange{}, &UnknownTypeError{Type: t}
	}
	c := ServerChange{Type: t}
	r := reader{b: payload}
	for f := r.fields(); f.next(); {
		switch string(f.key) {
		case "cause":
			c.Cause = Cause(f.uint(1<<8 - 1))
		case "expires":
			c.Expires = f.time()
		case "forced":
			c.Forced = f.bool()
		case "id":
			c.ID = f.name()
		case "mac":
			f.fixed(c.MAC[:])
		case "nkey":
			c.Nkey = f.str(maxNkey)
		case "p256_key":
			c.P256Key = f.bin(p256KeySize)
		case "public_key":
			c.PublicKey = make(ed25519.PublicKey, ed25519.PublicKeySize)
			f.fixed(c.PublicKey)
		case "region":
			c.Region = f.name()
		case "token":
			f.fixed(c.Token[:])
		default:
			r.skip()
		}
	}
	if err := r.end(); err != nil {
		return ServerChange{}, fmt.Errorf("%s: %w", t, err)
	}
	if err := c.check(); err != nil {
		return ServerChange{}, malformed("%s: %w", t, err)
	}
	return c, nil
}

// check reports what is missing, or is not of the type.
func (c ServerChange) check() error {
	if !c.Type.ofServers() {
		return invalid("%s is no change of servers", c.Type)
	}
	if err := keystore.CheckName(c.ID); err != nil {
		return fmt.Errorf("id %q: %w", c.ID, err)
	}
	joined, invited, excluded := c.Type == TypeServerJoined, c.Type == TypeServerInvited, c.Type == TypeServerExcluded
	for _, field := range []struct {
		name      string
		there, of bool
	}{
		{"region", c.Region != "", joined || invited},
		{"token", !c.Token.IsZero(), invited},
		{"expires", !c.Expires.IsZero(), invited},
		{"public_key", c.PublicKey != nil, joined},
		{"p256_key", c.P256Key != nil, joined},
		{"mac", c.MAC != [32]byte{}, joined},
		{"cause", c.Cause != 0, excluded},
	} {
		if field.there != field.of {
			return invalid("%s is missing, or is not of this type", field.name)
		}
	}
	if c.Nkey != "" && !joined {
		return invalid("nkey is not of this type")
	}
	if c.Forced && !excluded && c.Type != TypeServerForgotten {
		return invalid("forced is not of this type")
	}
	if excluded && c.Cause != ByAdministrator && c.Cause != ByMaxHold {
		return invalid("%s", c.Cause)
	}
	if c.Region != "" {
		if err := keystore.CheckName(c.Region); err != nil {
			return fmt.Errorf("region %q: %w", c.Region, err)
		}
	}
	if joined {
		return Member{PublicKey: c.PublicKey, P256Key: c.P256Key}.checkKeys()
	}
	return nil
}
