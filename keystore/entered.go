package keystore

import (
	"bytes"
	"fmt"
)

// NewEntered makes material of a key that a person entered. It refuses, with a
// *WeakKeyError, what a random key is not but once in more than 10^13: bytes that are
// text, repeated or counted. Whoever can guess a key opens and forges all that it seals.
func NewEntered(secret []byte) (Material, error) {
	if why := weak(secret); why != "" {
		return Material{}, &WeakKeyError{Why: why}
	}
	return NewMaterial(secret)
}

func weak(secret []byte) string {
	switch {
	case len(secret) != MaterialSize:
		return fmt.Sprintf("it has %d bytes; want %d", len(secret), MaterialSize)
	case bytes.Count(secret, []byte{0}) == len(secret):
		return "it is all zero"
	case !bytes.ContainsFunc(secret, notText):
		return "all of its bytes are printable text, such as a passphrase; a key is random"
	case counted(secret):
		return "each of its bytes follows from the one before"
	}
	for period := 1; period <= len(secret)/2; period++ {
		if len(secret)%period == 0 && bytes.Equal(secret, bytes.Repeat(secret[:period], len(secret)/period)) {
			return fmt.Sprintf("it repeats its first %d bytes", period)
		}
	}
	if n := distinct(secret); n <= 16 { // of a random key, fewer than 23 are rare
		return fmt.Sprintf("it has only %d different bytes", n)
	}
	return ""
}

func notText(r rune) bool { return (r < ' ' || r > '~') && r != '\t' && r != '\r' && r != '\n' }

// counted reports whether every byte is the one before plus the same number.
func counted(secret []byte) bool {
	for i := 2; i < len(secret); i++ {
		if secret[i]-secret[i-1] != secret[1]-secret[0] {
			return false
		}
	}
	return true
}

func distinct(secret []byte) int {
	seen := make(map[byte]bool)
	for _, b := range secret {
		seen[b] = true
	}
	return len(seen)
}

// A WeakKeyError refuses a key that was entered. It wraps ErrInvalid, and shows
// nothing of the key.
type WeakKeyError struct{ Why string }

func (e *WeakKeyError) Error() string { return "the entered key is refused: " + e.Why }

// Hint says what next.
func (e *WeakKeyError) Hint() string {
	return "let the server make one:  keytide static generate, keytide ticket generate\nor make one of 32 random bytes:  (umask 077; openssl rand -base64 32 > FILE)"
}
func (e *WeakKeyError) Unwrap() error { return ErrInvalid }
