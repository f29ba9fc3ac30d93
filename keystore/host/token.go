package host

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/keytide/keytide/keystore"
)

const (
	// MaxUses is the most hosts that one token may register.
	MaxUses = 1 << 20
	// MaxLife is the longest that a token may be valid.
	MaxLife = 366 * 24 * time.Hour
	// MaxAddresses is the most address ranges of one token.
	MaxAddresses = 32
)

// A Token lets agents register hosts. It is known by the public half of its key;
// whoever has the other half may use it.
type Token struct {
	ID        keystore.KID        `json:"id"`         // derived from the secret half, as a key's is
	PublicKey [32]byte            `json:"public_key"` // Ed25519
	Rings     []keystore.RingName `json:"rings"`      // of the hosts that it registers; sorted
	Grant                         // likewise
	Addresses []netip.Prefix      `json:"addresses"` // from which it may be used; none: from anywhere
	Uses      uint64              `json:"uses"`      // how many hosts it may register
	Used      uint64              `json:"used"`      // how many it has registered
	Created   time.Time           `json:"created_at"`
	Expires   time.Time           `json:"expires_at"`
	Revoked   bool                `json:"revoked"`
	Last      keystore.EventRef   `json:"last_event"`
}

// IsZero reports whether there is no such token.
func (t Token) IsZero() bool { return t.ID == keystore.KID{} }

// A TokenChange is one decided step of a token but for its use, which is the
// registration of a host. Created has all of Token that is not counted; a Token with
// nothing but its ID is revoked.
type TokenChange struct {
	Revoked bool
	Token   Token
}

// NewToken decides on a token. It fills in nothing: ID, PublicKey, Rings, Uses,
// Created and Expires must be set. The error wraps keystore.ErrInvalid.
func NewToken(t Token) (TokenChange, error) {
	t.Rings = slices.Clone(t.Rings)
	slices.Sort(t.Rings)
	t.Labels = sortedLabels(t.Labels)
	t.Addresses = slices.Clone(t.Addresses)
	slices.SortFunc(t.Addresses, netip.Prefix.Compare)
	t.Created = t.Created.UTC().Truncate(time.Millisecond)
	t.Expires = t.Expires.UTC().Truncate(time.Millisecond)
	c := TokenChange{Token: t}
	_, err := Token{}.Apply(c, keystore.EventRef{N: 1})
	return c, err
}

// Revoke decides the end of a token. Hosts that it has registered stay. The error is
// keystore.ErrNotFound for one that is not there or is revoked already.
func (t Token) Revoke() (TokenChange, error) {
	if t.IsZero() || t.Revoked {
		return TokenChange{}, keystore.ErrNotFound
	}
	return TokenChange{Revoked: true, Token: Token{ID: t.ID}}, nil
}

// Apply carries c out, as event ref. It never changes t. The error wraps
// keystore.ErrInvalid, or keystore.ErrExists for a token that is there.
func (t Token) Apply(c TokenChange, ref keystore.EventRef) (Token, error) {
	next, err := t.apply(c)
	if err != nil {
		return Token{}, fmt.Errorf("token %s: %w", c.Token.ID, err)
	}
	next.Last = ref
	return next, nil
}

