package keystore

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// A KID identifies a key: 8 bytes derived from the key's own bytes, so it doubles
// as a check value. It is unique in its ring. Its text is 16 hexadecimal digits.
type KID [8]byte

// KIDOf derives the id of the key with these bytes:
// HKDF-Expand-SHA256(secret, "kt1 kid", 8) (RFC 5869, section 2.3).
func KIDOf(secret []byte) KID {
	var kid KID
	out, err := hkdf.Expand(sha256.New, secret, "kt1 kid", len(kid))
	if err != nil {
		// Only an output length beyond 255 hashes, or under FIPS enforcement a key
		// under 14 bytes, gets here; Material admits 32-byte keys alone.
		panic(fmt.Sprintf("keystore: deriving a kid: %v", err))
	}
	return KID(out)
}

// ParseKID reads the 16 hexadecimal digits of a kid.
func ParseKID(s string) (KID, error) {
	var kid KID
	if len(s) != hex.EncodedLen(len(kid)) {
		return KID{}, invalidf("kid %q: want 16 hexadecimal digits", s)
	}
	if _, err := hex.Decode(kid[:], []byte(s)); err != nil {
		return KID{}, invalidf("kid %q: want 16 hexadecimal digits", s)
	}
	return kid, nil
}

func (k KID) String() string { return hex.EncodeToString(k[:]) }

// MarshalText gives the 16 hexadecimal digits.
func (k KID) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the 16 hexadecimal digits.
func (k *KID) UnmarshalText(text []byte) error {
	kid, err := ParseKID(string(text))
	if err != nil {
		return err
	}
	*k = kid
	return nil
}
