package keystore

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
)

// MaterialSize is the size of every key and shared secret, in bytes.
const MaterialSize = 32

// ErrNoMaterial is returned by Use of a Material that holds nothing.
var ErrNoMaterial = errors.New("keystore: no key material")

// Material is secret key bytes. Every way of printing it prints a placeholder:
// the bytes sit behind a func, where neither reflection nor nesting shows them.
// The zero Material holds no key. Material is safe for concurrent use.
type Material struct {
	open func() []byte
}

// NewMaterial copies secret, which must have MaterialSize bytes that are not all
// zero: an empty key is refused where it enters, never used. The error wraps
// ErrInvalid and never shows the bytes.
func NewMaterial(secret []byte) (Material, error) {
	if len(secret) != MaterialSize {
		return Material{}, invalidf("key material has %d bytes; want %d", len(secret), MaterialSize)
	}
	if bytes.Equal(secret, make([]byte, MaterialSize)) {
		return Material{}, invalidf("key material is all zero")
	}
	held := bytes.Clone(secret)
	return Material{open: func() []byte { return held }}, nil
}

// Use calls fn with the secret bytes. fn must neither keep nor change them.
func (m Material) Use(fn func(secret []byte) error) error {
	if m.open == nil {
		return ErrNoMaterial
	}
	return fn(m.open())
}

// KID derives the key's id. The zero Material has the zero KID.
func (m Material) KID() KID {
	if m.open == nil {
		return KID{}
	}
	return KIDOf(m.open())
}

// IsZero reports whether m holds no key.
func (m Material) IsZero() bool { return m.open == nil }

const placeholder = "[key material]"

func (m Material) String() string               { return placeholder }
func (m Material) GoString() string             { return placeholder }
func (m Material) Format(f fmt.State, _ rune)   { fmt.Fprint(f, placeholder) }
func (m Material) LogValue() slog.Value         { return slog.StringValue(placeholder) }
func (m Material) MarshalText() ([]byte, error) { return nil, errMarshal }
func (m Material) MarshalJSON() ([]byte, error) { return nil, errMarshal }

var errMarshal = errors.New("keystore: refusing to marshal key material")
