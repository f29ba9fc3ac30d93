package bundle

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"log/slog"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

const maxKeyFile = 4 << 10

// A Recipient is whom a bundle is closed for: a P-256 public key.
type Recipient struct{ key *ecdsa.PublicKey }

// A RecipientKey opens the bundles that are closed for its Recipient. Printing it
// shows a placeholder.
type RecipientKey struct {
	key func() *ecdsa.PrivateKey // behind a func, where printing does not reach it
}

func recipientKey(key *ecdsa.PrivateKey) RecipientKey {
	return RecipientKey{func() *ecdsa.PrivateKey { return key }}
}

// NewRecipientKey makes a private key.
func NewRecipientKey() (RecipientKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return recipientKey(key), err
}

// ParseRecipient reads a public key: a JWK of kty EC and crv P-256. A private key is
// refused: it is in the wrong hands. The error wraps keystore.ErrInvalid.
func ParseRecipient(text []byte) (Recipient, error) {
	key, err := parseKey(text)
	if err != nil {
		return Recipient{}, err
	}
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if onP256(key) {
			return Recipient{key}, nil
		}
	case *ecdsa.PrivateKey:
		return Recipient{}, malformed("this is a private key; a recipient gives its public key away, and keeps this one")
	}
	return Recipient{}, malformed("a recipient is a P-256 public key (JWK, kty EC)")
}

// ParseRecipientKey reads a private key: a JWK of kty EC and crv P-256 with its d.
// The error wraps keystore.ErrInvalid.
func ParseRecipientKey(text []byte) (RecipientKey, error) {
	key, err := parseKey(text)
	if err != nil {
		return RecipientKey{}, err
	}
	if key, ok := key.(*ecdsa.PrivateKey); ok && onP256(&key.PublicKey) {
		return recipientKey(key), nil
	}
	return RecipientKey{}, malformed("a recipient's private key is a P-256 key (JWK, kty EC, with d)")
}

func parseKey(text []byte) (any, error) {
	var key jose.JSONWebKey
	if len(text) > maxKeyFile {
		return nil, malformed("a key of more than %d bytes", maxKeyFile)
	}
	if err := json.Unmarshal(text, &key); err != nil || !key.Valid() {
		return nil, malformed("not a JSON Web Key") // the cause might show a key
	}
	return key.Key, nil
}

// Fingerprint is the key's JWK thumbprint.
func (r Recipient) Fingerprint() (Fingerprint, error) {
	if r.key == nil {
		return "", malformed("no recipient")
	}
	return fingerprint(r.key)
}

// JWK gives the public key as a line of JSON.
func (r Recipient) JWK() ([]byte, error) { return jwk(r.key, r) }

// Recipient is the public key, which bundles are closed for.
func (k RecipientKey) Recipient() Recipient {
	if k.key == nil {
		return Recipient{}
	}
	return Recipient{&k.key().PublicKey}
}

// JWK gives the private key as a line of JSON, for a secret file.
func (k RecipientKey) JWK() ([]byte, error) {
	if k.key == nil {
		return nil, malformed("no recipient's key")
	}
	return jwk(k.key(), k.Recipient())
}

func jwk(key any, r Recipient) ([]byte, error) {
	id, err := r.Fingerprint()
	if err != nil {
		return nil, err
	}
	text, err := jose.JSONWebKey{Key: key, KeyID: string(id), Algorithm: string(jose.ECDH_ES_A256KW), Use: "enc"}.MarshalJSON()
	return append(text, '\n'), err
}

const placeholder = "[recipient key]"

func (k RecipientKey) String() string             { return placeholder }
func (k RecipientKey) GoString() string           { return placeholder }
func (k RecipientKey) Format(f fmt.State, _ rune) { fmt.Fprint(f, placeholder) }
func (k RecipientKey) LogValue() slog.Value       { return slog.StringValue(placeholder) }
func (k RecipientKey) MarshalJSON() ([]byte, error) {
	return nil, malformed("a private key is not marshaled")
}
