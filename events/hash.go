package events

import (
	"crypto/sha256"
	"encoding/hex"
)

// A Hash is a SHA-256. Its text is 64 hexadecimal digits.
type Hash [sha256.Size]byte

// HashOf returns the hash of a value's bytes, as effects give it.
func HashOf(value []byte) Hash { return sha256.Sum256(value) }

// ParseHash reads 64 hexadecimal digits.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if len(s) != hex.EncodedLen(len(h)) {
		return Hash{}, invalid("hash %q: want %d hexadecimal digits", s, hex.EncodedLen(len(h)))
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return Hash{}, invalid("hash %q: want %d hexadecimal digits", s, hex.EncodedLen(len(h)))
	}
	return h, nil
}

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// IsZero reports whether h is no hash at all.
func (h Hash) IsZero() bool { return h == Hash{} }

// MarshalText gives 64 hexadecimal digits.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads 64 hexadecimal digits.
func (h *Hash) UnmarshalText(text []byte) (err error) {
	*h, err = ParseHash(string(text))
	return err
}
