package events

import (
	"fmt"
	"net/netip"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/host"
	"github.com/keytide/keytide/keystore/ticket"
)

// EncodeTokenChange packs a registration token's change as the payload of an event,
// and returns the event's type. The error wraps keystore.ErrInvalid.
func EncodeTokenChange(c host.TokenChange) (Type, []byte, error) {
	t := TypeTokenCreated
	if c.Revoked {
		t, c.Token = TypeTokenRevoked, host.Token{ID: c.Token.ID}
	}
	var p packer
	top := p.begin()
	p.addresses("addresses", c.Token.Addresses)
	p.bool("allow_roll", c.Token.AllowRoll)
	p.time("created", c.Token.Created)
	p.duration("ephemeral", c.Token.Ephemeral)
	p.time("expires", c.Token.Expires)
	p.fixed("id", c.Token.ID[:])
	p.fixed("key", c.Token.PublicKey[:])
	p.labels("labels", c.Token.Labels)
	p.rings("rings", c.Token.Rings)
	p.uint("tickets", uint64(c.Token.Tickets))
	p.uint("uses", c.Token.Uses)
	p.end(top)
	payload, err := p.done()
	if err != nil {
		return 0, nil, fmt.Errorf("token %s: %w", c.Token.ID, err)
	}
	return t, payload, nil
}

// DecodeTokenChange takes the payload of an event of this type apart. The error wraps
// ErrMalformed, or is an *UnknownTypeError.
func DecodeTokenChange(t Type, payload []byte) (host.TokenChange, error) {
	if t != TypeTokenCreated && t != TypeTokenRevoked {
		return host.TokenChange{}, &UnknownTypeError{Type: t}
	}
	r := reader{b: payload}
	c := host.TokenChange{Revoked: t == TypeTokenRevoked}
	for f := r.fields(); f.next(); {
		f.token(&c.Token)
	}
	if err := r.end(); err != nil {
		return host.TokenChange{}, fmt.Errorf("%s: %w", t, err)
	}
	if c.Token.ID == (keystore.KID{}) {
		return host.TokenChange{}, malformed("%s: no id", t)
	}
	return c, nil
}

// token reads the field at hand, of a change or a state.
func (f *fields) token(t *host.Token) {
	switch string(f.key) {
	case "addresses":
		t.Addresses = f.addresses()
	case "allow_roll":
		t.AllowRoll = f.bool()
	case "tickets":
		t.Tickets = ticket.Right(f.uint(1<<8 - 1))
	case "created":
		t.Created = f.time()
	case "ephemeral":
		t.Ephemeral = f.duration()
	case "expires":
		t.Expires = f.time()
	case "id":
		f.fixed(t.ID[:])
	case "key":
		f.fixed(t.PublicKey[:])
	case "labels":
		t.Labels = f.labels()
	case "rings":
		t.Rings = f.rings()
	case "uses":
		t.Uses = f.uint(1<<64 - 1)
	default:
		f.r.skip()
	}
}

// maxAddressText is that of an IPv6 range.
const maxAddressText = 64

func (p *packer) addresses(key string, ranges []netip.Prefix) {
	p.array(key, len(ranges), host.MaxAddresses)
	for _, r := range ranges {
		if !r.IsValid() {
			p.fail("%s: %s is not a range of addresses", key, r)
		}
		p.b = appendStr(p.b, r.String())
	}
}

func (f *fields) addresses() []netip.Prefix {
	ranges := make([]netip.Prefix, f.array(host.MaxAddresses))
	for i := range ranges {
		text := string(f.r.str(maxAddressText))
		r, err := netip.ParsePrefix(text)
		if f.r.err == nil && (err != nil || r.String() != text) {
			f.r.fail("%q is not a range of addresses, or not in its one form", text)
		}
		ranges[i] = r
	}
	return ranges
}

// EncodeToken packs a registration token's state, as token.<id> holds it. The error
// wraps keystore.ErrInvalid.
func EncodeToken(t host.Token) ([]byte, error) {
	var p packer
	top := p.begin()
	p.addresses("addresses", t.Addresses)
	p.bool("allow_roll", t.AllowRoll)
	p.time("created", t.Created)
	p.duration("ephemeral", t.Ephemeral)
	p.time("expires", t.Expires)
	p.fixed("id", t.ID[:])
	p.fixed("key", t.PublicKey[:])
	p.labels("labels", t.Labels)
	p.ref("last", t.Last)
	p.bool("revoked", t.Revoked)
	p.rings("rings", t.Rings)
	p.uint("tickets", uint64(t.Tickets))
	p.uint("used", t.Used)
	p.uint("uses", t.Uses)
	p.end(top)
	return p.done()
}

// DecodeToken takes a registration token's state apart. The error wraps ErrMalformed.
func DecodeToken(value []byte) (host.Token, error) {
	r := valueReader(value)
	var t host.Token
	for f := r.fields(); f.next(); {
		switch string(f.key) {
		case "last":
			t.Last = f.ref()
		case "revoked":
			t.Revoked = f.bool()
		case "used":
			t.Used = f.uint(1<<64 - 1)
		default:
			f.token(&t)
		}
	}
	if err := r.end(); err != nil {
		return host.Token{}, fmt.Errorf("token: %w", err)
	}
	return t, nil
}

// SecretPolicyName is the one policy of a policy store: for shared secrets.
const SecretPolicyName = "secrets"

// EncodeSecretPolicy packs a policy for shared secrets: as the payload of an event,
// without the event, and as policy.secrets holds it, with it. The error wraps
// keystore.ErrInvalid.
func EncodeSecretPolicy(policy host.SecretPolicy) ([]byte, error) {
	var p packer
	top := p.begin()
	p.duration("every", policy.Every)
	p.ref("last", policy.Last)
	p.end(top)
	return p.done()
}

// DecodeSecretPolicy takes a policy for shared secrets apart. The error wraps
// ErrMalformed.
func DecodeSecretPolicy(value []byte) (host.SecretPolicy, error) {
	r := valueReader(value)
	var policy host.SecretPolicy
	for f := r.fields(); f.next(); {
		switch string(f.key) {
		case "every":
			policy.Every = f.duration()
		case "last":
			policy.Last = f.ref()
		default:
			r.skip()
		}
	}
	if err := r.end(); err != nil {
		return host.SecretPolicy{}, fmt.Errorf("policy of secrets: %w", err)
	}
	return policy, nil
}
