package events

import (
	"crypto/ed25519"
	"fmt"

	"github.com/keytide/keytide/keystore"
)

// A Genesis is the payload of event 1.
type Genesis struct {
	Store      string         `json:"store"`
	StoreID    [16]byte       `json:"-"` // drawn at random when the store was made
	Kind       Kind           `json:"kind"`
	Epoch      keystore.Epoch `json:"epoch"`
	KSK        keystore.KID   `json:"ksk"`
	Founder    Member         `json:"founder"`    // signs it; the first member
	Membership keystore.KID   `json:"membership"` // the membership key's material
	Dev        bool           `json:"dev"`        // a development store
}

// Encode packs the payload. The error wraps keystore.ErrInvalid.
func (g Genesis) Encode() ([]byte, error) {
	if err := g.check(); err != nil {
		return nil, fmt.Errorf("genesis: %w", err)
	}
	var p packer
	top := p.begin()
	p.bool("dev", g.Dev)
	p.uint("epoch", uint64(g.Epoch))
	p.field("founder")
	founder := p.begin()
	p.name("id", g.Founder.ID)
	p.bin("p256_key", g.Founder.P256Key, p256KeySize)
	p.fixed("public_key", g.Founder.PublicKey)
	p.name("region", g.Founder.Region)
	p.end(founder)
	p.uint("kind", uint64(g.Kind))
	p.fixed("ksk", g.KSK[:])
	p.fixed("membership", g.Membership[:])
	p.name("store", g.Store)
	p.fixed("store_id", g.StoreID[:])
	p.end(top)
	return p.done()
}

// check reports what is missing or wrong.
func (g Genesis) check() error {
	for _, name := range []struct{ field, value string }{
		{"store", g.Store}, {"founder id", g.Founder.ID}, {"founder region", g.Founder.Region},
	} {
		if err := keystore.CheckName(name.value); err != nil {
			return fmt.Errorf("%s %q: %w", name.field, name.value, err)
		}
	}
	switch {
	case !g.Kind.valid():
		return invalid("kind %d", uint8(g.Kind))
	case g.Epoch == 0, g.StoreID == [16]byte{}, g.KSK == keystore.KID{}, g.Membership == keystore.KID{}:
		return invalid("epoch, store id, key store key or membership key is missing")
	}
	return g.Founder.checkKeys()
}

// DecodeGenesis takes the payload of event 1 apart. The error wraps ErrMalformed.
func DecodeGenesis(payload []byte) (Genesis, error) {
	r := reader{b: payload}
	var g Genesis
	for f := r.fields(); f.next(); {
		switch string(f.key) {
		case "dev":
			g.Dev = f.bool()
		case "epoch":
			g.Epoch = keystore.Epoch(f.uint(1<<64 - 1))
		case "founder":
			g.Founder = f.member()
		case "kind":
			g.Kind = Kind(f.uint(1<<8 - 1))
		case "ksk":
			f.fixed(g.KSK[:])
		case "membership":
			f.fixed(g.Membership[:])
		case "store":
			g.Store = f.name()
		case "store_id":
			f.fixed(g.StoreID[:])
		default:
			r.skip()
		}
	}
	if err := r.end(); err != nil {
		return Genesis{}, fmt.Errorf("genesis: %w", err)
	}
	if err := g.check(); err != nil {
		return Genesis{}, malformed("genesis: %w", err)
	}
	return g, nil
}

func (f *fields) member() Member {
	var m Member
	for in := f.open(); in.next(); {
		switch string(in.key) {
		case "id":
			m.ID = in.name()
		case "p256_key":
			m.P256Key = in.bin(p256KeySize)
		case "public_key":
			m.PublicKey = make(ed25519.PublicKey, ed25519.PublicKeySize)
			in.fixed(m.PublicKey)
		case "region":
			m.Region = in.name()
		default:
			in.r.skip()
		}
	}
	return m
}

// VoidPayload returns the payload of a void event.
func VoidPayload() []byte { return []byte{mpFixMap} }
