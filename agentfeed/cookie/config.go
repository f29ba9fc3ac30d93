package cookie

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/keytide/keytide/keystore"
)

// A Ring is where a Codec takes its keys from; agentfeed's rings are.
type Ring interface {
	// Snapshot returns the ring's newest keys, or nil while there are none. It must
	// be cheap, as it is called for every token, safe for concurrent use, and
	// return the same pointer until the keys change.
	Snapshot() *keystore.KeySet
}

// A Purpose separates tokens of different use: one never opens as another.
type Purpose uint8

const (
	// Session tokens are sealed with the ring's sealing key: the current one, in
	// static mode the static one. They end at the latest with the ring's max_session.
	Session Purpose = 1
	// Credentials tokens (remembered logins) are sealed with the static key: they
	// outlast rollovers.
	Credentials Purpose = 2
	// Tracking tokens (identity kept between sessions) are sealed with the static
	// key.
	Tracking Purpose = 3
)

// String gives the word that is bound into the token.
func (p Purpose) String() string {
	switch p {
	case Session:
		return "session"
	case Credentials:
		return "credentials"
	case Tracking:
		return "tracking"
	}
	return fmt.Sprintf("purpose(%d)", uint8(p))
}

// MaxToken is the most characters a token may have. Browsers keep a cookie only if
// its name and value together have at most 4096 bytes, some 4093.
const MaxToken = 4000

const (
	maxName        = 4093 - MaxToken
	defaultMaxAge  = 8 * time.Hour
	defaultSubkeys = 2048
	maxSubkeys     = 1 << 20
)

// A Config says what a Codec's tokens are for. All codecs of an application, at
// all its agents, that shall open each other's tokens need the same Purpose, Name
// and Context.
type Config struct {
	// Ring gives the keys. Required.
	Ring Ring
	// Name is the cookie's name, at most 93 characters of those that RFC 6265 allows.
	// Required.
	Name string
	// Purpose of the tokens. If zero, Session.
	Purpose Purpose
	// Context is what else tokens are bound to, such as the domain, when several
	// domains or companies share a ring. May be empty.
	Context string
	// MaxAge is how long after its issue a new token opens, in whole seconds. If
	// zero, 8 hours for sessions (as a ring's max_session) and no end for other
	// purposes. Longer than the ring's max_session is in vain: the key may be
	// destroyed before. A token carries its own, so a change holds for new tokens.
	MaxAge time.Duration
	// MaxLen is the most characters a token sealed here may have, at most MaxToken.
	// If zero, MaxToken. Opening always accepts MaxToken.
	MaxLen int
	// Subkeys is how many subkeys are kept, about 850 bytes each, rounded up to a
	// power of two. If zero, 2048. About right is, for each key in use, one for each
	// process that seals and for each 12 hours that a key seals. Too few costs about
	// 2 µs and 2 KB of garbage for a token whose subkey was dropped, nothing else.
	Subkeys int
	// Fallback opens tokens of another format. If nil, they are refused.
	Fallback Opener
}

func (c Config) withDefaults() Config {
	if c.Purpose == 0 {
		c.Purpose = Session
	}
	if c.MaxAge == 0 && c.Purpose == Session {
		c.MaxAge = defaultMaxAge
	}
	if c.MaxLen == 0 {
		c.MaxLen = MaxToken
	}
	if c.Subkeys == 0 {
		c.Subkeys = defaultSubkeys
	}
	return c
}

// check reports all faults together. Each wraps keystore.ErrInvalid.
func (c Config) check() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("cookie: "+format+": %w", append(args, keystore.ErrInvalid)...))
	}
	if c.Ring == nil {
		fault("no ring")
	}
	if c.Purpose > Tracking {
		fault("purpose %d is unknown", uint8(c.Purpose))
	}
	if c.Name == "" || len(c.Name) > maxName || strings.ContainsFunc(c.Name, notInName) {
		fault("name %q is not 1 to %d characters that a cookie's name may have", c.Name, maxName)
	}
	if c.MaxAge < 0 || c.MaxAge%time.Second != 0 || c.MaxAge/time.Second > math.MaxUint32 {
		fault("max age %v is not a positive number of whole seconds below 2^32", c.MaxAge)
	}
	if c.MaxLen < minToken || c.MaxLen > MaxToken {
		fault("max len %d is not between %d and %d", c.MaxLen, minToken, MaxToken)
	}
	if c.Subkeys < 1 || c.Subkeys > maxSubkeys {
		fault("subkeys %d is not between 1 and %d", c.Subkeys, maxSubkeys)
	}
	return errors.Join(faults...)
}

// notInName reports the characters that RFC 6265, section 4.1.1 keeps out of a
// cookie's name: all but those of an RFC 2616 token.
func notInName(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`()<>@,;:\"/[]?={}`, r)
}
