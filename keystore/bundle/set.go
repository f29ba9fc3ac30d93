package bundle

import (
	"bytes"
	"encoding/base64"
	"time"

	"github.com/go-jose/go-jose/v4/json"

	"github.com/keytide/keytide/keystore"
)

// MaxKeys is the most keys that a bundle may have.
const MaxKeys = 64

// format is the number of the contents' form.
const format = 1

// A Set is what a bundle carries.
type Set struct {
	Store    string            // the key store that it comes from
	Ring     keystore.RingName // the ring, by its name there
	Exported time.Time         // to the second, UTC
	Keys     []Key             // at least one, at most MaxKeys
}

// A Key is one key of a Set.
type Key struct {
	Role     keystore.Role // Static or SessionTicket
	Created  time.Time     // to the millisecond, UTC
	OpenOnly bool          // whoever imports it must not seal with it
	Material keystore.Material
}

// KID is the key's id.
func (k Key) KID() keystore.KID { return k.Material.KID() }

// The JSON that is signed: a JWK Set with members of our own. Other implementations
// ignore those that they do not know, and so does decode.
type setJSON struct {
	Keytide  int       `json:"keytide"`
	Store    string    `json:"store"`
	Ring     string    `json:"ring"`
	Exported time.Time `json:"exported_at"`
	Keys     []keyJSON `json:"keys"`
}

type keyJSON struct {
	Kty      string    `json:"kty"`
	KID      string    `json:"kid"`
	K        string    `json:"k"`
	Purpose  string    `json:"purpose"`
	OpenOnly bool      `json:"open_only,omitempty"`
	Created  time.Time `json:"created_at"`
}

var strict64 = base64.RawURLEncoding.Strict()

// encode gives the set's JSON, which holds the keys' bytes.
func (s Set) encode() ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	out := setJSON{
		Keytide: format, Store: s.Store, Ring: string(s.Ring), Exported: s.Exported.UTC().Truncate(time.Second),
	}
	for _, k := range s.Keys {
		one := keyJSON{
			Kty: "oct", KID: k.KID().String(), Purpose: k.Role.String(), OpenOnly: k.OpenOnly,
			Created: k.Created.UTC().Truncate(time.Millisecond),
		}
		err := k.Material.Use(func(secret []byte) error {
			one.K = strict64.EncodeToString(secret)
			return nil
		})
		if err != nil {
			return nil, err
		}
		out.Keys = append(out.Keys, one)
	}
	return json.Marshal(out)
}

// decode reads a set's JSON. The error wraps ErrMalformed and shows no key.
func decode(text []byte) (Set, error) {
	var in setJSON
	if err := json.Unmarshal(text, &in); err != nil {
		return Set{}, malformed("the JSON of its key set cannot be read") // the cause might show a key
	}
	if in.Keytide != format {
		return Set{}, malformed("its key set has format %d; this program reads %d", in.Keytide, format)
	}
	if len(in.Keys) > MaxKeys {
		return Set{}, malformed("%d keys; at most %d are allowed", len(in.Keys), MaxKeys)
	}
	s := Set{Store: in.Store, Ring: keystore.RingName(in.Ring), Exported: in.Exported.UTC()}
	for i, one := range in.Keys {
		k, err := one.key()
		if err != nil {
			return Set{}, malformed("key %d of %d: %v", i+1, len(in.Keys), err)
		}
		s.Keys = append(s.Keys, k)
	}
	return s, s.check()
}

func (in keyJSON) key() (Key, error) {
	if in.Kty != "oct" {
		return Key{}, malformed("kty is %q; want oct", in.Kty)
	}
	kid, err := keystore.ParseKID(in.KID)
	if err != nil {
		return Key{}, err
	}
	secret, err := strict64.DecodeString(in.K)
	if err != nil || bytes.ContainsAny([]byte(in.K), "\r\n") {
		return Key{}, malformed("key %s: k is not base64url", kid) // the cause might show the key
	}
	defer clear(secret)
	k := Key{OpenOnly: in.OpenOnly, Created: in.Created.UTC().Truncate(time.Millisecond)}
	if k.Material, err = keystore.NewMaterial(secret); err != nil {
		return Key{}, err
	}
	if got := k.KID(); got != kid {
		return Key{}, malformed("the bytes of key %s are those of another key, %s", kid, got)
	}
	if err := k.Role.UnmarshalText([]byte(in.Purpose)); err != nil {
		return Key{}, malformed("key %s: unknown purpose %q", kid, in.Purpose)
	}
	return k, nil
}

// check reports what a bundle may not carry.
func (s Set) check() error {
	if err := keystore.CheckName(s.Store); err != nil {
		return malformed("store %q: %v", s.Store, err)
	}
	if _, err := keystore.ParseRingName(string(s.Ring)); err != nil {
		return malformed("%v", err)
	}
	if !aTime(s.Exported) {
		return malformed("it does not say when it was exported")
	}
	if len(s.Keys) == 0 || len(s.Keys) > MaxKeys {
		return malformed("%d keys; want 1 to %d", len(s.Keys), MaxKeys)
	}
	seen := make(map[keystore.KID]bool, len(s.Keys))
	for _, k := range s.Keys {
		switch kid := k.KID(); {
		case k.Role != keystore.Static && k.Role != keystore.SessionTicket:
			return malformed("key %s is a %s key; only static and session ticket keys are shared", kid, k.Role)
		case !aTime(k.Created):
			return malformed("key %s has no creation time", kid)
		case k.Material.IsZero():
			return malformed("a %s key without bytes", k.Role)
		case seen[kid]:
			return malformed("key %s is there twice", kid)
		default:
			seen[kid] = true
		}
	}
	return nil
}

// aTime reports whether t is a time that the ledger can keep, too.
func aTime(t time.Time) bool { return t.Year() >= 1970 && t.UnixMilli() > 0 && t.Year() < 10000 }