func (t Token) apply(c TokenChange) (Token, error) {
	n := c.Token
	switch {
	case n.ID == keystore.KID{}:
		return Token{}, invalidf("it has no id")
	case c.Revoked && (t.IsZero() || t.Revoked):
		return Token{}, invalidf("there is none to revoke")
	case c.Revoked:
		t.Revoked = true
		return t, nil
	case !t.IsZero():
		return Token{}, keystore.ErrExists
	case n.PublicKey == [32]byte{}:
		return Token{}, invalidf("it has no public key")
	case n.Uses == 0 || n.Uses > MaxUses:
		return Token{}, invalidf("uses: %d; want 1 to %d", n.Uses, MaxUses)
	case n.Used != 0 || n.Revoked:
		return Token{}, invalidf("it is used or revoked before it begins")
	case n.Created.IsZero() || !n.Expires.After(n.Created) || n.Expires.Sub(n.Created) > MaxLife:
		return Token{}, invalidf("expires: want more than 0 and at most %v from now", MaxLife)
	case len(n.Addresses) > MaxAddresses:
		return Token{}, invalidf("%d address ranges; at most %d are allowed", len(n.Addresses), MaxAddresses)
	}
	for i, p := range n.Addresses {
		if !p.IsValid() || p != p.Masked() || i > 0 && n.Addresses[i-1].Compare(p) >= 0 {
			return Token{}, invalidf("address range %s is not valid, not sorted, or stands twice", p)
		}
	}
	if err := checkRings(n.Rings); err != nil {
		return Token{}, err
	}
	return n, n.Grant.check()
}

// A TokenError says why a token does not register a host. It wraps
// keystore.ErrRefused.
type TokenError struct {
	ID  keystore.KID
	Why string
}

func (e *TokenError) Error() string { return fmt.Sprintf("token %s: %s", e.ID, e.Why) }
func (e *TokenError) Unwrap() error { return keystore.ErrRefused }

// Refuses says why the token may not register a host from there at that time; nil:
// it may.
func (t Token) Refuses(from netip.Addr, now time.Time) error {
	why := ""
	switch {
	case t.Revoked:
		why = "it is revoked"
	case !now.Before(t.Expires):
		why = "it expired at " + t.Expires.UTC().Format(time.RFC3339)
	case t.Used >= t.Uses:
		why = fmt.Sprintf("all of its uses (%d) are used up", t.Uses)
	case len(t.Addresses) > 0 && !slices.ContainsFunc(t.Addresses, func(p netip.Prefix) bool { return p.Contains(from.Unmap()) }):
		why = fmt.Sprintf("it may not be used from %s", from)
	default:
		return nil
	}
	return &TokenError{t.ID, why}
}

// Register decides the registration of a host by a token. before is the host of that
// name as it stands. A host that this registration has made already is reported by
// Registered, not here. The error wraps what Refuses says, keystore.ErrExists for a
// name that is taken, or keystore.ErrInvalid; a name that an administrator has
// revoked is an administrator's to give again.
func (t Token) Register(before Host, name string, id Registration, secret keystore.NewKey, from netip.Addr, now time.Time) (Change, error) {
	if err := t.Refuses(from, now); err != nil {
		return Change{}, err
	}
	if before.Revoked && !before.Expired {
		return Change{}, &TokenError{t.ID, "host " + name + " was revoked by an administrator, who alone can register it again"}
	}
	return decided(before, Change{
		Kind: Registered, Host: name, Rings: slices.Clone(t.Rings), Secret: before.next(secret), Grant: t.Grant,
		Token: t.ID, Registration: id,
	})
}

// Registered returns the secret that a registration by this token has given the
// host, while it is still valid: then a retry of it is answered with the same.
func (t Token) Registered(h Host, id Registration) (Secret, bool) {
	if h.Revoked || t.IsZero() || t.Revoked || h.Token != t.ID || h.Registration != id || len(h.Secrets) == 0 {
		return Secret{}, false
	}
	return h.Secrets[len(h.Secrets)-1], true
}

// Use counts a registration by the token, as event ref. The error wraps
// keystore.ErrInvalid if the host would get other than what the token says.
func (t Token) Use(c Change, ref keystore.EventRef) (Token, error) {
	switch {
	case t.IsZero() || t.Revoked || t.Used >= t.Uses:
		return Token{}, fmt.Errorf("token %s: %w", c.Token, invalidf("it is not there, revoked or used up"))
	case !slices.Equal(t.Rings, c.Rings) || !t.Grant.equal(c.Grant):
		return Token{}, fmt.Errorf("token %s: %w", c.Token, invalidf("it registers other hosts than %s", c.Host))
	}
	t.Used, t.Last = t.Used+1, ref
	return t, nil
}
