package events

import (
	"fmt"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/host"
)

const maxSecrets = 8

func hostKind(t Type) host.ChangeKind {
	switch t {
	case TypeHostRegistered:
		return host.Registered
	case TypeHostRevoked:
		return host.Revoked
	}
	return 0
}

// EncodeHostChange packs a trusted host's change as the payload of an event, and
// returns the event's type. The error wraps keystore.ErrInvalid.
func EncodeHostChange(c host.Change) (Type, []byte, error) {
	var t Type
	switch c.Kind {
	case host.Registered:
		t = TypeHostRegistered
	case host.Revoked:
		t = TypeHostRevoked
	default:
		return 0, nil, invalid("host %s: no event for a change of kind %d", c.Host, uint8(c.Kind))
	}
	var p packer
	top := p.begin()
	p.kids("destroyed", c.Destroyed, maxSecrets)
	p.name("host", c.Host)
	p.rings("rings", c.Rings)
	if c.Secret != (host.Secret{}) {
		p.field("secret")
		p.secret(c.Secret)
	}
	p.end(top)
	payload, err := p.done()
	if err != nil {
		return 0, nil, fmt.Errorf("host %s: %w", c.Host, err)
	}
	return t, payload, nil
}

func (p *packer) rings(key string, rings []keystore.RingName) {
	p.array(key, len(rings), host.MaxRings)
	for _, name := range rings {
		if err := keystore.CheckName(string(name)); err != nil {
			p.fail("%s: %w", key, err)
		}
		p.b = appendStr(p.b, string(name))
	}
}

func (p *packer) secret(s host.Secret) {
	outer := p.begin()
	p.time("created", s.Created)
	p.uint("generation", s.Generation)
	p.fixed("kid", s.KID[:])
	p.end(outer)
}

// DecodeHostChange takes the payload of an event of this type apart. The error wraps
// ErrMalformed, or is an *UnknownTypeError.
func DecodeHostChange(t Type, payload []byte) (host.Change, error) {
	c := host.Change{Kind: hostKind(t)}
	if c.Kind == 0 {
		return host.Change{}, &UnknownTypeError{Type: t}
	}
	r := reader{b: payload}
	for f := r.fields(); f.next(); {
		switch string(f.key) {
		case "destroyed":
			c.Destroyed = f.kids(maxSecrets)
		case "host":
			c.Host = f.name()
		case "rings":
			c.Rings = f.rings()
		case "secret":
			c.Secret = f.secret(f.open())
		default:
			r.skip()
		}
	}
	if err := r.end(); err != nil {
		return host.Change{}, fmt.Errorf("%s: %w", t, err)
	}
	if c.Host == "" {
		return host.Change{}, malformed("%s: no host", t)
	}
	return c, nil
}

func (f *fields) rings() []keystore.RingName {
	rings := make([]keystore.RingName, f.array(host.MaxRings))
	for i := range rings {
		name := f.r.str(maxServer)
		if f.r.err == nil && !isName(name) {
			f.r.fail("ring %q is not a name", string(name))
		}
		rings[i] = keystore.RingName(name)
	}
	return rings
}

func (f *fields) secret(in fields) host.Secret {
	var s host.Secret
	for in.next() {
		switch string(in.key) {
		case "created":
			s.Created = in.time()
		case "generation":
			s.Generation = in.uint(1<<64 - 1)
		case "kid":
			in.fixed(s.KID[:])
		default:
			in.r.skip()
		}
	}
	return s
}

// EncodeHost packs a trusted host's state, as host.<name> holds it. The error wraps
// keystore.ErrInvalid.
func EncodeHost(h host.Host) ([]byte, error) {
	var p packer
	top := p.begin()
	p.uint("generation", h.Generation)
	p.ref("last", h.Last)
	p.name("name", h.Name)
	p.time("registered", h.Registered)
	p.bool("revoked", h.Revoked)
	p.rings("rings", h.Rings)
	p.array("secrets", len(h.Secrets), maxSecrets)
	for _, s := range h.Secrets {
		p.secret(s)
	}
	p.end(top)
	return p.done()
}

// DecodeHost takes a trusted host's state apart. The error wraps ErrMalformed.
func DecodeHost(value []byte) (host.Host, error) {
	r := valueReader(value)
	var h host.Host
	for f := r.fields(); f.next(); {
		switch string(f.key) {
		case "generation":
			h.Generation = f.uint(1<<64 - 1)
		case "last":
			h.Last = f.ref()
		case "name":
			h.Name = f.name()
		case "registered":
			h.Registered = f.time()
		case "revoked":
			h.Revoked = f.bool()
		case "rings":
			h.Rings = f.rings()
		case "secrets":
			h.Secrets = make([]host.Secret, f.array(maxSecrets))
			for i := range h.Secrets {
				h.Secrets[i] = f.secret(r.fields())
			}
		default:
			r.skip()
		}
	}
	if err := r.end(); err != nil {
		return host.Host{}, fmt.Errorf("host: %w", err)
	}
	return h, nil
}
