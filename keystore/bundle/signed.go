package bundle

import (
	"crypto"
	"crypto/ed25519"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// Kind is the typ of the signature's header. It keeps a signature for anything else
// from passing as that of a bundle.
const Kind = "keytide-bundle"

const setType = "jwk-set+json" // RFC 7517, section 8.5.2

// A Fingerprint names a public key: its JWK thumbprint (RFC 7638) with SHA-256, 43
// characters of base64url.
type Fingerprint string

// FingerprintOf names an Ed25519 public key.
func FingerprintOf(key ed25519.PublicKey) (Fingerprint, error) { return fingerprint(key) }

func fingerprint(key any) (Fingerprint, error) {
	sum, err := (&jose.JSONWebKey{Key: key}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", malformed("no fingerprint of this key: %v", err)
	}
	return Fingerprint(strict64.EncodeToString(sum)), nil
}

// Sign makes the inner part of a bundle: the set, signed, in the compact form of a
// JWS. It holds the keys' bytes; it is for Close alone, or for a connection that is
// encrypted.
func Sign(s Set, key ed25519.PrivateKey) (string, error) {
	payload, err := s.encode()
	if err != nil {
		return "", err
	}
	defer clear(payload)
	options := (&jose.SignerOptions{EmbedJWK: true}).WithType(Kind).WithContentType(setType)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: key}, options)
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// Verify checks the inner part of a bundle and returns what it carries, and who
// signed it. Whether to trust that key is the caller's to decide. The error wraps
// ErrMalformed or ErrSignature.
func Verify(signed string) (Set, Fingerprint, error) {
	if len(signed) > maxText {
		return Set{}, "", malformed("its signed part has more than %d bytes", maxText)
	}
	if _, err := parseParts(signed, 3); err != nil {
		return Set{}, "", err
	}
	jws, err := jose.ParseSignedCompact(signed, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil || len(jws.Signatures) != 1 {
		return Set{}, "", malformed("its contents are not a compact JWS by EdDSA")
	}
	header := jws.Signatures[0].Protected
	if typ, _ := header.ExtraHeaders[jose.HeaderType].(string); typ != Kind {
		return Set{}, "", malformed("it is signed as %q; want %s", typ, Kind)
	}
	if header.JSONWebKey == nil {
		return Set{}, "", malformed("its signature names no key (jwk)")
	}
	key, ok := header.JSONWebKey.Key.(ed25519.PublicKey)
	if !ok {
		return Set{}, "", malformed("its signature's key is not an Ed25519 key")
	}
	payload, err := jws.Verify(key)
	if err != nil {
		return Set{}, "", ErrSignature
	}
	defer clear(payload)
	from, err := FingerprintOf(key)
	if err != nil {
		return Set{}, "", err
	}
	s, err := decode(payload)
	return s, from, err
}

// parseParts splits a compact form and checks that each part is base64url as it
// must be written: go-jose takes more.
func parseParts(text string, want int) ([][]byte, error) {
	parts := strings.Split(text, ".")
	if len(parts) != want {
		return nil, malformed("%d parts; want %d", len(parts), want)
	}
	decoded := make([][]byte, want)
	for i, part := range parts {
		var err error
		if decoded[i], err = strict64.DecodeString(part); err != nil || strings.ContainsAny(part, "\r\n") {
			return nil, malformed("part %d is not base64url", i+1)
		}
	}
	return decoded, nil
}
